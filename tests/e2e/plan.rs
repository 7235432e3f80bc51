//! `plan`: what `apply` would do, without doing it.

use serde_json::Value;

use crate::agent::{Agent, Manner, Socket};
use crate::lab::schedule::{Lifetime, egress, ingress, schedule, schedule_with};
use crate::lab::{Cli, Lab, Unit, at};

/// Both ends of a connection to a listener of the provider.
fn connected<'a>(ours: &'a Agent, listener: &Socket<'a>) -> (Socket<'a>, Socket<'a>) {
    let client = ours.connect(listener.local()).expect("admitted");
    (client, listener.accept().expect("admitted"))
}

fn plan(lab: &Lab) -> Value {
    lab.picoseg(&["plan", "--json"]).ok().json()
}

fn changes(plan: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let changes = plan["changes"].as_array().expect("changes are a list");
    changes.iter().map(|change| (text(&change["kind"]), text(&change["name"]))).collect()
}

/// Service or policy, and remote end.
fn cuts(plan: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let cuts = plan["cuts"].as_array().expect("cuts are a list");
    assert_eq!(plan["cuts_total"], cuts.len());
    let by = |cut: &Value| text(&cut["service"]).or(text(&cut["policy"])).expect("somebody");
    cuts.iter().map(|cut| (by(cut), text(&cut["remote"]).expect("an address"))).collect()
}

fn warnings(plan: &Value) -> String {
    plan["warnings"].to_string()
}

fn entries(lab: &Lab) -> usize {
    let shown = lab.picoseg(&["audit", "show", "--json"]).ok().json();
    shown["entries"].as_array().expect("entries are a list").len()
}

fn pair(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

#[test]
fn a_plan_tells_what_apply_then_does_and_does_nothing_itself() {
    let Some(lab) = Lab::new() else { return };
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    let remotes = [0, 1, 2, 3].map(|number| lab.provider4(number));
    let to = |unit: &Unit, number: usize| egress(unit, remotes[number], "443/tcp");
    lab.write("gone", &schedule(Lifetime::open(), &[to(&payments, 0)]));
    lab.write("kept", &schedule(Lifetime::open(), &[to(&payments, 1)]));
    lab.write("paused", &schedule(Lifetime::open(), &[to(&payments, 2)]));
    let _daemon = lab.daemon();
    let (ours, stranger, theirs) = (lab.process(&payments), lab.process(&other), lab.provider());
    let listeners = remotes.map(|remote| theirs.listen(at(remote, 443), Manner::Keep));
    let flows = [0, 1, 2].map(|number: usize| connected(&ours, &listeners[number]));
    // Nobody governs this address yet: a stranger may, and so may whom the new service names.
    let free = [&stranger, &ours].map(|process| connected(process, &listeners[3]));
    let said = lab.picoseg(&["plan", "--exit-code"]).ok();
    assert!(said.stdout.contains("nothing to change"), "{}", said.stdout);

    lab.remove("gone");
    lab.write("paused", &schedule_with("state = \"suspended\"", Lifetime::open(), &[to(&payments, 2)]));
    lab.write("new", &schedule(Lifetime::open(), &[to(&payments, 3)]));
    let (before, on_record) = (lab.status(), entries(&lab));
    let planned = plan(&lab);
    let all = [
        pair("service.removed", "gone"),
        pair("service.added", "new"),
        pair("service.changed", "paused"),
        pair("service.state", "paused"),
    ];
    assert_eq!(changes(&planned), all, "{planned}");
    let remote = |number: usize| at(remotes[number], 443).to_string();
    assert_eq!(
        cuts(&planned),
        [pair("gone", &remote(0)), pair("new", &remote(3)), pair("paused", &remote(2))],
        "{planned}"
    );
    let of_stranger = &planned["cuts"][1];
    assert_eq!(of_stranger["subject"], format!("unit:{}", other.name()));
    assert_eq!((&of_stranger["protocol"], planned["warnings"].to_string()), (&"tcp".into(), "[]".into()));

    lab.picoseg(&["plan", "--exit-code"]).exits(4);
    lab.picoseg_over(&lab.runtime().join("observe.sock"), &["plan", "--exit-code"]).exits(4);
    let still = lab.status();
    assert_eq!(
        (&still["ruleset_digest"], &still["services"], &still["config"]),
        (&before["ruleset_digest"], &before["services"], &before["config"])
    );
    assert_eq!(entries(&lab), on_record, "a plan is no act");
    assert!(flows.iter().chain(&free).all(|(client, server)| client.alive() && server.alive()));

    lab.picoseg(&["apply"]).ok();
    let alive = |(client, server): &(Socket, Socket)| (client.alive(), server.alive());
    assert_eq!(flows.iter().map(alive).collect::<Vec<_>>(), [(false, false), (true, true), (false, false)]);
    assert_eq!(free.iter().map(alive).collect::<Vec<_>>(), [(false, false), (true, true)]);
    assert_eq!(changes(&plan(&lab)), []);
    lab.picoseg(&["plan", "--exit-code"]).ok();
}

#[test]
fn a_segment_is_planned_with_what_it_cuts() {
    let Some(lab) = Lab::new() else { return };
    let (inside, remote) = (lab.unit("inside"), lab.provider6(0));
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&inside), lab.provider());
    let (client, server) = connected(&ours, &theirs.listen(at(remote, 443), Manner::Keep));
    lab.segment("box", &format!("subject = {{ unit = \"{}\" }}\nmode = \"observe\"\n", inside.name()));
    assert_eq!(cuts(&plan(&lab)), [], "an observer cuts nothing");
    lab.segment("box", &format!("subject = {{ unit = \"{}\" }}\n", inside.name()));
    let planned = plan(&lab);
    assert_eq!(changes(&planned), [pair("segment.added", "box")]);
    assert_eq!(cuts(&planned), [pair("segment/box", &at(remote, 443).to_string())]);
    assert!(client.alive() && server.alive());
    lab.picoseg(&["apply"]).ok();
    assert!(!client.alive() && !server.alive());
    assert_eq!(changes(&plan(&lab)), []);
}

