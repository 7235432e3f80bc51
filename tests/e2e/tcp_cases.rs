//! What TCP does when things go wrong on the way is no attempt of anybody.

use std::net::IpAddr;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::agent::{Agent, Close, Ending, Manner};
use crate::lab::schedule::{Lifetime, egress, ingress, schedule};
use crate::lab::{Daemon, Lab, Unit, at, clock};

/// From a loss until the kernel has made it good, some times over.
const PATIENCE: Duration = Duration::from_secs(15);
const NOW: Duration = Duration::ZERO;

/// Both ways are open: ours to 443, theirs to 8443, TCP over both families.
struct Scene {
    ours: Agent,
    theirs: Agent,
    unit: Unit,
    _daemon: Daemon,
}

fn open(lab: &Lab) -> Scene {
    let payments = lab.unit("payments");
    // Which of several IPv6 addresses the provider takes is up to its kernel.
    let remotes: Vec<_> = [lab.provider4(0)].into_iter().chain((0..6).map(|n| lab.provider6(n))).collect();
    let out = remotes.iter().map(|remote| egress(&payments, remote, "443/tcp"));
    let inward = remotes.iter().map(|remote| ingress(&payments, remote, "8443/tcp"));
    lab.write("both", &schedule(Lifetime::open(), &out.chain(inward).collect::<Vec<_>>()));
    lab.canary();
    let _daemon = lab.daemon();
    Scene { ours: lab.process(&payments), theirs: lab.provider(), unit: payments, _daemon }
}

fn families(lab: &Lab) -> [(IpAddr, IpAddr); 2] {
    [(lab.host4(), lab.provider4(0)), (lab.host6(), lab.provider6(0))]
}

/// A number out of `/proc/net/netstat` of the host.
pub fn statistic(lab: &Lab, name: &str) -> u64 {
    let mut command = Command::new("cat");
    command.arg("/proc/net/netstat");
    let text = lab.on_host(command).ok().stdout;
    let lines: Vec<_> = text.lines().collect();
    let value = lines.chunks(2).find_map(|pair| {
        let place = pair[0].split_whitespace().position(|word| word == name)?;
        pair[1].split_whitespace().nth(place)?.parse().ok()
    });
    value.unwrap_or_else(|| panic!("no {name}"))
}

/// The packets that a named counter of [`Lab::wire`] has seen.
fn passed(lab: &Lab, counter: &str) -> u64 {
    let mut command = Command::new("nft");
    command.args(["list", "counter", "inet", "wire", counter]);
    let text = lab.at_provider(command).ok().stdout;
    let number = text.split_whitespace().skip_while(|word| *word != "packets").nth(1);
    number.and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no packets in {text}"))
}

#[test]
fn losses_both_ways_are_no_attempts() {
    let Some(lab) = Lab::new() else { return };
    let scene = open(&lab);
    let lose = "meta l4proto tcp numgen random mod 10 == 0 counter name lost drop";
    lab.wire(&format!(
        "table inet wire {{\n counter lost {{ }}\n\
         chain in {{ type filter hook input priority 0; tcp dport != 1 {lose}; }}\n\
         chain out {{ type filter hook output priority 0; tcp dport != 1 {lose}; }}\n}}"
    ));
    let late = Duration::from_millis(1);
    let close = Close::Client;
    let manner = Manner::Exchange { close, late };
    let listeners = families(&lab).map(|(local, remote)| {
        let there = scene.theirs.listen(at(remote, 443), manner).local();
        (there, scene.ours.listen(at(local, 8443), manner).local())
    });
    // Each family and direction has an agent of its own: all at once.
    thread::scope(|threads| {
        for (there, here) in listeners {
            let (ours, theirs) = (lab.process(&scene.unit), lab.provider());
            let check = move |agent: Agent, remote| {
                let tally = agent.exchange(remote, close, late, 50);
                // One that loses the same segment thrice takes longer than its patience.
                assert!(tally.done >= 40, "to {remote}: {tally:?}");
            };
            threads.spawn(move || check(ours, there));
            threads.spawn(move || check(theirs, here));
        }
    });
    assert!(passed(&lab, "lost") > 100, "something was lost");
    lab.wire("");
    lab.expect_no_attempts(&scene.theirs);
}

#[test]
fn a_lost_handshake_acknowledgement_is_made_good_by_data() {
    let Some(lab) = Lab::new() else { return };
    let scene = open(&lab);
    // All acknowledgements without data are lost: the first data completes the handshake, in both directions.
    let lose = "tcp flags & (fin | syn | rst | psh | ack) == ack counter name lost drop";
    lab.wire(&format!(
        "table inet wire {{\n counter lost {{ }}\n\
         chain in {{ type filter hook input priority 0; {lose}; }}\n\
         chain out {{ type filter hook output priority 0; {lose}; }}\n}}"
    ));
    for (local, remote) in families(&lab) {
        scene.theirs.echo(at(remote, 443));
        assert!(scene.ours.talks_to(at(remote, 443)), "{remote}");
        scene.ours.echo(at(local, 8443));
        let inward = scene.theirs.connect_from(at(remote, 0), at(local, 8443)).expect("admitted");
        assert!(inward.echoes(), "{local}");
        inward.reset();
    }
    assert!(passed(&lab, "lost") >= 4);
    lab.wire("");
    lab.expect_no_attempts(&scene.theirs);
}

