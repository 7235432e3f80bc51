//! Compiles services into the wanted table: total and deterministic.
//!
//! A packet's way: what no /16 (IPv6: /32) with anything governed contains leaves after one lookup (`governed4`). What is
//! open right now for a single address and port is accepted after one more ([`exact`]: most services, by far). Then
//! loopback and the fail-safe leave, and the rest is judged: services that are told by elements alone by their classes, all
//! others by maps from remote address, protocol and port to chains, of single addresses (`egress4`, `ingress4`) and of
//! ranges (`egress4-net`, `ingress4-net`). Each element there leads by *jump* to a chain of one policy, which asks for the
//! time (`open-DIGEST`: the wall clock lies in a window, whose element also expires by elapsed time) and then for the
//! process, accepts or returns. What comes back is refused: by address to the class or the service that owns it, there by time
//! to a reason, whose chain counts, logs and refuses.
//!
//! A window is an element of a set and not a rule, so that opening and closing are the kernel's alone and each window expires
//! by elapsed time as well. Services with the same timetable share the set, because the kernel keeps the sets of a
//! table in a list.

mod accounts;
mod addresses;
mod anywhere;
mod behind;
mod counts;
mod exact;
mod failsafe;
mod flows;
mod fresh;
mod grants;
mod learning;
mod names;
mod nests;
mod places;
mod refusal;
mod segments;
mod shared;
mod subjects;
mod through;
mod tls;
mod who;
mod windows;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{Record, Segment, SegmentName, Service, ServiceState, Settings, Subject, Time};
use crate::ruleset::{Part, Ruleset};

pub use addresses::{Listing, add as address_part, network};
pub use counts::{
    COUNT_SIZE, COUNT_TIMEOUT, Charged, CountSets, Half, count_sets, of_service_counter, service_counter,
    service_counters,
};
pub use exact::{Askers, Classes, fits as is_exact, follows_time, is_in as is_in_elements};
pub use learning::{PREFIX as ANSWER, is_in_sets, moved as learning_moved, naming};
pub use names::opening_sets;
pub use places::{Levels, Whereabouts, follow as follow_places, levels};
pub use shared::DETAILS_TIMEOUT;
pub use who::{declaration as who_declaration, notes as who_notes};
pub use windows::CUT_GRACE;

/// What the kernel can tell a subject by, right now.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Sockets that were created in this cgroup or below it.
    Cgroup(CgroupPlace),
    /// Where its processes were when that could last be told: it encloses them still, and admits nothing.
    Former(CgroupPlace),
    /// Sockets of this user or group: egress only.
    User(u32),
    Group(u32),
    /// A network namespace of its own behind this address: forwarded packets only.
    Address(IpAddr),
}

/// Where a cgroup stands right now.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CgroupPlace {
    /// The kernel's id of the cgroup; never used again for another one.
    pub id: u64,
    /// Depth below the root, which is 0.
    pub level: u32,
    /// The path as nft names it: relative to /sys/fs/cgroup.
    pub path: String,
}

impl Place {
    pub fn cgroup(id: u64, level: u32, path: impl Into<String>) -> Self {
        Self::Cgroup(CgroupPlace { id, level, path: path.into() })
    }

    /// The same place as one where nobody can say any more whether the subject is there.
    pub fn into_former(self) -> Self {
        match self {
            Self::Cgroup(place) => Self::Former(place),
            Self::Former(_) | Self::User(_) | Self::Group(_) | Self::Address(_) => self,
        }
    }

    /// True when the subject can be told by it right now.
    pub fn is_present(&self) -> bool {
        !matches!(self, Self::Former(_))
    }

    /// The cgroup of what encloses: also a former one.
    pub fn enclosed(&self) -> Option<&CgroupPlace> {
        match self {
            Self::Cgroup(place) | Self::Former(place) => Some(place),
            Self::User(_) | Self::Group(_) | Self::Address(_) => None,
        }
    }
}

/// What every subject is right now; a subject without places is unresolved. A clone shares everything.
pub type Resolution = imbl::OrdMap<Arc<Subject>, Arc<[Place]>>;

/// One service with all that decides its state beside the time.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    pub service: &'a Service,
    pub record: &'a Record,
    /// The required approvals are there.
    pub approved: bool,
}

/// Whether openings may be armed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Openings {
    /// Every window that opens within `arm_ahead`.
    Armed,
    /// Only windows that opened before this instant: the ledger does not work.
    Since(Time),
    /// None.
    Never,
}

/// What to say of a subject that does not exist. It has no rule in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unresolved {
    /// Nothing: its cgroup may appear at any moment.
    Silent,
    /// A note.
    Note,
}

/// All that the wanted table depends on.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    pub settings: &'a Settings,
    /// Sorted by name.
    pub services: &'a [Standing<'a>],
    pub segments: &'a BTreeMap<SegmentName, Segment>,
    /// Whom segments may ask for names.
    pub resolvers: &'a [IpAddr],
    pub resolution: &'a Resolution,
    /// Where subjects were: a subject that is gone for a while changes no rule.
    pub left: &'a Levels,
    pub now: Time,
    pub openings: Openings,
    /// The classes of services that the table in force has: they keep their numbers.
    pub classes: &'a Classes,
    pub unresolved: Unresolved,
    /// When grants were last taken away by something else than time.
    pub cut_at: Option<Time>,
}

