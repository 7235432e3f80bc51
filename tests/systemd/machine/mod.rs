//! A machine with a real systemd as PID 1, with a wire to the outside, gone again on drop.
//!
//! ```text
//!   machine (pid, mount, uts, ipc, cgroup, net)  host0 ---- wire0  outside (net)
//!                                         192.0.2.1/24          192.0.2.10 .. 192.0.2.13
//!                                        2001:db8::1/64        2001:db8::10 .. 2001:db8::13
//! ```
//!
//! The rules have to be loaded from inside: the kernel counts the levels of `socket cgroupv2` from the cgroup namespace of
//! the process that loads them. The numbers of cgroups and what the network stack does are those of this kernel.

mod boot;
mod place;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::agent::{AGENT, Agent};
use crate::cli::Cli;
use crate::clock::within;
use crate::netns::{self, Netns};
use crate::outside::Outside;
use crate::skip::skipped;
pub use boot::System;
use place::{Cage, Tree};

/// What the kernel and systemd do at once, on a loaded machine.
pub const MOMENT: Duration = Duration::from_secs(10);

const NETNS: &str = "psb";
const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd");
/// What is installed: by its path, where packages put it.
const PROGRAMS: [(&str, &str); 3] = [
    ("/usr/bin/picosegd", env!("CARGO_BIN_EXE_picosegd")),
    ("/usr/bin/picoseg", env!("CARGO_BIN_EXE_picoseg")),
    ("/usr/bin/picoseg-execd", env!("CARGO_BIN_EXE_picoseg-execd")),
];

enum Installed {
    Yes,
    No,
}

pub struct Machine {
    id: String,
    programs: &'static [(&'static str, &'static str)],
    /// The process that is PID 1 inside.
    leader: u32,
    // In this order: processes, then what they used.
    nspawn: Child,
    cage: Option<Cage>,
    tree: Tree,
    outside: Outside,
    inside: Netns,
}

impl Machine {
    /// A machine on which picoseg is installed and enabled, with more `files`: paths below `/`, and texts. Everything that
    /// is to start at boot has. `None` after saying why this machine cannot have one.
    pub fn boot(files: &[(&str, &str)]) -> Option<Self> {
        let suite = match std::env::var("PICOSEG_SUITE").as_deref() {
            Ok("bookworm") => "bookworm",
            _ => "trixie",
        };
        Self::boot_on(System { suite, variant: "base" }, files)
    }

    /// The same on a release of Debian that the test names.
    pub fn boot_on(system: System, files: &[(&str, &str)]) -> Option<Self> {
        Self::build(system, Installed::Yes, files).map_err(|reason| skipped(&reason)).ok()
    }

    /// A machine without picoseg, for tests that install it as users do.
    pub fn bare(system: System, files: &[(&str, &str)]) -> Option<Self> {
        Self::build(system, Installed::No, files).map_err(|reason| skipped(&reason)).ok()
    }

