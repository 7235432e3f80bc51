//! `picosegd.service` as it is shipped: what its hardening leaves is enough.

use std::net::SocketAddr;

use crate::agent::unit;
use crate::clock::{until, within};
use crate::machine::{MOMENT, Machine, System, shipped_units};
use crate::outside::{v4, v6};
use crate::schedule::{egress, file, schedule};

const DAEMON: &str = "picosegd.service";

#[test]
fn the_daemon_is_in_force_when_the_system_is_up() {
    for suite in ["bookworm", "trixie"] {
        is_in_force_when_up(System { suite, variant: "base" });
    }
}

fn is_in_force_when_up(system: System) {
    let Some(machine) = Machine::boot_on(system, &[]) else { return };
    assert_eq!(machine.property(DAEMON, "ActiveState"), "active");
    let status = machine.status();
    for part in ["config", "store"] {
        assert_eq!(status[part]["ok"], true, "{status:#}");
    }
    assert!(machine.table().contains("hook output"));
    let failed = machine.systemctl(&["list-units", "--failed", "--plain", "--no-legend"]).ok();
    assert_eq!(failed.stdout, "");
}

/// By systemd's own judgement, on both releases.
#[test]
fn the_shipped_units_are_valid_and_hardened() {
    for suite in ["bookworm", "trixie"] {
        let Some(machine) = Machine::boot_on(System { suite, variant: "base" }, &[]) else { return };
        for unit in shipped_units() {
            let verified = machine.run(&["systemd-analyze", "verify", "--man=no", &unit]).ok();
            assert_eq!(verified.stderr, "", "{unit}");
            // Ten times what it prints: 0 is best, 100 worst.
            let at_most = if unit == DAEMON { "20" } else { "15" };
            let judge = ["systemd-analyze", "--no-pager", "security", "--threshold", at_most, &unit];
            let judged = machine.run(&judge).ok();
            println!("{suite}: {}", judged.stdout.lines().last().unwrap_or_default());
        }
    }
}

#[test]
fn no_promise_is_weaker_for_the_hardening() {
    let Some(machine) = Machine::boot(&[]) else { return };
    let hardened = machine.status();
    let bare = "[Service]\nType=notify\nExecStart=/usr/bin/picosegd\nStateDirectory=picoseg\nRuntimeDirectory=picoseg\n";
    machine.put("/etc/systemd/system/picosegd.service", bare);
    machine.systemctl(&["daemon-reload"]).ok();
    machine.restart(DAEMON);
    assert_eq!(machine.property(DAEMON, "NoNewPrivileges"), "no");
    let status = machine.status();
    assert_eq!(status["weaker"], hardened["weaker"]);
    assert_eq!(status["ruleset_digest"], hardened["ruleset_digest"]);
}

#[test]
fn under_its_unit_the_daemon_serves_metrics() {
    let settings = ("/etc/picoseg/picoseg.toml", "[metrics]\nlisten = \"127.0.0.1:9477\"\n");
    let Some(machine) = Machine::boot(&[settings]) else { return };
    let status = machine.status();
    assert!(!status["weaker"].to_string().contains("metrics"), "{status:#}");
    let ask = "exec 3<>/dev/tcp/127.0.0.1/9477 && printf 'GET /metrics HTTP/1.1\\r\\nhost: localhost\\r\\n\\r\\n' >&3 && cat <&3";
    let answer = machine.run(&["bash", "-c", ask]).ok().stdout;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\npicoseg_store_ok 1\n"), "{answer}");
}

