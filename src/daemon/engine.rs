//! Changes of the world: tried on a copy, committed to the kernel, torn down, recorded.
//!
//! The order is the promise: the kernel first, because closing must work with everything else broken; then the
//! teardown; then the record, which waits in a journal when the store does not work.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::attempts::Attempts;
use super::chronicle::{Listing, Side};
use super::clocks::Pace;
use super::confirmation::{Confirmation, ConfirmationError};
use super::digest::Digest;
use super::drift::Drift;
use super::metrics::Watched;
use super::names::Hosts;
use super::notify::Notifier;
use super::subjects::Subjects;
use super::teardown::{self, Proofs};
use super::{isolation, journald, record};
use crate::compile::CountSets;
use crate::config::{Diagnostic, Loaded};
use crate::kernel::cgroups::Hierarchy;
use crate::kernel::clock;
use crate::kernel::commit::{CommitError, Table};
use crate::model::{HostName, Order, OrderKind, Service, ServiceName, Settings, Subject, Time};
use crate::owners::Owners;
use crate::reconcile::{ExtendError, OrderError, World};
use crate::resolvers;
use crate::ruleset::Ruleset;
use crate::store::accepted::Accepted;
use crate::store::{Fact, Keeper, LedgerKind, Store};

/// How long a transition that could not be committed waits for its next try.
const RETRY: chrono::TimeDelta = chrono::TimeDelta::seconds(1);

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
    pub accepted: Arc<Accepted>,
    /// What a clock that is turned back must not prolong.
    pub(super) pace: Pace,
    /// Not before this time again: the last transition was not committed.
    retry_at: Option<Time>,
    /// What others did to the table.
    pub drift: Drift,
    /// Whether what is in force waits for somebody to confirm it.
    pub confirmation: Confirmation,
    /// Why the last files were not accepted.
    pub config_error: Option<String>,
    /// Why the store does not work.
    pub store_error: Option<String>,
    /// Promises that are weaker on this host.
    pub weaker: Vec<String>,
    pub(super) told: Told,
    pub(super) digest: Digest,
    /// The digest that the ledger has.
    pub(super) told_digest: Option<String>,
    /// The ledger could not be read at the start: what it lacks is told when it can be.
    pub(super) untold: bool,
    /// What the store remembers of services could not be read at the start: nothing opens before it was.
    pub(super) unread: bool,
    pub watched: Watched,
    /// Counts of what is no longer in force: their sets go when they are on record.
    pub(super) retiring: Vec<CountSets>,
    pub(super) retiring_counters: BTreeSet<String>,
    /// What the last changes took to be made can be given back.
    pub(super) untidy: bool,
}

