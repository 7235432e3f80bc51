//! Host names as endpoints: resolved by the daemon, kept when a resolver fails, refused for ever after a decommission.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use hickory_resolver::proto::rr::RecordType;

use crate::agent::{Agent, Heard, Took};
use crate::lab::clock::{self, in_ms, reach, soon};
use crate::lab::dns::{NameServer, forged, question};
use crate::lab::schedule::{Lifetime, egress, schedule, window};
use crate::lab::{Lab, MOMENT, Unit, at, public4, public6};

const NAME: &str = "api.example.com";

/// Within this a changed answer is asked for: names are asked for every five seconds at most, with a tenth of jitter.
const REFRESHED: Duration = Duration::from_secs(10);

/// First connections that would be refused: each may be held for a second, 32 at a time. The measured thousand
/// takes `PICOSEG_FRESH=1000`.
fn fresh_count() -> u16 {
    std::env::var("PICOSEG_FRESH").ok().and_then(|count| count.parse().ok()).unwrap_or(80)
}

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
    let close = soon(14_000);
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
    let close = soon(9_000);
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

/// Asks a name server and waits for its answer, which a process of the host receives.
pub fn ask(process: &Agent, server: SocketAddr, name: &str) {
    let from = process.udp(SocketAddr::new(wildcard(server), 0));
    let question = String::from_utf8(question(0x1234, name, RecordType::A)).expect("below 128 all of it");
    from.say_to(server, &question).expect("DNS is not governed");
    assert!(matches!(from.hear(), Heard::Text { .. }), "an answer");
}

fn wildcard(of: SocketAddr) -> IpAddr {
    if of.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

#[test]
fn what_a_named_process_is_answered_is_learned_also_for_patterns_and_through_aliases() {
    let Some((lab, server)) = lab() else { return };
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    let resolver = at(lab.provider4(5), 53);
    let policy = egress(&payments, "*.example.com", "443/tcp");
    lab.write("stripe", &schedule(Lifetime::open(), &[policy]));
    server.alias("eu.api.example.com", "edge.cdn.example.net");
    server.set("edge.cdn.example.net", &[public4(0)], 60);
    server.set("example.com", &[public4(1)], 60);
    let daemon = lab.daemon();
    let (ours, neighbour) = (lab.process(&payments), lab.process(&other));
    let _theirs = provider(&lab, 3);
    ask(&ours, resolver, "example.com");
    ask(&ours, resolver, "eu.api.example.com");
    comes_to_be_governed(&neighbour, public4(0));
    assert!(ours.talks_to(at(public4(0), 443)));
    assert!(neighbour.talks_to(at(public4(1), 443)), "a pattern does not cover the name itself");
    assert!(daemon.term().success());
    let _daemon = lab.daemon();
    assert!(ours.talks_to(at(public4(0), 443)) && !neighbour.talks_to(at(public4(0), 443)), "over a restart");
}

#[test]
fn only_a_named_process_that_asks_a_resolver_of_this_host_teaches() {
    let Some((lab, server)) = lab() else { return };
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    let (resolver, foreign) = (at(lab.provider4(5), 53), lab.name_server(6));
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, "*.example.com", "443/tcp")]));
    server.set("a.example.com", &[public4(0)], 60);
    foreign.set("b.example.com", &[public4(1)], 60);
    server.set("c.example.com", &[public4(2)], 60);
    let _daemon = lab.daemon();
    let (ours, neighbour) = (lab.process(&payments), lab.process(&other));
    let theirs = provider(&lab, 4);
    ask(&neighbour, resolver, "a.example.com");
    ask(&ours, at(lab.provider4(6), 53), "b.example.com");
    // An answer that nobody asked for, to an open port of the process.
    let open = ours.udp(at(lab.host4(), 0));
    theirs.bytes(lab.host4(), vec![forged(resolver, open.local(), "d.example.com", public4(3))]);
    assert!(matches!(open.hear(), Heard::Text { .. }), "the forged answer arrived");
    ask(&ours, resolver, "c.example.com");
    comes_to_be_governed(&neighbour, public4(2));
    for number in [0, 1, 3] {
        assert!(neighbour.talks_to(at(public4(number), 443)), "{number}: nobody who may taught it");
    }
}

/// What would refuse a connection to an address that nobody has seen before.
#[derive(Debug, Clone, Copy)]
enum Meets {
    Nobody,
    /// Another service that lists the network of all of them.
    Prefix,
    /// The segment of the process.
    Segment,
    /// A policy of the process for any address that is closed.
    ClosedAny,
}

