//! A provider whose service is decommissioned sends as many packets as one core can: what is counted, what is recorded of
//! it, and what that costs, beside ulogd2 with its JSON and SQLite outputs, and beside a ruleset that only drops.
//!
//! `sudo cargo bench --bench flood [-- [seconds=N] [rounds=N] [sources=N]]`. Variants take turns within a round; the table shows
//! medians. `cpu` is the collector's user and system time until it has recorded all it will, as a share of the time of the flood; `peak` its largest resident set; `disk` how much its files grew. Collectors run in a network
//! namespace of their own, with veth to another from which the packets come. Run it on a quiet machine. The peers come from
//! `apt-get install --no-install-recommends ulogd2 ulogd2-json ulogd2-sqlite3 sqlite3`; those that are absent are left out.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use socket2::{Domain, Protocol, Socket, Type};
use tempfile::TempDir;

#[path = "../tests/e2e/lab/netns.rs"]
#[expect(dead_code, reason = "the tests' module has more than is needed here")]
mod netns;

use netns::Netns;

/// RFC 2544: for benchmarks.
const PROVIDER: &str = "198.18.0.0/15";
const HOST: Ipv4Addr = Ipv4Addr::new(10, 222, 0, 1);
const WIRE: Ipv4Addr = Ipv4Addr::new(10, 222, 0, 2);
const PORT: u16 = 8443;

/// The NFLOG group of the peers.
const GROUP: u16 = 4700;

/// How long a collector may take after the last packet.
const DRAIN: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    /// No collector: what a sender can send, and the kernel drop.
    DropOnly,
    Picoseg,
    /// A detailed record for every packet.
    PicosegAllDetails,
    UlogdJson,
    UlogdSqlite,
}

impl Variant {
    const ALL: [Self; 5] =
        [Self::DropOnly, Self::Picoseg, Self::PicosegAllDetails, Self::UlogdJson, Self::UlogdSqlite];

    fn name(self) -> &'static str {
        match self {
            Self::DropOnly => "drop only",
            Self::Picoseg => "picoseg",
            Self::PicosegAllDetails => "picoseg, all details",
            Self::UlogdJson => "ulogd2 JSON",
            Self::UlogdSqlite => "ulogd2 SQLite",
        }
    }

    /// Why it cannot run here.
    fn absent(self) -> Option<&'static str> {
        let plugin = |name: &str| {
            let found = Command::new("find").args(["/usr/lib", "-name", name]).output();
            found.is_ok_and(|found| !found.stdout.is_empty())
        };
        let present = match self {
            Self::DropOnly | Self::Picoseg | Self::PicosegAllDetails => true,
            Self::UlogdJson => plugin("ulogd_output_JSON.so"),
            Self::UlogdSqlite => plugin("ulogd_output_SQLITE3.so") && Path::new("/usr/bin/sqlite3").exists(),
        };
        (!present).then_some("its packages are not installed")
    }
}

/// What one run showed.
#[derive(Debug, Clone, Copy, Default)]
struct Figures {
    sent: f64,
    per_second: f64,
    /// What was counted, as a share of what was sent.
    counted: f64,
    /// Of how many packets there is a record with addresses and ports.
    recorded: f64,
    cpu: f64,
    peak_kib: f64,
    disk: f64,
}

fn main() {
    let number = |word: &str, default: u64| {
        let found = std::env::args().find_map(|argument| argument.strip_prefix(word)?.parse::<u64>().ok());
        found.filter(|number| *number > 0).unwrap_or(default)
    };
    let (seconds, rounds) = (number("seconds=", 5), number("rounds=", 3));
    let sources = u32::try_from(number("sources=", 256).min(100_000)).expect("bounded");
    let lab = match Lab::new() {
        Ok(lab) => lab,
        Err(error) => {
            println!("SKIPPED: {error}");
            return;
        }
    };
    println!("{seconds} s of UDP packets from {sources} sources, {rounds} rounds");
    let here: Vec<_> = Variant::ALL.into_iter().filter(|variant| is_here(*variant)).collect();
    let mut runs: Vec<(Variant, Vec<Figures>)> = here.iter().map(|variant| (*variant, vec![])).collect();
    for _ in 0..rounds {
        for (variant, figures) in &mut runs {
            figures.push(lab.run(*variant, Duration::from_secs(seconds), sources));
        }
    }
    println!(
        "{:>21} | {:>10} {:>9} {:>9} {:>10} {:>7} {:>9} {:>10}",
        "", "sent", "per s", "counted", "recorded", "cpu", "peak MiB", "disk KiB"
    );
    for (variant, figures) in runs {
        print(variant, &figures);
    }
}

