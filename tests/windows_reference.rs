//! The openings of a service beside a plain reference, in every zone around changes of its clock.
//!
//! The reference walks through time step by step and watches the clock of the zone, as a person would: a local time
//! that the clock has not shown before fires; what the clock jumps over fires at the jump. It only ever asks what the
//! clock shows at an instant, never the reverse, and shares nothing with the code it judges but the types.

use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, NaiveTime, Offset, TimeDelta, TimeZone};
use chrono_tz::{Africa, America, Antarctica, Australia, Europe, Pacific, TZ_VARIANTS, Tz};
use picoseg::model::{
    Cause, CronExpression, Decommissioned, FileState, Mode, Opening, Record, Service, ServiceName,
    ServiceState, Span, Suspended, Time, Until, Watch, Window,
};
use picoseg::schedule;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

const MINUTE: TimeDelta = TimeDelta::minutes(1);
const SECOND: TimeDelta = TimeDelta::seconds(1);

/// What is compared, step by step.
#[derive(Clone, Copy)]
struct Scene {
    zone: Tz,
    from: Time,
    to: Time,
    step: TimeDelta,
    longest_duration: TimeDelta,
}

impl Scene {
    fn by_minutes(zone: Tz, around: Time) -> Self {
        let half = TimeDelta::hours(13);
        Self {
            zone,
            from: around - half,
            to: around + half,
            step: MINUTE,
            longest_duration: TimeDelta::hours(24),
        }
    }

    fn by_seconds(zone: Tz, around: Time) -> Self {
        let half = TimeDelta::minutes(75);
        Self { zone, from: around - half, to: around + half, step: SECOND, longest_duration: half }
    }

    fn instants(self) -> impl Iterator<Item = Time> {
        steps(self.from, self.to, self.step)
    }

    fn half(self) -> i32 {
        let steps = (self.to - self.from).num_seconds() / self.step.num_seconds();
        i32::try_from(steps / 2).unwrap()
    }

    fn middle(self) -> Time {
        self.from + self.step * self.half()
    }

    fn some_instant(self, random: &mut StdRng) -> Time {
        self.middle() + self.step * random.random_range(-self.half()..self.half())
    }

    /// Half of them lie next to the middle, where the clock changes.
    fn some_local_time(self, random: &mut StdRng) -> NaiveDateTime {
        let far = random.random_range(-self.half()..self.half());
        let distance = if random.random() { far / 9 } else { far };
        clock(self.zone, self.middle() + self.step * distance)
    }
}

fn steps(from: Time, to: Time, step: TimeDelta) -> impl Iterator<Item = Time> {
    std::iter::successors(Some(from), move |at| Some(*at + step)).take_while(move |at| *at < to)
}

fn clock(zone: Tz, at: Time) -> NaiveDateTime {
    let offset = zone.offset_from_utc_datetime(&at.naive_utc()).fix();
    at.naive_utc() + TimeDelta::seconds(offset.local_minus_utc().into())
}

// The reference.

fn reference(service: &Service, scene: Scene) -> Vec<bool> {
    let mut open = vec![service.windows.is_empty(); scene.instants().count()];
    for window in &service.windows {
        let of_window = reference_window(window, scene);
        open.iter_mut().zip(of_window).for_each(|(open, window)| *open |= window);
    }
    let excepted = |at| service.exceptions.iter().any(|exception| exception.contains(at));
    let allowed = |at| service.lifetime.contains(at) && !excepted(at);
    open.iter_mut().zip(scene.instants()).for_each(|(open, at)| *open &= allowed(at));
    open
}

fn reference_window(window: &Window, scene: Scene) -> Vec<bool> {
    match &window.opening {
        Opening::Absolute(span) => scene.instants().map(|at| span.contains(at)).collect(),
        Opening::Recurring { cron, until, timezone } => walk(cron, *until, *timezone, scene),
    }
}

fn walk(cron: &CronExpression, until: Until, zone: Tz, scene: Scene) -> Vec<bool> {
    let begin = scene.from - longest_opening(until);
    let mut shown = clock(zone, begin - scene.step);
    let mut latest = shown;
    let mut open_until = begin;
    let mut open = Vec::new();
    for at in steps(begin, scene.to, scene.step) {
        let now = clock(zone, at);
        let passed = passed_by_clock(shown, now, scene.step);
        let fires = |local: &NaiveDateTime| *local > latest && cron.schedule().includes(local.and_utc());
        let fired = passed.iter().any(fires);
        match until {
            Until::Elapsed(duration) if fired => open_until = at + TimeDelta::from_std(duration).unwrap(),
            Until::Elapsed(_) => {}
            Until::LocalTime(time) => {
                if passed.iter().any(|local| local.time() == time) {
                    open_until = at;
                }
                if fired {
                    open_until = DateTime::<chrono::Utc>::MAX_UTC;
                }
            }
        }
        open.push(at < open_until);
        shown = now;
        latest = latest.max(now);
    }
    open.split_off(open.len() - scene.instants().count())
}

