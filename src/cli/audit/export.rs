//! `audit export`: the ledger as a file for others, from the database.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::super::arguments::{AuditExport, ExportFormat};
use super::super::console::Console;
use super::super::daemon::service_name;
use super::super::stop::Stop;
use crate::files::SettingsFile;
use crate::kernel::clock;
use crate::store::LedgerFilter;
use crate::store::export::{ExportError, Format, Writer, write};
use crate::store::offline::Ledger;

pub async fn run(
    wanted: &AuditExport,
    settings: &SettingsFile,
    console: &mut Console<'_>,
) -> Result<(), Stop> {
    let filter = LedgerFilter {
        since: wanted.since.map(|since| since.at(clock::now())),
        service: wanted.service.as_deref().map(service_name).transpose()?,
        ..LedgerFilter::default()
    };
    let mut ledger = Ledger::open(&super::database(settings)?).await.map_err(|error| failed(error.into()))?;
    let format = match wanted.format {
        ExportFormat::Jsonl => Format::Jsonl,
        ExportFormat::Csv => Format::Csv,
    };
    let exported = match &wanted.output {
        Some(path) => to_file(&mut ledger, filter, format, path).await,
        None => {
            console.flush()?;
            let mut writer = Writer::new(BufWriter::new(io::stdout().lock()), format)?;
            write(&mut ledger, filter, &mut writer).await.map_err(failed)
        }
    };
    ledger.close().await;
    exported
}

/// Under its name stands a whole export or what was there before.
async fn to_file(ledger: &mut Ledger, filter: LedgerFilter, format: Format, path: &Path) -> Result<(), Stop> {
    let cannot = |error: io::Error| Stop::Failed(format!("cannot write {}: {error}", path.display()));
    let say = |stop| match stop {
        Stop::Output(error) => cannot(error),
        other => other,
    };
    if std::fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        // A pipe or a terminal has no other name.
        let file = OpenOptions::new().write(true).open(path).map_err(cannot)?;
        let mut writer = Writer::new(BufWriter::new(file), format).map_err(cannot)?;
        return write(ledger, filter, &mut writer).await.map_err(|error| say(failed(error)));
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".part");
    let new = Path::new(&new);
    let file = create(new).map_err(cannot)?;
    let written = async {
        let mut writer = Writer::new(BufWriter::new(&file), format).map_err(cannot)?;
        write(ledger, filter, &mut writer).await.map_err(|error| say(failed(error)))
    };
    let outcome = written.await.and_then(|()| settle(&file, new, path).map_err(cannot));
    if outcome.is_err() {
        // What is there is no export.
        let _ = std::fs::remove_file(new);
    }
    outcome
}

/// A new file that only the caller reads: who had access to what is not for everybody. Never through a link that somebody
/// laid in a shared directory.
fn create(path: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn settle(file: &File, new: &Path, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    std::fs::rename(new, path)
}

fn failed(error: ExportError) -> Stop {
    match error {
        ExportError::Io(error) => Stop::Output(error),
        ExportError::Store(_) | ExportError::Unsigned => Stop::Failed(error.to_string()),
    }
}
