//! Flows under way when their services end one after the other, with the daemon killed before the first of them.
//!
//! Every record carries the instant at which it was sent. A second table on the host counts what comes to the daemon's table
//! and what has passed it: the difference is what the kernel refused.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use serde_json::Value;

use crate::clock::{self, Time, in_ms};
use crate::lab::{HOST, Lab, at, nanoseconds, policy, reach, remote, wall};
use crate::spread::Spread;

/// Services count their ports from here.
const PORT: u16 = 20_000;
const RECORD: usize = 64;
/// A flow sends for so long before its close, and after it.
const BEFORE: i64 = 200_000_000;
const AFTER: i64 = 100_000_000;
/// Until the daemon was up and is dead again.
const AHEAD: i64 = 8_000;
/// Connections are told, at the latest, by the first retransmission after the two silent seconds.
const SETTLED: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    TcpOut,
    TcpIn,
    UdpOut,
    UdpIn,
}

impl Kind {
    const ALL: [Self; 4] = [Self::TcpOut, Self::TcpIn, Self::UdpOut, Self::UdpIn];

    fn name(self) -> &'static str {
        match self {
            Self::TcpOut => "TCP out",
            Self::TcpIn => "TCP in",
            Self::UdpOut => "UDP out",
            Self::UdpIn => "UDP in",
        }
    }

    fn is_out(self) -> bool {
        matches!(self, Self::TcpOut | Self::UdpOut)
    }

    fn is_tcp(self) -> bool {
        matches!(self, Self::TcpOut | Self::TcpIn)
    }
}

/// One service and its close.
struct Flow {
    index: u32,
    kind: Kind,
    closes: Time,
}

/// What one flow showed.
struct Shown {
    kind: Kind,
    index: u32,
    sent: u64,
    sent_after: u64,
    received: u64,
    /// Sent at or after the close, and received.
    passed: u64,
    /// Received at or after the close, sent before it.
    late: u64,
    /// Nanoseconds from the last record's arrival to the close; negative: after it.
    last: i64,
    /// From the last record that arrived being sent to the close.
    last_sent: i64,
    /// Both ends of a connection, kept until all was told.
    _ends: Vec<TcpStream>,
}

pub fn run(closes: u64, rate: u64, gap: Duration) {
    let lab = Lab::new().expect("it went before");
    let unit = lab.unit("flows");
    let first = in_ms(AHEAD);
    let flows: Vec<Flow> = (0..u32::try_from(closes).expect("few"))
        .map(|index| Flow { index, kind: Kind::ALL[index as usize % 4], closes: first + gap * index })
        .collect();
    for flow in &flows {
        let (direction, protocol) = (
            if flow.kind.is_out() { "egress" } else { "ingress" },
            if flow.kind.is_tcp() { "tcp" } else { "udp" },
        );
        let port = format!("{}/{protocol}", flow.port());
        lab.write(&flow.service(), flow.closes, &policy(direction, unit.name(), remote(flow.index), &port));
    }
    lab.nft(&[&accounts(&flows)]);
    drop(lab.daemon());
    assert!(clock::now() < first - chrono::TimeDelta::seconds(1), "the daemon took too long");
    lab.enter(&unit);
    let shown: Vec<Shown> = flows.iter().map(|flow| flow.run(&lab, rate)).collect();
    lab.leave();
    std::thread::sleep(SETTLED);
    let refused = refused(&lab);
    let daemon = lab.daemon();
    let counted = counted(&lab, refused.values().sum());
    drop(daemon);
    print(&shown, &refused, &counted, rate);
}

impl Flow {
    fn service(&self) -> String {
        format!("f{}", self.index)
    }

    fn port(&self) -> u16 {
        PORT + u16::try_from(self.index).expect("few")
    }

    fn run(&self, lab: &Lab, rate: u64) -> Shown {
        let closes = nanoseconds(self.closes);
        reach(closes - BEFORE - 50_000_000);
        let remote = remote(self.index);
        let (theirs, ours) = (at(remote, self.port()), at(HOST, self.port()));
        let end = closes + AFTER;
        let pace = 1_000_000_000 / i64::try_from(rate).expect("a rate");
        let send = |end_of: &mut dyn FnMut(&[u8]) -> io::Result<()>| sending(closes, end, pace, end_of);
        let ((sent, sent_after), got, ends) = match self.kind {
            Kind::UdpOut | Kind::UdpIn => {
                let (from, to, target) = match self.kind.is_out() {
                    true => (udp(&lab.host, HOST), udp_at(&lab.provider, theirs), theirs),
                    false => (udp(&lab.provider, remote), udp_at(&lab.host, ours), ours),
                };
                let (sent, got) = std::thread::scope(|scope| {
                    let receiver = scope.spawn(|| Got::datagrams(&to, closes, end));
                    let sent = send(&mut |record| from.send_to(record, target).map(|_| ()));
                    (sent, receiver.join().expect("no panic"))
                });
                (sent, got, vec![])
            }
            Kind::TcpOut | Kind::TcpIn => {
                let (mut from, mut to) = self.connection(lab, remote, theirs, ours);
                let (sent, got) = std::thread::scope(|scope| {
                    let receiver = scope.spawn(|| Got::stream(&mut to, closes, end));
                    let sent = send(&mut |record| from.write_all(record));
                    (sent, receiver.join().expect("no panic"))
                });
                (sent, got, vec![from, to])
            }
        };
        Shown {
            kind: self.kind,
            index: self.index,
            sent,
            sent_after,
            received: got.records,
            passed: got.passed,
            late: got.late,
            last: closes - got.last,
            last_sent: closes - got.last_sent,
            _ends: ends,
        }
    }

