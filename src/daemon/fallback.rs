//! The last accepted files, read again from their texts: what a start runs on when the files that are there have mistakes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{self, Diagnostic, FileText, Loaded};
use crate::model::{Segment, SegmentName, Service, ServiceName, Services, Settings};
use crate::store::accepted::{Accepted, AcceptedSegment, AcceptedService};

/// Everything that was accepted, services that departed left out. `None` when a text does not parse any more: half of it
/// would leave out a segment, which refuses, or the owner of an address.
pub fn reload(accepted: &Accepted) -> Option<Loaded> {
    let path = PathBuf::from("accepted/picoseg.toml");
    let settings = match &accepted.settings_text {
        Some(text) => config::parse_settings(&path, text).0?,
        None => Settings::default(),
    };
    let (mut services, mut texts) = (Services::new(), BTreeMap::new());
    for (name, old) in accepted.services.iter().filter(|(_, old)| old.departed.is_none()) {
        services.insert(name.clone(), Arc::new(service(name, old, &settings)?));
        texts.insert(name.clone(), FileText { text: old.text.clone(), lists: old.lists.clone() });
    }
    let (mut segments, mut segment_texts) = (BTreeMap::new(), BTreeMap::new());
    for (name, old) in &accepted.segments {
        segments.insert(name.clone(), segment(name, old)?);
        segment_texts.insert(name.clone(), FileText { text: old.text.clone(), lists: old.lists.clone() });
    }
    Some(Loaded {
        settings,
        services,
        segments,
        texts,
        segment_texts,
        warnings: vec![],
        settings_text: accepted.settings_text.clone(),
    })
}

/// An accepted service; `None`, and the log says why, when it does not parse any more.
pub fn service(name: &ServiceName, old: &AcceptedService, settings: &Settings) -> Option<Service> {
    let path = PathBuf::from(format!("accepted/{name}.toml"));
    let lists = |list: &str| old.lists.get(list).cloned();
    said(config::parse_service(&path, name, &old.text, &lists, settings))
}

fn segment(name: &SegmentName, old: &AcceptedSegment) -> Option<Segment> {
    let path = PathBuf::from(format!("accepted/segments/{name}.toml"));
    let lists = |list: &str| old.lists.get(list).cloned();
    said(config::parse_segment(&path, name, &old.text, &lists))
}

fn said<T>((parsed, diagnostics): (Option<T>, Vec<Diagnostic>)) -> Option<T> {
    for diagnostic in diagnostics.iter().filter(|_| parsed.is_none()) {
        tracing::error!(%diagnostic, "an accepted file does not parse any more");
    }
    parsed
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::config::{Files, Source};
    use crate::daemon::snapshot;
    use crate::reconcile::World;
    use crate::store::accepted;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: Ok(text.as_bytes().to_vec()) }
    }

    fn loaded() -> Loaded {
        let service = "provider = \"P\"\nowner = \"o\"\n[lifetime]\ncommission = 2026-01-01T00:00:00Z\n\
                       decommission = 2027-01-01T00:00:00Z\n[[egress]]\nsubject = { unit = \"a.service\" }\n\
                       to = [\"@pool\"]\nports = [\"443/tcp\"]\n";
        let segment = "subject = { unit = \"a.service\" }\ndns = false\n[[allow]]\ndirection = \"egress\"\n\
                       to = [\"@pool\", \"192.0.2.9\"]\nports = [\"53/udp\"]\n";
        let lists = [("pool".to_owned(), source("pool.txt", "192.0.2.1\napi.example.com\n"))];
        let files = Files {
            settings: Some(source("picoseg.toml", "[enforcement]\ntable = \"other\"\n")),
            services: vec![source("stripe.toml", service)],
            segments: vec![source("payments.toml", segment)],
            lists: lists.into(),
        };
        config::load(&files).unwrap()
    }

    fn snapshot_of(loaded: &Loaded) -> Accepted {
        let world = World::new(loaded.settings.clone(), DateTime::UNIX_EPOCH);
        snapshot::merged(&Accepted::default(), loaded, &world)
    }

    #[test]
    fn services_and_segments_come_back_with_their_lists() {
        let loaded = loaded();
        let directory = tempfile::tempdir().unwrap();
        accepted::write(directory.path(), &snapshot_of(&loaded)).unwrap();
        let again = reload(&accepted::read(directory.path()).unwrap().unwrap()).unwrap();
        assert_eq!(again.segments, loaded.segments);
        assert_eq!(again.segments.values().next().unwrap().allow[0].names.len(), 1);
        assert_eq!((&again.services, &again.settings), (&loaded.services, &loaded.settings));
        assert_eq!((&again.segment_texts, &again.texts), (&loaded.segment_texts, &loaded.texts));
        // What runs on the last accepted files keeps them for the next start.
        assert_eq!(snapshot_of(&again), snapshot_of(&loaded));
    }

    #[test]
    fn without_one_of_its_segments_nothing_is_reloaded() {
        let mut accepted = snapshot_of(&loaded());
        accepted.segments.values_mut().for_each(|segment| segment.lists.clear());
        assert!(reload(&accepted).is_none());
    }
}
