//! From the kernel's counts and log records to rows of attempts.
//!
//! A round reads the counters and the sets that changed, waits for the log records of the same packets, which the kernel
//! delivers in batches of up to 100 ms, and then writes rows together with how the counters stand: what is in memory is what
//! is in the store. It goes in steps, between which the loop does other things. `docs/attempts.md` says what is exact.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::attributed::{Owned, Rows};
use super::books::{Books, Line};
use super::closing::Closings;
use super::settling::{Settling, Standing};
use super::sources::{Pair, Read};
use super::tally::{Changes, Detail, Tally, Target};
use super::whois::{Sighting, Whois};
use super::writing::{Batch, Lost, Writing};
use crate::compile::{self, Charged, CountSets};
use crate::kernel::clock;
use crate::kernel::commit::{CommitError, Table};
use crate::kernel::nflog;
use crate::model::{Direction, Time};
use crate::owners::Owners;
use crate::reconcile::World;
use crate::ruleset::{Key, Ruleset, protocol};
use crate::store::{Baseline, NewSource, Store, StoreError};

/// Reads what was refused and writes it down.
pub struct Attempts {
    pub(super) tally: Tally,
    whois: Whois,
    /// Sources whose first attempts are on record, and whom nobody was told of yet.
    pub(super) new_sources: Vec<NewSource>,
    pub(super) books: Books,
    /// How each pair stood when it was last settled, by the name of its counter.
    pub(super) standings: HashMap<String, Standing>,
    stage: Stage,
    /// Rows on their way into the store: nothing is read before they are there.
    writing: Option<Writing>,
    /// When the counters were last read, by the books' clock: nothing that they had then is new.
    read_at: u32,
    /// Spent on this round so far.
    pub(super) spent: Duration,
    /// Packets that were put on record, and log records that came, since the daemon started.
    pub(super) counted: u64,
    recorded: u64,
    /// Refused packets, or observed flows, without a detailed record: sampled away, or lost on the way.
    pub lost: u64,
    /// Of those, the records that the kernel made and nobody got.
    pub overrun: u64,
    /// Tells what was in flight at a close from what came later.
    pub closings: Closings,
    /// When counters were last lost together with what they had counted.
    bereft: Option<Instant>,
}

/// Where a round stands.
enum Stage {
    Idle,
    Reading {
        left: VecDeque<(Pair, u64)>,
        read: VecDeque<(Pair, u64, Read)>,
    },
    Settling {
        left: VecDeque<(Pair, u64, Read)>,
        now: Option<Box<Settling>>,
    },
    /// All that was read is on record.
    Settled,
    /// There was nothing to read.
    Tidying(Tidying),
}

/// What comes next where there was nothing to read.
#[derive(Debug, Clone, Copy)]
enum Tidying {
    /// What log records tell of counters that were lost.
    Orphans,
    /// Records that came late.
    Late,
    /// Elements that left their sets.
    Gone,
    End,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The next step, as soon as the loop has done what else there is.
    Step,
    /// The next step when the log records are here.
    Settle,
    /// The next step when rows are in the store: [`Attempts::ended`].
    Written,
    /// Another round: there is something that is not on record yet.
    Round,
    /// Nothing: everything is on record.
    Quiet,
}

/// From the loss of counters until the log records of what they had counted are here.
const ORPHANED: Duration = Duration::from_secs(2);

/// Seconds that a log record takes at most, and the rounding of [`Books::now`].
const DELIVERY: u32 = 2;

/// How long a quiet target is remembered.
const QUIET: chrono::TimeDelta = chrono::TimeDelta::seconds(60);

impl Attempts {
    /// Counts on from what was stored, as far as the table still has these sets and counters.
    pub fn new(baselines: Vec<Baseline>, found: &BTreeSet<String>) -> Self {
        Self {
            tally: Tally::default(),
            whois: Whois::default(),
            new_sources: Vec::new(),
            books: Books::new(baselines, found),
            standings: HashMap::new(),
            stage: Stage::Idle,
            writing: None,
            read_at: 0,
            spent: Duration::ZERO,
            counted: 0,
            recorded: 0,
            lost: 0,
            overrun: 0,
            closings: Closings::default(),
            bereft: None,
        }
    }

    /// Takes log records in, and has it looked up who it was: until then they explain nothing.
    pub fn log(&mut self, records: &[nflog::Record], table: &mut Table) {
        for sighting in records.iter().filter_map(explain) {
            self.recorded += 1;
            self.whois.note(sighting);
        }
        self.whois.ask(table);
    }

