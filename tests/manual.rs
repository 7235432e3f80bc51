//! The manual pages say what the programs and the parser of files know: all of it, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use picoseg::config::keys::{self, TableKeys};

#[path = "e2e/lab/skip.rs"]
#[expect(dead_code, reason = "shared with tests/e2e")]
mod skip;

type Words = BTreeSet<String>;

const PICOSEG: &str = env!("CARGO_BIN_EXE_picoseg");
const PROGRAMS: [(&str, &str); 2] = [
    ("picosegd.8", env!("CARGO_BIN_EXE_picosegd")),
    ("picoseg-execd.8", env!("CARGO_BIN_EXE_picoseg-execd")),
];

fn pages() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/man")
}

fn page(name: &str) -> String {
    let path = pages().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn help(program: &str, words: &[&str]) -> String {
    let said = Command::new(program).args(words).arg("--help").env("COLUMNS", "500").output().unwrap();
    assert!(said.status.success(), "{program} {words:?} --help");
    String::from_utf8(said.stdout).unwrap()
}

/// The long options that a help text lists, without their dashes.
fn options(help: &str) -> Words {
    let listed = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let long = listed.filter_map(|line| line.split([' ', ',']).find_map(|word| word.strip_prefix("--")));
    long.map(str::to_owned).collect()
}

/// The commands that a help text lists.
fn commands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
    listed.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// The long options that a line `.It Fl h , -help` or `.It Fl -at Ar TIME` describes.
fn described(item: &str) -> Option<Words> {
    let words = item.strip_prefix(".It Fl ")?.split(' ');
    Some(words.filter_map(|word| word.strip_prefix('-')).map(str::to_owned).collect())
}

/// Each command of picoseg(1) with its options; those before the commands stand under "".
fn documented_commands() -> BTreeMap<String, Words> {
    let (mut found, mut current) = (BTreeMap::from([(String::new(), Words::new())]), String::new());
    for line in page("picoseg.1").lines() {
        if let Some(item) = line.strip_prefix(".It Cm ") {
            let is_word = |word: &&str| word.starts_with(|c: char| c.is_ascii_lowercase());
            current = item.split(' ').take_while(is_word).collect::<Vec<_>>().join(" ");
            found.insert(current.clone(), Words::new());
        }
        if let Some(words) = described(line) {
            found.get_mut(&current).unwrap().extend(words);
        }
    }
    found
}

/// Each command that the program has with the options that are its own.
fn known_commands() -> BTreeMap<String, Words> {
    let top = help(PICOSEG, &[]);
    let everywhere = options(&top);
    let own = |words: &[&str]| &options(&help(PICOSEG, words)) - &everywhere;
    let mut found = BTreeMap::from([(String::new(), everywhere.clone()), ("help".to_owned(), Words::new())]);
    for command in commands(&top).iter().filter(|command| *command != "help") {
        let below = commands(&help(PICOSEG, &[command]));
        for word in below.iter().filter(|word| *word != "help") {
            found.insert(format!("{command} {word}"), own(&[command, word]));
        }
        if below.is_empty() {
            found.insert(command.clone(), own(&[command]));
        }
    }
    found
}

#[test]
fn picoseg_1_has_every_command_and_option_and_no_other() {
    let (documented, known) = (documented_commands(), known_commands());
    assert!(known.len() > 15 && known["attempts"].contains("follow"), "{known:#?}");
    for (command, options) in &known {
        assert_eq!(documented.get(command), Some(options), "docs/man/picoseg.1: {command:?}");
    }
    let beside: Vec<_> = documented.keys().filter(|command| !known.contains_key(*command)).collect();
    assert!(beside.is_empty(), "docs/man/picoseg.1 has what picoseg has not: {beside:?}");
}

#[test]
fn the_pages_of_the_daemons_have_every_option_and_no_other() {
    for (name, program) in PROGRAMS {
        let documented: Words = page(name).lines().filter_map(described).flatten().collect();
        assert_eq!(documented, options(&help(program, &[])), "docs/man/{name}");
    }
}

/// The keys of each table of a page: its subsections, and their items.
fn documented_keys(name: &str) -> BTreeMap<String, Words> {
    let (mut found, mut table) = (BTreeMap::new(), None);
    for line in page(name).lines() {
        if line.starts_with(".S") {
            table = line.strip_prefix(".Ss ").map(|title| title.replace("Top level", ""));
        }
        if let (Some(item), Some(table)) = (line.strip_prefix(".It Ic "), &table) {
            let keys: &mut Words = found.entry(table.clone()).or_default();
            for key in item.split(" , Ic ") {
                assert!(keys.insert(key.to_owned()), "docs/man/{name}: {table} {key} twice");
            }
        }
    }
    found
}

fn known_keys(tables: &[TableKeys]) -> BTreeMap<String, Words> {
    let words = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect();
    tables.iter().map(|(table, keys)| ((*table).to_owned(), words(keys))).collect()
}

#[test]
fn the_pages_of_files_have_every_key_that_the_parser_knows_and_no_other() {
    let (services, segments) = (keys::of_services(), keys::of_segments());
    assert_eq!(documented_keys("picoseg-service.5"), known_keys(&services));
    assert_eq!(documented_keys("picoseg-segment.5"), known_keys(&segments));
    // At the top level of the settings are tables only: sections of the page.
    let settings = keys::of_settings();
    let tables: Words = settings[0].1.iter().map(|table| format!("[{table}]")).collect();
    let documented = documented_keys("picoseg.toml.5");
    assert_eq!(documented.keys().cloned().collect::<Words>(), tables);
    assert_eq!(documented, known_keys(&settings[1..]));
}

/// The examples of the pages, between `.Bd -literal` and `.Ed`.
fn examples(name: &str) -> Vec<String> {
    let text = page(name);
    let blocks = text.split(".Bd -literal -offset indent\n").skip(1);
    blocks.map(|block| block.split(".Ed").next().unwrap().to_owned()).collect()
}

#[test]
fn the_examples_of_the_pages_are_valid() {
    let dir = tempfile::tempdir().unwrap();
    let pages = [
        ("picoseg-service.5", "pay.toml"),
        ("picoseg.toml.5", "picoseg.toml"),
        ("picoseg-segment.5", "segments.d/pay.toml"),
    ];
    for (name, file) in pages {
        let settings = dir.path().join("settings.toml");
        let segments = dir.path().join("segments.d");
        std::fs::write(&settings, format!("[paths]\nsegments = {segments:?}\n")).unwrap();
        let path = dir.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &examples(name)[0]).unwrap();
        let mut check = Command::new(PICOSEG);
        let said = check.arg("--config").arg(&settings).arg("check").arg(&path).output().unwrap();
        assert!(said.status.success(), "{name}: {}", String::from_utf8_lossy(&said.stderr));
    }
}

