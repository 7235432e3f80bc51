//! Segments: a unit in a default-deny enclosure.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use crate::agent::{Agent, Close, Heard, Kind, Manner, Packets};
use crate::lab::dns::NameServer;
use crate::lab::schedule::{Lifetime, egress, schedule};
use crate::lab::{Lab, MOMENT, Unit, at, clock, public4, public6};
use crate::names::ask;

/// From the appearance of a cgroup until its unit is enclosed.
const ENCLOSED_WITHIN: Duration = Duration::from_secs(1);

/// A segment around a unit: `rest` is more keys and tables.
fn around(unit: &Unit, rest: &str) -> String {
    format!("subject = {{ unit = \"{}\" }}\n{rest}\n", unit.name())
}

fn allow(direction: &str, remote: impl std::fmt::Display, port: &str) -> String {
    let key = if direction == "egress" { "to" } else { "from" };
    format!("[[allow]]\ndirection = \"{direction}\"\n{key} = [\"{remote}\"]\nports = [\"{port}\"]\n")
}

fn hosts(lab: &Lab) -> [(IpAddr, IpAddr); 2] {
    [(lab.host4(), lab.provider4(0)), (lab.host6(), lab.provider6(0))]
}

fn isolated(direction: &'static str) -> [(&'static str, &'static str); 4] {
    [("policy", "segment/box"), ("reason", "isolated"), ("direction", direction), ("service", "null")]
}

/// Whether a datagram is answered by an echoing socket.
fn asks(agent: &Agent, local: SocketAddr, remote: SocketAddr) -> bool {
    let socket = agent.udp(local);
    socket.say_to(remote, "question").is_ok()
        && socket.hear_within(Duration::from_millis(300)) != Heard::Nothing
}

#[test]
fn nothing_reaches_or_leaves_an_enclosed_unit_and_others_are_not_touched() {
    let Some(lab) = Lab::new() else { return };
    let (inside, other) = (lab.unit("inside"), lab.unit("other"));
    lab.segment("box", &around(&inside, ""));
    lab.canary();
    let _daemon = lab.daemon();
    let (ours, stranger, theirs) = (lab.process(&inside), lab.process(&other), lab.provider());
    for (local, remote) in hosts(&lab) {
        theirs.echo(at(remote, 443));
        theirs.udp(at(remote, 443)).udp_echo();
        assert_eq!(ours.connect(at(remote, 443)).err().expect("isolated").errno, libc::ECONNREFUSED);
        assert!(!asks(&ours, at(local, 9000), at(remote, 443)), "{remote}");
        assert!(!ours.pings(remote), "{remote}");
        assert!(stranger.talks_to(at(remote, 443)) && stranger.pings(remote), "{remote}");
        assert!(asks(&stranger, at(local, 9001), at(remote, 443)), "{remote}");

        let listener = ours.listen(at(local, 8443), Manner::Keep);
        theirs.raw(Packets { kind: Kind::Syn, from: at(remote, 40_000), to: at(local, 8443), count: 20 });
        assert!(listener.stays_alone(), "{remote}");
        let datagrams = ours.udp(at(local, 9003));
        theirs.raw(Packets { kind: Kind::Udp, from: at(remote, 40_000), to: at(local, 9003), count: 30 });
        assert_eq!(datagrams.hear_within(Duration::from_millis(300)), Heard::Nothing, "{remote}");
        stranger.echo(at(local, 8444));
        assert!(theirs.connect_from(at(remote, 0), at(local, 8444)).is_ok_and(|s| s.echoes()), "{remote}");
        assert!(theirs.pings(local), "the kernel answers {remote}");
    }
    lab.all_on_record(&theirs);
    for (_, remote) in hosts(&lab) {
        let remote = remote.to_string();
        let of = |direction, protocol| {
            let values = [&isolated(direction)[..], &[("remote", &*remote), ("protocol", protocol)]].concat();
            lab.attempts_with(&values)
        };
        let seen = ["tcp", "udp", "icmp"].map(|protocol| (of("egress", protocol), of("ingress", protocol)));
        assert_eq!(seen, [(1, 20), (1, 30), (1, 0)], "{remote}");
    }
    assert_eq!(lab.attempts_with(&[("reason", "isolated")]), 2 * 53);
}

