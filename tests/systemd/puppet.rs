//! The Puppet module: judged by what judges Puppet code, and run on hosts with the package as users get it: what it says is what is
//! in force, twice the same.

use std::fs;
use std::path::Path;

use crate::clock::{in_ms, rfc3339};
use crate::converge::{PACKAGE, PORT, PROVIDER, Run, SERVICE, SUBJECT, Site, copy};
use crate::machine::{Machine, System};
use crate::schedule::{self, file};

const MODULES: &str = "/etc/puppet/code/environments/production/modules";
const SITE: &str = "/root/site.pp";
const APPLIED: &str = "Exec[picoseg apply]/returns: executed successfully";

fn segment(name: &str) -> String {
    format!("/etc/picoseg/segments.d/{name}.toml")
}

/// How `puppet apply --detailed-exitcodes` ends.
const NOTHING: i32 = 0;
const CHANGES: i32 = 2;
/// Nothing changed.
const FAILURES: i32 = 4;
const CHANGES_AND_FAILURES: i32 = 6;

/// Only agents remember what they left, and tell drift from changes that were asked for.
const AS_AGENT: (&str, &str) = (
    "/root/as_agent.rb",
    "require 'puppet'\nrequire 'puppet/transaction/persistence'\nPuppet::Transaction::Persistence.prepend(Module.new do\n  \
     def enabled?(catalog) = catalog.host_config?\nend)\n",
);

/// A host that Puppet converges.
struct Host(Site);

impl Host {
    fn boot(suite: &'static str) -> Option<Self> {
        let site = Site::boot(suite)?;
        site.copy("deploy/puppet", &format!("{MODULES}/picoseg"));
        site.machine.put(AS_AGENT.0, AS_AGENT.1);
        Some(Self(site))
    }

    /// Runs Puppet with a manifest, and more options.
    fn apply(&self, manifest: &str, options: &[&str]) -> Run {
        self.0.machine.put(SITE, manifest);
        let agent = format!("RUBYOPT=-r{}", AS_AGENT.0);
        let apply = ["env", &agent, "puppet", "apply", "--color=false", "--detailed-exitcodes"];
        self.0.run(&[&apply[..], &["--modulepath", MODULES], options, &[SITE]].concat())
    }

    fn installed(&self) -> bool {
        self.0.machine.run(&["test", "-e", "/usr/bin/picoseg"]).code == 0
    }

    /// What is in force, and the files. The times of directories change where a file beside is judged.
    fn files(&self) -> Vec<String> {
        self.0.everything().lines().filter(|line| !line.contains(" d ")).map(str::to_owned).collect()
    }

    /// One more run finds nothing to do, and does nothing.
    fn is_converged(&self, manifest: &str) {
        let before = self.0.everything();
        let run = self.apply(manifest, &[]).exits(NOTHING);
        assert!(!run.said.contains("picoseg apply"), "{run:?}");
        assert_eq!(self.0.everything(), before);
    }
}

#[test]
fn the_module_is_in_order_for_puppet_8() {
    is_in_order("trixie");
}

#[test]
fn the_module_is_in_order_for_puppet_7() {
    is_in_order("bookworm");
}

/// Syntax, style, documentation, and its own tests.
fn is_in_order(suite: &'static str) {
    let Some(machine) = Machine::bare(System { suite, variant: "managed" }, &[]) else { return };
    let module = format!("{MODULES}/picoseg");
    copy(Path::new("deploy/puppet"), &machine.path(&module));
    for task in ["validate", "lint", "documented", "spec"] {
        let rake = ["env", "LC_ALL=C.UTF-8", "rake", "--quiet", "--directory", &module, task];
        let run = Run::of(machine.command(&rake)).exits(0);
        println!("{task}: {}", run.said.lines().rev().find(|line| !line.is_empty()).unwrap_or_default());
    }
}

