//! A command that has ended, and reading what it said.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::clock;

/// No command of picoseg may take longer, in a debug build on a loaded machine.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Cli {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    said: String,
}

impl Cli {
    /// Runs to the end, but not for ever.
    pub fn run(mut command: Command) -> Self {
        let said = format!("{command:?}");
        let (mut stdout, mut stderr) = (scratch(), scratch());
        command.stdin(Stdio::null()).stdout(copy(&stdout)).stderr(copy(&stderr));
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{said}: {e}"));
        let status = ended(&mut child, LIMIT);
        let (stdout, stderr) = (text(&mut stdout), text(&mut stderr));
        let status = status.unwrap_or_else(|| panic!("{said} still runs after {LIMIT:?}:\n{stdout}{stderr}"));
        Self { code: status.code().unwrap_or(-1), stdout, stderr, said }
    }

    /// Insists on an exit code.
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code of {}\n{}{}", self.said, self.stdout, self.stderr);
        self
    }

    pub fn ok(self) -> Self {
        self.exits(0)
    }

    /// Insists on an error that names what an operator has to know: one of `words` in each pair of brackets.
    pub fn explains(self, words: &[&str]) -> Self {
        let said = self.stderr.to_lowercase();
        let found = words.iter().any(|word| said.contains(&word.to_lowercase()));
        assert!(found, "{} should mention one of {words:?}:\n{}", self.said, self.stderr);
        self
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{}: {e}\n{}", self.said, self.stdout))
    }
}

/// The status of a child that ends within `limit`; one that does not is killed.
pub fn ended(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let status = clock::within(limit, || child.try_wait().expect("our own child"));
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    status
}

fn scratch() -> File {
    tempfile::tempfile().expect("a temporary file")
}

fn copy(file: &File) -> Stdio {
    Stdio::from(file.try_clone().expect("a second handle"))
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.seek(io::SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes)).expect("our own file");
    String::from_utf8_lossy(&bytes).into_owned()
}
