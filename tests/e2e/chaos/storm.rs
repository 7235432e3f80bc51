//! Thousands of cgroups a second around a governed unit, while services open and close.

use std::time::Instant;

use super::{Storm, of_status};
use crate::lab::clock::{in_ms, reach, until};
use crate::lab::schedule::{Lifetime, egress, schedule, window};
use crate::lab::{Lab, MOMENT, at};

#[test]
fn services_open_close_and_follow_their_unit_in_a_storm_of_cgroups() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let (open, close) = (in_ms(9_000), in_ms(14_000));
    let windows = window(open, close);
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, lab.provider4(0), "443/tcp")]));
    lab.write(
        "adyen",
        &schedule(Lifetime::open(), &[windows, egress(&payments, lab.provider4(1), "443/tcp")]),
    );
    let daemon = lab.daemon();
    let theirs = lab.provider();
    let remotes = [0, 1].map(|number| at(lab.provider4(number), 443));
    let _listeners = remotes.map(|remote| theirs.echo(remote));
    let began = Instant::now();
    let storm = Storm::around(&payments);
    let before = of_status(&daemon, "VmRSS");

    let ours = lab.process(&payments);
    assert!(ours.talks_to(remotes[0]) && ours.connect(remotes[1]).is_err());
    for (order, passes) in [("suspend", false), ("resume", true)] {
        let asked = Instant::now();
        lab.picoseg(&[order, "stripe", "--reason", "test"]).ok();
        eprintln!("{order}: {:?}", asked.elapsed());
        assert_eq!(ours.talks_to(remotes[0]), passes, "{order}");
    }
    reach(open + chrono::TimeDelta::milliseconds(200));
    assert!(ours.talks_to(remotes[1]), "it has opened");
    reach(close);
    assert!(ours.connect(remotes[1]).is_err(), "it has closed");

    // Not the storm's cgroups, which come and go below it.
    drop(ours);
    let made = storm.made();
    let rate = made as f64 / began.elapsed().as_secs_f64();
    let another = lab.unit("late");
    lab.write("late", &schedule(Lifetime::open(), &[egress(&another, lab.provider4(2), "443/tcp")]));
    lab.picoseg(&["apply"]).ok();
    theirs.echo(at(lab.provider4(2), 443));
    another.remove();
    another.create();
    let late = lab.process(&another);
    until("a unit that starts in the storm is admitted", MOMENT, || late.talks_to(at(lab.provider4(2), 443)));
    drop(storm);
    let grown = of_status(&daemon, "VmRSS").saturating_sub(before);
    eprintln!("{rate:.0} cgroups a second, {made} in all; {grown} kB more");
    assert!(rate > 100.0, "{rate}: no storm");
    assert!(grown < 64 << 10, "{grown} kB more");
}
