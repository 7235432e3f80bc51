//! For random schedules, orders, processes and instants, the compiled table admits exactly what a plain evaluator
//! admits, and refuses the rest with the same reason and for the same service.

mod clocks;
mod interpreter;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use interpreter::{Interpreter, Packet};
use picoseg::compile::{self, Classes, Input, Openings, Place, Resolution, Standing, Unresolved};
use picoseg::config;
use picoseg::explain::{self, Explanation};
use picoseg::model::{
    Cause, Decommissioned, Direction, Mode, Policy, Protocol, Record, Segment, SegmentName, Service,
    ServiceName, ServiceState, Settings, Subject, Suspended, Time,
};
use picoseg::owners::Owners;
use picoseg::ruleset::{Hook, protocol, tcp};
use picoseg::schedule;
use proptest::prelude::*;

const HOST: [&str; 2] = ["192.0.2.1", "2001:db8:ffff::1"];

/// Cgroups: path, id, level. The second lies in the first.
const PLACES: [(&str, u64, u32); 4] =
    [("/a", 11, 1), ("/a/inner", 12, 2), ("/b.slice", 21, 1), ("/b.slice/x.service", 22, 2)];

/// The container that has a network of its own, as a place beside [`PLACES`], with its addresses.
const CONTAINER: usize = PLACES.len();
const BEHIND: [&str; 2] = ["172.18.0.2", "fd18::2"];

/// Numbers of a user and a group.
const PAYER: u32 = 1001;
const PAYERS: u32 = 2002;

fn instant(minutes: i64) -> Time {
    Time::from_timestamp(1_800_000_000 + minutes * 60, 0).unwrap()
}

fn subject() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        r#"{ cgroup = "/" }"#,
        r#"{ cgroup = "/a" }"#,
        r#"{ cgroup = "/a/inner" }"#,
        r#"{ unit = "x.service" }"#,
        r#"{ unit = "absent.service" }"#,
        r#"{ container = "web" }"#,
        r#"{ user = "payer" }"#,
        r#"{ user = "absent" }"#,
        r#"{ group = "payers" }"#,
    ])
}

/// Only what sends has an owner.
fn subject_of_ingress(subject: &'static str) -> &'static str {
    if subject.contains("user") || subject.contains("group") { r#"{ cgroup = "/a" }"# } else { subject }
}

fn endpoints() -> impl Strategy<Value = Vec<&'static str>> {
    let pool = vec![
        "198.51.100.0/24",
        "198.51.100.0/30",
        "198.51.100.1",
        "198.51.100.2",
        "198.51.0.0/16",
        "2001:db8::/32",
        "2001:db8::1",
        "2001:db8::/64",
    ];
    prop_oneof![3 => prop::sample::subsequence(pool, 1..4), 1 => Just(vec!["any"])]
}

/// Segments by subject, some in others.
fn segments() -> impl Strategy<Value = Vec<String>> {
    let allow = (any::<bool>(), endpoints(), ports()).prop_map(|(egress, endpoints, ports)| {
        let (direction, key) = if egress { ("egress", "to") } else { ("ingress", "from") };
        format!("[[allow]]\ndirection = \"{direction}\"\n{key} = {endpoints:?}\nports = {ports:?}\n")
    });
    let subjects = vec![
        "cgroup = \"/a\"",
        "cgroup = \"/a/inner\"",
        "unit = \"x.service\"",
        "unit = \"absent.service\"",
        "container = \"web\"",
    ];
    let one = (prop::collection::vec(allow, 0..3), any::<[bool; 2]>());
    (prop::sample::subsequence(subjects, 0..5), prop::collection::vec(one, 5)).prop_map(|(subjects, ones)| {
        let text = |(subject, (allow, [dns, loopback])): (&str, (Vec<String>, [bool; 2]))| {
            format!("subject = {{ {subject} }}\ndns = {dns}\nloopback = {loopback}\n{}", allow.concat())
        };
        subjects.into_iter().zip(ones).map(text).collect()
    })
}

fn parse_segments(texts: &[String]) -> BTreeMap<SegmentName, Segment> {
    let parse = |(index, text): (usize, &String)| {
        let name = SegmentName::new(&format!("seg{index}")).unwrap();
        let (segment, found) = config::parse_segment("s.toml".as_ref(), &name, text, &|_| None);
        (name, segment.unwrap_or_else(|| panic!("{found:?}\n{text}")))
    };
    texts.iter().enumerate().map(parse).collect()
}

fn ports() -> impl Strategy<Value = Vec<&'static str>> {
    let pool = vec!["443/tcp", "440-450/tcp", "*/tcp", "443/udp", "53-500/udp", "icmp", "22/tcp"];
    prop::sample::subsequence(pool, 1..4)
}

