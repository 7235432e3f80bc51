//! What is refused is on record: exactly, and attributed.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use crate::agent::{Agent, Kind, Packets};
use crate::lab::clock::{in_ms, now, reach, rfc3339, soon};
use crate::lab::schedule::{Lifetime, egress, ingress, schedule, schedule_with, window};
use crate::lab::{Lab, MOMENT, at, clock};

/// A provider that sends `count` packets to a port of the host that nobody opened.
fn knock(lab: &Lab, provider: &Agent, kind: Kind, from: IpAddr, port: u16, count: u32) {
    let host = if from.is_ipv4() { lab.host4() } else { lab.host6() };
    provider.raw(Packets { kind, from: at(from, 40_000), to: at(host, port), count });
}

#[test]
fn every_refused_packet_of_a_provider_is_counted_and_attributed() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let sources = [lab.provider4(0), lab.provider4(1), lab.provider6(0)];
    for (name, remote) in ["stripe", "adyen", "paypal"].into_iter().zip(sources) {
        lab.write(name, &schedule(Lifetime::open(), &[egress(&payments, remote, "443/tcp")]));
    }
    lab.canary();
    let _daemon = lab.daemon();
    let theirs = lab.provider();
    for (number, remote) in (1..).zip(sources) {
        knock(&lab, &theirs, Kind::Syn, remote, 8443, 100 * number);
        knock(&lab, &theirs, Kind::Udp, remote, 9000, 70 * number);
        knock(&lab, &theirs, Kind::Echo, remote, 0, 5 * number);
    }
    lab.all_on_record(&theirs);
    for ((number, name), remote) in (1..).zip(["stripe", "adyen", "paypal"]).zip(sources) {
        let remote = remote.to_string();
        let of = |protocol| {
            let values =
                [("service", name), ("remote", &remote), ("direction", "ingress"), ("reason", "undeclared")];
            lab.attempts_with(&[&values[..], &[("protocol", protocol), ("verdict", "refused")]].concat())
        };
        assert_eq!((of("tcp"), of("udp")), (100 * number, 70 * number), "{name}");
        assert_eq!(lab.attempts_with(&[("service", name)]), 175 * number, "{name}, echo requests included");
    }
    assert_eq!(lab.status()["attempts_total"], 175 * (1 + 2 + 3) + 1);
}

#[test]
fn the_sum_is_exact_while_details_are_sampled() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remotes = [lab.provider4(0), lab.provider6(0)];
    lab.settings("[attempts]\nlog_rate = \"1/second\"");
    lab.write(
        "stripe",
        &schedule(Lifetime::over(), &remotes.map(|remote| egress(&payments, remote, "443/tcp"))),
    );
    lab.canary();
    let _daemon = lab.daemon();
    let theirs = lab.provider();
    for remote in remotes {
        knock(&lab, &theirs, Kind::Syn, remote, 8443, 5_000);
        knock(&lab, &theirs, Kind::Udp, remote, 9000, 5_000);
    }
    lab.all_on_record(&theirs);
    for remote in remotes {
        let values = [("remote", &*remote.to_string()), ("direction", "ingress"), ("reason", "expired")];
        assert_eq!(lab.attempts_with(&values), 10_000, "{remote}");
    }
}

#[test]
fn bare_resets_are_no_attempts_and_resets_with_payload_are() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remotes = [lab.provider4(0), lab.provider6(0)];
    lab.write(
        "stripe",
        &schedule(Lifetime::open(), &remotes.map(|remote| egress(&payments, remote, "443/tcp"))),
    );
    lab.canary();
    let _daemon = lab.daemon();
    let theirs = lab.provider();
    for remote in remotes {
        knock(&lab, &theirs, Kind::Reset, remote, 8443, 40);
    }
    lab.expect_no_attempts(&theirs);
    for remote in remotes {
        knock(&lab, &theirs, Kind::ResetWithData, remote, 8443, 30);
    }
    lab.all_on_record(&theirs);
    assert_eq!(lab.attempts_with(&[("service", "stripe"), ("protocol", "tcp")]), 60);
}

#[test]
fn an_outbound_attempt_names_the_user() {
    let Some(lab) = Lab::new() else { return };
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    let remotes = [lab.provider4(0), lab.provider6(0)];
    lab.write(
        "stripe",
        &schedule(Lifetime::open(), &remotes.map(|remote| egress(&payments, remote, "443/tcp"))),
    );
    lab.canary();
    let _daemon = lab.daemon();
    let (user, theirs) = (lab.process_of(&other, 4711), lab.provider());
    for remote in remotes {
        for _ in 0..7 {
            assert!(user.connect(at(remote, 443)).is_err());
        }
        user.udp_each(at(remote, 443), 9);
    }
    lab.all_on_record(&theirs);
    let outbound = [("service", "stripe"), ("direction", "egress"), ("reason", "undeclared")];
    assert_eq!(
        lab.attempts_with(&[&outbound[..], &[("protocol", "tcp"), ("remote_port", "443")]].concat()),
        14
    );
    assert_eq!(lab.attempts_with(&[&outbound[..], &[("protocol", "udp"), ("uid", "4711")]].concat()), 18);
    assert_eq!(lab.attempts_with(&[("uid", "4711")]), 32);
}

