//! Attempts: rows, sums, hours, and what may be asked of them.

use picoseg::model::{Direction, Reason, Source};
use picoseg::store::{
    Attempt, AttemptFilter, AttemptHour, AttemptKey, AttemptTotal, Baseline, Change, LaterAttempt, Process,
    SOURCES_AN_HOUR, Verdict,
};
use proptest::prelude::*;

use super::*;

fn key() -> AttemptKey {
    AttemptKey {
        service: Some(name("stripe")),
        provider: Some("Stripe, Inc.".to_owned()),
        policy: Some("stripe/ingress/0".to_owned()),
        direction: Direction::Ingress,
        reason: Reason::Expired,
        verdict: Verdict::Refused,
        protocol: "tcp".to_owned(),
        remote: "203.0.113.9".parse().unwrap(),
        remote_port: Some(40000),
        local: Some("2001:db8::1".parse().unwrap()),
        local_port: Some(8443),
        subject: Some("unit:payments.service".to_owned()),
        uid: Some(u32::MAX),
        also: vec![name("a"), name("b")],
    }
}

/// The key without everything that may be absent.
fn bare_key() -> AttemptKey {
    AttemptKey {
        service: None,
        provider: None,
        policy: None,
        remote_port: None,
        local: None,
        local_port: None,
        subject: None,
        uid: None,
        also: vec![],
        ..key()
    }
}

fn from(number: u32) -> AttemptKey {
    AttemptKey { remote: std::net::IpAddr::from(std::net::Ipv4Addr::from_bits(number)).into(), ..key() }
}

fn by(count: i64) -> Change {
    Change { count, ..Change::default() }
}

fn attempt(key: AttemptKey, count: u64, first: i64, last: i64) -> Attempt {
    let late = Some(at(first));
    let process = Process::default();
    Attempt { key, count, at_close: 0, first_seen: at(first), last_seen: at(last), first_late: late, process }
}

async fn open() -> (tempfile::TempDir, Store) {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).await.unwrap();
    (root, store)
}

async fn rows(store: &Store, filter: AttemptFilter) -> Vec<Attempt> {
    store.attempts(&filter).await.unwrap().rows
}

async fn counts(store: &Store, filter: AttemptFilter) -> Vec<u64> {
    rows(store, filter).await.iter().map(|row| row.count).collect()
}

async fn add(store: &Store, second: i64, changes: &[(AttemptKey, Change)]) {
    store.add_counts(changes, &[], at(second)).await.unwrap();
}

/// What no call of the store would do, while it is open.
async fn sql(store: &Store, sql: &str) {
    sqlx::raw_sql(sql).execute(&mut outsider(store).await).await.unwrap();
}

#[tokio::test]
async fn attempts_add_up_and_keep_the_widest_span_and_what_is_known_of_the_process() {
    for key in [key(), bare_key()] {
        let (_root, store) = open().await;
        add(&store, 10, &[(key.clone(), by(5))]).await;
        let process = Process { pid: Some(7), exe: Some("/usr/bin/curl".to_owned()) };
        let known = Change { process: process.clone(), ..by(2) };
        add(&store, 20, &[(key.clone(), known)]).await;
        store.reopen().await.unwrap();
        add(&store, 15, &[(key.clone(), by(-4))]).await;
        let row = Attempt { process, ..attempt(key.clone(), 3, 10, 20) };
        assert_eq!(rows(&store, AttemptFilter::default()).await, [row]);
        add(&store, 30, &[(key.clone(), by(-3))]).await;
        assert_eq!(rows(&store, AttemptFilter::default()).await, []);
    }
}

#[tokio::test]
async fn what_came_at_a_close_stands_apart() {
    let (_root, store) = open().await;
    let closing = Change { at_close: 2, ..by(2) };
    add(&store, 1, &[(key(), closing)]).await;
    assert_eq!(rows(&store, AttemptFilter::default()).await[0].first_late, None);
    add(&store, 5, &[(key(), by(3))]).await;
    add(&store, 6, &[(key(), Change { at_close: -1, ..by(0) })]).await;
    let row = &rows(&store, AttemptFilter::default()).await[0];
    assert_eq!((row.count, row.at_close, row.first_late), (5, 1, Some(at(5))));
}

