//! From the kernel's counts and log records to rows of attempts.
//!
//! Counts are read one round before they are used, so that the log records of the same packets, which the kernel
//! delivers in batches of up to 100 ms, are usually there first and rows need not be corrected.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use super::closing::Closings;
use super::tally::{Detail, Tally, Target};
use crate::compile::{self, Charged, CountSets, Half, Standing};
use crate::kernel::commit::{CommitError, Table};
use crate::kernel::nflog;
use crate::model::{Direction, Mode, Policy, Protocol, SegmentName, Service, ServiceName, Time};
use crate::owners::Owners;
use crate::reconcile::World;
use crate::ruleset::{Field, Key, Ruleset, Set, SetKind, Value, protocol};
use crate::store::{AttemptKey, Baseline, Change, Store, StoreError, Verdict};

/// Reads what was refused and writes it down.
pub struct Attempts {
    tally: Tally,
    /// The kernel's counters when they were last read, by set and key.
    read: HashMap<(String, Key), u64>,
    totals: BTreeMap<String, u64>,
    /// Read, and to be settled in the next round.
    fresh: Vec<(Target, i64)>,
    fresh_baselines: Vec<Baseline>,
    /// Settled, and not written yet: the store did not work.
    unwritten: BTreeMap<AttemptKey, Change>,
    unwritten_baselines: Vec<Baseline>,
    /// Records that the kernel made and nobody got.
    pub lost: u64,
    /// Tells what was in flight at a close from what came later.
    pub closings: Closings,
}

/// How long a quiet target is remembered.
const QUIET: chrono::TimeDelta = chrono::TimeDelta::hours(1);

impl Attempts {
    /// Counts on from what was stored, as far as the table still has these sets.
    pub fn new(baselines: Vec<Baseline>, sets: &BTreeSet<String>) -> Self {
        let (baselines, gone): (Vec<_>, Vec<_>) =
            baselines.into_iter().partition(|baseline| sets.contains(&baseline.set));
        let read: HashMap<(String, Key), u64> =
            baselines.into_iter().map(|b| ((b.set, Key::from_bytes(&b.key)), b.packets)).collect();
        let mut tally = Tally::default();
        for (target, balance) in balances(&read) {
            tally.resume(target, balance);
        }
        Self {
            tally,
            read,
            totals: BTreeMap::new(),
            fresh: Vec::new(),
            fresh_baselines: Vec::new(),
            unwritten: BTreeMap::new(),
            unwritten_baselines: gone.into_iter().map(|old| Baseline { packets: 0, ..old }).collect(),
            lost: 0,
            closings: Closings::default(),
        }
    }

    /// Takes log records in.
    pub fn log(&mut self, records: &[nflog::Record], now: Time) {
        for (target, detail) in records.iter().filter_map(explain) {
            self.tally.explain(target, detail, now);
        }
    }

    /// Settles what was read before, then reads the kernel's counts. True when there was anything.
    pub fn read(
        &mut self,
        table: &mut Table,
        in_force: &Ruleset,
        world: &World,
        owners: &Owners,
    ) -> Result<bool, CommitError> {
        self.settle(world, owners);
        let totals = table.counters()?;
        let moved = |sets: &CountSets| totals.get(&sets.total) != self.totals.get(&sets.total);
        let changed: Vec<_> = compile::count_sets(in_force).filter(moved).collect();
        for sets in &changed {
            self.read_sets(table, sets)?;
        }
        self.totals = totals;
        self.closings.read(Instant::now());
        Ok(!changed.is_empty())
    }

    /// Forgets what was read of sets that are gone: should they come back, they count from zero.
    pub fn forget(&mut self, sets: &CountSets) {
        let gone = |set: &String| [&sets.hosts, &sets.ports].contains(&set);
        let keys = self.read.extract_if(|(set, _), _| gone(set)).map(|((set, key), _)| (set, key));
        let baselines = keys.map(|(set, key)| Baseline { set, key: key.bytes().to_vec(), packets: 0 });
        self.unwritten_baselines.extend(baselines);
    }

