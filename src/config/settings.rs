//! `picoseg.toml`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::reader::{self, MAX_TEXT, Table, Value};
use super::repair::repair;
use super::report::Report;
use super::service::MODES;
use super::source::too_large;
use super::time::Mistake;
use super::{Diagnostic, MAX_FILE, endpoint, nearest, policy};
use crate::model::{
    Approval, Attempts, Enforcement, Failsafe, Metrics, Notify, Paths, Port, Prefix, PrefixError, Protocol,
    Refusal, Settings,
};

pub(super) const KEYS: [&str; 7] =
    ["paths", "enforcement", "failsafe", "attempts", "approval", "metrics", "notify"];
pub(super) const PATHS_KEYS: [&str; 5] = ["services", "segments", "lists", "state", "runtime"];
pub(super) const ENFORCEMENT_KEYS: [&str; 7] =
    ["mode", "table", "priority", "egress_refusal", "ingress_refusal", "arm_ahead", "protect"];
pub(super) const FAILSAFE_KEYS: [&str; 2] = ["ports", "from"];
pub(super) const ATTEMPTS_KEYS: [&str; 3] = ["log_group", "log_rate", "retain"];
pub(super) const APPROVAL_KEYS: [&str; 3] = ["required", "allowed_signers", "roles"];
pub(super) const METRICS_KEYS: [&str; 1] = ["listen"];
pub(super) const NOTIFY_KEYS: [&str; 1] = ["command"];

const REFUSALS: [(&str, Refusal); 2] = [("reject", Refusal::Reject), ("drop", Refusal::Drop)];

/// The longest name of the table; other tools cut longer ones off in their listings.
const MAX_TABLE: usize = 31;

/// Beyond these, other hooks of the kernel (raw, security) would no longer keep their order.
const PRIORITIES: RangeInclusive<i32> = -400..=400;

/// The longest argument of a command.
const MAX_ARGUMENT: usize = 4096;

/// The largest number of records a second that a rule may ask for.
const MAX_LOG_RATE: u32 = 1_000_000;

/// Reads the settings; keys that are absent have their defaults. They are there when no diagnostic is an error.
pub fn parse_settings(path: &Path, text: &str) -> (Option<Settings>, Vec<Diagnostic>) {
    if text.len() > MAX_FILE {
        return (None, vec![too_large(path, MAX_FILE)]);
    }
    let repaired = repair(text);
    let report = Report::new(path, &repaired);
    let document = reader::parse(&report);
    let root = Table::root(&report, &document, &KEYS);
    let section = |name, title, keys: &[&str]| root.get(name).and_then(|value| value.table(title, keys));
    let settings = Settings {
        paths: section("paths", "[paths]", &PATHS_KEYS).map(paths).unwrap_or_default(),
        enforcement: section("enforcement", "[enforcement]", &ENFORCEMENT_KEYS)
            .map(enforcement)
            .unwrap_or_default(),
        failsafe: section("failsafe", "[failsafe]", &FAILSAFE_KEYS).map(failsafe).unwrap_or_default(),
        attempts: section("attempts", "[attempts]", &ATTEMPTS_KEYS).map(attempts).unwrap_or_default(),
        approval: section("approval", "[approval]", &APPROVAL_KEYS).map(approval).unwrap_or_default(),
        metrics: section("metrics", "[metrics]", &METRICS_KEYS).map(metrics).unwrap_or_default(),
        notify: section("notify", "[notify]", &NOTIFY_KEYS).map(notify).unwrap_or_default(),
    };
    let settings = report.is_clean().then_some(settings);
    (settings, report.finish())
}

fn paths(table: Table<'_>) -> Paths {
    let default = Paths::default();
    Paths {
        services: path(&table, "services", default.services),
        segments: path(&table, "segments", default.segments),
        lists: path(&table, "lists", default.lists),
        state: path(&table, "state", default.state),
        runtime: path(&table, "runtime", default.runtime),
    }
}

/// An absolute path: a daemon and a shell have different working directories.
fn path(table: &Table<'_>, key: &str, default: PathBuf) -> PathBuf {
    let read = |value: Value<'_>| {
        let text = value.text(4096)?;
        if text.starts_with('/') {
            return Some(PathBuf::from(text));
        }
        value.error(format!("{text:?} is no absolute path"), "begin it with /");
        None
    };
    table.get(key).and_then(read).unwrap_or(default)
}

fn enforcement(table: Table<'_>) -> Enforcement {
    let default = Enforcement::default();
    let word = |key, default| table.get(key).and_then(|value| value.word(&REFUSALS)).unwrap_or(default);
    let (low, high) = PRIORITIES.into_inner();
    Enforcement {
        mode: table.get("mode").and_then(|value| value.word(&MODES)).unwrap_or_default(),
        table: table.get("table").and_then(|value| value.read(table_name)).unwrap_or(default.table),
        priority: table
            .get("priority")
            .and_then(|value| value.integer(low, high))
            .unwrap_or(default.priority),
        egress_refusal: word("egress_refusal", default.egress_refusal),
        ingress_refusal: word("ingress_refusal", default.ingress_refusal),
        arm_ahead: duration(&table, "arm_ahead", default.arm_ahead),
        protect: table.get("protect").and_then(|value| value.boolean()).unwrap_or(default.protect),
    }
}

fn table_name(text: &str) -> Result<String, Mistake> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    let begins = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
    let fits = begins && text.len() <= MAX_TABLE && text.bytes().all(is_plain);
    fits.then(|| text.to_owned()).ok_or_else(|| {
        let help = format!("write a letter, then letters, digits, `_` or `-`, at most {MAX_TABLE} in all");
        Mistake::new(format!("{text:?} is no name of a table"), help)
    })
}

