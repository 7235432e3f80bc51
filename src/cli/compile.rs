//! `compile`: the ruleset for an instant, from the files and this host's cgroups.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::SubsecRound as _;
use serde::Serialize;

use super::console::Console;
use super::stop::Stop;
use super::when;
use crate::api::body::SCHEMA;
use crate::compile::{Classes, Input, Levels, Openings, Resolution, Standing, Unresolved, compile};
use crate::config::Loaded;
use crate::files::{self, SettingsFile};
use crate::kernel::cgroups::Hierarchy;
use crate::model::{Record, Subject, Time};
use crate::resolvers;

/// The body.
#[derive(Debug, Serialize)]
struct Compiled {
    schema: u32,
    /// In whole seconds, like all times in the ruleset.
    at: Time,
    /// As `nft -f` takes it.
    ruleset: String,
}

pub fn run(settings: &SettingsFile, at: Time, console: &mut Console<'_>) -> Result<(), Stop> {
    let loaded = files::load(settings).map_err(Stop::Invalid)?;
    console.warn(&loaded.warnings);
    let resolution = resolve(&loaded, console);
    let ruleset = ruleset(&loaded, &resolution, at);
    let at = at.trunc_subsecs(0);
    if console.json {
        let body = Compiled { schema: SCHEMA, at, ruleset };
        return console.print(serde_json::to_string(&body).map_err(|error| Stop::Failed(error.to_string()))?);
    }
    console.print(format_args!("# as of {}\n{}", when::print(at), ruleset.trim_end()))
}

/// The ruleset as the files and the time alone have it: nothing is known of orders here.
fn ruleset(loaded: &Loaded, resolution: &Resolution, at: Time) -> String {
    let record = Record::default();
    let approved = loaded.settings.approval.required.is_empty();
    let standings = loaded.services.values().map(|service| Standing { service, record: &record, approved });
    let services: Vec<Standing<'_>> = standings.filter(|standing| standing.governs(at)).collect();
    let input = Input {
        settings: &loaded.settings,
        services: &services,
        segments: &loaded.segments,
        resolvers: &resolvers::read(),
        resolution,
        left: &Levels::new(),
        now: at,
        openings: Openings::Armed,
        classes: &Classes::default(),
        unresolved: Unresolved::Note,
        cut_at: None,
    };
    compile(&input).print(at).to_string()
}

/// Where every subject is on this host right now; nowhere, where cgroups cannot be read.
pub fn resolve(loaded: &Loaded, console: &mut Console<'_>) -> Resolution {
    let policies = loaded.services.values().flat_map(|service| &service.policies);
    let enclosed = loaded.segments.values().map(|segment| &segment.subject);
    let subjects: BTreeSet<&Subject> = policies.map(|policy| &policy.subject).chain(enclosed).collect();
    let mut resolution = Resolution::new();
    match Hierarchy::find() {
        Ok(hierarchy) => {
            for subject in subjects.into_iter().filter(|subject| !subject.is_any_process()) {
                let places = hierarchy.resolve(subject).map(|cgroups| hierarchy.places(cgroups));
                let places =
                    places.inspect_err(|error| console.note(format_args!("picoseg: {subject}: {error}")));
                resolution.insert(Arc::new(subject.clone()), places.unwrap_or_default().into());
            }
        }
        Err(error) => console.note(format_args!("picoseg: no subject can be found on this host: {error}")),
    }
    resolution
}
