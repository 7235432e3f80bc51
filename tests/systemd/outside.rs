//! The other end of a machine's wire: addresses that answer, and counters of what arrives at them.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::cli::Cli;
use crate::netns::Netns;
use crate::traffic::Going;

pub const MACHINE4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
pub const MACHINE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
/// How many addresses there are outside, of each family.
const ADDRESSES: u8 = 4;
/// Longer than the first retransmission of a SYN.
const ANSWERS_WITHIN: Duration = Duration::from_millis(1500);

pub struct Outside {
    netns: Netns,
}

/// A TCP listener at all addresses outside, which sends back what it hears.
pub struct Echo {
    accepted: Arc<AtomicU64>,
}

impl Outside {
    /// Lays the wire from `inside` to `netns`.
    pub fn beside(inside: &Netns, netns: Netns) -> Self {
        for end in [inside, &netns] {
            end.run(no_duplicate_address_detection);
            end.ip("link set lo up\n");
        }
        inside.ip(&format!("link add host0 type veth peer name wire0 netns {}\n", netns.name()));
        inside.ip(&format!(
            "link set host0 up\naddr add {MACHINE4}/24 dev host0\naddr add {MACHINE6}/64 dev host0 nodad\n"
        ));
        let mut commands = String::from("link set wire0 up\n");
        for number in 0..ADDRESSES {
            writeln!(commands, "addr add {}/24 dev wire0", v4(number)).expect("to a string");
            writeln!(commands, "addr add {}/64 dev wire0 nodad", v6(number)).expect("to a string");
        }
        netns.ip(&commands);
        let outside = Self { netns };
        outside.count();
        outside
    }

    /// Listens on a port of all addresses.
    pub fn echo(&self, port: u16) -> Echo {
        let echo = Echo { accepted: Arc::default() };
        let listener = self.netns.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)));
        let listener = listener.expect("a port in a namespace of ours");
        let accepted = Arc::clone(&echo.accepted);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                accepted.fetch_add(1, Ordering::Relaxed);
                thread::spawn(move || send_back(stream));
            }
        });
        echo
    }

    /// Connects to a port of the machine from an address outside, and has a word come back.
    pub fn talks_to(&self, port: u16, from: IpAddr) -> bool {
        let socket = self.netns.run(|| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(from, 0).into())?;
            socket.connect_timeout(&SocketAddr::new(MACHINE4, port).into(), ANSWERS_WITHIN)?;
            Ok::<_, std::io::Error>(TcpStream::from(socket))
        });
        socket.is_ok_and(echoes)
    }

    /// Sends what nobody asked for, from these addresses, until it is stopped.
    pub fn floods(&self, from: &[IpAddr], to: &[SocketAddr]) -> Going {
        self.netns.run(|| Going::flood(from.to_vec(), to.to_vec()))
    }

    /// Keeps connections from these addresses, with words that come back, until it is stopped.
    pub fn streams(&self, from: &[IpAddr], to: &[SocketAddr]) -> Going {
        self.netns.run(|| Going::stream(from.to_vec(), to.to_vec()))
    }

    /// UDP and TCP packets that have arrived from the machine at an address of either family.
    pub fn arrived(&self, number: u8) -> u64 {
        let mut list = Command::new("nft");
        list.args(["--json", "list", "counter", "inet", "wire", &format!("at{number}")]);
        let listed = self.netns.run(|| Cli::run(list)).ok().json();
        let objects = listed["nftables"].as_array().expect("a listing of nft");
        objects.iter().find_map(|object| object["counter"]["packets"].as_u64()).expect("a counter")
    }

    fn count(&self) {
        let mut rules = String::from("table inet wire {\n");
        for number in 0..ADDRESSES {
            writeln!(rules, "counter at{number} {{ }}").expect("to a string");
        }
        rules += "chain arrivals {\ntype filter hook prerouting priority -400\n";
        for number in 0..ADDRESSES {
            for address in [format!("ip daddr {}", v4(number)), format!("ip6 daddr {}", v6(number))] {
                writeln!(
                    rules,
                    "iifname wire0 meta l4proto {{ tcp, udp }} {address} counter name at{number}"
                )
                .expect("to a string");
            }
        }
        let mut load = Command::new("nft");
        load.arg(rules + "}\n}");
        self.netns.run(|| Cli::run(load)).ok();
    }
}

impl Echo {
    /// How many connections there have been.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }
}

/// One of four addresses outside: 192.0.2.10 to 192.0.2.13.
pub fn v4(number: u8) -> IpAddr {
    assert!(number < ADDRESSES);
    Ipv4Addr::new(192, 0, 2, 10 + number).into()
}

/// One of four addresses outside: 2001:db8::10 to 2001:db8::13.
pub fn v6(number: u8) -> IpAddr {
    assert!(number < ADDRESSES);
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10 + u16::from(number)).into()
}

/// Whether a word that is sent comes back.
pub fn echoes(mut stream: TcpStream) -> bool {
    let mut word = [0; 4];
    let mut talk = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
        stream.write_all(b"word")?;
        stream.read_exact(&mut word)
    };
    talk(&mut stream).is_ok() && &word == b"word"
}

/// Until the other side closes.
pub fn send_back(mut stream: TcpStream) {
    let mut bytes = [0; 512];
    while let Ok(length @ 1..) = stream.read(&mut bytes) {
        if stream.write_all(&bytes[..length]).is_err() {
            return;
        }
    }
}

fn no_duplicate_address_detection() {
    for scope in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{scope}/accept_dad");
        std::fs::write(Path::new(&path), "0").unwrap_or_else(|e| panic!("{path}: {e}"));
    }
}
