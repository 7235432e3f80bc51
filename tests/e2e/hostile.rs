//! What nobody would send who means well, from both sides: no payload of it arrives, and each packet counts once.
//!
//! Packets come from an address that a service lists and, as the control, from one in the same network that nobody
//! lists: the same bytes must arrive from there, else the test has heard nothing because it is deaf.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use crate::agent::{Agent, Heard, Kind, Manner, Packets};
use crate::lab::clock::in_ms;
use crate::lab::schedule::{Lifetime, egress, ingress, schedule, window};
use crate::lab::{Lab, SHOWN, Unit, at, clock};
use crate::packets::{ACK, Attempt, FIN, PSH, RST, SYN, TCP, UDP, URG, Way, payload};

/// Services whose windows are shut, and one that is open for another process and port, with the reasons.
const STATES: [(&str, &str); 4] =
    [("closed", "closed"), ("ended", "expired"), ("ahead", "pending"), ("open", "undeclared")];
/// The provider's address that no service lists.
const FREE: u8 = 5;

/// One service for each state, with one address of each family; returns their subject.
fn furnish(lab: &Lab) -> Unit {
    let payments = lab.unit("payments");
    for (number, (name, _)) in (0..).zip(STATES) {
        let (lifetime, mut tables) = match name {
            "closed" => (Lifetime::open(), vec![window(in_ms(1_800_000), in_ms(1_900_000))]),
            "ended" => (Lifetime::over(), vec![]),
            "ahead" => (Lifetime::ahead(), vec![]),
            _ => (Lifetime::open(), vec![]),
        };
        tables.push(egress(&payments, lab.provider4(number), "443/tcp"));
        tables.push(egress(&payments, lab.provider6(number), "443/udp"));
        lab.write(name, &schedule(lifetime, &tables));
    }
    lab.canary();
    payments
}

fn addresses(lab: &Lab, number: u8) -> [(IpAddr, IpAddr); 2] {
    [(lab.host4(), lab.provider4(number)), (lab.host6(), lab.provider6(number))]
}

fn one(name: impl Into<String>, packet: Vec<u8>) -> Attempt {
    Attempt { name: name.into(), packets: vec![packet], counts: 1 }
}

/// Every combination of flags that a scanner tries, each with data; and the two bare resets, which are no attempts.
fn segments(way: &Way) -> Vec<Attempt> {
    let combinations = [
        ("null", 0),
        ("fin", FIN),
        ("xmas", FIN | PSH | URG),
        ("syn+fin", SYN | FIN),
        ("syn", SYN),
        ("syn+ack", SYN | ACK),
        ("syn+reset", SYN | RST),
        ("fin+reset", FIN | RST),
        ("ack", ACK),
        ("push", PSH | ACK),
        ("urgent", URG),
        ("reset", RST),
        ("reset+ack", RST | ACK),
        ("all", 0x3f),
    ];
    let mut attempts: Vec<_> = combinations
        .map(|(name, flags)| one(name, way.packet(TCP, &way.segment(flags, &payload(name)))))
        .into();
    // A header that claims to be shorter than it can be: all of it would be payload.
    let short = way.segment_with(RST, 4, &[], &payload("short header"));
    attempts.push(one("short header", way.packet(TCP, &short)));
    for flags in [RST, RST | ACK] {
        let bare = way.packet(TCP, &way.segment(flags, &[]));
        attempts.push(Attempt { name: "bare reset".into(), packets: vec![bare], counts: 0 });
    }
    attempts
}

