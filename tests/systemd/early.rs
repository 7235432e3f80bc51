//! `picoseg-early.service`: what is in the kernel when the network comes up, before there is a daemon.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use serde_json::Value;

use crate::machine::{Machine, System};
use crate::outside::v4;
use crate::schedule::{egress, file, schedule};

const EARLY: &str = "picoseg-early.service";
const TRIXIE: System = System { suite: "trixie", variant: "base" };
const BOOKWORM: System = System { suite: "bookworm", variant: "base" };

/// Looks and knocks when the network may come up: the table, and whether each provider answers.
fn probe() -> [(&'static str, String); 2] {
    let knock = |number| {
        format!("timeout 2 bash -c 'exec 3<>/dev/tcp/{}/443'; echo $? >/run/probe.{number}\n", v4(number))
    };
    let script =
        format!("#!/bin/bash\nnft list table inet picoseg >/run/probe.table\n{}{}", knock(0), knock(1));
    let unit = "[Unit]\nDefaultDependencies=no\nAfter=network-pre.target\nBefore=picosegd.service\n\
                [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=bash /usr/lib/probe\n";
    [("/usr/lib/probe", script), ("/usr/lib/systemd/system/probe.service", unit.to_owned())]
}

/// A provider for one unit, and one for every process: the first has no subject so early, the second has one.
fn booted(system: System) -> Option<Machine> {
    let [script, unit] = probe();
    let everybody = egress("x", &[v4(1)], "443/tcp").replace("unit = \"x\"", "cgroup = \"/\"");
    let (pay, open) = (schedule(&[egress("pay.service", &[v4(0)], "443/tcp")]), schedule(&[everybody]));
    Machine::boot_on(
        system,
        &[
            (script.0, &script.1),
            (unit.0, &unit.1),
            ("/etc/systemd/system/sysinit.target.d/probe.conf", "[Unit]\nWants=probe.service\n"),
            (&file("pay"), &pay),
            (&file("everybody"), &open),
        ],
    )
}

/// What the probe saw: the table, and for each provider whether it answered.
fn seen(machine: &Machine) -> (String, [bool; 2]) {
    let read = |name| fs::read_to_string(machine.path(&format!("/run/probe.{name}"))).expect("the probe ran");
    (read("table"), ["0", "1"].map(|number| read(number).trim() == "0"))
}

fn attempts(machine: &Machine, remote: IpAddr) -> u64 {
    let listed = machine.picoseg(&["attempts", "--service", "pay", "--json"]).ok().json();
    let rows = listed["attempts"].as_array().expect("rows").iter();
    rows.filter(|row| row["remote"] == remote.to_string()).filter_map(|row| row["count"].as_u64()).sum()
}

#[test]
fn what_was_in_force_last_is_in_force_before_the_network() {
    for system in [BOOKWORM, TRIXIE] {
        let Some(mut machine) = booted(system) else { return };
        let _echo = machine.outside().echo(443);
        let digest = machine.status()["ruleset_digest"].clone();
        assert!(digest.is_string());
        let counted = attempts(&machine, v4(0));
        assert_eq!(counted, 0, "nothing was in force for the probe to meet");

        machine.reboot(|_| {});
        assert_eq!(machine.property(EARLY, "ActiveState"), "active", "{}", machine.journal(EARLY));
        let (table, answered) = seen(&machine);
        assert!(table.contains("comment \"pay\"") && table.contains("hook output"), "{table}");
        assert_eq!(answered, [false, true], "the unit's provider, everybody's");
        // The daemon takes the table over with what it has counted.
        assert_eq!(machine.status()["ruleset_digest"], digest);
        crate::clock::until("the probe's attempt is on record", crate::machine::MOMENT, || {
            attempts(&machine, v4(0)) > 0
        });
        assert_eq!(attempts(&machine, v4(0)), 1);
        assert_eq!(machine.status()["drift"]["count"], 0);
        let verified: Value = machine.picoseg(&["audit", "verify", "--json"]).ok().json();
        assert_eq!(verified["ok"], true);
    }
}

#[test]
fn without_what_was_in_force_every_window_is_closed_before_the_network() {
    let Some(mut machine) = booted(TRIXIE) else { return };
    let _echo = machine.outside().echo(443);
    let forget = |root: &Path| fs::remove_dir_all(root.join("var/lib/picoseg")).expect("it ran before");
    machine.reboot(forget);
    let (table, answered) = seen(&machine);
    assert!(table.contains("everybody"), "{table}");
    assert_eq!(answered, [false, false]);
    // The daemon opens them.
    assert_eq!(machine.status()["services"]["open"], 2);
    assert!(machine.run(&["bash", "-c", &format!("exec 3<>/dev/tcp/{}/443", v4(1))]).code == 0);
}

#[test]
fn a_damaged_store_closes_every_window_before_the_network() {
    let Some(mut machine) = booted(TRIXIE) else { return };
    let _echo = machine.outside().echo(443);
    machine.reboot(|root| {
        let database = root.join("var/lib/picoseg/picoseg.db");
        fs::write(&database, "no database").expect("it ran before");
    });
    let (_, answered) = seen(&machine);
    assert_eq!(answered, [false, false]);
    assert!(machine.journal(EARLY).contains("every window stays closed"), "{}", machine.journal(EARLY));
}

#[test]
fn where_nothing_can_be_read_the_journal_says_so() {
    let Some(mut machine) = booted(TRIXIE) else { return };
    machine.reboot(|root| {
        fs::remove_dir_all(root.join("var/lib/picoseg")).expect("it ran before");
        fs::write(root.join("etc/picoseg/services.d/pay.toml"), "provider = 1\n").expect("a tree of ours");
    });
    let (table, _) = seen(&machine);
    assert_eq!(table, "");
    assert_eq!(machine.property(EARLY, "ExecMainStatus"), "78");
    assert!(machine.journal(EARLY).contains("pay.toml:1:"), "{}", machine.journal(EARLY));
}

#[test]
fn a_table_that_is_there_stays() {
    let Some(machine) = booted(TRIXIE) else { return };
    machine.restart(EARLY);
    assert!(machine.journal(EARLY).contains("it stays"), "{}", machine.journal(EARLY));
    machine.stop("picosegd.service");
    // With the kernel's numbers: another table would have others.
    let chain = || machine.run(&["nft", "-a", "list", "chain", "inet", "picoseg", "output"]).ok().stdout;
    let before = chain();
    machine.restart(EARLY);
    assert_eq!(chain(), before);
}