    /// True when a round has to follow soon: something was read that is not settled yet.
    pub fn is_pending(&self) -> bool {
        !self.fresh.is_empty() || !self.unwritten.is_empty() || self.closings.is_pending()
    }

    /// Hosts first: what is counted between the two reads is then in `ports` alone, and the part without a port is
    /// never said too large. It is too small for one round at most.
    fn read_sets(&mut self, table: &mut Table, sets: &CountSets) -> Result<(), CommitError> {
        let [hosts, ports] = [Half::Hosts, Half::Ports].map(|half| sets.fields(half));
        let mut rest: BTreeMap<Target, i64> = BTreeMap::new();
        for (target, packets) in self.read_set(table, &sets.hosts, &hosts, sets)? {
            *rest.entry(target).or_default() += packets;
        }
        for (target, packets) in self.read_set(table, &sets.ports, &ports, sets)? {
            *rest.entry(Target { port: None, ..target.clone() }).or_default() -= packets;
            self.fresh.push((target, packets));
        }
        self.fresh.extend(rest.into_iter().filter(|(_, packets)| *packets != 0));
        Ok(())
    }

    /// What was counted in one set since it was last read.
    fn read_set(
        &mut self,
        table: &mut Table,
        set: &str,
        fields: &[Field],
        sets: &CountSets,
    ) -> Result<Vec<(Target, i64)>, CommitError> {
        let declaration = Set {
            fields: fields.to_vec(),
            kind: SetKind::Dynamic { size: 0, timeout: None, counted: true },
            interval: false,
            expires: false,
            elements: BTreeMap::new(),
        };
        let mut news = Vec::new();
        for (key, packets) in table.set_counts(set, &declaration)? {
            let before = self.read.insert((set.to_owned(), key.clone()), packets).unwrap_or(0);
            // A smaller number is a table that began anew.
            let since = if packets < before { packets } else { packets - before };
            let Some(target) = target(&key, fields, sets).filter(|_| since > 0) else { continue };
            self.fresh_baselines.push(Baseline { set: set.to_owned(), key: key.bytes().to_vec(), packets });
            news.push((target, i64::try_from(since).unwrap_or(i64::MAX)));
        }
        Ok(news)
    }

    fn settle(&mut self, world: &World, owners: &Owners) {
        let now = world.now();
        let services = world.standings();
        let row = |target: &Target| row(&services, owners, world, target);
        let counted = self.tally.settle(self.fresh.drain(..), &row, now);
        let change = |count| Change { count, ..Change::default() };
        let mut changes = counted.into_iter().map(|(key, count)| (key, change(count))).collect();
        self.closings.book(&mut changes);
        for (key, change) in changes {
            self.unwritten.entry(key).or_default().add(change);
        }
        self.unwritten_baselines.append(&mut self.fresh_baselines);
        self.tally.forget(now - QUIET);
    }

    /// Writes what is settled, together with the counters it came from. Kept when that fails.
    pub async fn write(&mut self, store: &Store, now: Time) -> Result<(), StoreError> {
        if self.unwritten.is_empty() && self.unwritten_baselines.is_empty() {
            return Ok(());
        }
        let changes: Vec<_> = self.unwritten.iter().map(|(key, by)| (key.clone(), by.clone())).collect();
        store.add_counts(&changes, &self.unwritten_baselines, now).await?;
        self.unwritten.clear();
        self.unwritten_baselines.clear();
        Ok(())
    }
}

