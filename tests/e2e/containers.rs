//! Containers, without an engine: what an engine makes is made here.

use std::time::Duration;

use crate::agent::{Agent, Close, Heard, Manner, Socket};
use crate::lab::clock::{Time, reach, soon};
use crate::lab::engine::{self, CONTAINERD, Container, DOCKER, PODMAN, WITHOUT_SYSTEMD};
use crate::lab::schedule::{Lifetime, policy, schedule};
use crate::lab::{Lab, MOMENT, TOLD_WITHIN, Unit, at, clock};

/// From a change of a container until the kernel has it.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(2);

fn subject(container: &str) -> String {
    format!("container = {container:?}")
}

/// The provider listens on 443 of both families and nobody but the container may connect.
fn write(lab: &Lab, container: &str, lifetime: Lifetime) {
    let remotes = [lab.provider4(0), lab.provider6(0)];
    let policies =
        remotes.map(|remote| policy("egress", &subject(container), &remote.to_string(), "443/tcp"));
    lab.write("stripe", &schedule(lifetime, &policies));
}

/// True when a process of the cgroup reaches the provider over both families.
fn talks(lab: &Lab, cgroup: &Unit) -> bool {
    let process = lab.process(cgroup);
    [lab.provider4(0), lab.provider6(0)].iter().all(|remote| process.talks_to(at(*remote, 443)))
}

#[test]
fn a_container_on_the_hosts_network_is_found_by_id_whatever_engine_made_it() {
    for (shape, digits) in [(DOCKER, 64), (PODMAN, 12), (CONTAINERD, 40), (WITHOUT_SYSTEMD, 12)] {
        let Some(lab) = Lab::new() else { return };
        let [id, other] = ["web", "other"].map(|name| engine::id(&lab, name));
        let [web, neighbour] = [&id, &other].map(|id| engine::cgroup(&lab, shape, id));
        write(&lab, &id[..digits], Lifetime::open());
        let theirs = lab.provider();
        let _listeners = [lab.provider4(0), lab.provider6(0)].map(|remote| theirs.echo(at(remote, 443)));
        let _daemon = lab.daemon();
        assert!(talks(&lab, &web), "{shape}");
        assert!(talks(&lab, &web.child("nested")), "{shape}: what is below belongs to it");
        let stranger = lab.process(&neighbour);
        assert!(stranger.connect(at(lab.provider4(0), 443)).is_err(), "{shape}");
        assert!(stranger.connect(at(lab.provider6(0), 443)).is_err(), "{shape}");
        lab.expect_attempts(2, &[("service", "stripe"), ("direction", "egress"), ("reason", "undeclared")]);
    }
}

#[test]
fn a_container_is_found_by_the_name_that_its_engine_knows() {
    for (shape, name) in [(DOCKER, "web"), (PODMAN, "db"), (CONTAINERD, "cache")] {
        let Some(lab) = Lab::new() else { return };
        let [id, other] = ["web", "other"].map(|name| engine::id(&lab, name));
        engine::docker(&lab, if shape == DOCKER { &id } else { &other }, "web");
        engine::podman(&lab, &[(if shape == PODMAN { &id } else { &other }, "db")]);
        engine::nerdctl(&lab, if shape == CONTAINERD { &id } else { &other }, "cache");
        let [web, neighbour] = [&id, &other].map(|id| engine::cgroup(&lab, shape, id));
        write(&lab, name, Lifetime::open());
        let theirs = lab.provider();
        let _listeners = [lab.provider4(0), lab.provider6(0)].map(|remote| theirs.echo(at(remote, 443)));
        let _daemon = lab.daemon();
        assert!(talks(&lab, &web), "{shape}");
        assert!(!talks(&lab, &neighbour), "{shape}");
    }
}

