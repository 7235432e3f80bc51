//! The fold over what is recorded says of any instant what the state machine said then.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::config::{self, Files, Loaded, Source};
use crate::daemon::{fallback, snapshot};
use crate::model::{Order, OrderKind, Record, ServiceState};
use crate::store::Entry;

fn at(minute: i64) -> Time {
    Time::from_timestamp(1_790_000_000 + minute * 60, 0).unwrap()
}

/// A schedule by a few numbers: windows, lifetime, watch, state in the file.
#[derive(Debug, Clone)]
struct Draft {
    kind: u8,
    from: i64,
    length: i64,
    watch: Option<u8>,
    state: u8,
    address: u8,
}

impl Draft {
    fn text(&self) -> String {
        let (commission, end) = (at(self.from).to_rfc3339(), at(self.from + self.length).to_rfc3339());
        // A window that never opens in the lifetime is a mistake.
        let windows = if self.length < 70 { 2 } else { self.kind % 3 };
        let window = match windows {
            0 => "[[window]]\ncron = \"*/7 * * * *\"\nduration = \"3m\"\ntimezone = \"UTC\"\n",
            1 => "[[window]]\nname = \"w\"\ncron = \"5 * * * *\"\nduration = \"20m\"\ntimezone = \"UTC\"\n",
            _ => "",
        };
        let own = if windows == 1 { "windows = [\"w\"]\n" } else { "" };
        let watch = self.watch.map(|watch| format!("[teardown]\nwatch = \"{}m\"\n", watch + 1));
        let state =
            ["commissioned", "commissioned", "suspended", "decommissioned"][usize::from(self.state % 4)];
        format!(
            "provider = \"p{}\"\nowner = \"o\"\nstate = \"{state}\"\n[lifetime]\ncommission = {commission}\n\
             decommission = {end}\n{}{window}[[egress]]\nsubject = {{ unit = \"u.service\" }}\n\
             to = [\"192.0.2.{}\", \"@list\"]\nports = [\"443/tcp\"]\n{own}",
            self.kind,
            watch.unwrap_or_default(),
            self.address
        )
    }
}

fn draft() -> impl Strategy<Value = Draft> {
    let numbers =
        (any::<u8>(), -20i64..200, 1i64..300, proptest::option::of(0u8..40), any::<u8>(), any::<u8>());
    numbers.prop_map(|(kind, from, length, watch, state, address)| Draft {
        kind,
        from,
        length,
        watch,
        state,
        address,
    })
}

#[derive(Debug, Clone)]
enum Event {
    /// The files become these.
    Apply(BTreeMap<u8, Draft>, bool),
    Order(OrderKind, u8),
    /// The daemon looks again after so many minutes, whatever it missed.
    Pass(i64),
    /// A new daemon starts after so many minutes.
    Restart(i64),
}

fn event() -> impl Strategy<Value = Event> {
    let files = prop::collection::btree_map(0u8..4, draft(), 0..4);
    let kind = prop::sample::select(vec![OrderKind::Suspend, OrderKind::Resume, OrderKind::Decommission]);
    prop_oneof![
        2 => (files, any::<bool>()).prop_map(|(files, approval)| Event::Apply(files, approval)),
        2 => (kind, 0u8..4).prop_map(|(kind, name)| Event::Order(kind, name)),
        4 => (1i64..90).prop_map(Event::Pass),
        1 => (0i64..90).prop_map(Event::Restart),
    ]
}

fn load(files: &BTreeMap<u8, Draft>, approval: bool) -> Loaded {
    let source = |path: String, text: String| Source { path: path.into(), text: Ok(text.into_bytes()) };
    let settings =
        approval.then_some("[approval]\nrequired = [\"security\"]\n[approval.roles]\nsecurity = [\"a@b\"]\n");
    let files = Files {
        settings: settings.map(|text| source("picoseg.toml".to_owned(), text.to_owned())),
        services: files.iter().map(|(name, draft)| source(format!("s{name}.toml"), draft.text())).collect(),
        segments: vec![],
        lists: [("list".to_owned(), source("list.txt".to_owned(), "198.51.100.0/24\n# none\n\n".to_owned()))]
            .into(),
    };
    config::load(&files).unwrap_or_else(|found| panic!("{found:?}"))
}

/// The daemon without a kernel: what it records, and the worlds that it had.
struct Host {
    world: World,
    accepted: Accepted,
    records: BTreeMap<ServiceName, Record>,
    loaded: Loaded,
    told: Option<String>,
    ledger: Vec<Entry>,
    worlds: Vec<World>,
}

impl Host {
    fn new() -> Self {
        let loaded = load(&BTreeMap::new(), false);
        let world = World::new(loaded.settings.clone(), at(0));
        Self {
            world,
            accepted: Accepted::default(),
            records: BTreeMap::new(),
            loaded,
            told: None,
            ledger: vec![],
            worlds: vec![],
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Apply(files, approval) => self.apply(load(&files, approval)),
            Event::Order(kind, name) => {
                let service = ServiceName::new(&format!("s{name}")).unwrap();
                let order = Order { service, kind, at: self.world.now(), by: "x".into(), reason: "x".into() };
                let mut next = self.world.clone();
                let Ok(outcome) = next.order(&order) else { return };
                self.world = next;
                let facts = record::order_facts(&order, &outcome, self.world.now());
                self.keep(facts);
            }
            Event::Pass(minutes) => {
                let outcome = self.world.tick(self.world.now() + chrono::TimeDelta::minutes(minutes));
                self.keep(record::facts(&outcome, self.world.now()));
            }
            Event::Restart(minutes) => self.restart(minutes),
        }
        self.worlds.push(self.world.clone());
    }

