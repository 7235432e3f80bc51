//! Random edits of our table, one after the other: each is noticed and undone, and the tables of others stay as they are.
//!
//! `PICOSEG_MUTATIONS` says how many (default 100), `PICOSEG_SEED` which.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use picoseg::kernel::netlink::{Connection, Messages, Protocol};
use serde_json::{Value, json};

use crate::heal::{Stage, differences, entries, listed, nft, nft_json, others, ours, stage};
use crate::lab::clock::within;

/// From an edit until the table is as before, on a loaded machine.
const REPAIRED: Duration = Duration::from_secs(10);
const P: &str = "inet picoseg";

/// A sequence of numbers that look random (xorshift64*, Marsaglia and Vigna).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        (number % below as u64) as usize
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        (!all.is_empty()).then(|| &all[self.roll(all.len())])
    }
}

/// Who committed a transaction, and when that was heard.
type Commit = (String, Instant);

/// Hears of every transaction of the network namespace in which it is opened.
struct Ear {
    heard: Receiver<Commit>,
    stop: std::sync::Arc<AtomicBool>,
}

impl Ear {
    fn open() -> Self {
        // NFNLGRP_NFTABLES, NFT_MSG_NEWGEN, NFTA_GEN_PROC_NAME of linux/netfilter.
        const GROUP: u32 = 1 << 6;
        let connection = Connection::open(Protocol::Netfilter).expect("a netlink socket");
        connection.set_receive_buffer(16 << 20).expect("a large buffer");
        connection.listen_to(GROUP).expect("root may listen");
        let (tell, heard): (Sender<Commit>, _) = channel();
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        thread::spawn(move || {
            let mut buffer = vec![0; 128 << 10];
            while !stopped.load(Ordering::Relaxed) {
                let Ok(length) = connection.try_receive(&mut buffer) else {
                    thread::sleep(Duration::from_micros(200));
                    continue;
                };
                let now = Instant::now();
                for message in Messages::new(&buffer[..length]).filter(|message| message.kind == 0x0a0f) {
                    let name = message.attributes(4).find(|attribute| attribute.kind == 3);
                    let _ = tell.send((name.map(|name| name.text()).unwrap_or_default(), now));
                }
            }
        });
        Self { heard, stop }
    }

