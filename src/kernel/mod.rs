//! What the kernel of this host says and does.
//!
//! | module | duty |
//! |---|---|
//! | [`commit`] | transactions of nf_tables, and what the table holds |
//! | [`netlink`] | a socket to the kernel: requests, dumps, attributes |
//! | [`sockets`] | the TCP and UDP sockets of this network namespace; destroys single ones |
//! | [`holders`] | which processes have sockets open |
//! | [`processes`] | what `/proc` says of a process, and who is alone in a cgroup |
//! | [`conntrack`] | removes the connection tracking entries of given flows |
//! | [`nflog`] | reads the records of refused packets |
//! | [`cgroups`] | subjects to cgroup ids, and what changes about them |
//! | [`containers`] | names and addresses of containers |
//! | [`fanotify`] | holds executions of marked files |
//! | [`accounts`] | the numbers of users and groups |
//! | [`clock`] | the wall clock, and when it is stepped |
//! | [`beat`] | a timer that goes off again and again |
//! | [`file_watch`] | when files may have another content |
//! | [`unprivileged`] | runs programs without capabilities |
//! | [`wait`] | waits for these readers in the daemon's loop |
//!
//! Deliberately absent: any decision. The core says what is wanted; nothing here knows a service or a schedule.

pub mod accounts;
pub mod beat;
pub mod cgroups;
pub mod clock;
pub mod commit;
pub mod conntrack;
pub mod containers;
pub mod fanotify;
mod ffi;
pub mod file_watch;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub mod holders;
pub mod netlink;
pub mod nflog;
pub mod processes;
pub mod sockets;
pub mod unprivileged;
pub mod wait;

pub use ffi::{give_back_memory, inherited};