#[test]
fn under_its_unit_the_daemon_can_do_all_that_it_does() {
    let (pay, remotes) = (file("pay"), [v4(0), v6(0)]);
    let grants = schedule(&[egress("pay.service", &remotes, "443/tcp")]);
    let units = [
        ("/etc/systemd/system/pay.service", &*unit("ask pay", "")),
        ("/etc/systemd/system/else.service", &unit("ask else", "")),
    ];
    let files = [units[0], units[1], (&*pay, &*grants)];
    let Some(machine) = Machine::boot(&files) else { return };
    let _echo = machine.outside().echo(443);
    machine.start("pay.service");
    machine.start("else.service");
    let (allowed, other) = (machine.agent("pay"), machine.agent("else"));
    for remote in remotes.map(|remote| SocketAddr::new(remote, 443)) {
        until("the unit is followed", MOMENT, || allowed.talks_to(remote));
        assert!(!other.talks_to(remote));
    }
    // Attempts: the kernel's log, and the store.
    let attempts = || machine.picoseg(&["attempts", "--json"]).ok().json();
    let seen = within(MOMENT, || (attempts()["attempts"].as_array()?.len() >= 2).then_some(()));
    assert!(seen.is_some(), "{:#}", attempts());
    // Teardown: sockets of other processes are destroyed, and looked for.
    assert!(allowed.holds(SocketAddr::new(v4(0), 443)));
    machine.picoseg(&["decommission", "pay", "--reason", "over"]).ok();
    assert!(allowed.lost(), "the connection is still there");
    assert!(!allowed.talks_to(SocketAddr::new(v4(0), 443)));
    // Sockets of its own, for the groups that may use them.
    let sockets = machine
        .run(&["stat", "--format=%G %a", "/run/picoseg/control.sock", "/run/picoseg/observe.sock"])
        .ok();
    assert_eq!(sockets.stdout, "picoseg-admin 660\npicoseg 660\n");
    let journal = machine.journal(DAEMON);
    assert!(!journal.contains("WARN") && !journal.contains("ERROR"), "{journal}");
}

#[test]
fn a_reload_puts_files_in_force_and_a_bad_one_changes_nothing() {
    let Some(machine) = Machine::boot(&[]) else { return };
    let open =
        |count: u64| until("services are in force", MOMENT, || machine.status()["services"]["open"] == count);
    open(0);
    machine.put(&file("pay"), &schedule(&[egress("pay.service", &[v4(0)], "443/tcp")]));
    machine.systemctl(&["reload", DAEMON]).ok();
    open(1);
    machine.put(&file("bad"), "provider = 1\n");
    machine.systemctl(&["reload", DAEMON]).exits(1);
    assert!(machine.journal(DAEMON).contains("bad.toml:1:"), "{}", machine.journal(DAEMON));
    assert_eq!(machine.status()["config"]["ok"], false);
    open(1);
    assert_eq!(machine.property(DAEMON, "NRestarts"), "0");
}

#[test]
fn a_stopped_daemon_leaves_the_table_and_the_next_one_takes_it_over() {
    let (pay, grants) = (file("pay"), schedule(&[egress("pay.service", &[v4(0)], "443/tcp")]));
    let agents = [("pay", unit("ask pay", "")), ("else", unit("ask else", ""))];
    let paths = agents.each_ref().map(|(name, _)| format!("/etc/systemd/system/{name}.service"));
    let files = [(&*paths[0], &*agents[0].1), (&paths[1], &agents[1].1), (&pay, &grants)];
    let Some(machine) = Machine::boot(&files) else { return };
    let (_echo, remote) = (machine.outside().echo(443), SocketAddr::new(v4(0), 443));
    machine.start("pay.service");
    machine.start("else.service");
    let (allowed, other) = (machine.agent("pay"), machine.agent("else"));
    until("the unit is followed", MOMENT, || allowed.talks_to(remote));

    machine.stop(DAEMON);
    assert!(allowed.talks_to(remote) && !other.talks_to(remote));
    assert!(machine.table().contains("hook output"));

    machine.start(DAEMON);
    assert!(allowed.talks_to(remote) && !other.talks_to(remote));
    assert_eq!(machine.status()["drift"]["count"], 0);

    machine.systemctl(&["kill", "--signal=KILL", DAEMON]).ok();
    assert!(allowed.talks_to(remote) && !other.talks_to(remote));
    until("systemd starts it again", MOMENT, || machine.property(DAEMON, "NRestarts") == "1");
    until("it answers again", MOMENT, || machine.picoseg(&["status"]).code == 0);
    assert!(allowed.talks_to(remote) && !other.talks_to(remote));
}

#[test]
fn a_bad_file_at_the_very_first_start_is_no_reason_to_try_for_ever() {
    let bad = file("bad");
    let Some(machine) = Machine::boot(&[(&bad, "provider = 1\n")]) else { return };
    assert_eq!(machine.property(DAEMON, "ActiveState"), "failed");
    assert_eq!(machine.property(DAEMON, "ExecMainStatus"), "78");
    assert_eq!(machine.property(DAEMON, "NRestarts"), "0");
}
