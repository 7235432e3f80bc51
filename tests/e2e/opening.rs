//! What an open service admits, and what it does not.

use std::time::Duration;

use crate::agent::{Agent, Heard, Kind, Manner, Packets};
use crate::lab::schedule::{Lifetime, egress, ingress, policy, schedule};
use crate::lab::{Lab, SHOWN, at, clock};

/// From the appearance of a cgroup until its unit may talk.
const GOVERNED_WITHIN: Duration = Duration::from_secs(1);

#[test]
fn a_governed_process_talks_to_its_provider_and_another_process_cannot() {
    let Some(lab) = Lab::new() else { return };
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    let remotes = [lab.provider4(0), lab.provider6(0)];
    let policies = remotes.map(|remote| egress(&payments, remote, "443/tcp"));
    lab.write("stripe", &schedule(Lifetime::open(), &policies));
    let _daemon = lab.daemon();
    let (ours, stranger, theirs) = (lab.process(&payments), lab.process(&other), lab.provider());
    for remote in remotes {
        theirs.echo(at(remote, 443));
        assert!(ours.talks_to(at(remote, 443)), "{remote}");
        assert_eq!(
            errno(&stranger, at(remote, 443)),
            libc::ECONNREFUSED,
            "the local side hears of it at once"
        );
    }
    assert_eq!(lab.state_of("stripe"), "open");
    lab.expect_attempts(2, &[("service", "stripe"), ("direction", "egress"), ("reason", "undeclared")]);
}

#[test]
fn a_long_transfer_passes_in_both_directions() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, lab.provider4(0), "443/tcp")]));
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let listener = theirs.listen(at(lab.provider4(0), 443), Manner::Keep);
    let client = ours.connect(listener.local()).expect("admitted");
    let server = listener.accept().expect("admitted");
    for end in [&client, &server] {
        end.drain();
        end.pump(Duration::ZERO);
    }
    for (name, end) in [("client", &client), ("server", &server)] {
        clock::until(&format!("20 MB reach the {name}"), Duration::from_secs(20), || {
            end.flow().received > 20_000
        });
        assert!(end.alive());
    }
}

#[test]
fn another_port_of_the_provider_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, lab.provider4(0), "443/tcp")]));
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    theirs.echo(at(lab.provider4(0), 8443));
    assert_eq!(errno(&ours, at(lab.provider4(0), 8443)), libc::ECONNREFUSED);
    lab.expect_attempts(1, &[("service", "stripe"), ("reason", "undeclared"), ("remote_port", "8443")]);
}

#[test]
fn addresses_that_no_service_lists_are_not_touched() {
    let Some(lab) = Lab::new() else { return };
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, lab.provider4(0), "443/tcp")]));
    let _daemon = lab.daemon();
    let (ours, stranger, theirs) = (lab.process(&payments), lab.process(&other), lab.provider());
    for remote in [lab.provider4(1), lab.provider6(1)] {
        theirs.echo(at(remote, 443));
        assert!(ours.talks_to(at(remote, 443)) && stranger.talks_to(at(remote, 443)), "{remote}");
        assert!(stranger.pings(remote), "{remote}");
    }
    stranger.echo(at(lab.host4(), 8443));
    assert!(theirs.connect_from(at(lab.provider4(2), 443), at(lab.host4(), 8443)).is_ok_and(|s| s.echoes()));
}

#[test]
fn a_provider_that_connects_from_its_service_port_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remotes = [(lab.host4(), lab.provider4(0)), (lab.host6(), lab.provider6(0))];
    let policies = remotes.map(|(_, remote)| egress(&payments, remote, "443/tcp"));
    lab.write("stripe", &schedule(Lifetime::open(), &policies));
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    for (local, remote) in remotes {
        let listener = ours.listen(at(local, 8443), Manner::Keep);
        assert!(theirs.connect_from(at(remote, 443), listener.local()).is_err(), "{remote}");
        assert!(listener.stays_alone());
        let seen = [("direction", "ingress"), ("reason", "undeclared"), ("local_port", "8443")];
        lab.expect_attempts(1, &[&seen[..], &[("remote", &remote.to_string())]].concat());
    }
}

