//! Who had access to what, when: the ledger says of past instants what was in force then.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::lab::clock::{Time, in_ms, now, reach, rfc3339, soon, until};
use crate::lab::schedule::{Lifetime, egress, schedule, window};
use crate::lab::{Lab, MOMENT};

/// What `audit show --at` says.
fn at(lab: &Lab, instant: Time) -> Value {
    lab.picoseg(&["audit", "show", "--at", &rfc3339(instant), "--json"]).ok().json()
}

fn state(body: &Value, name: &str) -> Option<String> {
    service(body, name).map(|service| service["state"].as_str().expect("a state").to_owned())
}

fn service<'b>(body: &'b Value, name: &str) -> Option<&'b Value> {
    body["services"].as_array().expect("services").iter().find(|service| service["name"] == name)
}

fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().expect("coreutils");
    String::from_utf8_lossy(&output.stdout).split(' ').next().expect("a digest").to_owned()
}

fn instant(value: &Value) -> Time {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{value} is no time"))
}

/// Asks about instants again and again: what was said once is said always.
#[derive(Default)]
struct Remembered(Vec<(Time, Value)>);

impl Remembered {
    /// Remembers what is in force now, which `status` and `services` say too.
    fn note(&mut self, lab: &Lab) {
        let at = now();
        let status = lab.status();
        let states = lab.picoseg(&["services", "--json"]).ok().json();
        let states: Vec<_> = states["services"].as_array().expect("services").clone();
        let known = serde_json::json!({ "digest": status["ruleset_digest"], "services": states });
        self.0.push((at, known));
    }

    fn is_what_the_ledger_says(&self, lab: &Lab) {
        for (instant, known) in &self.0 {
            let told = at(lab, *instant);
            assert_eq!(told["ruleset_digest"], known["digest"], "at {instant}");
            let states = |services: &Value| -> Vec<(String, String)> {
                let all = services.as_array().expect("services").iter();
                all.map(|one| (one["name"].to_string(), one["state"].to_string())).collect()
            };
            assert_eq!(states(&told["services"]), states(&known["services"]), "at {instant}");
        }
    }
}

#[test]
fn the_ledger_says_of_every_instant_what_was_in_force() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let (first, second) = (lab.provider4(0), lab.provider4(1));
    let (opens, closes) = (soon(6_000), soon(9_000));
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, first, "443/tcp")]));
    lab.write(
        "zoom",
        &schedule(Lifetime::open(), &[window(opens, closes), egress(&payments, second, "443/tcp")]),
    );
    let before = in_ms(-1_000);
    let daemon = lab.daemon();
    let mut remembered = Remembered::default();
    remembered.note(&lab);

    lab.picoseg(&["suspend", "stripe", "--reason", "an incident"]).ok();
    remembered.note(&lab);
    lab.picoseg(&["resume", "stripe", "--reason", "over"]).ok();
    remembered.note(&lab);
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, first, "8443/tcp")]));
    lab.picoseg(&["apply"]).ok();
    remembered.note(&lab);
    let at_8443 = now();
    until("zoom is open", std::time::Duration::from_secs(20), || lab.state_of("zoom") == "open");
    remembered.note(&lab);
    until("zoom is closed", std::time::Duration::from_secs(20), || lab.state_of("zoom") == "closed");
    remembered.note(&lab);

    daemon.kill9();
    let _daemon = lab.daemon();
    remembered.note(&lab);
    lab.picoseg(&["decommission", "stripe", "--reason", "contract ended"]).ok();
    remembered.note(&lab);
    lab.remove("zoom");
    lab.picoseg(&["apply"]).ok();
    remembered.note(&lab);
    remembered.is_what_the_ledger_says(&lab);

    assert_eq!(at(&lab, before)["services"], serde_json::json!([]), "nothing was in force yet");
    let told = at(&lab, opens + chrono::TimeDelta::milliseconds(1));
    assert_eq!(state(&told, "zoom").as_deref(), Some("open"), "from the very instant on");
    let zoom = service(&told, "zoom").expect("zoom");
    assert_eq!((instant(&zoom["since"]), instant(&zoom["until"])), (opens, closes));
    let told = at(&lab, at_8443);
    let policy = &service(&told, "stripe").expect("stripe")["policies"][0];
    assert_eq!(policy["ports"], serde_json::json!(["8443/tcp"]));
    assert_eq!(policy["endpoints"], serde_json::json!([first.to_string()]));
    assert_eq!(policy["subject"], format!("unit:{}", payments.name()));
    let end = at(&lab, now());
    assert_eq!(end["ruleset_digest"], lab.status()["ruleset_digest"]);
    let stripe = service(&end, "stripe").expect("stripe");
    assert_eq!(
        (&stripe["state"], &stripe["policies"]),
        (&Value::from("decommissioned"), &serde_json::json!([]))
    );
    assert!(stripe["by"].as_str().expect("who").contains("uid 0"), "{stripe}");

    let text = lab.picoseg(&["audit", "show", "--at", &rfc3339(at_8443)]).ok().stdout;
    for fact in ["stripe", "Example Provider Ltd", "owner@example.com", "open", "8443/tcp", payments.name()] {
        assert!(text.contains(fact), "{fact} is not in\n{text}");
    }
    let csv = lab.picoseg(&["audit", "show", "--at", &rfc3339(at_8443), "--format", "csv"]).ok().stdout;
    assert!(csv.starts_with("service,provider,owner,") && csv.contains("8443/tcp"), "{csv}");
}

