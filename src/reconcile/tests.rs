//! What is compiled for a few services adds up to what is compiled for all.

use proptest::prelude::*;

use super::*;
use crate::model::{Segment, SegmentName};
use crate::names::News;
use crate::owners::Owners;
use crate::plan;
use crate::ruleset::{Part, Ruleset, Verdict};

fn at(minute: i64) -> Time {
    Time::from_timestamp(1_790_000_000 + minute * 60, 0).unwrap()
}

/// From this kind on services list single addresses and ports alone.
const EXACT: usize = 8;

/// Daily and hourly windows, some shared, on addresses of which some are shared too.
fn text((kind, from, length, address, watch): (usize, i64, i64, u8, bool)) -> String {
    let (commission, end) = (at(from).to_rfc3339(), at(from + length).to_rfc3339());
    let window = match kind % 4 {
        0 => "[[window]]\ncron = \"*/7 * * * *\"\nduration = \"3m\"\ntimezone = \"UTC\"\n".to_owned(),
        1 => "[[window]]\nname = \"w\"\ncron = \"5 * * * *\"\nduration = \"20m\"\ntimezone = \"UTC\"\n"
            .to_owned(),
        2 => format!(
            "[[window]]\nname = \"w\"\nopen = {}\nclose = {end}\n",
            at(from + length / 2).to_rfc3339()
        ),
        _ => String::new(),
    };
    let watch = if watch { "[teardown]\nwatch = \"11m\"\n" } else { "" };
    let begins = format!(
        "provider = \"p\"\nowner = \"o\"\n[lifetime]\ncommission = {commission}\ndecommission = {end}\n{watch}{window}"
    );
    if kind >= EXACT {
        // Those of names are shared with others now and then.
        let network = if kind == EXACT { "192.0.2" } else { "198.18.0" };
        return format!(
            "{begins}[[egress]]\nsubject = {{ unit = \"u{address}.service\" }}\nto = [\"{network}.{address}\", \"2001:db8::{address}\"]\n\
             ports = [\"443/tcp\"]\n[[ingress]]\nsubject = {{ unit = \"u1.service\" }}\nfrom = [\"{network}.{address}\"]\nports = [\"80/tcp\"]\n"
        );
    }
    let own = if matches!(kind % 4, 1 | 2) { "windows = [\"w\"]\n" } else { "" };
    let name = kind % 3;
    let ports = ["\"443/tcp\"", "\"443/tcp\", \"53/udp\"", "\"80-81/tcp\""][kind / 3 % 3];
    format!(
        "{begins}[[egress]]\nsubject = {{ unit = \"u{address}.service\" }}\nto = [\"192.0.2.{address}\", \"n{name}.example.com\"]\n\
         ports = [{ports}]\n{own}\
         [[egress]]\nsubject = {{ container = \"c{address}\" }}\nto = [\"192.0.2.{address}\", \"n{name}.example.com\"]\n\
         ports = [{ports}]\n{own}\
         [[ingress]]\nsubject = {{ unit = \"u.service\" }}\nfrom = [\"198.51.100.0/24\"]\nports = [\"22/tcp\"]\n{}",
         match kind {
             5 => format!("[[egress]]\nsubject = {{ unit = \"u{address}.service\" }}\nto = [\"any\"]\nports = [\"443/tcp\", \"icmp\"]\n"),
             7 => format!("[[egress]]\nsubject = {{ container = \"c{address}\" }}\nto = [\"any\"]\nports = [\"443/tcp\", \"53/udp\", \"icmp\"]\n"),
             6 => "[[egress]]\nsubject = { cgroup = \"/\" }\nto = [\"any\"]\nports = [\"400-500/tcp\", \"53/udp\"]\n".to_owned(),
             _ => String::new(),
         },
    )
}

/// A segment around one of the units or containers that move.
fn segment(number: u8) -> (SegmentName, Segment) {
    let name = SegmentName::new(&format!("g{number}")).unwrap();
    let unit = number % 4;
    let subject = match number {
        0..4 => format!("unit = \"u{unit}.service\""),
        _ => format!("container = \"c{unit}\""),
    };
    let allow =
        "[[allow]]\ndirection = \"egress\"\nports = [\"443-444/tcp\", \"53/udp\"]\nto = [\"192.0.2.0/31\",";
    let text = format!("subject = {{ {subject} }}\n{allow} \"n{unit}.example.com\"]\n");
    let (segment, found) =
        crate::config::parse_segment(std::path::Path::new("g.toml"), &name, &text, &|_| None);
    (name, segment.unwrap_or_else(|| panic!("{found:?}")))
}