/// The walk begins so much earlier. With a local time that is a day, longer by what clocks are put back.
fn longest_opening(until: Until) -> TimeDelta {
    match until {
        Until::Elapsed(duration) => TimeDelta::from_std(duration).unwrap(),
        Until::LocalTime(_) => TimeDelta::hours(28),
    }
}

/// The local times that came about since the last step: one, or all that were skipped.
fn passed_by_clock(before: NaiveDateTime, now: NaiveDateTime, step: TimeDelta) -> Vec<NaiveDateTime> {
    let mut passed = vec![now];
    let mut skipped = before + step;
    while skipped < now {
        passed.push(skipped);
        skipped += step;
    }
    passed
}

// Random schedules.

fn pick<'a>(random: &mut StdRng, choices: &[&'a str]) -> &'a str {
    choices.choose(random).unwrap()
}

fn some_cron(random: &mut StdRng, scene: Scene) -> CronExpression {
    let second = match scene.step {
        SECOND => pick(random, &["0", "*", "*/2", "*/7", "30", "1-29", "59", "13,14,15"]),
        _ => "0",
    };
    let minute = pick(random, &["0", "0", "30", "*", "*/15", "*/7", "5,35", "10-20", "59", "1-59/2"]);
    let anchor = scene.some_local_time(random).format("%-H").to_string();
    let hours = ["*", "*/2", "1", "2", "0-3", "0", "23", "9", "1,2,3", &anchor, &anchor, &anchor];
    let hour = pick(random, &hours);
    let day = pick(random, &["*", "*", "*", "*", "*/2", "1-15", "15-31", "28-31"]);
    let weekday = pick(random, &["*", "*", "*", "Mon-Fri", "Sun", "Sat,Sun", "Thu-Sat", "Mon,Sun"]);
    let text = format!("{second} {minute} {hour} {day} * {weekday}");
    CronExpression::new(&text, &text).unwrap()
}

fn some_until(random: &mut StdRng, scene: Scene) -> Until {
    let longest = scene.longest_duration.num_seconds() / scene.step.num_seconds();
    let elapsed = match random.random_range(0..3) {
        0 => return Until::LocalTime(some_time(random, scene)),
        1 => random.random_range(1..=longest),
        _ => *[1, 2, 5, 15, 60].choose(random).unwrap(),
    };
    let elapsed = scene.step * i32::try_from(elapsed).unwrap();
    Until::Elapsed(elapsed.to_std().unwrap())
}

fn some_time(random: &mut StdRng, scene: Scene) -> NaiveTime {
    scene.some_local_time(random).time()
}

fn some_span(random: &mut StdRng, scene: Scene) -> Span {
    let opens_at = scene.some_instant(random);
    let length = scene.step * random.random_range(1..300);
    Span::new(opens_at, opens_at + length).unwrap()
}

fn some_window(random: &mut StdRng, scene: Scene) -> Window {
    let opening = if random.random_ratio(1, 6) {
        Opening::Absolute(some_span(random, scene))
    } else {
        Opening::Recurring {
            cron: some_cron(random, scene),
            until: some_until(random, scene),
            timezone: some_zone(random, scene),
        }
    };
    Window { name: None, opening }
}

fn some_zone(random: &mut StdRng, scene: Scene) -> Tz {
    let elsewhere = random.random_ratio(1, 8);
    let zone = TZ_VARIANTS.choose(random).copied();
    zone.filter(|_| elsewhere).unwrap_or(scene.zone)
}

fn some_lifetime(random: &mut StdRng, scene: Scene) -> Span {
    let year = TimeDelta::days(365);
    let (early, late) = (scene.from - year, scene.to + year);
    match random.random_range(0..4) {
        0 => Span::new(scene.some_instant(random), late).unwrap(),
        1 => Span::new(early, scene.some_instant(random).max(early + year)).unwrap(),
        _ => Span::new(early, late).unwrap(),
    }
}

fn some_service(random: &mut StdRng, scene: Scene) -> Service {
    let windows = *[0, 1, 1, 1, 2, 3].choose(random).unwrap();
    let exceptions = *[0, 0, 1, 3].choose(random).unwrap();
    Service {
        windows: (0..windows).map(|_| some_window(random, scene)).collect(),
        exceptions: (0..exceptions).map(|_| some_span(random, scene)).collect(),
        lifetime: some_lifetime(random, scene),
        ..service()
    }
}

