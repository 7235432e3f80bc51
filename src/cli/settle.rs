//! `settle`: waits until a unit's current cgroup is in force.

use super::console::Console;
use super::daemon::{Daemon, understand};
use super::stop::Stop;
use super::table::plain;
use crate::api::body::{SCHEMA, Settled, SettledCgroup};
use crate::api::client::escaped;
use crate::kernel::cgroups::{Cgroup, Hierarchy};
use crate::model::Subject;

pub async fn run(daemon: &Daemon, unit: Option<&str>, console: &mut Console<'_>) -> Result<(), Stop> {
    let mut settled = Settled { schema: SCHEMA, cgroups: Vec::new() };
    for Cgroup { path, id, .. } in cgroups(unit)? {
        let body = daemon.get(&format!("/v1/settle?cgroup={}&id={id}", escaped(&path))).await?;
        settled.cgroups.extend(understand::<Settled>(&body)?.cgroups);
    }
    if console.json {
        let body = serde_json::to_string(&settled).map_err(|error| Stop::Failed(error.to_string()))?;
        return console.print(body);
    }
    settled.cgroups.iter().try_for_each(|one| console.print(plain(&text(one))))
}

/// The cgroups to ask for: those of the unit, or our own.
fn cgroups(unit: Option<&str>) -> Result<Vec<Cgroup>, Stop> {
    let failed = |error: &dyn std::fmt::Display| Stop::Failed(error.to_string());
    let hierarchy = Hierarchy::find().map_err(|error| failed(&error))?;
    let subject = match unit {
        Some(unit) => Subject::unit(unit).map_err(|error| failed(&error))?,
        None => own_cgroup()?,
    };
    let cgroups = hierarchy.resolve(&subject).map_err(|error| failed(&error))?;
    match cgroups.is_empty() {
        true => Err(Stop::Failed(format!("{subject} has no cgroup: it does not run"))),
        false => Ok(cgroups),
    }
}

/// The cgroup of this process: the line of version 2 in cgroups(7), `/proc/PID/cgroup`.
fn own_cgroup() -> Result<Subject, Stop> {
    const FILE: &str = "/proc/self/cgroup";
    let text = std::fs::read_to_string(FILE);
    let text = text.map_err(|error| Stop::Failed(format!("cannot read {FILE}: {error}")))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"));
    let path = path.ok_or_else(|| Stop::Failed(format!("{FILE} names no cgroup of version 2")))?;
    Subject::cgroup(path).map_err(|error| Stop::Failed(error.to_string()))
}

fn text(settled: &SettledCgroup) -> String {
    let SettledCgroup { cgroup, id, subjects } = settled;
    match subjects.is_empty() {
        true => format!("no policy is about the cgroup {cgroup} (id {id})"),
        false => format!("the cgroup {cgroup} (id {id}) is in force for {}", subjects.join(", ")),
    }
}
