//! What it costs to compile and commit 10, 1,000, 10,000 and 100,000 policies, and to change one of them.
//!
//! `sudo cargo bench --bench load [-- [distinct] [nft] N ...]`. `distinct`: every service has a lifetime of its own,
//! hence a set of openings of its own. `nft`: loads the printed table with `nft -f` as well. It works in a network
//! namespace of its own and sends no packet. Run it on a quiet machine; the figures are medians of five changes, and
//! single runs for loading. In brackets: spent in the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use picoseg::compile::Place;
use picoseg::config;
use picoseg::kernel::commit::Table;
use picoseg::model::{Order, OrderKind, Service, ServiceName, Settings, Subject};
use picoseg::plan::{self, Inventory};
use picoseg::reconcile::World;
use picoseg::ruleset::Ruleset;

fn main() {
    // `cargo bench` adds `--bench`.
    let sizes: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![10, 1_000, 10_000, 100_000] } else { sizes };
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        println!("SKIPPED: a network namespace cannot be made: {error}");
        return;
    }
    let has = |word: &str| std::env::args().any(|argument| argument == word);
    println!("one service has one policy, one unit and four addresses; office hours, one of 64 schedules");
    println!(
        "{:>9} {:>10} {:>10} {:>10} {:>8} | {:>10} {:>10} {:>17} {:>17} {:>17} | {:>8} {:>8}",
        "policies",
        "compile",
        "plan+build",
        "kernel",
        "MB sent",
        "turn",
        "digest",
        "cgroup",
        "suspend",
        "add",
        "peak MB",
        "MB"
    );
    for size in sizes {
        run(size, has("distinct"), has("nft"));
    }
}

/// A world in force.
struct Host {
    world: World,
    in_force: Ruleset,
    table: Table,
}

fn run(size: usize, distinct: bool, with_nft: bool) {
    let settings = Settings::default();
    let now = picoseg::kernel::clock::now();
    let mut world = World::new(settings.clone(), now);
    let mut services = services(size, distinct, &settings);
    world.apply(settings.clone(), services.clone(), now);
    let subjects: Vec<Subject> = world.subjects().into_iter().cloned().collect();
    for (index, subject) in subjects.iter().enumerate() {
        world.resolve(subject.clone(), vec![place(index)]);
    }

    let mut table = Table::open("picoseg", false).expect("nf_tables");
    let (in_force, compiling) = timed(|| world.compile());
    let started = Instant::now();
    let changeset = plan::replace(&Inventory::default(), &BTreeMap::new(), &in_force).expect("a first table");
    let committed = table.commit(&changeset, &picoseg::kernel::clock::now).expect("commit");
    let planning = started.elapsed() - committed.kernel;
    drop(changeset);
    let (peak, resident) = (megabytes("VmHWM:"), megabytes("VmRSS:"));

    let mut host = Host { world, in_force, table };
    let (_, turn) = timed(|| host.world.next_deadline());
    let (_, digest) = timed(|| host.world.digest());
    let cgroup = median((0..5).map(|round| host.restart(&subjects[0], 10_000_000 + round)));
    let first = services.keys().next().cloned().expect("a service");
    let kinds = [OrderKind::Suspend, OrderKind::Resume];
    let order = median((0..6).map(|round| host.order(&first, kinds[round % 2])));
    let name = ServiceName::new("zz-added").expect("a name");
    let added = service(&name, size + 1, distinct, &settings);
    services.insert(name, added);
    let add = host.apply(settings, services);
    println!(
        "{size:>9} {:>10} {:>10} {:>10} {:>8.1} | {:>10} {:>10} {:>17} {:>17} {:>17} | {peak:>8} {resident:>8}",
        text(compiling),
        text(planning),
        text(committed.kernel),
        committed.bytes as f64 / 1e6,
        text(turn),
        text(digest),
        both(cgroup),
        both(order),
        both(add),
    );
    let printed = with_nft.then(|| host.in_force.print(now).to_string());
    host.table.remove().expect("remove");
    if let Some(printed) = printed {
        load_with_nft(&printed);
    }
}

impl Host {
    fn restart(&mut self, subject: &Subject, id: usize) -> (Duration, Duration) {
        let started = Instant::now();
        let mut next = self.world.clone();
        next.resolve(subject.clone(), vec![place(id)]);
        let subjects = BTreeSet::from([subject.clone()]);
        let part = next.compile_subjects(&subjects, &self.world, &self.in_force);
        let changeset = plan::plan_part(&self.in_force, &part).expect("another id");
        let committed = self.table.commit(&changeset, &picoseg::kernel::clock::now).expect("commit");
        self.in_force.take_over(part);
        self.world = next;
        (started.elapsed(), committed.kernel)
    }

