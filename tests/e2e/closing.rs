//! The close: by time, with and without the daemon, by window, exception and file. What was connected is cut.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;

use crate::agent::{Agent, Manner, Socket};
use crate::lab::clock::{Time, in_ms, reach, soon};
use crate::lab::schedule::{Lifetime, egress, except, ingress, schedule, window};
use crate::lab::{Lab, MOMENT, TOLD_WITHIN, at, clock};

/// From the start of the lab until the close: the daemon starts and connections are made meanwhile.
const SOON: i64 = 5_000;
/// One record a millisecond: the last one that passes tells when the path was cut.
const STEADY: Duration = Duration::from_millis(1);

/// One connection as both of its ends see it.
struct Pair<'a> {
    ours: Socket<'a>,
    theirs: Socket<'a>,
}

impl<'a> Pair<'a> {
    /// The host connects.
    fn egress(ours: &'a Agent, listener: &Socket<'a>) -> Self {
        let ours = ours.connect(listener.local()).expect("admitted");
        Self { ours, theirs: listener.accept().expect("admitted") }
    }

    /// The provider connects.
    fn ingress(theirs: &'a Agent, from: IpAddr, listener: &Socket<'a>) -> Self {
        let theirs = theirs.connect_from(at(from, 0), listener.local()).expect("admitted");
        Self { ours: listener.accept().expect("admitted"), theirs }
    }

    /// Traffic in both directions, seen to arrive.
    fn busy(self) -> Self {
        for end in [&self.ours, &self.theirs] {
            end.drain();
            end.pump(STEADY);
        }
        self.ours.moves_on();
        self.theirs.moves_on();
        self
    }

    fn is_cut(&self, limit: Duration) {
        self.ours.ends_within(limit);
        self.theirs.ends_within(limit);
    }

    /// Nothing that was sent at or after `close` has arrived.
    fn nothing_passed_after(&self, close: Time) {
        let close = close.timestamp_nanos_opt().expect("in range");
        for (end, name) in [(&self.ours, "host"), (&self.theirs, "provider")] {
            let flow = end.flow();
            assert!(flow.received > 0, "nothing reached the {name} at all");
            assert!(
                flow.last_stamp < close,
                "{} ns after the close reached the {name}",
                flow.last_stamp - close
            );
        }
    }
}

#[test]
fn the_end_of_the_lifetime_cuts_busy_and_idle_connections_at_both_ends() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remotes = [lab.provider4(0), lab.provider6(0)];
    let close = soon(SOON);
    let policies = remotes.map(|remote| egress(&payments, remote, "443/tcp"));
    lab.write("stripe", &schedule(Lifetime::until(close), &policies));
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let listeners = remotes.map(|remote| theirs.listen(at(remote, 443), Manner::Keep));
    let busy = listeners.each_ref().map(|listener| Pair::egress(&ours, listener).busy());
    let idle = listeners.each_ref().map(|listener| Pair::egress(&ours, listener));

    reach(close);
    for pair in busy.iter().chain(&idle) {
        pair.is_cut(MOMENT);
    }
    for pair in &busy {
        pair.nothing_passed_after(close);
    }
    assert_eq!(lab.state_of("stripe"), "decommissioned");
    for remote in remotes {
        assert_eq!(lab.sockets_to(remote), Vec::<String>::new(), "what is left towards {remote}");
        assert!(ours.connect(at(remote, 443)).is_err(), "{remote} after the close");
    }
}

#[test]
fn the_kernel_closes_with_the_daemon_killed() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remotes = [lab.provider4(0), lab.provider6(0)];
    let close = soon(SOON);
    let policies = remotes.map(|remote| egress(&payments, remote, "443/tcp"));
    lab.write("stripe", &schedule(Lifetime::until(close), &policies));
    let daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let listeners = remotes.map(|remote| theirs.listen(at(remote, 443), Manner::Keep));
    let busy = listeners.each_ref().map(|listener| Pair::egress(&ours, listener).busy());
    let idle = listeners.each_ref().map(|listener| Pair::egress(&ours, listener));
    daemon.kill9();
    busy.iter().for_each(|pair| pair.theirs.moves_on());

    reach(close);
    for pair in &busy {
        pair.is_cut(TOLD_WITHIN);
        pair.nothing_passed_after(close);
    }
    for pair in &idle {
        assert!(pair.theirs.alive() && pair.ours.alive(), "nobody has told an idle connection");
        // The first word may still be taken by the socket; it does not arrive.
        let _ = pair.theirs.say("are you there");
        pair.theirs.ends_within(MOMENT);
        assert!(ours.connect(at(pair.theirs.local().ip(), 443)).is_err());
    }
    for remote in remotes {
        assert!(ours.connect(at(remote, 443)).is_err(), "{remote} after the close");
    }
}