/// What the stored counters of hosts have more, or less, than those of their ports: where the former daemon left off.
fn balances(read: &HashMap<(String, Key), u64>) -> BTreeMap<Target, i64> {
    let mut balances = BTreeMap::new();
    let mut names: HashMap<&str, Option<(CountSets, Half)>> = HashMap::new();
    for ((set, key), packets) in read {
        let Some((sets, half)) = names.entry(set).or_insert_with(|| CountSets::of(set)) else { continue };
        let Some(target) = target(key, &sets.fields(*half), sets) else { continue };
        let packets = i64::try_from(*packets).unwrap_or(i64::MAX);
        let sign = if *half == Half::Hosts { 1 } else { -1 };
        *balances.entry(Target { port: None, ..target }).or_default() += sign * packets;
    }
    balances.retain(|_, balance| *balance != 0);
    balances
}

fn target(key: &Key, fields: &[Field], sets: &CountSets) -> Option<Target> {
    let (mut remote, mut protocol, mut port) = (None, None, None);
    for value in key.decode(fields)? {
        match value {
            Value::Address(address) => remote = Some(address),
            Value::Protocol(number) => protocol = Some(number),
            Value::Port(number) => port = Some(number),
            Value::Cgroup(_) | Value::Time(_) | Value::EchoId(_) | Value::Number(_) => return None,
        }
    }
    Some(Target {
        charged: sets.charged.clone(),
        direction: sets.direction,
        reason: sets.reason,
        remote: remote?,
        protocol: protocol?,
        port,
    })
}

/// By the prefix that our log rules write.
fn explain(record: &nflog::Record) -> Option<(Target, Detail)> {
    let (charged, direction, reason) = Charged::of_log_prefix(&record.prefix)?;
    let packet = &record.packet;
    let (remote, local) = match direction {
        Direction::Egress => (packet.destination, packet.source),
        Direction::Ingress => (packet.source, packet.destination),
    };
    let transport = [protocol::TCP, protocol::UDP].contains(&packet.protocol);
    let port = packet.ports.filter(|_| transport).map(|(_, destination)| destination);
    let target = Target { charged, direction, reason, remote, protocol: packet.protocol, port };
    Some((target, Detail { local: Some(local), uid: record.uid }))
}

