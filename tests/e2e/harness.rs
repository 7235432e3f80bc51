//! The laboratory itself, without `picosegd`: a test that trusts a broken instrument proves nothing.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::agent::{Close, Ending, Heard, Kind, Manner, Packets};
use crate::lab::clock::{in_ms, now, reach};
use crate::lab::{Lab, MOMENT, at};

#[test]
fn two_agents_talk_across_the_wire_over_both_families() {
    let Some(lab) = Lab::new() else { return };
    let (local, remote) = (lab.process(&lab.unit("payments")), lab.provider());
    for (ours, theirs) in [(lab.host4(), lab.provider4(3)), (lab.host6(), lab.provider6(3))] {
        remote.echo(at(theirs, 443));
        assert!(local.talks_to(at(theirs, 443)), "to {theirs}");
        local.echo(at(ours, 8443));
        assert!(remote.talks_to(at(ours, 8443)), "to {ours}");
        assert!(local.pings(theirs), "ping {theirs}");
    }
}

#[test]
fn a_connection_that_nobody_serves_is_refused_not_lost() {
    let Some(lab) = Lab::new() else { return };
    let local = lab.process(&lab.unit("payments"));
    let failure = local.connect(at(lab.provider4(0), 443)).err().expect("nobody listens");
    assert_eq!(failure.errno, libc::ECONNREFUSED, "{failure:?}");
}

#[test]
fn both_ends_learn_how_a_connection_ended() {
    let Some(lab) = Lab::new() else { return };
    let (local, remote) = (lab.process(&lab.unit("payments")), lab.provider());
    let listener = remote.listen(at(lab.provider4(0), 443), Manner::Keep);

    let ours = local.connect(listener.local()).expect("connects");
    let theirs = listener.accept().expect("accepts");
    ours.close();
    assert_eq!(theirs.ends_within(MOMENT).how, Ending::Closed);

    let ours = local.connect(listener.local()).expect("connects");
    let theirs = listener.accept().expect("accepts");
    assert!(ours.alive() && theirs.alive());
    theirs.reset();
    assert!(matches!(ours.ends_within(MOMENT).how, Ending::Broken(f) if f.errno == libc::ECONNRESET));
}

#[test]
fn stamped_records_tell_when_the_last_one_was_sent() {
    let Some(lab) = Lab::new() else { return };
    let (local, remote) = (lab.process(&lab.unit("payments")), lab.provider());
    let listener = remote.listen(at(lab.provider4(0), 443), Manner::Keep);
    let ours = local.connect(listener.local()).expect("connects");
    let theirs = listener.accept().expect("accepts");
    theirs.drain();
    let (before, stop) = (now(), in_ms(300));
    ours.pump(Duration::from_millis(1));
    reach(stop);
    local.kill9();
    let end = theirs.ends_within(MOMENT);
    let flow = theirs.flow();
    assert!(flow.received > 50, "{flow:?}");
    assert!(
        flow.last_stamp > before.timestamp_nanos_opt().expect("in range") && flow.last_stamp <= end.at,
        "{flow:?}"
    );
}

#[test]
fn short_connections_end_in_every_order() {
    let Some(lab) = Lab::new() else { return };
    let (local, remote) = (lab.process(&lab.unit("payments")), lab.provider());
    let orders = [Close::Client, Close::Server, Close::ClientResets, Close::ServerResets];
    for (port, close) in (443..).zip(orders) {
        let late = Duration::from_millis(20);
        let listener = remote.listen(at(lab.provider4(0), port), Manner::Exchange { close, late });
        let tally = local.exchange(listener.local(), close, late, 60);
        assert_eq!((tally.done, tally.failed.len()), (60, 0), "{close:?}: {tally:?}");
    }
}

#[test]
fn raw_packets_arrive_one_by_one() {
    let Some(lab) = Lab::new() else { return };
    let (local, remote) = (lab.process(&lab.unit("payments")), lab.provider());
    for (ours, theirs) in [(lab.host4(), lab.provider4(3)), (lab.host6(), lab.provider6(3))] {
        let sink = local.udp(at(ours, 9000));
        remote.raw(Packets { kind: Kind::Udp, from: at(theirs, 443), to: sink.local(), count: 50 });
        for number in 0..50 {
            let Heard::Text { from, .. } = sink.hear() else { panic!("{number} of 50 arrived") };
            assert_eq!(from, Some(at(theirs, 443 + number)));
        }
        let listener = local.listen(at(ours, 8443), Manner::Keep);
        remote.raw(Packets { kind: Kind::Syn, from: at(theirs, 443), to: listener.local(), count: 1 });
        assert!(listener.stays_alone(), "a SYN alone is no connection");
    }
}

#[test]
fn a_unit_that_is_restarted_gets_a_new_cgroup_of_the_same_name() {
    use std::os::unix::fs::MetadataExt as _;
    let Some(lab) = Lab::new() else { return };
    let unit = lab.unit("payments");
    let inode = |dir: &Path| std::fs::metadata(dir).expect("it exists").ino();
    let before = inode(unit.dir());
    drop(lab.process(&unit));
    unit.remove();
    unit.create();
    assert_ne!(inode(unit.dir()), before);
    assert_eq!(Path::new(&lab.process(&unit).who().cgroup), unit.path());
}

#[test]
fn a_lab_leaves_nothing_behind() {
    let Some(lab) = Lab::new() else { return };
    let (dir, unit) = (lab.dir().to_owned(), lab.unit("payments"));
    let agent = lab.process(&unit);
    let id = lab.id().to_owned();
    let process = format!("/proc/{}", agent.who().pid);
    drop(agent);
    drop(lab);
    for path in [dir.as_path(), unit.dir(), Path::new(&process)] {
        assert!(!path.exists(), "{} is still there", path.display());
    }
    let names = Command::new("ip").args(["netns", "list"]).output().expect("ip runs").stdout;
    assert!(!String::from_utf8_lossy(&names).contains(&id), "a namespace of ours is left");
}
