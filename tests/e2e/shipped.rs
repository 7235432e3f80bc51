//! The files that are installed beside the programs do what their comments say.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::lab::{Cli, have, put};

#[test]
fn the_example_schedule_is_valid() {
    let (config, example) =
        (shipped("config/picoseg.toml"), shipped("config/services.d/example.toml.sample"));
    picoseg(&config, &example).ok();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let broken = dir.path().join("example.toml");
    let text = fs::read_to_string(example).expect("it is shipped");
    put(&broken, &text.replace("198.51.100.0/24", "198.51.100.1/24"));
    picoseg(&config, &broken).exits(78).explains(&["198.51.100"]);
}

#[test]
fn the_example_segment_is_valid() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = dir.path().join("picoseg.toml");
    put(&config, &format!("[paths]\nsegments = \"{}\"\n", dir.path().display()));
    let segment = dir.path().join("example.toml");
    let text = fs::read_to_string(shipped("config/segments.d/example.toml.sample")).expect("it is shipped");
    put(&segment, &text);
    picoseg(&config, &segment).ok();
    put(&segment, &text.lines().map(uncommented).collect::<Vec<_>>().join("\n"));
    picoseg(&config, &segment).ok();
    put(&segment, &text.replace("ingress", "egress"));
    picoseg(&config, &segment).exits(78).explains(&["`from`", "egress"]);
}

#[test]
fn every_setting_that_is_commented_out_is_known() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (config, example) =
        (dir.path().join("picoseg.toml"), shipped("config/services.d/example.toml.sample"));
    let text = fs::read_to_string(shipped("config/picoseg.toml")).expect("it is shipped");
    let all: Vec<_> = text.lines().map(uncommented).collect();
    assert!(all.iter().filter(|line| line.contains(" = ")).count() >= 20, "{all:#?}");
    put(&config, &all.join("\n"));
    picoseg(&config, &example).ok();
    put(&config, &all.join("\n").replace("arm_ahead", "arm_a_head"));
    picoseg(&config, &config).exits(78).explains(&["arm_ahead"]);
}

#[test]
fn the_units_are_valid_and_hardened() {
    if !have("systemd-analyze") {
        return;
    }
    for (name, threshold) in
        [("picosegd.service", 20), ("picoseg-exec.service", 15), ("picoseg-early.service", 15)]
    {
        is_valid_and_hardened(name, threshold);
    }
}

/// The threshold is ten times what systemd-analyze prints.
fn is_valid_and_hardened(name: &str, threshold: u32) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let unit = dir.path().join(name);
    let text = fs::read_to_string(shipped(&format!("systemd/{name}"))).expect("it is shipped");
    // All of these are looked for, and are not installed yet.
    let text = text.replace("/usr/bin/picosegd", env!("CARGO_BIN_EXE_picosegd"));
    let text = text.replace("/usr/bin/picoseg-execd", env!("CARGO_BIN_EXE_picoseg-execd"));
    let text = text.replace("/usr/bin/picoseg ", concat!(env!("CARGO_BIN_EXE_picoseg"), " "));
    put(&unit, &text.replace("Documentation=", "#Documentation="));
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).arg(&unit);
    let said = Cli::run(verify).ok();
    assert!(!said.stderr.contains(&format!("{name}:")), "{}", said.stderr);
    let mut security = Command::new("systemd-analyze");
    security.args(["security", "--offline=true", &format!("--threshold={threshold}")]).arg(&unit);
    Cli::run(security).ok();
}

/// A setting stands right behind its `#`, prose behind a blank.
fn uncommented(line: &str) -> &str {
    match line.strip_prefix('#') {
        Some(setting) if setting.starts_with(|c: char| c.is_ascii_lowercase()) => setting,
        Some(_) | None => line,
    }
}

fn shipped(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn picoseg(config: &PathBuf, file: &PathBuf) -> Cli {
    let mut command = Command::new(env!("CARGO_BIN_EXE_picoseg"));
    command.arg("--config").arg(config).arg("check").arg(file);
    Cli::run(command)
}
