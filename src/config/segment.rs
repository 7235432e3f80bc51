//! A segment file as a whole.

use std::path::Path;
use std::sync::Arc;

use super::list::{ByFunction, Lists};
use super::reader::{self, Table};
use super::repair::repair;
use super::report::Report;
use super::source::too_large;
use super::{Diagnostic, MAX_FILE, policy, remote, service, subject};
use crate::model::{Allow, Direction, Endpoint, Mode, Segment, SegmentName};

const KEYS: [&str; 5] = ["subject", "mode", "loopback", "dns", "allow"];
const ALLOW_KEYS: [&str; 4] = ["direction", "to", "from", "ports"];
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
    read(path, name, text, &ByFunction::new(lists))
}

/// Reads one segment with lists from wherever they are.
pub(super) fn read(
    path: &Path,
    name: &SegmentName,
    text: &str,
    lists: &dyn Lists,
) -> (Option<Segment>, Vec<Diagnostic>) {
    let repaired = repair(text);
    let report = Report::new(path, &repaired);
    let segment = read_text(&report, name, lists).filter(|_| report.is_clean());
    (segment, report.finish())
}

fn read_text(report: &Report<'_>, name: &SegmentName, lists: &dyn Lists) -> Option<Segment> {
    let entries = reader::parse(report);
    let root = Table::root(report, &entries, &KEYS);
    let subject = subject::read(&root);
    let mode = root.get("mode").map_or(Some(Mode::Enforce), |value| value.word(&service::MODES));
    let switch = |key| root.get(key).map_or(Some(true), |value| value.boolean());
    let (loopback, dns) = (switch("loopback"), switch("dns"));
    let allow = root.get("allow").map(|value| value.tables("[[allow]]", &ALLOW_KEYS)).unwrap_or_default();
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
    let help = "write direction = \"egress\" or \"ingress\"";
    let direction = table.required("direction", help).and_then(|value| value.word(&DIRECTIONS));
    let remote = remote::read(table, direction.unwrap_or(Direction::Egress), lists);
    let ports = policy::ports(table);
    let remote = remote?;
    Some(Allow {
        direction: direction?,
        any: remote.endpoints.contains(&Endpoint::Any),
        prefixes: remote.prefixes,
        names: remote.names,
        ports: ports?,
    })
}