    fn build(system: System, installed: Installed, files: &[(&str, &str)]) -> Result<Self, String> {
        static MACHINES: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            return Err("not root".to_owned());
        }
        place::sweep(of_the_dead);
        netns::sweep(|name| name.strip_prefix(NETNS).is_some_and(of_the_dead));
        let base = boot::base(system)?;
        let id = format!("{}n{}", std::process::id(), MACHINES.fetch_add(1, Ordering::Relaxed));
        let inside = Netns::add(&format!("{NETNS}{id}i"))?;
        let outside = Outside::beside(&inside, Netns::add(&format!("{NETNS}{id}o"))?);
        let (tree, cage) = (Tree::lay(&id, &base)?, Cage::build(&id)?);
        put(&tree.root(), AGENT, "");
        let programs: &'static [_] = match installed {
            Installed::Yes => {
                install(&tree.root());
                &PROGRAMS
            }
            Installed::No => &[],
        };
        files.iter().for_each(|(path, text)| put(&tree.root(), path, text));
        let (nspawn, leader) = boot::boot(&id, &tree, &cage, &inside, programs)?;
        Ok(Self { id, programs, leader, nspawn, cage: Some(cage), tree, outside, inside })
    }

    /// Switches it off, lets `meanwhile` change its files, and boots it again. As on a real machine no table is left.
    pub fn reboot(&mut self, meanwhile: impl FnOnce(&Path)) {
        self.systemctl(&["poweroff"]).ok();
        let off = within(MOMENT, || self.nspawn.try_wait().expect("our own child"));
        assert!(off.is_some(), "the machine does not end");
        self.cage = None;
        let mut flush = Command::new("nft");
        flush.args(["flush", "ruleset"]);
        self.inside.run(|| Cli::run(flush)).ok();
        meanwhile(&self.tree.root());
        let cage = Cage::build(&self.id).expect("as at the first boot");
        let booted = boot::boot(&self.id, &self.tree, &cage, &self.inside, self.programs);
        (self.nspawn, self.leader) = booted.expect("as at the first boot");
        self.cage = Some(cage);
    }

    pub fn outside(&self) -> &Outside {
        &self.outside
    }

    /// Runs a program inside, as root, in no unit.
    pub fn run(&self, arguments: &[&str]) -> Cli {
        Cli::run(self.command(arguments))
    }

    /// The same for what takes longer than a command may.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.leader.to_string()]);
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"]);
        command
            .args(arguments)
            .env("NO_COLOR", "1")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null());
        command
    }

    pub fn systemctl(&self, arguments: &[&str]) -> Cli {
        self.run(&[&["systemctl", "--no-pager"], arguments].concat())
    }

    /// Insists that it works, and shows the journal where it does not.
    pub fn start(&self, unit: &str) {
        self.unit_command("start", unit);
    }

    pub fn restart(&self, unit: &str) {
        self.unit_command("restart", unit);
    }

    pub fn stop(&self, unit: &str) {
        self.unit_command("stop", unit);
    }

    fn unit_command(&self, verb: &str, unit: &str) {
        let done = self.systemctl(&[verb, unit]);
        assert_eq!(done.code, 0, "systemctl {verb} {unit}: {}\n{}", done.stderr, self.journal(unit));
    }

    /// One property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.systemctl(&["show", "--value", "--property", name, unit]).ok().stdout.trim().to_owned()
    }

    /// The last lines of a unit.
    pub fn journal(&self, unit: &str) -> String {
        self.run(&["journalctl", "--no-pager", "--lines=40", "--output=cat", "--unit", unit]).stdout
    }

    pub fn picoseg(&self, arguments: &[&str]) -> Cli {
        self.run(&[&["picoseg"], arguments].concat())
    }

    pub fn status(&self) -> Value {
        self.picoseg(&["status", "--json"]).ok().json()
    }

    /// The table in force, as nft prints it inside.
    pub fn table(&self) -> String {
        self.run(&["nft", "list", "table", "inet", "picoseg"]).ok().stdout
    }

    /// Writes a file inside.
    pub fn put(&self, path: &str, text: &str) {
        put(&self.tree.root(), path, text);
    }

    /// Puts another copy of the agent at a path inside.
    pub fn copy_agent(&self, path: &str) {
        let to = self.tree.root().join(path.trim_start_matches('/'));
        fs::create_dir_all(to.parent().expect("below the root")).expect("a tree of ours");
        fs::copy(std::env::current_exe().expect("this binary"), &to).expect("a tree of ours");
    }

    /// Loads the files of picoseg.
    pub fn apply(&self) {
        self.picoseg(&["apply"]).ok();
    }

    /// The agent that a unit runs.
    pub fn agent(&self, name: &str) -> Agent {
        Agent::at(self.path(&Agent::socket(name)))
    }

    /// Where this process finds what is at `path` inside, also in its mounts.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.leader))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- picosegd inside the machine\n{}---", self.journal("picosegd.service"));
        }
        let _ = self.nspawn.kill();
        let _ = self.nspawn.wait();
    }
}

/// The names of the units that are shipped.
pub fn shipped_units() -> Vec<String> {
    shipped("").filter(|name| name.ends_with(".service")).collect()
}

/// The files in a directory of `systemd`.
fn shipped(directory: &str) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(Path::new(UNITS).join(directory)).expect("it is shipped").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// What a package and an administrator do: units, users and directories in place, the daemon enabled.
fn install(root: &Path) {
    for (from, to) in [("", "systemd/system"), ("sysusers.d", "sysusers.d"), ("tmpfiles.d", "tmpfiles.d")] {
        for name in shipped(from).filter(|name| name.contains('.') && !name.ends_with(".d")) {
            let text = fs::read_to_string(Path::new(UNITS).join(from).join(&name)).expect("it is text");
            put(root, &format!("/usr/lib/{to}/{name}"), &text);
        }
    }
    for dir in ["services.d", "segments.d", "lists"] {
        fs::create_dir_all(root.join("etc/picoseg").join(dir)).expect("a tree of ours");
    }
    put(root, "/etc/systemd/system/multi-user.target.d/picoseg.conf", "[Unit]\nWants=picosegd.service\n");
    put(root, "/etc/systemd/system/sysinit.target.d/picoseg.conf", "[Unit]\nWants=picoseg-early.service\n");
}

fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path.trim_start_matches('/'));
    fs::create_dir_all(path.parent().expect("below the root")).expect("a tree of ours");
    fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// Whether an id like `4711n2` is of a process that is gone.
fn of_the_dead(id: &str) -> bool {
    let pid = id.split_once('n').and_then(|(pid, _)| pid.parse::<u32>().ok());
    pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}
