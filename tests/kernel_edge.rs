//! What `picoseg::kernel` reads from the host, against a real kernel.
//!
//! Every test that needs packets runs in a network namespace of its own; cgroups have names of their own and are
//! removed at the end, also after a failure. Without root each test says SKIPPED and passes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use picoseg::kernel::cgroups::{Change, Hierarchy, Watcher};
use picoseg::kernel::clock::{self, ClockWatch, Tick};
use picoseg::kernel::conntrack::{self, Flow};
use picoseg::kernel::netlink::{self, Connection, Request};
use picoseg::kernel::nflog::{Batch, Hook, NflogError, Options, Reader, Record};
use picoseg::kernel::sockets::{Protocol, Socket, SocketTable, TcpState, TimeWait};
use picoseg::kernel::wait::Waiting;
use picoseg::model::Subject;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const PATIENCE: Duration = Duration::from_secs(10);

// ---------------------------------------------------------------------------------------------- the stage

/// Says it past the test harness, which would swallow it.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        say(&format!("SKIPPED {test}: it takes root to make namespaces and cgroups"));
    }
    root
}

/// Runs a test as a thread with a network namespace of its own, in which `lo` is up.
fn in_namespace(test: &str, body: impl FnOnce() + Send + 'static) {
    if !is_root(test) {
        return;
    }
    let staged = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        run("ip", &["link", "set", "lo", "up"], "");
        body();
    };
    if let Err(panic) = std::thread::spawn(staged).join() {
        std::panic::resume_unwind(panic);
    }
}

fn run(program: &str, arguments: &[&str], input: &str) {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{program} {arguments:?}");
}

fn nft(rules: &str) {
    run("nft", &["-f", "-"], rules);
}

/// Waits for data; false after a while.
fn readable(fd: impl AsFd, patience: Duration) -> bool {
    let timeout = Timespec::try_from(patience).unwrap();
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).unwrap() > 0
}

/// Asks again until there is an answer, for states that the kernel announces to nobody.
fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Some(answer) => return answer,
            None => assert!(Instant::now() < deadline, "waited in vain for {what}"),
        }
        std::thread::yield_now();
    }
}

fn unique() -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("picotest{}n{number}", std::process::id())
}

/// A cgroup right below the root, removed with everything in it at the end.
struct Cgroup {
    hierarchy: Hierarchy,
    name: String,
}

impl Cgroup {
    fn new(suffix: &str) -> Self {
        let cgroup = Self { hierarchy: Hierarchy::find().unwrap(), name: unique() + suffix };
        std::fs::create_dir(cgroup.directory()).unwrap();
        cgroup
    }

    fn directory(&self) -> PathBuf {
        self.hierarchy.mount().join(&self.name)
    }

    fn path(&self, below: &str) -> String {
        format!("/{}/{below}", self.name)
    }

    fn make(&self, below: &str) -> u64 {
        std::fs::create_dir_all(self.directory().join(below)).unwrap();
        self.id(below)
    }

    fn remove(&self, below: &str) {
        std::fs::remove_dir(self.directory().join(below)).unwrap();
    }

    fn id(&self, below: &str) -> u64 {
        std::fs::metadata(self.directory().join(below)).unwrap().ino()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove_tree(&self.directory());
    }
}

fn remove_tree(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(directory);
}

/// A child process that is ended at the end.
struct Process(Child);

impl Process {
    /// Runs a bash script as `uid`, in a cgroup when one is given, in the namespace of this thread.
    fn bash(uid: u32, cgroup: Option<&Cgroup>, script: &str) -> Self {
        let enter = cgroup.map_or_else(String::new, |cgroup| {
            format!("echo $$ > {}/cgroup.procs && ", cgroup.directory().display())
        });
        let wrapped = format!("{enter}exec setpriv --reuid {uid} --clear-groups bash -c '{script}'");
        let mut command = Command::new("bash");
        command.arg("-c").arg(wrapped).stdin(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort();
    times[(times.len() - 1) * percent / 100]
}

fn report(what: &str, times: &mut [Duration]) {
    let [half, most, worst] = [50, 99, 100].map(|percent| percentile(times, percent));
    say(&format!("{what}: p50 {half:?}, p99 {most:?}, max {worst:?} of {}", times.len()));
}

// ---------------------------------------------------------------------------------------------- sockets

/// Both ends of a TCP connection over the loopback of this namespace.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    fn new(listen: &str, connect: &str) -> Self {
        let listener = TcpListener::bind(listen).unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect(SocketAddr::new(connect.parse().unwrap(), port)).unwrap();
        let server = listener.accept().unwrap().0;
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        Self { client, server }
    }

