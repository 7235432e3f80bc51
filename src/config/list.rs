//! Endpoint lists: one address, prefix or host name a line.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::endpoint::{self, Entry};
use super::report::Report;
use super::source::{Source, not_utf8, too_large};
use super::time::Mistake;
use super::{Diagnostic, MAX_LIST};
use crate::model::{HostName, Prefix};

/// What the entries of a list stand for, in file order, repeats included. Cheap to clone: schedules share a list.
#[derive(Debug, Clone, Default)]
pub struct Listed {
    pub prefixes: Arc<[Prefix]>,
    pub names: Arc<[HostName]>,
}

impl Listed {
    pub(super) fn of_prefix(prefix: Prefix) -> Self {
        Self { prefixes: Arc::from([prefix]), names: Arc::default() }
    }

    pub(super) fn of_name(name: HostName) -> Self {
        Self { prefixes: Arc::default(), names: Arc::from([name]) }
    }
}

/// Reads a list, or says what is wrong with it.
///
/// Comments begin with `#`, also behind an entry; CRLF and a missing last line break are fine. At most 64 MiB.
pub fn parse_list(path: &Path, bytes: &[u8]) -> (Listed, Vec<Diagnostic>) {
    if bytes.len() > MAX_LIST {
        return (Listed::default(), vec![too_large(path, MAX_LIST)]);
    }
    let text = String::from_utf8_lossy(bytes);
    let report = Report::of_lines(path, &text);
    let listed = read_lines(&report);
    if listed.prefixes.is_empty() && listed.names.is_empty() && report.is_clean() {
        report.error(
            &(0..0),
            "this list has no entry",
            "nothing listed, nothing allowed: write one address, prefix or host name a line",
        );
    }
    let mut found = report.finish();
    if let Some(bad) = not_utf8(path, bytes) {
        found.retain(|one| one.line != bad.line);
        found.push(bad);
        found.sort();
    }
    (listed, found)
}

fn read_lines(report: &Report<'_>) -> Listed {
    let (mut prefixes, mut names) = (Vec::new(), Vec::new());
    let mut start = 0;
    for line in report.text().split('\n') {
        if report.is_full() {
            break;
        }
        let entry = line.strip_suffix('\r').unwrap_or(line);
        let entry = entry.split('#').next().unwrap_or_default();
        let blank = entry.len() - entry.trim_start_matches([' ', '\t']).len();
        let entry = entry.trim_matches([' ', '\t']);
        if !entry.is_empty() {
            let at = start + blank..start + blank + entry.len();
            match parse_entry(entry) {
                Ok(Line::Prefix(prefix)) => prefixes.push(prefix),
                Ok(Line::Name(name)) => names.push(name),
                Err(mistake) => report.error(&at, mistake.message, mistake.help),
            }
        }
        start += line.len() + 1;
    }
    Listed { prefixes: prefixes.into(), names: names.into() }
}

/// What a line may hold.
enum Line {
    Prefix(Prefix),
    Name(HostName),
}

fn parse_entry(entry: &str) -> Result<Line, Mistake> {
    if entry.starts_with('\u{feff}') {
        return Err(Mistake::new(
            "the file begins with a byte order mark",
            "save it without: UTF-8 needs none",
        ));
    }
    if entry.contains([' ', '\t', ',', ';']) {
        return Err(Mistake::new(format!("{entry:?} is more than one entry"), "write one entry a line"));
    }
    if entry.starts_with('@') {
        let help = "a list holds no other list: name both in the schedule";
        return Err(Mistake::new(format!("{entry:?} cannot stand in a list"), help));
    }
    let any = || {
        let help = "for every address write \"any\" as the only entry of `to` or `from`";
        Mistake::new(format!("{entry:?} cannot stand in a list"), help)
    };
    if entry.eq_ignore_ascii_case(endpoint::ANY) {
        return Err(any());
    }
    match endpoint::parse(entry)? {
        Entry::Prefix(prefix) => Ok(Line::Prefix(prefix)),
        Entry::Name(name) => Ok(Line::Name(name)),
        Entry::Any => Err(any()),
    }
}

/// What a schedule gets for `"@NAME"`.
pub(super) enum Found {
    Entries(Listed),
    /// The list has mistakes. They stand in its own file's diagnostics, or here when it has none.
    Broken(Option<String>),
    Missing,
}

/// Where schedules look their lists up.
pub(super) trait Lists {
    fn look_up(&self, name: &str) -> Found;
    /// The names of all lists, to propose one.
    fn names(&self) -> Vec<&str>;
}

/// Lists by a function, each read once.
pub(super) struct ByFunction<'f> {
    text: &'f dyn Fn(&str) -> Option<Arc<str>>,
    read: RefCell<BTreeMap<String, ReadText>>,
}

struct ReadText {
    listed: Listed,
    /// Line and message of its first mistake.
    mistake: Option<String>,
}

impl<'f> ByFunction<'f> {
    pub fn new(text: &'f dyn Fn(&str) -> Option<Arc<str>>) -> Self {
        Self { text, read: RefCell::default() }
    }
}

