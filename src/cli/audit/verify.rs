//! `audit verify`: whether a ledger is whole, from a database or an export.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::super::arguments::AuditVerify;
use super::super::console::Console;
use super::super::stop::{Exit, Stop};
use super::super::table::{counted, plain};
use crate::api::body::SCHEMA;
use crate::files::SettingsFile;
use crate::store::examine::Findings;
use crate::store::key::{self, PublicKey};
use crate::store::statement::Found;
use crate::store::verify::{self, Evidence, Judged};

/// How SQLite's files begin: <https://www.sqlite.org/fileformat.html>.
const DATABASE: &[u8] = b"SQLite format 3\0";

/// A public key in PEM has some hundred bytes.
const MAX_KEY: u64 = 16 << 10;

/// The longest piece of a line that is looked at as one; checkpoints have some 350 bytes.
const MAX_LINE: u64 = 16 << 20;

/// The most checkpoints that are held against a ledger.
const MAX_CHECKPOINTS: usize = 1_000_000;

/// The answer as JSON.
#[derive(Debug, Serialize)]
struct Body {
    schema: u32,
    ok: bool,
    entries: u64,
    first_bad_seq: Option<u64>,
    error: Option<String>,
    /// Stored and copied checkpoints that fit.
    checkpoints: u64,
    copied_checkpoints: u64,
    key: Option<String>,
    head_signed_at: Option<String>,
    excerpt: bool,
    warnings: Vec<String>,
}

pub async fn run(
    wanted: &AuditVerify,
    settings: &SettingsFile,
    console: &mut Console<'_>,
) -> Result<(), Stop> {
    let file = wanted.file.clone().map_or_else(|| super::database(settings), Ok)?;
    let (trusted, trust) = trusted(wanted.key.as_deref(), &file)?;
    let found = checkpoints(&wanted.checkpoint)?;
    let mut warnings = Vec::new();
    if found.damaged > 0 {
        let pieces = counted(found.damaged, "piece");
        warnings.push(format!("{pieces} of text began like a checkpoint and were cut or changed: not used"));
    }
    if !wanted.checkpoint.is_empty() && found.lines.is_empty() {
        let error = "there is no checkpoint in what --checkpoint names".to_owned();
        return say(Body { error: Some(error), warnings, ..Body::nothing() }, &trust, console);
    }
    let evidence = Evidence { trusted, copied: found.statements().collect() };
    let judged = judge(&file, &evidence).await?;
    if let Ok(findings) = &judged.outcome {
        warnings.extend(remarks(findings, &evidence, &trust));
    }
    say(Body::of(&judged, warnings), &trust, console)
}

async fn judge(file: &Path, evidence: &Evidence) -> Result<Judged, Stop> {
    let cannot = |error: io::Error| Stop::Failed(format!("cannot read {}: {error}", file.display()));
    let mut input = BufReader::new(File::open(file).map_err(cannot)?);
    // A file that is shorter is no database.
    let is_database = input.fill_buf().map_err(cannot)?.starts_with(DATABASE);
    if is_database {
        drop(input);
        return Ok(verify::database(file, evidence).await);
    }
    Ok(verify::export(input, evidence))
}

/// Whom to trust, and in words why.
fn trusted(given: Option<&Path>, file: &Path) -> Result<(Option<PublicKey>, String), Stop> {
    if let Some(path) = given {
        let key = read_key(path)
            .map_err(|error| Stop::Failed(format!("cannot use {}: {error}", path.display())))?;
        return Ok((Some(key), format!("as given ({})", path.display())));
    }
    let beside = file.with_file_name(key::PUBLIC_FILE);
    match beside.exists() {
        true => {
            let key = read_key(&beside).map_err(|error| {
                Stop::Failed(format!("cannot use {}: {error}; name one with --key", beside.display()))
            })?;
            Ok((Some(key), format!("as {} says", beside.display())))
        }
        false => Ok((None, "as the ledger itself says".to_owned())),
    }
}

fn read_key(path: &Path) -> Result<PublicKey, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(MAX_KEY).read_to_string(&mut text).map_err(|error| error.to_string())?;
    PublicKey::from_pem(&text).map_err(|error| error.to_string())
}

fn checkpoints(files: &[PathBuf]) -> Result<Found, Stop> {
    let mut found = Found::default();
    for path in files {
        let cannot =
            |error| Stop::Failed(format!("cannot read checkpoints from {}: {error}", path.display()));
        match path.as_os_str() == "-" {
            true => look_through(io::stdin().lock(), &mut found).map_err(cannot)?,
            false => {
                look_through(BufReader::new(File::open(path).map_err(cannot)?), &mut found)
                    .map_err(cannot)?;
            }
        }
    }
    Ok(found)
}

