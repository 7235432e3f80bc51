//! `tls = "required"`: real clients of TLS pass, and nothing else does before its first byte has left.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use crate::agent::{Agent, Close, Ending, Heard, Manner};
use crate::lab::clock::{in_ms, reach, soon};
use crate::lab::schedule::{Lifetime, egress, schedule, window};
use crate::lab::{Lab, MOMENT, TOLD_WITHIN, Unit, at};
use crate::tcp_cases::statistic;

const REQUEST: &str = "GET / HTTP/1.0\r\n\r\n";
/// How many bytes of a ClientHello are looked at.
const LOOKED_AT: usize = 6;

/// What a client says first: a record of version 3.1 with a message of type 1.
fn hello() -> String {
    format!("\u{16}\u{3}\u{1}\u{2}\0\u{1}{}", "h".repeat(506))
}

fn tls(unit: &Unit, to: IpAddr, port: &str) -> String {
    egress(unit, to, port) + "tls = \"required\"\n\n"
}

fn both(lab: &Lab) -> [IpAddr; 2] {
    [lab.provider4(0), lab.provider6(0)]
}

/// The unit may talk TLS to both addresses of the provider.
fn guarded(lab: &Lab, payments: &Unit) {
    let policies = both(lab).map(|remote| tls(payments, remote, "443-500/tcp"));
    lab.write("vault", &schedule(Lifetime::open(), &policies));
    lab.canary();
}

/// The client's words never arrive, and it is told at once. One attempt for each of its segments.
fn refused(ours: &Agent, theirs: &Agent, remote: SocketAddr, words: &str) {
    let listener = theirs.listen(remote, Manner::Keep);
    let client = ours.connect(remote).expect("the handshake passes");
    let server = listener.accept().expect("the handshake passes");
    // The error may show already.
    let _ = client.say(words);
    let end = client.ends_within(MOMENT);
    assert!(matches!(end.how, Ending::Broken(ref f) if f.errno == libc::ECONNRESET), "{end:?}");
    let heard = server.hear_within(Duration::from_millis(300));
    assert!(!matches!(heard, Heard::Text { .. }), "{heard:?}");
}

/// What is said arrives.
fn passes(ours: &Agent, theirs: &Agent, remote: SocketAddr, words: &[&str]) {
    let _listener = theirs.echo(remote);
    let client = ours.connect(remote).expect("admitted");
    for word in words {
        client.say(word).expect("admitted");
        assert!(client.hears(word), "{word:?} does not come back");
    }
}

/// So many segments were refused as plaintext, and nothing else was.
fn only_plaintext(lab: &Lab, theirs: &Agent, count: u64) {
    lab.all_on_record(theirs);
    let values = [
        ("service", "vault"),
        ("direction", "egress"),
        ("reason", "plaintext"),
        ("verdict", "refused"),
        ("protocol", "tcp"),
        ("policy", "vault/egress/0"),
    ];
    let all = lab.attempts_with(&[("service", "vault")]);
    assert_eq!(all, count, "{:#?}", lab.attempts());
    let v4 = lab.attempts_with(&values);
    let v6 = lab.attempts_with(&[&values[..5], &[("policy", "vault/egress/1")]].concat());
    assert_eq!(v4 + v6, count, "{:#?}", lab.attempts());
}

#[test]
fn a_hello_opens_and_plaintext_is_refused_before_its_first_byte_leaves() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    guarded(&lab, &payments);
    let daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let mut count = 0;
    let mut everything = |first: u16| {
        for remote in both(&lab) {
            passes(&ours, &theirs, at(remote, first), &[&hello(), "whatever follows", REQUEST]);
            let nearly = hello().replacen('\u{1}', "\u{2}", 2);
            for (port, words) in (first + 1..).zip([REQUEST, "\u{16}", &hello()[..LOOKED_AT - 1], &nearly]) {
                refused(&ours, &theirs, at(remote, port), words);
                count += 1;
            }
        }
        count
    };
    let seen = everything(443);
    only_plaintext(&lab, &theirs, seen);
    // The kernel decides it alone, and a daemon that comes back finds the counts.
    daemon.kill9();
    let seen = everything(450);
    let _daemon = lab.daemon();
    only_plaintext(&lab, &theirs, seen);
}

