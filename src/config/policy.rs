//! `[[egress]]` and `[[ingress]]`.

use std::collections::BTreeSet;
use std::ops::Range;

use super::list::Lists;
use super::reader::{Keys, Misplaced, Table, Value, later};
use super::remote::{self, Remote};
use super::subject::Use;
use super::time::Mistake;
use super::window::Windows;
use super::{nearest, subject};
use crate::model::{Direction, Policy, PolicyId, Port, PortError, Prefix, Protocol, ServiceName, Settings};

pub(super) const EGRESS_KEYS: Keys<'_> = Keys {
    valid: &["subject", "to", "ports", "tls", "windows"],
    misplaced: &[Misplaced::new(
        "from",
        Some("to"),
        "the local process connects to the provider: write `to`",
    )],
};

pub(super) const INGRESS_KEYS: Keys<'_> = Keys {
    valid: &["subject", "from", "ports", "windows"],
    misplaced: &[
        Misplaced::new("to", Some("from"), "the provider connects to the local process: write `from`"),
        Misplaced::new(
            "tls",
            None,
            "remove it: only what the local process sends is judged, and here the provider is the client; the listener \
             itself has to insist on TLS",
        ),
    ],
};

/// What policies refer to.
pub(super) struct Context<'c> {
    pub service: &'c ServiceName,
    pub windows: &'c Windows,
    pub lists: &'c dyn Lists,
    /// `None` while the settings are broken: then nothing is said about the fail-safe.
    pub settings: Option<&'c Settings>,
}

/// A policy and where its endpoints are written.
pub(super) struct Placed {
    pub policy: Policy,
    pub endpoints: Range<usize>,
}

/// Reads every policy, egress first; reports when there is none.
pub(super) fn policies(root: &Table<'_>, context: &Context<'_>) -> Vec<Placed> {
    let egress = root.get("egress").map(|value| value.tables("[[egress]]", EGRESS_KEYS));
    let ingress = root.get("ingress").map(|value| value.tables("[[ingress]]", INGRESS_KEYS));
    if egress.is_none() && ingress.is_none() {
        let help = "write at least one [[egress]] or [[ingress]]: a schedule says who may exchange packets";
        root.missing(&["egress", "ingress"], "the schedule has no policy".to_owned(), help);
    }
    let egress = read_all(egress.unwrap_or_default(), Direction::Egress, context);
    let ingress = read_all(ingress.unwrap_or_default(), Direction::Ingress, context);
    egress.into_iter().chain(ingress).collect()
}

fn read_all(tables: Vec<Table<'_>>, direction: Direction, context: &Context<'_>) -> Vec<Placed> {
    let numbered = tables.iter().enumerate();
    numbered.filter_map(|(index, table)| read(table, direction, index, context)).collect()
}

fn read(table: &Table<'_>, direction: Direction, index: usize, context: &Context<'_>) -> Option<Placed> {
    let subject = subject::read(table, Use::Policy(direction));
    let remote = remote::read(table, direction, context.lists);
    let ports = ports(table);
    let tls = tls(table, ports.as_deref().unwrap_or_default());
    let windows = windows(table, context.windows);
    let Remote { at, endpoints, prefixes, names } = remote?;
    let id = PolicyId { service: context.service.clone(), direction, index };
    let (subject, ports, windows) = (subject?, ports?, windows?);
    let policy = Policy { id, subject, endpoints, prefixes, names, tls, ports, windows };
    warn_about_failsafe(table, &policy, context.settings);
    Some(Placed { policy, endpoints: at })
}

/// True for `tls = "required"`.
fn tls(table: &Table<'_>, ports: &[Port]) -> bool {
    let Some(value) = table.get("tls") else { return false };
    let help = "write tls = \"required\", or leave the key out";
    let Some(text) = value.as_string() else {
        value.wrong_type::<()>("a string", help);
        return false;
    };
    if text != "required" {
        value.error(format!("{text:?} is no value of `tls`"), help);
    }
    let others: Vec<String> =
        ports.iter().filter(|port| port.protocol != Protocol::Tcp).map(ToString::to_string).collect();
    if let (false, Some(ports)) = (others.is_empty(), table.get("ports")) {
        let are = if others.len() == 1 { "is" } else { "are" };
        let others = others.join(", ");
        let message = format!("tls = \"required\" is for tcp, and {others} {are} not");
        let help = format!("split the policy: one with `tls` for the tcp ports, one without for {others}");
        table.report().error(later(value.at(), ports.at()), message, help);
    }
    true
}

