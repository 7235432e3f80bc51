//! Runs a packet through a ruleset value as nf_tables would: enough of it for what our rules say.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;

use picoseg::model::{Family, Prefix, Time};
use picoseg::ruleset::{
    Account, Element, Hook, Key, KeyBuilder, Load, Ruleset, Set, Side, Statement, Verdict, protocol,
};

/// A packet in one hook.
#[derive(Debug, Clone)]
pub struct Packet {
    pub hook: Hook,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub source_port: u16,
    pub destination_port: u16,
    pub tcp_flags: u8,
    pub payload: bool,
    /// The payload begins with a ClientHello.
    pub hello: bool,
    pub icmp_type: u8,
    pub echo_id: u16,
    pub fragment: bool,
    /// The ids of the socket's cgroup by level, the root at 0; none without a full socket.
    pub cgroups: Option<Vec<u64>>,
    /// The user and the group of the socket's owner.
    pub owner: Option<[u32; 2]>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fate {
    pub passed: bool,
    /// The counters it met.
    pub counted: Vec<String>,
}

pub struct Interpreter<'a> {
    ruleset: &'a Ruleset,
    now: Time,
    /// What packets have put into dynamic sets.
    learned: RefCell<BTreeSet<(String, Key)>>,
}

enum Flow {
    Next,
    Back,
    Done(bool),
}

impl<'a> Interpreter<'a> {
    pub fn new(ruleset: &'a Ruleset, now: Time) -> Self {
        Self { ruleset, now, learned: RefCell::default() }
    }

    /// The fate of a packet; dynamic sets hold what earlier ones have put in since [`Self::forget`].
    pub fn run(&self, packet: &Packet) -> Fate {
        let base =
            self.ruleset.chains.iter().find(|(_, chain)| chain.base.is_some_and(|b| b.0 == packet.hook));
        let mut counted = Vec::new();
        let passed = match base {
            Some((name, _)) => match self.chain(name, packet, &mut counted) {
                Flow::Done(passed) => passed,
                Flow::Next | Flow::Back => true,
            },
            None => true,
        };
        Fate { passed, counted }
    }

    /// Empties the dynamic sets.
    pub fn forget(&self) {
        self.learned.take();
    }

    fn chain(&self, name: &str, packet: &Packet, counted: &mut Vec<String>) -> Flow {
        let chain = self.ruleset.chains.get(name).unwrap_or_else(|| panic!("no chain {name}"));
        for rule in &chain.rules {
            let mut flow = Flow::Next;
            for statement in rule.iter() {
                match self.statement(statement, packet, counted) {
                    None => break,
                    Some(Flow::Next) => {}
                    Some(other) => {
                        flow = other;
                        break;
                    }
                }
            }
            match flow {
                Flow::Next => {}
                Flow::Back => return Flow::Next,
                Flow::Done(passed) => return Flow::Done(passed),
            }
        }
        Flow::Next
    }

    /// `None`: the rule does not match from here on.
    fn statement(&self, statement: &Statement, packet: &Packet, counted: &mut Vec<String>) -> Option<Flow> {
        let yes = |matches: bool| matches.then_some(Flow::Next);
        let tcp = packet.protocol == protocol::TCP && !packet.fragment;
        match statement {
            Statement::LeavesByLoopback | Statement::ArrivesByLoopback => None,
            Statement::Leaving => yes(packet.hook != Hook::Input),
            Statement::Arriving => yes(packet.hook != Hook::Output),
            Statement::Lookup { key, set, negated } => {
                let key = self.key(key, packet)?;
                let known = || self.learned.borrow().contains(&(set.to_string(), key.clone()));
                yes((self.find(set, &key).is_some() || known()) != *negated)
            }
            Statement::Address { side, address: wanted } => yes(address(packet, *side) == *wanted),
            Statement::Dispatch { key, map } => {
                let key = self.key(key, packet)?;
                match self.find(map, &key).and_then(|element| element.verdict.as_ref()) {
                    Some(verdict) => Some(self.verdict(verdict, packet, counted)),
                    None => Some(Flow::Next),
                }
            }
            Statement::Protocol(number) => yes(packet.protocol == *number),
            Statement::Port { protocol, side, range } => {
                yes(packet.protocol == *protocol && range.contains(port(packet, *side)))
            }
            Statement::TcpFlags { mask, value, negated } => {
                yes(tcp && (packet.tcp_flags & mask == *value) != *negated)
            }
            Statement::HasPayload => yes(packet.payload),
            Statement::ClientHello => yes(packet.payload && packet.hello),
            Statement::Owner(account) => {
                let [user, group] = packet.owner.filter(|_| packet.hook == Hook::Output)?;
                yes(match account {
                    Account::User(id) => user == *id,
                    Account::Group(id) => group == *id,
                })
            }
            Statement::FullSocket | Statement::AnySocket => yes(packet.cgroups.is_some()),
            Statement::IcmpType { family, low, high } => {
                let number = match family {
                    Family::V4 => protocol::ICMP,
                    Family::V6 => protocol::ICMPV6,
                };
                yes(packet.protocol == number && (*low..=*high).contains(&packet.icmp_type))
            }
            // Its errors are about TCP, its ICMP comes from processes.
            Statement::QuotesTcp(_) | Statement::FromProcess => Some(Flow::Next),
            Statement::HopLimit(_) | Statement::ExtensionHeader => None,
            Statement::Fragment(family) => yes(packet.fragment && family_of(packet) == *family),
            Statement::Before(instant) => yes(self.now < *instant),
            Statement::From(instant) => yes(*instant <= self.now),
            Statement::Within { from, to } => yes(*from <= self.now && self.now < *to),
            // A limit is never reached by one packet.
            Statement::Update { set, key, .. } | Statement::UpdateFor { set, key, .. } => {
                let key = self.key(key, packet)?;
                self.learned.borrow_mut().insert((set.to_string(), key));
                Some(Flow::Next)
            }
            Statement::Delete { set, key } => {
                let key = self.key(key, packet)?;
                self.learned.borrow_mut().remove(&(set.to_string(), key));
                Some(Flow::Next)
            }
            Statement::Count(name) => {
                counted.push(name.clone());
                Some(Flow::Next)
            }
            Statement::Log { .. } | Statement::LogWhole { .. } | Statement::Limit(_) => Some(Flow::Next),
            Statement::RejectWithReset => yes(tcp).map(|_| Flow::Done(false)),
            Statement::RejectAsProhibited => Some(Flow::Done(false)),
            Statement::Verdict(verdict) => Some(self.verdict(verdict, packet, counted)),
        }
    }

