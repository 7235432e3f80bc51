//! What the daemon costs while nothing happens: how often its threads wake, their processor time, and its memory.
//!
//! `sudo cargo bench --bench idle [-- [seconds=N] [settle=N] [N ...]]`. For each number of services (10 and 10,000) the real
//! daemon runs in a network namespace of its own: each service has a policy, a unit that does not exist and four addresses; one of
//! 64 schedules of office hours in UTC. It rests for `settle` seconds (90), in which it does what follows a start, then it is
//! watched for `seconds` (180). A wake-up is what `/proc/PID/task/TID/status` counts as a voluntary context switch: each
//! return from a wait, for a timer, a disk or another thread; involuntary ones tell of other programs. `RssAnon` is what the
//! program allocated, the rest of `VmRSS` its file.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a start may take.
const START: Duration = Duration::from_secs(180);

fn main() {
    let argument = |name: &str, default: u64| {
        let value = std::env::args().find_map(|argument| argument.strip_prefix(name)?.parse().ok());
        Duration::from_secs(value.unwrap_or(default))
    };
    let (watched, settle) = (argument("seconds=", 180), argument("settle=", 90));
    let sizes: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![10, 10_000] } else { sizes };
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        println!("SKIPPED: a network namespace cannot be made: {error}");
        return;
    }
    println!(
        "after {settle:?} of rest, over {watched:?}; wake-ups a minute by thread (in brackets: taken from the processor)"
    );
    for size in sizes {
        measure(size, settle, watched);
    }
}

fn measure(size: usize, settle: Duration, watched: Duration) {
    let place = tempfile::tempdir().expect("a directory of ours");
    write(place.path(), size);
    let began = Instant::now();
    let mut daemon = Daemon::start(place.path());
    let started = began.elapsed();
    let fresh = daemon.memory();
    std::thread::sleep(settle);
    let (before, began) = (daemon.threads(), Instant::now());
    let (cpu, faults) = daemon.spent();
    std::thread::sleep(watched);
    let (after, took) = (daemon.threads(), began.elapsed());
    let (cpu_after, faults_after) = daemon.spent();
    let minutes = took.as_secs_f64() / 60.0;
    println!("{size} services, in force after {:.1} s", started.as_secs_f64());
    let (mut all, mut taken) = (0, 0);
    for (id, thread) in &after {
        let old = before.get(id).copied_counts();
        let (woken, preempted) = (thread.woken - old.0, thread.preempted - old.1);
        (all, taken) = (all + woken, taken + preempted);
        if woken + preempted > 0 {
            println!(
                "    {:<16} {:>7.2} ({:.2})",
                thread.name,
                woken as f64 / minutes,
                preempted as f64 / minutes
            );
        }
    }
    println!(
        "    {:<16} {:>7.2} ({:.2}); {} threads; {:.3} s of processor and {} page faults a minute",
        "all",
        all as f64 / minutes,
        taken as f64 / minutes,
        after.len(),
        (cpu_after - cpu) / minutes,
        ((faults_after - faults) as f64 / minutes).round(),
    );
    let memory = daemon.memory();
    println!(
        "    resident {:.1} MB (anonymous {:.1}) at rest, {:.1} when in force, {:.1} at most",
        memory.resident, memory.anonymous, fresh.resident, memory.peak
    );
    daemon.stop();
}

/// Of a thread that was not there before: none.
trait Counts {
    fn copied_counts(self) -> (u64, u64);
}

impl Counts for Option<&Thread> {
    fn copied_counts(self) -> (u64, u64) {
        self.map_or((0, 0), |thread| (thread.woken, thread.preempted))
    }
}

fn write(place: &Path, size: usize) {
    let text = place.display();
    for directory in ["services.d", "segments.d", "lists"] {
        fs::create_dir(place.join(directory)).expect("a directory of ours");
    }
    let settings = format!(
        "[paths]\nservices = \"{text}/services.d\"\nsegments = \"{text}/segments.d\"\nlists = \"{text}/lists\"\n\
         state = \"{text}/state\"\nruntime = \"{text}/run\"\n"
    );
    fs::write(place.join("picoseg.toml"), settings).expect("a file of ours");
    for index in 0..size {
        let name = format!("s{index}");
        fs::write(place.join(format!("services.d/{name}.toml")), service(&name, index))
            .expect("a file of ours");
    }
}

