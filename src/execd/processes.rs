//! Which programs the running processes are.

use std::collections::BTreeMap;
use std::fs;

use super::mover::is_ours;
use super::stamp::{FileId, Stamp};
use crate::kernel::cgroups;

/// How many processes run each of these files outside of the cgroups that we make. A script is not seen here: its
/// process runs the interpreter. Needs CAP_SYS_PTRACE for the processes of others.
pub fn outside(files: impl Iterator<Item = FileId>) -> BTreeMap<FileId, u32> {
    let mut counts: BTreeMap<FileId, u32> = files.map(|file| (file, 0)).collect();
    if counts.is_empty() {
        return counts;
    }
    for pid in pids() {
        let Ok(stamp) = Stamp::at(&format!("/proc/{pid}/exe")) else { continue };
        let Some(count) = counts.get_mut(&stamp.file) else { continue };
        let path = cgroups::path_of(pid).ok().flatten();
        if path.is_some_and(|path| !path.split('/').any(is_ours)) {
            *count += 1;
        }
    }
    counts
}

/// What a process runs right now. Another execution of the same file is another image: its stack begins elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image {
    file: FileId,
    stack: u64,
}

impl Image {
    /// None when it has ended, or when CAP_SYS_PTRACE is missing.
    pub fn of(pid: i32) -> Option<Self> {
        let file = Stamp::at(&format!("/proc/{pid}/exe")).ok()?.file;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Field 28 of proc_pid_stat(5), `startstack`; the second is the name, which may hold blanks.
        let (_, behind_name) = stat.rsplit_once(')')?;
        let stack = behind_name.split_whitespace().nth(28 - 3)?.parse().ok()?;
        Some(Self { file, stack })
    }
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The files that this process runs on: itself, the loader, its libraries.
pub fn own_files() -> Vec<FileId> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mapped = maps.lines().filter_map(|line| line.split_once('/').map(|(_, path)| format!("/{path}")));
    let mut files: Vec<_> = mapped.chain(["/proc/self/exe".to_owned()]).collect();
    files.sort();
    files.dedup();
    files.iter().filter_map(|path| Some(Stamp::at(path).ok()?.file)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_runs_its_own_file_outside_of_our_cgroups() {
        let own = Stamp::at("/proc/self/exe").unwrap().file;
        assert!(own_files().contains(&own));
        assert!(outside([own].into_iter())[&own] >= 1);
        let image = Image::of(std::process::id() as i32).unwrap();
        assert!(image.file == own && image.stack > 1, "{image:?}");
    }
}
