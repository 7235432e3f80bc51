//! What tools that converge hosts have in common: a machine without picoseg, the package beside it, and a service whose
//! traffic tells whether it opened, was cut, and is watched.
//!
//! ```text
//!   pay.service  ---> 443 of 192.0.2.10, the provider     the subject of the service `pay`
//!   else.service ---> the same                            somebody else: always refused
//!   hook.service <--- 8443, from 192.0.2.10               where the provider tries to get in
//! ```
//!
//! The package is the file that `PICOSEG_DEB` names, or the newest in `target/package`.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use crate::agent::{Agent, unit};
use crate::cli;
use crate::clock::until;
use crate::machine::{MOMENT, Machine, System};
use crate::outside::{Echo, v4};
use crate::schedule::file;
use crate::skip::skipped;

/// Where the package lies inside.
pub const PACKAGE: &str = "/root/picoseg.deb";
/// The service that the tools converge.
pub const SERVICE: &str = "pay";
/// Its subject.
pub const SUBJECT: &str = "pay.service";
/// Whom it talks to.
pub const PROVIDER: &str = "192.0.2.10";
pub const PORT: u16 = 443;
/// What the provider tries, of a unit that listens and that no schedule names.
const HOOK: u16 = 8443;
/// A run of a tool, on a machine that does other things as well.
const RUN_WITHIN: Duration = Duration::from_secs(180);

/// A machine to converge.
pub struct Site {
    pub machine: Machine,
    _echo: Echo,
    /// The connection that is cut is this one's.
    subject: Agent,
    other: Agent,
}

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    /// Both streams, as they came.
    pub said: String,
    command: String,
}

impl Site {
    /// Boots a machine without picoseg, on which `SUBJECT` and others run and the package lies at [`PACKAGE`]. `None` after
    /// saying why there is none.
    pub fn boot(suite: &'static str) -> Option<Self> {
        let package = package()?;
        let units = [("pay", "ask pay"), ("else", "ask else"), ("hook", "serve 8443")];
        let units = units.map(|(name, role)| (format!("/etc/systemd/system/{name}.service"), unit(role, "")));
        let files: Vec<_> = units.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        let machine = Machine::bare(System { suite, variant: "managed" }, &files)?;
        fs::copy(&package, machine.path(PACKAGE)).expect("the package, and a tree of ours");
        let echo = machine.outside().echo(PORT);
        ["pay.service", "else.service", "hook.service"].iter().for_each(|unit| machine.start(unit));
        let (subject, other) = (machine.agent("pay"), machine.agent("else"));
        let site = Self { machine, _echo: echo, subject, other };
        assert!(
            site.subject.talks_to(provider()) && site.other.talks_to(provider()),
            "nothing is governed yet"
        );
        Some(site)
    }

