//! What the daemon and the helper say to each other: JSON, one message a line.
//!
//! ```text
//! daemon: want [program]      -> helper: one state for each, and again whenever it changes
//! daemon: in_force [id]       the table holds these cgroups: what waits for them goes on
//! ```
//!
//! Neighbours: `daemon` speaks one side, `mover` the other.

use serde::{Deserialize, Serialize};

use crate::model::{Digest, Subject};

/// The helper's socket in `[paths] runtime`.
pub const SOCKET: &str = "exec.sock";

/// No line is longer, bytes.
pub const MAX_LINE: usize = 4 << 20;

/// How many programs the helper marks at most.
pub const MAX_PROGRAMS: usize = 4096;

/// A program, as a schedule names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Program {
    pub path: String,
    /// 64 hex digits.
    pub sha256: Option<String>,
}

/// From the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// These programs and no others, from now on.
    Want(Vec<Program>),
    /// The ids of cgroups that the table holds.
    InForce(Vec<u64>),
}

/// From the helper: all about one program right now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub program: Program,
    /// Why executions of the program are not seen; `None`: they are.
    pub unresolved: Option<String>,
    /// The cgroups of its processes.
    pub cgroups: Vec<ProgramCgroup>,
    /// Processes of the program that were started before it was marked: they are in none of these.
    pub outside: u32,
}

/// A cgroup that the helper made for a program below one where it was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramCgroup {
    /// Below the root of the hierarchy.
    pub path: String,
    pub id: u64,
}

impl Program {
    /// The program of an `exe` subject.
    pub fn of(subject: &Subject) -> Option<Self> {
        match subject {
            Subject::Exe { path, sha256 } => {
                Some(Self { path: path.clone(), sha256: sha256.as_deref().map(Digest::to_string) })
            }
            Subject::Unit(_)
            | Subject::Cgroup(_)
            | Subject::User(_)
            | Subject::Group(_)
            | Subject::Container(_) => None,
        }
    }

    /// Its subject; none when it is not one that a schedule could name.
    pub fn subject(&self) -> Option<Subject> {
        let sha256 = match &self.sha256 {
            None => None,
            Some(text) => Some(Digest::parse(text)?),
        };
        Subject::exe(&self.path, sha256).ok()
    }
}

/// A message as it is sent.
pub fn line(message: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_what_the_other_side_reads() {
        let digest = "ab".repeat(32);
        let subject = Subject::exe("/usr/bin/curl", Digest::parse(&digest)).unwrap();
        let program = Program::of(&subject).unwrap();
        assert_eq!(program.subject(), Some(subject));
        let want = line(&Ask::Want(vec![program.clone()]));
        let text = format!("{{\"want\":[{{\"path\":\"/usr/bin/curl\",\"sha256\":\"{digest}\"}}]}}\n");
        assert_eq!(String::from_utf8(want.clone()).unwrap(), text);
        assert_eq!(serde_json::from_slice::<Ask>(&want).unwrap(), Ask::Want(vec![program]));
    }

    #[test]
    fn what_no_schedule_could_name_has_no_subject() {
        for (path, sha256) in [("curl", None), ("/usr/../bin/curl", None), ("/usr/bin/curl", Some("ab"))] {
            let program = Program { path: path.to_owned(), sha256: sha256.map(str::to_owned) };
            assert_eq!(program.subject(), None, "{program:?}");
        }
    }
}
