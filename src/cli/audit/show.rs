//! `audit show`.

use super::super::arguments::{Arguments, AuditShow};
use super::super::console::Console;
use super::super::stop::Stop;

pub async fn run(
    _wanted: &AuditShow,
    _arguments: &Arguments,
    _console: &mut Console<'_>,
) -> Result<(), Stop> {
    Err(Stop::Failed("audit show is not built yet".to_owned()))
}
