//! The sets and counters by which the kernel counts what it refuses, and how their names say whose they are.
//!
//! What is refused by its remote address is counted in a counter of its service, direction and reason, which is exact whatever
//! comes, and by source in sets that all services share: the address tells whose it is. For a policy for `any` address and
//! for a segment it does not, so each such service and each segment has sets of its own, in the same pairs, and their total is
//! its counter.

use std::time::Duration;

use super::names::{digit, way};
use crate::model::{Direction, Family, Reason, SegmentName, ServiceName};
use crate::ruleset::{Field, Ruleset, Set};

/// The most flows or addresses that one dynamic set holds.
pub const DYNAMIC_SIZE: u32 = 65_536;

/// The most sources, or sources with ports, that one count set holds: what comes from others is counted without its source.
/// Every round of the daemon reads and writes the sets that changed, so this bounds its memory and its time.
pub const COUNT_SIZE: u32 = 8_192;

/// The same for sources that services list one by one: more than these cannot come, so all are told apart. An address
/// counts once for each protocol.
pub const EXACT_SIZE: u32 = 1 << 20;

/// How long a source that is silent stays in its count set: after a flood of made-up sources there is room again.
pub const COUNT_TIMEOUT: Duration = Duration::from_secs(3_600);

/// What the names of the counters of services begin with.
const SERVICE: &str = "svc-";

/// The counter of what is refused because its remote address is a service's: `svc-NAME-in-closed`.
pub fn service_counter(service: &ServiceName, direction: Direction, reason: Reason) -> String {
    format!("{SERVICE}{service}-{}", Charged::ByAddress.stem(direction, reason))
}

/// Reads [`service_counter`].
pub fn of_service_counter(counter: &str) -> Option<(ServiceName, Direction, Reason)> {
    // Neither ways nor reasons have a hyphen.
    let (rest, reason) = counter.strip_prefix(SERVICE)?.rsplit_once('-')?;
    let (name, way) = rest.rsplit_once('-')?;
    let direction = Direction::ALL.into_iter().find(|direction| self::way(*direction) == way)?;
    Some((ServiceName::new(name).ok()?, direction, Reason::parse(reason)?))
}

/// Returns the counters of a service that a table has, or of all services.
pub fn service_counters<'a>(
    ruleset: &'a Ruleset,
    of: Option<&'a ServiceName>,
) -> impl Iterator<Item = &'a String> {
    let prefix = of.map_or_else(|| SERVICE.to_owned(), |name| format!("{SERVICE}{name}-"));
    let begin = ruleset.counters.range(prefix.clone()..);
    let all = begin.take_while(move |counter| counter.starts_with(&prefix));
    // Another service may have a longer name with the same beginning.
    all.filter(move |counter| {
        of.is_none_or(|of| of_service_counter(counter).is_some_and(|(name, ..)| name == *of))
    })
}

fn ways_and_reasons() -> impl Iterator<Item = (Direction, Reason)> {
    Direction::ALL
        .into_iter()
        .flat_map(|direction| Reason::ALL.into_iter().map(move |reason| (direction, reason)))
}

/// Whose a refused packet is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Charged {
    /// The service that owns its remote address.
    ByAddress,
    /// The same, where all that the service lists is single addresses: sources are few, and no counter of its own is needed.
    Exact,
    /// A service with a policy for any address.
    Any(ServiceName),
    Segment(SegmentName),
}

/// What the names of the sets of services with policies for any address begin with, and those of segments.
const ANY: &str = "any-";
const EXACT: &str = "exact";
const SEGMENT: &str = "seg-";

impl Charged {
    /// The name of the counter, and what those of the sets begin with.
    pub fn stem(&self, direction: Direction, reason: Reason) -> String {
        let way = way(direction);
        match self {
            Self::ByAddress => format!("{way}-{reason}"),
            Self::Exact => format!("{EXACT}-{way}-{reason}"),
            Self::Any(name) => format!("{ANY}{name}-{way}-{reason}"),
            Self::Segment(name) => format!("{SEGMENT}{name}-{way}-{reason}"),
        }
    }