    fn talks(&mut self) -> bool {
        let mut byte = [0];
        self.client.write_all(b"x").is_ok() && self.server.read_exact(&mut byte).is_ok()
    }
}

fn read_error(stream: &mut TcpStream) -> ErrorKind {
    stream.read(&mut [0; 8]).unwrap_err().kind()
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The socket whose own address is this one.
fn find(table: &mut SocketTable, local: SocketAddr) -> Socket {
    let listed = table.dump(TimeWait::Skip).unwrap();
    let mut matching = listed
        .into_iter()
        .filter(|socket| socket.local == canonical(local) && matches!(socket.state, TcpState::Established));
    matching.next().unwrap_or_else(|| panic!("{local} is not listed"))
}

#[test]
fn a_dump_knows_user_and_cgroup_of_a_connection() {
    in_namespace("a_dump_knows_user_and_cgroup_of_a_connection", || {
        for (address, shell) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1")] {
            let cgroup = Cgroup::new("");
            let listener = TcpListener::bind(address).unwrap();
            let port = listener.local_addr().unwrap().port();
            let script = format!("exec 3<>/dev/tcp/{shell}/{port}; read -r line <&3");
            let _child = Process::bash(4321, Some(&cgroup), &script);
            assert!(readable(&listener, PATIENCE), "the child does not connect");
            let (server, client) = listener.accept().unwrap();
            let mut table = SocketTable::open().unwrap();

            let theirs = find(&mut table, client);
            assert_eq!((theirs.protocol, theirs.state), (Protocol::Tcp, TcpState::Established));
            assert_eq!(theirs.remote, listener.local_addr().unwrap());
            assert_eq!(theirs.uid, 4321);
            assert_eq!(theirs.cgroup, Some(cgroup.id("")));
            assert_ne!((theirs.inode, theirs.cookie), (0, 0));
            let ours = find(&mut table, server.local_addr().unwrap());
            assert_eq!((ours.uid, ours.remote), (0, client));
            assert_ne!(ours.cgroup, theirs.cgroup);
        }
    });
}

#[test]
fn destroying_a_connection_tells_both_ends_and_nobody_else() {
    in_namespace("destroying_a_connection_tells_both_ends_and_nobody_else", || {
        let mut table = SocketTable::open().unwrap();
        let ways = [
            ("127.0.0.1:0", "127.0.0.1"),
            ("[::1]:0", "::1"),
            // An IPv6 socket that talks IPv4, as client and as server.
            ("127.0.0.1:0", "::ffff:127.0.0.1"),
            ("[::]:0", "127.0.0.1"),
        ];
        let mut times = Vec::new();
        for (listen, connect) in ways {
            for server_side in [false, true] {
                let mut bystander = Pair::new(listen, connect);
                let Pair { mut client, mut server } = Pair::new(listen, connect);
                let cut = if server_side { &mut server } else { &mut client };
                let socket = find(&mut table, cut.local_addr().unwrap());
                let start = Instant::now();
                assert!(table.destroy(&socket).unwrap(), "{listen} {connect}");
                assert_eq!(read_error(cut), ErrorKind::ConnectionAborted);
                times.push(start.elapsed());
                let told = if server_side { &mut client } else { &mut server };
                assert_eq!(read_error(told), ErrorKind::ConnectionReset);
                assert!(!table.destroy(&socket).unwrap(), "it is gone");
                assert!(bystander.talks(), "{listen} {connect}");
            }
        }
        report("destroy until the process knows", &mut times);
    });
}