    fn verdict(&self, verdict: &Verdict, packet: &Packet, counted: &mut Vec<String>) -> Flow {
        match verdict {
            Verdict::Accept => Flow::Done(true),
            Verdict::Drop => Flow::Done(false),
            Verdict::Return => Flow::Back,
            Verdict::Jump(chain) => self.chain(chain, packet, counted),
            // The rest of the calling chain is left out.
            Verdict::Goto(chain) => match self.chain(chain, packet, counted) {
                Flow::Done(passed) => Flow::Done(passed),
                Flow::Next | Flow::Back => Flow::Back,
            },
        }
    }

    fn key(&self, loads: &[Load], packet: &Packet) -> Option<Key> {
        let mut key = Key::builder();
        for load in loads {
            key = self.load(key, *load, packet)?;
        }
        Some(key.build())
    }

    fn load(&self, key: KeyBuilder, load: Load, packet: &Packet) -> Option<KeyBuilder> {
        let same = |family| family_of(packet) == family;
        Some(match load {
            Load::Cgroup { level } => key.cgroup(*packet.cgroups.as_ref()?.get(level as usize)?),
            Load::Address(family, side) => {
                let number = Prefix::single(address(packet, side)).first();
                same(family).then(|| key.address(family, number))?
            }
            Load::Network(family, side) => {
                let number = Prefix::single(address(packet, side)).first();
                same(family).then(|| key.network(family, number))?
            }
            Load::Protocol => key.protocol(packet.protocol),
            Load::Port(side) => (!packet.fragment).then(|| key.port(port(packet, side)))?,
            Load::Time => key.time(self.now),
            Load::Number(number) => key.number(number),
            Load::DnsId => key.port(0),
            Load::EchoId(family) => same(family).then(|| key.port(packet.echo_id))?,
        })
    }

    fn find(&self, set: &str, key: &Key) -> Option<&'a Element> {
        let set: &Set = self.ruleset.sets.get(set).unwrap_or_else(|| panic!("no set {set}"));
        let alive = |element: &&Element| element.closes_at.is_none_or(|at| self.now < at);
        if !set.interval {
            return set.elements.get(key).filter(alive);
        }
        let mut found = set.elements.iter().filter(|(first, element)| within(set, first, element, key));
        let element = found.next().map(|(_, element)| element);
        assert!(found.next().is_none(), "ranges overlap");
        element.filter(alive)
    }
}

/// Every field lies in its range.
fn within(set: &Set, first: &Key, element: &Element, key: &Key) -> bool {
    let last = element.last.as_ref().unwrap_or(first);
    let mut at = 0;
    set.fields.iter().all(|field| {
        let part = at..at + field.padded_length();
        at = part.end;
        let of = |key: &Key| key.bytes()[part.clone()].to_vec();
        (of(first)..=of(last)).contains(&of(key))
    })
}

fn family_of(packet: &Packet) -> Family {
    Prefix::single(packet.source).family()
}

fn address(packet: &Packet, side: Side) -> IpAddr {
    match side {
        Side::Source => packet.source,
        Side::Destination => packet.destination,
    }
}

fn port(packet: &Packet, side: Side) -> u16 {
    match side {
        Side::Source => packet.source_port,
        Side::Destination => packet.destination_port,
    }
}