#[test]
fn a_container_is_followed_when_it_starts_again_and_when_another_takes_its_name() {
    let Some(lab) = Lab::new() else { return };
    let [first, second] = ["first", "second"].map(|name| engine::id(&lab, name));
    engine::docker(&lab, &first, "web");
    write(&lab, "web", Lifetime::open());
    let theirs = lab.provider();
    let _listeners = [lab.provider4(0), lab.provider6(0)].map(|remote| theirs.echo(at(remote, 443)));
    let _daemon = lab.daemon();
    let web = engine::cgroup(&lab, DOCKER, &first);
    let reached = |cgroup: &Unit| clock::until("it is admitted", FOLLOWED_WITHIN, || talks(&lab, cgroup));
    reached(&web);
    web.remove();
    web.create();
    reached(&web);
    web.remove();
    engine::forget_docker(&lab, &first);
    engine::docker(&lab, &second, "web");
    let again = engine::cgroup(&lab, DOCKER, &second);
    reached(&again);
    // Who has lost the name has lost the grant, although it may run on.
    engine::docker(&lab, &second, "renamed");
    clock::until("its name is gone", FOLLOWED_WITHIN, || !talks(&lab, &again));
}

#[test]
fn a_container_that_nobody_knows_or_that_could_be_several_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let [first, second] = ["first", "second"].map(|name| engine::id(&lab, name));
    let cgroups = [(DOCKER, &first), (PODMAN, &second)].map(|(shape, id)| engine::cgroup(&lab, shape, id));
    write(&lab, "web", Lifetime::open());
    let theirs = lab.provider();
    let _listeners = [lab.provider4(0), lab.provider6(0)].map(|remote| theirs.echo(at(remote, 443)));
    engine::docker(&lab, &first, "other");
    let daemon = lab.daemon();
    assert!(!cgroups.iter().any(|cgroup| talks(&lab, cgroup)));
    engine::docker(&lab, &first, "web");
    clock::until("it has the name", FOLLOWED_WITHIN, || talks(&lab, &cgroups[0]));
    engine::podman(&lab, &[(&second, "web")]);
    clock::until("two have the name", FOLLOWED_WITHIN, || !talks(&lab, &cgroups[0]));
    assert!(!talks(&lab, &cgroups[1]));
    assert!(daemon.said().contains("several containers fit"));
}

#[test]
fn a_look_alike_below_something_else_is_no_container() {
    let Some(lab) = Lab::new() else { return };
    let id = engine::id(&lab, "web");
    let service = lab.unit("delegated");
    let look_alike = service.child(&DOCKER.replace('@', &id));
    let inside = engine::cgroup(&lab, DOCKER, &engine::id(&lab, "evil")).child(&DOCKER.replace('@', &id));
    write(&lab, &id, Lifetime::open());
    let theirs = lab.provider();
    let _listeners = [lab.provider4(0), lab.provider6(0)].map(|remote| theirs.echo(at(remote, 443)));
    let _daemon = lab.daemon();
    assert!(!talks(&lab, &look_alike));
    assert!(!talks(&lab, &inside));
}

/// A bridge with a container that the schedules name and one that they do not.
pub struct Scene {
    pub web: Container,
    pub cgroup: Unit,
    pub neighbour: Container,
    pub theirs: Agent,
}

pub fn scene(lab: &Lab) -> Scene {
    engine::bridge(lab);
    let [id, other] = ["web", "other"].map(|name| engine::id(lab, name));
    engine::docker(lab, &id, "web");
    engine::docker(lab, &other, "other");
    let [cgroup, neighbours] = [&id, &other].map(|id| engine::cgroup(lab, DOCKER, id));
    let (web, neighbour) = (engine::start(lab, &cgroup, 2), engine::start(lab, &neighbours, 3));
    Scene { web, cgroup, neighbour, theirs: lab.provider() }
}

/// Waits until the daemon knows where the container is, and by what.
fn known(lab: &Lab, process: &Agent) {
    clock::until("the container is known", FOLLOWED_WITHIN, || process.talks_to(at(lab.provider4(0), 443)));
}

