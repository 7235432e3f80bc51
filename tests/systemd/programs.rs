//! `picoseg-exec.service` as it is shipped: what its hardening leaves is enough to follow programs.

use std::net::SocketAddr;

use crate::agent::{AGENT, unit};
use crate::clock::until;
use crate::machine::{MOMENT, Machine};
use crate::outside::v4;
use crate::schedule::{egress, file, schedule};

const HELPER: &str = "picoseg-exec.service";
const OTHER: &str = "/usr/lib/picoseg-tests/other";

/// A schedule for the agent's file; `else.service` runs a copy of it.
fn boot() -> Option<Machine> {
    let (pay, grants) = (file("pay"), schedule(&[egress("pay.service", &[v4(0)], "443/tcp")]));
    let grants = grants.replace("unit = \"pay.service\"", &format!("exe = \"{AGENT}\""));
    let start = format!("ExecStart={AGENT}");
    let copy = format!("ExecStartPre=/bin/cp {AGENT} {OTHER}\nExecStart={OTHER}");
    let units = [
        ("/etc/systemd/system/pay.service", &*unit("ask pay", "")),
        ("/etc/systemd/system/else.service", &unit("ask else", "").replace(&start, &copy)),
        (&*pay, &*grants),
    ];
    Machine::boot(&units)
}

#[test]
fn a_program_is_followed_through_restarts_of_its_unit() {
    let Some(machine) = boot() else { return };
    let (_echo, remote) = (machine.outside().echo(443), SocketAddr::new(v4(0), 443));
    assert_eq!(machine.property(HELPER, "ActiveState"), "active");
    machine.start("else.service");
    for _ in 0..3 {
        machine.restart("pay.service");
        assert!(machine.agent("pay").talks_to(remote), "from its first socket on");
        assert!(!machine.agent("else").talks_to(remote));
        let status = machine.systemctl(&["status", "--no-pager", "pay.service"]).ok();
        assert!(status.stdout.contains("picoseg-exe-"), "{}", status.stdout);
    }
    machine.stop("pay.service");
    assert!(
        !machine.path("/sys/fs/cgroup/system.slice/pay.service").exists(),
        "systemd removes what is ours"
    );
    let journal = machine.journal(HELPER);
    assert!(!journal.contains("ERROR") && !journal.contains("moved back"), "{journal}");
    assert_eq!(machine.property(HELPER, "NRestarts"), "0");
}

/// Guard and responder at once: the last resort is the service manager.
#[test]
fn a_helper_that_is_stopped_as_a_whole_is_started_anew() {
    let Some(machine) = boot() else { return };
    let (_echo, remote) = (machine.outside().echo(443), SocketAddr::new(v4(0), 443));
    machine.start("pay.service");
    assert!(machine.agent("pay").talks_to(remote));
    machine.systemctl(&["kill", "--signal=STOP", HELPER]).ok();
    // Its execution is held until the watchdog ends the helper, and it starts unclassified or after that.
    machine.restart("pay.service");
    until("the helper is back", MOMENT, || machine.property(HELPER, "NRestarts") == "1");
    until("and classifies", MOMENT, || {
        machine.restart("pay.service");
        machine.agent("pay").talks_to(remote)
    });
}
