//! Other programs change our table: it is noticed, repaired and on record, and theirs stay as they are.

use std::fmt::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::agent::{Heard, Kind, Packets};
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

/// Waits until what closed at the start is no longer dropped in silence, which lasts two seconds.
pub fn settles(lab: &Lab) {
    let passing = || {
        let raw = listed(lab, &["list", "table", "inet", "picoseg"]);
        let short = |line: &&str| [" timeout 1s", " timeout 2s"].iter().any(|time| line.contains(time));
        raw.lines().filter(short).map(str::to_owned).collect::<Vec<_>>()
    };
    // A listing alone can take ten seconds where there are thousands of cgroups: nft looks for each id in all of them.
    let settled = within(12 * REPAIRED, || passing().is_empty().then_some(()));
    assert!(settled.is_some(), "it does not pass: {:#?}", passing());
}

/// Everything but our table.
pub fn others(lab: &Lab) -> String {
    let tables = listed(lab, &["list", "tables"]);
    let foreign = tables.lines().filter(|line| !line.ends_with(" inet picoseg"));
    foreign.map(|line| listed(lab, &[&["list"], &line.split(' ').collect::<Vec<_>>()[..]].concat())).collect()
}

pub fn entries(lab: &Lab, kind: &str) -> Vec<Value> {
    let body = lab.picoseg(&["audit", "show", "--limit", "10000", "--json"]).ok().json();
    let entries = body["entries"].as_array().expect("a list");
    entries.iter().filter(|entry| entry["kind"] == kind).cloned().collect()
}

