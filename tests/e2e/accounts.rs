//! Users and groups as subjects, by who owned a socket's file when it was made.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::Command;
use std::time::Duration;

use crate::agent::{Agent, Close, Manner, Socket};
use crate::lab::clock::{in_ms, reach, soon};
use crate::lab::schedule::{Lifetime, policy, schedule, window};
use crate::lab::{Lab, MOMENT, TOLD_WITHIN, at, clock, have, put};

/// Of nobody on any machine.
const USER: u32 = 640_711;
const OTHER: u32 = 640_712;
const GROUP: u32 = 640_713;

fn both(lab: &Lab) -> [IpAddr; 2] {
    [lab.provider4(0), lab.provider6(0)]
}

/// Policies for both addresses of the provider.
fn policies(lab: &Lab, subject: &str, ports: &str) -> Vec<String> {
    both(lab).map(|remote| policy("egress", subject, &remote.to_string(), ports)).into()
}

fn user(uid: impl std::fmt::Display) -> String {
    format!("user = \"{uid}\"")
}

fn group(gid: u32) -> String {
    format!("group = \"{gid}\"")
}

/// Serves everything that [`admitted`] asks for.
fn serve(lab: &Lab, theirs: &Agent) {
    lab.sysctl(true, "ipv4/ping_group_range", "0 2147483647");
    for remote in both(lab) {
        theirs.echo(at(remote, 443));
        theirs.udp(at(remote, 53)).udp_echo();
    }
}

fn admitted(lab: &Lab, ours: &Agent) {
    for (local, remote) in [lab.host4(), lab.host6()].into_iter().zip(both(lab)) {
        assert!(ours.talks_to(at(remote, 443)), "{remote}");
        let socket = ours.udp_to(at(local, 0), at(remote, 53));
        for _ in 0..3 {
            assert!(socket.echoes(), "{remote}");
        }
        assert!(ours.pings(remote), "{remote}");
    }
}

/// Six packets are refused.
fn refused(lab: &Lab, ours: &Agent) {
    for remote in both(lab) {
        assert!(ours.connect(at(remote, 443)).is_err(), "{remote}");
        ours.udp_each(at(remote, 53), 1);
        assert!(!ours.pings(remote), "{remote}");
    }
}

fn refusals(lab: &Lab, theirs: &Agent) -> u64 {
    lab.all_on_record(theirs);
    lab.attempts_with(&[("service", "vault"), ("direction", "egress"), ("reason", "undeclared")])
}

fn everything(lab: &Lab, subject: &str) {
    let tables = ["443/tcp", "53/udp", "icmp"].map(|ports| policies(lab, subject, ports).concat());
    lab.write("vault", &schedule(Lifetime::open(), &tables));
    lab.canary();
}

#[test]
fn a_user_is_admitted_in_whatever_cgroup_and_everybody_else_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let (here, there) = (lab.unit("here"), lab.unit("there"));
    everything(&lab, &user(USER));
    let _daemon = lab.daemon();
    let theirs = lab.provider();
    serve(&lab, &theirs);
    for unit in [&here, &there] {
        admitted(&lab, &lab.process_of(unit, USER));
    }
    lab.expect_no_attempts(&theirs);
    // Root too is somebody else, and so is another user in the very same cgroup.
    for (count, uid) in (1..).zip([OTHER, 0]) {
        refused(&lab, &lab.process_of(&here, uid));
        assert_eq!(refusals(&lab, &theirs), 6 * count, "{uid}: {:#?}", lab.attempts());
    }
}

#[test]
fn a_group_is_admitted_by_the_first_group_of_its_processes() {
    let Some(lab) = Lab::new() else { return };
    let here = lab.unit("here");
    everything(&lab, &group(GROUP));
    let _daemon = lab.daemon();
    let theirs = lab.provider();
    serve(&lab, &theirs);
    for uid in [USER, OTHER] {
        admitted(&lab, &lab.process_as(&here, uid, GROUP));
    }
    lab.expect_no_attempts(&theirs);
    // A user of the same number is no such group.
    refused(&lab, &lab.process_as(&here, GROUP, OTHER));
    assert_eq!(refusals(&lab, &theirs), 6, "{:#?}", lab.attempts());
}

