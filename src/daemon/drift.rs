//! What others did to our table: noticed, repaired, put on record.
//!
//! It comes before everything else that the loop does, and before each change of our own, which builds on the table in force.

use std::os::fd::OwnedFd;
use std::time::Instant;

use super::engine::Engine;
use super::mender::Mender;
use super::pace::Pace;
use crate::kernel::clock;
use crate::kernel::commit::News;
use crate::kernel::wait::Waiting;
use crate::model::Time;
use crate::store::{Fact, Kept};

/// What is weaker when nothing is heard.
pub const DEAF: &str = "changes of our table by other programs are not noticed";

/// What others did, and what became of it.
#[derive(Debug)]
pub struct Drift {
    /// How often the kernel held something else than was in force, and when that was last seen.
    pub count: u64,
    pub last_at: Option<Time>,
    /// Becomes readable when somebody changes rules.
    pub rules: Option<Waiting<OwnedFd>>,
    /// What is not repaired yet.
    pub(super) news: News,
    /// When the loop woke: what it finds now was not there when it last looked, before it slept.
    pub(super) awake_since: Instant,
    /// When what is not repaired was noticed.
    pub(super) noticed: Option<Instant>,
    /// Why it is not, told once.
    pub(super) failing: Option<String>,
    pub(super) pace: Pace,
    /// Somebody does it again and again, which was told.
    pub(super) fights: bool,
    /// What is not on record yet.
    pub(super) facts: Vec<Fact>,
}

impl Default for Drift {
    fn default() -> Self {
        Self {
            count: 0,
            last_at: None,
            rules: None,
            news: News::default(),
            awake_since: Instant::now(),
            noticed: None,
            failing: None,
            pace: Pace::default(),
            fights: false,
            facts: Vec::new(),
        }
    }
}

impl Drift {
    /// The loop woke.
    pub fn awake(&mut self) {
        self.awake_since = Instant::now();
    }

    /// Everything has to be looked at.
    pub fn suspect(&mut self) {
        self.news.suspected = true;
    }

    /// Returns when somebody changed rules, or when it is time to repair what is not repaired yet.
    pub async fn changed(&mut self) {
        let due = self.pace.rests_until().filter(|_| !self.news.is_empty());
        let rules = async {
            match &mut self.rules {
                // An error shows again when they are read.
                Some(rules) => drop(rules.readable().await),
                None => std::future::pending().await,
            }
        };
        let rested = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = rules => {}
            () = rested => {}
        }
    }

    /// Why the table is not what is in force, where it is not repaired at once.
    pub fn unrepaired(&self) -> Option<String> {
        let failing = || self.failing.clone();
        self.noticed
            .map(|_| failing().unwrap_or_else(|| "another program changed it".to_owned()))
            .or_else(failing)
    }

    /// What is weaker at the moment.
    pub fn weaker(&self) -> Option<String> {
        if let Some(error) = &self.failing {
            return Some(format!("the table is not as it should be, which is tried again: {error}"));
        }
        let fights = self.fights && !self.pace.is_quiet(Instant::now());
        fights.then(|| {
            "another program changes our table again and again: it is repaired each time, with short rests".to_owned()
        })
    }
}

impl Engine {
    /// Repairs what others did, and puts it on record.
    pub async fn heal_table(&mut self) {
        self.mend(false);
        let facts = std::mem::take(&mut self.drift.facts);
        if !facts.is_empty() {
            self.keep(facts).await;
        }
    }

    /// Looks for what the kernel tells nobody, or told when we did not listen.
    pub fn look_for_drift(&mut self) {
        if let Err(error) = self.table.is_behind() {
            tracing::error!(%error, "cannot look after the table");
        }
    }

    /// Repairs what others did. `at_once`: also when it rests from doing that.
    pub(super) fn mend(&mut self, at_once: bool) {
        self.mender().mend(at_once);
    }

    fn mender(&mut self) -> Mender<'_> {
        Mender {
            table: &mut self.table,
            in_force: &self.in_force,
            attempts: &mut self.attempts,
            drift: &mut self.drift,
            latest: self.world.now(),
        }
    }

    /// Waits for something else, and repairs meanwhile what others do.
    pub(super) async fn mending<T>(&mut self, other: impl Future<Output = T>) -> T {
        self.mender().while_waiting(other).await
    }

    /// Puts facts on record, and repairs meanwhile what others do.
    pub(super) async fn keep_mending(&mut self, facts: Vec<Fact>) -> Kept {
        let mut mender = Mender {
            table: &mut self.table,
            in_force: &self.in_force,
            attempts: &mut self.attempts,
            drift: &mut self.drift,
            latest: self.world.now(),
        };
        mender.while_waiting(self.keeper.keep(facts, clock::now())).await
    }
}