#[test]
fn every_page_is_clean_and_refers_to_pages_that_are_there() {
    let ours: Words = std::fs::read_dir(pages()).unwrap().map(name_of).collect();
    assert!(ours.len() >= 6);
    for name in &ours {
        let text = page(name);
        let referred = text.lines().filter_map(|line| line.strip_prefix(".Xr picoseg"));
        for (end, section) in referred.filter_map(|line| line.split_once(' ')) {
            let other = format!("picoseg{end}.{}", &section[..1]);
            assert!(ours.contains(&other), "{name} refers to {other}");
        }
    }
    if !skip::have("man") {
        return;
    }
    for name in &ours {
        // The way Debian's own checks look at pages.
        let mut man = Command::new("man");
        man.args(["--warnings", "--encoding=UTF-8", "--local-file", "--troff-device=utf8", "--ditroff"]);
        let said = man.arg(pages().join(name)).env("MANROFFSEQ", "").env("MANWIDTH", "80").output().unwrap();
        assert!(said.status.success(), "{name}");
        assert_eq!(String::from_utf8_lossy(&said.stderr), "", "{name}");
    }
}

fn name_of(entry: std::io::Result<std::fs::DirEntry>) -> String {
    entry.unwrap().file_name().to_string_lossy().into_owned()
}