fn look_through(mut input: impl BufRead, found: &mut Found) -> io::Result<()> {
    let mut line = Vec::new();
    while input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? > 0 {
        found.look_at(&String::from_utf8_lossy(&line));
        line.clear();
        if found.lines.len() > MAX_CHECKPOINTS {
            return Err(io::Error::other(format!("there are more than {MAX_CHECKPOINTS} checkpoints")));
        }
    }
    Ok(())
}

/// What somebody should know of a ledger that is whole.
fn remarks(findings: &Findings, evidence: &Evidence, trust: &str) -> Vec<String> {
    let mut remarks = Vec::new();
    let last = findings.head.head.seq;
    if findings.excerpt {
        remarks.push(
            "this is an excerpt: each of its entries has its own hash, and the head is signed; that an entry is in the ledger, and that none is \
             left out, only the whole shows"
                .to_owned(),
        );
    } else if evidence.copied.is_empty() {
        remarks.push(
            "no checkpoint that was copied elsewhere was compared (--checkpoint): whoever has the key could have rewritten everything"
                .to_owned(),
        );
    } else if findings.covered < last {
        remarks.push(format!(
            "entries {} to {last} follow the last copied checkpoint: whoever has the key could have rewritten them",
            findings.covered + 1
        ));
    }
    if evidence.trusted.is_none() {
        remarks.push(format!("the key is trusted {trust}: compare it with a copy, or name one with --key"));
    }
    if findings.signed_from > 1 {
        remarks.push(format!(
            "entries 1 to {} were recorded before the ledger was signed",
            findings.signed_from - 1
        ));
    }
    if findings.former_keys > 0 {
        remarks.push(format!(
            "the key changed {}: see `picoseg audit show` for key.changed",
            counted(findings.former_keys, "time")
        ));
    }
    remarks
}

impl Body {
    fn nothing() -> Self {
        Self {
            schema: SCHEMA,
            ok: false,
            entries: 0,
            first_bad_seq: None,
            error: None,
            checkpoints: 0,
            copied_checkpoints: 0,
            key: None,
            head_signed_at: None,
            excerpt: false,
            warnings: Vec::new(),
        }
    }

    fn of(judged: &Judged, warnings: Vec<String>) -> Self {
        let body = Self { entries: judged.entries, warnings, ..Self::nothing() };
        match &judged.outcome {
            Ok(findings) => Self {
                ok: true,
                checkpoints: findings.checkpoints,
                copied_checkpoints: findings.copies,
                key: Some(findings.head.key.to_string()),
                head_signed_at: Some(findings.head.at.clone()),
                excerpt: findings.excerpt,
                ..body
            },
            Err(refusal) => Self { first_bad_seq: refusal.seq(), error: Some(refusal.to_string()), ..body },
        }
    }
}

fn say(body: Body, trust: &str, console: &mut Console<'_>) -> Result<(), Stop> {
    if console.json {
        let text = serde_json::to_string(&body).map_err(|error| Stop::Failed(error.to_string()))?;
        console.print(text)?;
    } else {
        tell(&body, trust, console)?;
    }
    match body.ok {
        true => Ok(()),
        false => Err(Stop::Said(Exit::Failed)),
    }
}

fn tell(body: &Body, trust: &str, console: &mut Console<'_>) -> Result<(), Stop> {
    if let Some(error) = &body.error {
        console.note(format_args!("picoseg: the ledger does not verify: {}", plain(error)));
    }
    if let (Some(key), Some(at)) = (&body.key, &body.head_signed_at) {
        let entries = match body.entries {
            1 => "1 entry".to_owned(),
            number => format!("{number} entries"),
        };
        let what = if body.excerpt { "unaltered in themselves" } else { "unbroken" };
        let checkpoints = counted(body.checkpoints, "checkpoint");
        let copies = match body.copied_checkpoints {
            0 => String::new(),
            number => format!("; {} fit", counted(number, "copied checkpoint")),
        };
        console.print(format_args!(
            "{entries}, {what}; {checkpoints} and the head verify with key {key}, trusted {trust}{copies}; the head was signed at {at}"
        ))?;
    }
    for warning in &body.warnings {
        console.note(format_args!("warning: {}", plain(warning)));
    }
    Ok(())
}