#[test]
fn a_container_behind_a_bridge_talks_to_its_provider_and_its_neighbour_cannot() {
    let Some(lab) = Lab::new() else { return };
    let scene = scene(&lab);
    let remotes = [lab.provider4(0), lab.provider6(0)];
    let policies: Vec<_> = remotes
        .iter()
        .flat_map(|remote| {
            ["443/tcp", "53/udp", "icmp"]
                .map(|port| policy("egress", &subject("web"), &remote.to_string(), port))
        })
        .collect();
    lab.write("stripe", &schedule(Lifetime::open(), &policies));
    let (ours, stranger) = (scene.web.process(), scene.neighbour.process());
    let _listeners = remotes.map(|remote| scene.theirs.echo(at(remote, 443)));
    let _others = remotes.map(|remote| scene.theirs.echo(at(remote, 8443)));
    let datagrams = remotes.map(|remote| scene.theirs.udp(at(remote, 53)));
    datagrams.iter().for_each(Socket::udp_echo);
    let _daemon = lab.daemon();
    for (remote, [own, other]) in
        remotes.iter().zip([0, 1].map(|family| [&scene.web, &scene.neighbour].map(|c| c.addresses()[family])))
    {
        assert!(ours.talks_to(at(*remote, 443)), "{remote}");
        assert!(ours.connect(at(*remote, 8443)).is_err(), "another port of {remote}");
        assert!(stranger.connect(at(*remote, 443)).is_err(), "a neighbour to {remote}");
        let asks = |agent: &Agent, local| {
            let socket = agent.udp_to(at(local, 0), at(*remote, 53));
            socket.say("word").is_ok() && matches!(socket.hear(), Heard::Text { .. })
        };
        assert!(asks(&ours, own), "a datagram to {remote}");
        assert!(!asks(&stranger, other), "a neighbour's datagram to {remote}");
        assert!(ours.pings(*remote), "{remote}");
        assert!(!stranger.pings(*remote), "a neighbour to {remote}");
    }
    lab.expect_attempts(4, &[("service", "stripe"), ("protocol", "tcp"), ("reason", "undeclared")]);
    lab.expect_attempts(2, &[("service", "stripe"), ("protocol", "udp"), ("reason", "undeclared")]);
}

#[test]
fn a_provider_reaches_the_published_port_of_a_container_and_nothing_else() {
    let Some(lab) = Lab::new() else { return };
    let scene = scene(&lab);
    let remotes = [lab.provider4(0), lab.provider6(0)];
    let policies = remotes.map(|remote| policy("ingress", &subject("web"), &remote.to_string(), "8443/tcp"));
    lab.write("stripe", &schedule(Lifetime::open(), &policies));
    engine::publish(&lab, 18443, &scene.web, 8443);
    engine::publish(&lab, 19443, &scene.web, 9443);
    engine::publish(&lab, 20443, &scene.neighbour, 8443);
    let (ours, stranger) = (scene.web.process(), scene.neighbour.process());
    for (agent, container) in [(&ours, &scene.web), (&stranger, &scene.neighbour)] {
        for port in [8443, 9443] {
            for address in container.addresses() {
                let _ = agent.echo(at(address, port));
            }
        }
    }
    let outward = remotes.map(|remote| scene.theirs.echo(at(remote, 443)));
    let _daemon = lab.daemon();
    for (remote, host) in remotes.into_iter().zip([lab.host4(), lab.host6()]) {
        let reaches = |port| {
            scene.theirs.connect_from(at(remote, 0), at(host, port)).is_ok_and(|socket| socket.echoes())
        };
        assert!(reaches(18443), "{remote}");
        assert!(!reaches(19443), "another port, from {remote}");
        assert!(!reaches(20443), "a neighbour, from {remote}");
    }
    for listener in &outward {
        assert!(ours.connect(listener.local()).is_err(), "a grant for ingress is none for egress");
    }
    lab.expect_attempts(4, &[("service", "stripe"), ("direction", "ingress"), ("reason", "undeclared")]);
    lab.expect_attempts(2, &[("service", "stripe"), ("direction", "egress"), ("reason", "undeclared")]);
}

#[test]
fn a_container_is_followed_to_its_next_address_and_the_last_one_is_nobodys() {
    let Some(lab) = Lab::new() else { return };
    let Scene { web, cgroup, neighbour: _neighbour, theirs } = scene(&lab);
    write(&lab, "web", Lifetime::open());
    let _listeners = [lab.provider4(0), lab.provider6(0)].map(|remote| theirs.echo(at(remote, 443)));
    let _daemon = lab.daemon();
    let process = web.process();
    known(&lab, &process);
    // What happens when an engine stops a container: its processes end, then its network and its cgroup go.
    drop(process);
    cgroup.remove();
    web.stop(&lab);
    let elsewhere = engine::cgroup(&lab, DOCKER, &engine::id(&lab, "late"));
    let heir = engine::start(&lab, &elsewhere, 2);
    let stranger = heir.process();
    assert!(!stranger.talks_to(at(lab.provider4(0), 443)), "who has the address now");
    cgroup.create();
    let again = engine::start(&lab, &cgroup, 4);
    let process = again.process();
    known(&lab, &process);
    assert!(process.talks_to(at(lab.provider6(0), 443)));
    assert!(!stranger.talks_to(at(lab.provider4(0), 443)));
    assert!(!stranger.talks_to(at(lab.provider6(0), 443)));
}

