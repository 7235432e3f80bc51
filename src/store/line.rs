//! One line of the journal: a pending fact as JSON, and back.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Entry, Fact, LedgerKind, Pending, text};
use crate::model::{Cause, Decommissioned, Extended, NameError, Order, Record, ServiceName, Suspended, Time};

/// A pending fact and its place in the order of all of them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    pub number: i64,
    pub pending: Pending,
}

impl Line {
    /// The line, its end included.
    pub fn write(&self) -> String {
        let text = LineText {
            number: self.number,
            id: self.pending.id.clone(),
            fact: FactText::from(&self.pending.fact),
        };
        // Only a map with keys that are not strings, or a type that refuses, could fail: there is neither.
        let mut line = serde_json::to_string(&text).unwrap_or_default();
        line.push('\n');
        line
    }

    pub fn read(line: &str) -> Result<Self, Unreadable> {
        let text: LineText = serde_json::from_str(line)?;
        Ok(Self { number: text.number, pending: Pending { id: text.id, fact: Fact::try_from(text.fact)? } })
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("{0}")]
    Name(#[from] NameError),
    #[error("{0:?} is not an order")]
    Order(String),
    #[error("{0:?} is not a cause of a decommission")]
    Cause(String),
}

#[derive(Serialize, Deserialize)]
struct LineText {
    number: i64,
    id: String,
    fact: FactText,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FactText {
    Entry {
        at: Time,
        kind: LedgerKind,
        service: Option<String>,
        actor: String,
        detail: Value,
    },
    Order {
        service: String,
        kind: String,
        at: Time,
        by: String,
        reason: String,
    },
    Record {
        service: String,
        suspended: Option<SuspendedText>,
        decommissioned: Option<DecommissionedText>,
        /// Absent in what former versions wrote.
        #[serde(default)]
        extended: Option<ExtendedText>,
    },
}

#[derive(Serialize, Deserialize)]
struct SuspendedText {
    at: Time,
    by: String,
    reason: String,
}

#[derive(Serialize, Deserialize)]
struct ExtendedText {
    at: Time,
    until: Time,
    by: String,
    reason: String,
}

#[derive(Serialize, Deserialize)]
struct DecommissionedText {
    at: Time,
    #[serde(default)]
    covers: Option<Time>,
    cause: String,
    by: Option<String>,
    reason: Option<String>,
}

impl From<&Fact> for FactText {
    fn from(fact: &Fact) -> Self {
        match fact.clone() {
            Fact::Entry(entry) => Self::Entry {
                at: entry.at,
                kind: entry.kind,
                service: entry.service.map(|name| name.to_string()),
                actor: entry.actor,
                detail: entry.detail,
            },
            Fact::Order(order) => Self::Order {
                service: order.service.to_string(),
                kind: order.kind.as_str().to_owned(),
                at: order.at,
                by: order.by,
                reason: order.reason,
            },
            Fact::Record { service, record } => Self::Record {
                service: service.to_string(),
                suspended: record.suspended.map(SuspendedText::from),
                decommissioned: record.decommissioned.map(DecommissionedText::from),
                extended: record.extended.map(ExtendedText::from),
            },
        }
    }
}

impl TryFrom<FactText> for Fact {
    type Error = Unreadable;

    fn try_from(fact: FactText) -> Result<Self, Unreadable> {
        Ok(match fact {
            FactText::Entry { at, kind, service, actor, detail } => Self::Entry(Entry {
                at,
                kind,
                service: service.as_deref().map(ServiceName::new).transpose()?,
                actor,
                detail,
            }),
            FactText::Order { service, kind, at, by, reason } => Self::Order(Order {
                service: ServiceName::new(&service)?,
                kind: text::to_order_kind(&kind).ok_or(Unreadable::Order(kind))?,
                at,
                by,
                reason,
            }),
            FactText::Record { service, suspended, decommissioned, extended } => Self::Record {
                service: ServiceName::new(&service)?,
                record: Record {
                    suspended: suspended.map(Suspended::from),
                    decommissioned: decommissioned.map(Decommissioned::try_from).transpose()?,
                    extended: extended.map(Extended::from),
                },
            },
        })
    }
}

impl From<Suspended> for SuspendedText {
    fn from(event: Suspended) -> Self {
        let Suspended { at, by, reason } = event;
        Self { at, by, reason }
    }
}

impl From<SuspendedText> for Suspended {
    fn from(text: SuspendedText) -> Self {
        let SuspendedText { at, by, reason } = text;
        Self { at, by, reason }
    }
}

impl From<Extended> for ExtendedText {
    fn from(order: Extended) -> Self {
        let Extended { at, until, by, reason } = order;
        Self { at, until, by, reason }
    }
}

impl From<ExtendedText> for Extended {
    fn from(text: ExtendedText) -> Self {
        let ExtendedText { at, until, by, reason } = text;
        Self { at, until, by, reason }
    }
}

impl From<Decommissioned> for DecommissionedText {
    fn from(event: Decommissioned) -> Self {
        let Decommissioned { at, covers, cause, by, reason } = event;
        Self { at, covers: Some(covers), cause: cause.as_str().to_owned(), by, reason }
    }
}

impl TryFrom<DecommissionedText> for Decommissioned {
    type Error = Unreadable;

    fn try_from(text: DecommissionedText) -> Result<Self, Unreadable> {
        Ok(Self {
            at: text.at,
            covers: text.covers.unwrap_or(text.at),
            cause: Cause::parse(&text.cause).ok_or(Unreadable::Cause(text.cause))?,
            by: text.by,
            reason: text.reason,
        })
    }
}
