//! What metrics and dashboard are made of: a copy of what the loop knows, the rest beside the loop.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::engine::Engine;
use crate::kernel::clock;
use crate::metrics::facts::{Ask, LedgerHead, Service, Transition};
use crate::metrics::{Commits, Facts, Listener, Scraper};
use crate::model::{Mode, ServiceState, Subject, Time};
use crate::reconcile::World;
use crate::schedule;
use crate::store::{AttemptTotal, LedgerFilter, Store, StoreError};

/// How many sources the dashboard lists.
const LATE: u32 = 20;

/// How long the store may take for each of its parts.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the loop counts of its own work, and where it is served.
#[derive(Debug)]
pub struct Watched {
    started_at: Time,
    pub commits: Commits,
    pub clock_steps: u64,
    /// Why the kernel's table could not be read.
    pub table_error: Option<String>,
    listener: Option<Listener>,
    /// As the store said it last: a store that does not answer for a moment must not look like counters at zero.
    totals: Arc<Mutex<Option<Vec<AttemptTotal>>>>,
}

impl Default for Watched {
    fn default() -> Self {
        Self {
            started_at: clock::now(),
            commits: Commits::default(),
            clock_steps: 0,
            table_error: None,
            listener: None,
            totals: Arc::default(),
        }
    }
}

impl Watched {
    /// Serves metrics where it is wanted, as soon as that is possible.
    pub async fn listen(&mut self, wanted: Option<SocketAddr>, scraper: Scraper) {
        self.listener = Some(Listener::start(wanted, scraper).await);
    }

    /// Takes over where it is wanted now.
    pub fn follow(&self, wanted: Option<SocketAddr>) {
        if let Some(listener) = &self.listener {
            listener.listen(wanted);
        }
    }

    /// Why metrics are not served though they should be.
    pub fn problem(&self) -> Option<String> {
        self.listener.as_ref().and_then(Listener::problem)
    }
}

impl Engine {
    /// What is weaker on this host, and what is at the moment.
    pub fn weaker_now(&self) -> Vec<String> {
        let held = self.keeper.store().log_held().map(|held| held.to_string());
        let drift = self.drift.weaker();
        self.weaker.iter().cloned().chain(held).chain(self.watched.problem()).chain(drift).collect()
    }
}

/// Answers beside the loop, which only copies: the world is shared until it changes.
pub fn tell(engine: &Engine, ask: Ask) {
    let base = base(engine);
    let (world, store) = (engine.world.clone(), Arc::clone(engine.keeper.store()));
    let totals = Arc::clone(&engine.watched.totals);
    tokio::spawn(async move {
        let looked = tokio::task::spawn_blocking(move || look(&world, base)).await;
        let Ok(mut facts) = looked else { return };
        facts.attempts = remembered(&totals, soon(store.attempt_totals()).await);
        facts.ledger = soon(head(&store)).await;
        if ask.late {
            facts.late = soon(store.latest_after_decommission(LATE)).await;
        }
        // Whoever asked may have gone.
        let _ = ask.reply.send(facts);
    });
}

/// What only the loop knows.
fn base(engine: &Engine) -> Facts {
    let watched = &engine.watched;
    Facts {
        now: engine.world.now().max(clock::now()),
        host: nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: watched.started_at,
        enforcing: engine.world.settings().enforcement.mode == Mode::Enforce,
        in_force_since: engine.in_force_since,
        table_error: watched.table_error.clone(),
        config_error: engine.config_error.clone(),
        store_error: engine.store_error.clone(),
        weaker: engine.weaker_now(),
        services: Vec::new(),
        segments: engine.world.segments().len(),
        next_transition: None,
        attempts: None,
        lost_details: engine.attempts.lost,
        details_overrun: engine.attempts.overrun,
        commits: watched.commits.clone(),
        drift: engine.drift.count,
        drift_at: engine.drift.last_at,
        clock_steps: watched.clock_steps,
        last_sync: engine.keeper.store().last_synced(),
        ledger: None,
        unresolved_subjects: 0,
        unresolved_services: 0,
        host_names: 0,
        host_names_failing: 0,
        late: None,
    }
}

/// What the world says; some tens of milliseconds with 10,000 services.
fn look(world: &World, base: Facts) -> Facts {
    let services = services(world);
    let nowhere = |subject: &Subject| !subject.is_any_process() && world.places(subject).is_empty();
    let unresolved = world.standings().into_iter().filter(|standing| {
        let ended =
            world.outlook(&standing.service.name).is_some_and(|(s, _)| s == ServiceState::Decommissioned);
        !ended && standing.service.policies.iter().any(|policy| nowhere(&policy.subject))
    });
    let failing = |host: &&_| world.host(host).is_some_and(|name| name.failure.is_some());
    Facts {
        next_transition: world.next_transition().map(|(at, service, to)| Transition { at, service, to }),
        unresolved_subjects: world.subjects().into_iter().filter(|subject| nowhere(subject)).count(),
        unresolved_services: unresolved.count(),
        host_names: world.hosts().count(),
        host_names_failing: world.hosts().filter(failing).count(),
        services,
        ..base
    }
}

/// By the states as they were last settled: what is in force, and no calendar is asked again.
fn services(world: &World) -> Vec<Service> {
    let enforcing = world.settings().enforcement.mode == Mode::Enforce;
    let standings = world.standings();
    let services = standings.iter().filter_map(|standing| {
        let service = standing.service;
        let (state, transition) = world.outlook(&service.name)?;
        let ended = schedule::decommissioned_at(service, standing.record, world.now());
        let next_opening = || world.next_opening(&service.name).map(crate::model::Span::opens_at);
        Some(Service {
            name: service.name.clone(),
            provider: service.provider.clone(),
            enforcing: enforcing && service.mode == Mode::Enforce,
            state,
            opens_at: match (state, transition) {
                (ServiceState::Closed, Some((at, ServiceState::Open))) => Some(at),
                // The lifetime may begin between two windows.
                (ServiceState::Pending, _) => next_opening(),
                _ => None,
            },
            closes_at: transition.filter(|_| state == ServiceState::Open).map(|(at, _)| at),
            decommission: ended.unwrap_or(service.lifetime.closes_at()),
        })
    });
    services.collect()
}

/// The sums, or those of before where the store does not answer.
fn remembered(
    totals: &Mutex<Option<Vec<AttemptTotal>>>,
    read: Option<Vec<AttemptTotal>>,
) -> Option<Vec<AttemptTotal>> {
    let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
    if read.is_some() {
        *totals = read;
    }
    totals.clone()
}

/// What the store says, unless it fails or hangs: then everything else is told without it.
async fn soon<T>(read: impl Future<Output = Result<T, StoreError>>) -> Option<T> {
    tokio::time::timeout(PATIENCE, read).await.ok()?.ok()
}

async fn head(store: &Store) -> Result<LedgerHead, StoreError> {
    let seq = store.head().await?.seq;
    let last = LedgerFilter { after: seq.saturating_sub(1), limit: Some(1), ..LedgerFilter::default() };
    let last = store.entries(&last).await?;
    let at = last.first().and_then(|entry| chrono::DateTime::parse_from_rfc3339(&entry.at).ok());
    Ok(LedgerHead { seq, at: at.map(|at| at.to_utc()) })
}
