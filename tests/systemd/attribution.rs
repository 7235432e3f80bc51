//! Under the shipped unit: who it was, fields in the journal, and the command that is told.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::agent::{AGENT, unit};
use crate::clock::{until, within};
use crate::machine::{MOMENT, Machine};
use crate::outside::{v4, v6};
use crate::schedule::{egress, file, schedule};

const DAEMON: &str = "picosegd.service";
const HEARD: &str = "/var/lib/picoseg/heard";

/// The events of the journal with this id.
fn events(machine: &Machine, id: &str) -> Vec<Value> {
    let id = format!("MESSAGE_ID={id}");
    let found = machine.run(&["journalctl", "--output=json", "--no-pager", &id]);
    found.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn the_journal_and_the_command_are_told_who_it_was() {
    let (pay, remotes) = (file("pay"), [v4(0), v6(0)]);
    let grants = schedule(&[egress("pay.service", &remotes, "443/tcp")]);
    let script =
        format!("#!/bin/sh\ncat >> {HEARD}\ngrep -E 'Cap(Prm|Eff)' /proc/self/status > {HEARD}.caps\n");
    let files = [
        ("/etc/systemd/system/else.service", &*unit("ask else", "")),
        (&*pay, &*grants),
        ("/etc/picoseg/picoseg.toml", "[notify]\ncommand = [\"/usr/local/bin/hear\"]\n"),
        ("/usr/local/bin/hear", &*script),
    ];
    let Some(machine) = Machine::boot(&files) else { return };
    fs::set_permissions(machine.path("/usr/local/bin/hear"), fs::Permissions::from_mode(0o755)).unwrap();
    machine.start("else.service");
    let other = machine.agent("else");
    let remote = SocketAddr::new(v4(0), 443);
    assert!(!other.talks_to(remote));
    let source = |reason: &str| {
        let events = events(&machine, "1cf2bacd93344ff5925fa450cf372d0c");
        events.into_iter().find(|event| event["REASON"] == reason)
    };
    let told = within(MOMENT, || source("undeclared")).expect("the journal has the source");
    let process = machine.property("else.service", "MainPID");
    for (field, value) in [
        ("PID", &*process),
        ("EXE", AGENT),
        ("SERVICE", "pay"),
        ("DIRECTION", "egress"),
        ("SUBJECT", "unit:else.service"),
        ("UID", "0"),
        ("REMOTE_PORT", "443"),
        ("_SYSTEMD_UNIT", DAEMON),
    ] {
        assert_eq!(told[field], value, "{field} in {told:#}");
    }
    machine.picoseg(&["decommission", "pay", "--reason", "over"]).ok();
    until("the entry is told", MOMENT, || {
        let entries = events(&machine, "a1d401ecc8264351b339831c9c08c351");
        entries.iter().any(|entry| entry["KIND"] == "service.decommissioned" && entry["SERVICE"] == "pay")
    });
    assert!(!other.talks_to(remote));
    let heard = || fs::read_to_string(machine.path(HEARD)).ok().filter(|text| text.ends_with('\n'));
    let heard =
        within(MOMENT * 2, heard).unwrap_or_else(|| panic!("nothing heard: {}", machine.journal(DAEMON)));
    let line: Value = serde_json::from_str(heard.lines().next().unwrap()).unwrap();
    assert_eq!(line["subject"], "unit:else.service", "{line:#}");
    assert_eq!((&line["reason"], &line["event"]), (&"expired".into(), &"new_source".into()));
    let caps = || fs::read_to_string(machine.path(&format!("{HEARD}.caps"))).ok();
    let caps = within(MOMENT, || caps().filter(|text| text.lines().count() == 2)).expect("it writes them");
    assert_eq!(caps.matches("0000000000000000").count(), 2, "{caps}");
    let journal = machine.journal(DAEMON);
    assert!(!journal.contains("WARN") && !journal.contains("ERROR"), "{journal}");
}
