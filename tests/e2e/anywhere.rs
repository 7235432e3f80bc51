//! The endpoint `any`: a policy that governs its subject and ports, whatever the address.

use std::time::Duration;

use crate::agent::{Close, Kind, Manner, Packets};
use crate::lab::clock::{in_ms, reach, soon};
use crate::lab::schedule::{Lifetime, egress, ingress, policy, schedule, window};
use crate::lab::{Lab, MOMENT, TOLD_WITHIN, at, clock};

/// From the start of the lab until the close.
const SOON: i64 = 5_000;

#[test]
fn an_open_policy_for_any_address_admits_its_subject_and_touches_nobody_else() {
    let Some(lab) = Lab::new() else { return };
    let (setup, other) = (lab.unit("setup"), lab.unit("other"));
    lab.write("setup", &schedule(Lifetime::open(), &[egress(&setup, "any", "443/tcp")]));
    lab.canary();
    let _daemon = lab.daemon();
    let (ours, stranger, theirs) = (lab.process(&setup), lab.process(&other), lab.provider());
    for remote in [lab.provider4(0), lab.provider4(1), lab.provider6(0)] {
        theirs.echo(at(remote, 443));
        theirs.echo(at(remote, 80));
        assert!(ours.talks_to(at(remote, 443)) && ours.talks_to(at(remote, 80)), "{remote}");
        assert!(stranger.talks_to(at(remote, 443)) && ours.pings(remote), "{remote}");
    }
    lab.expect_no_attempts(&theirs);
}

#[test]
fn a_closed_policy_for_any_address_refuses_its_subject_on_its_ports_only() {
    let Some(lab) = Lab::new() else { return };
    let (setup, other) = (lab.unit("setup"), lab.unit("other"));
    let later = window(in_ms(1_800_000), in_ms(1_900_000));
    let policies = ["443/tcp", "443/udp"].map(|port| egress(&setup, "any", port));
    lab.write("setup", &schedule(Lifetime::open(), &[&[later][..], &policies].concat()));
    lab.canary();
    let _daemon = lab.daemon();
    let (ours, stranger, theirs) = (lab.process(&setup), lab.process(&other), lab.provider());
    let remotes = [lab.provider4(0), lab.provider6(0)];
    for remote in remotes {
        theirs.echo(at(remote, 443));
        theirs.echo(at(remote, 80));
        assert_eq!(ours.connect(at(remote, 443)).err().expect("closed").errno, libc::ECONNREFUSED);
        ours.udp_each(at(remote, 443), 8);
        assert!(ours.talks_to(at(remote, 80)) && ours.pings(remote), "other ports are not touched");
        assert!(stranger.talks_to(at(remote, 443)), "nor other processes");
    }
    lab.all_on_record(&theirs);
    for remote in remotes {
        let remote = remote.to_string();
        let values =
            [("service", "setup"), ("direction", "egress"), ("reason", "closed"), ("remote", &*remote)];
        assert_eq!(lab.attempts_with(&values), 9, "{remote}");
        let tcp = [&values[..], &[("protocol", "tcp"), ("policy", "setup/egress/0")]].concat();
        assert_eq!(lab.attempts_with(&tcp), 1, "{remote}");
    }
    assert_eq!(lab.attempts_with(&[("service", "setup")]), 18);
}

#[test]
fn a_webhook_takes_anybody_while_it_is_open_and_nobody_after() {
    let Some(lab) = Lab::new() else { return };
    let (hook, other) = (lab.unit("hook"), lab.unit("other"));
    let close = soon(SOON);
    let policies = [window(in_ms(-60_000), close), ingress(&hook, "any", "8443/tcp")];
    lab.write("hook", &schedule(Lifetime::open(), &policies));
    lab.canary();
    let daemon = lab.daemon();
    let (ours, stranger, theirs) = (lab.process(&hook), lab.process(&other), lab.provider());
    let pairs = [(lab.host4(), lab.provider4(0)), (lab.host6(), lab.provider6(0))];
    for (local, remote) in pairs {
        ours.echo(at(local, 8443));
        ours.echo(at(local, 8444));
        stranger.echo(at(local, 8445));
        assert!(theirs.connect_from(at(remote, 0), at(local, 8443)).is_ok_and(|s| s.echoes()), "{remote}");
    }
    daemon.kill9();
    reach(close);
    for (local, remote) in pairs {
        theirs.raw(Packets { kind: Kind::Syn, from: at(remote, 40_000), to: at(local, 8443), count: 25 });
        let from = |port| theirs.connect_from(at(remote, 0), at(local, port)).is_ok_and(|s| s.echoes());
        assert!(from(8444) && from(8445), "{remote}: other ports and processes are not touched");
    }
    let _daemon = lab.daemon();
    lab.all_on_record(&theirs);
    let closed =
        [("service", "hook"), ("direction", "ingress"), ("reason", "closed"), ("local_port", "8443")];
    assert_eq!(lab.attempts_with(&closed), 50);
}

