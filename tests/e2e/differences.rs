//! What differs between the supported kernels: found at the start, and told in users' words where a promise is weaker.
//! `docs/kernels.md` has the list.

use std::process::Command;

use crate::agent::{Close, Manner};
use crate::lab::schedule::{Lifetime, egress, ingress, schedule};
use crate::lab::{Lab, at, clock};

/// Major and minor number of the running kernel.
fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a Linux");
    let mut numbers = release.split(['.', '-']).map(str::parse);
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or_else(|| panic!("{release:?}"));
    (next(), next())
}

/// Since 6.9 a table can be owned and outlive its owner.
fn protects() -> bool {
    kernel() >= (6, 9)
}

fn weaker(lab: &Lab) -> Vec<String> {
    let status = lab.status();
    let sentences = status["weaker"].as_array().unwrap_or_else(|| panic!("{status}")).iter();
    sentences.map(|sentence| sentence.as_str().expect("a sentence").to_owned()).collect()
}

#[test]
fn the_status_names_what_is_weaker_on_this_kernel_and_nothing_else() {
    let Some(lab) = Lab::new() else { return };
    lab.canary();
    let _daemon = lab.daemon();
    let weaker = weaker(&lab);
    let shown = lab.picoseg(&["status"]).ok().stdout;
    assert!(weaker.iter().all(|sentence| shown.contains(sentence)), "{shown}");
    let expected: &[&str] = match protects() {
        true => &[],
        false => &["other programs can change or flush our table", "refuses packets for a moment when"],
    };
    for part in expected {
        assert!(weaker.iter().any(|sentence| sentence.contains(part)), "{part:?} is not in {weaker:#?}");
    }
    assert_eq!(weaker.len(), expected.len(), "on Linux {:?}: {weaker:#?}", kernel());
}

#[test]
fn another_program_can_change_the_table_only_where_the_status_says_so() {
    let Some(lab) = Lab::new() else { return };
    lab.canary();
    let _daemon = lab.daemon();
    let mut add = Command::new("nft");
    add.args(["add", "chain", "inet", "picoseg", "stranger"]);
    let added = lab.on_host(add).code == 0;
    assert_eq!(added, !protects(), "on Linux {:?}", kernel());
    let said = weaker(&lab).iter().any(|sentence| sentence.contains("other programs can change"));
    assert_eq!(said, added);
}

/// Without `persist` nobody owns the table that refuses, only an empty one beside it, which may go.
#[test]
fn the_table_stays_in_force_when_the_daemon_is_killed() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let (open, shut) = (at(lab.provider4(0), 443), at(lab.provider4(1), 443));
    lab.write("open", &schedule(Lifetime::open(), &[egress(&payments, open.ip(), "443/tcp")]));
    lab.write("shut", &schedule(Lifetime::over(), &[egress(&payments, shut.ip(), "443/tcp")]));
    let daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let _echoes = [open, shut].map(|remote| theirs.echo(remote));
    daemon.kill9();
    assert!(ours.talks_to(open));
    assert!(ours.connect(shut).is_err(), "a killed daemon opens nothing");
    let _daemon = lab.daemon();
    assert!(ours.talks_to(open) && ours.connect(shut).is_err(), "it is taken over");
}

/// A change of an open window, of an address and of a prefix beside busy flows: on any kernel the flows go on.
#[test]
fn a_change_beside_a_flow_accuses_nobody() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let (by_address, by_prefix) = (lab.provider4(0), lab.provider4(4));
    let policies = |end| {
        let prefix = egress(&payments, format!("{by_prefix}/31"), "443-445/tcp");
        schedule(Lifetime::until(end), &[egress(&payments, by_address, "443/tcp"), prefix])
    };
    lab.write("stripe", &policies(clock::in_ms(3_600_000)));
    lab.canary();
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let flows = [by_address, by_prefix].map(|remote| {
        let listener = theirs.listen(at(remote, 443), Manner::Keep);
        let client = ours.connect(listener.local()).expect("admitted");
        let server = listener.accept().expect("admitted");
        for end in [&client, &server] {
            end.drain();
            end.pump(std::time::Duration::from_millis(1));
        }
        (client, server)
    });
    for round in 1..6 {
        lab.write("stripe", &policies(clock::in_ms(3_600_000 + round * 60_000)));
        let other = egress(&payments, format!("{}/31", lab.provider4(8)), "443-445/tcp");
        lab.write("other", &schedule(Lifetime::until(clock::in_ms(3_600_000 - round * 60_000)), &[other]));
        lab.picoseg(&["apply"]).ok();
        for (client, server) in &flows {
            client.moves_on();
            server.moves_on();
        }
    }
    lab.expect_no_attempts(&theirs);
}

/// Real servers close later than the delayed acknowledgement: then the last acknowledgement is sent by a socket in
/// TIME-WAIT, which Linux 6.1 and 6.12 send through a socket of the kernel that has no cgroup.
#[test]
fn late_peers_leave_no_attempts_whoever_closes_first() {
    let Some(lab) = Lab::new() else { return };
    let (payments, webhook) = (lab.unit("payments"), lab.unit("webhook"));
    let providers = (0..6).map(|number| lab.provider6(number)).chain([lab.provider4(0)]);
    let policies: Vec<_> = providers
        .flat_map(|remote| {
            [egress(&payments, remote, "443-450/tcp"), ingress(&webhook, remote, "8443-8450/tcp")]
        })
        .collect();
    lab.write("stripe", &schedule(Lifetime::open(), &policies));
    lab.canary();
    let _daemon = lab.daemon();
    let (client, server, theirs) = (lab.process(&payments), lab.process(&webhook), lab.provider());
    let late = std::time::Duration::from_millis(120);
    for (number, close) in (0..).zip([Close::Client, Close::Server]) {
        for (host, remote) in [(lab.host4(), lab.provider4(0)), (lab.host6(), lab.provider6(0))] {
            let outward = theirs.listen(at(remote, 443 + number), Manner::Exchange { close, late });
            let inward = server.listen(at(host, 8443 + number), Manner::Exchange { close, late });
            for tally in [
                client.exchange(outward.local(), close, late, 100),
                theirs.exchange(inward.local(), close, late, 100),
            ] {
                assert_eq!(tally.done, 100, "{close:?}, {remote}: {tally:?}");
            }
        }
    }
    lab.expect_no_attempts(&theirs);
}
