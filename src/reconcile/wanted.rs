//! The table that a world wants: whole, or the parts of it that a change touches.

use std::collections::BTreeSet;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::World;
use crate::compile::{self, Classes, Input, Levels, Openings, Resolution, Standing, Unresolved};
use crate::model::{ServiceName, Subject};
use crate::ruleset::{Part, Ruleset};

impl World {
    /// Returns the wanted table.
    pub fn compile(&self) -> Ruleset {
        let standings = self.standings();
        compile::compile(&self.input(&standings))
    }

    /// Takes over the numbers that classes have in the table in force.
    pub fn number_classes(&mut self, in_force: &Ruleset) {
        self.classes = Arc::new(Classes::of(in_force));
    }

    /// Returns only what follows where these subjects are; `before`: the world whose table is in force.
    pub fn compile_subjects(&self, subjects: &BTreeSet<Subject>, before: &Self, in_force: &Ruleset) -> Part {
        let mut part = Part::new(&self.settings.enforcement.table);
        let judges = |subject| self.enclosures.names(subject) || self.index.is_anywhere(subject);
        if subjects.iter().any(judges) {
            self.compile_enclosures(in_force, &mut part);
        }
        self.compile_learning(subjects, before, &mut part);
        for subject in subjects {
            let standings = self.standings_of(self.index.with_subject(subject));
            compile::subject_part(&self.input(&standings), &before.whereabouts(subject), in_force, &mut part);
        }
        compile::finish_subjects(&self.input(&[]), in_force, &mut part);
        part
    }

    /// Returns only what follows the state of these services. Right as long as the same services govern as in the
    /// table in force; `ties`: the groups of services that own addresses together with any of them.
    pub fn compile_services<'a>(
        &self,
        names: &BTreeSet<ServiceName>,
        ties: impl IntoIterator<Item = &'a [ServiceName]>,
        in_force: &Ruleset,
    ) -> Part {
        let standings = self.standings_of(names);
        let ties: Vec<_> = ties.into_iter().map(|group| self.standings_of(group)).collect();
        let askers = |set: &str, is: &dyn Fn(&Standing<'_>) -> bool| self.any_asks_for(set, is);
        let mut part = compile::service_part(&self.input(&standings), &ties, &askers, in_force);
        if self.index.anywhere().into_iter().any(|name| names.contains(name)) {
            self.compile_enclosures(in_force, &mut part);
        }
        part
    }

    /// Returns what takes out what parts leave in a table and the whole does not have: classes in which no service is any more.
    /// Nothing depends on it; tables that are compared do.
    pub fn compile_tidied(&self, in_force: &Ruleset) -> Part {
        let askers = |set: &str, is: &dyn Fn(&Standing<'_>) -> bool| self.any_asks_for(set, is);
        compile::tidy_part(&self.input(&[]), &askers, in_force)
    }

    /// True when some service may open by a set of openings.
    pub(super) fn may_open_by(&self, set: &str) -> bool {
        self.any_asks_for(set, &|standing| standing.may_open(self.latest))
    }

    /// True when this is true of some service that asks for a set of openings.
    pub(super) fn any_asks_for(&self, set: &str, is: &dyn Fn(&Standing<'_>) -> bool) -> bool {
        let mut askers = self.index.with_opening_set(set).filter_map(|name| self.standing(name));
        askers.any(|standing| is(&standing))
    }

    pub(super) fn compile_enclosures(&self, in_force: &Ruleset, part: &mut Part) {
        let standings = self.standings_of(self.index.anywhere());
        compile::enclosures(&self.input(&standings), in_force, part);
    }

    /// Returns the table that follows from files and orders alone: the same on every host and at every restart.
    pub fn compile_lasting(&self) -> Ruleset {
        let all = self.services.values().map(|known| Standing { service: &known.file, ..self.stand(known) });
        let standings: Vec<_> = all.filter(|standing| standing.governs(self.latest)).collect();
        let resolution = Resolution::new();
        let input = self.input(&standings);
        compile::compile(&Input {
            segments: self.enclosures.files(),
            resolution: &resolution,
            left: &Levels::new(),
            resolvers: &[],
            openings: Openings::Never,
            classes: &Classes::default(),
            cut_at: None,
            ..input
        })
    }

    /// The SHA-256, in hexadecimal, over the printed table that follows from files and orders alone.
    pub fn digest(&self) -> String {
        let printed = self.compile_lasting().print_lasting().to_string();
        Sha256::digest(printed.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(super) fn input<'a>(&'a self, services: &'a [Standing<'a>]) -> Input<'a> {
        Input {
            settings: &self.settings,
            services,
            segments: self.enclosures.segments(),
            resolvers: self.enclosures.resolvers(),
            resolution: &self.resolution,
            left: &self.left,
            now: self.latest,
            openings: self.openings,
            classes: &self.classes,
            unresolved: Unresolved::Silent,
            cut_at: self.cut_at,
        }
    }

    pub(super) fn standings_of<'a>(
        &self,
        names: impl IntoIterator<Item = &'a ServiceName>,
    ) -> Vec<Standing<'_>> {
        let known = names.into_iter().filter_map(|name| self.standing(name));
        known.filter(|standing| standing.governs(self.latest)).collect()
    }
}
