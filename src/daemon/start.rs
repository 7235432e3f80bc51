//! Everything that has to be there before the first transaction, and clear words for what is not.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use super::Options;
use super::attempts::Attempts;
use super::chronicle::{Listing, Side};
use super::confirmation::{self, Begun, Confirmation};
use super::drift::DEAF;
use super::engine::Engine;
use super::subjects::{Subjects, SubjectsError};
use super::{clocks, fallback, manager, recall, record, snapshot};
use crate::api::audit::{self, Source};
use crate::api::body::Teardown;
use crate::compile::Openings;
use crate::config::{Diagnostic, Loaded};
use crate::files::{self, SettingsFile};
use crate::kernel::cgroups::{CgroupError, Hierarchy};
use crate::kernel::clock;
use crate::kernel::commit::{CommitError, Table};
use crate::kernel::wait::Waiting;
use crate::model::{Reading, Record, ServiceName, Settings, Subject, Time};
use crate::plan::Inventory;
use crate::reconcile::{Outcome, World};
use crate::resolvers;
use crate::store::accepted::{self, Accepted, AcceptedError};
use crate::store::unconfirmed::Note;
use crate::store::{Fact, Keeper, LedgerKind, Opened, StoreError};

/// Why the daemon does not start. What is in force stays.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("invalid configuration, and no files that were accepted before:\n{}", list(.0))]
    Invalid(Vec<Diagnostic>),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error(transparent)]
    Cgroups(#[from] CgroupError),
    #[error(transparent)]
    Subjects(#[from] SubjectsError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Accepted(#[from] AcceptedError),
    #[error("{0}")]
    Api(String),
    #[error("cannot {what}: {source}")]
    Io { what: &'static str, source: std::io::Error },
}

impl StartError {
    /// 78 for an invalid configuration, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Invalid(_) => 78,
            Self::Commit(_)
            | Self::Cgroups(_)
            | Self::Subjects(_)
            | Self::Store(_)
            | Self::Accepted(_)
            | Self::Api(_)
            | Self::Io { .. } => 1,
        }
    }
}

