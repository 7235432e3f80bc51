//! Tests that cannot run here say so: on stderr, and in the file that `PICOSEG_SKIPS` names.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
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

/// `promtool`, from the path or where `scripts/promtool` puts it. `None` after saying so; under `CI=true` it has to be there.
pub fn promtool() -> Option<PathBuf> {
    let cache = std::env::var_os("PICOSEG_CACHE").unwrap_or_else(|| "/var/cache/picoseg".into());
    let places = [PathBuf::from("promtool"), Path::new(&cache).join("promtool")];
    let runs = |place: &PathBuf| {
        let run = Command::new(place).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        run.is_ok_and(|status| status.success())
    };
    let found = places.into_iter().find(runs);
    if found.is_none() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "no promtool: run scripts/promtool");
        skipped("promtool is not there: run scripts/promtool");
    }
    found
}

/// Whether a program is installed; without it the caller's test is skipped.
pub fn have(program: &str) -> bool {
    let run = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if run.is_err() {
        skipped(&format!("{program} is not installed"));
    }
    run.is_ok()
}
