//! What `scripts/fuzz` throws bytes at, and what the corpora in `fuzz/corpus` are replayed through by a test.
//!
//! Only there in tests and behind the feature `fuzzing`, which no build that is shipped has. Each target takes what
//! comes from outside as it comes, reads it as the product does, and insists on what has to hold of the outcome.

mod configuration;
#[cfg(test)]
mod corpora;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use chrono::TimeDelta;

use crate::api::server::{Side, fuzz as server};
use crate::compile::{ANSWER, Charged};
use crate::daemon::fuzz as daemon;
use crate::kernel::fuzz as kernel;
use crate::model::{HostName, Time};
use crate::names::{Name, News};

pub use configuration::schedule;

/// Takes what comes from outside, and panics where something does not hold.
pub type Target = fn(&[u8]);

/// The targets by name: each has a corpus of that name.
pub const TARGETS: [(&str, Target); 5] =
    [("schedule", schedule), ("nflog", nflog), ("netlink", netlink), ("api", api), ("dns", dns)];

/// A datagram of an NFLOG group, and all that is made of its records.
pub fn nflog(bytes: &[u8]) {
    for record in kernel::records(bytes) {
        if let Some((charged, direction, reason)) = Charged::of_log_prefix(&record.prefix) {
            let written = charged.log_prefix(direction, reason);
            assert_eq!(Charged::of_log_prefix(&written), Some((charged, direction, reason)));
        }
        if record.prefix == ANSWER {
            record.datagram.as_deref().into_iter().for_each(dns);
        }
    }
}

/// A datagram of the kernel: sockets, connections, nf_tables, acknowledgements.
pub fn netlink(bytes: &[u8]) {
    kernel::replies(bytes);
}

/// What a client of one of the two sockets sends.
pub fn api(bytes: &[u8]) {
    for side in Side::ALL {
        let answer = server::exchange(side, bytes);
        let status = answer.get(..12).map(String::from_utf8_lossy);
        let known = ["200", "400", "403", "404", "405", "413", "414", "431", "503"];
        let fits = |status: &str| known.iter().any(|code| status == format!("HTTP/1.1 {code}"));
        let interim = |status: &str| status == "HTTP/1.1 100" || status.starts_with("HTTP/1.0 ");
        assert!(status.as_deref().is_none_or(|status| fits(status) || interim(status)), "{status:?}");
    }
}

/// A datagram of a name server.
pub fn dns(bytes: &[u8]) {
    let Some((asked, addresses)) = daemon::answer(bytes) else { return };
    let names = ["api.example.com", "*.example.com"].map(|name| HostName::new(name).expect("a name"));
    let asked_for = HostName::new(&asked);
    for name in names.iter().chain(&asked_for) {
        let covered = name.covers(&asked);
        assert!(covered || asked_for.as_ref() != Some(name));
    }
    learn(&addresses);
}

fn learn(addresses: &[(IpAddr, Duration)]) {
    let now = Time::UNIX_EPOCH;
    let mut name = Name::default();
    for (address, holds) in addresses {
        assert!((60..=3600).contains(&holds.as_secs()), "{holds:?}");
        let until = now + TimeDelta::from_std(*holds).expect("an hour at most");
        name.take(&News::Learned { address: *address, until }, now);
    }
    assert!(name.addresses.len() <= addresses.len());
    name.pass(now + TimeDelta::seconds(3600), &BTreeSet::new());
    assert!(name.addresses.values().all(|held| held.left.is_some()), "nothing is admitted for ever");
}
