//! Ten thousand services together with every real list of a provider, in a real kernel: loaded in one transaction,
//! read back, listed by nft; and one change among them touches one service.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use nix::sched::{CloneFlags, unshare};
use picoseg::compile::Place;
use picoseg::config;
use picoseg::kernel::clock;
use picoseg::kernel::commit::Table;
use picoseg::model::{Order, OrderKind, Service, ServiceName, Services, Settings, Subject, Time};
use picoseg::owners::Owners;
use picoseg::plan::{self, Changeset, Inventory, Step};
use picoseg::reconcile::World;
use picoseg::ruleset::Ruleset;

const SERVICES: usize = 10_000;

/// Generous: 10,000 services are listed in a few seconds.
const LISTED_WITHIN: Duration = Duration::from_secs(60);

/// One change is some messages, whatever else is there: chains are sent rule by rule, and what leads to a class that
/// comes or goes is some chains of at most nine rules.
const FEW_STEPS: usize = 200;

#[test]
fn ten_thousand_services_and_every_real_list_load_and_change_one_by_one() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root for a network namespace");
        return;
    }
    let stage = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        load_and_change();
    });
    if let Err(panic) = stage.join() {
        std::panic::resume_unwind(panic);
    }
}

fn load_and_change() {
    let mut host = Host::new();
    host.load();
    host.is_listed();
    host.stays_as_it_is();
    host.orders_one("s17");
    // Office hours are shared with a hundred others, whose set stays.
    host.orders_one("s16");
    host.moves_one("s24");
    host.comes_and_goes("s-new");
    host.stays_as_it_is();
}

struct Host {
    settings: Settings,
    services: Services,
    world: World,
    owners: Owners,
    in_force: Ruleset,
    table: Table,
}

impl Host {
    fn new() -> Self {
        let settings = Settings::default();
        let now = clock::now();
        let mut services: Services = (0..SERVICES).map(|index| generated(index, now, &settings)).collect();
        services.extend(listed(now, &settings));
        let mut world = World::new(settings.clone(), now);
        world.apply(settings.clone(), services.clone(), now);
        let subjects: Vec<Subject> = world.subjects().into_iter().cloned().collect();
        for (subject, id) in subjects.into_iter().zip(1_000..) {
            world.resolve(subject, vec![place(id)]);
        }
        let owners = Owners::new(&world.standings());
        let table = Table::open("picoseg", false).expect("nf_tables");
        Self { owners, in_force: Ruleset::new("picoseg"), settings, services, world, table }
    }

    fn load(&mut self) {
        self.in_force = self.world.compile();
        self.world.number_classes(&self.in_force);
        let changeset =
            plan::replace(&Inventory::default(), &BTreeMap::new(), &self.in_force).expect("a first table");
        self.commit(&changeset);
        let inventory = self.table.inventory().unwrap().expect("the table");
        assert_eq!(inventory.chains.len(), self.in_force.chains.len());
        assert_eq!(inventory.sets.len(), self.in_force.sets.len());
    }

    /// In one transaction, read back.
    fn commit(&mut self, changeset: &Changeset) {
        self.table.commit(changeset, &clock::now).unwrap();
        assert_eq!(self.table.verify(changeset, &clock::now).unwrap(), []);
    }

    fn is_listed(&self) {
        let started = Instant::now();
        let output = Command::new("nft").args(["list", "table", "inet", "picoseg"]).output().expect("nft");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(started.elapsed() < LISTED_WITHIN, "{:?}", started.elapsed());
        let text = String::from_utf8_lossy(&output.stdout);
        for listed in ["comment \"s0\"", "svc-s5-egress-0-udp", "svc-s9999-out"] {
            assert!(text.contains(listed), "{listed} is not listed");
        }
    }

    /// What was put in force in parts is what all together is.
    fn stays_as_it_is(&self) {
        let wanted = self.world.compile();
        assert_eq!(plan::plan(&self.in_force, &wanted, &BTreeSet::new()), None);
    }

