//! Collects the decommission report: what the world knows at once, what the store knows beside the loop.

use std::sync::Arc;

use super::answer::{done, failure};
use super::engine::Engine;
use crate::api::ask::{Answer, Outcome};
use crate::api::body::{SCHEMA, Teardown};
use crate::compile::Standing;
use crate::kernel::clock;
use crate::model::{Cause, Decommissioned, Mode, ServiceName, Source, Time};
use crate::report::series::{self, Hour};
use crate::report::{self, Report, Stream};
use crate::schedule;
use crate::store::{AttemptHour, History, LaterAttempts, LedgerKind, LedgerRow, Store, StoreError};

/// A report without what the store knows, and the handle to ask it.
pub struct Draft {
    name: ServiceName,
    report: Report,
    store: Arc<Store>,
}

/// What the world knows of a service; `None`: nothing.
pub async fn draft(engine: &mut Engine, name: &ServiceName) -> Option<Draft> {
    let ruleset_digest = engine.digest().await;
    let world = &engine.world;
    let standing = world.standing(name)?;
    let service = standing.service;
    let ended = ended(&standing, world.now());
    let observed = [service.mode, world.settings().enforcement.mode].contains(&Mode::Observe);
    let mode = if observed { Mode::Observe } else { Mode::Enforce };
    let order = ended.as_ref().filter(|ended| ended.cause == Cause::Order);
    let report = Report {
        schema: SCHEMA,
        service: name.to_string(),
        provider: service.provider.clone(),
        owner: service.owner.clone(),
        description: service.description.clone(),
        ticket: service.ticket.clone(),
        compliance: service.compliance.clone(),
        state: world.state(name)?.to_string(),
        mode: mode.to_string(),
        commissioned_at: service.lifetime.opens_at(),
        decommissioned_at: ended.as_ref().map(|ended| ended.at),
        planned_end: service.lifetime.closes_at(),
        cause: ended.as_ref().map(|ended| ended.cause.as_str().to_owned()),
        order: order.map(|order| report::Order {
            by: order.by.clone().unwrap_or_default(),
            reason: order.reason.clone().unwrap_or_default(),
        }),
        applied: None,
        teardown: None,
        watched_until: ended.and_then(|ended| schedule::watched_until(service, ended.at)),
        attempts: Vec::new(),
        attempts_total: 0,
        sources_total: 0,
        series: None,
        ledger: report::Ledger {
            first_seq: None,
            last_seq: None,
            head_seq: 0,
            head_hash: String::new(),
            entries_total: 0,
            entries: Vec::new(),
        },
        checkpoint: None,
        recorded: engine.store_error.is_none() && !engine.keeper.is_waiting(),
        ruleset_digest,
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        picoseg_version: env!("CARGO_PKG_VERSION").to_owned(),
        generated_at: world.now().max(clock::now()),
    };
    Some(Draft { name: name.clone(), report, store: Arc::clone(engine.keeper.store()) })
}

/// The decommission that holds, by what is on record or by time.
fn ended(standing: &Standing<'_>, now: Time) -> Option<Decommissioned> {
    let at = schedule::decommissioned_at(standing.service, standing.record, now)?;
    let recorded = standing.record.decommissioned.clone().filter(|event| event.at == at);
    Some(recorded.unwrap_or(Decommissioned { at, covers: at, cause: Cause::Time, by: None, reason: None }))
}

impl Draft {
    /// The answer, with what the store knows.
    pub async fn complete(mut self) -> Answer {
        match self.read().await {
            Ok(()) => done(&self.report),
            Err(error) => failure(Outcome::Failed, &error.to_string()),
        }
    }

    async fn read(&mut self) -> Result<(), StoreError> {
        let history = self.store.history(&self.name).await?;
        if let Some(ended) = self.report.decommissioned_at {
            let later = self.store.later_attempts(&self.name, ended).await?;
            let hours = self.store.attempt_hours(&self.name, ended).await?;
            let at_close = self.store.at_close(&self.name, ended).await?;
            self.report.teardown = teardown(&history.entries, at_close);
            self.report.series = Some(series_of(&later, hours, ended, self.report.generated_at));
            self.put_attempts(later);
        }
        self.put_ledger(history);
        Ok(())
    }

