//! What the API asks, answered from the world and the store.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::confirmation::Waiting;
use super::engine::{ChangeError, Changed, Engine};
use super::{findings, flows, planning, programs, report, rows, settle};
use crate::api::ask::{Answer, Ask, Asked, Outcome};
use crate::api::audit::{self, Source};
use crate::api::body::{self, SCHEMA};
use crate::api::explain::{self, Facts, Question};
use crate::api::view::{self, Counts};
use crate::config::Diagnostic;
use crate::files::{self, SettingsFile};
use crate::kernel::clock;
use crate::model::{OrderKind, ServiceName};
use crate::store::Store;

/// How long a question waits for attempts on their way into the store; its asker waits ten seconds.
const WRITTEN: Duration = Duration::from_secs(3);

/// Answers one question or carries one order out. What takes long goes on beside the loop.
pub async fn reply(engine: &mut Engine, asked: Asked, settings: &SettingsFile) {
    let Asked { ask, reply } = asked;
    if let Ask::Attempts(filter) = ask {
        let (store, settled) = (Arc::clone(engine.keeper.store()), engine.attempts.settled());
        tokio::spawn(async move {
            written(settled).await;
            reply.send(rows::answer(&store, &filter).await)
        });
        return;
    }
    if let Ask::Audit(question) = ask {
        let store = Arc::clone(engine.keeper.store());
        tokio::spawn(async move { reply.send(audit(&store, &question).await) });
        return;
    }
    if let Ask::Flows(service) = &ask
        && service.as_ref().is_none_or(|name| engine.world.standing(name).is_some())
    {
        let look = flows::Look::new(engine, service.clone());
        tokio::spawn(async move { reply.send(look.answer().await) });
        return;
    }
    if ask == Ask::Plan {
        let (draft, settings) = (planning::Draft::new(engine), settings.clone());
        tokio::spawn(async move { reply.send(draft.answer(settings).await) });
        return;
    }
    if let Ask::Report(name) = &ask
        && let Some(draft) = report::draft(engine, name).await
    {
        let settled = engine.attempts.settled();
        tokio::spawn(async move {
            written(settled).await;
            let _ = reply.send(draft.complete().await);
        });
        return;
    }
    let look = match &ask {
        Ask::Show(name) => {
            let strangers = programs::strangers(engine, name);
            Some((name.clone(), engine.world.clone(), engine.hierarchy.clone(), strangers))
        }
        _ => None,
    };
    let mut answer = answer(engine, ask, settings).await;
    let Some((name, world, hierarchy, strangers)) = look.filter(|_| answer.outcome == Outcome::Done) else {
        // Whoever asked may have gone.
        let _ = reply.send(answer);
        return;
    };
    tokio::spawn(async move {
        let mut found = findings::find(name, world, hierarchy).await;
        found.findings.extend(strangers);
        answer.body["findings"] = json!(found.findings);
        answer.body["findings_error"] = json!(found.error);
        let _ = reply.send(answer);
    });
}

/// Waits a while until what was read of the kernel's counts is on record.
async fn written(settled: Option<impl Future<Output = ()>>) {
    if let Some(settled) = settled {
        // Where it takes longer the answer is that of before.
        let _ = tokio::time::timeout(WRITTEN, settled).await;
    }
}

