//! A daemon comes and goes under a flood in both directions: nothing that should be refused arrives, no admitted connection
//! breaks, and every refused packet is counted.
//!
//! Counters beside picoseg's table tell what was sent and what came through it; the one outside tells what arrived.

use std::fs;
use std::net::SocketAddr;

use crate::agent::unit;
use crate::clock::{until, within};
use crate::machine::{MOMENT, Machine};
use crate::outside::{Echo, MACHINE4, MACHINE6, v4, v6};
use crate::schedule::{egress, file, ingress, schedule};
use crate::traffic::{Going, words_of};

const DAEMON: &str = "picosegd.service";
const PORT: u16 = 443;
const HOOK: u16 = 8443;
/// The addresses outside, by what they are.
const PROVIDER: u8 = 0;
const ENEMY: u8 = 1;
const CALLER: u8 = 2;

struct Scene {
    machine: Machine,
    _echo: Echo,
    flood: Going,
    calls: Going,
}

/// Everything flows in both directions: pay.service and its provider, a provider and hook.service, and in between what nobody admits.
fn scene(settings: &str) -> Option<Scene> {
    let both = |number: u8, port| [v4(number), v6(number)].map(|ip| SocketAddr::new(ip, port));
    let list = |of: [SocketAddr; 2]| of.map(|to| to.to_string()).join(",");
    let pay = schedule(&[
        egress("pay.service", &[v4(PROVIDER), v6(PROVIDER)], "443/tcp"),
        // Governed, and admitted to nobody who is there.
        egress("nobody.service", &[v4(ENEMY), v6(ENEMY)], "443/tcp"),
    ]);
    let hook = schedule(&[ingress("hook.service", &[v4(CALLER), v6(CALLER)], "8443/tcp")]);
    let units = [
        ("pay", unit(&format!("stream pay {}", list(both(PROVIDER, PORT))), "")),
        ("enemy", unit(&format!("flood {}", list(both(ENEMY, PORT))), "")),
        ("hook", unit(&format!("serve {HOOK}"), "")),
    ];
    let paths = units.each_ref().map(|(name, _)| format!("/etc/systemd/system/{name}.service"));
    let units = paths.iter().zip(&units).map(|(path, (_, text))| (path.as_str(), text.as_str()));
    let (pay_file, hook_file) = (file("pay"), file("hook"));
    let drop_in = ("/etc/systemd/system/picosegd.service.d/test.conf", settings);
    let files: Vec<_> = units.chain([(&*pay_file, &*pay), (&hook_file, &hook), drop_in]).collect();
    let machine = Machine::boot(&files)?;
    machine.run(&["nft", &beside()]).ok();
    let echo = machine.outside().echo(PORT);
    machine.start("hook.service");
    until("hook.service is followed", MOMENT, || machine.outside().talks_to(HOOK, v4(CALLER)));
    let inside = [SocketAddr::new(MACHINE4, HOOK), SocketAddr::new(MACHINE6, HOOK)];
    let calls = machine.outside().streams(&[v4(CALLER), v6(CALLER)], &inside);
    let flood = machine.outside().floods(&[v4(ENEMY), v6(ENEMY)], &inside);
    machine.start("enemy.service");
    until("pay.service is followed", MOMENT, || machine.systemctl(&["start", "pay.service"]).code == 0);
    Some(Scene { machine, _echo: echo, flood, calls })
}

/// What goes to the enemy, what comes from it, and what of that picoseg lets through.
fn beside() -> String {
    let (ip, ip6) = (v4(ENEMY), v6(ENEMY));
    let chain = |name: &str, hook: &str, priority: i32, side: &str| {
        let device = if side == "daddr" { "oifname" } else { "iifname" };
        let count = format!("{device} host0 meta l4proto {{ tcp, udp }}");
        format!(
            "counter {name} {{ }}\nchain at_{name} {{\ntype filter hook {hook} priority {priority}\n\
             {count} ip {side} {ip} counter name {name}\n{count} ip6 {side} {ip6} counter name {name}\n}}\n"
        )
    };
    let chains = [
        chain("sent", "output", -400, "daddr"),
        chain("came", "prerouting", -400, "saddr"),
        chain("through", "input", 400, "saddr"),
    ];
    format!("table inet beside {{\n{}}}", chains.concat())
}

impl Scene {
    fn counter(&self, name: &str) -> u64 {
        let listed =
            self.machine.run(&["nft", "--json", "list", "counter", "inet", "beside", name]).ok().json();
        let objects = listed["nftables"].as_array().expect("a listing of nft");
        objects.iter().find_map(|object| object["counter"]["packets"].as_u64()).expect("a counter")
    }

    fn words(&self) -> [u64; 2] {
        let pay = fs::read_to_string(self.machine.path(&words_of("pay"))).unwrap_or_default();
        [pay.parse().unwrap_or(0), self.calls.words()]
    }

