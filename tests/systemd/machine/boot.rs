//! From a root file system to a system that is up.

use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::place::{Cage, Tree};
use crate::agent::AGENT;
use crate::clock;
use crate::netns::Netns;

/// From the start of nspawn until systemd has started everything; half a second on a machine that is idle.
const UP_WITHIN: Duration = Duration::from_secs(60);
/// What a host's root has and picoseg or its tests need, beyond what nspawn leaves by itself.
const CAPABILITIES: &str =
    "CAP_NET_ADMIN,CAP_NET_RAW,CAP_SYS_PTRACE,CAP_BPF,CAP_PERFMON,CAP_SYSLOG,CAP_IPC_LOCK,CAP_WAKE_ALARM";

/// What a machine lies on: a release of Debian, and what is in it besides systemd (see `scripts/rootfs`).
#[derive(Debug, Clone, Copy)]
pub struct System {
    pub suite: &'static str,
    pub variant: &'static str,
}

/// The root file system of a system.
///
/// # Errors
/// The reason in words: a program that is missing, no mirror within reach.
pub fn base(system: System) -> Result<PathBuf, String> {
    for (program, package) in
        [("systemd-nspawn", "systemd-container"), ("nsenter", "util-linux"), ("ip", "iproute2")]
    {
        let found =
            Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        // `ip` knows no such option, and is there.
        found.map_err(|_| format!("{program} is not installed (package {package})"))?;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/rootfs");
    let made = Command::new(&script)
        .args([system.suite, system.variant])
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{}: {e}", script.display()))?;
    if !made.status.success() {
        let said = String::from_utf8_lossy(&made.stderr);
        return Err(format!(
            "no root file system: {}",
            said.lines().last().unwrap_or("scripts/rootfs has failed")
        ));
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&made.stdout).trim()))
}

/// Starts systemd in namespaces of its own and returns when it has started everything, with its process id.
///
/// # Errors
/// The reason in words, when this kernel or its permissions do not let nspawn start anything at all.
///
/// # Panics
/// When systemd runs and does not get up.
pub fn boot(
    id: &str,
    tree: &Tree,
    cage: &Cage,
    netns: &Netns,
    programs: &[(&str, &str)],
) -> Result<(Child, u32), String> {
    let (notify, console) = (tree.beside("notify"), tree.beside("console"));
    // Of the boot before.
    let _ = fs::remove_file(&notify);
    let socket = UnixDatagram::bind(&notify).map_err(|e| format!("{}: {e}", notify.display()))?;
    socket.set_nonblocking(true).expect("a socket of ours");
    let log = File::create(&console).map_err(|e| format!("{}: {e}", console.display()))?;
    let mut command = nspawn(id, tree, cage, netns, programs);
    command.env("NOTIFY_SOCKET", &notify).stdin(Stdio::null());
    command.stdout(log.try_clone().expect("a second handle")).stderr(log);
    let mut child = command.spawn().map_err(|e| format!("systemd-nspawn: {e}"))?;
    let (mut leader, mut ready) = (None, false);
    let up = clock::within(UP_WITHIN, || {
        for line in heard(&socket) {
            leader = line.strip_prefix("X_NSPAWN_LEADER_PID=").and_then(|pid| pid.parse().ok()).or(leader);
            ready |= line == "READY=1";
        }
        let over = child.try_wait().expect("our own child").is_some();
        (ready || over).then_some(ready)
    });
    let said = || tail(&fs::read_to_string(&console).unwrap_or_default());
    match (up, leader) {
        (Some(true), Some(leader)) => Ok((child, leader)),
        (_, None) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(format!("systemd-nspawn starts nothing here: {}", said().replace('\n', " | ")))
        }
        (_, Some(_)) => {
            let _ = child.kill();
            let _ = child.wait();
            panic!("systemd is not up within {UP_WITHIN:?}:\n{}", said())
        }
    }
}

fn nspawn(id: &str, tree: &Tree, cage: &Cage, netns: &Netns, programs: &[(&str, &str)]) -> Command {
    let mut command = cage.command("systemd-nspawn");
    // One hierarchy inside, whatever the host has; sysctls of the network can be set.
    command.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1").env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "network");
    // No manager of machines on the host is asked: there may be none.
    command.args([
        "--quiet",
        "--boot",
        "--register=no",
        "--keep-unit",
        "--notify-ready=yes",
        "--console=pipe",
    ]);
    command.args(["--resolv-conf=off", "--timezone=off", "--link-journal=no", "--kill-signal=SIGRTMIN+3"]);
    command.arg(format!("--machine=picoseg{id}"));
    command.arg(format!("--directory={}", tree.root().display()));
    command.arg(format!("--network-namespace-path=/run/netns/{}", netns.name()));
    command.arg(format!("--capability={CAPABILITIES}"));
    // nspawn's own filter refuses them although the capability is there.
    command.arg("--system-call-filter=fanotify_init fanotify_mark bpf");
    let this = std::env::current_exe().expect("this binary");
    let agent = [(AGENT, this.to_str().expect("a path in UTF-8"))];
    for (place, program) in programs.iter().chain(&agent) {
        command.arg(format!("--bind-ro={program}:{place}"));
    }
    command
}

fn heard(socket: &UnixDatagram) -> Vec<String> {
    let (mut lines, mut message) = (Vec::new(), [0; 4096]);
    while let Ok(length) = socket.recv(&mut message) {
        lines.extend(String::from_utf8_lossy(&message[..length]).lines().map(str::to_owned));
    }
    lines
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