    /// Nothing was refused until the records came that were read just now: what left its set before that came back as another.
    pub fn was_silent(&mut self) {
        self.read_at = self.read_at.max(self.books.now().saturating_sub(DELIVERY));
    }

    fn explain(&mut self, table: &mut Table, now: Time) {
        for seen in self.whois.take() {
            // Taken back where there is no room for it.
            self.recorded -= u64::from(!self.tally.explain(seen.target, seen.detail, seen.process, now));
        }
        self.whois.ask(table);
    }

    /// True between two rounds.
    pub fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }

    /// True while it waits for the log records of what lost counters had counted.
    pub fn is_bereft(&self) -> bool {
        self.bereft.is_some()
    }

    /// True while rows are on their way into the store.
    pub fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Waits until they are there, or cannot be written; then [`Attempts::written`]. For ever where none are on their way.
    pub async fn ended(&self) {
        match self.settled() {
            Some(ended) => ended.await,
            None => std::future::pending().await,
        }
    }

    /// The same for whoever has to wait elsewhere.
    pub fn settled(&self) -> Option<impl Future<Output = ()> + use<>> {
        self.writing.as_ref().map(Writing::ended)
    }

    /// Takes over what ended; `None` where nothing did.
    pub fn written(&mut self) -> Option<Result<(), StoreError>> {
        let writing = self.writing.take_if(|writing| writing.has_ended())?;
        Some(match writing.settle(&mut self.books) {
            Ok(written) => {
                self.new_sources.extend(written.new_sources);
                self.counted += written.packets;
                Ok(())
            }
            Err(error) => {
                self.give_up();
                Err(error)
            }
        })
    }

    /// What was settled last may not be written, and is read again.
    fn give_up(&mut self) {
        self.stage = Stage::Idle;
        self.tally.clear();
        self.closings.give_up();
    }

    /// One step of a round. What it has to write goes on beside it, and the next step comes after that.
    pub fn step(
        &mut self,
        table: &mut Table,
        in_force: &Ruleset,
        world: &World,
        owners: &Owners,
        store: &Arc<Store>,
    ) -> Result<Next, CommitError> {
        if self.is_writing() {
            return Ok(Next::Written);
        }
        self.explain(table, time(world));
        let outcome = match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Idle => self.look(table, in_force, world, owners, store),
            Stage::Reading { left, read } => self.read_next(table, left, read),
            Stage::Settling { left, now } => {
                self.settle_next(table, in_force, world, owners, store, left, now)
            }
            Stage::Settled => Ok(self.end_round(world)),
            Stage::Tidying(tidying) => Ok(self.tidy(tidying, world, owners, store)),
        };
        if outcome.is_err() {
            self.give_up();
        }
        match outcome {
            Ok(_) if self.is_writing() => Ok(Next::Written),
            other => other,
        }
    }

    /// Looks which counters moved; where none did, tidies up.
    fn look(
        &mut self,
        table: &mut Table,
        in_force: &Ruleset,
        world: &World,
        owners: &Owners,
        store: &Arc<Store>,
    ) -> Result<Next, CommitError> {
        let mut pairs: BTreeMap<String, Pair> = BTreeMap::new();
        for sets in compile::count_sets(in_force) {
            pairs.entry(sets.total.clone()).or_insert_with(|| Pair { sets: Vec::new() }).sets.push(sets);
        }
        let read_at = self.books.now();
        let totals = table.counters_named(pairs.keys())?;
        self.closings.read(Instant::now());
        let mut left = VecDeque::new();
        for (name, pair) in pairs {
            let total = totals.get(&name).copied().unwrap_or(0);
            if total < self.books.counter(&name) {
                tracing::warn!(counter = name, "counts from zero again");
                self.restart(&pair, in_force);
            }
            let before = self.standings.get(&name).and_then(|standing| standing.settled);
            let never_used = || total == 0 && !pair.sets.iter().any(|sets| self.books.knows(&sets.hosts));
            if before != Some(total) && !(before.is_none() && never_used()) {
                left.push_back((pair, total));
            }
        }
        if left.is_empty() {
            self.read_at = read_at;
            return Ok(self.tidy(Tidying::Orphans, world, owners, store));
        }
        self.stage = Stage::Reading { left, read: VecDeque::new() };
        Ok(Next::Step)
    }

    /// Everything that is counted is on record. Goes as far as there is nothing to write.
    fn tidy(&mut self, tidying: Tidying, world: &World, owners: &Owners, store: &Arc<Store>) -> Next {
        let now = time(world);
        let mut next = tidying;
        loop {
            next = match next {
                Tidying::Orphans => {
                    let changes = self.orphans(world, owners);
                    let packets: i64 = changes.values().map(|change| change.count).sum();
                    self.write(store, changes, Vec::new(), packets.max(0).unsigned_abs(), now);
                    Tidying::Late
                }
                Tidying::Late => {
                    let late = self.tally.settle_late();
                    self.write(store, late, Vec::new(), 0, now);
                    Tidying::Gone
                }
                Tidying::Gone => {
                    self.tally.forget(now - QUIET);
                    let gone = self.books.gone();
                    self.begin(store, Batch { gone, ..Batch::default() }, now);
                    Tidying::End
                }
                Tidying::End => {
                    self.closings.end_round();
                    return if self.whois.is_busy() { Next::Round } else { Next::Quiet };
                }
            };
            if self.is_writing() {
                self.stage = Stage::Tidying(next);
                return Next::Written;
            }
        }
    }

    /// Counts by their log records the packets that lost counters had counted: every packet has one as long as the limits of
    /// the log are not reached. Everything that is counted is on record now, so that what records still wait for is that.
    fn orphans(&mut self, world: &World, owners: &Owners) -> Changes {
        let is_due = self.bereft.is_some_and(|at| at.elapsed() > ORPHANED);
        if !is_due || self.whois.is_busy() {
            return Changes::new();
        }
        self.bereft = None;
        let (standings, now) = (world.standings(), time(world));
        let rows = Rows::new(world, &standings);
        let name = |index: usize| standings.get(index).map(|standing| standing.service.name.clone());
        let row = |target: &Target| {
            let owner = owners.owner(&standings, target.remote, now);
            let owned = owner.map(|owner| Owned { service: name(owner.index), also: owner.also });
            Some(rows.row(target, &owned.unwrap_or_default()))
        };
        self.tally.rescue(&row, now)
    }

    fn read_next(
        &mut self,
        table: &mut Table,
        mut left: VecDeque<(Pair, u64)>,
        mut read: VecDeque<(Pair, u64, Read)>,
    ) -> Result<Next, CommitError> {
        let now = self.books.now();
        if let Some((pair, total)) = left.pop_front() {
            let sources = pair.read(table, &mut self.books, self.read_at)?;
            read.push_back((pair, total, sources));
        }
        if left.is_empty() {
            self.read_at = now;
            self.stage = Stage::Settling { left: read, now: None };
            return Ok(Next::Settle);
        }
        self.stage = Stage::Reading { left, read };
        Ok(Next::Step)
    }

    #[expect(clippy::too_many_arguments, reason = "what a step needs, and where it stands")]
    fn settle_next(
        &mut self,
        table: &mut Table,
        in_force: &Ruleset,
        world: &World,
        owners: &Owners,
        store: &Arc<Store>,
        mut left: VecDeque<(Pair, u64, Read)>,
        now: Option<Box<Settling>>,
    ) -> Result<Next, CommitError> {
        match now {
            Some(settling) if settling.is_done() => settling.finish(self),
            Some(mut settling) => {
                let standings = world.standings();
                let (changes, lines, packets) = settling.next(self, world, &standings);
                self.write(store, changes, lines, packets, time(world));
                self.stage = Stage::Settling { left, now: Some(settling) };
                return Ok(Next::Step);
            }
            None => {
                if let Some((pair, total, read)) = left.pop_front() {
                    let standings = world.standings();
                    let settling = Settling::new(
                        self,
                        table,
                        in_force,
                        (owners, &standings, time(world)),
                        pair,
                        total,
                        read,
                    )?;
                    self.stage = Stage::Settling { left, now: Some(Box::new(settling)) };
                    return Ok(Next::Step);
                }
            }
        }
        if !left.is_empty() {
            self.stage = Stage::Settling { left, now: None };
            return Ok(Next::Step);
        }
        let late = self.tally.settle_late();
        self.write(store, late, Vec::new(), 0, time(world));
        self.stage = Stage::Settled;
        Ok(Next::Step)
    }

    fn end_round(&mut self, world: &World) -> Next {
        self.tally.forget(time(world) - QUIET);
        // The records may be of packets that were counted after the read: then this is too little, never too much.
        self.lost = self.lost.max(self.counted.saturating_sub(self.recorded));
        self.closings.end_round();
        Next::Round
    }

    /// Begins to write rows together with the counters they come from.
    fn write(&mut self, store: &Arc<Store>, changes: Changes, lines: Vec<Line>, packets: u64, now: Time) {
        let mut changes = changes;
        self.closings.book(&mut changes);
        let changes = changes.into_iter().collect();
        self.begin(store, Batch { changes, lines, packets, ..Batch::default() }, now);
    }

    fn begin(&mut self, store: &Arc<Store>, batch: Batch, now: Time) {
        match batch.is_empty() {
            true => self.counted += batch.packets,
            false => self.writing = Some(Writing::begin(store, batch, now)),
        }
    }

    /// These count from zero from now on.
    fn lose(&mut self, lost: Lost) {
        lost.drop_from(&mut self.books);
        if let Some(writing) = &mut self.writing {
            writing.lose(lost);
        }
    }

    /// Forgets what was read of sets and counters that are gone: should they come back, they count from zero.
    pub fn forget(&mut self, sets: &[CountSets], counters: &[String]) {
        for sets in sets {
            self.standings.remove(&sets.total);
            self.lose(Lost::Names(vec![sets.hosts.clone(), sets.ports.clone(), sets.total.clone()]));
        }
        self.lose(Lost::Names(counters.to_vec()));
    }

    /// The whole table is a new one: all counts from zero.
    pub fn begin_anew(&mut self) {
        self.stage = Stage::Idle;
        self.standings.clear();
        self.lose(Lost::Everything);
    }

    /// The same, and what the former one had counted and nobody had read is lost with it.
    pub fn begin_bereft(&mut self) {
        self.begin_anew();
        self.bereft = Some(Instant::now());
    }

    /// Elements of a set are new ones.
    pub fn count_elements_anew(&mut self, set: &str, keys: &[Key]) {
        self.lose(Lost::Keys(set.to_owned(), keys.to_vec()));
    }

    /// These counters and sets are new ones: they count from zero.
    pub fn count_anew(&mut self, names: &[String]) {
        if !names.is_empty() {
            self.bereft = Some(Instant::now());
        }
        for name in names {
            self.standings.remove(name);
        }
        self.lose(Lost::Names(names.to_vec()));
    }

    /// The table of a pair began anew, and all that belongs to it.
    fn restart(&mut self, pair: &Pair, in_force: &Ruleset) {
        let end = format!("-{}", pair.name());
        let is_by_address = pair.sets.iter().any(|sets| sets.charged == Charged::ByAddress);
        let all =
            compile::service_counters(in_force, None).filter(|name| is_by_address && name.ends_with(&end));
        let counters: Vec<String> = all.cloned().collect();
        self.forget(&pair.sets, &counters);
    }
}

