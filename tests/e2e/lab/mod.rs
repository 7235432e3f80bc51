//! A host, a provider and a wire between them, with everything `picosegd` needs, gone again on drop.
//!
//! ```text
//!   host (netns)  host0 ---- wire0  provider (netns)
//!   10.x.y.1/24                     10.x.y.10 .. 10.x.y.29
//!   fd5e:...::1/64                  fd5e:...::10 .. fd5e:...::15
//! ```

mod cgroup;
mod cli;
pub mod clock;
mod daemon;
pub mod dns;
pub mod engine;
mod netns;
pub mod schedule;
mod skip;
pub mod wall;

use std::cell::Cell;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::agent::{Agent, Kind, Packets};
use cgroup::Slice;
use netns::Netns;

pub use cgroup::Unit;
pub use cli::Cli;
pub use daemon::{Daemon, Failed};
pub use skip::{have, promtool, skipped};

/// Attempts show within this time.
pub const SHOWN: Duration = Duration::from_secs(3);
/// What the kernel does at once, on a loaded machine.
pub const MOMENT: Duration = Duration::from_secs(3);
/// From a close until who sends is told by the kernel alone: for two seconds what goes out is dropped in silence, then
/// the next retransmission is refused with a reset.
pub const TOLD_WITHIN: Duration = Duration::from_secs(8);

const V4_PROVIDERS: u8 = 20;
/// The provider address of [`Lab::canary`].
const CANARY: u8 = 19;
const V6_PROVIDERS: u8 = 6;

pub struct Lab {
    id: String,
    settings: Cell<String>,
    started: Cell<u32>,
    prefix4: [u8; 3],
    prefix6: [u16; 4],
    slice: Slice,
    host: Netns,
    provider: Netns,
    dir: TempDir,
}

impl Lab {
    /// A lab of its own, or `None` after saying why this machine cannot have one.
    pub fn new() -> Option<Self> {
        match Self::build() {
            Ok(lab) => Some(lab),
            Err(reason) => {
                skipped(&reason);
                None
            }
        }
    }

