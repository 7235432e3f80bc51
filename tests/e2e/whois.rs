//! Who it was: the unit, and where it can be known the process, of what is refused or observed.

use std::net::IpAddr;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::agent::{Agent, Kind, Manner, Packets};
use crate::lab::schedule::{Lifetime, egress, schedule};
use crate::lab::{Lab, MOMENT, Unit, at, clock};

/// Enough for a test to have every packet in detail.
const ALL: &str = "[attempts]\nlog_rate = \"5000/second\"\n";

fn named(unit: &Unit) -> String {
    format!("unit:{}", unit.name())
}

/// Starts connects that are gone before anybody could look: a shell for each.
fn connects(lab: &Lab, unit: &Unit, remote: IpAddr, count: u32) -> Child {
    let script = format!(
        "for i in $(seq {count}); do bash -c 'exec 3<>/dev/tcp/{remote}/443' 2>/dev/null; done; true"
    );
    let mut shell = Command::new("bash");
    let enter = "echo $$ > \"$0/cgroup.procs\"; exec bash -c \"$1\"";
    shell.args(["-c", enter]).arg(unit.dir()).arg(script);
    lab.spawn_on_host(shell)
}

fn short_lived(lab: &Lab, unit: &Unit, remote: IpAddr, count: u32) {
    assert!(connects(lab, unit, remote, count).wait().unwrap().success());
}

/// The rows of an outbound attempt on a port.
fn rows(lab: &Lab, port: u16) -> Vec<Value> {
    let mut rows = lab.attempts();
    rows.retain(|row| row["direction"] == "egress" && row["remote_port"] == port);
    rows
}

#[test]
fn every_one_of_many_units_that_try_the_same_provider_at_once_is_named() {
    let Some(lab) = Lab::new() else { return };
    lab.settings(ALL);
    let payments = lab.unit("payments");
    let remotes = [lab.provider4(0), lab.provider6(0)];
    lab.write("stripe", &schedule(Lifetime::over(), &remotes.map(|to| egress(&payments, to, "443/tcp"))));
    let units: Vec<Unit> = (1..=6).map(|number| lab.unit(&format!("job{number}"))).collect();
    let _daemon = lab.daemon();
    let running: Vec<Child> = (3..)
        .zip(&units)
        .flat_map(|(count, unit)| remotes.map(|remote| connects(&lab, unit, remote, count)))
        .collect();
    assert!(running.into_iter().all(|mut child| child.wait().unwrap().success()));
    for (count, unit) in (3..).zip(&units) {
        for remote in remotes {
            let of = [("subject", &*named(unit)), ("remote", &*remote.to_string())];
            lab.expect_attempts(count, &of);
        }
    }
    let total: u64 = (3..).zip(&units).map(|(count, _)| 2 * count).sum();
    assert_eq!(lab.attempts_with(&[("service", "stripe")]), total);
    // Processes that are gone are nobody else's either.
    assert!(rows(&lab, 443).iter().all(|row| row["pid"].is_null() && row["exe"].is_null()));
}

#[test]
fn a_process_that_is_alone_in_its_unit_is_named_also_when_its_socket_is_gone() {
    let Some(lab) = Lab::new() else { return };
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    let remotes = [lab.provider4(0), lab.provider6(0)];
    lab.write("stripe", &schedule(Lifetime::open(), &remotes.map(|to| egress(&payments, to, "443/tcp"))));
    let _daemon = lab.daemon();
    let process = lab.process_of(&other, 4711);
    for remote in remotes {
        assert!(process.connect(at(remote, 443)).is_err());
        process.udp_each(at(remote, 444), 3);
    }
    let (pid, subject) = (process.who().pid.to_string(), named(&other));
    let who = [("subject", &*subject), ("uid", "4711"), ("pid", &*pid)];
    lab.expect_attempts(2, &[&who[..], &[("protocol", "tcp")]].concat());
    lab.expect_attempts(6, &[&who[..], &[("protocol", "udp")]].concat());
    let exe = std::env::current_exe().unwrap();
    assert!(rows(&lab, 443).iter().all(|row| row["exe"] == exe.to_str().unwrap()), "{:?}", rows(&lab, 443));
}