    fn of_stem(stem: &str) -> Option<(Self, Direction, Reason)> {
        ways_and_reasons().find_map(|(direction, reason)| {
            let rest = stem.strip_suffix(&Self::ByAddress.stem(direction, reason))?;
            let charged = match rest.strip_suffix('-') {
                None => rest.is_empty().then_some(Self::ByAddress)?,
                Some(EXACT) => Self::Exact,
                Some(rest) => match (rest.strip_prefix(ANY), rest.strip_prefix(SEGMENT)) {
                    (Some(name), _) => Self::Any(ServiceName::new(name).ok()?),
                    (None, Some(name)) => Self::Segment(SegmentName::new(name).ok()?),
                    (None, None) => return None,
                },
            };
            Some((charged, direction, reason))
        })
    }

    /// What stands before a packet in the log: at most 92 bytes, of 127 that the kernel takes.
    pub fn log_prefix(&self, direction: Direction, reason: Reason) -> String {
        match self {
            Self::ByAddress => format!("{direction}/{reason} "),
            Self::Exact => format!("{direction}/{reason} {EXACT} "),
            Self::Any(name) => format!("{direction}/{reason} any/{name} "),
            Self::Segment(name) => format!("{direction}/{reason} segment/{name} "),
        }
    }

    /// Reads [`Charged::log_prefix`].
    pub fn of_log_prefix(prefix: &str) -> Option<(Self, Direction, Reason)> {
        let (head, whose) = prefix.split_once(' ')?;
        let (direction, reason) = head.split_once('/')?;
        let direction = Direction::ALL.into_iter().find(|d| d.as_str() == direction)?;
        let whose = whose.trim_end();
        let charged = match whose.split_once('/') {
            None if whose.is_empty() => Self::ByAddress,
            None if whose == EXACT => Self::Exact,
            Some(("any", name)) => Self::Any(ServiceName::new(name).ok()?),
            Some(("segment", name)) => Self::Segment(SegmentName::new(name).ok()?),
            None | Some(_) => return None,
        };
        Some((charged, direction, Reason::parse(reason)?))
    }
}

/// The sets that count refused packets of one direction, reason and family.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CountSets {
    pub charged: Charged,
    pub direction: Direction,
    pub reason: Reason,
    pub family: Family,
    /// By remote address and protocol: for as many sources as the set takes.
    pub hosts: String,
    /// By remote address, protocol and destination port.
    pub ports: String,
    /// The counter of the direction and reason, both families.
    pub total: String,
}

/// One of a pair of count sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    Hosts,
    Ports,
}

impl CountSets {
    pub fn new(charged: Charged, direction: Direction, reason: Reason, family: Family) -> Self {
        let (total, digit) = (charged.stem(direction, reason), digit(family));
        let (hosts, ports) = (format!("{total}-hosts{digit}"), format!("{total}-ports{digit}"));
        Self { charged, direction, reason, family, hosts, ports, total }
    }

    /// Both families' sets.
    pub fn both(charged: &Charged, direction: Direction, reason: Reason) -> [Self; 2] {
        Family::ALL.map(|family| Self::new(charged.clone(), direction, reason, family))
    }

    /// Finds the pair that a set belongs to by its name; `None` for any other set.
    pub fn of(set: &str) -> Option<(Self, Half)> {
        let of = |family| {
            let digit = digit(family);
            let half = |word: &str| set.strip_suffix(digit)?.strip_suffix(word);
            match (half("-hosts"), half("-ports")) {
                (Some(stem), _) => Some((stem, family, Half::Hosts)),
                (None, Some(stem)) => Some((stem, family, Half::Ports)),
                (None, None) => None,
            }
        };
        let (stem, family, half) = Family::ALL.into_iter().find_map(of)?;
        let (charged, direction, reason) = Charged::of_stem(stem)?;
        Some((Self::new(charged, direction, reason, family), half))
    }

    /// The fields of the keys of one of the two.
    pub fn fields(&self, half: Half) -> Vec<Field> {
        let mut fields = vec![Field::Address(self.family), Field::Protocol];
        match half {
            Half::Hosts => {}
            Half::Ports => fields.push(Field::Port),
        }
        fields
    }

    /// The most elements that one of the two takes.
    pub fn size(&self, half: Half) -> u32 {
        match (&self.charged, half) {
            (Charged::Exact, Half::Hosts) => EXACT_SIZE,
            (Charged::ByAddress | Charged::Exact | Charged::Any(_) | Charged::Segment(_), _) => COUNT_SIZE,
        }
    }

