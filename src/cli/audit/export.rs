//! `audit export`.

use super::super::arguments::AuditExport;
use super::super::console::Console;
use super::super::stop::Stop;
use crate::files::SettingsFile;

pub async fn run(
    _wanted: &AuditExport,
    _settings: &SettingsFile,
    _console: &mut Console<'_>,
) -> Result<(), Stop> {
    Err(Stop::Failed("audit export is not built yet".to_owned()))
}
