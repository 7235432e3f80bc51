//! The ledger as it is shown, and what was in force at an instant.
//!
//! The daemon answers with this beside its loop; where none runs the command line does, from the database.

use super::body::{self, SCHEMA};
use super::explain::TLS;
use crate::history::definition::{self, Definition};
use crate::history::{self, History, Known};
use crate::model::{ServiceName, ServiceState, Time};
use crate::store::offline::Ledger;
use crate::store::{LedgerRow, PageFilter, Store, StoreError};

/// The most entries in one answer.
pub const MOST: u32 = 10_000;

/// Which entries, and whether what was in force is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What was in force at this instant, and the entries that counted then.
    pub at: Option<Time>,
    /// Only entries of this instant or later.
    pub since: Option<Time>,
    pub service: Option<ServiceName>,
    /// The first entries above this number; `None`: the last ones.
    pub after: Option<u64>,
    /// At most [`MOST`].
    pub limit: u32,
}

/// Where entries are read.
#[derive(Debug)]
pub enum Source<'a> {
    Store(&'a Store),
    /// A database without its daemon.
    File(&'a mut Ledger),
}

/// Answers from the ledger.
///
/// # Errors
/// When it cannot be read.
pub async fn answer(mut source: Source<'_>, question: &Question) -> Result<body::Audit, StoreError> {
    let Question { at, since, service, after, limit } = question.clone();
    let history = match at {
        Some(_) => Some(history(&mut source, at).await?),
        None => None,
    };
    let through = history.as_ref().map(|history| history.last_seq);
    let filter = PageFilter { since, service: service.clone(), after, through, limit };
    let page = match &mut source {
        Source::Store(store) => store.page(&filter).await?,
        Source::File(ledger) => ledger.page(&filter).await?,
    };
    let last = page.rows.last().map(|row| row.seq);
    let wanted = |name: &str| service.as_ref().is_none_or(|service| service.as_str() == name);
    Ok(body::Audit {
        schema: SCHEMA,
        next_after: last.filter(|_| page.more && after.is_some()),
        earlier: page.more && after.is_none(),
        entries: page.rows.into_iter().map(entry).collect(),
        at,
        last_seq: through,
        mode: history.as_ref().and_then(|history| history.mode.clone()),
        ruleset_digest: history.as_ref().and_then(|history| history.ruleset_digest.clone()),
        services: history.as_ref().map(|history| {
            let services = history.services().filter(|(name, _)| wanted(name));
            services.map(|(name, known)| self::service(name, known)).collect()
        }),
    })
}

/// What was in force at an instant; `None`: what is at the end of the ledger.
///
/// # Errors
/// When the ledger cannot be read.
pub async fn history(source: &mut Source<'_>, at: Option<Time>) -> Result<History, StoreError> {
    let mut history = History::default();
    let through = match source {
        Source::Store(store) => store.past(at, |row| take(&mut history, row)).await?,
        Source::File(ledger) => ledger.past(at, |row| take(&mut history, row)).await?,
    };
    history.last_seq = through;
    Ok(history)
}

/// An entry whose time cannot be read is an altered one; it tells nothing.
fn take(history: &mut History, row: &LedgerRow) {
    let Ok(at) = row.at.parse() else { return };
    let detail = row.detail.value();
    history.take(&history::Entry {
        seq: row.seq,
        at,
        kind: &row.kind,
        service: row.service.as_deref(),
        actor: &row.actor,
        detail: &detail,
    });
}

fn entry(row: LedgerRow) -> body::LedgerEntry {
    body::LedgerEntry {
        seq: row.seq,
        at: row.at,
        kind: row.kind,
        service: row.service,
        actor: row.actor,
        detail: row.detail.value(),
        prev: row.prev,
        hash: row.hash,
    }
}

fn service(name: &str, known: &Known) -> body::PastService {
    let definition = known.definition.as_ref();
    // What a service that was not open would have allowed, it did not allow.
    let open = definition.filter(|_| known.state.state == Some(ServiceState::Open));
    let text = |of: fn(&Definition) -> &String| definition.map(|definition| of(definition).clone());
    body::PastService {
        name: name.to_owned(),
        provider: text(|definition| &definition.provider),
        owner: text(|definition| &definition.owner),
        ticket: definition.and_then(|definition| definition.ticket.clone()),
        mode: text(|definition| &definition.mode),
        state: known.state.state.map(|state| state.to_string()).unwrap_or_default(),
        since: known.since,
        by: known.by.clone(),
        until: known.state.closes_at,
        commission: definition.map(|definition| definition.commission),
        decommission: definition.map(|definition| definition.decommission),
        sha256: text(|definition| &definition.sha256),
        lists: definition.iter().flat_map(|definition| &definition.lists).map(list).collect(),
        policies: open.iter().flat_map(|definition| &definition.policies).map(policy).collect(),
        more_policies: open.and_then(|definition| definition.more_policies.as_ref()).map(more),
    }
}

fn list(list: &definition::List) -> body::PastList {
    let definition::List { name, entries, sha256 } = list.clone();
    body::PastList { name, entries, sha256 }
}

fn policy(policy: &definition::Policy) -> body::PastPolicy {
    let policy = policy.clone();
    body::PastPolicy {
        id: policy.id,
        direction: policy.direction,
        subject: policy.subject,
        endpoints: policy.endpoints,
        more_endpoints: policy.more_endpoints.as_ref().map(more),
        ports: policy.ports,
        more_ports: policy.more_ports.as_ref().map(more),
        tls: policy.tls.then(|| TLS.to_owned()),
        windows: policy.windows,
    }
}

fn more(more: &definition::More) -> body::More {
    body::More { count: more.count, sha256: more.sha256.clone() }
}
