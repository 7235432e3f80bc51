//! Brings the table back to what is in force.
//!
//! The repair is the transaction that a change of ours would be, with the table in force as its end. It takes only a part of the
//! engine, so that it goes on while the ledger is written: a disk may take its time, the table may not.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::{Duration, Instant};

use serde_json::json;

use super::attempts::Attempts;
use super::drift::Drift;
use super::record;
use crate::kernel::clock;
use crate::kernel::commit::{CommitError, News, Table};
use crate::model::Time;
use crate::plan::repair::{self, Damage};
use crate::plan::{self, Changeset};
use crate::ruleset::Ruleset;
use crate::store::LedgerKind;

/// Objects that an entry names, and letters of each.
const NAMED: usize = 16;
const LETTERS: usize = 120;

/// What a repair needs of the engine.
pub struct Mender<'a> {
    pub table: &'a mut Table,
    pub in_force: &'a Ruleset,
    pub attempts: &'a mut Attempts,
    pub drift: &'a mut Drift,
    /// The latest time that was seen: a clock that was turned back must not prolong anything.
    pub latest: Time,
}

/// What was found and how it was mended.
struct Mended {
    what: String,
    objects: Vec<String>,
    gap: Duration,
}

impl Mender<'_> {
    /// Waits for something else, and repairs meanwhile what others do.
    pub async fn while_waiting<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = pin!(other);
        loop {
            tokio::select! {
                biased;
                outcome = &mut other => return outcome,
                () = self.drift.changed() => {}
            }
            self.drift.awake();
            self.mend(false);
        }
    }

    fn now(&self) -> Time {
        clock::now().max(self.latest)
    }

    fn clock(&self) -> impl Fn() -> Time + use<> {
        let latest = self.latest;
        move || clock::now().max(latest)
    }

    /// Repairs what others did. `at_once`: also when it rests from doing that.
    pub fn mend(&mut self, at_once: bool) {
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
        if !self.drift.fights {
            tracing::warn!(%what, by = %list(&news.by), gap_ms, "somebody changed our table; it is repaired");
        }
        if self.drift.failing.take().is_none() {
            self.detected(&what, &objects, news);
        }
        let repaired = json!({ "gap_ms": gap_ms, "what": what, "objects": objects });
        self.drift.facts.push(record::note(LedgerKind::DriftRepaired, self.now(), record::DAEMON, repaired));
        self.drift.noticed = None;
        let now = Instant::now();
        self.drift.fights &= !self.drift.pace.is_quiet(now);
        self.drift.pace.repaired(now, now - began);
        if self.drift.pace.is_fight(now) && !std::mem::replace(&mut self.drift.fights, true) {
            tracing::warn!(by = %list(&news.by), "another program changes our table again and again");
        }
    }

    fn not_mended(&mut self, news: &News, error: &CommitError) {
        self.drift.news.append(news.clone());
        self.drift.suspect();
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
        let now = self.clock();
        let damage = self.table.damage(news, self.in_force, &now)?;
        let (what, objects) = match &damage {
            Some(damage) if damage.is_empty() => return Ok(None),
            Some(damage) => (what(damage), named(damage.objects())),
            None => ("table deleted".to_owned(), vec![format!("table inet {}", self.in_force.table)]),
        };
        match &damage {
            Some(damage) if !news.table_deleted => {
                let lost: Vec<String> =
                    damage.lost_counts(self.in_force).chain(&news.counters_deleted).cloned().collect();
                self.attempts.count_anew(&lost);
                for (set, keys) in damage.lost_elements() {
                    self.attempts.count_elements_anew(set, &keys);
                }
            }
            Some(_) | None => self.attempts.begin_bereft(),
        }
        let changeset = match &damage {
            Some(damage) => repair::repair(damage, self.in_force),
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
        if let Err(error) = self.read_back(&phases) {
            tracing::error!(%error, "cannot read back what was repaired");
            self.drift.suspect();
        }
        Ok(gap)
    }

    /// All rules again, and of the sets what differs.
    fn replace_all(&mut self) -> Result<Vec<Changeset>, CommitError> {
        let Some(found) = self.table.inventory()? else { return self.make_anew() };
        let held = self.table.held(self.in_force)?;
        match plan::replace(&found, &held, self.in_force) {
            Some(changeset) => self.commit_phases(changeset),
            None => Ok(Vec::new()),
        }
    }

    /// The last resort: one transaction that deletes the table and makes it.
    fn make_anew(&mut self) -> Result<Vec<Changeset>, CommitError> {
        let (now, whole) = (self.clock(), self.whole());
        self.attempts.begin_bereft();
        self.table.commit_anew(&whole, &now)?;
        Ok(vec![whole])
    }

    fn whole(&self) -> Changeset {
        let nothing = Ruleset::new(&self.in_force.table);
        let whole = plan::plan(&nothing, self.in_force, &BTreeSet::new());
        whole.unwrap_or_else(|| Changeset { table: self.in_force.table.clone(), steps: Vec::new() })
    }

    fn commit_phases(&mut self, changeset: Changeset) -> Result<Vec<Changeset>, CommitError> {
        let now = self.clock();
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
        let now = self.clock();
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
