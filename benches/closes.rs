//! What a close and a restart take with the real daemon: payload after a close that nobody is there for, connections cut at
//! both ends by one that is, and how soon a process in a new cgroup may send.
//!
//! `sudo cargo bench --bench closes [-- [payload] [teardown] [restart] [rate=N] [closes=N] [gap=MS] [connections=N] [rounds=N]
//! [restarts=N] [N ...]]`. Without the name of a part, all three. The numbers at the end are services, for the last two
//! parts. Instants are those of `CLOCK_REALTIME`, as programs read it: between an arrival and its stamp lies the waking up of
//! who receives. Everything is made in network namespaces and cgroups of its own, on two sides of a veth.

#[path = "closes/lab.rs"]
mod lab;
#[path = "closes/payload.rs"]
mod payload;
#[path = "closes/restart.rs"]
mod restart;
#[path = "closes/spread.rs"]
mod spread;
#[path = "closes/teardown.rs"]
mod teardown;

#[path = "../tests/e2e/lab/cgroup.rs"]
#[expect(dead_code, reason = "the tests' module has more than is needed here")]
mod cgroup;
#[path = "../tests/e2e/lab/clock.rs"]
#[expect(dead_code, reason = "the tests' module has more than is needed here")]
mod clock;
#[path = "../tests/e2e/lab/netns.rs"]
mod netns;

use std::time::Duration;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |word: &str, default: u64| {
        let found = words.iter().find_map(|argument| argument.strip_prefix(word)?.parse::<u64>().ok());
        found.filter(|number| *number > 0).unwrap_or(default)
    };
    let parts = ["payload", "teardown", "restart"];
    let all = !parts.iter().any(|part| words.iter().any(|word| word == part));
    let wants = |part: &str| all || words.iter().any(|word| word == part);
    let sizes: Vec<usize> = words.iter().filter_map(|word| word.parse().ok()).collect();
    let sizes = |usual: &[usize]| if sizes.is_empty() { usual.to_vec() } else { sizes.clone() };
    if let Err(error) = lab::Lab::new() {
        println!("SKIPPED: {error}");
        return;
    }
    if wants("payload") {
        payload::run(
            number("closes=", 200),
            number("rate=", 10_000),
            Duration::from_millis(number("gap=", 400)),
        );
    }
    if wants("teardown") {
        for services in sizes(&[1, 1_000, 10_000]) {
            teardown::run(services, number("connections=", 1_000), number("rounds=", 5));
        }
    }
    if wants("restart") {
        restart::run(&sizes(&[10, 1_000, 10_000]), number("restarts=", 300));
    }
}
