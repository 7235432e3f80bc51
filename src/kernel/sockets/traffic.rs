//! How much a connection has carried, as the kernel's `struct tcp_info` has it (linux/tcp.h).

use crate::kernel::netlink::fixed;

/// Bytes of payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Without what was sent again.
    pub sent: u64,
    pub received: u64,
}

/// Where the numbers stand: `tcpi_bytes_received` (kernel 4.1), `tcpi_bytes_sent` and `tcpi_bytes_retrans` (4.19).
const RECEIVED: usize = 128;
const SENT: usize = 200;
const SENT_AGAIN: usize = 208;

impl Traffic {
    /// Reads a `struct tcp_info`; `None` where it is too short to have them.
    pub fn read(info: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u64::from_ne_bytes(fixed(info.get(at..)?)?));
        Some(Self { sent: number(SENT)?.saturating_sub(number(SENT_AGAIN)?), received: number(RECEIVED)? })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::kernel::sockets::SocketTable;

    /// The lookup needs no privilege.
    #[test]
    fn a_connection_has_carried_what_was_written_to_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(&[7; 1000]).unwrap();
        server.read_exact(&mut [0; 1000]).unwrap();
        server.write_all(&[7; 30]).unwrap();
        client.read_exact(&mut [0; 30]).unwrap();
        let (ours, theirs) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        let sockets = SocketTable::open().unwrap().dump_with_traffic().unwrap();
        let of =
            |local, remote| sockets.iter().find(|s| s.local == local && s.remote == remote).unwrap().traffic;
        assert_eq!(of(ours, theirs), Some(Traffic { sent: 1000, received: 30 }));
        assert_eq!(of(theirs, ours), Some(Traffic { sent: 30, received: 1000 }));
    }

    #[test]
    fn what_is_too_short_has_no_numbers() {
        assert_eq!(Traffic::read(&[1; SENT_AGAIN + 7]), None);
        assert_eq!(Traffic::read(&[0; SENT_AGAIN + 8]), Some(Traffic::default()));
    }
}
