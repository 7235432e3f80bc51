//! The TCP and UDP sockets of this network namespace, or of a process's, and how to destroy one.
//!
//! Neighbour: [`super::netlink`] carries the messages (sock_diag(7), linux/inet_diag.h). Deliberately absent: which
//! sockets a close must cut; processes (`/proc` is not searched); SCTP and raw sockets.

mod traffic;

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::sched::{CloneFlags, setns};

use super::netlink::{self, Connection, Message, Request, fixed};
pub use traffic::Traffic;

/// `SOCK_DIAG_BY_FAMILY` and `SOCK_DESTROY`.
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
/// `INET_DIAG_CGROUP_ID` (kernel 5.9).
const CGROUP_ID: u16 = 21;
/// `INET_DIAG_INFO`, and how a request asks for it (`idiag_ext`).
const INFO: u16 = 2;
const WITH_INFO: u8 = 1 << (INFO - 1);
/// Length of `struct inet_diag_msg`.
const HEADER: usize = 72;
/// Length of `struct inet_diag_sockid`: ports, addresses, interface, cookie.
const ID: usize = 48;
/// `idiag_timer` of what is left of a closed socket (net/ipv4/inet_diag.c, `inet_twsk_diag_fill`).
const TIMER_TIME_WAIT: u8 = 3;

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("cannot ask the kernel for sockets (NETLINK_SOCK_DIAG): {0}")]
    Open(#[source] io::Error),
    #[error("cannot enter the network of process {process}: {source}{}", enter_help(source))]
    Enter { process: u32, source: io::Error },
    #[error("cannot list the {protocol} sockets of {family}: {source}{}", list_help(source))]
    List { protocol: &'static str, family: &'static str, source: io::Error },
    #[error(
        "cannot destroy the {protocol} socket from {local} to {remote}: {source}{}",
        destroy_help(source)
    )]
    Destroy { protocol: &'static str, local: SocketAddr, remote: SocketAddr, source: io::Error },
}

/// Without the module the sockets are there but cannot be seen: an empty list would pass for a proof.
fn list_help(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOENT) => " (the kernel needs the modules tcp_diag and udp_diag)",
        Some(_) | None => "",
    }
}

fn enter_help(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => " (it takes CAP_SYS_PTRACE and CAP_SYS_ADMIN)",
        Some(_) | None => "",
    }
}

fn destroy_help(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => " (the kernel needs CONFIG_INET_DIAG_DESTROY)",
        Some(libc::EPERM) => " (it takes CAP_NET_ADMIN)",
        Some(_) | None => "",
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }

    /// The number of the protocol in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// The state of a socket; a UDP socket is `Established` when it is connected, else `Closed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TcpState {
    Established,
    SynSent,
    /// A half-open connection on a listener: the kernel knows neither its user nor its cgroup yet.
    SynReceived,
    FinWait1,
    FinWait2,
    TimeWait,
    Closed,
    CloseWait,
    LastAck,
    Listen,
    Closing,
}

impl TcpState {
    /// Bits of the states that exist on every kernel: 1 to 11. A request for SYN_RECV includes the half-open ones.
    const REQUESTED: u32 = 0xffe;
    /// Numbers of [`Self::Listen`] and [`Self::Closed`].
    const LISTEN: u32 = 10;
    const CLOSE: u32 = 7;

    /// As ss(8) names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Established => "ESTAB",
            Self::SynSent => "SYN-SENT",
            Self::SynReceived => "SYN-RECV",
            Self::FinWait1 => "FIN-WAIT-1",
            Self::FinWait2 => "FIN-WAIT-2",
            Self::TimeWait => "TIME-WAIT",
            Self::Closed => "UNCONN",
            Self::CloseWait => "CLOSE-WAIT",
            Self::LastAck => "LAST-ACK",
            Self::Listen => "LISTEN",
            Self::Closing => "CLOSING",
        }
    }

    /// include/net/tcp_states.h
    fn new(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Established,
            2 => Self::SynSent,
            3 | 12 => Self::SynReceived,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            7 => Self::Closed,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            _ => return None,
        })
    }
}

/// Whether a list has what is left of closed connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeWait {
    Include,
    /// Leaves out sockets in TIME_WAIT, and those in FIN_WAIT2 that no process can use any more.
    Skip,
}

