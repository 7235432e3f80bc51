//! Units that are restarted: their cgroup goes and comes back with another id.

use std::io;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use crate::cgroup::Unit;
use crate::clock::in_ms;
use crate::lab::{HOST, Lab, at, policy, remote};
use crate::spread::Spread;

const PORT: u16 = 4443;
/// Units that are restarted, in turn; the others do not run.
const UNITS: u32 = 10;
/// Between a restart and the next one.
const REST: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(10);

/// Milliseconds.
#[derive(Debug, Default)]
struct Figures {
    /// From the new cgroup to the first packet that the kernel admits.
    admitted: Spread,
    /// From the end of a process's move into it to that packet.
    moved: Spread,
    refused: u64,
}

pub fn run(sizes: &[usize], restarts: u64) {
    println!(
        "\n{restarts} restarts of {UNITS} units in turn, each service has a unit of its own; ms until the first packet passes"
    );
    println!(
        "{:>9} | {:>10} {:>8} {:>8} {:>8} | {:>10} {:>8} {:>8} {:>8} | {:>8}",
        "services", "from mkdir", "p50", "p99", "max", "from move", "p50", "p99", "max", "refused"
    );
    for size in sizes {
        let figures = restarted(*size, restarts);
        println!(
            "{size:>9} | {:>10} {:>8.2} {:>8.2} {:>8.2} | {:>10} {:>8.2} {:>8.2} {:>8.2} | {:>8}",
            figures.admitted.len(),
            figures.admitted.median(),
            figures.admitted.p99(),
            figures.admitted.max(),
            figures.moved.len(),
            figures.moved.median(),
            figures.moved.p99(),
            figures.moved.max(),
            figures.refused
        );
    }
}

fn restarted(services: usize, restarts: u64) -> Figures {
    let lab = Lab::new().expect("it went before");
    let services = u32::try_from(services).expect("few");
    for service in 0..services {
        let unit = lab.unit_name(&format!("u{service}"));
        let policy = policy("egress", &unit, remote(service), &format!("{PORT}/udp"));
        lab.write(&format!("s{service}"), in_ms(86_400_000), &policy);
    }
    let units: Vec<Unit> = (0..UNITS.min(services)).map(|unit| lab.unit(&format!("u{unit}"))).collect();
    let lobby = lab.unit("lobby");
    let daemon = lab.daemon();
    lab.settle(&daemon);
    let mut figures = Figures::default();
    for restart in 0..restarts {
        let turn = restart as usize % units.len();
        lab.enter(&lobby);
        std::thread::sleep(REST);
        let target = remote(turn as u32);
        lab.host.run(|| one(&lab, &units[turn], target, &mut figures));
    }
    figures
}

fn one(lab: &Lab, unit: &Unit, target: std::net::Ipv4Addr, figures: &mut Figures) {
    unit.remove();
    unit.create();
    let made = Instant::now();
    lab.enter(unit);
    let moved = Instant::now();
    let socket = UdpSocket::bind(at(HOST, 0)).expect("an address of ours");
    // What is refused comes back as an error.
    while let Err(error) = socket.send_to(b"ready", at(target, PORT)) {
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
        assert!(made.elapsed() < PATIENCE, "never governed");
        figures.refused += 1;
        std::thread::sleep(Duration::from_micros(20));
    }
    figures.admitted.add_time(made.elapsed());
    figures.moved.add_time(moved.elapsed());
}
