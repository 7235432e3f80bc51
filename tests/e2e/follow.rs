//! `attempts --follow`: every row as it grows, once, also over a daemon that is killed and starts again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::agent::{Kind, Packets};
use crate::lab::clock::until;
use crate::lab::schedule::{Lifetime, egress, schedule};
use crate::lab::{Lab, at};

/// What makes a row that row.
fn identity(row: &Value) -> String {
    let mut row = row.clone();
    for grows in ["count", "first_seen", "last_seen", "pid", "exe"] {
        row[grows] = Value::Null;
    }
    row.to_string()
}

#[test]
fn follow_tells_every_growth_once_and_outlives_the_daemon() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remote = lab.provider4(0);
    lab.write("stripe", &schedule(Lifetime::over(), &[egress(&payments, remote, "443/tcp")]));
    lab.canary();
    let daemon = lab.daemon();
    let provider = lab.provider();
    let [output, notes] = ["followed", "notes"].map(|name| lab.dir().join(name));
    let mut command = Command::new(env!("CARGO_BIN_EXE_picoseg"));
    command.args(["--json", "attempts", "--service", "stripe", "--follow", "--socket"]);
    command.arg(lab.dir().join("run/control.sock"));
    command.stdout(File::create(&output).expect("ours")).stderr(File::create(&notes).expect("ours"));
    let mut follower = lab.spawn_on_host(command);

    let packets =
        Packets { kind: Kind::Udp, from: at(remote, 40_000), to: at(lab.host4(), 9000), count: 4_000 };
    let flood = provider.raw_pump(packets, Duration::from_millis(1));
    let patience = Duration::from_secs(30);
    until("the flood goes on", patience, || flood.flow().sent >= 1_500);
    daemon.kill9();
    until("the follower waits", patience, || {
        fs::read_to_string(&notes).is_ok_and(|said| said.contains("waiting"))
    });
    let _daemon = lab.daemon();
    until("the flood ends", patience, || flood.flow().sent == 4_000);
    lab.all_on_record(&provider);

    let rows = lab.attempts();
    let rows: Vec<_> = rows.iter().filter(|row| row["service"] == "stripe").collect();
    assert_eq!(rows.iter().filter_map(|row| row["count"].as_u64()).sum::<u64>(), 4_000);
    let told = || {
        let printed = fs::read_to_string(&output).unwrap_or_default();
        let mut told: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for line in printed.lines() {
            let body: Value = serde_json::from_str(line).unwrap_or_default();
            for row in body["attempts"].as_array().into_iter().flatten() {
                told.entry(identity(row)).or_default().push(row["count"].as_u64().unwrap_or(0));
            }
        }
        told
    };
    // What was counted first and explained later leaves its row, which is no growth.
    let is_told = |row: &&&Value| {
        told().get(&identity(row)).and_then(|counts| counts.last()).copied() >= row["count"].as_u64()
    };
    until("everything is told", patience, || rows.iter().all(|row| is_told(&row)));
    for counts in told().values() {
        assert!(counts.windows(2).all(|pair| pair[0] != pair[1]), "told twice: {counts:?}");
    }
    assert!(follower.try_wait().expect("ours").is_none(), "it goes on");
    follower.kill().expect("ours");
    follower.wait().expect("ours");
    let notes = fs::read_to_string(&notes).expect("ours");
    assert_eq!(notes.lines().count(), 1, "{notes}");
}
