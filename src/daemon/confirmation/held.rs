//! What files may not make final before they are confirmed.
//!
//! A decommission is final for its lifetime, so that a removal by mistake could not be taken back. Until the confirmation such a
//! service is shut in another way: suspended where its file goes or says `decommissioned`, closed where its lifetime would
//! end before the confirmation is due. Its connections are cut all the same.

use std::sync::Arc;

use crate::config::Loaded;
use crate::model::{FileState, Service, Span, Time};

/// The files as they are in force until `due`; `before` are those that they would replace, without decommissioned services.
pub fn held(before: &Loaded, mut loaded: Loaded, due: Time) -> Loaded {
    for (name, old) in &before.services {
        let held = match loaded.services.get(name) {
            None => shut(old),
            Some(new) => hold(old, new, due),
        };
        loaded.services.insert(name.clone(), Arc::new(held));
    }
    loaded
}

/// A service that admits nothing and ends nothing.
pub fn shut(service: &Service) -> Service {
    match service.state {
        FileState::Commissioned | FileState::Suspended => {
            Service { state: FileState::Suspended, ..service.clone() }
        }
        FileState::Decommissioned => service.clone(),
    }
}

fn hold(old: &Service, new: &Service, due: Time) -> Service {
    let mut held = new.clone();
    if new.state == FileState::Decommissioned && old.state != FileState::Decommissioned {
        held.state = FileState::Suspended;
    }
    let (end, was) = (new.lifetime.closes_at(), old.lifetime.closes_at());
    if end <= due
        && end < was
        && let (Ok(lifetime), Ok(rest)) = (Span::new(new.lifetime.opens_at(), was), Span::new(end, was))
    {
        held.lifetime = lifetime;
        held.exceptions.push(rest);
    }
    held
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::{self, Files, Source};
    use crate::model::{Record, ServiceName, ServiceState};
    use crate::schedule;

    fn at(text: &str) -> Time {
        text.parse().unwrap()
    }

    fn loaded(services: &[(&str, &str, &str)]) -> Loaded {
        let source = |(name, end, head): &(&str, &str, &str)| {
            let text = format!(
                "provider = \"P\"\nowner = \"o\"\n{head}\n[lifetime]\ncommission = 2026-01-01T00:00:00Z\ndecommission = {end}\n\
                 [[egress]]\nsubject = {{ unit = \"a.service\" }}\nto = [\"192.0.2.1\"]\nports = [\"443/tcp\"]\n"
            );
            Source { path: format!("{name}.toml").into(), text: Ok(text.into_bytes()) }
        };
        let services = services.iter().map(source).collect();
        config::load(&Files { settings: None, services, segments: vec![], lists: BTreeMap::new() }).unwrap()
    }

    fn state(loaded: &Loaded, name: &str, instant: &str) -> ServiceState {
        let service = &loaded.services[&ServiceName::new(name).unwrap()];
        schedule::state(service, &Record::default(), true, at(instant))
    }

    const YEAR: &str = "2027-01-01T00:00:00Z";

    #[test]
    fn nothing_becomes_final_before_it_is_confirmed() {
        let names = ["gone", "ended", "shortened", "expired", "kept"];
        let before = loaded(&names.map(|name| (name, YEAR, "")));
        let after = loaded(&[
            ("ended", YEAR, "state = \"decommissioned\""),
            ("shortened", "2026-06-01T00:03:00Z", ""),
            ("expired", "2026-05-01T00:00:00Z", ""),
            ("kept", "2026-06-01T01:00:00Z", ""),
            ("new", "2026-05-01T00:00:00Z", ""),
        ]);
        let held = held(&before, after, at("2026-06-01T00:05:00Z"));
        let states = |instant| {
            ["gone", "ended", "shortened", "expired", "kept", "new"].map(|name| state(&held, name, instant))
        };
        use ServiceState as S;
        assert_eq!(
            states("2026-06-01T00:00:00Z"),
            [S::Suspended, S::Suspended, S::Open, S::Closed, S::Open, S::Decommissioned]
        );
        assert_eq!(
            states("2026-06-01T00:04:59Z"),
            [S::Suspended, S::Suspended, S::Closed, S::Closed, S::Open, S::Decommissioned]
        );
        assert!(!held.texts.contains_key(&ServiceName::new("gone").unwrap()), "its file is gone");
    }

    #[test]
    fn the_end_of_the_former_lifetime_is_not_moved() {
        let before = loaded(&[("a", "2026-06-01T00:02:00Z", "")]);
        let after = loaded(&[("a", "2026-06-01T00:01:00Z", "")]);
        let held = held(&before, after, at("2026-06-01T00:05:00Z"));
        assert_eq!(state(&held, "a", "2026-06-01T00:01:30Z"), ServiceState::Closed);
        assert_eq!(state(&held, "a", "2026-06-01T00:02:00Z"), ServiceState::Decommissioned);
    }
}
