//! What no single file of this module can promise: the whole of it on whole configurations.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::model::{
    Direction, Endpoint, HostName, Mode, Opening, Segment, Service, ServiceName, Settings, Until, Watch,
};

const SCHEDULE: &str = include_str!("../../tests/golden/diagnostics/accepted/services.d/stripe.toml");
const LIST: &str = include_str!("../../tests/golden/diagnostics/accepted/lists/stripe-api.txt");
const SEGMENT: &str = include_str!("../../tests/golden/diagnostics/segments/segments.d/payments.toml");
const SETTINGS: &str = include_str!("../../tests/golden/diagnostics/accepted/picoseg.toml");

fn source(path: &str, text: &str) -> Source {
    Source { path: path.into(), text: Ok(text.as_bytes().to_vec()) }
}

fn files(services: &[(&str, &str)]) -> Files {
    Files {
        settings: Some(source("picoseg.toml", SETTINGS)),
        services: services.iter().map(|(path, text)| source(path, text)).collect(),
        lists: BTreeMap::from([("stripe-api".to_owned(), source("lists/stripe-api.txt", LIST))]),
        ..Files::default()
    }
}

fn parse(text: &str) -> (Option<Service>, Vec<Diagnostic>) {
    let name = ServiceName::new("stripe").unwrap();
    let lists = |name: &str| (name == "stripe-api").then(|| Arc::from(LIST));
    parse_service(Path::new("stripe.toml"), &name, text, &lists, &Settings::default())
}

fn segment_of(text: &str) -> (Option<Segment>, Vec<Diagnostic>) {
    let name = ServiceName::new("payments").unwrap();
    let lists = |name: &str| (name == "databases").then(|| Arc::from("192.0.2.7\nreplica.example.com\n"));
    parse_segment(Path::new("payments.toml"), &name, text, &lists)
}

#[test]
fn a_segment_becomes_what_it_describes() {
    let (segment, found) = segment_of(SEGMENT);
    assert_eq!(said(&found), Vec::<String>::new());
    let segment = segment.unwrap();
    assert_eq!((segment.loopback, segment.dns, segment.mode), (true, false, Mode::Enforce));
    let [egress, ingress] = segment.allow.as_slice() else { panic!("{segment:?}") };
    let prefixes: Vec<String> = egress.prefixes.iter().map(ToString::to_string).collect();
    let names: Vec<&str> = egress.names.iter().map(HostName::as_str).collect();
    assert_eq!(prefixes, ["10.0.0.0/8", "192.0.2.7"]);
    assert_eq!(names, ["*.internal.example", "db.example.com", "replica.example.com"]);
    assert_eq!((egress.direction, egress.any), (Direction::Egress, false));
    assert_eq!((ingress.direction, ingress.any), (Direction::Ingress, true));
    let (defaults, _) = segment_of("subject = { unit = \"x.service\" }");
    let defaults = defaults.unwrap();
    assert!(defaults.loopback && defaults.dns && defaults.allow.is_empty());
}

#[test]
fn services_that_open_at_the_same_times_share_what_was_parsed() {
    let loaded = load(&files(&[("a.toml", SCHEDULE), ("b.toml", SCHEDULE)])).unwrap();
    let schedules: Vec<Vec<_>> = loaded
        .services
        .values()
        .map(|service| {
            let crons = service.windows.iter().filter_map(|window| match &window.opening {
                Opening::Recurring { cron, .. } => Some(std::ptr::from_ref(cron.schedule())),
                Opening::Absolute(_) => None,
            });
            crons.collect()
        })
        .collect();
    assert!(!schedules[0].is_empty() && schedules[0] == schedules[1]);
}

#[test]
fn the_names_of_entries_and_of_lists_come_together() {
    let text = SCHEDULE.replace("\"@stripe-api\"", "\"@stripe-api\", \"b.example.com\", \"B.example.com.\"");
    let name = ServiceName::new("stripe").unwrap();
    let lists = |_: &str| Some(Arc::from("a.example.com\n192.0.2.1\n*.example.net\nb.example.com\n"));
    let (service, found) = parse_service(Path::new("x"), &name, &text, &lists, &Settings::default());
    assert_eq!(said(&found), Vec::<String>::new());
    let service = service.unwrap();
    let names: Vec<&str> = service.policies[0].names.iter().map(HostName::as_str).collect();
    assert_eq!(names, ["*.example.net", "a.example.com", "b.example.com"]);
    assert!(service.policies[0].prefixes.iter().any(|prefix| prefix.to_string() == "192.0.2.1"));
}