    /// Copies a directory of this repository to a path inside.
    pub fn copy(&self, from: &str, to: &str) {
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join(from), &self.machine.path(to));
    }

    /// Runs a tool inside, to its end.
    pub fn run(&self, arguments: &[&str]) -> Run {
        Run::of(self.machine.command(arguments))
    }

    /// The service is open: its subject passes, others do not.
    pub fn is_open(&self) {
        until("the subject is admitted", MOMENT, || self.subject.talks_to(provider()));
        assert!(!self.other.talks_to(provider()), "only the subject is admitted");
        assert_eq!(self.state(), "open");
    }

    /// Has the subject connect, and keeps that connection until [`Self::is_cut`] asks for it.
    pub fn connects(&self) {
        assert!(self.subject.holds(provider()), "the subject is admitted");
    }

    /// What was connected is not any more, nothing new passes either way, and what the provider tries is on record.
    pub fn is_cut(&self, state: &str, reason: &str) {
        assert!(self.subject.lost(), "the connection is still there");
        assert!(!self.subject.talks_to(provider()), "the subject is still admitted");
        assert_eq!(self.state(), state);
        self.is_watched(reason);
    }

    /// The provider gets nowhere, others do, and what it tries is on record.
    pub fn is_watched(&self, reason: &str) {
        let before = self.attempts(reason);
        assert!(!self.machine.outside().talks_to(HOOK, v4(0)), "the provider gets in");
        assert!(self.machine.outside().talks_to(HOOK, v4(1)), "somebody else does not");
        until("the provider's attempt is on record", MOMENT, || self.attempts(reason) > before);
    }

    /// The files are as the tool wrote them, and what is in force is not.
    pub fn somebody_applies_something_else(&self) {
        let path = file(SERVICE);
        let edit =
            "cp -p $0 /root/kept && sed -i 's,443/tcp,444/tcp,' $0 && picoseg apply && cp -p /root/kept $0";
        self.machine.run(&["sh", "-c", edit, &path]).ok();
        assert!(!self.subject.talks_to(provider()), "the port is another one");
    }

    /// What is in force, without what changes by itself.
    pub fn table(&self) -> String {
        self.machine.status()["ruleset_digest"].to_string()
    }

    /// Everything that a tool could change and must not: what is in force, and what lies below `/etc/picoseg`.
    pub fn everything(&self) -> String {
        // A directory has another time when a copy lay in it to be checked.
        let listing = r"find /etc/picoseg -printf '%p %y %m %u %g ' -type f -printf '%T@ ' -exec sha256sum {} \; -o -printf '\n'";
        let files = self.machine.run(&["sh", "-c", listing]).ok().stdout;
        format!("{}\n{files}", self.table())
    }

    /// The daemon was never started again since the package brought it.
    pub fn was_never_restarted(&self, since: &str) {
        assert_eq!(self.daemon(), since, "the daemon is another process");
    }

    /// The daemon's process.
    pub fn daemon(&self) -> String {
        self.machine.property("picosegd.service", "MainPID")
    }

    fn state(&self) -> String {
        let services = self.machine.picoseg(&["services", "--json"]).ok().json();
        let services = services["services"].as_array().expect("a list").clone();
        let one = services.iter().find(|one| one["name"] == SERVICE);
        one.and_then(|one| one["state"].as_str()).unwrap_or("unknown").to_owned()
    }

    /// Packets of the provider that were refused for a reason.
    fn attempts(&self, reason: &str) -> u64 {
        let attempts = self.machine.picoseg(&["attempts", "--service", SERVICE, "--json"]).ok().json();
        let rows = attempts["attempts"].as_array().expect("a list").clone();
        let theirs = rows.iter().filter(|row| {
            row["direction"] == "ingress" && row["remote"] == PROVIDER && row["reason"] == reason
        });
        theirs.filter_map(|row| row["count"].as_u64()).sum()
    }
}

impl Run {
    /// Runs a command that may take its time to its end.
    pub fn of(mut command: Command) -> Self {
        let said = format!("{command:?}");
        let mut out = tempfile::tempfile().expect("a temporary file");
        let copy = || Stdio::from(out.try_clone().expect("a second handle"));
        command.stdin(Stdio::null()).stdout(copy()).stderr(copy());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{said}: {e}"));
        let status = cli::ended(&mut child, RUN_WITHIN);
        let text = text(&mut out);
        let status = status.unwrap_or_else(|| panic!("{said} still runs after {RUN_WITHIN:?}:\n{text}"));
        Self { code: status.code().unwrap_or(-1), said: text, command: said }
    }

    /// Insists on an exit code.
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code of {}\n{}", self.command, self.said);
        self
    }

    /// Insists on words in what it said.
    pub fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.said.contains(word), "{} should say {word:?}:\n{}", self.command, self.said);
        }
        self
    }
}

fn provider() -> SocketAddr {
    SocketAddr::new(v4(0), PORT)
}

/// The Debian package to test. `None` after saying so; under `CI=true` there has to be one.
pub fn package() -> Option<PathBuf> {
    newest("PICOSEG_DEB", "picoseg_", "deb")
}

/// The package that a variable names, or the newest of its kind in `target/package`.
pub fn newest(variable: &str, prefix: &str, extension: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Some(path.into());
    }
    let target = Path::new(env!("CARGO_BIN_EXE_picoseg")).ancestors().nth(2).expect("target/PROFILE/PROGRAM");
    let made = |path: &PathBuf| {
        fs::metadata(path).and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
    };
    let is_package = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with(prefix) && path.extension().is_some_and(|kind| kind == extension)
    };
    let entries = fs::read_dir(target.join("package")).into_iter().flatten().flatten();
    let newest = entries.map(|entry| entry.path()).filter(is_package).max_by_key(made);
    if newest.is_none() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "no .{extension}: run scripts/package");
        skipped(&format!(
            "there is no .{extension}: run scripts/package --format all, or name one with {variable}"
        ));
    }
    newest
}

/// Copies a directory with the files that are in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap_or_else(|e| panic!("{}: {e}", to.display()));
    for entry in fs::read_dir(from).unwrap_or_else(|e| panic!("{}: {e}", from.display())).flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type().expect("an entry of a directory") {
            kind if kind.is_dir() => copy(&path, &target),
            kind if kind.is_file() => {
                fs::copy(&path, &target).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            }
            // Tests of the Puppet module link it into itself.
            _ => {}
        }
    }
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes)).expect("our own file");
    String::from_utf8_lossy(&bytes).into_owned()
}
