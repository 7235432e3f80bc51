//! The ledger of the real daemon: verified while it runs, after kills at any moment, and by what it told the log.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::lab::clock::until;
use crate::lab::schedule::{Lifetime, egress, schedule};
use crate::lab::{Lab, SHOWN, at, put};

fn verify(lab: &Lab, arguments: &[&str], code: i32) -> Value {
    lab.picoseg(&[&["audit", "verify", "--json"][..], arguments].concat()).exits(code).json()
}

fn key(lab: &Lab) -> std::path::PathBuf {
    lab.state().join("ledger.key")
}

#[test]
fn the_ledger_verifies_while_the_daemon_runs_and_after_every_kill() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, lab.provider4(0), "443/tcp")]));
    let mut entries = 0;
    for round in 0..6_u64 {
        let daemon = lab.daemon();
        let found = verify(&lab, &[], 0);
        assert_eq!(found["ok"], true);
        assert!(found["entries"].as_u64() >= Some(entries), "{found}");
        entries = found["entries"].as_u64().unwrap();
        let mut orders = Command::new("sh");
        orders
            .arg("-c")
            .arg("for o in suspend resume suspend resume; do \"$0\" \"$@\" $o stripe --reason test; done");
        orders.arg(env!("CARGO_BIN_EXE_picoseg")).arg("--config").arg(lab.config());
        let mut busy = lab.spawn_on_host(orders);
        // Some moment, another one in each round: nothing tells when to come.
        std::thread::sleep(Duration::from_millis(37 * round + 5));
        daemon.kill9();
        busy.wait().unwrap();
        assert_eq!(verify(&lab, &[], 0)["error"], Value::Null);
    }
    assert!(entries > 6, "{entries}");
    // The last kill may have left orders that were carried out and not recorded; nothing that was recorded is gone.
    assert!(lab.daemon().term().success());
    let found = verify(&lab, &[], 0);
    assert!(found["checkpoints"].as_u64() >= Some(2), "at starts and the stop: {found}");
}

#[test]
fn a_checkpoint_that_the_log_kept_exposes_a_ledger_that_was_replaced() {
    let Some(lab) = Lab::new() else { return };
    let daemon = lab.daemon();
    until("a checkpoint in the log", SHOWN, || daemon.said().contains("picoseg-checkpoint v1 "));
    let log = lab.dir().join("kept.log");
    fs::write(&log, daemon.said()).unwrap();
    let log = log.to_str().unwrap().to_owned();
    assert!(daemon.term().success());
    let found = verify(&lab, &["--checkpoint", &log], 0);
    assert_eq!(found["copied_checkpoints"], 1);
    let warning = found["warnings"].to_string();
    assert!(warning.contains("follow the last copied checkpoint"), "{warning}");
    let text = lab.picoseg(&["audit", "verify"]).ok();
    assert!(text.stdout.contains("entries, unbroken; ") && text.stderr.contains("--checkpoint"), "{text:?}");

    // Root begins anew, with the same key.
    for file in ["picoseg.db", "picoseg.db-wal", "picoseg.db-shm"] {
        let _ = fs::remove_file(lab.state().join(file));
    }
    drop(lab.daemon());
    assert_eq!(verify(&lab, &[], 0)["ok"], true);
    let found = verify(&lab, &["--checkpoint", &log], 1);
    assert_eq!((&found["ok"], &found["first_bad_seq"]), (&json!(false), &json!(1)), "{found}");
    put(Path::new(&log), "nothing of interest\n");
    verify(&lab, &["--checkpoint", &log], 1);
}

#[test]
fn exports_verify_elsewhere_and_a_cut_one_fails() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, lab.provider4(0), "443/tcp")]));
    let _daemon = lab.daemon();
    lab.picoseg(&["suspend", "stripe", "--reason", "=cmd()"]).ok();
    for format in ["jsonl", "csv"] {
        let path = lab.dir().join(format);
        let file = path.to_str().unwrap();
        lab.picoseg(&["audit", "export", "--format", format, "--output", file]).ok();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let found = verify(&lab, &[file], 0);
        assert_eq!((&found["ok"], &found["excerpt"]), (&json!(true), &json!(false)));
        let entries = found["entries"].as_u64().unwrap();
        assert_eq!(entries, verify(&lab, &[], 0)["entries"].as_u64().unwrap());
        let trusted = lab.state().join("ledger.pub");
        verify(&lab, &[file, "--key", trusted.to_str().unwrap()], 0);
        let text = fs::read_to_string(&path).unwrap();
        let cut = text.trim_end().rfind('\n').unwrap() + 1;
        fs::write(&path, &text[..cut]).unwrap();
        assert_eq!(verify(&lab, &[file], 1)["first_bad_seq"], entries + 1);
        fs::write(&path, text.replacen("=cmd()", "=cmd(!", 1)).unwrap();
        assert!(verify(&lab, &[file], 1)["first_bad_seq"].as_u64() <= Some(entries));
    }
    let excerpt = lab.picoseg(&["audit", "export", "--service", "stripe"]).ok().stdout;
    let path = lab.dir().join("excerpt");
    put(&path, &excerpt);
    let found = verify(&lab, &[path.to_str().unwrap()], 0);
    assert_eq!(found["excerpt"], true);
    let text = lab.picoseg(&["audit", "verify", path.to_str().unwrap()]).ok();
    assert!(text.stderr.contains("excerpt"), "{text:?}");
}

#[test]
fn without_its_key_the_daemon_closes_and_opens_nothing_and_says_so() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remote = at(lab.provider4(0), 443);
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, remote.ip(), "443/tcp")]));
    assert!(lab.daemon().term().success());
    fs::set_permissions(key(&lab), fs::Permissions::from_mode(0o644)).unwrap();
    let daemon = lab.daemon();
    let store = lab.status()["store"].clone();
    assert!(store["ok"] == false && store["error"].to_string().contains("chmod 600"), "{store}");
    lab.picoseg(&["decommission", "stripe", "--reason", "over"]).ok().explains(&["not on record"]);
    assert_eq!(lab.state_of("stripe"), "decommissioned");
    fs::set_permissions(key(&lab), fs::Permissions::from_mode(0o600)).unwrap();
    until("the store works again", Duration::from_secs(10), || lab.status()["store"]["ok"] == true);
    assert_eq!(lab.status()["store"]["error"], Value::Null);
    assert!(daemon.term().success());
    let export = lab.picoseg(&["audit", "export"]).ok().stdout;
    let late = export.lines().find(|line| line.contains("service.decommissioned")).expect(&export);
    assert!(late.contains("recorded_at"), "{late}");
    verify(&lab, &[], 0);
}
