//! What stands in the way: one of them in the namespace of every host.

use std::fs;
use std::process::{Command, Stdio};

use picoseg::kernel::commit::Table;

use crate::lab::Cgroup;
use crate::places::{self, PORT};
use crate::services::{self, Measured};
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
    File(String),
}

/// What must live as long as the rules are to stay.
#[derive(Default)]
pub struct InForce {
    _table: Option<Table>,
}

impl Variant {
    pub fn parse(word: &str) -> Self {
        let (kind, rest) = word.split_once(':').unwrap_or((word, ""));
        let count = || rest.parse().unwrap_or_else(|_| panic!("{word}: which number of services?"));
        let rules = match kind {
            "none" => Rules::None,
            "empty" => Rules::Empty,
            "picoseg" => Rules::Picoseg(count(), Measured::Exact),
            "prefix" => Rules::Picoseg(count(), Measured::Prefix),
            "ingress" => Rules::Picoseg(count(), Measured::Ingress),
            "linear" => Rules::Linear(count()),
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
            Rules::None | Rules::Empty | Rules::File(_) => true,
            Rules::Picoseg(_, Measured::Ingress) => mode.is_ingress() || !mode.is_governed(),
            Rules::Picoseg(_, Measured::Exact) => !mode.is_ingress(),
            Rules::Picoseg(_, Measured::Prefix) | Rules::Linear(_) => !mode.is_ingress() && !mode.is_udp(),
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
                Ok(InForce { _table: Some(table) })
            }
            Rules::Linear(count) => nft(&linear(*count, cgroup)),
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

/// As an administrator writes them: a rule for each service and family, out and in, the measured service's last.
fn linear(count: usize, cgroup: &Cgroup) -> String {
    let units = (count / 10).clamp(1, 1_000);
    let paths: Vec<String> = (0..units).map(|unit| cgroup.path(&format!("s{unit}"))).collect();
    let target = cgroup.path("target");
    let (mut outward, mut inward) = (String::new(), String::new());
    for index in 0..count {
        let measured = index + 1 == count;
        let unit = if measured { &target } else { &paths[index % units] };
        let (v4, v6, port) = match measured {
            true => (places::GOVERNED4, places::GOVERNED6, PORT),
            false => (places::other4(index), places::other6(index), 443),
        };
        let who = format!("socket cgroupv2 level 2 \"{unit}\"");
        let when = "meta time \"2026-01-01 00:00:00\"-\"2099-01-01 00:00:00\" accept\n";
        for (family, address) in [("ip", v4.to_string()), ("ip6", v6.to_string())] {
            outward += &format!("{who} {family} daddr {address} tcp dport {port} {when}");
            inward += &format!("{who} {family} saddr {address} tcp sport {port} {when}");
        }
    }
    format!(
        "table inet t {{ chain in {{ type filter hook input priority 0; iif lo accept\n{inward}\
         ip saddr 198.18.0.0/15 drop\nip6 saddr 2001:db8::/32 drop\n}}\n\
         chain out {{ type filter hook output priority 0; oif lo accept\n{outward}\
         ip daddr 198.18.0.0/15 drop\nip6 daddr 2001:db8::/32 drop\n}}\n}}\n"
    )
}

fn nft(text: &str) -> Result<InForce, String> {
    let file = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
    fs::write(file.path(), text).map_err(|e| e.to_string())?;
    run(Command::new("nft").arg("-f").arg(file.path()))
}

fn run(command: &mut Command) -> Result<InForce, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{command:?}: {e}"))?;
    match output.status.success() {
        true => Ok(InForce::default()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(said.lines().next().unwrap_or("it failed and said nothing").to_owned())
        }
    }
}
