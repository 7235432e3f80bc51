//! What is remembered of a service beside its file: the only state that is kept.

use super::{Lifetime, Order, OrderKind, Time};

/// Why a service was decommissioned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Its lifetime ended.
    Time,
    /// Its file says so.
    File,
    /// An operator ordered it.
    Order,
    /// Its file is gone.
    Removed,
}

impl Cause {
    pub const ALL: [Self; 4] = [Self::Time, Self::File, Self::Order, Self::Removed];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::File => "file",
            Self::Order => "order",
            Self::Removed => "removed",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.as_str() == text)
    }
}

/// A decommission that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decommissioned {
    pub at: Time,
    /// It is final for every lifetime that begins at or before this: later than `at` where the lifetime it ended had not begun.
    pub covers: Time,
    pub cause: Cause,
    /// Who ordered it and why; `None` unless the cause is an order.
    pub by: Option<String>,
    pub reason: Option<String>,
}

/// A suspension by order that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspended {
    pub at: Time,
    pub by: String,
    pub reason: String,
}

/// An opening that was prolonged by order, or opened once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extended {
    pub at: Time,
    pub until: Time,
    pub by: String,
    pub reason: String,
}

/// What is remembered of one service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    pub suspended: Option<Suspended>,
    pub decommissioned: Option<Decommissioned>,
    /// Ended by a suspension and by a decommission.
    pub extended: Option<Extended>,
}

impl Record {
    /// The record of a service with this lifetime after an order. A decommission that already stands is kept: the first
    /// one counts.
    pub fn after(mut self, order: &Order, lifetime: Lifetime) -> Self {
        match order.kind {
            OrderKind::Suspend => {
                self.extended = None;
                self.suspended.get_or_insert_with(|| Suspended {
                    at: order.at,
                    by: order.by.clone(),
                    reason: order.reason.clone(),
                });
            }
            OrderKind::Resume => self.suspended = None,
            OrderKind::Decommission => self.decommission(Decommissioned {
                at: order.at,
                covers: order.at.max(lifetime.opens_at()),
                cause: Cause::Order,
                by: Some(order.by.clone()),
                reason: Some(order.reason.clone()),
            }),
        }
        self
    }

    /// The same without an extension that is over.
    pub fn current(mut self, now: Time) -> Self {
        self.extended = self.extended.filter(|extended| extended.until > now);
        self
    }

    /// Remembers a decommission; the latest one decides which lifetimes it ends.
    pub fn decommission(&mut self, event: Decommissioned) {
        match &self.decommissioned {
            Some(known) if known.covers >= event.covers => {}
            Some(_) | None => {
                self.decommissioned = Some(event);
                self.extended = None;
            }
        }
    }
}