#[test]
fn ingress_reaches_the_subject_that_listens_and_no_other() {
    let Some(lab) = Lab::new() else { return };
    let (webhook, other) = (lab.unit("webhook"), lab.unit("other"));
    let remotes = [(lab.host4(), lab.provider4(0)), (lab.host6(), lab.provider6(0))];
    let policies = remotes.map(|(_, remote)| ingress(&webhook, remote, "8000-8999/tcp"));
    lab.write("hooks", &schedule(Lifetime::open(), &policies));
    let _daemon = lab.daemon();
    let (ours, stranger, theirs) = (lab.process(&webhook), lab.process(&other), lab.provider());
    for (local, remote) in remotes {
        ours.echo(at(local, 8443));
        stranger.echo(at(local, 8444));
        let from = |port| theirs.connect_from(at(remote, 0), at(local, port)).is_ok_and(|s| s.echoes());
        assert!(from(8443), "{remote}");
        assert!(!from(8444), "{remote} reaches a process that is not the subject");
    }
}

#[test]
fn an_ingress_grant_does_not_let_the_subject_connect_out() {
    let Some(lab) = Lab::new() else { return };
    let webhook = lab.unit("webhook");
    lab.write("hooks", &schedule(Lifetime::open(), &[ingress(&webhook, lab.provider4(0), "8443/tcp")]));
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&webhook), lab.provider());
    theirs.echo(at(lab.provider4(0), 8443));
    let outward = ours.connect_from(at(lab.host4(), 8443), at(lab.provider4(0), 8443));
    assert_eq!(outward.err().expect("refused").errno, libc::ECONNREFUSED);
    lab.expect_attempts(1, &[("service", "hooks"), ("direction", "egress"), ("reason", "undeclared")]);
}

#[test]
fn an_ingress_policy_leaves_its_port_to_addresses_that_no_service_lists() {
    let Some(lab) = Lab::new() else { return };
    let webhook = lab.unit("webhook");
    lab.write("hooks", &schedule(Lifetime::open(), &[ingress(&webhook, lab.provider4(0), "8443/tcp")]));
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&webhook), lab.provider());
    ours.echo(at(lab.host4(), 8443));
    let from = |remote| theirs.connect_from(at(remote, 0), at(lab.host4(), 8443)).is_ok_and(|s| s.echoes());
    assert!(from(lab.provider4(0)) && from(lab.provider4(1)));
}

#[test]
fn udp_passes_for_the_subject_only_and_only_as_an_answer() {
    let Some(lab) = Lab::new() else { return };
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    let remotes = [(lab.host4(), lab.provider4(0)), (lab.host6(), lab.provider6(0))];
    let policies = remotes.map(|(_, remote)| egress(&payments, remote, "443/udp"));
    lab.write("quic", &schedule(Lifetime::open(), &policies));
    let _daemon = lab.daemon();
    let (ours, stranger, theirs) = (lab.process(&payments), lab.process(&other), lab.provider());
    for (local, remote) in remotes {
        let server = theirs.udp(at(remote, 443));
        let unasked = ours.udp(at(local, 9000));
        server.say_to(unasked.local(), "unasked").expect("it leaves the provider");
        assert_eq!(unasked.hear_within(Duration::from_millis(300)), Heard::Nothing, "{remote} speaks first");

        server.udp_echo();
        let asking = ours.udp(at(local, 9001));
        asking.say_to(server.local(), "question").expect("admitted");
        assert!(asking.hears("question"), "{remote} answers");

        let foreign = stranger.udp(at(local, 9002));
        let refused = foreign.say_to(server.local(), "question").is_err();
        assert!(refused || foreign.hear_within(Duration::from_millis(300)) == Heard::Nothing, "{remote}");
    }
    lab.expect_attempts(2, &[("service", "quic"), ("direction", "ingress"), ("protocol", "udp")]);
    lab.expect_attempts(2, &[("service", "quic"), ("direction", "egress"), ("protocol", "udp")]);
}

