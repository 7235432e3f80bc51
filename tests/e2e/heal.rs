//! Other programs change our table: it is noticed, repaired and on record, and theirs stay as they are.

use std::fmt::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::clock::{until, within};
use crate::lab::schedule::{Lifetime, egress, ingress, policy, schedule};
use crate::lab::{Cli, Daemon, Lab, Unit, at, skipped};

/// From a change until the table is as before, on a loaded machine.
const REPAIRED: Duration = Duration::from_secs(5);

/// A table of somebody else, which has to stay as it is.
const THEIRS: &str = r#"
table ip neighbour {
    set s { type ipv4_addr; elements = { 192.0.2.1, 192.0.2.7 } }
    map m { type ipv4_addr : verdict; elements = { 192.0.2.9 : accept } }
    counter n { packets 7 bytes 9 }
    chain input { type filter hook input priority 0; policy accept; ip saddr @s counter drop; }
    chain nat { type nat hook postrouting priority 100; policy accept; ip daddr 192.0.2.8 masquerade; }
}
table inet picoseg-like {
    chain c {
    }
}
"#;

pub fn nft(lab: &Lab, text: &str) -> Cli {
    let file = lab.dir().join("edit.nft");
    crate::lab::put(&file, text);
    let mut command = Command::new("nft");
    command.arg("-f").arg(file);
    lab.on_host(command)
}

pub fn nft_json(lab: &Lab, text: &str) -> Cli {
    let file = lab.dir().join("edit.json");
    crate::lab::put(&file, text);
    let mut command = Command::new("nft");
    command.arg("-j").arg("-f").arg(file);
    lab.on_host(command)
}

pub fn listed(lab: &Lab, arguments: &[&str]) -> String {
    let mut command = Command::new("nft");
    command.args(arguments);
    lab.on_host(command).stdout
}

/// Our table without what passes by itself: counts, and times of elements. Sets that packets fill are empty.
pub fn ours(lab: &Lab) -> String {
    plain(&listed(lab, &["list", "table", "inet", "picoseg"]))
}

pub fn plain(listing: &str) -> String {
    let (mut blocks, mut filled, mut inside) = (vec![String::new()], false, false);
    for line in listing.lines() {
        filled |= line.contains("flags dynamic");
        filled &= line != "\t}";
        inside |= filled && line.trim_start().starts_with("elements = ");
        if !inside && let Some(block) = blocks.last_mut() {
            block.push_str(&without_numbers(line));
        }
        inside &= !line.ends_with('}');
        if line == "\t}" {
            blocks.push(String::new());
        }
    }
    // The kernel lists objects in the order in which they were made, and elements in any.
    for block in &mut blocks {
        if ["set ", "map "].iter().any(|kind| block.trim_start().starts_with(kind)) {
            let mut lines: Vec<&str> = block.lines().map(element_of).collect();
            lines.sort_unstable();
            *block = lines.join("\n");
        }
    }
    blocks.sort();
    blocks.concat()
}

fn element_of(line: &str) -> &str {
    let line = line.trim().trim_start_matches("elements = { ");
    line.trim_end_matches(" }").trim_end_matches(',')
}

fn without_numbers(line: &str) -> String {
    let (mut text, mut words) = (String::new(), line.split_inclusive(' '));
    while let Some(word) = words.next() {
        text.push_str(word);
        if ["packets ", "bytes ", "timeout ", "expires "].contains(&word.trim_start_matches('\t')) {
            let end =
                words.next().unwrap_or_default().trim_start_matches(|c: char| c.is_ascii_alphanumeric());
            write!(text, "_{end}").expect("to a string");
        }
    }
    text + "\n"
}

/// Everything but our table.
pub fn others(lab: &Lab) -> String {
    let tables = listed(lab, &["list", "tables"]);
    let foreign = tables.lines().filter(|line| !line.ends_with(" inet picoseg"));
    foreign.map(|line| listed(lab, &[&["list"], &line.split(' ').collect::<Vec<_>>()[..]].concat())).collect()
}

pub fn entries(lab: &Lab, kind: &str) -> Vec<Value> {
    let body = lab.picoseg(&["audit", "show", "--json"]).ok().json();
    let entries = body["entries"].as_array().expect("a list");
    entries.iter().filter(|entry| entry["kind"] == kind).cloned().collect()
}

pub struct Stage {
    pub lab: Lab,
    _daemon: Daemon,
    payments: Unit,
    pub before: String,
    pub theirs: String,
}