/// File, line and message.
fn said(found: &[Diagnostic]) -> Vec<String> {
    let place = |one: &Diagnostic| format!("{}:{}: {}", one.file.display(), one.line, one.message);
    found.iter().map(place).collect()
}

#[test]
fn a_schedule_becomes_the_service_that_it_describes() {
    let (service, found) = parse(SCHEDULE);
    assert_eq!(said(&found), Vec::<String>::new());
    let service = service.unwrap();
    assert_eq!(service.provider, "Stripe, Inc.");
    assert_eq!(service.compliance, ["PCI-DSS"]);
    assert_eq!(service.lifetime.opens_at().to_rfc3339(), "2026-01-01T00:00:00+00:00");
    assert_eq!(service.windows.len(), 3);
    assert!(matches!(
        &service.windows[2].opening,
        Opening::Recurring { timezone: chrono_tz::Tz::UTC, until: Until::LocalTime(_), cron }
            if cron.text() == "30 0 22 1-7 Jan,mar *"
    ));
    assert_eq!(service.exceptions[0].opens_at().to_rfc3339(), "2026-12-23T23:00:00+00:00");
    assert_eq!(service.watch, Watch::For(std::time::Duration::from_secs(365 * 86_400)));
    let [egress, ingress] = service.policies.as_slice() else {
        panic!("{:?}", service.policies);
    };
    assert_eq!(egress.id.to_string(), "stripe/egress/0");
    assert_eq!(egress.windows, Some(vec![0]));
    assert!(matches!(&egress.endpoints[2], Endpoint::List(name) if name.as_str() == "stripe-api"));
    let prefixes: Vec<String> = egress.prefixes.iter().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["192.0.2.0/24", "192.0.2.1", "198.51.100.0/24", "2001:db8::/32", "2001:db8::10"]);
    assert_eq!(ingress.id.direction, Direction::Ingress);
    assert_eq!(ingress.windows, None);
}

#[test]
fn a_loaded_service_keeps_what_it_was_read_from() {
    let loaded = load(&files(&[("services.d/stripe.toml", SCHEDULE)])).unwrap();
    let name = ServiceName::new("stripe").unwrap();
    let kept = &loaded.texts[&name];
    let lists = |name: &str| kept.lists.get(name).cloned();
    let (again, _) = parse_service(Path::new("x"), &name, &kept.text, &lists, &loaded.settings);
    assert_eq!(again.as_ref(), loaded.services.get(&name).map(|service| &**service));
    assert_eq!(loaded.settings.enforcement.table, "pico-seg_2");
}

#[test]
fn egress_policies_come_first_and_are_counted_by_direction() {
    let policy = |header: &str, key: &str, port: u16| {
        format!(
            "[[{header}]]\nsubject = {{ cgroup = \"/\" }}\n{key} = [\"192.0.2.1\"]\nports = [\"{port}/tcp\"]\n"
        )
    };
    let head = "provider = \"x\"\nowner = \"x\"\n[lifetime]\ncommission = 2026-01-01T00:00:00Z\n\
                decommission = 2027-01-01T00:00:00Z\n";
    let text =
        [head, &policy("ingress", "from", 1), &policy("egress", "to", 2), &policy("ingress", "from", 3)]
            .concat();
    let (service, _) = parse(&text);
    let ids: Vec<String> = service.unwrap().policies.iter().map(|one| one.id.to_string()).collect();
    assert_eq!(ids, ["stripe/egress/0", "stripe/ingress/0", "stripe/ingress/1"]);
}

#[test]
fn no_files_are_the_defaults() {
    let loaded = load(&Files::default()).unwrap();
    assert_eq!(loaded.settings, Settings::default());
    assert!(loaded.services.is_empty());
    let (settings, found) = parse_settings(Path::new("picoseg.toml"), "");
    assert_eq!((settings, found), (Some(Settings::default()), Vec::new()));
}

#[test]
fn one_name_in_two_files_is_an_error_of_the_later() {
    let found = load(&files(&[("a/stripe.toml", SCHEDULE), ("b/stripe.toml", SCHEDULE)])).unwrap_err();
    let errors: Vec<Diagnostic> = found.into_iter().filter(|one| one.severity == Severity::Error).collect();
    assert_eq!(
        said(&errors),
        ["b/stripe.toml:1: the service \"stripe\" is already described by a/stripe.toml"]
    );
}

