//! One change among 10,000 services is a message to the kernel for each of the same few objects as one among 100: what it
//! costs does not follow how many there are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use nix::sched::{CloneFlags, unshare};
use picoseg::compile::Place;
use picoseg::config;
use picoseg::kernel::clock;
use picoseg::kernel::commit::Table;
use picoseg::model::{Order, OrderKind, Service, ServiceName, Services, Settings, Subject};
use picoseg::owners::Owners;
use picoseg::plan::{self, Inventory, Step};
use picoseg::reconcile::World;
use picoseg::ruleset::{Part, Ruleset};

#[test]
fn a_change_among_ten_thousand_services_is_no_more_than_one_among_a_hundred() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root for a network namespace");
        return;
    }
    let stage = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        let (few, many) = (Host::new(100, &shared).all(), Host::new(10_000, &shared).all());
        for (few, many) in few.iter().zip(&many) {
            assert_eq!(few, many);
        }
    });
    if let Err(panic) = stage.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Each is in a class alone: it stays while its service is shut, and no lifetime is a set.
#[test]
fn who_is_alone_with_its_lifetime_closes_and_opens_by_elements_only() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root for a network namespace");
        return;
    }
    let stage = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        let sets = [20, 200].map(|size| {
            let mut host = Host::new(size, &|_| "own");
            for kind in [OrderKind::Suspend, OrderKind::Resume] {
                let (_, steps) = host.order(2, kind, "by elements");
                assert!(steps.len() <= 12, "{kind:?}: {steps:#?}");
                assert!(steps.iter().all(|(kind, ..)| kind.ends_with("elements")), "{kind:?}: {steps:#?}");
            }
            let wanted = host.world.compile();
            assert_eq!(plan::plan(&host.in_force, &wanted, &BTreeSet::new()), None, "it is where it was");
            let new = name(size);
            let mut files = host.files.clone();
            files.insert(new.clone(), Arc::new(generated(size, "own", &host.settings)));
            host.apply(files.clone(), "a file came");
            files.remove(&new);
            let (_, steps) = host.apply(files, "a file went");
            assert!(steps.iter().all(|(kind, ..)| kind.ends_with("elements")), "{steps:#?}");
            let tidied = host.world.compile_tidied(&host.in_force);
            host.in_force.take_over(tidied);
            let wanted = host.world.compile();
            assert_eq!(plan::plan(&host.in_force, &wanted, &BTreeSet::new()), None, "its class is left over");
            host.table.remove().unwrap();
            let digits = |name: &&String| name.starts_with("exact");
            (host.in_force.sets.len(), host.in_force.sets.keys().filter(digits).count())
        });
        let [few, many] = sets.map(|(all, digits)| all - digits);
        assert_eq!(few, many, "sets, but those of digits");
    });
    if let Err(panic) = stage.join() {
        std::panic::resume_unwind(panic);
    }
}

/// All have the same lifetime, half of them take chains.
fn shared(index: usize) -> &'static str {
    if index.is_multiple_of(2) { "shared" } else { "chains" }
}