/// When something is counted: by the wall clock, which the world looks at only when something is due, but never before what
/// was seen already.
pub(super) fn time(world: &World) -> Time {
    world.now().max(clock::now())
}

/// By the prefix that our log rules write.
fn explain(record: &nflog::Record) -> Option<Sighting> {
    let (charged, direction, reason) = Charged::of_log_prefix(&record.prefix)?;
    let packet = &record.packet;
    let (remote, local) = match direction {
        Direction::Egress => (packet.destination, packet.source),
        Direction::Ingress => (packet.source, packet.destination),
    };
    let transport = [protocol::TCP, protocol::UDP].contains(&packet.protocol);
    let ports = packet.ports.filter(|_| transport);
    let port = ports.map(|(_, destination)| destination);
    let (remote_port, local_port) = match direction {
        Direction::Egress => (port, ports.map(|(source, _)| source)),
        Direction::Ingress => (ports.map(|(source, _)| source), port),
    };
    let target = Target { charged, direction, reason, remote, protocol: packet.protocol, port };
    let detail = Detail { local: Some(local), uid: record.uid, subject: None };
    Some(Sighting { target, detail, remote_port, local_port })
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
        let Sighting { target, detail, remote_port, local_port } = explain(&record).unwrap();
        assert_eq!((remote_port, local_port), (Some(443), Some(51000)));
        assert_eq!(target.remote, "192.0.2.1".parse::<IpAddr>().unwrap());
        assert_eq!((target.reason, target.port), (Reason::Expired, Some(51000)));
        assert_eq!(detail.local, Some("10.0.0.1".parse().unwrap()));
        assert_eq!(explain(&nflog::Record { prefix: "foreign".into(), ..record }), None);
    }
}
