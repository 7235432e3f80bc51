//! Beside the firewalls that Debian has: ours holds whatever they say, theirs stays as it is, and what either refuses is refused.

use std::net::SocketAddr;

use crate::agent::unit;
use crate::clock::until;
use crate::machine::{MOMENT, Machine, System};
use crate::outside::{v4, v6};
use crate::schedule::{egress, file, ingress, schedule};

const OURS: &str = "pay.service";
const STRANGER: &str = "else.service";
const WEBHOOK: &str = "hook.service";

/// A machine with a unit that has grants, one that has none, and a listener; and with firewalls that wait to be started.
fn machine(settings: &str) -> Option<Machine> {
    let granted = [egress(OURS, &[v4(0), v6(0)], "443/tcp"), ingress(WEBHOOK, &[v4(1)], "8443/tcp")];
    let path = |unit: &str| format!("/etc/systemd/system/{unit}");
    let waits = "[Unit]\nConditionPathExists=/run/firewall\n".to_owned();
    let files = [
        (file("provider"), schedule(&granted)),
        (path(OURS), unit(&format!("ask {OURS}"), "")),
        (path(STRANGER), unit(&format!("ask {STRANGER}"), "")),
        (path(WEBHOOK), unit("serve 8443", "")),
        (path("firewalld.service.d/wait.conf"), waits.clone()),
        (path("ufw.service.d/wait.conf"), waits),
        ("/etc/picoseg/picoseg.toml".to_owned(), settings.to_owned()),
    ];
    let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let machine = Machine::boot_on(System { suite: "trixie", variant: "firewalls" }, &files)?;
    [OURS, STRANGER, WEBHOOK].iter().for_each(|unit| machine.start(unit));
    machine.run(&["touch", "/run/firewall"]).ok();
    Some(machine)
}

/// `open`: they let the listener's port in.
fn holds(machine: &Machine, open: bool, when: &str) {
    for remote in [v4(0), v6(0)] {
        let remote = SocketAddr::new(remote, 443);
        let agent = machine.agent(OURS);
        until(&format!("{when}: our grant to {remote}"), MOMENT, || agent.talks_to(remote));
        assert!(!machine.agent(STRANGER).talks_to(remote), "{when}: our refusal of {remote}");
    }
    let outside = machine.outside();
    assert_eq!(outside.talks_to(8443, v4(1)), open, "{when}: in only where both let it in");
    assert!(!outside.talks_to(8443, v4(0)), "{when}: our refusal, inwards");
    assert_eq!(outside.talks_to(8443, v4(2)), open, "{when}: what we do not govern is theirs alone");
}

/// All tables but ours, without what they count.
fn theirs(machine: &Machine) -> String {
    let tables = machine.run(&["nft", "list", "tables"]).ok().stdout;
    let foreign = tables.lines().filter(|line| !line.ends_with(" inet picoseg"));
    let list = |table: &str| {
        let arguments: Vec<&str> =
            ["nft", "--stateless", "list"].into_iter().chain(table.split(' ')).collect();
        machine.run(&arguments).ok().stdout
    };
    foreign.map(list).collect()
}

/// `admit` lets the listener's port in, for good; `reload` loads their rules again.
fn live_together(machine: &Machine, start: &[&str], admit: &[&str], reload: &[&str]) {
    let _echo = machine.outside().echo(443);
    // Our chains; elements come and go by themselves.
    let chains = || machine.table().split_once("\tchain ").map(|(_, chains)| chains.to_owned());
    load(machine, start);
    holds(machine, false, "they start after us");
    let ours = chains();
    load(machine, admit);
    load(machine, reload);
    let before = theirs(machine);
    assert!(before.len() > 1000, "they have rules: {before}");
    holds(machine, true, "they let it in");
    for _ in 0..3 {
        load(machine, reload);
        assert_eq!(theirs(machine), before, "their reload");
    }
    holds(machine, true, "after their reloads");
    assert_eq!(machine.status()["drift"]["count"], 0);
    assert_eq!(chains(), ours);

    machine.stop("picosegd.service");
    machine.run(&["picosegd", "--unload"]).ok();
    assert_eq!(theirs(machine), before, "our end");
    machine.start("picosegd.service");
    assert_eq!(theirs(machine), before, "our start");
    holds(machine, true, "we start after them");
    load(machine, reload);
    holds(machine, true, "their reload after our start");
    machine.picoseg(&["suspend", "provider", "--reason", "test"]).ok();
    assert!(!machine.agent(OURS).talks_to(SocketAddr::new(v4(0), 443)), "suspended");
    machine.picoseg(&["resume", "provider", "--reason", "test"]).ok();
    assert_eq!(theirs(machine), before, "our changes");
    assert_eq!(machine.status()["drift"]["count"], 0);
}

/// Runs what loads their rules: hundreds of programs, some of them, which take a while on a loaded machine.
fn load(machine: &Machine, command: &[&str]) {
    let done = machine.command(command).output().expect("nsenter is there");
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn beside_firewalld() {
    for settings in ["", "[enforcement]\nprotect = false\n"] {
        let Some(machine) = machine(settings) else { return };
        let start = ["systemctl", "start", "firewalld.service"];
        let admit = ["firewall-cmd", "--quiet", "--permanent", "--add-port=8443/tcp"];
        live_together(&machine, &start, &admit, &["firewall-cmd", "--quiet", "--reload"]);
        assert!(theirs(&machine).contains("table inet firewalld"));
    }
}

#[test]
fn beside_ufw() {
    let Some(machine) = machine("") else { return };
    let admit = ["ufw", "allow", "8443/tcp"];
    live_together(&machine, &["ufw", "--force", "enable"], &admit, &["ufw", "reload"]);
    assert!(theirs(&machine).contains("ufw-user-input"));
}
