//! Services, and a world of them in force.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use picoseg::compile::Place;
use picoseg::config;
use picoseg::kernel::clock;
use picoseg::kernel::commit::{Committed, Table};
use picoseg::model::{Service, ServiceName, Services, Settings, Subject};
use picoseg::owners::Owners;
use picoseg::plan::{self, Inventory};
use picoseg::reconcile::World;
use picoseg::ruleset::Ruleset;

pub struct Host {
    pub settings: Settings,
    pub files: Services,
    pub world: World,
    pub owners: Owners,
    pub in_force: Ruleset,
    pub table: Table,
}

/// What a load from nothing took.
pub struct Load {
    pub compile: Duration,
    pub plan: Duration,
    pub committed: Committed,
    pub read_back: Duration,
    /// Of all, without reading back.
    pub total: Duration,
}

impl Host {
    /// Takes services over and puts them in force; `place`: where a unit is.
    pub fn load(size: usize, distinct: bool, place: &dyn Fn(usize) -> Place) -> (Self, Load) {
        let settings = Settings::default();
        let now = clock::now();
        let mut world = World::new(settings.clone(), now);
        let files: Services = (0..size)
            .map(|index| {
                let name = name(index);
                let text = text(&name, index, distinct);
                (name.clone(), service(&name, &text, &settings))
            })
            .collect();
        world.apply(settings.clone(), files.clone(), now);
        for index in 0..size {
            world.resolve(unit(&name(index)), vec![place(index)]);
        }
        let mut table = Table::open("picoseg", false).expect("nf_tables");
        let began = Instant::now();
        let in_force = world.compile();
        let compile = began.elapsed();
        let changeset = plan::replace(&Inventory::default(), &BTreeMap::new(), &in_force).expect("a table");
        let plan = began.elapsed() - compile;
        let phases: Vec<_> = changeset.phases().collect();
        let committed = phases.iter().map(|phase| table.commit(phase, &clock::now).expect("commit"));
        let committed = committed.reduce(sum).expect("a phase");
        let total = began.elapsed();
        let differences =
            phases.iter().flat_map(|phase| table.verify(phase, &clock::now).expect("read back"));
        assert_eq!(differences.collect::<Vec<_>>(), []);
        let load = Load { compile, plan, committed, read_back: began.elapsed() - total, total };
        drop(phases);
        world.number_classes(&in_force);
        let owners = Owners::new(&world.standings());
        (Self { settings, files, world, owners, in_force, table }, load)
    }
}

fn sum(a: Committed, b: Committed) -> Committed {
    Committed {
        messages: a.messages + b.messages,
        bytes: a.bytes + b.bytes,
        build: a.build + b.build,
        kernel: a.kernel + b.kernel,
    }
}

pub fn name(index: usize) -> ServiceName {
    ServiceName::new(&format!("s{index}")).expect("a name")
}

pub fn unit(service: &ServiceName) -> Subject {
    Subject::unit(&format!("{service}.service")).expect("a unit")
}

pub fn service(name: &ServiceName, text: &str, settings: &Settings) -> Arc<Service> {
    let (service, found) = config::parse_service("s.toml".as_ref(), name, text, &|_| None, settings);
    Arc::new(service.unwrap_or_else(|| panic!("{found:?}")))
}

/// Office hours, one of 60 schedules; with `distinct` one for each service.
pub fn text(name: &ServiceName, index: usize, distinct: bool) -> String {
    let last = if distinct { index } else { 0 };
    let address = |n: usize| std::net::Ipv4Addr::from_bits(0x0a00_0000 + (index * 4 + n) as u32);
    format!(
        "provider = \"p\"\nowner = \"o\"\n[lifetime]\ncommission = 2026-01-01T00:00:00Z\n\
         decommission = 2030-01-{:02}T{:02}:{:02}:{:02}Z\n[[window]]\ncron = \"{} 9 * * *\"\nduration = \"20h\"\n\
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
    )
}