    fn apply(&mut self, loaded: Loaded) {
        let before = (self.accepted.clone(), self.world.clone());
        let outcome = self.world.apply(loaded.settings.clone(), loaded.services.clone(), self.world.now());
        self.accepted = snapshot::merged(&self.accepted, &loaded, &self.world);
        let sides = (Side { accepted: &before.0, world: &before.1 }, self.side());
        let listing = Listing::between(sides.0, sides.1, &outcome);
        self.applied(&outcome, listing, LedgerKind::ConfigApplied);
        self.loaded = loaded;
    }

    fn restart(&mut self, minutes: i64) {
        let settings = self.loaded.settings.clone();
        let mut world = World::new(settings.clone(), self.world.now());
        for (name, old) in &self.accepted.services {
            let record = self.records.get(name).cloned().unwrap_or_default();
            let service = fallback::service(name, old, &settings).unwrap();
            world.remember(Arc::new(service), record, self.world.is_departed(name));
        }
        let now = self.world.now() + chrono::TimeDelta::minutes(minutes);
        let outcome = world.apply(settings, self.loaded.services.clone(), now);
        self.world = world;
        self.accepted = snapshot::merged(&self.accepted, &self.loaded, &self.world);
        let facts = record::facts(&outcome, self.world.now());
        let mut history = self.history(None);
        for (seq, entry) in (history.last_seq + 1..).zip(entries(&facts)) {
            history.take(&record::told(seq, entry));
        }
        let listing = Listing::unlike(&history, self.side());
        assert!(
            listing.is_empty(),
            "a restart with the same files and a whole ledger tells no news: {listing:?}"
        );
        self.applied(&outcome, listing, LedgerKind::DaemonStarted);
    }

    fn applied(&mut self, outcome: &Outcome, listing: Listing, kind: LedgerKind) {
        let (digest, now) = (self.world.digest(), self.world.now());
        let entries = listing.facts(kind, now, "x", &json!({ "ruleset_digest": digest }));
        self.told = Some(digest);
        self.keep(record::facts_of_files(outcome, now, entries));
    }

    fn keep(&mut self, mut facts: Vec<Fact>) {
        let digest = self.world.digest();
        if self.told.as_ref() != Some(&digest) {
            assert!(record::note_digest(&mut facts, &digest), "other rules without an entry that tells why");
            self.told = Some(digest);
        }
        for fact in facts {
            match fact {
                Fact::Entry(entry) => self.ledger.push(entry),
                Fact::Record { service, record } => {
                    self.records.insert(service, record);
                }
                Fact::Order(_) => {}
            }
        }
    }

    fn side(&self) -> Side<'_> {
        Side { accepted: &self.accepted, world: &self.world }
    }

    fn history(&self, at: Option<Time>) -> History {
        History::of((1..).zip(&self.ledger).map(|(seq, entry)| record::told(seq, entry)), at)
    }
}

fn entries(facts: &[Fact]) -> impl Iterator<Item = &Entry> {
    facts.iter().filter_map(|fact| match fact {
        Fact::Entry(entry) => Some(entry),
        Fact::Order(_) | Fact::Record { .. } => None,
    })
}

type States = BTreeMap<String, (ServiceState, Option<Time>)>;

fn states(world: &World) -> States {
    let standings = world.standings();
    let names = standings.iter().map(|standing| &standing.service.name);
    let state = |name| (world.state(name).unwrap(), world.current_opening(name).map(|span| span.closes_at()));
    names.map(|name| (name.to_string(), state(name))).collect()
}

fn folded(history: &History) -> States {
    let all = history.services();
    all.map(|(name, known)| (name.to_owned(), (known.state.state.unwrap(), known.state.closes_at))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_ledger_says_of_any_instant_what_the_world_said_then(
        events in prop::collection::vec(event(), 1..25),
        instants in prop::collection::vec(0i64..36_000, 12),
    ) {
        let mut host = Host::new();
        host.happen(Event::Apply(BTreeMap::new(), false));
        for event in events {
            host.happen(event);
        }
        for (index, world) in host.worlds.iter().enumerate() {
            let now = world.now();
            if host.worlds[index + 1..].iter().all(|later| later.now() > now) {
                let history = host.history(Some(now));
                prop_assert_eq!(folded(&history), states(world), "at {}", now);
                prop_assert_eq!(history.ruleset_digest, Some(world.digest()), "at {}", now);
            }
        }
        // Between two looks: what the world would have been then.
        let end = host.world.now();
        for instant in instants.into_iter().map(|second| at(0) + chrono::TimeDelta::seconds(second)) {
            if instant > end { continue }
            let mut world = host.worlds.iter().rfind(|world| world.now() <= instant).unwrap().clone();
            world.tick(instant);
            prop_assert_eq!(folded(&host.history(Some(instant))), states(&world), "at {}", instant);
        }
        for service in host.world.standings() {
            let name = &service.service.name;
            let told = host.side().told(name);
            let history = host.history(None);
            let known = history.service(name.as_str()).and_then(|known| known.definition.clone());
            prop_assert_eq!(known, told.map(|told| told.definition));
        }
    }
}
