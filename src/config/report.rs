//! Collects what is wrong with one file and knows where a byte stands in it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use super::lines::Lines;
use super::repair::{self, Fault, Repaired};
use super::{Diagnostic, MAX_MISTAKES, Severity};

/// The findings about one text so far.
///
/// Shared by all readers of the text, hence the inner mutability.
pub(super) struct Report<'t> {
    path: &'t Path,
    lines: Lines<'t>,
    /// Lines that are no TOML. What follows from them is guesswork, so nothing else is said about them.
    broken: RefCell<BTreeSet<usize>>,
    found: RefCell<Vec<Diagnostic>>,
    /// The worst that was found, shown or not.
    worst: Cell<Severity>,
    is_full: Cell<bool>,
}

impl<'t> Report<'t> {
    /// A report about a text in which these faults were repaired.
    pub fn new(path: &'t Path, repaired: &'t Repaired<'_>) -> Self {
        let report = Self::of_lines(path, &repaired.text);
        for fault in &repaired.faults {
            report.fault(fault);
        }
        report
    }

    /// A report about a text that is no TOML, or needs no repair.
    pub fn of_lines(path: &'t Path, text: &'t str) -> Self {
        Self {
            path,
            lines: Lines::new(text),
            broken: RefCell::default(),
            found: RefCell::default(),
            worst: Cell::new(Severity::Warning),
            is_full: Cell::new(false),
        }
    }

    pub fn text(&self) -> &'t str {
        self.lines.text()
    }

    /// Line and column of a byte, both from 1, the column in characters.
    pub fn position(&self, byte: usize) -> (usize, usize) {
        self.lines.position(byte)
    }

    pub fn error(&self, at: &Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.add(self.position(at.start), Severity::Error, message.into(), Some(help.into()));
    }

    pub fn warning(&self, at: &Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.add(self.position(at.start), Severity::Warning, message.into(), Some(help.into()));
    }

    /// Reports that the text is no TOML here, and keeps quiet about the rest of that line.
    pub fn fault(&self, fault: &Fault) {
        let Fault { line, column, message } = fault;
        let help = Some(repair::help(message).to_owned());
        self.add((*line, *column), Severity::Error, message.clone(), help);
        self.broken.borrow_mut().insert(*line);
    }

    /// True once more mistakes were found than are shown: the caller may stop looking for more.
    pub fn is_full(&self) -> bool {
        self.is_full.get()
    }

    /// True when nothing but warnings was found.
    pub fn is_clean(&self) -> bool {
        match self.worst.get() {
            Severity::Error => false,
            Severity::Warning => true,
        }
    }

    /// All findings, sorted.
    pub fn finish(self) -> Vec<Diagnostic> {
        if self.is_full() {
            let message =
                format!("more was found in this file than the {MAX_MISTAKES} findings that are shown");
            let mut last = Diagnostic::of_file(self.path, message, Some("correct these first".to_owned()));
            last.severity = self.worst.get();
            self.found.borrow_mut().push(last);
        }
        let mut found = self.found.into_inner();
        found.sort();
        found.dedup();
        found
    }

    fn add(&self, (line, column): (usize, usize), severity: Severity, message: String, help: Option<String>) {
        if self.broken.borrow().contains(&line) {
            return;
        }
        if severity == Severity::Error {
            self.worst.set(severity);
        }
        let mut found = self.found.borrow_mut();
        if found.len() >= MAX_MISTAKES {
            self.is_full.set(true);
            return;
        }
        found.push(Diagnostic { file: self.path.to_owned(), line, column, message, help, severity });
    }

    /// True when the part of the text that belongs to this header is broken and has the word at the
    /// beginning of a line or of an inline table's entry.
    pub fn is_swallowed(&self, header: &Range<usize>, key: &str) -> bool {
        if self.broken.borrow().is_empty() {
            return false;
        }
        let (first, _) = self.position(header.start);
        let whole_file = header.is_empty();
        let below = self.text().get(self.lines.start(first)..).unwrap_or_default();
        let mut is_broken = false;
        let mut has_word = false;
        for (number, line) in (first..).zip(below.split('\n')) {
            let is_next_header = number > first && line.trim_start().starts_with('[');
            if is_next_header && !whole_file {
                break;
            }
            is_broken |= self.broken.borrow().contains(&number);
            has_word |= line.split(['{', ',', '[']).any(|part| part.trim_start().starts_with(key));
        }
        is_broken && has_word
    }
}
