//! Files change while the daemon runs: all or nothing, and without a packet's gap.

use std::time::Duration;

use serde_json::Value;

use crate::agent::Manner;
use crate::lab::schedule::{Lifetime, egress, schedule};
use crate::lab::{Lab, MOMENT, at, clock, put};

/// Two mistakes: an unknown key in line 2 and a port in line 10 that does not exist.
const BAD: &str = r#"provider = "Acme Ltd"
ownr = "it@example.com"
owner = "it@example.com"
[lifetime]
commission = 2026-01-01T00:00:00Z
decommission = 2036-01-01T00:00:00Z
[[egress]]
subject = { unit = "payments.service" }
to = ["198.51.100.7"]
ports = ["99999/tcp"]
"#;

#[test]
fn a_bad_file_at_apply_is_explained_and_changes_nothing() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let (old, new) = (at(lab.provider4(0), 443), at(lab.provider4(1), 443));
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, old.ip(), "443/tcp")]));
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    theirs.echo(old);
    theirs.echo(new);
    let connected = ours.connect(old).expect("admitted");
    let before = lab.status();

    // A good change beside a bad file: neither is taken.
    lab.write("adyen", &schedule(Lifetime::open(), &[egress(&payments, new.ip(), "8443/tcp")]));
    lab.write("acme", BAD);
    let text = lab.picoseg(&["apply"]).exits(78);
    assert!(
        text.stderr.contains("acme.toml:2:1: ") && text.stderr.contains("acme.toml:10:"),
        "{}",
        text.stderr
    );
    let told = lab.picoseg(&["apply", "--json"]).exits(78).json();
    let lines: Vec<_> =
        told["diagnostics"].as_array().expect("diagnostics").iter().map(|d| d["line"].clone()).collect();
    assert_eq!((&told["schema"], lines), (&Value::from(1), vec![Value::from(2), Value::from(10)]), "{told}");

    let after = lab.status();
    for fact in ["ruleset_digest", "in_force_since", "services"] {
        assert_eq!(after[fact], before[fact], "{fact}");
    }
    assert!(connected.echoes() && ours.talks_to(old) && ours.talks_to(new));

    lab.remove("acme");
    lab.picoseg(&["apply"]).ok();
    assert!(ours.connect(new).is_err(), "now the good change is in force");
}

#[test]
fn apply_opens_changes_and_closes_without_disturbing_the_rest() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let [staying, coming, changing] = [0, 1, 2].map(|number| at(lab.provider4(number), 443));
    let write = |name: &str, remote: std::net::SocketAddr, port| {
        lab.write(name, &schedule(Lifetime::open(), &[egress(&payments, remote.ip(), port)]));
    };
    write("staying", staying, "443/tcp");
    write("changing", changing, "443/tcp");
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let listeners = [staying, coming, changing].map(|remote| theirs.listen(remote, Manner::Keep));
    let busy = ours.connect(staying).expect("admitted");
    let served = listeners[0].accept().expect("admitted");
    served.drain();
    busy.pump(Duration::from_millis(1));
    let cut = ours.connect(changing).expect("admitted");
    let cut_too = listeners[2].accept().expect("admitted");

    write("coming", coming, "443/tcp");
    write("changing", changing, "444/tcp");
    lab.picoseg(&["apply"]).ok();
    assert!(ours.connect(coming).is_ok());
    assert!(ours.connect(changing).is_err());
    cut.ends_within(MOMENT);
    cut_too.ends_within(MOMENT);
    served.moves_on();
    assert!(busy.alive() && served.alive());
}

#[test]
fn applying_the_same_files_again_changes_nothing() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, lab.provider4(0), "443/tcp")]));
    let _daemon = lab.daemon();
    let before = lab.status();
    lab.picoseg(&["apply"]).ok();
    let after = lab.status();
    assert_eq!(after["ruleset_digest"], before["ruleset_digest"]);
    assert_eq!(after["in_force_since"], before["in_force_since"]);
}

#[test]
fn a_decommission_that_lies_ahead_may_be_moved() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remote = at(lab.provider4(0), 443);
    let soon = clock::soon(6_000);
    let policies = [egress(&payments, remote.ip(), "443/tcp")];
    lab.write("stripe", &schedule(Lifetime::until(soon), &policies));
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let listener = theirs.listen(remote, Manner::Keep);
    let client = ours.connect(remote).expect("admitted");
    let server = listener.accept().expect("admitted");
    lab.write("stripe", &schedule(Lifetime::open(), &policies));
    lab.picoseg(&["apply"]).ok();
    clock::reach(soon + chrono::TimeDelta::milliseconds(300));
    client.say("still here").expect("it was moved");
    assert!(server.hears("still here"));
    assert_eq!(lab.state_of("stripe"), "open");
}

#[test]
fn sighup_loads_the_files_and_a_bad_one_is_told_by_status() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let (old, new) = (at(lab.provider4(0), 443), at(lab.provider4(1), 443));
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, old.ip(), "443/tcp")]));
    let mut daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    theirs.echo(old);
    theirs.echo(new);
    lab.write("adyen", &schedule(Lifetime::open(), &[egress(&payments, new.ip(), "8443/tcp")]));
    daemon.hup();
    clock::until("the new file is in force", MOMENT, || ours.connect(new).is_err());

    assert_eq!(lab.status()["config"]["ok"], true);
    lab.write("acme", BAD);
    daemon.hup();
    clock::until("the status tells", MOMENT, || lab.status()["config"]["ok"] == false);
    assert!(lab.status()["config"]["error"].to_string().contains("acme.toml"));
    assert!(daemon.runs() && ours.talks_to(old));
    lab.remove("acme");
    daemon.hup();
    clock::until("all is well again", MOMENT, || lab.status()["config"]["ok"] == true);
}

#[test]
fn a_list_is_read_again_at_apply() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let (first, second) = (at(lab.provider4(0), 443), at(lab.provider4(1), 443));
    lab.list("api", &format!("{}\n", first.ip()));
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, "@api", "443/tcp")]));
    let _daemon = lab.daemon();
    let (ours, other, theirs) = (lab.process(&payments), lab.process(&lab.unit("other")), lab.provider());
    theirs.echo(first);
    theirs.echo(second);
    assert!(ours.talks_to(first) && other.talks_to(second), "the second is nobody's");
    lab.list("api", &format!("{}\n{}\n", first.ip(), second.ip()));
    lab.picoseg(&["apply"]).ok();
    assert!(ours.talks_to(second) && other.connect(second).is_err());

    put(&lab.etc("lists/api.txt"), "not an address at all\n");
    lab.picoseg(&["apply"]).exits(78).explains(&["api.txt:1:"]);
    assert!(ours.talks_to(second));
}

#[test]
fn check_judges_files_without_a_daemon_and_names_every_mistake() {
    let Some(lab) = Lab::new() else { return };
    lab.write("acme", BAD);
    let said = lab.picoseg(&["check"]).exits(78);
    for place in ["acme.toml:2:1: ", "acme.toml:10:"] {
        assert!(said.stderr.contains(place), "{place} is not in\n{}", said.stderr);
    }
    assert!(said.stderr.contains("owner"), "the nearest known key is proposed:\n{}", said.stderr);
    lab.remove("acme");
    lab.picoseg(&["check"]).ok();
}
