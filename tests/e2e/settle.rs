//! `picoseg settle`: when it returns, the cgroup is in force.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use crate::lab::schedule::{Lifetime, egress, policy, schedule};
use crate::lab::{Cli, Lab, Unit, at};

/// `picoseg settle` inside a cgroup, as systemd runs an `ExecStartPre=+`.
fn settle_in(lab: &Lab, directory: &Path) -> Cli {
    let procs = directory.join("cgroup.procs");
    let mut command = Command::new("sh");
    command.args(["-c", r#"echo $$ >"$0" && exec "$@""#]).arg(procs);
    command.arg(env!("CARGO_BIN_EXE_picoseg")).arg("--config").arg(lab.config()).arg("settle");
    lab.on_host(command)
}

fn again(unit: &Unit) {
    unit.remove();
    unit.create();
}

#[test]
fn after_settle_the_first_packet_of_a_restarted_unit_passes() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remote = at(lab.provider4(0), 443);
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, remote.ip(), "443/tcp")]));
    let _daemon = lab.daemon();
    let theirs = lab.provider();
    theirs.echo(remote);
    for _ in 0..20 {
        again(&payments);
        let said = settle_in(&lab, payments.dir()).ok();
        assert!(said.stdout.contains(&format!("in force for unit:{}", payments.name())), "{}", said.stdout);
        // A connect is given up before the first retransmission: the first packet has to pass.
        assert!(lab.process(&payments).talks_to(remote));
    }
}

#[test]
fn a_control_cgroup_settles_with_the_unit_above_it() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let to = lab.provider4(0);
    let slice = payments.path().parent().unwrap().display().to_string();
    let enclosing = policy("egress", &format!("cgroup = \"{slice}\""), &to.to_string(), "80/tcp");
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, to, "443/tcp"), enclosing]));
    let _daemon = lab.daemon();
    again(&payments);
    let control = payments.child(".control");
    let said = settle_in(&lab, control.dir()).ok().stdout;
    assert!(said.contains(&format!("unit:{}", payments.name())), "{said}");
    assert!(said.contains(&format!("cgroup:{slice}")), "{said}");
    control.remove();
    let said = lab.picoseg(&["settle", payments.name(), "--json"]).ok().json();
    assert_eq!(said["cgroups"][0]["cgroup"], payments.path().display().to_string());
    assert_eq!(said["cgroups"][0]["subjects"].as_array().unwrap().len(), 2, "{said}");
}

#[test]
fn who_is_not_named_is_done_at_once_and_who_does_not_run_fails() {
    let Some(lab) = Lab::new() else { return };
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, lab.provider4(0), "443/tcp")]));
    let daemon = lab.daemon();
    let said = lab.picoseg(&["settle", other.name()]).ok();
    assert!(said.stdout.contains("no policy is about"), "{}", said.stdout);
    payments.remove();
    lab.picoseg(&["settle", payments.name()]).exits(1).explains(&["does not run"]);
    daemon.kill9();
    settle_in(&lab, other.dir()).exits(3).explains(&["does not answer"]);
}

#[test]
fn many_units_that_start_together_are_all_in_force_when_their_settle_returns() {
    const UNITS: usize = 40;
    let Some(lab) = Lab::new() else { return };
    let units: Vec<Unit> = (0..UNITS).map(|number| lab.unit(&format!("u{number}"))).collect();
    let to = lab.provider4(0);
    let policies: Vec<String> = units.iter().map(|unit| egress(unit, to, "443/tcp")).collect();
    lab.write("stripe", &schedule(Lifetime::open(), &policies));
    let _daemon = lab.daemon();
    units.iter().for_each(again);
    let children: Mutex<Vec<_>> = Mutex::default();
    for unit in &units {
        let mut command = Command::new(env!("CARGO_BIN_EXE_picoseg"));
        command.arg("--config").arg(lab.config()).args(["settle", unit.name()]).process_group(0);
        children.lock().unwrap().push(command.spawn().expect("picoseg runs"));
    }
    for mut child in children.into_inner().unwrap() {
        assert!(child.wait().expect("our own child").success());
    }
    let show = lab.picoseg(&["show", "stripe", "--json"]).ok().json();
    for subject in show["subjects"].as_array().unwrap() {
        assert_eq!(subject["places"].as_array().unwrap().len(), 1, "{subject}");
    }
}