#[test]
fn what_opened_and_closed_without_a_daemon_is_told_with_its_time() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let (opens, closes) = (soon(4_000), soon(6_000));
    let policy = egress(&payments, lab.provider4(0), "443/tcp");
    lab.write("stripe", &schedule(Lifetime::open(), &[window(opens, closes), policy]));
    let daemon = lab.daemon();
    daemon.kill9();
    // More than a second, so that it counts as late.
    reach(closes + chrono::TimeDelta::milliseconds(1_500));
    let daemon = lab.daemon();
    let shown = lab.picoseg(&["audit", "show", "--service", "stripe", "--json"]).ok().json();
    let entries = shown["entries"].as_array().expect("entries");
    for (kind, time) in [("window.opened", opens), ("window.closed", closes)] {
        let found: Vec<_> = entries.iter().filter(|entry| entry["kind"] == kind).collect();
        assert_eq!(found.len(), 1, "{kind}: {shown}");
        assert_eq!(
            (instant(&found[0]["at"]), &found[0]["detail"]["recorded"]),
            (time, &Value::from("later"))
        );
        assert!(instant(&found[0]["detail"]["recorded_at"]) > closes);
    }
    let between = opens + (closes - opens) / 2;
    let before = opens - chrono::TimeDelta::milliseconds(1);
    let states = [before, between, closes].map(|time| state(&at(&lab, time), "stripe").expect("stripe"));
    assert_eq!(states, ["closed", "open", "closed"]);

    assert!(daemon.term().success());
    let said = lab.picoseg(&["audit", "show", "--at", &rfc3339(between), "--json"]).ok();
    assert_eq!(state(&said.json(), "stripe").as_deref(), Some("open"));
    assert!(said.stderr.contains("no daemon answers"), "{}", said.stderr);
    let all = lab.picoseg(&["audit", "show", "--since", &rfc3339(in_ms(-60_000)), "--json"]).ok().json();
    let seqs: Vec<_> =
        all["entries"].as_array().expect("entries").iter().map(|e| e["seq"].as_u64()).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).map(Some).collect::<Vec<_>>());
}

#[test]
fn an_entry_tells_the_digest_of_a_file_as_it_lies_there() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let text = schedule(Lifetime::open(), &[egress(&payments, "@pool", "443/tcp")]);
    lab.list("pool", "192.0.2.1\n# a remark\n192.0.2.2\n");
    lab.write("stripe", &text);
    let daemon = lab.daemon();
    let told = at(&lab, now());
    let told = service(&told, "stripe").expect("stripe").clone();
    assert_eq!(told["sha256"], sha256(&lab.etc("services.d/stripe.toml")));
    assert_eq!(told["lists"][0]["sha256"], sha256(&lab.etc("lists/pool.txt")));
    assert_eq!(
        (&told["lists"][0]["name"], &told["lists"][0]["entries"]),
        (&Value::from("pool"), &Value::from(2))
    );

    // A remark alone is a change of the file too, whoever reads it: also when no daemon saw it.
    assert!(daemon.term().success());
    lab.write("stripe", &format!("# looked at\n{text}"));
    let _daemon = lab.daemon();
    let told = at(&lab, now());
    assert_eq!(
        service(&told, "stripe").expect("stripe")["sha256"],
        sha256(&lab.etc("services.d/stripe.toml"))
    );
    until("the same is in force", MOMENT, || lab.state_of("stripe") == "open");
}

#[test]
fn every_command_of_the_documentation_works() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, lab.provider4(0), "443/tcp")]));
    let daemon = lab.daemon();
    let text = include_str!("../../docs/audit.md");
    let export = lab.dir().join("ledger.jsonl").display().to_string();
    let command =
        |line: &'static str| ["$ picoseg ", "# picoseg "].iter().find_map(|prompt| line.strip_prefix(prompt));
    let commands: Vec<_> = text.lines().filter_map(command).collect();
    assert!(commands.len() >= 10, "{commands:?}");
    let run = |command: &str| {
        let command = command.replace("ledger.jsonl", &export).replace("acme-pay", "stripe");
        lab.picoseg(&command.split(' ').collect::<Vec<_>>()).ok()
    };
    commands
        .iter()
        .for_each(|command| assert!(!run(command).stdout.is_empty() || command.contains("export")));
    // Those about the ledger do without a daemon.
    assert!(daemon.term().success());
    commands.iter().filter(|command| command.starts_with("audit")).for_each(|command| drop(run(command)));
}