#[test]
fn what_a_segment_allows_passes_in_the_direction_that_it_says() {
    let Some(lab) = Lab::new() else { return };
    let inside = lab.unit("inside");
    let rules = hosts(&lab).map(|(_, remote)| {
        [("egress", "443-450/tcp"), ("egress", "443/udp"), ("egress", "icmp")]
            .map(|(direction, port)| allow(direction, remote, port))
            .concat()
            + &allow("ingress", remote, "8443/tcp")
            + &allow("ingress", remote, "9000/udp")
    });
    lab.segment("box", &around(&inside, &rules.concat()));
    lab.canary();
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&inside), lab.provider());
    for (local, remote) in hosts(&lab) {
        theirs.echo(at(remote, 443));
        theirs.udp(at(remote, 443)).udp_echo();
        assert!(ours.talks_to(at(remote, 443)), "{remote}");
        assert!(asks(&ours, at(local, 9001), at(remote, 443)), "{remote}");
        assert!(ours.pings(remote), "{remote}");
        ours.echo(at(local, 8443));
        assert!(theirs.connect_from(at(remote, 0), at(local, 8443)).is_ok_and(|s| s.echoes()), "{remote}");
        ours.udp(at(local, 9000)).udp_echo();
        assert!(asks(&theirs, at(remote, 9002), at(local, 9000)), "{remote}");
    }
    lab.expect_no_attempts(&theirs);
    for (local, remote) in hosts(&lab) {
        theirs.echo(at(remote, 451));
        theirs.echo(at(remote, 8443));
        assert!(ours.connect(at(remote, 451)).is_err(), "another port");
        let back = ours.connect_from(at(local, 8443), at(remote, 8443));
        assert!(back.is_err(), "what is allowed to come in does not let us connect out");
        let listener = ours.listen(at(local, 8444), Manner::Keep);
        assert!(theirs.connect_from(at(remote, 443), listener.local()).is_err(), "nor the reverse");
    }
}

#[test]
fn a_grant_is_on_top_of_a_segment() {
    let Some(lab) = Lab::new() else { return };
    let (inside, other) = (lab.unit("inside"), lab.unit("other"));
    let remote = lab.provider4(0);
    lab.segment("box", &around(&inside, ""));
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&inside, remote, "443/tcp")]));
    let _daemon = lab.daemon();
    let (ours, stranger, theirs) = (lab.process(&inside), lab.process(&other), lab.provider());
    theirs.echo(at(remote, 443));
    theirs.echo(at(remote, 444));
    theirs.echo(at(lab.provider4(1), 443));
    assert!(ours.talks_to(at(remote, 443)));
    // The service's reasons come first.
    assert!(ours.connect(at(remote, 444)).is_err());
    // In the same /16, and listed by nobody.
    assert!(ours.connect(at(lab.provider4(1), 443)).is_err());
    assert!(stranger.talks_to(at(lab.provider4(1), 443)));
    lab.expect_attempts(1, &[("service", "stripe"), ("reason", "undeclared"), ("remote_port", "444")]);
    lab.expect_attempts(1, &isolated("egress"));
}

