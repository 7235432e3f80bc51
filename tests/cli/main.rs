//! `picoseg` as a process: what it prints, and how it exits.

#[path = "../e2e/lab/skip.rs"]
#[expect(dead_code, reason = "shared with tests/e2e")]
mod skip;

mod completions;
mod etc;
mod offline;
mod online;
mod shapes;