#[test]
fn destroying_a_connected_udp_socket_wakes_its_process() {
    in_namespace("destroying_a_connected_udp_socket_wakes_its_process", || {
        let mut table = SocketTable::open().unwrap();
        for (own, other) in [
            ("127.0.0.1:0", "127.0.0.1:9"),
            ("[::1]:0", "[::1]:9"),
            ("[::ffff:127.0.0.1]:0", "[::ffff:127.0.0.1]:9"),
        ] {
            let [cut, bystander] = [own; 2].map(|own| UdpSocket::bind(own).unwrap());
            for socket in [&cut, &bystander] {
                socket.connect(other).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
            }
            let socket = find(&mut table, cut.local_addr().unwrap());
            assert_eq!(socket.protocol, Protocol::Udp);
            assert_eq!(socket.remote, canonical(other.parse().unwrap()));
            assert!(table.destroy(&socket).unwrap());
            let error = cut.recv(&mut [0; 8]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
            let kept = find(&mut table, bystander.local_addr().unwrap());
            assert_eq!(kept.state, TcpState::Established);
        }
    });
}

#[test]
fn half_open_connections_are_listed_and_can_be_destroyed() {
    in_namespace("half_open_connections_are_listed_and_can_be_destroyed", || {
        // The ACK that would complete the handshake is lost.
        nft("table inet t { chain c { type filter hook input priority 0
             tcp dport 7000 tcp flags & (syn | ack) == ack drop
 }
}");
        for address in ["127.0.0.1:7000", "[::1]:7000"] {
            let _listener = TcpListener::bind(address).unwrap();
            let client = TcpStream::connect(address).unwrap();
            let mut table = SocketTable::open().unwrap();
            let peer = client.local_addr().unwrap();
            let half_open = |table: &mut SocketTable| {
                let listed = table.dump(TimeWait::Skip).unwrap();
                listed.into_iter().find(|socket| socket.remote == peer && socket.local.port() == 7000)
            };
            let socket = half_open(&mut table).unwrap();
            assert_eq!((socket.state, socket.cgroup), (TcpState::SynReceived, None));
            assert!(table.destroy(&socket).unwrap());
            assert_eq!(half_open(&mut table), None);
        }
    });
}

#[test]
fn what_is_left_of_a_closed_connection_is_listed_only_on_request() {
    in_namespace("what_is_left_of_a_closed_connection_is_listed_only_on_request", || {
        let Pair { client, mut server } = Pair::new("127.0.0.1:0", "127.0.0.1");
        let own = client.local_addr().unwrap();
        let mut table = SocketTable::open().unwrap();
        drop(client);
        assert_eq!(server.read(&mut [0; 8]).unwrap(), 0);
        drop(server);
        let mut states = |time_wait| -> Vec<_> {
            let listed = table.dump(time_wait).unwrap();
            let ours = listed.into_iter().filter(|socket| socket.local == own);
            ours.map(|socket| socket.state).collect()
        };
        until("TIME_WAIT", || (states(TimeWait::Include) == [TcpState::TimeWait]).then_some(()));
        assert_eq!(states(TimeWait::Skip), []);
    });
}

#[test]
fn fifteen_thousand_sockets_are_listed_once_each() {
    in_namespace("fifteen_thousand_sockets_are_listed_once_each", || {
        const COUNT: usize = 15_000;
        if !allow_open_files(COUNT as u64 + 1000) {
            return say(
                "SKIPPED fifteen_thousand_sockets_are_listed_once_each: the limit of open files is too low",
            );
        }
        let sockets: Vec<_> = (0..COUNT).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let mut table = SocketTable::open().unwrap();
        let start = Instant::now();
        let listed = table.dump(TimeWait::Skip).unwrap();
        say(&format!("dump of {} sockets: {:?}", listed.len(), start.elapsed()));
        let mut ports: Vec<_> = listed.iter().map(|socket| socket.local.port()).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!((listed.len(), ports.len()), (sockets.len(), sockets.len()));
    });
}

fn allow_open_files(count: u64) -> bool {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= count) {
        return true;
    }
    let wanted = Rlimit { current: Some(count), maximum: limit.maximum.map(|maximum| maximum.max(count)) };
    setrlimit(Resource::Nofile, wanted).is_ok()
}

