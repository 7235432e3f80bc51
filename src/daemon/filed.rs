//! From files to the table that is in force: in part where a few files among thousands are others.

use std::collections::BTreeSet;

use super::digest::Digest;
use super::engine::Engine;
use crate::kernel::commit::CommitError;
use crate::model::{Service, ServiceName};
use crate::reconcile::{Outcome, World};

/// Beyond so many services one pass over everything is no slower.
const FEW: usize = 256;

impl Engine {
    /// Puts in force what files brought. True when the table is another one, beside what follows the time.
    pub(super) fn put_files_in_force(&mut self, next: World, outcome: &Outcome) -> Result<bool, CommitError> {
        let touched = &outcome.touched;
        let same = !outcome.everywhere
            && touched.len() <= FEW
            && next.segments() == self.world.segments()
            && next.resolvers() == self.world.resolvers()
            && !next.moves_others(&self.world, touched);
        if !same {
            return self.put_in_force(next, &BTreeSet::new());
        }
        let before = self.world.clone();
        self.follow_files(&before, &next, touched);
        let put = match next.compile_files(touched, &self.world, &self.owners, &self.in_force) {
            Some(part) => {
                let digest = Digest::begin(&next);
                self.put_part(next.clone(), part).map(|put| {
                    if put.lasts {
                        self.in_force_since = self.world.now();
                    }
                    self.digest = digest;
                    put.lasts
                })
            }
            None => self.put_in_force(next.clone(), &BTreeSet::new()),
        };
        if put.is_err() {
            self.follow_files(&next, &before, touched);
        }
        put
    }

    fn follow_files(&mut self, before: &World, next: &World, touched: &BTreeSet<ServiceName>) {
        for name in touched {
            self.owners.follow(governing(before, name), governing(next, name));
        }
    }
}

fn governing<'a>(world: &'a World, name: &ServiceName) -> Option<&'a Service> {
    let standing = world.standing(name).filter(|standing| standing.governs(world.now()));
    standing.map(|standing| standing.service)
}