#[test]
fn every_state_gives_its_reason() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let tables = |number| {
        [window(in_ms(1_800_000), in_ms(1_900_000)), egress(&payments, lab.provider4(number), "443/tcp")]
    };
    let any_time = |number| [egress(&payments, lab.provider4(number), "443/tcp")];
    let suspended = schedule_with("state = \"suspended\"", Lifetime::open(), &any_time(1));
    let cases = [
        ("closed", schedule(Lifetime::open(), &tables(0)), "closed", "closed"),
        ("suspended", suspended, "suspended", "suspended"),
        ("pending", schedule(Lifetime::ahead(), &any_time(2)), "pending", "pending"),
        ("ended", schedule(Lifetime::over(), &any_time(3)), "decommissioned", "expired"),
        ("open", schedule(Lifetime::open(), &any_time(4)), "open", "undeclared"),
    ];
    for (name, text, _, _) in &cases {
        lab.write(name, text);
    }
    lab.canary();
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    for number in 0..5 {
        knock(&lab, &theirs, Kind::Syn, lab.provider4(number), 8443, 3);
        // Port 444: a port that not even the open one admits.
        assert!(ours.connect(at(lab.provider4(number), 444)).is_err());
    }
    lab.all_on_record(&theirs);
    for (name, _, state, reason) in &cases {
        assert_eq!(&lab.state_of(name), state);
        assert_eq!(
            lab.attempts_with(&[("service", name), ("direction", "ingress"), ("reason", reason)]),
            3,
            "{name}"
        );
        assert_eq!(
            lab.attempts_with(&[("service", name), ("direction", "egress"), ("reason", reason)]),
            1,
            "{name}"
        );
        assert_eq!(lab.attempts_with(&[("service", name)]), 4, "{name}");
    }
}

#[test]
fn what_was_refused_without_the_daemon_is_on_record_afterwards() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remote = lab.provider4(0);
    lab.write("stripe", &schedule(Lifetime::over(), &[egress(&payments, remote, "443/tcp")]));
    lab.canary();
    let daemon = lab.daemon();
    let theirs = lab.provider();
    let expired = [("service", "stripe"), ("reason", "expired")];
    knock(&lab, &theirs, Kind::Syn, remote, 8443, 100);
    lab.all_on_record(&theirs);
    assert_eq!(lab.attempts_with(&expired), 100);

    daemon.kill9();
    knock(&lab, &theirs, Kind::Syn, remote, 8443, 60);
    let daemon = lab.daemon();
    lab.all_on_record(&theirs);
    assert_eq!(lab.attempts_with(&expired), 160, "killed");

    assert!(daemon.term().success());
    knock(&lab, &theirs, Kind::Udp, remote, 8443, 7);
    let _daemon = lab.daemon();
    lab.all_on_record(&theirs);
    assert_eq!(lab.attempts_with(&expired), 167, "stopped");
}

#[test]
fn a_lifetime_that_ends_without_the_daemon_gives_the_reason_expired() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remote = lab.provider4(0);
    let close = soon(4_000);
    lab.write("stripe", &schedule(Lifetime::until(close), &[egress(&payments, remote, "443/tcp")]));
    lab.canary();
    let daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    daemon.kill9();
    knock(&lab, &theirs, Kind::Syn, remote, 8443, 5);
    assert!(now() < close, "the machine is too slow for this test");
    reach(close);
    knock(&lab, &theirs, Kind::Syn, remote, 8443, 30);
    assert!(ours.connect(at(remote, 443)).is_err());
    let _daemon = lab.daemon();
    lab.all_on_record(&theirs);
    let count = |reason, direction| {
        lab.attempts_with(&[("service", "stripe"), ("reason", reason), ("direction", direction)])
    };
    assert_eq!(
        (count("undeclared", "ingress"), count("expired", "ingress"), count("expired", "egress")),
        (5, 30, 1)
    );
    assert_eq!(lab.attempts_with(&[("service", "stripe")]), 36);
}

#[test]
fn a_kill_at_any_moment_neither_loses_nor_doubles_a_count() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remote = lab.provider4(0);
    lab.write("stripe", &schedule(Lifetime::over(), &[egress(&payments, remote, "443/tcp")]));
    lab.canary();
    let theirs = lab.provider();
    let mut daemon = lab.daemon();
    let packets =
        Packets { kind: Kind::Udp, from: at(remote, 40_000), to: at(lab.host4(), 9000), count: 4_000 };
    let flood = theirs.raw_pump(packets, Duration::from_millis(1));
    for sent in [700, 1_500, 2_300, 3_100] {
        clock::until("the flood goes on", Duration::from_secs(30), || flood.flow().sent >= sent);
        daemon.kill9();
        daemon = lab.daemon();
    }
    clock::until("the flood ends", Duration::from_secs(30), || flood.flow().sent == 4_000);
    lab.all_on_record(&theirs);
    assert_eq!(lab.attempts_with(&[("service", "stripe")]), 4_000, "{:#?}", lab.attempts());
}