fn service(index: usize, text: &str, settings: &Settings) -> (ServiceName, Arc<Service>) {
    let name = ServiceName::new(&format!("s{index}")).unwrap();
    let path = std::path::Path::new("s.toml");
    let (service, found) = crate::config::parse_service(path, &name, text, &|_| None, settings);
    service.unwrap_or_else(|| panic!("{found:?}\n{text}")).named()
}

/// Some places lie in others; sometimes there is none.
fn places(id: u64) -> Vec<Place> {
    let (level, path) = [(2, "p"), (3, "p/q"), (2, "r")][(id % 3) as usize];
    if id == 1 { vec![] } else { vec![Place::cgroup(id, level, path)] }
}

/// A table without what is over: parts leave the elements of others alone, which the kernel has dropped. Chains of several
/// owners or policies stay too, though nothing leads to them any more, until everything is compiled again.
fn without_the_past(mut ruleset: Ruleset, now: Time) -> Ruleset {
    let mut used = BTreeSet::new();
    for verdict in
        ruleset.sets.values().flat_map(|set| set.elements.values()).filter_map(|e| e.verdict.as_ref())
    {
        if let Verdict::Jump(chain) | Verdict::Goto(chain) = verdict {
            used.insert(chain.to_string());
        }
    }
    ruleset
        .chains
        .retain(|name, _| used.contains(name) || !(name.starts_with("tie-") || name.starts_with("both-")));
    for set in ruleset.sets.values_mut() {
        set.elements.retain(|_, element| element.closes_at.is_none_or(|at| at > now));
    }
    ruleset
}

#[derive(Debug, Clone)]
enum Event {
    /// To the next deadline, or by so many minutes, whichever comes first.
    Pass(i64),
    Order(OrderKind, usize),
    /// A file comes, changes or goes.
    File(usize, Option<(usize, i64, i64, u8, bool)>),
    /// Units and containers, all in one change.
    Moves(Vec<(u8, u64)>),
    /// A name gets these addresses, by their last byte.
    Resolves(u8, Vec<u8>),
    Learns(u8, u8),
}

fn event() -> impl Strategy<Value = Event> {
    let kind = prop::sample::select(vec![OrderKind::Suspend, OrderKind::Resume, OrderKind::Decommission]);
    prop_oneof![
        4 => (1i64..60).prop_map(Event::Pass),
        3 => (kind, 0usize..8).prop_map(|(kind, index)| Event::Order(kind, index)),
        2 => prop::collection::vec((0u8..4, 1u64..9), 1..4).prop_map(Event::Moves),
        3 => (0u8..3, prop::collection::vec(0u8..6, 1..4)).prop_map(|(name, last)| Event::Resolves(name, last)),
        1 => (0u8..3, 0u8..6).prop_map(|(name, last)| Event::Learns(name, last)),
        3 => (0usize..8, prop::option::weighted(0.7, (EXACT - 2..14, -20i64..60, 61i64..300, 0u8..4, any::<bool>())))
            .prop_map(|(index, text)| Event::File(index, text)),
    ]
}

struct Host {
    world: World,
    owners: Owners,
    in_force: Ruleset,
    files: Services,
}

impl Host {
    /// As the daemon does it.
    fn put_addresses(&mut self, next: World, moved: &BTreeSet<ServiceName>, part: Option<Part>) {
        for service in moved {
            let (before, now) = (self.world.standing(service).unwrap(), next.standing(service).unwrap());
            self.owners.follow(Some(before.service), Some(now.service));
        }
        let listing = |single| self.owners.listing(single).cloned().collect();
        let governed = |first, last| self.owners.is_any_between(first, last);
        let addresses = next.compile_addresses(moved, &self.world, &listing, &governed);
        self.world = next;
        match addresses {
            Some(addresses) => {
                if let Some(part) = part {
                    self.in_force.take_over(part);
                }
                self.in_force.take_over(addresses);
            }
            None => self.in_force = self.world.compile(),
        }
        let fresh = Owners::new(&self.world.standings());
        assert_eq!(format!("{fresh:?}"), format!("{:?}", self.owners));
    }