// ---------------------------------------------------------------------------------------------- conntrack

/// The port pairs of the tracked UDP flows, sorted.
fn tracked() -> Vec<(u16, u16)> {
    let mut connection = Connection::open(netlink::Protocol::Netfilter).unwrap();
    // IPCTNL_MSG_CT_GET; CTA_TUPLE_ORIG 1, in it CTA_TUPLE_PROTO 2, in it the ports 2 and 3.
    let request = Request::new(0x101, &netlink::netfilter_header(0, 0));
    let ports = |message: &netlink::Message<'_>| {
        let tuple = message.attributes(4).find(|attribute| attribute.kind == 1)?;
        let protocol = tuple.nested().find(|attribute| attribute.kind == 2)?;
        let port = |kind| protocol.nested().find(|attribute| attribute.kind == kind)?.be_u16();
        Some((port(2)?, port(3)?))
    };
    let mut flows = connection.dump(&request, ports).unwrap();
    flows.sort_unstable();
    flows
}

#[test]
fn a_flow_leaves_connection_tracking_and_its_neighbours_stay() {
    in_namespace("a_flow_leaves_connection_tracking_and_its_neighbours_stay", || {
        nft("table inet t { chain c { type filter hook output priority 0
             ct state new counter
 }
}");
        for own in ["127.0.0.1", "::1"] {
            let own: IpAddr = own.parse().unwrap();
            let send = |port: u16| {
                let socket = UdpSocket::bind((own, 0)).unwrap();
                socket.send_to(b"x", (own, port)).unwrap();
                socket.local_addr().unwrap()
            };
            let ends = [7001, 7002, 7003].map(|port| (send(port), SocketAddr::new(own, port)));
            assert_eq!(tracked().len(), 3);
            let [kept, gone, turned] = ends.map(|(from, to)| Flow::new(Protocol::Udp, from, to).unwrap());
            assert_eq!(conntrack::delete(&[gone]).unwrap(), 1);
            assert_eq!(conntrack::delete(&[gone]).unwrap(), 0);
            assert_eq!(conntrack::delete(&[turned.reversed()]).unwrap(), 1);
            assert_eq!(tracked(), [(ends[0].0.port(), 7001)]);
            assert_eq!(conntrack::delete(&[]).unwrap(), 0);
            assert_eq!(tracked().len(), 1);
            assert_eq!(conntrack::delete(&[kept, gone]).unwrap(), 1);
        }
    });
}

/// The receiving socket knows neither the port that was asked for nor the tuple of the first packet.
#[test]
fn a_redirected_flow_is_found_by_what_its_socket_knows() {
    in_namespace("a_redirected_flow_is_found_by_what_its_socket_knows", || {
        nft("table ip t { chain c { type nat hook output priority -100
             udp dport 7001 redirect to :7002
 }
}");
        let receiver = UdpSocket::bind("127.0.0.1:7002").unwrap();
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for turned in [false, true] {
            sender.send_to(b"x", "127.0.0.1:7001").unwrap();
            let (_, from) = receiver.recv_from(&mut [0; 8]).unwrap();
            assert_eq!(tracked(), [(from.port(), 7001)]);
            let flow = Flow::new(Protocol::Udp, from, receiver.local_addr().unwrap()).unwrap();
            let flow = if turned { flow.reversed() } else { flow };
            assert_eq!(conntrack::delete(&[flow]).unwrap(), 1);
        }
    });
}

#[test]
fn without_tracked_flows_there_is_nothing_to_remove() {
    in_namespace("without_tracked_flows_there_is_nothing_to_remove", || {
        let [a, b] = ["192.0.2.1:1", "192.0.2.2:2"].map(|end| end.parse().unwrap());
        let flow = Flow::new(Protocol::Tcp, a, b).unwrap();
        assert_eq!(conntrack::delete(&[flow]).unwrap(), 0);
    });
}

// ---------------------------------------------------------------------------------------------- NFLOG