#[test]
fn a_program_that_becomes_the_user_is_the_user() {
    if !have("curl") || !have("setpriv") {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let here = lab.unit("here");
    lab.write("vault", &schedule(Lifetime::open(), &policies(&lab, &user(USER), "443/tcp")));
    lab.canary();
    let _daemon = lab.daemon();
    let theirs = lab.provider();
    let program = lab.dir().join("becomes-the-user");
    fs::copy("/usr/bin/curl", &program).expect("curl is installed");
    fs::set_permissions(lab.dir(), fs::Permissions::from_mode(0o755)).expect("a directory of ours");
    let listener = theirs.listen(at(lab.provider4(0), 443), Manner::Keep);
    let url = format!("http://{}/", listener.local());
    let run = |mode| {
        chown(&program, Some(USER), None).expect("root");
        fs::set_permissions(&program, fs::Permissions::from_mode(mode)).expect("a file of ours");
        let other = OTHER.to_string();
        let as_other = ["setpriv", "--reuid", &other, "--regid", &other, "--clear-groups"];
        let program = program.to_str().expect("a path of ours");
        lab.in_unit(&here, &[&as_other[..], &[program, "--silent", "--max-time", "1", &url]].concat());
        listener.stays_alone()
    };
    assert!(run(0o755), "another user runs it");
    assert!(!run(0o4755), "it becomes its owner");
}

#[test]
fn connections_end_in_every_order_without_an_attempt_and_leave_no_flow_behind() {
    let Some(lab) = Lab::new() else { return };
    let here = lab.unit("here");
    let tables = [policies(&lab, &user(USER), "443-500/tcp"), policies(&lab, &group(GROUP), "543-600/tcp")];
    lab.write("vault", &schedule(Lifetime::open(), &tables.concat()));
    lab.canary();
    let _daemon = lab.daemon();
    let theirs = lab.provider();
    let late = Duration::from_millis(100);
    let kinds = [
        (Close::Client, Duration::ZERO),
        (Close::Server, Duration::ZERO),
        (Close::Client, late),
        (Close::Server, late),
        (Close::ClientResets, Duration::ZERO),
        (Close::ServerResets, Duration::ZERO),
    ];
    for (first, ours) in [(443, lab.process_as(&here, USER, 0)), (543, lab.process_as(&here, OTHER, GROUP))] {
        for remote in both(&lab) {
            for (port, (close, late)) in (first..).zip(kinds) {
                let listener = theirs.listen(at(remote, port), Manner::Exchange { close, late });
                let tally = ours.exchange(listener.local(), close, late, 300);
                assert_eq!(tally.done, 300, "{close:?} {late:?}: {tally:?}");
            }
        }
    }
    lab.expect_no_attempts(&theirs);
    for set in ["user-flows4", "user-flows6", "group-flows4", "group-flows6"] {
        let mut list = Command::new("nft");
        list.args(["list", "set", "inet", "picoseg", set]);
        let listed = lab.on_host(list).ok().stdout;
        assert!(!listed.contains("expires 4d"), "{listed}");
    }
}

#[test]
fn a_killed_process_and_a_half_closed_connection_are_no_attempt() {
    let Some(lab) = Lab::new() else { return };
    let here = lab.unit("here");
    lab.write("vault", &schedule(Lifetime::open(), &policies(&lab, &user(USER), "443/tcp")));
    lab.canary();
    let _daemon = lab.daemon();
    let theirs = lab.provider();
    for remote in both(&lab) {
        let listener = theirs.listen(at(remote, 443), Manner::Keep);
        let ours = lab.process_of(&here, USER);
        let mut servers = Vec::new();
        for (ours_pumps, theirs_pump) in [(true, false), (false, true), (true, true), (false, false)] {
            let client = ours.connect(listener.local()).expect("admitted");
            let server = listener.accept().expect("admitted");
            server.drain();
            client.drain();
            if ours_pumps {
                client.pump(Duration::ZERO);
                server.moves_on();
            }
            if theirs_pump {
                server.pump(Duration::ZERO);
                client.moves_on();
            }
            servers.push(server);
        }
        // One that nobody reads: what is queued is sent by nobody's socket.
        let client = ours.connect(listener.local()).expect("admitted");
        let server = listener.accept().expect("admitted");
        client.pump(Duration::ZERO);
        let mut sent = 0;
        clock::until("the window is full", Duration::from_secs(20), || {
            let before = std::mem::replace(&mut sent, client.flow().sent);
            sent > 0 && before == sent
        });
        ours.kill9();
        for server in &servers {
            server.ends_within(MOMENT);
        }
        server.drain();
        server.ends_within(MOMENT);
    }
    lab.expect_no_attempts(&theirs);
}

#[test]
fn a_port_that_was_the_users_is_of_no_use_to_another() {
    let Some(lab) = Lab::new() else { return };
    let here = lab.unit("here");
    everything(&lab, &user(USER));
    let _daemon = lab.daemon();
    let theirs = lab.provider();
    let (ours, other) = (lab.process_of(&here, USER), lab.process_of(&here, OTHER));
    for (local, remote) in [lab.host4(), lab.host6()].into_iter().zip(both(&lab)) {
        let (from, listener) = (at(local, 50_000), theirs.listen(at(remote, 443), Manner::Keep));
        let client = ours.connect_from(from, listener.local()).expect("admitted");
        let server = listener.accept().expect("admitted");
        client.reset();
        server.ends_within(MOMENT);
        assert!(other.connect_from(from, listener.local()).is_err());
        assert!(listener.stays_alone());
        let names = theirs.udp(at(remote, 53));
        names.udp_echo();
        let socket = ours.udp_to(from, at(remote, 53));
        assert!(socket.echoes());
        socket.close();
        let socket = other.udp_to(from, at(remote, 53));
        assert!(!socket.echoes());
    }
    assert_eq!(refusals(&lab, &theirs), 4, "{:#?}", lab.attempts());
}

/// One to each of these, with both its ends.
fn connections<'a>(agent: &'a Agent, listeners: &[Socket<'a>]) -> Vec<(Socket<'a>, Socket<'a>)> {
    let connect = |listener: &Socket<'a>| {
        let client = agent.connect(listener.local()).expect("admitted");
        (client, listener.accept().expect("admitted"))
    };
    listeners.iter().map(connect).collect()
}

