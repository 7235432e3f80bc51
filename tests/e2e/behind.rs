//! Segments and policies for any address around a container with a network of its own.

use std::net::IpAddr;
use std::time::Duration;

use crate::agent::{Agent, Heard, Socket};
use crate::containers::{Scene, scene};
use crate::lab::engine::{self, Container};
use crate::lab::schedule::{Lifetime, egress, policy, schedule};
use crate::lab::{Lab, at, clock};

/// From a change of a container until the kernel has it.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(2);

const WEB: &str = "subject = { container = \"web\" }\n";

fn allow(direction: &str, remote: IpAddr, port: &str) -> String {
    let key = if direction == "egress" { "to" } else { "from" };
    format!("[[allow]]\ndirection = \"{direction}\"\n{key} = [\"{remote}\"]\nports = [\"{port}\"]\n")
}

/// Whether a datagram of the container is answered.
fn asks(process: &Agent, container: &Container, remote: IpAddr, port: u16) -> bool {
    let own = container.addresses()[usize::from(remote.is_ipv6())];
    let socket = process.udp_to(at(own, 0), at(remote, port));
    socket.say("word").is_ok() && matches!(socket.hear(), Heard::Text { .. })
}

fn enclosed(process: &Agent, remote: IpAddr) {
    clock::until("the container is enclosed", FOLLOWED_WITHIN, || process.connect(at(remote, 443)).is_err());
}

#[test]
fn a_container_behind_a_bridge_is_enclosed_and_its_neighbour_is_not() {
    let Some(lab) = Lab::new() else { return };
    let scene = scene(&lab);
    lab.route_to_containers();
    let remotes = [lab.provider4(0), lab.provider6(0)];
    lab.segment("box", WEB);
    // What holds the first segments of others asks for sockets, which nothing may that the forward hook reaches.
    let other = egress(&lab.unit("other"), "*.example.com", "443/tcp");
    lab.write("names", &schedule(Lifetime::open(), &[other]));
    let (ours, stranger) = (scene.web.process(), scene.neighbour.process());
    let _listeners = remotes.map(|remote| scene.theirs.echo(at(remote, 443)));
    let datagrams = remotes.map(|remote| scene.theirs.udp(at(remote, 53)));
    datagrams.iter().for_each(Socket::udp_echo);
    let [own, other] = [&scene.web, &scene.neighbour].map(|container| container.addresses()[0]);
    ours.echo(at(own, 80));
    stranger.echo(at(other, 80));
    let reaches = |address| scene.theirs.connect_from(at(lab.provider4(1), 0), at(address, 80)).is_ok();
    assert!(reaches(own) && ours.talks_to(at(remotes[0], 443)));
    let _daemon = lab.daemon();
    remotes.iter().for_each(|remote| enclosed(&ours, *remote));
    for remote in remotes {
        assert!(ours.connect(at(remote, 443)).is_err(), "{remote}");
        assert!(!asks(&ours, &scene.web, remote, 53), "{remote}");
        assert!(!ours.pings(remote), "{remote}");
        assert!(!scene.theirs.pings(scene.web.addresses()[usize::from(remote.is_ipv6())]), "{remote}");
        assert!(stranger.talks_to(at(remote, 443)) && stranger.pings(remote), "{remote}");
        assert!(asks(&stranger, &scene.neighbour, remote, 53), "{remote}");
    }
    assert!(!reaches(own) && reaches(other));
    for (protocol, direction) in
        [("tcp", "egress"), ("udp", "egress"), ("icmp", "egress"), ("tcp", "ingress"), ("icmp", "ingress")]
    {
        let values = [
            ("policy", "segment/box"),
            ("reason", "isolated"),
            ("protocol", protocol),
            ("direction", direction),
        ];
        let all = clock::within(FOLLOWED_WITHIN, || (lab.attempts_with(&values) > 0).then_some(()));
        assert!(all.is_some(), "{protocol} {direction}: {:?}", lab.attempts());
    }
}