/// The row of a target: whose it is now.
fn row(services: &[Standing<'_>], owners: &Owners, world: &World, target: &Target) -> Option<AttemptKey> {
    match &target.charged {
        Charged::ByAddress => Some(row_of_owner(services, owners, world, target)),
        Charged::Any(name) => Some(row_of_any(services, world, name, target)),
        Charged::Segment(name) => Some(row_of_segment(world, name, target)),
    }
}

fn row_of_owner(services: &[Standing<'_>], owners: &Owners, world: &World, target: &Target) -> AttemptKey {
    let owner = owners.owner(services, target.remote, world.now());
    let service = owner.as_ref().and_then(|owner| services.get(owner.index)).map(|s| s.service);
    AttemptKey {
        service: service.map(|service| service.name.clone()),
        provider: service.map(|service| service.provider.clone()),
        policy: service.and_then(|service| policy(service, target)),
        also: owner.map(|owner| owner.also).unwrap_or_default(),
        ..bare_row(world, service.map(|service| service.mode), target)
    }
}

/// The service that refused by a policy for any address. Which other such policies were about the same process nobody
/// counted: those of the same subject stand beside it.
fn row_of_any(services: &[Standing<'_>], world: &World, name: &ServiceName, target: &Target) -> AttemptKey {
    let service = services.iter().map(|standing| standing.service).find(|service| service.name == *name);
    let policy = service.and_then(|service| any_policy(service, target));
    let about_the_same = |other: &Service| {
        let theirs = any_policy(other, target).map(|other| &other.subject);
        theirs.is_some_and(|theirs| policy.is_some_and(|policy| policy.subject == *theirs))
    };
    let others = services.iter().map(|standing| standing.service);
    let others = others.filter(|other| other.name != *name && about_the_same(other));
    AttemptKey {
        service: Some(name.clone()),
        provider: service.map(|service| service.provider.clone()),
        policy: policy.map(|policy| policy.id.to_string()),
        also: others.map(|other| other.name.clone()).collect(),
        ..bare_row(world, service.map(|service| service.mode), target)
    }
}

/// The first policy for any address that could be about a target. What goes the other way than its direction, an answer,
/// names a port of the other side, so only the protocol tells.
fn any_policy<'a>(service: &'a Service, target: &Target) -> Option<&'a Policy> {
    let any = || service.policies.iter().filter(|policy| policy.is_any());
    let opens = any().find(|policy| policy.id.direction == target.direction && covers(policy, target));
    opens.or_else(|| any().find(|policy| policy.id.direction != target.direction))
}

fn covers(policy: &Policy, target: &Target) -> bool {
    policy.ports.iter().any(|port| match port.protocol {
        Protocol::Icmp => is_icmp(target.protocol),
        Protocol::Tcp => {
            target.protocol == protocol::TCP && target.port.is_some_and(|p| port.range.contains(p))
        }
        Protocol::Udp => {
            target.protocol == protocol::UDP && target.port.is_some_and(|p| port.range.contains(p))
        }
    })
}

/// A segment is no service: its name stands where that of the policy would.
fn row_of_segment(world: &World, name: &SegmentName, target: &Target) -> AttemptKey {
    let segment = world.segment(name);
    AttemptKey {
        policy: Some(format!("segment/{name}")),
        subject: segment.map(|segment| segment.subject.to_string()),
        ..bare_row(world, segment.map(|segment| segment.mode), target)
    }
}

/// A row without an owner; `mode` is that of the owner.
fn bare_row(world: &World, mode: Option<Mode>, target: &Target) -> AttemptKey {
    let modes = [Some(world.settings().enforcement.mode), mode];
    let observed = modes.contains(&Some(Mode::Observe));
    let (remote_port, local_port) = match target.direction {
        Direction::Egress => (target.port, None),
        Direction::Ingress => (None, target.port),
    };
    AttemptKey {
        service: None,
        provider: None,
        policy: None,
        direction: target.direction,
        reason: target.reason,
        verdict: if observed { Verdict::Observed } else { Verdict::Refused },
        protocol: protocol_name(target.protocol),
        remote: target.remote.into(),
        remote_port,
        local: None,
        local_port,
        subject: None,
        uid: None,
        also: vec![],
    }
}

/// The first policy of the service that is about this address, port and direction.
fn policy(service: &Service, target: &Target) -> Option<String> {
    let matches = |policy: &&Policy| {
        policy.id.direction == target.direction
            && policy.prefixes.iter().any(|prefix| prefix.contains(target.remote))
            && covers(policy, target)
    };
    service.policies.iter().find(matches).map(|policy| policy.id.to_string())
}

fn is_icmp(number: u8) -> bool {
    [protocol::ICMP, protocol::ICMPV6].contains(&number)
}

fn protocol_name(number: u8) -> String {
    match number {
        protocol::TCP => "tcp".into(),
        protocol::UDP => "udp".into(),
        protocol::ICMP | protocol::ICMPV6 => "icmp".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::kernel::nflog::Packet;
    use crate::model::Reason;

    #[test]
    fn a_record_names_its_target_by_prefix_and_direction() {
        let packet = Packet {
            source: "192.0.2.1".parse().unwrap(),
            destination: "10.0.0.1".parse().unwrap(),
            protocol: 6,
            ports: Some((443, 51000)),
            icmp: None,
            tcp_flags: None,
        };
        let record = nflog::Record {
            datagram: None,
            prefix: "ingress/expired ".into(),
            hook: None,
            indev: None,
            outdev: None,
            uid: None,
            gid: None,
            packet,
        };
        let (target, detail) = explain(&record).unwrap();
        assert_eq!(target.remote, "192.0.2.1".parse::<IpAddr>().unwrap());
        assert_eq!((target.reason, target.port), (Reason::Expired, Some(51000)));
        assert_eq!(detail.local, Some("10.0.0.1".parse().unwrap()));
        assert_eq!(explain(&nflog::Record { prefix: "foreign".into(), ..record }), None);
    }
}
