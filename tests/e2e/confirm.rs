//! `apply --confirm` and `confirm`: what nobody confirms falls back, by itself and over the daemon's death.

use std::time::Duration;

use serde_json::Value;

use crate::agent::Manner;
use crate::lab::clock::{eventually, in_ms, reach, until};
use crate::lab::schedule::{Lifetime, egress, ingress, schedule, schedule_with};
use crate::lab::{Lab, MOMENT, Unit, at};

/// As long as a test waits for a fall-back beyond its time.
const FALLS_BACK_WITHIN: Duration = Duration::from_secs(8);

fn write(lab: &Lab, name: &str, unit: &Unit, number: u8) {
    lab.write(name, &schedule(Lifetime::open(), &[egress(unit, lab.provider4(number), "443/tcp")]));
}

fn waits(lab: &Lab) -> bool {
    lab.status()["confirmation"].is_object()
}

fn fallen_back(lab: &Lab) {
    until("it falls back", FALLS_BACK_WITHIN, || !waits(lab));
}

/// The details of `config.applied`.
fn applied(lab: &Lab) -> Vec<Value> {
    let shown = lab.picoseg(&["audit", "show", "--json"]).ok().json();
    let entries = shown["entries"].as_array().expect("entries are a list").iter();
    entries.filter(|entry| entry["kind"] == "config.applied").map(|entry| entry["detail"].clone()).collect()
}

fn causes(lab: &Lab) -> Vec<Value> {
    applied(lab).into_iter().map(|detail| detail["cause"].clone()).filter(|cause| !cause.is_null()).collect()
}

fn states(lab: &Lab) -> Vec<(String, String)> {
    let body = lab.picoseg(&["services", "--json"]).ok().json();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let services = body["services"].as_array().expect("services are a list").iter();
    services.map(|service| (text(&service["name"]), text(&service["state"]))).collect()
}

fn pairs(states: &[(&str, &str)]) -> Vec<(String, String)> {
    states.iter().map(|(name, state)| ((*name).to_owned(), (*state).to_owned())).collect()
}

#[test]
fn what_nobody_confirms_falls_back_to_what_was_before() {
    let Some(lab) = Lab::new() else { return };
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    write(&lab, "gone", &payments, 0);
    write(&lab, "changed", &payments, 1);
    let daemon = lab.daemon();
    let (ours, stranger, theirs) = (lab.process(&payments), lab.process(&other), lab.provider());
    for number in 0..5 {
        theirs.echo(at(lab.provider4(number), 443));
    }
    let passes = |number| ours.talks_to(at(lab.provider4(number), 443));
    let client = ours.connect(at(lab.provider4(0), 443)).expect("admitted");
    assert!(stranger.talks_to(at(lab.provider4(2), 443)), "nobody's address");

    lab.remove("gone");
    write(&lab, "changed", &payments, 3);
    write(&lab, "new", &payments, 2);
    lab.segment("box", &format!("subject = {{ unit = \"{}\" }}\n", other.name()));
    let digest = lab.status()["ruleset_digest"].clone();
    let said = lab.picoseg(&["apply", "--confirm", "5s"]).ok();
    assert!(said.stdout.contains("`picoseg confirm` keeps it"), "{}", said.stdout);
    assert!(waits(&lab));
    assert!(lab.picoseg(&["status"]).ok().stdout.contains("unconfirmed"));
    assert_eq!(states(&lab), pairs(&[("changed", "open"), ("gone", "suspended"), ("new", "open")]));
    assert!(!client.alive(), "what the files end is cut at once");
    assert!(!passes(0) && passes(3) && passes(2));
    assert!(!stranger.talks_to(at(lab.provider4(2), 443)) && !stranger.talks_to(at(lab.provider4(4), 443)));

    fallen_back(&lab);
    assert_eq!(states(&lab), pairs(&[("changed", "open"), ("gone", "open")]));
    assert_eq!(lab.status()["ruleset_digest"], digest);
    assert!(passes(0) && passes(1));
    assert!(stranger.talks_to(at(lab.provider4(2), 443)), "nobody's again");
    assert!(stranger.talks_to(at(lab.provider4(4), 443)), "the enclosure is gone");
    assert_eq!(causes(&lab), ["not confirmed"]);
    let status = lab.status();
    assert_eq!(status["config"]["ok"], false);
    assert!(status["config"]["error"].to_string().contains("not confirmed"), "{status}");
    lab.picoseg(&["confirm"]).exits(1).explains(&["nobody confirmed in time"]);

    // The files that are there stay what nobody confirmed, until somebody applies them again.
    lab.picoseg(&["plan", "--exit-code"]).exits(4);
    assert!(daemon.term().success());
    let daemon = lab.daemon();
    assert_eq!(states(&lab), pairs(&[("changed", "open"), ("gone", "open")]));
    assert_eq!(lab.status()["config"]["ok"], false);
    lab.picoseg(&["apply"]).ok();
    assert_eq!(states(&lab), pairs(&[("changed", "open"), ("gone", "decommissioned"), ("new", "open")]));
    assert_eq!(lab.status()["config"]["ok"], true);
    assert!(daemon.term().success());
    let _daemon = lab.daemon();
    assert_eq!(states(&lab), pairs(&[("changed", "open"), ("gone", "decommissioned"), ("new", "open")]));
    lab.picoseg(&["audit", "verify"]).ok();
}

