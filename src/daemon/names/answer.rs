//! Answers of name servers that processes received.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData};

/// An answer holds at least and at most that long, whatever it says: who asked may keep it a little longer, and nothing
/// is admitted for ever because of one packet.
const SHORTEST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(3600);

/// The most aliases that one answer goes through.
const ALIASES: usize = 16;

/// What one answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The name that was asked for.
    pub asked: String,
    /// Its addresses and how long they hold.
    pub addresses: Vec<(IpAddr, Duration)>,
}

/// Reads what a UDP datagram carries; `None` when it is no good answer, or has no address of the name asked for.
pub fn read(bytes: &[u8]) -> Option<Answer> {
    let message = Message::from_vec(bytes).ok()?;
    let good = message.metadata.message_type == MessageType::Response
        && message.metadata.response_code == ResponseCode::NoError;
    let [query] = message.queries.as_slice() else { return None };
    if !good {
        return None;
    }
    // From each name that the answer leads to, to how long the way holds.
    let mut known: BTreeMap<Name, u32> = BTreeMap::from([(query.name().to_lowercase(), u32::MAX)]);
    for _ in 0..ALIASES {
        let before = known.len();
        for record in &message.answers {
            if let (RData::CNAME(alias), Some(holds)) = (&record.data, known.get(&record.name.to_lowercase()))
            {
                let holds = record.ttl.min(*holds);
                known.entry(alias.0.to_lowercase()).or_insert(holds);
            }
        }
        if known.len() == before {
            break;
        }
    }
    let address = |record: &hickory_resolver::proto::rr::Record| {
        let holds = record.ttl.min(*known.get(&record.name.to_lowercase())?);
        let holds = Duration::from_secs(holds.into()).clamp(SHORTEST, LONGEST);
        match &record.data {
            RData::A(v4) => Some((IpAddr::V4(v4.0), holds)),
            RData::AAAA(v6) => Some((IpAddr::V6(v6.0), holds)),
            _ => None,
        }
    };
    let addresses: Vec<_> = message.answers.iter().filter_map(address).collect();
    let asked = query.name().to_ascii();
    (!addresses.is_empty()).then_some(Answer { asked, addresses })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::proto::op::{OpCode, Query};
    use hickory_resolver::proto::rr::rdata::{A, CNAME};
    use hickory_resolver::proto::rr::{Record, RecordType};
    use proptest::prelude::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn message(asked: &str, records: Vec<Record>) -> Vec<u8> {
        let mut message = Message::response(7, OpCode::Query);
        message.add_query(Query::query(name(asked), RecordType::A));
        for record in records {
            message.add_answer(record);
        }
        message.to_vec().unwrap()
    }

    fn a(owner: &str, ttl: u32, last: u8) -> Record {
        Record::from_rdata(name(owner), ttl, RData::A(A::new(203, 0, 113, last)))
    }

    fn alias(owner: &str, target: &str) -> Record {
        Record::from_rdata(name(owner), 90, RData::CNAME(CNAME(name(target))))
    }

    #[test]
    fn aliases_lead_to_addresses_and_the_shortest_time_holds() {
        let records = vec![
            a("edge.cdn.example.", 300, 1),
            alias("b.example.", "edge.cdn.example."),
            alias("API.example.com.", "b.example."),
        ];
        let answer = read(&message("api.example.com.", records)).unwrap();
        assert_eq!(answer.asked, "api.example.com.");
        assert_eq!(answer.addresses, [("203.0.113.1".parse().unwrap(), Duration::from_secs(90))]);
    }

    #[test]
    fn records_that_the_question_does_not_lead_to_do_not_count() {
        let records = vec![a("evil.example.", 300, 1), a("api.example.com.", 1, 2)];
        let answer = read(&message("api.example.com.", records)).unwrap();
        assert_eq!(answer.addresses, [("203.0.113.2".parse().unwrap(), SHORTEST)]);
        assert_eq!(read(&message("api.example.com.", vec![a("evil.example.", 300, 1)])), None);
        let circle = vec![alias("a.example.", "b.example."), alias("b.example.", "a.example.")];
        assert_eq!(read(&message("a.example.", circle)), None);
    }

    proptest! {
        #[test]
        fn broken_answers_never_panic(at in 0usize..120, value in any::<u8>(), cut in 0usize..120) {
            let records = vec![alias("api.example.com.", "b.example."), a("b.example.", 300, 1)];
            let mut bytes = message("api.example.com.", records);
            let at = at % bytes.len();
            bytes[at] = value;
            bytes.truncate(bytes.len().saturating_sub(cut));
            drop(read(&bytes));
        }
    }
}
