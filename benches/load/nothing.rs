//! From nothing, and `nft -f` on the same table.

use std::process::Command;
use std::time::{Duration, Instant};

use picoseg::kernel::clock;

use super::host::Host;
use super::units::Units;
use super::{Wanted, text};

pub const HEAD: &str = " services |    compile       plan      build     kernel      total |  read back  MB sent  peak MB       MB |     nft -f  nft MB    part";

pub fn run(size: usize, wanted: Wanted) {
    let units = (size <= wanted.nft).then(Units::new);
    let place = |index: usize| match &units {
        Some(units) => units.make(&format!("s{index}.service")),
        None => super::changes::place(index),
    };
    let (mut host, load) = Host::load(size, wanted.distinct, &place);
    let (peak, resident) = (megabytes("VmHWM:"), megabytes("VmRSS:"));
    host.table.remove().expect("remove");
    let nft = units.is_some().then(|| load_with_nft(&host));
    let beside = match nft {
        Some((took, bytes)) => format!(
            "{:>10} {:>7.1} {:>7.3}",
            text(took),
            bytes as f64 / 1e6,
            load.total.as_secs_f64() / took.as_secs_f64()
        ),
        None => "not run".to_owned(),
    };
    println!(
        "{size:>9} | {:>10} {:>10} {:>10} {:>10} {:>10} | {:>10} {:>8.1} {peak:>8} {resident:>8} | {beside}",
        text(load.compile),
        text(load.plan),
        text(load.committed.build),
        text(load.committed.kernel),
        text(load.total),
        text(load.read_back),
        load.committed.bytes as f64 / 1e6,
    );
}

/// How long it takes, and how long the text is.
fn load_with_nft(host: &Host) -> (Duration, usize) {
    let printed = host.in_force.print(clock::now()).to_string();
    let path = std::env::temp_dir().join(format!("picoseg-load-{}.nft", std::process::id()));
    std::fs::write(&path, &printed).expect("a file");
    let began = Instant::now();
    let output = Command::new("nft").arg("-f").arg(&path).output().expect("nft");
    let took = began.elapsed();
    std::fs::remove_file(&path).expect("remove");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nft -f: {}", said.lines().take(5).collect::<Vec<_>>().join("\n"));
    (took, printed.len())
}

/// Memory of the process.
fn megabytes(which: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(which));
    let kilobytes: u64 =
        line.and_then(|l| l.split_whitespace().nth(1)).and_then(|n| n.parse().ok()).unwrap_or(0);
    kilobytes / 1024
}
