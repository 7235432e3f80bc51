//! How something is said: results on stdout, all else on stderr.

use std::fmt::Display;
use std::io::Write;

use super::stop::{Exit, Stop};
use super::table::plain;
use crate::api::client::ClientError;
use crate::config::Diagnostic;

/// Where a command writes, and how.
pub struct Console<'w> {
    out: &'w mut dyn Write,
    err: &'w mut dyn Write,
    /// JSON instead of text.
    pub json: bool,
    /// Colours for states.
    pub colour: bool,
}

impl<'w> Console<'w> {
    pub fn new(out: &'w mut dyn Write, err: &'w mut dyn Write) -> Self {
        Self { out, err, json: false, colour: false }
    }

    /// Prints lines to stdout.
    pub fn print(&mut self, text: impl Display) -> Result<(), Stop> {
        Ok(writeln!(self.out, "{text}")?)
    }

    pub fn flush(&mut self) -> Result<(), Stop> {
        Ok(self.out.flush()?)
    }

    /// Says a line on stderr. Where nobody listens there is nobody to tell that either.
    pub fn note(&mut self, text: impl Display) {
        let _ = writeln!(self.err, "{text}");
    }

    /// Says what was found in files that are in order.
    pub fn warn(&mut self, warnings: &[Diagnostic]) {
        warnings.iter().for_each(|warning| self.note(warning));
    }

    /// Says why a command ends early; returns how the process exits.
    pub fn report(&mut self, stop: Stop) -> Exit {
        match &stop {
            Stop::Usage(error) => {
                let _ = error.print();
            }
            Stop::Invalid(diagnostics) if !self.json => self.warn(diagnostics),
            Stop::Daemon(ClientError::Invalid { diagnostics, .. }) if !self.json => {
                diagnostics.diagnostics.iter().for_each(|one| self.note(one));
            }
            // On stdout, below.
            Stop::Invalid(_) | Stop::Daemon(ClientError::Invalid { .. }) => {}
            Stop::Daemon(error) => self.note(format_args!("picoseg: {}", plain(&error.to_string()))),
            Stop::Failed(error) => self.note(format_args!("picoseg: {}", plain(error))),
            Stop::Output(error) if stop.exit() != Exit::Done => {
                self.note(format_args!("picoseg: cannot write: {error}"));
            }
            Stop::Said(_) | Stop::Output(_) => {}
        }
        let exit = stop.exit();
        match stop.body().filter(|_| self.json) {
            Some(body) => {
                self.print(body).and_then(|()| self.flush()).map_or(Exit::Failed.max(exit), |()| exit)
            }
            None => {
                // What was printed before still counts.
                let _ = self.out.flush();
                exit
            }
        }
    }
}