    /// Everything flows for a while.
    fn flows(&self) {
        let flown = || (self.words(), [self.counter("sent"), self.counter("came")]);
        let (words, packets) = flown();
        let further = || {
            let now = flown();
            (0..2).all(|i| now.0[i] >= words[i] + 40 && now.1[i] >= packets[i] + 2_000)
        };
        until("both floods and both streams go on", MOMENT, further);
    }

    /// Refused packets by picoseg's own count: outbound, inbound.
    fn attempts(&self) -> [u64; 2] {
        let listed = self.machine.picoseg(&["attempts", "--json"]).ok().json();
        let rows = listed["attempts"].as_array().expect("rows");
        ["egress", "ingress"].map(|direction| {
            let counts =
                rows.iter().filter(|row| row["direction"] == direction).map(|row| row["count"].as_u64());
            counts.map(|count| count.expect("a number")).sum()
        })
    }

    fn answers(&self) {
        until("the daemon answers", MOMENT, || self.machine.picoseg(&["status"]).code == 0);
    }

    /// Stops the flood, and judges.
    fn ends_well(mut self) {
        self.flows();
        self.machine.stop("enemy.service");
        self.flood.end().expect("the flood goes on to its end");
        let arrived = [self.machine.outside().arrived(ENEMY), self.counter("through")];
        assert_eq!(
            arrived,
            [0, 0],
            "of {} sent and {} that came",
            self.counter("sent"),
            self.counter("came")
        );
        let words = self.words();
        self.calls.end().expect("no connection from outside breaks");
        let pay = self.machine.property("pay.service", "ActiveState");
        assert_eq!(pay, "active", "{}", self.machine.journal("pay.service"));
        let refused = [self.counter("sent"), self.counter("came")];
        let counted = within(MOMENT, || (self.attempts() == refused).then_some(()));
        assert!(counted.is_some(), "counted {:?} of {refused:?}", self.attempts());
        println!("refused {refused:?}, words {words:?}");
    }
}

#[test]
fn a_restart_has_no_gap() {
    let Some(scene) = scene("") else { return };
    scene.flows();
    scene.machine.restart(DAEMON);
    scene.flows();
    // Also one that takes its time.
    scene.machine.stop(DAEMON);
    scene.flows();
    scene.machine.start(DAEMON);
    scene.ends_well();
}

#[test]
fn a_daemon_that_is_killed_leaves_no_gap() {
    let Some(scene) = scene("") else { return };
    scene.flows();
    for kill in 1..=3 {
        scene.machine.systemctl(&["kill", "--signal=KILL", DAEMON]).ok();
        let restarts = kill.to_string();
        until("systemd starts it again", MOMENT, || scene.machine.property(DAEMON, "NRestarts") == restarts);
        scene.answers();
    }
    scene.ends_well();
}

#[test]
fn a_daemon_that_hangs_is_replaced_without_a_gap() {
    let Some(scene) = scene("[Service]\nWatchdogSec=2s\n") else { return };
    scene.flows();
    assert_eq!(scene.machine.property(DAEMON, "NRestarts"), "0", "its loop gives signs of life");
    scene.machine.systemctl(&["kill", "--signal=STOP", DAEMON]).ok();
    until("systemd replaces it", MOMENT, || scene.machine.property(DAEMON, "NRestarts") == "1");
    assert!(scene.machine.journal(DAEMON).contains("Watchdog timeout"), "{}", scene.machine.journal(DAEMON));
    scene.answers();
    scene.ends_well();
}

#[test]
fn a_systemd_that_executes_itself_anew_makes_no_gap() {
    let Some(scene) = scene("") else { return };
    scene.flows();
    let process = scene.machine.property(DAEMON, "MainPID");
    scene.machine.systemctl(&["daemon-reexec"]).ok();
    assert_eq!(scene.machine.property(DAEMON, "MainPID"), process);
    // What it kept for the daemon it still has.
    scene.machine.restart(DAEMON);
    assert!(
        scene.machine.journal(DAEMON).contains("the table stayed ours"),
        "{}",
        scene.machine.journal(DAEMON)
    );
    scene.ends_well();
}

#[test]
fn an_upgrade_and_the_way_back_have_no_gap() {
    let Some(scene) = scene("") else { return };
    // The program is mounted: now it is a file, as packages install it.
    let unpack = "cp /usr/bin/picosegd /usr/bin/old && umount --lazy /usr/bin/picosegd && mv /usr/bin/old /usr/bin/picosegd";
    scene.machine.run(&["sh", "-ec", unpack]).ok();
    scene.flows();
    let upgrade = "cp /usr/bin/picosegd /usr/bin/new && echo another >>/usr/bin/new && \
                   cp /usr/bin/picosegd /usr/bin/old && mv /usr/bin/new /usr/bin/picosegd";
    for install in [upgrade, "mv /usr/bin/old /usr/bin/picosegd"] {
        scene.machine.run(&["sh", "-ec", install]).ok();
        scene.machine.restart(DAEMON);
        scene.flows();
    }
    scene.ends_well();
}
