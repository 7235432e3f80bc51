//! Who waits until a cgroup is in force, and whether it is.
//!
//! The kernel tells of a new cgroup before the system call that makes it returns, so that the event is there to be read when a
//! process in the cgroup asks. What is in force is the world: it takes a place over only after the commit.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::answer::{done, failure};
use super::engine::Engine;
use crate::api::ask::{Answer, Outcome, Settle};
use crate::api::body::{SCHEMA, Settled, SettledCgroup};
use crate::compile::Place;
use crate::kernel::cgroups::Lineage;
use crate::model::Subject;

/// How long somebody waits at most: less than the API gives the loop.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks at what did not come by itself.
const PAUSE: Duration = Duration::from_millis(100);

/// Everybody who waits. Each holds a connection of the API, which bounds their number.
#[derive(Debug, Default)]
pub struct Settling {
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    place: Settle,
    reply: oneshot::Sender<Answer>,
    until: Instant,
}

/// How a cgroup stands.
#[derive(Debug)]
pub enum Look {
    /// The kernel has it for all of these subjects.
    InForce(SettledCgroup),
    /// Not yet.
    Behind(String),
    /// It does not exist.
    Gone(String),
}

impl From<Look> for Answer {
    fn from(look: Look) -> Self {
        match look {
            Look::InForce(settled) => done(&Settled { schema: SCHEMA, cgroups: vec![settled] }),
            Look::Behind(why) => failure(Outcome::Conflict, &why),
            Look::Gone(why) => failure(Outcome::Unknown, &why),
        }
    }
}

impl Settling {
    pub fn add(&mut self, place: Settle, reply: oneshot::Sender<Answer>) {
        self.waiting.push(Waiting { place, reply, until: Instant::now() + PATIENCE });
    }

    /// Answers everybody who need not wait any longer.
    pub fn answer(&mut self, engine: &mut Engine) {
        let now = Instant::now();
        for waiting in std::mem::take(&mut self.waiting) {
            match look(engine, &waiting.place) {
                Look::Behind(_) if waiting.reply.is_closed() => {}
                Look::Behind(_) if now < waiting.until => self.waiting.push(waiting),
                // Whoever asked may have gone.
                look => drop(waiting.reply.send(look.into())),
            }
        }
    }

    /// Waits until it is time to look again; for ever while nobody waits.
    pub async fn due(&self) {
        match self.waiting.is_empty() {
            true => std::future::pending().await,
            false => sleep_until(Instant::now() + PAUSE).await,
        }
    }
}

/// Looks whether a cgroup is in force for every subject that it belongs to.
pub fn look(engine: &mut Engine, place: &Settle) -> Look {
    let Settle { cgroup, id } = place;
    let gone = || Look::Gone(format!("there is no cgroup {cgroup} with the id {id}"));
    let lineage = match engine.hierarchy.lineage(cgroup) {
        Ok(Some(lineage)) => lineage,
        Ok(None) => return gone(),
        Err(error) => return Look::Behind(error.to_string()),
    };
    if lineage.last().is_some_and(|(own, _)| own.id != *id) {
        return gone();
    }
    let mut wanted = Vec::new();
    for (above, subjects) in &lineage {
        let named = subjects.iter().filter(|subject| engine.world.is_named(subject));
        wanted.extend(named.map(|subject| (subject.clone(), above.id)));
    }
    wanted.extend(told_by_others(engine, &lineage));
    wanted.sort();
    wanted.dedup();
    let behind = wanted.iter().find(|(subject, id)| !is_in_force(engine, subject, *id));
    match behind {
        Some((subject, _)) => {
            Look::Behind(format!("the cgroup {cgroup} (id {id}) is not in force yet for {subject}"))
        }
        None => {
            let subjects = wanted.iter().map(|(subject, _)| subject.to_string()).collect();
            Look::InForce(SettledCgroup { cgroup: cgroup.clone(), id: *id, subjects })
        }
    }
}

fn is_in_force(engine: &Engine, subject: &Subject, id: u64) -> bool {
    engine.world.places(subject).iter().any(|place| is_cgroup(place, id))
}

fn is_cgroup(place: &Place, wanted: u64) -> bool {
    matches!(place, Place::Cgroup(place) if place.id == wanted)
}

/// Subjects whose cgroups do not follow from names, as their sources know them right now.
fn told_by_others(engine: &mut Engine, lineage: &Lineage) -> Vec<(Subject, u64)> {
    let by_name = |subject: &Subject| match subject {
        Subject::Unit(_) | Subject::Cgroup(_) => true,
        Subject::Exe { .. } | Subject::User(_) | Subject::Group(_) | Subject::Container(_) => false,
    };
    if engine.world.subjects().into_iter().all(by_name) {
        return Vec::new();
    }
    let mut resolved = engine.subjects.resolved();
    resolved.retain(|(subject, _)| !by_name(subject));
    let ids = lineage.iter().map(|(cgroup, _)| cgroup.id);
    ids.flat_map(|id| {
        let with_it = resolved.iter().filter(move |(_, places)| places.iter().any(|p| is_cgroup(p, id)));
        with_it.map(move |(subject, _)| (subject.clone(), id))
    })
    .collect()
}
