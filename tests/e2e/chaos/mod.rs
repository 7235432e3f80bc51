//! Abuse, and what still has to hold after it: judged by real traffic, by the counts of what was sent, and by the ledger.

mod buffers;
mod clients;
mod database;
mod files;
mod kills;
mod names;
mod storm;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use crate::lab::{Daemon, Lab, Unit};

/// Numbers that look like chance and come again with their seed.
pub struct Random(u64);

impl Random {
    /// A seed of its own in each run, or `PICOSEG_SEED`; it is printed, so that a failure can be had again.
    pub fn new() -> Self {
        let chosen = std::env::var("PICOSEG_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = chosen.unwrap_or_else(|| u64::from(std::process::id()));
        eprintln!("PICOSEG_SEED={seed}");
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `limit` (xorshift64*, Vigna 2016).
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % limit
    }

    pub fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    /// Waits for up to so long.
    pub fn pause(&mut self, most: Duration) {
        thread::sleep(Duration::from_micros(self.below(most.as_micros() as u64 + 1)));
    }
}

/// A daemon that gets no processor, until this is dropped.
pub struct Frozen<'a>(&'a Daemon);

impl<'a> Frozen<'a> {
    pub fn new(daemon: &'a Daemon) -> Self {
        kill(daemon.pid(), Signal::SIGSTOP).expect("our own child");
        Self(daemon)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = kill(self.0.pid(), Signal::SIGCONT);
    }
}

/// Cgroups that come and go beside a unit, as fast as the kernel makes them, until this is dropped.
pub struct Storm {
    ends: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Storm {
    /// Beside `unit` and below it, some of them with names of units.
    pub fn around(unit: &Unit) -> Self {
        let (ends, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let beside = unit.dir().parent().expect("a slice").to_owned();
        let (inside, stop, count) = (unit.dir().to_owned(), Arc::clone(&ends), Arc::clone(&made));
        let thread = thread::spawn(move || {
            let mut number = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                for base in [&beside, &inside] {
                    let dir = base.join(format!("storm{}.service", number % 64));
                    if fs::create_dir(&dir).is_ok() {
                        count.fetch_add(1, Ordering::Relaxed);
                        let _ = fs::remove_dir(&dir);
                    }
                    number += 1;
                }
            }
        });
        Self { ends, made, thread: Some(thread) }
    }

    /// Cgroups that were made and removed so far.
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The ledger of a lab is unbroken.
pub fn ledger_verifies(lab: &Lab) -> bool {
    let verified = lab.picoseg(&["audit", "verify", "--json"]);
    verified.code == 0 && verified.json()["ok"] == true
}

/// A number in `/proc/PID/status`: kB of memory, threads.
pub fn of_status(daemon: &Daemon, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("linux");
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().expect("a number")
}

pub fn descriptors(daemon: &Daemon) -> u64 {
    fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("it runs").count() as u64
}

/// Time on a processor.
pub fn processor(daemon: &Daemon) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 10)
}

/// Turns over single bytes of a file, anywhere in it.
pub fn flip(path: &Path, count: usize, random: &mut Random) {
    let mut bytes = fs::read(path).expect("a file of ours");
    for _ in 0..count {
        let at = random.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << random.below(8);
    }
    fs::write(path, bytes).expect("a file of ours");
}
