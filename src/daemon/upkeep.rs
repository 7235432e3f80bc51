//! What is done every few minutes, whatever happens.

use super::engine::Engine;
use super::retention::Retention;
use super::run::look_at_subjects;
use crate::kernel::{clock, give_back_memory};

/// After so many minutes the latest time is remembered, and after so many old attempts go. Each decision remembers the time as
/// well, and during a boot elapsed time tells how late it is: this is for what is open when the power fails and the clock
/// comes back behind.
const NOTE: u64 = 5;
const RETAIN: u64 = 60;

/// What is done now and then.
#[derive(Default)]
pub struct Upkeep {
    retention: Retention,
    minutes: u64,
}

impl Upkeep {
    /// To be called once a minute.
    pub async fn minute(&mut self, engine: &mut Engine) {
        look_at_subjects(engine);
        let works = engine.store_error.is_none() && !engine.attempts.is_writing();
        if std::mem::take(&mut engine.untidy) {
            // Nothing but memory is lost with it.
            if works && let Err(error) = engine.keeper.store().forget_pages().await {
                tracing::debug!(%error, "the store keeps its pages in memory");
            }
            give_back_memory();
        }
        if !works {
            return;
        }
        self.minutes += 1;
        let now = engine.now();
        if self.minutes.is_multiple_of(NOTE)
            && let Err(error) = engine.keeper.store().note_time(now, &clock::reading()).await
        {
            engine.store_broke(error.to_string());
            return;
        }
        if self.minutes % RETAIN == 1 {
            let retain = engine.world.settings().attempts.retain;
            self.retention.begin(engine.keeper.store(), now - retain);
        }
    }
}