/// Reads until so many records are there, found missing or not.
fn read_records(reader: &mut Reader, count: usize) -> (Vec<Record>, Batch) {
    let (mut records, mut total) = (Vec::new(), Batch::default());
    while records.len() + (total.lost as usize) < count {
        assert!(readable(&*reader, PATIENCE), "only {} records", records.len());
        let batch = reader.read_batch(&mut records).unwrap();
        total.lost += batch.lost;
        total.unreadable += batch.unreadable;
    }
    (records, total)
}

#[test]
fn refused_packets_are_read_with_prefix_user_and_ports() {
    in_namespace("refused_packets_are_read_with_prefix_user_and_ports", || {
        nft("table inet t {
             chain o { type filter hook output priority 0
               udp dport 7000 log prefix \"egress/closed \" group 4748 drop
               tcp dport 7001 log prefix \"egress/pending \" group 4748 reject with tcp reset
             }
             chain i { type filter hook input priority 0
               icmp type echo-request log prefix \"ingress/expired \" group 4748 drop
               icmpv6 type echo-request log prefix \"ingress/expired \" group 4748 drop
 }
}");
        let mut reader = Reader::open(4748).unwrap();
        for own in ["127.0.0.1", "::1"] {
            let address: IpAddr = own.parse().unwrap();
            let mut sender = Process::bash(4321, None, &format!("echo x > /dev/udp/{own}/7000"));
            sender.0.wait().unwrap();
            let (records, _) = read_records(&mut reader, 1);
            let record = &records[0];
            assert_eq!((record.prefix.as_str(), record.hook), ("egress/closed ", Some(Hook::Output)));
            assert_eq!((record.uid, record.gid), (Some(4321), Some(0)));
            assert_eq!((record.indev, record.outdev), (None, Some(1)));
            assert_eq!((record.packet.source, record.packet.destination), (address, address));
            assert_eq!(record.packet.protocol, 17);
            assert_eq!(record.packet.ports.map(|(_, destination)| destination), Some(7000));

            let start = Instant::now();
            TcpStream::connect((address, 7001)).unwrap_err();
            let (records, batch) = read_records(&mut reader, 1);
            say(&format!("connect until its record is read: {:?}", start.elapsed()));
            let record = &records[0];
            assert_eq!((record.prefix.as_str(), record.uid), ("egress/pending ", Some(0)));
            assert_eq!(record.packet.tcp_flags, Some(0x02));
            assert_eq!((batch.lost, batch.unreadable), (0, 0));

            let kind = send_echo_request(address);
            let (records, _) = read_records(&mut reader, 1);
            let record = &records[0];
            assert_eq!((record.prefix.as_str(), record.hook), ("ingress/expired ", Some(Hook::Input)));
            assert_eq!((record.indev, record.outdev), (Some(1), None));
            assert_eq!((record.packet.icmp, record.packet.ports), (Some((kind, 0)), None));
        }
    });
}

/// Sends an ICMP echo request to an address; returns its type.
fn send_echo_request(address: IpAddr) -> u8 {
    use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};
    let (family, protocol, kind) = match address {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP, 8),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6, 128),
    };
    let socket = socket(family, SocketType::RAW, Some(protocol)).unwrap();
    let request = [kind, 0, 0, 0, 0, 1, 0, 1];
    sendto(&socket, &request, SendFlags::empty(), &SocketAddr::new(address, 0)).unwrap();
    kind
}

#[test]
fn a_group_has_one_reader_and_is_free_when_it_ends() {
    in_namespace("a_group_has_one_reader_and_is_free_when_it_ends", || {
        let reader = Reader::open(4749).unwrap();
        let second = Reader::open(4749);
        assert!(matches!(second, Err(NflogError::Taken { group: 4749 })), "{second:?}");
        Reader::open(4750).unwrap();
        drop(reader);
        Reader::open(4749).unwrap();
    });
}

const BURST: usize = 30_000;

/// Sends so many packets into a rule that logs and refuses them.
fn send_burst(count: usize) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..count {
        let refused = socket.send_to(&[0; 64], (Ipv4Addr::LOCALHOST, 7000)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    }
}

