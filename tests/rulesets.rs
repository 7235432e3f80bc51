//! Golden rulesets: schedules in `tests/golden/rulesets/NAME/*.toml`, what they add to the table of no schedule in
//! `expected.nft`. That table itself is `tests/golden/rulesets/empty.nft`. Read a difference as a change of a firewall.
//!
//! `UPDATE_GOLDEN=1` writes them anew.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use picoseg::compile::Place;
use picoseg::config::{self, Files, Source};
use picoseg::model::{ServiceName, Settings, Subject, Time};
use picoseg::reconcile::World;
use picoseg::ruleset::{Chain, Field, Ruleset};

/// A Monday noon.
fn at() -> Time {
    "2026-03-02T12:00:00Z".parse().unwrap()
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/rulesets")
}

fn compiled(schedules: Vec<PathBuf>) -> Ruleset {
    let source = |path: PathBuf| Source { text: Ok(fs::read(&path).unwrap()), path };
    let directory = schedules.first().and_then(|path| path.parent());
    let segments = directory.and_then(|directory| fs::read_dir(directory.join("segments.d")).ok());
    let segments = segments.into_iter().flatten().map(|entry| source(entry.unwrap().path()));
    let files = Files {
        segments: segments.collect(),
        services: schedules.into_iter().map(source).collect(),
        ..Files::default()
    };
    let loaded = config::load(&files).unwrap_or_else(|diagnostics| panic!("{diagnostics:#?}"));
    let mut world = World::new(Settings::default(), at());
    // Twice, as at the second start: what was just put in force is not closing.
    for (name, service) in &loaded.services {
        assert!(world.standing(name).is_none());
        world.remember(service.clone(), Default::default(), false);
    }
    world.apply(loaded.settings, loaded.services, at());
    world.enclose(loaded.segments);
    world.set_resolvers(vec!["192.0.2.53".parse().unwrap()]);
    for (index, unit) in
        ["payments.service", "backup.service", "web.service", "ssh.service"].iter().enumerate()
    {
        let path = format!("system.slice/{unit}");
        world.resolve(Subject::unit(unit).unwrap(), vec![Place::cgroup(1000 + index as u64, 2, path)]);
    }
    let behind = ["172.18.0.2", "fd18::2"].map(|address| Place::Address(address.parse().unwrap()));
    world.resolve(Subject::container("web").unwrap(), behind.into());
    world.resolve(Subject::user("batch").unwrap(), vec![Place::User(1001)]);
    world.compile()
}

fn compare(expected: &Path, printed: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(expected, printed).unwrap();
    }
    let known = fs::read_to_string(expected)
        .unwrap_or_else(|error| panic!("{}: {error}; UPDATE_GOLDEN=1 writes it", expected.display()));
    let (known_lines, lines): (Vec<_>, Vec<_>) = (known.lines().collect(), printed.lines().collect());
    for (number, (known, line)) in known_lines.iter().zip(&lines).enumerate() {
        assert_eq!(known, line, "{}:{}", expected.display(), number + 1);
    }
    assert_eq!(known_lines.len(), lines.len(), "{}", expected.display());
}

/// The objects that differ from those of another ruleset.
fn beyond(ruleset: &Ruleset, other: &Ruleset) -> Ruleset {
    let mut rest = ruleset.clone();
    rest.counters = ruleset.counters.difference(&other.counters).cloned().collect();
    rest.sets.retain(|name, set| other.sets.get(name) != Some(set));
    rest.chains.retain(|name, chain| other.chains.get(name) != Some(chain));
    rest
}

/// nft 1.0.6 aborts at the elements of a set with more than five fields; a cgroup's id counts twice.
fn nft_can_list(ruleset: &Ruleset) {
    let width = |field: &Field| if *field == Field::Cgroup { 2 } else { 1 };
    for (name, set) in &ruleset.sets {
        let fields: usize = set.fields.iter().map(width).sum();
        assert!(fields <= 5, "{name}: {fields} fields");
    }
}

#[test]
fn the_table_of_no_schedule_is_the_golden_one() {
    compare(&golden().join("empty.nft"), &compiled(vec![]).print(at()).to_string());
}

#[test]
fn each_schedule_adds_what_its_golden_ruleset_says() {
    let empty = compiled(vec![]);
    let mut cases = 0;
    for entry in fs::read_dir(golden()).unwrap() {
        let directory = entry.unwrap().path();
        if !directory.is_dir() {
            continue;
        }
        let files = fs::read_dir(&directory).unwrap().map(|file| file.unwrap().path());
        let schedules: BTreeSet<_> =
            files.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
        let ruleset = compiled(schedules.into_iter().collect());
        nft_can_list(&ruleset);
        compare(&directory.join("expected.nft"), &beyond(&ruleset, &empty).print(at()).to_string());
        cases += 1;
    }
    assert!(cases >= 4, "{cases}");
}

#[test]
fn the_same_files_print_the_same_bytes_in_any_order() {
    let directory = golden().join("states");
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .collect();
    let one = compiled(files.clone()).print(at()).to_string();
    files.reverse();
    assert_eq!(one, compiled(files).print(at()).to_string());
}

/// The chains that every packet meets, and those of one segment.
fn met(segments: u64) -> Vec<Option<Chain>> {
    let mut world = World::new(Settings::default(), at());
    let unit = |number| Subject::unit(&format!("u{number}.service")).unwrap();
    let segment = |number| {
        let name = ServiceName::new(&format!("s{number}")).unwrap();
        let text = format!("subject = {{ unit = \"u{number}.service\" }}\n");
        let (segment, found) = config::parse_segment(Path::new("s.toml"), &name, &text, &|_| None);
        (name, segment.unwrap_or_else(|| panic!("{found:?}")))
    };
    world.enclose((0..segments).map(segment).collect());
    for number in 0..segments {
        world.resolve(
            unit(number),
            vec![Place::cgroup(1000 + number, 2, format!("system.slice/u{number}.service"))],
        );
    }
    let ruleset = world.compile();
    let names = ["output", "input", "subjects-out", "subjects-in", "seg-s0-out", "seg-s0-in"];
    names.into_iter().map(|name| ruleset.chains.get(name).cloned()).collect()
}

#[test]
fn a_packet_meets_as_many_rules_with_two_hundred_segments_as_with_one() {
    let one = met(1);
    assert!(one.iter().all(Option::is_some));
    assert_eq!(one, met(200));
}