#[test]
fn unreadable_files_are_reported_beside_the_mistakes_of_the_others() {
    let mut files = files(&[("services.d/stripe.toml", SCHEDULE), ("services.d/x.toml", "owner = 1")]);
    let unreadable =
        |path: &str| Source { path: path.into(), text: Err("too many levels of symbolic links".to_owned()) };
    files.settings = Some(unreadable("picoseg.toml"));
    files.services.push(unreadable("services.d/loop.toml"));
    files.lists.insert("stripe-api".to_owned(), unreadable("lists/stripe-api.txt"));
    let reason = "cannot read this file: too many levels of symbolic links";
    assert_eq!(
        said(&load(&files).unwrap_err()),
        [
            format!("lists/stripe-api.txt:1: {reason}"),
            format!("picoseg.toml:1: {reason}"),
            format!("services.d/loop.toml:1: {reason}"),
            "services.d/x.toml:1: `lifetime` is missing at the top level".to_owned(),
            "services.d/x.toml:1: `provider` is missing at the top level".to_owned(),
            "services.d/x.toml:1: the schedule has no policy".to_owned(),
            "services.d/x.toml:1: `owner` is a whole number, not a string".to_owned(),
        ]
    );
}

#[test]
fn a_mistake_in_a_list_is_said_where_the_schedule_names_it() {
    let name = ServiceName::new("stripe").unwrap();
    let lists = |_: &str| Some(Arc::from("192.0.2.1\nlocalhost\n"));
    let (service, found) = parse_service(Path::new("x"), &name, SCHEDULE, &lists, &Settings::default());
    assert!(service.is_none());
    assert_eq!(
        said(&found),
        ["x:31: the list \"stripe-api\" has a mistake in line 2: \"localhost\" is this host and no provider"]
    );
}

#[test]
fn the_lists_of_a_schedule_are_found_in_broken_ones_too() {
    let text = "broken\n[[egress]]\nto = [\"@b\", \"192.0.2.1\", 5, \"@../x\"\n[[ingress]]\nfrom = ['@a', '@b']\nto = [\"@c\"]";
    assert_eq!(lists_used(text), ["a", "b", "c"]);
    assert_eq!(lists_used("egress = 1"), Vec::<String>::new());
}

#[test]
fn hostile_files_are_refused_in_bounded_time_with_bounded_words() {
    let windows = "window = [".to_owned() + &"{},".repeat(200_000) + "]";
    let zones: String =
        (0..15_000).map(|_| "[[window]]\ncron=\"1-5 * * * 1-5\"\ntimezone=\"Europe/Berln\"\n").collect();
    let keys: String = (0..50_000).map(|n| format!("k{n} = 1\n")).collect();
    let deep = "a = ".to_owned() + &"[".repeat(500_000);
    let dots = "a.".repeat(300_000) + "a = 1";
    let unclosed = "a = [\nb = 1\n".repeat(10_000);
    let seconds =
        "[lifetime]\ncommission = 1970-01-01T00:00:00Z\ndecommission = 2261-01-01T00:00:00Z\n[[except]]\n\
                   open = 1970-01-01T00:00:00Z\nclose = 2261-01-01T00:00:00Z\n"
            .to_owned()
            + &"[[window]]\ncron = \"* * * * * *\"\nuntil = \"00:00\"\n".repeat(1_000);
    let names = "[[window]]\nname = \"a\"\n".repeat(10_000)
        + &("[[egress]]\nwindows = [".to_owned() + &"\"b\",".repeat(90_000) + "]\n");
    let endpoints = |entry: &str, times: usize| {
        "[[egress]]\nto = [".to_owned() + &format!("\"{entry}\",").repeat(times) + "]\n"
    };
    let hosts = endpoints("a..b", 90_000);
    let any = endpoints("any", 90_000);
    let long = endpoints(&"ü".repeat(400_000), 1);
    let stars = endpoints(&"*.".repeat(250), 1_500);
    let large = "#".repeat(MAX_FILE + 1);
    for text in [windows, zones, keys, deep, dots, unclosed, seconds, names, hosts, any, long, stars, large] {
        let begin: String = text.chars().take(20).collect();
        let started = std::time::Instant::now();
        let (service, found) = parse(&text);
        assert!(service.is_none());
        assert!((1..=MAX_MISTAKES + 1).contains(&found.len()), "{begin}: {}", found.len());
        // Minutes is what a quadratic reader takes; a busy machine needs seconds.
        assert!(started.elapsed().as_secs() < 30, "{begin}: {:?}", started.elapsed());
    }
}

