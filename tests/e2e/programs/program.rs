//! Builds the program that knocks, and runs it in the cgroup of a unit.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::lab::{Lab, Unit, skipped};

/// How the program is linked.
#[derive(Clone, Copy)]
pub enum Linked {
    Static,
    Dynamic,
}

/// Builds it once for all tests; `None` after saying why it cannot be built.
pub fn build(linked: Linked) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/programs/knock.rs");
    let (name, link) = match linked {
        Linked::Static => ("knock-static", "target-feature=+crt-static"),
        Linked::Dynamic => ("knock-dynamic", "target-feature=-crt-static"),
    };
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let date = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    if date(&built) > date(&source) {
        return Some(built);
    }
    let fresh = built.with_extension(std::process::id().to_string());
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition=2021", "-Copt-level=1", "-Cpanic=abort", "-Cstrip=symbols", "-C", link, "-o"]);
    match rustc.arg(&fresh).arg(&source).status() {
        Ok(status) if status.success() => {}
        outcome => {
            skipped(&format!("cannot build {}: {outcome:?}", source.display()));
            return None;
        }
    }
    fs::rename(&fresh, &built).expect("a file of ours");
    Some(built)
}

/// A copy of it that belongs to one test.
pub fn copy_to(built: &Path, path: &Path) {
    let fresh = path.with_extension("new");
    fs::copy(built, &fresh).expect("a directory of ours");
    fs::rename(&fresh, path).expect("a directory of ours");
}

/// One line that the program printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Knock {
    /// `ok`, or the error.
    pub outcome: String,
    pub cgroup: String,
}

impl Knock {
    pub fn is_ok(&self) -> bool {
        self.outcome == "ok"
    }

    fn parse(line: &str) -> Self {
        let (outcome, cgroup) = line.trim_end().split_once(' ').unwrap_or_else(|| panic!("said {line:?}"));
        Self { outcome: outcome.to_owned(), cgroup: cgroup.to_owned() }
    }
}

/// The program while it runs.
pub struct Running {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

/// What a shell in the unit does: moves itself there, and becomes the program.
fn in_unit(unit: &Unit, program: &Path) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "echo $$ > \"$0\"/cgroup.procs && exec \"$@\""]).arg(unit.dir()).arg(program);
    command
}

/// Runs it to its end in a unit: what its first connection came to.
pub fn knocks(lab: &Lab, unit: &Unit, program: &Path, remote: SocketAddr) -> Knock {
    knocks_with(lab, in_unit(unit, program), remote)
}

/// Runs any command line that ends in the program's own.
pub fn knocks_with(lab: &Lab, mut command: Command, remote: SocketAddr) -> Knock {
    command.arg(remote.to_string());
    Knock::parse(&lab.on_host(command).ok().stdout)
}

/// Starts a command in a unit instead of the program itself.
pub fn command_in(unit: &Unit, words: &[&str]) -> Command {
    let mut command = in_unit(unit, Path::new(words[0]));
    command.args(&words[1..]);
    command
}

impl Running {
    /// Starts it in a unit; it does nothing until it is told to.
    pub fn start(lab: &Lab, unit: &Unit, program: &Path) -> Self {
        Self::spawn(lab, in_unit(unit, program))
    }

    /// Starts it in a unit; it connects at once, which [`Running::heard`] waits for.
    pub fn start_knocking(lab: &Lab, unit: &Unit, program: &Path, remote: SocketAddr) -> Self {
        let mut command = in_unit(unit, program);
        command.arg(remote.to_string());
        Self::spawn(lab, command)
    }

    fn spawn(lab: &Lab, mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = lab.spawn_on_host(command);
        let stdin = child.stdin.take().expect("a pipe");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, stdin, stdout }
    }

    pub fn knock(&mut self, remote: SocketAddr) -> Knock {
        self.say(&remote.to_string())
    }

    /// Lets it start another program.
    pub fn start_another(&mut self, program: &Path, remote: SocketAddr) -> Knock {
        self.say(&format!("start {} {remote}", program.display()))
    }

    /// Lets it execute a program in its own place, which fails.
    pub fn fail_to_become(&mut self, program: &Path) {
        writeln!(self.stdin, "fail {}", program.display()).expect("it runs");
    }

    fn say(&mut self, line: &str) -> Knock {
        writeln!(self.stdin, "{line}").expect("it runs");
        self.heard()
    }

    /// The next line that it prints.
    pub fn heard(&mut self) -> Knock {
        let mut answer = String::new();
        self.stdout.read_line(&mut answer).expect("it runs");
        Knock::parse(&answer)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