/// A socket as the kernel listed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    pub protocol: Protocol,
    pub state: TcpState,
    /// IPv4-mapped addresses of an IPv6 socket read as IPv4: that is what its packets are.
    pub local: SocketAddr,
    /// Address and port are zero when it is not connected.
    pub remote: SocketAddr,
    /// 0 for half-open connections and in TIME_WAIT, whoever they belong to.
    pub uid: u32,
    /// Inode of the socket as in `/proc/PID/fd`; 0 when no process has it open.
    pub inode: u32,
    /// The cgroup in which the socket was created; none for half-open connections and in TIME_WAIT.
    pub cgroup: Option<u64>,
    /// Tells it from every other socket since boot, also from a later one between the same addresses.
    pub cookie: u64,
    /// The interface it is bound to; 0: any.
    pub interface: u32,
    /// Where it was asked for, of TCP.
    pub traffic: Option<Traffic>,
    /// Family and identity as listed: the kernel finds the socket by exactly these.
    family: u8,
    id: [u8; ID],
    /// What is left of a closed socket.
    remnant: bool,
}

/// Lists and destroys sockets of one network namespace.
#[derive(Debug)]
pub struct SocketTable {
    connection: Connection,
}

impl SocketTable {
    /// Opens the table of the calling thread's network namespace.
    pub fn open() -> Result<Self, SocketError> {
        let connection = Connection::open(netlink::Protocol::SockDiag).map_err(SocketError::Open)?;
        Ok(Self { connection })
    }

    /// Opens the table of a process's network namespace. The calling thread stays where it is.
    pub fn open_in(process: u32) -> Result<Self, SocketError> {
        let failed = move |source| SocketError::Enter { process, source };
        let namespace = File::open(format!("/proc/{process}/ns/net")).map_err(failed)?;
        // A socket belongs to the namespace in which it was made; the thread ends with it.
        let entered = std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| failed(errno.into()))?;
            Self::open()
        });
        entered
            .join()
            .unwrap_or_else(|_| Err(failed(io::Error::other("the thread that entered it panicked"))))
    }

    /// Lists all TCP and UDP sockets of both families.
    ///
    /// It is no snapshot: a socket that opens or closes meanwhile may be there or not.
    pub fn dump(&mut self, time_wait: TimeWait) -> Result<Vec<Socket>, SocketError> {
        let mut sockets = Vec::new();
        for protocol in Protocol::ALL {
            for family in [libc::AF_INET, libc::AF_INET6] {
                sockets.extend(self.dump_part(protocol, family, time_wait)?);
            }
        }
        Ok(sockets)
    }

    /// The same without what is left of closed connections, and with how much each has carried.
    pub fn dump_with_traffic(&mut self) -> Result<Vec<Socket>, SocketError> {
        let mut sockets = Vec::new();
        for protocol in Protocol::ALL {
            for family in [libc::AF_INET, libc::AF_INET6] {
                let mut header = header(family as u8, protocol, TcpState::REQUESTED, &[0; ID]);
                header[2] = WITH_INFO;
                let request = Request::new(BY_FAMILY, &header);
                sockets.extend(self.list(protocol, family, &request, |socket| !socket.remnant)?);
            }
        }
        Ok(sockets)
    }

    /// Lists the sockets of both families that wait for whoever comes: TCP listeners, UDP sockets without a peer.
    pub fn waiting(&mut self) -> Result<Vec<Socket>, SocketError> {
        let mut sockets = Vec::new();
        for (protocol, state) in [(Protocol::Tcp, TcpState::LISTEN), (Protocol::Udp, TcpState::CLOSE)] {
            for family in [libc::AF_INET, libc::AF_INET6] {
                let request = request(BY_FAMILY, family as u8, protocol, 1 << state, &[0; ID]);
                sockets.extend(self.list(protocol, family, &request, |_| true)?);
            }
        }
        Ok(sockets)
    }

    /// The socket that would get a packet from `remote` to `local`: a listener too. `None` when there is none.
    pub fn find(
        &mut self,
        protocol: Protocol,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<Option<Socket>, SocketError> {
        // net/ipv4/udp_diag.c, `udp_dump_one`: "src and dst are swapped for historical reasons".
        let (source, destination) = match protocol {
            Protocol::Tcp => (local, remote),
            Protocol::Udp => (remote, local),
        };
        let family = if local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let request =
            request(BY_FAMILY, family as u8, protocol, TcpState::REQUESTED, &id_of(source, destination));
        match self.connection.ask(&request, |message| Socket::parse(protocol, message)) {
            Ok(found) => Ok(found),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(source) => Err(list_error(protocol, family, source)),
        }
    }

    fn dump_part(
        &mut self,
        protocol: Protocol,
        family: i32,
        time_wait: TimeWait,
    ) -> Result<Vec<Socket>, SocketError> {
        let wanted = |socket: &Socket| time_wait == TimeWait::Include || !socket.remnant;
        let request = request(BY_FAMILY, family as u8, protocol, TcpState::REQUESTED, &[0; ID]);
        self.list(protocol, family, &request, wanted)
    }

    fn list(
        &mut self,
        protocol: Protocol,
        family: i32,
        request: &Request,
        wanted: impl Fn(&Socket) -> bool,
    ) -> Result<Vec<Socket>, SocketError> {
        let listed =
            self.connection.dump(request, |message| Socket::parse(protocol, message).filter(&wanted));
        listed.map_err(|source| list_error(protocol, family, source))
    }

    /// Destroys one socket: its process gets `ECONNABORTED`, a TCP peer a reset. Returns false when it was gone.
    ///
    /// A listener is destroyed too, without a reset to anyone. The reset passes the output hook like any packet.
    /// Kernels before 6.10 cannot destroy what is left in TIME_WAIT (`EOPNOTSUPP`).
    pub fn destroy(&mut self, socket: &Socket) -> Result<bool, SocketError> {
        let request = request(DESTROY, socket.family, socket.protocol, TcpState::REQUESTED, &socket.id);
        match self.connection.transact(&request) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(source) => Err(SocketError::Destroy {
                protocol: socket.protocol.as_str(),
                local: socket.local,
                remote: socket.remote,
                source,
            }),
        }
    }
}

