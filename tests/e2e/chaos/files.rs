//! Directories that somebody filled badly: ten thousand schedules of which one is bad, and things that are no files.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::of_status;
use crate::lab::schedule::{Lifetime, egress, schedule};
use crate::lab::{Lab, at, put};

/// In a build without optimisation on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(25);

#[test]
fn of_ten_thousand_schedules_the_one_that_is_bad_is_named_and_nothing_changes() {
    const ALL: usize = 10_000;
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, lab.provider4(0), "443/tcp")]));
    let daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    theirs.echo(at(lab.provider4(0), 443));
    let before = lab.status()["ruleset_digest"].clone();
    for number in 0..ALL - 1 {
        let remote = format!("100.{}.{}.1", 64 + number / 250, number % 250);
        lab.write(
            &format!("svc{number:05}"),
            &schedule(Lifetime::open(), &[egress(&payments, remote, "443/tcp")]),
        );
    }
    let bad = schedule(Lifetime::open(), &[egress(&payments, "192.0.2.1", "443/tcp")])
        .replace("443/tcp", "443/tpc");
    let line = bad.lines().position(|line| line.contains("443/tpc")).expect("a port") + 1;
    lab.write("svc07777", &bad);
    let began = Instant::now();
    let said = lab.picoseg(&["apply"]).exits(78);
    let took = began.elapsed();
    let most = of_status(&daemon, "VmHWM") >> 10;
    eprintln!("{took:?}, at most {most} MiB resident");
    let place = format!("{}:{line}:10: ", lab.etc("services.d/svc07777.toml").display());
    let found: Vec<_> = said.stderr.lines().filter(|line| line.contains(".toml:")).collect();
    assert!(found.len() == 1 && found[0].starts_with(&place), "{place} {found:?}");
    assert!(took < PATIENCE, "{took:?}");
    assert!(most < 512, "{most} MiB");
    assert_eq!(lab.status()["ruleset_digest"], before);
    assert!(ours.talks_to(at(lab.provider4(0), 443)));
    assert_eq!(lab.status()["services"]["open"], 1);
}

#[test]
fn what_is_no_file_is_named_at_once_and_nothing_changes() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, lab.provider4(0), "443/tcp")]));
    let daemon = lab.daemon();
    let before = lab.status()["ruleset_digest"].clone();
    let place = |name: &str| lab.etc(&format!("services.d/{name}.toml"));
    mkfifo(&place("fifo"), Mode::S_IRWXU).expect("a FIFO");
    symlink(place("loop"), place("loop")).expect("a link");
    symlink("/dev/zero", place("zero")).expect("a link");
    symlink("/proc/kmsg", place("kmsg")).expect("a link");
    symlink("/nowhere", place("dangling")).expect("a link");
    fs::create_dir(place("folder")).expect("a directory");
    drop(std::os::unix::net::UnixListener::bind(place("socket")).expect("a socket"));
    File::create(place("huge")).and_then(|file| file.set_len(1 << 40)).expect("a hole");
    put(&place("binary"), "\u{0}\u{1}\u{2}");
    put(&place("deep"), &format!("x = {}", "[".repeat(500_000)));
    put(&place("wide"), &"[[egress]]\n".repeat(80_000));
    let names =
        ["fifo", "loop", "zero", "kmsg", "dangling", "folder", "socket", "huge", "binary", "deep", "wide"];
    let began = Instant::now();
    let said = lab.picoseg(&["apply"]).exits(78);
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    for name in names {
        let named = format!("{}:", place(name).display());
        assert!(
            said.stderr.contains(&named),
            "{name} is not named:\n{}",
            &said.stderr[..said.stderr.len().min(4_000)]
        );
    }
    assert_eq!(lab.status()["ruleset_digest"], before);
    let most = of_status(&daemon, "VmHWM") >> 10;
    assert!(most < 512, "{most} MiB");
    // A daemon that starts among them runs on what it accepted last.
    drop(daemon);
    let _daemon = lab.daemon();
    assert_eq!(lab.status()["config"]["ok"], false);
    assert_eq!(lab.state_of("stripe"), "open");
}
