//! Each of the two clocks closes alone what is told by elements, whatever the other says.

use picoseg::ruleset::{Element, Ruleset};

use super::*;

/// One service for a process in `/a`, its lifetime from minute 0 to 100; compiled at minute 50.
fn table(window: &str, state: &str) -> Ruleset {
    let settings = settings();
    let text = format!(
        "provider = \"p\"\nowner = \"o\"\nstate = \"{state}\"\n[lifetime]\ncommission = {}\ndecommission = {}\n{window}\
         [[egress]]\nsubject = {{ cgroup = \"/a\" }}\nto = [\"198.51.100.1\", \"2001:db8::1\"]\nports = [\"443/tcp\"]\n",
        instant(0).to_rfc3339(),
        instant(100).to_rfc3339(),
    );
    let services = parse(&[text], &settings);
    assert!(compile::is_exact(&services[0]));
    let record = Record::default();
    let standings = [Standing { service: &services[0], record: &record, approved: true }];
    compile::compile(&Input {
        settings: &settings,
        services: &standings,
        segments: &BTreeMap::new(),
        resolvers: &[],
        resolution: &resolution(),
        left: &compile::Levels::new(),
        now: instant(50),
        openings: Openings::Armed,
        classes: &Classes::default(),
        unresolved: Unresolved::Silent,
        cut_at: None,
    })
}

fn windows() -> [String; 2] {
    let (open, close) = (instant(20).to_rfc3339(), instant(80).to_rfc3339());
    [String::new(), format!("[[window]]\nopen = {open}\nclose = {close}\n")]
}

/// What becomes of both connections, which have the same fate.
fn fate(ruleset: &Ruleset, minute: i64) -> Result<(), Vec<String>> {
    let [fate, other] = ["198.51.100.1", "2001:db8::1"].map(|remote| {
        let attempt = Attempt {
            direction: Direction::Egress,
            remote: remote.parse().unwrap(),
            protocol: Protocol::Tcp,
            port: 443,
            owner: [0, 0],
            hello: false,
            place: Some(0),
        };
        Interpreter::new(ruleset, instant(minute)).run(&packet(&attempt))
    });
    assert_eq!(fate, other);
    if fate.passed { Ok(()) } else { Err(fate.counted) }
}

/// The table as it is when so many minutes have passed since it was made, and the wall clock says something else.
fn after(mut ruleset: Ruleset, minutes: i64) -> Ruleset {
    for set in ruleset.sets.values_mut() {
        set.elements.retain(|_, element| element.closes_at.is_none_or(|at| instant(50 + minutes) < at));
        let lasting = |element: &Element| Element { closes_at: None, ..element.clone() };
        set.elements = set.elements.iter().map(|(key, element)| (key.clone(), lasting(element))).collect();
    }
    ruleset
}

fn refused(reason: &str) -> Result<(), Vec<String>> {
    Err(vec![format!("exact-out-{reason}")])
}

#[test]
fn what_has_elements_closes_by_either_clock_alone() {
    for (window, close) in windows().iter().zip([100, 80]) {
        let table = table(window, "commissioned");
        assert_eq!(fate(&after(table.clone(), 0), 60), Ok(()), "open by both");
        let stopped = after(table.clone(), 0);
        assert_eq!(fate(&stopped, close - 1), Ok(()));
        let reason = if close == 100 { "expired" } else { "closed" };
        assert_eq!(fate(&stopped, close), refused(reason), "by the wall clock");
        assert_eq!(fate(&stopped, -1), refused("closed"), "the clock was turned back behind the beginning");
        let elapsed = after(table, close - 50);
        assert_eq!(fate(&elapsed, 60), refused("closed"), "by elapsed time, the clock was turned back");
    }
}

#[test]
fn what_is_suspended_is_over_when_its_lifetime_is_with_nobody_there() {
    for window in windows() {
        let table = table(&window, "suspended");
        assert_eq!(fate(&table, 99), refused("suspended"));
        assert_eq!(fate(&table, 100), refused("expired"));
    }
}
