//! What it costs when names get other addresses and units are restarted, a thousand times a second: from the event to
//! the kernel's commit and the read-back after it, beside 100, 1,000 and 10,000 services.
//!
//! `sudo cargo bench --bench churn [-- [seconds=N] [rate=N] N ...]`. Events come at fixed instants, whether the one before is done or
//! not; those that are there when a change begins become one change, as in the daemon's loop. An event's time counts
//! from the instant at which it was due. `ours`, `kernel` and `read back` are means for one change. `enclosed`: units
//! in segments, 100 of them at most. The load is made by a thread of its own. It works in a network namespace of
//! its own and sends no packet; run it on a quiet machine.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use picoseg::compile::Place;
use picoseg::config;
use picoseg::kernel::clock;
use picoseg::kernel::commit::Table;
use picoseg::model::{HostName, Segment, SegmentName, Service, ServiceName, Settings, Subject};
use picoseg::names::News;
use picoseg::owners::Owners;
use picoseg::plan::{self, Inventory};
use picoseg::reconcile::World;
use picoseg::ruleset::Ruleset;

/// The most events that become one change: as in the daemon.
const TOGETHER: usize = 256;

const SEGMENTS: usize = 100;

fn main() {
    let number = |word: &str| {
        let found = std::env::args().find_map(|argument| argument.strip_prefix(word)?.parse::<u64>().ok());
        found.filter(|number| *number > 0)
    };
    let seconds = number("seconds=").unwrap_or(5);
    let rate = number("rate=").unwrap_or(1000);
    let sizes: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![100, 1_000, 10_000] } else { sizes };
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        println!("SKIPPED: a network namespace cannot be made: {error}");
        return;
    }
    println!("{rate} events a second for {seconds} s; one service has one policy, one unit and one name");
    println!(
        "{:>9} {:>9} | {:>8} {:>9} {:>9} {:>9} {:>9} {:>6} | {:>9} {:>9} {:>9}",
        "services", "what", "events", "changes", "p50", "p99", "max", "busy", "ours", "kernel", "read back"
    );
    for size in sizes {
        let mut host = Host::new(size);
        for what in [What::Names, What::Units, What::Both] {
            host.churn(what, rate, Duration::from_secs(seconds));
        }
        host.enclose();
        host.churn(What::Enclosed, rate, Duration::from_secs(seconds));
        host.table.remove().expect("remove");
    }
}

#[derive(Debug, Clone, Copy)]
enum What {
    Names,
    Units,
    Both,
    /// Units with a segment around them.
    Enclosed,
}

/// What changes took, by where the time went.
#[derive(Debug, Clone, Copy, Default)]
struct Spent {
    kernel: Duration,
    read_back: Duration,
}

struct Host {
    world: World,
    owners: Owners,
    in_force: Ruleset,
    table: Table,
    services: usize,
    /// Goes up: addresses and cgroups are never the same twice.
    fresh: u32,
    spent: Spent,
}

/// What happened: to which name or unit, and when.
type Event = (What, usize, Instant);

impl Host {
    fn new(size: usize) -> Self {
        let settings = Settings::default();
        let now = clock::now();
        let mut world = World::new(settings.clone(), now);
        let services = (0..size).map(|index| service(index, &settings)).collect();
        world.apply(settings, services, now);
        for index in 0..size {
            world.resolve(unit(index), vec![place(index as u32)]);
        }
        let news: Vec<_> = (0..size).map(|index| (host(index), resolved(index as u32))).collect();
        world.hear(&news, now);
        let mut table = Table::open("picoseg", false).expect("nf_tables");
        let in_force = world.compile();
        let changeset =
            plan::replace(&Inventory::default(), &BTreeMap::new(), &in_force).expect("a first table");
        for phase in changeset.phases() {
            table.commit(&phase, &clock::now).expect("commit");
        }
        let owners = Owners::new(&world.standings());
        Self { world, owners, in_force, table, services: size, fresh: size as u32, spent: Spent::default() }
    }

    /// Puts segments around the first units.
    fn enclose(&mut self) {
        self.world.enclose((0..self.services.min(SEGMENTS)).map(segment).collect());
        let wanted = self.world.compile();
        let changeset = plan::plan(&self.in_force, &wanted, &BTreeSet::new()).expect("segments");
        for phase in changeset.phases() {
            self.table.commit(&phase, &clock::now).expect("commit");
        }
        self.in_force = wanted;
    }

