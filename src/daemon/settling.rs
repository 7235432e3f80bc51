//! What was read of one direction and reason becomes bookings: packets of a source, or of sources that are not told apart, for
//! an account, which is the counter of a service, or of a policy for any address or a segment.
//!
//! The counters are the truth. What an account has more than its sources was sent by sources that the sets did not take. The
//! sources were read after the counters of the round before, so what those had and no source explains is no matter of time.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::attempts::{Attempts, time};
use super::attributed::{Owned, Rows};
use super::books::Line;
use super::matching::{self, Claim, Given};
use super::sources::{Counted, Pair, Read, signed};
use super::tally::{Changes, Target};
use crate::compile::{self, Charged};
use crate::kernel::commit::{CommitError, Table};
use crate::model::{ServiceName, Time};
use crate::owners::Owners;
use crate::reconcile::World;
use crate::ruleset::Ruleset;

/// Sources of one round: others wait for the next one.
const ROUND: usize = 8_192;

/// Bookings of one transaction: some tens of milliseconds.
const CHUNK: usize = 1_024;

/// How often sources and counters may disagree without a reason that is known before they are made to agree.
const PATIENCE: u32 = 4;

/// How a pair stood when it was last settled.
#[derive(Debug, Default)]
pub struct Standing {
    /// Its common counter, if everything was on record then.
    pub settled: Option<u64>,
    /// The same whether or not it was.
    total: u64,
    /// The accounts that had more than is on record, and how much they had.
    lacking: BTreeMap<String, u64>,
    /// What of the accounts was put on record without a source, by this daemon.
    others: HashMap<String, u64>,
    /// Rounds in which sources and counters disagreed.
    odd: u32,
    /// Where in the sources the next round begins.
    turn: usize,
}

/// A pair of which some is on record by now.
pub struct Settling {
    pair: Pair,
    total: u64,
    sources: Vec<Counted>,
    owned: HashMap<usize, Owned>,
    accounts: Vec<Account>,
    bookings: VecDeque<Booking>,
    /// Sources that wait for the next round.
    waits: bool,
    standing: Standing,
}

#[derive(Debug, Clone)]
struct Account {
    counter: String,
    /// Of what refuses by address.
    service: Option<ServiceName>,
    /// Packets when it was read, after the sources.
    packets: u64,
}

#[derive(Debug, Clone, Copy)]
enum Booking {
    Source(Given),
    /// Of sources that the sets did not take.
    Other {
        account: usize,
        packets: u64,
    },
    /// A source that was taken for one that the sets did not take: they showed it late.
    Found(Given),
    /// Nobody counted what the source has: the sets were read while they grew, and showed it twice.
    Skip {
        source: usize,
    },
    /// The common counter has more than all accounts, which are as they should be: it counted before they did.
    Level,
}