#[test]
fn the_kernel_closes_a_policy_for_any_address_with_the_daemon_killed() {
    let Some(lab) = Lab::new() else { return };
    let setup = lab.unit("setup");
    let remotes = [lab.provider4(0), lab.provider6(0)];
    let close = soon(SOON);
    lab.write("setup", &schedule(Lifetime::until(close), &[egress(&setup, "any", "443/tcp")]));
    let daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&setup), lab.provider());
    let listeners = remotes.map(|remote| theirs.listen(at(remote, 443), Manner::Keep));
    let clients = listeners.each_ref().map(|listener| ours.connect(listener.local()).expect("open"));
    let servers = listeners.each_ref().map(|listener| listener.accept().expect("open"));
    for end in clients.iter().chain(&servers) {
        end.drain();
        end.pump(Duration::from_millis(1));
    }
    servers.iter().for_each(|end| end.moves_on());
    daemon.kill9();
    reach(close);
    for end in clients.iter().chain(&servers) {
        end.ends_within(TOLD_WITHIN);
        let last = end.flow().last_stamp;
        assert!(last < close.timestamp_nanos_opt().expect("in range"), "payload after the close");
    }
    assert!(ours.connect(at(remotes[0], 443)).is_err());
    let _daemon = lab.daemon();
    clock::until("it is on record", MOMENT, || {
        lab.attempts_with(&[("service", "setup"), ("reason", "expired"), ("direction", "egress")]) >= 1
    });
}

#[test]
fn the_close_cuts_idle_connections_to_any_address() {
    let Some(lab) = Lab::new() else { return };
    let (setup, other) = (lab.unit("setup"), lab.unit("other"));
    let remote = at(lab.provider4(0), 443);
    lab.write("setup", &schedule(Lifetime::open(), &[egress(&setup, "any", "443/tcp")]));
    let _daemon = lab.daemon();
    let (ours, stranger, theirs) = (lab.process(&setup), lab.process(&other), lab.provider());
    let listener = theirs.listen(remote, Manner::Keep);
    let idle = ours.connect(remote).expect("open");
    let server = listener.accept().expect("open");
    let foreign = stranger.connect(remote).expect("not touched");
    for end in [&idle, &server, &foreign] {
        end.drain();
    }
    lab.picoseg(&["suspend", "setup", "--reason", "test"]).ok();
    for end in [&idle, &server] {
        end.ends_within(MOMENT);
    }
    assert!(foreign.alive());
    assert!(ours.connect(remote).is_err());
    lab.expect_attempts(1, &[("service", "setup"), ("reason", "suspended"), ("direction", "egress")]);
    lab.picoseg(&["resume", "setup", "--reason", "test"]).ok();
    assert!(ours.connect(remote).is_ok());
    assert_eq!(lab.status()["drift"]["count"], 0);
}

#[test]
fn an_open_grant_for_any_address_reaches_what_others_list() {
    let Some(lab) = Lab::new() else { return };
    let (setup, other) = (lab.unit("setup"), lab.unit("other"));
    let remote = lab.provider4(0);
    let policies = ["443/tcp", "443/udp", "icmp"].map(|port| egress(&setup, "any", port));
    lab.write("setup", &schedule(Lifetime::open(), &policies));
    lab.write("stripe", &schedule(Lifetime::over(), &[egress(&other, remote, "443/tcp")]));
    lab.canary();
    let _daemon = lab.daemon();
    let (ours, stranger, theirs) = (lab.process(&setup), lab.process(&other), lab.provider());
    theirs.echo(at(remote, 443));
    theirs.udp(at(remote, 443)).udp_echo();
    assert!(ours.talks_to(at(remote, 443)) && ours.pings(remote));
    let datagrams = ours.udp(at(lab.host4(), 9000));
    datagrams.say_to(at(remote, 443), "question").expect("admitted");
    assert!(datagrams.hears("question"));
    let (close, late) = (Close::Client, Duration::from_millis(100));
    let listener = theirs.listen(at(lab.provider4(1), 443), Manner::Exchange { close, late });
    let tally = ours.exchange(listener.local(), close, late, 100);
    assert_eq!(tally.done, 100, "{tally:?}");
    lab.expect_no_attempts(&theirs);
    assert!(stranger.connect(at(remote, 443)).is_err());
    lab.expect_attempts(1, &[("service", "stripe"), ("reason", "expired")]);
}

