//! Texts to values, or every mistake in them at once.
//!
//! The caller reads the files and hands their bytes over as [`Files`]; [`load()`] returns services and settings, or
//! all mistakes of all files as [`Diagnostic`]s. All or nothing: a set of files with one mistake has no meaning here,
//! so that nobody can enforce half of it. Knows [`crate::model`] only. Deliberately absent: the file system (a path is
//! a label), clocks (a lifetime that is over is no mistake), resolving of subjects.

mod cron;
mod diagnostic;
mod endpoint;
pub mod keys;
mod lines;
mod list;
mod load;
mod nearest;
mod openings;
mod overlap;
mod place;
mod policy;
mod reader;
mod remote;
mod repair;
mod report;
mod segment;
mod service;
mod settings;
mod sharing;
mod source;
mod subject;
#[cfg(test)]
mod tests;
mod time;
mod window;

pub use diagnostic::{Diagnostic, Severity};
pub use list::{Listed, parse_list};
pub use load::{FileText, Loaded, load};
pub use place::subject_place;
pub use segment::parse_segment;
pub use service::{lists_used, parse_service};
pub use settings::parse_settings;
pub use source::{Files, Source};

/// Reads a duration as files write it: a whole number and one unit of s, m, h, d.
///
/// # Errors
/// What is wrong, and what to write instead.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    time::duration(text).map_err(|mistake| format!("{}: {}", mistake.message, mistake.help))
}

/// The largest schedule or settings file, in bytes. A schedule of 1,000 policies has about 150 KiB.
pub const MAX_FILE: usize = 1 << 20;

/// The largest endpoint list, in bytes; the contract names it.
pub const MAX_LIST: usize = 64 << 20;

/// The longest array that is read, of whatever; bounds the work that a hostile file can cause.
const MAX_ENTRIES: usize = 100_000;

/// The most diagnostics of one file; the rest is counted.
const MAX_MISTAKES: usize = 1_000;
