//! The table stays ours while the daemon comes and goes: systemd keeps the socket that owns it.

use std::fs;

use crate::agent::unit;
use crate::clock::until;
use crate::machine::{MOMENT, Machine, System};
use crate::outside::v4;
use crate::schedule::{egress, file, schedule};

const DAEMON: &str = "picosegd.service";
/// What nft says of a try that is refused ends with it.
const TRIES: [&str; 2] = ["delete table inet picoseg", "add rule inet picoseg input accept"];
const ROUNDS: u32 = 20;

/// Tries all the time to change the table.
const ATTACK: [(&str, &str); 2] = [
    ("/etc/systemd/system/attack.service", "[Service]\nExecStart=/bin/sh /usr/lib/attack\n"),
    (
        "/usr/lib/attack",
        "yes 'delete table inet picoseg\nflush ruleset\nadd rule inet picoseg input accept' | nft -i >/run/said 2>&1\n",
    ),
];

/// A machine with a service; systemd starts the daemon again at once.
fn machine(system: System, more: &[(&str, &str)]) -> Option<Machine> {
    let (pay, grants) = (file("pay"), schedule(&[egress("pay.service", &[v4(0)], "443/tcp")]));
    let soon = ("/etc/systemd/system/picosegd.service.d/test.conf", "[Service]\nRestartSec=100ms\n");
    let machine = Machine::boot_on(system, &[&[(&*pay, &*grants), soon], &ATTACK, more].concat())?;
    if machine.status()["weaker"].to_string().contains("persist") {
        crate::skip::skipped("this kernel cannot keep an owned table");
        return None;
    }
    Some(machine)
}

/// How often each was refused; any other answer means that it was not.
fn refused(machine: &Machine) -> [usize; 2] {
    let said = fs::read_to_string(machine.path("/run/said")).unwrap_or_default();
    let other = said.lines().find(|line| line.contains("rror") && !line.contains("Operation not permitted"));
    assert_eq!(other, None, "the table was gone");
    TRIES.map(|tried| said.lines().filter(|line| *line == tried).count())
}

/// Its number, which another table of that name would not have.
fn handle(machine: &Machine) -> String {
    let listed = machine.run(&["nft", "--handle", "list", "table", "inet", "picoseg"]).ok().stdout;
    listed.lines().next().expect("a table").to_owned()
}

fn answers(machine: &Machine) {
    until("the daemon answers", MOMENT, || machine.picoseg(&["status"]).code == 0);
}

fn kill(machine: &Machine) {
    let before = machine.property(DAEMON, "NRestarts");
    machine.systemctl(&["kill", "--signal=KILL", DAEMON]).ok();
    until("systemd starts it again", MOMENT, || machine.property(DAEMON, "NRestarts") != before);
    answers(machine);
}

#[test]
fn nobody_else_can_change_the_table_while_the_daemon_comes_and_goes() {
    for suite in ["bookworm", "trixie"] {
        let Some(machine) = machine(System { suite, variant: "base" }, &[]) else { return };
        let (digest, before) = (machine.status()["ruleset_digest"].clone(), handle(&machine));
        machine.start("attack.service");
        let goes_on = |since: usize| {
            until("the attack goes on", MOMENT, || refused(&machine)[0] > since + 3);
        };
        goes_on(0);
        let rounds = if suite == "trixie" { ROUNDS } else { 3 };
        for _ in 0..rounds {
            kill(&machine);
            machine.restart(DAEMON);
        }
        goes_on(refused(&machine)[0]);
        machine.stop("attack.service");
        let [deletions, additions] = refused(&machine);
        assert!(deletions.abs_diff(additions) <= 1, "refused: {deletions} deletions, {additions} additions");
        assert_eq!(handle(&machine), before);
        let status = machine.status();
        assert_eq!(
            (&status["ruleset_digest"], &status["drift"]["count"]),
            (&digest, &0.into()),
            "{status:#}"
        );
        println!("{suite}: {deletions} tries");
        // One socket, however often: the same.
        assert_eq!(machine.property(DAEMON, "NFileDescriptorStore"), "1");
    }
}

#[test]
fn a_stopped_daemon_lets_the_table_be_unloaded() {
    let Some(machine) = machine(System { suite: "trixie", variant: "base" }, &[]) else { return };
    // While the unit is there the table is not for others, and they are told why.
    machine.run(&["picosegd", "--unload"]).exits(1).explains(&["(picosegd) owns it"]);
    let elsewhere = "[paths]\nstate = \"/run/other/state\"\nruntime = \"/run/other/run\"\n";
    machine.put("/root/other.toml", elsewhere);
    machine.run(&["picosegd", "--config", "/root/other.toml"]).exits(1).explains(&["(picosegd) owns it"]);
    // Also not between two starts.
    machine.put("/etc/systemd/system/picosegd.service.d/test.conf", "[Service]\nRestartSec=1h\n");
    machine.systemctl(&["daemon-reload"]).ok();
    machine.systemctl(&["kill", "--signal=KILL", DAEMON]).ok();
    until("it waits", MOMENT, || machine.property(DAEMON, "SubState") == "auto-restart");
    machine.run(&["picosegd", "--unload"]).exits(1).explains(&["(systemd) owns it"]);
    machine.run(&["nft", "delete", "table", "inet", "picoseg"]).exits(1);

    machine.stop(DAEMON);
    assert!(machine.table().contains("hook output"));
    machine.run(&["picosegd", "--unload"]).ok();
    assert!(!machine.run(&["nft", "list", "tables"]).ok().stdout.contains("picoseg"));
    machine.run(&["rm", "/etc/systemd/system/picosegd.service.d/test.conf"]).ok();
    machine.systemctl(&["daemon-reload"]).ok();
    machine.start(DAEMON);
    assert!(machine.table().contains("hook output"));
    kill(&machine);
    assert_eq!(machine.property(DAEMON, "NFileDescriptorStore"), "1");
}

