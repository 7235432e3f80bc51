//! A name server that answers what a test tells it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use etherparse::PacketBuilder;
use hickory_resolver::proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

/// What stands behind a name.
#[derive(Clone)]
enum Entry {
    Addresses(Vec<IpAddr>, u32),
    Alias(String),
}

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Manner {
    Honest,
    /// It hears and does not answer.
    Mute,
    /// Bytes that are no message.
    Garbage,
    /// The first half of an answer.
    Cut,
    /// To another question than the one that was asked.
    Astray,
    /// After two seconds.
    Late,
}

impl Manner {
    pub const ALL: [Self; 6] = [Self::Honest, Self::Mute, Self::Garbage, Self::Cut, Self::Astray, Self::Late];
}

pub struct NameServer {
    zone: Arc<Mutex<BTreeMap<String, Entry>>>,
    manner: Arc<AtomicU8>,
    ends: Arc<AtomicBool>,
    asked: Arc<AtomicU32>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    pub fn start(socket: UdpSocket) -> Self {
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket of ours");
        let mut server = Self {
            zone: Arc::default(),
            manner: Arc::new(AtomicU8::new(Manner::Honest as u8)),
            ends: Arc::default(),
            asked: Arc::default(),
            thread: None,
        };
        let (zone, manner) = (Arc::clone(&server.zone), Arc::clone(&server.manner));
        let (ends, asked) = (Arc::clone(&server.ends), Arc::clone(&server.asked));
        server.thread = Some(thread::spawn(move || {
            let mut buffer = [0; 1500];
            while !ends.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                let Ok(question) = Message::from_vec(&buffer[..length]) else { continue };
                asked.fetch_add(1, Ordering::Relaxed);
                let answer = answer(&question, &zone.lock().expect("no panic inside"));
                let answer = answer.to_vec().expect("an answer of ours");
                let manner = Manner::ALL[usize::from(manner.load(Ordering::Relaxed))];
                if let Some(said) = manner.say(answer) {
                    let _ = socket.send_to(&said, from);
                }
            }
        }));
        server
    }

    /// What the name stands for from now on.
    pub fn set(&self, name: &str, addresses: &[IpAddr], ttl: u32) {
        self.put(name, Entry::Addresses(addresses.to_vec(), ttl));
    }

    pub fn alias(&self, name: &str, target: &str) {
        self.put(name, Entry::Alias(target.to_owned()));
    }

    fn put(&self, name: &str, entry: Entry) {
        self.zone.lock().expect("no panic inside").insert(name.to_owned(), entry);
    }

    /// From now on it hears and does not answer, or does again.
    pub fn mute(&self, mute: bool) {
        self.behave(if mute { Manner::Mute } else { Manner::Honest });
    }

    /// How it answers from now on.
    pub fn behave(&self, manner: Manner) {
        self.manner.store(manner as u8, Ordering::Relaxed);
    }

    /// Questions that came in.
    pub fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Manner {
    fn say(self, mut answer: Vec<u8>) -> Option<Vec<u8>> {
        match self {
            Self::Honest => {}
            Self::Mute => return None,
            // The identifier stays, else nobody would look at the rest.
            Self::Garbage => answer.iter_mut().skip(2).for_each(|byte| *byte = !*byte),
            Self::Cut => answer.truncate(answer.len() / 2),
            // The first letter of the name in the question.
            Self::Astray => answer.iter_mut().skip(13).take(1).for_each(|byte| *byte ^= 1),
            Self::Late => thread::sleep(Duration::from_secs(2)),
        }
        Some(answer)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(question: &Message, zone: &BTreeMap<String, Entry>) -> Message {
    let mut answer = Message::response(question.metadata.id, OpCode::Query);
    answer.metadata.recursion_available = true;
    answer.metadata.recursion_desired = true;
    let Some(query) = question.queries.first() else { return answer };
    answer.add_query(query.clone());
    let mut name = query.name().clone();
    for _ in 0..8 {
        let plain = name.to_ascii().trim_end_matches('.').to_ascii_lowercase();
        match zone.get(&plain) {
            Some(Entry::Alias(target)) => {
                let target = Name::from_ascii(format!("{target}.")).expect("a name");
                answer.add_answer(Record::from_rdata(name, 60, RData::CNAME(CNAME(target.clone()))));
                name = target;
            }
            Some(Entry::Addresses(addresses, ttl)) => {
                for address in addresses {
                    match (address, query.query_type()) {
                        (IpAddr::V4(v4), RecordType::A) => {
                            answer.add_answer(Record::from_rdata(name.clone(), *ttl, RData::A(A(*v4))));
                        }
                        (IpAddr::V6(v6), RecordType::AAAA) => {
                            answer.add_answer(Record::from_rdata(name.clone(), *ttl, RData::AAAA(AAAA(*v6))));
                        }
                        _ => {}
                    }
                }
                return answer;
            }
            None => {
                answer.metadata.response_code = ResponseCode::NXDomain;
                return answer;
            }
        }
    }
    answer
}

/// A question as a process asks it.
pub fn question(id: u16, name: &str, record: RecordType) -> Vec<u8> {
    let mut message = Message::new(id, hickory_resolver::proto::op::MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(format!("{name}.")).expect("a name"), record));
    message.to_vec().expect("a question of ours")
}

/// A whole packet with an answer that nobody asked for.
pub fn forged(from: SocketAddr, to: SocketAddr, name: &str, address: IpAddr) -> Vec<u8> {
    let question = Message::from_vec(&question(0x1234, name, RecordType::A)).expect("ours");
    let zone = BTreeMap::from([(name.to_owned(), Entry::Addresses(vec![address], 60))]);
    let answer = answer(&question, &zone).to_vec().expect("an answer of ours");
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (from.ip(), to.ip()) else { panic!("of IPv4") };
    let builder = PacketBuilder::ipv4(source.octets(), destination.octets(), 64).udp(from.port(), to.port());
    let mut packet = Vec::new();
    builder.write(&mut packet, &answer).expect("to memory");
    packet
}