/// An unprotected table of services of several kinds, and the tables of others.
pub fn stage(protect: bool) -> Option<Stage> {
    let lab = Lab::new()?;
    lab.settings(&format!("[enforcement]\nprotect = {protect}\n"));
    let payments = lab.unit("payments");
    let [one, two] = [lab.provider4(0), lab.provider4(1)];
    let range = policy("egress", "cgroup = \"/\"", "198.51.100.0/24", "8000-8100/tcp");
    let open = [egress(&payments, one, "443/tcp"), ingress(&payments, lab.provider6(0), "8443/tcp"), range];
    lab.write("stripe", &schedule(Lifetime::open(), &open));
    lab.write("ended", &schedule(Lifetime::over(), &[egress(&payments, two, "443/tcp")]));
    lab.segment("pay", &format!("subject = {{ unit = \"{}\" }}\n", payments.name()));
    nft(&lab, THEIRS).ok();
    let daemon = lab.daemon();
    // What closed at the start drops in silence for two seconds.
    until("what passes has passed", REPAIRED, || {
        let raw = listed(&lab, &["list", "table", "inet", "picoseg"]);
        !["1s", "2s"].iter().any(|short| raw.contains(&format!(" timeout {short}")))
    });
    let (before, theirs) = (ours(&lab), others(&lab));
    assert!(before.contains("chain") && theirs.contains("masquerade"));
    Some(Stage { lab, _daemon: daemon, payments, before, theirs })
}

impl Stage {
    fn drift(&self) -> u64 {
        self.lab.status()["drift"]["count"].as_u64().expect("a number")
    }

    /// Waits until our table is what it was; returns how long that took.
    fn repaired(&self, what: &str) -> Duration {
        let began = Instant::now();
        let repaired = within(REPAIRED, || (ours(&self.lab) == self.before).then_some(()));
        assert!(repaired.is_some(), "{what}\n{}", differences(&self.before, &ours(&self.lab)));
        began.elapsed()
    }

    /// Does something to our table; it is noticed, repaired and on record, once.
    fn heals(&self, text: &str) {
        let before = self.drift();
        let done = nft(&self.lab, text);
        if done.code != 0 && text.contains("flowtable") {
            return skipped("this kernel has no flowtables");
        }
        done.ok();
        until(&format!("{text}: noticed"), REPAIRED, || self.drift() > before);
        self.repaired(text);
        assert_eq!(others(&self.lab), self.theirs, "{text}");
        let repaired = entries(&self.lab, "drift.repaired");
        let last = &repaired.last().expect("a repair")["detail"];
        assert!(last["gap_ms"].as_u64().is_some_and(|gap| gap > 0), "{last}");
        assert!(last["what"].as_str().is_some_and(|what| !what.is_empty()), "{last}");
        assert!(last["objects"].as_array().is_some_and(|objects| !objects.is_empty()), "{last}");
        assert_eq!(repaired.len(), entries(&self.lab, "drift.detected").len());
    }
}

/// Lines that only one of the two has.
pub fn differences(before: &str, after: &str) -> String {
    let only = |mark: char, here: &str, there: &str| {
        let lines = here.lines().filter(|line| !there.lines().any(|other| other == *line));
        lines.map(|line| format!("{mark}{line}\n")).collect::<String>()
    };
    only('-', before, after) + &only('+', after, before)
}

#[test]
fn whatever_is_done_to_the_table_is_undone() {
    let Some(stage) = stage(false) else { return };
    let p = "inet picoseg";
    let remote = at(stage.lab.provider4(0), 443);
    let (ours, theirs) = (stage.lab.process(&stage.payments), stage.lab.provider());
    theirs.echo(remote);
    assert!(ours.talks_to(remote));
    for edit in [
        format!("delete table {p}"),
        format!("flush table {p}"),
        format!("add table {p} {{ flags dormant; }}"),
        format!("add rule {p} output accept"),
        format!("insert rule {p} output accept"),
        format!("add chain {p} output {{ policy drop; }}"),
        format!("flush chain {p} output"),
        format!("add chain {p} evil\nadd rule {p} evil accept\ninsert rule {p} output jump evil"),
        format!("add chain {p} evil-hook {{ type nat hook prerouting priority 5; }}"),
        format!(
            "add set {p} evil {{ type ipv4_addr; flags interval; elements = {{ 10.0.0.0/8 }} }}\ninsert rule {p} input ip saddr @evil accept"
        ),
        format!("add map {p} evil-map {{ type ipv4_addr : verdict; elements = {{ 10.0.0.1 : accept }} }}"),
        format!("add counter {p} evil"),
        format!("add quota {p} evil {{ over 1 mbytes }}"),
        format!("add flowtable {p} evil {{ hook ingress priority 0; devices = {{ lo }}; }}"),
        format!("rename chain {p} output other"),
        format!(
            "flush chain {p} output\ndelete chain {p} output\nadd chain {p} output {{ type filter hook output priority 10; }}"
        ),
    ] {
        stage.heals(&edit);
    }
    assert!(ours.talks_to(remote));
}