#[test]
fn a_containers_own_address_in_the_prefix_of_its_grant_opens_it_to_nobody() {
    let Some(lab) = Lab::new() else { return };
    let scene = scene(&lab);
    lab.route_to_containers();
    let (ours, free) = (scene.web.process(), lab.provider4(1));
    let policies = ["172.16.0.0/12".to_owned(), lab.provider4(0).to_string()]
        .map(|remote| policy("egress", &subject("web"), &remote, "443/tcp"));
    lab.write("stripe", &schedule(Lifetime::open(), &policies));
    let _listener = scene.theirs.echo(at(lab.provider4(0), 443));
    ours.echo(at(scene.web.addresses()[0], 443));
    let reaches = || scene.theirs.connect_from(at(free, 0), at(scene.web.addresses()[0], 443)).is_ok();
    assert!(reaches());
    let _daemon = lab.daemon();
    known(&lab, &ours);
    assert!(!reaches());
}

/// A connection of the container as both of its ends see it, busy.
fn busy<'a>(ours: &'a Agent, listener: &Socket<'a>) -> (Socket<'a>, Socket<'a>) {
    let ours = ours.connect(listener.local()).expect("admitted");
    let theirs = listener.accept().expect("admitted");
    for end in [&ours, &theirs] {
        end.drain();
        end.pump(Duration::from_millis(1));
    }
    ours.moves_on();
    theirs.moves_on();
    (ours, theirs)
}

fn nothing_passed_after(close: Time, end: &Socket<'_>) {
    let close = close.timestamp_nanos_opt().expect("in range");
    let flow = end.flow();
    assert!(flow.received > 0, "nothing arrived at all");
    assert!(flow.last_stamp < close, "{} ns after the close", flow.last_stamp - close);
}

#[test]
fn without_the_daemon_a_container_is_cut_off_on_time() {
    let Some(lab) = Lab::new() else { return };
    let scene = scene(&lab);
    let close = soon(9_000);
    let remotes = [lab.provider4(0), lab.provider6(0)];
    let policies: Vec<_> = remotes
        .iter()
        .flat_map(|remote| {
            ["443/tcp", "53/udp"].map(|port| policy("egress", &subject("web"), &remote.to_string(), port))
        })
        .collect();
    lab.write("stripe", &schedule(Lifetime::until(close), &policies));
    let ours = scene.web.process();
    let listeners = remotes.map(|remote| scene.theirs.listen(at(remote, 443), Manner::Keep));
    let datagrams = remotes.map(|remote| scene.theirs.udp(at(remote, 53)));
    let daemon = lab.daemon();
    let pairs = listeners.each_ref().map(|listener| busy(&ours, listener));
    let senders: Vec<_> = datagrams
        .iter()
        .zip(scene.web.addresses())
        .map(|(there, local)| {
            there.udp_echo();
            let here = ours.udp_to(at(local, 0), there.local());
            here.drain();
            here.pump(Duration::from_millis(5));
            here.moves_on();
            here
        })
        .collect();
    daemon.kill9();
    assert!(pairs.iter().all(|(ours, theirs)| ours.alive() && theirs.alive()));
    reach(close);
    for (ours, theirs) in &pairs {
        ours.ends_within(TOLD_WITHIN);
        theirs.ends_within(TOLD_WITHIN);
        nothing_passed_after(close, ours);
        nothing_passed_after(close, theirs);
    }
    senders.iter().for_each(|here| nothing_passed_after(close, here));
    assert!(listeners.iter().all(|listener| ours.connect(listener.local()).is_err()));
}

