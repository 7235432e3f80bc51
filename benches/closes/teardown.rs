//! Connections of one service, idle at both ends, until no socket of them is left at either.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use picoseg::kernel::sockets::{SocketTable, TimeWait};

use crate::clock::in_ms;
use crate::lab::{HOST, Lab, another_end, at, nanoseconds, policy, reach, remote, wall};
use crate::spread::Spread;

const PORT: u16 = 4443;
/// Until the daemon is up and the connections stand.
const AHEAD: i64 = 6_000;
/// Of what takes longer, the figure says no more.
const LIMIT: i64 = 10_000_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Close {
    Time,
    Decommission,
    Suspend,
}

impl Close {
    const ALL: [Self; 3] = [Self::Time, Self::Decommission, Self::Suspend];

    fn name(self) -> &'static str {
        match self {
            Self::Time => "end of lifetime",
            Self::Decommission => "decommission",
            Self::Suspend => "suspend",
        }
    }
}

/// Milliseconds until none was left.
#[derive(Debug, Default)]
struct Figures {
    host: Spread,
    provider: Spread,
    /// Until the command returned, for orders.
    command: Spread,
}

pub fn run(services: usize, connections: u64, rounds: u64) {
    println!(
        "\n{connections} TCP connections, half of them inbound, daemon alive, {services} services, {rounds} rounds; ms from the close"
    );
    println!(
        "{:>16} | {:>9} {:>9} | {:>9} {:>9} | {:>9} {:>9}",
        "", "host", "max", "provider", "max", "command", "max"
    );
    for close in Close::ALL {
        let mut figures = Figures::default();
        (0..rounds).for_each(|_| one(close, services, connections, &mut figures));
        println!(
            "{:>16} | {:>9.1} {:>9.1} | {:>9.1} {:>9.1} | {:>9.1} {:>9.1}",
            close.name(),
            figures.host.median(),
            figures.host.max(),
            figures.provider.median(),
            figures.provider.max(),
            figures.command.median(),
            figures.command.max()
        );
    }
}

fn one(close: Close, services: usize, connections: u64, figures: &mut Figures) {
    let lab = Lab::new().expect("it went before");
    let unit = lab.unit("cut");
    let end = match close {
        // Loading takes its time.
        Close::Time => in_ms(AHEAD + 4 * i64::try_from(services).expect("few")),
        Close::Decommission | Close::Suspend => in_ms(3_600_000),
    };
    let (target, later) = (remote(0), in_ms(86_400_000));
    let both = |remote| {
        policy("egress", unit.name(), remote, &format!("{PORT}/tcp"))
            + &policy("ingress", unit.name(), remote, &format!("{PORT}/tcp"))
    };
    lab.write("cut", end, &both(target));
    for other in 1..services {
        let other = u32::try_from(other).expect("few");
        lab.write(&format!("other{other}"), another_end(later, other), &both(remote(other)));
    }
    let daemon = lab.daemon();
    lab.settle(&daemon);
    lab.enter(&unit);
    let held = Held::open(&lab, target, connections);
    lab.leave();
    let ends = move |table: &mut SocketTable| left(table, target);
    let [mut host, mut provider] =
        [&lab.host, &lab.provider].map(|side| side.run(|| SocketTable::open().expect("sock_diag")));
    assert_eq!(ends(&mut host), held.streams.len() / 2, "not all connections stand");
    let watch = |table: &mut SocketTable, from: i64| {
        while ends(table) > 0 && wall() < from + LIMIT {
            std::thread::sleep(Duration::from_millis(1));
        }
        (wall() - from) as f64 / 1e6
    };
    let (from, told) = std::thread::scope(|scope| {
        let order = match close {
            Close::Time => {
                let from = nanoseconds(end);
                assert!(wall() < from, "the connections took until the close");
                reach(from);
                return watch_both(from, &mut host, &mut provider, watch);
            }
            Close::Decommission => "decommission",
            Close::Suspend => "suspend",
        };
        let from = wall();
        let lab = &lab;
        let command = scope.spawn(move || {
            lab.picoseg(&[order, "cut", "--reason", "bench"]).expect("an order");
            (wall() - from) as f64 / 1e6
        });
        let both = watch_both(from, &mut host, &mut provider, watch);
        figures.command.add(command.join().expect("no panic"));
        both
    });
    figures.host.add(from);
    figures.provider.add(told);
}

fn watch_both(
    from: i64,
    host: &mut SocketTable,
    provider: &mut SocketTable,
    watch: impl Fn(&mut SocketTable, i64) -> f64,
) -> (f64, f64) {
    // One after the other: two that look all the time would leave no core to the daemon.
    let host = watch(host, from);
    (host, watch(provider, from))
}

/// How many connections with the provider's address a side has.
fn left(table: &mut SocketTable, provider: Ipv4Addr) -> usize {
    let sockets = table.dump(TimeWait::Skip).expect("sock_diag");
    let is_one = |local: SocketAddr, remote: SocketAddr| {
        remote.port() != 0 && [local.ip(), remote.ip()].contains(&provider.into())
    };
    sockets.iter().filter(|socket| is_one(socket.local, socket.remote)).count()
}

/// Both ends of every connection.
struct Held {
    streams: Vec<TcpStream>,
}

impl Held {
    fn open(lab: &Lab, provider: Ipv4Addr, connections: u64) -> Self {
        let mut streams = Vec::new();
        let theirs = lab.provider.run(|| TcpListener::bind(at(provider, PORT)).expect("a port of ours"));
        let ours = lab.host.run(|| TcpListener::bind(at(HOST, PORT)).expect("a port of ours"));
        for _ in 0..connections / 2 {
            streams.push(lab.host.run(|| connected(None, at(provider, PORT))));
            streams.push(theirs.accept().expect("admitted").0);
            streams.push(lab.provider.run(|| connected(Some(provider), at(HOST, PORT))));
            streams.push(ours.accept().expect("admitted").0);
        }
        Self { streams }
    }
}

fn connected(from: Option<Ipv4Addr>, to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    if let Some(from) = from {
        socket.bind(&at(from, 0).into()).expect("an address of ours");
    }
    socket.connect(&to.into()).expect("admitted");
    socket.into()
}
