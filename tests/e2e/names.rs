//! Host names as endpoints: resolved by the daemon, kept when a resolver fails, refused for ever after a decommission.

use std::net::IpAddr;
use std::time::Duration;

use crate::agent::Agent;
use crate::lab::clock::{self, in_ms, reach};
use crate::lab::dns::NameServer;
use crate::lab::schedule::{Lifetime, egress, schedule, window};
use crate::lab::{Lab, MOMENT, Unit, at, public4, public6};

const NAME: &str = "api.example.com";

/// Within this a changed answer is asked for: names are asked for every five seconds at most, with a tenth of jitter.
const REFRESHED: Duration = Duration::from_secs(10);

/// A lab with a name server, whose daemon asks it.
fn lab() -> Option<(Lab, NameServer)> {
    let lab = Lab::new()?;
    lab.public(6);
    let server = lab.name_server(5);
    lab.resolvers(&[lab.provider4(5)]);
    Some((lab, server))
}

/// A provider with a listener at its first public addresses.
fn provider(lab: &Lab, count: u8) -> Agent {
    let provider = lab.provider();
    for number in 0..count {
        for remote in [public4(number), public6(number)] {
            provider.echo(at(remote, 443));
        }
    }
    provider
}

fn stripe(lab: &Lab, unit: &Unit, tables: &[String]) {
    let tables = [tables, &[egress(unit, NAME, "443/tcp")]].concat();
    lab.write("stripe", &schedule(Lifetime::open(), &tables));
}

/// A process that no policy names: what it is refused is governed.
fn comes_to_be_governed(neighbour: &Agent, remote: IpAddr) {
    clock::until(&format!("{remote} is governed"), REFRESHED, || !neighbour.talks_to(at(remote, 443)));
}

#[test]
fn a_name_admits_its_addresses_of_both_families_for_its_subject_alone() {
    let Some((lab, server)) = lab() else { return };
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    server.set(NAME, &[public4(0), public6(0)], 60);
    stripe(&lab, &payments, &[]);
    let _daemon = lab.daemon();
    let (ours, neighbour) = (lab.process(&payments), lab.process(&other));
    let _theirs = provider(&lab, 2);
    comes_to_be_governed(&neighbour, public4(0));
    for remote in [public4(0), public6(0)] {
        assert!(!neighbour.talks_to(at(remote, 443)), "{remote}: both families come in one change");
        assert!(ours.talks_to(at(remote, 443)), "{remote}");
    }
    let remote = public6(0).to_string();
    lab.expect_attempts(1, &[("service", "stripe"), ("remote", &remote), ("reason", "undeclared")]);
    assert!(neighbour.talks_to(at(public4(1), 443)), "what the name does not have is not governed");
    assert!(ours.connect(at(public4(0), 444)).is_err(), "another port");
}

#[test]
fn an_address_that_left_is_admitted_until_the_window_closes_and_refused_then() {
    let Some((lab, server)) = lab() else { return };
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    server.set(NAME, &[public4(0), public6(0)], 1);
    let close = in_ms(14_000);
    stripe(&lab, &payments, &[window(in_ms(-60_000), close)]);
    let _daemon = lab.daemon();
    let (ours, neighbour) = (lab.process(&payments), lab.process(&other));
    let _theirs = provider(&lab, 2);
    comes_to_be_governed(&neighbour, public4(0));
    let client = ours.connect(at(public4(0), 443)).expect("admitted");

    server.set(NAME, &[public4(1)], 1);
    comes_to_be_governed(&neighbour, public4(1));
    assert!(ours.talks_to(at(public4(1), 443)), "the new one");
    for left in [public4(0), public6(0)] {
        assert!(ours.talks_to(at(left, 443)), "{left} left a moment ago");
        assert!(!neighbour.talks_to(at(left, 443)), "{left}");
    }
    assert!(client.alive());

    reach(close);
    clock::until("the window is closed", MOMENT, || lab.state_of("stripe") == "closed");
    clock::until("the connection to what left is cut", MOMENT, || !client.alive());
    for remote in [public4(0), public6(0), public4(1)] {
        assert!(ours.connect(at(remote, 443)).is_err(), "{remote}");
    }
    let remote = public6(0).to_string();
    lab.expect_attempts(1, &[("service", "stripe"), ("remote", &remote), ("reason", "closed")]);
}

#[test]
fn what_a_name_has_stays_while_no_resolver_answers_also_over_a_restart() {
    let Some((lab, server)) = lab() else { return };
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    server.set(NAME, &[public4(0)], 1);
    stripe(&lab, &payments, &[]);
    let daemon = lab.daemon();
    let (ours, neighbour) = (lab.process(&payments), lab.process(&other));
    let _theirs = provider(&lab, 1);
    comes_to_be_governed(&neighbour, public4(0));
    server.mute(true);
    let asked = server.asked();
    clock::until("it is asked again in vain", REFRESHED * 2, || server.asked() >= asked + 4);
    assert!(ours.talks_to(at(public4(0), 443)));
    assert!(!neighbour.talks_to(at(public4(0), 443)));
    assert!(daemon.term().success());
    let _daemon = lab.daemon();
    assert!(ours.talks_to(at(public4(0), 443)), "remembered");
    assert!(!neighbour.talks_to(at(public4(0), 443)));
}

