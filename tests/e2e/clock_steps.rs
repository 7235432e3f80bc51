//! The wall clock of the machine is stepped, and the machine sleeps, with the daemon alive and with the daemon killed: every opening
//! ends at the earlier of the wall clock and elapsed time, and nothing reopens.
//!
//! Only in the virtual machines of `scripts/test-kernels`; elsewhere these tests are skipped.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::Value;

use crate::agent::{Agent, Ending, Manner, Socket};
use crate::lab::clock::{Time, in_ms, now, patient, reach, soon, until};
use crate::lab::schedule::{Lifetime, egress, schedule, window};
use crate::lab::wall::{WallClock, since_boot};
use crate::lab::{Daemon, Lab, MOMENT, at};

const HOUR: TimeDelta = TimeDelta::hours(1);
/// From the start of a lab until a close: the daemon starts and connections are made meanwhile.
const SOON: i64 = 4_000;
/// How much later than the instant by elapsed time a close may be seen: the kernel counts timeouts in ticks, and the answer has
/// to be read.
const SEEN: Duration = Duration::from_millis(400);

/// For so long nothing may pass.
const QUIET: Duration = Duration::from_millis(200);

/// One service with one opening, its process, its provider, and the connections between them.
struct Scene<'a> {
    lab: &'a Lab,
    ours: &'a Agent,
    theirs: &'a Agent,
    close: Time,
    /// The same by the time since the boot.
    close_elapsed: Duration,
    busy: Vec<Socket<'a>>,
    listeners: Vec<Socket<'a>>,
}

