//! An opening that somebody prolonged, or opened once, by order.
//!
//! It is one more window of the service, so that states, the table, `explain` and the ledger follow from it as from any other;
//! exceptions and the end of the lifetime cut it off like any other. Rejected: a second end beside each opening, which every reader of
//! openings would have to know. Files know nothing of it, nor does the digest over what follows from them.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Known, OrderError, Outcome, World};
use crate::model::{Extended, Opening, Record, Service, ServiceName, ServiceState, Span, Time, Window};
use crate::schedule;

/// Why an opening is not prolonged. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExtendError {
    #[error(transparent)]
    Order(#[from] OrderError),
    #[error("service {0} is {1}: only one that is open or closed can be opened longer")]
    Shut(ServiceName, ServiceState),
    #[error("{0} has passed")]
    Passed(Time),
    #[error("the lifetime of {0} ends at {1}: nothing is opened beyond it")]
    Beyond(ServiceName, Time),
    #[error("{0} is open until {1} anyway")]
    Needless(ServiceName, Time),
    #[error("an exception in the file closes {0} at {1}: extend it until then at most")]
    Excepted(ServiceName, Time),
}

impl World {
    /// Prolongs the opening in force, or opens once, until an instant inside the lifetime.
    pub fn extend(
        &mut self,
        name: &ServiceName,
        until: Time,
        (by, reason): (&str, &str),
        now: Time,
    ) -> Result<Outcome, ExtendError> {
        let (passed, due) = self.look(now);
        let at = self.latest;
        let Some(known) = self.services.get(name) else {
            return Err(OrderError::Unknown(name.as_str().to_owned()).into());
        };
        let state = self.state(name).unwrap_or(ServiceState::Decommissioned);
        let ends_at = known.file.lifetime.closes_at();
        let open_until = self.current_opening(name).map(Span::closes_at);
        match state {
            ServiceState::Decommissioned => return Err(OrderError::Final(name.clone()).into()),
            ServiceState::Open | ServiceState::Closed => {}
            ServiceState::Suspended | ServiceState::Unapproved | ServiceState::Pending => {
                return Err(ExtendError::Shut(name.clone(), state));
            }
        }
        if until <= at {
            return Err(ExtendError::Passed(until));
        }
        if until > ends_at {
            return Err(ExtendError::Beyond(name.clone(), ends_at));
        }
        if let Some(open_until) = open_until.filter(|open_until| *open_until >= until) {
            return Err(ExtendError::Needless(name.clone(), open_until));
        }
        let extended = Extended { at, until, by: by.to_owned(), reason: reason.to_owned() };
        let record = Record { extended: Some(extended), ..known.record().clone() };
        let known = Known { record: Some(Box::new(record.clone())), ..(**known).clone() };
        self.put(known.rescheduled());
        self.refresh(name);
        let closes_at = self.current_opening(name).map_or(at, Span::closes_at);
        if closes_at < until {
            return Err(ExtendError::Excepted(name.clone(), closes_at));
        }
        let mut outcome = self.settle(passed, due, &BTreeSet::from([name.clone()]));
        outcome.records.retain(|(service, _)| service != name);
        outcome.records.push((name.clone(), record));
        Ok(outcome)
    }

    /// True when the service has other windows here than in the world before.
    pub fn is_rescheduled(&self, before: &Self, name: &ServiceName) -> bool {
        let windows = |world: &Self| world.services.get(name).map(|known| known.scheduled.windows.len());
        windows(self) != windows(before)
    }
}

/// What is remembered of most services.
static NOTHING: Record = Record { suspended: None, decommissioned: None, extended: None };

impl Known {
    pub(super) fn new(file: Arc<Service>, record: Record, departed: bool) -> Self {
        let scheduled = scheduled(&file, &record);
        let record = (record != NOTHING).then(|| Box::new(record));
        Self { service: Arc::clone(&scheduled), scheduled, file, record, departed }
    }