/// Its windows end where the hour of an office day does, so that nothing opens or closes while it is watched: at most one
/// of 64 minutes after nine.
fn service(name: &str, index: usize) -> String {
    let address = |n: usize| Ipv4Addr::from_bits(0x0a00_0000 + (index * 4 + n) as u32);
    format!(
        "provider = \"p\"\nowner = \"o\"\n[lifetime]\ncommission = 2026-01-01T00:00:00Z\n\
         decommission = 2030-01-01T00:00:00Z\n[[window]]\ncron = \"{} {} * * Mon-Fri\"\nduration = \"9h\"\n\
         timezone = \"UTC\"\n[[egress]]\nsubject = {{ unit = \"{name}.service\" }}\n\
         to = [\"{}\", \"{}\", \"{}\", \"{}\"]\nports = [\"443/tcp\"]\n",
        index % 32,
        8 + index / 32 % 2,
        address(0),
        address(1),
        address(2),
        address(3),
    )
}

struct Daemon {
    child: Child,
}

struct Thread {
    name: String,
    woken: u64,
    preempted: u64,
}

/// Megabytes, of a million bytes each as the target is.
struct Memory {
    resident: f64,
    anonymous: f64,
    peak: f64,
}

impl Daemon {
    /// Returns when everything is in force.
    fn start(place: &Path) -> Self {
        let log = fs::File::create(place.join("log")).expect("a file of ours");
        let child = Command::new(env!("CARGO_BIN_EXE_picosegd"))
            .arg("--config")
            .arg(place.join("picoseg.toml"))
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file of ours"))
            .stderr(log)
            .spawn()
            .expect("picosegd");
        let mut daemon = Self { child };
        let began = Instant::now();
        let said = || fs::read_to_string(place.join("log")).unwrap_or_default();
        while !said().contains("in force") {
            let ended = daemon.child.try_wait().expect("a child of ours");
            assert!(ended.is_none() && began.elapsed() < START, "it does not start: {ended:?}\n{}", said());
            std::thread::sleep(Duration::from_millis(10));
        }
        daemon
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.child.id())).expect("the daemon runs")
    }

    fn threads(&self) -> BTreeMap<String, Thread> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("the daemon runs");
        let ids = tasks.filter_map(|task| task.ok()?.file_name().into_string().ok());
        ids.map(|id| {
            let status = self.file(&format!("task/{id}/status"));
            let thread = Thread {
                name: field(&status, "Name:").to_owned(),
                woken: number(&status, "voluntary_ctxt_switches:"),
                preempted: number(&status, "nonvoluntary_ctxt_switches:"),
            };
            (id, thread)
        })
        .collect()
    }

    /// Seconds of processor, and minor page faults, proc_pid_stat(5).
    fn spent(&self) -> (f64, u64) {
        let stat = self.file("stat");
        let fields: Vec<u64> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        let ticks = fields[11] + fields[12];
        (ticks as f64 / 100.0, fields[7])
    }

    fn memory(&self) -> Memory {
        let status = self.file("status");
        let megabytes = |which| number(&status, which) as f64 * 1024.0 / 1e6;
        Memory { resident: megabytes("VmRSS:"), anonymous: megabytes("RssAnon:"), peak: megabytes("VmHWM:") }
    }

    fn stop(&mut self) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGTERM).expect("a child of ours");
        let ended = self.child.wait().expect("a child of ours");
        assert!(ended.success(), "{ended}");
        let unloaded = Command::new("nft").args(["delete", "table", "inet", "picoseg"]).output();
        // The namespace has the table until the end otherwise: then the next start goes on with it.
        drop(unloaded);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It is gone after `stop`.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.map(str::trim).unwrap_or_default()
}

fn number(status: &str, name: &str) -> u64 {
    field(status, name).split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}