#[test]
fn a_window_ends_for_the_user_whose_it_is_without_a_daemon() {
    let Some(lab) = Lab::new() else { return };
    let here = lab.unit("here");
    let close = soon(7_000);
    let short = [vec![window(in_ms(-60_000), close)], policies(&lab, &user(USER), "443/tcp")].concat();
    lab.write("short", &schedule(Lifetime::open(), &short));
    // The same endpoint stays open for somebody else.
    lab.write("vault", &schedule(Lifetime::open(), &policies(&lab, &user(OTHER), "443/tcp")));
    lab.canary();
    let daemon = lab.daemon();
    let (theirs, ours, others) = (lab.provider(), lab.process_of(&here, USER), lab.process_of(&here, OTHER));
    let listeners = both(&lab).map(|remote| theirs.listen(at(remote, 443), Manner::Keep));
    let (ending, lasting) = (connections(&ours, &listeners), connections(&others, &listeners));
    for (client, server) in ending.iter().chain(&lasting) {
        server.drain();
        client.pump(Duration::from_millis(2));
        server.moves_on();
    }
    daemon.kill9();
    reach(close);
    let close = close.timestamp_nanos_opt().expect("in range");
    for (client, server) in &ending {
        client.ends_within(TOLD_WITHIN);
        let last = server.flow().last_stamp;
        assert!(last < close, "sent {} ns after the close", last - close);
    }
    for (client, server) in &lasting {
        server.moves_on();
        assert!(client.alive());
    }
}

