//! The decommission report, made from real traffic.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;

use crate::agent::{Agent, Kind, Manner, Packets};
use crate::lab::clock::{self, now, reach, soon};
use crate::lab::schedule::{Lifetime, egress, ingress, schedule};
use crate::lab::{Lab, MOMENT, TOLD_WITHIN, at};

/// One record a millisecond.
const STEADY: Duration = Duration::from_millis(1);
/// The two seconds after a close, and what a loaded machine takes beside them.
const SETTLED: Duration = Duration::from_secs(8);

fn report(lab: &Lab, name: &str) -> Value {
    lab.picoseg(&["report", name, "--json"]).ok().json()
}

/// The report once what was in flight is told apart.
fn settled(lab: &Lab, name: &str) -> Value {
    clock::eventually("what was in flight is told apart", SETTLED, || {
        Some(report(lab, name)).filter(|report| !report["teardown"]["at_close"].is_null())
    })
}

fn knock(lab: &Lab, provider: &Agent, from: IpAddr, count: u32) {
    let host = if from.is_ipv4() { lab.host4() } else { lab.host6() };
    provider.raw(Packets { kind: Kind::Syn, from: at(from, 40_000), to: at(host, 8443), count });
}

/// What the report lists for an address, and what it sums up.
fn attempts_of(report: &Value, remote: IpAddr) -> u64 {
    let rows = report["attempts"].as_array().expect("a list");
    rows.iter()
        .filter(|row| row["remote"] == *remote.to_string())
        .map(|row| row["count"].as_u64().unwrap())
        .sum()
}

#[test]
fn what_is_in_flight_at_the_close_is_no_later_attempt_and_what_comes_later_is() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let (remote, second) = (at(lab.provider4(0), 443), lab.provider6(1));
    let policies = [egress(&payments, remote.ip(), "443/tcp"), ingress(&payments, second, "8443/tcp")];
    lab.write("stripe", &schedule(Lifetime::open(), &policies));
    lab.canary();
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let listener = theirs.listen(remote, Manner::Keep);
    let client = ours.connect(remote).expect("admitted");
    let server = listener.accept().expect("admitted");
    for end in [&client, &server] {
        end.drain();
        end.pump(STEADY);
    }
    client.moves_on();
    server.moves_on();
    // What does not care for resets goes on: for half a second it counts as in flight.
    let host = at(lab.host4(), 9_000);
    let stray = Packets { kind: Kind::Udp, from: at(remote.ip(), 9_000), to: host, count: 500 };
    let pump = theirs.raw_pump(stray, STEADY);

    let before = now();
    lab.picoseg(&["decommission", "stripe", "--reason", "contract ended"]).ok();
    client.ends_within(MOMENT);
    server.ends_within(MOMENT);
    pump.close();
    let closed = report(&lab, "stripe");
    assert_eq!(closed["teardown"]["residue"], serde_json::json!([]));
    assert!(closed["teardown"]["sockets_closed"].as_u64() >= Some(1), "{closed}");

    let settled = settled(&lab, "stripe");
    let at_close = settled["teardown"]["at_close"].as_u64().expect("told apart");
    assert!(at_close > 0, "the stream was still in flight: {settled}");
    assert_eq!(settled["attempts"], serde_json::json!([]), "nobody came back: {settled}");
    assert_eq!(settled["attempts_total"], 0);

    reach(before + chrono::TimeDelta::seconds(5));
    knock(&lab, &theirs, remote.ip(), 7);
    knock(&lab, &theirs, second, 3);
    assert!(ours.connect(remote).is_err());
    lab.all_on_record(&theirs);
    let later = report(&lab, "stripe");
    assert_eq!(
        (attempts_of(&later, remote.ip()), attempts_of(&later, second)),
        (7 + 1, 3),
        "both ways: {later}"
    );
    assert_eq!((&later["attempts_total"], &later["sources_total"]), (&11.into(), &2.into()), "{later}");
    let bars = later["series"]["buckets"].as_array().unwrap().iter();
    let charted: u64 =
        bars.flat_map(|bar| bar["counts"].as_array().unwrap()).map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(charted, 11, "the chart has the same: {later}");
    assert_eq!(later["teardown"]["at_close"], at_close, "what was in flight stays what it was");
    // Nothing is lost: the sum is what the kernel counted.
    let expired = [("service", "stripe"), ("reason", "expired")];
    assert_eq!(lab.attempts_with(&expired), at_close + 11);
}