fn is_here(variant: Variant) -> bool {
    let absent = variant.absent();
    if let Some(why) = absent {
        println!("left out: {}: {why}", variant.name());
    }
    absent.is_none()
}

fn print(variant: Variant, figures: &[Figures]) {
    let median = |of: fn(&Figures) -> f64| {
        let mut values: Vec<_> = figures.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    println!(
        "{:>21} | {:>10} {:>9.0} {:>8.4}% {:>10} {:>6.1}% {:>9.1} {:>10.0}",
        variant.name(),
        median(|f| f.sent),
        median(|f| f.per_second),
        median(|f| f.counted) * 100.0,
        median(|f| f.recorded),
        median(|f| f.cpu) * 100.0,
        median(|f| f.peak_kib) / 1024.0,
        median(|f| f.disk) / 1024.0,
    );
}

struct Lab {
    host: Netns,
    provider: Netns,
}

impl Lab {
    fn new() -> Result<Self, String> {
        let name = |side: &str| format!("psbench{}{side}", std::process::id());
        let lab = Self { host: Netns::add(&name("h"))?, provider: Netns::add(&name("p"))? };
        lab.host.ip(&format!(
            "link set lo up\nlink add host0 type veth peer name wire0 netns {}\nlink set host0 up\n\
             addr add {HOST}/24 dev host0\nroute add {PROVIDER} via {WIRE}\n",
            lab.provider.name()
        ));
        lab.provider.ip(&format!("link set wire0 up\naddr add {WIRE}/24 dev wire0\n"));
        Ok(lab)
    }

    fn run(&self, variant: Variant, time: Duration, sources: u32) -> Figures {
        let dir = TempDir::new().expect("a temporary directory");
        let collector = self.host.run(|| Collector::start(variant, dir.path()));
        let before = collector.spent();
        let started = Instant::now();
        let sent = self.provider.run(|| flood(time, sources));
        let flooded = started.elapsed().as_secs_f64();
        let (counted, recorded) = self.host.run(|| collector.settle(sent));
        let figures = Figures {
            sent: sent as f64,
            per_second: sent as f64 / flooded,
            counted: counted as f64 / sent as f64,
            recorded: recorded as f64,
            cpu: (collector.spent() - before) / flooded,
            peak_kib: collector.peak_kib(),
            disk: size_of(dir.path()) as f64,
        };
        self.host.run(|| collector.stop());
        figures
    }
}

/// Sends until the time is over; returns how many packets the kernel took.
fn flood(time: Duration, sources: u32) -> u64 {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))
        .expect("root has raw sockets");
    let target = SocketAddr::new(HOST.into(), 0).into();
    let packets: Vec<_> = (0..sources).map(packet).collect();
    let (end, mut sent) = (Instant::now() + time, 0);
    for (index, packet) in packets.iter().cycle().enumerate() {
        // A look at the clock costs more than a packet's system call would like.
        if index % 64 == 0 && Instant::now() >= end {
            break;
        }
        sent += u64::from(socket.send_to(packet, &target).is_ok());
    }
    sent
}

fn packet(source: u32) -> Vec<u8> {
    let first = u32::from(Ipv4Addr::new(198, 18, 0, 1));
    let source = Ipv4Addr::from(first + source);
    let builder = PacketBuilder::ipv4(source.octets(), HOST.octets(), 64).udp(40_000, PORT);
    let payload = b"more, please";
    let mut packet = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut packet, payload).expect("to a vector");
    packet
}

/// What counts and records, and the ruleset that feeds it.
struct Collector {
    variant: Variant,
    child: Option<Child>,
    dir: PathBuf,
}

