//! Schedules as text, the way an operator writes them.

use std::fmt::Display;
use std::fmt::Write as _;

const ALWAYS: (&str, &str) = ("2020-01-01T00:00:00Z", "2099-01-01T00:00:00Z");

/// Where a schedule is.
pub fn file(name: &str) -> String {
    format!("/etc/picoseg/services.d/{name}.toml")
}

/// A whole file: `tables` are windows and policies.
pub fn schedule(tables: &[String]) -> String {
    let (from, until) = ALWAYS;
    format!(
        "provider = \"Example Provider Ltd\"\nowner = \"owner@example.com\"\n[lifetime]\ncommission = {from}\ndecommission = \
         {until}\n{}",
        tables.concat()
    )
}

/// No window is open, nor will one be.
pub fn closed() -> String {
    let times = "open = 2021-01-01T00:00:00Z\nclose = 2021-01-02T00:00:00Z";
    format!("[[window]]\n{times}\n")
}

/// The unit connects to addresses outside.
pub fn egress(unit: &str, to: &[impl Display], port: &str) -> String {
    policy("egress", unit, "to", to, port)
}

/// Addresses outside connect to the unit.
pub fn ingress(unit: &str, from: &[impl Display], port: &str) -> String {
    policy("ingress", unit, "from", from, port)
}

fn policy(direction: &str, unit: &str, side: &str, remotes: &[impl Display], port: &str) -> String {
    let mut list = String::new();
    for remote in remotes {
        write!(list, "\"{remote}\", ").expect("to a string");
    }
    format!("[[{direction}]]\nsubject = {{ unit = \"{unit}\" }}\n{side} = [{list}]\nports = [\"{port}\"]\n")
}