#[test]
fn an_order_cuts_the_users_connections_and_nobody_elses() {
    let Some(lab) = Lab::new() else { return };
    let here = lab.unit("here");
    lab.write("short", &schedule(Lifetime::open(), &policies(&lab, &user(USER), "443/tcp")));
    lab.write("vault", &schedule(Lifetime::open(), &policies(&lab, &user(OTHER), "443/tcp")));
    lab.canary();
    let _daemon = lab.daemon();
    let (theirs, ours, others) = (lab.provider(), lab.process_of(&here, USER), lab.process_of(&here, OTHER));
    let listeners = both(&lab).map(|remote| theirs.listen(at(remote, 443), Manner::Keep));
    let (ending, lasting) = (connections(&ours, &listeners), connections(&others, &listeners));
    for (client, server) in &lasting {
        server.drain();
        client.pump(Duration::from_millis(2));
        server.moves_on();
    }
    lab.picoseg(&["suspend", "short", "--reason", "test"]).ok();
    // Neither end has said anything: both are told by the teardown.
    for (client, server) in &ending {
        client.ends_within(MOMENT);
        server.ends_within(MOMENT);
    }
    for (client, server) in &lasting {
        server.moves_on();
        assert!(client.alive());
    }
    lab.expect_no_attempts(&theirs);
}

#[test]
fn a_name_is_followed_when_its_account_is_made_renumbered_renamed_and_removed() {
    if !have("unshare") {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let here = lab.unit("here");
    let etc = lab.dir().join("other-etc");
    fs::create_dir(&etc).expect("a directory of ours");
    put(&etc.join("nsswitch.conf"), "passwd: files\ngroup: files\n");
    let write = |file: &str, text: &str| {
        put(&etc.join("new"), text);
        fs::rename(etc.join("new"), etc.join(file)).expect("files of ours");
    };
    let account = |name: &str, uid: u32| write("passwd", &format!("{name}:x:{uid}:0::/:/bin/sh\n"));
    account("somebody", 1);
    write("group", "staff:x:1:\n");
    let tables = [policies(&lab, &user("batch"), "443/tcp"), policies(&lab, "group = \"batch\"", "444/tcp")];
    lab.write("vault", &schedule(Lifetime::open(), &tables.concat()));
    lab.canary();
    let _daemon = lab.daemon_seeing(&etc);
    let theirs = lab.provider();
    let (first, second) = (lab.process_as(&here, USER, 0), lab.process_as(&here, OTHER, GROUP));
    let ports = [443, 444].map(|port| {
        for remote in both(&lab) {
            let _ = theirs.echo(at(remote, port));
        }
        port
    });
    let open = |agent: &Agent, port| both(&lab).map(|remote| agent.talks_to(at(remote, port)));
    // Nobody of that name: everybody is refused.
    for (agent, port) in [(&first, ports[0]), (&second, ports[0]), (&second, ports[1])] {
        assert_eq!(open(agent, port), [false; 2]);
    }
    let becomes = |agent: &Agent, port, wanted: bool| {
        clock::until("the name is followed", MOMENT, || open(agent, port) == [wanted; 2]);
    };
    account("batch", USER);
    becomes(&first, ports[0], true);
    assert_eq!(open(&second, ports[0]), [false; 2]);
    let old = first.connect(at(lab.provider4(0), ports[0])).expect("admitted");
    assert!(old.echoes());
    account("batch", OTHER);
    becomes(&second, ports[0], true);
    becomes(&first, ports[0], false);
    assert!(!old.echoes(), "what another number has opened is refused");
    write("group", &format!("batch:x:{GROUP}:\n"));
    becomes(&second, ports[1], true);
    account("renamed", OTHER);
    becomes(&second, ports[0], false);
    assert_eq!(open(&second, ports[1]), [true; 2], "its group has stayed");
    write("group", "");
    becomes(&second, ports[1], false);
}
