//! N services, of which the last are measured, in force in the namespace of the calling thread.

use std::collections::BTreeMap;

use picoseg::compile::Place;
use picoseg::config;
use picoseg::kernel::{clock, commit::Table};
use picoseg::model::{Service, ServiceName, Settings, Subject};
use picoseg::plan::{self, Inventory};
use picoseg::reconcile::World;

use crate::lab::Cgroup;
use crate::places::{self, PORT};

/// How many lifetimes the services have.
const SCHEDULES: usize = 64;

/// What the measured services list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measured {
    Exact,
    /// The same, the other services' units at three depths.
    Levels,
    Prefix,
    Ingress,
}

/// Compiles and commits `count` services.
///
/// # Errors
/// The kernel refused.
pub fn commit(count: usize, measured: Measured, cgroup: &Cgroup) -> Result<Table, String> {
    let settings = Settings::default();
    let now = clock::now();
    let mut world = World::new(settings.clone(), now);
    world.apply(settings.clone(), services(count, measured, &settings).collect(), now);
    let subjects: Vec<Subject> = world.subjects().into_iter().cloned().collect();
    for (index, subject) in subjects.into_iter().enumerate() {
        let place = match subject.to_string() {
            text if text.contains("target") => {
                Place::cgroup(cgroup.id("target"), 2, cgroup.below_root("target"))
            }
            _ => Place::cgroup(1 << 40 | index as u64, level(index, measured), format!("other/s{index}")),
        };
        world.resolve(subject, vec![place]);
    }
    let mut table = Table::open("picoseg", false).map_err(|e| e.to_string())?;
    let wanted = world.compile();
    let changeset = plan::replace(&Inventory::default(), &BTreeMap::new(), &wanted).expect("a first table");
    for phase in changeset.phases() {
        table.commit(&phase, &clock::now).map_err(|e| e.to_string())?;
    }
    Ok(table)
}

/// The depth of another service's unit.
fn level(index: usize, measured: Measured) -> u32 {
    match measured {
        Measured::Levels => 2 + (index % 3) as u32,
        Measured::Exact | Measured::Prefix | Measured::Ingress => 2,
    }
}

fn services(
    count: usize,
    measured: Measured,
    settings: &Settings,
) -> impl Iterator<Item = (ServiceName, Service)> {
    let last = match measured {
        Measured::Exact | Measured::Levels => vec![
            ("zz-tcp", egress("target", &exact(places::GOVERNED4, places::GOVERNED6), PORT, "tcp")),
            ("zz-udp", egress("target", &exact(places::GOVERNED_UDP4, places::GOVERNED_UDP6), PORT, "udp")),
        ],
        Measured::Prefix => {
            vec![("zz-tcp", egress("target", "\"198.18.0.0/24\", \"2001:db8:aaaa::/64\"", PORT, "tcp"))]
        }
        Measured::Ingress => vec![("zz-in", ingress(&exact(places::GOVERNED4, places::GOVERNED6), PORT))],
    };
    let others = count.saturating_sub(last.len());
    let units = (count / 10).clamp(1, 1_000);
    let other = move |index: usize| {
        let to = exact(places::other4(index), places::other6(index));
        (format!("s{index}"), egress(&format!("s{}", index % units), &to, 443, "tcp"))
    };
    let last = last.into_iter().map(|(name, policy)| (name.to_owned(), policy));
    let all = (0..others).map(other).chain(last).enumerate();
    all.map(move |(index, (name, policy))| service(&name, &policy, index, settings))
}

fn exact(v4: std::net::Ipv4Addr, v6: std::net::Ipv6Addr) -> String {
    format!("\"{v4}\", \"{v6}\"")
}

fn egress(unit: &str, to: &str, port: u16, protocol: &str) -> String {
    format!(
        "[[egress]]\nsubject = {{ unit = \"{unit}.service\" }}\nto = [{to}]\nports = [\"{port}/{protocol}\"]\n"
    )
}

fn ingress(from: &str, port: u16) -> String {
    format!(
        "[[ingress]]\nsubject = {{ unit = \"target.service\" }}\nfrom = [{from}]\nports = [\"{port}/tcp\"]\n"
    )
}

/// Open now and for years, with one of so many lifetimes.
fn service(name: &str, policy: &str, index: usize, settings: &Settings) -> (ServiceName, Service) {
    let name = ServiceName::new(name).expect("a name");
    let schedule = index % SCHEDULES;
    let text = format!(
        "provider = \"p\"\nowner = \"o\"\n[lifetime]\ncommission = 2026-01-01T00:00:00Z\n\
         decommission = 2099-{:02}-{:02}T00:00:00Z\n{policy}",
        1 + schedule / 28,
        1 + schedule % 28,
    );
    let (service, diagnostics) = config::parse_service("s.toml".as_ref(), &name, &text, &|_| None, settings);
    let service = service.unwrap_or_else(|| panic!("{diagnostics:?}"));
    (name, service)
}
