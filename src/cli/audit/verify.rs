//! `audit verify`.

use super::super::arguments::AuditVerify;
use super::super::console::Console;
use super::super::stop::Stop;
use crate::files::SettingsFile;

pub async fn run(
    _wanted: &AuditVerify,
    _settings: &SettingsFile,
    _console: &mut Console<'_>,
) -> Result<(), Stop> {
    Err(Stop::Failed("audit verify is not built yet".to_owned()))
}