    fn orders_one(&mut self, name: &str) {
        let service = ServiceName::new(name).unwrap();
        for kind in [OrderKind::Suspend, OrderKind::Resume, OrderKind::Decommission] {
            let order = Order {
                service: service.clone(),
                kind,
                at: self.world.now(),
                by: "test".into(),
                reason: "test".into(),
            };
            let touched = self.world.order(&order).unwrap().touched;
            assert_eq!(touched, BTreeSet::from([service.clone()]));
            let part = self.world.compile_services(&touched, self.owners.ties(&touched), &self.in_force);
            let changeset = plan::plan_part(&self.in_force, &part).expect("a change");
            touches_only(&changeset, name, &[]);
            self.commit(&changeset);
            self.in_force.take_over(part);
            self.world.number_classes(&self.in_force);
        }
    }

    /// Its unit was restarted.
    fn moves_one(&mut self, name: &str) {
        let subject = unit(name);
        let before = self.world.clone();
        self.world.resolve(subject.clone(), vec![place(10_000_000)]);
        let subjects = BTreeSet::from([subject]);
        let part = self.world.compile_subjects(&subjects, &before, &self.in_force);
        let changeset = plan::plan_part(&self.in_force, &part).expect("a change");
        touches_only(&changeset, name, &[]);
        let only_elements = |step: &Step| matches!(step, Step::AddElements(..) | Step::DeleteElements(..));
        assert!(changeset.steps.iter().all(only_elements), "{:?}", changeset.steps);
        self.commit(&changeset);
        self.in_force.take_over(part);
    }

    fn comes_and_goes(&mut self, name: &str) {
        let (key, service) = service(name, &text(name, 16, SERVICES + 1, self.world.now()), &self.settings);
        self.services.insert(key.clone(), service);
        self.apply(name);
        self.services.remove(&key);
        self.apply(name);
    }

    fn apply(&mut self, name: &str) {
        self.world.apply(self.settings.clone(), self.services.clone(), self.world.now());
        let wanted = self.world.compile();
        let changeset = plan::plan(&self.in_force, &wanted, &BTreeSet::new()).expect("a change");
        touches_only(&changeset, name, &["governed4", "egress4", "refuse-out4", "refuse-in4"]);
        self.commit(&changeset);
        self.in_force = wanted;
        self.world.number_classes(&self.in_force);
    }
}

/// The steps name nothing but the service's chains, sets of openings, the ways to classes, and by a few elements sets that
/// are shared.
fn touches_only(changeset: &Changeset, name: &str, maps: &[&str]) {
    assert!(changeset.steps.len() <= FEW_STEPS, "{} steps: {:#?}", changeset.steps.len(), changeset.steps);
    let shared = ["closing", "out4", "in4", "out6", "in6"];
    let kinds = ["open-", "exact", "class-", "lifetimes", "now-", "grant-", "endpoint-"];
    for step in &changeset.steps {
        let (object, elements) = object(step);
        let own = object.starts_with(&format!("svc-{name}-"));
        let common = shared.contains(&object) || kinds.iter().any(|kind| object.starts_with(kind));
        assert!(
            own || ((common || maps.contains(&object)) && elements <= 4),
            "{object}: {elements} elements"
        );
    }
}

fn object(step: &Step) -> (&str, usize) {
    match step {
        Step::AddCounter(name)
        | Step::AddSet(name, _)
        | Step::AddChain(name, _)
        | Step::FlushChain(name)
        | Step::AddRule(name, _)
        | Step::DeleteChain(name)
        | Step::DeleteSet(name)
        | Step::DeleteCounter(name) => (name, 0),
        Step::DeleteStranger(_, name) => (name, 0),
        Step::DeleteElements(name, _, keys) => (name, keys.len()),
        Step::AddElements(name, _, elements) => (name, elements.len()),
    }
}

fn unit(name: &str) -> Subject {
    Subject::unit(&format!("{name}.service")).unwrap()
}

fn place(id: u64) -> Place {
    Place::cgroup(id, 2, format!("system.slice/{id}.service"))
}

// ---- services -------------------------------------------------------------------------------------------------

fn generated(index: usize, now: Time, settings: &Settings) -> (ServiceName, Arc<Service>) {
    let name = format!("s{index}");
    service(&name, &text(&name, index, index, now), settings)
}

