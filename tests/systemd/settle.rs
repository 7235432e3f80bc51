//! Between the start of a unit and its first packet: `ExecStartPre=+/usr/bin/picoseg settle`.
//!
//! Every start makes a new cgroup, which the daemon has to see and the kernel to hear of. The unit's process knocks at once
//! at what it may not reach, over both families, TCP and UDP; a counter outside tells what came through.

use std::net::SocketAddr;
use std::time::Duration;

use crate::agent::unit;
use crate::clock::until;
use crate::machine::{MOMENT, Machine};
use crate::outside::{v4, v6};
use crate::schedule::{closed, egress, file, schedule};

const UNIT: &str = "hasty.service";
const SETTLE: &str = "ExecStartPre=+/usr/bin/picoseg settle";
const HASTY: &str = "/etc/systemd/system/hasty.service";
/// Services beside.
const OTHERS: usize = 300;
const PORT: u16 = 443;
/// So many starts take less time than a command may.
const AT_ONCE: usize = 10;

/// The addresses outside by what they are to the unit.
const ALLOWED: u8 = 0;
const GRANTED: u8 = 1;
const ISOLATED: u8 = 2;
const CLOSED: u8 = 3;

/// What a series of starts came to.
#[derive(Debug, Default)]
struct Series {
    starts: usize,
    /// Starts whose first connection to what is allowed did not come about.
    failed: usize,
    /// As [`leaked`] counts them.
    leaked: [u64; 2],
    /// From the unit's start until its process was there: what settling takes, among other things.
    took: Vec<Duration>,
}

fn machine_with(pre: &str, more: &[(&str, &str)]) -> Option<Machine> {
    let both = |numbers: &[u8]| {
        let of_each =
            |number: &u8| [v4(*number), v6(*number)].map(|ip| SocketAddr::new(ip, PORT).to_string());
        numbers.iter().flat_map(of_each).collect::<Vec<_>>().join(",")
    };
    let role = format!("hasty {} {}", both(&[ISOLATED, CLOSED]), both(&[ALLOWED, GRANTED]));
    let hasty = unit(&role, pre).replace("[Unit]", "[Unit]\nWants=picosegd.service\nAfter=picosegd.service");
    let of = |number: u8| [v4(number), v6(number)];
    let open = schedule(&[egress(UNIT, &of(GRANTED), "443/tcp")]);
    let shut =
        schedule(&[closed(), egress(UNIT, &of(CLOSED), "443/tcp"), egress(UNIT, &of(CLOSED), "443/udp")]);
    let segment = format!(
        "subject = {{ unit = \"{UNIT}\" }}\ndns = false\n[[allow]]\ndirection = \"egress\"\nto = [\"{}\", \"{}\"]\nports = \
         [\"443/tcp\"]\n",
        v4(ALLOWED),
        v6(ALLOWED)
    );
    let (granted, closed) = (file("granted"), file("closed"));
    let others: Vec<_> = (0..OTHERS).map(other).collect();
    let others: Vec<_> = others.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let files = [
        (HASTY, &*hasty),
        ("/etc/picoseg/segments.d/hasty.toml", &segment),
        (&granted, &open),
        (&closed, &shut),
    ];
    Machine::boot(&[&files, more, &others].concat())
}

/// A service that has nothing to do with the unit: a change takes the longer the more there are.
fn other(number: usize) -> (String, String) {
    let name = format!("other-{number}");
    let remote = format!("198.18.{}.{}", number / 250, number % 250);
    (file(&name), schedule(&[egress(&format!("{name}.service"), &[remote], "443/tcp")]))
}

/// Packets that have arrived where the segment lets none, and where a closed window lets none.
fn leaked(machine: &Machine) -> [u64; 2] {
    [ISOLATED, CLOSED].map(|number| machine.outside().arrived(number))
}

/// Other units come and go all the time, hundreds at once, and the daemon follows them.
fn churn(machine: &Machine) {
    let script = format!(
        "cd /sys/fs/cgroup/system.slice; all=$(seq -f other-%%g.service 0 {}); while :; do mkdir $all; rmdir $all; done",
        OTHERS - 1
    );
    machine.put(
        "/etc/systemd/system/churn.service",
        &format!("[Service]\nExecStart=/bin/sh -c '{}'\n", script.replace('$', "$$")),
    );
    machine.start("churn.service");
}

/// Restarts the unit so many times.
fn restarts(machine: &Machine, count: usize) -> Series {
    const LOOP: &str = r#"for _ in $(seq "$1"); do
        systemctl restart hasty.service 2>/dev/null && echo up || echo failed
        systemctl show --property=InactiveExitTimestampMonotonic,ExecMainStartTimestampMonotonic hasty.service
    done"#;
    let (before, mut series) = (leaked(machine), Series { starts: count, ..Series::default() });
    for begun in (0..count).step_by(AT_ONCE) {
        let some = AT_ONCE.min(count - begun).to_string();
        let said = machine.run(&["sh", "-c", LOOP, "sh", &some]).ok().stdout;
        series.failed += said.lines().filter(|line| *line == "failed").count();
        series.took.extend(
            times(&said, "InactiveExit")
                .zip(times(&said, "ExecMainStart"))
                .map(|(exit, start)| start.saturating_sub(exit)),
        );
    }
    let after = leaked(machine);
    series.leaked = [after[0] - before[0], after[1] - before[1]];
    series.took.sort();
    series
}

