//! The role for Ansible, run on a host with the package as users get it: what it says is what is in force, twice the same.

use serde_json::{Value, json};

use crate::converge::{PACKAGE, PORT, PROVIDER, Run, SERVICE, SUBJECT, Site};
use crate::schedule::{egress, file, schedule};

const PLAYBOOK: &str = "/srv/site.yml";
const VARIABLES: &str = "/srv/variables.json";

/// A host that Ansible converges.
struct Host(Site);

impl Host {
    fn boot(suite: &'static str) -> Option<Self> {
        let site = Site::boot(suite)?;
        site.copy("deploy/ansible/roles", "/srv/roles");
        site.machine.put(PLAYBOOK, "- hosts: all\n  gather_facts: false\n  roles: [picoseg]\n");
        Some(Self(site))
    }

    /// Runs the role with these variables, and more options.
    fn play(&self, variables: &Value, options: &[&str]) -> Run {
        self.0.machine.put(VARIABLES, &variables.to_string());
        let variables = format!("@{VARIABLES}");
        let environment = ["LC_ALL=C.UTF-8", "ANSIBLE_ROLES_PATH=/srv/roles", "ANSIBLE_PIPELINING=1"];
        let play = ["ansible-playbook", "--connection=local", "--inventory=localhost,", "--extra-vars"];
        self.0.run(&[&["env"], &environment[..], &play, &[&variables, PLAYBOOK], options].concat())
    }

    /// The same, and insists that it works. How many tasks changed something.
    fn converge(&self, variables: &Value, options: &[&str]) -> u32 {
        changed(&self.play(variables, options).exits(0))
    }

    fn installed(&self) -> bool {
        self.0.machine.run(&["test", "-e", "/usr/bin/picoseg"]).code == 0
    }
}

#[test]
fn ansible_opens_and_ends_a_service_and_changes_nothing_twice() {
    let Some(host) = Host::boot("trixie") else { return };
    let Host(site) = &host;

    // Nothing is installed yet, and a rehearsal can be had all the same.
    let wanted = with(vec![service(None)]);
    assert!(host.converge(&installing(&wanted), &["--check"]) > 0);
    assert!(!host.installed());

    assert!(host.converge(&installing(&wanted), &[]) > 0);
    site.is_open();
    let (daemon, before) = (site.daemon(), site.everything());
    assert_eq!(host.converge(&installing(&wanted), &[]), 0);
    assert_eq!(site.everything(), before);

    a_rehearsal_changes_nothing(&host);
    a_bad_value_changes_nothing(&host);

    site.connects();
    assert!(host.converge(&with(vec![service(Some("decommissioned"))]), &[]) > 0);
    site.is_cut("decommissioned", "expired");
    assert_eq!(site.machine.status()["config"]["ok"], true);
    site.was_never_restarted(&daemon);

    drift_is_undone(&host);
    a_setting_of_the_sockets_restarts_the_daemon(&host);
}

#[test]
fn ansible_of_debian_12_opens_a_service_and_ends_it_by_taking_its_file_away() {
    let Some(host) = Host::boot("bookworm") else { return };
    let Host(site) = &host;
    let wanted = with(vec![service(None)]);
    assert!(host.converge(&installing(&wanted), &[]) > 0);
    site.is_open();
    site.somebody_applies_something_else();
    assert!(host.converge(&wanted, &[]) > 0);
    site.is_open();
    assert_eq!(host.converge(&installing(&wanted), &[]), 0);
    site.connects();
    let mut ended = with(vec![json!({ "name": SERVICE, "state": "absent" })]);
    ended["picoseg_purge"] = json!(false);
    assert!(host.converge(&ended, &[]) > 0);
    site.is_cut("decommissioned", "expired");
}

fn a_rehearsal_changes_nothing(host: &Host) {
    let before = host.0.everything();
    let ended = with(vec![service(Some("decommissioned"))]);
    let run = host.play(&ended, &["--check", "--diff"]).exits(0);
    let run = run.says(&["+state = \"decommissioned\""]);
    assert!(changed(&run) > 0, "{run:?}");
    assert_eq!(host.0.everything(), before);
    host.0.is_open();
}

