//! `apply --confirm`: files that are in force until somebody confirms them, and what happens when nobody does.
//!
//! ```text
//!             apply --confirm                     confirm
//!   settled ------------------> waiting ---------------------> settled on the new files
//!      ^                           | until, by either clock; a reboot; a note that is damaged
//!      |  apply                    v
//!      +---------------------- fell back: what was accepted before is in force, the files that are there are not
//! ```
//!
//! Falling back is what gets somebody in again who locked themselves out, so it works without anybody: a daemon that was killed
//! falls back at its start. The accepted files stay those of before while it waits; what has to be known beside them is written
//! down before anything is in force ([`unconfirmed`]). Until the confirmation nothing becomes final ([`held`]); a service that came
//! is forgotten whole, its addresses are nobody's again as before.
//!
//! While it waits a plain `apply` is refused, so that no tool confirms by chance; another `apply --confirm` begins anew, and falls back to
//! the same. Without a ledger, falling back closes what the files opened and opens nothing; the rest follows when it works again.

mod begin;
mod held;
mod turn;

use std::time::{Duration, Instant};

use crate::config::Loaded;
use crate::kernel::clock;
use crate::model::Time;
use crate::store::accepted::{Accepted, AcceptedError};
use crate::store::unconfirmed::Note;

pub use begin::{Begun, at_start};
pub use turn::cause;

/// Where it stands.
#[derive(Debug, Default)]
pub enum Confirmation {
    #[default]
    Settled,
    Waiting(Box<Waiting>),
    FellBack {
        /// What could not be opened again without a ledger.
        rest: Option<Box<Loaded>>,
    },
}

/// Files that wait.
#[derive(Debug)]
pub struct Waiting {
    pub note: Note,
    /// What they fall back to, with decommissions that came meanwhile.
    pub before: Accepted,
    /// As the files say it.
    pub loaded: Loaded,
    /// Falling back failed: not again before this instant.
    pub retry_at: Option<Instant>,
}

/// Why there is nothing to confirm, or why it cannot begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfirmationError {
    #[error(
        "an apply of {by} waits for its confirmation until {until}: `picoseg confirm` keeps it, `picoseg apply --confirm` \
         begins anew"
    )]
    Waits { by: String, until: Time },
    #[error("nothing waits for a confirmation")]
    Nothing,
    #[error("nobody confirmed in time: what was accepted before is in force again")]
    TooLate,
    #[error("nothing was applied: what is in force cannot be read again to fall back to")]
    NoWayBack,
    #[error("nothing was applied, because it could not fall back: {0}")]
    NotWritten(#[from] AcceptedError),
}

impl Confirmation {
    pub fn waiting(&self) -> Option<&Waiting> {
        match self {
            Self::Waiting(waiting) => Some(waiting),
            Self::Settled | Self::FellBack { .. } => None,
        }
    }

    /// Why a plain `apply` is refused.
    pub fn waits(&self) -> Option<ConfirmationError> {
        let Waiting { note, .. } = self.waiting()?;
        Some(ConfirmationError::Waits { by: note.by.clone(), until: note.until })
    }

    /// The same, and falling back is not tried before that instant.
    fn again_at(self, instant: Instant) -> Self {
        match self {
            Self::Waiting(waiting) => {
                Self::Waiting(Box::new(Waiting { retry_at: Some(instant), ..*waiting }))
            }
            Self::Settled | Self::FellBack { .. } => self,
        }
    }

    /// How long until it falls back, at most; `None`: nothing waits.
    pub fn left(&self) -> Option<Duration> {
        self.waiting().map(|waiting| left(&waiting.note))
    }
}

/// By the clock that gets there first. A clock that was turned back gives no more time.
fn left(note: &Note) -> Duration {
    let now = clock::reading();
    let wall = (note.until - now.wall).to_std().unwrap_or_default();
    wall.min(Duration::from_nanos(note.elapsed).saturating_sub(now.elapsed))
}
