//! Units that are restarted: their cgroup goes and comes back with another id.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::cgroup::Unit;
use crate::clock::in_ms;
use crate::lab::{HOST, Lab, another_end, at, policy, remote};
use crate::spread::Spread;

const PORT: u16 = 4443;
/// Units that are restarted, in turn; the others do not run.
const UNITS: u32 = 10;
/// Between a restart and the next one.
const REST: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(10);

/// How the unit shows that it is governed. Services of single TCP ports are elements of sets to the kernel, those over
/// UDP have chains.
#[derive(Debug, Clone, Copy)]
enum Over {
    Tcp,
    Udp,
}

impl Over {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// One connection, or one datagram. What is refused comes back as an error.
    fn send(self, to: SocketAddr) -> io::Result<()> {
        match self {
            Self::Tcp => TcpStream::connect(to).map(drop),
            Self::Udp => UdpSocket::bind(at(HOST, 0))?.send_to(b"ready", to).map(drop),
        }
    }

    fn is_refusal(self, error: &io::Error) -> bool {
        error.kind()
            == match self {
                Self::Tcp => io::ErrorKind::ConnectionRefused,
                Self::Udp => io::ErrorKind::PermissionDenied,
            }
    }
}

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
        "{:>9} over | {:>10} {:>8} {:>8} {:>8} | {:>10} {:>8} {:>8} {:>8} | {:>8}",
        "services", "from mkdir", "p50", "p99", "max", "from move", "p50", "p99", "max", "refused"
    );
    for (size, over) in sizes.iter().flat_map(|size| [Over::Tcp, Over::Udp].map(|over| (*size, over))) {
        let figures = restarted(size, over, restarts);
        println!(
            "{size:>9} {:>4} | {:>10} {:>8.2} {:>8.2} {:>8.2} | {:>10} {:>8.2} {:>8.2} {:>8.2} | {:>8}",
            over.name(),
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

fn restarted(services: usize, over: Over, restarts: u64) -> Figures {
    let lab = Lab::new().expect("it went before");
    let services = u32::try_from(services).expect("few");
    let first = in_ms(86_400_000);
    for service in 0..services {
        let unit = lab.unit_name(&format!("u{service}"));
        let policy = policy("egress", &unit, remote(service), &format!("{PORT}/{}", over.name()));
        lab.write(&format!("s{service}"), another_end(first, service), &policy);
    }
    let units: Vec<Unit> = (0..UNITS.min(services)).map(|unit| lab.unit(&format!("u{unit}"))).collect();
    let lobby = lab.unit("lobby");
    let listener =
        lab.provider.run(|| TcpListener::bind(at(Ipv4Addr::UNSPECIFIED, PORT)).expect("a port of ours"));
    // Nobody speaks there: whoever connects leaves again.
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let daemon = lab.daemon();
    lab.settle(&daemon);
    let mut figures = Figures::default();
    for restart in 0..restarts {
        let turn = restart as usize % units.len();
        lab.enter(&lobby);
        std::thread::sleep(REST);
        // The first move after a rest waits some 16 ms for the kernel (`rcu_sync_enter` in kernel/rcu/sync.c), the next
        // ones do not: nothing that is to be measured here.
        lab.enter(&lobby);
        let target = remote(turn as u32);
        lab.host.run(|| one(&lab, &units[turn], (over, at(target, PORT)), &mut figures));
    }
    figures
}

fn one(lab: &Lab, unit: &Unit, (over, target): (Over, SocketAddr), figures: &mut Figures) {
    unit.remove();
    unit.create();
    let made = Instant::now();
    lab.enter(unit);
    let moved = Instant::now();
    while let Err(error) = over.send(target) {
        assert!(over.is_refusal(&error), "{error}");
        assert!(made.elapsed() < PATIENCE, "never governed");
        figures.refused += 1;
        std::thread::sleep(Duration::from_micros(20));
    }
    figures.admitted.add_time(made.elapsed());
    figures.moved.add_time(moved.elapsed());
}