#[test]
fn a_known_flow_says_what_it_likes_and_a_new_one_from_its_port_does_not() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    guarded(&lab, &payments);
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    for (local, remote) in [lab.host4(), lab.host6()].into_iter().zip(both(&lab)) {
        for (port, reset) in (443..).zip([true, false]) {
            let (from, listener) = (at(local, 50_000), theirs.listen(at(remote, port), Manner::Keep));
            let connect = || ours.connect_from(from, listener.local()).expect("the handshake passes");
            let client = connect();
            let server = listener.accept().expect("the handshake passes");
            for word in [&hello(), REQUEST, "more"] {
                client.say(word).expect("admitted");
                assert!(server.hears(word));
            }
            match reset {
                true => client.reset(),
                // The server first: our port is free at once.
                false => {
                    server.close();
                    client.ends_within(MOMENT);
                    client.close();
                }
            }
            let client = connect();
            let server = listener.accept().expect("the handshake passes");
            let _ = client.say(REQUEST);
            client.ends_within(MOMENT);
            assert!(!matches!(server.hear_within(Duration::from_millis(300)), Heard::Text { .. }));
        }
    }
    only_plaintext(&lab, &theirs, 4);
}

#[test]
fn the_server_may_speak_first_and_the_client_answers_in_tls() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    guarded(&lab, &payments);
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    for (count, remote) in (1..).zip(both(&lab)) {
        let listener = theirs.listen(at(remote, 443), Manner::Keep);
        let client = ours.connect(listener.local()).expect("the handshake passes");
        let server = listener.accept().expect("the handshake passes");
        server.say("220 welcome").expect("it is not judged");
        assert!(client.hears("220 welcome"));
        let _ = client.say("STARTTLS");
        client.ends_within(MOMENT);
        assert!(!matches!(server.hear_within(Duration::from_millis(300)), Heard::Text { .. }));
        only_plaintext(&lab, &theirs, count);
        let client = ours.connect(listener.local()).expect("the handshake passes");
        let server = listener.accept().expect("the handshake passes");
        server.say("220 welcome").expect("it is not judged");
        assert!(client.hears("220 welcome"));
        client.say(&hello()).expect("admitted");
        assert!(server.hears(&hello()));
    }
}

#[test]
fn fast_open_carries_a_hello_and_no_plaintext() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    guarded(&lab, &payments);
    // 1: as a client, 2: as a server, 0x400: every listener.
    for at_host in [true, false] {
        lab.sysctl(at_host, "ipv4/tcp_fastopen", "1027");
    }
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    for remote in both(&lab) {
        let (listener, there) = (theirs.listen(at(remote, 443), Manner::Keep), at(remote, 443));
        // The first fetches the cookie, the others have their words in the SYN.
        for _ in 0..3 {
            let client = ours.fast_open(there, &hello()).expect("admitted");
            let server = listener.accept().expect("admitted");
            assert!(server.hears(&hello()));
            client.say("more").expect("admitted");
            assert!(server.hears("more"));
        }
    }
    lab.expect_no_attempts(&theirs);
    for remote in both(&lab) {
        let listener = theirs.listen(at(remote, 444), Manner::Keep);
        if let Ok(client) = ours.fast_open(at(remote, 444), REQUEST) {
            client.ends_within(MOMENT);
        }
        // The kernel tries again with a SYN alone, then with the words.
        if let Ok(server) = listener.accept() {
            assert!(!matches!(server.hear_within(Duration::from_millis(300)), Heard::Text { .. }));
        }
    }
    let sent = statistic(&lab, "TCPFastOpenActive");
    assert!(sent >= 4, "{sent} hellos in SYNs");
    lab.all_on_record(&theirs);
    let plaintext = lab.attempts_with(&[("reason", "plaintext")]);
    assert!(plaintext >= 2, "{:#?}", lab.attempts());
    assert_eq!(plaintext, lab.attempts_with(&[("service", "vault")]), "{:#?}", lab.attempts());
}

#[test]
fn another_grant_without_tls_admits_the_same_words() {
    let Some(lab) = Lab::new() else { return };
    let (payments, backup) = (lab.unit("payments"), lab.unit("backup"));
    let [v4, v6] = both(&lab);
    let policies = [
        tls(&payments, v4, "443-500/tcp"),
        tls(&payments, v6, "443-500/tcp"),
        tls(&backup, v4, "443-500/tcp"),
        tls(&backup, v6, "443-500/tcp"),
    ];
    lab.write("vault", &schedule(Lifetime::open(), &policies));
    let plain = [egress(&backup, v4, "443-500/tcp"), egress(&backup, v6, "443-500/tcp")];
    lab.write("archive", &schedule(Lifetime::open(), &plain));
    lab.canary();
    let _daemon = lab.daemon();
    let (ours, others, theirs) = (lab.process(&payments), lab.process(&backup), lab.provider());
    for remote in [v4, v6] {
        passes(&others, &theirs, at(remote, 443), &[REQUEST, "and more"]);
        passes(&others, &theirs, at(remote, 444), &[&hello(), "and more"]);
        passes(&ours, &theirs, at(remote, 445), &[&hello(), "and more"]);
    }
    lab.expect_no_attempts(&theirs);
    for remote in [v4, v6] {
        refused(&ours, &theirs, at(remote, 446), REQUEST);
    }
    lab.all_on_record(&theirs);
    // Both list the address, and the first by name owns what is refused.
    let owned = [("service", "archive"), ("reason", "plaintext")];
    assert_eq!(lab.attempts_with(&owned), 2, "{:#?}", lab.attempts());
    assert_eq!(lab.attempts_with(&[("reason", "plaintext")]), 2);
}