    fn build() -> Result<Self, String> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            return Err("not root".to_owned());
        }
        sweep();
        let (pid, number) = (std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let id = format!("{pid}n{number}");
        let lab = Self {
            slice: Slice::create(&format!("{SLICE}{id}.slice"))?,
            host: Netns::add(&format!("{NETNS}{id}h"))?,
            provider: Netns::add(&format!("{NETNS}{id}p"))?,
            dir: TempDir::new().map_err(|e| format!("a temporary directory: {e}"))?,
            prefix4: [10, (pid % 250) as u8, number as u8],
            prefix6: [0xfd5e, (pid >> 16) as u16, pid as u16, number as u16],
            settings: Cell::default(),
            started: Cell::default(),
            id,
        };
        lab.lay_the_wire();
        lab.furnish();
        Ok(lab)
    }

    /// Unique on this machine: part of the names of everything it made.
    pub fn id(&self) -> &str {
        &self.id
    }

    // Addresses

    pub fn host4(&self) -> IpAddr {
        self.v4(1)
    }

    pub fn host6(&self) -> IpAddr {
        self.v6(1)
    }

    /// One of twenty addresses of the provider's side, counted from 0: `10.x.y.10`.
    pub fn provider4(&self, number: u8) -> IpAddr {
        assert!(number < V4_PROVIDERS);
        self.v4(10 + number)
    }

    /// One of six addresses of the provider's side, counted from 0.
    pub fn provider6(&self, number: u8) -> IpAddr {
        assert!(number < V6_PROVIDERS);
        self.v6(0x10 + u16::from(number))
    }

    /// The address of the wire's network.
    pub fn network4(&self) -> IpAddr {
        self.v4(0)
    }

    fn v4(&self, last: u8) -> IpAddr {
        let [a, b, c] = self.prefix4;
        Ipv4Addr::new(a, b, c, last).into()
    }

    fn v6(&self, last: u16) -> IpAddr {
        let [a, b, c, d] = self.prefix6;
        Ipv6Addr::new(a, b, c, d, 0, 0, 0, last).into()
    }

    // Processes

    /// The cgroup of a unit whose name is unique on this machine: `payments` gives `payments-ID.service`.
    pub fn unit(&self, name: &str) -> Unit {
        self.slice.unit(&format!("{name}-{}.service", self.id))
    }

    /// A cgroup of exactly this name.
    pub fn scope(&self, name: &str) -> Unit {
        self.slice.unit(name)
    }

    /// A process of the host, in the cgroup of a unit.
    pub fn process(&self, unit: &Unit) -> Agent {
        self.process_of(unit, 0)
    }

    /// The same as another user.
    pub fn process_of(&self, unit: &Unit, uid: u32) -> Agent {
        self.host.run(|| Agent::spawn(Some(unit.dir()), uid))
    }

    /// The same as another user and group.
    pub fn process_as(&self, unit: &Unit, uid: u32, gid: u32) -> Agent {
        self.host.run(|| Agent::spawn_as(Some(unit.dir()), uid, gid))
    }

    /// A process of the provider.
    pub fn provider(&self) -> Agent {
        self.provider.run(|| Agent::spawn(None, 0))
    }

    /// A machine behind the host.
    pub fn guest(&self) -> Guest {
        let netns = Netns::add(&format!("{NETNS}{}g", self.id)).expect("one more of what the lab has");
        let (host, guest) = (Ipv4Addr::new(172, 31, 0, 1), Ipv4Addr::new(172, 31, 0, 2));
        self.host.ip(&format!(
            "link add guest0 type veth peer name up0 netns {}\nlink set guest0 up\naddr add {host}/24 dev guest0\n",
            netns.name()
        ));
        netns.ip(&format!("link set up0 up\naddr add {guest}/24 dev up0\nroute add default via {host}\n"));
        self.provider.ip(&format!("route add {guest}/32 via {}\n", self.host4()));
        self.host.run(|| put(Path::new("/proc/sys/net/ipv4/ip_forward"), "1"));
        let far = [self.provider4(0)];
        netns.run(|| knock_until_the_neighbour_answers(&far));
        Guest { netns, address: guest.into() }
    }

    /// A machine behind the provider, which forwards to it over a link that takes less than the wire does. Its
    /// addresses: one of each family.
    pub fn beyond(&self, mtu: u32) -> Beyond {
        let netns = Netns::add(&format!("{NETNS}{}b", self.id)).expect("one more of what the lab has");
        let (router, far) = (Ipv4Addr::new(172, 31, 1, 1), Ipv4Addr::new(172, 31, 1, 2));
        let (router6, far6) = ("fd5f::1", Ipv6Addr::new(0xfd5f, 0, 0, 0, 0, 0, 0, 2));
        self.provider.ip(&format!(
            "link add beyond0 type veth peer name up0 netns {}\nlink set beyond0 mtu {mtu} up\n\
             addr add {router}/24 dev beyond0\naddr add {router6}/64 dev beyond0 nodad\n",
            netns.name()
        ));
        netns.run(no_duplicate_address_detection);
        netns.ip(&format!(
            "link set up0 up\naddr add {far}/24 dev up0\naddr add {far6}/64 dev up0 nodad\n\
             route add default via {router}\nroute add default via {router6}\n"
        ));
        self.provider.run(|| {
            for scope in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                put(Path::new(&format!("/proc/sys/net/{scope}")), "1");
            }
        });
        self.host.ip(&format!(
            "route add 172.31.1.0/24 via {}\nroute add fd5f::/64 via {}\n",
            self.provider4(0),
            self.provider6(0)
        ));
        self.host.run(|| knock_until_the_neighbour_answers(&[far.into(), far6.into()]));
        Beyond { netns, addresses: [far.into(), far6.into()] }
    }

    /// What happens on the provider's side of the wire: an nftables ruleset, which replaces the one before.
    pub fn wire(&self, ruleset: &str) {
        let file = self.dir.path().join("wire.nft");
        put(&file, &format!("flush ruleset\n{ruleset}\n"));
        let mut command = Command::new("nft");
        command.arg("-f").arg(&file);
        self.at_provider(command).ok();
    }

    /// Runs any command as a process of a unit of the host.
    pub fn in_unit(&self, unit: &Unit, command: &[&str]) -> Cli {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo $$ > \"$0/cgroup.procs\"; exec \"$@\""]).arg(unit.dir()).args(command);
        self.on_host(shell)
    }

    /// Starts a server on the provider's side; it is stopped on drop.
    pub fn serve_at_provider(&self, mut command: Command) -> Running {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.provider.run(|| Running(command.spawn().expect("the program is installed")))
    }

    /// Runs any command in the provider's network namespace.
    pub fn at_provider(&self, command: Command) -> Cli {
        self.provider.run(|| Cli::run(command))
    }

    /// Sets a sysctl of the host, or of the provider, by its path below `/proc/sys/net`.
    pub fn sysctl(&self, at_host: bool, name: &str, value: &str) {
        let place = if at_host { &self.host } else { &self.provider };
        place.run(|| put(Path::new(&format!("/proc/sys/net/{name}")), value));
    }

    /// Lets the provider take its source ports from a small range, so that they come back soon.
    pub fn few_provider_ports(&self, first: u16, last: u16) {
        let range = Path::new("/proc/sys/net/ipv4/ip_local_port_range");
        self.provider.run(|| put(range, &format!("{first} {last}")));
    }

    /// Gives the provider addresses that may stand in the public DNS, and the host routes to them.
    pub fn public(&self, count: u8) {
        let (mut theirs, mut ours) = (String::new(), String::new());
        for number in 0..count {
            let (v4, v6) = (public4(number), public6(number));
            writeln!(theirs, "addr add {v4}/32 dev wire0\naddr add {v6}/128 dev wire0 nodad")
                .expect("to a string");
        }
        writeln!(ours, "route add 203.0.113.0/24 via {}", self.provider4(0)).expect("to a string");
        writeln!(ours, "route add 2001:db8:5::/64 via {}", self.provider6(0)).expect("to a string");
        self.provider.ip(&theirs);
        self.host.ip(&ours);
    }

    /// Lets the provider have every address of a network, and the host a route there.
    pub fn everywhere(&self, network: &str) {
        self.provider.ip(&format!("route add local {network} dev lo\n"));
        self.host.ip(&format!("route add {network} via {}\n", self.provider4(0)));
    }

    /// Starts a name server at an address of the provider.
    pub fn name_server(&self, number: u8) -> dns::NameServer {
        let address = at(self.provider4(number), 53);
        dns::NameServer::start(self.provider.run(|| std::net::UdpSocket::bind(address).expect("port 53")))
    }

    /// Lets the daemon and what [`Lab::with_resolvers`] runs see these resolvers in `/etc/resolv.conf`.
    pub fn resolvers(&self, addresses: &[IpAddr]) {
        let lines: String = addresses.iter().map(|address| format!("nameserver {address}\n")).collect();
        put(&self.dir.path().join("resolv.conf"), &(lines + "options timeout:1 attempts:1\n"));
    }

    /// The same program, with a `/etc/resolv.conf` of its own where there is one.
    fn with_resolvers(&self, command: Command) -> Command {
        let resolvers = self.dir.path().join("resolv.conf");
        if !resolvers.exists() {
            return command;
        }
        let mut wrapped = Command::new("unshare");
        let mount = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        wrapped.args(["--mount", "--propagation", "private", "sh", "-c", mount]).arg(&resolvers);
        wrapped.arg(command.get_program()).args(command.get_args());
        wrapped
    }

    // Files

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn etc(&self, name: &str) -> PathBuf {
        self.dir.path().join("etc").join(name)
    }

    /// Writes `services.d/NAME.toml`.
    pub fn write(&self, name: &str, schedule: &str) {
        put(&self.etc(&format!("services.d/{name}.toml")), schedule);
    }

    /// Removes `services.d/NAME.toml`.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.etc(&format!("services.d/{name}.toml"))).expect("the schedule was there");
    }

    /// Writes `segments.d/NAME.toml`.
    pub fn segment(&self, name: &str, text: &str) {
        put(&self.etc(&format!("segments.d/{name}.toml")), text);
    }

    /// Removes `segments.d/NAME.toml`.
    pub fn remove_segment(&self, name: &str) {
        fs::remove_file(self.etc(&format!("segments.d/{name}.toml"))).expect("the segment was there");
    }

    /// Writes `lists/NAME.txt`.
    pub fn list(&self, name: &str, text: &str) {
        put(&self.etc(&format!("lists/{name}.txt")), text);
    }

    /// Adds tables to `picoseg.toml`, beside `[paths]`.
    pub fn settings(&self, tables: &str) {
        let all = self.settings.take() + tables + "\n";
        put(&self.config(), &(self.paths("state", "run") + &all));
        self.settings.set(all);
    }

    /// A `picoseg.toml` that differs in its directories for state and sockets only.
    pub fn second_config(&self) -> PathBuf {
        let path = self.etc("second.toml");
        put(&path, &self.paths("second-state", "second-run"));
        path
    }

    pub fn config(&self) -> PathBuf {
        self.etc("picoseg.toml")
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Where the sockets are.
    pub fn runtime(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    fn paths(&self, state: &str, runtime: &str) -> String {
        let dir = self.dir.path().display();
        format!(
            r#"[paths]
services = "{dir}/etc/services.d"
segments = "{dir}/etc/segments.d"
lists = "{dir}/etc/lists"
state = "{dir}/{state}"
runtime = "{dir}/{runtime}"

"#
        )
    }

    /// Lets the provider reach the containers by their own addresses.
    pub fn route_to_containers(&self) {
        self.provider.ip(&format!("route add 172.30.0.0/24 via {}\n", self.host4()));
    }

    /// What container engines keep in `/var/lib`, as the daemon sees it.
    pub fn engines(&self) -> PathBuf {
        self.dir.path().join("var-lib")
    }

    // Programs

    /// Starts `picosegd` and waits until its ruleset is in force.
    pub fn daemon(&self) -> Daemon {
        self.try_daemon().unwrap_or_else(|failed| panic!("picosegd: exit {:?}\n{}", failed.code, failed.log))
    }

    /// # Errors
    /// When it ends instead.
    pub fn try_daemon(&self) -> Result<Daemon, Failed> {
        self.daemon_with(&self.config())
    }

    /// # Errors
    /// When it ends instead.
    pub fn daemon_with(&self, config: &Path) -> Result<Daemon, Failed> {
        let start = self.started.get() + 1;
        self.started.set(start);
        let of_this_start = |what: &str| self.dir.path().join(format!("{what}{start}"));
        let mut command = Command::new(program("picosegd"));
        command.arg("--config").arg(config);
        let (notify, log) = (of_this_start("notify"), of_this_start("log"));
        let command = self.with_resolvers(command);
        let engines = self.engines();
        self.host.run(|| {
            engine::see_state(&engines);
            Daemon::start(command, notify, log)
        })
    }

    /// Starts `picoseg-execd` and waits until it holds executions.
    pub fn execd(&self) -> Daemon {
        let start = self.started.get() + 1;
        self.started.set(start);
        let of_this_start = |what: &str| self.dir.path().join(format!("{what}{start}"));
        let mut command = Command::new(program("picoseg-execd"));
        command.arg("--config").arg(self.config());
        let (notify, log) = (of_this_start("notify"), of_this_start("log"));
        Daemon::start(command, notify, log)
            .unwrap_or_else(|failed| panic!("picoseg-execd: exit {:?}\n{}", failed.code, failed.log))
    }

    /// Starts any command in the host's network namespace.
    pub fn spawn_on_host(&self, mut command: Command) -> Child {
        self.host.run(|| command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}")))
    }

    /// Starts a `picosegd` that sees another directory at `/etc`.
    pub fn daemon_seeing(&self, etc: &Path) -> Daemon {
        self.daemon_after("mount --bind \"$0\" /etc", etc)
    }

    /// Starts a `picosegd` with a state directory that is a file system of its own, of so many bytes; seen by the daemon only.
    pub fn daemon_on_little_space(&self, bytes: u32) -> Daemon {
        self.daemon_after(&format!("mount -t tmpfs -o size={bytes} tmpfs \"$0\""), &self.state())
    }

    /// Starts a `picosegd` in a mount namespace of its own, after a command in it that gets a path.
    fn daemon_after(&self, mount: &str, path: &Path) -> Daemon {
        let start = self.started.get() + 1;
        self.started.set(start);
        let of_this_start = |what: &str| self.dir.path().join(format!("{what}{start}"));
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c"]);
        command.arg(format!("{mount} && exec \"$@\"")).arg(path);
        command.arg(program("picosegd")).arg("--config").arg(self.config());
        let (notify, log) = (of_this_start("notify"), of_this_start("log"));
        let started = self.host.run(|| Daemon::start(command, notify, log));
        started.unwrap_or_else(|failed| panic!("picosegd: exit {:?}\n{}", failed.code, failed.log))
    }

    /// Starts a `picosegd` whose standard error journald reads, with its socket in this directory.
    pub fn daemon_with_journal(&self, journal: &Path) -> Daemon {
        let start = self.started.get() + 1;
        self.started.set(start);
        let of_this_start = |what: &str| self.dir.path().join(format!("{what}{start}"));
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c"]);
        let script = "mount -t tmpfs none /run && mkdir /run/systemd && ln -s \"$0\" /run/systemd/journal \
            && JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec \"$@\"";
        command.arg(script).arg(journal);
        command.arg(program("picosegd")).arg("--config").arg(self.config());
        let (notify, log) = (of_this_start("notify"), of_this_start("log"));
        let started = self.host.run(|| Daemon::start(command, notify, log));
        started.unwrap_or_else(|failed| panic!("picosegd: exit {:?}\n{}", failed.code, failed.log))
    }

    /// Runs `picosegd --unload`.
    pub fn unload(&self) -> Cli {
        let mut command = Command::new(program("picosegd"));
        command.arg("--config").arg(self.config()).arg("--unload");
        self.on_host(command)
    }

    /// Runs `picoseg` against the daemon of this lab.
    pub fn picoseg(&self, arguments: &[&str]) -> Cli {
        self.picoseg_over(&self.dir.path().join("run/control.sock"), arguments)
    }

    /// Runs `picoseg` over another socket.
    pub fn picoseg_over(&self, socket: &Path, arguments: &[&str]) -> Cli {
        let mut command = Command::new(program("picoseg"));
        command.arg("--config").arg(self.config()).arg("--socket").arg(socket);
        command.args(arguments).env("NO_COLOR", "1");
        self.on_host(command)
    }

    /// Runs any command in the host's network namespace.
    pub fn on_host(&self, command: Command) -> Cli {
        self.host.run(|| Cli::run(command))
    }

    /// Runs `body` on a thread in the host's network namespace.
    pub fn in_host<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        self.host.run(body)
    }

    // What the daemon says

    pub fn status(&self) -> Value {
        self.picoseg(&["status", "--json"]).ok().json()
    }

    /// The entry of one service in `services --json`.
    pub fn service(&self, name: &str) -> Value {
        let body = self.picoseg(&["services", "--json"]).ok().json();
        let services = body["services"].as_array().unwrap_or_else(|| panic!("no services in {body}"));
        services.iter().find(|s| s["name"] == name).unwrap_or_else(|| panic!("no {name} in {body}")).clone()
    }

    pub fn state_of(&self, name: &str) -> String {
        self.service(name)["state"].as_str().expect("a state is text").to_owned()
    }

    /// The rows of `attempts --json`.
    pub fn attempts(&self) -> Vec<Value> {
        let body = self.picoseg(&["attempts", "--limit", "10000", "--json"]).ok().json();
        body["attempts"].as_array().unwrap_or_else(|| panic!("no attempts in {body}")).clone()
    }

    /// The sum of `count` over the rows that have all these values.
    pub fn attempts_with(&self, values: &[(&str, &str)]) -> u64 {
        let fits = |row: &&Value| values.iter().all(|(key, value)| same(&row[key], value));
        self.attempts()
            .iter()
            .filter(fits)
            .map(|row| row["count"].as_u64().expect("a count is a number"))
            .sum()
    }

    /// Waits until so many attempts show.
    pub fn expect_attempts(&self, count: u64, values: &[(&str, &str)]) {
        let mut seen = 0;
        let all = clock::within(SHOWN, || {
            seen = self.attempts_with(values);
            (seen >= count).then_some(())
        });
        let rows = || self.attempts().iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
        assert!(
            all.is_some() && seen == count,
            "{seen} attempts instead of {count} with {values:?}\n{}",
            rows()
        );
    }

    /// Writes a service of its own, so that [`Lab::all_on_record`] can tell when the daemon is up to date.
    pub fn canary(&self) {
        let nobody =
            schedule::policy("ingress", "cgroup = \"/nobody\"", &self.provider4(CANARY).to_string(), "1/tcp");
        self.write("canary", &schedule::schedule(schedule::Lifetime::open(), &[nobody]));
    }

    /// Has one more packet refused and waits until it shows: then everything before it does too.
    pub fn all_on_record(&self, provider: &Agent) {
        let before = self.attempts_with(&[("service", "canary")]);
        let from = at(self.provider4(CANARY), 40_000);
        provider.raw(Packets { kind: Kind::Syn, from, to: at(self.host4(), 1), count: 1 });
        self.expect_attempts(before + 1, &[("service", "canary")]);
    }

    /// Insists that nothing but the canary was refused until now.
    pub fn expect_no_attempts(&self, provider: &Agent) {
        self.all_on_record(provider);
        let accused: Vec<_> = self.attempts().into_iter().filter(|row| row["service"] != "canary").collect();
        assert!(accused.is_empty(), "refused: {accused:#?}");
    }

    /// Local TCP sockets of the host that are connected to `remote`; TIME-WAIT is none.
    pub fn sockets_to(&self, remote: IpAddr) -> Vec<String> {
        let mut command = Command::new("ss");
        command.args(["-H", "-t", "-n", "-a", "dst", &bracketed(remote)]);
        let listed = self.on_host(command).ok().stdout;
        listed.lines().filter(|line| !line.starts_with("TIME-WAIT")).map(str::to_owned).collect()
    }

    // Making it

    fn lay_the_wire(&self) {
        for (netns, device) in [(&self.host, "host0"), (&self.provider, "wire0")] {
            netns.run(no_duplicate_address_detection);
            netns.ip("link set lo up\n");
            if device == "host0" {
                netns.ip(&format!(
                    "link add host0 type veth peer name wire0 netns {}\n",
                    self.provider.name()
                ));
            }
        }
        let mut theirs = String::from("link set wire0 up\n");
        for number in 0..V4_PROVIDERS {
            writeln!(theirs, "addr add {}/24 dev wire0", self.provider4(number)).expect("to a string");
        }
        for number in 0..V6_PROVIDERS {
            writeln!(theirs, "addr add {}/64 dev wire0 nodad", self.provider6(number)).expect("to a string");
        }
        self.provider.ip(&theirs);
        let (v4, v6) = (self.host4(), self.host6());
        self.host.ip(&format!(
            "link set host0 up\naddr add {v4}/24 dev host0\naddr add {v6}/64 dev host0 nodad\n"
        ));
        self.provider.run(|| knock_until_the_neighbour_answers(&[v4, v6]));
    }

    fn furnish(&self) {
        for dir in ["etc/services.d", "etc/segments.d", "etc/lists", "state", "run"] {
            fs::create_dir_all(self.dir.path().join(dir)).expect("a directory of ours");
        }
        self.settings("");
    }
}

