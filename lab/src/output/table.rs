//! Tables that the terminal and the page show alike.

use super::text::{Look, Tone};

/// Text with a tone.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    tone: Option<Tone>,
}

impl Cell {
    /// Text that stands out.
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self {
            text: text.into(),
            tone: Some(tone),
        }
    }

    /// A count of what should not happen.
    pub fn bad_unless_zero(count: u64) -> Self {
        let text = crate::quantity::grouped(count);
        Self {
            text,
            tone: (count > 0).then_some(Tone::Bad),
        }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its class on the page.
    pub fn class(&self) -> Option<&'static str> {
        match self.tone? {
            Tone::Good => Some("good"),
            Tone::Bad => Some("bad"),
            _ => None,
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self {
            text: text.into(),
            tone: None,
        }
    }
}

/// A heading row and rows of as many cells. The first column is a name, the
/// others are numbers.
#[derive(Clone, Debug)]
pub struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub fn new(heads: &[&'static str]) -> Self {
        Self {
            heads: heads.to_vec(),
            rows: Vec::new(),
        }
    }

    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    pub fn heads(&self) -> &[&'static str] {
        &self.heads
    }

    pub fn rows(&self) -> &[Vec<Cell>] {
        &self.rows
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Lines for people, two columns in. A table wider than the look is not
    /// folded: a broken number is worse than a long line.
    pub fn render(&self, look: Look) -> String {
        let heads: Vec<Cell> = self
            .heads
            .iter()
            .map(|head| Cell::toned(*head, Tone::Dim))
            .collect();
        let widths: Vec<usize> = (0..heads.len())
            .map(|column| {
                std::iter::once(&heads)
                    .chain(&self.rows)
                    .filter_map(|row| row.get(column))
                    .map(|cell| cell.text.chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let mut text = line(&heads, &widths, look);
        for row in &self.rows {
            text.push_str(&line(row, &widths, look));
        }
        text
    }
}

/// The first cell stands left, the others right. Padding is outside the tone, so that escapes do
/// not count as width.
fn line(cells: &[Cell], widths: &[usize], look: Look) -> String {
    let mut text = String::from("  ");
    for (index, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let gap = " ".repeat(width.saturating_sub(cell.text.chars().count()));
        let shown = match cell.tone {
            Some(tone) => look.paint(tone, &cell.text),
            None => cell.text.clone(),
        };
        if index == 0 {
            text.push_str(&shown);
            if cells.len() > 1 {
                text.push_str(&gap);
            }
        } else {
            text.push_str("  ");
            text.push_str(&gap);
            text.push_str(&shown);
        }
    }
    let mut text = text.trim_end().to_owned();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_aligned_and_lines_have_no_tail() {
        let mut table = Table::new(&["name", "count"]);
        table.row(vec!["a".into(), "1".into()]);
        table.row(vec!["longer".into(), "1,000".into()]);
        let text = table.render(Look::plain());
        assert_eq!(text, "  name    count\n  a           1\n  longer  1,000\n");
    }
}
