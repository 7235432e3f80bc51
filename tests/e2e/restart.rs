//! A restart at any moment: admitted connections do not notice, refused packets do not pass.

use std::time::Duration;

use crate::agent::{Heard, Kind, Manner, Packets};
use crate::lab::clock::{reach, soon};
use crate::lab::schedule::{Lifetime, egress, ingress, schedule};
use crate::lab::{Lab, MOMENT, at};

#[test]
fn a_restart_breaks_no_admitted_connection_and_lets_no_refused_packet_pass() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remotes = [(lab.host4(), lab.provider4(0)), (lab.host6(), lab.provider6(0))];
    let policies = remotes.map(|(_, remote)| egress(&payments, remote, "443/tcp"));
    lab.write("stripe", &schedule(Lifetime::open(), &policies));
    lab.canary();
    let mut daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let flows = remotes.map(|(local, remote)| {
        let listener = theirs.listen(at(remote, 443), Manner::Keep);
        let client = ours.connect(listener.local()).expect("admitted");
        let server = listener.accept().expect("admitted");
        for end in [&client, &server] {
            end.drain();
            end.pump(Duration::from_millis(1));
        }
        let sink = ours.udp(at(local, 9000));
        let packets = Packets { kind: Kind::Udp, from: at(remote, 443), to: sink.local(), count: 60_000 };
        (client, server, sink, theirs.raw_pump(packets, Duration::from_millis(1)))
    });
    for kill in [true, false, true] {
        if kill {
            daemon.kill9();
        } else {
            assert!(daemon.term().success());
        }
        flows.iter().for_each(|(_, server, ..)| server.moves_on());
        daemon = lab.daemon();
        for (client, server, sink, flood) in &flows {
            client.moves_on();
            server.moves_on();
            assert!(client.alive() && server.alive());
            assert_eq!(
                sink.hear_within(Duration::from_millis(10)),
                Heard::Nothing,
                "a refused packet has passed"
            );
            assert!(flood.alive() && flood.flow().sent > 0);
        }
    }
    assert_eq!(lab.attempts_with(&[("direction", "egress")]), 0);
}

#[test]
fn a_restart_ends_in_the_same_ruleset() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let service =
        |number, lifetime| schedule(lifetime, &[egress(&payments, lab.provider4(number), "443/tcp")]);
    lab.write("open", &service(0, Lifetime::open()));
    lab.write("ended", &service(1, Lifetime::over()));
    lab.write("removed", &service(2, Lifetime::open()));
    lab.write("ordered", &service(3, Lifetime::open()));
    lab.write("suspended", &service(4, Lifetime::open()));
    let daemon = lab.daemon();
    lab.remove("removed");
    lab.picoseg(&["apply"]).ok();
    lab.picoseg(&["decommission", "ordered", "--reason", "test"]).ok();
    lab.picoseg(&["suspend", "suspended", "--reason", "test"]).ok();
    let before = lab.status();

    assert!(daemon.term().success());
    let daemon = lab.daemon();
    assert_eq!(lab.status()["ruleset_digest"], before["ruleset_digest"], "stopped");
    daemon.kill9();
    let daemon = lab.daemon();
    assert_eq!(lab.status()["ruleset_digest"], before["ruleset_digest"], "killed");
    assert!(daemon.term().success());
    lab.unload().ok();
    let _daemon = lab.daemon();
    assert_eq!(lab.status()["ruleset_digest"], before["ruleset_digest"], "from an empty kernel");
    assert_eq!(lab.status()["services"], before["services"]);
}

#[test]
fn a_close_that_was_missed_is_made_up_for_at_the_start() {
    let Some(lab) = Lab::new() else { return };
    let webhook = lab.unit("webhook");
    let remote = lab.provider4(0);
    let close = soon(4_000);
    lab.write("hooks", &schedule(Lifetime::until(close), &[ingress(&webhook, remote, "8443/tcp")]));
    let daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&webhook), lab.provider());
    let listener = ours.listen(at(lab.host4(), 8443), Manner::Keep);
    let client = theirs.connect_from(at(remote, 0), listener.local()).expect("admitted");
    let server = listener.accept().expect("admitted");
    daemon.kill9();
    reach(close);
    assert!(client.alive() && server.alive(), "nobody has told an idle connection");
    let _daemon = lab.daemon();
    client.ends_within(MOMENT);
    server.ends_within(MOMENT);
    assert_eq!(lab.sockets_to(remote), Vec::<String>::new());
    assert_eq!(lab.state_of("hooks"), "decommissioned");
}

#[test]
fn a_unit_that_was_restarted_without_the_daemon_is_governed_at_the_start() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remote = at(lab.provider4(0), 443);
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, remote.ip(), "443/tcp")]));
    let theirs = lab.provider();
    theirs.echo(remote);
    lab.daemon().kill9();
    payments.remove();
    payments.create();
    let ours = lab.process(&payments);
    assert!(ours.connect(remote).is_err(), "a cgroup that nobody has told the kernel of");
    let _daemon = lab.daemon();
    assert!(ours.talks_to(remote));
}
