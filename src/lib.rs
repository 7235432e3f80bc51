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
//! | [`compile`] | services, processes and time to the wanted table |
//! | [`plan`] | two tables to the changeset between them |
//! | [`owners`] | which service a remote address belongs to |
//! | [`explain`] | would this packet pass, and why |
//! | [`names`] | the addresses that host names have and had |
//! | [`reconcile`] | the state machine |
//! | [`history`] | entries of the ledger to what was in force at an instant |
//! | [`ranges`] | overlapping ranges to disjoint ones |
//! | [`report`] | the decommission report: what it says, and how in each format |
//! | [`escape`] | text from elsewhere made harmless |
//!
//! | edge | duty |
//! |---|---|
//! | [`files`] | the configuration's directories to their texts |
//! | [`resolvers`] | whom this host asks for names |
//! | [`kernel`] | transactions, sockets, NFLOG, cgroups, the clock |
//! | [`store`] | ledger, attempts, orders, accepted files |
//! | [`api`] | requests and answers over the unix sockets |
//! | [`metrics`] | metrics for Prometheus and the dashboard |
//! | [`cli`] | the command line |
//! | [`execd`] | the helper for programs: each of their processes in a cgroup of its own |

#![deny(unsafe_code)]

pub mod api;
pub mod cli;
pub mod compile;
pub mod config;
pub mod daemon;
pub mod escape;
pub mod execd;
pub mod explain;
pub mod files;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod history;
pub mod kernel;
pub mod metrics;
pub mod model;
pub mod names;
pub mod owners;
pub mod plan;
pub mod ranges;
pub mod reconcile;
pub mod report;
pub mod resolvers;
pub mod ruleset;
pub mod schedule;
pub mod store;