fn service() -> Service {
    let second = |at| DateTime::from_timestamp(at, 0).unwrap();
    Service {
        name: ServiceName::new("stripe").unwrap(),
        provider: "Stripe, Inc.".to_owned(),
        owner: "payments@example.com".to_owned(),
        description: None,
        ticket: None,
        compliance: Vec::new(),
        mode: Mode::Enforce,
        state: FileState::Commissioned,
        lifetime: Span::new(second(0), second(1)).unwrap(),
        windows: Vec::new(),
        exceptions: Vec::new(),
        policies: Vec::new(),
        watched: Vec::new(),
        watch: Watch::Forever,
    }
}

// Changes of the clock.

fn offset(zone: Tz, at: Time) -> TimeDelta {
    clock(zone, at) - at.naive_utc()
}

/// The first instants of a new offset. Looks every fifth day: no zone changes twice in so short a time.
fn changes(zone: Tz, from: Time, to: Time) -> Vec<Time> {
    let far = TimeDelta::days(5);
    let changed = |at: &Time| offset(zone, *at) != offset(zone, *at + far);
    let pairs = steps(from, to, far).filter(changed);
    pairs.map(|at| change_between(zone, at, at + far)).collect()
}

fn change_between(zone: Tz, mut old: Time, mut new: Time) -> Time {
    let before = offset(zone, old);
    while new - old > SECOND {
        let middle = old + TimeDelta::seconds((new - old).num_seconds() / 2);
        if offset(zone, middle) == before {
            old = middle;
        } else {
            new = middle;
        }
    }
    new
}

fn instant(text: &str) -> Time {
    text.parse().unwrap()
}

/// The coming changes, else the last one there was, else an ordinary day.
fn instants_of_interest(zone: Tz) -> Vec<Time> {
    let coming = changes(zone, instant("2024-01-01T00:00:00Z"), instant("2028-01-01T00:00:00Z"));
    if !coming.is_empty() {
        return coming;
    }
    let past = changes(zone, instant("1975-01-01T00:00:00Z"), instant("2024-01-01T00:00:00Z"));
    vec![*past.last().unwrap_or(&instant("2026-03-29T01:00:00Z"))]
}

// What is compared.

fn compare(service: &Service, scene: Scene, random: &mut StdRng) {
    let openings = schedule::openings(service, None, scene.from, scene.to);
    let expected = reference(service, scene);
    for (at, expected) in scene.instants().zip(expected) {
        let open = openings.iter().any(|opening| opening.contains(at));
        assert_eq!(open, expected, "at {at} in {}: {service:#?}\n{openings:#?}", scene.zone);
    }
    openings_are_apart_and_begin_on_a_step(&openings, service, scene);
    a_narrower_question_gets_the_same_openings(&openings, service, scene, random);
    states_agree(&openings, service, scene, random);
}

fn openings_are_apart_and_begin_on_a_step(openings: &[Span], service: &Service, scene: Scene) {
    let apart = openings.windows(2).all(|pair| pair[0].closes_at() < pair[1].opens_at());
    assert!(apart, "{service:#?}\n{openings:#?}");
    let on_a_step =
        |at: Time| (at - scene.from).num_nanoseconds().unwrap() % scene.step.num_nanoseconds().unwrap() == 0;
    let all = openings.iter().flat_map(|opening| [opening.opens_at(), opening.closes_at()]);
    assert!(all.into_iter().all(on_a_step), "{service:#?}\n{openings:#?}");
}

fn a_narrower_question_gets_the_same_openings(
    openings: &[Span],
    service: &Service,
    scene: Scene,
    random: &mut StdRng,
) {
    let (one, other) = (scene.some_instant(random), scene.some_instant(random));
    let (from, to) = (one.min(other), one.max(other));
    let meets = |opening: &&Span| opening.opens_at() < to && opening.closes_at() > from && from < to;
    let expected: Vec<_> = openings.iter().filter(meets).copied().collect();
    assert_eq!(schedule::openings(service, None, from, to), expected, "from {from} to {to}: {service:#?}");
}

fn states_agree(openings: &[Span], service: &Service, scene: Scene, random: &mut StdRng) {
    for _ in 0..3 {
        let at = scene.some_instant(random);
        let state = schedule::state(service, &Record::default(), true, at);
        let is_open = openings.iter().any(|opening| opening.contains(at));
        assert_eq!(state == ServiceState::Open, is_open, "at {at}: {service:#?}\n{openings:#?}");
    }
}

