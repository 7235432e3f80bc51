//! What others did to our table: noticed, repaired, put on record.
//!
//! The repair is the same transaction that a change of ours would be, with the table in force as its end. It comes before
//! everything else that the loop does, and before each change of our own, which builds on the table in force.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use serde_json::json;

use super::engine::Engine;
use super::pace::Pace;
use super::record;
use crate::kernel::clock;
use crate::kernel::commit::{CommitError, News};
use crate::model::Time;
use crate::plan::repair::{self, Damage};
use crate::plan::{self, Changeset};
use crate::ruleset::Ruleset;
use crate::store::{Fact, LedgerKind};

/// What is weaker when nothing is heard.
pub const DEAF: &str = "changes of our table by other programs are not noticed";

/// Objects that an entry names, and letters of each.
const NAMED: usize = 16;
const LETTERS: usize = 120;

/// What others did, and what became of it.
#[derive(Debug)]
pub struct Drift {
    /// How often the kernel held something else than was in force, and when that was last seen.
    pub count: u64,
    pub last_at: Option<Time>,
    /// Becomes readable when somebody changes rules; for the loop.
    pub readable: Option<OwnedFd>,
    /// What is not repaired yet.
    news: News,
    /// When the loop woke: what it finds now was not there when it last looked, before it slept.
    awake_since: Instant,
    /// When what is not repaired was noticed.
    noticed: Option<Instant>,
    /// Why it is not, told once.
    failing: Option<String>,
    pace: Pace,
    /// A fight was told.
    fights: bool,
    /// What is not on record yet.
    facts: Vec<Fact>,
}

