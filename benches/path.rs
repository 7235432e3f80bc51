//! What a packet pays for a table in its way: picoseg, an empty table, rules as an administrator writes them, and any file of
//! nft rules, beside no firewall, in the same run.
//!
//! `sudo cargo bench --bench path [-- [rounds=N] [slice=MS] [modes=A,B] VARIANT ...]`. The modes are the words in brackets above
//! the tables; `wall4` and `stream4` go by the wall clock. The variants:
//!
//! - `none`, which is always there, and `empty`, two empty chains;
//! - `picoseg:N`: N services of one address; `levels:N`: their units at three depths; `prefix:N`: the measured one lists a /24;
//!   `ingress:N`: the provider connects;
//! - peers with N rules: `linear:N`, `iptables-legacy:N`, `iptables-nft:N`, `firewalld:N`, `ufw:N`, `opensnitch:N`;
//! - `least:N`: one set and nothing else; `reference:N`, `reference-prefix:N`: an early shape of our own, to compare machines by;
//! - `file:NAME:PATH.nft`, whose `@CGROUP@`, `@ADDR@`, `@ADDR6@` and `@PORT@` are replaced;
//! - `micro` alone: what single expressions cost.
//!
//! One thread owns the sockets of every namespace and visits the variants in short slices, the order reversed each round. A veth
//! hands a packet over within the sender's system call, so the thread's CPU time is the whole path, both ends, and what else
//! the machine does cancels. A figure is the median over the rounds; "added" is the median of the differences to `none` in the
//! same round, with its quartiles.

use std::time::Duration;

#[path = "../tests/e2e/lab/netns.rs"]
mod netns;

#[path = "path/lab.rs"]
mod lab;
#[path = "path/micro.rs"]
mod micro;
#[path = "path/peers.rs"]
mod peers;
#[path = "path/places.rs"]
mod places;
#[path = "path/rounds.rs"]
mod rounds;
#[path = "path/services.rs"]
mod services;
#[path = "path/shapes.rs"]
mod shapes;
#[path = "path/table.rs"]
mod table;
#[path = "path/traffic.rs"]
mod traffic;
#[path = "path/variant.rs"]
mod variant;

use lab::Lab;
use traffic::Mode;
use variant::Variant;

const VARIANTS: [&str; 9] = [
    "empty",
    "picoseg:10",
    "picoseg:1000",
    "picoseg:10000",
    "picoseg:100000",
    "prefix:10",
    "prefix:1000",
    "prefix:10000",
    "ingress:1000",
];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key)).map(str::to_owned);
    let number = |key: &str, default: u64| value(key).map_or(default, |text| text.parse().expect("a number"));
    let by_the_cpu = || Mode::ALL.into_iter().filter(|mode| !mode.is_by_the_wall()).collect();
    let modes: Vec<Mode> =
        value("modes=").map_or_else(by_the_cpu, |text| text.split(',').map(Mode::parse).collect());
    let mut wanted: Vec<&str> =
        words.iter().map(String::as_str).filter(|word| !word.contains('=') && *word != "none").collect();
    let micro = wanted == ["micro"];
    let expressions = micro::words();
    if micro {
        wanted = expressions.iter().map(String::as_str).collect();
        wanted.insert(0, "empty");
    } else if wanted.is_empty() {
        wanted.extend(VARIANTS);
    }
    wanted.insert(0, "none");
    let variants: Vec<Variant> = wanted.into_iter().map(Variant::parse).collect();
    let lab = match Lab::new(variants) {
        Ok(lab) => lab,
        Err(why) => return println!("SKIPPED: {why}"),
    };
    let plan = rounds::Plan {
        rounds: usize::try_from(number("rounds=", 15)).expect("a number"),
        slice: Duration::from_millis(number("slice=", 15)),
    };
    if micro {
        return print!("{}", micro::markdown(&plan.measure(&lab, Mode::parse("udp4-free"))));
    }
    for mode in modes {
        print!("{}", table::markdown(mode, &plan.measure(&lab, mode)));
    }
}
