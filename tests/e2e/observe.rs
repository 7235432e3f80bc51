//! Observe mode: nothing is refused, everything is recorded as if it were.

use crate::agent::Manner;
use crate::lab::schedule::{Lifetime, egress, schedule, schedule_with};
use crate::lab::{Lab, MOMENT, at, clock};

#[test]
fn observing_refuses_nothing_and_records_each_flow_once() {
    let Some(lab) = Lab::new() else { return };
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    let remotes = [lab.provider4(0), lab.provider6(0)];
    lab.settings("[enforcement]\nmode = \"observe\"");
    lab.write(
        "stripe",
        &schedule(Lifetime::over(), &remotes.map(|remote| egress(&payments, remote, "443/tcp"))),
    );
    let _daemon = lab.daemon();
    let (stranger, theirs) = (lab.process(&other), lab.provider());
    for remote in remotes {
        theirs.echo(at(remote, 443));
        assert!(stranger.talks_to(at(remote, 443)), "{remote}");
    }
    let listener = stranger.listen(at(lab.host4(), 8443), Manner::Echo);
    assert!(
        theirs.connect_from(at(lab.provider4(0), 0), listener.local()).is_ok_and(|socket| socket.echoes())
    );

    let observed = [("service", "stripe"), ("verdict", "observed"), ("reason", "expired")];
    lab.expect_attempts(2, &[&observed[..], &[("direction", "egress")]].concat());
    lab.expect_attempts(1, &[&observed[..], &[("direction", "ingress")]].concat());
    assert_eq!(lab.attempts_with(&[("verdict", "refused")]), 0);
    assert_eq!(lab.status()["mode"], "observe");
}

#[test]
fn one_service_is_observed_while_others_are_enforced() {
    let Some(lab) = Lab::new() else { return };
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    let (watched, enforced) = (at(lab.provider4(0), 443), at(lab.provider4(1), 443));
    let policies = |remote| [egress(&payments, remote, "443/tcp")];
    lab.write("watched", &schedule_with("mode = \"observe\"", Lifetime::open(), &policies(watched.ip())));
    lab.write("enforced", &schedule(Lifetime::open(), &policies(enforced.ip())));
    let _daemon = lab.daemon();
    let (stranger, theirs) = (lab.process(&other), lab.provider());
    theirs.echo(watched);
    theirs.echo(enforced);
    assert!(stranger.talks_to(watched));
    assert!(stranger.connect(enforced).is_err());
    lab.expect_attempts(1, &[("service", "watched"), ("verdict", "observed")]);
    lab.expect_attempts(1, &[("service", "enforced"), ("verdict", "refused")]);
}

#[test]
fn a_service_that_is_no_longer_observed_is_enforced() {
    let Some(lab) = Lab::new() else { return };
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    let remote = at(lab.provider4(0), 443);
    let policies = [egress(&payments, remote.ip(), "443/tcp")];
    lab.write("stripe", &schedule_with("mode = \"observe\"", Lifetime::open(), &policies));
    let _daemon = lab.daemon();
    let (stranger, theirs) = (lab.process(&other), lab.provider());
    theirs.echo(remote);
    let before = stranger.connect(remote).expect("only observed");
    lab.write("stripe", &schedule(Lifetime::open(), &policies));
    lab.picoseg(&["apply"]).ok();
    assert!(stranger.connect(remote).is_err());
    clock::until("what was connected is cut", MOMENT, || !before.echoes());
}
