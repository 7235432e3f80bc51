//! Changes of the world: tried on a copy, committed to the kernel, torn down, recorded.
//!
//! The order is the promise: the kernel first, because closing must work with everything else broken; then the
//! teardown; then the record, which waits in a journal when the store does not work.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use super::attempts::Attempts;
use super::chronicle::{Listing, Side};
use super::digest::Digest;
use super::metrics::Watched;
use super::names::Hosts;
use super::notify::Notifier;
use super::subjects::{Resolved, Subjects};
use super::teardown::{self, Proofs};
use super::{isolation, journald, record, snapshot};
use crate::api::body::Teardown;
use crate::compile::{CountSets, Openings};
use crate::config::{Diagnostic, Loaded};
use crate::kernel::cgroups::Hierarchy;
use crate::kernel::clock;
use crate::kernel::commit::{CommitError, Table};
use crate::model::{HostName, Order, OrderKind, ServiceName, Settings, Subject, Time};
use crate::owners::Owners;
use crate::plan::{self, Changeset};
use crate::reconcile::{Happening, OrderError, Outcome, What, World};
use crate::resolvers;
use crate::ruleset::{Part, Ruleset};
use crate::store::accepted::{self, Accepted};
use crate::store::{Fact, Keeper, Kept, LedgerKind, NewSource, Store, StoreError};

/// How long a transition that could not be committed waits for its next try.
const RETRY: chrono::TimeDelta = chrono::TimeDelta::seconds(1);

/// Facts in one transaction, which has to fit into the time that a decision waits. An order's are few.
const BATCH: usize = 1_024;

/// How far the wall clock may be behind the latest time seen before it counts as turned back.
const BEHIND: chrono::TimeDelta = chrono::TimeDelta::milliseconds(50);

/// Everything that the loop owns.
pub struct Engine {
    pub world: World,
    pub owners: Owners,
    pub in_force: Ruleset,
    pub in_force_since: Time,
    pub table: Table,
    pub keeper: Keeper,
    pub subjects: Subjects,
    pub hosts: Hosts,
    /// Names whose addresses are not written down yet.
    pub unwritten_hosts: BTreeSet<HostName>,
    pub hierarchy: Hierarchy,
    pub attempts: Attempts,
    pub accepted: Accepted,
    /// When the world's time was last moved on, by a clock that nobody turns back.
    seen_at: Instant,
    /// Not before this time again: the last transition was not committed.
    retry_at: Option<Time>,
    /// How often the kernel held something else than was committed, and when that was last seen.
    pub drift: u64,
    pub drift_at: Option<Time>,
    /// Why the last files were not accepted.
    pub config_error: Option<String>,
    /// Why the store does not work.
    pub store_error: Option<String>,
    /// Promises that are weaker on this host.
    pub weaker: Vec<String>,
    told: Told,
    digest: Digest,
    /// The digest that the ledger has.
    told_digest: Option<String>,
    /// The ledger could not be read at the start: what it lacks is told when it can be.
    pub(super) untold: bool,
    pub watched: Watched,
    /// Counts of what is no longer in force: their sets go when they are on record.
    pub(super) retiring: Vec<CountSets>,
    pub(super) retiring_counters: BTreeSet<String>,
}

/// Whom the engine tells of what it put on record.
struct Told {
    sources: journald::Sources,
    entries: journald::Entries,
    notifier: Notifier,
}

impl Told {
    fn new(store: &Arc<Store>, settings: &Settings) -> Self {
        let notifier = Notifier::start(store, settings);
        Self { sources: Default::default(), entries: Default::default(), notifier }
    }
}