    fn order(&mut self, service: &ServiceName, kind: OrderKind) -> (Duration, Duration) {
        let started = Instant::now();
        let at = picoseg::kernel::clock::now();
        let order = Order { service: service.clone(), kind, at, by: "x".into(), reason: "x".into() };
        let mut next = self.world.clone();
        let touched = next.order(&order).expect("an order").touched;
        let part = next.compile_services(&touched, [], &self.in_force);
        let changeset = plan::plan_part(&self.in_force, &part).expect("a change");
        let committed = self.table.commit(&changeset, &picoseg::kernel::clock::now).expect("commit");
        self.in_force.take_over(part);
        self.world = next;
        (started.elapsed(), committed.kernel)
    }

    fn apply(
        &mut self,
        settings: Settings,
        services: BTreeMap<ServiceName, Service>,
    ) -> (Duration, Duration) {
        let started = Instant::now();
        let mut next = self.world.clone();
        next.apply(settings, services, picoseg::kernel::clock::now());
        let wanted = next.compile();
        let changeset = plan::plan(&self.in_force, &wanted, &BTreeSet::new()).expect("a change");
        let committed = self.table.commit(&changeset, &picoseg::kernel::clock::now).expect("commit");
        self.in_force = wanted;
        self.world = next;
        (started.elapsed(), committed.kernel)
    }
}

fn load_with_nft(printed: &str) {
    let path = std::env::temp_dir().join(format!("picoseg-load-{}.nft", std::process::id()));
    std::fs::write(&path, printed).expect("a file");
    let (status, took) = timed(|| Command::new("nft").arg("-f").arg(&path).status().expect("nft"));
    println!("nft -f of {:.1} MB: {}, {status}", printed.len() as f64 / 1e6, text(took));
    std::fs::remove_file(&path).expect("remove");
    let removed = Command::new("nft").args(["delete", "table", "inet", "picoseg"]).status();
    assert!(removed.is_ok_and(|status| status.success()), "the table of nft stays");
}

fn median(measured: impl Iterator<Item = (Duration, Duration)>) -> (Duration, Duration) {
    let mut all: Vec<_> = measured.collect();
    all.sort_unstable();
    all[all.len() / 2]
}

fn both((whole, kernel): (Duration, Duration)) -> String {
    format!("{} ({})", text(whole), text(kernel))
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let result = work();
    (result, started.elapsed())
}

fn text(duration: Duration) -> String {
    match duration.as_secs_f64() {
        seconds if seconds >= 1.0 => format!("{seconds:.2} s"),
        seconds => format!("{:.1} ms", seconds * 1e3),
    }
}

fn place(index: usize) -> Place {
    Place::cgroup(1_000 + index as u64, 2, format!("system.slice/s{index}.service"))
}

fn services(size: usize, distinct: bool, settings: &Settings) -> BTreeMap<ServiceName, Service> {
    (0..size)
        .map(|index| {
            let name = ServiceName::new(&format!("s{index}")).expect("a name");
            let service = service(&name, index, distinct, settings);
            (name, service)
        })
        .collect()
}

fn service(name: &ServiceName, index: usize, distinct: bool, settings: &Settings) -> Service {
    let last = if distinct { index } else { 0 };
    let address = |n: usize| std::net::Ipv4Addr::from_bits(0x0a00_0000 + (index * 4 + n) as u32);
    let text = format!(
        "provider = \"p\"\nowner = \"o\"\n[lifetime]\ncommission = 2026-01-01T00:00:00Z\n\
         decommission = 2030-01-{:02}T{:02}:{:02}:{:02}Z\n[[window]]\ncron = \"{} 9 * * Mon-Fri\"\nduration = \"9h\"\n\
         timezone = \"Europe/Berlin\"\n[[egress]]\nsubject = {{ unit = \"{name}.service\" }}\n\
         to = [\"{}\", \"{}\", \"{}\", \"{}\"]\nports = [\"443/tcp\"]\n",
        1 + last / 86_400,
        last / 3600 % 24,
        last / 60 % 60,
        last % 60,
        index % 60,
        address(0),
        address(1),
        address(2),
        address(3),
    );
    let (service, diagnostics) = config::parse_service("s.toml".as_ref(), name, &text, &|_| None, settings);
    service.unwrap_or_else(|| panic!("{diagnostics:?}"))
}

/// Memory of the process; the most it ever held includes the sizes before.
fn megabytes(which: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(which));
    let kilobytes: u64 =
        line.and_then(|l| l.split_whitespace().nth(1)).and_then(|n| n.parse().ok()).unwrap_or(0);
    kilobytes / 1024
}