#[test]
fn udp_ingress_is_answered_and_does_not_speak_first() {
    let Some(lab) = Lab::new() else { return };
    let syslog = lab.unit("syslog");
    lab.write("logs", &schedule(Lifetime::open(), &[ingress(&syslog, lab.provider4(0), "9000/udp")]));
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&syslog), lab.provider());
    let server = ours.udp(at(lab.host4(), 9000));
    let silent = theirs.udp(at(lab.provider4(0), 9001));
    let _ = server.say_to(silent.local(), "unasked");
    assert_eq!(silent.hear_within(Duration::from_millis(300)), Heard::Nothing);

    server.udp_echo();
    let client = theirs.udp(at(lab.provider4(0), 9002));
    client.say_to(server.local(), "question").expect("it leaves the provider");
    assert!(client.hears("question"));
}

#[test]
fn fragments_pass_where_the_kernel_puts_them_together_first() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remotes = [lab.provider4(0), lab.provider6(0)];
    lab.write(
        "quic",
        &schedule(Lifetime::open(), &remotes.map(|remote| egress(&payments, remote, "443/udp"))),
    );
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    // Larger than the wire takes at once.
    let large = "large ".repeat(500);
    let comes_back = |local, remote| {
        let server = theirs.udp(at(remote, 443));
        server.udp_echo();
        let asking = ours.udp(at(local, 9000));
        asking.say_to(server.local(), &large).expect("admitted");
        asking.hears(&large)
    };
    assert!(comes_back(lab.host4(), remotes[0]));
    assert!(!comes_back(lab.host6(), remotes[1]), "an IPv6 fragment has no ports that a policy could admit");
    let seen = [("service", "quic"), ("remote", &*remotes[1].to_string()), ("direction", "ingress")];
    clock::until("the fragments are on record", SHOWN, || lab.attempts_with(&seen) >= 2);
}

#[test]
fn a_prefix_and_a_port_range_admit_what_they_say_and_nothing_beside() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    // 10.x.y.16/30: the provider's addresses 6 to 9.
    let network = format!("{}/30", lab.provider4(6));
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, network, "8000-8100/tcp")]));
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let serve = |remote, port| {
        theirs.echo(at(remote, port));
        at(remote, port)
    };
    for port in [8000, 8050, 8100] {
        assert!(ours.talks_to(serve(lab.provider4(6), port)), "{port}");
    }
    assert!(ours.talks_to(serve(lab.provider4(9), 8000)));
    for port in [7999, 8101] {
        assert_eq!(errno(&ours, serve(lab.provider4(6), port)), libc::ECONNREFUSED, "{port}");
    }
    // The neighbours of the prefix are governed by nobody.
    assert!(ours.talks_to(serve(lab.provider4(5), 443)) && ours.talks_to(serve(lab.provider4(10), 443)));
}

#[test]
fn icmp_is_echo_and_its_reply() {
    let Some(lab) = Lab::new() else { return };
    let (monitor, other) = (lab.unit("monitor"), lab.unit("other"));
    let remotes = [lab.provider4(0), lab.provider6(0)];
    let policies = remotes.map(|remote| egress(&monitor, remote, "icmp"));
    lab.write("ping", &schedule(Lifetime::open(), &policies));
    let _daemon = lab.daemon();
    let (ours, stranger) = (lab.process(&monitor), lab.process(&other));
    for remote in remotes {
        assert!(ours.pings(remote), "{remote}");
        assert!(!stranger.pings(remote), "{remote}");
    }
}