fn policy() -> impl Strategy<Value = String> {
    let window = prop::option::of(0..2usize);
    (any::<bool>(), subject(), endpoints(), ports(), window, prop::bool::weighted(0.4)).prop_map(
        |(egress, subject, endpoints, ports, window, tls)| {
            let subject = if egress { subject } else { subject_of_ingress(subject) };
            let (table, key) = if egress { ("egress", "to") } else { ("ingress", "from") };
            let windows = window.map(|w| format!("windows = [\"w{w}\"]\n")).unwrap_or_default();
            let tls = tls && egress && ports.iter().all(|port| port.ends_with("/tcp"));
            let tls = if tls { "tls = \"required\"\n" } else { "" };
            format!(
                "[[{table}]]\nsubject = {subject}\n{key} = {endpoints:?}\nports = {ports:?}\n{windows}{tls}"
            )
        },
    )
}

/// A policy that is told by elements alone, unless others list its addresses.
fn exact_policy() -> impl Strategy<Value = String> {
    let subjects = vec![
        r#"{ cgroup = "/a" }"#,
        r#"{ cgroup = "/a/inner" }"#,
        r#"{ unit = "x.service" }"#,
        r#"{ unit = "absent.service" }"#,
    ];
    let addresses = vec!["198.51.100.1", "198.51.100.2", "198.51.100.3", "2001:db8::1", "2001:db8::2"];
    let addresses = prop::sample::subsequence(addresses, 1..3);
    (any::<bool>(), prop::sample::select(subjects), addresses).prop_map(|(egress, subject, addresses)| {
        let (table, key) = if egress { ("egress", "to") } else { ("ingress", "from") };
        format!(
            "[[{table}]]\nsubject = {subject}\n{key} = {addresses:?}\nports = [\"443/tcp\", \"22/tcp\"]\n"
        )
    })
}

/// A schedule whose lifetime and windows lie around the instants that are tried.
fn schedule() -> impl Strategy<Value = String> {
    let state = prop::sample::select(vec!["commissioned", "commissioned", "suspended", "decommissioned"]);
    let window = (0i64..50, 1i64..60);
    let policies = prop_oneof![
        prop::collection::vec(policy(), 1..4).boxed(),
        prop::collection::vec(exact_policy(), 1..3).boxed(),
    ];
    (state, 0i64..40, 60i64..110, window.clone(), window, policies).prop_map(
        |(state, from, to, first, second, policies)| {
            let window = |name: &str, (at, length): (i64, i64)| {
                let (open, close) = ((from + at).min(to - 1), (from + at + length).min(to));
                format!(
                    "[[window]]\nname = \"{name}\"\nopen = {}\nclose = {}\n",
                    instant(open).to_rfc3339(),
                    instant(close.max(open + 1)).to_rfc3339()
                )
            };
            format!(
                "provider = \"p\"\nowner = \"o\"\nstate = \"{state}\"\n[lifetime]\ncommission = {}\ndecommission = {}\n{}{}{}",
                instant(from).to_rfc3339(),
                instant(to).to_rfc3339(),
                window("w0", first),
                window("w1", second),
                policies.join("")
            )
        },
    )
}

fn record() -> impl Strategy<Value = Record> {
    let suspended = prop::option::weighted(0.2, 0i64..100);
    let decommissioned = prop::option::weighted(0.2, 0i64..100);
    (suspended, decommissioned).prop_map(|(suspended, decommissioned)| Record {
        extended: None,
        suspended: suspended.map(|at| Suspended { at: instant(at), by: "x".into(), reason: "x".into() }),
        decommissioned: decommissioned.map(|at| Decommissioned {
            at: instant(at),
            covers: instant(at),
            cause: Cause::Order,
            by: None,
            reason: None,
        }),
    })
}

#[derive(Debug, Clone)]
struct Attempt {
    direction: Direction,
    remote: IpAddr,
    protocol: Protocol,
    port: u16,
    /// The user and the group of the process.
    owner: [u32; 2],
    /// A connection that begins with a ClientHello.
    hello: bool,
    /// Where the process lives: an index into [`PLACES`], or [`CONTAINER`], or nowhere.
    place: Option<usize>,
}