#[test]
fn no_datagram_passes_after_the_close_with_the_daemon_killed() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remotes = [(lab.host4(), lab.provider4(0)), (lab.host6(), lab.provider6(0))];
    let close = soon(SOON);
    let policies = remotes.map(|(_, remote)| egress(&payments, remote, "443/udp"));
    lab.write("quic", &schedule(Lifetime::until(close), &policies));
    let daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let pairs = remotes.map(|(local, remote)| {
        let (local, remote) = (at(local, 9000), at(remote, 443));
        let (ours, theirs) = (ours.udp_to(local, remote), theirs.udp_to(remote, local));
        Pair { ours, theirs }
    });
    // The host speaks first: only then may the provider.
    for pair in &pairs {
        pair.theirs.drain();
        pair.ours.pump(STEADY);
        pair.theirs.moves_on();
        pair.ours.drain();
        pair.theirs.pump(STEADY);
        pair.ours.moves_on();
    }
    daemon.kill9();
    pairs.iter().for_each(|pair| pair.theirs.moves_on());

    reach(close + chrono::TimeDelta::milliseconds(500));
    for pair in &pairs {
        pair.nothing_passed_after(close);
        let sent = pair.theirs.flow().sent;
        clock::until("the provider goes on sending", MOMENT, || pair.theirs.flow().sent > sent);
    }
}

#[test]
fn a_provider_that_is_connected_to_us_is_cut_as_well() {
    let Some(lab) = Lab::new() else { return };
    let webhook = lab.unit("webhook");
    let remotes = [(lab.host4(), lab.provider4(0)), (lab.host6(), lab.provider6(0))];
    let close = soon(SOON);
    let policies = remotes.map(|(_, remote)| ingress(&webhook, remote, "8443/tcp"));
    lab.write("hooks", &schedule(Lifetime::until(close), &policies));
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&webhook), lab.provider());
    let pairs = remotes.map(|(local, remote)| {
        let listener = ours.listen(at(local, 8443), Manner::Keep);
        let idle = Pair::ingress(&theirs, remote, &listener);
        (Pair::ingress(&theirs, remote, &listener).busy(), idle)
    });

    reach(close);
    for (busy, idle) in &pairs {
        busy.is_cut(MOMENT);
        idle.is_cut(MOMENT);
        busy.nothing_passed_after(close);
    }
    for (local, remote) in remotes {
        assert!(theirs.connect_from(at(remote, 0), at(local, 8443)).is_err(), "{remote} after the close");
        assert!(ours.connect(at(remote, 443)).is_err(), "outwards to {remote}");
    }
}

#[test]
fn a_close_touches_no_connection_of_another_service() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let (ending, staying, free) = (lab.provider4(0), lab.provider4(1), lab.provider4(2));
    let close = soon(SOON);
    lab.write("ending", &schedule(Lifetime::until(close), &[egress(&payments, ending, "443/tcp")]));
    lab.write("staying", &schedule(Lifetime::open(), &[egress(&payments, staying, "443/tcp")]));
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let connected = [ending, staying, free].map(|remote| {
        let listener = theirs.listen(at(remote, 443), Manner::Keep);
        Pair::egress(&ours, &listener).busy()
    });
    let [cut, kept @ ..] = &connected;
    reach(close);
    cut.is_cut(MOMENT);
    for pair in kept {
        pair.ours.moves_on();
        pair.theirs.moves_on();
        assert!(pair.ours.alive() && pair.theirs.alive());
    }
}

#[test]
fn a_close_touches_no_connection_between_addresses_of_the_host() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let (host, remote) = (lab.host4(), lab.provider4(0));
    lab.write(
        "stripe",
        &schedule(
            Lifetime::open(),
            &[egress(&payments, host, "443/tcp"), egress(&payments, remote, "443/tcp")],
        ),
    );
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let (here, there) =
        (ours.listen(at(host, 443), Manner::Keep), theirs.listen(at(remote, 443), Manner::Keep));
    let (kept, cut) = (Pair::egress(&ours, &here).busy(), Pair::egress(&ours, &there).busy());
    lab.picoseg(&["decommission", "stripe", "--reason", "test"]).ok();
    cut.is_cut(MOMENT);
    kept.ours.moves_on();
    assert!(kept.ours.alive() && kept.theirs.alive());
}

#[test]
fn a_window_closes_and_the_next_one_opens_with_the_daemon_killed() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remote = at(lab.provider4(0), 443);
    let (first, second) = ((in_ms(-60_000), soon(SOON)), (soon(SOON + 2_000), soon(SOON + 5_000)));
    let tables =
        [window(first.0, first.1), window(second.0, second.1), egress(&payments, remote.ip(), "443/tcp")];
    lab.write("stripe", &schedule(Lifetime::open(), &tables));
    let daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let listener = theirs.listen(remote, Manner::Keep);
    let pair = Pair::egress(&ours, &listener).busy();
    daemon.kill9();

    reach(first.1);
    pair.nothing_passed_after(first.1);
    assert!(ours.connect(remote).is_err(), "between the windows");
    reach(second.0);
    clock::until("the second window opens by itself", MOMENT, || ours.connect(remote).is_ok());
    reach(second.1);
    assert!(ours.connect(remote).is_err(), "after the second window");
}