/// First connections of a process that was answered a moment before.
struct First {
    took: Took,
    held: u64,
    attempts: u64,
}

fn first_connections(meets: Meets, count: u16) -> Option<First> {
    let (lab, server) = lab()?;
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    lab.everywhere("198.18.0.0/16");
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, "*.example.com", "443/tcp")]));
    match meets {
        Meets::Nobody => {}
        Meets::Prefix => {
            lab.write("cdn", &schedule(Lifetime::open(), &[egress(&other, "198.18.0.0/16", "80/tcp")]));
        }
        Meets::Segment => {
            let text = format!("subject = {{ unit = \"{}\" }}\ndns = true\n", payments.name());
            lab.segment("box", &text);
        }
        Meets::ClosedAny => {
            let ahead = window(in_ms(3_600_000), in_ms(3_660_000));
            lab.write("cdn", &schedule(Lifetime::open(), &[ahead, egress(&payments, "any", "443/tcp")]));
        }
    }
    lab.canary();
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let _listener = theirs.echo(at(Ipv4Addr::UNSPECIFIED.into(), 443));
    refuses_what_was_not_answered(meets, &ours);
    let name = |number: u16| format!("h{number}.example.com");
    for number in 0..count {
        let [high, low] = (number + 1).to_be_bytes();
        server.set(&name(number), &[Ipv4Addr::new(198, 18, high, low).into()], 60);
    }
    let questions: Vec<_> = (0..count).map(|number| question(0x1234, &name(number), RecordType::A)).collect();
    let mut took = Took::default();
    // Held for a second each, more would outlast the agent's patience.
    for some in questions.chunks(160) {
        let more = ours.fresh(at(lab.provider4(5), 53), some.to_vec(), 443);
        took.connected.extend(more.connected);
        took.failed.extend(more.failed);
    }
    took.connected.sort_unstable();
    let mut command = Command::new("nft");
    command.args(["list", "counter", "inet", "picoseg", "held"]);
    let listed = lab.on_host(command).ok().stdout;
    let held = listed.split_whitespace().skip_while(|word| *word != "packets").nth(1).expect("a counter");
    let held = held.parse().expect("a number");
    lab.all_on_record(&theirs);
    let attempts = lab.attempts_with(&[]) - lab.attempts_with(&[("service", "canary")]);
    Some(First { took, held, attempts })
}

/// At once, without an answer that it could be held for.
fn refuses_what_was_not_answered(meets: Meets, process: &Agent) {
    let begun = Instant::now();
    let refused = process.connect(at(Ipv4Addr::new(198, 18, 255, 1).into(), 443)).is_err();
    assert_eq!(refused, !matches!(meets, Meets::Nobody), "{meets:?}");
    assert!(begun.elapsed() < clock::patient(Duration::from_millis(900)), "{meets:?}: nothing to wait for");
}

fn say(meets: Meets, First { took, held, attempts }: &First) {
    let at = |part: usize| took.connected[(took.connected.len() - 1) * part / 100] as f64 / 1e3;
    println!(
        "{meets:?}: {} connected, {} failed, {held} held, {attempts} attempts; p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms",
        took.connected.len(),
        took.failed.len(),
        at(50),
        at(99),
        at(100)
    );
}

#[test]
fn first_connections_to_fresh_addresses_pass_where_nobody_lists_them() {
    let Some(first) = first_connections(Meets::Nobody, 1000) else { return };
    say(Meets::Nobody, &first);
    assert!(first.took.failed.is_empty(), "{:?}", first.took.failed);
    assert_eq!((first.held, first.attempts), (0, 0));
}

/// None fails, some are held, and the only attempt is that to an address which was not answered.
fn held_until_known(meets: Meets) {
    let Some(first) = first_connections(meets, fresh_count()) else { return };
    say(meets, &first);
    assert!(first.took.failed.is_empty(), "{:?}", first.took.failed);
    assert!(first.held > 0, "they come before the daemon knows");
    assert_eq!(first.attempts, 1, "what is held is none");
}

#[test]
fn first_connections_into_a_prefix_of_another_service_are_held() {
    held_until_known(Meets::Prefix);
}

#[test]
fn first_connections_out_of_a_segment_are_held() {
    held_until_known(Meets::Segment);
}

#[test]
fn first_connections_beside_a_closed_policy_for_any_address_are_held() {
    held_until_known(Meets::ClosedAny);
}
