//! `extend`: an opening that lasts longer, or once more, by order.

use crate::lab::clock::{in_ms, reach, rfc3339};
use crate::lab::schedule::{Lifetime, egress, schedule, window};
use crate::lab::{Lab, MOMENT, at};

#[test]
fn an_opening_is_prolonged_in_the_kernel_and_closes_by_itself_with_the_daemon_killed() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remote = at(lab.provider4(0), 443);
    let (closes, until) = (in_ms(9_000), in_ms(16_000));
    let tables = [window(in_ms(-60_000), closes), egress(&payments, remote.ip(), "443/tcp")];
    lab.write("stripe", &schedule(Lifetime::open(), &tables));
    let daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    theirs.echo(remote);
    let client = ours.connect(remote).expect("admitted");
    let digest = lab.status()["ruleset_digest"].clone();
    lab.picoseg(&["extend", "stripe", "--until", &rfc3339(until), "--reason", "release"]).ok();
    assert_eq!(lab.service("stripe")["closes_at"], rfc3339(until).as_str());
    assert_eq!(lab.status()["ruleset_digest"], digest, "it is over the files");
    let shown = lab.picoseg(&["audit", "show", "--service", "stripe", "--json"]).ok().json();
    let entry = shown["entries"].as_array().and_then(|all| all.last()).expect("an entry").clone();
    assert_eq!((&entry["kind"], &entry["detail"]["reason"]), (&"window.opened".into(), &"release".into()));
    assert!(entry["actor"].as_str().is_some_and(|actor| actor.contains("uid 0")), "{entry}");
    // A restart knows it, and the kernel needs nobody.
    assert!(daemon.term().success());
    let daemon = lab.daemon();
    assert_eq!(lab.service("stripe")["closes_at"], rfc3339(until).as_str());
    daemon.kill9();
    reach(closes + chrono::TimeDelta::milliseconds(300));
    assert!(client.echoes() && ours.talks_to(remote));
    reach(until + chrono::TimeDelta::milliseconds(100));
    assert!(!ours.talks_to(remote), "the kernel closes");
    let _daemon = lab.daemon();
    assert_eq!(lab.state_of("stripe"), "closed");
    client.ends_within(MOMENT);
}

#[test]
fn what_is_closed_opens_once_and_a_suspension_ends_that() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remote = at(lab.provider6(0), 443);
    let tables = [window(in_ms(1_800_000), in_ms(1_900_000)), egress(&payments, remote.ip(), "443/tcp")];
    lab.write("stripe", &schedule(Lifetime::open(), &tables));
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    theirs.echo(remote);
    assert!(!ours.talks_to(remote));
    let until = rfc3339(in_ms(600_000));
    let extend = |until: &str| lab.picoseg(&["extend", "stripe", "--until", until, "--reason", "release"]);
    extend(&rfc3339(in_ms(7_200_000))).exits(1).explains(&["nothing is opened beyond it"]);
    extend(&rfc3339(in_ms(-1_000))).exits(1).explains(&["has passed"]);
    lab.picoseg_over(
        &lab.runtime().join("observe.sock"),
        &["extend", "stripe", "--until", &until, "--reason", "r"],
    )
    .exits(5);
    lab.picoseg(&["extend", "nobody", "--until", &until, "--reason", "r"]).exits(1).explains(&["nobody"]);
    extend(&until).ok();
    assert!(ours.talks_to(remote));
    assert_eq!(lab.state_of("stripe"), "open");
    extend(&until).exits(1).explains(&["anyway"]);
    let client = ours.connect(remote).expect("open");
    lab.picoseg(&["suspend", "stripe", "--reason", "incident"]).ok();
    assert!(!client.alive());
    extend(&until).exits(1).explains(&["suspended"]);
    lab.picoseg(&["resume", "stripe", "--reason", "over"]).ok();
    assert_eq!(lab.state_of("stripe"), "closed", "by its windows");
    assert!(!ours.talks_to(remote));
}
