//! The table before there is a daemon: at boot, before the network is up.
//!
//! What was in force last follows from the accepted files and the orders; without them the files that are there are
//! compiled with every window closed. Subjects that have no cgroup yet are refused like everybody else until the
//! daemon runs, which takes the table over. Rejected: a printed copy of the last ruleset, whose cgroups are those of the former boot.

use std::path::Path;

use super::start::{self, StartError};
use super::{Options, fallback, recall};
use crate::compile::Openings;
use crate::config::Loaded;
use crate::files;
use crate::kernel::cgroups::Hierarchy;
use crate::kernel::clock;
use crate::kernel::commit::{CommitError, Table};
use crate::model::Subject;
use crate::plan::{self, Changeset};
use crate::reconcile::World;
use crate::store::accepted::{self, Accepted};
use crate::store::{Keeper, Opened};

/// Puts the table in force where there is none. One that is there stays: it is what was in force last.
///
/// # Errors
/// Neither the accepted files nor those that are there can be read, or the kernel refuses the table.
pub async fn early(options: &Options) -> Result<(), StartError> {
    let wanted = files::load(&start::settings_file(options));
    let (mut loaded, before) = match last(&start::state_directory(options, &wanted)) {
        Some((loaded, accepted)) => (loaded, Some(accepted)),
        None => (wanted.map_err(StartError::Invalid)?, None),
    };
    let enforcement = &loaded.settings.enforcement;
    let mut table = match Table::open(&enforcement.table, enforcement.protect) {
        Err(CommitError::HeldByAnother { .. }) => return stays(),
        opened => opened?,
    };
    if table.inventory()?.is_some() {
        return stays();
    }
    let mut world = world(&mut loaded, before.as_ref()).await;
    resolve(&mut world);
    put_in_force(&mut table, &world)?;
    let closed = world.openings() == Openings::Never;
    tracing::info!(services = world.standings().len(), closed, "in force until the daemon runs");
    Ok(())
}

fn stays() -> Result<(), StartError> {
    tracing::info!("there is a table already, and it stays");
    Ok(())
}

/// What was accepted last; `None`, and the log says why, where that cannot be read.
fn last(directory: &Path) -> Option<(Loaded, Accepted)> {
    let accepted = match accepted::read(directory) {
        Ok(accepted) => accepted?,
        Err(error) => {
            tracing::error!(%error, "what was in force last cannot be read: every window stays closed");
            return None;
        }
    };
    let loaded = fallback::reload(&accepted)?;
    Some((loaded, accepted))
}

/// The world that is compiled. Windows open only where both the accepted files and the store are there.
async fn world(loaded: &mut Loaded, before: Option<&Accepted>) -> World {
    let paths = &loaded.settings.paths;
    let mut opened = Keeper::open(&paths.state, &paths.runtime, clock::now()).await;
    if let Err(error) = &opened.store {
        tracing::error!(%error, "the store does not work: every window stays closed");
    }
    // The counters of the table that is made now begin at zero.
    if let Err(error) = opened.keeper.store().clear_baselines().await {
        tracing::error!(%error, "what is refused until the daemon runs may be counted wrongly");
    }
    let whole = before.is_some() && matches!(opened.store, Ok(Opened::Existing));
    let broken = opened.store.as_ref().err().map(ToString::to_string);
    let (records, unread) = recall::records(&mut opened.keeper, before, broken).await;
    let closed = !whole || unread.is_some();
    let (now, _) = start::now(&opened.keeper).await;
    let (world, _) = start::world(loaded, before, records, &opened.keeper, closed, now).await;
    opened.keeper.store().close().await;
    world
}

/// Finds the subjects that are there so early: slices, and `/`.
fn resolve(world: &mut World) {
    let hierarchy = match Hierarchy::find() {
        Ok(hierarchy) => hierarchy,
        Err(error) => return tracing::error!(%error, "no subject is resolved"),
    };
    let subjects: Vec<Subject> = world.subjects().into_iter().cloned().collect();
    for subject in subjects {
        match hierarchy.resolve(&subject) {
            Ok(cgroups) => world.resolve_at(subject, hierarchy.places(cgroups), clock::now()),
            Err(error) => tracing::error!(%subject, %error, "not resolved"),
        }
    }
}

fn put_in_force(table: &mut Table, world: &World) -> Result<(), CommitError> {
    let latest = world.now();
    // Timeouts count from here; a clock that was turned back must not make them longer.
    let now = || clock::now().max(latest);
    let nothing = Default::default();
    let whole = plan::replace(&nothing, &Default::default(), &world.compile());
    for phase in whole.into_iter().flat_map(Changeset::phases) {
        table.commit(&phase, &now)?;
        for difference in table.verify(&phase, &now)? {
            tracing::error!(%difference, "the kernel holds something else than was committed");
        }
    }
    Ok(())
}