fn service(name: &str, text: &str, settings: &Settings) -> (ServiceName, Arc<Service>) {
    let name = ServiceName::new(name).unwrap();
    let read = |list: &str| fs::read_to_string(lists().join(format!("{list}.txt"))).ok().map(Arc::from);
    let (service, found) = config::parse_service(Path::new("s.toml"), &name, text, &read, settings);
    service.unwrap_or_else(|| panic!("{found:?}\n{text}")).named()
}

/// `kind` chooses schedule and endpoints; `index` makes addresses and lifetimes distinct.
fn text(name: &str, kind: usize, index: usize, now: Time) -> String {
    let state = if kind % 400 == 7 { "state = \"suspended\"\n" } else { "" };
    let lasts = match kind % 8 {
        1 | 5 => TimeDelta::days(30) + TimeDelta::seconds(index as i64),
        _ => TimeDelta::days(365),
    };
    let from = Time::from_timestamp(now.timestamp() / 86_400 * 86_400, 0).unwrap();
    let window = match kind % 8 {
        0 | 3 => format!(
            "[[window]]\ncron = \"{} 9 * * Mon-Fri\"\nduration = \"9h\"\ntimezone = \"Europe/Berlin\"\n",
            index % 60
        ),
        2 => format!(
            "[[window]]\ncron = \"*/5 {} * * *\"\nduration = \"1m\"\ntimezone = \"UTC\"\n",
            index % 24
        ),
        4 => window(from + TimeDelta::minutes(index as i64 % 3_000)),
        _ => String::new(),
    };
    format!(
        "provider = \"p\"\nowner = \"o\"\n{state}[lifetime]\ncommission = {}\ndecommission = {}\n{window}{}",
        from.to_rfc3339(),
        (from + lasts).to_rfc3339(),
        policy(name, kind, index),
    )
}

fn window(opens_at: Time) -> String {
    let closes_at = opens_at + TimeDelta::hours(3);
    format!("[[window]]\nopen = {}\nclose = {}\n", opens_at.to_rfc3339(), closes_at.to_rfc3339())
}

fn policy(name: &str, kind: usize, index: usize) -> String {
    let address = |first: u32, step: usize| std::net::Ipv4Addr::from_bits(first + (index * step) as u32);
    let (table, key, endpoint, port) = match kind % 8 {
        3 => ("ingress", "from", format!("{}", address(0x0b00_0000, 1)), "8443/tcp"),
        4 => ("egress", "to", format!("{}/28", address(0xac10_0000, 16)), "443/tcp"),
        5 => ("egress", "to", format!("{}", address(0x0c00_0000, 1)), "5000-5100/udp"),
        6 => ("egress", "to", format!("2001:db8::{index:x}"), "443/tcp"),
        7 => ("egress", "to", format!("{}", address(0x0d00_0000, 1)), "icmp"),
        _ => (
            "egress",
            "to",
            format!("{}\", \"{}", address(0x0a00_0000, 2), address(0x0a00_0001, 2)),
            "443/tcp",
        ),
    };
    format!(
        "[[{table}]]\nsubject = {{ unit = \"{name}.service\" }}\n{key} = [\"{endpoint}\"]\nports = [\"{port}\"]\n"
    )
}

/// The real lists of providers. They are not part of this repository.
fn lists() -> PathBuf {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(|dir| dir.join("shared/data/providers"));
    std::env::var_os("PICOSEG_PROVIDER_LISTS").map(PathBuf::from).or(beside).unwrap()
}

/// A service for each real list.
fn listed(now: Time, settings: &Settings) -> Services {
    let Ok(entries) = fs::read_dir(lists()) else {
        eprintln!("SKIPPED: no provider lists in {}; set PICOSEG_PROVIDER_LISTS", lists().display());
        return Services::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    let lists: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == "txt")).collect();
    assert!(!lists.is_empty(), "no list in {}", self::lists().display());
    let one = |path: &PathBuf| {
        let list = path.file_stem().unwrap().to_str().unwrap();
        let name = format!("list-{list}");
        let text = text(&name, 0, 0, now).replace("10.0.0.0\", \"10.0.0.1", &format!("@{list}"));
        assert!(text.contains('@'), "{text}");
        service(&name, &text, settings)
    };
    lists.iter().map(one).collect()
}
