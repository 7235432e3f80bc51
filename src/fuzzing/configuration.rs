//! Files of a configuration: `#file PATH` begins one; without such a line it is a schedule.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::TimeDelta;

use crate::compile::{Input, Openings, Place, Resolution, Standing, Unresolved, compile};
use crate::config::{Diagnostic, Files, Loaded, Severity, Source, load};
use crate::model::{Record, Subject, Time};
use crate::schedule::{next_transition, openings, state};

/// What stands before the path of a file.
const MARK: &[u8] = b"#file ";

/// Files of a configuration, from their bytes to the table.
pub fn schedule(bytes: &[u8]) {
    let files = files(bytes);
    match load(&files) {
        Ok(loaded) => {
            check(&files, &loaded.warnings);
            assert!(loaded.warnings.iter().all(|one| one.severity == Severity::Warning));
            in_force(&loaded);
        }
        Err(found) => {
            check(&files, &found);
            assert!(found.iter().any(|one| one.severity == Severity::Error), "{found:?}");
        }
    }
}

/// The files that the bytes hold.
pub(super) fn files(bytes: &[u8]) -> Files {
    let mut files = Files::default();
    let mut path = "services.d/fuzz.toml".to_owned();
    let mut text = Vec::new();
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        match line.strip_prefix(MARK) {
            Some(next) => {
                put(&mut files, &path, std::mem::take(&mut text));
                path = String::from_utf8_lossy(next.trim_ascii()).into_owned();
            }
            None => text.extend_from_slice(line),
        }
    }
    put(&mut files, &path, text);
    files
}

fn put(files: &mut Files, path: &str, text: Vec<u8>) {
    let source = Source { path: PathBuf::from(path), text: Ok(text) };
    let stem = source.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    // A directory has each name once.
    let known = files.services.iter().chain(&files.segments).any(|other| other.path == source.path);
    match path.split_once('/') {
        _ if known => {}
        Some(("services.d", _)) => files.services.push(source),
        Some(("segments.d", _)) => files.segments.push(source),
        Some(("lists", _)) => drop(files.lists.insert(stem, source)),
        Some(_) => {}
        None => files.settings = Some(source),
    }
}

/// Every finding has a place in its file, says something, and prints as one line and a help line.
fn check(files: &Files, found: &[Diagnostic]) {
    assert!(found.is_sorted() && found.windows(2).all(|two| two[0] != two[1]), "{found:?}");
    let sources =
        files.services.iter().chain(&files.segments).chain(files.lists.values()).chain(&files.settings);
    let lines: BTreeMap<_, usize> = sources
        .map(|source| (&source.path, source.text.as_deref().unwrap_or_default()))
        .map(|(path, text)| (path, text.iter().filter(|byte| **byte == b'\n').count() + 1))
        .collect();
    for one in found {
        let most = lines.get(&one.file).copied().unwrap_or(1).max(1);
        assert!((1..=most).contains(&one.line) && one.column >= 1, "{one:?} of {most} lines");
        let printed = one.to_string();
        assert!(!one.message.is_empty() && printed.lines().count() <= 2, "{printed:?}");
        assert!(!printed.chars().any(|c| c.is_control() && c != '\n'), "{printed:?}");
    }
}

/// What follows from files in order: openings, states, the table.
fn in_force(loaded: &Loaded) {
    let now = "2026-03-28T23:30:00Z".parse::<Time>().expect("a time");
    let record = Record::default();
    for service in loaded.services.values() {
        let all = openings(service, None, now, now + TimeDelta::hours(50));
        let inside = |at: Time| (service.lifetime.opens_at()..=service.lifetime.closes_at()).contains(&at);
        assert!(all.windows(2).all(|two| two[0].closes_at() < two[1].opens_at()), "{all:?}");
        assert!(all.iter().all(|one| inside(one.opens_at()) && inside(one.closes_at())), "{all:?}");
        let next = next_transition(service, &record, true, now);
        assert!(next.is_none_or(|(at, to)| at > now && state(service, &record, true, at) == to));
    }
    let standings: Vec<_> = loaded
        .services
        .values()
        .map(|service| Standing { service, record: &record, approved: true })
        .filter(|standing| standing.governs(now))
        .collect();
    let resolvers: [IpAddr; 1] = ["192.0.2.53".parse().expect("an address")];
    let input = Input {
        settings: &loaded.settings,
        services: &standings,
        segments: &loaded.segments,
        resolvers: &resolvers,
        resolution: &resolution(loaded),
        left: &crate::compile::Levels::new(),
        now,
        openings: Openings::Armed,
        classes: &crate::compile::Classes::default(),
        unresolved: Unresolved::Note,
        cut_at: None,
    };
    let printed = compile(&input).print(now).to_string();
    assert!(printed.contains("table inet ") && printed.ends_with("}\n"));
}

/// Each subject in a cgroup of its own.
fn resolution(loaded: &Loaded) -> Resolution {
    let of_services = loaded.services.values().flat_map(|service| &service.policies);
    let enclosed = loaded.segments.values().map(|segment| &segment.subject);
    let subjects = of_services.map(|policy| &policy.subject).chain(enclosed);
    let places = |(id, subject): (u64, &Subject)| {
        let place = Place::cgroup(id, 2, format!("a.slice/{id}.service"));
        (Arc::new(subject.clone()), Arc::from([place]))
    };
    (100..).zip(subjects).map(places).collect()
}