#[test]
fn of_two_processes_of_a_unit_the_one_that_has_the_socket_is_named() {
    let Some(lab) = Lab::new() else { return };
    lab.settings("[enforcement]\nmode = \"observe\"\n");
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    let remote = lab.provider4(0);
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, remote, "443/tcp")]));
    let _daemon = lab.daemon();
    let (one, two, theirs) = (lab.process(&other), lab.process(&other), lab.provider());
    theirs.echo(at(remote, 444));
    theirs.echo(at(remote, 445));
    let _open = [one.connect(at(remote, 444)).unwrap(), two.connect(at(remote, 445)).unwrap()];
    for (process, port) in [(&one, "444"), (&two, "445")] {
        let (pid, subject) = (process.who().pid.to_string(), named(&other));
        lab.expect_attempts(
            1,
            &[("verdict", "observed"), ("remote_port", port), ("pid", &pid), ("subject", &subject)],
        );
    }
}

#[test]
fn what_is_only_observed_is_named_though_it_ends_at_once() {
    let Some(lab) = Lab::new() else { return };
    lab.settings(&format!("[enforcement]\nmode = \"observe\"\n{ALL}"));
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    let remote = lab.provider4(0);
    lab.write("stripe", &schedule(Lifetime::over(), &[egress(&payments, remote, "443/tcp")]));
    let _daemon = lab.daemon();
    let theirs = lab.provider();
    theirs.echo(at(remote, 443));
    short_lived(&lab, &other, remote, 8);
    lab.expect_attempts(8, &[("verdict", "observed"), ("subject", &named(&other))]);
}

#[test]
fn a_child_that_ended_is_not_taken_for_its_parent() {
    let Some(lab) = Lab::new() else { return };
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    let remote = lab.provider4(0);
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, remote, "443/tcp")]));
    let _daemon = lab.daemon();
    let mut shell = Command::new("sh");
    let script = format!("bash -c 'exec 3<>/dev/tcp/{remote}/443' 2>/dev/null; bash -c 'sleep 0'; read line");
    shell.args(["-c", "echo $$ > \"$0/cgroup.procs\"; exec sh -c \"$1\""]).arg(other.dir()).arg(script);
    shell.stdin(Stdio::piped());
    let mut parent = lab.spawn_on_host(shell);
    lab.expect_attempts(1, &[("subject", &named(&other))]);
    let found = rows(&lab, 443);
    parent.kill().unwrap();
    parent.wait().unwrap();
    assert!(found.iter().all(|row| row["pid"].is_null()), "{found:?}");
}

#[test]
fn a_unit_that_is_gone_when_its_attempt_is_read_was_seen_before() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remote = lab.provider4(0);
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, remote, "443/tcp")]));
    let brief = lab.unit("brief");
    let _daemon = lab.daemon();
    // Something refused makes the daemon look which cgroups there are.
    short_lived(&lab, &payments, remote, 1);
    clock::until("it looked", MOMENT, || {
        short_lived(&lab, &brief, remote, 1);
        lab.attempts_with(&[("subject", &named(&brief))]) > 0
    });
    let before = lab.attempts_with(&[("subject", &named(&brief))]);
    short_lived(&lab, &brief, remote, 3);
    brief.remove();
    clock::until("all three are named", MOMENT, || {
        lab.attempts_with(&[("subject", &named(&brief))]) >= before + 3
    });
}

fn knock(lab: &Lab, provider: &Agent, kind: Kind, port: u16, count: u32) {
    provider.raw(Packets { kind, from: at(lab.provider4(0), 40_000), to: at(lab.host4(), port), count });
}

#[test]
fn an_inbound_attempt_names_the_unit_that_listens_there() {
    let Some(lab) = Lab::new() else { return };
    let (payments, web, dns) = (lab.unit("payments"), lab.unit("web"), lab.unit("dns"));
    lab.write("stripe", &schedule(Lifetime::over(), &[egress(&payments, lab.provider4(0), "443/tcp")]));
    let (server, resolver) = (lab.process(&web), lab.process(&dns));
    let listener = server.listen(at("::".parse().unwrap(), 8443), Manner::Echo);
    let socket = resolver.udp(at(lab.host4(), 5300));
    let _daemon = lab.daemon();
    let theirs = lab.provider();
    knock(&lab, &theirs, Kind::Syn, 8443, 7);
    knock(&lab, &theirs, Kind::Udp, 5300, 5);
    knock(&lab, &theirs, Kind::Syn, 8444, 3);
    let inbound = |subject: &str, port: u16, count| {
        lab.expect_attempts(
            count,
            &[("direction", "ingress"), ("subject", subject), ("local_port", &port.to_string())],
        );
    };
    inbound(&named(&web), 8443, 7);
    inbound(&named(&dns), 5300, 5);
    inbound("null", 8444, 3);
    assert!(lab.attempts().iter().all(|row| row["uid"].is_null() && row["pid"].is_null()));
    assert!(listener.local().port() == 8443 && socket.local().port() == 5300);
}