#[test]
fn syn_cookies_are_no_attempts() {
    let Some(lab) = Lab::new() else { return };
    let scene = open(&lab);
    lab.sysctl(true, "ipv4/tcp_syncookies", "2");
    let (close, late) = (Close::Client, NOW);
    for (local, _) in families(&lab) {
        let listener = scene.ours.listen(at(local, 8443), Manner::Exchange { close, late });
        let tally = scene.theirs.exchange(listener.local(), close, late, 200);
        assert_eq!(tally.done, 200, "{tally:?}");
    }
    assert!(statistic(&lab, "SyncookiesRecv") >= 400);
    lab.expect_no_attempts(&scene.theirs);
}

#[test]
fn fast_open_is_no_attempt() {
    let Some(lab) = Lab::new() else { return };
    let scene = open(&lab);
    // 1: as a client, 2: as a server, 0x400: every listener.
    for at_host in [true, false] {
        lab.sysctl(at_host, "ipv4/tcp_fastopen", "1027");
    }
    for (local, remote) in families(&lab) {
        let (there, here) = (at(remote, 443), at(local, 8443));
        scene.theirs.echo(there);
        scene.ours.echo(here);
        // The first fetches the cookie, the others have their words in the SYN.
        for _ in 0..5 {
            for (agent, to) in [(&scene.ours, there), (&scene.theirs, here)] {
                let socket = agent.fast_open(to, "first words").expect("admitted");
                assert!(socket.hears("first words"), "{to}");
                socket.close();
            }
        }
    }
    let (active, passive) = (statistic(&lab, "TCPFastOpenActive"), statistic(&lab, "TCPFastOpenPassive"));
    assert!(active >= 4 && passive >= 4, "words in SYNs: {active} out, {passive} in");
    lab.expect_no_attempts(&scene.theirs);
}

#[test]
fn an_orphan_delivers_what_it_has_queued_once_its_peer_reads() {
    let Some(lab) = Lab::new() else { return };
    let scene = open(&lab);
    for (_, remote) in families(&lab) {
        let listener = scene.theirs.listen(at(remote, 443), Manner::Keep);
        let ours = lab.process(&scene.unit);
        let client = ours.connect(listener.local()).expect("admitted");
        let server = listener.accept().expect("admitted");
        client.pump(NOW);
        let mut sent = 0;
        clock::until("the window is full", PATIENCE, || {
            let before = std::mem::replace(&mut sent, client.flow().sent);
            sent > 0 && before == sent
        });
        ours.kill9();
        server.drain();
        assert_eq!(server.ends_within(PATIENCE).how, Ending::Closed, "{remote}: in good order");
        // A part of a record may have been queued too.
        clock::until("all that was queued has arrived", PATIENCE, || server.flow().received >= sent);
    }
    lab.expect_no_attempts(&scene.theirs);
}

#[test]
fn probes_of_a_full_window_and_of_a_silent_peer_are_no_attempts() {
    let Some(lab) = Lab::new() else { return };
    let scene = open(&lab);
    for (local, remote) in families(&lab) {
        let listener = scene.ours.listen(at(local, 8443), Manner::Keep);
        let client = scene.theirs.connect_from(at(remote, 0), listener.local()).expect("admitted");
        let server = listener.accept().expect("admitted");
        let silent = scene.theirs.listen(at(remote, 443), Manner::Keep);
        let idle = scene.ours.connect(silent.local()).expect("admitted");
        let idle_there = silent.accept().expect("admitted");
        idle.keepalive();
        idle_there.keepalive();
        client.pump(NOW);
        let keepalives = statistic(&lab, "TCPKeepAlive");
        clock::until("the kernel asks for a sign of life", PATIENCE, || {
            statistic(&lab, "TCPKeepAlive") > keepalives
        });
        // Meanwhile the provider probes a window that we keep shut.
        server.drain();
        server.moves_on();
        assert!(idle.alive() && idle_there.alive() && client.alive(), "{remote}");
        client.reset();
    }
    lab.expect_no_attempts(&scene.theirs);
}

