//! `flows`: who talks to which provider right now.

use serde_json::Value;

use crate::agent::{Heard, Manner};
use crate::lab::schedule::{Lifetime, egress, ingress, schedule, schedule_with};
use crate::lab::{Lab, at};

fn flows(lab: &Lab, arguments: &[&str]) -> Vec<Value> {
    let body = lab.picoseg(&[&["flows", "--json"], arguments].concat()).ok().json();
    let flows = body["flows"].as_array().expect("flows are a list").clone();
    assert_eq!(body["flows_total"], flows.len());
    flows
}

fn values<'v>(flow: &'v Value, keys: &[&str]) -> Vec<&'v Value> {
    keys.iter().map(|key| &flow[*key]).collect()
}

#[test]
fn each_connection_to_a_provider_has_its_process_its_bytes_and_its_end() {
    let Some(lab) = Lab::new() else { return };
    let (payments, webhook) = (lab.unit("payments"), lab.unit("webhook"));
    let (remote, caller) = (at(lab.provider4(0), 443), lab.provider6(1));
    let tls = egress(&payments, remote.ip(), "443/tcp").replace("ports", "tls = \"required\"\nports");
    let udp = egress(&payments, lab.provider4(1), "443/udp");
    lab.write("stripe", &schedule(Lifetime::open(), &[tls, udp, ingress(&webhook, caller, "8443/tcp")]));
    let _daemon = lab.daemon();
    assert_eq!(flows(&lab, &[]), Vec::<Value>::new());
    let (ours, hook, theirs) = (lab.process(&payments), lab.process(&webhook), lab.provider());
    let provider = theirs.listen(remote, Manner::Keep);
    let client = ours.connect(provider.local()).expect("admitted");
    let _accepted = provider.accept().expect("admitted");
    // The first six bytes of a ClientHello.
    client.say("\u{16}\u{3}\u{1}\u{0}\u{1}\u{1}0123").expect("it begins with TLS");
    let far = theirs.udp(at(lab.provider4(1), 443));
    let near = ours.udp_to(at(lab.host4(), 9000), far.local());
    near.say("question").expect("admitted");
    assert_ne!(far.hear(), Heard::Nothing);
    let listener = hook.listen(at(lab.host6(), 8443), Manner::Keep);
    let caller = theirs.connect_from(at(caller, 0), listener.local()).expect("admitted");
    let server = listener.accept().expect("admitted");
    caller.say("hello").expect("admitted");
    assert!(server.hears("hello"));

    let closes_at = lab.service("stripe")["closes_at"].clone();
    let found = flows(&lab, &[]);
    let keys = [
        "policy",
        "direction",
        "verdict",
        "protocol",
        "state",
        "bytes_sent",
        "bytes_received",
        "tls",
        "remote",
    ];
    let told: Vec<_> =
        found.iter().map(|flow| Value::from_iter(values(flow, &keys).into_iter().cloned())).collect();
    let expected = [
        serde_json::json!([
            "stripe/egress/0",
            "egress",
            "allow",
            "tcp",
            "ESTAB",
            10,
            0,
            "required",
            remote.to_string()
        ]),
        serde_json::json!([
            "stripe/egress/1",
            "egress",
            "allow",
            "udp",
            null,
            null,
            null,
            null,
            far.local().to_string()
        ]),
        serde_json::json!([
            "stripe/ingress/0",
            "ingress",
            "allow",
            "tcp",
            "ESTAB",
            0,
            5,
            null,
            caller.local().to_string()
        ]),
    ];
    assert_eq!(told, expected, "{found:#?}");
    for (flow, (process, unit)) in
        found.iter().zip([(&ours, &payments), (&ours, &payments), (&hook, &webhook)])
    {
        let subject = format!("unit:{}", unit.name());
        let expected = [Value::from("stripe"), subject.into(), process.who().pid.into(), closes_at.clone()];
        assert_eq!(
            values(flow, &["service", "subject", "pid", "until"]),
            expected.iter().collect::<Vec<_>>()
        );
        assert_eq!(flow["provider"], "Example Provider Ltd");
        assert!(flow["exe"].as_str().is_some_and(|exe| exe.contains("e2e")), "{flow}");
    }
    let table = lab.picoseg(&["flows"]).ok().stdout;
    assert!(table.contains(&remote.to_string()) && table.contains("required"), "{table}");

    client.close();
    lab.picoseg(&["suspend", "stripe", "--reason", "test"]).ok();
    let left: Vec<_> = flows(&lab, &[]).into_iter().filter(|flow| flow["state"] == "ESTAB").collect();
    assert_eq!(left, Vec::<Value>::new(), "what was cut is gone");
}

#[test]
fn what_is_only_observed_says_so_and_services_are_told_apart() {
    let Some(lab) = Lab::new() else { return };
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    let remotes = [0, 1, 2].map(|number| at(lab.provider4(number), 443));
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, remotes[0].ip(), "443/tcp")]));
    let watched = [egress(&payments, remotes[1].ip(), "443/tcp")];
    lab.write("watched", &schedule_with("mode = \"observe\"", Lifetime::open(), &watched));
    let _daemon = lab.daemon();
    let (ours, stranger, theirs) = (lab.process(&payments), lab.process(&other), lab.provider());
    let _listeners = remotes.map(|remote| theirs.listen(remote, Manner::Keep));
    let _kept = [ours.connect(remotes[0]), stranger.connect(remotes[1]), ours.connect(remotes[2])]
        .map(|connected| connected.expect("admitted, observed, ungoverned"));
    let told = |flows: Vec<Value>| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        flows.iter().map(|flow| (text(&flow["service"]), text(&flow["verdict"]))).collect()
    };
    let pair = |service: &str, verdict: &str| (service.to_owned(), verdict.to_owned());
    assert_eq!(told(flows(&lab, &[])), [pair("stripe", "allow"), pair("watched", "observed")]);
    assert_eq!(told(flows(&lab, &["--service", "watched"])), [pair("watched", "observed")]);
    let unobserved = flows(&lab, &["--service", "watched"])[0].clone();
    assert_eq!((&unobserved["policy"], &unobserved["until"]), (&Value::Null, &Value::Null));
    lab.picoseg(&["flows", "--service", "nobody"]).exits(1).explains(&["nobody"]);
}