/// A socket that is none of ours under our name: it goes, and the table is owned by another one.
#[test]
fn a_kept_socket_of_no_use_is_let_go() {
    let Some(machine) = machine(System { suite: "trixie", variant: "base" }, &[]) else { return };
    // systemd-notify(1) of 257 passes descriptors.
    let store = "systemd-notify --fd=3 --fdname=picoseg-table FDPOLL=0 3</etc/hostname; exec sleep 1000";
    let wrong = format!(
        "[Service]\nType=simple\nExecStart=\nExecStart=/bin/sh -c '{store}'\nNotifyAccess=all\nWatchdogSec=0\n"
    );
    let drop_in = "/etc/systemd/system/picosegd.service.d/test.conf";
    machine.stop(DAEMON);
    machine.put(drop_in, &wrong);
    machine.systemctl(&["daemon-reload"]).ok();
    machine.start(DAEMON);
    until("the wrong one is kept", MOMENT, || machine.property(DAEMON, "NFileDescriptorStore") == "1");
    machine.run(&["rm", drop_in]).ok();
    machine.systemctl(&["daemon-reload"]).ok();
    machine.restart(DAEMON);
    let journal = machine.journal(DAEMON);
    assert!(journal.contains("a kept socket is of no use"), "{journal}");
    assert!(!journal.contains("the table stayed ours"), "{journal}");
    assert_eq!(machine.property(DAEMON, "NFileDescriptorStore"), "1");
    machine.restart(DAEMON);
    assert!(machine.journal(DAEMON).contains("the table stayed ours"), "{}", machine.journal(DAEMON));
}

/// What a daemon that ran as root has left is the daemon's: database, keys, sockets that nobody answers.
#[test]
fn a_daemon_with_a_user_of_its_own_goes_on_where_one_of_root_ended() {
    let root = "[Service]\nUser=root\nGroup=root\nAmbientCapabilities=\n\
                CapabilityBoundingSet=CAP_NET_ADMIN CAP_CHOWN\nSystemCallFilter=@chown capset\n";
    let drop_in = "/etc/systemd/system/picosegd.service.d/root.conf";
    let other = unit("ask else", "");
    let files = [(drop_in, root), ("/etc/systemd/system/else.service", &*other)];
    let Some(machine) = machine(System { suite: "bookworm", variant: "base" }, &files) else { return };
    let owners = |path: &str| machine.run(&["find", path, "-mindepth", "1", "-printf", "%U "]).ok().stdout;
    machine.picoseg(&["suspend", "pay", "--reason", "a test"]).ok();
    assert!(owners("/var/lib/picoseg").contains("0 "), "{}", owners("/var/lib/picoseg"));
    // A crash: its sockets stay.
    machine.put("/etc/systemd/system/picosegd.service.d/test.conf", "[Service]\nRestartSec=1h\n");
    machine.run(&["rm", drop_in]).ok();
    machine.systemctl(&["daemon-reload"]).ok();
    machine.systemctl(&["kill", "--signal=KILL", DAEMON]).ok();
    until("it waits", MOMENT, || machine.property(DAEMON, "SubState") == "auto-restart");
    assert!(owners("/run/picoseg").contains("0 "), "{}", owners("/run/picoseg"));
    machine.restart(DAEMON);
    let status = machine.status();
    assert_eq!(status["services"]["suspended"], 1, "{status:#}");
    assert_eq!(status["store"]["ok"], true, "{status:#}");
    for path in ["/var/lib/picoseg", "/run/picoseg"] {
        assert!(!owners(path).split(' ').any(|uid| uid == "0"), "{path}: {}", owners(path));
    }
    machine.run(&["picoseg", "audit", "verify"]).ok();
    // Whom the sockets are for, to whom it is root, the daemon's user or one of the groups.
    let as_user = |groups: &str, arguments: &[&str]| {
        let user = ["setpriv", "--reuid=65534", "--regid=65534", groups, "picoseg"];
        machine.run(&[&user, arguments].concat()).code
    };
    let groups = machine.run(&["getent", "group", "picoseg", "picoseg-admin"]).ok().stdout;
    let gids: Vec<_> = groups.lines().filter_map(|line| line.split(':').nth(2)).collect();
    let [look, order] = [0, 1].map(|group| format!("--groups={}", gids[group]));
    let resume = ["resume", "pay", "--reason", "a test"];
    assert_eq!((as_user("--clear-groups", &["status"]), as_user("--clear-groups", &resume)), (5, 5));
    assert_eq!((as_user(&look, &["status"]), as_user(&look, &resume)), (0, 5));
    assert_eq!((as_user(&order, &["status"]), as_user(&order, &resume)), (0, 0));
    let journal = machine.journal(DAEMON);
    assert!(!journal.contains("WARN") && !journal.contains("ERROR"), "{journal}");
}