fn list_error(protocol: Protocol, family: i32, source: io::Error) -> SocketError {
    let family = if family == libc::AF_INET { "IPv4" } else { "IPv6" };
    SocketError::List { protocol: protocol.as_str(), family, source }
}

/// A message with a `struct inet_diag_req_v2`.
fn request(kind: u16, family: u8, protocol: Protocol, states: u32, id: &[u8; ID]) -> Request {
    Request::new(kind, &header(family, protocol, states, id))
}

fn header(family: u8, protocol: Protocol, states: u32, id: &[u8; ID]) -> Vec<u8> {
    let mut header = vec![family, protocol.number(), 0, 0];
    header.extend_from_slice(&states.to_ne_bytes());
    header.extend_from_slice(id);
    header
}

/// A `struct inet_diag_sockid` of any interface and cookie (`INET_DIAG_NOCOOKIE`).
fn id_of(source: SocketAddr, destination: SocketAddr) -> [u8; ID] {
    let mut id = [0; ID];
    let mut put = |at: usize, bytes: &[u8]| {
        id.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
    };
    for (port, address, end) in [(0, 4, source), (2, 20, destination)] {
        put(port, &end.port().to_be_bytes());
        match end.ip() {
            IpAddr::V4(v4) => put(address, &v4.octets()),
            IpAddr::V6(v6) => put(address, &v6.octets()),
        }
    }
    put(40, &[u8::MAX; 8]);
    id
}

impl Socket {
    /// Reads a `struct inet_diag_msg` and the attributes behind it.
    pub(super) fn parse(protocol: Protocol, message: &Message<'_>) -> Option<Self> {
        let [family, state, timer, _]: [u8; 4] = fixed(message.payload)?;
        let id: [u8; ID] = fixed(message.payload.get(4..)?)?;
        // Behind the id: expires, receive and send queue, uid, inode.
        let uid = fixed(message.payload.get(64..)?)?;
        let inode = fixed(message.payload.get(68..)?)?;
        let attribute = |kind| message.attributes(HEADER).find(|attribute| attribute.kind == kind);
        let cgroup = attribute(CGROUP_ID);
        let traffic = attribute(INFO).and_then(|info| Traffic::read(info.payload));
        Some(Self {
            protocol,
            state: TcpState::new(state)?,
            local: endpoint(family, id.get(4..)?, id.get(..2)?)?,
            remote: endpoint(family, id.get(20..)?, id.get(2..4)?)?,
            uid: u32::from_ne_bytes(uid),
            inode: u32::from_ne_bytes(inode),
            cgroup: cgroup.and_then(|attribute| attribute.u64()),
            cookie: cookie(&id)?,
            interface: u32::from_ne_bytes(fixed(id.get(36..)?)?),
            traffic,
            family,
            id,
            remnant: timer == TIMER_TIME_WAIT,
        })
    }
}

/// The kernel splits the number into two words, the low one first.
fn cookie(id: &[u8; ID]) -> Option<u64> {
    let low = u32::from_ne_bytes(fixed(id.get(40..)?)?);
    let high = u32::from_ne_bytes(fixed(id.get(44..)?)?);
    Some(u64::from(high) << 32 | u64::from(low))
}

