//! Ordinary traffic of an admitted process is never accused, however its connections end.

use std::net::IpAddr;
use std::time::Duration;

use crate::agent::{Close, Manner};
use crate::lab::schedule::{Lifetime, egress, ingress, schedule};
use crate::lab::{Lab, MOMENT, at, clock};

/// The passive side closes at once, or as late as a real server does: after the delayed acknowledgement.
const LATE: Duration = Duration::from_millis(100);

/// Connections of one kind: how they end, how late the passive side follows, how many.
const KINDS: [(Close, Duration, u32); 6] = [
    (Close::Client, Duration::ZERO, 1_000),
    (Close::Server, Duration::ZERO, 1_000),
    (Close::Client, LATE, 1_000),
    (Close::Server, LATE, 1_000),
    (Close::ClientResets, Duration::ZERO, 300),
    (Close::ServerResets, Duration::ZERO, 300),
];

/// Our process connects to the provider.
fn outward(lab: &Lab, remote: IpAddr) {
    let payments = lab.unit("payments");
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, remote, "443-500/tcp")]));
    lab.canary();
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    for (port, (close, late, count)) in (443..).zip(KINDS) {
        let listener = theirs.listen(at(remote, port), Manner::Exchange { close, late });
        let tally = ours.exchange(listener.local(), close, late, count);
        assert_eq!(tally.done, count, "{close:?} {late:?}: {tally:?}");
    }
    lab.expect_no_attempts(&theirs);
}

/// The provider connects to our process.
fn inward(lab: &Lab, local: IpAddr, from: &[IpAddr]) {
    let webhook = lab.unit("webhook");
    let policies: Vec<_> = from.iter().map(|remote| ingress(&webhook, remote, "8443-8500/tcp")).collect();
    lab.write("hooks", &schedule(Lifetime::open(), &policies));
    lab.canary();
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&webhook), lab.provider());
    for (port, (close, late, count)) in (8443..).zip(KINDS) {
        let listener = ours.listen(at(local, port), Manner::Exchange { close, late });
        let tally = theirs.exchange(listener.local(), close, late, count);
        assert_eq!(tally.done, count, "{close:?} {late:?}: {tally:?}");
    }
    lab.expect_no_attempts(&theirs);
}

#[test]
fn a_thousand_connections_to_a_provider_leave_no_attempts_over_ipv4() {
    let Some(lab) = Lab::new() else { return };
    outward(&lab, lab.provider4(0));
}

#[test]
fn a_thousand_connections_to_a_provider_leave_no_attempts_over_ipv6() {
    let Some(lab) = Lab::new() else { return };
    outward(&lab, lab.provider6(0));
}

#[test]
fn a_thousand_connections_from_a_provider_leave_no_attempts_over_ipv4() {
    let Some(lab) = Lab::new() else { return };
    // Without a choice of its own the provider connects from its first address.
    inward(&lab, lab.host4(), &[lab.provider4(0)]);
}

#[test]
fn a_thousand_connections_from_a_provider_leave_no_attempts_over_ipv6() {
    let Some(lab) = Lab::new() else { return };
    // Which of several IPv6 addresses it takes is up to the kernel.
    let every: Vec<_> = (0..6).map(|number| lab.provider6(number)).collect();
    inward(&lab, lab.host6(), &every);
}

#[test]
fn a_source_port_that_comes_back_meets_our_time_wait_and_is_admitted() {
    let Some(lab) = Lab::new() else { return };
    let webhook = lab.unit("webhook");
    lab.few_provider_ports(20_000, 20_199);
    lab.write("hooks", &schedule(Lifetime::open(), &[ingress(&webhook, lab.provider4(0), "8443/tcp")]));
    lab.canary();
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&webhook), lab.provider());
    let (close, late) = (Close::Server, Duration::ZERO);
    let listener = ours.listen(at(lab.host4(), 8443), Manner::Exchange { close, late });
    let tally = theirs.exchange(listener.local(), close, late, 1_000);
    assert_eq!(tally.done, 1_000, "{tally:?}");
    lab.expect_no_attempts(&theirs);
}

#[test]
fn a_killed_process_is_no_attempt_of_its_peer() {
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
    let listeners = remotes.map(|remote| theirs.listen(at(remote, 443), Manner::Keep));
    for listener in &listeners {
        // One that pushes, one that takes, one that does both, one that does nothing.
        let ours = lab.process(&payments);
        let mut servers = Vec::new();
        for (ours_pumps, theirs_pump) in [(true, false), (false, true), (true, true), (false, false)] {
            let client = ours.connect(listener.local()).expect("admitted");
            let server = listener.accept().expect("admitted");
            server.drain();
            client.drain();
            if ours_pumps {
                client.pump(Duration::ZERO);
                server.moves_on();
            }
            if theirs_pump {
                server.pump(Duration::ZERO);
                client.moves_on();
            }
            servers.push(server);
        }
        ours.kill9();
        for server in &servers {
            server.ends_within(MOMENT);
        }
    }
    lab.expect_no_attempts(&theirs);
}

#[test]
fn a_receiver_that_stops_reading_and_goes_on_is_no_attempt() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remote = at(lab.provider4(0), 443);
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, remote.ip(), "443/tcp")]));
    lab.canary();
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let listener = theirs.listen(remote, Manner::Keep);
    let client = ours.connect(remote).expect("admitted");
    let server = listener.accept().expect("admitted");
    client.pump(Duration::ZERO);
    // The window is zero when nothing more can be sent for a while: now the sender probes.
    let mut sent = 0;
    clock::until("the window is full", Duration::from_secs(20), || {
        let before = std::mem::replace(&mut sent, client.flow().sent);
        sent > 0 && before == sent
    });
    server.drain();
    server.moves_on();
    clock::until("it goes on", MOMENT, || client.flow().sent > sent);
    lab.expect_no_attempts(&theirs);
}