const LOG_AND_DROP: &str = "table inet t { chain o { type filter hook output priority 0
    udp dport 7000 log prefix \"burst \" group 4751 drop
 }
}";

#[test]
fn a_burst_into_a_full_buffer_is_accounted_exactly() {
    in_namespace("a_burst_into_a_full_buffer_is_accounted_exactly", || {
        nft(LOG_AND_DROP);
        let small = Options { receive_buffer: 256 * 1024, batch_bytes: 16 * 1024, ..Options::default() };
        let mut reader = Reader::open_with(4751, small).unwrap();
        for round in 0..3 {
            // Nobody reads meanwhile; the packet after the burst makes its end known.
            send_burst(BURST);
            let (mut records, mut lost) = (Vec::new(), 0);
            while !reader.read_batch(&mut records).map(|b| (lost += b.lost, b.drained)).unwrap().1 {}
            send_burst(1);
            let seen = records.len() + lost as usize;
            let (last, batch) = read_records(&mut reader, BURST + 1 - seen);
            let read = records.len() + last.len();
            say(&format!("burst {round}: read {read}, lost {}", lost + batch.lost));
            assert!(lost + batch.lost > 0, "the burst was too small to lose anything");
            assert_eq!(read as u64 + lost + batch.lost, BURST as u64 + 1);
        }
    });
}

#[test]
fn a_reader_with_its_own_settings_keeps_up_with_a_burst() {
    in_namespace("a_reader_with_its_own_settings_keeps_up_with_a_burst", || {
        nft(LOG_AND_DROP);
        let mut reader = Reader::open(4751).unwrap();
        let start = Instant::now();
        send_burst(BURST);
        let sent = start.elapsed();
        let (records, batch) = read_records(&mut reader, BURST);
        say(&format!("{BURST} packets sent in {sent:?}, lost {}", batch.lost));
        assert_eq!((records.len(), batch.lost, batch.unreadable), (BURST, 0, 0));
    });
}

// ---------------------------------------------------------------------------------------------- cgroups

fn unit(name: &str) -> Subject {
    Subject::unit(name).unwrap()
}

/// Waits for the next change, as the daemon would.
fn next_change(watcher: &mut Watcher) -> Vec<Change> {
    loop {
        assert!(readable(&*watcher, PATIENCE), "no event");
        let changes = watcher.next_changes().unwrap();
        if !changes.is_empty() {
            return changes;
        }
    }
}

/// The only change, as (subject, [(path, id)]).
fn only_change(watcher: &mut Watcher) -> (Subject, Vec<(String, u64)>) {
    let mut changes = next_change(watcher);
    let change = changes.pop().unwrap();
    assert!(changes.is_empty(), "{changes:?}");
    let cgroups = change.cgroups.into_iter().map(|cgroup| (cgroup.path, cgroup.id));
    (change.subject, cgroups.collect())
}

#[test]
fn a_unit_that_comes_goes_and_comes_again_has_its_present_id() {
    if !is_root("a_unit_that_comes_goes_and_comes_again_has_its_present_id") {
        return;
    }
    let slice = Cgroup::new(".slice");
    let name = unique() + ".service";
    let subject = unit(&name);
    let mut watcher = Watcher::new(slice.hierarchy.clone(), std::slice::from_ref(&subject)).unwrap();
    let (mut times, mut ids) = (Vec::new(), Vec::new());
    for _ in 0..50 {
        let start = Instant::now();
        let id = slice.make(&name);
        assert_eq!(only_change(&mut watcher), (subject.clone(), vec![(slice.path(&name), id)]));
        times.push(start.elapsed());
        ids.push(id);
        slice.remove(&name);
        assert_eq!(only_change(&mut watcher), (subject.clone(), vec![]));
    }
    ids.dedup();
    assert_eq!(ids.len(), 50);
    report("mkdir until the change is known", &mut times);
    assert!(percentile(&mut times, 50) < Duration::from_millis(100));
}