impl Collector {
    fn start(variant: Variant, dir: &Path) -> Self {
        let child = match variant {
            Variant::DropOnly => {
                ruleset("");
                None
            }
            Variant::Picoseg => Some(picosegd(dir, "50/second")),
            Variant::PicosegAllDetails => Some(picosegd(dir, "1000000/second")),
            Variant::UlogdJson | Variant::UlogdSqlite => {
                ruleset(&format!("log group {GROUP}"));
                Some(ulogd(dir, variant))
            }
        };
        Self { variant, child, dir: dir.to_owned() }
    }

    /// Waits until it has all it will get; returns what it counted and of how much it has records.
    fn settle(&self, sent: u64) -> (u64, u64) {
        let end = Instant::now() + DRAIN;
        let mut last = self.figures();
        while Instant::now() < end {
            std::thread::sleep(Duration::from_secs(1));
            let now = self.figures();
            let told = now.is_some_and(|(counted, _)| counted == sent);
            if now == last && told {
                break;
            }
            last = now;
        }
        last.unwrap_or_default()
    }

    /// What is counted and what recorded so far; `None` while that cannot be read: ulogd holds its database locked.
    fn figures(&self) -> Option<(u64, u64)> {
        Some(match self.variant {
            Variant::DropOnly => (dropped(), 0),
            Variant::Picoseg | Variant::PicosegAllDetails => {
                let status = said(
                    Command::new(env!("CARGO_BIN_EXE_picoseg"))
                        .arg("--config")
                        .arg(self.dir.join("picoseg.toml"))
                        .args(["--json", "status"]),
                );
                let status: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
                let number = |key: &str| status[key].as_u64().unwrap_or_default();
                let total = number("attempts_total");
                (total, total.saturating_sub(number("lost_details")))
            }
            Variant::UlogdJson => {
                let file = fs::read(self.dir.join("ulogd.json")).unwrap_or_default();
                let lines = file.iter().filter(|byte| **byte == b'\n').count() as u64;
                (dropped(), lines)
            }
            Variant::UlogdSqlite => {
                let database = self.dir.join("ulogd.sqlite3");
                let rows = said(
                    Command::new("sqlite3")
                        .args(["-cmd", ".timeout 5000"])
                        .arg(database)
                        .arg("SELECT count(*) FROM ulog"),
                );
                (dropped(), rows.trim().parse().ok()?)
            }
        })
    }

    /// User and system time in seconds: fields 14 and 15 of /proc/PID/stat, in hundredths (proc(5)).
    fn spent(&self) -> f64 {
        let Some(child) = &self.child else { return 0.0 };
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
        let fields = stat.rsplit(") ").next().unwrap_or_default();
        let ticks = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
        ticks.sum::<f64>() / 100.0
    }

    fn peak_kib(&self) -> f64 {
        let Some(child) = &self.child else { return 0.0 };
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
    }

    fn stop(mut self) {
        if let Some(child) = &mut self.child {
            // Ours; nothing of it is read any more.
            let _ = child.kill();
            let _ = child.wait();
        }
        said(Command::new("nft").args(["flush", "ruleset"]));
    }
}

fn ruleset(log: &str) {
    let text = format!(
        "table inet flood {{ counter dropped {{ }}\nchain in {{ type filter hook input priority -10; \
         ip saddr {PROVIDER} counter name dropped {log} drop\n}}\n}}\n"
    );
    said(Command::new("nft").arg(text));
}

fn dropped() -> u64 {
    let listed = said(Command::new("nft").args(["list", "counter", "inet", "flood", "dropped"]));
    let packets = listed.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
    packets.and_then(|packets| packets.parse().ok()).unwrap_or_default()
}