    fn connection(
        &self,
        lab: &Lab,
        remote: Ipv4Addr,
        theirs: SocketAddr,
        ours: SocketAddr,
    ) -> (TcpStream, TcpStream) {
        let (from, to) = match self.kind.is_out() {
            true => {
                let listener = lab.provider.run(|| TcpListener::bind(theirs).expect("a port of ours"));
                let from = lab.host.run(|| TcpStream::connect(theirs).expect("admitted"));
                (from, listener.accept().expect("admitted").0)
            }
            false => {
                let listener = lab.host.run(|| TcpListener::bind(ours).expect("a port of ours"));
                let from = lab.provider.run(|| {
                    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
                    let socket = socket.expect("a socket");
                    socket.bind(&at(remote, 0).into()).expect("an address of ours");
                    socket.connect(&ours.into()).expect("admitted");
                    TcpStream::from(socket)
                });
                (from, listener.accept().expect("admitted").0)
            }
        };
        from.set_nodelay(true).expect("a socket of ours");
        from.set_nonblocking(true).expect("a socket of ours");
        (from, to)
    }
}

fn udp(side: &crate::netns::Netns, address: Ipv4Addr) -> UdpSocket {
    let socket = side.run(|| UdpSocket::bind(at(address, 0)).expect("an address of ours"));
    socket.set_nonblocking(true).expect("a socket of ours");
    socket
}

fn udp_at(side: &crate::netns::Netns, address: SocketAddr) -> UdpSocket {
    let socket = side.run(|| UdpSocket::bind(address).expect("a port of ours"));
    socket2::SockRef::from(&socket).set_recv_buffer_size(8 << 20).expect("a socket of ours");
    socket
}

