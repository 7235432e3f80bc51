//! Operators' orders.

use super::{ServiceName, Time};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OrderKind {
    Suspend,
    Resume,
    Decommission,
}

impl OrderKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Decommission => "decommission",
        }
    }
}

/// What an operator ordered for a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub service: ServiceName,
    pub kind: OrderKind,
    pub at: Time,
    /// Who gave it: `user (uid 1000)`.
    pub by: String,
    pub reason: String,
}
