//! From a subject, a set of openings or a host name to the services that name it.

use std::collections::{BTreeMap, BTreeSet};

use crate::compile;
use crate::model::{HostName, Service, ServiceName, Subject};

/// Follows the services' texts: orders and time change nothing in it.
#[derive(Debug, Clone, Default)]
pub struct Index {
    by_subject: BTreeMap<Subject, BTreeSet<ServiceName>>,
    by_opening_set: BTreeMap<String, BTreeSet<ServiceName>>,
    by_host: BTreeMap<HostName, BTreeSet<ServiceName>>,
    /// The services with a policy for any address, by the subjects of those policies.
    anywhere: BTreeMap<Subject, BTreeSet<ServiceName>>,
}

impl Index {
    pub fn add(&mut self, service: &Service) {
        for policy in &service.policies {
            self.by_subject.entry(policy.subject.clone()).or_default().insert(service.name.clone());
            if policy.is_any() {
                self.anywhere.entry(policy.subject.clone()).or_default().insert(service.name.clone());
            }
        }
        for set in compile::opening_sets(service) {
            self.by_opening_set.entry(set).or_default().insert(service.name.clone());
        }
        for host in service.names() {
            self.by_host.entry(host.clone()).or_default().insert(service.name.clone());
        }
    }

    pub fn remove(&mut self, service: &Service) {
        for policy in &service.policies {
            remove(&mut self.by_subject, &policy.subject, &service.name);
            remove(&mut self.anywhere, &policy.subject, &service.name);
        }
        for set in compile::opening_sets(service) {
            remove(&mut self.by_opening_set, &set, &service.name);
        }
        for host in service.names() {
            remove(&mut self.by_host, host, &service.name);
        }
    }

    pub fn subjects(&self) -> impl Iterator<Item = &Subject> {
        self.by_subject.keys()
    }

    pub fn names(&self, subject: &Subject) -> bool {
        self.by_subject.contains_key(subject)
    }

    /// The services with a policy about the subject.
    pub fn with_subject(&self, subject: &Subject) -> impl Iterator<Item = &ServiceName> {
        self.by_subject.get(subject).into_iter().flatten()
    }

    /// True when a policy for any address is about the subject.
    pub fn is_anywhere(&self, subject: &Subject) -> bool {
        self.anywhere.contains_key(subject)
    }

    /// The services with a policy for any address.
    pub fn anywhere(&self) -> BTreeSet<&ServiceName> {
        self.anywhere.values().flatten().collect()
    }

    pub fn hosts(&self) -> impl Iterator<Item = &HostName> {
        self.by_host.keys()
    }

    /// The services with a policy about the name.
    pub fn with_host(&self, host: &HostName) -> impl Iterator<Item = &ServiceName> {
        self.by_host.get(host).into_iter().flatten()
    }

    /// The services that ask for the set.
    pub fn with_opening_set(&self, set: &str) -> impl Iterator<Item = &ServiceName> {
        self.by_opening_set.get(set).into_iter().flatten()
    }
}

fn remove<K: Ord>(map: &mut BTreeMap<K, BTreeSet<ServiceName>>, key: &K, name: &ServiceName) {
    if let Some(names) = map.get_mut(key) {
        names.remove(name);
        if names.is_empty() {
            map.remove(key);
        }
    }
}