#[test]
fn loopback_is_a_switch() {
    let Some(lab) = Lab::new() else { return };
    let (free, strict, other) = (lab.unit("free"), lab.unit("strict"), lab.unit("other"));
    let rules = allow("egress", "127.0.0.0/8", "8500/tcp");
    lab.segment("free", &around(&free, ""));
    lab.segment("box", &around(&strict, &format!("loopback = false\n{rules}")));
    let _daemon = lab.daemon();
    let [free, strict, other] = [&free, &strict, &other].map(|unit| lab.process(unit));
    let local = |last: u8, port| at(IpAddr::from([127, 0, 0, last]), port);
    for port in [8443, 8500] {
        other.echo(local(1, port));
    }
    other.echo(at(lab.host4(), 8443));
    for remote in [local(1, 8443), at(lab.host4(), 8443)] {
        assert!(free.talks_to(remote) && other.talks_to(remote), "{remote}");
        assert_eq!(strict.connect(remote).err().expect("isolated").errno, libc::ECONNREFUSED, "{remote}");
    }
    assert!(strict.talks_to(local(1, 8500)), "allowed like any other address");
    free.echo(local(2, 8443));
    assert!(other.talks_to(local(2, 8443)));
    let listener = strict.listen(local(3, 8443), Manner::Keep);
    assert!(other.connect(listener.local()).is_err());
    assert!(listener.stays_alone());
    let before = lab.attempts_with(&isolated("ingress"));
    assert!(
        before >= 1
            || clock::within(MOMENT, || (lab.attempts_with(&isolated("ingress")) >= 1).then_some(()))
                .is_some()
    );
    lab.expect_attempts(2, &isolated("egress"));
    assert_eq!(lab.attempts_with(&[("policy", "segment/free")]), 0);
}

#[test]
fn names_are_asked_of_the_resolvers_of_this_host_only() {
    let Some(lab) = Lab::new() else { return };
    let (inside, strict) = (lab.unit("inside"), lab.unit("strict"));
    lab.segment("box", &around(&inside, ""));
    lab.segment("deaf", &around(&strict, "dns = false"));
    let resolvers = [lab.provider4(0), lab.provider6(0)];
    lab.resolvers(&resolvers);
    let _daemon = lab.daemon();
    let (ours, deaf, theirs) = (lab.process(&inside), lab.process(&strict), lab.provider());
    for (local, remote) in hosts(&lab) {
        theirs.udp(at(remote, 53)).udp_echo();
        theirs.echo(at(remote, 53));
        assert!(asks(&ours, at(local, 9000), at(remote, 53)) && ours.talks_to(at(remote, 53)), "{remote}");
        assert!(!asks(&deaf, at(local, 9001), at(remote, 53)) && !deaf.talks_to(at(remote, 53)), "{remote}");
    }
    let other = at(lab.provider4(1), 53);
    theirs.echo(other);
    assert!(!ours.talks_to(other), "no resolver");
    lab.resolvers(&[other.ip()]);
    clock::until("the other resolver is asked", Duration::from_secs(10), || ours.talks_to(other));
    assert!(!ours.talks_to(at(resolvers[0], 53)), "the resolver of before");
}

#[test]
fn an_observed_segment_refuses_nothing_and_records_each_flow_once() {
    let Some(lab) = Lab::new() else { return };
    let inside = lab.unit("inside");
    lab.segment("box", &around(&inside, "mode = \"observe\""));
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&inside), lab.provider());
    for (local, remote) in hosts(&lab) {
        theirs.echo(at(remote, 443));
        let socket = ours.connect(at(remote, 443)).expect("only observed");
        assert!(socket.echoes() && socket.echoes());
        ours.echo(at(local, 8443));
        let socket = theirs.connect_from(at(remote, 0), at(local, 8443)).expect("only observed");
        assert!(socket.echoes() && socket.echoes());
    }
    let observed = |direction| [&isolated(direction)[..], &[("verdict", "observed")]].concat();
    lab.expect_attempts(2, &observed("egress"));
    lab.expect_attempts(2, &observed("ingress"));
    assert_eq!(lab.attempts_with(&[("verdict", "refused")]), 0);
}

#[test]
fn a_restarted_unit_is_enclosed_again() {
    let Some(lab) = Lab::new() else { return };
    let inside = lab.unit("inside");
    let remote = at(lab.provider4(0), 443);
    lab.segment("box", &around(&inside, ""));
    let _daemon = lab.daemon();
    let theirs = lab.provider();
    theirs.echo(remote);
    for start in 0..3 {
        let ours = lab.process(&inside);
        clock::until("the unit is enclosed", ENCLOSED_WITHIN, || !ours.talks_to(remote));
        drop(ours);
        inside.remove();
        inside.create();
        assert_eq!(lab.status()["drift"]["count"], 0, "{start}");
    }
}