#[tokio::test]
async fn every_part_of_the_key_makes_a_row_of_its_own() {
    let alterations: Vec<fn(&mut AttemptKey)> = vec![
        |key| key.service = None,
        |key| key.service = Some(name("null")),
        |key| key.provider = Some("null".to_owned()),
        |key| key.provider = None,
        |key| key.policy = None,
        |key| key.direction = Direction::Egress,
        |key| key.reason = Reason::Closed,
        |key| key.verdict = Verdict::Observed,
        |key| key.protocol = "udp".to_owned(),
        |key| key.remote = "2001:db8::1".parse().unwrap(),
        |key| key.remote = Source::Other,
        |key| key.remote_port = None,
        |key| key.remote_port = Some(0),
        |key| key.local = None,
        |key| key.local_port = None,
        |key| key.subject = None,
        |key| key.uid = None,
        |key| key.uid = Some(0),
        |key| key.also.clear(),
        |key| key.also.truncate(1),
    ];
    let mut keys = vec![key()];
    keys.extend(alterations.iter().map(|alter| {
        let mut key = key();
        alter(&mut key);
        key
    }));
    let (_root, store) = open().await;
    let changes: Vec<_> = keys.iter().map(|key| (key.clone(), by(1))).collect();
    add(&store, 1, &changes).await;
    let mut stored: Vec<_> =
        rows(&store, AttemptFilter::default()).await.into_iter().map(|attempt| attempt.key).collect();
    stored.sort();
    keys.sort();
    assert_eq!(stored, keys);
}

/// Each with what it may be asked by, and a count that tells it.
async fn several() -> (tempfile::TempDir, Store) {
    let (root, store) = open().await;
    let near = AttemptKey { remote: "203.0.113.77".parse().unwrap(), ..key() };
    let outward = AttemptKey { direction: Direction::Egress, reason: Reason::Closed, ..key() };
    let observed = AttemptKey { verdict: Verdict::Observed, remote: "2001:db8::1".parse().unwrap(), ..key() };
    let theirs = AttemptKey { service: Some(name("other")), provider: Some("ÄRGER".to_owned()), ..key() };
    let rest = AttemptKey { remote: Source::Other, ..key() };
    for (second, key, count) in
        [(10, key(), 1), (20, near, 2), (30, outward, 4), (40, observed, 8), (50, theirs, 16), (60, rest, 32)]
    {
        add(&store, second, &[(key, by(count))]).await;
    }
    (root, store)
}

#[tokio::test]
async fn attempts_are_asked_for_by_whatever_tells_them() {
    let (_root, store) = several().await;
    let all = AttemptFilter::default;
    let sources = |text: &str| AttemptFilter { sources: Some(text.parse().unwrap()), ..all() };
    for (filter, expected) in [
        (all(), vec![32, 16, 8, 4, 2, 1]),
        (AttemptFilter { service: Some(name("stripe")), ..all() }, vec![32, 8, 4, 2, 1]),
        (AttemptFilter { provider: Some("stripe, INC.".to_owned()), ..all() }, vec![32, 8, 4, 2, 1]),
        (AttemptFilter { provider: Some("ärger".to_owned()), ..all() }, vec![16]),
        (AttemptFilter { provider: Some("Nobody".to_owned()), ..all() }, vec![]),
        (sources("203.0.113.9"), vec![16, 4, 1]),
        (sources("203.0.113.64/26"), vec![2]),
        (sources("203.0.112.0/23"), vec![16, 4, 2, 1]),
        (sources("2001:db8::/32"), vec![8]),
        (sources("other"), vec![32]),
        (AttemptFilter { service: Some(name("stripe")), ..sources("203.0.113.9") }, vec![4, 1]),
        (AttemptFilter { direction: Some(Direction::Egress), ..all() }, vec![4]),
        (AttemptFilter { reason: Some(Reason::Closed), ..all() }, vec![4]),
        (AttemptFilter { verdict: Some(Verdict::Observed), ..all() }, vec![8]),
        (AttemptFilter { since: Some(at(40)), ..all() }, vec![32, 16, 8]),
        (AttemptFilter { until: Some(at(30)), ..all() }, vec![2, 1]),
        (AttemptFilter { since: Some(at(20)), until: Some(at(31)), ..all() }, vec![4, 2]),
    ] {
        assert_eq!(counts(&store, filter.clone()).await, expected, "{filter:?}");
    }
}

#[tokio::test]
async fn what_began_before_an_end_and_goes_on_after_it_is_seen_before_it() {
    let (_root, store) = open().await;
    add(&store, 10, &[(key(), by(1))]).await;
    add(&store, 90, &[(key(), by(1))]).await;
    let until = AttemptFilter { until: Some(at(20)), ..AttemptFilter::default() };
    assert_eq!(counts(&store, until).await, [2]);
}

