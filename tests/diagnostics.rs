//! Bad files to exact diagnostics: each folder of `tests/golden/diagnostics` is a configuration and what is said about it.
//!
//! `UPDATE_GOLDEN=1` writes the expected texts anew; read the diff as what an operator will see.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use picoseg::config::{Diagnostic, Files, Source, load};

#[test]
fn every_mistake_is_said_as_expected() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/diagnostics");
    let folders = entries(&root);
    assert!(folders.len() > 50, "only {} folders in {}", folders.len(), root.display());
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let wrong: Vec<String> = folders.iter().filter_map(|folder| check(folder, update).err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Compares one folder, or writes what it says.
fn check(folder: &Path, update: bool) -> Result<(), String> {
    let said = render(&load(&files(folder)).map(|loaded| loaded.warnings));
    let path = folder.join("expected.txt");
    if update {
        return fs::write(&path, said).map_err(|error| format!("{}: {error}", path.display()));
    }
    let expected = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    if said == expected {
        return Ok(());
    }
    Err(format!("=== {}\n--- expected\n{expected}--- said\n{said}", folder.display()))
}

fn render(result: &Result<Vec<Diagnostic>, Vec<Diagnostic>>) -> String {
    let (verdict, diagnostics) = match result {
        Ok(warnings) => ("accepted", warnings),
        Err(diagnostics) => ("refused", diagnostics),
    };
    let lines = diagnostics.iter().map(|one| format!("{one}\n"));
    std::iter::once(format!("{verdict}\n")).chain(lines).collect()
}

fn files(folder: &Path) -> Files {
    let below = |name: &str| -> Vec<Source> {
        let paths = entries(&folder.join(name));
        paths.iter().map(|path| source(folder, path)).collect()
    };
    let settings = folder.join("picoseg.toml");
    let lists: BTreeMap<String, Source> = below("lists")
        .into_iter()
        .map(|source| (source.path.file_stem().unwrap().to_string_lossy().into_owned(), source))
        .collect();
    Files {
        settings: settings.exists().then(|| source(folder, &settings)),
        services: below("services.d"),
        segments: below("segments.d"),
        lists,
    }
}

fn source(folder: &Path, path: &Path) -> Source {
    Source {
        path: path.strip_prefix(folder).unwrap().to_owned(),
        text: fs::read(path).map_err(|error| error.to_string()),
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}
