//! Failsafe ports stay reachable from outside, whatever a schedule says.

use crate::agent::Manner;
use crate::lab::schedule::{Lifetime, egress, ingress, schedule};
use crate::lab::{Lab, at};

#[test]
fn a_failsafe_port_stays_reachable_from_governed_addresses() {
    let Some(lab) = Lab::new() else { return };
    let (payments, sshd) = (lab.unit("payments"), lab.unit("sshd"));
    let remotes = [(lab.host4(), lab.provider4(0)), (lab.host6(), lab.provider6(0))];
    let policies = remotes.map(|(_, remote)| egress(&payments, remote, "443/tcp"));
    lab.write("stripe", &schedule(Lifetime::over(), &policies));
    lab.canary();
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&sshd), lab.provider());
    for (local, remote) in remotes {
        ours.echo(at(local, 22));
        assert!(
            theirs.connect_from(at(remote, 0), at(local, 22)).is_ok_and(|socket| socket.echoes()),
            "{remote}"
        );
    }
    lab.expect_no_attempts(&theirs);
}

#[test]
fn a_failsafe_port_is_no_way_out() {
    let Some(lab) = Lab::new() else { return };
    let (payments, sshd) = (lab.unit("payments"), lab.unit("sshd"));
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, lab.provider4(0), "443/tcp")]));
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&sshd), lab.provider());
    theirs.echo(at(lab.provider4(0), 443));
    assert!(ours.connect_from(at(lab.host4(), 22), at(lab.provider4(0), 443)).is_err());
    lab.expect_attempts(1, &[("direction", "egress"), ("reason", "undeclared")]);
}

#[test]
fn a_schedule_rules_the_failsafe_port_for_the_addresses_it_lists_there() {
    let Some(lab) = Lab::new() else { return };
    let sshd = lab.unit("sshd");
    lab.write("support", &schedule(Lifetime::over(), &[ingress(&sshd, lab.provider4(0), "22/tcp")]));
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&sshd), lab.provider());
    ours.echo(at(lab.host4(), 22));
    let from =
        |remote| theirs.connect_from(at(remote, 0), at(lab.host4(), 22)).is_ok_and(|socket| socket.echoes());
    assert!(!from(lab.provider4(0)), "the support of this provider has ended");
    assert!(from(lab.provider4(1)), "everybody else");
    lab.expect_attempts(1, &[("service", "support"), ("reason", "expired"), ("local_port", "22")]);
}

#[test]
fn failsafe_ports_are_those_of_the_settings() {
    let Some(lab) = Lab::new() else { return };
    let (payments, sshd) = (lab.unit("payments"), lab.unit("sshd"));
    let source = lab.provider4(0);
    lab.settings(&format!("[failsafe]\nports = [\"2222/tcp\"]\nfrom = [\"{source}/32\"]"));
    let policies = [source, lab.provider4(1)].map(|remote| egress(&payments, remote, "443/tcp"));
    lab.write("stripe", &schedule(Lifetime::over(), &policies));
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&sshd), lab.provider());
    for port in [22, 2222] {
        ours.listen(at(lab.host4(), port), Manner::Echo);
    }
    let reaches = |remote, port| {
        theirs.connect_from(at(remote, 0), at(lab.host4(), port)).is_ok_and(|socket| socket.echoes())
    };
    assert!(reaches(source, 2222));
    assert!(!reaches(source, 22), "not in the settings");
    assert!(!reaches(lab.provider4(1), 2222), "not from there");
}

#[test]
fn check_warns_about_a_schedule_that_covers_a_failsafe_port() {
    let Some(lab) = Lab::new() else { return };
    let sshd = lab.unit("sshd");
    lab.write("support", &schedule(Lifetime::open(), &[ingress(&sshd, lab.provider4(0), "20-30/tcp")]));
    lab.picoseg(&["check"]).ok().explains(&["fail-safe"]);
    lab.write("support", &schedule(Lifetime::open(), &[ingress(&sshd, lab.provider4(0), "8443/tcp")]));
    let quiet = lab.picoseg(&["check"]).ok();
    assert!(!quiet.stderr.to_lowercase().contains("fail-safe"), "{}", quiet.stderr);
}
