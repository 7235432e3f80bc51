//! What an entry tells, in a few words.

use serde_json::Value;

use crate::api::body::LedgerEntry;

/// The longest text; the rest is in `--json`.
const WIDTH: usize = 120;

/// The detail of an entry in words. Foreign text in it is as it is: whoever prints it makes it harmless.
pub fn of(entry: &LedgerEntry) -> String {
    let detail = &entry.detail;
    let mut parts = match entry.kind.as_str() {
        "config.applied" | "daemon.started" => files(detail),
        "teardown.completed" => teardown(detail),
        _ => plain(detail),
    };
    parts.extend(text(detail, "recorded_at").map(|at| format!("recorded later, at {at}")));
    let all = parts.join("; ");
    match all.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}...", &all[..end]),
        None => all,
    }
}

fn plain(detail: &Value) -> Vec<String> {
    let known = [("reason", ""), ("cause", "cause: "), ("closes_at", "until "), ("error", "")];
    let mut parts: Vec<_> =
        known.iter().filter_map(|(key, word)| Some(format!("{word}{}", text(detail, key)?))).collect();
    let told =
        ["reason", "cause", "closes_at", "error", "state", "recorded", "recorded_at", "ruleset_digest"];
    let rest = detail.as_object().into_iter().flatten();
    let rest = rest.filter(|(key, value)| !told.contains(&key.as_str()) && !value.is_null());
    parts.extend(rest.map(|(key, value)| match value {
        Value::String(text) => format!("{key}: {text}"),
        other => format!("{key}: {other}"),
    }));
    parts
}

fn files(detail: &Value) -> Vec<String> {
    let mut parts = Vec::new();
    parts.extend(detail.get("services").and_then(Value::as_u64).map(|count| format!("services: {count}")));
    for key in ["added", "changed", "removed", "states", "segments"] {
        let items = detail.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let names: Vec<_> = items.iter().filter_map(|item| text(item, "name")).collect();
        parts.extend((!names.is_empty()).then(|| format!("{key}: {}", names.join(", "))));
    }
    if let (Some(part), Some(parts_of)) = (number(detail, "part"), number(detail, "parts").filter(|n| *n > 1))
    {
        parts.push(format!("part {part} of {parts_of}"));
    }
    parts.extend(text(detail, "config_error").map(|error| format!("config: {error}")));
    parts
}

fn teardown(detail: &Value) -> Vec<String> {
    let residue = detail.get("residue").and_then(Value::as_array).map_or(0, Vec::len);
    let counts = [("sockets_closed", "sockets closed"), ("flows_removed", "flows removed")];
    let mut parts: Vec<_> =
        counts.iter().filter_map(|(key, word)| Some(format!("{word}: {}", number(detail, key)?))).collect();
    parts.push(if residue == 0 { "nothing left".to_owned() } else { format!("left: {residue}") });
    parts
}

fn text<'v>(detail: &'v Value, key: &str) -> Option<&'v str> {
    detail.get(key).and_then(Value::as_str)
}

fn number(detail: &Value, key: &str) -> Option<u64> {
    detail.get(key).and_then(Value::as_u64)
}