fn endpoint(family: u8, address: &[u8], port: &[u8]) -> Option<SocketAddr> {
    let address = match i32::from(family) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::from(fixed::<4>(address)?)),
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::from(fixed::<16>(address)?)).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(address, u16::from_be_bytes(fixed(port)?)))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;
    use proptest::prelude::*;

    /// The lookup needs no privilege.
    #[test]
    fn a_socket_is_found_by_its_ends_and_a_listener_among_those_that_wait() {
        let mut table = SocketTable::open().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (local, remote) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        let found = table.find(Protocol::Tcp, local, remote).unwrap().unwrap();
        assert_eq!((found.local, found.remote, found.state), (local, remote, TcpState::Established));
        for listening in ["127.0.0.1:0", "[::]:0"] {
            let socket = UdpSocket::bind(listening).unwrap();
            let local = SocketAddr::new("127.0.0.1".parse().unwrap(), socket.local_addr().unwrap().port());
            let found = table.find(Protocol::Udp, local, "127.0.0.1:9".parse().unwrap()).unwrap().unwrap();
            assert_eq!(found.local.port(), local.port());
            let mut waiting = table.waiting().unwrap().into_iter();
            assert!(waiting.any(|one| one.cookie == found.cookie));
        }
        let waiting = table.waiting().unwrap();
        assert!(waiting.iter().any(|one| one.local == remote && one.state == TcpState::Listen));
        assert!(waiting.iter().all(|one| one.remote.port() == 0), "{waiting:?}");
        drop(listener);
        assert_eq!(table.find(Protocol::Tcp, "127.0.0.1:1".parse().unwrap(), remote).unwrap(), None);
    }

    /// An `inet_diag_msg` of an IPv6 socket that talks IPv4, with a cgroup.
    fn mapped() -> Vec<u8> {
        let mut payload = vec![10, 1, 0, 0];
        payload.extend(8443u16.to_be_bytes());
        payload.extend(50000u16.to_be_bytes());
        payload.extend(Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().octets());
        payload.extend(Ipv4Addr::new(203, 0, 113, 9).to_ipv6_mapped().octets());
        payload.extend(7u32.to_ne_bytes());
        payload.extend([0x1111_1111u32.to_ne_bytes(), 0x2222_2222u32.to_ne_bytes()].concat());
        payload.extend([0; 12]);
        payload.extend(1000u32.to_ne_bytes());
        payload.extend(4242u32.to_ne_bytes());
        payload.extend([12u16.to_ne_bytes(), CGROUP_ID.to_ne_bytes()].concat());
        payload.extend(0x1_0000_0005u64.to_ne_bytes());
        payload
    }

    fn parse(payload: &[u8]) -> Option<Socket> {
        let message = Message { kind: BY_FAMILY, flags: 0, sequence: 1, payload };
        Socket::parse(Protocol::Tcp, &message)
    }

    #[test]
    fn a_mapped_socket_reads_as_ipv4_and_keeps_its_identity() {
        let payload = mapped();
        let socket = parse(&payload).unwrap();
        assert_eq!(socket.local, "192.0.2.1:8443".parse().unwrap());
        assert_eq!(socket.remote, "203.0.113.9:50000".parse().unwrap());
        assert_eq!(socket.state, TcpState::Established);
        assert_eq!((socket.uid, socket.inode, socket.interface), (1000, 4242, 7));
        assert_eq!(socket.cgroup, Some(0x1_0000_0005));
        assert_eq!(socket.cookie, 0x2222_2222_1111_1111);
        assert_eq!((socket.family, &socket.id[..]), (10, &payload[4..52]));
    }

    #[test]
    fn what_a_closed_socket_left_is_a_remnant_whatever_state_it_shows() {
        let mut payload = mapped();
        payload[1] = 5;
        assert!(!parse(&payload).unwrap().remnant);
        payload[2] = TIMER_TIME_WAIT;
        assert!(parse(&payload).unwrap().remnant);
    }

    #[test]
    fn a_request_is_56_bytes_and_names_every_state_once() {
        let request = format!("{:?}", request(BY_FAMILY, 2, Protocol::Udp, TcpState::REQUESTED, &[0; ID]));
        assert!(request.contains("body: [2, 17, 0, 0, "), "{request}");
        let named = (0..32).filter(|bit| TcpState::REQUESTED & (1 << bit) != 0);
        assert!(named.clone().all(|bit| TcpState::new(bit).is_some()));
        assert_eq!(named.count(), 11);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_a_socket_or_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn a_cut_socket_is_nothing(end in 0usize..HEADER) {
            prop_assert!(parse(&mapped()[..end]).is_none());
        }
    }
}