fn picosegd(dir: &Path, log_rate: &str) -> Child {
    let place = dir.display();
    let [services, segments, lists] = ["services.d", "segments.d", "lists"].map(|name| dir.join(name));
    for directory in [&services, &segments, &lists] {
        fs::create_dir(directory).expect("a directory of ours");
    }
    let settings = format!(
        "[paths]\nservices = \"{place}/services.d\"\nsegments = \"{place}/segments.d\"\nlists = \"{place}/lists\"\n\
         state = \"{place}/state\"\nruntime = \"{place}/run\"\n[attempts]\nlog_rate = \"{log_rate}\"\n"
    );
    let schedule = format!(
        "provider = \"Flood\"\nowner = \"bench@example.com\"\nstate = \"decommissioned\"\n[lifetime]\n\
         commission = 2026-01-01T00:00:00Z\ndecommission = 2099-01-01T00:00:00Z\n[[ingress]]\n\
         subject = {{ unit = \"picoseg-bench.service\" }}\nfrom = [\"{PROVIDER}\"]\nports = [\"{PORT}/udp\"]\n"
    );
    fs::write(dir.join("picoseg.toml"), settings).expect("a file of ours");
    fs::write(services.join("flood.toml"), schedule).expect("a file of ours");
    let mut command = Command::new(env!("CARGO_BIN_EXE_picosegd"));
    command.arg("--config").arg(dir.join("picoseg.toml"));
    let child = started(command, dir);
    let status = || {
        let mut picoseg = Command::new(env!("CARGO_BIN_EXE_picoseg"));
        picoseg.arg("--config").arg(dir.join("picoseg.toml")).args(["--json", "status"]);
        !said(&mut picoseg).is_empty()
    };
    wait_for(status);
    child
}

fn ulogd(dir: &Path, variant: Variant) -> Child {
    let place = dir.display();
    let output = match variant {
        Variant::UlogdSqlite => {
            let table = "CREATE TABLE ulog (oob_time_sec INTEGER, oob_prefix TEXT, \
                         ip_saddr_str TEXT, ip_daddr_str TEXT, ip_protocol INTEGER, udp_sport INTEGER, \
                         udp_dport INTEGER)";
            said(Command::new("sqlite3").arg(dir.join("ulogd.sqlite3")).arg(table));
            format!("out1:SQLITE3\n[out1]\ntable=\"ulog\"\ndb=\"{place}/ulogd.sqlite3\"\n")
        }
        _ => format!("out1:JSON\n[out1]\nsync=0\nfile=\"{place}/ulogd.json\"\n"),
    };
    let config = format!(
        "[global]\nlogfile=\"{place}/ulogd.log\"\nloglevel=5\n{}\
         stack=log1:NFLOG,base1:BASE,ifi1:IFINDEX,ip2str1:IP2STR,{output}\
         [log1]\ngroup={GROUP}\nnetlink_socket_buffer_size=4194304\nnetlink_socket_buffer_maxsize=8388608\n",
        plugins()
    );
    fs::write(dir.join("ulogd.conf"), config).expect("a file of ours");
    let mut command = Command::new("ulogd");
    command.arg("-c").arg(dir.join("ulogd.conf"));
    let child = started(command, dir);
    wait_for(|| {
        let groups = fs::read_to_string("/proc/thread-self/net/netfilter/nfnetlink_log").unwrap_or_default();
        groups.lines().any(|line| line.split_whitespace().next() == Some(GROUP.to_string().as_str()))
    });
    child
}

/// The lines that load what is installed of these.
fn plugins() -> String {
    let names = [
        "inppkt_NFLOG",
        "raw2packet_BASE",
        "filter_IFINDEX",
        "filter_IP2STR",
        "output_JSON",
        "output_SQLITE3",
    ];
    let found = |name: &&str| {
        let file = format!("ulogd_{name}.so");
        said(Command::new("find").args(["/usr/lib", "-name", &file])).lines().next().map(str::to_owned)
    };
    names.iter().filter_map(found).map(|path| format!("plugin=\"{path}\"\n")).collect()
}

fn started(mut command: Command, dir: &Path) -> Child {
    let log = fs::File::create(dir.join("collector.log")).expect("a file of ours");
    let again = log.try_clone().expect("a file of ours");
    command
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(again)
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

fn wait_for(condition: impl Fn() -> bool) {
    let end = Instant::now() + DRAIN;
    while !condition() {
        assert!(Instant::now() < end, "the collector did not start");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What a command wrote; nothing when it failed.
fn said(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    output
        .ok()
        .filter(|output| output.status.success())
        .map_or_else(String::new, |output| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn size_of(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}