#[test]
fn nested_slices_and_instances_are_followed_and_look_alikes_are_not() {
    if !is_root("nested_slices_and_instances_are_followed_and_look_alikes_are_not") {
        return;
    }
    let slice = Cgroup::new(".slice");
    let stem = unique();
    let (template, look_alike) = (unit(&format!("{stem}@.service")), unit(&format!("{stem}.service")));
    let subjects = [template.clone(), look_alike];
    let mut watcher = Watcher::new(slice.hierarchy.clone(), &subjects).unwrap();
    // What a user manager or a container may make below its own service.
    slice.make(&format!("user@1.service/{stem}.service"));
    slice.make(&format!("user@1.service/app.slice/{stem}@1.service"));
    slice.make(&format!("a.scope/system.slice/{stem}.service"));
    let first = format!("a.slice/a-b.slice/{stem}@1.service");
    let id = slice.make(&first);
    assert_eq!(only_change(&mut watcher), (template.clone(), vec![(slice.path(&first), id)]));
    let second = format!("{stem}@two.service");
    let both = vec![(slice.path(&first), id), (slice.path(&second), slice.make(&second))];
    assert_eq!(only_change(&mut watcher), (template.clone(), both));
    slice.remove(&first);
    assert_eq!(only_change(&mut watcher).1.len(), 1);
    for subject in subjects {
        let expected = usize::from(subject == template);
        assert_eq!(slice.hierarchy.resolve(&subject).unwrap().len(), expected);
    }
}

/// The daemon's way to wait: nothing may be left unread when the readiness is cleared.
#[test]
fn every_change_wakes_an_async_reader() {
    if !is_root("every_change_wakes_an_async_reader") {
        return;
    }
    let slice = Cgroup::new(".slice");
    let name = unique() + ".service";
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.unwrap().block_on(async {
        let watcher = Watcher::new(slice.hierarchy.clone(), &[unit(&name)]).unwrap();
        let mut watcher = Waiting::new(watcher).unwrap();
        for round in 0..200 {
            let count = round % 2;
            if count == 0 {
                slice.make(&name);
            } else {
                slice.remove(&name);
            }
            let changes = tokio::time::timeout(PATIENCE, next_change_async(&mut watcher)).await;
            assert_eq!(changes.expect("a change wakes the reader")[0].cgroups.len(), 1 - count);
        }
    });
}

async fn next_change_async(watcher: &mut Waiting<Watcher>) -> Vec<Change> {
    loop {
        let changes = watcher.readable().await.unwrap().next_changes().unwrap();
        if !changes.is_empty() {
            return changes;
        }
    }
}

/// All three kinds of readers wait beside each other, as in the daemon's loop.
#[test]
fn packets_and_the_clock_wake_their_readers() {
    in_namespace("packets_and_the_clock_wake_their_readers", || {
        nft(LOG_AND_DROP);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async {
            let mut log = Waiting::new(Reader::open(4751).unwrap()).unwrap();
            let mut clock = Waiting::new(ClockWatch::new().unwrap()).unwrap();
            let (mut records, mut ticks) = (Vec::new(), 0);
            send_burst(1);
            clock.get_mut().arm(clock::now()).unwrap();
            let both = async {
                while records.len() < 200 || ticks < 100 {
                    tokio::select! {
                        reader = log.readable() => {
                            let reader = reader.unwrap();
                            while !reader.read_batch(&mut records).unwrap().drained {}
                            send_burst(20);
                        }
                        watch = clock.readable() => {
                            let watch = watch.unwrap();
                            ticks += usize::from(matches!(watch.read(), Ok(Tick::Due)));
                            watch.arm(clock::now() + Duration::from_millis(1)).unwrap();
                        }
                    }
                }
            };
            tokio::time::timeout(PATIENCE, both).await.expect("both readers wake");
        });
    });
}

#[test]
fn a_path_is_followed_through_cgroups_that_are_not_slices() {
    if !is_root("a_path_is_followed_through_cgroups_that_are_not_slices") {
        return;
    }
    let top = Cgroup::new("");
    let subject = Subject::cgroup(&top.path("a/b")).unwrap();
    let mut watcher = Watcher::new(top.hierarchy.clone(), std::slice::from_ref(&subject)).unwrap();
    for _ in 0..20 {
        let id = top.make("a/b");
        assert_eq!(only_change(&mut watcher), (subject.clone(), vec![(top.path("a/b"), id)]));
        top.remove("a/b");
        top.remove("a");
        assert_eq!(only_change(&mut watcher), (subject.clone(), vec![]));
    }
}

