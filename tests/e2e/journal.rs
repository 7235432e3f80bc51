//! What journald gets: the fields of new sources and of entries of the ledger.

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;

use crate::lab::schedule::{Lifetime, egress, schedule};
use crate::lab::{Lab, MOMENT, at, clock};

/// One event of the native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL).
fn fields(mut datagram: &[u8]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    while let Some(end) = datagram.iter().position(|byte| *byte == b'\n') {
        let (line, rest) = (&datagram[..end], &datagram[end + 1..]);
        let (name, value, after) = match line.iter().position(|byte| *byte == b'=') {
            Some(equals) => (text(&line[..equals]), text(&line[equals + 1..]), rest),
            None => {
                let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
                (text(line), text(&rest[8..8 + length]), &rest[8 + length + 1..])
            }
        };
        fields.insert(name, value);
        datagram = after;
    }
    fields
}

fn receive(socket: &UnixDatagram) -> Vec<BTreeMap<String, String>> {
    let mut buffer = vec![0; 1 << 16];
    let mut events = Vec::new();
    while let Ok(length) = socket.recv(&mut buffer) {
        // The first is empty: it asks whether anybody listens.
        events.extend((length > 0).then(|| fields(&buffer[..length])));
    }
    events
}

#[test]
fn journald_gets_new_sources_and_entries_with_their_fields() {
    let Some(lab) = Lab::new() else { return };
    let (payments, other) = (lab.unit("payments"), lab.unit("other"));
    let remote = lab.provider4(0);
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, remote, "443/tcp")]));
    let journal = lab.dir().join("journal");
    std::fs::create_dir(&journal).unwrap();
    let socket = UnixDatagram::bind(journal.join("socket")).unwrap();
    socket.set_nonblocking(true).unwrap();
    let daemon = lab.daemon_with_journal(&journal);
    let process = lab.process_of(&other, 4711);
    for _ in 0..3 {
        assert!(process.connect(at(remote, 443)).is_err());
    }
    let mut events = Vec::new();
    let of = |events: &[BTreeMap<String, String>], message: &str| -> Vec<BTreeMap<String, String>> {
        events.iter().filter(|event| event["MESSAGE"] == message).cloned().collect()
    };
    clock::until("the source is told", MOMENT, || {
        events.extend(receive(&socket));
        !of(&events, "new source of attempts").is_empty()
    });
    let source = of(&events, "new source of attempts").remove(0);
    let has =
        |key: &str, value: &str| assert_eq!(source.get(key).map(String::as_str), Some(value), "{source:?}");
    has("MESSAGE_ID", "1cf2bacd93344ff5925fa450cf372d0c");
    has("SERVICE", "stripe");
    has("DIRECTION", "egress");
    has("REASON", "undeclared");
    has("VERDICT", "refused");
    has("REMOTE", &remote.to_string());
    has("REMOTE_PORT", "443");
    has("LOCAL", &lab.host4().to_string());
    has("SUBJECT", &format!("unit:{}", other.name()));
    has("UID", "4711");
    has("PID", &process.who().pid.to_string());
    assert!(source.contains_key("EXE") && source.contains_key("COUNT") && source.contains_key("PROVIDER"));
    assert!(!source.contains_key("LOCAL_PORT"));

    let entries = lab.picoseg(&["attempts", "--json"]).ok().json();
    assert!(entries["attempts"][0]["exe"].is_string());
    lab.picoseg(&["suspend", "stripe", "--reason", "a test"]).ok();
    clock::until("the order is told", MOMENT, || {
        events.extend(receive(&socket));
        of(&events, "entry of the ledger").iter().any(|entry| entry["KIND"] == "service.suspended")
    });
    let entries = of(&events, "entry of the ledger");
    let seqs: Vec<u64> = entries.iter().map(|entry| entry["SEQ"].parse().unwrap()).collect();
    assert!(seqs.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{seqs:?}");
    assert_eq!(entries[0]["MESSAGE_ID"], "a1d401ecc8264351b339831c9c08c351");
    assert!(entries.iter().any(|entry| entry["KIND"] == "daemon.started"), "{entries:?}");
    let suspended = entries.iter().find(|entry| entry["KIND"] == "service.suspended").unwrap();
    assert_eq!((suspended["SERVICE"].as_str(), suspended["HASH"].len()), ("stripe", 64));
    assert!(suspended["ACTOR"].contains("uid 0"));
    // A source is new once.
    assert!(process.connect(at(remote, 443)).is_err());
    let before = lab.attempts_with(&[("service", "stripe"), ("reason", "undeclared")]);
    assert_eq!(before, 3);
    events.extend(receive(&socket));
    assert_eq!(
        of(&events, "new source of attempts").iter().filter(|e| e["REASON"] == "undeclared").count(),
        1
    );
    // Nothing of it is on standard error.
    assert!(!daemon.said().contains("entry of the ledger"), "{}", daemon.said());
}