#[test]
fn a_dead_daemon_never_opens_what_is_not_armed() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remote = at(lab.provider4(0), 443);
    let open = soon(SOON + 2_000);
    lab.settings("[enforcement]\narm_ahead = \"1s\"");
    let tables = [window(open, in_ms(60_000)), egress(&payments, remote.ip(), "443/tcp")];
    lab.write("stripe", &schedule(Lifetime::open(), &tables));
    let daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    theirs.echo(remote);
    assert!(in_ms(1_000) < open, "the machine is too slow for this test");
    daemon.kill9();
    reach(open + chrono::TimeDelta::milliseconds(200));
    assert!(ours.connect(remote).is_err(), "the window began without anybody who armed it");
    let _daemon = lab.daemon();
    assert!(ours.talks_to(remote), "a daemon that lives opens it");
}

#[test]
fn a_commission_opens_on_time() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remote = at(lab.provider4(0), 443);
    let commission = soon(SOON);
    let lifetime = Lifetime(commission, in_ms(3_600_000));
    lab.write("stripe", &schedule(lifetime, &[egress(&payments, remote.ip(), "443/tcp")]));
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    theirs.echo(remote);
    assert_eq!(lab.state_of("stripe"), "pending");
    assert!(ours.connect(remote).is_err(), "before the commission");
    lab.expect_attempts(1, &[("service", "stripe"), ("reason", "pending")]);
    reach(commission);
    clock::until("the path opens", MOMENT, || ours.talks_to(remote));
    clock::until("the service is open", MOMENT, || lab.state_of("stripe") == "open");
}

#[test]
fn an_exception_closes_although_a_window_is_open() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remote = at(lab.provider4(0), 443);
    let (open, close) = (soon(SOON), soon(SOON + 3_000));
    let tables = [except(open, close), egress(&payments, remote.ip(), "443/tcp")];
    lab.write("stripe", &schedule(Lifetime::open(), &tables));
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let listener = theirs.listen(remote, Manner::Keep);
    let idle = Pair::egress(&ours, &listener);
    reach(open);
    idle.is_cut(MOMENT);
    assert!(ours.connect(remote).is_err(), "in the exception");
    clock::until("the service is closed", MOMENT, || lab.state_of("stripe") == "closed");
    lab.expect_attempts(1, &[("service", "stripe"), ("reason", "closed"), ("direction", "egress")]);
    reach(close);
    clock::until("the path opens again", MOMENT, || ours.connect(remote).is_ok());
}

#[test]
fn a_removed_file_is_a_decommission_and_the_provider_stays_watched() {
    let Some(lab) = Lab::new() else { return };
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    let remote = at(lab.provider4(0), 443);
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, remote.ip(), "443/tcp")]));
    lab.canary();
    let daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let listener = theirs.listen(remote, Manner::Keep);
    let (busy, idle) = (Pair::egress(&ours, &listener).busy(), Pair::egress(&ours, &listener));

    lab.remove("stripe");
    lab.picoseg(&["apply"]).ok();
    busy.is_cut(MOMENT);
    idle.is_cut(MOMENT);
    assert_eq!(lab.state_of("stripe"), "decommissioned");

    // What was in flight at the cut is on record as well.
    lab.all_on_record(&theirs);
    let outward = [("service", "stripe"), ("reason", "expired"), ("direction", "egress")];
    let in_flight = lab.attempts_with(&outward);

    // Nobody may reach it any more, and a restart does not forget it.
    assert!(daemon.term().success());
    let _daemon = lab.daemon();
    assert_eq!(lab.state_of("stripe"), "decommissioned");
    assert!(ours.connect(remote).is_err() && lab.process(&other).connect(remote).is_err());
    assert!(theirs.connect_from(at(remote.ip(), 0), at(lab.host4(), 22_022)).is_err());
    lab.expect_attempts(in_flight + 2, &outward);
    lab.expect_attempts(1, &[("service", "stripe"), ("reason", "expired"), ("local_port", "22022")]);
}

#[test]
fn the_status_foretells_the_next_transition() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let close = soon(SOON);
    let policies = [egress(&payments, lab.provider4(0), "443/tcp")];
    lab.write("stripe", &schedule(Lifetime::until(close), &policies));
    lab.write("later", &schedule(Lifetime::open(), &[egress(&payments, lab.provider4(1), "443/tcp")]));
    let _daemon = lab.daemon();
    let status = lab.status();
    assert_eq!((&status["schema"], &status["mode"]), (&Value::from(1), &Value::from("enforce")), "{status}");
    assert_eq!(status["services"]["open"], 2, "{status}");
    let next = &status["next_transition"];
    assert_eq!(
        (&next["service"], &next["to"]),
        (&Value::from("stripe"), &Value::from("decommissioned")),
        "{status}"
    );
    let said: Time = next["at"].as_str().and_then(|at| at.parse().ok()).expect("a time");
    assert!((said - close).num_seconds().abs() <= 1, "{said} is not {close}");
    reach(close);
    clock::until("one is decommissioned", MOMENT, || lab.status()["services"]["decommissioned"] == 1);
    assert_eq!(lab.status()["services"]["open"], 1);
}
