//! Files as the caller read them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Diagnostic, Severity};

/// One file: where it came from and what it holds.
#[derive(Debug, Clone)]
pub struct Source {
    /// A label for diagnostics; for services its stem is the name.
    pub path: PathBuf,
    /// The bytes, or why they could not be read.
    pub text: Result<Vec<u8>, String>,
}

/// Every file of a configuration.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// `picoseg.toml`; without it the defaults hold.
    pub settings: Option<Source>,
    /// Every `*.toml` of `services.d`, whatever its stem.
    pub services: Vec<Source>,
    /// Every `*.toml` of `segments.d`.
    pub segments: Vec<Source>,
    /// List name to file. Only those that a schedule or a segment uses are judged; the others serve as proposals.
    pub lists: BTreeMap<String, Source>,
}

impl Source {
    /// The bytes, when they could be read and are at most `limit`.
    pub(super) fn bytes(&self, limit: usize) -> Result<&[u8], Diagnostic> {
        match &self.text {
            Err(reason) => {
                let message = format!("cannot read this file: {reason}");
                let help = "make it a readable file, or remove it".to_owned();
                Err(Diagnostic::of_file(&self.path, message, Some(help)))
            }
            Ok(bytes) if bytes.len() > limit => Err(too_large(&self.path, limit)),
            Ok(bytes) => Ok(bytes),
        }
    }

    /// The text; where it is not UTF-8 the rest is still worth reading, for its other mistakes.
    pub(super) fn decode(&self, limit: usize) -> Result<(Cow<'_, str>, Option<Diagnostic>), Diagnostic> {
        let bytes = self.bytes(limit)?;
        Ok((String::from_utf8_lossy(bytes), not_utf8(&self.path, bytes)))
    }
}

/// The diagnostic about a file with more bytes than `limit`.
pub(super) fn too_large(path: &std::path::Path, limit: usize) -> Diagnostic {
    let message = format!("this file is larger than {} MiB", limit >> 20);
    Diagnostic::of_file(path, message, Some("split it".to_owned()))
}

/// The diagnostic about the first byte that is not UTF-8.
pub(super) fn not_utf8(path: &std::path::Path, bytes: &[u8]) -> Option<Diagnostic> {
    let at = std::str::from_utf8(bytes).err()?.valid_up_to();
    let (before, rest) = bytes.split_at_checked(at)?;
    let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let on_the_line = String::from_utf8_lossy(before.get(line_start..)?);
    Some(Diagnostic {
        file: path.to_owned(),
        line: before.iter().filter(|b| **b == b'\n').count() + 1,
        column: on_the_line.chars().count() + 1,
        message: format!("byte {:#04x} is not UTF-8", rest.first()?),
        help: Some("save the file as UTF-8".to_owned()),
        severity: Severity::Error,
    })
}