#[test]
fn an_order_tells_both_ends_at_once_and_leaves_no_tracked_flow() {
    let Some(lab) = Lab::new() else { return };
    let scene = scene(&lab);
    write(&lab, "web", Lifetime::open());
    let ours = scene.web.process();
    let listeners =
        [lab.provider4(0), lab.provider6(0)].map(|remote| scene.theirs.listen(at(remote, 443), Manner::Keep));
    let _daemon = lab.daemon();
    let idle: Vec<_> = listeners
        .iter()
        .map(|listener| {
            (ours.connect(listener.local()).expect("admitted"), listener.accept().expect("admitted"))
        })
        .collect();
    let said = lab.picoseg(&["suspend", "stripe", "--reason", "x", "--json"]).ok().json();
    for (ours, theirs) in &idle {
        ours.ends_within(MOMENT);
        theirs.ends_within(MOMENT);
    }
    let teardown = &said["teardown"];
    assert_eq!(teardown["sockets_closed"], 2, "{said}");
    assert!(teardown["flows_removed"].as_u64().is_some_and(|removed| removed >= 2), "{said}");
    assert_eq!(teardown["residue"].as_array().map(Vec::len), Some(0), "{said}");
}

#[test]
fn many_short_connections_of_a_container_are_all_admitted() {
    let Some(lab) = Lab::new() else { return };
    let scene = scene(&lab);
    let remotes = [lab.provider4(0), lab.provider6(0)];
    let both = |remote| {
        [("egress", "443-453/tcp"), ("ingress", "8443-8453/tcp")]
            .map(|(direction, ports)| policy(direction, &subject("web"), &format!("{remote}"), ports))
    };
    let inward = (0..6)
        .map(|number| lab.provider6(number))
        .skip(1)
        .map(|remote| policy("ingress", &subject("web"), &remote.to_string(), "8443-8453/tcp"));
    let policies: Vec<_> = remotes.into_iter().flat_map(both).chain(inward).collect();
    lab.write("stripe", &schedule(Lifetime::open(), &policies));
    lab.canary();
    let ours = scene.web.process();
    let _daemon = lab.daemon();
    let orders = [Close::Client, Close::Server, Close::ClientResets, Close::ServerResets];
    for (number, close) in (0..).zip(orders) {
        for late in [Duration::ZERO, Duration::from_millis(20)] {
            let offset = number * 2 + u16::from(late.is_zero());
            let manner = Manner::Exchange { close, late };
            engine::publish(&lab, 18443 + offset, &scene.web, 8443 + offset);
            for (family, host) in [lab.host4(), lab.host6()].into_iter().enumerate() {
                let there = scene.theirs.listen(at(remotes[family], 443 + offset), manner);
                ours.listen(at(scene.web.addresses()[family], 8443 + offset), manner);
                for tally in [
                    ours.exchange(there.local(), close, late, 60),
                    scene.theirs.exchange(at(host, 18443 + offset), close, late, 60),
                ] {
                    assert_eq!((tally.done, tally.failed.len()), (60, 0), "{close:?}: {tally:?}");
                }
            }
        }
    }
    lab.expect_no_attempts(&scene.theirs);
}

#[test]
fn a_container_that_must_speak_tls_cannot_speak_anything_else() {
    let Some(lab) = Lab::new() else { return };
    let scene = scene(&lab);
    let policies = [lab.provider4(0), lab.provider6(0)].map(|remote| {
        policy("egress", &subject("web"), &remote.to_string(), "443/tcp")
            .replace("ports =", "tls = \"required\"\nports =")
    });
    lab.write("stripe", &schedule(Lifetime::open(), &policies));
    let ours = scene.web.process();
    let listeners =
        [lab.provider4(0), lab.provider6(0)].map(|remote| scene.theirs.listen(at(remote, 443), Manner::Keep));
    let _daemon = lab.daemon();
    for listener in &listeners {
        let (client, server) =
            (ours.connect(listener.local()).expect("admitted"), listener.accept().expect("admitted"));
        client.say("plain words").expect("the kernel takes it");
        client.ends_within(TOLD_WITHIN);
        assert!(!server.hears("plain words"));
        let (client, server) =
            (ours.connect(listener.local()).expect("admitted"), listener.accept().expect("admitted"));
        let hello = "\x16\x03\x01\x00\x05\x01hello";
        client.say(hello).expect("admitted");
        assert!(server.hears(hello));
        client.say("and so on").expect("admitted");
        assert!(server.hears("and so on"));
        server.say("answer").expect("admitted");
        assert!(client.hears("answer"));
    }
    let refused = || lab.attempts_with(&[("service", "stripe"), ("reason", "plaintext")]);
    clock::until("it shows", MOMENT, || refused() >= 2);
}