    /// Puts both sets and the counter into a table.
    pub fn declare(&self, ruleset: &mut Ruleset) {
        for (name, half) in [(&self.hosts, Half::Hosts), (&self.ports, Half::Ports)] {
            let set = Set::dynamic(&self.fields(half), self.size(half), Some(COUNT_TIMEOUT), true);
            ruleset.sets.insert(name.clone(), set);
        }
        ruleset.counters.insert(self.total.clone());
    }
}

/// Returns every pair that a table has whatever the schedules say, in a fixed order.
pub fn common() -> impl Iterator<Item = CountSets> {
    Direction::ALL.into_iter().flat_map(|direction| {
        Reason::of_services(direction).flat_map(move |reason| {
            let exact = (reason != Reason::Plaintext).then_some(Charged::Exact);
            let charged = std::iter::once(Charged::ByAddress).chain(exact);
            charged.flat_map(move |charged| CountSets::both(&charged, direction, reason))
        })
    })
}

/// Returns every pair that a table holds.
pub fn count_sets(ruleset: &Ruleset) -> impl Iterator<Item = CountSets> {
    let own = [ANY, SEGMENT].into_iter().flat_map(|prefix| {
        let names = ruleset.sets.range(prefix.to_owned()..).map(|(name, _)| name);
        names.take_while(move |name| name.starts_with(prefix))
    });
    let pairs = own.filter_map(|name| CountSets::of(name));
    common().chain(pairs.filter(|(_, half)| *half == Half::Hosts).map(|(sets, _)| sets))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ServiceName {
        ServiceName::new(text).unwrap()
    }

    fn everybody() -> Vec<Charged> {
        let names = ["x", "exact", "out-closed", "any-x", "seg-a-in-isolated"];
        let own = names.map(name).into_iter().flat_map(|n| [Charged::Any(n.clone()), Charged::Segment(n)]);
        own.chain([Charged::ByAddress, Charged::Exact]).collect()
    }

    #[test]
    fn names_of_sets_and_log_prefixes_say_whose_they_are() {
        let mut seen = std::collections::BTreeSet::new();
        for charged in everybody() {
            for (direction, reason) in
                [(Direction::Egress, Reason::Closed), (Direction::Ingress, Reason::Isolated)]
            {
                for sets in CountSets::both(&charged, direction, reason) {
                    assert_eq!(CountSets::of(&sets.hosts), Some((sets.clone(), Half::Hosts)));
                    assert_eq!(CountSets::of(&sets.ports), Some((sets.clone(), Half::Ports)));
                    assert!(seen.insert(sets.hosts));
                }
                let prefix = charged.log_prefix(direction, reason);
                assert_eq!(Charged::of_log_prefix(&prefix), Some((charged.clone(), direction, reason)));
            }
        }
        assert_eq!(CountSets::of("seg-x-egress4"), None);
        assert_eq!(CountSets::of("details-out4"), None);
    }

    #[test]
    fn counters_of_services_say_whose_they_are() {
        for service in ["x", "x-in-closed", "in-closed", "svc-x"].map(name) {
            for (direction, reason) in ways_and_reasons() {
                let counter = service_counter(&service, direction, reason);
                assert_eq!(of_service_counter(&counter), Some((service.clone(), direction, reason)));
            }
        }
        for other in ["in-closed", "any-x-in-closed", "seg-x-in-isolated", "svc-in-closed", "held"] {
            assert_eq!(of_service_counter(other), None, "{other}");
        }
        let mut ruleset = Ruleset::new("t");
        let counters =
            ["x", "x-in"].map(|service| service_counter(&name(service), Direction::Ingress, Reason::Closed));
        ruleset.counters.extend(counters.clone());
        assert_eq!(service_counters(&ruleset, Some(&name("x"))).collect::<Vec<_>>(), [&counters[0]]);
        assert_eq!(service_counters(&ruleset, None).count(), 2);
    }

    #[test]
    fn the_longest_log_prefix_is_short_enough_for_the_kernel() {
        let long = Charged::Segment(name(&"x".repeat(ServiceName::MAX)));
        assert!(long.log_prefix(Direction::Ingress, Reason::Undeclared).len() <= 127);
    }
}