/// Behind options and extension headers, and in protocols that have no ports.
fn wrapped(way: &Way) -> Vec<Attempt> {
    let mut attempts = vec![one("udp", way.packet(UDP, &way.datagram(&payload("udp"))))];
    let headers: &[(&str, u8)] = match way.is_ipv4() {
        true => &[("options", 0)],
        false => &[("hop-by-hop", 0), ("destination", 60), ("routing", 43)],
    };
    for (name, header) in headers {
        let mut push = |what: &str, protocol, make: &dyn Fn(&[u8]) -> Vec<u8>| {
            let name = format!("{what} behind {name}");
            attempts.push(one(&*name, way.behind(*header, protocol, &make(&payload(&name)))));
        };
        push("udp", UDP, &|data| way.datagram(data));
        push("ack", TCP, &|data| way.segment(ACK, data));
        push("reset", TCP, &|data| way.segment(RST, data));
        push("syn", TCP, &|data| way.segment(SYN, data));
    }
    if !way.is_ipv4() {
        // No payload, but what the header holds could be read as well.
        let name = "header before a bare reset";
        attempts.push(one(name, way.behind_data(&payload(name), TCP, &way.segment(RST, &[]))));
    }
    for (name, number) in [("gre", 47), ("sctp", 132), ("ipip", 4)] {
        // Four bytes that GRE, and no one else, would understand.
        let body = [&[0, 0, 8, 0], &*payload(name)].concat();
        attempts.push(one(name, way.packet(number, &body)));
    }
    attempts
}

/// Messages that a process could hide data in; the errors quote a flow that nobody has.
fn messages(way: &Way) -> Vec<Attempt> {
    let back = Way { from: way.to, to: way.from, from_port: 54_321, to_port: 54_322 };
    let quoted = |name: &str| back.packet(UDP, &back.datagram(&payload(name)));
    let mut attempts = vec![
        one("echo", way.icmp((8, 128), 0, [1, 2, 0, 1], &payload("echo"))),
        one("echo reply", way.icmp((0, 129), 0, [1, 2, 0, 1], &payload("echo reply"))),
    ];
    let errors = [
        ("unreachable", (3, 1), 3),
        ("too big", (3, 2), 4),
        ("time exceeded", (11, 3), 0),
        ("parameter", (12, 4), 0),
        ("redirect", (5, 137), 1),
    ];
    for (name, kinds, code) in errors {
        let code = if way.is_ipv4() { code } else { 0 };
        attempts.push(one(name, way.icmp(kinds, code, [0, 0, 5, 0], &quoted(name))));
    }
    attempts
}

/// Fragments: `whole` is true where they are put together before they are judged.
fn fragments(way: &Way, whole: bool) -> Vec<Attempt> {
    let counts = if whole { 1 } else { 2 };
    let mut attempts = Vec::new();
    // A key for the fragments of each: the port is their id.
    let mut push = |name: &str, protocol: u8, cut, counts, make: &dyn Fn(&Way, &[u8]) -> Vec<u8>| {
        let way = Way { to_port: way.to_port + attempts.len() as u16, ..*way };
        let packets = way.fragments(protocol, &make(&way, &payload(name)), cut);
        attempts.push(Attempt { name: name.to_owned(), packets, counts });
    };
    push("udp in two", UDP, Some(8), counts, &|way, data| way.datagram(data));
    push("ack in two", TCP, Some(24), counts, &|way, data| way.segment(ACK, data));
    if !way.is_ipv4() {
        push("atomic udp", UDP, None, 1, &|way, data| way.datagram(data));
        push("atomic ack", TCP, None, 1, &|way, data| way.segment(ACK, data));
        push("atomic reset", TCP, None, 1, &|way, data| way.segment(RST, data));
    }
    attempts
}

fn everything(way: &Way, whole: bool) -> Vec<Attempt> {
    [segments(way), wrapped(way), messages(way), fragments(way, whole)].into_iter().flatten().collect()
}

/// Sends all and returns the names that carry data.
fn send(agent: &Agent, way: &Way, attempts: &[Attempt]) -> BTreeSet<String> {
    agent.bytes(way.to, attempts.iter().flat_map(|attempt| attempt.packets.clone()).collect());
    attempts.iter().map(|attempt| attempt.name.clone()).filter(|name| name != "bare reset").collect()
}

