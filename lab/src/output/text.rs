//! Text for people: colour, wrapping, aligned fields.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};

/// Lines longer than this are hard to read on any terminal.
const WIDEST: usize = 100;
const NARROWEST: usize = 40;
/// Not on a terminal, the width is fixed, so that the text is the same
/// wherever it is made.
const PIPED: usize = 80;

/// What a piece of text says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "one palette for every command")]
pub enum Tone {
    Strong,
    Good,
    Warning,
    Bad,
    Dim,
}

/// Colour and width of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    colour: bool,
    width: usize,
}

impl Look {
    /// Without colour, at the width of a pipe.
    pub const fn plain() -> Self {
        Self {
            colour: false,
            width: PIPED,
        }
    }

    /// `terminal` says whether standard output is one.
    pub fn new(colour: bool, terminal: bool) -> Self {
        let measured = if terminal {
            terminal_size::terminal_size().map(|(width, _)| usize::from(width.0))
        } else {
            None
        };
        Self {
            colour,
            width: measured.map_or(PIPED, |w| w.clamp(NARROWEST, WIDEST)),
        }
    }

    /// Columns that a line may fill.
    pub const fn width(self) -> usize {
        self.width
    }

    /// `text` in the given tone.
    pub fn paint(self, tone: Tone, text: &str) -> String {
        if !self.colour || text.is_empty() {
            return text.to_owned();
        }
        let style = match tone {
            Tone::Strong => Style::new().bold(),
            Tone::Good => AnsiColor::Green.on_default(),
            Tone::Warning => AnsiColor::Yellow.on_default(),
            Tone::Bad => AnsiColor::Red.on_default().bold(),
            Tone::Dim => Style::new().dimmed(),
        };
        format!("{style}{text}{style:#}")
    }

    /// One `label  value` row, two columns in, the label padded to
    /// `label_width` and the value wrapped under itself.
    pub fn field(self, label: &str, label_width: usize, tone: Tone, value: &str) -> String {
        let indent = 2 + label_width + 2;
        let mut text = String::new();
        for (number, line) in wrapped(value, self.width.saturating_sub(indent))
            .iter()
            .enumerate()
        {
            let shown = if number == 0 { label } else { "" };
            let gap = " ".repeat(label_width.saturating_sub(shown.chars().count()));
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {}{gap}  {line}", self.paint(tone, shown));
        }
        text
    }

    /// A field with several values, each a list item.
    pub fn items(self, label: &str, label_width: usize, tone: Tone, values: &[String]) -> String {
        let indent = 2 + label_width + 2;
        let mut text = String::new();
        for (at, value) in values.iter().enumerate() {
            let item = self.item(indent, "-", value);
            if at == 0 {
                let gap = " ".repeat(label_width.saturating_sub(label.chars().count()));
                let _ = write!(text, "  {}{gap}  ", self.paint(tone, label));
                text.push_str(item.trim_start());
            } else {
                text.push_str(&item);
            }
        }
        text
    }

    /// A list item: a mark, then the text wrapped under itself.
    pub fn item(self, indent: usize, mark: &str, value: &str) -> String {
        let before = indent + mark.chars().count() + 1;
        let mut text = String::new();
        for (number, line) in wrapped(value, self.width.saturating_sub(before))
            .iter()
            .enumerate()
        {
            let shown = if number == 0 {
                format!("{}{mark} ", " ".repeat(indent))
            } else {
                " ".repeat(before)
            };
            let _ = writeln!(text, "{shown}{line}");
        }
        text
    }
}

/// Breaks at blanks; a word longer than the width is broken inside. Always at
/// least one line.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(8);
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        while !word.is_empty() {
            let blank = usize::from(used > 0);
            if used + blank + word.len() > width && used > 0 {
                lines.push(String::new());
                used = 0;
                continue;
            }
            let taken: String = word.drain(..word.len().min(width)).collect();
            if let Some(line) = lines.last_mut() {
                if blank == 1 {
                    line.push(' ');
                }
                line.push_str(&taken);
                used += blank + taken.chars().count();
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_wider_than_asked() {
        let text = "one two three fourteen-letters-and-many-more 5 6";
        for width in 8..40 {
            let lines = wrapped(text, width);
            assert!(
                lines.iter().all(|l| l.chars().count() <= width),
                "{lines:?}"
            );
            let whole: String = lines.concat().split_whitespace().collect();
            assert_eq!(whole, text.split_whitespace().collect::<String>());
        }
    }

    #[test]
    fn a_plain_look_has_no_escapes() {
        assert_eq!(Look::plain().paint(Tone::Bad, "x"), "x");
        let coloured = Look {
            colour: true,
            width: 80,
        };
        assert_ne!(coloured.paint(Tone::Bad, "x"), "x");
    }

    #[test]
    fn a_long_value_hangs_under_itself() {
        let look = Look {
            colour: false,
            width: 40,
        };
        let text = look.field("why", 6, Tone::Dim, &"word ".repeat(12));
        assert_eq!(text.lines().next().map(|l| &l[..12]), Some("  why     wo"));
        assert!(text.lines().skip(1).all(|l| l.starts_with("          w")));
    }
}
