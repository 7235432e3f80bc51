//! Typed access to a TOML table with positions. Whoever reads a table names its keys once; unknown keys, missing keys
//! and wrong types are reported here, in one wording.
//!
//! A method that returns `None` has reported why, or the key is absent. Readers may go on with a default: a
//! report with an error yields no value in the end.

use std::ops::Range;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::diagnostic::is_unprintable;
use super::repair::Fault;
use super::report::Report;
use super::time::{self, Mistake};
use super::{MAX_ENTRIES, nearest};
use crate::model::Time;

/// The longest text of a key that has no rule of its own, in characters.
pub(super) const MAX_TEXT: usize = 256;

/// Parses a text as far as it goes and reports everything in it that is no TOML.
pub(super) fn parse<'t>(report: &Report<'t>) -> DeTable<'t> {
    let (root, errors) = DeTable::parse_recoverable(report.text());
    let (doubled, broken): (Vec<_>, Vec<_>) =
        errors.iter().partition(|error| error.message() == "duplicate key");
    for error in doubled {
        let at = error.span().unwrap_or_default();
        let key = report.text().get(at.clone()).unwrap_or_default();
        report.error(&at, format!("`{key}` is written twice"), "keep one: a key or table may stand once");
    }
    for error in broken {
        let (line, column) = report.position(error.span().unwrap_or_default().start);
        report.fault(&Fault { line, column, message: error.message().to_owned() });
    }
    root.into_inner()
}

/// The keys that a table may have, and more than "unknown" about some that it may not.
#[derive(Clone, Copy)]
pub(super) struct Keys<'k> {
    pub valid: &'k [&'k str],
    pub misplaced: &'k [Misplaced],
}

/// A key that means something elsewhere.
pub(super) struct Misplaced {
    pub word: &'static str,
    /// The valid key that was meant: it is not reported as missing, too.
    pub meant: Option<&'static str>,
    pub help: &'static str,
}

impl Misplaced {
    pub const fn new(word: &'static str, meant: Option<&'static str>, help: &'static str) -> Self {
        Self { word, meant, help }
    }
}

impl<'k> From<&'k [&'k str]> for Keys<'k> {
    fn from(valid: &'k [&'k str]) -> Self {
        Self { valid, misplaced: &[] }
    }
}

impl<'k, const N: usize> From<&'k [&'k str; N]> for Keys<'k> {
    fn from(valid: &'k [&'k str; N]) -> Self {
        Self { valid, misplaced: &[] }
    }
}

/// A table and the place of its header; the place of the top level is empty.
#[derive(Clone)]
pub(super) struct Table<'r> {
    report: &'r Report<'r>,
    entries: &'r DeTable<'r>,
    header: Range<usize>,
    /// As the messages say it: `in [lifetime]`.
    place: String,
    /// Valid keys that an unknown one was probably meant to be.
    misspelt: Vec<String>,
}

impl<'r> Table<'r> {
    /// The top level, which has only these keys.
    pub fn root<'k>(report: &'r Report<'r>, entries: &'r DeTable<'r>, keys: impl Into<Keys<'k>>) -> Self {
        let mut root = Self {
            report,
            entries,
            header: 0..0,
            place: "at the top level".to_owned(),
            misspelt: Vec::new(),
        };
        root.check_keys(keys.into());
        root
    }

    pub fn report(&self) -> &'r Report<'r> {
        self.report
    }

    pub fn header(&self) -> &Range<usize> {
        &self.header
    }

    pub fn get(&self, key: &str) -> Option<Value<'r>> {
        self.iter().find(|value| value.name == key)
    }

    pub fn required(&self, key: &str, help: &str) -> Option<Value<'r>> {
        let is_written = self.entries.keys().any(|name| name.get_ref().as_ref() == key);
        if !is_written {
            self.missing(&[key], format!("`{key}` is missing {}", self.place), help);
        }
        self.get(key)
    }

    /// Reports that none of these keys is there, unless one is there in other letters or lost in a syntax error.
    pub fn missing(&self, keys: &[&str], message: String, help: &str) {
        let is_misspelt = |key: &&str| self.misspelt.iter().any(|word| word == key);
        let is_lost = |key: &&str| self.report.is_swallowed(&self.header, key);
        if !keys.iter().any(|key| is_misspelt(key) || is_lost(key)) {
            self.report.error(&self.header, message, help);
        }
    }

    /// Every key with its value, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = Value<'r>> + '_ {
        let values = self.entries.iter().map(|(key, value)| Value {
            report: self.report,
            name: key.get_ref().as_ref(),
            is_entry: false,
            key: key.span(),
            at: value.span(),
            value: value.get_ref(),
        });
        values.filter(|value| !value.is_lost())
    }

    fn check_keys(&mut self, keys: Keys<'_>) {
        for key in self.entries.keys() {
            let word = key.get_ref().as_ref();
            if keys.valid.contains(&word) {
                continue;
            }
            if self.report.is_full() {
                return;
            }
            let message = format!("unknown key {word:?} {}", self.place);
            if let Some(one) = keys.misplaced.iter().find(|one| one.word == word) {
                self.report.error(&key.span(), message, one.help);
                self.misspelt.extend(one.meant.map(str::to_owned));
                continue;
            }
            self.report.error(&key.span(), message, nearest::help(word, keys.valid));
            let meant = nearest::nearest(word, keys.valid);
            self.misspelt.extend(meant.first().map(|key| (*key).to_owned()));
        }
    }
}