/// Waits until every one of `names` was heard, and insists that nothing else was.
fn hears_all(ears: &crate::agent::Socket<'_>, names: &BTreeSet<String>) {
    let mut heard = BTreeSet::new();
    let all = clock::within(SHOWN, || {
        heard.extend(ears.sniffed());
        heard.is_superset(names).then_some(())
    });
    let lost: Vec<_> = names.difference(&heard).collect();
    assert!(all.is_some(), "not heard from an address that nobody governs: {lost:?}");
}

#[test]
fn nothing_that_a_refused_provider_sends_is_delivered_and_each_packet_counts_once() {
    let Some(lab) = Lab::new() else { return };
    let payments = furnish(&lab);
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let mut wanted = [0; STATES.len()];
    for v4 in [true, false] {
        let ears = ours.sniff(v4);
        let way = |number: u8| {
            let (to, from) = addresses(&lab, number)[usize::from(!v4)];
            Way { from, to, from_port: 40_000, to_port: 8_443 }
        };
        for (number, counted) in wanted.iter_mut().enumerate() {
            let way = way(number as u8);
            let attempts = everything(&way, v4);
            send(&theirs, &way, &attempts);
            *counted += attempts.iter().map(|attempt| attempt.counts).sum::<u64>();
        }
        lab.all_on_record(&theirs);
        assert_eq!(ears.sniffed(), BTreeSet::new(), "delivered");
        let free = way(FREE);
        hears_all(&ears, &send(&theirs, &free, &everything(&free, v4)));
    }
    lab.all_on_record(&theirs);
    for ((name, reason), wanted) in STATES.into_iter().zip(wanted) {
        lab.expect_attempts(wanted, &[("service", name), ("direction", "ingress"), ("reason", reason)]);
        assert_eq!(lab.attempts_with(&[("service", name)]), wanted, "{name}");
    }
}

#[test]
fn nothing_that_a_process_makes_up_reaches_a_refused_provider_and_each_packet_counts_once() {
    let Some(lab) = Lab::new() else { return };
    furnish(&lab);
    let _daemon = lab.daemon();
    let (stranger, theirs) = (lab.process(&lab.unit("other")), lab.provider());
    let mut wanted = [0; STATES.len()];
    for v4 in [true, false] {
        let ears = theirs.sniff(v4);
        let way = |number: u8| {
            let (from, to) = addresses(&lab, number)[usize::from(!v4)];
            Way { from, to, from_port: 40_000, to_port: 443 }
        };
        for (number, counted) in wanted.iter_mut().enumerate() {
            let way = way(number as u8);
            let attempts = everything(&way, false);
            send(&stranger, &way, &attempts);
            *counted += attempts.iter().map(|attempt| attempt.counts).sum::<u64>();
        }
        lab.all_on_record(&theirs);
        assert_eq!(ears.sniffed(), BTreeSet::new(), "delivered");
        let free = way(FREE);
        hears_all(&ears, &send(&stranger, &free, &everything(&free, false)));
    }
    lab.all_on_record(&theirs);
    for ((name, reason), wanted) in STATES.into_iter().zip(wanted) {
        lab.expect_attempts(wanted, &[("service", name), ("direction", "egress"), ("reason", reason)]);
        assert_eq!(lab.attempts_with(&[("service", name)]), wanted, "{name}");
    }
}

