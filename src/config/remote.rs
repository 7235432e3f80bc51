//! The remote side of a policy or of an `[[allow]]`: `to` and `from`.

use std::collections::BTreeSet;
use std::ops::Range;

use super::endpoint::{self, Entry};
use super::list::{Found, Listed, Lists};
use super::nearest;
use super::reader::{Table, Value, later};
use crate::model::{Direction, Endpoint, HostName, ListName, Prefix};

/// The remote side as written.
pub(super) struct Remote {
    /// Where the array stands.
    pub at: Range<usize>,
    /// In file order.
    pub endpoints: Vec<Endpoint>,
    /// Lists expanded, sorted, without repeats.
    pub prefixes: Vec<Prefix>,
    /// Likewise.
    pub names: Vec<HostName>,
}

/// The key of the remote side.
pub(super) fn key(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "to",
        Direction::Ingress => "from",
    }
}

/// Reads `to` or `from`.
pub(super) fn read(table: &Table<'_>, direction: Direction, lists: &dyn Lists) -> Option<Remote> {
    let key = key(direction);
    let example = "[\"198.51.100.0/24\", \"api.example.com\", \"@list\"]";
    let value = table.required(key, &format!("say which addresses: {key} = {example}"))?;
    if let Some(text) = value.as_string() {
        return value.wrong_type("an array", &format!("write {key} = [{text:?}]"));
    }
    let entries = value.entries(example)?;
    let mut endpoints = Vec::new();
    let (mut prefixes, mut names) = (BTreeSet::new(), BTreeSet::new());
    for entry in &entries {
        if table.report().is_full() {
            return None;
        }
        let Some((endpoint, listed)) = read_entry(entry, direction, lists) else { continue };
        endpoints.push(endpoint);
        prefixes.extend(listed.prefixes.iter().copied());
        names.extend(listed.names.iter().cloned());
    }
    check_any(&entries);
    let (prefixes, names) = (prefixes.into_iter().collect(), names.into_iter().collect());
    Some(Remote { at: value.at().clone(), endpoints, prefixes, names })
}

/// One entry and what it stands for.
fn read_entry(entry: &Value<'_>, direction: Direction, lists: &dyn Lists) -> Option<(Endpoint, Listed)> {
    let text = entry.string()?;
    if let Some(name) = text.strip_prefix('@') {
        return read_list(entry, name, direction, lists);
    }
    let read = endpoint::parse(text).map_err(|mistake| match is_list(text, lists) {
        true => {
            let message = format!("{text:?} is no endpoint, but a list has that name");
            entry.error(message, format!("did you mean \"@{text}\"?"));
        }
        false => entry.error(mistake.message, mistake.help),
    });
    Some(match read.ok()? {
        Entry::Any => (Endpoint::Any, Listed::default()),
        Entry::Prefix(prefix) => (Endpoint::Prefix(prefix), Listed::of_prefix(prefix)),
        Entry::Name(name) => {
            check_pattern(entry, &name, direction, None);
            (Endpoint::Name(name.clone()), Listed::of_name(name))
        }
    })
}

fn is_list(text: &str, lists: &dyn Lists) -> bool {
    lists.names().contains(&text)
}

fn read_list(
    entry: &Value<'_>,
    written: &str,
    direction: Direction,
    lists: &dyn Lists,
) -> Option<(Endpoint, Listed)> {
    let Some(name) = ListName::new(written) else {
        let help = "write \"@\" and the name of a file of the lists directory without its .txt";
        entry.error(format!("{written:?} is no name of a list"), help);
        return None;
    };
    match lists.look_up(name.as_str()) {
        Found::Entries(listed) => {
            if let Some(pattern) = listed.names.iter().find(|name| name.is_pattern()) {
                check_pattern(entry, pattern, direction, Some(written));
            }
            Some((Endpoint::List(name), listed))
        }
        Found::Broken(reason) => {
            if let Some(reason) = reason {
                entry.error(format!("the list {written:?} has a mistake in {reason}"), "correct the list");
            }
            None
        }
        Found::Missing => {
            let known = lists.names();
            let help = match known.is_empty() {
                true => format!("put its addresses into {written}.txt in the lists directory"),
                false => nearest::help(written, &known),
            };
            entry.error(format!("there is no list {written:?}"), help);
            None
        }
    }
}

/// A pattern is filled with the answers that the local process asks for; nobody asks for who connects to it.
fn check_pattern(entry: &Value<'_>, name: &HostName, direction: Direction, list: Option<&str>) {
    if direction == Direction::Egress || !name.is_pattern() {
        return;
    }
    let of_list = list.map(|list| format!(" of the list {list:?}")).unwrap_or_default();
    let message = format!(
        "\"{name}\"{of_list} cannot stand in `from`: a pattern is learned from what the local process asks the \
         resolver, and it does not ask for who connects"
    );
    entry.error(message, "name each host, or list the provider's prefixes");
}

/// `"any"` stands alone: beside it no other entry means anything.
fn check_any(entries: &[Value<'_>]) {
    let is_any = |entry: &&Value<'_>| entry.as_string() == Some(endpoint::ANY);
    let Some(any) = entries.iter().find(is_any) else { return };
    let Some(other) = entries.iter().find(|entry| entry.at() != any.at()) else { return };
    let help = "keep \"any\" alone, which is every address, or list the others without it";
    any.report().error(later(any.at(), other.at()), "\"any\" stands beside other entries", help);
}