async fn answer(engine: &mut Engine, ask: Ask, settings: &SettingsFile) -> Answer {
    match ask {
        Ask::Status => status(engine).await,
        Ask::Services => {
            let counts = counts(engine).await;
            done(&view::services(&engine.world, &counts))
        }
        Ask::Show(name) => show(engine, &name).await,
        Ask::Report(name) => match report::draft(engine, &name).await {
            Some(draft) => draft.complete().await,
            None => unknown(&name),
        },
        Ask::Attempts(filter) => rows::answer(engine.keeper.store(), &filter).await,
        Ask::Explain(question) => done(&explain(engine, &question)),
        Ask::Audit(question) => audit(engine.keeper.store(), &question).await,
        Ask::Flows(Some(name)) if engine.world.standing(&name).is_none() => unknown(&name),
        Ask::Flows(service) => flows::Look::new(engine, service).answer().await,
        Ask::Plan => planning::Draft::new(engine).answer(settings.clone()).await,
        Ask::Settle(place) => settle::look(engine, &place).into(),
        Ask::Apply { by, confirm } => apply(engine, settings, &by, confirm).await,
        Ask::Confirm { by } => confirm(engine, &by).await,
        Ask::Extend { service, until, by, reason } => {
            let extended = engine.extend(service.clone(), until, &by, &reason).await;
            ordered(engine, service, extended, |_| None)
        }
        Ask::Order { service, kind, by, reason } => order(engine, service, kind, by, reason).await,
    }
}

pub fn done(body: &impl Serialize) -> Answer {
    match serde_json::to_value(body) {
        Ok(body) => Answer { outcome: Outcome::Done, body },
        Err(error) => failure(Outcome::Failed, &error.to_string()),
    }
}

pub fn failure(outcome: Outcome, error: &str) -> Answer {
    Answer { outcome, body: json!({ "schema": SCHEMA, "error": error }) }
}

async fn counts(engine: &Engine) -> Counts {
    let by_service = engine.keeper.store().attempts_by_service().await.unwrap_or_default();
    by_service.into_iter().filter_map(|(service, count)| Some((service?, count))).collect()
}

async fn status(engine: &mut Engine) -> Answer {
    let next = engine.world.next_transition().map(|(at, service, to)| body::NextTransition {
        at,
        service: service.to_string(),
        to: to.to_string(),
    });
    let health = |error: &Option<String>| body::Health { ok: error.is_none(), error: error.clone() };
    let total = engine.keeper.store().attempts_total().await.unwrap_or(0);
    let status = body::Status {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        now: engine.world.now().max(clock::now()),
        mode: engine.world.settings().enforcement.mode.to_string(),
        ruleset_digest: engine.digest().await,
        in_force_since: Some(engine.in_force_since),
        services: view::states(&engine.world),
        config: health(&engine.config_error),
        store: health(&engine.store_error),
        next_transition: next,
        drift: body::Drift { count: engine.drift.count, last_at: engine.drift.last_at },
        attempts_total: total,
        lost_details: engine.attempts.lost,
        confirmation: engine.confirmation.waiting().map(waiting),
        weaker: engine.weaker_now(),
    };
    done(&status)
}

fn waiting(waiting: &Waiting) -> body::Waiting {
    let Waiting { note, .. } = waiting;
    body::Waiting { until: note.until, by: note.by.clone(), at: note.at }
}

fn explain(engine: &Engine, question: &Question) -> body::Explained {
    let world = &engine.world;
    let facts = Facts {
        settings: world.settings(),
        services: &world.standings(),
        segments: world.segments(),
        resolvers: world.resolvers(),
        places: &|subject| world.places(subject).to_vec(),
        hierarchy: Some(&engine.hierarchy),
        now: world.now().max(clock::now()),
    };
    explain::answer(question, &facts)
}

async fn show(engine: &mut Engine, name: &ServiceName) -> Answer {
    let counts = counts(engine).await;
    match view::show(&engine.world, name, &counts) {
        Some(mut show) => {
            programs::explain(engine, name, &mut show);
            done(&show)
        }
        None => unknown(name),
    }
}

fn unknown(name: &ServiceName) -> Answer {
    failure(Outcome::Unknown, &format!("there is no service {:?}", name.as_str()))
}

async fn audit(store: &Store, question: &audit::Question) -> Answer {
    match audit::answer(Source::Store(store), question).await {
        Ok(body) => done(&body),
        Err(error) => failure(Outcome::Failed, &error.to_string()),
    }
}

