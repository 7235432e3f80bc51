//! A host with the daemon, a provider that has every address of the benchmarks' network, and a veth between them.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::cgroup::{self, Slice, Unit};
use crate::clock::{Time, rfc3339};
use crate::netns::{self, Netns};

pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 223, 0, 1);
const WIRE: Ipv4Addr = Ipv4Addr::new(10, 223, 0, 2);
/// RFC 2544: for benchmarks.
const PROVIDERS: &str = "198.18.0.0/15";
const NETNS: &str = "psclose";

/// A start with 10,000 services.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// A daemon rests when it takes no more than so many hundredths of a second of a core in such a time.
const RESTING: u64 = 2;
const REST: Duration = Duration::from_secs(1);

pub struct Lab {
    slice: Slice,
    /// Of the daemon.
    room: Unit,
    pub host: Netns,
    pub provider: Netns,
    id: String,
    home: PathBuf,
    dir: TempDir,
}

impl Lab {
    /// # Errors
    /// Why this machine cannot have one, in words.
    pub fn new() -> Result<Self, String> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        sweep();
        let id = format!("{}n{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let slice = Slice::create(&format!("{NETNS}{id}.slice"))?;
        let lab = Self {
            room: slice.unit("daemon.scope"),
            slice,
            host: Netns::add(&format!("{NETNS}{id}h"))?,
            provider: Netns::add(&format!("{NETNS}{id}p"))?,
            home: own_cgroup()?,
            dir: TempDir::new().map_err(|error| format!("a temporary directory: {error}"))?,
            id,
        };
        lab.lay_the_wire();
        lab.furnish();
        Ok(lab)
    }

    fn lay_the_wire(&self) {
        self.host.ip(&format!(
            "link set lo up\nlink add host0 type veth peer name wire0 netns {}\nlink set host0 up\n\
             addr add {HOST}/24 dev host0\nroute add {PROVIDERS} via {WIRE}\n",
            self.provider.name()
        ));
        self.provider.ip(&format!(
            "link set lo up\nlink set wire0 up\naddr add {WIRE}/24 dev wire0\nroute add local {PROVIDERS} dev lo\n"
        ));
        // Both sides know each other's link-layer address afterwards.
        self.provider.run(|| {
            let socket = UdpSocket::bind((WIRE, 0)).expect("an address of ours");
            socket.send_to(b"hello", (HOST, 9)).expect("a wire of ours");
        });
    }

    fn furnish(&self) {
        let place = self.dir.path().display();
        for name in ["services.d", "segments.d", "lists", "state", "run"] {
            fs::create_dir(self.dir.path().join(name)).expect("a directory of ours");
        }
        let settings = format!(
            "[paths]\nservices = \"{place}/services.d\"\nsegments = \"{place}/segments.d\"\nlists = \"{place}/lists\"\n\
             state = \"{place}/state\"\nruntime = \"{place}/run\"\n"
        );
        fs::write(self.config(), settings).expect("a file of ours");
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("picoseg.toml")
    }

    /// The cgroup of a unit whose name is unique on this machine.
    pub fn unit(&self, name: &str) -> Unit {
        self.slice.unit(&self.unit_name(name))
    }

    pub fn unit_name(&self, name: &str) -> String {
        format!("{name}-{}.service", self.id)
    }

    /// Writes a service that is commissioned until `end`.
    pub fn write(&self, name: &str, end: Time, policies: &str) {
        let begin = rfc3339(end - chrono::TimeDelta::days(30));
        let text = format!(
            "provider = \"Bench\"\nowner = \"bench@example.com\"\n[lifetime]\ncommission = {begin}\n\
             decommission = {}\n{policies}",
            rfc3339(end)
        );
        fs::write(self.dir.path().join(format!("services.d/{name}.toml")), text).expect("a file of ours");
    }

