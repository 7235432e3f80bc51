//! The product under a real systemd as PID 1: shipped units, subjects that are units, sockets that systemd makes, and
//! what happens between the start of a unit and its first packet.
//!
//! [`machine`] boots a small Debian (`scripts/rootfs`) in namespaces of its own with `systemd-nspawn`, [`outside`] is the
//! other end of its wire, [`agent`] is what its units run. The tests need root, `systemd-nspawn`, `mmdebstrap` and once
//! a Debian mirror, and say `SKIPPED: why` where one of them is missing.

#[path = "../e2e/lab/cli.rs"]
mod cli;
#[path = "../e2e/lab/clock.rs"]
#[expect(dead_code, reason = "shared with tests/e2e")]
mod clock;
#[path = "../e2e/lab/netns.rs"]
mod netns;
#[path = "../e2e/lab/skip.rs"]
#[expect(dead_code, reason = "shared with tests/e2e")]
mod skip;

mod agent;
mod converge;
mod machine;
mod outside;
mod schedule;
mod traffic;

mod activation;
mod ansible;
mod attribution;
mod chef;
mod coexist;
mod documents;
mod early;
mod gapless;
mod owned;
mod package;
mod program;
mod puppet;
mod puppet_keys;
mod rpm;
mod service;
mod settle;
mod unit;
