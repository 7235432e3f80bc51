//! Commits to a real kernel. Each test has a network namespace of its own, which vanishes with its thread.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use nix::sched::{CloneFlags, unshare};
use picoseg::kernel::commit::{CommitError, Table};
use picoseg::model::{Family, PortRange, Prefix, Time};
use picoseg::plan::{Changeset, Step};
use picoseg::ruleset::{
    Account, Chain, Element, Field, Hook, Key, Load, Rule, Ruleset, Set, Side, Statement, Verdict, protocol,
    tcp,
};

// ---- the stage ------------------------------------------------------------------------------------------------

/// Runs a test in a fresh network namespace whose loopback is up; says so when it cannot.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root for a network namespace");
        return;
    }
    let stage = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        run("ip", &["link", "set", "lo", "up"]);
        test();
    });
    if let Err(panic) = stage.join() {
        std::panic::resume_unwind(panic);
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect(program);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Loads or checks a ruleset as text.
fn nft_file(arguments: &[&str], text: &str) {
    let mut nft = Command::new("nft")
        .args(arguments)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nft");
    nft.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = nft.wait_with_output().unwrap();
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
}

fn open(protect: bool) -> Table {
    Table::open("picoseg", protect).unwrap()
}

#[test]
fn the_probes_find_what_this_kernel_has() {
    in_namespace(|| {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split(['.', '-']).map(|number| number.parse().unwrap());
        let version: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
        let features = open(true).features();
        assert_eq!((features.persist, features.destroy), (version >= (6, 9), version >= (6, 3)), "{release}");
        let left = run("nft", &["list", "tables"]);
        assert_eq!(left, "", "a probe leaves nothing behind");
    });
}

fn changeset(steps: Vec<Step>) -> Changeset {
    Changeset { table: "picoseg".to_owned(), steps }
}

/// Everything that a ruleset needs from nothing.
fn installation(ruleset: &Ruleset) -> Changeset {
    let counters = ruleset.counters.iter().cloned().map(Step::AddCounter);
    let sets = ruleset.sets.iter();
    let declared = sets.clone().map(|(name, set)| Step::AddSet(name.clone(), set.declaration()));
    let chains = ruleset.chains.iter();
    let created = chains.clone().map(|(name, chain)| Step::AddChain(name.clone(), chain.base));
    let rules = chains
        .flat_map(|(name, chain)| chain.rules.iter().map(|rule| Step::AddRule(name.clone(), rule.clone())));
    let elements = sets.filter(|(_, set)| !set.elements.is_empty()).map(|(name, set)| {
        let elements = set.elements.iter().map(|(key, element)| (key.clone(), element.clone()));
        Step::AddElements(name.clone(), set.declaration(), elements.collect())
    });
    changeset(counters.chain(declared).chain(created).chain(rules).chain(elements).collect())
}

fn with_elements(mut set: Set, elements: impl IntoIterator<Item = (Key, Element)>) -> Set {
    set.elements.extend(elements);
    set
}

fn jump(chain: &str) -> Option<Verdict> {
    Some(Verdict::Jump(chain.into()))
}

fn address4(text: &str) -> Key {
    let number = u32::from(text.parse::<std::net::Ipv4Addr>().unwrap());
    Key::builder().address(Family::V4, number.into()).build()
}

fn network(text: &str) -> Key {
    let prefix = Prefix::single(text.parse().unwrap());
    Key::builder().network(prefix.family(), prefix.first()).build()
}

fn address6(text: &str) -> Key {
    let number = u128::from(text.parse::<std::net::Ipv6Addr>().unwrap());
    Key::builder().address(Family::V6, number).build()
}

fn grant(address: u32, port: u16) -> Key {
    Key::builder().address(Family::V4, address.into()).protocol(protocol::TCP).port(port).build()
}

const GRANT: [Field; 3] = [Field::Address(Family::V4), Field::Protocol, Field::Port];

/// A whole second some time from now, so that text and netlink mean the same.
fn second_from_now(seconds: i64) -> Time {
    Time::from_timestamp(Utc::now().timestamp() + seconds, 0).unwrap()
}

fn seconds(count: i64) -> TimeDelta {
    TimeDelta::seconds(count)
}

// ---- as nft would have done it --------------------------------------------------------------------------------

/// A cgroup of our own, removed at the end.
struct Cgroup {
    path: String,
    /// As nft wants it: below /sys/fs/cgroup.
    name: String,
    id: u64,
}

impl Cgroup {
    fn create() -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let mount = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .find(|columns| columns[2] == "cgroup2")
            .expect("a cgroup2 mount")[1]
            .to_owned();
        let path = format!("{mount}/picoseg-commit-{}", std::process::id());
        std::fs::create_dir(&path).unwrap();
        Self {
            name: path.trim_start_matches("/sys/fs/cgroup/").to_owned(),
            id: std::fs::metadata(&path).unwrap().ino(),
            path,
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.path);
    }
}

/// A ruleset with every kind of set, field, load and statement.
fn everything(cgroup: &Cgroup) -> Ruleset {
    let mut ruleset = Ruleset::new("picoseg");
    ruleset.counters.extend(["refused".to_owned(), "passed".to_owned()]);
    every_set(&mut ruleset, cgroup);
    every_rule(&mut ruleset);
    ruleset
}