fn duration(table: &Table<'_>, key: &str, default: Duration) -> Duration {
    table.get(key).and_then(|value| value.duration()).unwrap_or(default)
}

fn failsafe(table: Table<'_>) -> Failsafe {
    let default = Failsafe::default();
    let ports = table.get("ports").and_then(|value| value.array("[\"22/tcp\"]"));
    let ports = ports.map(|entries| entries.iter().filter_map(failsafe_port).collect());
    let ports = ports.unwrap_or(default.ports);
    let from = failsafe_from(&table, ports.is_empty());
    Failsafe { ports, from: from.unwrap_or(default.from) }
}

fn failsafe_port(entry: &Value<'_>) -> Option<Port> {
    let port = policy::port(entry)?;
    match port.protocol {
        Protocol::Tcp | Protocol::Udp => Some(port),
        Protocol::Icmp => {
            entry.error(
                "the fail-safe has no icmp",
                "name the ports of a way to log in, for example \"22/tcp\"",
            );
            None
        }
    }
}

fn failsafe_from(table: &Table<'_>, is_off: bool) -> Option<Vec<Prefix>> {
    let value = table.get("from")?;
    let example = "[\"0.0.0.0/0\", \"::/0\"]";
    // Nobody needs a source when there is no port: `ports = []` says that no fail-safe is wanted.
    let entries = if is_off { value.array(example) } else { value.entries(example) };
    let read = entries?.iter().filter_map(|entry| entry.read(wide_prefix)).collect();
    Some(read)
}

fn wide_prefix(text: &str) -> Result<Prefix, Mistake> {
    Prefix::parse_any_width(text).map_err(|error| match error {
        PrefixError::HostBits { prefix, .. } => endpoint::host_bits(text, prefix),
        PrefixError::Syntax(_) | PrefixError::TooWide(_) => {
            let help = "write for example 192.0.2.0/24, or 0.0.0.0/0 and ::/0 for everywhere";
            Mistake::new(format!("{text:?} is neither an address nor a prefix"), help)
        }
    })
}

fn attempts(table: Table<'_>) -> Attempts {
    let default = Attempts::default();
    let group = table.get("log_group").and_then(|value| value.integer(1, 65_535));
    Attempts {
        log_group: group.and_then(|group| u16::try_from(group).ok()).unwrap_or(default.log_group),
        log_rate: table.get("log_rate").and_then(|value| value.read(log_rate)).unwrap_or(default.log_rate),
        retain: duration(&table, "retain", default.retain),
    }
}

fn log_rate(text: &str) -> Result<u32, Mistake> {
    let digits = text.strip_suffix("/second").unwrap_or_default();
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    let rate: Option<u32> = plain.then(|| digits.parse().ok()).flatten();
    rate.filter(|rate| (1..=MAX_LOG_RATE).contains(rate)).ok_or_else(|| {
        let help =
            format!("write a number from 1 to {MAX_LOG_RATE} and \"/second\", for example \"50/second\"");
        Mistake::new(format!("{text:?} is no rate"), help)
    })
}

fn approval(table: Table<'_>) -> Approval {
    let default = Approval::default();
    let roles = roles(&table);
    Approval {
        required: required_roles(&table, &roles),
        allowed_signers: path(&table, "allowed_signers", default.allowed_signers),
        roles,
    }
}

fn roles(table: &Table<'_>) -> BTreeMap<String, Vec<String>> {
    let Some(value) = table.get("roles") else {
        return BTreeMap::new();
    };
    let Some(roles) = value.open_table("[approval.roles]") else {
        return BTreeMap::new();
    };
    let principals = |value: Value<'_>| {
        let entries = value.entries("[\"dev@example.com\"]").unwrap_or_default();
        let names = entries.iter().filter_map(|entry| entry.text(MAX_TEXT)).collect();
        (value.name().to_owned(), names)
    };
    roles.iter().map(principals).collect()
}

/// The roles that must approve. One without principals could never do so, and nothing would ever open.
fn required_roles(table: &Table<'_>, roles: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let value = table.get("required");
    let entries = value.and_then(|value| value.array("[\"security\"]")).unwrap_or_default();
    let mut required = Vec::new();
    for entry in entries {
        let Some(role) = entry.text(MAX_TEXT) else {
            continue;
        };
        if !roles.contains_key(&role) {
            let known: Vec<&str> = roles.keys().map(String::as_str).collect();
            let help = format!("name its principals in [approval.roles]; {}", nearest::help(&role, &known));
            entry.warning(format!("nobody can approve as {role:?}: no such role has principals"), help);
        }
        required.push(role);
    }
    required
}

fn metrics(table: Table<'_>) -> Metrics {
    Metrics { listen: table.get("listen").and_then(|value| value.read(listen)).flatten() }
}

/// Empty: nothing is served.
fn listen(text: &str) -> Result<Option<SocketAddr>, Mistake> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        let help = "write for example \"127.0.0.1:9477\" or \"[::1]:9477\"";
        Mistake::new(format!("{text:?} is no address and port"), help)
    })
}

fn notify(table: Table<'_>) -> Notify {
    let value = table.get("command");
    let example = "[\"/usr/local/bin/tell\", \"security\"]";
    let entries = value.and_then(|value| value.array(example)).unwrap_or_default();
    let command: Vec<_> = entries.iter().filter_map(|entry| entry.text(MAX_ARGUMENT)).collect();
    if let (Some(program), Some(entry)) = (command.first(), entries.first())
        && !program.starts_with('/')
    {
        entry.error(format!("{program:?} is no absolute path"), "begin it with /; no shell looks for it");
    }
    Notify { command }
}