#[test]
fn many_short_connections_to_a_listed_address_leave_no_attempts() {
    let Some(lab) = Lab::new() else { return };
    let (setup, other) = (lab.unit("setup"), lab.unit("other"));
    lab.write("setup", &schedule(Lifetime::open(), &[egress(&setup, "any", "443-500/tcp")]));
    for (name, remote) in [("v4", lab.provider4(0)), ("v6", lab.provider6(0))] {
        lab.write(name, &schedule(Lifetime::over(), &[egress(&other, remote, "1/tcp")]));
    }
    lab.canary();
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&setup), lab.provider());
    let late = Duration::from_millis(100);
    let kinds = [
        (Close::Client, Duration::ZERO, 300),
        (Close::Server, Duration::ZERO, 300),
        (Close::Client, late, 200),
        (Close::Server, late, 200),
        (Close::ClientResets, Duration::ZERO, 100),
        (Close::ServerResets, Duration::ZERO, 100),
    ];
    for remote in [lab.provider4(0), lab.provider6(0)] {
        for (port, (close, late, count)) in (443..).zip(kinds) {
            let listener = theirs.listen(at(remote, port), Manner::Exchange { close, late });
            let tally = ours.exchange(listener.local(), close, late, count);
            assert_eq!(tally.done, count, "{close:?} {late:?}: {tally:?}");
        }
    }
    lab.expect_no_attempts(&theirs);
}

#[test]
fn any_address_for_any_process_and_for_a_user() {
    let Some(lab) = Lab::new() else { return };
    let unit = lab.unit("unit");
    let later = window(in_ms(1_800_000), in_ms(1_900_000));
    let everybody = policy("egress", "cgroup = \"/\"", "any", "25/tcp");
    let user = policy("egress", "user = \"4711\"", "any", "443/tcp");
    lab.write("mail", &schedule(Lifetime::open(), &[later.clone(), everybody]));
    lab.write("user", &schedule(Lifetime::open(), &[later.clone(), user]));
    let nobody = policy("egress", "user = \"no-such-user\"", "any", "80/tcp");
    lab.write("nobody", &schedule(Lifetime::open(), &[later, nobody]));
    let _daemon = lab.daemon();
    let (root, user, theirs) = (lab.process(&unit), lab.process_of(&unit, 4711), lab.provider());
    let remote = lab.provider4(0);
    for port in [25, 443, 80] {
        theirs.echo(at(remote, port));
    }
    assert!(!root.talks_to(at(remote, 25)) && !user.talks_to(at(remote, 25)));
    assert!(root.talks_to(at(remote, 443)) && !user.talks_to(at(remote, 443)));
    assert!(root.talks_to(at(remote, 80)) && user.talks_to(at(remote, 80)), "who does not exist is nobody");
    lab.expect_attempts(2, &[("service", "mail"), ("reason", "closed"), ("direction", "egress")]);
    lab.expect_attempts(1, &[("service", "user"), ("reason", "closed"), ("direction", "egress")]);
}

#[test]
fn a_restarted_unit_is_followed_and_its_segment_lets_the_grant_pass() {
    let Some(lab) = Lab::new() else { return };
    let setup = lab.unit("setup");
    let (granted, other) = (at(lab.provider4(0), 443), at(lab.provider4(0), 80));
    lab.write("setup", &schedule(Lifetime::open(), &[egress(&setup, "any", "443/tcp")]));
    lab.segment("box", &format!("subject = {{ unit = \"{}\" }}\n", setup.name()));
    let _daemon = lab.daemon();
    let theirs = lab.provider();
    theirs.echo(granted);
    theirs.echo(other);
    for _ in 0..3 {
        let ours = lab.process(&setup);
        clock::until("the unit is enclosed", Duration::from_secs(1), || !ours.talks_to(other));
        assert!(ours.talks_to(granted));
        drop(ours);
        setup.remove();
        setup.create();
    }
    assert_eq!(lab.status()["drift"]["count"], 0);
}
