//! `report`.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use super::arguments::{self, Format};
use super::console::Console;
use super::daemon::{Daemon, service_name, understand};
use super::stop::Stop;
use crate::report::{html, markdown, text};

pub async fn run(daemon: &Daemon, wanted: &arguments::Report, console: &mut Console<'_>) -> Result<(), Stop> {
    let body = daemon.get(&format!("/v1/report/{}", service_name(&wanted.name)?)).await?;
    let format = wanted.format.unwrap_or(if console.json { Format::Json } else { Format::Text });
    let report = match format {
        Format::Json => body,
        Format::Text => text::render(&understand(&body)?),
        Format::Markdown => markdown::render(&understand(&body)?),
        Format::Html => html::render(&understand(&body)?),
    };
    let report = report.trim_end();
    match &wanted.output {
        None => console.print(report),
        Some(path) => write(path, report)
            .map_err(|error| Stop::Failed(format!("cannot write the report to {}: {error}", path.display()))),
    }
}

/// Replaces the file as a whole: a link in its place is not followed, and half a report is never left.
fn write(path: &Path, report: &str) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::other("this names no file"))?;
    let mut beside = name.to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let beside = path.with_file_name(beside);
    let written = File::create_new(&beside).and_then(|mut file| {
        file.write_all(report.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&beside, path)
    });
    if written.is_err() {
        // Of no use to anybody; the first error is the one to tell.
        let _ = fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_a_link_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (directory.path().join("r.html"), directory.path().join("elsewhere"));
        fs::write(&elsewhere, "untouched").unwrap();
        symlink(&elsewhere, &path).unwrap();
        write(&path, "report").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "report\n");
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "untouched");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "nothing is left beside it");
        assert!(write(&directory.path().join("no/such/directory"), "report").is_err());
    }
}