impl Settling {
    pub fn new(
        attempts: &mut Attempts,
        table: &mut Table,
        in_force: &Ruleset,
        (owners, services, now): (&Owners, &[compile::Standing<'_>], Time),
        pair: Pair,
        total: u64,
        read: Read,
    ) -> Result<Self, CommitError> {
        let standing = attempts.standings.remove(pair.name()).unwrap_or_default();
        let mut settling = Self {
            pair,
            total,
            sources: read.sources,
            owned: HashMap::new(),
            accounts: Vec::new(),
            bookings: VecDeque::new(),
            waits: false,
            standing,
        };
        settling.sources.sort_unstable_by_key(|source| (source.remote, source.protocol));
        let mut names = settling.guess(owners, services, now);
        names.extend(settling.standing.lacking.keys().cloned());
        settling.open_accounts(table, &names)?;
        settling.assign(attempts, table, in_force, read.is_full)?;
        Ok(settling)
    }

    fn by_address(&self) -> bool {
        self.pair.sets.first().is_some_and(|sets| sets.charged == Charged::ByAddress)
    }

    /// The address tells whose a source is, and the common counter is the only one.
    fn of_exact(&self) -> bool {
        self.pair.sets.first().is_some_and(|sets| sets.charged == Charged::Exact)
    }

    fn counter_of(&self, service: &ServiceName) -> Option<String> {
        self.pair.sets.first().map(|sets| compile::service_counter(service, sets.direction, sets.reason))
    }

    /// Whose the sources are by their addresses; returns the counters to ask.
    fn guess(&mut self, owners: &Owners, services: &[compile::Standing<'_>], now: Time) -> BTreeSet<String> {
        let common = BTreeSet::from([self.pair.name().to_owned()]);
        if !self.by_address() && !self.of_exact() {
            return common;
        }
        let name = |index: usize| services.get(index).map(|standing| standing.service.name.clone());
        let mut named = BTreeSet::new();
        for (index, source) in self.sources.iter().enumerate() {
            let owner = owners.owner(services, source.remote, now);
            let Some(owner) = owner else { continue };
            let owned = Owned { service: name(owner.index), also: owner.also };
            named.extend(owned.service.iter().chain(&owned.also).cloned());
            self.owned.insert(index, owned);
        }
        match self.of_exact() {
            true => common,
            false => named.iter().filter_map(|service| self.counter_of(service)).collect(),
        }
    }

    fn open_accounts(&mut self, table: &mut Table, names: &BTreeSet<String>) -> Result<(), CommitError> {
        let known: BTreeSet<&String> = self.accounts.iter().map(|account| &account.counter).collect();
        let new: Vec<&String> = names.iter().filter(|name| !known.contains(name)).collect();
        let found = table.counters_named(new)?;
        self.accounts.extend(found.into_iter().map(|(counter, packets)| {
            let service = compile::of_service_counter(&counter).map(|(service, ..)| service);
            Account { counter, service, packets }
        }));
        Ok(())
    }

    /// Finds an account for every packet.
    fn assign(
        &mut self,
        attempts: &Attempts,
        table: &mut Table,
        in_force: &Ruleset,
        is_full: bool,
    ) -> Result<(), CommitError> {
        let books = &attempts.books;
        let mut claims = self.claims();
        let waiting = self.take_turns(&mut claims);
        let mut open: Vec<u64> =
            self.accounts.iter().map(|a| a.packets.saturating_sub(books.counter(&a.counter))).collect();
        let mut given = matching::give(&mut claims, &mut open);
        // What the common counter has, and neither a source nor an account that we know of.
        let explained: u64 = given.iter().map(|one| one.packets).sum::<u64>() + waiting.values().sum::<u64>();
        let lacks = self.total.saturating_sub(books.counter(self.pair.name())).saturating_sub(explained);
        let unclaimed: u64 = open.iter().sum::<u64>() - waiting.values().sum::<u64>().min(open.iter().sum());
        let disagrees = claims.iter().any(|claim| claim.packets > 0);
        let scans = self.by_address() && (lacks > unclaimed || disagrees);
        if scans {
            self.open_accounts(table, &self.counters(in_force))?;
            let known = open.len();
            let more = self.accounts.iter().skip(known);
            open.extend(more.map(|a| a.packets.saturating_sub(books.counter(&a.counter))));
        }
        let is_quiet = self.total == self.standing.total;
        let is_odd = disagrees || (lacks > 0 && !is_full && !is_quiet);
        self.standing.odd = if is_odd { self.standing.odd + 1 } else { 0 };
        if disagrees && self.standing.odd > 1 {
            given.extend(matching::give_to_anybody(&mut claims, &mut open));
            self.find(&mut claims);
            if self.standing.odd > PATIENCE {
                let left = claims.iter().enumerate().filter(|(_, claim)| claim.packets > 0);
                self.bookings.extend(left.map(|(source, _)| Booking::Skip { source }));
            }
        }
        // A source in one piece, so that its elements are written once.
        given.sort_unstable_by_key(|one| (one.account, one.claim));
        let mut booked: Vec<u64> = vec![0; self.accounts.len()];
        given.iter().for_each(|one| booked[one.account] += one.packets);
        self.bookings.extend(given.into_iter().map(Booking::Source));
        let mut lacking = BTreeMap::new();
        for (index, account) in self.accounts.iter().enumerate() {
            let name = &account.counter;
            let here = books.counter(name) + booked[index] + waiting.get(&index).copied().unwrap_or(0);
            let before = match self.by_address() {
                true => self.standing.lacking.get(name).copied().unwrap_or(0),
                // Read before the sources.
                false => self.total,
            };
            let packets = before.saturating_sub(here);
            let is_sure = is_full || is_quiet || self.standing.odd > PATIENCE;
            let taken = if is_sure { packets } else { 0 };
            if taken > 0 {
                self.bookings.push_back(Booking::Other { account: index, packets: taken });
            }
            if account.packets > here + taken {
                lacking.insert(name.clone(), account.packets);
            }
        }
        self.standing.lacking = lacking;
        self.standing.total = self.total;
        // All counters were asked, and none has it.
        let nobody = scans && self.standing.lacking.is_empty() && !disagrees && self.bookings.is_empty();
        if nobody && lacks > 0 {
            self.bookings.push_back(Booking::Level);
        }
        self.waits = !nobody
            && (!waiting.is_empty()
                || !self.standing.lacking.is_empty()
                || claims.iter().any(|claim| claim.packets > 0));
        Ok(())
    }

    fn claims(&self) -> Vec<Claim> {
        let places: HashMap<&str, usize> = self
            .accounts
            .iter()
            .enumerate()
            .map(|(place, account)| (account.counter.as_str(), place))
            .collect();
        let place = |counter: &str| places.get(counter).copied();
        let accounts = |index: usize| match self.owned.get(&index) {
            Some(owned) if self.by_address() => {
                let names = owned.service.iter().chain(&owned.also);
                names.filter_map(|name| place(&self.counter_of(name)?)).collect()
            }
            None if self.by_address() => Vec::new(),
            Some(_) | None => place(self.pair.name()).into_iter().collect(),
        };
        let sources = self.sources.iter().enumerate();
        sources.map(|(index, source)| Claim { packets: source.left(), accounts: accounts(index) }).collect()
    }

    /// Lets only so many sources take part, the same number of each account, and others in the next round. Returns what the
    /// accounts have of those that wait.
    fn take_turns(&mut self, claims: &mut [Claim]) -> HashMap<usize, u64> {
        let mut waiting: HashMap<usize, u64> = HashMap::new();
        if claims.len() <= ROUND {
            return waiting;
        }
        let turn = self.standing.turn % claims.len();
        self.standing.turn = turn + ROUND;
        let mut seen: HashMap<Option<usize>, usize> = HashMap::new();
        let order = (turn..claims.len()).chain(0..turn);
        let mut ranked: Vec<(usize, usize)> = order
            .map(|index| {
                let rank = seen.entry(claims[index].accounts.first().copied()).or_default();
                *rank += 1;
                (*rank, index)
            })
            .collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        for (_, index) in ranked.into_iter().skip(ROUND) {
            let packets = std::mem::take(&mut claims[index].packets);
            if let Some(account) = claims[index].accounts.first() {
                *waiting.entry(*account).or_default() += packets;
            }
        }
        waiting
    }

    /// Sources of accounts of which something was put on record without a source.
    fn find(&mut self, claims: &mut [Claim]) {
        for (index, claim) in claims.iter_mut().enumerate() {
            let Some(account) = claim.accounts.first().copied() else { continue };
            let Some(counter) = self.accounts.get(account).map(|account| &account.counter) else { continue };
            let others = self.standing.others.entry(counter.clone()).or_default();
            let packets = claim.packets.min(*others);
            if packets > 0 {
                *others -= packets;
                claim.packets -= packets;
                self.bookings.push_back(Booking::Found(Given { claim: index, account, packets }));
            }
        }
    }

    /// The counters of all services that have one for this direction and reason.
    fn counters(&self, in_force: &Ruleset) -> BTreeSet<String> {
        let end = format!("-{}", self.pair.name());
        compile::service_counters(in_force, None).filter(|counter| counter.ends_with(&end)).cloned().collect()
    }

    pub fn is_done(&self) -> bool {
        self.bookings.is_empty()
    }

    /// The next transaction: rows, the counters they come from, and how many packets that are.
    pub fn next(
        &mut self,
        attempts: &mut Attempts,
        world: &World,
        services: &[compile::Standing<'_>],
    ) -> (Changes, Vec<Line>, u64) {
        let rows = Rows::new(world, services);
        let (mut changes, mut lines, mut sum) = (Changes::new(), Vec::new(), 0);
        let mut counters: BTreeMap<String, u64> = BTreeMap::new();
        if self.bookings.front().is_some_and(|booking| matches!(booking, Booking::Level)) {
            self.bookings.clear();
            return (changes, vec![Line::Counter(self.pair.name().to_owned(), self.total)], 0);
        }
        let mut count = |counter: &str, packets: u64| {
            let booked =
                counters.entry(counter.to_owned()).or_insert_with(|| attempts.books.counter(counter));
            *booked += packets;
        };
        let common = self.pair.name().to_owned();
        for booking in self.bookings.drain(..self.bookings.len().min(CHUNK)) {
            match booking {
                Booking::Source(given) | Booking::Found(given) => {
                    let (Some(source), Some(account)) =
                        (self.sources.get_mut(given.claim), self.accounts.get(given.account))
                    else {
                        continue;
                    };
                    let owned = whose(self.owned.get(&given.claim), account);
                    let (targets, elements) = source.book(&self.pair, given.packets);
                    lines.extend(elements);
                    let row = |target: &Target| Some(rows.row(target, &owned));
                    for (key, change) in attempts.tally.settle(targets, &row, time(world)) {
                        changes.entry(key).or_default().add(change);
                    }
                    if let Booking::Found(_) = booking {
                        changes.entry(other(&rows, &self.pair, account)).or_default().count -=
                            signed(given.packets);
                        continue;
                    }
                    sum += given.packets;
                    count(&account.counter, given.packets);
                    if account.counter != common {
                        count(&common, given.packets);
                    }
                }
                Booking::Other { account, packets } => {
                    let Some(account) = self.accounts.get(account) else { continue };
                    changes.entry(other(&rows, &self.pair, account)).or_default().count += signed(packets);
                    *self.standing.others.entry(account.counter.clone()).or_default() += packets;
                    sum += packets;
                    count(&account.counter, packets);
                    if account.counter != common {
                        count(&common, packets);
                    }
                }
                // It is alone.
                Booking::Level => {}
                Booking::Skip { source } => {
                    lines.extend(self.sources.get_mut(source).and_then(|source| source.skip(&self.pair)));
                }
            }
        }
        lines.extend(counters.into_iter().map(|(name, booked)| Line::Counter(name, booked)));
        (changes, lines, sum)
    }

    /// Remembers how the pair stands now.
    pub fn finish(mut self, attempts: &mut Attempts) {
        let name = self.pair.name().to_owned();
        self.standing.settled = (!self.waits).then_some(self.total);
        attempts.standings.insert(name, self.standing);
    }
}

/// Whose a source is, by the account that counted it.
fn whose(guess: Option<&Owned>, account: &Account) -> Owned {
    let Some(service) = &account.service else { return guess.cloned().unwrap_or_default() };
    let guess = guess.cloned().unwrap_or_default();
    let mut also: BTreeSet<ServiceName> = guess.also.into_iter().chain(guess.service).collect();
    also.remove(service);
    Owned { service: Some(service.clone()), also: also.into_iter().collect() }
}

fn other(rows: &Rows<'_>, pair: &Pair, account: &Account) -> crate::store::AttemptKey {
    let sets = pair.sets.first();
    let charged = sets.map_or(Charged::ByAddress, |sets| sets.charged.clone());
    let (direction, reason) = sets
        .map_or((crate::model::Direction::Ingress, crate::model::Reason::Undeclared), |sets| {
            (sets.direction, sets.reason)
        });
    rows.other(&charged, account.service.as_ref(), direction, reason)
}
