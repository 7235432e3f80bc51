//! picoseg: time-boxed pico-segmentation for Linux hosts.
//!
//! A pure core and an edge. The core takes the time as an argument and returns values; the edge reads clocks,
//! files and the kernel and does what the core says. `tests/layers.rs` holds the direction of dependencies.
//!
//! | core | duty |
//! |---|---|
//! | [`model`] | the words of the domain; invariants in constructors |
//! | [`config`] | texts to services and settings, or diagnostics |
//! | [`schedule`] | services and instants to openings and states |
//! | [`ruleset`] | the wanted table as a value; prints nft syntax |
//! | [`plan`] | two tables to the changeset between them |

pub mod config;
pub mod kernel;
pub mod model;
pub mod plan;
pub mod ruleset;
pub mod schedule;