fn every_set(ruleset: &mut Ruleset, cgroup: &Cgroup) {
    let v4 = Field::Address(Family::V4);
    let v6 = Field::Address(Family::V6);
    let plain = Element::default;
    let lasting = |verdict| Element { verdict, ..plain() };
    let until = |last, verdict| Element {
        last,
        verdict,
        closes_at: Some(second_from_now(1000)),
        comment: Some("policy stripe/1".into()),
    };
    let at = |instant: i64| Key::builder().time(Time::from_timestamp(instant, 0).unwrap()).build();
    let before = |instant: i64| {
        let instant = Time::from_timestamp(instant, 0).unwrap();
        Key::builder().time_before(instant).build()
    };
    let wide = |low: [u8; 4], ports: (u16, u16)| {
        let end = |last: u8, port| grant(u32::from_be_bytes([low[0], low[1], low[2], last]), port);
        (end(0, ports.0), end(255, ports.1))
    };
    let in_cgroup = |rest: fn(picoseg::ruleset::KeyBuilder) -> picoseg::ruleset::KeyBuilder| {
        rest(Key::builder().cgroup(cgroup.id)).build()
    };
    let named = |verdict| Element {
        verdict,
        closes_at: None,
        last: None,
        comment: Some(cgroup.name.as_str().into()),
    };
    let named_until = Element { closes_at: Some(second_from_now(1000)), ..named(None) };
    let (first, last) = wide([10, 0, 7, 0], (8000, 8100));
    let (other, other_last) = wide([10, 0, 8, 0], (443, 443));
    let sets = [
        ("gate4", with_elements(Set::plain(&[v4]), [(address4("10.0.0.0"), plain())])),
        (
            "roughly4",
            with_elements(Set::plain(&[Field::Network(Family::V4)]), [(network("10.0.0.0"), plain())]),
        ),
        (
            "roughly6",
            with_elements(Set::plain(&[Field::Network(Family::V6)]), [(network("fd04:2::"), plain())]),
        ),
        ("gate6", with_elements(Set::plain(&[v6]), [(address6("fd04:2::"), plain())])),
        (
            "protocols",
            with_elements(
                Set::plain(&[Field::Protocol]),
                [
                    (Key::builder().protocol(protocol::TCP).build(), plain()),
                    (Key::builder().protocol(47).build(), plain()),
                ],
            ),
        ),
        (
            "ports",
            with_elements(
                Set::plain(&[Field::Port]),
                [
                    (Key::builder().port(443).build(), plain()),
                    (Key::builder().port(8443).build(), Element { comment: Some("hook".into()), ..plain() }),
                ],
            ),
        ),
        (
            "port_ranges",
            with_elements(
                Set::plain(&[Field::Port]).with_intervals(),
                [
                    (
                        Key::builder().port(8000).build(),
                        Element { last: Some(Key::builder().port(8100).build()), ..plain() },
                    ),
                    (
                        Key::builder().port(8101).build(),
                        Element { last: Some(Key::builder().port(8101).build()), ..plain() },
                    ),
                    (
                        Key::builder().port(65000).build(),
                        Element { last: Some(Key::builder().port(65535).build()), ..plain() },
                    ),
                ],
            ),
        ),
        (
            "nets4",
            with_elements(
                Set::verdicts(&[v4]).with_intervals(),
                [
                    (
                        address4("10.0.0.0"),
                        Element { last: Some(address4("10.0.0.255")), ..lasting(jump("helper")) },
                    ),
                    (
                        address4("10.0.1.0"),
                        Element { last: Some(address4("10.0.1.7")), ..lasting(Some(Verdict::Drop)) },
                    ),
                    (
                        address4("192.0.2.1"),
                        Element { last: Some(address4("192.0.2.1")), ..lasting(Some(Verdict::Return)) },
                    ),
                    (
                        address4("255.255.255.0"),
                        Element { last: Some(address4("255.255.255.255")), ..lasting(Some(Verdict::Accept)) },
                    ),
                ],
            ),
        ),
        (
            "nets6",
            with_elements(
                Set::verdicts(&[v6]).with_intervals().with_expiry(),
                [(
                    address6("fd04:2::"),
                    until(
                        Some(address6("fd04:2::ffff:ffff:ffff:ffff")),
                        Some(Verdict::Goto("helper".into())),
                    ),
                )],
            ),
        ),
        (
            "windows",
            with_elements(
                Set::plain(&[Field::Time]).with_intervals().with_expiry(),
                [
                    (
                        at(1_900_000_000),
                        Element { comment: None, ..until(Some(before(1_900_003_600)), None) },
                    ),
                    (
                        at(1_900_003_600),
                        Element { comment: None, ..until(Some(before(1_900_007_200)), None) },
                    ),
                ],
            ),
        ),
        (
            "grants4",
            with_elements(
                Set::plain(&GRANT).with_expiry(),
                [(grant(0x0a00_0001, 443), until(None, None)), (grant(0x0a00_0002, 443), plain())],
            ),
        ),
        (
            "ranges4",
            with_elements(
                Set::verdicts(&GRANT).with_intervals().with_expiry(),
                [
                    (first, until(Some(last), jump("helper"))),
                    (other, Element { last: Some(other_last), ..lasting(Some(Verdict::Accept)) }),
                ],
            ),
        ),
        (
            "timed4",
            with_elements(
                Set::plain(&[v4, Field::Time]).with_intervals(),
                [(
                    Key::from_bytes(&[address4("10.0.0.1").bytes(), at(1_900_000_000).bytes()].concat()),
                    Element {
                        last: Some(Key::from_bytes(
                            &[address4("10.0.0.9").bytes(), before(1_900_003_600).bytes()].concat(),
                        )),
                        ..plain()
                    },
                )],
            ),
        ),
        (
            "cg_grants4",
            with_elements(
                Set::plain(&[Field::Cgroup, v4, Field::Protocol, Field::Port]).with_expiry(),
                [(in_cgroup(|key| key.address(Family::V4, 0x0a00_0001).protocol(6).port(443)), named_until)],
            ),
        ),
        (
            "cg_segments",
            with_elements(Set::verdicts(&[Field::Cgroup]), [(in_cgroup(|key| key), named(jump("helper")))]),
        ),
        (
            "flows4",
            Set::dynamic(&[v4, Field::Port, v4, Field::Port], 65536, Some(Duration::from_secs(120)), false),
        ),
        (
            "owned6",
            Set::dynamic(&[Field::Number, v6, Field::Port], 1024, Some(Duration::from_secs(432_000)), false),
        ),
        ("refused4", Set::dynamic(&GRANT, 1024, None, true)),
        ("refused6", Set::dynamic(&[v6, Field::Protocol], 1024, Some(Duration::from_secs(3600)), true)),
        ("logged4", Set::dynamic(&[v4], 4096, Some(Duration::from_secs(60)), false)),
        (
            "echoes4",
            Set::dynamic(&[v4, Field::EchoId(Family::V4)], 1024, Some(Duration::from_secs(30)), false),
        ),
        (
            "echoes6",
            Set::dynamic(&[v6, Field::EchoId(Family::V6)], 1024, Some(Duration::from_secs(30)), false),
        ),
    ];
    ruleset.sets.extend(sets.map(|(name, set)| (name.to_owned(), set)));
}

fn every_rule(ruleset: &mut Ruleset) {
    let chains = [
        ("helper", None, vec![vec![Statement::Verdict(Verdict::Return)]]),
        ("tests", None, every_match()),
        ("sockets", None, every_socket_rule()),
        ("updates", None, every_update()),
        ("ends", None, every_end()),
        (
            "hook-out",
            Some((Hook::Output, -10)),
            vec![
                vec![Statement::LeavesByLoopback, jump_to("tests")],
                vec![jump_to("sockets")],
                vec![jump_to("updates")],
                vec![jump_to("ends")],
            ],
        ),
        (
            "hook-in",
            Some((Hook::Input, -10)),
            vec![
                vec![jump_to("updates")],
                vec![jump_to("ends")],
                vec![Statement::ArrivesByLoopback, Statement::Verdict(Verdict::Goto("sockets".into()))],
            ],
        ),
        (
            "hook-forward",
            Some((Hook::Forward, 5)),
            vec![
                vec![jump_to("tests")],
                vec![jump_to("ends")],
                vec![Statement::Count("passed".into()), Statement::Verdict(Verdict::Accept)],
            ],
        ),
    ];
    let chain = |base, rules: Vec<Vec<Statement>>| Chain { base, rules: shared(rules) };
    ruleset.chains.extend(chains.map(|(name, base, rules)| (name.to_owned(), chain(base, rules))));
}

fn jump_to(chain: &str) -> Statement {
    Statement::Verdict(Verdict::Jump(chain.into()))
}

fn lookup(key: &[Load], set: &str) -> Statement {
    Statement::Lookup { key: key.to_vec(), set: set.into(), negated: false }
}

fn dispatch(key: &[Load], map: &str) -> Statement {
    Statement::Dispatch { key: key.to_vec(), map: map.into() }
}

fn port(protocol: u8, side: Side, low: u16, high: u16) -> Statement {
    Statement::Port { protocol, side, range: PortRange::new(low, high).unwrap() }
}

fn flags(mask: u8, value: u8, negated: bool) -> Statement {
    Statement::TcpFlags { mask, value, negated }
}

fn shared(rules: Vec<Vec<Statement>>) -> Vec<Rule> {
    rules.into_iter().map(Into::into).collect()
}

