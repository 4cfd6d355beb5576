//! Rules over the syntax of Rust files: sizes, leftovers, tests, modules.

use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Block, Expr, Ident, Macro, Signature};

use super::finding::{Finding, Report};
use super::layers::is_in_allocator;
use super::names::is_empty_name;
use super::tree::SourceFile;

/// Lines of product code in one file: listed from here on, refused from there on.
const FILE_LINES_SOFT: usize = 400;
const FILE_LINES_HARD: usize = 800;

/// Lines of a function, from `fn` to its closing brace.
const FUNCTION_LINES: usize = 70;

/// Lines of tests inside a product file; beyond, they have a file of their own.
const TESTS_INSIDE: usize = 150;

/// Checks one Rust file.
pub(super) fn check(file: &SourceFile, findings: &mut Vec<Finding>) {
    let syntax = match syn::parse_file(&file.text) {
        Ok(syntax) => syntax,
        Err(error) => {
            let line = error.span().start().line;
            Report::new(findings, &file.path, "syntax").error(line, error.to_string());
            return;
        }
    };
    let mut visitor = Visitor {
        findings,
        path: &file.path,
        in_tests: file.is_test(),
        allocator: is_in_allocator(&file.path),
        test_lines: 0,
    };
    visitor.visit_file(&syntax);
    let test_lines = visitor.test_lines;
    if file.is_test() {
        return;
    }
    let mut report = Report::new(findings, &file.path, "size");
    let lines = file.text.lines().count().saturating_sub(test_lines);
    if lines > FILE_LINES_HARD {
        report.error(
            0,
            format!("{lines} lines of product code, at most {FILE_LINES_HARD}"),
        );
    } else if lines > FILE_LINES_SOFT {
        report.note(
            0,
            format!("{lines} lines of product code, better {FILE_LINES_SOFT}"),
        );
    }
    if test_lines > TESTS_INSIDE {
        report.error(
            0,
            format!("{test_lines} lines of tests inside; give them their own file"),
        );
    }
}

struct Visitor<'a> {
    findings: &'a mut Vec<Finding>,
    path: &'a str,
    in_tests: bool,
    allocator: bool,
    test_lines: usize,
}

impl Visitor<'_> {
    fn report(&mut self, rule: &'static str) -> Report<'_> {
        Report::new(self.findings, self.path, rule)
    }

    fn function(&mut self, attributes: &[Attribute], signature: &Signature, block: &Block) {
        let begin = line_of(signature.fn_token.span);
        let lines = block.brace_token.span.close().end().line - begin + 1;
        let name = signature.ident.to_string();
        if lines > FUNCTION_LINES {
            let message = format!("`{name}` has {lines} lines, at most {FUNCTION_LINES}");
            if self.in_tests {
                self.report("function").note(begin, message);
            } else {
                self.report("function").error(begin, message);
            }
        }
        let is_test = attributes.iter().any(|attribute| {
            attribute
                .path()
                .segments
                .last()
                .is_some_and(|segment| segment.ident == "test")
        });
        if is_test && name.starts_with("test_") {
            let message = format!("`{name}`: a test's name is a claim, without `test_`");
            self.report("tests").error(begin, message);
        }
    }

    /// A condition that joins `let` with `&&` is newer than the oldest compiler we promise.
    fn condition(&mut self, condition: &Expr) {
        if let Expr::Binary(binary) = condition {
            if holds_let(&binary.left) || holds_let(&binary.right) {
                let line = line_of(binary.span());
                self.report("minimum-rust")
                    .error(line, "a `let` in a chain needs Rust 1.88");
            }
        }
    }

    fn within_tests(
        &mut self,
        attributes: &[Attribute],
        span: Span,
        visit: impl FnOnce(&mut Self),
    ) {
        let outer = self.in_tests;
        if attributes.iter().any(is_cfg_test) {
            if !outer {
                self.test_lines += span.end().line - line_of(span) + 1;
            }
            self.in_tests = true;
        }
        visit(self);
        self.in_tests = outer;
    }
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let name = item.ident.to_string();
        if is_empty_name(&name) {
            let message = format!("module `{name}` says nothing about what is inside");
            self.report("names")
                .error(line_of(item.ident.span()), message);
        }
        self.within_tests(&item.attrs, item.span(), |this| {
            visit::visit_item_mod(this, item);
        });
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.attrs, &item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.attrs, &item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.attrs, &item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if attribute.path().is_ident("ignore") {
            let message = "an ignored test claims what nobody checks";
            self.report("tests")
                .error(line_of(attribute.span()), message);
        }
        visit::visit_attribute(self, attribute);
    }

    fn visit_macro(&mut self, invoked: &'ast Macro) {
        let name = invoked
            .path
            .segments
            .last()
            .map(|segment| segment.ident.to_string());
        if let Some(name @ ("todo" | "unimplemented" | "dbg")) = name.as_deref() {
            self.report("leftovers")
                .error(line_of(invoked.span()), format!("`{name}!` is left"));
        }
        visit::visit_macro(self, invoked);
    }

    fn visit_expr_if(&mut self, expression: &'ast syn::ExprIf) {
        self.condition(&expression.cond);
        visit::visit_expr_if(self, expression);
    }

    fn visit_expr_while(&mut self, expression: &'ast syn::ExprWhile) {
        self.condition(&expression.cond);
        visit::visit_expr_while(self, expression);
    }

    fn visit_ident(&mut self, ident: &'ast Ident) {
        if self.allocator && ident == "Mmio" {
            let message = "an allocator never sees device registers";
            self.report("layers").error(line_of(ident.span()), message);
        }
    }
}

fn holds_let(expression: &Expr) -> bool {
    match expression {
        Expr::Let(_) => true,
        Expr::Binary(binary) => holds_let(&binary.left) || holds_let(&binary.right),
        _ => false,
    }
}

/// `#[cfg(test)]`, alone or among other conditions.
fn is_cfg_test(attribute: &Attribute) -> bool {
    let syn::Meta::List(list) = &attribute.meta else {
        return false;
    };
    let condition = list.tokens.to_string().replace(' ', "");
    let names_test = condition
        .split(|c: char| !c.is_alphanumeric())
        .any(|word| word == "test");
    list.path.is_ident("cfg") && names_test && !condition.contains("not(test)")
}

fn line_of(span: Span) -> usize {
    span.start().line
}