#[test]
fn warnings_beyond_the_limit_hide_no_error() {
    let ssh = "[[ingress]]\nsubject = { cgroup = \"/\" }\nfrom = [\"192.0.2.1\"]\nports = [\"22/tcp\"]\n"
        .repeat(1_500);
    let text = SCHEDULE.replace("[teardown]", &(ssh + "[teardown]"));
    let (service, found) = parse(&text);
    assert!(service.is_some() && found.iter().all(|one| one.severity == Severity::Warning));
    let (service, found) = parse(&text.replace("365d", "365"));
    assert!(service.is_none() && found.iter().any(|one| one.severity == Severity::Error));
}

/// Real lists of providers. They are not part of this repository: without them this test says so and passes.
#[test]
fn real_lists_of_providers_are_read() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(|dir| dir.join("shared/data/providers"));
    let folder = std::env::var_os("PICOSEG_PROVIDER_LISTS").map(PathBuf::from).or(beside).unwrap();
    let Ok(entries) = fs::read_dir(&folder) else {
        eprintln!("SKIPPED: no provider lists in {}; set PICOSEG_PROVIDER_LISTS", folder.display());
        return;
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    assert!(!paths.is_empty(), "no list in {}", folder.display());
    let mut refused = Vec::new();
    let mut count = 0;
    for path in &paths {
        let (listed, found) = parse_list(path, &fs::read(path).unwrap());
        count += listed.prefixes.len();
        refused.extend(said(&found));
    }
    assert!(count >= 30_000, "only {count} prefixes");
    assert_eq!(refused, Vec::<String>::new());
}

/// One change of a text: at a place, over a length, by a piece.
fn change(text: &str, (place, length, piece): &(usize, usize, String)) -> String {
    let characters: Vec<char> = text.chars().collect();
    let from = place % (characters.len() + 1);
    let to = (from + length).min(characters.len());
    let kept = |range: &[char]| range.iter().collect::<String>();
    [kept(&characters[..from]), piece.clone(), kept(&characters[to..])].concat()
}

fn changes() -> impl Strategy<Value = Vec<(usize, usize, String)>> {
    let piece = prop_oneof![
        Just(String::new()),
        "[\\[\\]{}=\"'#,.\n\r\t ]{1,3}",
        "\\PC{1,4}",
        "[0-9:TZ+*/-]{1,8}",
        Just("\u{0}".to_owned()),
        Just("\"\"\"".to_owned()),
        Just("[[window]]\n".to_owned()),
        Just("[lifetime]\n".to_owned()),
        Just("0000-01-01T00:00:00+23:59".to_owned()),
    ];
    prop::collection::vec((any::<usize>(), 0..20usize, piece), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_change_of_a_file_makes_the_reader_panic_or_accept_what_it_reports(changes in changes()) {
        let text = changes.iter().fold(SCHEDULE.to_owned(), |text, one| change(&text, one));
        lists_used(&text);
        let (service, found) = parse(&text);
        let is_clean = found.iter().all(|one| one.severity == Severity::Warning);
        prop_assert_eq!(service.is_some(), is_clean);
        // A repair is for reading on, never for accepting.
        prop_assert!(!is_clean || toml::de::DeTable::parse(&text).is_ok(), "{}", text);
        let lines = text.split('\n').count();
        for one in &found {
            prop_assert!((1..=lines).contains(&one.line) && one.column >= 1, "{}", one);
            prop_assert!(one.to_string().lines().count() <= 2, "{}", one);
        }
        let settings = changes.iter().fold(SETTINGS.to_owned(), |text, one| change(&text, one));
        let (settings, found) = parse_settings(Path::new("picoseg.toml"), &settings);
        prop_assert_eq!(settings.is_some(), found.iter().all(|one| one.severity == Severity::Warning));
        let list = changes.iter().fold(LIST.to_owned(), |text, one| change(&text, one));
        parse_list(Path::new("x.txt"), list.as_bytes());
        let segment = changes.iter().fold(SEGMENT.to_owned(), |text, one| change(&text, one));
        let (segment, found) = segment_of(&segment);
        prop_assert_eq!(segment.is_some(), found.iter().all(|one| one.severity == Severity::Warning));
    }

    #[test]
    fn an_endpoint_is_read_or_refused_and_what_is_proposed_is_read(text in "[a-z0-9.:/*@%\\[\\] ü-]{0,24}|\\PC{0,12}") {
        if let Err(mistake) = endpoint::parse(&text)
            && let Some(meant) = mistake.help.strip_prefix("did you mean \"")
        {
            let meant = meant.strip_suffix("\"?").unwrap();
            prop_assert!(endpoint::parse(meant).is_ok(), "{} for {:?}", meant, text);
        }
    }

    #[test]
    fn any_cron_expression_is_read_or_refused(text in "[0-9A-Za-z*/,?#LW@ -]{0,24}") {
        let _ = cron::parse(&text);
    }
}