/// Why a change did not happen. Nothing that was in force changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error("invalid configuration")]
    Invalid(Vec<Diagnostic>),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error(transparent)]
    Order(#[from] OrderError),
    #[error("nothing is opened while the ledger does not work: {0}")]
    NoLedger(String),
    #[error("{0} cannot change while the daemon runs: restart it")]
    NeedsRestart(&'static str),
}

/// A change that happened.
#[derive(Debug, Default)]
pub struct Changed {
    /// The table is another one.
    pub table: bool,
    pub proofs: Proofs,
    /// False while it waits for the store.
    pub recorded: bool,
    pub warnings: Vec<Diagnostic>,
}

impl Engine {
    #[expect(clippy::too_many_arguments, reason = "everything that the loop owns comes together here once")]
    pub fn new(
        world: World,
        table: Table,
        keeper: Keeper,
        subjects: Subjects,
        hierarchy: Hierarchy,
        attempts: Attempts,
        accepted: Accepted,
        config_error: Option<String>,
        store_error: Option<String>,
        weaker: Vec<String>,
    ) -> Self {
        let in_force = Ruleset::new(&world.settings().enforcement.table);
        let in_force_since = world.now();
        let owners = Owners::new(&world.standings());
        let hosts = Hosts::new(world.hosts().cloned().collect());
        let told = Told::new(keeper.store(), world.settings());
        Self {
            world,
            owners,
            in_force,
            in_force_since,
            table,
            keeper,
            subjects,
            hosts,
            unwritten_hosts: BTreeSet::new(),
            hierarchy,
            attempts,
            accepted,
            seen_at: Instant::now(),
            retry_at: None,
            drift: 0,
            drift_at: None,
            config_error,
            store_error,
            weaker,
            told,
            digest: Digest::default(),
            told_digest: None,
            untold: false,
            watched: Watched::default(),
            retiring: Vec::new(),
            retiring_counters: BTreeSet::new(),
        }
    }

    /// Puts the table in force for the first time, whatever is in the kernel.
    pub fn first(&mut self) -> Result<(), CommitError> {
        let digest = Digest::begin(&self.world);
        let mut wanted = self.world.compile();
        self.replace(&mut wanted)?;
        self.adopt(wanted, digest, true);
        Ok(())
    }

    /// Takes over files, already parsed.
    pub async fn apply(&mut self, loaded: Loaded, by: &str) -> Result<Changed, ChangeError> {
        self.may_change(&loaded.settings)?;
        self.may_open(&loaded)?;
        let mut next = self.world.clone();
        let outcome = next.apply(loaded.settings.clone(), loaded.services.clone(), clock::now());
        next.enclose(loaded.segments.clone());
        next.set_resolvers(resolvers::read());
        let subjects: Vec<Subject> = next.subjects().into_iter().cloned().collect();
        for (subject, places) in self.subjects.set(&subjects) {
            next.resolve_at(subject, places, clock::now());
        }
        next.forget_unused_subjects();
        let forgotten = next.forget_unused_hosts();
        let world = self.world.clone();
        let table = self.put_in_force(next, &BTreeSet::new())?;
        self.unwritten_hosts.extend(forgotten);
        self.hosts.set(self.world.hosts().cloned().collect());
        let accepted = self.accept(&loaded);
        self.told.notifier.follow(self.world.settings());
        let proofs = self.teardown(true).await;
        self.watch_closings(&outcome);
        let before = Side { accepted: &accepted, world: &world };
        let after = Side { accepted: &self.accepted, world: &self.world };
        let listing = Listing::between(before, after, &outcome);
        let entries = self.applied(listing, LedgerKind::ConfigApplied, by, json!({})).await;
        let mut facts = record::facts_of_files(&outcome, self.world.now(), entries);
        facts.extend(self.proof_facts(&outcome, &proofs));
        let recorded = self.keep(facts).await;
        self.config_error = None;
        Ok(Changed { table, proofs, recorded, warnings: loaded.warnings })
    }

    /// The entries about files that are in force, each with what `head` says.
    pub(super) async fn applied(
        &mut self,
        listing: Listing,
        kind: LedgerKind,
        by: &str,
        mut head: serde_json::Value,
    ) -> Vec<Fact> {
        let digest = self.digest().await;
        head["services"] = json!(self.world.files_count());
        head["mode"] = json!(self.world.settings().enforcement.mode.to_string());
        head["ruleset_digest"] = json!(digest);
        self.told_digest = Some(digest);
        listing.facts(kind, self.world.now(), by, &head)
    }

    /// Has the entries of a change say it where the rules are others since.
    async fn note_digest(&mut self, facts: &mut Vec<Fact>) {
        let digest = self.digest().await;
        if self.told_digest.as_ref() == Some(&digest) {
            return;
        }
        if !record::note_digest(facts, &digest) {
            facts.extend(
                self.applied(Listing::default(), LedgerKind::ConfigApplied, record::DAEMON, json!({})).await,
            );
        }
        self.told_digest = Some(digest);
    }

    /// Notes that files were not accepted.
    pub async fn reject(&mut self, diagnostics: &[Diagnostic], by: &str) {
        let first = diagnostics.first().map(ToString::to_string).unwrap_or_default();
        let error = format!("{} mistakes; the first: {first}", diagnostics.len());
        self.config_error = Some(error.clone());
        let entry = record::note(LedgerKind::ConfigRejected, self.world.now(), by, json!({ "error": error }));
        self.keep(vec![entry]).await;
    }

    /// Some settings are woven into what is open: sockets, the database, the table's name.
    fn may_change(&self, settings: &Settings) -> Result<(), ChangeError> {
        let now = self.world.settings();
        match () {
            () if now.paths.state != settings.paths.state => Err(ChangeError::NeedsRestart("paths.state")),
            () if now.paths.runtime != settings.paths.runtime => {
                Err(ChangeError::NeedsRestart("paths.runtime"))
            }
            () if now.enforcement.table != settings.enforcement.table => {
                Err(ChangeError::NeedsRestart("enforcement.table"))
            }
            () if now.enforcement.protect != settings.enforcement.protect => {
                Err(ChangeError::NeedsRestart("enforcement.protect"))
            }
            () if now.attempts.log_group != settings.attempts.log_group => {
                Err(ChangeError::NeedsRestart("attempts.log_group"))
            }
            () => Ok(()),
        }
    }

    /// Without a ledger only files that leave every service as it is, or take services away, are accepted.
    fn may_open(&self, loaded: &Loaded) -> Result<(), ChangeError> {
        let Some(error) = &self.store_error else { return Ok(()) };
        let same = |name: &ServiceName, service| self.world.file(name).is_some_and(|file| file == service);
        match loaded.services.iter().all(|(name, service)| same(name, service)) {
            true => Ok(()),
            false => Err(ChangeError::NoLedger(error.clone())),
        }
    }

    /// Carries an order out.
    pub async fn order(
        &mut self,
        kind: OrderKind,
        service: ServiceName,
        by: String,
        reason: String,
    ) -> Result<Changed, ChangeError> {
        if let (OrderKind::Resume, Some(error)) = (kind, &self.store_error) {
            return Err(ChangeError::NoLedger(error.clone()));
        }
        let order = Order { service, kind, at: clock::now(), by, reason };
        let mut next = self.world.clone();
        let outcome = next.order(&order)?;
        let table = self.put_services_in_force(next, &outcome.touched)?;
        let proofs = self.teardown(true).await;
        self.watch_closings(&outcome);
        let mut facts = record::order_facts(&order, &outcome, self.world.now());
        facts.extend(self.proof_facts(&outcome, &proofs));
        self.note_digest(&mut facts).await;
        let recorded = self.keep(facts).await;
        self.snapshot_decommissions(&outcome);
        Ok(Changed { table, proofs, recorded, warnings: vec![] })
    }

    /// Lets time pass. After a step of the clock everything is armed anew.
    pub async fn tick(&mut self, at: Time, stepped: bool) -> Result<(), ChangeError> {
        let outcome = self.pass_time(at, stepped).await;
        self.retry_at = outcome.as_ref().err().map(|_| clock::now() + RETRY);
        outcome
    }

    async fn pass_time(&mut self, at: Time, stepped: bool) -> Result<(), ChangeError> {
        let mut next = self.world.clone();
        let before = next.now();
        let outcome = next.tick(at);
        match stepped {
            true => {
                let expiring = self.in_force.sets.iter().filter(|(_, set)| set.expires);
                let rearm = expiring.map(|(name, _)| name.clone()).collect();
                self.put_in_force(next, &rearm)?
            }
            false => self.put_services_in_force(next, &outcome.touched)?,
        };
        let closing = !outcome.closing().is_empty();
        let proofs = self.teardown(closing).await;
        self.watch_closings(&outcome);
        let mut facts = record::facts(&outcome, self.world.now());
        facts.extend(self.proof_facts(&outcome, &proofs));
        self.note_digest(&mut facts).await;
        if stepped {
            self.watched.clock_steps += 1;
            let detail = json!({ "clock": clock::now(), "latest_seen": before });
            facts.push(record::note(LedgerKind::ClockStepped, self.world.now(), record::DAEMON, detail));
        }
        if !facts.is_empty() {
            self.keep(facts).await;
        }
        self.snapshot_decommissions(&outcome);
        Ok(())
    }

    /// Decommissions stand beside the accepted texts too: a database that is removed must not bring a service back.
    fn snapshot_decommissions(&mut self, outcome: &Outcome) {
        let ended = |h: &Happening| matches!(h.what, What::Decommissioned(_));
        if outcome.happenings.iter().any(ended) {
            snapshot::note_decommissions(&mut self.accepted, &self.world);
            self.write_accepted();
        }
    }

    /// Takes over where subjects are now: the chains of their policies change, nothing else.
    pub fn resolve(&mut self, changes: Vec<Resolved>) -> Result<(), CommitError> {
        let mut next = self.world.clone();
        let mut subjects = BTreeSet::new();
        for (subject, places) in changes {
            tracing::info!(%subject, places = places.len(), "subject changed");
            subjects.insert(subject.clone());
            next.resolve_at(subject, places, clock::now());
        }
        let part = next.compile_subjects(&subjects, &self.world, &self.in_force);
        self.put_part_in_force(next, part)?;
        Ok(())
    }

    /// Tells whoever waits for it which places of subjects are in the table.
    pub fn confirm_subjects(&mut self) {
        let world = &self.world;
        self.subjects.confirm(|subject| world.places(subject));
    }

    pub(super) fn put_in_force(
        &mut self,
        next: World,
        rearm: &BTreeSet<String>,
    ) -> Result<bool, CommitError> {
        let digest = Digest::begin(&next);
        let mut wanted = next.compile();
        self.keep_counts(&mut wanted);
        let changeset = plan::plan(&self.in_force, &wanted, rearm);
        let changed = changeset.as_ref().is_some_and(Changeset::outlasts_time);
        match changeset.map(|changeset| self.commit(changeset)) {
            Some(Err(CommitError::Vanished { .. })) => self.replace(&mut wanted)?,
            committed => committed.transpose().map(|_| ())?,
        }
        self.take(next);
        self.adopt(wanted, digest, changed);
        Ok(changed)
    }

    /// Puts in force what follows the state of these services; everything when others govern than before.
    fn put_services_in_force(
        &mut self,
        next: World,
        touched: &BTreeSet<ServiceName>,
    ) -> Result<bool, CommitError> {
        let governs = |world: &World, name| world.standing(name).is_some_and(|s| s.governs(world.now()));
        if touched.iter().any(|name| governs(&next, name) != governs(&self.world, name)) {
            return self.put_in_force(next, &BTreeSet::new());
        }
        let part = next.compile_services(touched, self.owners.ties(touched), &self.in_force);
        let same = |(name, chain)| self.in_force.chains.get(name) == Some(chain);
        // Windows come and go; rules follow files and orders.
        let rules_change = !part.wanted.chains.iter().all(same);
        let moved: BTreeSet<_> =
            touched.iter().filter(|name| next.moved(&self.world, name)).cloned().collect();
        let digest = rules_change.then(|| Digest::begin(&next));
        let changed = match moved.is_empty() {
            true => self.put_part_in_force(next, part)?,
            false => self.put_addresses_in_force(next, &moved, Some(part))?,
        };
        if let Some(digest) = digest {
            self.in_force_since = self.world.now();
            self.digest = digest;
        }
        Ok(changed)
    }

    pub(super) fn put_part_in_force(&mut self, next: World, mut part: Part) -> Result<bool, CommitError> {
        self.keep_part_counts(&mut part);
        let changeset = plan::plan_part(&self.in_force, &part);
        let changed = changeset.is_some();
        match changeset.map(|changeset| self.commit(changeset)) {
            Some(Err(CommitError::Vanished { .. })) => {
                let digest = Digest::begin(&next);
                let mut wanted = next.compile();
                self.replace(&mut wanted)?;
                self.take(next);
                self.adopt(wanted, digest, true);
                return Ok(true);
            }
            committed => committed.transpose().map(|_| ())?,
        }
        self.take(next);
        self.in_force.take_over(part);
        Ok(changed)
    }

    pub(super) fn take(&mut self, next: World) {
        if next.now() > self.world.now() {
            self.seen_at = Instant::now();
        }
        self.world = next;
    }

    fn adopt(&mut self, wanted: Ruleset, digest: Digest, changed: bool) {
        self.in_force = wanted;
        if changed {
            self.in_force_since = self.world.now();
        }
        self.owners = Owners::new(&self.world.standings());
        self.digest = digest;
    }

    /// Brings whatever is in the kernel to the wanted table, in one transaction and without a packet's gap.
    fn replace(&mut self, wanted: &mut Ruleset) -> Result<(), CommitError> {
        let (found, held) = match self.table.inventory()? {
            Some(found) => {
                self.keep_found_counts(&found, wanted);
                (found, self.table.held(wanted)?)
            }
            None => {
                self.attempts.begin_anew();
                Default::default()
            }
        };
        match plan::replace(&found, &held, wanted) {
            Some(changeset) => self.commit(changeset),
            None => Ok(()),
        }
    }

    /// Commits and reads back.
    pub(super) fn commit(&mut self, changeset: Changeset) -> Result<(), CommitError> {
        let began = Instant::now();
        let committed = self.commit_and_verify(changeset);
        self.watched.commits.note(committed.is_ok(), began.elapsed());
        committed
    }

    fn commit_and_verify(&mut self, changeset: Changeset) -> Result<(), CommitError> {
        let latest = self.world.now();
        for phase in changeset.phases() {
            // Timeouts count from here; a clock that was turned back must not make them longer.
            let committed = self.table.commit(&phase, &|| clock::now().max(latest))?;
            tracing::debug!(?committed, "committed");
            for difference in self.table.verify(&phase, &clock::now)? {
                tracing::error!(%difference, "the kernel holds something else than was committed");
                self.drift += 1;
                self.drift_at = Some(clock::now());
            }
        }
        Ok(())
    }

    async fn teardown(&mut self, needed: bool) -> Proofs {
        match needed {
            true => {
                let namespaces = self.subjects.namespaces();
                isolation::sweep(&self.world, &self.hierarchy).await;
                teardown::sweep(&self.world, &self.owners, &self.hierarchy, &namespaces).await
            }
            false => Proofs::new(),
        }
    }

    /// A proof for every service that closed, also when nothing was connected.
    fn proof_facts(&self, outcome: &Outcome, proofs: &Proofs) -> Vec<Fact> {
        let now = self.world.now();
        let closing = outcome.closing();
        let cut = proofs.keys().filter(|service| !closing.contains(service));
        closing
            .iter()
            .copied()
            .chain(cut)
            .map(|service| {
                let proof = proofs.get(service).cloned().unwrap_or_default();
                let proof = Teardown { completed_at: Some(clock::now().max(now)), ..proof };
                record::teardown(service, &proof, now)
            })
            .collect()
    }

    /// Puts facts on record; false while they wait for the store.
    pub async fn keep(&mut self, facts: Vec<Fact>) -> bool {
        let mut facts = facts.into_iter();
        let mut seqs = Vec::new();
        loop {
            let batch: Vec<_> = facts.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                self.note_time().await;
                self.told.entries.tell(self.keeper.store(), &seqs).await;
                return true;
            }
            let (error, keeping) = match self.keeper.keep(batch, clock::now()).await {
                Kept::Recorded(numbers) => {
                    seqs.extend(numbers);
                    continue;
                }
                Kept::Waiting { error, keeping } => (error, keeping),
            };
            let rest: Vec<_> = facts.collect();
            if !rest.is_empty() {
                // Behind those that wait already: nothing is asked.
                let _waiting = self.keeper.keep(rest, clock::now()).await;
            }
            let error = error.map_or_else(|| "earlier facts wait".to_owned(), |e| e.to_string());
            tracing::error!(%error, ?keeping, "not on record yet");
            self.store_broke(error);
            return false;
        }
    }

    /// Tells of sources whose first attempts are on record.
    pub fn tell(&mut self, new: &[NewSource]) {
        self.told.sources.tell(new);
        if !new.is_empty() {
            self.told.notifier.wake();
        }
    }

    /// Remembers the latest time: turning the clock back must not reopen what has closed, also not after a restart.
    async fn note_time(&mut self) {
        if let Err(error) = self.keeper.store().note_time(self.world.now()).await {
            self.store_broke(error.to_string());
        }
    }

    /// From now on nothing opens that is not open already.
    pub fn store_broke(&mut self, error: String) {
        if self.store_error.is_some() {
            return;
        }
        self.store_error = Some(error);
        if self.world.openings() == Openings::Armed {
            self.set_openings(Openings::Since(self.world.now()));
        }
    }

    /// Attempts stay in the kernel's counters. Behind a reader that stalls nothing else waits.
    pub fn attempts_not_written(&mut self, error: &StoreError) {
        tracing::error!(%error, "attempts are not on record yet");
        if !matches!(error, StoreError::LogHeld { .. }) {
            self.store_broke(error.to_string());
        }
    }

    /// Tries the store again; when it works everything is armed again.
    pub async fn heal(&mut self) {
        match self.keeper.heal(clock::now()).await {
            Ok(_) => {
                tracing::info!("the store works again");
                self.store_error = None;
                self.told.entries.tell(self.keeper.store(), &[]).await;
                self.set_openings(Openings::Armed);
                self.tell_what_is_untold().await;
            }
            Err(error) => self.store_error = Some(error.to_string()),
        }
    }

    /// Takes over whom the host asks for names: segments that may ask too follow.
    pub fn follow_resolvers(&mut self) -> Result<(), CommitError> {
        if !self.world.segments().values().any(|segment| segment.dns) {
            return Ok(());
        }
        let mut next = self.world.clone();
        if next.set_resolvers(resolvers::read()) {
            tracing::info!(resolvers = ?next.resolvers(), "the resolvers changed");
            self.put_in_force(next, &BTreeSet::new())?;
        }
        Ok(())
    }

    fn set_openings(&mut self, openings: Openings) {
        let mut next = self.world.clone();
        next.set_openings(openings);
        let windows = next.compile_windows();
        if let Err(error) = self.put_part_in_force(next, windows) {
            tracing::error!(%error, "cannot change what may open");
        }
    }

    /// Remembers the accepted texts, for a start with bad files and for services whose file goes.
    /// Returns those of before.
    fn accept(&mut self, loaded: &Loaded) -> Accepted {
        let accepted = snapshot::merged(&self.accepted, loaded, &self.world);
        let before = std::mem::replace(&mut self.accepted, accepted);
        self.write_accepted();
        before
    }

    pub fn write_accepted(&mut self) {
        let directory = &self.world.settings().paths.state;
        if let Err(error) = accepted::write(directory, &self.accepted) {
            tracing::error!(%error, "cannot keep the accepted files");
            self.store_broke(error.to_string());
        }
    }

    /// The digest over the printed table that follows from files and orders alone.
    pub async fn digest(&mut self) -> String {
        self.digest.get().await
    }

    /// When the loop has to look at the time again.
    pub fn deadline(&self) -> Time {
        let deadline = self.world.next_deadline();
        self.retry_at.map_or(deadline, |retry_at| deadline.max(retry_at))
    }

    /// When the next opening in force ends by elapsed time, and what time it is then: only while the wall clock is
    /// behind the latest time seen, because it was turned back. The kernel closes by elapsed time too, and somebody has to
    /// tell both ends.
    pub fn elapsed_deadline(&self) -> Option<(Instant, Time)> {
        let latest = self.world.now();
        if clock::now() + BEHIND >= latest {
            return None;
        }
        let closes_at = self.world.next_close()?;
        let left = (closes_at - latest).to_std().unwrap_or_default();
        Some((self.seen_at + left, closes_at))
    }

    /// Takes over subjects whose cgroups the table does not know yet: an earlier change of them failed.
    pub fn catch_up(&mut self) -> Result<(), CommitError> {
        let mut behind = self.subjects.resolved();
        behind.retain(|(subject, places)| self.world.places(subject) != places);
        if behind.is_empty() { Ok(()) } else { self.resolve(behind) }
    }
}
