//! Many clients of the sockets that say nothing, half of something, or never read: whoever closes is served.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::{descriptors, of_status};
use crate::lab::Lab;
use crate::lab::clock::until;
use crate::lab::schedule::{Lifetime, egress, schedule};

/// More than a socket serves at once, by far.
const MANY: usize = 300;

fn crowd(lab: &Lab, socket: &str) -> Vec<UnixStream> {
    let path = lab.runtime().join(socket);
    let words: [&[u8]; 4] = [
        b"",
        b"GET /v1/sta",
        b"POST /v1/apply HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n{",
        b"GET /v1/attempts HTTP/1.1\r\nHost: x\r\n\r\n",
    ];
    let one = |number: usize| {
        let mut stream = UnixStream::connect(&path).ok()?;
        stream.write_all(words[number % words.len()]).ok()?;
        Some(stream)
    };
    // What the backlog does not take is turned away by the kernel, which is as good.
    (0..MANY).filter_map(one).collect()
}

#[test]
fn a_crowd_of_lookers_does_not_keep_anyone_from_closing() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, lab.provider4(0), "443/tcp")]));
    let daemon = lab.daemon();
    let (memory, files) = (of_status(&daemon, "VmRSS"), descriptors(&daemon));
    let lookers = crowd(&lab, "observe.sock");
    assert!(lookers.len() > 64, "{}", lookers.len());
    let began = Instant::now();
    lab.picoseg(&["suspend", "stripe", "--reason", "test"]).ok();
    eprintln!("suspended in {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let most = descriptors(&daemon) - files;
    assert!(most <= 2 * 64 + 8, "{most} descriptors more");
    drop(lookers);

    // The same at the door of those who may order: they come in when the others have had their time.
    let orderers = crowd(&lab, "control.sock");
    until("an order comes through", Duration::from_secs(45), || {
        lab.picoseg(&["resume", "stripe", "--reason", "test"]).code == 0
    });
    drop(orderers);
    until("all are gone", Duration::from_secs(15), || descriptors(&daemon) <= files + 2);
    let grown = of_status(&daemon, "VmRSS").saturating_sub(memory);
    assert!(grown < 32 << 10, "{grown} kB more");
}
