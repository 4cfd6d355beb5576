//! Licence expressions: whether one can be met with licences from a list.
//!
//! SPDX expressions with `AND`, `OR`, `WITH` and parentheses, and the older `A/B` for `A OR B`.

/// Whether the expression can be met by choosing only licences that `allowed` accepts.
///
/// # Errors
/// The position in words of what cannot be read.
pub(crate) fn is_met(expression: &str, allowed: &dyn Fn(&str) -> bool) -> Result<bool, String> {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut reader = Reader {
        words: &words,
        next: 0,
        allowed,
    };
    let met = reader.any_of()?;
    match reader.peek() {
        None => Ok(met),
        Some(word) => Err(format!("`{word}` is not expected in `{expression}`")),
    }
}

struct Reader<'a> {
    words: &'a [&'a str],
    next: usize,
    allowed: &'a dyn Fn(&str) -> bool,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.next).copied()
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.peek() == Some(word);
        self.next += usize::from(found);
        found
    }

    fn any_of(&mut self) -> Result<bool, String> {
        let mut met = self.all_of()?;
        while self.take("OR") {
            met |= self.all_of()?;
        }
        Ok(met)
    }

    fn all_of(&mut self) -> Result<bool, String> {
        let mut met = self.one()?;
        while self.take("AND") {
            met &= self.one()?;
        }
        Ok(met)
    }

    fn one(&mut self) -> Result<bool, String> {
        if self.take("(") {
            let met = self.any_of()?;
            return if self.take(")") {
                Ok(met)
            } else {
                Err("a `)` is missing".to_owned())
            };
        }
        let name = self
            .peek()
            .filter(|word| !matches!(*word, ")" | "AND" | "OR" | "WITH"));
        let Some(name) = name else {
            return Err("a licence is missing".to_owned());
        };
        self.next += 1;
        if !self.take("WITH") {
            return Ok((self.allowed)(name));
        }
        let Some(exception) = self.peek() else {
            return Err(format!("the exception after `{name} WITH` is missing"));
        };
        self.next += 1;
        // An exception only adds permission.
        Ok((self.allowed)(name) || (self.allowed)(&format!("{name} WITH {exception}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(expression: &str) -> Result<bool, String> {
        is_met(expression, &|name| {
            matches!(name, "MIT" | "Apache-2.0" | "Unicode-3.0")
        })
    }

    #[test]
    fn one_allowed_alternative_is_enough() {
        assert_eq!(met("GPL-2.0-only OR MIT"), Ok(true));
        assert_eq!(met("GPL-2.0-only/MIT"), Ok(true));
        assert_eq!(met("GPL-2.0-only OR LGPL-2.1-only"), Ok(false));
    }

    #[test]
    fn all_of_a_conjunction_must_be_allowed() {
        assert_eq!(met("(MIT OR Apache-2.0) AND Unicode-3.0"), Ok(true));
        assert_eq!(met("MIT AND GPL-3.0-only"), Ok(false));
        assert_eq!(
            met("GPL-3.0-only AND X OR MIT"),
            Ok(true),
            "AND binds tighter than OR"
        );
    }

    #[test]
    fn an_exception_does_not_hide_the_licence() {
        assert_eq!(met("Apache-2.0 WITH LLVM-exception"), Ok(true));
        assert_eq!(met("GPL-3.0-only WITH Classpath-exception-2.0"), Ok(false));
    }

    #[test]
    fn an_expression_that_cannot_be_read_is_an_error() {
        for expression in [
            "",
            "MIT OR",
            "(MIT",
            "MIT Apache-2.0",
            "AND MIT",
            "MIT WITH",
        ] {
            assert!(met(expression).is_err(), "{expression:?} passed");
        }
    }
}
