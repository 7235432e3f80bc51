//! The operators' documents: every command in them is run, in its order, on a machine with the real package, and what they show of
//! its output is what it says.
//!
//! A block of commands is fenced as `console`; `#` is root, `$` a member of the group `picoseg`. Lines below a command are parts of
//! what it says, in that order; `…` stands for anything. Notes in comments before a block, which readers do not see:
//!
//! - `<!-- exits 4 -->`: how the last command of the block ends, when not with 0;
//! - `<!-- first COMMAND -->`: what root does before it, so that there is something to show.
//!
//! A block fenced as `console build` is not run here: its commands have to be among those of `scripts/test`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::cli::Cli;
use crate::clock::within;
use crate::converge::package;
use crate::machine::{Machine, System};
use crate::outside::Echo;

/// Until something that just happened is told.
const TOLD_WITHIN: Duration = Duration::from_secs(10);
const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");

/// The unit that all documents speak of: it connects to the provider, and again whenever the connection ends.
const PAYMENTS: &str = r#"[Unit]
StartLimitIntervalSec=0
[Service]
ExecStart=bash -c 'while :; do exec 3<>/dev/tcp/192.0.2.10/443 && echo hello >&3 && cat <&3; sleep 0.3; done'
Restart=always
"#;

/// What a document has its reader do.
#[derive(Debug, Default)]
struct Block {
    line: usize,
    first: Vec<String>,
    commands: Vec<Command>,
    exits: i32,
}

#[derive(Debug)]
struct Command {
    root: bool,
    text: String,
    shows: Vec<String>,
}

/// The blocks of a document; those to be run on the machine that builds apart.
fn blocks(text: &str) -> (Vec<Block>, Vec<Block>) {
    let (mut here, mut build) = (Vec::new(), Vec::new());
    let (mut next, mut fence) = (Block::default(), None);
    for (number, line) in text.lines().enumerate() {
        match (fence, line.trim_end()) {
            (None, "```console") => (fence, next.line) = (Some(false), number + 1),
            (None, "```console build") => (fence, next.line) = (Some(true), number + 1),
            (None, other) => note(&mut next, other),
            (Some(of_the_builder), "```") => {
                let done = std::mem::take(&mut next);
                if of_the_builder { &mut build } else { &mut here }.push(done);
                fence = None;
            }
            (Some(_), line) => next.take(line),
        }
    }
    assert_eq!(fence, None, "a block has no end");
    (here, build)
}

fn note(next: &mut Block, line: &str) {
    let Some(note) = line.strip_prefix("<!-- ").and_then(|line| line.strip_suffix(" -->")) else { return };
    match note.split_once(' ') {
        Some(("exits", code)) => next.exits = code.parse().expect("an exit code"),
        Some(("first", command)) => next.first.push(command.to_owned()),
        _ => panic!("no such note: {note}"),
    }
}

impl Block {
    fn take(&mut self, line: &str) {
        let open = self.commands.last_mut().filter(|command| command.is_open());
        match (open, line.split_at_checked(2)) {
            (Some(command), _) => {
                command.text.push('\n');
                command.text.push_str(line);
            }
            (None, Some((prompt @ ("# " | "$ "), text))) => {
                self.commands.push(Command { root: prompt == "# ", text: text.to_owned(), shows: vec![] });
            }
            (None, _) => {
                let command = self.commands.last_mut().expect("a command before what it says");
                command.shows.push(line.to_owned());
            }
        }
    }
}

impl Command {
    /// A here-document that has not ended.
    fn is_open(&self) -> bool {
        let (first, rest) = self.text.split_once('\n').unwrap_or((&self.text, ""));
        let Some((_, word)) = first.split_once("<<") else { return false };
        let word = word.trim_matches(|c| c == '\'' || c == '"');
        !rest.lines().any(|line| line == word)
    }

    /// Only looks: may be repeated until it says what is expected.
    fn looks(&self) -> bool {
        let looking = ["status", "services", "attempts", "flows", "plan", "show", "report", "explain"];
        self.text
            .strip_prefix("picoseg ")
            .is_some_and(|rest| looking.iter().any(|word| rest.starts_with(word)))
    }

    fn run(&self, machine: &Machine, exits: i32) -> Result<(), String> {
        let as_whom: &[&str] = if self.root {
            &[]
        } else {
            &["setpriv", "--reuid=alice", "--regid=alice", "--init-groups", "--"]
        };
        let run = || {
            let said = machine.run(
                &[as_whom, &["bash", "-c", &format!("cd /root 2>/dev/null || cd /; {}", self.text)]].concat(),
            );
            self.judge(&said, exits)
        };
        match self.looks() {
            true => {
                let mut judged = Ok(());
                let fits = within(TOLD_WITHIN, || {
                    judged = run();
                    judged.is_ok().then_some(())
                });
                fits.map_or(judged, Ok)
            }
            false => run(),
        }
    }

    fn judge(&self, said: &Cli, exits: i32) -> Result<(), String> {
        let all = format!("{}{}", said.stdout, said.stderr);
        if said.code != exits {
            return Err(format!("ends with {} and not {exits}:\n{all}", said.code));
        }
        let mut lines = all.lines();
        match self.shows.iter().find(|shown| !lines.any(|line| fits(shown, line))) {
            Some(missing) => Err(format!("does not say (or not in this order): {missing}\n{all}")),
            None => Ok(()),
        }
    }
}

