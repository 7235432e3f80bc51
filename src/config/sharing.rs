//! Warnings about what several services share: addresses, host names, and `"any"` for the same subject. Each of them opens
//! for the others, too.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{Diagnostic, MAX_MISTAKES, Severity, overlap, policy};
use crate::model::{Direction, HostName, Port, PortRange, Service, Subject};

/// The most pairs that are looked at; a thousand services with the same name are half a million pairs.
const BUDGET: usize = 1_000_000;

/// A service and where it is described.
#[derive(Clone, Copy)]
pub(super) struct Described<'d> {
    pub path: &'d Path,
    pub service: &'d Service,
    /// Line and column of the endpoints of each policy.
    pub endpoints: &'d [(usize, usize)],
}

/// A policy by the indices of its service and in it.
type Place = (usize, usize);

/// The warnings about services, which are sorted by name. Each stands at the later service.
pub(super) fn warnings(all: &[Described<'_>]) -> Vec<Diagnostic> {
    let sharings = [addresses(all), names(all), any(all)];
    sharings.into_iter().flat_map(|found| found.into_iter().take(MAX_MISTAKES)).collect()
}

fn addresses(all: &[Described<'_>]) -> Vec<Diagnostic> {
    let services: Vec<&Service> = all.iter().map(|one| one.service).collect();
    let shared = overlap::find(&services);
    let warnings = shared.iter().filter_map(|one| {
        let entries = if one.count == 1 { "address or prefix" } else { "addresses or prefixes" };
        warning(all, one.first, (one.second, one.policy), |a, b| {
            format!("\"{b}\" and \"{a}\" share {} {entries}", one.count)
        })
    });
    warnings.collect()
}

/// A warning about the service `first` and a later one, at a policy of the later.
fn warning(
    all: &[Described<'_>],
    first: usize,
    (second, policy): Place,
    message: impl FnOnce(&str, &str) -> String,
) -> Option<Diagnostic> {
    let (first, second) = (all.get(first)?, all.get(second)?);
    let (line, column) = second.endpoints.get(policy).copied()?;
    Some(Diagnostic {
        file: second.path.to_owned(),
        line,
        column,
        message: message(first.service.name.as_str(), second.service.name.as_str()),
        help: Some("a packet passes while either of them admits it".to_owned()),
        severity: Severity::Warning,
    })
}

/// The names that two services share.
struct Names<'d> {
    /// A policy of the later service that has the first of them.
    policy: usize,
    first: &'d HostName,
    /// The pattern by which one of the two has it.
    pattern: Option<&'d HostName>,
    count: usize,
}

fn names(all: &[Described<'_>]) -> Vec<Diagnostic> {
    let pairs = shared_names(all);
    let warnings = pairs.iter().filter_map(|((first, second), shared)| {
        let Names { policy, first: name, pattern, count } = shared;
        let below = pattern.map(|pattern| format!(" (below \"{pattern}\")")).unwrap_or_default();
        let what = match count {
            1 => "the host name".to_owned(),
            more => format!("{more} host names, such as"),
        };
        warning(all, *first, (*second, *policy), |a, b| {
            format!("\"{b}\" and \"{a}\" share {what} \"{name}\"{below}")
        })
    });
    warnings.collect()
}

fn shared_names<'d>(all: &[Described<'d>]) -> BTreeMap<(usize, usize), Names<'d>> {
    let listed = listed(all);
    let mut budget = BUDGET;
    let mut pairs: BTreeMap<(usize, usize), Names<'d>> = BTreeMap::new();
    for (name, having) in listed.values() {
        let mut counted = BTreeSet::new();
        let same = having.iter().map(|other| (other, None));
        let below = enclosing(name).filter_map(|pattern| listed.get(pattern.as_str()));
        let below = below.flat_map(|(pattern, having)| having.iter().map(|other| (other, Some(*pattern))));
        for ((other, other_policy), pattern) in same.chain(below) {
            for (one, one_policy) in having.iter().filter(|(one, _)| *one != other) {
                let Some(left) = budget.checked_sub(1) else { return pairs };
                budget = left;
                let (key, policy) = match one < other {
                    true => ((*one, *other), *other_policy),
                    false => ((*other, *one), *one_policy),
                };
                if counted.insert(key) {
                    let shared = Names { policy, first: name, pattern, count: 0 };
                    pairs.entry(key).or_insert(shared).count += 1;
                }
            }
        }
    }
    pairs
}

/// Every name with the services that have it and the first policy of each that does.
fn listed<'d>(all: &[Described<'d>]) -> BTreeMap<&'d str, (&'d HostName, BTreeMap<usize, usize>)> {
    let mut listed: BTreeMap<&str, (&HostName, BTreeMap<usize, usize>)> = BTreeMap::new();
    for (service, one) in all.iter().enumerate() {
        for (policy, with_names) in one.service.policies.iter().enumerate() {
            for name in &with_names.names {
                let (_, having) = listed.entry(name.as_str()).or_insert((name, BTreeMap::new()));
                having.entry(service).or_insert(policy);
            }
        }
    }
    listed
}

/// The patterns that a name is below, the nearest first.
fn enclosing(name: &HostName) -> impl Iterator<Item = String> {
    let plain = name.as_str().strip_prefix("*.").unwrap_or(name.as_str());
    plain.match_indices('.').map(|(at, _)| format!("*{}", plain.get(at..).unwrap_or_default()))
}

fn any(all: &[Described<'_>]) -> Vec<Diagnostic> {
    let mut found: BTreeMap<(usize, usize), Diagnostic> = BTreeMap::new();
    let mut budget = BUDGET;
    for ((direction, subject), places) in &of_any(all) {
        for (nth, second) in places.iter().enumerate() {
            for first in places.iter().take(nth).filter(|first| first.0 != second.0) {
                let Some(left) = budget.checked_sub(1) else { return found.into_values().collect() };
                budget = left;
                let Some(port) = common_port(all, *first, *second) else { continue };
                let warning = warning(all, first.0, *second, |a, b| {
                    format!(
                        "\"{b}\" and \"{a}\" are both about any address for {direction} of {subject} on {port}"
                    )
                });
                if let Some(warning) = warning {
                    found.entry((first.0, second.0)).or_insert(warning);
                }
            }
        }
    }
    found.into_values().collect()
}

/// The policies about `"any"`, by direction and subject, in the order of services.
fn of_any<'d>(all: &[Described<'d>]) -> BTreeMap<(Direction, &'d Subject), Vec<Place>> {
    let mut places: BTreeMap<(Direction, &Subject), Vec<Place>> = BTreeMap::new();
    for (service, one) in all.iter().enumerate() {
        for (index, policy) in one.service.policies.iter().enumerate().filter(|(_, policy)| policy.is_any()) {
            places.entry((policy.id.direction, &policy.subject)).or_default().push((service, index));
        }
    }
    places
}

/// The first ports that both policies have.
fn common_port(all: &[Described<'_>], first: Place, second: Place) -> Option<Port> {
    let ports = |(service, policy): Place| Some(&all.get(service)?.service.policies.get(policy)?.ports);
    let (first, second) = (ports(first)?, ports(second)?);
    let mut pairs = second.iter().flat_map(|one| first.iter().map(move |other| (one, other)));
    pairs.find_map(|(one, other)| common(*one, *other))
}

fn common(a: Port, b: Port) -> Option<Port> {
    let (low, high) = (a.range.low().max(b.range.low()), a.range.high().min(b.range.high()));
    let both = Port { protocol: a.protocol, range: PortRange::from_zero(low, high) };
    policy::share(a, b).then_some(both)
}