/// A program of this build, or of the directory that `PICOSEG_BIN_DIR` names.
pub fn program(name: &str) -> PathBuf {
    let built = match name {
        "picoseg" => env!("CARGO_BIN_EXE_picoseg"),
        "picosegd" => env!("CARGO_BIN_EXE_picosegd"),
        "picoseg-execd" => env!("CARGO_BIN_EXE_picoseg-execd"),
        other => panic!("{other} is none of ours"),
    };
    std::env::var_os("PICOSEG_BIN_DIR").map_or_else(|| built.into(), |dir| Path::new(&dir).join(name))
}

/// A program that runs beside the test.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A machine behind the host, which forwards its traffic.
pub struct Guest {
    netns: Netns,
    address: IpAddr,
}

impl Guest {
    pub fn process(&self) -> Agent {
        self.netns.run(|| Agent::spawn(None, 0))
    }

    pub fn address(&self) -> IpAddr {
        self.address
    }
}

/// A machine behind the provider.
pub struct Beyond {
    netns: Netns,
    addresses: [IpAddr; 2],
}

impl Beyond {
    pub fn process(&self) -> Agent {
        self.netns.run(|| Agent::spawn(None, 0))
    }

    /// IPv4, IPv6.
    pub fn addresses(&self) -> [IpAddr; 2] {
        self.addresses
    }
}

