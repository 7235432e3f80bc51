//! Beside other programs that write rules: ours hold whatever theirs are, theirs stay, and what either refuses is refused.
//!
//! Their rules are loaded before us and after us, and loaded again under traffic, by the programs that people use for it.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use crate::agent::{Agent, Heard, Kind, Packets, Socket};
use crate::heal::{differences, entries, listed, nft, ours, plain, settles};
use crate::lab::clock::{until, within};
use crate::lab::schedule::{Lifetime, egress, ingress, schedule};
use crate::lab::{Daemon, Guest, Lab, MOMENT, at, have, put};

/// What iptables-nft keeps of a host that Docker runs on: a published port (8080 to 80 of a container), forwarding closed but for
/// containers, their addresses hidden. Beside it the host's own rule: nothing leaves for 10.x.y.12.
fn docker(lab: &Lab, guest: IpAddr) -> String {
    format!(
        "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n:DOCKER - [0:0]\n\
         -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
         -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER\n\
         -A POSTROUTING -s {guest}/32 ! -o guest0 -j MASQUERADE\n\
         -A DOCKER ! -i guest0 -p tcp --dport 8080 -j DNAT --to-destination {guest}:80\nCOMMIT\n\
         *filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n:DOCKER - [0:0]\n:DOCKER-USER - [0:0]\n\
         -A FORWARD -j DOCKER-USER\n\
         -A FORWARD -o guest0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A FORWARD -o guest0 -j DOCKER\n\
         -A FORWARD -i guest0 ! -o guest0 -j ACCEPT\n\
         -A OUTPUT -d {} -j DROP\n\
         -A DOCKER -d {guest}/32 ! -i guest0 -o guest0 -p tcp --dport 80 -j ACCEPT\n\
         -A DOCKER-USER -j RETURN\nCOMMIT\n",
        lab.provider4(2)
    )
}

/// A host that lets little in, by iptables-nft.
fn closed_host(lab: &Lab) -> String {
    format!(
        "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n:own - [0:0]\n\
         -A INPUT -i lo -j ACCEPT\n\
         -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A INPUT -p tcp --dport 8443 -j ACCEPT\n\
         -A INPUT -p icmp -j ACCEPT\n\
         -A OUTPUT -j own\n\
         -A own -d {} -p tcp --dport 443 -j DROP\nCOMMIT\n",
        lab.provider4(2)
    )
}

/// What `/etc/nftables.conf` is on many hosts: it begins with throwing everything away.
fn nftables_conf(lab: &Lab) -> String {
    format!(
        "flush ruleset\n\
         table inet filter {{\n set admins {{ type ipv4_addr; elements = {{ 192.0.2.1, 192.0.2.2 }}\n }}\n\
         chain input {{ type filter hook input priority filter; policy accept; ip saddr @admins drop\n }}\n\
         chain output {{ type filter hook output priority -300; policy accept; ip daddr {} tcp dport 443 drop\n \
         ip daddr {} accept\n }}\n}}\n",
        lab.provider4(2),
        lab.provider4(0),
    )
}

/// Who loads what.
enum Rules {
    Iptables(String),
    Nft(String),
}

impl Rules {
    fn load(&self, lab: &Lab) {
        match self {
            Self::Iptables(text) => {
                let file = lab.dir().join("rules.v4");
                put(&file, text);
                let mut command = Command::new("iptables-nft-restore");
                command.arg(file);
                lab.on_host(command).ok();
            }
            Self::Nft(text) => drop(nft(lab, text).ok()),
        }
    }
}

struct Scene<'a> {
    lab: &'a Lab,
    ours: Agent,
    stranger: Agent,
    theirs: Agent,
    guest: Option<&'a Guest>,
    inside: Option<Agent>,
}

impl<'a> Scene<'a> {
    fn set(lab: &'a Lab, guest: Option<&'a Guest>) -> Self {
        let (payments, web) = (lab.unit("payments"), lab.unit("web"));
        let granted = [
            egress(&payments, lab.provider4(0), "443/tcp"),
            egress(&payments, lab.provider4(2), "443/tcp"),
            ingress(&payments, lab.provider4(1), "8443/tcp"),
        ];
        lab.write("stripe", &schedule(Lifetime::open(), &granted));
        let scene = Self {
            lab,
            ours: lab.process(&payments),
            stranger: lab.process(&web),
            theirs: lab.provider(),
            guest,
            inside: guest.map(Guest::process),
        };
        for number in 0..4 {
            scene.theirs.echo(at(lab.provider4(number), 443));
        }
        scene.ours.echo(at(lab.host4(), 8443));
        if let (Some(guest), Some(inside)) = (scene.guest, &scene.inside) {
            inside.echo(at(guest.address(), 80));
        }
        scene
    }

    fn provider(&self, number: u8) -> std::net::SocketAddr {
        at(self.lab.provider4(number), 443)
    }

    fn comes_in(&self, number: u8, port: u16) -> bool {
        let from = at(self.lab.provider4(number), 0);
        self.theirs.connect_from(from, at(self.lab.host4(), port)).is_ok_and(|socket| socket.echoes())
    }