#[test]
fn a_packet_in_nested_segments_needs_all_of_them() {
    let Some(lab) = Lab::new() else { return };
    let outer = lab.unit("outer");
    let inner = outer.child("inner");
    let (both, one) = (at(lab.provider4(0), 443), at(lab.provider4(1), 443));
    lab.segment("box", &around(&outer, &allow("egress", both.ip(), "443/tcp")));
    let subject = format!("subject = {{ cgroup = \"{}\" }}\n", inner.path().display());
    let rules = [both, one].map(|remote| allow("egress", remote.ip(), "443/tcp")).concat();
    lab.segment("inner", &(subject + &rules));
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&inner), lab.provider());
    theirs.echo(both);
    theirs.echo(one);
    assert!(ours.talks_to(both));
    assert!(!ours.talks_to(one));
    lab.expect_attempts(1, &isolated("egress"));
}

#[test]
fn a_segment_outlives_the_daemon_and_goes_with_its_file_without_losing_a_count() {
    let Some(lab) = Lab::new() else { return };
    let inside = lab.unit("inside");
    let remote = at(lab.provider4(0), 443);
    lab.segment("box", &around(&inside, ""));
    lab.canary();
    let daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&inside), lab.provider());
    theirs.echo(remote);
    daemon.kill9();
    for _ in 0..3 {
        assert!(ours.connect(remote).is_err(), "the kernel goes on");
    }
    ours.udp_each(remote, 40);
    let _daemon = lab.daemon();
    ours.udp_each(remote, 57);
    lab.remove_segment("box");
    lab.picoseg(&["apply"]).ok();
    assert!(ours.talks_to(remote), "removing the file opens the enclosure");
    lab.expect_attempts(100, &isolated("egress"));
    let gone = || {
        let mut list = Command::new("nft");
        list.args(["-t", "list", "table", "inet", "picoseg"]);
        let listed = lab.on_host(list).ok().stdout;
        !listed.contains("seg-box") && !listed.contains("isolated")
    };
    clock::until("nothing of it is left in the table", Duration::from_secs(10), gone);
    // It counts from zero again.
    lab.segment("box", &around(&inside, ""));
    lab.picoseg(&["apply"]).ok();
    ours.udp_each(remote, 5);
    lab.expect_attempts(105, &isolated("egress"));
    assert_eq!(lab.status()["drift"]["count"], 0);
}

#[test]
fn counts_of_a_segment_that_went_while_no_daemon_ran_are_on_record() {
    let Some(lab) = Lab::new() else { return };
    let inside = lab.unit("inside");
    let remote = at(lab.provider4(0), 443);
    lab.segment("box", &around(&inside, ""));
    let daemon = lab.daemon();
    let ours = lab.process(&inside);
    daemon.kill9();
    ours.udp_each(remote, 33);
    lab.remove_segment("box");
    let _daemon = lab.daemon();
    lab.expect_attempts(33, &isolated("egress"));
}

#[test]
fn a_new_segment_cuts_what_it_does_not_allow_and_leaves_the_rest() {
    let Some(lab) = Lab::new() else { return };
    let (inside, other) = (lab.unit("inside"), lab.unit("other"));
    let remotes = [0, 1, 2].map(|number| at(lab.provider4(number), 443));
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&inside, remotes[1].ip(), "443/tcp")]));
    let _daemon = lab.daemon();
    let (ours, stranger, theirs) = (lab.process(&inside), lab.process(&other), lab.provider());
    let listeners = remotes.map(|remote| theirs.listen(remote, Manner::Keep));
    let clients = remotes.map(|remote| ours.connect(remote).expect("nothing encloses it yet"));
    let servers = listeners.each_ref().map(|listener| listener.accept().expect("connected"));
    let foreign = stranger.connect(remotes[0]).expect("never enclosed");
    for end in clients.iter().chain(&servers).chain([&foreign]) {
        end.drain();
    }
    lab.segment("box", &around(&inside, &allow("egress", remotes[2].ip(), "443/tcp")));
    lab.picoseg(&["apply"]).ok();
    for end in [&clients[0], &servers[0]] {
        end.ends_within(MOMENT);
    }
    for end in [&clients[1], &servers[1], &clients[2], &servers[2], &foreign] {
        assert!(end.alive());
    }
    assert_eq!(lab.status()["drift"]["count"], 0);
}

