//! The direction of dependencies: the core knows no edge, and `model` and `ruleset` know nobody above them.

use std::fs;
use std::path::{Path, PathBuf};

/// Module, and the modules of this crate that it may name.
const CORE: [(&str, &[&str]); 14] = [
    ("model", &[]),
    ("history", &["model"]),
    ("names", &["model"]),
    ("ranges", &[]),
    ("escape", &[]),
    ("report", &["escape", "model"]),
    ("ruleset", &["model"]),
    ("config", &["model"]),
    ("schedule", &["model"]),
    ("plan", &["ruleset", "model"]),
    ("compile", &["model", "ranges", "ruleset", "schedule"]),
    ("owners", &["compile", "model", "schedule"]),
    ("explain", &["compile", "model", "schedule"]),
    ("reconcile", &["compile", "model", "names", "owners", "ruleset", "schedule"]),
];

/// The helper runs with more rights than the rest: it is made of little.
const HELPER: (&str, &[&str]) = ("execd", &["kernel", "files", "model"]);

/// What the core never names: it takes the time as an argument and performs nothing.
const EDGE: [&str; 8] = ["tokio", "sqlx", "axum", "rustix", "nix", "std::fs", "Utc::now", "SystemTime::now"];

fn sources(module: &str) -> Vec<(PathBuf, String)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut waiting = vec![source.join(module), source.join(format!("{module}.rs"))];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.is_file() && !path.ends_with("tests.rs") {
            found.push((path.clone(), fs::read_to_string(&path).unwrap()));
        }
    }
    found
}

/// The code without comments and in-module tests, which may use what they like.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let lines = text[..end].lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_core_and_the_helper_name_only_what_stands_below_them() {
    for (module, allowed) in CORE.into_iter().chain([HELPER]) {
        let files = sources(module);
        assert!(!files.is_empty(), "no module {module}");
        for (path, text) in files {
            for part in code(&text).split("crate::").skip(1) {
                let named: String =
                    part.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                let fits = named == module || allowed.contains(&named.as_str());
                assert!(fits, "{}: `crate::{named}` is above or beside {module}", path.display());
            }
        }
    }
}

#[test]
fn the_core_performs_nothing() {
    for (module, _) in CORE {
        for (path, text) in sources(module) {
            for word in EDGE {
                assert!(!code(&text).contains(word), "{}: the core names {word}", path.display());
            }
        }
    }
}