#[test]
fn a_name_whose_resolver_never_answers_admits_nothing() {
    let Some((lab, server)) = lab() else { return };
    let (payments, remote) = (lab.unit("payments"), lab.provider4(0));
    server.mute(true);
    let both = format!(
        "[[egress]]\nsubject = {{ unit = \"{}\" }}\nto = [\"{NAME}\"]\nports = [\"443/tcp\"]\n\n",
        payments.name()
    );
    let listed = egress(&payments, remote, "444/tcp");
    lab.write("stripe", &schedule(Lifetime::open(), &[both, listed]));
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    theirs.echo(at(remote, 443));
    theirs.echo(at(remote, 444));
    assert!(ours.talks_to(at(remote, 444)));
    assert!(ours.connect(at(remote, 443)).is_err(), "the name does not resolve to it");
}

#[test]
fn answers_that_lead_into_private_networks_count_only_where_the_policy_lists_them() {
    let Some((lab, server)) = lab() else { return };
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    let (hidden, listed) = (lab.provider4(1), lab.provider4(2));
    server.set(NAME, &[hidden, listed, public4(0)], 60);
    let policy = format!(
        "[[egress]]\nsubject = {{ unit = \"{}\" }}\nto = [\"{NAME}\", \"{listed}\"]\nports = [\"443/tcp\"]\n\n",
        payments.name()
    );
    lab.write("stripe", &schedule(Lifetime::open(), &[policy]));
    let _daemon = lab.daemon();
    let (ours, neighbour) = (lab.process(&payments), lab.process(&other));
    let theirs = provider(&lab, 1);
    for remote in [hidden, listed] {
        theirs.echo(at(remote, 443));
    }
    comes_to_be_governed(&neighbour, public4(0));
    assert!(ours.talks_to(at(listed, 443)) && !neighbour.talks_to(at(listed, 443)));
    assert!(neighbour.talks_to(at(hidden, 443)), "not governed: the answer was ignored");
}

#[test]
fn a_window_closes_on_time_for_a_name_with_the_daemon_dead() {
    let Some((lab, server)) = lab() else { return };
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    server.set(NAME, &[public4(0), public6(0)], 60);
    let close = in_ms(9_000);
    stripe(&lab, &payments, &[window(in_ms(-60_000), close)]);
    let daemon = lab.daemon();
    let (ours, neighbour) = (lab.process(&payments), lab.process(&other));
    let _theirs = provider(&lab, 1);
    comes_to_be_governed(&neighbour, public6(0));
    assert!(ours.talks_to(at(public4(0), 443)) && ours.talks_to(at(public6(0), 443)));
    daemon.kill9();
    reach(close);
    for remote in [public4(0), public6(0)] {
        assert!(ours.connect(at(remote, 443)).is_err(), "{remote}");
    }
}

#[test]
fn a_decommissioned_service_refuses_every_address_that_its_names_ever_had() {
    let Some((lab, server)) = lab() else { return };
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    stripe(&lab, &payments, &[]);
    server.set(NAME, &[public4(0)], 1);
    let daemon = lab.daemon();
    let (ours, neighbour) = (lab.process(&payments), lab.process(&other));
    let _theirs = provider(&lab, 3);
    for number in 0..3 {
        server.set(NAME, &[public4(number)], 1);
        comes_to_be_governed(&neighbour, public4(number));
    }
    let client = ours.connect(at(public4(0), 443)).expect("in its grace");
    lab.picoseg(&["decommission", "stripe", "--reason", "contract ended"]).ok();
    assert!(!client.alive());
    for number in 0..3 {
        assert!(ours.connect(at(public4(number), 443)).is_err(), "{number}");
        let remote = public4(number).to_string();
        lab.expect_attempts(1, &[("service", "stripe"), ("remote", &remote), ("reason", "expired")]);
    }
    assert!(daemon.term().success());
    server.mute(true);
    let _daemon = lab.daemon();
    for number in 0..3 {
        assert!(!neighbour.talks_to(at(public4(number), 443)), "{number}: also after a restart");
    }
    lab.remove("stripe");
    lab.picoseg(&["apply"]).ok();
    assert!(!neighbour.talks_to(at(public4(0), 443)), "and without its file");
}

#[test]
fn another_resolver_is_followed() {
    let Some((lab, server)) = lab() else { return };
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    server.mute(true);
    stripe(&lab, &payments, &[]);
    let _daemon = lab.daemon();
    let (ours, neighbour) = (lab.process(&payments), lab.process(&other));
    let _theirs = provider(&lab, 1);
    let second = lab.name_server(6);
    second.set(NAME, &[public4(0)], 60);
    lab.resolvers(&[lab.provider4(6)]);
    comes_to_be_governed(&neighbour, public4(0));
    assert!(ours.talks_to(at(public4(0), 443)));
}