fn every_match() -> Vec<Vec<Statement>> {
    use Side::{Destination, Source};
    use Statement::*;
    let to4 = Load::Address(Family::V4, Destination);
    let from6 = Load::Address(Family::V6, Source);
    let instant = Time::from_timestamp(1_900_000_000, 0).unwrap();
    let drop = || Verdict(self::Verdict::Drop);
    let icmp = |family, low, high| IcmpType { family, low, high };
    vec![
        vec![Leaving, drop()],
        vec![Arriving, drop()],
        vec![lookup(&[to4], "gate4"), drop()],
        vec![Lookup { key: vec![to4], set: "gate4".into(), negated: true }, drop()],
        vec![lookup(&[Load::Network(Family::V4, Destination)], "roughly4"), drop()],
        vec![lookup(&[Load::Network(Family::V6, Source)], "roughly6"), drop()],
        vec![lookup(&[from6], "gate6"), HopLimit(255), drop()],
        vec![lookup(&[Load::Protocol], "protocols"), drop()],
        vec![lookup(&[Load::Port(Source)], "ports"), drop()],
        vec![lookup(&[Load::Port(Destination)], "port_ranges"), drop()],
        vec![dispatch(&[to4], "nets4")],
        vec![dispatch(&[from6], "nets6")],
        vec![lookup(&[Load::Time], "windows"), drop()],
        vec![lookup(&[to4, Load::Protocol, Load::Port(Destination)], "grants4"), drop()],
        vec![dispatch(&[to4, Load::Protocol, Load::Port(Source)], "ranges4")],
        vec![lookup(&[to4, Load::Time], "timed4"), drop()],
        vec![Protocol(protocol::TCP), drop()],
        vec![Protocol(47), drop()],
        vec![port(protocol::TCP, Destination, 443, 443), drop()],
        vec![port(protocol::UDP, Source, 1000, 2000), lookup(&[to4], "gate4"), drop()],
        vec![
            port(protocol::TCP, Destination, 443, 443),
            port(protocol::TCP, Source, 1024, 65535),
            flags(tcp::SYN | tcp::ACK, tcp::SYN, false),
            drop(),
        ],
        vec![Protocol(protocol::TCP), flags(tcp::SYN | tcp::RST, 0, false), drop()],
        vec![flags(tcp::SYN | tcp::ACK, tcp::SYN, true), drop()],
        vec![flags(tcp::SYN | tcp::FIN | tcp::RST, tcp::RST, false), drop()],
        vec![HasPayload, drop()],
        vec![Statement::ClientHello, drop()],
        vec![Protocol(protocol::TCP), Statement::ClientHello, drop()],
        vec![Statement::ExtensionHeader, drop()],
        vec![Statement::FromProcess, drop()],
        vec![Statement::Owner(Account::User(1000)), drop()],
        vec![Statement::Owner(Account::Group(0)), drop()],
        vec![icmp(Family::V4, 3, 3), Statement::QuotesTcp(Family::V4), drop()],
        vec![icmp(Family::V6, 1, 4), Statement::QuotesTcp(Family::V6), drop()],
        vec![icmp(Family::V4, 8, 8), drop()],
        vec![icmp(Family::V4, 3, 5), lookup(&[to4], "gate4"), drop()],
        vec![icmp(Family::V6, 133, 136), HopLimit(255), drop()],
        vec![Protocol(protocol::ICMP), icmp(Family::V4, 0, 0), drop()],
        vec![Fragment(Family::V4), drop()],
        vec![Fragment(Family::V6), drop()],
        vec![lookup(&[to4], "gate4"), Fragment(Family::V4), drop()],
        vec![From(instant), Before(instant + seconds(3600)), drop()],
    ]
}

fn every_socket_rule() -> Vec<Vec<Statement>> {
    use Statement::{AnySocket, FullSocket};
    let from4 = Load::Address(Family::V4, Side::Source);
    let cgroup = Load::Cgroup { level: 1 };
    let deep = Load::Cgroup { level: 2 };
    let key = [cgroup, from4, Load::Protocol, Load::Port(Side::Source)];
    vec![
        vec![FullSocket, Statement::Verdict(Verdict::Accept)],
        vec![AnySocket, Statement::Verdict(Verdict::Accept)],
        vec![lookup(&key, "cg_grants4"), Statement::Verdict(Verdict::Accept)],
        vec![dispatch(&[deep], "cg_segments")],
    ]
}

fn every_update() -> Vec<Vec<Statement>> {
    use Side::{Destination, Source};
    let from4 = Load::Address(Family::V4, Source);
    let to4 = Load::Address(Family::V4, Destination);
    let from6 = Load::Address(Family::V6, Source);
    let flow = vec![to4, Load::Port(Destination), from4, Load::Port(Source)];
    let echo = |family| Load::EchoId(family);
    let ping = |family, kind| Statement::IcmpType { family, low: kind, high: kind };
    let update = |set: &str, key, limit| Statement::Update { set: set.into(), key, limit };
    let flow4 = flow.clone();
    let owned6 = vec![Load::Number(1000), from6, Load::Port(Source)];
    vec![
        vec![Statement::Protocol(protocol::UDP), update("flows4", flow, None)],
        vec![update("refused4", vec![from4, Load::Protocol, Load::Port(Destination)], None)],
        vec![update("refused6", vec![from6, Load::Protocol], None)],
        vec![update("logged4", vec![from4], Some(50)), Statement::Verdict(Verdict::Accept)],
        vec![ping(Family::V4, 8), update("echoes4", vec![to4, echo(Family::V4)], None)],
        vec![update("echoes4", vec![from4, echo(Family::V4)], None)],
        vec![update("echoes6", vec![from6, echo(Family::V6)], None)],
        vec![lookup(&[from6, echo(Family::V6)], "echoes6"), Statement::Verdict(Verdict::Drop)],
        vec![Statement::UpdateFor {
            set: "flows4".into(),
            key: flow4.clone(),
            timeout: Duration::from_secs(300),
        }],
        vec![Statement::Delete { set: "flows4".into(), key: flow4 }],
        vec![update("owned6", owned6.clone(), None)],
        vec![lookup(&owned6, "owned6"), Statement::Verdict(Verdict::Accept)],
    ]
}

fn every_end() -> Vec<Vec<Statement>> {
    let log = |prefix: &str| Statement::Log { prefix: prefix.to_owned(), group: 4747 };
    vec![
        vec![log("stripe/egress/closed "), Statement::Count("refused".into())],
        vec![Statement::RejectWithReset],
        vec![port(protocol::TCP, Side::Source, 1, 1023), Statement::RejectWithReset],
        vec![Statement::Protocol(protocol::UDP), Statement::RejectAsProhibited],
        vec![Statement::Verdict(Verdict::Drop)],
    ]
}

/// The listing without times that pass and without sets of cgroups, which we type differently on purpose.
fn normalised(listing: &str) -> String {
    let mut lines = Vec::new();
    let mut skipping = false;
    for line in listing.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        if let ["set" | "map", name, "{"] = words[..] {
            skipping = name.starts_with("cg_");
        }
        if !skipping {
            lines.push(without_timeouts(&words));
        }
        skipping &= line != "\t}";
    }
    lines.join("\n")
}

fn without_timeouts(words: &[&str]) -> String {
    if words.first() == Some(&"timeout") {
        return words.join(" ");
    }
    let mut kept = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "timeout" | "expires" => drop(words.next()),
            word => kept.push(word),
        }
    }
    kept.join(" ")
}

/// The expressions of all rules as the kernel dumps them.
fn expressions() -> Vec<String> {
    run("nft", &["--debug=netlink", "list", "table", "inet", "picoseg"])
        .lines()
        .filter(|line| line.trim_start().starts_with('['))
        // nft swaps the one byte of a protocol before it asks a range set: it has no effect.
        .filter(|line| !line.contains("2, 1)"))
        .flat_map(|line| match line.split_once("__set") {
            Some((head, _)) => vec![format!("{head}__set")],
            None => in_comparisons(line),
        })
        .collect()
}

/// nft 1.1 makes one expression of the two comparisons of a range, which means the same to the kernel.
fn in_comparisons(line: &str) -> Vec<String> {
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["[", "range", "eq", "reg", register, from, to, "]"] => {
            let bound = |word, value| format!("  [ cmp {word} reg {register} {value} ]");
            vec![bound("gte", from), bound("lte", to)]
        }
        _ => vec![line.to_owned()],
    }
}

