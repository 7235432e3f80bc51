//! Subjects that are programs, with `picoseg-exec.service` as it is shipped.

use std::net::SocketAddr;

use crate::agent::{AGENT, unit};
use crate::clock::until;
use crate::machine::{MOMENT, Machine};
use crate::outside::{v4, v6};
use crate::schedule::{egress, file, schedule};

const HELPER: &str = "picoseg-exec.service";
const TALKER: &str = "/usr/local/bin/talker";

fn machine() -> Option<Machine> {
    let talker = unit("ask talker", "").replace(AGENT, TALKER);
    let other = unit("ask else", "");
    let grants = schedule(&[egress("talker.service", &[v4(0), v6(0)], "443/tcp")])
        .replace("unit = \"talker.service\"", &format!("exe = \"{TALKER}\""));
    let provider = file("provider");
    let units =
        [("/etc/systemd/system/talker.service", &*talker), ("/etc/systemd/system/else.service", &other)];
    let machine = Machine::boot(&[units[0], units[1], (&provider, &grants)])?;
    machine.copy_agent(TALKER);
    Some(machine)
}

fn talks(machine: &Machine, agent: &str) -> [bool; 2] {
    [v4(0), v6(0)].map(|remote| machine.agent(agent).talks_to(SocketAddr::new(remote, 443)))
}

#[test]
fn a_program_is_known_from_its_first_socket_on_and_its_unit_stays_whole() {
    let Some(machine) = machine() else { return };
    let _echo = machine.outside().echo(443);
    assert_eq!(machine.property(HELPER, "ActiveState"), "active");
    // The file came after the boot.
    until("the program is watched", MOMENT, || {
        machine.restart("talker.service");
        talks(&machine, "talker") == [true; 2]
    });
    machine.start("else.service");
    for round in 0..10 {
        machine.restart("talker.service");
        assert_eq!(talks(&machine, "talker"), [true; 2], "start {round}");
        assert_eq!(talks(&machine, "else"), [false; 2]);
    }
    // For systemd nothing has changed: it knows the process, and cleans up after it.
    let process = machine.property("talker.service", "MainPID");
    let cgroup = machine.run(&["cat", &format!("/proc/{process}/cgroup")]).ok().stdout;
    assert!(cgroup.lines().any(|line| line.starts_with("0::/system.slice/talker.service/")), "{cgroup}");
    machine.stop("talker.service");
    machine.run(&["test", "-e", "/sys/fs/cgroup/system.slice/talker.service"]).exits(1);
    let journal = machine.journal(HELPER);
    assert!(!journal.contains("ERROR"), "{journal}");
}

#[test]
fn without_the_helper_a_program_starts_and_is_refused() {
    let Some(machine) = machine() else { return };
    let _echo = machine.outside().echo(443);
    until("the program is watched", MOMENT, || {
        machine.restart("talker.service");
        talks(&machine, "talker") == [true; 2]
    });
    machine.stop(HELPER);
    machine.restart("talker.service");
    assert_eq!(talks(&machine, "talker"), [false; 2]);

    machine.start(HELPER);
    until("the next one is admitted", MOMENT, || {
        machine.restart("talker.service");
        talks(&machine, "talker") == [true; 2]
    });
    machine.systemctl(&["kill", "--kill-whom=all", "--signal=KILL", HELPER]).ok();
    until("systemd starts it again", MOMENT, || machine.property(HELPER, "ActiveState") == "active");
    until("the next one is admitted", MOMENT, || {
        machine.restart("talker.service");
        talks(&machine, "talker") == [true; 2]
    });
}

/// Guard and responder at once: the last resort is the service manager.
#[test]
fn a_helper_that_is_stopped_as_a_whole_is_started_anew() {
    let Some(machine) = machine() else { return };
    let _echo = machine.outside().echo(443);
    until("the program is watched", MOMENT, || {
        machine.restart("talker.service");
        talks(&machine, "talker") == [true; 2]
    });
    machine.systemctl(&["kill", "--signal=STOP", HELPER]).ok();
    // Its execution is held until the watchdog ends the helper, and it starts unclassified or after that.
    machine.restart("talker.service");
    until("the helper is back", MOMENT, || machine.property(HELPER, "NRestarts") == "1");
    until("and classifies", MOMENT, || {
        machine.restart("talker.service");
        talks(&machine, "talker") == [true; 2]
    });
}
