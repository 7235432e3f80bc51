//! Where a byte stands in a text.

/// The byte at which each line of a text begins.
pub(super) struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub fn new(text: &'t str) -> Self {
        let after_breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        Self { text, starts: std::iter::once(0).chain(after_breaks).collect() }
    }

    pub fn text(&self) -> &'t str {
        self.text
    }

    /// Line and column of a byte, both from 1, the column in characters. A byte beyond the text is its end.
    pub fn position(&self, byte: usize) -> (usize, usize) {
        let byte = byte.min(self.text.len());
        let line = self.starts.partition_point(|start| *start <= byte).max(1);
        let start = self.start(line);
        let before = self.text.as_bytes().get(start..byte).unwrap_or_default();
        // Bytes of the form 10xxxxxx continue a character.
        let characters = before.iter().filter(|b| (**b & 0xc0) != 0x80).count();
        (line, characters + 1)
    }

    /// The byte at which a line begins.
    pub fn start(&self, line: usize) -> usize {
        let start = line.checked_sub(1).and_then(|index| self.starts.get(index));
        start.copied().unwrap_or(self.text.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters() {
        let lines = Lines::new("ä = 1\n\nö");
        assert_eq!(lines.position(0), (1, 1));
        assert_eq!(lines.position(2), (1, 2));
        assert_eq!(lines.position(7), (2, 1));
        assert_eq!(lines.position(8), (3, 1));
        assert_eq!(lines.position(999), (3, 2));
    }
}
