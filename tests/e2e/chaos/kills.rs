//! SIGKILL at any instant: in orders, in applies, in transitions, under a flood.

use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Random, ledger_verifies};
use crate::agent::{Agent, Kind, Packets, Socket};
use crate::lab::clock::{self, Time, in_ms, now};
use crate::lab::schedule::{Lifetime, egress, schedule, window};
use crate::lab::{Lab, Unit, at, program};

/// In each of the two tests.
const KILLS: u64 = 16;
const KNOCKS: u32 = 60_000;
/// Within this after a change of a window nothing is asked.
const MARGIN: i64 = 300;

struct Furnished {
    lab: Lab,
    payments: Unit,
    /// `adyen` opens and closes every two seconds, from here on.
    windows: Vec<(Time, Time)>,
}

fn furnish() -> Option<Furnished> {
    let lab = Lab::new()?;
    let payments = lab.unit("payments");
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, lab.provider4(0), "443/tcp")]));
    let windows: Vec<_> = (0..120).map(|n| (in_ms(n * 4_000 + 2_000), in_ms(n * 4_000 + 4_000))).collect();
    let tables: String = windows.iter().map(|(open, close)| window(*open, *close)).collect();
    let policy = egress(&payments, lab.provider4(1), "443/tcp");
    lab.write("adyen", &schedule(Lifetime::open(), &[tables, policy]));
    lab.write("over", &schedule(Lifetime::over(), &[egress(&payments, lab.provider4(2), "443/tcp")]));
    Some(Furnished { lab, payments, windows })
}

impl Furnished {
    /// A provider with both listeners, and one that knocks where it is not let in any more.
    fn flood<'a>(&self, theirs: &'a Agent) -> Socket<'a> {
        for number in 0..2 {
            theirs.echo(at(self.lab.provider4(number), 443));
        }
        let from = at(self.lab.provider4(2), 40_000);
        let packets = Packets { kind: Kind::Udp, from, to: at(self.lab.host4(), 9000), count: KNOCKS };
        theirs.raw_pump(packets, Duration::from_micros(200))
    }

    /// Whether `adyen` is open, where that has been so for a moment and stays so.
    fn is_open(&self, at: Time) -> Option<bool> {
        let margin = chrono::TimeDelta::milliseconds(MARGIN);
        let settled = |edge: Time| (edge - at).abs() > margin;
        let all = || self.windows.iter();
        let still = all().all(|(open, close)| settled(*open) && settled(*close));
        still.then(|| all().any(|(open, close)| (*open..*close).contains(&at)))
    }

    /// What is closed is closed, what is open is open, by traffic.
    fn is_right(&self, ours: &Agent, when: &str) {
        let state = self.lab.state_of("stripe");
        let passes = ours.talks_to(at(self.lab.provider4(0), 443));
        assert_eq!(passes, state == "open", "{when}: stripe is {state}");
        let before = self.is_open(now());
        let passes = ours.connect(at(self.lab.provider4(1), 443)).is_ok();
        if let (Some(open), true) = (before, before == self.is_open(now())) {
            assert_eq!(passes, open, "{when}: adyen");
        }
        assert!(ours.connect(at(self.lab.provider4(2), 443)).is_err(), "{when}: what is over");
        assert!(ledger_verifies(&self.lab), "{when}");
    }

    /// Starts one command, kills the daemon at some moment of it, and tells how the command ended.
    fn killed_in(&self, daemon: crate::lab::Daemon, arguments: &[&str], random: &mut Random) -> Option<i32> {
        let mut command = Command::new(program("picoseg"));
        command.arg("--config").arg(self.lab.config()).args(arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = self.lab.spawn_on_host(command);
        random.pause(Duration::from_millis(400));
        daemon.kill9();
        child.wait().expect("our own child").code()
    }

    /// All that was sent is on record, once; and a start from here changes nothing.
    fn ends(&self, daemon: crate::lab::Daemon, flood: &Socket<'_>) {
        clock::until("the flood ends", Duration::from_secs(60), || flood.flow().sent == u64::from(KNOCKS));
        let counted = || self.lab.attempts_with(&[("service", "over"), ("direction", "ingress")]);
        let sent = u64::from(KNOCKS);
        let all = clock::within(Duration::from_secs(20), || (counted() >= sent).then_some(()));
        assert!(all.is_some() && counted() == sent, "{} of {sent}", counted());
        let digest = self.lab.status()["ruleset_digest"].clone();
        assert!(daemon.term().success());
        let _daemon = self.lab.daemon();
        assert_eq!(self.lab.status()["ruleset_digest"], digest);
        assert_eq!(counted(), sent, "after a stop and a start");
    }
}

#[test]
fn kills_in_the_middle_of_orders_leave_what_was_confirmed_in_force() {
    let Some(furnished) = furnish() else { return };
    let lab = &furnished.lab;
    let mut daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&furnished.payments), lab.provider());
    let flood = furnished.flood(&theirs);
    let mut random = Random::new();
    let mut confirmed = 0;
    for round in 0..KILLS {
        let (order, state) = random.pick(&[("suspend", "suspended"), ("resume", "open")]);
        let code = furnished.killed_in(daemon, &[order, "stripe", "--reason", "test"], &mut random);
        daemon = lab.daemon();
        if code == Some(0) {
            assert_eq!(lab.state_of("stripe"), state, "round {round}: {order} was confirmed");
            confirmed += 1;
        }
        furnished.is_right(&ours, &format!("round {round}, {order}"));
    }
    eprintln!("{confirmed} of {KILLS} orders were confirmed before the kill");
    furnished.ends(daemon, &flood);
}

#[test]
fn kills_in_the_middle_of_applies_and_transitions_leave_all_or_nothing() {
    let Some(furnished) = furnish() else { return };
    let lab = &furnished.lab;
    let mut daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&furnished.payments), lab.provider());
    let flood = furnished.flood(&theirs);
    theirs.echo(at(lab.provider4(3), 443));
    let more = schedule(Lifetime::open(), &[egress(&furnished.payments, lab.provider4(3), "443/tcp")]);
    let mut random = Random::new();
    for round in 0..KILLS {
        let there = random.below(2) == 0;
        match there {
            true => lab.write("more", &more),
            false => drop(std::fs::remove_file(lab.etc("services.d/more.toml"))),
        }
        furnished.killed_in(daemon, &["apply"], &mut random);
        daemon = lab.daemon();
        furnished.is_right(&ours, &format!("round {round}, apply"));
        // A start takes the files as they are: a schedule that is gone is decommissioned, one that came back
        // within its lifetime stays so.
        let body = lab.picoseg(&["services", "--json"]).ok().json();
        let state = body["services"].as_array().and_then(|all| {
            all.iter()
                .find(|one| one["name"] == "more")
                .and_then(|one| one["state"].as_str().map(str::to_owned))
        });
        let open = state.as_deref() == Some("open");
        assert!(there || !open, "round {round}: a schedule that is gone is open");
        let remote = at(lab.provider4(3), 443);
        let ungoverned = state.is_none();
        assert_eq!(ours.talks_to(remote), open || ungoverned, "round {round}: more is {state:?}");
    }
    furnished.ends(daemon, &flood);
}