#[test]
fn what_is_confirmed_stays_and_only_then_a_removal_is_final() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    for (name, number) in [("gone", 0), ("ended", 1)] {
        write(&lab, name, &payments, number);
    }
    let daemon = lab.daemon();
    lab.picoseg(&["confirm"]).exits(1).explains(&["nothing waits"]);
    lab.remove("gone");
    let ended = egress(&payments, lab.provider4(1), "443/tcp");
    lab.write("ended", &schedule_with("state = \"decommissioned\"", Lifetime::open(), &[ended]));
    lab.picoseg(&["apply", "--confirm", "60s"]).ok();
    assert_eq!(states(&lab), pairs(&[("ended", "suspended"), ("gone", "suspended")]));
    lab.picoseg_over(&lab.runtime().join("observe.sock"), &["confirm"]).exits(5);
    lab.picoseg(&["apply"]).exits(1).explains(&["waits for its confirmation"]);
    lab.picoseg(&["plan"]).ok().explains(&["waits for its confirmation"]);
    daemon.hup();
    lab.picoseg(&["confirm"]).ok();
    assert_eq!(states(&lab), pairs(&[("ended", "decommissioned"), ("gone", "decommissioned")]));
    assert!(!waits(&lab));
    assert_eq!(causes(&lab), ["confirmed"]);
    assert_eq!(lab.status()["config"]["ok"], true);
    assert_eq!(lab.picoseg(&["plan", "--exit-code"]).ok().code, 0);
    daemon.kill9();
    let _daemon = lab.daemon();
    assert_eq!(states(&lab), pairs(&[("ended", "decommissioned"), ("gone", "decommissioned")]));
    write(&lab, "gone", &payments, 0);
    lab.picoseg(&["apply"]).ok();
    assert_eq!(lab.state_of("gone"), "decommissioned", "the same lifetime does not come back");
}

#[test]
fn a_daemon_that_was_killed_falls_back_at_its_start_when_the_time_is_over() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    write(&lab, "stripe", &payments, 0);
    let daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let remote = at(lab.provider4(0), 443);
    theirs.echo(remote);
    lab.remove("stripe");
    write(&lab, "new", &payments, 1);
    lab.picoseg(&["apply", "--confirm", "3s"]).ok();
    let over = in_ms(3_200);
    assert!(!ours.talks_to(remote));
    daemon.kill9();
    reach(over);
    assert!(!ours.talks_to(remote), "a dead daemon opens nothing");
    let _daemon = lab.daemon();
    assert!(ours.talks_to(remote));
    assert_eq!(states(&lab), pairs(&[("stripe", "open")]));
    assert_eq!(causes(&lab), ["not confirmed"]);
    assert!(lab.status()["config"]["error"].to_string().contains("not confirmed"));
}

#[test]
fn a_daemon_that_starts_in_time_goes_on_waiting() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    write(&lab, "stripe", &payments, 0);
    let daemon = lab.daemon();
    lab.remove("stripe");
    lab.picoseg(&["apply", "--confirm", "12s"]).ok();
    let deadline = lab.status()["confirmation"]["until"].clone();
    // What was applied waits, not what lies there at the start.
    write(&lab, "later", &payments, 1);
    daemon.kill9();
    let daemon = lab.daemon();
    assert_eq!(states(&lab), pairs(&[("stripe", "suspended")]));
    assert_eq!(lab.status()["confirmation"]["until"], deadline);
    assert!(daemon.term().success());
    let daemon = lab.daemon();
    eventually("it falls back", Duration::from_secs(20), || (!waits(&lab)).then_some(()));
    assert_eq!(states(&lab), pairs(&[("stripe", "open")]));
    lab.remove("later");

    lab.picoseg(&["apply", "--confirm", "60s"]).ok();
    daemon.kill9();
    let _daemon = lab.daemon();
    lab.picoseg(&["confirm"]).ok();
    assert_eq!(states(&lab), pairs(&[("stripe", "decommissioned")]));
}

