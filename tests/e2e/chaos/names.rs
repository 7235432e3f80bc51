//! Resolvers that answer nonsense: what a name has stays, nothing is admitted by it, the loop goes on.

use std::time::Duration;

use crate::lab::clock::until;
use crate::lab::dns::Manner;
use crate::lab::schedule::{Lifetime, egress, schedule};
use crate::lab::{Lab, at, public4};

/// A name is asked for every five seconds at most; a resolver has a second, and is asked again.
const REFRESHED: Duration = Duration::from_secs(20);

#[test]
fn a_resolver_that_answers_nonsense_changes_nothing_and_admits_nothing() {
    let Some(lab) = Lab::new() else { return };
    lab.public(6);
    let server = lab.name_server(5);
    lab.resolvers(&[lab.provider4(5)]);
    let payments = lab.unit("payments");
    server.set("api.example.com", &[public4(0)], 1);
    server.set("new.example.com", &[public4(1)], 1);
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, "api.example.com", "443/tcp")]));
    let _daemon = lab.daemon();
    let (ours, other, theirs) = (lab.process(&payments), lab.process(&lab.unit("other")), lab.provider());
    for number in 0..3 {
        theirs.echo(at(public4(number), 443));
    }
    let governed = |number| !other.talks_to(at(public4(number), 443));
    until("the name is known", REFRESHED, || governed(0));
    assert!(ours.talks_to(at(public4(0), 443)));
    for manner in [Manner::Garbage, Manner::Cut, Manner::Astray] {
        server.behave(manner);
        let asked = server.asked();
        until(&format!("{manner:?}: it is asked again"), REFRESHED, || server.asked() >= asked + 4);
        assert!(governed(0) && ours.talks_to(at(public4(0), 443)), "{manner:?}: what it has stays");
    }
    // A name that has never been answered has nothing.
    lab.write("new", &schedule(Lifetime::open(), &[egress(&payments, "new.example.com", "443/tcp")]));
    lab.picoseg(&["apply"]).ok();
    let asked = server.asked();
    until("it is asked for the new one", REFRESHED, || server.asked() >= asked + 4);
    assert!(!governed(1), "nothing was learned from nonsense");
    lab.picoseg(&["suspend", "stripe", "--reason", "test"]).ok();
    assert!(ours.connect(at(public4(0), 443)).is_err());

    server.set("api.example.com", &[public4(2)], 1);
    server.behave(Manner::Honest);
    until("the new address is governed", REFRESHED, || governed(2));
    until("so is that of the new name", REFRESHED, || governed(1));
    assert!(ours.connect(at(public4(2), 443)).is_err(), "suspended");
    lab.picoseg(&["resume", "stripe", "--reason", "test"]).ok();
    assert!(ours.talks_to(at(public4(2), 443)) && ours.talks_to(at(public4(1), 443)));
}
