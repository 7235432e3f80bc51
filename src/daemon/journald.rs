//! The journal: new sources of attempts and entries of the ledger, with structured fields where journald reads our
//! standard error, else as text.
//!
//! These have a `MESSAGE_ID` each, so that `journalctl MESSAGE_ID=...` finds them; docs/attribution.md has the list of fields.
//! All else stays text there too: journalctl shows people no fields, and what went wrong stands in one.

use std::time::{Duration, Instant};

use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt};

use crate::store::{LedgerFilter, LedgerRow, NewSource, Store};

/// Made by `systemd-id128 new`; never changed.
pub const NEW_SOURCE: &str = "1cf2bacd93344ff5925fa450cf372d0c";
pub const MORE_SOURCES: &str = "4c149556f9774b6dac9b1980c5cfe923";
pub const LEDGER_ENTRY: &str = "a1d401ecc8264351b339831c9c08c351";

/// The target of what is told with fields.
const TOLD: &str = "picoseg::told";

/// New sources that are told a minute; the rest is counted in one line.
const MOST: u32 = 200;
const MINUTE: Duration = Duration::from_secs(60);
/// Entries that are told at once; the rest follows with the next.
const MOST_ENTRIES: u32 = 1_000;

/// Lets events go to standard error as text, and those with fields to journald where it reads there.
pub fn subscribe() {
    let filter = EnvFilter::try_from_env("PICOSEG_LOG").unwrap_or_else(|_| "info".into());
    let stream = std::env::var("JOURNAL_STREAM").ok();
    let journal = is_ours(stream.as_deref()).then(tracing_journald::layer).and_then(Result::ok);
    // Our fields are documented by their plain names.
    let journal = journal.map(|journal| journal.with_field_prefix(None));
    let split = journal.is_some();
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let text = fmt::layer().with_writer(std::io::stderr).with_ansi(terminal);
    tracing_subscriber::registry()
        .with(filter)
        .with(text.with_filter(filter_fn(move |event| !split || event.target() != TOLD)))
        .with(journal.with_filter(filter_fn(|event| event.target() == TOLD)))
        .init();
}

/// Whether the device and inode that systemd named (systemd.exec(5)) are those of our standard error: a child whose
/// output was redirected inherits the variable too.
fn is_ours(stream: Option<&str>) -> bool {
    let Some((device, inode)) = stream.and_then(|stream| stream.split_once(':')) else { return false };
    let Ok(stat) = rustix::fs::fstat(std::io::stderr()) else { return false };
    device.parse() == Ok(stat.st_dev) && inode.parse() == Ok(stat.st_ino)
}

/// Tells new sources, a bounded number a minute.
#[derive(Debug, Default)]
pub struct Sources {
    since: Option<Instant>,
    told: u32,
    untold: u64,
}

impl Sources {
    pub fn tell(&mut self, new: &[NewSource]) {
        if self.since.is_none_or(|since| since.elapsed() >= MINUTE) {
            self.rest();
            *self = Self { since: Some(Instant::now()), ..Self::default() };
        }
        for source in new {
            match self.told < MOST {
                true => {
                    self.told += 1;
                    new_source(source);
                }
                false => self.untold += 1,
            }
        }
    }

    fn rest(&self) {
        if self.untold > 0 {
            tracing::warn!(target: TOLD, message_id = MORE_SOURCES, count = self.untold, "further new sources of attempts");
        }
    }
}

fn new_source((key, change): &NewSource) {
    let text = |text: &dyn ToString| text.to_string();
    tracing::info!(
        target: TOLD,
        message_id = NEW_SOURCE,
        service = key.service.as_ref().map(|name| text(name)),
        provider = key.provider,
        policy = key.policy,
        direction = key.direction.as_str(),
        reason = key.reason.as_str(),
        verdict = key.verdict.as_str(),
        protocol = key.protocol,
        remote = text(&key.remote),
        remote_port = key.remote_port,
        local = key.local.as_ref().map(|local| text(local)),
        local_port = key.local_port,
        subject = key.subject,
        uid = key.uid,
        pid = change.process.pid,
        exe = change.process.exe,
        count = change.count,
        "new source of attempts"
    );
}

/// Tells entries of the ledger once they are on record.
#[derive(Debug, Default)]
pub struct Entries {
    last: Option<u64>,
}

impl Entries {
    /// Tells what came after the last that was told; at first these.
    pub async fn tell(&mut self, store: &Store, recorded: &[u64]) {
        let Some(after) = self.last.or_else(|| Some(recorded.iter().min()?.saturating_sub(1))) else {
            return;
        };
        let filter = LedgerFilter { after, limit: Some(MOST_ENTRIES), ..LedgerFilter::default() };
        match store.entries(&filter).await {
            Ok(entries) => {
                entries.iter().for_each(entry);
                self.last = Some(entries.last().map_or(after, |entry| entry.seq));
            }
            Err(error) => tracing::warn!(%error, "entries of the ledger are told later"),
        }
    }
}

fn entry(row: &LedgerRow) {
    tracing::info!(
        target: TOLD,
        message_id = LEDGER_ENTRY,
        seq = row.seq,
        kind = row.kind,
        service = row.service,
        actor = row.actor,
        hash = row.hash,
        "entry of the ledger"
    );
}
