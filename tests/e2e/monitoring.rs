//! What is shipped for Prometheus and Grafana fits the metrics that there are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use picoseg::metrics::catalogue::{self, Kind};
use serde_json::Value;

use crate::lab::{Cli, promtool, put};

const RULES: &str = "deploy/prometheus/picoseg.rules.yml";
const DASHBOARD: &str = "deploy/grafana/picoseg.json";

fn shipped(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(path: &str) -> String {
    fs::read_to_string(shipped(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Every name that a query may ask for.
fn names() -> BTreeSet<String> {
    let of = |metric: &&catalogue::Metric| match metric.kind {
        Kind::Histogram => ["_bucket", "_sum", "_count"].map(|suffix| metric.name() + suffix).to_vec(),
        Kind::Counter | Kind::Gauge | Kind::Info => vec![metric.name()],
    };
    catalogue::ALL.iter().flat_map(of).collect()
}

/// The words of a text that look like metrics.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("picoseg_")).map(str::to_owned).collect()
}

#[test]
fn alerts_and_dashboard_use_only_metrics_that_there_are() {
    for path in [RULES, "deploy/prometheus/picoseg.test.yml", DASHBOARD] {
        let used = named(&text(path));
        assert!(used.len() >= 10, "{path}: {used:?}");
        let unknown: Vec<_> = used.difference(&names()).cloned().collect();
        assert!(unknown.is_empty(), "{path}: {unknown:?}");
    }
}

#[test]
fn labels_in_queries_are_labels_of_the_metrics() {
    let known: BTreeSet<&str> = catalogue::ALL.iter().flat_map(|metric| metric.labels).copied().collect();
    let queries = text(RULES) + &expressions(&dashboard()).join("\n");
    for label in ["state", "reason", "outcome", "service", "direction", "verdict"] {
        assert!(known.contains(label) && queries.contains(label), "{label}");
    }
}

#[test]
fn the_alert_rules_are_valid_and_fire_when_they_should() {
    let Some(promtool) = promtool() else { return };
    for (what, path) in [("check", RULES), ("test", "deploy/prometheus/picoseg.test.yml")] {
        let mut command = Command::new(&promtool);
        command.args([what, "rules"]).arg(shipped(path));
        let said = Cli::run(command).ok();
        assert!(!said.stderr.to_lowercase().contains("fail"), "{said:?}");
    }
}

#[test]
fn every_alert_is_tested() {
    let (rules, tests) = (text(RULES), text("deploy/prometheus/picoseg.test.yml"));
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 15, "{alerts:?}");
    for alert in alerts {
        let expected = [format!("alertname: {alert}\n"), format!("alertname=\"{alert}\"")];
        assert!(expected.iter().any(|words| tests.contains(words)), "{alert}");
    }
}

fn dashboard() -> Value {
    serde_json::from_str(&text(DASHBOARD)).expect("the dashboard is JSON")
}

fn panels(dashboard: &Value) -> &[Value] {
    dashboard["panels"].as_array().expect("panels")
}

fn expressions(dashboard: &Value) -> Vec<String> {
    let targets = panels(dashboard).iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().expect("a query").to_owned()).collect()
}

#[test]
fn the_dashboard_is_laid_out_without_overlap_and_bound_to_no_installation() {
    let dashboard = dashboard();
    assert!(dashboard["id"].is_null() && dashboard["schemaVersion"].as_u64() >= Some(36), "importable");
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels(&dashboard) {
        assert!(ids.insert(panel["id"].as_u64().expect("a number")), "{panel}");
        assert!(!panel["title"].as_str().expect("a title").is_empty());
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().expect("a place"));
        assert!(x + w <= 24 && w > 0 && h > 0, "{panel}");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(cells.insert(cell), "{} overlaps", panel["title"]);
        }
        if panel["type"] == "row" {
            continue;
        }
        let targets = panel["targets"].as_array().expect("queries");
        assert!(!targets.is_empty());
        for source in targets.iter().chain([panel]).map(|with| &with["datasource"]["uid"]) {
            assert_eq!(source, "${datasource}", "{panel}");
        }
    }
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let names: Vec<_> = variables.iter().map(|variable| variable["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["datasource", "job", "instance"]);
}

/// As recording rules, with a value for each variable.
#[test]
fn the_queries_of_the_dashboard_are_valid() {
    let Some(promtool) = promtool() else { return };
    let expressions = expressions(&dashboard());
    assert!(expressions.len() >= 20);
    let mut rules = "groups:\n  - name: dashboard\n    rules:\n".to_owned();
    for (number, expression) in expressions.iter().enumerate() {
        let mut query = expression.clone();
        for (variable, value) in
            [("$__rate_interval", "1m"), ("$__range", "1h"), ("$job", "picoseg"), ("$instance", "a")]
        {
            query = query.replace(variable, value);
        }
        assert!(!query.contains('$'), "{expression}");
        let query = Value::from(query).to_string();
        rules += &format!("      - record: panel:q{number}:query\n        expr: {query}\n");
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("rules.yml");
    put(&path, &rules);
    let mut command = Command::new(promtool);
    command.args(["check", "rules"]).arg(&path);
    Cli::run(command).ok();
}

/// One row of the table for each metric, in its words.
#[test]
fn the_documentation_lists_every_metric_as_it_is() {
    let rows = catalogue::ALL.iter().map(|metric| {
        let labels = metric.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let unit = metric.unit.unwrap_or_default();
        let cells = [&format!("`{}`", metric.name()), metric.kind.as_str(), unit, &labels, metric.help];
        cells.iter().fold("|".to_owned(), |row, cell| match cell.is_empty() {
            true => row + " |",
            false => format!("{row} {cell} |"),
        })
    });
    let expected: Vec<String> = rows.collect();
    let page = text("docs/metrics.md");
    let found: Vec<&str> = page.lines().filter(|line| line.starts_with("| `picoseg_")).collect();
    assert_eq!(found, expected, "docs/metrics.md should have\n{}", expected.join("\n"));
}
