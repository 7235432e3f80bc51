//! When a service is open: its schedule and an instant become openings, a state and the next change.
//!
//! Stands on `model` alone. An opening is a half-open span of UTC instants. It comes from the windows of a service in
//! five steps, each with its own file:
//!
//! | file | from | to |
//! |---|---|---|
//! | `calendar` | a cron expression | the local dates and times at which it fires |
//! | `local_time` | a local time of a zone | the instant, in gaps and overlaps too |
//! | `recurrence` | firings and how they end | openings of one window, by time |
//! | `merged` | openings of several windows | the same, neither overlapping nor touching |
//! | `openings` | a service | without exceptions, inside the lifetime |
//!
//! `state` then asks whether an instant lies in an opening. Everything is lazy and exact: an answer costs what lies
//! between the instant and the answer, and openings that touch for years are found with their real ends, within a bound
//! (`merged::MOST_JOINS`) that no schedule reaches by accident.
//!
//! Deliberately absent: a clock, approvals (the caller knows whether they suffice), the kernel's horizon.

mod calendar;
#[cfg(test)]
pub(crate) mod fixture;
mod local_time;
mod merged;
mod openings;
mod recurrence;
mod spans;
mod state;

pub use openings::{openings, timetable};
pub use state::{
    current_opening, decommissioned_at, next_opening, next_transition, shut, state, watched_until,
};
