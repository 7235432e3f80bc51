//! Aligned columns.

use std::fmt::Write as _;

pub use crate::escape::plain;

/// One cell, perhaps with a colour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    text: String,
    colour: Option<Colour>,
}

/// The colours of this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    Green,
    Yellow,
    Red,
}

impl Colour {
    fn code(self) -> &'static str {
        match self {
            Self::Green => "\x1b[32m",
            Self::Yellow => "\x1b[33m",
            Self::Red => "\x1b[31m",
        }
    }

    /// The colour of a state: what deserves a look stands out.
    pub fn of_state(state: &str) -> Option<Self> {
        match state {
            "open" => Some(Self::Green),
            "suspended" | "unapproved" => Some(Self::Yellow),
            "decommissioned" => Some(Self::Red),
            _ => None,
        }
    }
}

impl Cell {
    pub fn state(text: &str) -> Self {
        Self { text: plain(text).into_owned(), colour: Colour::of_state(text) }
    }

    /// The text, filled up to `width`. The fill follows the colour's end: a coloured blank would show.
    pub fn padded(&self, width: usize, colour: bool) -> String {
        let fill = " ".repeat(width.saturating_sub(self.text.chars().count()));
        match self.colour.filter(|_| colour) {
            Some(colour) => format!("{}{}\x1b[0m{fill}", colour.code(), self.text),
            None => format!("{}{fill}", self.text),
        }
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(value: T) -> Self {
        Self { text: plain(&value.to_string()).into_owned(), colour: None }
    }
}

/// A table with a header.
#[derive(Debug, Clone)]
pub struct Table<const N: usize> {
    rows: Vec<[Cell; N]>,
    widths: [usize; N],
}

impl<const N: usize> Table<N> {
    pub fn new(header: [&str; N]) -> Self {
        let mut table = Self { rows: Vec::new(), widths: [0; N] };
        table.push(header.map(Cell::from));
        table
    }

    pub fn push(&mut self, row: [Cell; N]) {
        for (width, cell) in self.widths.iter_mut().zip(&row) {
            *width = cell.text.chars().count().max(*width);
        }
        self.rows.push(row);
    }

    /// Prints the rows since the last call, in columns that only ever grow; without a line break at the end.
    pub fn take(&mut self, colour: bool) -> String {
        let rows = std::mem::take(&mut self.rows);
        let lines: Vec<String> = rows.iter().map(|row| self.line(row, colour)).collect();
        lines.join("\n")
    }

    fn line(&self, row: &[Cell; N], colour: bool) -> String {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(self.widths) {
            // Writing to a string does not fail.
            let _ = write!(line, "{}  ", cell.padded(width, colour));
        }
        line.truncate(line.trim_end().len());
        line
    }
}

/// `1 socket`, `2 sockets`.
pub fn counted(count: impl TryInto<u64>, what: &str) -> String {
    match count.try_into().unwrap_or(u64::MAX) {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_without_blanks() {
        let mut table = Table::new(["NAME", "STATE"]);
        table.push(["stripe".into(), Cell::state("open")]);
        table.push(["a".into(), "-".into()]);
        assert_eq!(table.take(false), "NAME    STATE\nstripe  open\na       -");
        table.push(["b".into(), "-".into()]);
        assert_eq!(table.take(false), "b       -", "the widths stay");
    }

    #[test]
    fn colours_do_not_shift_columns() {
        let mut table = Table::new(["STATE", "X"]);
        table.push([Cell::state("open"), "x".into()]);
        assert_eq!(table.take(true), "STATE  X\n\u{1b}[32mopen\u{1b}[0m   x");
    }
}
