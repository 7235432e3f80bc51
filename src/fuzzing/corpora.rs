//! What the fuzzer found worth keeping goes through its target in every run of the tests.

use std::fs;
use std::path::{Path, PathBuf};

use super::TARGETS;

/// All corpora together, and one input: so that replaying them stays a matter of seconds.
const MOST_TOGETHER: usize = 3 << 20;
const MOST_OF_ONE: usize = 256 << 10;

/// A corpus has at least so many inputs: an empty directory would replay nothing.
const FEWEST: usize = 20;

#[test]
fn no_kept_input_panics_and_the_corpora_stay_small() {
    let mut together = 0;
    for (name, target) in TARGETS {
        let inputs = inputs(name);
        assert!(inputs.len() >= FEWEST, "{} inputs of {name}", inputs.len());
        for path in inputs {
            let bytes = fs::read(&path).expect("a file of the repository");
            assert!(bytes.len() <= MOST_OF_ONE, "{} has {} bytes", path.display(), bytes.len());
            together += bytes.len();
            // The name of the input is what whoever reads a failure needs.
            let outcome = std::panic::catch_unwind(|| target(&bytes));
            assert!(outcome.is_ok(), "{} of {name} panics", path.display());
        }
    }
    assert!(together <= MOST_TOGETHER, "{together} bytes");
}

fn inputs(target: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    paths
}
