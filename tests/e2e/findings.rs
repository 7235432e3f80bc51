//! `picoseg show`: where subjects are and since when, and sockets that were made elsewhere.

use serde_json::Value;

use crate::agent::Manner;
use crate::lab::clock::{in_ms, rfc3339};
use crate::lab::schedule::{Lifetime, egress, ingress, policy, schedule};
use crate::lab::{Lab, MOMENT, SHOWN, at, clock, public4};

fn show(lab: &Lab) -> Value {
    lab.picoseg(&["show", "stripe", "--json"]).ok().json()
}

/// What was found, one text a finding.
fn findings(lab: &Lab) -> Vec<String> {
    let show = show(lab);
    assert_eq!(show["findings_error"], Value::Null, "{show}");
    let findings = show["findings"].as_array().expect("a list").iter();
    findings.map(|one| format!("{} {} {}", one["policy"], one["what"], one["remedy"])).collect()
}

fn has(found: &[String], words: &[&str]) -> bool {
    found.len() == 1 && words.iter().all(|word| found[0].contains(word))
}

#[test]
fn a_listener_that_was_made_elsewhere_is_found_until_the_unit_makes_its_own() {
    let Some(lab) = Lab::new() else { return };
    let (maker, web) = (lab.unit("maker"), lab.unit("web"));
    let (theirs, local) = (lab.provider(), at(lab.host4(), 8443));
    lab.write("stripe", &schedule(Lifetime::open(), &[ingress(&web, lab.provider4(0), "8443/tcp")]));
    let _daemon = lab.daemon();
    let from = at(lab.provider4(0), 0);
    assert_eq!(findings(&lab), [""; 0]);

    // As by socket activation: made in one cgroup, served in another.
    let activated = lab.process(&maker);
    let _listener = activated.listen(local, Manner::Echo);
    let found = findings(&lab);
    assert!(has(&found, &["stripe/ingress/0", "8443", maker.name(), "end what listens"]), "{found:?}");
    activated.move_to(web.dir());
    let pid = activated.who().pid.to_string();
    let found = findings(&lab);
    let restart = format!("systemctl restart {}", web.name());
    assert!(has(&found, &["TCP", "8443", maker.name(), &pid, &restart]), "{found:?}");
    assert!(theirs.connect_from(from, local).is_err(), "nothing is admitted for it");
    let said = lab.picoseg(&["show", "stripe"]).ok().stdout;
    assert!(said.contains("found  ") && said.contains("remedy"), "{said}");

    drop(activated);
    let restarted = lab.process(&web);
    let _own = restarted.listen(local, Manner::Echo);
    assert_eq!(findings(&lab), [""; 0]);
    assert!(theirs.connect_from(from, local).is_ok());
}

#[test]
fn a_listener_is_what_it_should_be_when_a_policy_names_its_maker() {
    let Some(lab) = Lab::new() else { return };
    let (maker, web) = (lab.unit("maker"), lab.unit("web"));
    let (theirs, local) = (lab.provider(), at(lab.host4(), 8443));
    let to = |unit| ingress(unit, lab.provider4(0), "8443/tcp");
    lab.write("stripe", &schedule(Lifetime::open(), &[to(&web), to(&maker)]));
    let _daemon = lab.daemon();
    let activated = lab.process(&maker);
    let _listener = activated.listen(local, Manner::Echo);
    activated.move_to(web.dir());
    assert_eq!(findings(&lab), [""; 0]);
    assert!(theirs.connect_from(at(lab.provider4(0), 0), local).is_ok(), "the remedy is one");
}

#[test]
fn a_socket_that_a_process_brought_along_is_found_and_those_of_others_are_not() {
    let Some(lab) = Lab::new() else { return };
    let (before, payments, other) = (lab.unit("before"), lab.unit("payments"), lab.unit("other"));
    let remote = at(lab.provider4(0), 443);
    let granted =
        policy("egress", &format!("unit = \"{}\"", other.name()), &remote.ip().to_string(), "443/udp");
    let policies = [egress(&payments, remote.ip(), "443/udp"), granted];
    lab.write("stripe", &schedule(Lifetime::open(), &policies));
    let _daemon = lab.daemon();
    let stranger = lab.process(&other);
    let _theirs = stranger.udp_to(at(lab.host4(), 0), remote);
    let ours = lab.process(&before);
    let brought = ours.udp_to(at(lab.host4(), 0), remote);
    let _loose = ours.udp(at(lab.host4(), 5353));
    assert_eq!(findings(&lab), [""; 0], "no process of the subject holds it");
    ours.move_to(payments.dir());
    let found = findings(&lab);
    let (pid, restart) = (ours.who().pid.to_string(), format!("systemctl restart {}", payments.name()));
    assert_eq!(found.len(), 2, "{found:?}");
    let connected = brought.local().port().to_string();
    for port in [connected.as_str(), "5353"] {
        let one: Vec<_> = found.iter().filter(|text| text.contains(port)).cloned().collect();
        assert!(has(&one, &["stripe/egress/0", before.name(), &pid, &restart]), "{found:?}");
    }
    drop(ours);
    let anew = lab.process(&payments);
    let _own = anew.udp_to(at(lab.host4(), 0), remote);
    assert_eq!(findings(&lab), [""; 0]);
}

#[test]
fn show_says_since_when_a_subject_is_where_it_is_and_why_it_is_nowhere() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, lab.provider4(0), "443/tcp")]));
    let started = rfc3339(in_ms(0));
    let _daemon = lab.daemon();
    let subject = || show(&lab)["subjects"][0].clone();
    let first = subject();
    assert!(first["since"].as_str() >= Some(started.as_str()), "{first}");
    assert_eq!((&first["reason"], &first["places"][0]["uid"]), (&Value::Null, &Value::Null));

    payments.remove();
    let gone = clock::within(MOMENT, || Some(subject()).filter(|now| now["places"] == Value::Array(vec![])));
    let gone = gone.expect("the daemon sees it go");
    assert!(gone["since"].as_str() > first["since"].as_str(), "{first} {gone}");
    assert!(gone["reason"].as_str().is_some_and(|reason| reason.contains("does not run")), "{gone}");
    payments.create();
    lab.picoseg(&["settle", payments.name()]).ok();
    let back = subject();
    assert!(back["since"].as_str() > gone["since"].as_str() && back["reason"] == Value::Null, "{back}");
    assert_ne!(back["places"][0]["id"], first["places"][0]["id"]);
}

#[test]
fn show_says_what_a_name_stands_for_and_what_of_it_is_ignored() {
    let Some(lab) = Lab::new() else { return };
    lab.public(2);
    let (server, payments) = (lab.name_server(5), lab.unit("payments"));
    lab.resolvers(&[lab.provider4(5)]);
    let inside = lab.provider4(1);
    server.set("api.example.com", &[public4(0), inside], 60);
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, "api.example.com", "443/tcp")]));
    let _daemon = lab.daemon();
    let host = || show(&lab)["subjects"][0]["names"][0].clone();
    let resolved = clock::within(SHOWN, || Some(host()).filter(|host| host["addresses"][0] != Value::Null));
    let host = resolved.expect("it is resolved");
    let address = &host["addresses"][0];
    assert_eq!(address["address"], public4(0).to_string());
    assert!(address["resolved"] == true && address["since"].is_string(), "{host}");
    assert_eq!((&host["ignored"][0], &host["error"]), (&inside.to_string().into(), &Value::Null), "{host}");
    let said = lab.picoseg(&["show", "stripe"]).ok().stdout;
    assert!(said.contains("no prefix lists them") && said.contains("api.example.com: "), "{said}");
}