fn list(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

pub fn settings_file(options: &Options) -> SettingsFile {
    options.config.clone().map_or(SettingsFile::Standard, SettingsFile::Given)
}

/// Removes the table: the one way to do it.
pub fn unload(options: &Options) -> Result<(), StartError> {
    let source = files::read_settings(&settings_file(options));
    let settings = files::settings_of(source.as_ref()).unwrap_or_default();
    let name = &settings.enforcement.table;
    match Table::unload(name)? {
        true => println!("removed table inet {name}"),
        false => println!("there is no table inet {name}"),
    }
    Ok(())
}

/// What a start runs on.
pub struct Files {
    pub loaded: Loaded,
    before: Option<Accepted>,
    /// Why these are the last accepted files and not those that are there.
    error: Option<String>,
    confirmation: Confirmation,
    /// Nobody confirmed these while no daemon ran.
    fell_back: Option<Note>,
}

impl Files {
    fn of(loaded: Loaded, before: Option<Accepted>, error: Option<String>) -> Self {
        Self { loaded, before, error, confirmation: Confirmation::Settled, fell_back: None }
    }
}

/// Reads the files, or falls back on the last accepted ones.
pub fn files(options: &Options) -> Result<Files, StartError> {
    let wanted = files::load(&settings_file(options));
    let directory = state_directory(options, &wanted);
    // A damaged snapshot is no reason not to run on files that are in order.
    let before = match accepted::read(&directory) {
        Ok(accepted) => accepted,
        Err(error) if wanted.is_ok() => {
            tracing::error!(%error, "services whose files went are forgotten");
            None
        }
        Err(error) => return Err(error.into()),
    };
    match confirmation::at_start(&directory, before.as_ref(), wanted.as_ref().ok()) {
        Some(Begun { loaded, confirmation, error, fell_back }) => {
            let error = error.or_else(|| wanted.err().map(|diagnostics| list(&diagnostics)));
            Ok(Files { loaded, before, error, confirmation, fell_back })
        }
        None => choose(wanted, before),
    }
}

/// Opens everything and puts the table in force.
pub async fn start(mut files: Files) -> Result<Engine, StartError> {
    let settings = &files.loaded.settings;
    let hierarchy = Hierarchy::find()?;
    let table = manager::open_table(&settings.enforcement.table, settings.enforcement.protect)?;
    let opened = Keeper::open(&settings.paths.state, &settings.paths.runtime, clock::now()).await;
    for problem in &opened.journal {
        tracing::error!(error = %problem, "a part of the journal cannot be read");
    }
    let broken = match &opened.store {
        Ok(Opened::Created | Opened::Existing) => None,
        Err(
            error @ (StoreError::FromTheFuture { .. }
            | StoreError::Directory { .. }
            | StoreError::Foreign { .. }),
        ) => {
            return Err(error.clone().into());
        }
        Err(error) => {
            tracing::error!(%error, "nothing opens until the store works");
            Some(error.to_string())
        }
    };
    let mut keeper = opened.keeper;
    let (records, store_error) = recall::records(&mut keeper, files.before.as_ref(), broken).await;
    let (now, stepped) = now(&keeper).await;
    let broken = store_error.is_some();
    let (world, outcome) =
        world(&mut files.loaded, files.before.as_ref(), records, &keeper, broken, now).await;
    let fell_back = files.fell_back.take();
    let mut engine = assemble(files, hierarchy, table, keeper, store_error, world).await?;
    engine.first()?;
    engine.started(&outcome, fell_back.as_ref(), stepped).await;
    Ok(engine)
}

/// What time it is at least; and, when the wall clock was stepped since a daemon last looked, what it would say.
pub(super) async fn now(keeper: &Keeper) -> (Time, Option<Time>) {
    let before = keeper.store().last_reading().await.ok().flatten();
    let now = clock::reading();
    let stepped = before.and_then(|before| clocks::stepped_between(&before, &now));
    (stepped.map_or(now.wall, |would_be| would_be.max(now.wall)), stepped)
}

async fn assemble(
    files: Files,
    hierarchy: Hierarchy,
    mut table: Table,
    keeper: Keeper,
    store_error: Option<String>,
    mut world: World,
) -> Result<Engine, StartError> {
    let subjects: Vec<Subject> = world.subjects().into_iter().cloned().collect();
    let mut subjects = Subjects::new(hierarchy.clone(), &world.settings().paths.runtime, &subjects)?;
    for (subject, places) in subjects.resolved() {
        world.resolve_at(subject, places, clock::now());
    }
    let mut weaker = weaker(&table, world.settings());
    let rules = listen(&mut table).map_err(|error| weaker.push(format!("{DEAF}: {error}")));
    let found = table.inventory()?;
    let baselines = baselines(found.is_some(), &keeper).await;
    let accepted = snapshot::merged(&files.before.unwrap_or_default(), &files.loaded, &world);
    let attempts = Attempts::new(baselines, &counts_found(found));
    let mut engine = Engine::new(
        world,
        table,
        keeper,
        subjects,
        hierarchy,
        attempts,
        accepted,
        files.error,
        store_error,
        weaker,
    );
    engine.drift.rules = rules.ok();
    engine.unread = engine.store_error.is_some();
    engine.confirmation = files.confirmation;
    engine.go_on();
    Ok(engine)
}

/// Hears of what others do to the table from now on.
fn listen(table: &mut Table) -> Result<Waiting<OwnedFd>, StartError> {
    let readable = table.listen()?;
    Waiting::new(readable).map_err(|source| StartError::Io { what: "wait for changes of nf_tables", source })
}

/// The store's counters go with the kernel's table: a new table counts from zero.
async fn baselines(is_found: bool, keeper: &Keeper) -> Vec<crate::store::Baseline> {
    let known = match is_found {
        true => keeper.store().load_baselines().await,
        false => keeper.store().clear_baselines().await.map(|()| Vec::new()),
    };
    known.unwrap_or_else(|error| {
        tracing::error!(%error, "counts begin anew");
        Vec::new()
    })
}

/// The names of the sets and counters that a former daemon left.
fn counts_found(found: Option<Inventory>) -> BTreeSet<String> {
    let found = found.unwrap_or_default();
    found.sets.into_iter().map(|(name, _)| name).chain(found.counters).collect()
}

pub(super) fn state_directory(options: &Options, wanted: &Result<Loaded, Vec<Diagnostic>>) -> PathBuf {
    match wanted {
        Ok(loaded) => loaded.settings.paths.state.clone(),
        Err(_) => {
            let source = files::read_settings(&settings_file(options));
            files::settings_of(source.as_ref()).unwrap_or_default().paths.state
        }
    }
}

/// The files that are there, else the last accepted ones.
fn choose(wanted: Result<Loaded, Vec<Diagnostic>>, before: Option<Accepted>) -> Result<Files, StartError> {
    let diagnostics = match wanted {
        Ok(loaded) => return Ok(Files::of(loaded, before, None)),
        Err(diagnostics) => diagnostics,
    };
    let Some(loaded) = before.as_ref().and_then(fallback::reload) else {
        return Err(StartError::Invalid(diagnostics));
    };
    let error = format!("running on the last accepted files: {}", list(&diagnostics));
    tracing::error!(%error, "invalid configuration");
    Ok(Files::of(loaded, before, Some(error)))
}

/// What the former daemon knew, then the files of now on top. Takes the services out of these.
pub(super) async fn world(
    loaded: &mut Loaded,
    before: Option<&Accepted>,
    records: BTreeMap<ServiceName, Record>,
    keeper: &Keeper,
    broken: bool,
    now: Time,
) -> (World, Outcome) {
    let latest = latest_seen(keeper, now).await;
    let mut world = World::new(loaded.settings.clone(), latest);
    for (host, name) in keeper.store().load_names().await.unwrap_or_else(|error| {
        tracing::error!(%error, "what names stood for is forgotten: they are refused until they resolve");
        BTreeMap::new()
    }) {
        world.remember_host(host, name);
    }
    for (name, old) in before.map(|accepted| &accepted.services).into_iter().flatten() {
        let record = remembered(&records, name, old.departed.as_ref());
        if let Some(service) = fallback::service(name, old, &loaded.settings) {
            world.remember(Arc::new(service), record, old.departed.is_some());
        }
    }
    // A record without an accepted file still binds the file that comes back.
    for (name, record) in records {
        if let (None, Some(service)) = (world.standing(&name), loaded.services.get(&name)) {
            world.remember(Arc::clone(service), record, false);
        }
    }
    if broken {
        world.set_openings(Openings::Never);
    }
    let outcome = world.apply(loaded.settings.clone(), std::mem::take(&mut loaded.services), now);
    world.enclose(loaded.segments.clone());
    world.set_resolvers(resolvers::read());
    (world, outcome)
}

fn remembered(
    records: &BTreeMap<ServiceName, Record>,
    name: &ServiceName,
    departed: Option<&accepted::Departed>,
) -> Record {
    let mut record = records.get(name).cloned().unwrap_or_default();
    if let Some(departed) = departed {
        record.decommission(crate::model::Decommissioned {
            at: departed.at,
            covers: departed.covers,
            cause: departed.cause,
            by: None,
            reason: None,
        });
    }
    record
}

/// The latest time that is remembered. At the first start there is none: then it is a moment ago.
async fn latest_seen(keeper: &Keeper, now: Time) -> Time {
    keeper.store().latest_seen().await.ok().flatten().unwrap_or(now)
}

fn weaker(table: &Table, settings: &Settings) -> Vec<String> {
    let mut weaker = Vec::new();
    if settings.enforcement.protect && !table.features().persist {
        weaker.push(
            "this kernel has no table flag `persist` (6.9 and later have it): other programs can change or flush \
             our table"
                .to_owned(),
        );
    }
    // Kernels without `persist` also look into a changed set of ranges late (measured on 6.1; not on 6.12).
    if !table.features().persist {
        weaker.push(
            "this kernel refuses packets for a moment when an apply gives a prefix or a range of ports to another \
             policy"
                .to_owned(),
        );
    }
    if !settings.enforcement.protect {
        weaker.push("enforcement.protect is off: other programs can change or flush our table".to_owned());
    }
    weaker
}

impl Engine {
    /// Tears down what ended while no daemon ran, and records the start.
    async fn started(&mut self, outcome: &Outcome, fell_back: Option<&Note>, stepped: Option<Time>) {
        let namespaces = self.subjects.namespaces();
        let proofs = super::teardown::sweep(&self.world, &self.owners, &self.hierarchy, &namespaces).await;
        super::isolation::sweep(&self.world, &self.hierarchy).await;
        self.watch_decommissions(outcome);
        let head = json!({ "version": env!("CARGO_PKG_VERSION"), "config_error": self.config_error });
        let now = self.world.now();
        let listing = self.unlike_the_ledger(&record::facts(outcome, now)).await;
        let mut entries = self.applied(listing, LedgerKind::DaemonStarted, record::DAEMON, head).await;
        if let Some(note) = fell_back {
            let (nothing, cause) = (Listing::default(), confirmation::cause(note));
            entries.extend(self.applied(nothing, LedgerKind::ConfigApplied, record::DAEMON, cause).await);
        }
        let mut facts = record::facts_of_files(outcome, now, entries);
        let closing = outcome.closing();
        for service in closing.iter().copied().chain(proofs.keys().filter(|s| !closing.contains(s))) {
            let proof = proofs.get(service).cloned().unwrap_or_default();
            let proof = Teardown { completed_at: Some(clock::now()), ..proof };
            facts.push(record::teardown(service, &proof, self.world.now()));
        }
        if let Some(would_be) = stepped {
            facts.insert(0, self.clock_stepped(latest_seen(&self.keeper, now).await, would_be));
        }
        self.keep(facts).await;
        self.write_accepted();
    }

    /// With a clock behind what the former daemon saw, what is open ends by elapsed time.
    fn go_on(&mut self) {
        let (now, latest) = (clock::reading(), self.world.now());
        if now.wall < latest {
            let ends = self.world.ends_of_openings(latest);
            self.pace.turned_back(Reading { wall: latest, ..now }, ends);
        }
    }

    /// In what services are others than the ledger has them once these facts are in it. Where it cannot be read, they are
    /// told when it can be.
    async fn unlike_the_ledger(&mut self, facts: &[Fact]) -> Listing {
        let mut history = match audit::history(&mut Source::Store(self.keeper.store()), None).await {
            Ok(history) if !self.keeper.is_waiting() => history,
            Ok(_) | Err(_) => {
                self.untold = true;
                return Listing::default();
            }
        };
        for (seq, fact) in (history.last_seq + 1..).zip(facts) {
            if let Fact::Entry(entry) = fact {
                history.take(&record::told(seq, entry));
            }
        }
        Listing::unlike(&history, Side { accepted: &self.accepted, world: &self.world })
    }

    /// Tells what the ledger lacks because it could not be read at the start.
    pub(super) async fn tell_what_is_untold(&mut self) {
        if !std::mem::take(&mut self.untold) {
            return;
        }
        let listing = self.unlike_the_ledger(&[]).await;
        if !listing.is_empty() {
            let facts = self.applied(listing, LedgerKind::ConfigApplied, record::DAEMON, json!({})).await;
            self.keep(facts).await;
        }
    }
}
