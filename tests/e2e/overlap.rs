//! Several services that list one address: any open grant admits, and a refusal belongs to one of them.

use serde_json::{Value, json};

use crate::agent::{Kind, Manner, Packets};
use crate::lab::clock::{in_ms, reach, soon};
use crate::lab::schedule::{Lifetime, egress, schedule, schedule_with, window};
use crate::lab::{Lab, MOMENT, at, clock};

/// The service and the others that one refused packet from provider address 6 is booked on.
fn blame(lab: &Lab) -> (Value, Value) {
    let theirs = lab.provider();
    theirs.raw(Packets {
        kind: Kind::Syn,
        from: at(lab.provider4(6), 40_000),
        to: at(lab.host4(), 8443),
        count: 1,
    });
    lab.expect_attempts(1, &[]);
    let row = lab.attempts().remove(0);
    (row["service"].clone(), row["also"].clone())
}

#[test]
fn any_open_grant_admits_whatever_else_is_closed() {
    let Some(lab) = Lab::new() else { return };
    let (payments, billing) = (lab.unit("payments"), lab.unit("billing"));
    let remote = at(lab.provider4(6), 443);
    let network = format!("{}/30", remote.ip());
    lab.write("ended", &schedule(Lifetime::over(), &[egress(&payments, remote.ip(), "443/tcp")]));
    lab.write("open", &schedule(Lifetime::open(), &[egress(&payments, network, "443/tcp")]));
    lab.write("also-open", &schedule(Lifetime::open(), &[egress(&billing, remote.ip(), "443/tcp")]));
    lab.canary();
    let _daemon = lab.daemon();
    let theirs = lab.provider();
    theirs.echo(remote);
    assert!(lab.process(&payments).talks_to(remote) && lab.process(&billing).talks_to(remote));
    lab.expect_no_attempts(&theirs);
}

#[test]
fn a_refusal_belongs_to_the_longest_prefix() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let address = lab.provider4(6);
    lab.write("aaa", &schedule(Lifetime::over(), &[egress(&payments, format!("{address}/31"), "443/tcp")]));
    lab.write("bbb", &schedule(Lifetime::over(), &[egress(&payments, format!("{address}/30"), "443/tcp")]));
    lab.write("zzz", &schedule(Lifetime::open(), &[egress(&payments, address, "443/tcp")]));
    let _daemon = lab.daemon();
    assert_eq!(blame(&lab), (json!("zzz"), json!(["aaa", "bbb"])));
    lab.expect_attempts(1, &[("reason", "undeclared")]);
}

#[test]
fn among_equal_prefixes_the_state_decides_and_then_the_name() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let policy = egress(&payments, lab.provider4(6), "443/tcp");
    let policies = [policy.clone()];
    let ahead = [window(in_ms(1_800_000), in_ms(1_900_000)), policy];
    lab.write("a-open", &schedule(Lifetime::open(), &policies));
    lab.write("b-pending", &schedule(Lifetime::ahead(), &policies));
    lab.write("c-closed", &schedule(Lifetime::open(), &ahead));
    lab.write("d-suspended", &schedule_with("state = \"suspended\"", Lifetime::open(), &policies));
    lab.write("f-ended", &schedule(Lifetime::over(), &policies));
    lab.write("e-ended", &schedule(Lifetime::over(), &policies));
    let _daemon = lab.daemon();
    let also = json!(["a-open", "b-pending", "c-closed", "d-suspended", "f-ended"]);
    assert_eq!(blame(&lab), (json!("e-ended"), also));
}

#[test]
fn a_close_spares_what_another_grant_still_admits() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remote = at(lab.provider4(6), 443);
    let (first, second) = (soon(5_000), soon(7_500));
    lab.write("first", &schedule(Lifetime::until(first), &[egress(&payments, remote.ip(), "443/tcp")]));
    let network = format!("{}/30", remote.ip());
    lab.write("second", &schedule(Lifetime::until(second), &[egress(&payments, network, "443/tcp")]));
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let listener = theirs.listen(remote, Manner::Keep);
    let client = ours.connect(remote).expect("admitted");
    let server = listener.accept().expect("admitted");
    reach(first);
    clock::until("the first has ended", MOMENT, || lab.state_of("first") == "decommissioned");
    client.say("still here").expect("the second still admits it");
    assert!(server.hears("still here"));
    reach(second);
    client.ends_within(MOMENT);
    server.ends_within(MOMENT);
}