#[test]
fn a_change_of_the_rules_loses_no_count() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remote = lab.provider4(0);
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, remote, "443/tcp")]));
    lab.canary();
    let _daemon = lab.daemon();
    let theirs = lab.provider();
    let packets =
        Packets { kind: Kind::Udp, from: at(remote, 40_000), to: at(lab.host4(), 9000), count: 3_000 };
    let flood = theirs.raw_pump(packets, Duration::from_millis(1));
    for number in 1..6 {
        lab.write(
            &format!("more{number}"),
            &schedule(Lifetime::open(), &[egress(&payments, lab.provider4(number), "443/tcp")]),
        );
        lab.picoseg(&["apply"]).ok();
        lab.picoseg(&["suspend", "stripe", "--reason", "test"]).ok();
        lab.picoseg(&["resume", "stripe", "--reason", "test"]).ok();
    }
    clock::until("the flood ends", Duration::from_secs(60), || flood.flow().sent == 3_000);
    lab.all_on_record(&theirs);
    assert_eq!(
        lab.attempts_with(&[("service", "stripe"), ("direction", "ingress")]),
        3_000,
        "suspended and undeclared"
    );
}

#[test]
fn a_row_has_every_fact_or_null() {
    let Some(lab) = Lab::new() else { return };
    let webhook = lab.unit("webhook");
    lab.write("hooks", &schedule(Lifetime::over(), &[ingress(&webhook, lab.provider4(0), "8443/tcp")]));
    let _daemon = lab.daemon();
    // Some time in which nothing is due: rows have the time of their packets all the same.
    reach(in_ms(1_500));
    let before = now();
    knock(&lab, &lab.provider(), Kind::Syn, lab.provider4(0), 8443, 2);
    lab.expect_attempts(2, &[("service", "hooks")]);
    let body = lab.picoseg(&["attempts", "--json"]).ok().json();
    assert_eq!(body["schema"], 1);
    for row in body["attempts"].as_array().expect("rows") {
        let keys: BTreeSet<_> = row.as_object().expect("an object").keys().map(String::as_str).collect();
        let wanted = "service provider policy direction reason verdict protocol remote remote_port local local_port \
                      subject uid also count first_seen last_seen";
        let missing: Vec<_> = wanted.split_whitespace().filter(|key| !keys.contains(key)).collect();
        assert!(missing.is_empty(), "{missing:?} missing in {row}");
        assert_eq!(
            (&row["provider"], &row["local_port"]),
            (&"Example Provider Ltd".into(), &8443.into()),
            "{row}"
        );
        assert_eq!(row["remote"], lab.provider4(0).to_string(), "{row}");
        let seen = |key: &str| row[key].as_str().and_then(|t| t.parse::<clock::Time>().ok()).expect("a time");
        assert!(before <= seen("first_seen"), "{row}");
        assert!(seen("first_seen") <= seen("last_seen") && seen("last_seen") <= in_ms(1_000), "{row}");
    }
}

#[test]
fn attempts_are_narrowed_by_service_and_time() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    for (name, number) in [("stripe", 0), ("adyen", 1)] {
        lab.write(name, &schedule(Lifetime::over(), &[egress(&payments, lab.provider4(number), "443/tcp")]));
    }
    let _daemon = lab.daemon();
    let theirs = lab.provider();
    for number in [0, 1] {
        knock(&lab, &theirs, Kind::Syn, lab.provider4(number), 8443, 2);
    }
    lab.expect_attempts(4, &[]);
    let rows = |arguments: &[&str]| {
        let body = lab.picoseg(&[&["attempts", "--json"], arguments].concat()).ok().json();
        let names = body["attempts"].as_array().expect("rows").iter().map(|row| row["service"].to_string());
        names.collect::<BTreeSet<_>>()
    };
    assert_eq!(rows(&["--service", "adyen"]), BTreeSet::from(["\"adyen\"".to_owned()]));
    assert_eq!(rows(&["--since", &rfc3339(in_ms(-60_000))]).len(), 2);
    clock::until("a later time has none", MOMENT, || rows(&["--since", &rfc3339(now())]).is_empty());
    let text = lab.picoseg(&["attempts"]).ok().stdout;
    for fact in ["stripe", "adyen", "Example Provider Ltd", "expired", "8443", &lab.provider4(1).to_string()]
    {
        assert!(text.contains(fact), "{fact} is not in\n{text}");
    }
}
