//! Queues of the kernel that run over because the daemon gets no processor: noticed, said, made up for.

use std::fs;
use std::process::Command;
use std::time::Duration;

use super::Frozen;
use crate::agent::{Kind, Packets};
use crate::lab::clock::{self, until};
use crate::lab::schedule::{Lifetime, egress, schedule};
use crate::lab::{Daemon, Lab, at, put};

/// Datagrams that the kernel dropped at the netlink sockets of the host's namespace: the column `Drops`.
fn dropped(daemon: &Daemon) -> u64 {
    let table = fs::read_to_string(format!("/proc/{}/net/netlink", daemon.pid())).expect("it runs");
    let drops = |line: &str| line.split_whitespace().nth(8).and_then(|column| column.parse::<u64>().ok());
    table.lines().filter_map(drops).sum()
}

#[test]
fn records_that_overrun_a_frozen_daemon_are_said_and_no_packet_is_lost_to_the_count() {
    const COUNT: u32 = 120_000;
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    lab.settings("[attempts]\nlog_rate = \"1000000/second\"");
    lab.write("stripe", &schedule(Lifetime::over(), &[egress(&payments, lab.provider4(0), "443/tcp")]));
    let daemon = lab.daemon();
    let theirs = lab.provider();
    let frozen = Frozen::new(&daemon);
    let (from, to) = (at(lab.provider4(0), 40_000), at(lab.host4(), 9000));
    let flood = theirs.raw_pump(Packets { kind: Kind::Udp, from, to, count: COUNT }, Duration::ZERO);
    until("the flood ends", Duration::from_secs(60), || flood.flow().sent == u64::from(COUNT));
    until("the socket runs over", Duration::from_secs(5), || dropped(&daemon) > 0);
    drop(frozen);
    let counted = || lab.attempts_with(&[("service", "stripe"), ("reason", "expired")]);
    let all = clock::within(Duration::from_secs(20), || (counted() >= u64::from(COUNT)).then_some(()));
    assert!(all.is_some() && counted() == u64::from(COUNT), "{} of {COUNT}", counted());
    until("the lost details are told", Duration::from_secs(5), || {
        // The numbers of the next records tell how many are missing.
        theirs.raw(Packets { kind: Kind::Udp, from, to, count: 1 });
        lab.status()["lost_details"].as_u64() > Some(0)
    });
    lab.picoseg(&["decommission", "stripe", "--reason", "test"]);
    assert_eq!(lab.status()["store"]["ok"], true);
}

#[test]
fn a_unit_that_is_made_anew_behind_an_overrun_queue_is_found_again() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, lab.provider4(0), "443/tcp")]));
    let daemon = lab.daemon();
    let theirs = lab.provider();
    theirs.echo(at(lab.provider4(0), 443));
    let most: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .expect("linux");
    let frozen = Frozen::new(&daemon);
    let beside = payments.dir().parent().expect("a slice");
    // Each is two events or more; afterwards there is no room for what matters.
    for number in 0..most {
        let dir = beside.join(format!("noise{}.service", number % 2));
        fs::create_dir(&dir).and_then(|()| fs::remove_dir(&dir)).expect("a cgroup of ours");
    }
    payments.remove();
    payments.create();
    let impostor = lab.unit("other");
    drop(frozen);
    let (ours, other) = (lab.process(&payments), lab.process(&impostor));
    until("the new cgroup is admitted", Duration::from_secs(15), || ours.talks_to(at(lab.provider4(0), 443)));
    assert!(other.connect(at(lab.provider4(0), 443)).is_err(), "another unit");
}

#[test]
fn an_edit_of_the_table_behind_an_overrun_queue_is_undone_all_the_same() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    lab.settings("[enforcement]\nprotect = false");
    lab.write("stripe", &schedule(Lifetime::over(), &[egress(&payments, lab.provider4(0), "443/tcp")]));
    let daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let listener = ours.echo(at(lab.host4(), 9000));
    let comes_in = || theirs.connect_from(at(lab.provider4(0), 0), listener.local()).is_ok();
    assert!(!comes_in(), "it is over");
    let nft = |text: &str| {
        let file = lab.dir().join("edit.nft");
        put(&file, text);
        let mut command = Command::new("nft");
        command.arg("-f").arg(&file);
        lab.on_host(command).ok();
    };
    let frozen = Frozen::new(&daemon);
    let elements: Vec<_> =
        (0..60_000).map(|number| format!("10.{}.{}.1", number / 250, number % 250)).collect();
    let before = dropped(&daemon);
    for round in 0..40 {
        let elements = elements.join(", ");
        nft(&format!(
            "table inet noise{round} {{ set s {{ type ipv4_addr; elements = {{ {elements} }}; }}; }}"
        ));
        nft(&format!("delete table inet noise{round}"));
        if dropped(&daemon) > before {
            break;
        }
    }
    assert!(dropped(&daemon) > before, "the socket has room for all of it");
    nft("flush chain inet picoseg input\nflush chain inet picoseg output");
    assert!(comes_in(), "the edit does what it should");
    drop(frozen);
    until("the table is as it should be", Duration::from_secs(15), || !comes_in());
    until("status tells of it", Duration::from_secs(5), || lab.status()["drift"]["count"].as_u64() > Some(0));
}
