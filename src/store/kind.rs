//! The kinds of ledger entries.

use serde::{Deserialize, Serialize};

macro_rules! kinds {
    ($($variant:ident = $text:literal),* $(,)?) => {
        /// What an entry tells.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum LedgerKind {
            $(#[serde(rename = $text)] $variant,)*
        }

        impl LedgerKind {
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

kinds! {
    DaemonStarted = "daemon.started",
    DaemonStopped = "daemon.stopped",
    ConfigApplied = "config.applied",
    ConfigRejected = "config.rejected",
    ServiceCommissioned = "service.commissioned",
    ServiceSuspended = "service.suspended",
    ServiceResumed = "service.resumed",
    ServiceDecommissioned = "service.decommissioned",
    WindowOpened = "window.opened",
    WindowClosed = "window.closed",
    TeardownCompleted = "teardown.completed",
    ApprovalAccepted = "approval.accepted",
    ApprovalRejected = "approval.rejected",
    DriftDetected = "drift.detected",
    DriftRepaired = "drift.repaired",
    ClockStepped = "clock.stepped",
    AttemptsSealed = "attempts.sealed",
    KeyChanged = "key.changed",
}

impl LedgerKind {
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_read_back_as_written() {
        for kind in LedgerKind::ALL {
            assert_eq!(LedgerKind::parse(kind.as_str()), Some(*kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        assert_eq!(LedgerKind::parse("daemon.paused"), None);
    }
}