#[test]
fn a_peer_that_forgets_its_connections_is_no_attempt() {
    let Some(lab) = Lab::new() else { return };
    let scene = open(&lab);
    for (local, remote) in families(&lab) {
        let lost = lab.provider();
        let there = lost.listen(at(remote, 443), Manner::Keep);
        let out = scene.ours.connect(there.local()).expect("admitted");
        let _accepted = there.accept().expect("admitted");
        let here = scene.ours.listen(at(local, 8443), Manner::Keep);
        let caller = lost.connect_from(at(remote, 33_333), here.local()).expect("admitted");
        let inward = here.accept().expect("admitted");
        let again = lost.connect_from(at(remote, 33_334), here.local()).expect("admitted");
        let stale = here.accept().expect("admitted");
        assert!(caller.alive() && again.alive());

        // The power fails: nothing leaves any more, then nobody remembers.
        lab.wire(
            "table inet wire {\n chain out { type filter hook output priority 0; meta l4proto tcp drop; }\n}",
        );
        lost.kill9();
        let mut forget = Command::new("ss");
        forget.args(["-K", "-H", "-t", "-a", "src"]).arg(match remote {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("[{v6}]"),
        });
        lab.at_provider(forget).ok();
        lab.wire("");

        // Who speaks first learns of it by a reset.
        for socket in [&out, &inward] {
            assert!(socket.alive(), "{remote}: nobody has told us");
            socket.say("are you there?").expect("it is half open");
            let end = socket.ends_within(PATIENCE);
            assert!(
                matches!(&end.how, Ending::Broken(f) if f.errno == libc::ECONNRESET),
                "{remote}: {end:?}"
            );
        }
        // A new connection from the same port meets the one that we still have, and takes its place.
        let fresh = clock::eventually("the port works again", PATIENCE, || {
            scene.theirs.connect_from(at(remote, 33_334), here.local()).ok()
        });
        let taken = here.accept().expect("admitted");
        fresh.say("word").expect("it is open");
        assert!(taken.hears("word") && !stale.alive(), "{remote}");
    }
    lab.expect_no_attempts(&scene.theirs);
}

#[test]
fn processes_of_one_subject_may_share_a_port() {
    let Some(lab) = Lab::new() else { return };
    let scene = open(&lab);
    let second = lab.process(&scene.unit);
    let (close, late) = (Close::Server, NOW);
    for (local, _) in families(&lab) {
        for agent in [&scene.ours, &second] {
            agent.listen_shared(at(local, 8443), Manner::Exchange { close, late });
        }
        let tally = scene.theirs.exchange(at(local, 8443), close, late, 300);
        assert_eq!(tally.done, 300, "{tally:?}");
    }
    lab.expect_no_attempts(&scene.theirs);
}

#[test]
fn a_source_port_that_comes_back_meets_our_time_wait_over_ipv6_too() {
    let Some(lab) = Lab::new() else { return };
    lab.few_provider_ports(20_000, 20_099);
    let scene = open(&lab);
    let (close, late) = (Close::Server, NOW);
    let listener = scene.ours.listen(at(lab.host6(), 8443), Manner::Exchange { close, late });
    let tally = scene.theirs.exchange(listener.local(), close, late, 600);
    assert_eq!(tally.done, 600, "{tally:?}");
    lab.expect_no_attempts(&scene.theirs);
}

/// A transfer over a link that takes less than both ends think, whose router is governed, by a service that has
/// ended, or not.
fn narrow(router_is_governed: bool) {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let beyond = lab.beyond(1_280);
    let policies = beyond.addresses().map(|remote| egress(&payments, remote, "443/tcp"));
    lab.write("far", &schedule(Lifetime::open(), &policies));
    if router_is_governed {
        let routers: Vec<_> =
            [lab.provider4(0)].into_iter().chain((0..6).map(|n| lab.provider6(n))).collect();
        let policies: Vec<_> = routers.iter().map(|router| egress(&payments, router, "443/tcp")).collect();
        lab.write("router", &schedule(Lifetime::over(), &policies));
    }
    lab.canary();
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), beyond.process());
    for remote in beyond.addresses() {
        let listener = theirs.listen(at(remote, 443), Manner::Keep);
        let client = ours.connect(listener.local()).expect("admitted");
        let server = listener.accept().expect("admitted");
        // Nobody reads yet: what waits to be sent melts into segments as large as the first link takes.
        client.pump(NOW);
        let mut sent = 0;
        clock::until("the sender waits", PATIENCE, || {
            thread::sleep(Duration::from_millis(50));
            let before = std::mem::replace(&mut sent, client.flow().sent);
            sent > 0 && sent == before
        });
        server.drain();
        clock::until("all of that and 2 MB more arrive", PATIENCE, || server.flow().received > sent + 2_000);
        let mut route = Command::new("ip");
        route.args(["route", "get", &remote.to_string()]);
        let route = lab.on_host(route).ok().stdout;
        assert!(route.contains("mtu 1280"), "the router has told us: {route}");
    }
    lab.expect_no_attempts(&lab.provider());
}

#[test]
fn the_mtu_of_a_path_is_found_through_a_router_that_nobody_governs() {
    narrow(false);
}

#[test]
fn the_mtu_of_a_path_is_found_through_a_router_that_is_governed_and_refused() {
    narrow(true);
}
