//! Tables that the terminal and the page show alike.

use comfy_table::{Attribute, CellAlignment, Color, ContentArrangement, presets};

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
        let mut table = comfy_table::Table::new();
        table
            .load_preset(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled);
        if look.is_coloured() {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(self.heads.iter().map(|head| {
            let cell = comfy_table::Cell::new(head);
            if look.is_coloured() {
                cell.add_attribute(Attribute::Dim)
            } else {
                cell
            }
        }));
        for row in &self.rows {
            table.add_row(row.iter().map(|cell| shown(cell, look)));
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((if index == 0 { 2 } else { 0 }, 2));
            if index > 0 {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut text: String = table
            .lines()
            .map(|line| line.trim_end().to_owned() + "\n")
            .collect();
        text.shrink_to_fit();
        text
    }
}

fn shown(cell: &Cell, look: Look) -> comfy_table::Cell {
    let made = comfy_table::Cell::new(&cell.text);
    match cell.tone {
        Some(tone) if look.is_coloured() => match tone {
            Tone::Strong => made.add_attribute(Attribute::Bold),
            Tone::Good => made.fg(Color::Green),
            Tone::Warning => made.fg(Color::Yellow),
            Tone::Bad => made.fg(Color::Red).add_attribute(Attribute::Bold),
            Tone::Dim => made.add_attribute(Attribute::Dim),
        },
        _ => made,
    }
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
