//! The loop: waits for whatever comes first and hands it on.

use std::time::Duration;

use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use super::engine::Engine;
use super::manager::{self, Watchdog};
use super::names::Heard;
use super::rhythm::Rhythm;
use super::settle::Settling;
use super::start::{self, StartError};
use super::upkeep::Upkeep;
use super::{Options as Arguments, answer, metrics as measured, record};
use crate::api::ask::{Ask, Asked};
use crate::api::server;
use crate::files::SettingsFile;
use crate::kernel::beat::Beat;
use crate::kernel::clock::{self, ClockWatch, Tick};
use crate::kernel::nflog::{Options, Reader};
use crate::kernel::wait::Waiting;
use crate::metrics::{self, Scraper};
use crate::model::Time;
use crate::store::LedgerKind;

/// Requests that may wait for the loop.
const WAITING: usize = 64;

/// How often everything is looked at that something else should have told of; what is due at about that time is done then, too: a
/// daemon at rest wakes once for all of it.
const MINUTE: Duration = Duration::from_secs(60);

/// How often a broken store is tried again.
const HEAL: Duration = Duration::from_secs(2);

/// How often we look whether the table is there where others can write to it.
const LOOK: Duration = Duration::from_secs(2);
/// How often answers of name servers are read in one turn, each time sixteen of them.
const BATCHES: usize = 32;

/// How soon names lose what they had for long enough, and what they have is written down.
const AGEING: Duration = Duration::from_secs(2);