#[test]
fn neighbour_discovery_is_the_kernels_and_carries_no_data_of_a_process() {
    let Some(lab) = Lab::new() else { return };
    furnish(&lab);
    let _daemon = lab.daemon();
    let (stranger, theirs) = (lab.process(&lab.unit("other")), lab.provider());
    let ears = theirs.sniff(false);
    let send = |number| {
        let way = Way { from: lab.host6(), to: lab.provider6(number), from_port: 0, to_port: 0 };
        let message = |kind| {
            let target = [0xfe; 16];
            way.packet_with(
                58,
                &way.message(kind, 0, [0; 4], &[&target, &*payload("neighbour")].concat()),
                255,
            )
        };
        stranger.bytes(way.to, (133..=136).map(message).collect());
    };
    send(1);
    lab.all_on_record(&theirs);
    assert_eq!(ears.sniffed(), BTreeSet::new());
    lab.expect_attempts(4, &[("service", "ended"), ("direction", "egress")]);
    send(FREE);
    hears_all(&ears, &BTreeSet::from(["neighbour".to_owned()]));
}

#[test]
fn an_icmp_error_brings_no_data_to_a_socket_without_a_grant() {
    let Some(lab) = Lab::new() else { return };
    furnish(&lab);
    let _daemon = lab.daemon();
    let (stranger, theirs) = (lab.process(&lab.unit("other")), lab.provider());
    for (local, remote) in addresses(&lab, 1) {
        for number in [1, FREE] {
            let far = if local.is_ipv4() { lab.provider4(number) } else { lab.provider6(number) };
            // It says nothing itself: the error comes unasked, and quotes what it never sent.
            let socket = stranger.udp_to(at(local, 9_100), at(far, 9_200));
            socket.want_errors();
            let error = |name: &str, from: IpAddr| {
                let way = Way { from, to: local, from_port: 0, to_port: 0 };
                let quoted = Way { from: local, to: far, from_port: 9_100, to_port: 9_200 };
                let quoted = quoted.packet(UDP, &quoted.datagram(&payload(name)));
                let code = if local.is_ipv4() { 3 } else { 4 };
                theirs.bytes(local, vec![way.icmp((3, 1), code, [0; 4], &quoted)]);
            };
            error("from a refused provider", remote);
            lab.all_on_record(&theirs);
            assert_eq!(socket.errors(), BTreeSet::new(), "about a socket of {local} to {far}");
            let free = if local.is_ipv4() { lab.provider4(FREE) } else { lab.provider6(FREE) };
            error("from anybody", free);
            clock::until("the control arrives", SHOWN, || socket.errors().contains("from anybody"));
            socket.close();
        }
    }
    lab.expect_attempts(4, &[("service", "ended"), ("direction", "ingress")]);
}

#[test]
fn an_icmp_error_about_an_admitted_datagram_reaches_its_socket() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    // One address by itself, one in a prefix.
    let single = addresses(&lab, 0).map(|(_, remote)| egress(&payments, remote, "443/udp"));
    let network = egress(&payments, format!("{}/30", lab.provider4(2)), "443-500/udp");
    lab.write("quic", &schedule(Lifetime::open(), &[&single[..], &[network]].concat()));
    lab.canary();
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let [v4, v6] = addresses(&lab, 0);
    for (local, remote) in [v4, v6, (lab.host4(), lab.provider4(2))] {
        // Nobody listens: the provider's kernel answers that the port is unreachable, and quotes the question.
        let socket = ours.udp_to(at(local, 0), at(remote, 443));
        socket.want_errors();
        socket.say(&String::from_utf8(payload("question")).expect("text")).expect("admitted");
        clock::until("the error arrives", SHOWN, || socket.errors().contains("question"));
    }
    lab.expect_no_attempts(&theirs);
}