#[test]
fn puppet_8_opens_and_ends_a_service_and_changes_nothing_twice() {
    let Some(host) = Host::boot("trixie") else { return };
    let Host(site) = &host;
    let wanted = with(&[&service("")]);

    // Nothing is installed yet, and a rehearsal can be had all the same.
    host.apply(&wanted, &["--noop"]).exits(NOTHING).says(&["Package[picoseg]/ensure", "(noop)"]);
    assert!(!host.installed());

    host.apply(&wanted, &[]).exits(CHANGES);
    site.is_open();
    its_name_is_what_was_written(&host);
    let daemon = site.daemon();
    host.is_converged(&wanted);
    the_fact_is_there(&host);
    a_rehearsal_changes_nothing(&host);
    a_bad_value_changes_nothing(&host);
    files_that_clash_change_nothing_in_force(&host);
    drift_is_undone(&host, &wanted, &daemon);
    let daemon = site.daemon();

    // The end by the tool.
    site.connects();
    let ended = with(&[&service("ensure => decommissioned,")]);
    host.apply(&ended, &[]).exits(CHANGES).says(&[APPLIED]);
    site.is_cut("decommissioned", "expired");

    // A new lifetime, and its file is taken away.
    let again = service("").replace("2020-01-01T00:00:00Z", &rfc3339(in_ms(0)));
    host.apply(&with(&[&again]), &[]).exits(CHANGES);
    site.is_open();
    site.connects();
    host.apply(&with(&[&format!("picoseg::service {{ '{SERVICE}': ensure => absent }}")]), &[])
        .exits(CHANGES);
    site.is_cut("decommissioned", "expired");
    site.was_never_restarted(&daemon);

    a_setting_of_the_socket_restarts_the_daemon(&host);
}

#[test]
fn puppet_7_opens_a_service_and_ends_it_by_purging_its_file() {
    let Some(host) = Host::boot("bookworm") else { return };
    let Host(site) = &host;
    let wanted = with(&[&service("")]);
    host.apply(&wanted, &[]).exits(CHANGES);
    site.is_open();
    let daemon = site.daemon();
    host.is_converged(&wanted);
    a_bad_value_changes_nothing(&host);

    let approvals = "/etc/picoseg/services.d/pay.approvals/security.sig";
    site.machine.put(approvals, "a signature\n");
    site.connects();
    let nothing = with(&[]);
    host.apply(&nothing, &["--noop"]).exits(NOTHING).says(&["pay.toml]/ensure"]);
    site.is_open();
    host.apply(&nothing, &[]).exits(CHANGES).says(&["pay.toml]/ensure: removed", APPLIED]);
    site.is_cut("decommissioned", "expired");
    host.is_converged(&nothing);
    site.machine.run(&["test", "-f", approvals]).ok();
    site.was_never_restarted(&daemon);
}

fn its_name_is_what_was_written(host: &Host) {
    let services = host.0.machine.picoseg(&["services", "--json"]).ok().json();
    assert_eq!(services["services"][0]["provider"], "Example \"Provider\" Ltd\\ Zürich #1");
}