fn attempt() -> impl Strategy<Value = Attempt> {
    let remotes = vec![
        "198.51.100.1",
        "198.51.100.2",
        "198.51.100.9",
        "198.51.7.7",
        "203.0.113.1",
        "2001:db8::1",
        "2001:db8::2",
        "2001:db8:1::1",
    ];
    (
        prop::sample::select(vec![Direction::Egress, Direction::Ingress]),
        prop::sample::select(remotes),
        prop::sample::select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Icmp]),
        prop::sample::select(vec![22u16, 53, 440, 443, 450, 451, 65535]),
        prop::option::of(0..=CONTAINER),
        any::<bool>(),
        prop::sample::select(vec![[0, 0], [PAYER, 0], [0, PAYERS], [PAYER, PAYERS], [PAYERS, PAYER]]),
    )
        .prop_map(|(direction, remote, protocol, port, place, hello, owner)| Attempt {
            owner,
            hello,
            direction,
            remote: remote.parse().unwrap(),
            protocol,
            port,
            place,
        })
}

fn resolution() -> Resolution {
    let place = |index: usize| {
        let (path, id, level) = PLACES[index];
        Place::cgroup(id, level, path.trim_start_matches('/'))
    };
    let places: [(Subject, Vec<Place>); 6] = [
        (Subject::cgroup("/a").unwrap(), vec![place(0)]),
        (Subject::cgroup("/a/inner").unwrap(), vec![place(1)]),
        (Subject::unit("x.service").unwrap(), vec![place(3)]),
        (
            Subject::container("web").unwrap(),
            BEHIND.map(|address| Place::Address(address.parse().unwrap())).into(),
        ),
        (Subject::user("payer").unwrap(), vec![Place::User(PAYER)]),
        (Subject::group("payers").unwrap(), vec![Place::Group(PAYERS)]),
    ];
    places.into_iter().map(|(subject, places)| (Arc::new(subject), Arc::from(places))).collect()
}

/// True when a process at this place and of this owner belongs to the subject.
fn is(subject: &Subject, place: Option<usize>, [user, group]: [u32; 2]) -> bool {
    if place == Some(CONTAINER) {
        return matches!(subject, Subject::Container(_));
    }
    let path = place.map(|index| PLACES[index].0);
    match subject {
        Subject::Cgroup(wanted) if wanted == "/" => true,
        Subject::Cgroup(wanted) => path.is_some_and(|p| p == wanted || p.starts_with(&format!("{wanted}/"))),
        Subject::Unit(unit) => path == Some(&format!("/b.slice/{unit}")),
        Subject::User(name) => name == "payer" && user == PAYER,
        Subject::Group(name) => name == "payers" && group == PAYERS,
        Subject::Exe { .. } | Subject::Container(_) => false,
    }
}

/// The first packet of an attempt, with the cgroups of its process by level.
fn packet(attempt: &Attempt) -> Packet {
    let is_forwarded = attempt.place == Some(CONTAINER);
    let own = if is_forwarded { BEHIND } else { HOST };
    let host: IpAddr = own[usize::from(attempt.remote.is_ipv6())].parse().unwrap();
    let (hook, source, destination) = match attempt.direction {
        Direction::Egress if is_forwarded => (Hook::Forward, host, attempt.remote),
        Direction::Ingress if is_forwarded => (Hook::Forward, attempt.remote, host),
        Direction::Egress => (Hook::Output, host, attempt.remote),
        Direction::Ingress => (Hook::Input, attempt.remote, host),
    };
    let number = match (attempt.protocol, attempt.remote.is_ipv6()) {
        (Protocol::Tcp, _) => protocol::TCP,
        (Protocol::Udp, _) => protocol::UDP,
        (Protocol::Icmp, false) => protocol::ICMP,
        (Protocol::Icmp, true) => protocol::ICMPV6,
    };
    Packet {
        hook,
        source,
        destination,
        protocol: number,
        source_port: 50_000,
        destination_port: attempt.port,
        tcp_flags: tcp::SYN,
        payload: false,
        hello: attempt.hello,
        icmp_type: if attempt.remote.is_ipv6() { 128 } else { 8 },
        echo_id: 7,
        fragment: false,
        // Nobody has a socket for echo requests from outside, nor for what is forwarded.
        cgroups: (hook == Hook::Output || (hook == Hook::Input && attempt.protocol != Protocol::Icmp))
            .then(|| cgroups(attempt.place)),
        owner: (!is_forwarded).then_some(attempt.owner),
    }
}

