//! What stands in the way: one of them in the namespace of every host.

use std::fs;
use std::process::{Command, Stdio};

use picoseg::kernel::commit::Table;

use crate::lab::Cgroup;
use crate::micro;
use crate::peers::{self, Daemon};
use crate::places::{self, PORT};
use crate::services::{self, Measured};
use crate::shapes::{self, Backend};
use crate::traffic::Mode;

#[derive(Debug, Clone)]
pub struct Variant {
    pub name: String,
    rules: Rules,
}

#[derive(Debug, Clone)]
enum Rules {
    None,
    Empty,
    Picoseg(usize, Measured),
    Linear(usize),
    Least(usize),
    Reference(usize, Measured),
    Iptables(Backend, usize),
    Firewalld(usize),
    Ufw(usize),
    Opensnitch(usize),
    Micro(String),
    File(String),
}

/// What must live as long as the rules are to stay.
#[derive(Default)]
pub struct InForce {
    _table: Option<Table>,
    _daemons: Vec<Daemon>,
}

impl InForce {
    pub fn by(daemons: Vec<Daemon>) -> Self {
        Self { _table: None, _daemons: daemons }
    }
}

impl Variant {
    pub fn parse(word: &str) -> Self {
        let (kind, rest) = word.split_once(':').unwrap_or((word, ""));
        let count = || rest.parse().unwrap_or_else(|_| panic!("{word}: which number of services?"));
        let rules = match kind {
            "none" => Rules::None,
            "empty" => Rules::Empty,
            "picoseg" => Rules::Picoseg(count(), Measured::Exact),
            "levels" => Rules::Picoseg(count(), Measured::Levels),
            "prefix" => Rules::Picoseg(count(), Measured::Prefix),
            "ingress" => Rules::Picoseg(count(), Measured::Ingress),
            "linear" => Rules::Linear(count()),
            "least" => Rules::Least(count()),
            "reference" => Rules::Reference(count(), Measured::Exact),
            "reference-prefix" => Rules::Reference(count(), Measured::Prefix),
            "iptables-legacy" => Rules::Iptables(Backend::Legacy, count()),
            "iptables-nft" => Rules::Iptables(Backend::Nft, count()),
            "firewalld" => Rules::Firewalld(count()),
            "ufw" => Rules::Ufw(count()),
            "opensnitch" => Rules::Opensnitch(count()),
            "micro" => Rules::Micro(rest.to_owned()),
            "file" => {
                let (name, path) = rest.split_once(':').unwrap_or_else(|| panic!("{word}: file:NAME:PATH"));
                return Self { name: name.to_owned(), rules: Rules::File(path.to_owned()) };
            }
            _ => panic!("{word}: no such variant"),
        };
        Self { name: word.to_owned(), rules }
    }

    /// Whether its rules say anything about that traffic.
    pub fn fits(&self, mode: Mode) -> bool {
        match self.rules {
            Rules::None | Rules::Empty | Rules::Micro(_) | Rules::File(_) => true,
            Rules::Picoseg(_, Measured::Ingress) => mode.is_ingress() || !mode.is_governed(),
            Rules::Picoseg(_, Measured::Exact | Measured::Levels) => !mode.is_ingress(),
            Rules::Opensnitch(_) => mode.is_by_the_wall() && mode.is_governed(),
            Rules::Picoseg(_, Measured::Prefix)
            | Rules::Linear(_)
            | Rules::Least(_)
            | Rules::Reference(..)
            | Rules::Iptables(..)
            | Rules::Firewalld(_)
            | Rules::Ufw(_) => !mode.is_ingress() && !mode.is_udp(),
        }
    }

    /// Puts its rules in force in the namespace of the calling thread.
    ///
    /// # Errors
    /// Why that cannot be.
    pub fn load(&self, cgroup: &Cgroup) -> Result<InForce, String> {
        match &self.rules {
            Rules::None => Ok(InForce::default()),
            Rules::Empty => nft(EMPTY),
            Rules::Picoseg(count, measured) => {
                let table = services::commit(*count, *measured, cgroup)?;
                Ok(InForce { _table: Some(table), _daemons: vec![] })
            }
            Rules::Linear(count) => nft(&shapes::linear(*count, cgroup)),
            Rules::Least(count) => nft(&shapes::least(*count, cgroup)),
            Rules::Reference(count, measured) => nft(&shapes::reference(*count, *measured, cgroup)),
            Rules::Iptables(backend, count) => shapes::iptables(*backend, *count, cgroup),
            Rules::Firewalld(count) => peers::firewalld(*count),
            Rules::Ufw(count) => peers::ufw(*count),
            Rules::Opensnitch(count) => peers::opensnitch(*count),
            Rules::Micro(name) => nft(&micro::rules(name, cgroup)?),
            Rules::File(path) => {
                let text = fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
                nft(&filled(&text, cgroup))
            }
        }
    }
}

const EMPTY: &str = "table inet t { chain in { type filter hook input priority 0; }\n\
                     chain out { type filter hook output priority 0; }\n}\n";

fn filled(text: &str, cgroup: &Cgroup) -> String {
    text.replace("@CGROUP@", &cgroup.path("target"))
        .replace("@ADDR@", &places::GOVERNED4.to_string())
        .replace("@ADDR6@", &places::GOVERNED6.to_string())
        .replace("@PORT@", &PORT.to_string())
}

fn nft(text: &str) -> Result<InForce, String> {
    let file = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
    fs::write(file.path(), text).map_err(|e| e.to_string())?;
    run(Command::new("nft").arg("-f").arg(file.path()))
}

/// Runs a command in the namespace of the calling thread.
///
/// # Errors
/// What it said.
pub fn run(command: &mut Command) -> Result<InForce, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{command:?}: {e}"))?;
    match output.status.success() {
        true => Ok(InForce::default()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(said.lines().next().unwrap_or("it failed and said nothing").to_owned())
        }
    }
}