/// systemd prints microseconds.
fn times<'s>(said: &'s str, which: &'s str) -> impl Iterator<Item = Duration> + 's {
    let value = move |line: &str| line.strip_prefix(which)?.strip_prefix("TimestampMonotonic=")?.parse().ok();
    said.lines().filter_map(value).map(Duration::from_micros)
}

impl Series {
    fn percentile(&self, percent: usize) -> Duration {
        self.took[(self.took.len() - 1) * percent / 100]
    }

    fn say(&self, name: &str) {
        let Self { starts, failed, leaked: [isolated, closed], .. } = self;
        let (p50, p99) = (self.percentile(50), self.percentile(99));
        println!(
            "{name}: {starts} starts, {failed} failed; packets leaked: {isolated} from the segment, {closed} of a closed \
             window; until the process: p50 {p50:?}, p99 {p99:?}"
        );
    }
}

#[test]
fn with_settle_a_thousand_starts_leak_no_packet_and_fail_no_connection() {
    let Some(machine) = machine_with(SETTLE, &[]) else { return };
    let echo = machine.outside().echo(PORT);
    let starts = std::env::var("PICOSEG_RESTARTS").map_or(1000, |count| count.parse().expect("a number"));
    let series = restarts(&machine, starts);
    series.say("with settle");
    assert_eq!((series.leaked, series.failed), ([0, 0], 0), "{}", machine.journal(UNIT));
    // The process was there, talked to what it may reach, and knocked at all else: four connections and eight packets.
    let starts = starts as u64;
    assert!(echo.accepted() >= 4 * starts, "{}", echo.accepted());
    let refused = || machine.status()["attempts_total"].as_u64().expect("a number");
    assert!(refused() >= 8 * starts, "{}", refused());
}

#[test]
fn without_settle_segments_leak_while_other_units_come_and_go_and_closed_windows_do_not() {
    let Some(machine) = machine_with("", &[]) else { return };
    let _echo = machine.outside().echo(PORT);
    let quiet = restarts(&machine, 50);
    quiet.say("without settle");
    churn(&machine);
    let busy = restarts(&machine, 50);
    busy.say("without settle, while other units come and go");
    // Or the tests with it could not fail.
    assert!(busy.leaked[0] > 0 && busy.failed > 0, "{busy:?}");
    // What a service lists is refused until its subject is known: only segments have a gap.
    assert_eq!((quiet.leaked[1], busy.leaked[1]), (0, 0));
}

#[test]
fn with_settle_nothing_leaks_while_other_units_come_and_go() {
    let Some(machine) = machine_with(SETTLE, &[]) else { return };
    let _echo = machine.outside().echo(PORT);
    churn(&machine);
    let series = restarts(&machine, 50);
    series.say("with settle, while other units come and go");
    assert_eq!((series.leaked, series.failed), ([0, 0], 0), "{}", machine.journal(UNIT));
}

/// The gap that `settle` closes, as wide as it gets: the daemon does nothing for a while.
#[test]
fn a_daemon_that_is_late_costs_time_with_settle_and_packets_without() {
    let Some(machine) = machine_with(SETTLE, &[]) else { return };
    let _echo = machine.outside().echo(PORT);
    let pause =
        |signal: &str| machine.systemctl(&["kill", &format!("--signal={signal}"), "picosegd.service"]).ok();
    pause("STOP");
    machine.systemctl(&["start", "--no-block", UNIT]).ok();
    until("it waits", MOMENT, || machine.property(UNIT, "SubState") == "start-pre");
    pause("CONT");
    until("it is up", MOMENT, || machine.property(UNIT, "ActiveState") == "active");
    assert_eq!(leaked(&machine), [0, 0]);
    machine.stop(UNIT);

    let hasty = machine.run(&["cat", HASTY]).ok().stdout;
    machine.put(HASTY, &hasty.replace(SETTLE, ""));
    machine.systemctl(&["daemon-reload"]).ok();
    pause("STOP");
    // Its first connection by a grant fails, and so does its start.
    machine.systemctl(&["start", UNIT]).exits(1);
    pause("CONT");
    let [isolated, closed] = leaked(&machine);
    assert!(isolated > 0, "nothing leaks: the other tests cannot fail");
    assert_eq!(closed, 0);
}

#[test]
fn a_unit_that_settles_does_not_start_without_the_daemon() {
    let Some(machine) = machine_with(SETTLE, &[]) else { return };
    let _echo = machine.outside().echo(PORT);
    machine.start(UNIT);
    machine.stop(UNIT);
    machine.stop("picosegd.service");
    // Not even by its Wants=.
    machine.systemctl(&["mask", "--runtime", "picosegd.service"]).ok();
    machine.systemctl(&["start", UNIT]).exits(1);
    assert_eq!(machine.property(UNIT, "ExecMainStartTimestampMonotonic"), "0");
    assert!(machine.journal(UNIT).contains("does not answer"), "{}", machine.journal(UNIT));
    machine.systemctl(&["unmask", "--runtime", "picosegd.service"]).ok();
    machine.start(UNIT);
    assert_eq!(leaked(&machine), [0, 0]);
}

#[test]
fn a_unit_that_settles_is_enclosed_from_the_boot_on() {
    let wanted = ("/etc/systemd/system/multi-user.target.d/hasty.conf", "[Unit]\nWants=hasty.service\n");
    let Some(machine) = machine_with(SETTLE, &[wanted]) else { return };
    // It has run, and found nobody at what it may reach.
    assert_ne!(machine.property(UNIT, "ExecMainStartTimestampMonotonic"), "0");
    assert!(machine.outside().arrived(ALLOWED) > 0);
    assert_eq!(leaked(&machine), [0, 0]);
}
