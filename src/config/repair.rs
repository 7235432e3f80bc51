//! Finds out what is no TOML, and repairs it as far as needed to read the rest.
//!
//! The `toml` crate goes on after most syntax errors, but three of them hide everything behind them: a key without `=`
//! ends its document, an unclosed header swallows the keys below it, an unclosed bracket the rest of the file. One
//! mistake must not hide the others, so these lines are closed or emptied and the text is parsed once more. Every
//! repair is a reported mistake: a repaired text never becomes a service.

use std::borrow::Cow;

use toml::de::DeTable;

use super::lines::Lines;

/// Something that is no TOML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub line: usize,
    pub column: usize,
    pub message: String,
}

/// A text whose places are those of the original, up to what the faults of a line cut off.
pub(super) struct Repaired<'t> {
    pub text: Cow<'t, str>,
    pub faults: Vec<Fault>,
}

/// How often a text is repaired: each unclosed bracket takes one round.
const ROUNDS: usize = 16;

/// Repairs what would hide other mistakes. Faults that hide nothing are left to the parser.
pub(super) fn repair(text: &str) -> Repaired<'_> {
    let mut repaired = Repaired { text: Cow::Borrowed(text), faults: Vec::new() };
    for _ in 0..ROUNDS {
        let Some((text, faults)) = round(&repaired.text) else {
            break;
        };
        repaired.text = Cow::Owned(text);
        repaired.faults.extend(faults);
    }
    repaired
}

/// What is done about a fault.
enum Remedy {
    /// A key without a value says nothing.
    Empty,
    /// The header ends here.
    CloseHeader(&'static str),
    /// The bracket should have ended before this line.
    CloseBefore(&'static str),
}

/// One round of repairs; `None` when there is nothing to do.
fn round(text: &str) -> Option<(String, Vec<Fault>)> {
    let (_, mut errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return None;
    }
    // The parser finds structure first and values later; a repair takes the first in the file.
    errors.sort_by_key(|error| error.span().map_or(0, |span| span.start));
    let places = Lines::new(text);
    let mut lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
    let mut faults = Vec::new();
    for error in errors {
        let (line, column) = places.position(error.span().unwrap_or_default().start);
        let Some(remedy) = remedy(error.message(), lines.get(line - 1)?, column) else {
            continue;
        };
        let (fault, is_last) = apply(remedy, &mut lines, line, column, error.message());
        faults.extend(fault);
        if is_last {
            break;
        }
    }
    (!faults.is_empty()).then(|| (lines.join("\n"), faults))
}

fn remedy(message: &str, line: &str, column: usize) -> Option<Remedy> {
    if message.starts_with("key with no value") {
        return Some(Remedy::Empty);
    }
    if message.starts_with("unclosed table") {
        return Some(Remedy::CloseHeader("]"));
    }
    if message.starts_with("unclosed array table") {
        return Some(Remedy::CloseHeader("]]"));
    }
    let indent = line.chars().take_while(|c| c.is_whitespace()).count();
    let brackets = line.trim().chars().take_while(|c| *c == '[').count();
    let is_no_value = message.starts_with("string values must be quoted") || message.starts_with("invalid ");
    if is_no_value && column == indent + brackets + 1 && is_header(line) {
        // Behind a comma a header looks like one more array.
        return Some(Remedy::CloseBefore("]"));
    }
    if column != indent + 1 || !is_statement(line) {
        return None;
    }
    if message.starts_with("missing comma between array elements") {
        return Some(Remedy::CloseBefore("]"));
    }
    let in_inline_table = ["missing comma between key-value pairs", "missing key for inline table element"];
    let runs_away = in_inline_table.iter().any(|known| message.starts_with(known));
    runs_away.then_some(Remedy::CloseBefore("}"))
}

/// True for a line that begins a key or a table, which no array can hold.
fn is_statement(line: &str) -> bool {
    let rest = line.trim_start().trim_start_matches(is_key);
    is_header(line) || (rest.len() < line.trim_start().len() && rest.trim_start().starts_with('='))
}

/// True for `[a.b]` and `[[a]]`.
fn is_header(line: &str) -> bool {
    let line = code(line).trim_start();
    let word = line.trim_start_matches('[');
    let rest = word.trim_start_matches(is_key);
    let (opened, closed) = (line.len() - word.len(), rest.len());
    rest.len() < word.len() && matches!(opened, 1 | 2) && closed == opened && rest.bytes().all(|b| b == b']')
}

fn is_key(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '"' | '\'')
}

/// Changes the lines; true when the errors behind this one have lost their meaning.
fn apply(
    remedy: Remedy,
    lines: &mut [String],
    line: usize,
    column: usize,
    message: &str,
) -> (Option<Fault>, bool) {
    let fault = Fault { line, column, message: message.to_owned() };
    match remedy {
        Remedy::Empty => {
            lines.iter_mut().skip(line - 1).take(1).for_each(String::clear);
            (Some(fault), false)
        }
        Remedy::CloseHeader(bracket) => {
            for text in lines.iter_mut().skip(line - 1).take(1) {
                *text = text.chars().take(column - 1).chain(bracket.chars()).collect();
            }
            (Some(fault), false)
        }
        Remedy::CloseBefore(bracket) => (close_before(bracket, lines, line), true),
    }
}

/// Closes a bracket at the end of the last line with content before this one.
fn close_before(bracket: &'static str, lines: &mut [String], line: usize) -> Option<Fault> {
    let before = lines.get_mut(..line - 1)?;
    let (index, last) = before.iter_mut().enumerate().rev().find(|(_, text)| !code(text).is_empty())?;
    let kept = code(last).to_owned();
    let what = if bracket == "]" { "array" } else { "inline table" };
    let fault = Fault {
        line: index + 1,
        column: kept.chars().count() + 1,
        message: format!("unclosed {what}, expected `{bracket}`"),
    };
    *last = kept + bracket;
    Some(fault)
}

/// A line without its comment and what is blank at its end.
fn code(line: &str) -> &str {
    let mut quote = None;
    for (at, c) in line.char_indices() {
        match (quote, c) {
            (None, '#') => return line.get(..at).unwrap_or(line).trim_end(),
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (_, _) => {}
        }
    }
    line.trim_end()
}

/// What to do about a fault, by the words of the `toml` crate.
pub(super) fn help(message: &str) -> &'static str {
    const HELP: [(&str, &str); 11] = [
        ("invalid boolean", "write true or false, or put the value into quotes"),
        ("invalid float", "write a number, or put the value into quotes"),
        ("string values must be quoted", "put the value into quotes"),
        ("key with no value", "write key = value"),
        ("unclosed", "close it"),
        ("missing comma", "separate entries with commas"),
        ("invalid date", "look at a calendar"),
        ("invalid time", "hours go to 23, minutes to 59"),
        ("invalid basic string", "strings end on their own line, and \\ begins an escape"),
        ("invalid literal string", "strings end on their own line"),
        ("invalid comment character", "remove the control character"),
    ];
    let known = HELP.iter().find(|(begin, _)| message.starts_with(begin));
    known.map_or("this is no TOML: see https://toml.io", |(_, help)| help)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repaired(text: &str) -> (String, Vec<String>) {
        let Repaired { text, faults } = repair(text);
        let place = |one: &Fault| format!("{}:{}: {}", one.line, one.column, one.message);
        (text.into_owned(), faults.iter().map(place).collect())
    }

