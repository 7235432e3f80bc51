//! A segment file as a whole.

use std::path::Path;
use std::sync::Arc;

use super::list::{ByFunction, Lists};
use super::reader::{self, Keys, Misplaced, Table, later};
use super::remote::{self, Remote};
use super::repair::repair;
use super::report::Report;
use super::source::too_large;
use super::subject::{self, Use};
use super::{Diagnostic, MAX_FILE, policy, service};
use crate::model::{Allow, Direction, Endpoint, Mode, Segment, SegmentName};

const OF_SCHEDULES: &str = "this file describes a segment; schedules of services lie in services.d";

pub(super) const KEYS: Keys<'_> = Keys {
    valid: &["subject", "mode", "loopback", "dns", "allow"],
    misplaced: &[
        Misplaced::new("egress", Some("allow"), "write [[allow]] with direction = \"egress\""),
        Misplaced::new("ingress", Some("allow"), "write [[allow]] with direction = \"ingress\""),
        Misplaced::new("provider", None, OF_SCHEDULES),
        Misplaced::new("owner", None, OF_SCHEDULES),
        Misplaced::new("lifetime", None, OF_SCHEDULES),
        Misplaced::new("window", None, OF_SCHEDULES),
    ],
};

pub(super) const ALLOW_KEYS: Keys<'_> = Keys {
    valid: &["direction", "to", "from", "ports"],
    misplaced: &[
        Misplaced::new("subject", None, "remove it: the subject of the segment holds"),
        Misplaced::new(
            "windows",
            None,
            "remove it: what a segment allows has no end; what has one is a service",
        ),
        Misplaced::new("tls", None, "remove it: only the policies of services can insist on TLS"),
    ],
};

const DIRECTIONS: [(&str, Direction); 2] = [("egress", Direction::Egress), ("ingress", Direction::Ingress)];

/// Reads one segment. It is there when no diagnostic is an error. `lists` returns the text of a list by its name.
pub fn parse_segment(
    path: &Path,
    name: &SegmentName,
    text: &str,
    lists: &dyn Fn(&str) -> Option<Arc<str>>,
) -> (Option<Segment>, Vec<Diagnostic>) {
    if text.len() > MAX_FILE {
        return (None, vec![too_large(path, MAX_FILE)]);
    }
    let read = read(path, name, text, &ByFunction::new(lists));
    (read.segment, read.diagnostics)
}

/// A segment as far as it could be read.
pub(super) struct Read {
    pub segment: Option<Segment>,
    /// Line and column of the subject.
    pub subject: (usize, usize),
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads one segment with lists from wherever they are.
pub(super) fn read(path: &Path, name: &SegmentName, text: &str, lists: &dyn Lists) -> Read {
    let repaired = repair(text);
    let report = Report::new(path, &repaired);
    let entries = reader::parse(&report);
    let root = Table::root(&report, &entries, KEYS);
    let segment = read_root(&root, name, lists).filter(|_| report.is_clean());
    let subject = report.position(root.get("subject").map_or(0, |value| value.at().start));
    Read { segment, subject, diagnostics: report.finish() }
}

fn read_root(root: &Table<'_>, name: &SegmentName, lists: &dyn Lists) -> Option<Segment> {
    let subject = subject::read(root, Use::Segment);
    let mode = root.get("mode").map_or(Some(Mode::Enforce), |value| value.word(&service::MODES));
    let switch = |key| root.get(key).map_or(Some(true), |value| value.boolean());
    let (loopback, dns) = (switch("loopback"), switch("dns"));
    let allow = root.get("allow").map(|value| value.tables("[[allow]]", ALLOW_KEYS)).unwrap_or_default();
    let allow = allow.iter().filter_map(|table| read_allow(table, lists)).collect();
    Some(Segment {
        name: name.clone(),
        subject: subject?,
        mode: mode?,
        loopback: loopback?,
        dns: dns?,
        allow,
    })
}

fn read_allow(table: &Table<'_>, lists: &dyn Lists) -> Option<Allow> {
    let direction = read_direction(table);
    let ports = policy::ports(table);
    let remote = read_remote(table, direction, lists);
    let (direction, ports, remote) = (direction?, ports?, remote?);
    let any = remote.endpoints.contains(&Endpoint::Any);
    Some(Allow { direction, any, prefixes: remote.prefixes, names: remote.names, ports })
}

/// Reads `to` or `from`, whichever goes with the direction. Without a direction the one that is written is read for its
/// mistakes.
fn read_remote(table: &Table<'_>, direction: Option<Direction>, lists: &dyn Lists) -> Option<Remote> {
    let has = |direction| table.get(remote::key(direction));
    let Some(direction) = direction else {
        let guess = has(Direction::Ingress).map_or(Direction::Egress, |_| Direction::Ingress);
        return remote::read(table, guess, lists);
    };
    let opposite = match direction {
        Direction::Egress => Direction::Ingress,
        Direction::Ingress => Direction::Egress,
    };
    if let (Some(wrong), Some(word)) = (has(opposite), table.get("direction")) {
        let message = format!("`{}` does not go with direction = \"{direction}\"", wrong.name());
        let help = format!("write `{}`, or direction = \"{opposite}\"", remote::key(direction));
        table.report().error(later(wrong.key(), word.key()), message, help);
        has(direction)?;
    }
    remote::read(table, direction, lists)
}

fn read_direction(table: &Table<'_>) -> Option<Direction> {
    let help = match (table.get("to").is_some(), table.get("from").is_some()) {
        (true, false) => "write direction = \"egress\": the subject connects `to`",
        (false, true) => "write direction = \"ingress\": others connect `from`",
        (true, true) | (false, false) => "write direction = \"egress\" with `to`, or \"ingress\" with `from`",
    };
    table.required("direction", help)?.word(&DIRECTIONS)
}
