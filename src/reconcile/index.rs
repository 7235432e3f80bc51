//! From a subject, a set of openings or a host name to the services that name it.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use crate::compile;
use crate::model::{HostName, Service, ServiceName, Subject};

/// Follows the services' texts: orders and time change nothing in it. A clone shares everything.
#[derive(Debug, Clone, Default)]
pub struct Index {
    by_subject: OrdMap<Arc<Subject>, Named>,
    by_opening_set: OrdMap<Arc<str>, Named>,
    by_host: OrdMap<HostName, Named>,
    /// The services with a policy for any address, by the subjects of those policies.
    anywhere: OrdMap<Arc<Subject>, Named>,
}

/// Services, never none. Most subjects are named by one.
#[derive(Debug, Clone)]
enum Named {
    One(ServiceName),
    Many(OrdSet<ServiceName>),
}

impl Named {
    fn add(&mut self, name: &ServiceName) {
        match self {
            Self::One(only) if only == name => {}
            Self::One(only) => *self = Self::Many([only.clone(), name.clone()].into_iter().collect()),
            Self::Many(names) => drop(names.insert(name.clone())),
        }
    }

    /// False when none is left.
    fn remove(&mut self, name: &ServiceName) -> bool {
        match self {
            Self::One(only) => only != name,
            Self::Many(names) => {
                names.remove(name);
                !names.is_empty()
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = &ServiceName> {
        let (one, many) = match self {
            Self::One(only) => (Some(only), None),
            Self::Many(names) => (None, Some(names)),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

impl Index {
    pub fn add(&mut self, service: &Service) {
        for policy in &service.policies {
            let subject = || Arc::new(policy.subject.clone());
            add(&mut self.by_subject, &policy.subject, subject, &service.name);
            if policy.is_any() {
                add(&mut self.anywhere, &policy.subject, subject, &service.name);
            }
        }
        for set in compile::opening_sets(service) {
            add(&mut self.by_opening_set, set.as_str(), || set.as_str().into(), &service.name);
        }
        for host in service.names() {
            add(&mut self.by_host, host, || host.clone(), &service.name);
        }
    }

    pub fn remove(&mut self, service: &Service) {
        for policy in &service.policies {
            remove(&mut self.by_subject, &policy.subject, &service.name);
            remove(&mut self.anywhere, &policy.subject, &service.name);
        }
        for set in compile::opening_sets(service) {
            remove(&mut self.by_opening_set, set.as_str(), &service.name);
        }
        for host in service.names() {
            remove(&mut self.by_host, host, &service.name);
        }
    }

    pub fn subjects(&self) -> impl Iterator<Item = &Subject> {
        self.by_subject.keys().map(|subject| &**subject)
    }

    /// The subject as it is kept here, if a policy names it.
    pub fn shared(&self, subject: &Subject) -> Option<Arc<Subject>> {
        self.by_subject.get_key_value(subject).map(|(subject, _)| Arc::clone(subject))
    }

    pub fn names(&self, subject: &Subject) -> bool {
        self.by_subject.contains_key(subject)
    }

    /// The services with a policy about the subject.
    pub fn with_subject(&self, subject: &Subject) -> impl Iterator<Item = &ServiceName> {
        self.by_subject.get(subject).into_iter().flat_map(Named::iter)
    }

    /// True when a policy for any address is about the subject.
    pub fn is_anywhere(&self, subject: &Subject) -> bool {
        self.anywhere.contains_key(subject)
    }

    /// The services with a policy for any address.
    pub fn anywhere(&self) -> BTreeSet<&ServiceName> {
        self.anywhere.values().flat_map(Named::iter).collect()
    }

    pub fn hosts(&self) -> impl Iterator<Item = &HostName> {
        self.by_host.keys()
    }

    /// The services with a policy about the name.
    pub fn with_host(&self, host: &HostName) -> impl Iterator<Item = &ServiceName> {
        self.by_host.get(host).into_iter().flat_map(Named::iter)
    }

    /// The services that ask for the set.
    pub fn with_opening_set(&self, set: &str) -> impl Iterator<Item = &ServiceName> {
        self.by_opening_set.get(set).into_iter().flat_map(Named::iter)
    }
}

fn add<K, Q>(map: &mut OrdMap<K, Named>, key: &Q, new: impl FnOnce() -> K, name: &ServiceName)
where
    K: Ord + Clone + Borrow<Q>,
    Q: Ord + ?Sized,
{
    match map.get_mut(key) {
        Some(named) => named.add(name),
        None => drop(map.insert(new(), Named::One(name.clone()))),
    }
}

fn remove<K, Q>(map: &mut OrdMap<K, Named>, key: &Q, name: &ServiceName)
where
    K: Ord + Clone + Borrow<Q>,
    Q: Ord + ?Sized,
{
    if map.get_mut(key).is_some_and(|named| !named.remove(name)) {
        map.remove(key);
    }
}