/// Whether a line is as shown, where `…` stands for anything.
fn fits(shown: &str, line: &str) -> bool {
    let mut parts = shown.trim_end().split('…');
    let first = parts.next().expect("at least one part");
    let Some(mut rest) = line.trim_end().strip_prefix(first) else { return false };
    if !shown.contains('…') {
        return rest.is_empty();
    }
    let parts: Vec<&str> = parts.collect();
    let (last, middle) = parts.split_last().expect("a part after each ellipsis");
    for part in middle {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// A machine as the documents suppose it: the package lies in root's directory, the provider answers.
fn site() -> Option<(Machine, Echo)> {
    let package = package()?;
    let unit = [("/etc/systemd/system/payments.service", PAYMENTS)];
    let machine = Machine::bare(System { suite: "trixie", variant: "managed" }, &unit)?;
    let name = package.file_name().expect("a file");
    fs::copy(&package, machine.path("/root").join(name)).expect("a tree of ours");
    let echo = machine.outside().echo(443);
    for user in ["alice", "bob"] {
        machine.run(&["useradd", "--create-home", "--user-group", user]).ok();
    }
    machine.start("payments.service");
    Some((machine, echo))
}

fn read(document: &str) -> String {
    fs::read_to_string(Path::new(REPOSITORY).join("docs").join(document)).expect(document)
}

/// Runs a document after another one has made the host what it supposes.
fn follow(before: &[&str], document: &str) {
    let Some((machine, _echo)) = site() else { return };
    for command in before {
        machine.run(&["bash", "-c", command]).ok();
    }
    let mut mistakes = String::new();
    for block in blocks(&read(document)).0 {
        for command in &block.first {
            machine.run(&["bash", "-c", command]).ok();
        }
        for (number, command) in block.commands.iter().enumerate() {
            let exits = if number + 1 == block.commands.len() { block.exits } else { 0 };
            if let Err(mistake) = command.run(&machine, exits) {
                writeln!(mistakes, "{document}:{}: {}\n{mistake}", block.line, command.text)
                    .expect("to a string");
            } else if std::env::var_os("PICOSEG_SHOW").is_some() {
                println!("{document}:{}: {}", block.line, command.text);
            }
        }
    }
    assert!(mistakes.is_empty(), "{mistakes}");
}

const INSTALLED: &str =
    "apt-get install --yes /root/picoseg_*.deb && usermod --append --groups picoseg alice";
/// As at the end of the first schedule's page, but for its end.
const SCHEDULED: &str = r#"cat >/etc/picoseg/services.d/acme-pay.toml <<END
provider = "Acme Payments Ltd"
owner = "payments@example.com"
[lifetime]
commission = 2026-01-01T00:00:00Z
decommission = 2035-12-31T00:00:00Z
[[egress]]
subject = { unit = "payments.service" }
to = ["192.0.2.10"]
ports = ["443/tcp"]
END
picoseg apply && systemctl restart payments && sleep 1"#;

#[test]
fn install() {
    follow(&[], "operate/install.md");
}

#[test]
fn first_schedule() {
    follow(&[INSTALLED], "operate/first-schedule.md");
}

#[test]
fn rollout() {
    follow(&[INSTALLED], "operate/rollout.md");
}

#[test]
fn incident() {
    follow(&[INSTALLED, SCHEDULED], "operate/incident.md");
}

#[test]
fn troubleshooting() {
    follow(&[INSTALLED, SCHEDULED], "operate/troubleshooting.md");
}

#[test]
fn threats() {
    follow(&[INSTALLED], "operate/threats.md");
}

#[test]
fn audit() {
    follow(&[INSTALLED, SCHEDULED], "audit.md");
}

#[test]
fn every_page_has_its_test() {
    let this = include_str!("documents.rs");
    for page in fs::read_dir(Path::new(REPOSITORY).join("docs/operate")).expect("the pages").flatten() {
        let name = page.file_name().to_string_lossy().into_owned();
        let (here, _) = blocks(&read(&format!("operate/{name}")));
        assert!(here.is_empty() || this.contains(&format!("\"operate/{name}\")")), "{name} is not run");
    }
}

#[test]
fn what_is_built_elsewhere_is_built_by_the_tests() {
    let script = fs::read_to_string(Path::new(REPOSITORY).join("scripts/test")).expect("a script");
    for command in blocks(&read("operate/install.md")).1.iter().flat_map(|block| &block.commands) {
        assert!(script.contains(&command.text), "{}", command.text);
    }
}

#[test]
fn a_page_that_is_wrong_is_found() {
    let shown = |text: &str| Command { root: true, text: text.to_owned(), shows: vec![] };
    assert!(shown("cat >x <<END").is_open() && !shown("cat >x <<END\na\nEND").is_open());
    for (pattern, line, as_expected) in [
        ("active", "active", true),
        ("active", "inactive", false),
        ("a…c", "abc", true),
        ("a…c", "abcd", false),
        ("…refused…", "3 refused, 0 observed", true),
        ("…refused…", "3 observed", false),
        ("…", "", true),
    ] {
        assert_eq!(fits(pattern, line), as_expected, "{pattern}: {line}");
    }
    let (here, build) =
        blocks("<!-- exits 4 -->\n```console\n# a\nb\n$ c <<'X'\n# d\nX\n```\n```console build\n$ e\n```\n");
    let [block] = &here[..] else { panic!("{here:?}") };
    assert_eq!((block.exits, block.line, block.commands.len()), (4, 2, 2));
    assert_eq!((&*block.commands[0].shows[0], &*block.commands[1].text), ("b", "c <<'X'\n# d\nX"));
    assert_eq!(build[0].commands[0].text, "e");
}