#[test]
fn many_short_connections_that_a_segment_allows_leave_no_attempts() {
    let Some(lab) = Lab::new() else { return };
    let inside = lab.unit("inside");
    let network = |address: IpAddr| match address {
        IpAddr::V4(_) => format!("{address}/32"),
        IpAddr::V6(_) => format!("{}/124", lab.provider6(0)),
    };
    let rules = hosts(&lab).map(|(_, remote)| {
        allow("egress", network(remote), "443-500/tcp") + &allow("ingress", network(remote), "8443-8500/tcp")
    });
    lab.segment("box", &around(&inside, &rules.concat()));
    lab.canary();
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&inside), lab.provider());
    let late = Duration::from_millis(100);
    let kinds = [
        (Close::Client, Duration::ZERO, 500),
        (Close::Server, Duration::ZERO, 500),
        (Close::Client, late, 300),
        (Close::Server, late, 300),
        (Close::ClientResets, Duration::ZERO, 200),
        (Close::ServerResets, Duration::ZERO, 200),
    ];
    for (local, remote) in hosts(&lab) {
        for (port, (close, late, count)) in (0..).zip(kinds) {
            let listener = theirs.listen(at(remote, 443 + port), Manner::Exchange { close, late });
            let tally = ours.exchange(listener.local(), close, late, count);
            assert_eq!(tally.done, count, "{close:?} {late:?}: {tally:?}");
            let listener = ours.listen(at(local, 8443 + port), Manner::Exchange { close, late });
            let tally = theirs.exchange(listener.local(), close, late, count);
            assert_eq!(tally.done, count, "{close:?} {late:?}: {tally:?}");
        }
    }
    lab.expect_no_attempts(&theirs);
}

#[test]
fn the_fail_safe_stays_reachable_in_a_segment() {
    let Some(lab) = Lab::new() else { return };
    let inside = lab.unit("sshd");
    lab.segment("box", &around(&inside, "loopback = false"));
    let _daemon = lab.daemon();
    let (ours, theirs, other) = (lab.process(&inside), lab.provider(), lab.process(&lab.unit("other")));
    for (local, remote) in hosts(&lab) {
        ours.echo(at(local, 22));
        assert!(theirs.connect_from(at(remote, 0), at(local, 22)).is_ok_and(|s| s.echoes()), "{remote}");
        assert!(other.talks_to(at(local, 22)), "over loopback");
    }
}

const NAME: &str = "api.example.com";

/// Within this a changed answer is asked for: names are asked for every five seconds at most, with a tenth of jitter.
const REFRESHED: Duration = Duration::from_secs(10);

/// A lab with a name server, whose daemon asks it, and a unit in a segment that allows a name or pattern.
fn allowing(name: &str) -> Option<(Lab, NameServer, Unit, Agent)> {
    let lab = Lab::new()?;
    lab.public(6);
    let server = lab.name_server(5);
    lab.resolvers(&[lab.provider4(5)]);
    let inside = lab.unit("inside");
    lab.segment("box", &around(&inside, &allow("egress", name, "443/tcp")));
    let theirs = lab.provider();
    for number in 0..3 {
        for remote in [public4(number), public6(number)] {
            theirs.echo(at(remote, 443));
            theirs.echo(at(remote, 444));
        }
    }
    Some((lab, server, inside, theirs))
}