impl Default for Drift {
    fn default() -> Self {
        Self {
            count: 0,
            last_at: None,
            readable: None,
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

/// What was found and how it was mended.
struct Mended {
    what: String,
    objects: Vec<String>,
    gap: Duration,
}

impl Drift {
    /// The loop woke.
    pub fn awake(&mut self) {
        self.awake_since = Instant::now();
    }

    /// Everything has to be looked at.
    pub fn suspect(&mut self) {
        self.news.missed = true;
    }

    /// When to try again what is not repaired.
    pub fn due(&self) -> Option<Instant> {
        self.pace.rests_until().filter(|_| !self.news.is_empty())
    }

    /// What is weaker at the moment.
    pub fn weaker(&self) -> Option<String> {
        if let Some(error) = &self.failing {
            return Some(format!("the table is not as it should be, which is tried again: {error}"));
        }
        let fights = self.fights && self.pace.is_fight(Instant::now());
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
        if let Err(error) = self.table.hear(&mut self.drift.news) {
            tracing::error!(%error, "everything is looked at instead");
        }
        let began = Instant::now();
        if self.drift.news.is_empty() || !at_once && self.drift.pace.rests(began) {
            return;
        }
        let noticed = *self.drift.noticed.get_or_insert(self.drift.awake_since);
        let news = std::mem::take(&mut self.drift.news);
        match self.mend_what(&news, noticed) {
            Ok(Some(mended)) => self.mended(&news, mended, began),
            Ok(None) => {
                self.drift.failing = None;
                self.drift.noticed = None;
            }
            Err(error) => self.not_mended(&news, &error),
        }
    }

    fn mended(&mut self, news: &News, mended: Mended, began: Instant) {
        let Mended { what, objects, gap } = mended;
        // Rounded up; the ledger has whole numbers only.
        let gap_ms = gap.as_micros().div_ceil(1000) as u64;
        tracing::warn!(%what, by = %list(&news.by), gap_ms, "somebody changed our table; it is repaired");
        if self.drift.failing.take().is_none() {
            self.detected(&what, &objects, news);
        }
        let repaired = json!({ "gap_ms": gap_ms, "what": what, "objects": objects });
        self.drift.facts.push(record::note(LedgerKind::DriftRepaired, self.now(), record::DAEMON, repaired));
        self.drift.noticed = None;
        let now = Instant::now();
        self.drift.pace.repaired(now, now - began);
        let fights = self.drift.pace.is_fight(now);
        if fights && !std::mem::replace(&mut self.drift.fights, fights) {
            tracing::warn!(by = %list(&news.by), "another program changes our table again and again");
        }
        self.drift.fights = fights;
    }

    fn not_mended(&mut self, news: &News, error: &CommitError) {
        self.drift.news.append(news.clone());
        self.drift.news.missed = true;
        self.drift.pace.failed(Instant::now());
        let error = error.to_string();
        if self.drift.failing.is_none() {
            tracing::error!(%error, by = %list(&news.by), "somebody changed our table; it is not repaired yet");
            self.detected("not repaired yet", &[bounded(&error)], news);
        }
        self.drift.failing = Some(error);
    }

    fn detected(&mut self, what: &str, objects: &[String], news: &News) {
        self.drift.count += 1;
        self.drift.last_at = Some(self.now());
        let detail = json!({ "what": what, "objects": objects, "by": news.by });
        self.drift.facts.push(record::note(LedgerKind::DriftDetected, self.now(), record::DAEMON, detail));
    }

    /// `None`: nothing is other than it should be.
    fn mend_what(&mut self, news: &News, noticed: Instant) -> Result<Option<Mended>, CommitError> {
        let latest = self.world.now();
        let now = || clock::now().max(latest);
        let damage = self.table.damage(news, &self.in_force, &now)?;
        let (what, objects) = match &damage {
            Some(damage) if damage.is_empty() => return Ok(None),
            Some(damage) => (what(damage), named(damage.objects())),
            None => ("table deleted".to_owned(), vec![format!("table inet {}", self.in_force.table)]),
        };
        match &damage {
            Some(damage) if !news.table_deleted => {
                let lost: Vec<String> =
                    damage.lost_counts(&self.in_force).chain(&news.counters_deleted).cloned().collect();
                self.attempts.count_anew(&lost);
            }
            Some(_) | None => self.attempts.begin_anew(),
        }
        let changeset = match &damage {
            Some(damage) => repair::repair(damage, &self.in_force),
            None => self.whole(),
        };
        let gap = self.commit_repair(changeset, noticed)?;
        Ok(Some(Mended { what, objects, gap }))
    }

    /// Commits a repair, or more where the kernel does not take it. Returns how long it was since it was noticed.
    fn commit_repair(&mut self, changeset: Changeset, noticed: Instant) -> Result<Duration, CommitError> {
        let committed = match self.commit_phases(changeset) {
            Err(CommitError::Refused { .. }) => self.replace_all(),
            other => other,
        };
        let phases = match committed {
            Err(CommitError::Refused { .. }) => self.make_anew()?,
            other => other?,
        };
        let gap = noticed.elapsed();
        self.read_back(&phases)?;
        Ok(gap)
    }

    /// All rules again, and of the sets what differs.
    fn replace_all(&mut self) -> Result<Vec<Changeset>, CommitError> {
        let Some(found) = self.table.inventory()? else { return self.make_anew() };
        let held = self.table.held(&self.in_force)?;
        match plan::replace(&found, &held, &self.in_force) {
            Some(changeset) => self.commit_phases(changeset),
            None => Ok(Vec::new()),
        }
    }

    /// The last resort: one transaction that deletes the table and makes it.
    fn make_anew(&mut self) -> Result<Vec<Changeset>, CommitError> {
        let latest = self.world.now();
        let whole = self.whole();
        self.attempts.begin_anew();
        self.table.commit_anew(&whole, &|| clock::now().max(latest))?;
        Ok(vec![whole])
    }

    fn whole(&self) -> Changeset {
        let nothing = Ruleset::new(&self.in_force.table);
        let whole = plan::plan(&nothing, &self.in_force, &BTreeSet::new());
        whole.unwrap_or_else(|| Changeset { table: self.in_force.table.clone(), steps: Vec::new() })
    }

    fn commit_phases(&mut self, changeset: Changeset) -> Result<Vec<Changeset>, CommitError> {
        let latest = self.world.now();
        let now = || clock::now().max(latest);
        let phases: Vec<Changeset> = match changeset.steps.is_empty() {
            // Only the table's flags.
            true => vec![changeset],
            false => changeset.phases().collect(),
        };
        for phase in &phases {
            let committed = self.table.commit(phase, &now)?;
            tracing::debug!(?committed, "repaired");
        }
        Ok(phases)
    }

    fn read_back(&mut self, phases: &[Changeset]) -> Result<(), CommitError> {
        let latest = self.world.now();
        let now = || clock::now().max(latest);
        for phase in phases {
            for difference in self.table.verify(phase, &now)? {
                tracing::error!(%difference, "the kernel holds something else than was repaired");
                self.drift.suspect();
            }
        }
        Ok(())
    }
}

/// What kinds of objects are damaged.
fn what(damage: &Damage) -> String {
    let kinds = [
        ("table put to sleep", usize::from(damage.flags)),
        ("chains", damage.chains.len()),
        ("sets", damage.sets.len()),
        ("counters", damage.counters.len()),
        ("other objects", damage.strangers.len()),
    ];
    let kinds = kinds.iter().filter(|(_, count)| *count > 0).map(|(kind, _)| *kind);
    kinds.collect::<Vec<_>>().join(", ")
}

/// As many as an entry has room for.
fn named(mut objects: Vec<String>) -> Vec<String> {
    let rest = objects.len().saturating_sub(NAMED);
    objects.truncate(NAMED);
    let rest = (rest > 0).then(|| format!("and {rest} more"));
    objects.iter().map(|object| bounded(object)).chain(rest).collect()
}

fn bounded(text: &str) -> String {
    text.chars().take(LETTERS).collect()
}

fn list(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}
