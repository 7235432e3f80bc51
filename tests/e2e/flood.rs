//! Floods of made-up sources: every packet is counted for its service and reason, sources are told apart up to a bound, and
//! the daemon stays small and calm.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use sqlx::Row as _;
use sqlx::sqlite::SqliteConnectOptions;

use crate::agent::{Agent, Heard, Kind, Packets, Socket};
use crate::lab::clock::in_ms;
use crate::lab::schedule::{Lifetime, egress, schedule, schedule_with, window};
use crate::lab::{Daemon, Lab, at, clock};

/// The most sources that one set tells apart.
const BOUND: u64 = 8_192;

/// Benchmarking addresses (RFC 2544) and documentation's (RFC 3849).
const STRIPE4: &str = "198.18.0.0/16";
const ADYEN4: &str = "198.19.0.0/16";
const STRIPE6: &str = "2001:db8:18::/48";
const ADYEN6: &str = "2001:db8:19::/48";

const NO_PAUSE: Duration = Duration::ZERO;

/// Until tens of thousands of sources are on record, in a debug build on a loaded machine.
const SETTLED: Duration = Duration::from_secs(90);

/// What is on record of one service, direction and reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Sum {
    packets: u64,
    /// Of those, without a source.
    other: u64,
    /// Sources that are told apart.
    sources: u64,
}

/// By `service direction reason`; read from the database, beside the daemon.
fn sums(lab: &Lab) -> BTreeMap<String, Sum> {
    let options = SqliteConnectOptions::new().filename(lab.state().join("picoseg.db")).read_only(true);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let rows = runtime.block_on(async {
        let mut connection = sqlx::ConnectOptions::connect(&options).await.expect("the daemon's database");
        sqlx::query(
            "SELECT coalesce(service, policy) || ' ' || direction || ' ' || reason AS name, sum(count) AS packets,
                    sum(iif(remote = 'other', count, 0)) AS other,
                    count(DISTINCT iif(remote = 'other', NULL, remote)) AS sources
             FROM attempts GROUP BY name",
        )
        .fetch_all(&mut connection)
        .await
        .expect("its attempts")
    });
    let number = |row: &sqlx::sqlite::SqliteRow, name| row.get::<i64, _>(name).cast_unsigned();
    let sum = |row| Sum {
        packets: number(row, "packets"),
        other: number(row, "other"),
        sources: number(row, "sources"),
    };
    rows.iter().map(|row| (row.get("name"), sum(row))).collect()
}

/// Waits until a service's packets of one direction, all reasons together, are as many as were sent, and a while longer: never
/// more.
fn expect(lab: &Lab, service: &str, direction: &str, sent: u64) {
    let of_it = || {
        let sums = sums(lab);
        let names = format!("{service} {direction} ");
        sums.iter().filter(|(name, _)| name.starts_with(&names)).map(|(_, sum)| sum.packets).sum::<u64>()
    };
    let all = clock::within(SETTLED, || (of_it() >= sent).then_some(()));
    std::thread::sleep(Duration::from_millis(900));
    assert!(all.is_some() && of_it() == sent, "{} of {service} instead of {sent}: {:#?}", of_it(), sums(lab));
}

fn furnish(lab: &Lab, lifetime: Lifetime) {
    let payments = lab.unit("payments");
    for (name, v4, v6) in [("stripe", STRIPE4, STRIPE6), ("adyen", ADYEN4, ADYEN6)] {
        let policies = [v4, v6].map(|to| egress(&payments, to, "443/tcp"));
        lab.write(name, &schedule(lifetime, &policies));
    }
}

fn first(network: &str) -> IpAddr {
    network.split_once('/').and_then(|(address, _)| address.parse().ok()).expect("a network")
}

fn host(lab: &Lab, from: IpAddr) -> IpAddr {
    if from.is_ipv4() { lab.host4() } else { lab.host6() }
}

/// `count` datagrams of as many of `sources` as that are.
fn flood<'a>(lab: &Lab, theirs: &'a Agent, network: &str, sources: u32, count: u32) -> Socket<'a> {
    let from = first(network);
    let packets = Packets { kind: Kind::Udp, from: at(from, 9), to: at(host(lab, from), 9000), count };
    theirs.flood(packets, sources, 64, NO_PAUSE)
}

fn sent(flood: &Socket<'_>, count: u64) {
    clock::until("the flood ends", Duration::from_secs(120), || flood.flow().sent == count);
    // The last one was counted before it was sent.
    std::thread::sleep(Duration::from_millis(100));
}