    #[test]
    fn what_hides_the_rest_is_closed_or_emptied() {
        for (broken, mended, fault) in [
            ("a\nb = 1", "\nb = 1", "1:2: key with no value, expected `=`"),
            ("[a # x\nb = 1", "[a]\nb = 1", "1:3: unclosed table, expected `]`"),
            ("[[a\nb = 1", "[[a]]\nb = 1", "1:4: unclosed array table, expected `]]`"),
            ("a = [1 # x\n\nb = 1", "a = [1]\n\nb = 1", "1:7: unclosed array, expected `]`"),
            ("a = [1,\n[b]\nc = 1", "a = [1,]\n[b]\nc = 1", "1:8: unclosed array, expected `]`"),
            ("a = [1,\n [[in]]", "a = [1,]\n [[in]]", "1:8: unclosed array, expected `]`"),
            ("a = {c = 1\n[b]", "a = {c = 1}\n[b]", "1:11: unclosed inline table, expected `}`"),
        ] {
            assert_eq!(repaired(broken), (mended.to_owned(), vec![fault.to_owned()]), "{broken}");
        }
    }

    #[test]
    fn what_hides_nothing_is_left_alone() {
        for text in ["a = 1\n[b]\nc = [\n 1,\n]", "a = [1 2]", "a = [\n1\n2\n]", "a = nope", "a = \"", ""] {
            assert_eq!(repaired(text), (text.to_owned(), Vec::new()));
        }
    }
}