    /// Ours and theirs, both.
    fn holds(&self, when: &str) {
        assert!(self.ours.talks_to(self.provider(0)), "{when}: our grant");
        assert!(!self.stranger.talks_to(self.provider(0)), "{when}: our refusal");
        assert!(!self.ours.talks_to(self.provider(2)), "{when}: our grant does not override their drop");
        assert!(self.comes_in(1, 8443), "{when}: our grant, inwards");
        assert!(!self.comes_in(0, 8443), "{when}: our refusal, inwards");
        if let Some(inside) = &self.inside {
            assert!(self.comes_in(3, 8080), "{when}: their published port");
            assert!(!self.comes_in(0, 8080), "{when}: our refusal, of what they forward");
            assert!(inside.talks_to(self.provider(3)), "{when}: their container");
            assert!(!inside.talks_to(self.provider(0)), "{when}: our refusal, of their container");
        }
    }

    /// A connection that is admitted, and packets that are not.
    fn traffic(&self) -> Traffic<'_> {
        let client = self.ours.connect(self.provider(0)).expect("admitted");
        client.pump(Duration::from_millis(2));
        client.drain();
        let sink = self.ours.udp(at(self.lab.host4(), 9000));
        let packets = Packets { kind: Kind::Udp, from: self.provider(0), to: sink.local(), count: 60_000 };
        let flood = self.theirs.raw_pump(packets, Duration::from_millis(1));
        Traffic { client, sink, flood }
    }
}

struct Traffic<'a> {
    client: Socket<'a>,
    sink: Socket<'a>,
    flood: Socket<'a>,
}

impl Traffic<'_> {
    fn goes_on(&self, refused_packets_pass: bool, when: &str) {
        self.client.moves_on();
        assert!(self.client.alive(), "{when}: an admitted connection");
        assert!(self.flood.alive() && self.flood.flow().sent > 0);
        if !refused_packets_pass {
            let heard = self.sink.hear_within(Duration::from_millis(10));
            assert_eq!(heard, Heard::Nothing, "{when}: a refused packet has passed");
        }
    }
}

/// Their tables, without what they count.
fn theirs(lab: &Lab) -> String {
    let tables = listed(lab, &["list", "tables"]);
    let foreign = tables.lines().filter(|line| !line.ends_with(" inet picoseg"));
    let list =
        |line: &str| plain(&listed(lab, &[&["list"], &line.split(' ').collect::<Vec<_>>()[..]].concat()));
    foreign.map(list).collect()
}

/// Loaded before us, after us, and again and again.
fn live_together(protect: bool, with_guest: bool, rules: &dyn Fn(&Lab, Option<&Guest>) -> Rules) {
    for they_are_first in [true, false] {
        let Some(lab) = Lab::new() else { return };
        lab.settings(&format!("[enforcement]\nprotect = {protect}\n"));
        let guest = with_guest.then(|| lab.guest());
        let (scene, rules) = (Scene::set(&lab, guest.as_ref()), rules(&lab, guest.as_ref()));
        let daemon: Daemon;
        if they_are_first {
            rules.load(&lab);
            let before = theirs(&lab);
            daemon = lab.daemon();
            assert_eq!(theirs(&lab), before, "our start");
        } else {
            daemon = lab.daemon();
            rules.load(&lab);
        }
        // Where the kernel has no flag `persist`, nothing is protected.
        let protect = protect && !lab.status()["weaker"].to_string().contains("persist");
        until("our table is there", MOMENT, || ours(&lab).contains("comment \"stripe\""));
        settles(&lab);
        let (before, mine) = (theirs(&lab), ours(&lab));
        assert!(!before.is_empty());
        scene.holds(if they_are_first { "after our start" } else { "after theirs" });
        let traffic = scene.traffic();
        for _ in 0..5 {
            rules.load(&lab);
            // Unprotected, ours is gone for some milliseconds.
            traffic.goes_on(!protect, "their reload");
        }
        let same = within(MOMENT, || (ours(&lab) == mine).then_some(()));
        assert!(same.is_some(), "{}", differences(&mine, &ours(&lab)));
        scene.holds("after their reloads");
        assert_eq!(theirs(&lab), before, "their reloads");
        lab.picoseg(&["suspend", "stripe", "--reason", "test"]).ok();
        lab.picoseg(&["resume", "stripe", "--reason", "test"]).ok();
        scene.holds("after changes of ours");
        assert_eq!(theirs(&lab), before, "our changes");
        let repairs = entries(&lab, "drift.repaired").len();
        let drift = lab.status()["drift"]["count"].as_u64();
        assert_eq!(drift, Some(repairs as u64));
        let flushes = matches!(rules, Rules::Nft(_)) && !protect;
        assert_eq!(repairs > 0, flushes, "only what flushes everything concerns us");
        assert!(daemon.term().success());
    }
}

#[test]
fn rules_as_docker_writes_them() {
    if !have("iptables-nft-restore") {
        return;
    }
    live_together(true, true, &|lab, guest| {
        Rules::Iptables(docker(lab, guest.expect("a container").address()))
    });
}

#[test]
fn rules_of_iptables() {
    if !have("iptables-nft-restore") {
        return;
    }
    for protect in [true, false] {
        live_together(protect, false, &|lab, _| Rules::Iptables(closed_host(lab)));
    }
}

#[test]
fn a_file_that_begins_with_flushing_everything_does_not_touch_a_protected_table() {
    live_together(true, false, &|lab, _| Rules::Nft(nftables_conf(lab)));
}

#[test]
fn a_file_that_begins_with_flushing_everything_is_made_up_for() {
    live_together(false, false, &|lab, _| Rules::Nft(nftables_conf(lab)));
}
