//! Tests that cannot run here say so: on stderr, and in the file that `PICOSEG_SKIPS` names.

use std::fs::File;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// Says `SKIPPED: reason` with the name of the test.
pub fn skipped(reason: &str) {
    let test = std::thread::current().name().unwrap_or("main").to_owned();
    eprintln!("SKIPPED: {test}: {reason}");
    let Some(path) = std::env::var_os("PICOSEG_SKIPS") else {
        return;
    };
    let file = File::options().create(true).append(true).open(path);
    if let Err(error) = file.and_then(|mut file| writeln!(file, "{test}: {reason}")) {
        eprintln!("PICOSEG_SKIPS: {error}");
    }
}

/// Whether a program is installed; without it the caller's test is skipped.
pub fn have(program: &str) -> bool {
    let run = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if run.is_err() {
        skipped(&format!("{program} is not installed"));
    }
    run.is_ok()
}
