//! What `apply` would do, without doing it: nothing of it reaches the kernel, the store or the ledger.
//!
//! | file | duty |
//! |---|---|
//! | `candidate` | the world as it would be |
//! | `changes` | what differs, in words |
//! | `cuts` | which live connections would be cut |
//! | `warnings` | what to think of before, lock-outs first |
//!
//! It works beside the loop, on copies. Where the files say what is in force, no socket is looked at.

mod candidate;
mod changes;
mod cuts;
mod warnings;

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::acceptance::may_apply;
use super::answer::{done, failure, invalid};
use super::confirmation::ConfirmationError;
use super::engine::Engine;
use crate::api::ask::{Answer, Outcome};
use crate::api::body::{Change, Plan, SCHEMA};
use crate::config::{Diagnostic, Loaded};
use crate::files::{self, SettingsFile};
use crate::kernel::cgroups::Hierarchy;
use crate::kernel::clock;
use crate::model::Subject;
use crate::reconcile::World;
use crate::store::accepted::Accepted;
use candidate::Candidate;
use changes::Sides;
use cuts::{Cut, cuts};
use warnings::Judged;

/// The most cuts that are told one by one.
const MOST: usize = 1_000;

/// One plan at a time: whoever may only look could have lists of many megabytes read at once.
static ONE: Semaphore = Semaphore::const_new(1);

/// All that a plan is made from.
pub struct Draft {
    world: World,
    accepted: Arc<Accepted>,
    hierarchy: Hierarchy,
    namespaces: Vec<(Subject, u32)>,
    config_error: Option<String>,
    store_error: Option<String>,
    waits: Option<ConfirmationError>,
    /// Why the table is not what is in force.
    damage: Option<String>,
}

impl Draft {
    pub fn new(engine: &Engine) -> Self {
        Self {
            world: engine.world.clone(),
            accepted: Arc::clone(&engine.accepted),
            hierarchy: engine.hierarchy.clone(),
            namespaces: engine.subjects.namespaces(),
            config_error: engine.config_error.clone(),
            store_error: engine.store_error.clone(),
            waits: engine.confirmation.waits(),
            damage: engine.drift.unrepaired(),
        }
    }

    /// Reads the files and compares. Takes its time.
    pub async fn answer(self, settings: SettingsFile) -> Answer {
        let Ok(_turn) = ONE.acquire().await else {
            return failure(Outcome::Failed, "no plan is made any more");
        };
        let planned = tokio::task::spawn_blocking(move || match files::load(&settings) {
            Ok(loaded) => done(&self.plan(&loaded)),
            Err(diagnostics) => invalid(&diagnostics),
        });
        planned.await.unwrap_or_else(|error| failure(Outcome::Failed, &error.to_string()))
    }

    fn plan(&self, loaded: &Loaded) -> Plan {
        let namespaces = self.namespaces.clone();
        let candidate = Candidate::new(self.world.clone(), loaded, &self.hierarchy, namespaces, clock::now());
        let sides = Sides {
            accepted: &self.accepted,
            now: &candidate.now,
            loaded,
            next: &candidate.next,
            config_error: self.config_error.as_deref(),
            damage: self.damage.as_deref(),
        };
        let changes = sides.changes();
        let (cuts, mut warnings) = match changes.is_empty() {
            true => (Vec::new(), Vec::new()),
            false => self.consequences(&candidate, &changes),
        };
        let refused = match &self.waits {
            Some(waits) => Err(waits.clone().into()),
            None => may_apply(&self.world, self.store_error.as_deref(), loaded),
        };
        if let Err(error) = refused {
            warnings.insert(0, format!("`apply` would refuse this: {error}"));
        }
        warnings.extend(loaded.warnings.iter().map(in_a_line));
        let told = cuts.iter().take(MOST).map(Into::into).collect();
        Plan { schema: SCHEMA, changes, cuts: told, cuts_total: cuts.len(), warnings }
    }

    fn consequences(&self, candidate: &Candidate, changes: &[Change]) -> (Vec<Cut>, Vec<String>) {
        let (cuts, blind) = match cuts(candidate, &self.hierarchy) {
            Ok(cuts) => (cuts, None),
            Err(error) => (Vec::new(), Some(format!("which connections would be cut is unknown: {error}"))),
        };
        let judged = Judged { candidate, changes, cuts: &cuts, hierarchy: &self.hierarchy };
        let warnings = blind.into_iter().chain(judged.warnings()).collect();
        (cuts, warnings)
    }
}

fn in_a_line(warning: &Diagnostic) -> String {
    let Diagnostic { file, line, column, message, .. } = warning;
    format!("{}:{line}:{column}: {message}", file.display())
}