/// The first that is said once the connection is there.
fn first_data(attempt: &Attempt) -> Packet {
    Packet { tcp_flags: tcp::ACK, payload: true, ..packet(attempt) }
}

/// The services without the policies that insist on TLS.
fn without_tls(services: &[Service]) -> Vec<Service> {
    let mut services = services.to_vec();
    services.iter_mut().for_each(|service| service.policies.retain(|policy| !policy.tls));
    services
}

fn cgroups(place: Option<usize>) -> Vec<u64> {
    let Some(index) = place else { return vec![1] };
    let path = PLACES[index].0;
    let mut ids = vec![1];
    let ancestors = PLACES.iter().filter(|(p, ..)| path == *p || path.starts_with(&format!("{p}/")));
    ids.extend(ancestors.map(|(_, id, _)| *id));
    ids
}

fn parse(texts: &[String], settings: &Settings) -> Vec<Service> {
    texts
        .iter()
        .enumerate()
        .filter_map(|(index, text)| {
            let name = ServiceName::new(&format!("s{index}")).unwrap();
            let (service, diagnostics) =
                config::parse_service("s.toml".as_ref(), &name, text, &|_| None, settings);
            // Random windows may never open, which the parser refuses.
            assert!(service.is_some() || !diagnostics.is_empty());
            service
        })
        .collect()
}

fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.enforcement.mode = Mode::Enforce;
    settings.failsafe.ports.clear();
    settings
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_table_admits_exactly_what_a_plain_look_admits(
        texts in prop::collection::vec(schedule(), 1..4),
        records in prop::collection::vec(record(), 4),
        compiled_at in 0i64..100,
        later in 0i64..20,
        attempts in prop::collection::vec(attempt(), 1..40),
        segments in segments(),
    ) {
        let settings = settings();
        let services = parse(&texts, &settings);
        let at = instant(compiled_at + later);
        let standings: Vec<_> = services
            .iter()
            .zip(&records)
            .map(|(service, record)| Standing { service, record, approved: true })
            .collect();
        // What a record says must have happened before the table was made.
        prop_assume!(records.iter().all(|r| {
            r.suspended.as_ref().is_none_or(|s| s.at <= instant(compiled_at))
                && r.decommissioned.as_ref().is_none_or(|d| d.at <= instant(compiled_at))
        }));
        let segments = parse_segments(&segments);
        let resolvers: [IpAddr; 1] = ["203.0.113.1".parse().unwrap()];
        let anywhere = services.iter().any(|service| service.policies.iter().any(Policy::is_any));
        let resolution = resolution();
        let ruleset = compile::compile(&Input {
            settings: &settings,
            services: &standings,
            segments: &segments,
            resolvers: &resolvers,
            resolution: &resolution,
            left: &compile::Levels::new(),
            now: instant(compiled_at),
            openings: Openings::Armed,
            classes: &Classes::default(),
            unresolved: Unresolved::Silent,
            cut_at: None,
        });
        let plain_services = without_tls(&services);
        let plain_standings: Vec<_> = plain_services
            .iter()
            .zip(&standings)
            .map(|(service, standing)| Standing { service, ..*standing })
            .collect();
        let mut forwarded_services = services.clone();
        for service in &mut forwarded_services {
            service.policies.retain(|policy| !(policy.is_any() && policy.subject.is_any_process()));
        }
        let forwarded_standings: Vec<_> = forwarded_services
            .iter()
            .zip(&standings)
            .map(|(service, standing)| Standing { service, ..*standing })
            .collect();
        let owners = Owners::new(&standings);
        let interpreter = Interpreter::new(&ruleset, at);
        for attempt in attempts {
            interpreter.forget();
            let fate = interpreter.run(&packet(&attempt));
            let plain = explain::Packet {
                direction: attempt.direction,
                remote: attempt.remote,
                protocol: attempt.protocol,
                port: attempt.port,
            };
            // Echo requests from outside are answered by the kernel: any existing process of the subject will do.
            let kernel_answers = attempt.direction == Direction::Ingress
                && attempt.protocol == Protocol::Icmp
                && attempt.place != Some(CONTAINER);
            let is = |subject: &Subject| match kernel_answers {
                true => {
                    let is_here = !matches!(subject, Subject::Container(_)) && resolution.contains_key(subject);
                    subject.is_any_process() || is_here
                }
                false => is(subject, attempt.place, attempt.owner),
            };
            let way = match attempt.direction {
                Direction::Egress => "out",
                Direction::Ingress => "in",
            };
            // Any process of this host is nobody whose packets are forwarded.
            let is_forwarded = attempt.place == Some(CONTAINER);
            let is_listed = owners.owner(&standings, attempt.remote, at).is_some();
            let echo_from_outside =
                attempt.direction == Direction::Ingress && attempt.protocol == Protocol::Icmp;
            if is_forwarded && !is_listed && echo_from_outside {
                // No kernel of this host answers: it is judged like anything else.
                let explained = explain::explain(&standings, &plain, &is, at);
                let granted = matches!(explained, Explanation::Allow { .. });
                let policies = standings.iter().filter(|standing| standing.governs(instant(compiled_at)));
                let governed = policies.flat_map(|standing| &standing.service.policies).any(|policy| {
                    policy.is_any()
                        && policy.id.direction == Direction::Ingress
                        && is(&policy.subject)
                        && policy.ports.iter().any(|port| port.protocol == Protocol::Icmp)
                });
                let isolated = segments.values().any(|segment| {
                    is(&segment.subject) && !explain::allows(segment, &resolvers, &plain)
                });
                prop_assert_eq!(fate.passed, granted || !(governed || isolated), "{:?} {:?}", attempt, fate);
                continue;
            }
            let judging = if is_forwarded { &forwarded_standings } else { &standings };
            match explain::explain_enclosed(judging, &segments, &resolvers, &plain, &is, at) {
                Explanation::Allow { .. } | Explanation::Ungoverned => {
                    prop_assert!(fate.passed && fate.counted.is_empty(), "{attempt:?} {fate:?}");
                    let judged_by_socket = anywhere || !segments.is_empty();
                    if !judged_by_socket && (attempt.direction, attempt.protocol) == (Direction::Egress, Protocol::Tcp) {
                        let fate = interpreter.run(&first_data(&attempt));
                        // Whoever lists the address still does.
                        let plain = matches!(
                            explain::explain(&plain_standings, &plain, &is, at),
                            Explanation::Allow { .. }
                        ) || owners.owner(&standings, attempt.remote, at).is_none();
                        prop_assert_eq!(fate.passed, plain || attempt.hello, "{:?} {:?}", attempt, fate);
                        let owner = owners.owner(&standings, attempt.remote, at);
                        let insists = owner.is_some_and(|owner| {
                            let owner = &standings[owner.index];
                            let open = schedule::state(owner.service, owner.record, owner.approved, at);
                            open == ServiceState::Open && owner.service.policies.iter().any(|p| p.tls)
                        });
                        if !fate.passed && insists {
                            prop_assert_eq!(fate.counted.len(), 2, "{:?} {:?}", attempt, fate);
                            prop_assert!(fate.counted[0].starts_with("svc-"), "{:?}", fate);
                            prop_assert!(fate.counted[0].ends_with("-out-plaintext"), "{:?}", fate);
                            prop_assert_eq!(&fate.counted[1], "out-plaintext", "{:?}", attempt);
                        }
                    }
                }
                Explanation::Isolate { segment } => {
                    prop_assert!(!fate.passed, "{attempt:?} {fate:?}");
                    prop_assert_eq!(&fate.counted, &vec![format!("seg-{segment}-{way}-isolated")], "{:?}", attempt);
                }
                Explanation::Refuse { service, reason } => {
                    prop_assert!(!fate.passed, "{attempt:?} {fate:?}");
                    let owner = owners.owner(&standings, attempt.remote, at);
                    let counted = match owner.is_some() {
                        // Of a service that is told by elements alone the address tells whose it is.
                        true if fate.counted.len() == 1 => vec![format!("exact-{way}-{reason}")],
                        true => vec![format!("svc-{service}-{way}-{reason}"), format!("{way}-{reason}")],
                        false => vec![format!("any-{service}-{way}-{reason}")],
                    };
                    prop_assert_eq!(&fate.counted, &counted, "{:?}", attempt);
                    if let Some(owner) = owner {
                        prop_assert_eq!(&standings[owner.index].service.name, &service);
                    }
                }
            }
        }
    }
}