/// Loads the files from where the daemon was told that they are.
pub async fn apply(
    engine: &mut Engine,
    settings: &SettingsFile,
    by: &str,
    patience: Option<Duration>,
) -> Answer {
    let settings = settings.clone();
    let loaded = tokio::task::spawn_blocking(move || files::load(&settings)).await;
    let changed = match loaded {
        Ok(Ok(loaded)) => match patience {
            Some(patience) => engine.apply_until(loaded, by, patience).await,
            None => engine.apply(loaded, by).await,
        },
        Ok(Err(diagnostics)) => Err(ChangeError::Invalid(diagnostics)),
        Err(error) => return failure(Outcome::Failed, &error.to_string()),
    };
    match changed {
        Ok(changed) => applied(engine, changed),
        Err(ChangeError::Invalid(diagnostics)) => {
            engine.reject(&diagnostics, by).await;
            invalid(&diagnostics)
        }
        Err(error) => refused(&error),
    }
}

async fn confirm(engine: &mut Engine, by: &str) -> Answer {
    match engine.confirm(by).await {
        Ok(changed) => applied(engine, changed),
        Err(error) => refused(&error),
    }
}

fn applied(engine: &Engine, changed: Changed) -> Answer {
    done(&body::Applied {
        schema: SCHEMA,
        changed: changed.table,
        services: engine.world.standings().len(),
        warnings: changed.warnings.iter().map(Into::into).collect(),
        recorded: changed.recorded,
        confirm_until: engine.confirmation.waiting().map(|waiting| waiting.note.until),
    })
}

pub fn invalid(diagnostics: &[Diagnostic]) -> Answer {
    let body = serde_json::to_value(body::Diagnostics::new(diagnostics)).unwrap_or(Value::Null);
    Answer { outcome: Outcome::Invalid, body }
}

fn refused(error: &ChangeError) -> Answer {
    use crate::reconcile::{ExtendError, OrderError};
    let outcome = match error {
        ChangeError::Order(OrderError::Unknown(_))
        | ChangeError::Extend(ExtendError::Order(OrderError::Unknown(_))) => Outcome::Unknown,
        ChangeError::Order(OrderError::Final(_) | OrderError::NotSuspended(_))
        | ChangeError::NoLedger(_)
        | ChangeError::Confirmation(_)
        | ChangeError::Extend(_)
        | ChangeError::NeedsRestart(_) => Outcome::Conflict,
        ChangeError::Invalid(_) => Outcome::Invalid,
        ChangeError::Commit(_) => Outcome::Failed,
    };
    failure(outcome, &error.to_string())
}

async fn order(
    engine: &mut Engine,
    service: ServiceName,
    kind: OrderKind,
    by: String,
    reason: String,
) -> Answer {
    let changed = engine.order(kind, service.clone(), by, reason).await;
    let name = service.clone();
    ordered(engine, service, changed, |changed| proof(kind, changed, &name))
}

fn ordered(
    engine: &Engine,
    service: ServiceName,
    changed: Result<Changed, ChangeError>,
    proof: impl FnOnce(&Changed) -> Option<body::Teardown>,
) -> Answer {
    match changed {
        Ok(changed) => done(&body::Ordering {
            schema: SCHEMA,
            state: engine.world.state(&service).map(|state| state.to_string()).unwrap_or_default(),
            closes_at: engine.world.current_opening(&service).map(|opening| opening.closes_at()),
            teardown: proof(&changed),
            service: service.to_string(),
            recorded: changed.recorded,
            warnings: vec![],
        }),
        Err(error) => refused(&error),
    }
}

fn proof(kind: OrderKind, changed: &Changed, service: &ServiceName) -> Option<body::Teardown> {
    match kind {
        OrderKind::Suspend | OrderKind::Decommission => {
            let proof = changed.proofs.get(service).cloned().unwrap_or_default();
            let completed_at = Some(clock::now());
            Some(body::Teardown { completed_at, ..proof })
        }
        OrderKind::Resume => None,
    }
}
