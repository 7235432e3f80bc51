//! Tells a command of new sources after a decommission: one JSON line each on its standard input.
//!
//! What is to be told waits in the store, written with the row that makes it new: a daemon that is killed tells after its
//! restart. It is removed when the command has ended well, so that a command that fails, or a daemon that is killed in
//! between, hears it again: at least once. Beside the loop, one command at a time.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use super::rows;
use crate::api::body::{self, SCHEMA};
use crate::kernel::unprivileged::{Job, RunError, Runner};
use crate::model::Settings;
use crate::store::{MOST_NEWS, News, Store, StoreError};

/// Sources that one start of the command is told of.
const BATCH: usize = MOST_NEWS;
/// How long the command may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Between two starts: twelve a minute.
const PAUSE: Duration = Duration::from_secs(5);
/// Between two starts of a command that fails, at most.
const LONGEST: Duration = Duration::from_secs(600);
/// Between two errors in the journal.
const QUIET: Duration = Duration::from_secs(60);

/// The way to whoever tells.
pub struct Notifier {
    store: Arc<Store>,
    command: watch::Sender<Vec<String>>,
    wake: Arc<Notify>,
}

impl Notifier {
    /// Starts to tell what waits, by these settings.
    pub fn start(store: &Arc<Store>, settings: &Settings) -> Self {
        let (command, follow) = watch::channel(settings.notify.command.clone());
        let wake = Arc::new(Notify::new());
        store.set_telling(!settings.notify.command.is_empty());
        tokio::spawn(Teller::new(store.clone()).serve(follow, wake.clone()));
        Self { store: store.clone(), command, wake }
    }

    /// Goes on by other settings.
    pub fn follow(&self, settings: &Settings) {
        let new = &settings.notify.command;
        self.store.set_telling(!new.is_empty());
        self.command.send_if_modified(|command| {
            let changed = command != new;
            command.clone_from(new);
            changed
        });
    }

    /// Something may wait.
    pub fn wake(&self) {
        self.wake.notify_one();
    }
}

#[derive(Debug, thiserror::Error)]
enum TellError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("cannot write a line: {0}")]
    Line(#[from] serde_json::Error),
}

struct Teller {
    store: Arc<Store>,
    runner: Option<Runner>,
    failures: u32,
    complained: Option<Instant>,
}

impl Teller {
    fn new(store: Arc<Store>) -> Self {
        Self { store, runner: None, failures: 0, complained: None }
    }

    async fn serve(mut self, mut command: watch::Receiver<Vec<String>>, wake: Arc<Notify>) {
        loop {
            let now = command.borrow_and_update().clone();
            let pause = match self.tell(&now).await {
                Ok(told) => {
                    self.failures = 0;
                    told.then_some(PAUSE)
                }
                Err(error) => {
                    self.complain(&error);
                    self.failures = self.failures.saturating_add(1);
                    Some(PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST))
                }
            };
            let failed = self.failures > 0;
            tokio::select! {
                changed = command.changed() => if changed.is_err() { return },
                // Between two starts nothing hurries them; after a failure other settings do.
                () = sleep(pause.unwrap_or(Duration::MAX)), if pause.is_some() => {}
                () = wake.notified(), if pause.is_none() && !failed => {}
            }
        }
    }

    /// Tells what waits; false when there was nothing.
    async fn tell(&mut self, command: &[String]) -> Result<bool, TellError> {
        if command.is_empty() {
            // Who is asked to tell later does not begin with what is old.
            self.store.told(i64::MAX, u64::MAX).await?;
            return Ok(false);
        }
        let news = self.store.news(BATCH).await?;
        let input = lines(&news)?;
        if !input.is_empty() {
            let job = Job { command: command.to_vec(), input, limit: LIMIT };
            self.runner()?.run(job).await?;
        }
        if news == News::default() {
            return Ok(false);
        }
        self.store.told(news.last, news.skipped).await?;
        Ok(true)
    }

    fn runner(&mut self) -> Result<&Runner, RunError> {
        let runner = match self.runner.take() {
            Some(runner) => runner,
            None => Runner::start()?,
        };
        Ok(self.runner.insert(runner))
    }

    fn complain(&mut self, error: &TellError) {
        if self.complained.is_none_or(|at| at.elapsed() >= QUIET) {
            self.complained = Some(Instant::now());
            tracing::error!(%error, "nobody was told of new sources after a decommission: they wait");
        }
    }
}

#[derive(Serialize)]
struct NewSource {
    schema: u32,
    event: &'static str,
    #[serde(flatten)]
    attempt: body::Attempt,
}

#[derive(Serialize)]
struct Skipped {
    schema: u32,
    event: &'static str,
    count: u64,
}

fn lines(news: &News) -> Result<Vec<u8>, serde_json::Error> {
    let mut lines = Vec::new();
    for row in &news.attempts {
        let attempt = rows::attempt(row.clone());
        serde_json::to_writer(&mut lines, &NewSource { schema: SCHEMA, event: "new_source", attempt })?;
        lines.push(b'\n');
    }
    if news.skipped > 0 {
        let skipped = Skipped { schema: SCHEMA, event: "skipped", count: news.skipped };
        serde_json::to_writer(&mut lines, &skipped)?;
        lines.push(b'\n');
    }
    Ok(lines)
}
