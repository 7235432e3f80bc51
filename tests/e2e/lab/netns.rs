//! Network namespaces by name, entered by a thread, so that what that thread starts lives in them.
//!
//! Not by `ip netns exec`: it mounts a new `/sys`, and the cgroups are gone.

use std::fs::File;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread;

use nix::sched::{CloneFlags, setns};

pub struct Netns {
    name: String,
}

impl Netns {
    /// # Errors
    /// The reason in words: no permission, no `ip`, no such feature in this kernel.
    pub fn add(name: &str) -> Result<Self, String> {
        ip(&["netns", "add", name], "")?;
        Ok(Self { name: name.to_owned() })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` commands inside, one a line.
    pub fn ip(&self, commands: &str) {
        ip(&["-n", &self.name, "-batch", "-"], commands).unwrap_or_else(|e| panic!("{e}"));
    }

    /// Runs `body` on a thread that has entered the namespace.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let place = File::open(format!("/run/netns/{}", self.name)).expect("the namespace has a name");
        let entered = || {
            setns(&place, CloneFlags::CLONE_NEWNET).expect("root enters a network namespace");
            body()
        };
        let outcome = thread::scope(|scope| scope.spawn(entered).join());
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "del", &self.name], "") {
            eprintln!("left behind: {error}");
        }
    }
}

/// Deletes the namespaces of dead test processes: one that was killed could not clean up.
pub fn sweep(belongs_to_the_dead: impl Fn(&str) -> bool) {
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if belongs_to_the_dead(&name) {
            let _ = ip(&["netns", "del", &name], "");
        }
    }
}

fn ip(arguments: &[&str], input: &str) -> Result<(), String> {
    let failed = |why: String| format!("ip {}: {why}", arguments.join(" "));
    let mut child = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    let written = child.stdin.take().expect("stdin is piped").write_all(input.as_bytes());
    let output = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
    match (output.status.success(), written) {
        (true, Ok(())) => Ok(()),
        (true, Err(error)) => Err(failed(error.to_string())),
        (false, _) => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}
