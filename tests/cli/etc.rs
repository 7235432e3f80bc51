//! A configuration in a directory of its own, and `picoseg` run on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// Directories with settings that name them.
pub struct Etc(TempDir);

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Etc {
    pub fn new() -> Self {
        let etc = Self(tempfile::tempdir().unwrap());
        for directory in ["services.d", "segments.d", "lists"] {
            fs::create_dir(etc.path(directory)).unwrap();
        }
        let keys = [
            ("services", "services.d"),
            ("segments", "segments.d"),
            ("lists", "lists"),
            ("state", "state"),
            ("runtime", "run"),
        ];
        let line = |(key, name): (&str, &str)| format!("{key} = \"{}\"\n", etc.path(name).display());
        etc.write("picoseg.toml", &format!("[paths]\n{}", keys.map(line).concat()));
        etc
    }

    /// With a schedule in order.
    pub fn with_stripe() -> Self {
        let etc = Self::new();
        etc.write("services.d/stripe.toml", STRIPE);
        etc
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// `picoseg --config` of these directories, without anything from this environment.
    pub fn command(&self) -> Command {
        let mut command = picoseg();
        command.arg("--config").arg(self.path("picoseg.toml"));
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Said {
        run(self.command().args(arguments))
    }

    /// Runs it on a path.
    pub fn run_on(&self, word: &str, path: &Path) -> Said {
        run(self.command().arg(word).arg(path))
    }
}

pub fn picoseg() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_picoseg"));
    for name in ["PICOSEG_CONFIG", "PICOSEG_SOCKET", "NO_COLOR"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

pub fn run(command: &mut Command) -> Said {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: status.code().unwrap_or(-1), stdout: text(stdout), stderr: text(stderr) }
}

impl Said {
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        assert!(!self.stderr.contains("panicked"), "{self:?}");
        self
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Office hours of a year, for one address.
pub const STRIPE: &str = r#"provider = "Stripe, Inc."
owner = "payments@example.com"
[lifetime]
commission = 2026-01-01T00:00:00Z
decommission = 2027-01-01T00:00:00Z
[[window]]
cron = "0 9 * * Mon-Fri"
duration = "9h"
[[egress]]
subject = { unit = "picoseg-test-of-no-host.service" }
to = ["198.51.100.7"]
ports = ["443/tcp"]
"#;