    fn churn(&mut self, what: What, rate: u64, lasts: Duration) {
        let services = self.services;
        self.spent = Spent::default();
        let events = spawn(what, rate, lasts, services);
        let (mut took, mut changes, mut busy) = (Vec::new(), 0, Duration::ZERO);
        while let Ok(first) = events.recv() {
            let mut together = vec![first];
            together.extend(events.try_iter().take(TOGETHER - 1));
            let started = Instant::now();
            self.change(&together);
            let done = Instant::now();
            busy += done - started;
            changes += 1;
            took.extend(together.iter().map(|(_, _, due)| done.saturating_duration_since(*due)));
        }
        took.sort_unstable();
        let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize];
        let each = |all: Duration| text(all / changes);
        let Spent { kernel, read_back } = self.spent;
        println!(
            "{services:>9} {:>9} | {:>8} {changes:>9} {:>9} {:>9} {:>9} {:>5.0}% | {:>9} {:>9} {:>9}",
            format!("{what:?}").to_lowercase(),
            took.len(),
            text(at(0.5)),
            text(at(0.99)),
            text(at(1.0)),
            100.0 * busy.as_secs_f64() / lasts.as_secs_f64(),
            each(busy.saturating_sub(kernel + read_back)),
            each(kernel),
            each(read_back),
        );
    }

    /// As the daemon does it: names and units are changes of their own.
    fn change(&mut self, events: &[Event]) {
        let (mut news, mut units) = (Vec::new(), BTreeMap::new());
        for (what, index, _) in events {
            self.fresh += 1;
            match what {
                What::Names => news.push((host(*index), resolved(self.fresh))),
                What::Units | What::Both | What::Enclosed => {
                    drop(units.insert(unit(*index), vec![place(self.fresh)]))
                }
            }
        }
        if !news.is_empty() {
            self.hear(&news);
        }
        if !units.is_empty() {
            let mut next = self.world.clone();
            let subjects: BTreeSet<Subject> = units.keys().cloned().collect();
            units.into_iter().for_each(|(subject, places)| next.resolve(subject, places));
            let part = next.compile_subjects(&subjects, &self.world, &self.in_force);
            self.put(next, part);
        }
    }

    fn hear(&mut self, news: &[(HostName, News)]) {
        let mut next = self.world.clone();
        let changed = next.hear(news, clock::now());
        let moved = next.services_of(&changed);
        for service in &moved {
            let (before, now) = (self.world.standing(service), next.standing(service));
            self.owners.follow(before.map(|s| s.service), now.map(|s| s.service));
        }
        let listing = |single| self.owners.listing(single).cloned().collect();
        let governed = |first, last| self.owners.is_any_between(first, last);
        let part = next.compile_addresses(&moved, &self.world, &listing, &governed).expect("elements only");
        self.put(next, part);
    }

    fn put(&mut self, next: World, part: picoseg::ruleset::Part) {
        let Some(changeset) = plan::plan_part(&self.in_force, &part) else { return };
        for phase in changeset.phases() {
            self.spent.kernel += self.table.commit(&phase, &clock::now).expect("commit").kernel;
            let began = Instant::now();
            let differences = self.table.verify(&phase, &clock::now).expect("read back");
            self.spent.read_back += began.elapsed();
            assert!(differences.is_empty(), "{differences:?}");
        }
        self.world = next;
        self.in_force.take_over(part);
    }
}

fn spawn(what: What, rate: u64, lasts: Duration, services: usize) -> Receiver<Event> {
    let (send, events) = mpsc::channel();
    std::thread::spawn(move || {
        let begin = Instant::now() + Duration::from_millis(10);
        for number in 0..rate * lasts.as_secs() {
            let due = begin + Duration::from_secs_f64(number as f64 / rate as f64);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let kind = match what {
                What::Both if number % 2 == 0 => What::Names,
                What::Both => What::Units,
                What::Names | What::Units | What::Enclosed => what,
            };
            // Spread over all of them; a prime, so that each has its turn.
            let among = match what {
                What::Enclosed => services.min(SEGMENTS),
                What::Names | What::Units | What::Both => services,
            };
            let index = (number as usize * 7919) % among;
            if send.send((kind, index, due)).is_err() {
                return;
            }
        }
    });
    events
}

fn text(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}

fn unit(index: usize) -> Subject {
    Subject::unit(&format!("s{index}.service")).expect("a unit")
}

fn host(index: usize) -> HostName {
    HostName::new(&format!("h{index}.example.com")).expect("a name")
}

/// Public addresses, from 11.0.0.0 on.
fn resolved(number: u32) -> News {
    let address = Ipv4Addr::from_bits(0x0b00_0000 + number).into();
    News::Resolved { addresses: BTreeSet::from([address]), unanswered: None }
}

fn place(number: u32) -> Place {
    Place::cgroup(1_000 + u64::from(number), 2, format!("system.slice/s{number}.service"))
}

fn service(index: usize, settings: &Settings) -> (ServiceName, Arc<Service>) {
    let name = ServiceName::new(&format!("s{index}")).expect("a name");
    let text = format!(
        "provider = \"p\"\nowner = \"o\"\n[lifetime]\ncommission = 2026-01-01T00:00:00Z\n\
         decommission = 2099-01-01T00:00:00Z\n[[window]]\ncron = \"{} * * * *\"\nduration = \"59m\"\n\
         timezone = \"UTC\"\n[[egress]]\nsubject = {{ unit = \"s{index}.service\" }}\n\
         to = [\"h{index}.example.com\"]\nports = [\"443/tcp\"]\n",
        index % 60,
    );
    let (service, found) = config::parse_service("s.toml".as_ref(), &name, &text, &|_| None, settings);
    service.unwrap_or_else(|| panic!("{found:?}")).named()
}

fn segment(index: usize) -> (SegmentName, Segment) {
    let name = SegmentName::new(&format!("g{index}")).expect("a name");
    let text = format!(
        "subject = {{ unit = \"s{index}.service\" }}\n[[allow]]\ndirection = \"egress\"\n\
         to = [\"10.0.0.0/8\"]\nports = [\"5432/tcp\"]\n"
    );
    let (segment, found) = config::parse_segment("g.toml".as_ref(), &name, &text, &|_| None);
    (name, segment.unwrap_or_else(|| panic!("{found:?}")))
}