/// What a test does with an opening that ends at `close`. It gets the daemon, or has it killed.
fn scene(close: Time, body: impl Fn(&Scene<'_>, &WallClock, &mut Option<Daemon>), alive: bool) {
    let Some(wall) = WallClock::take() else { return };
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remotes = [lab.provider4(0), lab.provider6(0)];
    let close_elapsed = since_boot() + (close - now()).to_std().expect("it lies ahead");
    let policies = remotes.map(|remote| egress(&payments, remote, "443/tcp"));
    let tables = [vec![window(in_ms(-60_000), close)], policies.to_vec()].concat();
    lab.write("stripe", &schedule(Lifetime(now() - HOUR * 24, now() + HOUR * 24), &tables));
    lab.canary();
    let mut daemon = Some(lab.daemon());
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let listeners = remotes.map(|remote| theirs.listen(at(remote, 443), Manner::Keep));
    let mut busy = Vec::new();
    for listener in &listeners {
        let client = ours.connect(listener.local()).expect("admitted");
        let server = listener.accept().expect("admitted");
        for end in [&client, &server] {
            end.drain();
            end.pump(Duration::from_millis(2));
        }
        client.moves_on();
        server.moves_on();
        busy.extend([client, server]);
    }
    let scene = Scene {
        lab: &lab,
        ours: &ours,
        theirs: &theirs,
        close,
        close_elapsed,
        busy,
        listeners: listeners.into(),
    };
    if !alive {
        daemon.take().expect("just started").kill9();
    }
    body(&scene, &wall, &mut daemon);
    // Whatever the clock did, a daemon that starts now agrees with the kernel, and the ledger is whole.
    let daemon = daemon.unwrap_or_else(|| lab.daemon());
    scene.is_closed();
    assert_ne!(lab.state_of("stripe"), "open");
    // Nobody saw a sleep without a daemon, and the two clocks do not differ after it.
    scene.is_on_record(alive || wall.was_stepped());
    assert!(daemon.term().success());
    lab.picoseg(&["audit", "verify"]).ok();
}

/// The same with the daemon alive and with the daemon killed.
fn scenes(close: fn() -> Time, body: impl Fn(&Scene<'_>, &WallClock, &mut Option<Daemon>)) {
    for alive in [true, false] {
        scene(close(), &body, alive);
    }
}

impl Scene<'_> {
    fn is_open(&self) {
        for listener in &self.listeners {
            assert!(self.ours.connect(listener.local()).is_ok(), "{} is open", listener.local());
            listener.accept().expect("it was connected");
        }
        self.busy.iter().for_each(Socket::moves_on);
    }

    /// Nobody connects, and nothing passes on what was connected.
    fn is_closed(&self) {
        for listener in &self.listeners {
            assert!(self.ours.connect(listener.local()).is_err(), "{} is closed", listener.local());
        }
        let received = || self.busy.iter().map(|end| end.flow().received).collect::<Vec<_>>();
        let before = received();
        std::thread::sleep(patient(QUIET));
        assert_eq!(received(), before, "something passes on a connection that was open");
    }

    /// Waits until nothing passes any more; how long after the close by elapsed time that was.
    fn closes(&self) -> TimeDelta {
        until("the opening ends", MOMENT * 3, || self.ours.connect(self.listeners[0].local()).is_err());
        TimeDelta::from_std(since_boot()).expect("short")
            - TimeDelta::from_std(self.close_elapsed).expect("short")
    }

    fn closes_in_time(&self) {
        let late = self.closes();
        let seen = TimeDelta::from_std(patient(SEEN)).expect("short");
        assert!(late < seen, "{late} after the close by elapsed time");
    }

    /// Waits until it is so late by elapsed time.
    fn reach_elapsed(&self, instant: Duration) {
        while let Some(left) = instant.checked_sub(since_boot()) {
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    fn are_cut(&self, daemon: &Option<Daemon>) {
        if daemon.is_some() {
            for end in &self.busy {
                assert!(matches!(end.ends_within(MOMENT).how, Ending::Broken(_) | Ending::Closed));
            }
        }
    }

    fn is_on_record(&self, step: bool) {
        let entries = self.lab.picoseg(&["audit", "show", "--json"]).ok().json();
        let kinds: Vec<&str> = entries["entries"]
            .as_array()
            .expect("entries")
            .iter()
            .filter_map(|e| e["kind"].as_str())
            .collect();
        assert!(!step || kinds.contains(&"clock.stepped"), "{kinds:?}");
        let closed = kinds.iter().filter(|kind| **kind == "window.closed").count();
        assert_eq!(closed, 1, "{kinds:?}");
        let reopened =
            kinds.iter().skip_while(|kind| **kind != "window.closed").any(|kind| *kind == "window.opened");
        assert!(!reopened, "{kinds:?}");
    }
}

/// Nothing opens again, whether nothing happens, files are applied, or the daemon is another one.
fn stays_closed(scene: &Scene<'_>, daemon: &mut Option<Daemon>) {
    scene.is_closed();
    if daemon.is_some() {
        scene.lab.picoseg(&["apply"]).ok();
        scene.is_closed();
        daemon.take().expect("it runs").kill9();
        scene.is_closed();
    }
    *daemon = Some(scene.lab.daemon());
    scene.is_closed();
    assert_eq!(scene.lab.state_of("stripe"), "closed");
}

#[test]
fn a_clock_that_is_set_back_over_a_close_reopens_nothing() {
    scenes(
        || soon(SOON),
        |scene, wall, daemon| {
            reach(scene.close);
            scene.closes();
            scene.are_cut(daemon);
            // Timeouts outlive the close by some ticks, and by what the commit took.
            scene.reach_elapsed(scene.close_elapsed + patient(SEEN));
            wall.step(-TimeDelta::minutes(1));
            stays_closed(scene, daemon);
        },
    );
}

#[test]
fn a_clock_that_is_set_back_before_a_close_does_not_put_it_off() {
    scenes(
        || soon(SOON),
        |scene, wall, daemon| {
            wall.step(-TimeDelta::minutes(1));
            scene.is_open();
            // Whatever is armed or put in force meanwhile.
            if daemon.is_some() {
                scene.lab.picoseg(&["apply"]).ok();
            }
            scene.is_open();
            scene.reach_elapsed(scene.close_elapsed);
            scene.closes_in_time();
            scene.are_cut(daemon);
            stays_closed(scene, daemon);
        },
    );
}

#[test]
fn a_restart_behind_a_clock_that_was_set_back_does_not_put_a_close_off() {
    scene(
        soon(2 * SOON),
        |scene, wall, daemon| {
            wall.step(-TimeDelta::minutes(1));
            *daemon = Some(scene.lab.daemon());
            scene.is_open();
            scene.reach_elapsed(scene.close_elapsed);
            scene.closes_in_time();
            scene.are_cut(daemon);
            stays_closed(scene, daemon);
        },
        false,
    );
}

#[test]
fn a_clock_that_is_set_an_hour_ahead_closes_at_once_and_stays_closed_when_it_is_set_right() {
    scenes(
        || now() + HOUR / 2,
        |scene, wall, daemon| {
            wall.step(HOUR);
            scene.closes();
            scene.are_cut(daemon);
            if daemon.is_none() {
                // The kernel alone remembers nothing; who starts now does.
                *daemon = Some(scene.lab.daemon());
            }
            scene.is_closed();
            assert_eq!(scene.lab.state_of("stripe"), "closed");
            wall.step(-HOUR);
            stays_closed(scene, daemon);
        },
    );
}

#[test]
fn small_steps_accuse_nobody_and_put_no_close_off() {
    scenes(
        || soon(2 * SOON),
        |scene, wall, daemon| {
            for milliseconds in [-300, 120, -80, 45, -210, 5, -5, -150] {
                wall.step(TimeDelta::milliseconds(milliseconds));
                scene.is_open();
            }
            if daemon.is_some() {
                scene.lab.expect_no_attempts(scene.theirs);
            }
            scene.reach_elapsed(scene.close_elapsed);
            scene.closes_in_time();
            scene.are_cut(daemon);
            stays_closed(scene, daemon);
        },
    );
}

#[test]
fn a_machine_that_sleeps_over_a_close_wakes_up_closed() {
    scenes(
        || soon(SOON),
        |scene, wall, daemon| {
            let left = (scene.close - now()).num_seconds();
            wall.sleep(u64::try_from(left).expect("it lies ahead") + 6);
            assert!(now() > scene.close, "it slept over the close");
            scene.is_closed();
            for end in &scene.busy {
                let last = end.flow().last_stamp;
                assert!(
                    last < scene.close.timestamp_nanos_opt().expect("in range"),
                    "something passed after the close"
                );
            }
            if daemon.is_some() {
                until("the close is on record", MOMENT, || scene.lab.state_of("stripe") == "closed");
            }
            scene.are_cut(daemon);
            stays_closed(scene, daemon);
        },
    );
}

#[test]
fn a_machine_that_sleeps_before_a_close_goes_on_and_closes_on_time() {
    scenes(
        || soon(3 * SOON),
        |scene, wall, daemon| {
            wall.sleep(3);
            scene.is_open();
            // Timeouts stood still in the sleep: a clock that is set back now must not win that time.
            if daemon.is_some() {
                stepped_is_on_record(scene);
                wall.step(-TimeDelta::minutes(1));
                scene.reach_elapsed(scene.close_elapsed);
            } else {
                reach(scene.close);
            }
            scene.closes_in_time();
            scene.are_cut(daemon);
            stays_closed(scene, daemon);
        },
    );
}

fn stepped_is_on_record(scene: &Scene<'_>) {
    until("the sleep is noticed", MOMENT, || {
        let entries = scene.lab.picoseg(&["audit", "show", "--json"]).ok().json();
        let is_step = |entry: &Value| entry["kind"] == "clock.stepped";
        entries["entries"].as_array().is_some_and(|entries| entries.iter().any(is_step))
    });
}