/// The inputs of the loop that have a file descriptor.
struct Inputs {
    clock: Waiting<ClockWatch>,
    minute: Waiting<Beat>,
    log: Option<Waiting<Reader>>,
    /// Whether records can be read.
    log_tells: bool,
    answers: Option<Waiting<Reader>>,
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

/// Starts and runs until SIGTERM or SIGINT. The table stays in force.
pub async fn run(options: &Arguments) -> Result<(), StartError> {
    let files = start::files(options)?;
    let (line, asked) = mpsc::channel(WAITING);
    let (measures, measuring) = mpsc::channel(WAITING);
    let scraper = Scraper::new(measures);
    // The sockets come first: a second daemon stops here, before it touches the table.
    let (stop_serving, stopped) = oneshot::channel::<()>();
    let server = server::serve(&files.loaded.settings, line, scraper.clone(), async {
        // Also when the sender is dropped.
        let _ = stopped.await;
    })
    .await
    .map_err(|error| StartError::Api(error.to_string()))?;
    let mut engine = start::start(files).await?;
    let mut inputs = inputs(&mut engine)?;
    engine.watched.listen(engine.world.settings().metrics.listen, scraper).await;
    tracing::info!(services = engine.world.standings().len(), "in force");
    manager::ready();
    let settings = start::settings_file(options);
    turn(&mut engine, &mut inputs, asked, measuring, &settings).await;
    manager::stopping();
    drop(stop_serving);
    server.ended().await;
    stop(&mut engine).await;
    Ok(())
}

fn inputs(engine: &mut Engine) -> Result<Inputs, StartError> {
    let failed = |what| move |source| StartError::Io { what, source };
    let clock = ClockWatch::new().and_then(Waiting::new).map_err(failed("watch the wall clock"))?;
    let minute = Beat::every(MINUTE).and_then(Waiting::new).map_err(failed("wait for a minute"))?;
    let log: Option<Waiting<Reader>> = match Reader::open(engine.world.settings().attempts.log_group) {
        Ok(reader) => Some(Waiting::new(reader).map_err(failed("wait for log records"))?),
        Err(error) => {
            tracing::error!(%error, "attempts are counted without details");
            engine.weaker.push(format!("attempts are counted without details: {error}"));
            None
        }
    };
    let group = engine.world.settings().attempts.answers_group();
    let answers = match Reader::open_with(group, Options::prompt()) {
        Ok(reader) => Some(Waiting::new(reader).map_err(failed("wait for answers of name servers"))?),
        Err(error) => {
            tracing::error!(%error, "names are resolved, but what processes are answered is not learned");
            engine
                .weaker
                .push(format!("names are resolved, but what processes are answered is not learned: {error}"));
            None
        }
    };
    let signal = |kind| signal(kind).map_err(failed("wait for signals"));
    Ok(Inputs {
        clock,
        minute,
        log_tells: log.is_some(),
        log,
        answers,
        hangup: signal(SignalKind::hangup())?,
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
    })
}

/// What woke the loop.
enum Woken {
    Clock,
    /// Others changed rules.
    Rules,
    /// An opening ended by elapsed time.
    Elapsed(Time),
    Subjects,
    Hosts(Heard),
    Ageing,
    /// Processes were answered by name servers.
    Answers,
    Log,
    Asked(Asked),
    Measured(metrics::facts::Ask),
    /// Somebody waits for a cgroup.
    Settling,
    /// It may be time to fall back.
    Unconfirmed,
    Hangup,
    Stop,
    Counts,
    /// Attempts are on record, or cannot be put there.
    Written,
    Minute,
    Heal,
    Look,
    Seal,
    /// Time for a sign of life.
    Watched,
}

impl Woken {
    /// What names have, and who asks for them, may be different afterwards. Also after a change of files or of the time.
    fn may_touch_names(&self) -> bool {
        match self {
            Self::Clock
            | Self::Elapsed(_)
            | Self::Hosts(Heard::Names(_))
            | Self::Answers
            | Self::Asked(_)
            | Self::Unconfirmed
            | Self::Hangup
            | Self::Heal => true,
            Self::Rules
            | Self::Subjects
            | Self::Ageing
            | Self::Log
            | Self::Measured(_)
            | Self::Settling
            | Self::Stop
            | Self::Counts
            | Self::Written
            | Self::Minute
            | Self::Hosts(Heard::Resolvers)
            | Self::Look
            | Self::Seal
            | Self::Watched => false,
        }
    }
}

async fn turn(
    engine: &mut Engine,
    inputs: &mut Inputs,
    mut asked: mpsc::Receiver<Asked>,
    mut measuring: mpsc::Receiver<metrics::facts::Ask>,
    settings: &SettingsFile,
) {
    let mut rhythm = Rhythm::new(Instant::now().into());
    let mut settling = Settling::default();
    let mut watchdog = Watchdog::start();
    let mut seal_at = Instant::now();
    let mut upkeep = Upkeep::default();
    let mut heal = interval_at(Instant::now() + HEAL, HEAL);
    heal.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut look = interval_at(Instant::now() + LOOK, LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let shared = !engine.table.protects();
    // `None`: nothing is due within a minute.
    let mut ageing_at = Some(Instant::now() + AGEING);
    loop {
        watchdog.turned();
        engine.heal_table().await;
        engine.confirm_subjects();
        arm(engine, inputs).await;
        settling.answer(engine);
        engine.fall_back_when_due().await;
        let confirmation_due = engine.confirmation_due();
        let elapsed = engine.elapsed_deadline();
        if let Some(due) = engine.closing_due() {
            rhythm.by(due);
        }
        if engine.wants_counts() {
            rhythm.wanted(Instant::now().into());
        }
        let woken = tokio::select! {
            biased;
            _ = inputs.terminate.recv() => Woken::Stop,
            _ = inputs.interrupt.recv() => Woken::Stop,
            _ = inputs.clock.readable() => Woken::Clock,
            () = engine.drift.changed() => Woken::Rules,
            () = logged(&mut inputs.answers) => Woken::Answers,
            () = engine.subjects.changed() => Woken::Subjects,
            heard = engine.hosts.next() => Woken::Hosts(heard),
            at = reached(elapsed) => Woken::Elapsed(at),
            _ = inputs.hangup.recv() => Woken::Hangup,
            Some(asked) = asked.recv() => Woken::Asked(asked),
            Some(ask) = measuring.recv() => Woken::Measured(ask),
            () = passed(confirmation_due) => Woken::Unconfirmed,
            () = settling.due() => Woken::Settling,
            () = engine.attempts.ended() => Woken::Written,
            () = at(rhythm.due().map(Instant::from)) => Woken::Counts,
            () = logged(&mut inputs.log) => Woken::Log,
            () = at(ageing_at) => Woken::Ageing,
            _ = heal.tick(), if engine.store_error.is_some() => Woken::Heal,
            _ = look.tick(), if shared => Woken::Look,
            _ = inputs.minute.readable() => Woken::Minute,
            () = sleep_until(seal_at), if engine.store_error.is_none() => Woken::Seal,
            () = watchdog.due() => Woken::Watched,
        };
        engine.drift.awake();
        if woken.may_touch_names() {
            let soon = Instant::now() + AGEING;
            ageing_at = Some(ageing_at.map_or(soon, |at| at.min(soon)));
        }
        match woken {
            Woken::Stop => return,
            Woken::Watched => {}
            // At the top of the loop, whatever woke it.
            Woken::Rules => {}
            Woken::Clock => on_clock(engine, inputs).await,
            Woken::Elapsed(at) => tick(engine, at, false).await,
            Woken::Subjects => on_subjects(engine),
            Woken::Hosts(Heard::Names(news)) => engine.on_names(&news).await,
            Woken::Hosts(Heard::Resolvers) => on_resolvers(engine),
            Woken::Answers => on_answers(engine, inputs).await,
            Woken::Ageing => ageing_at = on_ageing(engine, inputs).await,
            Woken::Hangup => reload(engine, settings).await,
            Woken::Asked(Asked { ask: Ask::Settle(place), reply }) => {
                settling.add(place, reply);
                look_at_subjects(engine);
            }
            Woken::Asked(asked) => {
                rhythm.wanted(Instant::now().into());
                answer::reply(engine, asked, settings).await;
            }
            Woken::Measured(ask) => {
                rhythm.wanted(Instant::now().into());
                measured::tell(engine, ask);
            }
            // Looked at above, whatever woke the loop.
            Woken::Unconfirmed => {}
            Woken::Settling => look_at_subjects(engine),
            Woken::Log => {
                on_log(engine, inputs);
                if rhythm.logged(Instant::now().into()) {
                    engine.attempts.was_silent();
                }
            }
            Woken::Counts => {
                // Records explain what is put on record now.
                on_log(engine, inputs);
                let (after, quiet) = engine.count().await;
                rhythm.looked(Instant::now().into(), after, quiet, inputs.log_tells);
            }
            Woken::Written => {
                let after = engine.attempts_written();
                rhythm.by((Instant::now() + after).into());
            }
            Woken::Heal => engine.heal().await,
            Woken::Minute => {
                inputs.minute.get_mut().went_off();
                rhythm.wanted(Instant::now().into());
                on_resolvers(engine);
                engine.hosts.look();
                engine.look_for_drift();
                ageing_at = on_ageing(engine, inputs).await;
                upkeep.minute(engine).await;
            }
            Woken::Look => engine.look_for_drift(),
            Woken::Seal => seal_at = Instant::now() + engine.seal().await,
        }
    }
}

async fn logged(log: &mut Option<Waiting<Reader>>) {
    match log {
        Some(reader) => {
            // An error shows again when the reader is read.
            let _ = reader.readable().await;
        }
        None => std::future::pending().await,
    }
}

/// Never without an instant.
async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

async fn passed(left: Option<Duration>) {
    match left {
        Some(left) => tokio::time::sleep(left).await,
        None => std::future::pending().await,
    }
}

async fn reached(deadline: Option<(std::time::Instant, Time)>) -> Time {
    match deadline {
        Some((instant, at)) => {
            sleep_until(instant.into()).await;
            at
        }
        None => std::future::pending().await,
    }
}

/// Sets the alarm for the next deadline. Setting it may tell that the clock was stepped.
async fn arm(engine: &mut Engine, inputs: &mut Inputs) {
    let deadline = engine.deadline();
    match inputs.clock.get_mut().arm(deadline) {
        Ok(Some(Tick::ClockStepped)) => tick(engine, clock::now(), true).await,
        Ok(Some(Tick::Due) | None) => {}
        Err(error) => tracing::error!(%error, "cannot set the alarm for the next transition"),
    }
}

async fn on_clock(engine: &mut Engine, inputs: &mut Inputs) {
    match inputs.clock.get_mut().read() {
        Ok(Tick::Due) => tick(engine, clock::now(), false).await,
        Ok(Tick::ClockStepped) => tick(engine, clock::now(), true).await,
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
        Err(error) => tracing::error!(%error, "cannot read the clock's alarm"),
    }
}

async fn tick(engine: &mut Engine, at: Time, stepped: bool) {
    if stepped {
        tracing::warn!("the wall clock was stepped: what is open ends by the earlier of the clocks");
    }
    if let Err(error) = engine.tick(at, stepped).await {
        tracing::error!(%error, "a transition is not in the table; the kernel closes all the same");
    }
}

fn on_subjects(engine: &mut Engine) {
    let changes = engine.subjects.next_changes();
    if changes.is_empty() {
        return;
    }
    if let Err(error) = engine.resolve(changes) {
        tracing::error!(%error, "a subject's new place is not in the table: its grants stay refused, its segment does not hold it yet");
    }
}

/// Reads what has happened to subjects, also what failed before.
pub(super) fn look_at_subjects(engine: &mut Engine) {
    on_subjects(engine);
    if let Err(error) = engine.catch_up() {
        tracing::error!(%error, "a subject's new place is not in the table: its grants stay refused, its segment does not hold it yet");
    }
}

/// SIGHUP: the same as `apply`.
async fn reload(engine: &mut Engine, settings: &SettingsFile) {
    let answer = answer::apply(engine, settings, "SIGHUP", None).await;
    tracing::info!(outcome = ?answer.outcome, body = %answer.body, "reloaded");
}

fn on_log(engine: &mut Engine, inputs: &mut Inputs) {
    let Some(reader) = inputs.log.as_mut().map(Waiting::get_mut) else { return };
    let mut records = Vec::new();
    inputs.log_tells = true;
    loop {
        match reader.read_batch(&mut records) {
            Ok(batch) => {
                engine.attempts.overrun += batch.lost;
                engine.attempts.log(&records, &mut engine.table);
                records.clear();
                if batch.drained {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(%error, "cannot read log records");
                inputs.log_tells = false;
                return;
            }
        }
    }
}

async fn on_answers(engine: &mut Engine, inputs: &mut Inputs) {
    let Some(reader) = inputs.answers.as_mut().map(Waiting::get_mut) else { return };
    let mut records = Vec::new();
    // Bounded: the loop has to look at the time as well. What is left is read with the next ageing.
    for _ in 0..BATCHES {
        match reader.read_batch(&mut records) {
            Ok(batch) if batch.drained => break,
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, "cannot read what processes were answered");
                break;
            }
        }
    }
    engine.on_answers(&records).await;
}

/// Returns when to come again, if that is before the next minute.
async fn on_ageing(engine: &mut Engine, inputs: &mut Inputs) -> Option<Instant> {
    on_answers(engine, inputs).await;
    engine.on_ageing().await;
    let left = match engine.unwritten_hosts.is_empty() {
        true => (engine.world.ageing_due()? - engine.now()).to_std().unwrap_or_default(),
        false => Duration::ZERO,
    };
    (left < MINUTE).then(|| Instant::now() + left.max(AGEING))
}

fn on_resolvers(engine: &mut Engine) {
    if let Err(error) = engine.follow_resolvers() {
        tracing::error!(%error, "segments ask the resolvers of before");
    }
}

async fn stop(engine: &mut Engine) {
    engine.write_hosts().await;
    engine.count_to_the_end().await;
    engine.seal_all().await;
    let now = engine.world.now().max(clock::now());
    engine.keep(vec![record::note(LedgerKind::DaemonStopped, now, record::DAEMON, json!({}))]).await;
    if let Err(error) = engine.keeper.store().note_time(now, &clock::reading()).await {
        tracing::error!(%error, "the latest time is not on record");
    }
    engine.checkpoint().await;
    engine.keeper.store().close().await;
}
