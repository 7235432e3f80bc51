//! `picoseg explain` says what the kernel does.

use std::net::SocketAddr;

use serde_json::Value;

use crate::lab::clock::{in_ms, rfc3339};
use crate::lab::schedule::{Lifetime, egress, ingress, policy, schedule, window};
use crate::lab::{Lab, Unit, at};

fn explain(lab: &Lab, unit: &Unit, remote: SocketAddr, more: &[&str]) -> Value {
    let (subject, remote) = (format!("unit:{}", unit.name()), format!("{remote}/tcp"));
    let arguments = ["explain", "--json", "--subject", &subject, "--remote", &remote];
    lab.picoseg(&[&arguments[..], more].concat()).ok().json()
}

#[test]
fn explain_and_the_kernel_agree_about_every_neighbour() {
    let Some(lab) = Lab::new() else { return };
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    let slice = payments.path().parent().unwrap().display().to_string();
    let [mine, shared, closed, free] = [0, 1, 2, 3].map(|number| lab.provider4(number));
    let everybody = policy("egress", &format!("cgroup = \"{slice}\""), &shared.to_string(), "443/tcp");
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, mine, "443/tcp"), everybody]));
    let later = [window(in_ms(600_000), in_ms(660_000)), egress(&payments, closed, "443/tcp")];
    lab.write("later", &schedule(Lifetime::open(), &later));
    let _daemon = lab.daemon();
    let theirs = lab.provider();
    for address in [mine, shared, closed, free] {
        theirs.echo(at(address, 443));
        theirs.echo(at(address, 80));
    }
    for unit in [&payments, &other] {
        let process = lab.process(unit);
        for address in [mine, shared, closed, free] {
            for port in [443, 80] {
                let remote = at(address, port);
                let said = explain(&lab, unit, remote, &[]);
                let passes = said["verdict"] != "refuse";
                assert_eq!(process.talks_to(remote), passes, "{} to {remote}: {said}", unit.name());
                assert_eq!(said["verdict"] == "ungoverned", address == free, "{said}");
            }
        }
    }
    let said = explain(&lab, &payments, at(closed, 443), &[]);
    assert_eq!((&said["reason"], &said["service"]), (&"closed".into(), &"later".into()));
    let until = said["until"].as_str().expect("the next opening").to_owned();
    let said = explain(&lab, &payments, at(closed, 443), &["--at", &until]);
    assert_eq!((&said["verdict"], &said["policy"]), (&"allow".into(), &"later/egress/0".into()));
    let past = rfc3339(in_ms(-7_200_000));
    assert_eq!(explain(&lab, &payments, at(mine, 443), &["--at", &past])["reason"], "pending");
}

#[test]
fn explain_knows_orders_and_both_directions() {
    let Some(lab) = Lab::new() else { return };
    let web = lab.unit("web");
    let from = at(lab.provider4(0), 8443);
    lab.write("stripe", &schedule(Lifetime::open(), &[ingress(&web, from.ip(), "8443/tcp")]));
    let daemon = lab.daemon();
    let ingress = ["--direction", "ingress"];
    assert_eq!(explain(&lab, &web, from, &ingress)["verdict"], "allow");
    assert_eq!(explain(&lab, &web, from, &[])["reason"], "undeclared");
    lab.picoseg(&["suspend", "stripe", "--reason", "incident"]).ok();
    let said = explain(&lab, &web, from, &ingress);
    assert_eq!((&said["reason"], &said["until"]), (&"suspended".into(), &Value::Null));
    daemon.kill9();
    let subject = format!("unit:{}", web.name());
    let offline =
        ["explain", "--subject", &subject, "--remote", &format!("{from}/tcp"), "--direction", "ingress"];
    let said = lab.picoseg(&offline).ok().explains(&["orders and learned addresses are not known"]);
    assert!(said.stdout.contains("allowed by stripe/ingress/0"), "{}", said.stdout);
}