fn a_bad_value_changes_nothing(host: &Host) {
    let before = host.0.everything();
    // The line of the file, and what was meant.
    host.play(&with(vec![bad_service()]), &[]).exits(2).says(&["443/tpc", ":10:10: ", "help: write"]);
    // Names that would lead elsewhere, or to the same file.
    let mut outside = service(None);
    outside["name"] = json!("../../cron.d/x");
    let mut wrong = with(vec![outside]);
    wrong["picoseg_segments"] = json!([{ "name": "twice" }, { "name": "twice" }]);
    host.play(&wrong, &[]).exits(2).says(&["../../cron.d/x", "twice, twice"]);
    assert_eq!(host.0.everything(), before);
    // Each file is in order, both together are not: nothing of it gets in force, and the reason has its place.
    let digest = host.0.table();
    let mut clash = with(vec![service(None)]);
    let segment = |name: &str| json!({ "name": name, "subject": { "unit": "hook.service" } });
    clash["picoseg_segments"] = json!([segment("one"), segment("two")]);
    host.play(&clash, &[]).exits(2).says(&["two.toml:2:11: ", "already enclosed"]);
    assert_eq!(host.0.table(), digest);
    host.0.machine.run(&["sh", "-c", "rm /etc/picoseg/segments.d/*.toml"]).ok();
}

/// What others wrote, removed and added, and a daemon that was stopped.
fn drift_is_undone(host: &Host) {
    let (machine, before) = (&host.0.machine, host.0.table());
    let stray = schedule(&[egress("x.service", &["192.0.2.13"], "1/tcp")]);
    machine.put(&file(SERVICE), &stray);
    machine.put(&file("stray"), &stray);
    machine.put("/etc/picoseg/services.d/sample.toml.sample", "not read\n");
    machine.apply();
    machine.stop("picosegd.service");
    assert!(host.converge(&with(vec![service(Some("decommissioned"))]), &[]) >= 3);
    let left = machine.run(&["sh", "-c", "cd /etc/picoseg/services.d && echo *"]).ok().stdout;
    assert_eq!(left, "pay.toml sample.toml.sample\n");
    host.0.is_watched("expired");
    assert_ne!(host.0.table(), before, "the stray one is watched, too");
}

fn a_setting_of_the_sockets_restarts_the_daemon(host: &Host) {
    let mut moved = with(vec![]);
    moved["picoseg_settings"]["attempts"] = json!({ "log_group": 4800 });
    let before = host.0.daemon();
    host.converge(&moved, &[]);
    assert_ne!(host.0.daemon(), before);
    host.0.is_watched("expired");
}

fn with(services: Vec<Value>) -> Value {
    json!({
        "picoseg_package_manage": false,
        "picoseg_settings": { "failsafe": { "ports": ["22/tcp"] } },
        "picoseg_lists": [{ "name": "provider", "entries": ["# of the provider", PROVIDER] }],
        "picoseg_services": services,
    })
}

fn installing(variables: &Value) -> Value {
    let mut variables = variables.clone();
    variables["picoseg_package_manage"] = json!(true);
    variables["picoseg_package_file"] = json!(PACKAGE);
    variables
}

fn service(state: Option<&str>) -> Value {
    json!({
        "name": SERVICE,
        "provider": "Example \"Provider\" Ltd\\",
        "owner": "owner@example.com",
        "state": state.unwrap_or("present"),
        "lifetime": { "commission": "2020-01-01T00:00:00Z", "decommission": "2099-01-01T00:00:00Z" },
        "egress": [{ "subject": { "unit": SUBJECT }, "to": ["@provider"], "ports": [format!("{PORT}/tcp")] }],
    })
}

fn bad_service() -> Value {
    let mut bad = service(None);
    bad["egress"][0]["ports"] = json!(["443/tpc"]);
    bad
}

/// The number in `changed=2` of the recap.
fn changed(run: &Run) -> u32 {
    let number =
        run.said.rsplit_once("changed=").and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no recap in {run:?}"))
}