#[test]
fn who_locks_himself_out_is_let_in_again() {
    let Some(lab) = Lab::new() else { return };
    let sshd = lab.unit("sshd");
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&sshd), lab.provider());
    let listener = ours.listen(at(lab.host4(), 22), Manner::Echo);
    let reaches =
        || theirs.connect_from(at(lab.provider4(0), 0), listener.local()).is_ok_and(|socket| socket.echoes());
    assert!(reaches());
    lab.write("support", &schedule(Lifetime::over(), &[ingress(&sshd, lab.provider4(0), "22/tcp")]));
    lab.picoseg(&["apply", "--confirm", "3s"]).ok();
    assert!(!reaches());
    fallen_back(&lab);
    assert!(reaches());
}

#[test]
fn orders_meanwhile_hold_over_the_fall_back_and_a_second_apply_begins_anew() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    for (name, number) in [("ordered", 0), ("paused", 1), ("kept", 2)] {
        write(&lab, name, &payments, number);
    }
    let _daemon = lab.daemon();
    ["ordered", "paused", "kept"].iter().for_each(|name| lab.remove(name));
    write(&lab, "first", &payments, 3);
    write(&lab, "bad", &payments, 4);
    lab.picoseg(&["apply", "--confirm", "60s"]).ok();
    lab.picoseg(&["decommission", "ordered", "--reason", "test"]).ok();
    lab.picoseg(&["decommission", "bad", "--reason", "test"]).ok();
    lab.picoseg(&["suspend", "paused", "--reason", "test"]).ok();
    lab.remove("first");
    write(&lab, "second", &payments, 5);
    lab.picoseg(&["apply", "--confirm", "4s"]).ok();
    assert_eq!(lab.state_of("second"), "open");
    fallen_back(&lab);
    let expected =
        [("bad", "decommissioned"), ("kept", "open"), ("ordered", "decommissioned"), ("paused", "suspended")];
    assert_eq!(states(&lab), pairs(&expected));
    lab.picoseg(&["resume", "paused", "--reason", "test"]).ok();
    assert_eq!(lab.state_of("paused"), "open");
}

#[test]
fn a_renewal_that_nobody_confirms_ends_nothing_but_what_had_ended() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remote = at(lab.provider4(0), 443);
    let policies = |number| [egress(&payments, lab.provider4(number), "443/tcp")];
    write(&lab, "stripe", &payments, 0);
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    theirs.echo(remote);
    lab.remove("stripe");
    lab.picoseg(&["apply"]).ok();
    let renewed = Lifetime(in_ms(-1), in_ms(3_600_000));
    lab.write("stripe", &schedule(renewed, &policies(1)));
    lab.picoseg(&["apply", "--confirm", "3s"]).ok();
    assert_eq!(lab.state_of("stripe"), "open");
    fallen_back(&lab);
    assert_eq!(lab.state_of("stripe"), "decommissioned");
    assert!(ours.connect(remote).is_err(), "the address of before is refused and watched again");
    lab.expect_attempts(1, &[("service", "stripe"), ("reason", "expired")]);
    lab.picoseg(&["apply"]).ok();
    assert_eq!(lab.state_of("stripe"), "open", "the renewal was never decommissioned");
}

#[test]
fn without_a_ledger_a_fall_back_opens_nothing_until_it_works_again() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    write(&lab, "stripe", &payments, 0);
    let _daemon = lab.daemon();
    lab.remove("stripe");
    write(&lab, "new", &payments, 1);
    lab.picoseg(&["apply", "--confirm", "4s"]).ok();
    let database = lab.state().join("picoseg.db");
    let aside = lab.state().join("aside.db");
    std::fs::rename(&database, &aside).expect("the database was there");
    std::fs::create_dir(&database).expect("in its place");
    until("the store breaks", MOMENT, || {
        let _ = lab.picoseg(&["suspend", "new", "--reason", "test"]);
        lab.status()["store"]["ok"] == false
    });
    fallen_back(&lab);
    assert_eq!(lab.state_of("stripe"), "suspended");
    std::fs::remove_dir(&database).expect("ours");
    std::fs::rename(&aside, &database).expect("back in its place");
    until("it opens with the ledger", Duration::from_secs(10), || lab.state_of("stripe") == "open");
}