/// Whom the engine tells of what it put on record.
pub(super) struct Told {
    pub(super) sources: journald::Sources,
    pub(super) entries: journald::Entries,
    pub(super) notifier: Notifier,
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
    #[error(transparent)]
    Confirmation(#[from] ConfirmationError),
    #[error(transparent)]
    Extend(#[from] ExtendError),
    #[error("nothing is opened while the ledger does not work: {0}")]
    NoLedger(String),
    #[error("{0} cannot change while the daemon runs: restart it")]
    NeedsRestart(&'static str),
}

/// How files are taken over, beside what they say.
#[derive(Debug, Default)]
pub(super) struct Terms<'a> {
    pub(super) by: &'a str,
    /// What the ledger is told beside the files.
    pub(super) detail: Value,
    /// Services that came with files which nobody confirmed.
    pub(super) forget: Vec<ServiceName>,
    /// Services whose files were gone before those files.
    pub(super) put_back: Vec<Service>,
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
            accepted: Arc::new(accepted),
            pace: Pace::new(clock::reading()),
            retry_at: None,
            drift: Drift::default(),
            confirmation: Confirmation::default(),
            config_error,
            store_error,
            weaker,
            told,
            digest: Digest::default(),
            told_digest: None,
            untold: false,
            unread: false,
            watched: Watched::default(),
            retiring: Vec::new(),
            retiring_counters: BTreeSet::new(),
            untidy: true,
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

    /// Takes over files, already parsed and permitted.
    pub(super) async fn take_over(
        &mut self,
        mut loaded: Loaded,
        terms: Terms<'_>,
    ) -> Result<Changed, ChangeError> {
        let Terms { by, detail, forget, put_back } = terms;
        let mut next = self.world.clone();
        let forget = forget.into_iter();
        let forgotten: Vec<_> = forget.filter_map(|name| Some((next.forget(&name)?, name))).collect();
        let undone = !forgotten.is_empty() || !put_back.is_empty();
        put_back.into_iter().for_each(|service| next.put_back_departed(service));
        let services = std::mem::take(&mut loaded.services);
        let mut outcome = next.apply(loaded.settings.clone(), services, clock::now());
        outcome.everywhere |= undone;
        next.enclose(loaded.segments.clone());
        next.set_resolvers(resolvers::read());
        let subjects: Vec<Subject> = next.subjects().into_iter().cloned().collect();
        for (subject, places) in self.subjects.set(&subjects) {
            next.resolve_at(subject, places, clock::now());
        }
        next.forget_unused_subjects();
        let hosts = next.forget_unused_hosts();
        let world = self.world.clone();
        let table = self.put_files_in_force(next, &outcome)?;
        self.unwritten_hosts.extend(hosts);
        self.hosts.set(self.world.hosts().cloned().collect());
        let accepted = self.accept(&loaded);
        self.told.notifier.follow(self.world.settings());
        let proofs = self.teardown(true).await;
        self.watch_closings(&outcome);
        let before = Side { accepted: &accepted, world: &world };
        let after = Side { accepted: &self.accepted, world: &self.world };
        let listing = Listing::between(before, after, &outcome);
        let entries = self.applied(listing, LedgerKind::ConfigApplied, by, detail).await;
        let mut facts = record::facts_of_files(&outcome, self.world.now(), entries);
        facts.extend(forgotten.into_iter().map(|(record, service)| Fact::Record { service, record }));
        facts.extend(self.proof_facts(&outcome, &proofs));
        let recorded = self.keep(facts).await;
        self.config_error = None;
        self.watched.follow(self.world.settings().metrics.listen);
        Ok(Changed { table, proofs, recorded, warnings: loaded.warnings })
    }

    /// Notes that files were not accepted.
    pub async fn reject(&mut self, diagnostics: &[Diagnostic], by: &str) {
        let first = diagnostics.first().map(ToString::to_string).unwrap_or_default();
        let error = match diagnostics.len() {
            1 => first,
            mistakes => format!("{mistakes} mistakes; the first: {first}"),
        };
        self.config_error = Some(error.clone());
        let entry = record::note(LedgerKind::ConfigRejected, self.now(), by, json!({ "error": error }));
        self.keep(vec![entry]).await;
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
        let table = match next.is_rescheduled(&self.world, &order.service) {
            true => self.put_in_force(next, &BTreeSet::new())?,
            false => self.put_services_in_force(next, &outcome.touched)?,
        };
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
        let step = stepped.then(|| {
            let world = &self.world;
            self.pace.stepped(clock::reading(), |at| world.ends_of_openings(at))
        });
        let mut next = self.world.clone();
        let before = next.now();
        let outcome = next.tick(step.as_ref().map_or(at, |step| step.at_least));
        match step.as_ref().is_some_and(|step| step.rearm) {
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
        if let Some(step) = step {
            facts.push(self.clock_stepped(before, step.would_be));
        }
        if !facts.is_empty() {
            self.keep(facts).await;
        }
        self.snapshot_decommissions(&outcome);
        Ok(())
    }

    async fn teardown(&mut self, needed: bool) -> Proofs {
        match needed {
            true => {
                let namespaces = self.subjects.namespaces();
                // First what somebody waits for, and what has a proof.
                let proofs = teardown::sweep(&self.world, &self.owners, &self.hierarchy, &namespaces).await;
                isolation::sweep(&self.world, &self.hierarchy).await;
                proofs
            }
            false => Proofs::new(),
        }
    }

    /// When the loop has to look at the time again.
    pub fn deadline(&self) -> Time {
        let deadline = self.world.next_deadline();
        self.retry_at.map_or(deadline, |retry_at| deadline.max(retry_at))
    }

    pub(super) fn clock_stepped(&mut self, latest_seen: Time, would_be: Time) -> Fact {
        self.watched.clock_steps += 1;
        let detail = json!({ "clock": clock::now(), "latest_seen": latest_seen, "would_be": would_be });
        record::note(LedgerKind::ClockStepped, self.world.now(), record::DAEMON, detail)
    }

    /// Looks at the clocks. When the next opening ends by elapsed time, and what time it is then: only of those that were
    /// open when the wall clock was turned back. The kernel closes by elapsed time too, and somebody has to tell both ends.
    pub fn elapsed_deadline(&mut self) -> Option<(Instant, Time)> {
        let now = clock::reading();
        let next = self.pace.next_close(&now);
        let retry =
            self.retry_at.and_then(|retry_at| (retry_at - now.wall).to_std().ok()).unwrap_or_default();
        self.pace.look(now);
        next.map(|(left, closes_at)| (Instant::now() + left.max(retry), closes_at))
    }
}
