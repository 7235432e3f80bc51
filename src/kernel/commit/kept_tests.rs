//! The socket that owns the table outlives the process that opened it.

use std::fs::File;
use std::os::fd::OwnedFd;

use chrono::Utc;
use nix::sched::{CloneFlags, unshare};

use super::{CommitError, Socket, Table};
use crate::plan::{Changeset, Step};

/// Runs in a network namespace of its own.
fn alone(body: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        return println!("SKIPPED: needs root for a network namespace");
    }
    let stage = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        body();
    });
    stage.join().unwrap();
}

fn commit(table: &mut Table, counter: &str) -> Result<(), CommitError> {
    let steps = vec![Step::AddCounter(counter.to_owned())];
    table.commit(&Changeset { table: "picoseg".to_owned(), steps }, &Utc::now).map(drop)
}

fn counters(table: &mut Table) -> Vec<String> {
    table.inventory().unwrap().unwrap().counters
}

/// With the flag `persist`, and as kernels from 5.12 to 6.8, which hold a lock in its place.
#[test]
fn the_next_daemon_goes_on_with_a_kept_socket_and_nobody_comes_between() {
    for locks in [false, true] {
        alone(move || {
            let prepared = |mut table: Table| {
                table.features.persist &= !locks;
                table.locks |= locks;
                table
            };
            let mut first = prepared(Table::open("picoseg", true).unwrap());
            commit(&mut first, "a").unwrap();
            // An answer that nobody has read.
            first.writer.send(&nothing()).unwrap();
            let kept = first.owner().try_clone_to_owned().unwrap();
            let port = first.writer.port();
            drop(first);
            let other = || Table::open("picoseg", true).map(prepared);
            let held = other().and_then(|mut table| commit(&mut table, "b"));
            assert!(matches!(held, Err(CommitError::HeldByAnother { .. })), "{locks}: {held:?}");
            let adopted = Socket::adopt(kept).unwrap();
            assert_eq!(adopted.port(), port);
            let mut next = prepared(Table::open_with(adopted, "picoseg", true).unwrap());
            commit(&mut next, "c").unwrap();
            assert_eq!(counters(&mut next), ["a", "c"]);
            drop(next);
            let mut other = other().unwrap();
            commit(&mut other, "d").unwrap();
            assert_eq!(counters(&mut other), ["a", "c", "d"]);
        });
    }
}

/// A message that is answered with an error.
fn nothing() -> Vec<u8> {
    super::attributes::Request::new(libc::NFT_MSG_GETTABLE as u16, libc::NLM_F_ACK as u16, 1).finish()
}

#[test]
fn what_is_no_netfilter_socket_of_this_network_is_not_adopted() {
    alone(|| {
        let refused = |fd: OwnedFd| {
            let error = Socket::adopt(fd).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("no netfilter socket of this network"), "{error}");
        };
        refused(File::open("/dev/null").unwrap().into());
        refused(std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into());
        let elsewhere = Table::open("picoseg", true).unwrap().owner().try_clone_to_owned().unwrap();
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        refused(elsewhere);
    });
}
