//! Doors to what reads bytes of the kernel, for [`crate::fuzzing`] alone.

use super::commit;
use super::netlink::Messages;
use super::nflog::{self, Record, read_record};
use super::sockets::{Protocol, Socket};
use super::{conntrack, nflog::Hook};

/// `NFNL_SUBSYS_CTNETLINK` and `NFNL_SUBSYS_NFTABLES`, linux/netfilter/nfnetlink.h.
const CONNTRACK: u16 = 1;
const NFTABLES: u16 = 10;
/// `NLMSG_ERROR` and `NLMSG_DONE`.
const ANSWERS: [u16; 2] = [2, 3];
/// `SOCK_DIAG_BY_FAMILY`.
const SOCKET: u16 = 20;

/// The records of a datagram of an NFLOG group.
pub fn records(datagram: &[u8]) -> Vec<Record> {
    let mut all = Vec::new();
    for message in Messages::new(datagram).filter(|message| message.kind == nflog::PACKET) {
        let (number, record) = read_record(&message, true);
        assert_eq!(number, read_record(&message, false).0);
        all.extend(record);
    }
    let hooked = all.iter().filter_map(|record| record.hook);
    assert!(hooked.max().is_none_or(|hook| hook <= Hook::Postrouting));
    all
}

/// Reads a datagram as whoever asked for such a message does.
pub fn replies(datagram: &[u8]) {
    for message in Messages::new(datagram) {
        match message.kind {
            SOCKET => [Protocol::Tcp, Protocol::Udp].into_iter().for_each(|protocol| {
                let socket = Socket::parse(protocol, &message);
                let flow = socket.as_ref().and_then(conntrack::Flow::of);
                assert!(flow.is_none_or(|flow| flow.reversed().reversed() == flow));
            }),
            kind if kind >> 8 == CONNTRACK => {
                let tracked = conntrack::tracked(&message);
                assert!(tracked.is_none_or(|flow| !flow.original.to_string().is_empty()));
            }
            _ => {}
        }
    }
    for message in whole(datagram) {
        let kind = u16::from_ne_bytes([message[4], message[5]]);
        if kind >> 8 == NFTABLES || ANSWERS.contains(&kind) {
            commit::fuzz::message(message);
        }
    }
    commit::fuzz::comment(&String::from_utf8_lossy(datagram));
}

/// The messages of a datagram with their headers, as libmnl cuts them.
fn whole(mut rest: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while let Some(length) = rest.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes) as usize) {
        let Some(message) = rest.get(..length).filter(|message| message.len() >= 16) else { break };
        all.push(message);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    all
}
