//! The Puppet module takes every key that files may have, and no other.

use std::collections::BTreeSet;
use std::path::Path;

use picoseg::config::keys::{self, TableKeys};

/// What is a parameter and no key.
const ENSURE: &str = "ensure";

fn read(path: &str) -> String {
    let path = Path::new("deploy/puppet").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The parameters of a class or a defined type.
fn parameters(manifest: &str) -> BTreeSet<String> {
    let text = read(&format!("manifests/{manifest}.pp"));
    let declared =
        text.lines().skip_while(|line| !line.ends_with('(')).take_while(|line| !line.starts_with(')'));
    let name = |line: &str| Some(line.split_once(" $")?.1.split([' ', ',']).next()?.to_owned());
    declared.filter_map(name).filter(|name| name != ENSURE).collect()
}

/// The keys of the structs of a data type.
fn members(alias: &str) -> BTreeSet<String> {
    let text = read(&format!("types/{alias}.pp"));
    let before_arrows = text.split("=>").filter_map(|part| part.trim_end().rsplit(['\n', '{', ',']).next());
    let quoted = before_arrows.filter_map(|part| Some(part.split('\'').nth(1)?.to_owned()));
    quoted.collect()
}

fn of(table: &str, tables: &[TableKeys]) -> BTreeSet<String> {
    let (_, keys) = tables.iter().find(|(name, _)| *name == table).expect("a table of the parser");
    keys.iter().map(|key| (*key).to_owned()).collect()
}

#[test]
fn the_module_takes_every_key_and_no_other() {
    let (settings, services, segments) = (keys::of_settings(), keys::of_services(), keys::of_segments());
    assert_eq!(parameters("service"), of("", &services));
    assert_eq!(parameters("segment"), of("", &segments));
    for (table, _) in &services[1..] {
        let alias = table.trim_matches(['[', ']']);
        assert_eq!(members(alias), of(table, &services), "{table}");
    }
    assert_eq!(members("allow"), of("[[allow]]", &segments));
    let class = parameters("init");
    for (table, _) in &settings[1..] {
        match table.trim_matches(['[', ']']) {
            // A metaparameter of every resource.
            "notify" => assert!(class.contains("notify_command")),
            name => {
                assert!(class.contains(name), "{table}");
                assert_eq!(members(name), of(table, &settings), "{table}");
            }
        }
    }
    assert!(read("metadata.json").contains(&format!("\"version\": \"{}\"", env!("CARGO_PKG_VERSION"))));
}