    fn put_attempts(&mut self, later: LaterAttempts) {
        let attempts = later.sources.into_iter().map(|source| report::Attempt {
            remote: source.remote.to_string(),
            direction: source.direction.to_string(),
            count: source.count,
            sources: source.sources,
            first_seen: source.first_seen,
            last_seen: source.last_seen,
        });
        let report = &mut self.report;
        report.attempts = attempts.collect();
        report.attempts_total = report.attempts.iter().map(|attempt| attempt.count).sum();
        report.sources_total = report::distinct_sources(&report.attempts);
    }

    fn put_ledger(&mut self, history: History) {
        let by_file = [Cause::File, Cause::Removed].map(|cause| Some(cause.as_str()));
        if by_file.contains(&self.report.cause.as_deref()) {
            self.report.applied = history.applied.and_then(applied);
        }
        self.report.checkpoint = history.checkpoint.map(|signed| report::Checkpoint {
            seq: signed.seq,
            at: signed.at,
            hash: signed.hash,
            key: signed.key,
            signature: signed.signature,
        });
        let entries = history.entries.into_iter().map(|row| report::Reference {
            seq: row.seq,
            at: row.at,
            kind: row.kind,
            actor: row.actor,
            hash: row.hash,
        });
        self.report.ledger = report::Ledger {
            first_seq: history.first_seq,
            last_seq: history.last_seq,
            head_seq: history.head.seq,
            head_hash: history.head.hash,
            entries_total: history.total,
            entries: entries.collect(),
        };
    }
}

fn applied(row: LedgerRow) -> Option<report::Applied> {
    Some(report::Applied { by: row.actor, at: row.at.parse().ok()?, seq: row.seq, kind: row.kind })
}

/// The proofs since the decommission, taken together: what was cut later was cut as well, and the latest look counts.
fn teardown(entries: &[LedgerRow], at_close: Option<u64>) -> Option<report::Teardown> {
    let ended = entries.iter().rposition(|row| row.kind == LedgerKind::ServiceDecommissioned.as_str())?;
    let proofs = entries.iter().skip(ended).filter(|row| row.kind == LedgerKind::TeardownCompleted.as_str());
    let proofs = proofs.filter_map(|row| {
        let proof: Teardown = serde_json::from_str(row.detail.as_str()).ok()?;
        let completed_at = proof.completed_at.or_else(|| row.at.parse().ok())?;
        Some(report::Teardown {
            sockets_closed: proof.sockets_closed,
            flows_removed: proof.flows_removed,
            residue: proof.residue,
            completed_at,
            at_close,
        })
    });
    proofs.reduce(|before, after| report::Teardown {
        sockets_closed: before.sockets_closed + after.sockets_closed,
        flows_removed: before.flows_removed + after.flows_removed,
        // When it was proven first, unless there was something to prove anew.
        completed_at: match before.residue.is_empty() && after.sockets_closed + after.flows_removed == 0 {
            true => before.completed_at,
            false => after.completed_at,
        },
        ..after
    })
}

fn series_of(later: &LaterAttempts, hours: Vec<AttemptHour>, ended: Time, now: Time) -> report::Series {
    let expired = hours.into_iter().filter(|hour| hour.reason == crate::model::Reason::Expired);
    let hours = expired.map(|hour| Hour {
        at: hour.hour,
        stream: stream(hour.remote, hour.direction),
        count: hour.count,
    });
    let at_close: Vec<_> =
        later.at_close.iter().map(|one| (stream(one.remote, one.direction), one.count)).collect();
    series::series(hours.collect(), &at_close, ended, now)
}

fn stream(remote: Source, direction: crate::model::Direction) -> Stream {
    Stream { remote: remote.to_string(), direction: direction.to_string() }
}
