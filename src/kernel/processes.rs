//! What `/proc` says of a process, and who is alone in a cgroup. Every read is bounded.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

/// Bytes that are read of a file: a line of `stat` has some hundreds.
const MOST: u64 = 4_096;

/// Returns the program that a process runs, as proc_pid_exe(5) shows it. It takes what ptrace(2) takes
/// (`PTRACE_MODE_READ_FSCREDS`): for processes of other users, or with more capabilities, `CAP_SYS_PTRACE`.
pub fn exe(process: u32) -> io::Result<String> {
    fs::read_link(format!("/proc/{process}/exe")).map(|path| path.to_string_lossy().into_owned())
}

/// Returns the process that is alone in a cgroup and has never had a child that ended: whoever did something there, it was
/// this one. `None` for none, several, or a parent.
pub fn only_one(cgroup: &Path) -> Option<u32> {
    let listed = start_of(&cgroup.join("cgroup.procs")).ok()?;
    let mut lines = listed.lines();
    let process: u32 = lines.next()?.parse().ok().filter(|process| *process > 0)?;
    (lines.next().is_none() && is_childless(process)?).then_some(process)
}

/// Returns the processes of a cgroup; `None` where there are more than so many.
pub fn some_of(cgroup: &Path, most: usize) -> Option<Vec<u32>> {
    let listed = start_of(&cgroup.join("cgroup.procs")).ok()?;
    let processes: Vec<u32> = listed.lines().filter_map(|line| line.parse().ok()).collect();
    (processes.len() <= most).then_some(processes)
}

/// By the page faults of the children that it waited for (`cminflt` and `cmajflt`, proc_pid_stat(5)): no program starts
/// without any. Those that it has now, or that nobody waited for yet, it names itself.
fn is_childless(process: u32) -> Option<bool> {
    let stat = start_of(Path::new(&format!("/proc/{process}/stat"))).ok()?;
    // The name in parentheses may hold anything, also blanks and parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let minor: u64 = fields.nth(8)?.parse().ok()?;
    let major: u64 = fields.nth(1)?.parse().ok()?;
    let children =
        start_of(Path::new(&format!("/proc/{process}/task/{process}/children"))).unwrap_or_default();
    Some(minor == 0 && major == 0 && children.trim().is_empty())
}

fn start_of(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MOST).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn our_program_is_the_one_that_runs() {
        assert_eq!(Path::new(&exe(std::process::id()).unwrap()), std::env::current_exe().unwrap());
        assert!(exe(u32::MAX).is_err());
    }

    #[test]
    fn a_process_is_named_only_where_it_could_have_been_nobody_else() {
        let directory = tempfile::tempdir().unwrap();
        let listed = |processes: &str| {
            fs::write(directory.path().join("cgroup.procs"), processes).unwrap();
            only_one(directory.path())
        };
        let mut alone = Command::new("sleep").arg("60").spawn().unwrap();
        let script = "/bin/true; echo; read line";
        let mut parent = Command::new("sh")
            .args(["-c", script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // It has waited for its child.
        parent.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let found = [listed(&format!("{}\n", alone.id())), listed(&format!("{}\n", parent.id()))];
        let several = listed(&format!("{}\n{}\n", alone.id(), parent.id()));
        let ours = alone.id();
        for child in [&mut alone, &mut parent] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!((found, several), ([Some(ours), None], None));
        assert_eq!((listed(""), listed("0\n"), listed("4294967295\n")), (None, None, None));
    }
}