#[test]
fn every_zone_opens_as_its_clock_shows_around_a_change() {
    for (seed, zone) in (0..).zip(TZ_VARIANTS) {
        let mut random = StdRng::seed_from_u64(seed);
        let instants = instants_of_interest(zone);
        let scene = Scene::by_minutes(zone, *instants.choose(&mut random).unwrap());
        compare(&some_service(&mut random, scene), scene, &mut random);
    }
}

#[test]
fn every_change_of_a_clock_from_2024_to_2027_opens_as_the_clock_shows() {
    let (from, to) = (instant("2024-01-01T00:00:00Z"), instant("2028-01-01T00:00:00Z"));
    let mut seen = std::collections::BTreeSet::new();
    for zone in TZ_VARIANTS {
        for change in changes(zone, from, to) {
            let kind = (change, offset(zone, change - SECOND), offset(zone, change));
            if seen.insert(kind) {
                let mut random = StdRng::seed_from_u64(1_000 + seen.len() as u64);
                let scene = Scene::by_minutes(zone, change);
                compare(&some_service(&mut random, scene), scene, &mut random);
            }
        }
    }
    assert!(seen.len() > 100, "only {} changes found", seen.len());
}

/// A repeated midnight, gaps of a day, of half an hour, of two and three hours, negative daylight saving, a pause for Ramadan.
const ODD_CHANGES: [(Tz, &str); 15] = [
    (America::St_Johns, "2010-11-07T02:31:00Z"),
    (Pacific::Apia, "2011-12-30T10:00:00Z"),
    (Pacific::Fakaofo, "2011-12-30T11:00:00Z"),
    (Pacific::Kiritimati, "1994-12-31T10:00:00Z"),
    (Pacific::Kwajalein, "1993-08-21T12:00:00Z"),
    (Australia::Lord_Howe, "2026-04-04T15:00:00Z"),
    (Australia::Lord_Howe, "2026-10-03T15:30:00Z"),
    (Antarctica::Troll, "2026-03-29T01:00:00Z"),
    (Antarctica::Troll, "2026-10-25T01:00:00Z"),
    (Antarctica::Casey, "2023-03-08T16:00:00Z"),
    (Antarctica::Casey, "2020-10-03T16:01:00Z"),
    (Africa::Casablanca, "2026-02-15T02:00:00Z"),
    (Africa::Casablanca, "2026-03-22T02:00:00Z"),
    (Europe::Dublin, "2026-03-29T01:00:00Z"),
    (Europe::Dublin, "2026-10-25T01:00:00Z"),
];

#[test]
fn odd_changes_of_the_clock_open_as_the_clock_shows() {
    for (seed, (zone, change)) in (0..).zip(ODD_CHANGES) {
        let change = instant(change);
        assert_ne!(offset(zone, change - SECOND), offset(zone, change), "{zone} {change}");
        for round in 0..12 {
            let mut random = StdRng::seed_from_u64(10_000 + 100 * seed + round);
            let scene = Scene::by_minutes(zone, change);
            compare(&some_service(&mut random, scene), scene, &mut random);
        }
    }
}

#[test]
fn schedules_with_seconds_open_as_the_clock_shows() {
    let scenes = [
        Scene::by_seconds(Europe::Berlin, instant("2026-03-29T01:00:00Z")),
        Scene::by_seconds(Europe::Berlin, instant("2026-10-25T01:00:00Z")),
        Scene::by_seconds(Australia::Lord_Howe, instant("2026-04-04T15:00:00Z")),
        // An offset of -00:44:30 until then.
        Scene::by_seconds(Africa::Monrovia, instant("1972-01-07T00:44:30Z")),
    ];
    for (seed, scene) in (0..).zip(scenes.into_iter().cycle().take(40)) {
        let mut random = StdRng::seed_from_u64(20_000 + seed);
        compare(&some_service(&mut random, scene), scene, &mut random);
    }
}

#[test]
fn an_opening_has_the_same_ends_whatever_is_asked() {
    for seed in 0..150 {
        let mut random = StdRng::seed_from_u64(40_000 + seed);
        let zone = *TZ_VARIANTS.choose(&mut random).unwrap();
        let scene = Scene::by_minutes(zone, *instants_of_interest(zone).first().unwrap());
        let lifetime = Span::new(scene.from - TimeDelta::days(9), scene.to + TimeDelta::days(9)).unwrap();
        let service = Service { lifetime, ..some_service(&mut random, scene) };
        let all = schedule::openings(&service, None, lifetime.opens_at(), lifetime.closes_at());
        for _ in 0..4 {
            a_narrower_question_gets_the_same_openings(&all, &service, scene, &mut random);
        }
    }
}