#[test]
fn what_a_segment_allows_a_container_passes_and_a_grant_is_on_top() {
    let Some(lab) = Lab::new() else { return };
    let scene = scene(&lab);
    lab.route_to_containers();
    let remotes = [lab.provider4(0), lab.provider6(0)];
    let rules = remotes.map(|remote| {
        ["8443/tcp", "53/udp", "icmp"].map(|port| allow("egress", remote, port)).concat()
            + &allow("ingress", remote, "80/tcp")
    });
    lab.segment("box", &(WEB.to_owned() + &rules.concat()));
    let ours = scene.web.process();
    let _listeners = remotes.map(|remote| [443, 8443, 9443].map(|port| scene.theirs.echo(at(remote, port))));
    let datagrams = remotes.map(|remote| scene.theirs.udp(at(remote, 53)));
    datagrams.iter().for_each(Socket::udp_echo);
    let own = scene.web.addresses();
    for address in &own {
        let _ = ours.echo(at(*address, 80));
    }
    let _inside = own.map(|address| ours.echo(at(address, 81)));
    let policies = [policy("egress", "container = \"web\"", &lab.provider4(1).to_string(), "443/tcp")];
    lab.write("stripe", &schedule(Lifetime::open(), &policies));
    let _daemon = lab.daemon();
    enclosed(&ours, remotes[1]);
    for remote in remotes {
        assert!(ours.talks_to(at(remote, 8443)), "{remote}");
        assert!(asks(&ours, &scene.web, remote, 53), "{remote}");
        assert!(ours.pings(remote), "{remote}");
        assert!(ours.connect(at(remote, 9443)).is_err(), "{remote}");
    }
    assert!(scene.theirs.connect_from(at(remotes[0], 0), at(own[0], 81)).is_err());
    let _granted = scene.theirs.echo(at(lab.provider4(1), 443));
    assert!(ours.talks_to(at(lab.provider4(1), 443)));
}

#[test]
fn an_enclosed_container_is_followed_to_its_next_address() {
    let Some(lab) = Lab::new() else { return };
    let Scene { web, cgroup, neighbour: _neighbour, theirs } = scene(&lab);
    lab.segment("box", WEB);
    let remotes = [lab.provider4(0), lab.provider6(0)];
    let _listeners = remotes.map(|remote| theirs.echo(at(remote, 443)));
    let _daemon = lab.daemon();
    let process = web.process();
    remotes.iter().for_each(|remote| enclosed(&process, *remote));
    drop(process);
    cgroup.remove();
    web.stop(&lab);
    cgroup.create();
    let again = engine::start(&lab, &cgroup, 4);
    let process = again.process();
    remotes.iter().for_each(|remote| enclosed(&process, *remote));
}

#[test]
fn a_closed_policy_for_any_address_restricts_a_container_and_an_open_one_admits_it() {
    let Some(lab) = Lab::new() else { return };
    let scene = scene(&lab);
    let remotes = [lab.provider4(0), lab.provider6(0)];
    let (ours, stranger) = (scene.web.process(), scene.neighbour.process());
    let _listeners = remotes.map(|remote| [443, 8443].map(|port| scene.theirs.echo(at(remote, port))));
    let policies = [policy("egress", "container = \"web\"", "any", "443/tcp")];
    let listed = [policy("egress", "container = \"other\"", &remotes[0].to_string(), "443/tcp")];
    lab.write("listed", &schedule(Lifetime::open(), &listed));
    lab.write("stripe", &schedule(Lifetime::open(), &policies));
    let _daemon = lab.daemon();
    clock::until("it is admitted to what another lists", FOLLOWED_WITHIN, || {
        ours.talks_to(at(remotes[0], 443))
    });
    assert!(ours.talks_to(at(remotes[1], 443)));
    lab.picoseg(&["suspend", "stripe", "--reason", "test"]).ok();
    for remote in remotes {
        assert!(ours.connect(at(remote, 443)).is_err(), "{remote}");
        assert!(stranger.talks_to(at(remote, 443)), "{remote}");
    }
    assert!(ours.talks_to(at(remotes[1], 8443)), "another port");
    lab.expect_attempts(1, &[("service", "stripe"), ("protocol", "tcp"), ("reason", "suspended")]);
    lab.picoseg(&["resume", "stripe", "--reason", "test"]).ok();
    remotes.iter().for_each(|remote| assert!(ours.talks_to(at(*remote, 443)), "{remote}"));
}
