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
use picoseg::model::{Family, PortRange, Time};
use picoseg::plan::{Changeset, Step};
use picoseg::ruleset::{
    Chain, Element, Field, Hook, Key, Load, Rule, Ruleset, Set, Side, Statement, Verdict, protocol, tcp,
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
    Some(Verdict::Jump(chain.to_owned()))
}

fn address4(text: &str) -> Key {
    let number = u32::from(text.parse::<std::net::Ipv4Addr>().unwrap());
    Key::builder().address(Family::V4, number.into()).build()
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
        comment: Some("policy stripe/1".to_owned()),
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
    let named =
        |verdict| Element { verdict, closes_at: None, last: None, comment: Some(cgroup.name.clone()) };
    let named_until = Element { closes_at: Some(second_from_now(1000)), ..named(None) };
    let (first, last) = wide([10, 0, 7, 0], (8000, 8100));
    let (other, other_last) = wide([10, 0, 8, 0], (443, 443));
    let sets = [
        ("gate4", with_elements(Set::plain(&[v4]), [(address4("10.0.0.0"), plain())])),
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
            vec![vec![Statement::LeavesByLoopback, Statement::Verdict(Verdict::Jump("tests".into()))]],
        ),
        (
            "hook-in",
            Some((Hook::Input, -10)),
            vec![vec![Statement::ArrivesByLoopback, Statement::Verdict(Verdict::Goto("sockets".into()))]],
        ),
        (
            "hook-forward",
            Some((Hook::Forward, 5)),
            vec![vec![Statement::Count("passed".into()), Statement::Verdict(Verdict::Accept)]],
        ),
    ];
    let chain = |base, rules| Chain { base, rules };
    ruleset.chains.extend(chains.map(|(name, base, rules)| (name.to_owned(), chain(base, rules))));
}

fn lookup(key: &[Load], set: &str) -> Statement {
    Statement::Lookup { key: key.to_vec(), set: set.to_owned(), negated: false }
}

fn dispatch(key: &[Load], map: &str) -> Statement {
    Statement::Dispatch { key: key.to_vec(), map: map.to_owned() }
}

fn port(protocol: u8, side: Side, low: u16, high: u16) -> Statement {
    Statement::Port { protocol, side, range: PortRange::new(low, high).unwrap() }
}

fn flags(mask: u8, value: u8, negated: bool) -> Statement {
    Statement::TcpFlags { mask, value, negated }
}

fn every_match() -> Vec<Rule> {
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
        vec![lookup(&[Load::Network(Family::V4, Destination)], "gate4"), drop()],
        vec![lookup(&[Load::Network(Family::V6, Source)], "gate6"), drop()],
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

fn every_socket_rule() -> Vec<Rule> {
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

fn every_update() -> Vec<Rule> {
    use Side::{Destination, Source};
    let from4 = Load::Address(Family::V4, Source);
    let to4 = Load::Address(Family::V4, Destination);
    let from6 = Load::Address(Family::V6, Source);
    let flow = vec![to4, Load::Port(Destination), from4, Load::Port(Source)];
    let echo = |family| Load::EchoId(family);
    let ping = |family, kind| Statement::IcmpType { family, low: kind, high: kind };
    let update = |set: &str, key, limit| Statement::Update { set: set.to_owned(), key, limit };
    vec![
        vec![Statement::Protocol(protocol::UDP), update("flows4", flow, None)],
        vec![update("refused4", vec![from4, Load::Protocol, Load::Port(Destination)], None)],
        vec![update("refused6", vec![from6, Load::Protocol], None)],
        vec![update("logged4", vec![from4], Some(50)), Statement::Verdict(Verdict::Accept)],
        vec![ping(Family::V4, 8), update("echoes4", vec![to4, echo(Family::V4)], None)],
        vec![update("echoes4", vec![from4, echo(Family::V4)], None)],
        vec![update("echoes6", vec![from6, echo(Family::V6)], None)],
        vec![lookup(&[from6, echo(Family::V6)], "echoes6"), Statement::Verdict(Verdict::Drop)],
    ]
}

fn every_end() -> Vec<Rule> {
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
        .map(|line| match line.split_once("__set") {
            Some((head, _)) => format!("{head}__set"),
            None => line.to_owned(),
        })
        .collect()
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
        if std::env::var_os("SHOW").is_some() {
            println!("{}", run("nft", &["list", "table", "inet", "picoseg"]));
        }
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