/// Resident memory, now and at most, in MiB, and the time on a processor, of a process.
fn costs(daemon: &Daemon) -> (u64, u64, Duration) {
    let read = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", daemon.pid())).expect("it runs");
    let status = read("status");
    let mib = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("linux");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
    };
    let stat = read("stat");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("ticks")).sum();
    (mib("VmRSS:"), mib("VmHWM:"), Duration::from_millis(ticks * 10))
}

#[test]
fn a_flood_below_the_bound_is_exact_by_source() {
    let Some(lab) = Lab::new() else { return };
    furnish(&lab, Lifetime::over());
    let _daemon = lab.daemon();
    let theirs = lab.provider();
    for (network, sources) in [(STRIPE4, 2_000), (ADYEN4, 700), (STRIPE6, 1_500), (ADYEN6, 300)] {
        sent(&flood(&lab, &theirs, network, sources, sources * 5), u64::from(sources) * 5);
    }
    expect(&lab, "stripe", "ingress", 17_500);
    expect(&lab, "adyen", "ingress", 5_000);
    let wanted = BTreeMap::from([
        ("adyen ingress expired".to_owned(), Sum { packets: 5_000, other: 0, sources: 1_000 }),
        ("stripe ingress expired".to_owned(), Sum { packets: 17_500, other: 0, sources: 3_500 }),
    ]);
    assert_eq!(sums(&lab), wanted);
}

#[test]
fn a_flood_beyond_the_bound_is_exact_by_service_and_nothing_of_it_passes() {
    let Some(lab) = Lab::new() else { return };
    furnish(&lab, Lifetime::over());
    let daemon = lab.daemon();
    let (theirs, ours) = (lab.provider(), lab.process(&lab.unit("other")));
    let ears = [lab.host4(), lab.host6()].map(|local| ours.udp(at(local, 9000)));
    let (_, _, before) = costs(&daemon);
    let began = Instant::now();
    // The first fills the sets; of the others nothing is told apart but what came before.
    for (network, sources, count) in
        [(ADYEN4, 500, 1_000), (STRIPE4, 10_000, 50_000), (ADYEN4, 3_000, 20_000), (STRIPE6, 9_000, 18_000)]
    {
        sent(&flood(&lab, &theirs, network, sources, count), u64::from(count));
    }
    expect(&lab, "stripe", "ingress", 68_000);
    expect(&lab, "adyen", "ingress", 21_000);
    let took = began.elapsed();
    let (now, most, after) = costs(&daemon);
    let busy = after - before;
    eprintln!("resident {now} MiB, at most {most}; {busy:?} of {took:?}");
    // A build without optimisation has more than an optimised one. What it costs in time, `benches/flood.rs` says.
    assert!(most < 96, "{most} MiB");
    let all = sums(&lab);
    let (stripe, adyen) = (&all["stripe ingress expired"], &all["adyen ingress expired"]);
    assert!(stripe.other > 0 && adyen.other > 0, "{all:#?}");
    assert!(adyen.sources >= 500 && stripe.sources + adyen.sources <= 2 * BOUND, "{all:#?}");
    assert!(stripe.sources + adyen.sources > 2 * BOUND - 1_000, "the room there is, is used: {all:#?}");
    for ear in &ears {
        assert_eq!(ear.hear_within(Duration::from_millis(1)), Heard::Nothing);
    }
    // Logged at a bounded rate, though each source is new.
    let lost = lab.status()["lost_details"].as_u64().expect("a number");
    assert!((50_000..89_000).contains(&lost), "{lost}");
}

#[test]
fn a_slow_trickle_loses_no_details() {
    let Some(lab) = Lab::new() else { return };
    furnish(&lab, Lifetime::over());
    let _daemon = lab.daemon();
    let theirs = lab.provider();
    let from = first(STRIPE4);
    let packets = Packets { kind: Kind::Udp, from: at(from, 9), to: at(lab.host4(), 9000), count: 60 };
    let trickle = theirs.flood(packets, 30, 1, Duration::from_millis(50));
    sent(&trickle, 60);
    expect(&lab, "stripe", "ingress", 60);
    assert_eq!(lab.status()["lost_details"], 0);
}