// Transitions.

fn some_record(random: &mut StdRng, scene: Scene) -> Record {
    let decommissioned = random.random_ratio(1, 4).then(|| {
        let at = scene.some_instant(random);
        Decommissioned { at, covers: at, cause: Cause::Order, by: None, reason: None }
    });
    let suspended = random.random_ratio(1, 8).then(|| Suspended {
        at: scene.some_instant(random),
        by: "root (uid 0)".to_owned(),
        reason: "a drill".to_owned(),
    });
    Record { suspended, decommissioned, extended: None }
}

fn some_file_state(random: &mut StdRng) -> FileState {
    match random.random_range(0..12) {
        0 => FileState::Suspended,
        1 => FileState::Decommissioned,
        _ => FileState::Commissioned,
    }
}

#[test]
fn a_transition_is_the_first_instant_with_another_state() {
    let changes = changes(Europe::Berlin, instant("2024-01-01T00:00:00Z"), instant("2028-01-01T00:00:00Z"));
    for seed in 0..600 {
        let mut random = StdRng::seed_from_u64(30_000 + seed);
        let scene = Scene::by_minutes(Europe::Berlin, *changes.choose(&mut random).unwrap());
        let file_state = some_file_state(&mut random);
        let service = Service { state: file_state, ..some_service(&mut random, scene) };
        let record = some_record(&mut random, scene);
        let approved = random.random_ratio(9, 10);
        let at = scene.some_instant(&mut random) + TimeDelta::nanoseconds(random.random_range(0..3));
        check_transition(&service, &record, approved, at, &mut random);
    }
}

fn check_transition(service: &Service, record: &Record, approved: bool, at: Time, random: &mut StdRng) {
    let state = |at| schedule::state(service, record, approved, at);
    let next = schedule::next_transition(service, record, approved, at);
    let facts = || format!("{next:?} after {at} approved {approved}: {service:#?} {record:#?}");
    let stays_until = match next {
        None => at + TimeDelta::days(3 * 365),
        Some((changes_at, to)) => {
            assert!(changes_at > at, "{}", facts());
            assert_ne!(to, state(at), "{}", facts());
            assert_eq!(to, state(changes_at), "{}", facts());
            changes_at
        }
    };
    let last = stays_until - TimeDelta::nanoseconds(1);
    assert_eq!(state(last), state(at), "{}", facts());
    for _ in 0..8 {
        let between = at + some_part(last - at, random);
        assert_eq!(state(between), state(at), "at {between}: {}", facts());
    }
    openings_agree_with_the_transition(service, record, approved, at);
}

fn some_part(whole: TimeDelta, random: &mut StdRng) -> TimeDelta {
    let nanoseconds = random.random_range(0..=whole.num_nanoseconds().unwrap());
    TimeDelta::nanoseconds(nanoseconds)
}

fn openings_agree_with_the_transition(service: &Service, record: &Record, approved: bool, at: Time) {
    let state = |at| schedule::state(service, record, approved, at);
    let current = schedule::current_opening(service, record, approved, at);
    assert_eq!(current.is_some(), state(at) == ServiceState::Open, "{service:#?}");
    if let Some(current) = current {
        let end = schedule::next_transition(service, record, approved, at).map(|(end, _)| end);
        assert!(
            current.contains(at) && Some(current.closes_at()) == end,
            "{current:?} at {at}: {service:#?}"
        );
    }
    if let Some(next) = schedule::next_opening(service, record, approved, at) {
        let just_before = next.opens_at() - TimeDelta::nanoseconds(1);
        assert!(next.opens_at() > at && state(next.opens_at()) == ServiceState::Open, "{service:#?}");
        assert_ne!(state(just_before), ServiceState::Open, "{next:?} after {at}: {service:#?}");
    }
}

#[test]
fn the_reference_can_tell_right_from_wrong() {
    let zone = Europe::Berlin;
    let scene = Scene::by_minutes(zone, instant("2026-10-25T01:00:00Z"));
    let text = "0 30 2 * * *";
    let opening = Opening::Recurring {
        cron: CronExpression::new(text, text).unwrap(),
        until: Until::Elapsed(Duration::from_secs(600)),
        timezone: zone,
    };
    let once = Span::new(instant("2026-10-25T00:30:00Z"), instant("2026-10-25T00:40:00Z")).unwrap();
    let windows = vec![Window { name: None, opening }];
    let lifetime = Span::new(scene.from, scene.to).unwrap();
    let open = reference(&Service { windows, lifetime, ..service() }, scene);
    for (at, open) in scene.instants().zip(open) {
        assert_eq!(open, once.contains(at), "{at}");
    }
}