#[test]
fn a_thousand_restarts_among_five_hundred_units_are_each_seen() {
    if !is_root("a_thousand_restarts_among_five_hundred_units_are_each_seen") {
        return;
    }
    let slice = Cgroup::new(".slice");
    for number in 0..500 {
        slice.make(&format!("other{number}.service"));
    }
    let name = unique() + ".service";
    let subject = unit(&name);
    slice.make(&name);
    let mut watcher = Watcher::new(slice.hierarchy.clone(), std::slice::from_ref(&subject)).unwrap();
    let mut times = Vec::new();
    for _ in 0..1000 {
        slice.remove(&name);
        let id = slice.make(&name);
        let start = Instant::now();
        assert_eq!(only_change(&mut watcher).1, [(slice.path(&name), id)]);
        times.push(start.elapsed());
    }
    report("event until the change is known, 500 units", &mut times);
    assert!(percentile(&mut times, 50) < Duration::from_millis(10));
}

#[test]
fn more_events_than_the_kernel_queues_lose_nothing() {
    const TEST: &str = "more_events_than_the_kernel_queues_lose_nothing";
    let queue = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events");
    let queue: usize = queue.unwrap().trim().parse().unwrap();
    if !is_root(TEST) || queue > 100_000 {
        return say(&format!("SKIPPED {TEST}: it takes root and a queue below 100,000 events, not {queue}"));
    }
    let slice = Cgroup::new(".slice");
    let name = unique() + ".service";
    let mut watcher = Watcher::new(slice.hierarchy.clone(), &[unit(&name)]).unwrap();
    for _ in 0..=queue / 2 {
        slice.make("noise");
        slice.remove("noise");
    }
    let inner = format!("a.slice/{name}");
    let id = slice.make(&inner);
    let start = Instant::now();
    assert_eq!(only_change(&mut watcher).1, [(slice.path(&inner), id)]);
    say(&format!("overflow until everything was read again: {:?}", start.elapsed()));
    // What is made after it is watched, too.
    slice.remove(&inner);
    assert_eq!(only_change(&mut watcher).1, []);
}

#[test]
fn after_a_storm_the_watcher_knows_what_the_file_system_says() {
    if !is_root("after_a_storm_the_watcher_knows_what_the_file_system_says") {
        return;
    }
    let slice = Cgroup::new(".slice");
    let stem = unique();
    let names: Vec<_> = (0..3).map(|number| format!("{stem}{number}.service")).collect();
    let mut subjects: Vec<_> = names.iter().map(|name| unit(name)).collect();
    subjects.push(Subject::cgroup(&slice.path("a.slice/b.slice/c")).unwrap());
    let mut watcher = Watcher::new(slice.hierarchy.clone(), &subjects).unwrap();
    let storm = |seed: usize| {
        let (slice, names) = (&slice, &names);
        move || {
            for round in seed..seed + 400 {
                let below = ["a.slice", "a.slice/b.slice", ""][round % 3];
                let leaf = [names[round % 3].as_str(), "c"][round % 2];
                let path = slice.directory().join(below).join(leaf);
                let _ = std::fs::create_dir_all(&path);
                if round % 5 != 0 {
                    remove_tree(&slice.directory().join("a.slice"));
                    let _ = std::fs::remove_dir(&path);
                }
            }
        }
    };
    for round in 0..5 {
        std::thread::scope(|scope| {
            let storms = [scope.spawn(storm(round)), scope.spawn(storm(round + 1))];
            while storms.iter().any(|storm| !storm.is_finished()) {
                watcher.next_changes().unwrap();
            }
        });
        watcher.next_changes().unwrap();
        for (subject, known) in watcher.resolved() {
            assert_eq!(known, slice.hierarchy.resolve(subject).unwrap(), "{subject} after {round}");
        }
    }
}