#[test]
fn a_committed_table_lists_like_one_that_nft_loaded() {
    let committed = shown(|ruleset| {
        let changeset = installation(ruleset);
        let mut table = open(false);
        table.commit(&changeset, &Utc::now).unwrap();
        assert_eq!(table.verify(&changeset, &Utc::now).unwrap(), []);
        let inventory = table.inventory().unwrap().unwrap();
        let counters: Vec<_> = ruleset.counters.iter().cloned().collect();
        assert_eq!(inventory.counters, counters);
        let chains: Vec<_> = ruleset.chains.iter().map(|(name, chain)| (name.clone(), chain.base)).collect();
        assert_eq!(inventory.chains, chains);
        let kind = |set: &Set| matches!(set.kind, picoseg::ruleset::SetKind::Dynamic { .. });
        let sets: Vec<_> = ruleset.sets.iter().map(|(name, set)| (name.clone(), kind(set))).collect();
        assert_eq!(inventory.sets, sets);
    });
    let loaded = shown(|ruleset| {
        let text = ruleset.print(Utc::now()).to_string();
        nft_file(&["-c"], &text);
        nft_file(&[], &text);
    });
    let (Some(committed), Some(loaded)) = (committed, loaded) else {
        return;
    };
    similar(&committed.0, &loaded.0);
    similar(&committed.1.join("\n"), &loaded.1.join("\n"));
}

/// Loads everything in a namespace; returns the listing and the expressions of the rules.
fn shown(load: impl FnOnce(&Ruleset) + Send + 'static) -> Option<(String, Vec<String>)> {
    static ONE_CGROUP: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let (sender, receiver) = std::sync::mpsc::channel();
    in_namespace(move || {
        let _guard = ONE_CGROUP.lock();
        let cgroup = Cgroup::create();
        load(&everything(&cgroup));
        let listing = normalised(&run("nft", &["list", "table", "inet", "picoseg"]));
        sender.send((listing, expressions())).unwrap();
    });
    receiver.recv().ok()
}

fn similar(committed: &str, loaded: &str) {
    for (committed, loaded) in committed.lines().zip(loaded.lines()) {
        assert_eq!(committed, loaded);
    }
    assert_eq!(committed.lines().count(), loaded.lines().count());
}

#[test]
fn cgroups_list_as_numbers_with_their_path_beside_them() {
    in_namespace(|| {
        let key = Key::builder().cgroup(0x1001).address(Family::V4, 0x0a00_0001).build();
        let element = Element { comment: Some("system.slice/stripe.service".into()), ..Element::default() };
        let set = with_elements(Set::plain(&[Field::Cgroup, Field::Address(Family::V4)]), [(key, element)]);
        let mut ruleset = Ruleset::new("picoseg");
        ruleset.sets.insert("subjects".into(), set);
        open(true).commit(&installation(&ruleset), &Utc::now).unwrap();
        let listing = run("nft", &["list", "table", "inet", "picoseg"]);
        let element = "0x00001001 . 0x00000000 . 10.0.0.1 comment \"system.slice/stripe.service\"";
        assert!(listing.contains(element), "{listing}");
    });
}

// ---- all or nothing -------------------------------------------------------------------------------------------

fn many_grants(count: u32) -> Vec<(Key, Element)> {
    let element = Element {
        closes_at: Some(Utc::now() + seconds(3600)),
        comment: Some("stripe/1".into()),
        ..Element::default()
    };
    (0..count).map(|number| (grant(0x0a00_0000 + number, 443), element.clone())).collect()
}

fn add_grants(set: &Set, elements: Vec<(Key, Element)>) -> Step {
    Step::AddElements("grants4".into(), set.clone(), elements.into())
}

#[test]
fn a_bad_step_at_the_end_of_a_megabyte_changes_nothing_and_is_named() {
    in_namespace(|| {
        let mut table = open(true);
        let grants = Set::plain(&GRANT).with_expiry();
        let guard = Set::verdicts(&[Field::Address(Family::V4)]);
        let to = |address, verdict| (address4(address), Element { verdict, ..Element::default() });
        let good = || {
            vec![
                Step::AddSet("grants4".into(), grants.clone()),
                Step::AddSet("guard".into(), guard.clone()),
                Step::AddChain("there".into(), None),
                add_grants(&grants, many_grants(20_000)),
            ]
        };
        let mut bad = good();
        let elements =
            [to("10.0.0.1", jump("there")), to("10.0.0.2", jump("there")), to("10.0.0.3", jump("nowhere"))];
        bad.push(Step::AddElements("guard".into(), guard.clone(), elements.to_vec().into()));
        bad.push(Step::AddRule("there".into(), vec![Statement::Verdict(Verdict::Accept)].into()));
        bad.push(Step::AddRule("there".into(), vec![Statement::Count("absent".into())].into()));
        let error = table.commit(&changeset(bad), &Utc::now).unwrap_err();
        let text = error.to_string();
        let start = "cannot commit table inet picoseg: netlink refused element 3 of \"guard\": No such file or directory";
        assert!(text.starts_with(start), "{text}");
        assert!(text.contains("rule 2 of chain \"there\": No such file or directory"), "{text}");
        assert_eq!(table.inventory().unwrap(), None);
        let committed = table.commit(&changeset(good()), &Utc::now).unwrap();
        assert!(committed.bytes > 1_000_000, "{committed:?}");
        assert_eq!(table.inventory().unwrap().unwrap().sets.len(), 2);
    });
}