/// A service that governs its addresses, with what several parts of the table ask of it, found once.
struct Governing<'a> {
    standing: Standing<'a>,
    /// Why it is shut whatever its windows say.
    shut: Option<ServiceState>,
    /// The set of its openings.
    open: String,
    /// The set of the openings that its windows have whatever its lifetime is, if it has any and is told by elements alone.
    timetable: Option<String>,
    /// It is told by elements alone: see [`exact`].
    exact: bool,
}

/// `exact`: says which services are told by elements alone.
fn governing<'a>(
    input: &Input<'_>,
    services: &'a [Standing<'a>],
    exact: &dyn Fn(&Service) -> bool,
) -> Vec<Governing<'a>> {
    let governing = services.iter().filter(|standing| standing.governs(input.now));
    governing
        .map(|standing| {
            let exact = exact(standing.service);
            Governing {
                standing: *standing,
                shut: standing.shut(input.now),
                open: names::open(standing.service, None),
                timetable: exact.then(|| names::timetable(standing.service)).flatten(),
                exact,
            }
        })
        .collect()
}

/// What has names, any address or an owner beside it is never told by elements alone.
const NONE: fn(&Service) -> bool = |_| false;

/// Returns the wanted table.
pub fn compile(input: &Input<'_>) -> Ruleset {
    let mut ruleset = Ruleset::new(&input.settings.enforcement.table);
    let governs = input.services.iter().filter(|standing| standing.governs(input.now));
    let exact = exact::among(governs.map(|standing| standing.service));
    let services = governing(input, input.services, &exact);
    shared::add(input, &mut ruleset);
    failsafe::add(input, &mut ruleset);
    windows::add(input, &services, &mut ruleset);
    tls::add(&services, &mut ruleset);
    accounts::add_sets(&services, &mut ruleset);
    subjects::add(input, &mut ruleset);
    places::add(input, &services, &mut ruleset);
    learning::add(input, &services, &mut ruleset);
    grants::add(input, &services, &mut ruleset);
    through::add(&services, &mut ruleset);
    refusal::add(input, &services, &mut ruleset);
    shared::add_exact_reasons(input, fresh::is_in(&ruleset), &mut ruleset);
    exact::add(input, &services, &mut ruleset);
    windows::add_all_closing(input, &mut ruleset);
    segments::add(input, &mut ruleset);
    anywhere::add(input, &services, &mut ruleset);
    nests::add(input, &services, &mut ruleset);
    ruleset
}

/// Returns the maps and chains of the wanted table that lead from the places of subjects to what is judged by their
/// sockets. The input needs no other services than those with a policy for any address.
pub fn enclosures(input: &Input<'_>, in_force: &Ruleset, part: &mut Part) {
    nests::add_part(input, &governing(input, input.services, &NONE), in_force, part);
}

/// Adds what of the wanted table follows where this subject is. The input needs no other services than those that name it.
/// [`finish_subjects`] comes behind the last one.
pub fn subject_part(input: &Input<'_>, before: &Whereabouts<'_>, in_force: &Ruleset, part: &mut Part) {
    let subject = before.subject;
    let other_levels = levels(input.resolution, input.left, subject) != before.levels;
    let services = governing(input, input.services, &|service| exact::is_in(in_force, service));
    for governing in services.iter().filter(|governing| governing.exact) {
        exact::move_subject(input, governing, (subject, before.places), in_force, part);
    }
    let mut asked = false;
    for governing in services.iter().filter(|governing| !governing.exact) {
        asked = true;
        let policies = governing.standing.service.policies.iter();
        let policies = policies.filter(|policy| policy.subject == *subject);
        for policy in policies.filter(|policy| other_levels || !places::is_in_sets(policy)) {
            grants::add_policy_chains(input, governing, policy, &mut part.wanted);
        }
    }
    if asked {
        places::follow(input, before, true, in_force, part);
    }
}

/// Completes what [`subject_part`] added for all subjects that moved.
pub fn finish_subjects(input: &Input<'_>, in_force: &Ruleset, part: &mut Part) {
    exact::finish(input, in_force, part);
}

/// Adds the sets of what these segments allow, which follow the addresses of names. The input needs no services.
pub fn allowed_sets<'a>(input: &Input<'_>, segments: impl IntoIterator<Item = &'a Segment>, part: &mut Part) {
    segments::add_allowed(input, segments, &mut part.wanted);
}

/// Adds the chain that tells whose questions to name servers are noted. The input needs all services that name hosts.
pub fn asking_chain(input: &Input<'_>, part: &mut Part) {
    learning::add_asking(input, &governing(input, input.services, &NONE), &mut part.wanted);
}

