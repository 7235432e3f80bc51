//! Metrics for Prometheus, and a page for people: what the daemon tells of itself, at `[metrics] listen` and at
//! `GET /metrics` of the unix sockets.
//!
//! | file | duty |
//! |---|---|
//! | [`catalogue`] | every metric: name, unit, type, labels, meaning |
//! | [`facts`] | what the daemon tells, as plain values |
//! | [`histogram`] | how long things took |
//! | `families` | pure: facts to samples of the catalogue's metrics |
//! | `openmetrics`, `plain` | pure: samples to OpenMetrics 1.0 and to Prometheus text 0.0.4 |
//! | [`format`] | which of the two a client gets |
//! | `page` | pure: facts to the dashboard |
//! | [`scraper`] | asks the loop, at most once a second, and keeps what was rendered |
//! | [`listener`] | the TCP socket: retried, moved, bounded |
//! | `answer` | the two paths of that socket |
//!
//! The loop hands out a copy of what it knows and goes on; states, sums and text are made beside it. Deliberately
//! absent: authentication. Whoever reaches the socket may read; where it listens is the operator's choice.

pub mod catalogue;
pub mod facts;
pub mod format;
pub mod histogram;
pub mod listener;
pub mod scraper;

mod answer;
mod families;
mod openmetrics;
mod page;
mod plain;
#[cfg(test)]
mod sample;

pub use facts::{Commits, Facts};
pub use listener::Listener;
pub use scraper::Scraper;