    fn hear(&mut self, host: u8, news: News) {
        let mut next = self.world.clone();
        let host = crate::model::HostName::new(&format!("n{host}.example.com")).unwrap();
        let changed = next.hear(&[(host, news)], next.now());
        let mut moved = next.services_of(&changed);
        moved.retain(|service| {
            next.moved(&self.world, service) && next.standing(service).unwrap().governs(next.now())
        });
        let allowed = next.compile_allowed(&changed, &self.world);
        self.put_addresses(next, &moved, allowed);
    }

    fn put_files(&mut self, next: World, outcome: &Outcome) {
        let same = !outcome.everywhere && !next.moves_others(&self.world, &outcome.touched);
        if same {
            fn governing<'a>(world: &'a World, name: &ServiceName) -> Option<&'a Service> {
                world.standing(name).filter(|one| one.governs(world.now())).map(|one| one.service)
            }
            for name in &outcome.touched {
                self.owners.follow(governing(&self.world, name), governing(&next, name));
            }
            let part = next.compile_files(&outcome.touched, &self.world, &self.owners, &self.in_force);
            self.world = next;
            match part {
                Some(part) => self.in_force.take_over(part),
                None => self.in_force = self.world.compile(),
            }
        } else {
            self.world = next;
            self.in_force = self.world.compile();
            self.owners = Owners::new(&self.world.standings());
        }
    }

    fn put(&mut self, next: World, touched: &BTreeSet<ServiceName>) {
        let governs = |world: &World, name| world.standing(name).is_some_and(|s| s.governs(world.now()));
        let part = next.compile_services(touched, self.owners.ties(touched), &self.in_force);
        let same = touched.iter().all(|name| governs(&next, name) == governs(&self.world, name));
        let moved: BTreeSet<_> =
            touched.iter().filter(|name| next.moved(&self.world, name)).cloned().collect();
        if same && moved.is_empty() {
            self.world = next;
            self.in_force.take_over(part);
        } else if same {
            self.put_addresses(next, &moved, Some(part));
        } else {
            self.world = next;
            self.in_force = self.world.compile();
            self.owners = Owners::new(&self.world.standings());
        }
    }

    fn happen(&mut self, event: Event) {
        let mut next = self.world.clone();
        match event {
            Event::Pass(minutes) => {
                let now = next.now() + chrono::TimeDelta::minutes(minutes);
                let outcome = next.tick(now.min(next.next_deadline()));
                self.put(next, &outcome.touched);
            }
            Event::Order(kind, index) => {
                let service = ServiceName::new(&format!("s{index}")).unwrap();
                let order = Order { service, kind, at: next.now(), by: "x".into(), reason: "x".into() };
                if let Ok(outcome) = next.order(&order) {
                    self.put(next, &outcome.touched);
                }
            }
            Event::File(index, text) => {
                match text {
                    Some(one) => {
                        let (name, service) = service(index, &self::text(one), &next.settings);
                        self.files.insert(name, service);
                    }
                    None => drop(self.files.remove(&ServiceName::new(&format!("s{index}")).unwrap())),
                }
                let outcome = next.apply((*next.settings).clone(), self.files.clone(), next.now());
                self.put_files(next, &outcome);
            }
            Event::Resolves(name, last) => {
                let addresses =
                    last.iter().map(|last| std::net::Ipv4Addr::new(192, 0, 2, *last).into()).collect();
                self.hear(name, News::Resolved { addresses, unanswered: None });
            }
            Event::Learns(name, last) => {
                let until = next.now() + chrono::TimeDelta::minutes(9);
                let address = std::net::Ipv4Addr::new(203, 0, 113, last).into();
                self.hear(name, News::Learned { address, until });
            }
            Event::Moves(moves) => {
                let mut subjects = BTreeSet::new();
                for (unit, id) in moves {
                    let (subject, places) = match id % 2 {
                        0 => (Subject::unit(&format!("u{unit}.service")), places(id)),
                        _ => (
                            Subject::container(&format!("c{unit}")),
                            vec![Place::Address(std::net::Ipv4Addr::new(172, 18, 0, id as u8).into())],
                        ),
                    };
                    let subject = subject.unwrap();
                    next.resolve(subject.clone(), places);
                    subjects.insert(subject);
                }
                let part = next.compile_subjects(&subjects, &self.world, &self.in_force);
                self.world = next;
                self.in_force.take_over(part);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn parts_add_up_to_the_whole(
        texts in prop::collection::vec((0usize..14, -20i64..60, 61i64..300, 0u8..4, any::<bool>()), 1..8),
        events in prop::collection::vec(event(), 1..40),
        enclosed in prop::collection::btree_set(0u8..8, 0..6),
    ) {
        let settings = Settings::default();
        let services: Services =
            texts.iter().enumerate().map(|(index, one)| service(index, &text(*one), &settings)).collect();
        let mut world = World::new(settings.clone(), at(0));
        world.apply(settings, services.clone(), at(0));
        world.enclose(enclosed.into_iter().map(segment).collect());
        let (in_force, owners) = (world.compile(), Owners::new(&world.standings()));
        let mut host = Host { world, owners, in_force, files: services };
        host.world.number_classes(&host.in_force);
        for event in events {
            host.happen(event.clone());
            host.world.number_classes(&host.in_force);
            let now = host.world.now();
            let mut tidied = host.in_force.clone();
            tidied.take_over(host.world.compile_tidied(&tidied));
            let (held, wanted) = (without_the_past(tidied, now), without_the_past(host.world.compile(), now));
            prop_assert_eq!(plan::plan(&held, &wanted, &BTreeSet::new()), None, "after {:?}", event);
            prop_assert!(host.world.next_deadline() > now);
        }
    }
}

/// The first leaves a depth where the second arrives, in one change.
#[test]
fn units_that_change_places_are_one_change() {
    let settings = Settings::default();
    let texts = [(EXACT, 0, 61, 0, false), (EXACT, 0, 61, 3, false)];
    let services: Vec<_> =
        texts.iter().enumerate().map(|(index, one)| service(index, &text(*one), &settings)).collect();
    let mut world = World::new(settings.clone(), at(0));
    world.apply(settings, services.into_iter().collect(), at(0));
    let (in_force, owners) = (world.compile(), Owners::new(&world.standings()));
    let mut host = Host { world, owners, in_force, files: Services::new() };
    for moves in [vec![(0, 3 * 2)], vec![(0, 3 * 2 + 4), (3, 3 * 4)]] {
        host.world.number_classes(&host.in_force);
        host.happen(Event::Moves(moves));
        assert_eq!(plan::plan(&host.in_force, &host.world.compile(), &BTreeSet::new()), None);
    }
}

/// A service with these minutes as its lifetime, in its world, before it began.
fn pending(from: i64, to: i64) -> (World, Services, ServiceName) {
    let settings = Settings::default();
    let services = Services::from_iter([service(0, &text((3, from, to - from, 1, false)), &settings)]);
    let mut world = World::new(settings.clone(), at(0));
    world.apply(settings, services.clone(), at(0));
    let name = services.keys().next().unwrap().clone();
    assert_eq!(world.state(&name), Some(ServiceState::Pending));
    (world, services, name)
}

#[test]
fn a_service_that_is_decommissioned_before_it_began_never_opens() {
    let order = |name: &ServiceName| Order {
        service: name.clone(),
        kind: OrderKind::Decommission,
        at: at(1),
        by: "o".into(),
        reason: "r".into(),
    };
    let ordered: fn(&mut World, &Order) = |world, order| {
        world.order(order).unwrap();
    };
    let removed: fn(&mut World, &Order) = |world, _| {
        world.apply(Settings::default(), Services::new(), at(1));
    };
    for end in [ordered, removed] {
        let (mut world, services, name) = pending(10, 60);
        end(&mut world, &order(&name));
        for minute in [1, 9, 20, 70] {
            world.tick(at(minute));
            assert_eq!(world.state(&name), Some(ServiceState::Decommissioned), "minute {minute}");
        }
        world.apply(Settings::default(), services, at(71));
        assert_eq!(world.state(&name), Some(ServiceState::Decommissioned), "the same file comes back");
        let later = service(0, &text((3, 80, 10, 1, false)), &Settings::default());
        world.apply(Settings::default(), Services::from_iter([later]), at(72));
        assert_eq!(world.state(&name), Some(ServiceState::Pending), "a later lifetime is another one");
        world.tick(at(81));
        assert_eq!(world.state(&name), Some(ServiceState::Open));
    }
}