#[test]
fn a_report_says_who_ended_it_what_was_cut_and_where_that_stands() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remote = at(lab.provider4(0), 443);
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, remote.ip(), "443/tcp")]));
    let _daemon = lab.daemon();
    let open = report(&lab, "stripe");
    assert_eq!(
        (&open["decommissioned_at"], &open["teardown"], &open["order"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    lab.picoseg(&["report", "nobody"]).exits(1).explains(&["nobody"]);

    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let listener = theirs.listen(remote, Manner::Keep);
    let connections =
        [(); 3].map(|()| (ours.connect(remote).expect("admitted"), listener.accept().expect("admitted")));
    lab.picoseg(&["decommission", "stripe", "--reason", "the contract | ended"]).ok();
    connections.iter().for_each(|(client, server)| {
        client.ends_within(MOMENT);
        server.ends_within(TOLD_WITHIN);
    });
    let closed = report(&lab, "stripe");
    assert_eq!(closed["schema"], 1);
    assert_eq!((&closed["state"], &closed["cause"]), (&"decommissioned".into(), &"order".into()));
    assert_eq!(closed["order"]["reason"], "the contract | ended");
    assert!(closed["order"]["by"].as_str().unwrap().contains("uid 0"), "{closed}");
    assert_eq!(closed["teardown"]["sockets_closed"], 3, "{closed}");
    let ledger = &closed["ledger"];
    let entries = ledger["entries"].as_array().unwrap();
    let kinds: Vec<_> = entries.iter().map(|entry| entry["kind"].as_str().unwrap()).collect();
    assert!(kinds.contains(&"service.decommissioned") && kinds.contains(&"teardown.completed"), "{kinds:?}");
    assert_eq!(ledger["first_seq"], entries[0]["seq"]);
    assert_eq!(ledger["last_seq"], entries.last().unwrap()["seq"]);
    assert_eq!(ledger["head_hash"].as_str().unwrap().len(), 64);

    // What the other formats show comes from the same body.
    for (format, ended) in [
        ("text", "nothing was left connected"),
        ("markdown", "nothing was left connected"),
        ("html", "nothing was left connected"),
    ] {
        let said = lab.picoseg(&["report", "stripe", "--format", format]).ok();
        assert!(said.stdout.replace('\n', " ").contains(ended), "{format}: {}", said.stdout);
    }
}

#[test]
fn a_close_that_no_daemon_saw_is_not_told_apart_and_says_so() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remote = at(lab.provider4(0), 443);
    let close = soon(5_000);
    lab.write("stripe", &schedule(Lifetime::until(close), &[egress(&payments, remote.ip(), "443/tcp")]));
    let daemon = lab.daemon();
    let theirs = lab.provider();
    daemon.kill9();
    reach(close + chrono::TimeDelta::milliseconds(100));
    knock(&lab, &theirs, remote.ip(), 5);
    reach(close + chrono::TimeDelta::milliseconds(2_500));
    let _daemon = lab.daemon();
    lab.expect_attempts(5, &[("service", "stripe"), ("reason", "expired")]);
    let report = report(&lab, "stripe");
    assert_eq!(report["cause"], "time");
    assert_eq!(report["teardown"]["at_close"], Value::Null, "{report}");
    assert_eq!(attempts_of(&report, remote.ip()), 5, "nothing is hidden: {report}");
    assert!(!report["teardown"]["completed_at"].is_null());
}

#[test]
fn a_removed_file_names_who_had_the_files_loaded() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, lab.provider4(0), "443/tcp")]));
    let _daemon = lab.daemon();
    lab.remove("stripe");
    lab.picoseg(&["apply"]).ok();
    let report = report(&lab, "stripe");
    assert_eq!((&report["cause"], &report["order"]), (&"removed".into(), &Value::Null));
    assert_eq!(report["applied"]["kind"], "config.applied");
    assert!(report["applied"]["by"].as_str().unwrap().contains("uid 0"), "{report}");
}
