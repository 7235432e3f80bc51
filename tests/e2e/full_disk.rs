//! The disk of the state directory fills up while packets are refused: closing goes on, opening stops, nothing is lost.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::agent::{Kind, Packets};
use crate::lab::clock::until;
use crate::lab::schedule::{Lifetime, egress, schedule};
use crate::lab::{Daemon, Lab, at};

/// The state directory as the daemon sees it.
fn state(lab: &Lab, daemon: &Daemon) -> PathBuf {
    let path = lab.state();
    Path::new("/proc")
        .join(daemon.pid().to_string())
        .join("root")
        .join(path.strip_prefix("/").unwrap_or(&path))
}

/// Takes what space is left.
fn fill(path: &Path) {
    let mut file = File::create(path).expect("a file in the state directory");
    for size in [4096, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

#[test]
fn a_disk_that_fills_up_under_a_flood_loses_no_count_and_closing_goes_on() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let [ours, theirs] = [lab.provider4(0), lab.provider4(1)];
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, ours, "443/tcp")]));
    lab.write("adyen", &schedule(Lifetime::over(), &[egress(&payments, theirs, "443/tcp")]));
    lab.canary();
    fs::create_dir_all(lab.state()).expect("a directory of ours");
    let daemon = lab.daemon_on_little_space(8 << 20);
    let provider = lab.provider();
    let packets =
        Packets { kind: Kind::Udp, from: at(theirs, 40_000), to: at(lab.host4(), 9000), count: 6_000 };
    let flood = provider.raw_pump(packets, Duration::from_millis(1));
    until("the flood is counted", Duration::from_secs(20), || lab.attempts_with(&[("service", "adyen")]) > 0);

    let ballast = state(&lab, &daemon).join("ballast");
    fill(&ballast);
    let patience = Duration::from_secs(30);
    until("status says that the disk is full", patience, || {
        let store = lab.status()["store"].clone();
        store["ok"] == false
            && store["error"].as_str().is_some_and(|error| error.contains("no space is left"))
    });
    lab.picoseg(&["suspend", "stripe", "--reason", "breach"]).ok().explains(&["not on record yet"]);
    assert_eq!(lab.state_of("stripe"), "suspended");
    lab.write("later", &schedule(Lifetime::open(), &[egress(&payments, lab.provider4(2), "443/tcp")]));
    lab.picoseg(&["apply"]).exits(1).explains(&["nothing is opened while the ledger does not work"]);
    lab.picoseg(&["resume", "stripe", "--reason", "over"]).exits(1);
    until("the flood ends", patience, || flood.flow().sent == 6_000);
    assert_eq!(lab.status()["store"]["ok"], false, "it does not heal without room");

    fs::remove_file(&ballast).expect("our ballast");
    until("the store works again", patience, || lab.status()["store"]["ok"] == true);
    lab.all_on_record(&provider);
    assert_eq!(lab.attempts_with(&[("service", "adyen")]), 6_000, "{:#?}", lab.attempts());
    assert_eq!(lab.status()["attempts_total"], 6_000 + 1);
    assert_eq!(lab.state_of("stripe"), "suspended");
    lab.picoseg(&["apply"]).ok();
    assert_eq!(lab.state_of("later"), "open");
}