#[tokio::test]
async fn a_limit_leaves_the_latest_and_says_that_there_are_more() {
    let (_root, store) = several().await;
    let few = |limit| AttemptFilter { limit: Some(limit), ..AttemptFilter::default() };
    let found = store.attempts(&few(2)).await.unwrap();
    assert_eq!(found.rows.iter().map(|row| row.count).collect::<Vec<_>>(), [32, 16]);
    assert!(found.truncated);
    assert!(!store.attempts(&few(6)).await.unwrap().truncated);
    let prefix = AttemptFilter { sources: Some("203.0.113.0/24".parse().unwrap()), ..few(4) };
    let found = store.attempts(&prefix).await.unwrap();
    assert_eq!((found.rows.len(), found.truncated), (4, false), "what does not fit is no further row");
}

#[tokio::test]
async fn whoever_follows_sees_each_growth_once_whatever_the_clock_does() {
    let (_root, store) = open().await;
    let keys: Vec<_> = (0..50).map(from).collect();
    let (mut after, mut seen) = (store.attempts(&AttemptFilter::default()).await.unwrap().next, Vec::new());
    for (round, second) in [100, 50, 7_200, 3].into_iter().enumerate() {
        let changes: Vec<_> = keys.iter().map(|key| (key.clone(), by(1))).collect();
        add(&store, second, &changes).await;
        add(&store, second, &[(keys[0].clone(), by(-1))]).await;
        // Seven at a time: pages end in the middle of a write.
        loop {
            let filter = AttemptFilter { after: Some(after), limit: Some(7), ..AttemptFilter::default() };
            let page = store.attempts(&filter).await.unwrap();
            after = page.next;
            seen.extend(page.rows.into_iter().map(|row| (round, row.key.remote)));
            if !page.truncated {
                break;
            }
        }
    }
    let mut expected: Vec<_> =
        (0..4).flat_map(|round| keys.iter().skip(1).map(move |key| (round, key.remote))).collect();
    expected.sort();
    // The first comes down to nothing in each round, and what is gone is no news.
    seen.sort();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn sums_stay_for_ever_and_rows_and_hours_go() {
    let (_root, store) = open().await;
    let observed = AttemptKey { verdict: Verdict::Observed, ..key() };
    add(&store, 10, &[(key(), by(5)), (observed, by(2))]).await;
    add(&store, 20, &[(key(), by(-1)), (bare_key(), by(11))]).await;
    add(&store, 8_000, &[(from(1), by(3))]).await;
    let total = |service: Option<&str>, verdict, count| AttemptTotal {
        service: service.map(name),
        direction: Direction::Ingress,
        reason: Reason::Expired,
        verdict,
        count,
    };
    let mut totals = store.attempt_totals().await.unwrap();
    totals.sort();
    let expected = [
        total(None, Verdict::Refused, 11),
        total(Some("stripe"), Verdict::Refused, 7),
        total(Some("stripe"), Verdict::Observed, 2),
    ];
    assert_eq!(totals, expected);
    assert_eq!(store.attempts_by_service().await, Ok([(None, 11), (Some(name("stripe")), 9)].into()));
    let hours = |from| {
        let (store, stripe) = (&store, name("stripe"));
        async move {
            let hours = store.attempt_hours(&stripe, at(from)).await.unwrap();
            hours.into_iter().map(|hour| (hour.hour, hour.count)).collect::<Vec<_>>()
        }
    };
    assert_eq!(hours(3_599).await, [(at(0), 6), (at(7_200), 3)]);
    assert_eq!(hours(3_600).await, [(at(7_200), 3)]);

    while store.forget_attempts(at(7_000)).await.unwrap() > 0 {}
    assert_eq!(counts(&store, AttemptFilter::default()).await, [3]);
    assert_eq!(hours(0).await, [(at(7_200), 3)]);
    assert_eq!(store.attempts_total().await, Ok(20));
    assert_eq!(store.attempt_totals().await.unwrap().len(), 3);
}

#[tokio::test]
async fn an_hour_tells_the_first_sources_apart_and_sums_the_rest() {
    let (_root, store) = open().await;
    let changes: Vec<_> = (0..40).map(|number| (from(number), by(2))).collect();
    add(&store, 1, &changes).await;
    add(&store, 2, &[(from(0), by(1)), (from(39), by(-1)), (from(50), by(7))]).await;
    let hours = store.attempt_hours(&name("stripe"), at(0)).await.unwrap();
    assert_eq!(hours.len(), SOURCES_AN_HOUR + 1);
    assert_eq!(hours.iter().map(|hour| hour.count).sum::<u64>(), 87);
    let of = |remote: Source| hours.iter().find(|hour| hour.remote == remote).map(|hour| hour.count);
    assert_eq!(of(from(0).remote), Some(3));
    assert_eq!(of(Source::Other), Some(24 * 2 - 1 + 7));
}

#[tokio::test]
async fn later_attempts_are_by_source_without_what_was_in_flight() {
    let (_root, store) = open().await;
    let before = AttemptKey { reason: Reason::Closed, ..key() };
    let port = AttemptKey { local_port: Some(1), ..key() };
    add(&store, 5, &[(before.clone(), by(100))]).await;
    add(&store, 10, &[(before, by(1)), (key(), Change { at_close: 4, ..by(4) })]).await;
    add(&store, 20, &[(key(), by(3)), (port, by(2)), (from(1), Change { at_close: 1, ..by(1) })]).await;
    add(&store, 30, &[(from(2), by(1))]).await;
    let later = store.later_attempts(&name("stripe"), at(10)).await.unwrap();
    let of = |remote, count, first, last| LaterAttempt {
        remote,
        direction: Direction::Ingress,
        count,
        first_seen: at(first),
        last_seen: at(last),
    };
    assert_eq!(later.sources, [of(key().remote, 5, 20, 20), of(from(2).remote, 1, 30, 30)]);
    assert_eq!((later.further, later.further_count, later.at_close), (0, 0, 5));
    assert_eq!(store.later_attempts(&name("stripe"), at(31)).await.unwrap().sources, []);

    let many: Vec<_> = (100..1_200).map(|number| (from(number), by(1))).collect();
    add(&store, 40, &many).await;
    let later = store.later_attempts(&name("stripe"), at(10)).await.unwrap();
    assert_eq!((later.sources.len(), later.sources[0].count), (1_000, 5));
    assert_eq!((later.further, later.further_count), (102, 102));
}

#[tokio::test]
async fn baselines_are_kept_with_their_attempts_and_dropped_at_zero() {
    let (_root, store) = open().await;
    let baseline =
        |set: &str, key: &[u8], packets| Baseline { set: set.to_owned(), key: key.to_vec(), packets };
    let two = [baseline("a", &[0, 255], 5), baseline("b", &[], 1)];
    store.add_counts(&[(key(), by(5))], &two, at(1)).await.unwrap();
    store.reopen().await.unwrap();
    assert_eq!(store.load_baselines().await.unwrap(), two);
    assert_eq!(store.attempts_total().await, Ok(5));
    let next = [baseline("a", &[0, 255], 9), baseline("b", &[], 0)];
    store.add_counts(&[], &next, at(2)).await.unwrap();
    assert_eq!(store.load_baselines().await.unwrap(), [baseline("a", &[0, 255], 9)]);
    store.clear_baselines().await.unwrap();
    assert_eq!(store.load_baselines().await.unwrap(), []);
}

#[tokio::test]
async fn ten_thousand_attempts_go_in_at_once() {
    let (_root, store) = open().await;
    let changes: Vec<_> = (0..10_000_u32).map(|number| (from(number), by(2))).collect();
    add(&store, 1, &changes).await;
    add(&store, 2, &changes).await;
    let found = store.attempts(&AttemptFilter::default()).await.unwrap();
    assert_eq!((found.rows.len(), found.truncated), (10_000, false));
    assert!(found.rows.iter().all(|row| row.count == 4));
    assert_eq!(store.attempts_total().await, Ok(40_000));
}

/// The sums of rows, by hand.
async fn sum(store: &Store) -> u64 {
    counts(store, AttemptFilter::default()).await.iter().sum()
}

#[tokio::test]
async fn beyond_the_number_of_rows_a_new_source_counts_with_the_others_and_finds_its_way_back() {
    let (_root, store) = open().await;
    add(&store, 1, &[(from(1), by(5))]).await;
    // As if there were that many.
    sql(&store, "UPDATE attempt_rows SET number = 200000").await;
    add(&store, 2, &[(from(1), by(1)), (from(2), by(7)), (from(3), by(2))]).await;
    let other = |count| attempt(key().folded(), count, 2, 2);
    assert_eq!(rows(&store, AttemptFilter::default()).await, [other(9), attempt(from(1), 6, 1, 2)]);
    // A service of its own has room, and segments too.
    let theirs = AttemptKey { service: Some(name("other")), ..from(4) };
    add(&store, 3, &[(theirs.clone(), by(1)), (bare_key(), by(1))]).await;
    assert_eq!(sum(&store).await, 17);
    assert_eq!(
        rows(&store, AttemptFilter { service: theirs.service.clone(), ..Default::default() }).await.len(),
        1
    );

    // What is taken back is in the row for others, also when there is room meanwhile.
    add(&store, 4, &[(from(2), by(-3)), (bare_key(), by(3))]).await;
    assert_eq!(sum(&store).await, 17);
    sql(&store, "UPDATE attempt_rows SET number = 2").await;
    add(&store, 5, &[(from(3), by(1))]).await;
    add(&store, 6, &[(from(3), by(-2)), (from(5), by(2))]).await;
    assert_eq!(sum(&store).await, 18);
    let of = async |key: &AttemptKey| {
        let rows = rows(&store, AttemptFilter::default()).await;
        rows.into_iter().find(|row| row.key == *key).map(|row| row.count)
    };
    assert_eq!(of(&key().folded()).await, Some(5));
    assert_eq!((of(&from(3)).await, of(&from(5)).await), (None, Some(2)));
    assert_eq!(store.attempts_total().await, Ok(18));
}

#[tokio::test]
async fn the_number_of_rows_is_known_without_counting() {
    let (_root, store) = open().await;
    let changes: Vec<_> = (0..300).map(|number| (from(number), by(1))).collect();
    add(&store, 1, &changes).await;
    add(&store, 2, &changes).await;
    add(&store, 3, &[(from(0), by(-2)), (bare_key(), by(1))]).await;
    let known = async || {
        let rows = sqlx::query_as("SELECT service, number FROM attempt_rows ORDER BY service");
        rows.fetch_all(&mut outsider(&store).await).await.unwrap()
    };
    let expected: Vec<(String, i64)> = vec![(String::new(), 1), ("stripe".to_owned(), 299)];
    assert_eq!(known().await, expected);
    while store.forget_attempts(at(9)).await.unwrap() > 0 {}
    assert!(known().await.iter().all(|(_, number)| *number == 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_text_in_an_attempt_reads_back(provider: Option<String>, subject: Option<String>, protocol: String) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_root, store) = open().await;
            let row = attempt(AttemptKey { provider, subject, protocol, ..key() }, 1, 1, 1);
            add(&store, 1, &[(row.key.clone(), by(1))]).await;
            prop_assert_eq!(rows(&store, AttemptFilter::default()).await, [row]);
            Ok(())
        })?;
    }

    /// Beyond the limit or not: rows, hours and sums for ever agree with what was added, by service and reason.
    #[test]
    fn whatever_moves_between_rows_the_sums_agree(
        steps in prop::collection::vec((0u32..30, 0u32..30, 1i64..9, any::<bool>()), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_root, store) = open().await;
            let (mut has, mut sum) = (std::collections::BTreeMap::<u32, i64>::new(), 0);
            for (source, destination, count, full) in steps {
                let number = if full { 200_000 } else { 1 };
                sql(&store, &format!("UPDATE attempt_rows SET number = {number}")).await;
                let moved = has.get(&source).copied().unwrap_or(0).min(count);
                *has.entry(source).or_default() -= moved;
                *has.entry(destination).or_default() += count;
                sum += count - moved;
                let mut changes = std::collections::BTreeMap::new();
                *changes.entry(from(source)).or_insert(0) -= moved;
                *changes.entry(from(destination)).or_insert(0) += count;
                let changes: Vec<_> = changes.into_iter().map(|(key, count)| (key, by(count))).collect();
                add(&store, 1, &changes).await;
                let rows = rows(&store, AttemptFilter::default()).await;
                let hours = store.attempt_hours(&name("stripe"), at(0)).await.unwrap();
                let sum = u64::try_from(sum).unwrap();
                prop_assert_eq!(rows.iter().map(|row| row.count).sum::<u64>(), sum);
                prop_assert_eq!(hours.iter().map(|hour: &AttemptHour| hour.count).sum::<u64>(), sum);
                prop_assert_eq!(store.attempts_total().await, Ok(sum));
            }
            Ok(())
        })?;
    }
}