/// A value, or an entry of an array, with its place.
#[derive(Clone)]
pub(super) struct Value<'r> {
    report: &'r Report<'r>,
    name: &'r str,
    /// True for an entry of the array with that name.
    is_entry: bool,
    key: Range<usize>,
    at: Range<usize>,
    value: &'r DeValue<'r>,
}

impl<'r> Value<'r> {
    pub fn report(&self) -> &'r Report<'r> {
        self.report
    }

    /// The name of its key.
    pub fn name(&self) -> &'r str {
        self.name
    }

    /// Where its key stands.
    pub fn key(&self) -> &Range<usize> {
        &self.key
    }

    /// Where it stands itself.
    pub fn at(&self) -> &Range<usize> {
        &self.at
    }

    pub fn error(&self, message: impl Into<String>, help: impl Into<String>) {
        self.report.error(&self.at, message, help);
    }

    pub fn warning(&self, message: impl Into<String>, help: impl Into<String>) {
        self.report.warning(&self.at, message, help);
    }

    /// The string as it is.
    pub fn string(&self) -> Option<&'r str> {
        let DeValue::String(text) = self.value else {
            let help = match self.value {
                DeValue::Array(_) | DeValue::Table(_) => "write one string in quotes",
                _ => "put it into quotes",
            };
            return self.wrong_type("a string", help);
        };
        Some(text)
    }

    /// A string for people: not empty, one line, at most so many characters.
    pub fn text(&self, most: usize) -> Option<String> {
        let text = self.string()?;
        if text.trim().is_empty() {
            self.error(format!("{} is empty", self.label()), "say something, or leave the key out");
            return None;
        }
        if let Some(bad) = text.chars().find(|c| is_unprintable(*c)) {
            let message = format!("{} holds the control character U+{:04X}", self.label(), u32::from(bad));
            self.error(message, "remove it: it could garble logs and terminals");
            return None;
        }
        if text.chars().count() > most {
            self.error(format!("{} is longer than {most} characters", self.label()), "shorten it");
            return None;
        }
        Some(text.to_owned())
    }

    /// One of these words.
    pub fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.string()?;
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let valid: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let message = format!("{text:?} is no value of `{}`", self.name);
            self.error(message, nearest::help(text, &valid));
        }
        found.map(|(_, value)| *value)
    }

    /// A string that `read` understands.
    pub fn read<T>(&self, read: impl FnOnce(&str) -> Result<T, Mistake>) -> Option<T> {
        let text = self.string()?;
        read(text).map_err(|mistake| self.error(mistake.message, mistake.help)).ok()
    }

    pub fn duration(&self) -> Option<Duration> {
        self.read(time::duration)
    }

    pub fn boolean(&self) -> Option<bool> {
        let DeValue::Boolean(value) = self.value else {
            return self.wrong_type("true or false", "write true or false without quotes");
        };
        Some(*value)
    }

    /// A whole number from `low` to `high`.
    pub fn integer(&self, low: i32, high: i32) -> Option<i32> {
        let rule = format!("write a whole number from {low} to {high}");
        let DeValue::Integer(written) = self.value else {
            return self.wrong_type("a whole number", &rule);
        };
        let number = i32::from_str_radix(written.as_str(), written.radix()).ok();
        let number = number.filter(|number| (low..=high).contains(number));
        if number.is_none() {
            self.error(format!("`{}` is out of range", self.name), rule);
        }
        number
    }

    /// A date-time with an offset.
    pub fn instant(&self) -> Option<Time> {
        match self.value {
            DeValue::Datetime(written) => {
                time::instant(written).map_err(|mistake| self.error(mistake.message, mistake.help)).ok()
            }
            DeValue::String(text) => self.wrong_type("a time", &time::unquoted_help(text)),
            _ => self.wrong_type("a time", "write a time with an offset, for example 2026-01-01T00:00:00Z"),
        }
    }

    /// The entries of an array that must not be empty.
    pub fn entries(&self, example: &str) -> Option<Vec<Self>> {
        let entries = self.array(example)?;
        if entries.is_empty() {
            let help = format!("nothing listed, nothing allowed: write for example {example}");
            self.error(format!("{} is empty", self.label()), help);
            return None;
        }
        Some(entries)
    }

    /// The entries of an array.
    pub fn array(&self, example: &str) -> Option<Vec<Self>> {
        let DeValue::Array(array) = self.value else {
            return self.wrong_type("an array", &format!("write for example {example}"));
        };
        if array.len() > MAX_ENTRIES {
            let message = format!("`{}` has more than {MAX_ENTRIES} entries", self.name);
            self.error(message, "split it");
            return None;
        }
        let entries = array.iter().map(|entry| Self {
            report: self.report,
            name: self.name,
            is_entry: true,
            key: entry.span(),
            at: entry.span(),
            value: entry.get_ref(),
        });
        Some(entries.filter(|entry| !entry.is_lost()).collect())
    }

    /// A table with only these keys.
    pub fn table<'k>(&self, name: &'static str, keys: impl Into<Keys<'k>>) -> Option<Table<'r>> {
        let mut table = self.open_table(name)?;
        table.check_keys(keys.into());
        Some(table)
    }

    /// A table with keys of the user's choice.
    pub fn open_table(&self, name: &'static str) -> Option<Table<'r>> {
        let DeValue::Table(entries) = self.value else {
            return self.wrong_type("a table", &format!("write {name}"));
        };
        Some(Table {
            report: self.report,
            entries,
            header: self.at.clone(),
            place: format!("in {name}"),
            misspelt: Vec::new(),
        })
    }

    /// The tables of an array of tables, `[[name]]`, each with only these keys.
    pub fn tables<'k>(&self, name: &'static str, keys: impl Into<Keys<'k>>) -> Vec<Table<'r>> {
        let keys = keys.into();
        if let DeValue::Table(_) = self.value {
            let message = format!("`{}` is a table, but there may be several", self.name);
            self.error(message, format!("write {name} with double brackets"));
            return self.table(name, keys).into_iter().collect();
        }
        let entries = self.entries(name).unwrap_or_default();
        let tables = entries.into_iter().map_while(|entry| {
            // Once nothing more is shown, nothing more is looked for.
            (!self.report.is_full()).then(|| entry.table(name, keys))
        });
        tables.flatten().collect()
    }

    pub fn wrong_type<T>(&self, wanted: &str, help: &str) -> Option<T> {
        let message = format!("{} is {}, not {wanted}", self.label(), self.kind());
        self.error(message, help);
        None
    }

    /// True for text, such as a subject that was written as a plain string.
    pub fn as_string(&self) -> Option<&'r str> {
        self.value.as_str()
    }

    /// True when a syntax error left nothing of it: the parser then stands in a number at no place.
    fn is_lost(&self) -> bool {
        self.at.is_empty() && matches!(self.value, DeValue::Integer(_))
    }

    /// The digits of a number, such as a port that was written without its protocol.
    pub fn as_digits(&self) -> Option<&'r str> {
        match self.value {
            DeValue::Integer(number) => Some(number.as_str()),
            _ => None,
        }
    }

    /// As messages call it.
    fn label(&self) -> String {
        let of = if self.is_entry { "an entry of " } else { "" };
        format!("{of}`{}`", self.name)
    }

    fn kind(&self) -> &'static str {
        match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a time",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        }
    }
}

/// The one of two places that stands later in the file: a conflict points at it.
pub(super) fn later<'r>(a: &'r Range<usize>, b: &'r Range<usize>) -> &'r Range<usize> {
    if a.start >= b.start { a } else { b }
}
