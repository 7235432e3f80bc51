//! Subjects that are units of a real systemd.

use std::net::{IpAddr, SocketAddr};

use crate::agent::unit;
use crate::clock::until;
use crate::machine::{MOMENT, Machine};
use crate::outside::{v4, v6};
use crate::schedule::{egress, file, schedule};

const REMOTES: [fn(u8) -> IpAddr; 2] = [v4, v6];

/// A machine with these units, each a process that can be asked under the same name, and one service for `subject`.
fn machine_with(units: &[(&str, &str)], subject: &str) -> Option<Machine> {
    let remotes = REMOTES.map(|family| family(0));
    let service = (file("provider"), schedule(&[egress(subject, &remotes, "443/tcp")]));
    let units = units.iter().map(|(name, more)| (path(name), unit(&format!("ask {}", role(name)), more)));
    let files: Vec<_> = units.chain([service]).collect();
    let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    Machine::boot(&files)
}

fn path(unit: &str) -> String {
    format!("/etc/systemd/system/{unit}")
}

/// Templates are told apart by what systemd puts for `%i`.
fn role(unit: &str) -> String {
    unit.replace("@.", "@%i.")
}

fn admitted(machine: &Machine, unit: &str) {
    for family in REMOTES {
        let remote = SocketAddr::new(family(0), 443);
        let agent = machine.agent(unit);
        until(&format!("{unit} is admitted to {remote}"), MOMENT, || agent.talks_to(remote));
    }
}

fn refused(machine: &Machine, unit: &str) {
    for family in REMOTES {
        let remote = SocketAddr::new(family(0), 443);
        assert!(!machine.agent(unit).talks_to(remote), "{unit} to {remote}");
    }
}

#[test]
fn a_unit_is_followed_through_restarts_and_its_neighbour_never_admitted() {
    let Some(machine) = machine_with(&[("pay.service", ""), ("else.service", "")], "pay.service") else {
        return;
    };
    let _echo = machine.outside().echo(443);
    machine.start("else.service");
    machine.start("pay.service");
    let cgroup =
        || machine.run(&["stat", "--format=%i", "/sys/fs/cgroup/system.slice/pay.service"]).ok().stdout;
    let mut before = String::new();
    for _ in 0..20 {
        assert_ne!(cgroup(), before, "systemd makes a new cgroup");
        before = cgroup();
        admitted(&machine, "pay.service");
        refused(&machine, "else.service");
        machine.restart("pay.service");
    }
    machine.stop("pay.service");
    refused(&machine, "else.service");
}

#[test]
fn a_template_means_its_instances_and_an_instance_only_itself() {
    let units = [("worker@.service", ""), ("keeper@.service", "")];
    let Some(machine) = machine_with(&units, "worker@.service") else { return };
    let _echo = machine.outside().echo(443);
    for instance in ["worker@one.service", "worker@two.service", "keeper@one.service"] {
        machine.start(instance);
    }
    // Instances have a slice of their own: one level deeper than other units.
    assert_eq!(
        machine.property("worker@one.service", "ControlGroup"),
        "/system.slice/system-worker.slice/worker@one.service"
    );
    admitted(&machine, "worker@one.service");
    admitted(&machine, "worker@two.service");
    refused(&machine, "keeper@one.service");
    machine.restart("worker@one.service");
    admitted(&machine, "worker@one.service");

    machine.put(&file("provider"), &schedule(&[egress("worker@two.service", &[v4(0), v6(0)], "443/tcp")]));
    machine.apply();
    refused(&machine, "worker@one.service");
    admitted(&machine, "worker@two.service");
}

#[test]
fn a_slice_means_everything_below_it() {
    let units = [
        ("near.service", "Slice=shop.slice"),
        ("far.service", "Slice=shop-front-desk.slice"),
        ("else.service", "Slice=shops.slice"),
    ];
    let Some(machine) = machine_with(&units, "shop.slice") else { return };
    let _echo = machine.outside().echo(443);
    for (unit, _) in units {
        machine.start(unit);
    }
    assert_eq!(
        machine.property("far.service", "ControlGroup"),
        "/shop.slice/shop-front.slice/shop-front-desk.slice/far.service"
    );
    admitted(&machine, "near.service");
    admitted(&machine, "far.service");
    refused(&machine, "else.service");
    // The slice goes with its last unit, and comes back as another one.
    machine.stop("near.service");
    machine.stop("far.service");
    machine.stop("shop.slice");
    refused(&machine, "else.service");
    machine.start("far.service");
    admitted(&machine, "far.service");
    refused(&machine, "else.service");
}

#[test]
fn a_unit_with_a_user_and_hardening_of_its_own_is_still_that_unit() {
    let more = "DynamicUser=yes\nPrivateTmp=yes\nProtectControlGroups=yes\nUMask=0000\nRuntimeDirectory=agents\nReadWritePaths=/run";
    let Some(machine) = machine_with(&[("pay.service", more), ("else.service", "")], "pay.service") else {
        return;
    };
    let _echo = machine.outside().echo(443);
    machine.run(&["chmod", "1777", "/run"]).ok();
    machine.start("pay.service");
    machine.start("else.service");
    admitted(&machine, "pay.service");
    refused(&machine, "else.service");
}
