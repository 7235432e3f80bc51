//! One change among many services, as the daemon makes it: from the event (an order, the text of a file that came or
//! went, a cgroup's id) to the end of the kernel's commit. What is read back afterwards stands beside it. `cpu`: the processor
//! time of all of it, the kernel's commit included, which other programs on the machine do not lengthen by much.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use picoseg::compile::Place;
use picoseg::kernel::clock;
use picoseg::model::{Order, OrderKind, Service, ServiceName, Services};
use picoseg::plan::{self, Changeset};
use picoseg::reconcile::World;
use picoseg::ruleset::Part;
use rustix::time::{ClockId, clock_gettime};

use super::host::{self, Host};
use super::{Wanted, text};

pub const HEAD: &str = " services   change |        p50        p99        max |   ours p50        p99 | kernel p50        p99 |    cpu p50        p99 |  read back  messages";

/// What one change took.
#[derive(Debug, Clone, Copy)]
struct Took {
    total: Duration,
    kernel: Duration,
    cpu: Duration,
    read_back: Duration,
    messages: usize,
}

/// When a change began: by elapsed time and by processor time.
#[derive(Debug, Clone, Copy)]
struct Began(Instant, Duration);

impl Began {
    fn now() -> Self {
        Self(Instant::now(), processor_time())
    }
}

/// Of this thread.
fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("never negative")
}

pub fn place(index: usize) -> Place {
    Place::cgroup(1_000 + index as u64, 2, format!("unified/load/s{index}.service"))
}

pub fn run(size: usize, wanted: Wanted) {
    let (mut host, _) = Host::load(size, wanted.distinct, &place);
    let mut took: [(&str, Vec<Took>); 5] =
        ["close", "open", "add", "remove", "cgroup"].map(|kind| (kind, Vec::new()));
    for round in 0..wanted.rounds {
        // Spread over all of them; a prime, so that each has its turn.
        let known = host::name(round * 7919 % size);
        let (new, number) = (host::name(size + round), size + round);
        let file = host::text(&new, number, wanted.distinct);
        let each = [
            host.order(&known, OrderKind::Suspend),
            host.order(&known, OrderKind::Resume),
            host.add(&new, &file, place(number)),
            host.remove(&new),
            host.restart(&known, place(10_000_000 + round)),
        ];
        for ((_, all), one) in took.iter_mut().zip(each) {
            all.push(one);
        }
    }
    for (kind, all) in took {
        let of = |what: fn(&Took) -> Duration, part: f64| {
            let mut sorted: Vec<Duration> = all.iter().map(what).collect();
            sorted.sort_unstable();
            text(sorted[((sorted.len() - 1) as f64 * part).round() as usize])
        };
        let total: fn(&Took) -> Duration = |t| t.total;
        let kernel: fn(&Took) -> Duration = |t| t.kernel;
        let ours: fn(&Took) -> Duration = |t| t.total - t.kernel;
        println!(
            "{size:>9} {kind:>8} | {:>10} {:>10} {:>10} | {:>10} {:>10} | {:>10} {:>10} | {:>10} {:>10} | {:>10} {:>9}",
            of(total, 0.5),
            of(total, 0.99),
            of(total, 1.0),
            of(ours, 0.5),
            of(ours, 0.99),
            of(kernel, 0.5),
            of(kernel, 0.99),
            of(|t| t.cpu, 0.5),
            of(|t| t.cpu, 0.99),
            of(|t| t.read_back, 0.5),
            all.iter().map(|t| t.messages).max().unwrap_or(0),
        );
    }
    host.table.remove().expect("remove");
}

impl Host {
    fn order(&mut self, service: &ServiceName, kind: OrderKind) -> Took {
        let began = Began::now();
        let order =
            Order { service: service.clone(), kind, at: clock::now(), by: "x".into(), reason: "x".into() };
        let mut next = self.world.clone();
        let touched = next.order(&order).expect("an order").touched;
        let part = next.compile_services(&touched, self.owners.ties(&touched), &self.in_force);
        self.put(next, part, began)
    }

    /// A file came.
    fn add(&mut self, name: &ServiceName, text: &str, place: Place) -> Took {
        let began = Began::now();
        let mut files = self.files.clone();
        files.insert(name.clone(), host::service(name, text, &self.settings));
        self.apply(files, Some((name, place)), began)
    }

    /// A file went.
    fn remove(&mut self, name: &ServiceName) -> Took {
        let began = Began::now();
        let mut files = self.files.clone();
        files.remove(name);
        self.apply(files, None, began)
    }

    fn apply(&mut self, files: Services, new: Option<(&ServiceName, Place)>, began: Began) -> Took {
        let mut next = self.world.clone();
        let touched = next.apply(self.settings.clone(), files.clone(), clock::now()).touched;
        if let Some((name, place)) = new {
            next.resolve(host::unit(name), vec![place]);
        }
        self.files = files;
        self.follow(&next, &touched);
        let part = next.compile_files(&touched, &self.world, &self.owners, &self.in_force);
        self.put(next, part.expect("single addresses"), began)
    }

    fn follow(&mut self, next: &World, touched: &BTreeSet<ServiceName>) {
        fn governing<'a>(world: &'a World, name: &ServiceName) -> Option<&'a Service> {
            world.standing(name).filter(|standing| standing.governs(world.now())).map(|one| one.service)
        }
        for name in touched {
            self.owners.follow(governing(&self.world, name), governing(next, name));
        }
    }

    fn restart(&mut self, service: &ServiceName, place: Place) -> Took {
        let began = Began::now();
        let mut next = self.world.clone();
        let subject = host::unit(service);
        next.resolve(subject.clone(), vec![place]);
        let part = next.compile_subjects(&BTreeSet::from([subject]), &self.world, &self.in_force);
        self.put(next, part, began)
    }

    fn put(&mut self, next: World, part: Part, began: Began) -> Took {
        let phases: Vec<Changeset> =
            plan::plan_part(&self.in_force, &part).expect("a change").phases().collect();
        let (mut kernel, mut messages) = (Duration::ZERO, 0);
        for phase in &phases {
            let committed = self.table.commit(phase, &clock::now).expect("commit");
            kernel += committed.kernel;
            messages += committed.messages;
        }
        let (total, cpu) = (began.0.elapsed(), processor_time() - began.1);
        let began = Instant::now();
        for phase in &phases {
            assert_eq!(self.table.verify(phase, &clock::now).expect("read back"), []);
        }
        let read_back = began.elapsed();
        self.in_force.take_over(part);
        self.world = next;
        self.world.number_classes(&self.in_force);
        Took { total, kernel, cpu, read_back, messages }
    }
}