/// What a change is: its name and the steps, each with its object and so many elements.
type Change = (String, Vec<(&'static str, String, usize)>);

struct Host {
    settings: Settings,
    files: Services,
    world: World,
    owners: Owners,
    in_force: Ruleset,
    table: Table,
    size: usize,
}

impl Host {
    /// `kind`: see [`generated`].
    fn new(size: usize, kind: &dyn Fn(usize) -> &'static str) -> Self {
        let settings = Settings::default();
        let files: Services =
            (0..size).map(|index| generated(index, kind(index), &settings).named()).collect();
        let mut world = World::new(settings.clone(), clock::now());
        world.apply(settings.clone(), files.clone(), clock::now());
        for index in 0..size {
            world.resolve(unit(index), vec![place(index)]);
        }
        let mut table = Table::open("picoseg", false).expect("nf_tables");
        let in_force = world.compile();
        world.number_classes(&in_force);
        let changeset = plan::replace(&Inventory::default(), &BTreeMap::new(), &in_force).expect("a table");
        for phase in changeset.phases() {
            table.commit(&phase, &clock::now).unwrap();
            assert_eq!(table.verify(&phase, &clock::now).unwrap(), []);
        }
        let owners = Owners::new(&world.standings());
        Self { settings, files, world, owners, in_force, table, size }
    }

    fn all(mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (index, what) in [(2, "by elements"), (3, "by chains")] {
            for kind in [OrderKind::Suspend, OrderKind::Resume] {
                changes.push(self.order(index, kind, what));
            }
            // Restarted, stopped, started.
            for places in [vec![place(10_000_000 + index)], vec![], vec![place(20_000_000 + index)]] {
                let (what, steps) = self.moves(index, places, what);
                let elements_alone = steps.iter().all(|(kind, ..)| kind.ends_with("elements"));
                assert!(elements_alone && !steps.is_empty(), "{what}: {steps:?}");
                changes.push((what, steps));
            }
        }
        let new = name(self.size + self.size % 2);
        let file = generated(self.size + self.size % 2, "shared", &self.settings);
        let mut files = self.files.clone();
        files.insert(new.clone(), Arc::new(file));
        changes.push(self.apply(files.clone(), "a file came"));
        files.remove(&new);
        changes.push(self.apply(files, "a file went"));
        let wanted = self.world.compile();
        assert_eq!(plan::plan(&self.in_force, &wanted, &BTreeSet::new()), None, "parts add up to the whole");
        self.table.remove().unwrap();
        changes
    }

    fn order(&mut self, index: usize, kind: OrderKind, what: &str) -> Change {
        let order =
            Order { service: name(index), kind, at: clock::now(), by: "test".into(), reason: "test".into() };
        let mut next = self.world.clone();
        let touched = next.order(&order).unwrap().touched;
        assert_eq!(touched, BTreeSet::from([name(index)]));
        let part = next.compile_services(&touched, self.owners.ties(&touched), &self.in_force);
        self.put(next, part, &format!("{kind:?} {what}"), &[index])
    }

    fn moves(&mut self, index: usize, places: Vec<Place>, what: &str) -> Change {
        let mut next = self.world.clone();
        let what = format!("in {} cgroups {what}", places.len());
        next.resolve(unit(index), places);
        let part = next.compile_subjects(&BTreeSet::from([unit(index)]), &self.world, &self.in_force);
        self.put(next, part, &what, &[index])
    }

    fn apply(&mut self, files: Services, what: &str) -> Change {
        let mut next = self.world.clone();
        let touched = next.apply(self.settings.clone(), files.clone(), clock::now()).touched;
        assert_eq!(touched.len(), 1);
        let new = self.size + self.size % 2;
        next.resolve(unit(new), vec![place(new)]);
        for name in &touched {
            let (before, now) = (self.world.standing(name), next.standing(name));
            self.owners.follow(before.map(|one| one.service), now.map(|one| one.service));
        }
        self.files = files;
        let part = next.compile_files(&touched, &self.world, &self.owners, &self.in_force);
        self.put(next, part.expect("single addresses"), what, &[new])
    }

    fn put(&mut self, next: World, part: Part, what: &str, own: &[usize]) -> Change {
        let changeset = plan::plan_part(&self.in_force, &part).expect("a change");
        // Names of objects say which service they belong to.
        let plain = |object: &str| {
            own.iter()
                .fold(object.to_owned(), |text, index| text.replace(&format!("-{}-", name(*index)), "-S-"))
        };
        let most = changeset.steps.len();
        // What has just closed follows the clock.
        let steps = changeset.steps.iter().map(object).filter(|(_, object, _)| *object != "closing");
        let steps: Vec<_> = steps.map(|(kind, object, n)| (kind, plain(object), n)).collect();
        let mut messages = 0;
        for phase in changeset.phases() {
            messages += self.table.commit(&phase, &clock::now).unwrap().messages;
            assert_eq!(self.table.verify(&phase, &clock::now).unwrap(), []);
        }
        // Fewer where an element that was to go has expired meanwhile.
        assert!(messages <= most, "{messages} messages for {most} steps");
        self.in_force.take_over(part);
        self.world = next;
        self.world.number_classes(&self.in_force);
        (what.to_owned(), steps)
    }
}

fn object(step: &Step) -> (&'static str, &str, usize) {
    match step {
        Step::AddCounter(name) => ("add counter", name, 0),
        Step::AddSet(name, _) => ("add set", name, 0),
        Step::AddChain(name, _) => ("add chain", name, 0),
        Step::FlushChain(name) => ("flush", name, 0),
        Step::AddRule(name, _) => ("add rule", name, 0),
        Step::DeleteChain(name) => ("delete chain", name, 0),
        Step::DeleteSet(name) => ("delete set", name, 0),
        Step::DeleteCounter(name) => ("delete counter", name, 0),
        Step::DeleteStranger(_, name) => ("delete stranger", name, 0),
        Step::DeleteElements(name, _, keys) => ("delete elements", name, keys.len()),
        Step::AddElements(name, _, elements) => ("add elements", name, elements.len()),
    }
}

fn name(index: usize) -> ServiceName {
    ServiceName::new(&format!("s{index}")).unwrap()
}

fn unit(index: usize) -> Subject {
    Subject::unit(&format!("s{index}.service")).unwrap()
}

fn place(id: usize) -> Place {
    Place::cgroup(1_000 + id as u64, 2, format!("system.slice/{id}.service"))
}

/// Without windows. `kind`: told by elements alone, with the lifetime of all (`shared`) or one of its own (`own`); or by
/// `chains`, one in ten of which has a range.
fn generated(index: usize, kind: &str, settings: &Settings) -> Service {
    let last = if kind == "own" { index } else { 0 };
    let end = format!("2099-01-01T00:{:02}:{:02}Z", last / 60, last % 60);
    let address = |n: usize| std::net::Ipv4Addr::from_bits(0x0a00_0000 + (index * 4 + n) as u32);
    let (first, second) = (address(0), address(2));
    let (to, ports) = match (kind, index % 20) {
        ("shared" | "own", _) => (format!("\"{first}\", \"{second}\""), "443/tcp"),
        (_, 1) => (format!("\"{first}/31\""), "443/tcp"),
        (_, _) => (format!("\"{first}\""), "5000-5100/udp"),
    };
    let text = format!(
        "provider = \"p\"\nowner = \"o\"\n[lifetime]\ncommission = 2026-01-01T00:00:00Z\n\
         decommission = {end}\n[[egress]]\nsubject = {{ unit = \"s{index}.service\" }}\n\
         to = [{to}]\nports = [\"{ports}\"]\n"
    );
    let (service, found) =
        config::parse_service(Path::new("s.toml"), &name(index), &text, &|_| None, settings);
    service.unwrap_or_else(|| panic!("{found:?}\n{text}"))
}