#[test]
fn a_refused_element_in_a_later_message_keeps_its_number() {
    in_namespace(|| {
        let mut table = open(true);
        let grants = Set::plain(&GRANT).with_expiry();
        let mut elements = many_grants(5000);
        elements[3210].1.verdict = Some(Verdict::Accept);
        // Skipped ones do not shift the numbers.
        elements[7].1.closes_at = Some(Utc::now() - seconds(1));
        let steps = vec![Step::AddSet("grants4".into(), grants.clone()), add_grants(&grants, elements)];
        let error = table.commit(&changeset(steps), &Utc::now).unwrap_err();
        let CommitError::Refused { failures, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(failures[0].object, "element 3211 of \"grants4\"", "{error}");
    });
}

// ---- step by step ---------------------------------------------------------------------------------------------

fn base_ruleset() -> Ruleset {
    let mut ruleset = Ruleset::new("picoseg");
    ruleset.counters.insert("passed".into());
    let nets = Set::verdicts(&[Field::Address(Family::V4)]).with_intervals();
    let net = |first: &str, last: &str, verdict| {
        let last = Some(address4(last));
        (address4(first), Element { last, verdict, ..Element::default() })
    };
    let ranges = Set::verdicts(&GRANT).with_intervals().with_expiry();
    let range = |low, high, verdict| {
        let element = Element {
            last: Some(grant(0x0a00_00ff, high)),
            closes_at: Some(Utc::now() + seconds(600)),
            verdict,
            comment: None,
        };
        (grant(0x0a00_0000, low), element)
    };
    let sets = [
        ("grants4", with_elements(Set::plain(&GRANT).with_expiry(), many_grants(10))),
        (
            "nets4",
            with_elements(
                nets,
                [
                    net("10.0.0.0", "10.0.0.255", jump("svc-old")),
                    net("10.0.1.0", "10.0.1.255", Some(Verdict::Accept)),
                    net("10.0.2.0", "10.0.2.255", Some(Verdict::Drop)),
                ],
            ),
        ),
        (
            "ranges4",
            with_elements(ranges, [range(1, 99, jump("svc-old")), range(100, 199, Some(Verdict::Accept))]),
        ),
    ];
    ruleset.sets.extend(sets.map(|(name, set)| (name.to_owned(), set)));
    let rule = |verdict| vec![Statement::Verdict(verdict)];
    let key = [Load::Address(Family::V4, Side::Destination)];
    let chains = [
        ("svc-old", None, vec![rule(Verdict::Return)]),
        (
            "svc-stripe",
            None,
            vec![
                vec![Statement::Before(second_from_now(600)), Statement::Verdict(Verdict::Accept)],
                vec![Statement::Count("passed".into())],
            ],
        ),
        ("output", Some((Hook::Output, -10)), vec![vec![dispatch(&key, "nets4")]]),
    ];
    let chain = |base, rules: Vec<Vec<Statement>>| Chain { base, rules: shared(rules) };
    ruleset.chains.extend(chains.map(|(name, base, rules)| (name.to_owned(), chain(base, rules))));
    ruleset
}

/// Replaces the service of the base ruleset: every kind of step at once.
fn replacement(base: &Ruleset) -> Changeset {
    let set = |name: &str| base.sets[name].declaration();
    let keys = |name: &str, from: usize, to: usize| {
        let all = base.sets[name].elements.iter();
        all.map(|(key, element)| (key.clone(), element.last.clone()))
            .skip(from)
            .take(to - from)
            .collect::<Vec<_>>()
    };
    let new = Element { last: Some(address4("10.0.0.255")), verdict: jump("svc-new"), ..Element::default() };
    changeset(vec![
        Step::AddCounter("new".into()),
        Step::AddSet("extra".into(), Set::plain(&[Field::Port])),
        Step::AddChain("svc-new".into(), None),
        Step::DeleteElements("grants4".into(), set("grants4"), keys("grants4", 2, 5)),
        Step::DeleteElements("nets4".into(), set("nets4"), keys("nets4", 0, 2)),
        Step::DeleteElements("ranges4".into(), set("ranges4"), keys("ranges4", 0, 1)),
        Step::FlushChain("svc-stripe".into()),
        Step::AddRule(
            "svc-stripe".into(),
            vec![Statement::Count("new".into()), Statement::Verdict(Verdict::Drop)].into(),
        ),
        Step::AddRule(
            "svc-new".into(),
            vec![lookup(&[Load::Port(Side::Destination)], "extra"), Statement::Verdict(Verdict::Accept)]
                .into(),
        ),
        Step::AddElements("nets4".into(), set("nets4"), [(address4("10.0.0.0"), new)].into()),
        Step::AddElements(
            "extra".into(),
            Set::plain(&[Field::Port]),
            [(Key::builder().port(443).build(), Element::default())].into(),
        ),
        Step::DeleteChain("svc-old".into()),
        Step::DeleteCounter("passed".into()),
    ])
}

#[test]
fn steps_of_every_kind_go_in_one_transaction_and_verify() {
    in_namespace(|| {
        let mut table = open(false);
        let base = base_ruleset();
        table.commit(&installation(&base), &Utc::now).unwrap();
        let before = table.generation().unwrap();
        let step = replacement(&base);
        table.commit(&step, &Utc::now).unwrap();
        assert_eq!(table.generation().unwrap(), before + 1);
        assert_eq!(table.verify(&step, &Utc::now).unwrap(), []);
        let inventory = table.inventory().unwrap().unwrap();
        assert_eq!(inventory.counters, ["new"]);
        let chains: Vec<_> = inventory.chains.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(chains, ["output", "svc-new", "svc-stripe"]);
        let listing = run("nft", &["list", "map", "inet", "picoseg", "nets4"]);
        // nft 1.1 breaks the line.
        let line = listing.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(line.contains("10.0.0.0/24 : jump svc-new, 10.0.2.0/24 : drop"), "{listing}");
        let gone = changeset(vec![Step::FlushChain("svc-new".into()), Step::DeleteSet("extra".into())]);
        table.commit(&gone, &Utc::now).unwrap();
        assert_eq!(table.verify(&gone, &Utc::now).unwrap(), []);
    });
}

#[test]
fn what_others_change_shows_as_differences() {
    in_namespace(|| {
        let mut table = open(false);
        let installed = installation(&base_ruleset());
        table.commit(&installed, &Utc::now).unwrap();
        let mut differs = |command: &str, expected: &str| {
            run("nft", &command.split(' ').collect::<Vec<_>>());
            let found = table.verify(&installed, &Utc::now).unwrap();
            let texts: Vec<_> = found.iter().map(ToString::to_string).collect();
            assert!(texts.iter().any(|text| text.contains(expected)), "{command}: {texts:?}");
        };
        differs("add rule inet picoseg svc-old drop", "chain \"svc-old\" has 2 rules instead of 1");
        differs("flush chain inet picoseg svc-stripe", "chain \"svc-stripe\" has 0 rules instead of 2");
        differs("add rule inet picoseg svc-stripe accept", "chain \"svc-stripe\" has 1 rules");
        differs(
            "add rule inet picoseg svc-stripe drop",
            "rule 1 of chain \"svc-stripe\" reads [immediate reg 0 accept]",
        );
        differs(
            "delete element inet picoseg grants4 { 10.0.0.3 . tcp . 443 }",
            "element \"stripe/1\" of \"grants4\" is missing",
        );
        differs("add element inet picoseg grants4 { 10.0.0.3 . tcp . 443 }", "\"grants4\" never expires");
        differs("delete element inet picoseg nets4 { 10.0.2.0/24 }", "of \"nets4\" is missing");
        differs(
            "add element inet picoseg nets4 { 10.0.2.0/24 : accept }",
            "of \"nets4\" has the verdict Some(Accept)",
        );
        differs("delete counter inet picoseg passed", "counter \"passed\" is missing");
    });
}

#[test]
fn a_table_that_somebody_removed_is_reported_and_not_quietly_begun_anew() {
    in_namespace(|| {
        let mut table = open(false);
        let installed = installation(&base_ruleset());
        table.commit(&installed, &Utc::now).unwrap();
        run("nft", &["delete", "table", "inet", "picoseg"]);
        let small = changeset(vec![Step::AddCounter("new".into())]);
        assert!(matches!(table.commit(&small, &Utc::now), Err(CommitError::Vanished { .. })));
        assert_eq!(table.inventory().unwrap(), None);
        table.commit(&installed, &Utc::now).unwrap();
    });
}

#[test]
fn a_hundred_thousand_elements_go_in_one_transaction() {
    in_namespace(|| {
        let grants = Set::plain(&GRANT).with_expiry();
        let ranges = grants.clone().with_intervals();
        let sizes = [10, 1000, 10_000, 100_000].map(|count| (&grants, count));
        for (set, count) in sizes.into_iter().chain([(&ranges, 1000), (&ranges, 10_000)]) {
            let mut table = open(true);
            let steps =
                vec![Step::AddSet("grants4".into(), set.clone()), add_grants(set, many_grants(count))];
            let changeset = changeset(steps);
            let committed = table.commit(&changeset, &Utc::now).unwrap();
            let began = Instant::now();
            assert_eq!(table.verify(&changeset, &Utc::now).unwrap(), []);
            let verified = began.elapsed();
            println!("{count} elements, ranges {}: {committed:?}, verified in {verified:?}", set.interval);
            assert!(table.remove().unwrap());
        }
    });
}

// ---- time -----------------------------------------------------------------------------------------------------

/// True when a datagram to a local port leaves: a drop in the output hook is an error of `send`.
fn passes(socket: &UdpSocket, port: u16) -> bool {
    match socket.send_to(b"x", ("127.0.0.1", port)) {
        Ok(_) => true,
        Err(error) => match error.raw_os_error() {
            Some(libc::EPERM) => false,
            // The answer to an earlier datagram: nobody listens.
            Some(libc::ECONNREFUSED) => passes(socket, port),
            _ => panic!("{error}"),
        },
    }
}

const WINDOW_PORT: u16 = 9999;

fn window_set() -> Set {
    Set::plain(&[Field::Time]).with_intervals().with_expiry()
}

fn window(opens_at: Time, until: Time, closes_at: Time) -> (Key, Element) {
    let element = Element {
        last: Some(Key::builder().time_before(until).build()),
        closes_at: Some(closes_at),
        ..Element::default()
    };
    (Key::builder().time(opens_at).build(), element)
}

/// A table that lets datagrams to the port pass inside the windows only.
fn window_table(windows: impl IntoIterator<Item = (Key, Element)>) -> Table {
    let mut ruleset = Ruleset::new("picoseg");
    ruleset.sets.insert("windows".into(), with_elements(window_set(), windows));
    let rules = vec![
        vec![lookup(&[Load::Time], "windows"), Statement::Verdict(Verdict::Accept)],
        vec![
            port(protocol::UDP, Side::Destination, WINDOW_PORT, WINDOW_PORT),
            Statement::Verdict(Verdict::Drop),
        ],
    ];
    let base = Some((Hook::Output, -10));
    ruleset.chains.insert("output".into(), Chain { base, rules: shared(rules) });
    let mut table = open(true);
    table.commit(&installation(&ruleset), &Utc::now).unwrap();
    table
}

/// Sends until an instant; returns the first and last instants at which datagrams passed, as seen before and after them.
fn observe(until: Time) -> (Option<Time>, Option<Time>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (mut first, mut last) = (None, None);
    while Utc::now() < until {
        let before = Utc::now();
        if passes(&socket, WINDOW_PORT) {
            first = first.or(Some(Utc::now()));
            last = Some(before);
        }
        thread::sleep(Duration::from_millis(1));
    }
    (first, last)
}

fn ms(count: i64) -> TimeDelta {
    TimeDelta::milliseconds(count)
}

#[test]
fn a_window_opens_and_closes_by_the_wall_clock() {
    in_namespace(|| {
        let (opens_at, until) = (Utc::now() + ms(200), Utc::now() + ms(500));
        let _table = window_table([window(opens_at, until, until + seconds(60))]);
        let (first, last) = observe(until + ms(200));
        let (first, last) = (first.unwrap(), last.unwrap());
        assert!(opens_at <= first && first < opens_at + ms(150), "{opens_at} {first}");
        assert!(until - ms(150) < last && last < until, "{until} {last}");
    });
}

#[test]
fn an_elements_timeout_closes_before_the_wall_clock_does() {
    in_namespace(|| {
        let now = Utc::now();
        let closes_at = now + ms(400);
        let _table = window_table([window(now, now + seconds(3600), closes_at)]);
        let (_, last) = observe(closes_at + ms(300));
        let last = last.unwrap();
        // The margin, and a tick of the kernel's clock.
        assert!(closes_at - ms(150) < last && last < closes_at + ms(40), "{closes_at} {last}");
    });
}

#[test]
fn a_window_is_armed_again_for_longer_and_for_shorter_in_one_transaction() {
    in_namespace(|| {
        let now = Utc::now();
        let until = now + seconds(3600);
        let mut table = window_table([window(now, until, now + ms(300))]);
        let mut rearm = |closes_at| {
            let (key, element) = window(now, until, closes_at);
            let step = changeset(vec![
                Step::DeleteElements(
                    "windows".into(),
                    window_set(),
                    vec![(key.clone(), element.last.clone())],
                ),
                Step::AddElements("windows".into(), window_set(), [(key, element)].into()),
            ]);
            table.commit(&step, &Utc::now).unwrap();
            assert_eq!(table.verify(&step, &Utc::now).unwrap(), []);
        };
        rearm(now + seconds(60));
        let (_, last) = observe(now + ms(600));
        assert!(last.unwrap() > now + ms(500), "longer");
        let closes_at = Utc::now() + ms(200);
        rearm(closes_at);
        let (_, last) = observe(closes_at + ms(200));
        let last = last.unwrap();
        assert!(closes_at - ms(150) < last && last < closes_at + ms(40), "shorter: {closes_at} {last}");
        // Also when the old element is over already.
        rearm(Utc::now() + seconds(60));
        assert!(observe(Utc::now() + ms(50)).0.is_some(), "again");
    });
}

#[test]
fn a_window_that_is_over_goes_without_its_neighbours() {
    in_namespace(|| {
        let start = Utc::now();
        let later = window(start + seconds(600), start + seconds(700), start + seconds(700));
        let short = |from: Time| window(from, from + ms(100), from + ms(100));
        let mut old = short(start);
        let mut table = window_table([old.clone(), later.clone()]);
        let listing = || run("nft", &["list", "set", "inet", "picoseg", "windows"]);
        for _ in 0..5 {
            thread::sleep(Duration::from_millis(200));
            let new = short(Utc::now());
            let step = changeset(vec![
                Step::DeleteElements("windows".into(), window_set(), vec![(old.0, old.1.last)]),
                Step::AddElements("windows".into(), window_set(), [new.clone()].into()),
            ]);
            table.commit(&step, &Utc::now).unwrap();
            assert_eq!(table.verify(&step, &Utc::now).unwrap(), []);
            let both =
                changeset(vec![Step::AddElements("windows".into(), window_set(), [later.clone()].into())]);
            // Only whether it is there: how late its timeout began is known of the last commit only.
            let differences = table.verify(&both, &Utc::now).unwrap();
            assert!(differences.iter().all(|d| !d.to_string().contains("missing")), "{}", listing());
            old = new;
        }
    });
}

/// A set of each layout: single keys, ranges of several fields, ranges of one.
fn layouts() -> [(Set, Key, Option<Key>); 3] {
    let address = Set::verdicts(&[Field::Address(Family::V4)]).with_expiry();
    let grants = Set::verdicts(&GRANT).with_expiry();
    [
        (grants.clone(), grant(1, 1), None),
        (grants.with_intervals(), grant(1, 1), Some(grant(9, 9))),
        (address.with_intervals(), address4("10.0.0.1"), Some(address4("10.0.0.9"))),
    ]
}

#[test]
fn elements_of_every_layout_are_armed_again_while_they_live_and_afterwards() {
    in_namespace(|| {
        let mut table = open(true);
        for (number, (set, key, last)) in layouts().into_iter().enumerate() {
            let name = format!("set{number}");
            let element = |milliseconds| Element {
                last: last.clone(),
                verdict: Some(Verdict::Accept),
                closes_at: Some(Utc::now() + ms(milliseconds)),
                comment: Some("again".into()),
            };
            let add = |milliseconds| {
                Step::AddElements(name.clone(), set.clone(), [(key.clone(), element(milliseconds))].into())
            };
            let delete =
                || Step::DeleteElements(name.clone(), set.clone(), vec![(key.clone(), last.clone())]);
            let mut commit = |steps| {
                let step = changeset(steps);
                table.commit(&step, &Utc::now).unwrap();
                assert_eq!(table.verify(&step, &Utc::now).unwrap(), []);
            };
            commit(vec![Step::AddSet(name.clone(), set.clone()), add(10_000)]);
            commit(vec![delete(), add(100_000)]);
            commit(vec![delete(), add(60)]);
            thread::sleep(Duration::from_millis(100));
            commit(vec![delete(), add(60)]);
            thread::sleep(Duration::from_millis(100));
            commit(vec![add(1000)]);
        }
    });
}

#[test]
fn ranges_grow_shrink_and_move_in_one_transaction() {
    in_namespace(|| {
        let mut table = open(true);
        let nets = Set::verdicts(&[Field::Address(Family::V4)]).with_intervals().with_expiry();
        let pairs = Set::plain(&[Field::Address(Family::V4), Field::Port]).with_intervals();
        let pair = |low: u32| Key::builder().address(Family::V4, low.into()).port(443).build();
        let single = |low: u32| Key::builder().address(Family::V4, low.into()).build();
        let mut change =
            |name: &str, set: &Set, key: &dyn Fn(u32) -> Key, from: &[(u32, u32)], to: &[(u32, u32)]| {
                let element = |last| Element {
                    last: Some(key(last)),
                    verdict: matches!(set.kind, picoseg::ruleset::SetKind::Verdicts)
                        .then_some(Verdict::Accept),
                    closes_at: set.expires.then(|| Utc::now() + seconds(100)),
                    comment: None,
                };
                let old = from.iter().map(|(low, high)| (key(*low), Some(key(*high)))).collect();
                let new = to.iter().map(|(low, high)| (key(*low), element(*high))).collect();
                let mut steps = vec![
                    Step::DeleteElements(name.into(), set.declaration(), old),
                    Step::AddElements(name.into(), set.declaration(), new),
                ];
                if from.is_empty() {
                    steps[0] = Step::AddSet(name.into(), set.declaration());
                }
                let step = changeset(steps);
                table.commit(&step, &Utc::now).unwrap();
                assert_eq!(table.verify(&step, &Utc::now).unwrap(), [], "{name}: {from:?} to {to:?}");
            };
        let shapes: [&[(u32, u32)]; 8] = [
            &[],
            &[(10, 19), (20, 29), (30, 39)],
            &[(10, 39)],
            &[(10, 14), (15, 39)],
            &[(5, 39)],
            &[(5, 50)],
            &[(40, 60), (61, u32::MAX)],
            &[(0, 39), (40, 60), (61, u32::MAX - 1)],
        ];
        for (from, to) in shapes.iter().zip(&shapes[1..]) {
            change("nets", &nets, &single, from, to);
            change("pairs", &pairs, &pair, from, to);
        }
    });
}

#[test]
fn adjacent_windows_live_and_die_apart() {
    in_namespace(|| {
        let now = second_from_now(0);
        let far = now + seconds(7200);
        let windows = [
            window(now - seconds(100), now - seconds(50), far),
            window(now - seconds(50), now + seconds(100), far),
            window(now + seconds(100), now + seconds(200), far),
        ];
        let mut table = window_table(windows.clone());
        assert!(observe(Utc::now() + ms(20)).0.is_some());
        for (key, element) in [&windows[0], &windows[2]] {
            let step = changeset(vec![Step::DeleteElements(
                "windows".into(),
                window_set(),
                vec![(key.clone(), element.last.clone())],
            )]);
            table.commit(&step, &Utc::now).unwrap();
            assert_eq!(table.verify(&step, &Utc::now).unwrap(), []);
            assert!(observe(Utc::now() + ms(20)).0.is_some());
        }
        let (key, element) = windows[1].clone();
        let back = changeset(vec![
            Step::DeleteElements("windows".into(), window_set(), vec![(key, element.last)]),
            Step::AddElements(
                "windows".into(),
                window_set(),
                [windows[0].clone(), windows[2].clone()].into(),
            ),
        ]);
        table.commit(&back, &Utc::now).unwrap();
        assert_eq!(table.verify(&back, &Utc::now).unwrap(), []);
        assert_eq!(observe(Utc::now() + ms(50)), (None, None));
    });
}

#[test]
fn elements_that_are_over_are_neither_added_nor_missed() {
    in_namespace(|| {
        let grants = Set::plain(&GRANT).with_expiry();
        let element = |closes_at| Element { closes_at: Some(closes_at), ..Element::default() };
        let soon = Utc::now() + ms(100);
        let over = (grant(1, 1), element(Utc::now() - seconds(1)));
        let short = (grant(2, 2), element(soon));
        let added = changeset(vec![
            Step::AddSet("grants4".into(), grants.clone()),
            add_grants(&grants, vec![over.clone(), short.clone()]),
        ]);
        let mut table = open(true);
        table.commit(&added, &Utc::now).unwrap();
        assert_eq!(table.verify(&added, &Utc::now).unwrap(), []);
        while Utc::now() < soon + ms(20) {
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(table.verify(&added, &Utc::now).unwrap(), []);
        let keys = vec![(over.0, None), (short.0, None)];
        let deleted = changeset(vec![Step::DeleteElements("grants4".into(), grants, keys)]);
        table.commit(&deleted, &Utc::now).unwrap();
        assert_eq!(table.verify(&deleted, &Utc::now).unwrap(), []);
    });
}

#[test]
fn timeouts_count_from_the_sending_not_from_the_building() {
    in_namespace(|| {
        let start = Utc::now();
        let calls = Cell::new(0);
        // The second reading of the clock, before sending, is three seconds after the first.
        let clock = || {
            calls.set(calls.get() + 1);
            start + if calls.get() > 1 { seconds(3) } else { seconds(0) }
        };
        let grants = Set::plain(&GRANT).with_expiry();
        let element = Element { closes_at: Some(start + seconds(10)), ..Element::default() };
        let steps = vec![
            Step::AddSet("grants4".into(), grants.clone()),
            add_grants(&grants, vec![(grant(1, 1), element)]),
        ];
        open(true).commit(&changeset(steps), &clock).unwrap();
        let listing = run("nft", &["list", "set", "inet", "picoseg", "grants4"]);
        // Seven seconds and the margin.
        assert!(listing.contains("timeout 7s20ms"), "{listing}");
    });
}

// ---- the owner ------------------------------------------------------------------------------------------------

#[test]
fn an_owned_table_is_held_and_can_be_taken_over_when_its_owner_is_gone() {
    in_namespace(|| {
        let mut first = open(true);
        if !first.features().persist {
            eprintln!("SKIPPED: this kernel has no persistent owned tables");
            return;
        }
        first.commit(&installation(&base_ruleset()), &Utc::now).unwrap();
        let Err(CommitError::HeldByAnother { holder, .. }) = Table::open("picoseg", true) else {
            panic!("the table is not held");
        };
        assert_eq!(holder.process.map(|process| process.id), Some(std::process::id()));
        assert!(matches!(Table::unload("picoseg"), Err(CommitError::HeldByAnother { .. })));
        let foreign =
            Command::new("nft").args(["add", "chain", "inet", "picoseg", "intruder"]).output().unwrap();
        assert!(!foreign.status.success());
        drop(first);
        let mut second = open(true);
        assert_eq!(second.inventory().unwrap().unwrap().sets.len(), 3);
        let listing = || run("nft", &["list", "set", "inet", "picoseg", "grants4"]);
        assert!(!listing().contains("flags owner"));
        second.commit(&changeset(vec![Step::AddCounter("second".into())]), &Utc::now).unwrap();
        assert!(run("nft", &["list", "table", "inet", "picoseg"]).contains("flags owner"));
        assert!(listing().contains("10.0.0.9 . tcp . 443"));
    });
}

#[test]
fn an_unprotected_table_that_should_be_protected_is_replaced_as_a_whole() {
    in_namespace(|| {
        let base = installation(&base_ruleset());
        open(false).commit(&base, &Utc::now).unwrap();
        run("nft", &["add", "chain", "inet", "picoseg", "leftover"]);
        let mut table = open(true);
        if !table.features().persist {
            eprintln!("SKIPPED: this kernel has no persistent owned tables");
            return;
        }
        assert_eq!(table.inventory().unwrap(), None);
        table.commit(&base, &Utc::now).unwrap();
        assert_eq!(table.inventory().unwrap().unwrap().chains.len(), 3);
        assert!(run("nft", &["list", "table", "inet", "picoseg"]).contains("flags owner"));
    });
}

#[test]
fn without_protection_everybody_can_write() {
    in_namespace(|| {
        let mut first = open(false);
        first.commit(&installation(&base_ruleset()), &Utc::now).unwrap();
        let mut second = open(false);
        second.commit(&changeset(vec![Step::AddCounter("second".into())]), &Utc::now).unwrap();
        first.commit(&changeset(vec![Step::AddCounter("third".into())]), &Utc::now).unwrap();
        assert_eq!(first.inventory().unwrap().unwrap().counters, ["passed", "second", "third"]);
    });
}

#[test]
fn probing_leaves_nothing_behind() {
    in_namespace(|| {
        let before = open(true).generation().unwrap();
        let mut table = open(true);
        assert_eq!(table.generation().unwrap(), before);
        assert_eq!(run("nft", &["list", "ruleset"]), "");
    });
}

#[test]
fn other_tables_stay_as_they_are() {
    in_namespace(|| {
        nft_file(
            &[],
            "table inet other { chain picoseg { counter\n }\n }\ntable ip picoseg { set grants4 { type ipv4_addr\n }\n }",
        );
        let other = || {
            run("nft", &["list", "table", "inet", "other"]) + &run("nft", &["list", "table", "ip", "picoseg"])
        };
        let before = other();
        let mut table = open(true);
        table.commit(&installation(&base_ruleset()), &Utc::now).unwrap();
        assert_eq!(table.inventory().unwrap().unwrap().sets.len(), 3);
        assert!(table.remove().unwrap());
        assert_eq!(other(), before);
    });
}

#[test]
fn unload_removes_the_table_once() {
    in_namespace(|| {
        open(true).commit(&installation(&base_ruleset()), &Utc::now).unwrap();
        assert!(Table::unload("picoseg").unwrap());
        assert!(!Table::unload("picoseg").unwrap());
        assert_eq!(run("nft", &["list", "ruleset"]), "");
    });
}

#[test]
fn without_the_capability_it_says_not_permitted() {
    in_namespace(|| {
        use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
        let none = CapabilitySets {
            effective: CapabilitySet::empty(),
            permitted: CapabilitySet::empty(),
            inheritable: CapabilitySet::empty(),
        };
        // Of this thread alone.
        set_capabilities(None, none).unwrap();
        assert!(matches!(Table::open("picoseg", true), Err(CommitError::NotPermitted)));
    });
}

// ---- counts ---------------------------------------------------------------------------------------------------

#[test]
fn counters_and_set_counts_say_what_went_by() {
    in_namespace(|| {
        let mut ruleset = Ruleset::new("picoseg");
        ruleset.counters.extend(["some".to_owned(), "none".to_owned()]);
        let seen = Set::dynamic(&GRANT, 16, Some(Duration::from_secs(60)), true);
        let ports = Set::dynamic(&[Field::Port], 16, None, true);
        ruleset.sets.insert("seen".into(), seen.clone());
        ruleset.sets.insert("ports".into(), ports.clone());
        let key =
            vec![Load::Address(Family::V4, Side::Destination), Load::Protocol, Load::Port(Side::Destination)];
        let update = |set: &str, key| Statement::Update { set: set.into(), key, limit: None };
        let rules = vec![vec![
            port(protocol::UDP, Side::Destination, 4000, 4001),
            Statement::Count("some".into()),
            update("seen", key),
            update("ports", vec![Load::Port(Side::Destination)]),
        ]];
        let base = Some((Hook::Output, -10));
        ruleset.chains.insert("output".into(), Chain { base, rules: shared(rules) });
        let mut table = open(true);
        table.commit(&installation(&ruleset), &Utc::now).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for port in [4000, 4000, 4001, 4000, 4000, 4001, 5000] {
            assert!(passes(&socket, port));
        }
        let counters = table.counters().unwrap();
        let sent = counters["some"];
        // A refused datagram makes the next one be sent twice at most.
        assert_eq!(counters, BTreeMap::from([("none".to_owned(), 0), ("some".to_owned(), sent)]));
        let to =
            |port| Key::builder().address(Family::V4, 0x7f00_0001).protocol(protocol::UDP).port(port).build();
        let counts: BTreeMap<_, _> =
            table.set_counts("seen", &seen).unwrap().into_iter().map(|c| (c.key, c.packets)).collect();
        assert_eq!(counts, BTreeMap::from([(to(4000), 4), (to(4001), 2)]));
        assert_eq!(sent, 6);
        let alone = |port| Key::builder().port(port).build();
        let counts: BTreeMap<_, _> =
            table.set_counts("ports", &ports).unwrap().into_iter().map(|c| (c.key, c.packets)).collect();
        assert_eq!(counts, BTreeMap::from([(alone(4000), 4), (alone(4001), 2)]));
    });
}

// ---- what packets put into sets -------------------------------------------------------------------------------

#[test]
fn an_element_lives_as_its_last_update_says_and_makes_room_when_it_is_taken_out() {
    in_namespace(|| {
        let mut ruleset = Ruleset::new("picoseg");
        let owned = [Field::Number, Field::Address(Family::V4)];
        ruleset.sets.insert("owned".into(), Set::dynamic(&owned, 1, Some(Duration::from_secs(5000)), false));
        let key = || vec![Load::Number(7), Load::Address(Family::V4, Side::Destination)];
        let other = [Load::Number(8), Load::Address(Family::V4, Side::Destination)];
        let to = |number| port(protocol::UDP, Side::Destination, number, number);
        let set = || "owned".into();
        let known = |key: &[Load]| vec![to(4), lookup(key, "owned"), Statement::Verdict(Verdict::Accept)];
        let rules = vec![
            vec![to(1), Statement::UpdateFor { set: set(), key: key(), timeout: Duration::from_secs(50) }],
            vec![to(2), Statement::Update { set: set(), key: key(), limit: None }],
            vec![to(3), Statement::Delete { set: set(), key: key() }],
            known(&key()),
            vec![to(5), lookup(&other, "owned"), Statement::Verdict(Verdict::Accept)],
            vec![port(protocol::UDP, Side::Destination, 4, 5), Statement::Verdict(Verdict::Drop)],
        ];
        let base = Some((Hook::Output, -10));
        ruleset.chains.insert("output".into(), Chain { base, rules: shared(rules) });
        open(true).commit(&installation(&ruleset), &Utc::now).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        // An answer that the port is closed shows at the next send.
        let sent = |host: &str, port: u16| {
            let _ = socket.take_error();
            socket.send_to(b"x", (host, port)).is_ok()
        };
        let here = "127.0.0.1";
        let expires = || run("nft", &["list", "set", "inet", "picoseg", "owned"]);
        sent(here, 1);
        assert!(sent(here, 4), "the number is the same");
        assert!(!sent(here, 5), "another number is another key");
        assert!(!expires().contains("expires 1h"), "{}", expires());
        sent(here, 2);
        assert!(expires().contains("expires 1h"), "{}", expires());
        sent(here, 1);
        assert!(!expires().contains("expires 1h"), "{}", expires());
        sent("127.0.0.2", 1);
        assert!(!sent("127.0.0.2", 4), "the set is full");
        sent(here, 3);
        assert!(!sent(here, 4), "taken out");
        let deadline = Instant::now() + Duration::from_secs(20);
        while !sent("127.0.0.2", 4) {
            assert!(Instant::now() < deadline, "its room is never free again");
            thread::sleep(Duration::from_millis(50));
            sent("127.0.0.2", 1);
        }
    });
}
