//! Asks the loop, at most once a second for each kind of answer, and keeps what was rendered. Who asks meanwhile gets
//! the same bytes, so any number of scrapes costs the loop as much as one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use tokio::sync::{Mutex, oneshot};

use super::facts::{Ask, Facts, Line};
use super::format::Format;
use super::{families, openmetrics, page, plain};

/// How long metrics are kept.
const METRICS_FRESH: Duration = Duration::from_secs(1);

/// How long the dashboard is kept: it asks the store for more.
const PAGE_FRESH: Duration = Duration::from_secs(5);

/// How long the daemon may take: less than the ten seconds that Prometheus waits.
const PATIENCE: Duration = Duration::from_secs(8);

/// What is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Metrics(Format),
    Page,
}

/// Why nothing can be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    #[error("the daemon is stopping")]
    Stopping,
    #[error("the daemon is busy and did not answer in time")]
    Busy,
    #[error("what the daemon said cannot be written")]
    Unwritable,
}

/// The one way to metrics and dashboard. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Scraper {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    line: Line,
    openmetrics: Slot,
    plain: Slot,
    page: Slot,
}

/// Held while it is filled: those who come meanwhile wait for the same answer.
type Slot = Mutex<Option<(Instant, Bytes)>>;

impl Scraper {
    pub fn new(line: Line) -> Self {
        let [openmetrics, plain, page] = [const { Mutex::const_new(None) }; 3];
        Self { shared: Arc::new(Shared { line, openmetrics, plain, page }) }
    }

    /// Returns the text.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn get(&self, what: What) -> Result<Bytes, Unanswered> {
        self.within(PATIENCE, what).await
    }

    async fn within(&self, patience: Duration, what: What) -> Result<Bytes, Unanswered> {
        let answered = tokio::time::timeout(patience, self.get_slowly(what)).await;
        answered.unwrap_or(Err(Unanswered::Busy))
    }

    async fn get_slowly(&self, what: What) -> Result<Bytes, Unanswered> {
        let (slot, fresh) = match what {
            What::Metrics(Format::OpenMetrics) => (&self.shared.openmetrics, METRICS_FRESH),
            What::Metrics(Format::Plain) => (&self.shared.plain, METRICS_FRESH),
            What::Page => (&self.shared.page, PAGE_FRESH),
        };
        let mut slot = slot.lock().await;
        if let Some((_, text)) = slot.as_ref().filter(|(at, _)| at.elapsed() < fresh) {
            return Ok(text.clone());
        }
        let text = self.render(what).await?;
        *slot = Some((Instant::now(), text.clone()));
        Ok(text)
    }

    async fn render(&self, what: What) -> Result<Bytes, Unanswered> {
        let facts = self.ask(what == What::Page).await?;
        // Some ten milliseconds with thousands of services.
        let written = tokio::task::spawn_blocking(move || write(what, &facts)).await;
        written.ok().flatten().map(Bytes::from).ok_or(Unanswered::Unwritable)
    }

    async fn ask(&self, late: bool) -> Result<Facts, Unanswered> {
        let (reply, facts) = oneshot::channel();
        self.shared.line.send(Ask { late, reply }).await.map_err(|_| Unanswered::Stopping)?;
        facts.await.map_err(|_| Unanswered::Stopping)
    }
}

fn write(what: What, facts: &Facts) -> Option<String> {
    match what {
        What::Metrics(Format::OpenMetrics) => openmetrics::write(families::families(facts)).ok(),
        What::Metrics(Format::Plain) => plain::write(&families::families(facts)).ok(),
        What::Page => page::write(facts).ok(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::super::sample::facts;
    use super::*;

    /// A loop that counts how often it is asked.
    fn scraper() -> (Scraper, tokio::task::JoinHandle<usize>) {
        let (line, mut asked) = mpsc::channel::<Ask>(4);
        let counting = tokio::spawn(async move {
            let mut count = 0;
            while let Some(Ask { reply, .. }) = asked.recv().await {
                count += 1;
                let _ = reply.send(facts());
            }
            count
        });
        (Scraper::new(line), counting)
    }

    #[tokio::test]
    async fn a_hundred_scrapes_at_once_ask_the_loop_once() {
        let (scraper, asked) = scraper();
        let scrapes = (0..100).map(|_| {
            let scraper = scraper.clone();
            tokio::spawn(async move { scraper.get(What::Metrics(Format::Plain)).await.unwrap() })
        });
        for scrape in scrapes.collect::<Vec<_>>() {
            assert!(scrape.await.unwrap().starts_with(b"# HELP picoseg_"));
        }
        drop(scraper);
        assert_eq!(asked.await.unwrap(), 1);
    }

    #[tokio::test]
    async fn each_format_is_kept_by_itself() {
        let (scraper, asked) = scraper();
        for _ in 0..3 {
            let open = scraper.get(What::Metrics(Format::OpenMetrics)).await.unwrap();
            assert!(open.ends_with(b"# EOF\n"));
            let plain = scraper.get(What::Metrics(Format::Plain)).await.unwrap();
            assert!(!plain.ends_with(b"# EOF\n"));
            assert!(scraper.get(What::Page).await.unwrap().starts_with(b"<!doctype html>"));
        }
        drop(scraper);
        assert_eq!(asked.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_loop_that_does_not_answer_is_not_waited_for_for_ever() {
        let (line, _asked) = mpsc::channel(4);
        assert_eq!(
            Scraper::new(line).within(Duration::from_millis(50), What::Page).await,
            Err(Unanswered::Busy)
        );
        let (line, asked) = mpsc::channel(4);
        drop(asked);
        assert_eq!(Scraper::new(line).get(What::Page).await, Err(Unanswered::Stopping));
    }
}