impl Lists for ByFunction<'_> {
    fn look_up(&self, name: &str) -> Found {
        let mut read = self.read.borrow_mut();
        if !read.contains_key(name) {
            let Some(text) = (self.text)(name) else {
                return Found::Missing;
            };
            let label = format!("{name}.txt");
            let (listed, mistakes) = parse_list(Path::new(&label), text.as_bytes());
            let first = mistakes.first();
            let text =
                ReadText { listed, mistake: first.map(|one| format!("line {}: {}", one.line, one.message)) };
            read.insert(name.to_owned(), text);
        }
        match read.get(name) {
            Some(ReadText { listed, mistake: None }) => Found::Entries(listed.clone()),
            Some(ReadText { mistake, .. }) => Found::Broken(mistake.clone()),
            None => Found::Missing,
        }
    }

    fn names(&self) -> Vec<&str> {
        Vec::new()
    }
}

/// Lists by their files, each read once, with their diagnostics.
pub(super) struct ByFile<'f> {
    files: &'f BTreeMap<String, Source>,
    read: RefCell<BTreeMap<&'f str, ReadList>>,
}

#[derive(Default)]
struct ReadList {
    listed: Listed,
    text: Option<Arc<str>>,
    mistakes: Vec<Diagnostic>,
}

impl<'f> ByFile<'f> {
    pub fn new(files: &'f BTreeMap<String, Source>) -> Self {
        Self { files, read: RefCell::default() }
    }

    /// The text of a list that some schedule or segment used.
    pub fn text(&self, name: &str) -> Option<Arc<str>> {
        self.read.borrow().get(name)?.text.clone()
    }

    /// The mistakes of every list that some schedule or segment used.
    pub fn finish(self) -> Vec<Diagnostic> {
        let lists = self.read.into_inner().into_values();
        lists.flat_map(|list| list.mistakes).collect()
    }
}

impl Lists for ByFile<'_> {
    fn look_up(&self, name: &str) -> Found {
        let Some((name, source)) = self.files.get_key_value(name) else {
            return Found::Missing;
        };
        let mut read = self.read.borrow_mut();
        let list = read.entry(name).or_insert_with(|| read_file(source));
        if list.mistakes.is_empty() { Found::Entries(list.listed.clone()) } else { Found::Broken(None) }
    }

    fn names(&self) -> Vec<&str> {
        self.files.keys().map(String::as_str).collect()
    }
}

fn read_file(source: &Source) -> ReadList {
    let bytes = match source.bytes(MAX_LIST) {
        Ok(bytes) => bytes,
        Err(mistake) => {
            return ReadList { mistakes: vec![mistake], ..ReadList::default() };
        }
    };
    let (listed, mistakes) = parse_list(&source.path, bytes);
    ReadList { listed, text: std::str::from_utf8(bytes).ok().map(Arc::from), mistakes }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<String>, Vec<String>) {
        let (listed, found) = parse_list(Path::new("x.txt"), text.as_bytes());
        let place = |one: &Diagnostic| format!("{}:{}: {}", one.line, one.column, one.message);
        let prefixes = listed.prefixes.iter().map(ToString::to_string);
        let entries = prefixes.chain(listed.names.iter().map(ToString::to_string)).collect();
        (entries, found.iter().map(place).collect())
    }

    #[test]
    fn comments_crlf_blank_lines_and_a_missing_last_break_are_fine() {
        let (prefixes, mistakes) = read("# head\r\n192.0.2.1 # one\r\n\r\n\t2001:db8::/32#two\n 192.0.2.1");
        assert_eq!(prefixes, ["192.0.2.1", "2001:db8::/32", "192.0.2.1"]);
        assert_eq!(mistakes, Vec::<String>::new());
    }

    #[test]
    fn names_stand_beside_addresses() {
        let (entries, mistakes) = read("API.example.com. # one\n192.0.2.1\n*.example.net\n");
        assert_eq!(entries, ["192.0.2.1", "api.example.com", "*.example.net"]);
        assert_eq!(mistakes, Vec::<String>::new());
    }

    #[test]
    fn every_malformed_line_is_reported() {
        let (_, mistakes) = read(
            "10.0.0.1/8\n@other\n1.2.3.4 1.2.3.5\n  a.*.example.com\n1.2.3\n0.0.0.0/0\nany\nlocalhost\n",
        );
        assert_eq!(
            mistakes,
            [
                "1:1: 10.0.0.1/8 has bits set behind its length",
                "2:1: \"@other\" cannot stand in a list",
                "3:1: \"1.2.3.4 1.2.3.5\" is more than one entry",
                "4:3: \"a.*.example.com\": a star stands for whole labels, once, in front of at least two others",
                "5:1: \"1.2.3\" is no address, no prefix and no host name",
                "6:1: 0.0.0.0/0 is wider than /8 (IPv4) or /16 (IPv6)",
                "7:1: \"any\" cannot stand in a list",
                "8:1: \"localhost\" is this host and no provider",
            ]
        );
    }

    #[test]
    fn a_list_without_entries_is_an_error() {
        for text in ["", "\n", "# nothing\n"] {
            assert_eq!(read(text).1, ["1:1: this list has no entry"]);
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_placed() {
        let (_, found) = parse_list(Path::new("x.txt"), b"192.0.2.1\n  \xff\n");
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].line, found[0].column), (2, 3));
    }

    #[test]
    fn a_list_beyond_the_limit_is_refused_unread() {
        let (listed, found) = parse_list(Path::new("x.txt"), &vec![b'\n'; MAX_LIST + 1]);
        assert!(listed.prefixes.is_empty());
        assert_eq!(found[0].message, "this file is larger than 64 MiB");
    }

    #[test]
    fn so_many_mistakes_are_counted_not_shown() {
        let (_, found) = parse_list(Path::new("x.txt"), "x y\n".repeat(5_000).as_bytes());
        assert_eq!(found.len(), super::super::MAX_MISTAKES + 1);
    }
}
