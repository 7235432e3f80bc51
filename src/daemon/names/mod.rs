//! What names stand for, asked of the host's resolvers. What is found goes to the loop as news.

mod answer;
mod config;
mod resolver;
mod schedule;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc, watch};

use crate::model::HostName;
use crate::names::News;

pub use answer::read;

/// News that may wait for the loop; while it is full, nobody asks.
const WAITING: usize = 1024;

/// The most news that become one change.
const TOGETHER: usize = 256;

/// What [`Hosts::next`] waits for.
pub enum Heard {
    Names(Vec<(HostName, News)>),
    /// The host has other resolvers.
    Resolvers,
}

/// The names that are asked for, and what was found.
pub struct Hosts {
    wanted: watch::Sender<BTreeSet<HostName>>,
    news: mpsc::Receiver<(HostName, News)>,
    resolvers: watch::Receiver<BTreeSet<IpAddr>>,
    look: Arc<Notify>,
}

impl Hosts {
    /// Starts to ask for these names, in the tokio runtime in which it is called.
    pub fn new(wanted: BTreeSet<HostName>) -> Self {
        let (wanted, names) = watch::channel(wanted);
        let (send, news) = mpsc::channel(WAITING);
        let (resolvers, known) = watch::channel(BTreeSet::new());
        let look = Arc::new(Notify::new());
        tokio::spawn(resolver::run(names, send, resolvers, Arc::clone(&look)));
        Self { wanted, news, resolvers: known, look }
    }

    /// Asks for these names from now on.
    pub fn set(&self, wanted: BTreeSet<HostName>) {
        self.wanted.send_if_modified(|now| {
            let other = *now != wanted;
            *now = wanted;
            other
        });
    }

    /// Has the files of the resolvers looked at, for what no sign tells of.
    pub fn look(&self) {
        self.look.notify_one();
    }

    /// True for the name servers that `/etc/resolv.conf` names.
    pub fn is_resolver(&self, address: IpAddr) -> bool {
        self.resolvers.borrow().contains(&address)
    }

    /// Waits for news; returns all that are there. Safe in `select!`.
    pub async fn next(&mut self) -> Heard {
        let mut news = Vec::new();
        // Neither ends before the runtime does.
        tokio::select! {
            Ok(()) = self.resolvers.changed() => Heard::Resolvers,
            1.. = self.news.recv_many(&mut news, TOGETHER) => Heard::Names(news),
            else => std::future::pending().await,
        }
    }
}