#[test]
fn who_would_be_locked_out_is_told_before() {
    let Some(lab) = Lab::new() else { return };
    let (sshd, session) = (lab.unit("sshd"), lab.provider4(0));
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&sshd), lab.provider());
    let listener = ours.listen(at(lab.host4(), 22), Manner::Keep);
    let client = theirs.connect_from(at(session, 0), listener.local()).expect("nothing is governed");
    let server = listener.accept().expect("nothing is governed");

    lab.write("support", &schedule(Lifetime::over(), &[ingress(&sshd, session, "22/tcp")]));
    let planned = plan(&lab);
    assert!(warnings(&planned).contains(&format!("lock-out: the SSH session from {session}")), "{planned}");
    assert_eq!(cuts(&planned), [pair("support", &client.local().to_string())]);
    lab.remove("support");

    lab.segment("box", &format!("subject = {{ unit = \"{}\" }}\n", sshd.name()));
    let planned = plan(&lab);
    assert_eq!(cuts(&planned), [], "the fail-safe keeps it: {planned}");
    assert!(warnings(&planned).contains("as far as [failsafe] goes"), "{planned}");
    lab.settings("[failsafe]\nports = []");
    let planned = plan(&lab);
    for told in [
        "lock-out: the SSH session from",
        "no longer keep 22/tcp reachable",
        "nobody can connect to it any more",
    ] {
        assert!(warnings(&planned).contains(told), "{told} is not in {planned}");
    }
    assert!(client.alive() && server.alive());
}

#[test]
fn what_admits_nothing_and_what_would_be_refused_is_told_before() {
    let Some(lab) = Lab::new() else { return };
    let (payments, resolver) = (lab.unit("payments"), lab.provider4(5));
    lab.resolvers(&[resolver]);
    let _daemon = lab.daemon();
    let policies = [egress(&payments, "api.example.com", "443/tcp"), egress(&payments, resolver, "443/tcp")];
    lab.write("acme", &schedule(Lifetime::open(), &policies).replace(payments.name(), "nowhere.service"));
    lab.settings("[enforcement]\ntable = \"other\"");
    let planned = plan(&lab);
    for told in [
        "unit:nowhere.service of acme is not there right now",
        "acme/egress/0 admits nothing yet",
        &format!("governs {resolver}, which this host asks for names"),
        "`apply` would refuse this: enforcement.table cannot change while the daemon runs",
    ] {
        assert!(warnings(&planned).contains(told), "{told} is not in {planned}");
    }
    lab.picoseg(&["apply"]).exits(1);
}

#[test]
fn a_plan_of_bad_files_is_their_diagnostics_and_without_a_daemon_there_is_none() {
    let Some(lab) = Lab::new() else { return };
    let daemon = lab.daemon();
    lab.write("acme", "provider = 7\n");
    let told = |said: Cli| said.exits(78).explains(&["acme.toml:1:"]);
    told(lab.picoseg(&["plan"]));
    told(lab.picoseg(&["plan", "--exit-code"]));
    let body = lab.picoseg(&["plan", "--json"]).exits(78).json();
    assert!(body["diagnostics"].as_array().is_some_and(|all| !all.is_empty()), "{body}");
    lab.picoseg(&["apply"]).exits(78);
    lab.remove("acme");
    let planned = plan(&lab);
    assert_eq!(changes(&planned), [pair("config.accepted", "-")], "`status` still says that they are bad");
    lab.picoseg(&["apply"]).ok();
    assert_eq!(changes(&plan(&lab)), []);
    assert!(daemon.term().success());
    lab.picoseg(&["plan", "--exit-code"]).exits(3);
}