    /// Starts the daemon; returns when its table is in force.
    pub fn daemon(&self) -> Daemon {
        let log = fs::File::options().create(true).append(true).open(self.dir.path().join("log"));
        let log = log.expect("a file of ours");
        let mut command = Command::new(program("picosegd"));
        command.arg("--config").arg(self.config()).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a file of ours")).stderr(log);
        // Where the next run finds it, should nobody end it.
        self.enter(&self.room);
        let child = self.host.run(|| command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}")));
        self.leave();
        let mut daemon = Daemon(child);
        let end = Instant::now() + READY_WITHIN;
        while self.picoseg(&["--json", "status"]).is_none() {
            assert!(daemon.0.try_wait().is_ok_and(|ended| ended.is_none()), "picosegd: {}", self.log());
            assert!(Instant::now() < end, "picosegd is not ready: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        daemon
    }

    /// Waits until the daemon rests: after its first start it writes an entry of the ledger for each service.
    pub fn settle(&self, daemon: &Daemon) {
        let end = Instant::now() + READY_WITHIN;
        let mut last = daemon.ticks();
        loop {
            std::thread::sleep(REST);
            let now = daemon.ticks();
            if now.abs_diff(last) <= RESTING {
                return;
            }
            assert!(Instant::now() < end, "picosegd does not rest: {}", self.log());
            last = now;
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// What `picoseg` says; nothing when it fails.
    pub fn picoseg(&self, arguments: &[&str]) -> Option<String> {
        let mut command = Command::new(program("picoseg"));
        command.arg("--config").arg(self.config()).args(arguments).stdin(Stdio::null());
        let output = command.output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What `nft` says on the host.
    pub fn nft(&self, arguments: &[&str]) -> String {
        let output = self.host.run(|| Command::new("nft").args(arguments).output().expect("nft"));
        assert!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Moves this process into a cgroup: what it opens from now on belongs there.
    pub fn enter(&self, unit: &Unit) {
        enter(unit.dir());
    }

    /// Moves this process back to where it came from.
    pub fn leave(&self) {
        enter(&self.home);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().rev().take(30).collect();
            eprintln!("--- the daemon's last words, the last first\n{}", lines.join("\n"));
        }
        self.leave();
    }
}

/// The daemon as a child; killed on drop, without a last word.
pub struct Daemon(Child);

impl Daemon {
    /// User and system time: fields 14 and 15 of /proc/PID/stat, in hundredths of a second (proc(5)).
    fn ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap_or_default();
        let fields = stat.rsplit(") ").next().unwrap_or_default();
        fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program of this build, or of the directory that `PICOSEG_BIN_DIR` names.
fn program(name: &str) -> PathBuf {
    let built = match name {
        "picosegd" => env!("CARGO_BIN_EXE_picosegd"),
        _ => env!("CARGO_BIN_EXE_picoseg"),
    };
    std::env::var_os("PICOSEG_BIN_DIR").map_or_else(|| built.into(), |dir| Path::new(&dir).join(name))
}

/// A policy table of a schedule.
pub fn policy(direction: &str, unit: &str, remote: Ipv4Addr, port: &str) -> String {
    let side = if direction == "egress" { "to" } else { "from" };
    let mut text = String::new();
    writeln!(text, "[[{direction}]]\nsubject = {{ unit = \"{unit}\" }}").expect("to a string");
    writeln!(text, "{side} = [\"{remote}\"]\nports = [\"{port}\"]").expect("to a string");
    text
}

/// The end of a service that is not to be closed: they have 64 different ones, as in the other benchmarks.
pub fn another_end(first: Time, service: u32) -> Time {
    first + chrono::TimeDelta::hours(i64::from(service % 64))
}

/// The n-th address of the provider.
pub fn remote(number: u32) -> Ipv4Addr {
    assert!(number < 100_000, "the network has no more");
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 1, 0)) + number)
}

pub fn at(address: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddrV4::new(address, port).into()
}

/// The wall clock in nanoseconds since 1970.
pub fn wall() -> i64 {
    nanoseconds(crate::clock::now())
}

pub fn nanoseconds(time: Time) -> i64 {
    time.timestamp_nanos_opt().expect("in range")
}

/// Sleeps until shortly before an instant of [`wall`], then spins.
pub fn reach(instant: i64) {
    const SPIN: i64 = 200_000;
    loop {
        let left = instant - wall();
        match left {
            ..=0 => return,
            1..=SPIN => std::hint::spin_loop(),
            _ => std::thread::sleep(Duration::from_nanos((left - SPIN).unsigned_abs())),
        }
    }
}

fn enter(directory: &Path) {
    let file = directory.join("cgroup.procs");
    fs::write(&file, std::process::id().to_string()).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
}

/// The cgroup of this process.
fn own_cgroup() -> Result<PathBuf, String> {
    let hierarchy = picoseg::kernel::cgroups::Hierarchy::find().map_err(|error| error.to_string())?;
    let text = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).ok_or("no cgroup2 hierarchy")?;
    Ok(hierarchy.mount().join(path))
}

/// Ends and removes what runs left behind that were killed.
fn sweep() {
    let is_dead = |name: &str| {
        let id = name.strip_prefix(NETNS).and_then(|id| id.split_once('n'));
        let pid = id.and_then(|(pid, _)| pid.parse::<u32>().ok());
        pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    };
    let end = |name: &str| {
        if let Ok(hierarchy) = picoseg::kernel::cgroups::Hierarchy::find() {
            // Linux 5.14; without it a cgroup that is in use stays.
            let _ = fs::write(hierarchy.mount().join(name).join("cgroup.kill"), "1");
        }
    };
    cgroup::sweep(|name| {
        is_dead(name) && {
            end(name);
            true
        }
    });
    netns::sweep(is_dead);
}
