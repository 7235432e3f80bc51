//! What it costs to compile and commit 10, 1,000, 10,000 and 100,000 policies, and to change one of them.
//!
//! `sudo cargo bench --bench load [-- N ...]`. It works in a network namespace of its own and sends no packet. Run
//! it on a quiet machine; the figures are medians of five changes, and single runs for loading.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use picoseg::compile::Place;
use picoseg::config;
use picoseg::kernel::commit::Table;
use picoseg::model::{Order, OrderKind, Service, ServiceName, Settings, Subject};
use picoseg::plan::{self, Inventory};
use picoseg::reconcile::World;

fn main() {
    // `cargo bench` adds `--bench`.
    let sizes: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![10, 1_000, 10_000, 100_000] } else { sizes };
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        println!("SKIPPED: a network namespace cannot be made: {error}");
        return;
    }
    println!("one service has one policy, one unit and four addresses; office hours, one of 64 schedules");
    println!(
        "{:>9} {:>11} {:>11} {:>11} {:>9} | {:>11} {:>11} {:>11} | {:>9}",
        "policies", "compile", "plan+build", "kernel", "MB sent", "cgroup", "suspend", "add", "peak MB"
    );
    for size in sizes {
        run(size);
    }
}

fn run(size: usize) {
    let settings = Settings::default();
    let now = picoseg::kernel::clock::now();
    let mut world = World::new(settings.clone(), now);
    let mut services = services(size, &settings);
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
    let peak = peak_megabytes();

    let mut ids: Vec<Duration> = Vec::new();
    let mut current = in_force;
    let restarted = BTreeSet::from([subjects[0].clone()]);
    for round in 0..5 {
        let ((), took) = timed(|| {
            world.resolve(subjects[0].clone(), vec![place(10_000_000 + round)]);
            let part = world.compile_subjects(&restarted);
            let changeset = plan::plan_part(&current, &part, &BTreeSet::new()).expect("another id");
            table.commit(&changeset, &picoseg::kernel::clock::now).expect("commit");
            current.chains.extend(part.chains);
        });
        ids.push(took);
    }
    ids.sort_unstable();
    let cgroup = ids[ids.len() / 2];
    let in_force = current;

    let first = services.keys().next().cloned().expect("a service");
    let mut suspended = world.clone();
    let suspend = timed(|| {
        let order =
            Order { service: first, kind: OrderKind::Suspend, at: now, by: "x".into(), reason: "x".into() };
        suspended.order(&order).expect("suspend");
        let wanted = suspended.compile();
        let changeset = plan::plan(&in_force, &wanted, &BTreeSet::new()).expect("a change");
        table.commit(&changeset, &picoseg::kernel::clock::now).expect("commit");
        wanted
    });
    let in_force = suspend.0;

    let name = ServiceName::new("zz-added").expect("a name");
    let added = service(&name, size + 1, &settings);
    services.insert(name, added);
    let mut more = suspended.clone();
    let add = timed(|| {
        more.apply(settings.clone(), services.clone(), now);
        let wanted = more.compile();
        let changeset = plan::plan(&in_force, &wanted, &BTreeSet::new()).expect("a change");
        table.commit(&changeset, &picoseg::kernel::clock::now).expect("commit");
    });
    println!(
        "{size:>9} {:>11} {:>11} {:>11} {:>9.1} | {:>11} {:>11} {:>11} | {peak:>9}",
        text(compiling),
        text(planning),
        text(committed.kernel),
        committed.bytes as f64 / 1e6,
        text(cgroup),
        text(suspend.1),
        text(add.1),
    );
    table.remove().expect("remove");
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let result = work();
    (result, started.elapsed())
}

fn text(duration: Duration) -> String {
    match duration.as_secs_f64() {
        seconds if seconds >= 1.0 => format!("{seconds:.2} s"),
        seconds => format!("{:.2} ms", seconds * 1e3),
    }
}

fn place(index: usize) -> Place {
    Place { id: 1_000 + index as u64, level: 2, path: format!("system.slice/s{index}.service") }
}

fn services(size: usize, settings: &Settings) -> BTreeMap<ServiceName, Service> {
    (0..size)
        .map(|index| {
            let name = ServiceName::new(&format!("s{index}")).expect("a name");
            let service = service(&name, index, settings);
            (name, service)
        })
        .collect()
}

fn service(name: &ServiceName, index: usize, settings: &Settings) -> Service {
    let address = |n: usize| std::net::Ipv4Addr::from_bits(0x0a00_0000 + (index * 4 + n) as u32);
    let text = format!(
        "provider = \"p\"\nowner = \"o\"\n[lifetime]\ncommission = 2026-01-01T00:00:00Z\n\
         decommission = 2030-01-01T00:00:00Z\n[[window]]\ncron = \"{} 9 * * Mon-Fri\"\nduration = \"9h\"\n\
         timezone = \"Europe/Berlin\"\n[[egress]]\nsubject = {{ unit = \"{name}.service\" }}\n\
         to = [\"{}\", \"{}\", \"{}\", \"{}\"]\nports = [\"443/tcp\"]\n",
        index % 60,
        address(0),
        address(1),
        address(2),
        address(3),
    );
    let (service, diagnostics) = config::parse_service("s.toml".as_ref(), name, &text, &|_| None, settings);
    service.unwrap_or_else(|| panic!("{diagnostics:?}"))
}

/// The most memory the process ever held; it includes the sizes before.
fn peak_megabytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kilobytes: u64 =
        line.and_then(|l| l.split_whitespace().nth(1)).and_then(|n| n.parse().ok()).unwrap_or(0);
    kilobytes / 1024
}