#[test]
fn a_list_admits_all_its_entries() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let (first, network, v6) = (lab.provider4(0), lab.provider4(2), lab.provider6(0));
    let text = format!(
        "# the API\r\n{first}\r\n{network}/30\n{first}\n{network}\n\n{v6} # no line break at the end"
    );
    lab.list("stripe-api", &text);
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, "@stripe-api", "443/tcp")]));
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    for remote in [first, network, lab.provider4(5), v6] {
        theirs.echo(at(remote, 443));
        assert!(ours.talks_to(at(remote, 443)), "{remote}");
    }
}

#[test]
fn a_cgroup_subject_includes_its_descendants_and_nobody_else() {
    let Some(lab) = Lab::new() else { return };
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    let worker = payments.child("worker");
    let subject = format!("cgroup = \"{}\"", payments.path().display());
    let remote = lab.provider4(0);
    let allowed = policy("egress", &subject, &remote.to_string(), "443/tcp");
    lab.write("stripe", &schedule(Lifetime::open(), &[allowed]));
    let _daemon = lab.daemon();
    let theirs = lab.provider();
    theirs.echo(at(remote, 443));
    for unit in [&payments, &worker] {
        assert!(lab.process(unit).talks_to(at(remote, 443)), "{}", unit.path().display());
    }
    assert_eq!(errno(&lab.process(&other), at(remote, 443)), libc::ECONNREFUSED);
}

#[test]
fn the_root_cgroup_stands_for_every_process() {
    let Some(lab) = Lab::new() else { return };
    let remote = lab.provider4(0);
    let anybody = policy("egress", "cgroup = \"/\"", &remote.to_string(), "443/tcp");
    lab.write("mirror", &schedule(Lifetime::open(), &[anybody]));
    let _daemon = lab.daemon();
    let theirs = lab.provider();
    theirs.echo(at(remote, 443));
    theirs.echo(at(remote, 444));
    for name in ["payments", "other"] {
        let process = lab.process(&lab.unit(name));
        assert!(process.talks_to(at(remote, 443)), "{name}");
        assert!(!process.talks_to(at(remote, 444)), "{name}");
    }
}

#[test]
fn a_unit_that_starts_later_is_governed_within_a_moment() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remote = at(lab.provider4(0), 443);
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, remote.ip(), "443/tcp")]));
    payments.remove();
    let _daemon = lab.daemon();
    let theirs = lab.provider();
    theirs.echo(remote);

    for start in ["first start", "restart"] {
        payments.create();
        let ours = lab.process(&payments);
        clock::until(start, GOVERNED_WITHIN, || ours.talks_to(remote));
        drop(ours);
        payments.remove();
    }
}

#[test]
fn a_socket_keeps_the_grant_of_the_cgroup_that_made_it() {
    let Some(lab) = Lab::new() else { return };
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    let remote = at(lab.provider4(0), 443);
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, remote.ip(), "443/tcp")]));
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    theirs.echo(remote);
    let before = ours.connect(remote).expect("admitted");
    ours.move_to(other.dir());
    assert!(before.echoes(), "the socket of before");
    assert_eq!(errno(&ours, remote), libc::ECONNREFUSED, "a new one");
}

#[test]
fn segments_of_connections_that_nobody_has_reach_no_process() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, lab.provider4(0), "443/tcp")]));
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let listener = ours.listen(at(lab.host4(), 8443), Manner::Keep);
    let packets =
        |kind| Packets { kind, from: at(lab.provider4(0), 40_000), to: listener.local(), count: 20 };
    theirs.raw(packets(Kind::Data));
    theirs.raw(packets(Kind::ResetWithData));
    assert!(listener.stays_alone());
    clock::until("both kinds are on record", SHOWN, || lab.attempts_with(&[("local_port", "8443")]) == 40);
}

fn errno(agent: &Agent, remote: std::net::SocketAddr) -> i32 {
    match agent.connect(remote) {
        Ok(_) => panic!("{remote} should be refused"),
        Err(failure) => failure.errno,
    }
}