    pub(super) fn record(&self) -> &Record {
        self.record.as_deref().unwrap_or(&NOTHING)
    }

    pub(super) fn record_mut(&mut self) -> &mut Record {
        self.record.get_or_insert_default()
    }

    /// The same with the windows that follow from its file and its record.
    pub(super) fn rescheduled(mut self) -> Self {
        self.scheduled = scheduled(&self.file, self.record());
        self.service = Arc::clone(&self.scheduled);
        self
    }
}

/// The service with the window that an order added; the file's own where none did.
pub(super) fn scheduled(file: &Arc<Service>, record: &Record) -> Arc<Service> {
    let Some(extended) = &record.extended else { return Arc::clone(file) };
    let Ok(span) = Span::new(extended.at, extended.until) else { return Arc::clone(file) };
    // Without windows it is open for its whole lifetime.
    if file.windows.is_empty() {
        return Arc::clone(file);
    }
    let mut service = (**file).clone();
    let added = service.windows.len();
    let instant = extended.at + chrono::TimeDelta::nanoseconds(1);
    let is_open = |which: Option<&[usize]>| !schedule::openings(file, which, extended.at, instant).is_empty();
    let opens_once = !is_open(None);
    for policy in &mut service.policies {
        // A policy whose own windows are shut is not opened by prolonging those of others.
        let follows = opens_once || is_open(policy.windows.as_deref());
        if let Some(windows) = &mut policy.windows
            && follows
        {
            windows.push(added);
        }
    }
    service.windows.push(Window { name: None, opening: Opening::Absolute(span) });
    Arc::new(service)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Order, OrderKind, Services, Settings};

    fn at(text: &str) -> Time {
        format!("2026-06-01T{text}:00Z").parse().unwrap()
    }

    /// Two windows a day, each with a policy of its own, and one for both.
    fn service(rest: &str) -> Service {
        let policy = |address: u8, windows: &str| {
            format!(
                "[[egress]]\nsubject = {{ unit = \"a.service\" }}\nto = [\"192.0.2.{address}\"]\nports = [\"443/tcp\"]\n{windows}\n"
            )
        };
        let text = format!(
            "provider = \"P\"\nowner = \"o\"\n[lifetime]\ncommission = 2026-01-01T00:00:00Z\n\
             decommission = 2026-06-01T22:00:00Z\n[[window]]\nname = \"day\"\ncron = \"0 9 * * *\"\nduration = \"8h\"\n\
             [[window]]\nname = \"night\"\ncron = \"0 1 * * *\"\nduration = \"2h\"\n{rest}{}{}{}",
            policy(1, "windows = [\"day\"]"),
            policy(2, "windows = [\"night\"]"),
            policy(3, ""),
        );
        let name = ServiceName::new("stripe").unwrap();
        let path = std::path::Path::new("stripe.toml");
        let (service, found) =
            crate::config::parse_service(path, &name, &text, &|_| None, &Settings::default());
        service.unwrap_or_else(|| panic!("{found:?}"))
    }

    fn world(service: Service, now: Time) -> (World, ServiceName) {
        let name = service.name.clone();
        let mut world = World::new(Settings::default(), now);
        world.apply(Settings::default(), Services::from_iter([service.named()]), now);
        (world, name)
    }

    fn extend(world: &mut World, name: &ServiceName, until: &str) -> Result<Outcome, ExtendError> {
        let now = world.now();
        let mut next = world.clone();
        let outcome = next.extend(name, at(until), ("root (uid 0)", "test"), now)?;
        *world = next;
        Ok(outcome)
    }

    fn open_policies(world: &World, instant: Time) -> Vec<usize> {
        let service = world.standings()[0].service;
        let end = instant + chrono::TimeDelta::nanoseconds(1);
        let is_open = |policy: &&crate::model::Policy| {
            !schedule::openings(service, policy.windows.as_deref(), instant, end).is_empty()
        };
        service.policies.iter().filter(is_open).map(|policy| policy.id.index).collect()
    }

    #[test]
    fn the_opening_in_force_is_prolonged_for_the_policies_that_it_opens() {
        let (mut world, name) = world(service(""), at("16:00"));
        let outcome = extend(&mut world, &name, "19:30").unwrap();
        assert_eq!(outcome.happenings, [], "it is open as before");
        assert_eq!(world.current_opening(&name).unwrap().closes_at(), at("19:30"));
        assert_eq!(world.next_transition().unwrap().0, at("19:30"));
        assert_eq!(open_policies(&world, at("19:29")), [0, 2]);
        assert_eq!(open_policies(&world, at("19:30")), [0; 0]);
        assert!(world.tick(at("17:30")).happenings.is_empty());
        assert_eq!(world.tick(at("19:30")).happenings.len(), 1);
        assert_eq!(world.state(&name), Some(ServiceState::Closed));
    }

    #[test]
    fn what_is_closed_opens_once_with_all_its_policies() {
        let (mut world, name) = world(service(""), at("20:00"));
        let outcome = extend(&mut world, &name, "21:00").unwrap();
        assert_eq!(outcome.happenings.len(), 1);
        assert_eq!(world.state(&name), Some(ServiceState::Open));
        assert_eq!(open_policies(&world, at("20:59")), [0, 1, 2]);
        assert_eq!(outcome.records[0].1.extended.as_ref().unwrap().until, at("21:00"));
        // A new daemon that remembers it comes to the same.
        let mut again = World::new(Settings::default(), at("20:10"));
        let file = Arc::new(world.file(&name).unwrap().clone());
        again.remember(Arc::clone(&file), outcome.records[0].1.clone(), false);
        again.apply(Settings::default(), Services::from_iter([(*file).clone().named()]), at("20:10"));
        assert_eq!(again.current_opening(&name), world.current_opening(&name));
        assert_eq!(again.digest(), world.digest(), "the digest is of the files");
    }

    #[test]
    fn nothing_is_opened_beyond_the_lifetime_nor_over_an_exception_nor_while_it_is_shut() {
        let except = "[[except]]\nopen = 2026-06-01T20:30:00Z\nclose = 2026-06-01T20:45:00Z\n";
        let (mut world, name) = world(service(except), at("16:00"));
        use ExtendError as E;
        let refused = |world: &mut World, until| extend(world, &name, until).unwrap_err();
        assert_eq!(refused(&mut world, "22:01"), E::Beyond(name.clone(), at("22:00")));
        assert_eq!(refused(&mut world, "16:00"), E::Passed(at("16:00")));
        assert_eq!(refused(&mut world, "16:30"), E::Needless(name.clone(), at("17:00")));
        assert_eq!(refused(&mut world, "21:00"), E::Excepted(name.clone(), at("20:30")));
        assert_eq!(world.current_opening(&name).unwrap().closes_at(), at("17:00"), "nothing changed");
        extend(&mut world, &name, "20:30").unwrap();
        let order = |kind, at| {
            let (by, reason) = ("root (uid 0)".to_owned(), "test".to_owned());
            Order { service: name.clone(), kind, at, by, reason }
        };
        world.order(&order(OrderKind::Suspend, at("16:10"))).unwrap();
        assert_eq!(refused(&mut world, "18:00"), E::Shut(name.clone(), ServiceState::Suspended));
        world.order(&order(OrderKind::Resume, at("16:20"))).unwrap();
        let closes_at = world.current_opening(&name).unwrap().closes_at();
        assert_eq!(closes_at, at("17:00"), "a suspension ends what was prolonged");
        world.order(&order(OrderKind::Decommission, at("16:30"))).unwrap();
        assert_eq!(refused(&mut world, "18:00"), E::Order(OrderError::Final(name.clone())));
    }
}