#[test]
fn kills_and_changes_under_a_flood_lose_and_double_nothing() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let mut daemon = {
        let policies = [STRIPE4, STRIPE6].map(|to| egress(&payments, to, "443/tcp"));
        lab.write("stripe", &schedule(Lifetime::open(), &policies));
        // Shut and opened by the kernel meanwhile.
        let windows: String =
            (0..40).map(|n| window(in_ms(n * 2_000 + 1_000), in_ms(n * 2_000 + 2_000))).collect();
        let policies = [windows, egress(&payments, ADYEN4, "443/tcp"), egress(&payments, ADYEN6, "443/tcp")];
        lab.write("adyen", &schedule(Lifetime::open(), &policies));
        // Owns the same addresses: whose a packet is changes with the windows.
        lab.write("zahls", &schedule(Lifetime::open(), &[egress(&payments, ADYEN4, "80/tcp")]));
        lab.daemon()
    };
    let theirs = [lab.provider(), lab.provider(), lab.provider()];
    let paced = |agent, network: &str, sources, count, every| {
        let from = first(network);
        let packets = Packets { kind: Kind::Udp, from: at(from, 9), to: at(host(&lab, from), 9000), count };
        Agent::flood(agent, packets, sources, 100, every)
    };
    let every = Duration::from_millis(20);
    let floods = [
        paced(&theirs[0], STRIPE4, 12_000, 50_000, every),
        paced(&theirs[1], ADYEN4, 900, 40_000, every),
        paced(&theirs[2], STRIPE6, 10_000, 30_000, every),
    ];
    let progress = || floods.iter().map(|flood| flood.flow().sent).sum::<u64>();
    let mut random = u64::from(std::process::id());
    for round in 1..=5_u64 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let point = (round * 20_000 + (random >> 33) % 9_000).min(118_000);
        clock::until("the flood goes on", Duration::from_secs(60), || progress() >= point);
        match round {
            1 => {
                lab.picoseg(&["suspend", "stripe", "--reason", "test"]).ok();
            }
            2 => {
                let more = [egress(&payments, "192.0.2.0/24", "443/tcp")];
                lab.write("more", &schedule(Lifetime::open(), &more));
                lab.picoseg(&["apply"]).ok();
            }
            3 => {
                lab.picoseg(&["decommission", "stripe", "--reason", "test"]).ok();
            }
            4 => {
                lab.remove("more");
                // The address changes hands.
                lab.write(
                    "zahls",
                    &schedule_with(
                        "mode = \"enforce\"",
                        Lifetime::over(),
                        &[egress(&payments, ADYEN4, "80/tcp")],
                    ),
                );
                lab.picoseg(&["apply"]).ok();
            }
            _ => {}
        }
        daemon.kill9();
        daemon = lab.daemon();
    }
    for (flood, count) in floods.iter().zip([50_000, 40_000, 30_000]) {
        sent(flood, count);
    }
    expect(&lab, "stripe", "ingress", 80_000);
    let counted = counters(&lab);
    let all = sums(&lab);
    let both: u64 = ["adyen ", "zahls "]
        .iter()
        .flat_map(|name| all.iter().filter(move |(key, _)| key.starts_with(name)))
        .map(|(_, sum)| sum.packets)
        .sum();
    assert_eq!(both, 40_000, "{all:#?}");
    // What the kernel still counts is what is on record: counters of reasons that are over went with theirs.
    for (name, packets) in counted {
        assert_eq!(all.get(&name).map_or(0, |sum| sum.packets), packets, "{name}: {all:#?}");
    }
    assert!(
        !all.contains_key("null ingress expired") && all.keys().all(|key| !key.contains("more")),
        "{all:#?}"
    );
    assert!(daemon.term().success());
    assert_eq!(sums(&lab), all, "a stop changes nothing");
}

/// What the counters of services say, by `service direction reason`.
fn counters(lab: &Lab) -> BTreeMap<String, u64> {
    let mut command = std::process::Command::new("nft");
    command.args(["-j", "list", "counters", "table", "inet", "picoseg"]);
    let listed = lab.on_host(command).ok().json();
    let counters = listed["nftables"].as_array().expect("a list").iter().filter_map(|one| one.get("counter"));
    let read = |counter: &serde_json::Value| {
        let rest = counter["name"].as_str()?.strip_prefix("svc-")?;
        let (service, rest) = rest.split_once('-')?;
        let (way, reason) = rest.split_once('-')?;
        let direction = if way == "in" { "ingress" } else { "egress" };
        Some((format!("{service} {direction} {reason}"), counter["packets"].as_u64()?))
    };
    counters.filter_map(read).collect()
}