/// Returns all of the wanted table that follows the state of the input's services, which need not be all there are,
/// as long as the same ones govern as in the table in force. `ties`: the groups of services that own addresses
/// together with any of them. `askers`: of all services there are.
pub fn service_part(
    input: &Input<'_>,
    ties: &[Vec<Standing<'_>>],
    askers: Askers<'_>,
    in_force: &Ruleset,
) -> Part {
    let mut part = Part::new(&input.settings.enforcement.table);
    // The services that have names are not all here; whether there are any is the same as in force.
    let holds = fresh::is_in(in_force);
    let services = governing(input, input.services, &|service| exact::is_in(in_force, service));
    for governing in &services {
        windows::add_sets_of(input, governing, &mut part.wanted);
        if governing.exact {
            continue;
        }
        let in_use = |set: &str| askers(set, &|standing| standing.may_open(input.now));
        part.gone.extend(opening_sets(governing.standing.service).into_iter().filter(|set| !in_use(set)));
        grants::add_chains_of(input, governing, &mut part.wanted);
        refusal::add_chains_of(input, governing, holds, &mut part.wanted);
    }
    let exact: Vec<_> = services.iter().filter(|governing| governing.exact).collect();
    let places = |subject: &Subject| input.resolution.get(subject).map_or(&[][..], |places| places);
    let former = exact.iter().map(|governing| governing.standing.service).collect();
    let former = exact::Former { services: former, places: &places };
    exact::add_services(input, &former, &exact, askers, in_force, &mut part);
    for group in ties {
        refusal::add_tie(input, &governing(input, group, &NONE), holds, &mut part.wanted);
    }
    for standing in input.services {
        let counters = service_counters(in_force, Some(&standing.service.name));
        let unused: Vec<_> =
            counters.filter(|counter| !part.wanted.counters.contains(*counter)).cloned().collect();
        part.gone_counters.extend(unused);
    }
    finish(input, in_force, &mut part);
    part
}

/// Returns what takes the classes out in which no service is any more: as the whole table has none of them.
pub fn tidy_part(input: &Input<'_>, askers: Askers<'_>, in_force: &Ruleset) -> Part {
    let mut part = Part::new(&input.settings.enforcement.table);
    exact::tidy(input, askers, in_force, &mut part);
    finish(input, in_force, &mut part);
    part
}

/// Completes a part with what follows from all services together.
fn finish(input: &Input<'_>, in_force: &Ruleset, part: &mut Part) {
    exact::finish(input, in_force, part);
    windows::add_closing(input, in_force, part);
}

/// Services whose files came, changed or went.
pub struct Changed<'a> {
    /// As they were, if they governed.
    pub before: &'a [Standing<'a>],
    /// Where subjects were.
    pub places: &'a dyn Fn(&Subject) -> &'a [Place],
    /// True when a service lists its addresses alone, now.
    pub is_alone: &'a dyn Fn(&Service) -> bool,
    /// Says whether anything is governed from one address to another, now.
    pub governed: &'a dyn Fn(IpAddr, IpAddr) -> bool,
}

/// Returns what of the wanted table follows from the files of the input's services, all of which are among `changed`; `None`
/// when that takes more than elements of shared sets.
pub fn files_part(
    input: &Input<'_>,
    changed: &Changed<'_>,
    askers: Askers<'_>,
    in_force: &Ruleset,
) -> Option<Part> {
    let before: Vec<&Service> = changed.before.iter().map(|standing| standing.service).collect();
    let now: Vec<&Service> = input.services.iter().map(|standing| standing.service).collect();
    // The fail-safe knows what services list for its ports.
    let is_safe =
        |service: &Service| service.policies.iter().any(|policy| failsafe::shares(input.settings, policy));
    let alone = |service: &Service| exact::fits(service) && (changed.is_alone)(service);
    if before.iter().chain(&now).any(|service| is_safe(service))
        || !before.iter().all(|service| exact::is_in(in_force, service))
        || !now.iter().all(|service| alone(service))
    {
        return None;
    }
    let mut part = Part::new(&input.settings.enforcement.table);
    let services = governing(input, input.services, &|_| true);
    for governing in &services {
        windows::add_sets_of(input, governing, &mut part.wanted);
    }
    let exact: Vec<_> = services.iter().collect();
    for prefix in before.iter().chain(&now).flat_map(|service| service.prefixes()) {
        addresses::add_gate(prefix, changed.governed, &mut part);
    }
    let former = exact::Former { services: before, places: changed.places };
    exact::add_services(input, &former, &exact, askers, in_force, &mut part);
    finish(input, in_force, &mut part);
    Some(part)
}

impl Standing<'_> {
    /// The state of a service that is shut whatever its windows say.
    fn shut(&self, now: Time) -> Option<ServiceState> {
        crate::schedule::shut(self.service, self.record, self.approved, now)
    }

    /// False when its windows open nothing.
    pub fn may_open(&self, now: Time) -> bool {
        self.governs(now) && self.shut(now).is_none()
    }

    /// True when the service still governs its addresses: always, but for a decommissioned one whose watch is over.
    pub fn governs(&self, now: Time) -> bool {
        crate::schedule::decommissioned_at(self.service, self.record, now)
            .and_then(|at| crate::schedule::watched_until(self.service, at))
            .is_none_or(|until| now < until)
    }
}
