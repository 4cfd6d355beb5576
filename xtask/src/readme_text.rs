//! What of a README can be checked: commands to type, and sample output.
//!
//! In a block tagged `sh` each line is a command. In a block tagged `console` a line that begins
//! with `$ ` is a command and the lines below it, up to the next one, are what it prints on
//! standard output. A line `[...]` there stands for any number of lines.

/// A command as a README shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    /// Line of the README, from 1.
    pub(crate) line: usize,
    pub(crate) words: Vec<String>,
}

/// A command with the output that the README promises.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) command: Command,
    pub(crate) output: Vec<String>,
}

/// Everything in a README that can be checked.
#[derive(Debug, Default)]
pub(crate) struct Checkable {
    pub(crate) commands: Vec<Command>,
    pub(crate) samples: Vec<Sample>,
}

/// The mark that stands for any number of lines.
const ELISION: &str = "[...]";

/// Collects commands and samples; commands of other programs than ours are left alone.
pub(crate) fn read(text: &str) -> Checkable {
    let mut found = Checkable::default();
    let mut block: Option<&str> = None;
    for (index, line) in text.lines().enumerate() {
        if let Some(tag) = line.trim_start().strip_prefix("```") {
            block = if block.is_some() {
                None
            } else {
                Some(tag.trim())
            };
            continue;
        }
        match block {
            Some("sh") => found.commands.extend(command(index + 1, line)),
            Some("console") => match line.strip_prefix("$ ") {
                Some(typed) => {
                    let command = command(index + 1, typed);
                    found.commands.extend(command.clone());
                    let samples = command.map(|command| Sample {
                        command,
                        output: Vec::new(),
                    });
                    found.samples.extend(samples);
                }
                None => {
                    if let Some(sample) = found.samples.last_mut() {
                        sample.output.push(line.to_owned());
                    }
                }
            },
            _ => {}
        }
    }
    found
}

/// The command on a line, without prompt, comment, pipe or redirection.
fn command(line: usize, text: &str) -> Option<Command> {
    let text = text.trim();
    let text = text.strip_prefix("$ ").unwrap_or(text);
    let mut words = Vec::new();
    for word in split(text) {
        let ends = word.starts_with('#') || matches!(word.as_str(), "|" | ">" | "2>" | "&&" | ";");
        if ends {
            break;
        }
        words.push(word);
    }
    let ours = match words.first().map(String::as_str) {
        Some("dmakit") => true,
        Some("cargo") => matches!(words.get(1).map(String::as_str), Some("run" | "xtask")),
        _ => false,
    };
    ours.then_some(Command { line, words })
}

/// Words of a shell line; quotes group, nothing is expanded.
fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in text.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '"' || c == '\'' => {
                quote = Some(c);
                word.get_or_insert_with(String::new);
            }
            None if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_with(String::new).push(c),
        }
    }
    words.extend(word);
    words
}

/// The first promised line, counted from 0, that the output does not have; `None` if all agree.
pub(crate) fn first_difference(promised: &[String], printed: &[&str]) -> Option<usize> {
    let mut at = 0;
    let mut elided = false;
    for (index, line) in promised.iter().enumerate() {
        if line == ELISION {
            elided = true;
            continue;
        }
        let rest = printed.get(at..).unwrap_or_default();
        let found = if elided {
            rest.iter().position(|candidate| candidate == line)
        } else {
            rest.first()
                .filter(|candidate| **candidate == line.as_str())
                .map(|_| 0)
        };
        match found {
            Some(skipped) => at += skipped + 1,
            None => return Some(index),
        }
        elided = false;
    }
    if elided || at == printed.len() {
        None
    } else {
        Some(promised.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn our_commands_are_found_and_other_programs_left_alone() {
        let text = "```sh\ngit clone x\ncargo run --release -- size \"a b\" # why\n\
                    dmakit replay x > y\n```\ndmakit outside\n```rust\ndmakit no\n```\n";
        let commands = read(text).commands;
        let words: Vec<_> = commands.iter().map(|c| c.words.join("|")).collect();
        assert_eq!(
            words,
            ["cargo|run|--release|--|size|a b", "dmakit|replay|x"]
        );
        assert_eq!(commands[0].line, 3);
    }

    #[test]
    fn a_console_block_pairs_each_command_with_its_output() {
        let text = "```console\n$ dmakit one\nfirst\n\n$ dmakit two\nsecond\n```\n";
        let samples = read(text).samples;
        assert_eq!(samples[0].output, ["first", ""]);
        assert_eq!(samples[1].output, ["second"]);
        assert_eq!(samples[1].command.line, 5);
    }

    #[test]
    fn output_that_changed_is_found_at_its_line() {
        assert_eq!(first_difference(&lines("a\nb"), &["a", "b"]), None);
        assert_eq!(first_difference(&lines("a\nb"), &["a", "c"]), Some(1));
        assert_eq!(first_difference(&lines("a\nb"), &["a"]), Some(1));
        assert_eq!(first_difference(&lines("a"), &["a", "more"]), Some(1));
    }

    #[test]
    fn an_elision_stands_for_any_lines_and_for_nothing_else() {
        let promised = lines("a\n[...]\nz");
        assert_eq!(first_difference(&promised, &["a", "b", "c", "z"]), None);
        assert_eq!(first_difference(&promised, &["a", "z"]), None);
        assert_eq!(first_difference(&promised, &["a", "b"]), Some(2));
        assert_eq!(first_difference(&promised, &["a", "z", "more"]), Some(3));
        assert_eq!(first_difference(&lines("a\n[...]"), &["a", "b"]), None);
    }
}