    fn all(&self) -> Vec<Commit> {
        self.heard.try_iter().collect()
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What there is in the table, to be edited.
struct Objects {
    chains: Vec<String>,
    bases: Vec<(String, String, i64)>,
    counters: Vec<String>,
    sets: Vec<(String, String, Vec<Value>)>,
}

impl Objects {
    fn of(stage: &Stage) -> Self {
        let text = listed(&stage.lab, &["-j", "list", "table", "inet", "picoseg"]);
        let listing: Value = serde_json::from_str(&text).expect("nft speaks JSON");
        let mut found = Self { chains: vec![], bases: vec![], counters: vec![], sets: vec![] };
        for object in listing["nftables"].as_array().expect("a list") {
            let Some((kind, object)) = object.as_object().and_then(|object| object.iter().next()) else {
                continue;
            };
            let name = object["name"].as_str().unwrap_or_default().to_owned();
            match kind.as_str() {
                "chain" => {
                    if let (Some(hook), Some(priority)) = (object["hook"].as_str(), object["prio"].as_i64()) {
                        found.bases.push((name.clone(), hook.to_owned(), priority));
                    }
                    found.chains.push(name);
                }
                "counter" => found.counters.push(name),
                "set" | "map" if !object["flags"].to_string().contains("dynamic") => {
                    let elements = object["elem"].as_array().cloned().unwrap_or_default();
                    found.sets.push((kind.clone(), name, elements));
                }
                _ => {}
            }
        }
        found
    }

    /// One edit, in the language of nft or as JSON; `None`: try again.
    fn edit(&self, dice: &mut Dice, stage: &Stage) -> Option<String> {
        let chain = dice.pick(&self.chains)?;
        let (base, hook, priority) = dice.pick(&self.bases)?;
        let number = dice.roll(1 << 20);
        let verdict = ["accept", "drop", "return", "counter", "log"][dice.roll(5)];
        Some(match dice.roll(22) {
            0 => format!("delete table {P}"),
            1 => format!("flush table {P}"),
            2 => format!("add table {P} {{ flags dormant; }}"),
            3 => format!("add rule {P} {chain} {verdict}"),
            4 | 5 => format!("insert rule {P} {chain} {verdict}"),
            6 | 7 => format!("delete rule {P} {chain} handle {}", handle(dice, stage, chain)?),
            8 | 9 => format!("replace rule {P} {chain} handle {} {verdict}", handle(dice, stage, chain)?),
            10 => format!("flush chain {P} {chain}"),
            11 => format!("add chain {P} {base} {{ policy drop; }}"),
            12 => format!("rename chain {P} {chain} renamed-{number}"),
            13 => format!("add chain {P} foreign-{number}\nadd rule {P} foreign-{number} {verdict}"),
            14 => format!(
                "add chain {P} foreign-{number} {{ type filter hook {hook} priority {}; }}\n\
                 add rule {P} foreign-{number} {verdict}\n\
                 insert rule {P} {base} accept",
                priority - 5
            ),
            15 => format!(
                "add set {P} foreign-{number} {{ type ipv4_addr; elements = {{ 192.0.2.{} }} }}\n\
                 insert rule {P} {base} ip saddr @foreign-{number} {verdict}",
                number % 256
            ),
            16 => format!(
                "add counter {P} foreign-{number}\ninsert rule {P} {base} counter name foreign-{number}"
            ),
            17 => format!(
                "flush chain {P} {base}\ndelete chain {P} {base}\n\
                 add chain {P} {base} {{ type filter hook {hook} priority {}; policy accept; }}",
                priority + 20
            ),
            18 => format!(
                "add chain {P} foreign-{number}\nadd rule {P} foreign-{number} accept\n\
                 insert rule {P} {base} jump foreign-{number}"
            ),
            _ => self.edit_elements(dice, number)?,
        })
    }

    fn edit_elements(&self, dice: &mut Dice, number: usize) -> Option<String> {
        let filled: Vec<_> = self.sets.iter().filter(|(_, _, elements)| !elements.is_empty()).collect();
        let (kind, name, elements) = dice.pick(&filled)?;
        let element = dice.pick(elements)?;
        let set = json!({ "family": "inet", "table": "picoseg", "name": name });
        let with = |elements: Vec<Value>| {
            let mut object = set.clone();
            object["elem"] = json!(elements);
            json!({ "element": object })
        };
        let command = |verb: &str, what: Value| json!({ verb: what });
        let commands = match dice.roll(4) {
            0 => vec![command("delete", with(vec![element.clone()]))],
            1 => vec![command("flush", json!({ kind.as_str(): set.clone() }))],
            2 => {
                let again = with_timeout(element, 1 + number % 3000)?;
                vec![command("delete", with(vec![element.clone()])), command("add", with(vec![again]))]
            }
            _ => vec![command("add", with(vec![elsewhere(element, number)?]))],
        };
        Some(json!({ "nftables": commands }).to_string())
    }
}

/// The handle of one of the rules of a chain.
fn handle(dice: &mut Dice, stage: &Stage, chain: &str) -> Option<u64> {
    let text = listed(&stage.lab, &["-j", "-a", "list", "chain", "inet", "picoseg", chain]);
    let listing: Value = serde_json::from_str(&text).ok()?;
    let rules: Vec<u64> = listing["nftables"]
        .as_array()?
        .iter()
        .filter_map(|object| object["rule"]["handle"].as_u64())
        .collect();
    dice.pick(&rules).copied()
}

/// The same element with another timeout, if it has one.
fn with_timeout(element: &Value, seconds: usize) -> Option<Value> {
    let mut element = element.clone();
    let inner = match &mut element {
        Value::Array(pair) => pair.first_mut()?,
        other => other,
    };
    let inner = inner.get_mut("elem")?.as_object_mut()?;
    inner.remove("expires");
    inner.insert("timeout".into(), json!(seconds)).map(|_| element)
}

/// The same element for another address.
fn elsewhere(element: &Value, number: usize) -> Option<Value> {
    let text = element.to_string();
    let begin = text.find("\"10.").or_else(|| text.find("\"198."))? + 1;
    let end = begin + text[begin..].find('"')?;
    let address = format!("172.{}.{}.{}", 16 + number % 16, number / 256 % 256, number % 256);
    serde_json::from_str(&format!("{}{address}{}", &text[..begin], &text[end..])).ok()
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted
        .get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[test]
fn every_random_edit_is_noticed_and_undone() {
    let Some(stage) = stage(false) else { return };
    let (count, seed) = (from_environment("PICOSEG_MUTATIONS", 100), from_environment("PICOSEG_SEED", 4711));
    let mut dice = Dice(seed.max(1));
    let objects = Objects::of(&stage);
    assert!(objects.bases.len() > 2 && objects.sets.len() > 5, "the table has what can be edited");
    let ear = stage.lab.in_host(Ear::open);
    let (mut gaps, mut done, mut refused) = (Vec::new(), 0, 0);
    while done < count {
        let Some(edit) = objects.edit(&mut dice, &stage) else { continue };
        let json = edit.starts_with('{');
        let outcome = if json { nft_json(&stage.lab, &edit) } else { nft(&stage.lab, &edit) };
        if outcome.code != 0 {
            refused += 1;
            continue;
        }
        done += 1;
        let repaired = within(REPAIRED, || (ours(&stage.lab) == stage.before).then_some(()));
        assert!(
            repaired.is_some(),
            "seed {seed}, edit {done}: {edit}\n{}\n{:#?}",
            differences(&stage.before, &ours(&stage.lab)),
            entries(&stage.lab, "drift.repaired").last()
        );
        let mut commits = Vec::new();
        let answer = within(REPAIRED, || {
            commits.extend(ear.all());
            gap(&commits)
        });
        gaps.extend(answer.map(|gap| (gap, edit)));
    }
    gaps.sort();
    let only: Vec<Duration> = gaps.iter().map(|(gap, _)| *gap).collect();
    println!(
        "{count} edits ({refused} more were refused by nft), from the edit's transaction to the end of its repair: p50 {:?} p99 {:?} \
         max {:?} ({:?})",
        percentile(&only, 50),
        percentile(&only, 99),
        percentile(&only, 100),
        gaps.last().map(|(_, edit)| edit.lines().next())
    );
    let repairs = entries(&stage.lab, "drift.repaired");
    let mut told: Vec<u64> = repairs.iter().filter_map(|entry| entry["detail"]["gap_ms"].as_u64()).collect();
    told.sort_unstable();
    println!("in the ledger: gap_ms p99 {:?} max {:?}", told.get(told.len() * 99 / 100), told.last());
    assert!(repairs.len() as u64 >= count, "{} repairs of {count} edits", repairs.len());
    assert_eq!(stage.lab.status()["drift"]["count"], repairs.len());
    assert_eq!(others(&stage.lab), stage.theirs);
    assert_eq!(gaps.len() as u64, count, "an answer of the daemon to each");
}

/// From the first foreign transaction to the last of ours behind it.
fn gap(commits: &[Commit]) -> Option<Duration> {
    let begin = commits.iter().find(|(name, _)| name == "nft")?.1;
    let end = commits.iter().rev().find(|(name, at)| name.starts_with("picosegd") && *at >= begin)?.1;
    Some(end - begin)
}
