//! A mistake as a value: where, what, and what to write instead.

use std::fmt;
use std::path::{Path, PathBuf};

/// One finding about a file. Its [`Display`](fmt::Display) is `file:line:column: message`, then a help line.
///
/// Ordered by file, line and column.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    pub file: PathBuf,
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// One line without control characters.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    pub severity: Severity,
}

/// Whether a finding keeps the files from being loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The files mean nothing until it is corrected.
    Error,
    /// The files are in order; somebody should look.
    Warning,
}

impl Diagnostic {
    /// An error about a file as a whole.
    pub(super) fn of_file(file: &Path, message: impl Into<String>, help: Option<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: 1,
            column: 1,
            message: message.into(),
            help,
            severity: Severity::Error,
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, .. } = self;
        write!(f, "{}:{line}:{column}: ", printable(&self.file.to_string_lossy()))?;
        match self.severity {
            Severity::Error => {}
            Severity::Warning => f.write_str("warning: ")?,
        }
        f.write_str(&printable(&self.message))?;
        match &self.help {
            Some(help) => write!(f, "\n  help: {}", printable(help)),
            None => Ok(()),
        }
    }
}

/// The text with characters escaped that could end a line or move a terminal's cursor: a file's name may hold them.
fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escape = is_unprintable(c).then(|| c.escape_unicode());
            let plain = escape.is_none().then_some(c);
            escape.into_iter().flatten().chain(plain)
        })
        .collect()
}

/// True for characters that break a log line, move a cursor or reverse the direction of what follows
/// (Unicode's bidirectional controls, with which a name can show itself as another).
pub(super) fn is_unprintable(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnostic_is_one_line_and_a_help_line() {
        let mut diagnostic = Diagnostic::of_file(Path::new("a\nb"), "wrong", Some("right".into()));
        assert_eq!(diagnostic.to_string(), "a\\u{a}b:1:1: wrong\n  help: right");
        diagnostic.severity = Severity::Warning;
        diagnostic.help = None;
        assert_eq!(diagnostic.to_string(), "a\\u{a}b:1:1: warning: wrong");
    }
}
