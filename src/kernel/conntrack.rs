//! Lists the flows that the kernel tracks, and removes the entries of single ones.
//!
//! Neighbour: [`super::netlink`] carries the messages (linux/netfilter/nfnetlink_conntrack.h). Our own table tracks
//! nothing; the entries belong to other tables of the host, which would let a cut flow linger in them.
//! Deliberately absent: any way to name more than one flow. A delete without a tuple flushes the whole table, so
//! the one function that makes a delete takes a [`Flow`], which always has one.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use super::netlink::{self, Attribute, Connection, Message, Request, netfilter_header};
use super::sockets::{Protocol, Socket};

/// `NFNL_SUBSYS_CTNETLINK << 8`, then `IPCTNL_MSG_CT_GET`, `IPCTNL_MSG_CT_DELETE` and `IPCTNL_MSG_CT_GET_STATS`.
const GET: u16 = 0x101;
const DELETE: u16 = 0x102;
const GET_STATS: u16 = 0x105;
/// `CTA_TUPLE_ORIG` and `CTA_TUPLE_REPLY`; in them `CTA_TUPLE_IP` and `CTA_TUPLE_PROTO`.
const TUPLE: u16 = 1;
const REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
/// `CTA_PROTO_NUM`, `CTA_PROTO_SRC_PORT`, `CTA_PROTO_DST_PORT`.
const NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;

#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    #[error("cannot ask the kernel for connection tracking (NETLINK_NETFILTER): {0}")]
    Open(#[source] io::Error),
    #[error("cannot list the tracked connections: {0}")]
    List(#[source] io::Error),
    #[error("cannot remove the connection tracking entry of {flow}: {source}")]
    Delete { flow: Flow, source: io::Error },
}

/// One flow between two addresses of the same family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    protocol: Protocol,
    source: SocketAddr,
    destination: SocketAddr,
}

impl Flow {
    /// The flow from `source` to `destination`; `None` when one is IPv4 and the other IPv6.
    ///
    /// IPv4-mapped addresses count as IPv4: that is what their packets are.
    pub fn new(protocol: Protocol, source: SocketAddr, destination: SocketAddr) -> Option<Self> {
        let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        let (source, destination) = (canonical(source), canonical(destination));
        (source.is_ipv4() == destination.is_ipv4()).then_some(Self { protocol, source, destination })
    }

    /// The flow of a connected socket.
    pub fn of(socket: &Socket) -> Option<Self> {
        Self::new(socket.protocol, socket.local, socket.remote)
    }

    pub fn protocol(self) -> Protocol {
        self.protocol
    }

    pub fn source(self) -> SocketAddr {
        self.source
    }

    pub fn destination(self) -> SocketAddr {
        self.destination
    }

    /// The same flow as its other end sees it.
    pub fn reversed(self) -> Self {
        Self { source: self.destination, destination: self.source, ..self }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = self.protocol.as_str();
        write!(f, "{protocol} {} > {}", self.source, self.destination)
    }
}

/// A tracked flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tracked {
    /// As the first packet came in.
    pub original: Flow,
    /// As the answers come in. Where nothing is translated it is the other one reversed.
    pub reply: Flow,
}

/// Lists the TCP and UDP flows of the calling thread's network namespace; none where the kernel does not track.
pub fn list() -> Result<Vec<Tracked>, ConntrackError> {
    let mut connection = match Connection::open(netlink::Protocol::Netfilter) {
        Err(error) if is_unsupported(&error) => return Ok(Vec::new()),
        other => other.map_err(ConntrackError::Open)?,
    };
    let request = Request::new(GET, &netfilter_header(libc::AF_UNSPEC as u8, 0));
    match connection.dump(&request, tracked) {
        Err(error) if is_unsupported(&error) => Ok(Vec::new()),
        other => other.map_err(ConntrackError::List),
    }
}

pub(super) fn tracked(message: &Message<'_>) -> Option<Tracked> {
    // Behind a header of four bytes.
    let of =
        |kind| message.attributes(4).find(|attribute| attribute.kind == kind).and_then(|tuple| flow(&tuple));
    Some(Tracked { original: of(TUPLE)?, reply: of(REPLY)? })
}

fn flow(tuple: &Attribute<'_>) -> Option<Flow> {
    let part = |kind| tuple.nested().find(|attribute| attribute.kind == kind);
    let (ip, protocol) = (part(TUPLE_IP)?, part(TUPLE_PROTOCOL)?);
    let address = |v4: u16| {
        ip.nested().find(|a| a.kind == v4 || a.kind == v4 + 2).and_then(|a| read_address(a.payload))
    };
    let field = |kind| protocol.nested().find(|attribute| attribute.kind == kind);
    let number = *field(NUMBER)?.payload.first()?;
    let protocol = [Protocol::Tcp, Protocol::Udp].into_iter().find(|known| known.number() == number)?;
    let port = |kind| field(kind).and_then(|port| port.be_u16());
    let source = SocketAddr::new(address(1)?, port(SOURCE_PORT)?);
    Flow::new(protocol, source, SocketAddr::new(address(2)?, port(DESTINATION_PORT)?))
}

fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// Removes the entries of these flows, whichever end opened them; returns how many there were.
///
/// Works on the network namespace of the calling thread, in the default zone. Entries that are not there, and a
/// kernel that does not track connections, are no errors. The first error ends the work.
pub fn delete(flows: &[Flow]) -> Result<usize, ConntrackError> {
    let mut connection = match Connection::open(netlink::Protocol::Netfilter) {
        Err(error) if is_unsupported(&error) => return Ok(0),
        other => other.map_err(ConntrackError::Open)?,
    };
    let mut removed = 0;
    for flow in flows.iter().flat_map(|flow| [*flow, flow.reversed()]) {
        match connection.transact(&delete_request(flow)) {
            Ok(()) => removed += 1,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(_) if is_absent(&mut connection) => return Ok(removed),
            Err(source) => return Err(ConntrackError::Delete { flow, source }),
        }
    }
    Ok(removed)
}

/// True when the kernel has no connection tracking over netlink: then every message to it is `EINVAL`
/// (net/netfilter/nfnetlink.c), which a refused tuple would be as well.
fn is_absent(connection: &mut Connection) -> bool {
    let probe = Request::new(GET_STATS, &netfilter_header(libc::AF_UNSPEC as u8, 0));
    connection.transact(&probe).is_err_and(|error| is_unsupported(&error))
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT)
    )
}

/// The only place that writes `IPCTNL_MSG_CT_DELETE`; the tuple is not optional.
fn delete_request(flow: Flow) -> Request {
    let family = if flow.source.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    Request::new(DELETE, &netfilter_header(family as u8, 0)).nest(TUPLE, |tuple| {
        tuple.nest(TUPLE_IP, |ip| address(address(ip, 1, flow.source.ip()), 2, flow.destination.ip())).nest(
            TUPLE_PROTOCOL,
            |protocol| {
                protocol
                    .attribute(NUMBER, &[flow.protocol.number()])
                    .attribute(SOURCE_PORT, &flow.source.port().to_be_bytes())
                    .attribute(DESTINATION_PORT, &flow.destination.port().to_be_bytes())
            },
        )
    })
}

/// `CTA_IP_V4_SRC` and `CTA_IP_V4_DST` are 1 and 2; for IPv6 they are 3 and 4.
fn address(request: Request, v4_kind: u16, address: IpAddr) -> Request {
    match address {
        IpAddr::V4(v4) => request.attribute(v4_kind, &v4.octets()),
        IpAddr::V6(v6) => request.attribute(v4_kind + 2, &v6.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netlink::Messages;
    use proptest::prelude::*;

    fn flow(source: &str, destination: &str) -> Option<Flow> {
        Flow::new(Protocol::Udp, source.parse().unwrap(), destination.parse().unwrap())
    }

    #[test]
    fn a_flow_has_one_family_and_mapped_addresses_are_ipv4() {
        assert!(flow("192.0.2.1:1", "[2001:db8::1]:2").is_none());
        let mapped = flow("[::ffff:192.0.2.1]:1", "203.0.113.1:2").unwrap();
        assert_eq!(mapped, flow("192.0.2.1:1", "203.0.113.1:2").unwrap());
        assert_eq!(mapped.reversed().to_string(), "UDP 203.0.113.1:2 > 192.0.2.1:1");
    }

    #[test]
    fn a_listed_flow_reads_as_it_was_written() {
        for (source, destination) in [("10.0.0.2:1", "192.0.2.1:443"), ("[fd00::2]:1", "[2001:db8::1]:443")] {
            let flow = flow(source, destination).unwrap();
            // A delete has the same tuple in the same place.
            let datagram = delete_request(flow).bytes(1, 0).unwrap();
            let message = Messages::new(&datagram).next().unwrap();
            let tuple = message.attributes(4).next().unwrap();
            assert_eq!(super::flow(&tuple), Some(flow));
            assert_eq!(tracked(&message), None, "no answer");
        }
    }

    proptest! {
        /// A delete whose tuple is missing or incomplete would reach entries that nobody named.
        #[test]
        fn every_delete_names_one_whole_tuple(
            v6: bool, tcp: bool, a: u128, b: u128, source_port: u16, destination_port: u16,
        ) {
            let address = |bits: u128| match v6 {
                true => IpAddr::V6(bits.into()).to_canonical(),
                false => IpAddr::V4((bits as u32).into()),
            };
            let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
            let ends = [(address(a), source_port), (address(b), destination_port)].map(SocketAddr::from);
            let Some(flow) = Flow::new(protocol, ends[0], ends[1]) else { return Ok(()) };
            let datagram = delete_request(flow).bytes(1, 0).unwrap();
            let message = Messages::new(&datagram).next().unwrap();
            prop_assert_eq!(message.kind, DELETE);
            let attributes: Vec<_> = message.attributes(4).collect();
            prop_assert_eq!(attributes.iter().map(|a| a.kind).collect::<Vec<_>>(), [TUPLE]);
            let parts: Vec<_> = attributes[0].nested().collect();
            let ips: Vec<_> = parts[0].nested().map(|a| a.payload.len()).collect();
            prop_assert_eq!(ips, if flow.source.is_ipv4() { [4, 4] } else { [16, 16] });
            let ports: Vec<_> = parts[1].nested().map(|a| a.payload.len()).collect();
            prop_assert_eq!(ports, [1, 2, 2]);
        }
    }
}