#[test]
fn the_service_port_of_a_provider_opens_nothing_at_a_listener_of_the_subject() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    for (name, number) in [("stripe", 0), ("quic", 1)] {
        let port = if name == "stripe" { "443/tcp" } else { "443/udp" };
        let policies = addresses(&lab, number).map(|(_, remote)| egress(&payments, remote, port));
        lab.write(name, &schedule(Lifetime::open(), &policies));
    }
    lab.canary();
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    for (local, remote) in addresses(&lab, 0) {
        let listener = ours.listen(at(local, 8_443), Manner::Keep);
        let way = Way { from: remote, to: local, from_port: 443, to_port: 8_443 };
        let (syns, others): (Vec<_>, Vec<_>) = segments(&way)
            .into_iter()
            .partition(|attempt| attempt.name.starts_with("syn") && attempt.name != "syn+ack");
        send(&theirs, &way, &others);
        lab.all_on_record(&theirs);
        // Of the others none but resets with data is refused, and the kernel answers them with a reset at most.
        let stripe = [("service", "stripe"), ("direction", "ingress")];
        let before = lab.attempts_with(&stripe);
        send(&theirs, &way, &syns);
        lab.all_on_record(&theirs);
        lab.expect_attempts(before + syns.len() as u64, &stripe);
        assert!(listener.stays_alone(), "{remote}");
    }
    // Answers to nothing: to a socket of the subject that asked nobody, and to one that asked another.
    for (local, remote) in addresses(&lab, 1) {
        let other = if local.is_ipv4() { lab.provider4(FREE) } else { lab.provider6(FREE) };
        let socket = ours.udp(at(local, 9_000));
        socket.say_to(at(other, 9_001), "to another").expect("nobody governs it");
        let way = Way { from: remote, to: local, from_port: 443, to_port: 9_000 };
        theirs.bytes(local, vec![way.packet(UDP, &way.datagram(b"unasked"))]);
        let control = Way { from: other, from_port: 443, ..way };
        theirs.bytes(local, vec![control.packet(UDP, &control.datagram(b"anybody"))]);
        assert!(socket.hears("anybody"), "{local}: the first to arrive is the control");
    }
    lab.all_on_record(&theirs);
    lab.expect_attempts(2, &[("service", "quic"), ("direction", "ingress"), ("protocol", "udp")]);
}

#[test]
fn a_udp_service_of_ours_does_not_speak_first_from_its_port() {
    let Some(lab) = Lab::new() else { return };
    let syslog = lab.unit("syslog");
    let policies = addresses(&lab, 0).map(|(_, remote)| ingress(&syslog, remote, "9000/udp"));
    lab.write("logs", &schedule(Lifetime::open(), &policies));
    lab.canary();
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&syslog), lab.provider());
    for (local, remote) in addresses(&lab, 0) {
        let server = ours.udp(at(local, 9_000));
        let (asks, silent) = (theirs.udp(at(remote, 9_001)), theirs.udp(at(remote, 9_002)));
        asks.say_to(server.local(), "question").expect("it leaves the provider");
        assert!(server.hears("question"));
        // The answer to one is no answer to another port of the same host.
        let _ = server.say_to(silent.local(), "unasked");
        server.say_to(asks.local(), "answer").expect("asked for");
        assert!(asks.hears("answer"));
        assert_eq!(silent.hear_within(Duration::from_millis(1)), Heard::Nothing);
    }
    lab.all_on_record(&theirs);
    lab.expect_attempts(2, &[("service", "logs"), ("direction", "egress"), ("protocol", "udp")]);
}

#[test]
fn a_flood_is_counted_to_the_last_packet() {
    let Some(lab) = Lab::new() else { return };
    furnish(&lab);
    let _daemon = lab.daemon();
    let theirs = lab.provider();
    for (local, remote) in addresses(&lab, 1) {
        for (kind, port, count) in
            [(Kind::Syn, 8_443, 13_000), (Kind::Udp, 9_000, 13_000), (Kind::Reset, 1, 2_000)]
        {
            theirs.raw(Packets { kind, from: at(remote, 20_000), to: at(local, port), count });
        }
    }
    lab.all_on_record(&theirs);
    for (_, remote) in addresses(&lab, 1) {
        let of = |protocol| {
            let remote = remote.to_string();
            let values = [("remote", &*remote), ("protocol", protocol), ("reason", "expired")];
            lab.expect_attempts(13_000, &values);
        };
        of("tcp");
        of("udp");
    }
    assert_eq!(lab.status()["attempts_total"], 52_000 + 1);
}