pub(super) fn ports(table: &Table<'_>) -> Option<Vec<Port>> {
    let example = "[\"443/tcp\"]";
    let value = table.required("ports", &format!("say which ports: ports = {example}"))?;
    if let Some(text) = value.as_string() {
        return value.wrong_type("an array", &format!("write ports = [{text:?}]"));
    }
    let mut ports = Vec::new();
    for entry in value.entries(example)? {
        let port = port(&entry);
        ports.extend(port.filter(|port| !ports.contains(port)));
    }
    Some(ports)
}

/// Reads one entry of `ports`.
pub(super) fn port(entry: &Value<'_>) -> Option<Port> {
    if let Some(digits) = entry.as_digits() {
        return entry.wrong_type("a string", &port_help(digits));
    }
    entry.read(|text| {
        Port::parse(text).map_err(|error| match error {
            PortError::Zero => {
                Mistake::new("port 0 cannot be used", "ports go from 1 to 65535; */tcp is every port")
            }
            PortError::Reversed { low, high } => {
                let protocol = text.rsplit('/').next().unwrap_or_default();
                let message = format!("the range {low}-{high} is reversed");
                Mistake::new(message, format!("write \"{high}-{low}/{protocol}\""))
            }
            PortError::Syntax(_) => Mistake::new(format!("{text:?} is no port"), port_help(text)),
        })
    })
}

fn port_help(text: &str) -> String {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let guesses = [
        text.trim().to_lowercase().replace(' ', ""),
        format!("{ports}/{protocol}"),
        format!("{protocol}/{ports}"),
        ports.to_lowercase(),
    ];
    match guesses.iter().find(|guess| Port::parse(guess).is_ok()) {
        Some(guess) => format!("did you mean {guess:?}?"),
        None => "write \"443/tcp\", \"8000-8100/udp\", \"*/tcp\" or \"icmp\"; ports go to 65535".to_owned(),
    }
}

/// The windows that the policy names: `Some(None)` when it names none and means all.
fn windows(table: &Table<'_>, known: &Windows) -> Option<Option<Vec<usize>>> {
    let Some(value) = table.get("windows") else {
        return Some(None);
    };
    let mut indices = BTreeSet::new();
    for entry in value.entries("[\"office\"]")? {
        if table.report().is_full() {
            return None;
        }
        let Some(name) = entry.string() else { continue };
        match known.index(name) {
            Some(index) => {
                indices.insert(index);
            }
            None => report_unknown_window(&entry, name, known),
        }
    }
    Some(Some(indices.into_iter().collect()))
}

fn report_unknown_window(entry: &Value<'_>, name: &str, known: &Windows) {
    let names = known.names();
    let help = match names.is_empty() {
        true => "no window of this file has a name".to_owned(),
        false => nearest::help(name, &names),
    };
    entry.error(format!("there is no window {name:?}"), help);
}

/// The fail-safe does not hold for addresses that a service lists for that very port: whoever puts SSH on a timetable
/// shuts these addresses out, which may be their own.
fn warn_about_failsafe(table: &Table<'_>, policy: &Policy, settings: Option<&Settings>) {
    let (Direction::Ingress, Some(settings)) = (policy.id.direction, settings) else {
        return;
    };
    let failsafe = &settings.failsafe;
    let is_from = |prefix: &Prefix| failsafe.from.iter().any(|from| overlap(*from, *prefix));
    let covered = failsafe.ports.iter().filter(|safe| policy.ports.iter().any(|port| share(**safe, *port)));
    let covered: Vec<String> = covered.map(ToString::to_string).collect();
    // What a name will resolve to is not known here.
    let meets =
        policy.prefixes.iter().any(is_from) || (!policy.names.is_empty() && !failsafe.from.is_empty());
    if covered.is_empty() || !meets {
        return;
    }
    if let Some(value) = table.get("ports") {
        let message = format!(
            "the fail-safe of {} does not hold for the addresses of this policy: for them the schedule rules",
            covered.join(", ")
        );
        value.warning(message, "keep another way to this host for the time when no window is open");
    }
}

/// True when two entries of `ports` have a port in common.
pub(super) fn share(a: Port, b: Port) -> bool {
    a.protocol == b.protocol && a.range.low() <= b.range.high() && b.range.low() <= a.range.high()
}

fn overlap(a: Prefix, b: Prefix) -> bool {
    a.family() == b.family() && a.first() <= b.last() && b.first() <= a.last()
}