fn the_fact_is_there(host: &Host) {
    let facts = host.0.run(&["puppet", "facts", "show", "--modulepath", MODULES, "picoseg"]).exits(0);
    let json = facts.said.find('{').map(|at| &facts.said[at..]).expect("an object");
    let facts: serde_json::Value = serde_json::from_str(json).expect("facts are JSON");
    let (fact, status) = (&facts["picoseg"], host.0.machine.status());
    assert_eq!(fact["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&fact["mode"], &fact["services"]), (&status["mode"], &status["services"]));
    assert_eq!((&fact["config"]["ok"], &fact["store"]["ok"]), (&true.into(), &true.into()));
}

fn a_rehearsal_changes_nothing(host: &Host) {
    let before = host.0.everything();
    let ended = with(&[&service("ensure => decommissioned,")]);
    host.apply(&ended, &["--noop", "--show_diff"])
        .exits(NOTHING)
        .says(&["+state = \"decommissioned\"", "(noop)"]);
    assert_eq!(host.0.everything(), before);
    host.0.is_open();
}

fn a_bad_value_changes_nothing(host: &Host) {
    let before = host.files();
    // What the types of the module let through, and `picoseg check` does not.
    let bad = service("window => [{ 'cron' => '0 25 * * *', 'duration' => '1h' }],");
    let run = host.apply(&with(&[&bad]), &[]).exits(FAILURES);
    run.says(&[
        "check --as service",
        ":10:8: \"25\" is no value",
        "Exec[picoseg apply]: Skipping because of failed",
    ]);
    assert_eq!(host.files(), before);
}

/// Each file is in order, all together are not: nothing of it gets in force, also not at the next run, and the reason has its place.
fn files_that_clash_change_nothing_in_force(host: &Host) {
    let before = host.0.table();
    let segment =
        |name: &str| format!("picoseg::segment {{ '{name}': subject => {{ 'unit' => 'hook.service' }} }}");
    let clash = with(&[&service(""), &segment("one"), &segment("two")]);
    for ends in [CHANGES_AND_FAILURES, FAILURES] {
        host.apply(&clash, &[]).exits(ends).says(&["two.toml:2:11: ", "already enclosed"]);
        assert_eq!(host.0.table(), before);
    }
    assert_eq!(host.0.machine.status()["config"]["ok"], false);
}

/// What others wrote, removed and applied.
fn drift_is_undone(host: &Host, wanted: &str, daemon: &str) {
    let (site, machine) = (&host.0, &host.0.machine);
    let (right, before) = (machine.run(&["cat", &file(SERVICE)]).ok().stdout, site.table());
    let stray = schedule::schedule(&[schedule::egress("x.service", &["192.0.2.13"], "1/tcp")]);
    machine.put(&file("stray"), &stray);
    machine.put(&file(SERVICE), &right.replace("/tcp", "/udp"));
    machine.put("/etc/picoseg/lists/fetched.txt", "192.0.2.99\n");
    ["one", "two"].iter().for_each(|name| drop(fs::remove_file(machine.path(&segment(name)))));
    machine.apply();
    assert_ne!(site.table(), before);
    let run = host.apply(wanted, &[]).exits(CHANGES);
    let content = run.said.lines().find(|line| line.contains("pay.toml]/content: content changed"));
    assert!(content.is_some_and(|line| line.ends_with("(corrective)")), "{run:?}");
    run.says(&["stray.toml]/ensure: removed", APPLIED]);
    assert_eq!(machine.run(&["ls", "/etc/picoseg/services.d"]).ok().stdout, "pay.toml\n");
    machine.run(&["test", "-f", "/etc/picoseg/lists/fetched.txt"]).ok();
    assert_eq!(machine.run(&["cat", &file(SERVICE)]).ok().stdout, right);

    // In force alone: the files are as Puppet left them.
    machine.put(&file(SERVICE), &right.replace("/tcp", "/udp"));
    machine.apply();
    machine.put(&file(SERVICE), &right);
    let run = host.apply(wanted, &[]).exits(CHANGES).says(&[&format!("{APPLIED} (corrective)")]);
    assert!(!run.said.contains("pay.toml"), "{run:?}");
    machine.picoseg(&["plan", "--exit-code"]).ok();
    site.is_open();
    site.was_never_restarted(daemon);

    // What a person ordered is no drift.
    machine.picoseg(&["suspend", SERVICE, "--reason", "an incident"]).ok();
    machine.stop("picosegd.service");
    let started = "Service[picosegd]/ensure: ensure changed 'stopped' to 'running'";
    let run = host.apply(wanted, &[]).exits(CHANGES).says(&[started]);
    assert!(!run.said.contains("picoseg apply"), "{run:?}");
    assert_eq!(machine.status()["services"]["suspended"], 1);
    machine.picoseg(&["resume", SERVICE, "--reason", "it is over"]).ok();
    site.is_open();
}

fn a_setting_of_the_socket_restarts_the_daemon(host: &Host) {
    let settings = "failsafe => { 'ports' => ['22/tcp'] },";
    let moved = with(&[]).replace(settings, "attempts => { 'log_group' => 4800 },");
    let before = host.0.daemon();
    host.apply(&moved, &[]).exits(CHANGES).says(&[APPLIED]);
    assert_ne!(host.0.daemon(), before);
    host.is_converged(&moved);
    host.0.is_watched("expired");
}

/// The package of this run, a list, and more resources.
fn with(resources: &[&str]) -> String {
    format!(
        "class {{ 'picoseg':\n  package_source => '{PACKAGE}', package_provider => 'dpkg',\n  failsafe => {{ 'ports' => ['22/tcp'] \
         }},\n}}\npicoseg::list {{ 'provider': entries => ['{PROVIDER}'] }}\n{}\n",
        resources.join("\n")
    )
}

/// The service of the site, with a name that would be more than a name where it is not escaped, and more parameters.
fn service(more: &str) -> String {
    format!(
        "picoseg::service {{ '{SERVICE}':\n  provider => \"Example \\\"Provider\\\" Ltd\\\\ Zürich #1\", owner => 'owner@example.com',\n  \
         lifetime => {{ 'commission' => '2020-01-01T00:00:00Z', 'decommission' => '2099-01-01T00:00:00Z' }},\n  egress => [{{ \
         'subject' => {{ 'unit' => '{SUBJECT}' }}, 'to' => ['@provider'], 'ports' => ['{PORT}/tcp'] }}],\n  {more}\n}}"
    )
}
