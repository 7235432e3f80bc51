//! What it costs to compile and commit 10,000 and 100,000 services from nothing, beside `nft -f` on the same table, and to
//! change one of them: from the event to the kernel.
//!
//! `sudo cargo bench --bench load [-- [distinct] [rounds=N] [nft=N] N ...]`. One service has one policy, one unit and four
//! addresses. `distinct`: every service has a lifetime of its own, hence chains of its own. `rounds`: how often
//! each kind of change is measured (300). `nft`: the largest size at which `nft -f` loads the printed table too (10,000).
//! Each size runs in a process of its own, so that the peaks of memory do not mix, in a network namespace of its own, and
//! sends no packet. The units are empty cgroups under one that is made for the run and removed after it: nft takes
//! cgroups as paths that exist. Run it on a quiet machine.

mod changes;
mod host;
mod nothing;
mod units;

use std::process::Command;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

/// What the command line asks for.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    distinct: bool,
    rounds: usize,
    nft: usize,
}

fn main() {
    // `cargo bench` adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |word: &str| arguments.iter().find_map(|argument| argument.strip_prefix(word)?.parse().ok());
    let sizes: Vec<usize> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    let wanted = Wanted {
        distinct: arguments.iter().any(|argument| argument == "distinct"),
        rounds: number("rounds=").unwrap_or(300),
        nft: number("nft=").unwrap_or(10_000),
    };
    match (arguments.iter().find_map(|argument| argument.strip_prefix("alone=")), sizes.first()) {
        (Some(part), Some(size)) => alone(part, *size, wanted),
        (Some(_), None) => panic!("alone= takes a size"),
        (None, _) => all(&sizes, &arguments),
    }
}

/// One part at one size, in this process.
fn alone(part: &str, size: usize, wanted: Wanted) {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        println!("SKIPPED: a network namespace cannot be made: {error}");
        return;
    }
    match part {
        "nothing" => nothing::run(size, wanted),
        "changes" => changes::run(size, wanted),
        _ => panic!("no part {part:?}"),
    }
}

fn all(sizes: &[usize], arguments: &[String]) {
    let sizes = if sizes.is_empty() { &[10_000, 100_000] } else { sizes };
    let words = arguments.iter().filter(|argument| argument.parse::<usize>().is_err());
    let words: Vec<&String> = words.collect();
    if words.iter().any(|word| *word == "distinct") {
        println!("distinct: each service has a lifetime of its own");
    }
    for (part, head) in [("nothing", nothing::HEAD), ("changes", changes::HEAD)] {
        println!("{head}");
        for size in sizes {
            let program = std::env::current_exe().expect("this program");
            let mut child = Command::new(program);
            let child = child.arg(format!("alone={part}")).arg(size.to_string()).args(&words);
            let status = child.status().expect("itself");
            assert!(status.success(), "{part} {size}: {status}");
        }
    }
}

fn text(duration: Duration) -> String {
    match duration.as_secs_f64() {
        seconds if seconds >= 1.0 => format!("{seconds:.2} s"),
        seconds if seconds >= 0.1 => format!("{:.0} ms", seconds * 1e3),
        seconds => format!("{:.2} ms", seconds * 1e3),
    }
}
