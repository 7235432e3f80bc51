//! Orders of an operator: each returns when the kernel has it, and holds over a restart.

use std::time::Instant;

use crate::agent::Manner;
use crate::lab::clock::{in_ms, now};
use crate::lab::schedule::{Lifetime, egress, schedule, schedule_with};
use crate::lab::{Lab, MOMENT, at};

#[test]
fn a_decommission_cuts_what_is_connected_and_is_final() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remote = at(lab.provider4(0), 443);
    let policies = [egress(&payments, remote.ip(), "443/tcp")];
    lab.write("stripe", &schedule(Lifetime::open(), &policies));
    let daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let listener = theirs.listen(remote, Manner::Keep);
    let client = ours.connect(remote).expect("admitted");
    let server = listener.accept().expect("admitted");

    let ordered = Instant::now();
    lab.picoseg(&["decommission", "stripe", "--reason", "contract ended"]).ok();
    let decommissioned = now();
    assert!(
        ordered.elapsed() <= MOMENT,
        "an order returns within two seconds, this one after {:?}",
        ordered.elapsed()
    );
    assert!(!client.alive() && !server.alive(), "it has returned, so the teardown is done");
    assert_eq!(lab.sockets_to(remote.ip()), Vec::<String>::new());
    assert!(ours.connect(remote).is_err());
    lab.expect_attempts(1, &[("service", "stripe"), ("reason", "expired")]);

    lab.picoseg(&["resume", "stripe", "--reason", "no, wait"]).exits(1);
    lab.picoseg(&["apply"]).ok();
    daemon.kill9();
    let _daemon = lab.daemon();
    assert_eq!(lab.state_of("stripe"), "decommissioned", "the same lifetime does not come back");
    assert!(ours.connect(remote).is_err());

    lab.write("stripe", &schedule(Lifetime(decommissioned, in_ms(3_600_000)), &policies));
    lab.picoseg(&["apply"]).ok();
    assert_eq!(lab.state_of("stripe"), "open", "a commission later than the decommission opens");
    assert!(ours.connect(remote).is_ok());
}

#[test]
fn a_suspension_cuts_and_a_resumption_opens_again() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remote = at(lab.provider6(0), 443);
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, remote.ip(), "443/tcp")]));
    let daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let listener = theirs.listen(remote, Manner::Keep);
    let client = ours.connect(remote).expect("admitted");
    let server = listener.accept().expect("admitted");

    lab.picoseg(&["suspend", "stripe", "--reason", "incident"]).ok();
    assert!(!client.alive() && !server.alive());
    assert_eq!(lab.state_of("stripe"), "suspended");
    assert!(ours.connect(remote).is_err());
    lab.expect_attempts(1, &[("service", "stripe"), ("reason", "suspended")]);

    assert!(daemon.term().success());
    let _daemon = lab.daemon();
    assert_eq!(lab.state_of("stripe"), "suspended", "a restart does not lift it");
    assert!(ours.connect(remote).is_err());

    lab.picoseg(&["resume", "stripe", "--reason", "over"]).ok();
    assert_eq!(lab.state_of("stripe"), "open");
    assert!(ours.connect(remote).is_ok());
}

#[test]
fn an_order_for_a_provider_reaches_all_of_its_services() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let (first, second, foreign) = (lab.provider4(0), lab.provider4(1), lab.provider4(2));
    let write = |name: &str, remote, provider: &str| {
        let text = schedule(Lifetime::open(), &[egress(&payments, remote, "443/tcp")]);
        lab.write(name, &text.replace("Example Provider Ltd", provider));
    };
    write("api", first, "Acme Ltd");
    write("files", second, "Acme Ltd");
    write("stripe", foreign, "Stripe, Inc.");
    let _daemon = lab.daemon();
    lab.picoseg(&["suspend", "--provider", "Acme Ltd", "--reason", "breach"]).ok();
    assert_eq!(["api", "files", "stripe"].map(|name| lab.state_of(name)), ["suspended", "suspended", "open"]);
    lab.picoseg(&["decommission", "--provider", "Acme Ltd", "--reason", "breach"]).ok();
    assert_eq!(
        ["api", "files", "stripe"].map(|name| lab.state_of(name)),
        ["decommissioned", "decommissioned", "open"]
    );
}

#[test]
fn an_order_for_a_service_that_nobody_knows_is_an_error_and_changes_nothing() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, lab.provider4(0), "443/tcp")]));
    let _daemon = lab.daemon();
    let before = lab.status()["ruleset_digest"].clone();
    lab.picoseg(&["suspend", "strype", "--reason", "typo"]).exits(1).explains(&["strype"]);
    lab.picoseg(&["suspend", "--provider", "Nobody", "--reason", "typo"]).exits(1).explains(&["Nobody"]);
    lab.picoseg(&["suspend", "stripe"]).exits(2);
    assert_eq!(lab.status()["ruleset_digest"], before);
    assert_eq!(lab.state_of("stripe"), "open");
}

#[test]
fn a_state_in_the_file_is_obeyed() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let states =
        [("suspended", lab.provider4(0), "suspended"), ("decommissioned", lab.provider4(1), "expired")];
    for (state, remote, _) in states {
        let head = format!("state = \"{state}\"");
        lab.write(state, &schedule_with(&head, Lifetime::open(), &[egress(&payments, remote, "443/tcp")]));
    }
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    for (state, remote, reason) in states {
        theirs.echo(at(remote, 443));
        assert!(ours.connect(at(remote, 443)).is_err(), "{state}");
        assert_eq!(lab.state_of(state), state);
        lab.expect_attempts(1, &[("service", state), ("reason", reason)]);
    }
}

#[test]
fn three_hundred_connections_take_no_more_looks_than_ten() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let services = [("few", lab.provider4(0), 10), ("many", lab.provider4(1), 300)];
    for (name, remote, _) in services {
        lab.write(name, &schedule(Lifetime::open(), &[egress(&payments, remote, "443/tcp")]));
    }
    let daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    for (name, remote, count) in services {
        let listener = theirs.listen(at(remote, 443), Manner::Keep);
        let connect = || {
            let connection = ours.connect(listener.local()).expect("admitted");
            (connection, listener.accept().expect("admitted"))
        };
        let _connections: Vec<_> = (0..count).map(|_| connect()).collect();
        lab.picoseg(&["decommission", name, "--reason", "contract ended"]).ok();
        // One look that finds them, and one that finds nothing.
        let told = format!("connections cut sockets={count} looks=2");
        assert!(daemon.said().contains(&told), "{}", daemon.said());
        assert_eq!(lab.sockets_to(remote), Vec::<String>::new());
    }
}