/// Sends records at fixed instants; returns how many, and how many of them at or after the close.
fn sending(closes: i64, end: i64, pace: i64, send: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> (u64, u64) {
    let (mut due, mut sent, mut after) = (closes - BEFORE, 0, 0);
    loop {
        let now = wall();
        if now >= end {
            return (sent, after);
        }
        if now < due {
            std::hint::spin_loop();
            continue;
        }
        due += pace;
        let mut record = [0; RECORD];
        let stamp = wall();
        record[..8].copy_from_slice(&stamp.to_ne_bytes());
        // Refused datagrams are errors to who sends; a connection takes no more when its buffer is full or it was reset.
        if send(&record).map_or_else(|error| error.kind() == io::ErrorKind::PermissionDenied, |()| true) {
            sent += 1;
            after += u64::from(stamp >= closes);
        }
    }
}

/// What arrived.
#[derive(Default)]
struct Got {
    records: u64,
    passed: u64,
    late: u64,
    last: i64,
    last_sent: i64,
}

impl Got {
    fn datagrams(socket: &UdpSocket, closes: i64, end: i64) -> Self {
        let mut got = Self::default();
        let mut record = [0; RECORD];
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a socket of ours");
        while wall() < end + 50_000_000 {
            if socket.recv(&mut record).is_ok_and(|length| length == RECORD) {
                got.take(&record, closes, wall());
            }
        }
        got
    }

    fn stream(stream: &mut TcpStream, closes: i64, end: i64) -> Self {
        let mut got = Self::default();
        let (mut buffer, mut held) = ([0; 64 * RECORD], 0);
        stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a socket of ours");
        while wall() < end + 50_000_000 {
            let Ok(length) = stream.read(&mut buffer[held..]) else { continue };
            let arrived = wall();
            held += length;
            let whole = held - held % RECORD;
            buffer[..whole].chunks(RECORD).for_each(|record| got.take(record, closes, arrived));
            buffer.copy_within(whole..held, 0);
            held -= whole;
        }
        got
    }

    fn take(&mut self, record: &[u8], closes: i64, arrived: i64) {
        let stamp = record.first_chunk().map_or(i64::MAX, |stamp| i64::from_ne_bytes(*stamp));
        self.records += 1;
        self.passed += u64::from(stamp >= closes);
        self.late += u64::from(arrived >= closes && stamp < closes);
        self.last = self.last.max(arrived);
        self.last_sent = self.last_sent.max(stamp);
    }
}

/// A table that counts the packets of each flow and those that answer them, before the daemon's table and after it.
fn accounts(flows: &[Flow]) -> String {
    let ports: Vec<_> = flows.iter().map(|flow| flow.port().to_string()).collect();
    let mut text = String::from("table inet accounts {\n");
    for (name, hook, priority) in [
        ("out-before", "output", -400),
        ("out-after", "postrouting", 400),
        ("in-before", "prerouting", -400),
        ("in-after", "input", 400),
    ] {
        write!(
            text,
            "set {name} {{ typeof udp dport; counter; elements = {{ {} }} }}\n\
             chain {name}-chain {{ type filter hook {hook} priority {priority};\n\
             th dport @{name}\nth sport @{name}\n}}\n",
            ports.join(", ")
        )
        .expect("to a string");
    }
    text + "}\n"
}

/// Packets that the kernel refused, by port.
fn refused(lab: &Lab) -> std::collections::BTreeMap<u16, i64> {
    let mut refused = std::collections::BTreeMap::new();
    for (name, sign) in [("out-before", 1), ("out-after", -1), ("in-before", 1), ("in-after", -1)] {
        let listed = lab.nft(&["-j", "list", "set", "inet", "accounts", name]);
        let listed: Value = serde_json::from_str(&listed).expect("nft speaks JSON");
        let sets = listed["nftables"].as_array().into_iter().flatten();
        for element in sets.filter_map(|item| item["set"]["elem"].as_array()).flatten() {
            let port = element["elem"]["val"].as_u64().and_then(|port| u16::try_from(port).ok());
            let packets = element["elem"]["counter"]["packets"].as_i64().expect("it counts");
            *refused.entry(port.expect("a port")).or_default() += sign * packets;
        }
    }
    refused
}

/// Packets that `picoseg attempts` has, by service; waits until they are as many as were refused.
fn counted(lab: &Lab, refused: i64) -> std::collections::BTreeMap<String, i64> {
    let look = || {
        let rows = lab.picoseg(&["attempts", "--limit", "10000", "--json"]).expect("attempts");
        let rows: Value = serde_json::from_str(&rows).expect("JSON");
        let mut counted = std::collections::BTreeMap::new();
        for row in rows["attempts"].as_array().into_iter().flatten() {
            let service = row["service"].as_str().unwrap_or("nobody").to_owned();
            *counted.entry(service).or_default() += row["count"].as_i64().expect("a count");
        }
        counted
    };
    let mut last = look();
    clock::within(Duration::from_secs(10), || {
        last = look();
        (last.values().sum::<i64>() >= refused).then_some(())
    });
    last
}

fn print(
    shown: &[Shown],
    refused: &std::collections::BTreeMap<u16, i64>,
    counted: &std::collections::BTreeMap<String, i64>,
    rate: u64,
) {
    println!("\n{} closes at {rate} records a second, daemon killed before the first", shown.len());
    println!(
        "{:>8} | {:>6} {:>9} {:>9} {:>10} | {:>6} {:>6} | {:>9} {:>9} {:>9} | {:>9} {:>9} | {:>9} {:>9} {:>9}",
        "",
        "closes",
        "sent",
        "received",
        "sent after",
        "passed",
        "late",
        "last p50",
        "min",
        "max",
        "sent p50",
        "min",
        "refused",
        "counted",
        "unequal"
    );
    for kind in Kind::ALL {
        let of: Vec<&Shown> = shown.iter().filter(|one| one.kind == kind).collect();
        let sum = |value: fn(&Shown) -> u64| of.iter().map(|one| value(one)).sum::<u64>();
        let (mut last, mut last_sent) = (Spread::default(), Spread::default());
        of.iter().for_each(|one| last.add(one.last as f64 / 1e3));
        of.iter().for_each(|one| last_sent.add(one.last_sent as f64 / 1e3));
        let refused_of = |one: &Shown| refused.get(&(PORT + one.index as u16)).copied().unwrap_or_default();
        let counted_of = |one: &Shown| counted.get(&format!("f{}", one.index)).copied().unwrap_or_default();
        println!(
            "{:>8} | {:>6} {:>9} {:>9} {:>10} | {:>6} {:>6} | {:>9.0} {:>9.0} {:>9.0} | {:>9.0} {:>9.0} | {:>9} {:>9} {:>9}",
            kind.name(),
            of.len(),
            sum(|one| one.sent),
            sum(|one| one.received),
            sum(|one| one.sent_after),
            sum(|one| one.passed),
            sum(|one| one.late),
            last.median(),
            last.min(),
            last.max(),
            last_sent.median(),
            last_sent.min(),
            of.iter().map(|one| refused_of(one)).sum::<i64>(),
            of.iter().map(|one| counted_of(one)).sum::<i64>(),
            of.iter().filter(|one| refused_of(one) != counted_of(one)).count()
        );
    }
    println!("last: us from the arrival of a flow's last record to its close; sent: from its sending");
}
