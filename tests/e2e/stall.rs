//! The disk stalls: the thread that writes to the store is held, as a commit that takes its time would hold it.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::agent::{Kind, Packets};
use crate::lab::schedule::{Lifetime, egress, schedule};
use crate::lab::{Daemon, Lab, at};

/// How long the daemon is asked meanwhile: longer than it takes until what was refused is written, and far from what the store
/// gives a transaction.
const MEANWHILE: Duration = Duration::from_secs(5);

/// Threads that do not run until this is dropped. By whoever made it: the kernel lets nobody else.
struct Held(Vec<Pid>);

impl Held {
    /// Holds every thread that works for the store.
    fn store_of(daemon: &Daemon) -> Self {
        let tasks = format!("/proc/{}/task", daemon.pid());
        let threads = fs::read_dir(tasks).expect("the daemon runs").filter_map(|task| {
            let task = task.ok()?;
            let name = fs::read_to_string(task.path().join("comm")).ok()?;
            let id = task.file_name().to_str()?.parse().ok()?;
            name.starts_with("sqlx-sqlite").then_some(Pid::from_raw(id))
        });
        let held = Self(threads.collect());
        assert!(!held.0.is_empty(), "nobody works for the store");
        for thread in &held.0 {
            ptrace::seize(*thread, Options::empty()).expect("a thread of ours");
            ptrace::interrupt(*thread).expect("a thread of ours");
            waitpid(*thread, Some(WaitPidFlag::__WALL)).expect("it stops");
        }
        held
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for thread in &self.0 {
            // One that was killed lives until its tracer knows.
            if ptrace::detach(*thread, None).is_err() {
                let _ = waitpid(*thread, Some(WaitPidFlag::__WALL));
            }
        }
    }
}

/// A provider whose service is over, and who sends so many packets.
fn over(lab: &Lab) -> std::net::IpAddr {
    let theirs = lab.provider4(1);
    lab.write("adyen", &schedule(Lifetime::over(), &[egress(&lab.unit("payments"), theirs, "443/tcp")]));
    lab.canary();
    theirs
}

fn knock(lab: &Lab, from: std::net::IpAddr, count: u32) {
    let packets = Packets { kind: Kind::Udp, from: at(from, 40_000), to: at(lab.host4(), 9000), count };
    lab.provider().raw(packets);
}

/// Asks what the daemon answers without its store.
fn is_answered(lab: &Lab, theirs: std::net::IpAddr) {
    let remote = format!("{theirs}:443/tcp");
    let question = ["explain", "--json", "--subject", "unit:nobody.service", "--remote", &remote];
    let began = Instant::now();
    while began.elapsed() < MEANWHILE {
        let answered = lab.picoseg(&question).ok();
        assert!(answered.json()["verdict"].is_string(), "{answered:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn questions_are_answered_while_attempts_wait_for_the_disk_and_then_all_are_on_record() {
    let Some(lab) = Lab::new() else { return };
    let theirs = over(&lab);
    let daemon = lab.daemon();
    lab.all_on_record(&lab.provider());
    let before = lab.status()["attempts_total"].as_u64().expect("a number");
    let held = Held::store_of(&daemon);
    knock(&lab, theirs, 500);
    is_answered(&lab, theirs);
    drop(held);
    lab.all_on_record(&lab.provider());
    assert_eq!(lab.attempts_with(&[("service", "adyen")]), 500, "{:#?}", lab.attempts());
    assert_eq!(lab.status()["attempts_total"], before + 500 + 1);
    assert_eq!(lab.status()["store"]["ok"], true);
}

#[test]
fn a_daemon_that_is_killed_while_attempts_wait_for_the_disk_neither_forgets_nor_repeats_one() {
    let Some(lab) = Lab::new() else { return };
    let theirs = over(&lab);
    let daemon = lab.daemon();
    knock(&lab, theirs, 300);
    lab.all_on_record(&lab.provider());
    let held = Held::store_of(&daemon);
    knock(&lab, theirs, 500);
    is_answered(&lab, theirs);
    kill(daemon.pid(), Signal::SIGKILL).expect("a child of ours");
    drop(held);
    daemon.kill9();
    let _daemon = lab.daemon();
    lab.all_on_record(&lab.provider());
    assert_eq!(lab.attempts_with(&[("service", "adyen")]), 800, "{:#?}", lab.attempts());
}