#[test]
fn flows_outlive_a_restart_and_an_apply_and_end_with_their_window_without_a_daemon() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let close = soon(9_000);
    let policies = |more: &str| {
        let mut tables = vec![window(in_ms(-60_000), close)];
        tables.extend(both(&lab).map(|remote| tls(&payments, remote, "443-500/tcp")));
        schedule(Lifetime::open(), &tables).replace("owner@", &format!("owner{more}@"))
    };
    lab.write("vault", &policies(""));
    lab.canary();
    let daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let ends: Vec<_> = both(&lab)
        .map(|remote| {
            let listener = theirs.listen(at(remote, 443), Manner::Keep);
            let client = ours.connect(listener.local()).expect("admitted");
            let server = listener.accept().expect("admitted");
            client.say(&hello()).expect("admitted");
            assert!(server.hears(&hello()));
            server.drain();
            client.pump(Duration::from_millis(2));
            server.moves_on();
            (client, server)
        })
        .into();
    daemon.kill9();
    let daemon = lab.daemon();
    lab.write("vault", &policies("2"));
    lab.picoseg(&["apply"]).ok();
    ends.iter().for_each(|(_, server)| server.moves_on());
    lab.expect_no_attempts(&theirs);
    daemon.kill9();
    ends.iter().for_each(|(_, server)| server.moves_on());
    reach(close);
    let close = close.timestamp_nanos_opt().expect("in range");
    for (client, server) in &ends {
        client.ends_within(TOLD_WITHIN);
        let last = server.flow().last_stamp;
        assert!(last < close, "sent {} ns after the close", last - close);
    }
}

#[test]
fn what_was_connected_before_the_policy_asked_for_tls_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remote = at(lab.provider4(0), 443);
    lab.write("vault", &schedule(Lifetime::open(), &[egress(&payments, remote.ip(), "443/tcp")]));
    lab.canary();
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let listener = theirs.listen(remote, Manner::Keep);
    let client = ours.connect(remote).expect("admitted");
    let server = listener.accept().expect("admitted");
    client.say(REQUEST).expect("admitted");
    assert!(server.hears(REQUEST));
    lab.write("vault", &schedule(Lifetime::open(), &[tls(&payments, remote.ip(), "443/tcp")]));
    lab.picoseg(&["apply"]).ok();
    let _ = client.say(REQUEST);
    client.ends_within(MOMENT);
    assert!(!matches!(server.hear_within(Duration::from_millis(300)), Heard::Text { .. }));
    only_plaintext(&lab, &theirs, 1);
}

#[test]
fn hundreds_of_connections_end_in_every_order_without_an_attempt_and_leave_no_flow_behind() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    guarded(&lab, &payments);
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let late = Duration::from_millis(100);
    let kinds = [
        (Close::Client, Duration::ZERO),
        (Close::Server, Duration::ZERO),
        (Close::Client, late),
        (Close::Server, late),
        (Close::ClientResets, Duration::ZERO),
        (Close::ServerResets, Duration::ZERO),
    ];
    for remote in both(&lab) {
        for (port, (close, late)) in (443..).zip(kinds) {
            let listener = theirs.listen(at(remote, port), Manner::Exchange { close, late });
            let tally = ours.exchange(listener.local(), close, late, 300);
            assert_eq!(tally.done, 300, "{close:?} {late:?}: {tally:?}");
        }
    }
    lab.expect_no_attempts(&theirs);
    // A flow that is over stays no longer than its remnants, whoever ended it.
    for set in ["tls-flows4", "tls-flows6"] {
        let mut list = Command::new("nft");
        list.args(["list", "set", "inet", "picoseg", set]);
        let listed = lab.on_host(list).ok().stdout;
        assert!(!listed.contains("expires 4d"), "{listed}");
    }
}