#[test]
fn what_the_host_forwards_is_refused_in_every_form_and_attributed() {
    let Some(lab) = Lab::new() else { return };
    furnish(&lab);
    let guest = lab.guest();
    let _daemon = lab.daemon();
    let (inside, theirs) = (guest.process(), lab.provider());
    let (ears_inside, ears_there) = (inside.sniff(true), theirs.sniff(true));
    let both = |number| {
        let out = Way { from: guest.address(), to: lab.provider4(number), from_port: 40_000, to_port: 443 };
        (out, Way { from: out.to, to: out.from, ..out })
    };
    let mut wanted = 0;
    for number in 0..STATES.len() {
        let (_, back) = both(number as u8);
        send(&theirs, &back, &everything(&back, false));
    }
    lab.all_on_record(&theirs);
    assert_eq!(ears_inside.sniffed(), BTreeSet::new(), "delivered");
    for number in 0..STATES.len() {
        let (out, _) = both(number as u8);
        let attempts = everything(&out, false);
        send(&inside, &out, &attempts);
        wanted = attempts.iter().map(|attempt| attempt.counts).sum::<u64>();
    }
    lab.all_on_record(&theirs);
    assert_eq!(ears_there.sniffed(), BTreeSet::new(), "delivered");
    let (out, back) = both(FREE);
    hears_all(&ears_there, &send(&inside, &out, &everything(&out, false)));
    hears_all(&ears_inside, &send(&theirs, &back, &everything(&back, false)));
    for (name, reason) in STATES {
        for direction in ["egress", "ingress"] {
            lab.expect_attempts(wanted, &[("service", name), ("direction", direction), ("reason", reason)]);
        }
        assert_eq!(lab.attempts_with(&[("service", name)]), 2 * wanted, "{name}");
    }
}

#[test]
fn a_host_that_lists_its_own_addresses_still_talks_to_itself() {
    let Some(lab) = Lab::new() else { return };
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    let networks = [
        format!("{}/24", lab.network4()),
        format!("{}/128", lab.host6()),
        "127.0.0.0/8".into(),
        "::1".into(),
    ];
    lab.write(
        "all",
        &schedule(Lifetime::over(), &networks.map(|network| egress(&payments, network, "443/tcp"))),
    );
    let _daemon = lab.daemon();
    let (stranger, theirs) = (lab.process(&other), lab.provider());
    for local in [lab.host4(), lab.host6(), [127, 0, 0, 1].into(), std::net::Ipv6Addr::LOCALHOST.into()] {
        stranger.echo(at(local, 443));
        assert!(stranger.talks_to(at(local, 443)), "{local}");
        assert!(stranger.pings(local), "{local}");
        let server = stranger.udp(at(local, 9_000));
        server.udp_echo();
        let client = stranger.udp_to(at(local, 9_001), server.local());
        assert!(client.echoes(), "{local}");
    }
    theirs.echo(at(lab.provider4(0), 443));
    assert!(!stranger.talks_to(at(lab.provider4(0), 443)), "it is governed");
    lab.expect_attempts(1, &[]);
}

#[test]
fn an_answer_that_comes_too_late_for_its_socket_is_no_attempt() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remotes = addresses(&lab, 0);
    lab.write(
        "quic",
        &schedule(Lifetime::open(), &remotes.map(|(_, remote)| egress(&payments, remote, "443/udp"))),
    );
    lab.canary();
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    for (local, remote) in remotes {
        let server = theirs.udp(at(remote, 443));
        let client = ours.udp(at(local, 0));
        client.say_to(server.local(), "question").expect("admitted");
        let Heard::Text { from: Some(from), .. } = server.hear() else { panic!("{remote} heard nothing") };
        client.close();
        server.say_to(from, "answer").expect("it leaves the provider");
    }
    lab.expect_no_attempts(&theirs);
}