/// One of the addresses of [`Lab::public`]: documentation's (RFC 5737, RFC 3849), which count as public.
pub fn public4(number: u8) -> IpAddr {
    Ipv4Addr::new(203, 0, 113, 10 + number).into()
}

pub fn public6(number: u8) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 5, 0, 0, 0, 0, 0x10 + u16::from(number)).into()
}

/// `remote` with a port.
pub fn at(remote: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(remote, port)
}

pub fn put(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

const NETNS: &str = "pst";
const SLICE: &str = "picotest";

/// Removes what test processes left behind that were killed.
fn sweep() {
    netns::sweep(|name| of_the_dead(name.strip_prefix(NETNS)));
    cgroup::sweep(|name| of_the_dead(name.strip_prefix(SLICE)));
}

/// Whether an id like `4711n2h` is of a process that is gone.
fn of_the_dead(id: Option<&str>) -> bool {
    let pid = id.and_then(|id| id.split_once('n')).and_then(|(pid, _)| pid.parse::<u32>().ok());
    pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

fn no_duplicate_address_detection() {
    for scope in ["all", "default"] {
        put(Path::new(&format!("/proc/sys/net/ipv6/conf/{scope}/accept_dad")), "0");
    }
}

/// Both sides know each other's link-layer address afterwards: while it is asked for, packets may be lost, and a
/// test that counts packets would miss them.
fn knock_until_the_neighbour_answers(addresses: &[IpAddr]) {
    for address in addresses {
        let what = format!("{address} answers");
        clock::until(&what, Duration::from_secs(10), || {
            let outcome = TcpStream::connect_timeout(&at(*address, 1), Duration::from_secs(2));
            outcome.is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
        });
    }
}

fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

/// Compares a JSON value with text: numbers by their digits, null as `null`.
fn same(value: &Value, text: &str) -> bool {
    value.as_str().unwrap_or(&value.to_string()) == text
}