fn comes_to_be_allowed(ours: &Agent, remote: IpAddr) {
    clock::until(&format!("{remote} is allowed"), REFRESHED, || ours.talks_to(at(remote, 443)));
}

#[test]
fn a_name_that_a_segment_allows_is_followed_and_kept_while_no_resolver_answers() {
    let Some((lab, server, inside, theirs)) = allowing(NAME) else { return };
    let hidden = lab.provider4(1);
    theirs.echo(at(hidden, 443));
    server.set(NAME, &[public4(0), public6(0), hidden], 1);
    let daemon = lab.daemon();
    let (ours, other) = (lab.process(&inside), lab.process(&lab.unit("other")));
    comes_to_be_allowed(&ours, public4(0));
    assert!(ours.talks_to(at(public6(0), 443)), "both families come in one change");
    assert!(!ours.talks_to(at(hidden, 443)), "an answer that leads into a private network");
    let before = lab.attempts_with(&isolated("egress"));
    for remote in [public4(1), public6(1)] {
        assert!(!ours.talks_to(at(remote, 443)), "{remote}: not of the name");
        assert!(
            other.talks_to(at(remote, 443)) && other.talks_to(at(public4(0), 443)),
            "nobody else's matter"
        );
    }
    for remote in [public4(0), public6(0)] {
        assert!(!ours.talks_to(at(remote, 444)), "{remote}: another port");
    }
    clock::until("all on record", MOMENT, || lab.attempts_with(&isolated("egress")) >= before + 4);
    let client = ours.connect(at(public4(0), 443)).expect("allowed");

    server.set(NAME, &[public4(1), public6(1)], 1);
    comes_to_be_allowed(&ours, public4(1));
    assert!(ours.talks_to(at(public6(1), 443)));
    assert!(ours.talks_to(at(public4(0), 443)) && client.alive(), "it left a moment ago");

    server.mute(true);
    let asked = server.asked();
    clock::until("it is asked again in vain", REFRESHED * 2, || server.asked() >= asked + 4);
    assert!(ours.talks_to(at(public4(1), 443)), "what was known stays");
    assert_eq!(lab.status()["drift"]["count"], 0);
    assert!(daemon.term().success());
    let _daemon = lab.daemon();
    assert!(ours.talks_to(at(public4(1), 443)) && ours.talks_to(at(public6(1), 443)), "over a restart");
    assert!(client.alive());
    lab.segment("box", &around(&inside, ""));
    lab.picoseg(&["apply"]).ok();
    assert!(!ours.talks_to(at(public4(1), 443)), "the name is allowed no more");
    assert_eq!(lab.status()["drift"]["count"], 0);
}

#[test]
fn what_an_enclosed_process_is_answered_is_learned_for_the_patterns_that_its_segment_allows() {
    let Some((lab, server, inside, _theirs)) = allowing("*.example.com") else { return };
    server.set("eu.example.com", &[public4(0)], 60);
    server.set("eu.example.net", &[public4(1)], 60);
    let _daemon = lab.daemon();
    let (ours, other) = (lab.process(&inside), lab.process(&lab.unit("other")));
    let resolver = at(lab.provider4(5), 53);
    server.set("us.example.com", &[public4(2)], 60);
    ask(&other, resolver, "us.example.com");
    ask(&ours, resolver, "eu.example.net");
    ask(&ours, resolver, "eu.example.com");
    comes_to_be_allowed(&ours, public4(0));
    assert!(!ours.talks_to(at(public4(1), 443)), "no pattern covers it");
    assert!(!ours.talks_to(at(public4(2), 443)), "nobody in the segment was answered it");
    // Where a restarted unit is, it is answered too.
    drop(ours);
    inside.remove();
    inside.create();
    let ours = lab.process(&inside);
    clock::until("the unit is enclosed", ENCLOSED_WITHIN, || !ours.talks_to(at(public4(2), 443)));
    ask(&ours, resolver, "us.example.com");
    comes_to_be_allowed(&ours, public4(2));
    assert_eq!(lab.status()["drift"]["count"], 0);
}