pub struct Stage {
    pub lab: Lab,
    daemon: Daemon,
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
    settles(&lab);
    let (before, theirs) = (ours(&lab), others(&lab));
    assert!(before.contains("chain") && theirs.contains("masquerade"));
    Some(Stage { lab, daemon, payments, before, theirs })
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

#[test]
fn a_protected_table_is_refused_to_others_and_nothing_is_disturbed() {
    let Some(stage) = stage(true) else { return };
    if stage.lab.status()["weaker"].to_string().contains("persist") {
        return skipped("this kernel has no table flag `persist`");
    }
    let remote = at(stage.lab.provider4(0), 443);
    let (ours, theirs) = (stage.lab.process(&stage.payments), stage.lab.provider());
    theirs.echo(remote);
    let p = "inet picoseg";
    for edit in [
        format!("delete table {p}"),
        format!("add table {p} {{ flags dormant; }}"),
        format!("insert rule {p} output accept"),
        format!("flush chain {p} output"),
        format!("add chain {p} evil"),
        format!("add counter {p} evil"),
    ] {
        assert_ne!(nft(&stage.lab, &edit).code, 0, "{edit}");
        assert!(ours.talks_to(remote), "{edit}");
    }
    nft(&stage.lab, "flush ruleset").ok();
    assert_eq!(self::ours(&stage.lab), stage.before);
    nft(&stage.lab, THEIRS).ok();
    stage.lab.picoseg(&["apply"]).ok();
    assert_eq!(stage.drift(), 0);
    assert_eq!(entries(&stage.lab, "drift.detected").len(), 0);
}

#[test]
fn changes_of_our_own_are_none_of_others() {
    let Some(stage) = stage(false) else { return };
    for _ in 0..3 {
        for verb in ["suspend", "resume"] {
            stage.lab.picoseg(&[verb, "stripe", "--reason", "test"]).ok();
            nft(&stage.lab, "add rule ip neighbour input counter").ok();
        }
    }
    // More than is listened to: everything is sent by us, and the number of the transaction says so.
    let many = |service: u32| {
        let policies = (0..40).map(|port| {
            egress(&stage.payments, stage.lab.provider4(5), &format!("{}/tcp", 1000 + service * 40 + port))
        });
        schedule(Lifetime::open(), &policies.collect::<Vec<_>>())
    };
    (0..20).for_each(|service| stage.lab.write(&format!("many{service}"), &many(service)));
    stage.lab.picoseg(&["apply"]).ok();
    (0..20).for_each(|service| stage.lab.remove(&format!("many{service}")));
    stage.lab.picoseg(&["apply"]).ok();
    assert_eq!(stage.drift(), 0);
    nft(&stage.lab, "insert rule inet picoseg output accept").ok();
    until("it still listens", REPAIRED, || stage.drift() == 1);
}

#[test]
fn what_packets_have_put_into_sets_is_put_back_and_what_others_put_in_goes() {
    let Some(lab) = Lab::new() else { return };
    lab.settings("[enforcement]\nprotect = false\n");
    let payments = lab.unit("payments");
    let (local, remote) = (at(lab.host4(), 9001), at(lab.provider4(0), 443));
    lab.write("quic", &schedule(Lifetime::open(), &[egress(&payments, remote.ip(), "443/udp")]));
    let _daemon = lab.daemon();
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    let (server, asking) = (theirs.udp(remote), ours.udp(local));
    asking.say_to(remote, "question").expect("admitted");
    assert!(server.hears("question"));
    let flows = || listed(&lab, &["list", "set", "inet", "picoseg", "udp-out4"]);
    let flow = format!("{} . 443 . {} . 9001", remote.ip(), local.ip());
    assert!(flows().contains(&flow), "{}", flows());
    nft(&lab, "flush set inet picoseg udp-out4").ok();
    until("the flow is back", REPAIRED, || flows().contains(&flow));
    server.say_to(local, "answer").expect("a socket");
    assert!(asking.hears("answer"));

    let never = format!("{} . 443 . {} . 9002", remote.ip(), local.ip());
    nft(&lab, &format!("add element inet picoseg udp-out4 {{ {never} }}")).ok();
    until("it is gone", REPAIRED, || !flows().contains(&never));
    let unasked = ours.udp(at(local.ip(), 9002));
    server.say_to(unasked.local(), "unasked").expect("a socket");
    assert_eq!(unasked.hear_within(Duration::from_millis(300)), Heard::Nothing);
    assert!(flows().contains(&flow));
    assert_eq!(lab.status()["drift"]["count"], 2);
}

/// What a table counted that was not read yet is gone with it; the log records of the same packets are not.
#[test]
fn attempts_that_a_deleted_table_had_counted_are_known_from_the_log() {
    let Some(lab) = Lab::new() else { return };
    lab.settings("[enforcement]\nprotect = false\n");
    let webhook = lab.unit("webhook");
    lab.write("hooks", &schedule(Lifetime::over(), &[ingress(&webhook, lab.provider4(0), "8443/tcp")]));
    let _daemon = lab.daemon();
    let theirs = lab.provider();
    let knock = |count| {
        let packets =
            Packets { kind: Kind::Syn, from: at(lab.provider4(0), 40_000), to: at(lab.host4(), 8443), count };
        theirs.raw(packets);
    };
    knock(5);
    lab.expect_attempts(5, &[("service", "hooks")]);
    for round in 1..=3_u64 {
        knock(20);
        nft(&lab, "delete table inet picoseg").ok();
        until("it is repaired", REPAIRED, || lab.status()["drift"]["count"] == round);
        knock(3);
        let wanted = 5 + round * 23;
        until("all are on record", Duration::from_secs(20), || {
            lab.attempts_with(&[("service", "hooks")]) >= wanted
        });
        assert_eq!(lab.attempts_with(&[("service", "hooks")]), wanted);
    }
}

#[test]
fn a_program_that_edits_in_a_loop_gets_an_answer_to_each_edit_and_not_the_processor() {
    let Some(stage) = stage(false) else { return };
    // One transaction for each line.
    let script = "yes 'insert rule inet picoseg output accept' | nft -i";
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let pid = stage.daemon.pid();
    let used = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        // utime and stime of proc(5), in hundredths of a second.
        fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("a number")).sum::<u64>()
    };
    let fight = stage.lab.in_host(|| Fight(shell.spawn().expect("sh is there")));
    until("it is a fight", Duration::from_secs(60), || {
        stage.lab.status()["weaker"].to_string().contains("again and again")
    });
    let (before, began, repairs) = (used(), Instant::now(), stage.drift());
    until("it goes on", Duration::from_secs(60), || stage.drift() > repairs + 50);
    let (share, rate) = {
        let elapsed = began.elapsed().as_secs_f64();
        ((used() - before) as f64 / 100.0 / elapsed, (stage.drift() - repairs) as f64 / elapsed)
    };
    println!(
        "in a fight the daemon takes {:.0} % of a processor for {rate:.0} repairs a second",
        share * 100.0
    );
    assert!(share < 0.6, "{share}");
    drop(fight);
    stage.repaired("the fight is over");
    // Once, and again after ten seconds without an edit: on a machine that is busy otherwise there may be some.
    let told = stage.daemon.said().matches("again and again").count();
    assert!((1..4).contains(&told), "told {told} times");
    assert!(entries(&stage.lab, "drift.repaired").len() as u64 >= repairs + 50);
}

struct Fight(std::process::Child);

impl Drop for Fight {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.0.wait();
    }
}
