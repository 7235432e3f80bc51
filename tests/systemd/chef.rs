//! The cookbook for Chef on a host with the package as users get it. No Chef client can be had here: the cookbook is
//! executed by `deploy/chef/test/harness.rb`, a harness for the part of Chef's language that it uses. What that proves is the
//! cookbook's own code and what it does to a real host, not Chef.

use crate::clock::{in_ms, rfc3339};
use crate::converge::{PACKAGE, PORT, PROVIDER, Run, SERVICE, SUBJECT, Site};
use crate::schedule::file;

const RECIPE: &str = "/srv/site.rb";

/// A node that the harness converges.
struct Node(Site);

impl Node {
    fn boot(suite: &'static str) -> Option<Self> {
        let site = Site::boot(suite)?;
        site.copy("deploy/chef", "/srv/chef");
        Some(Self(site))
    }

    /// Runs a recipe, with settings in JSON.
    fn play(&self, recipe: &str, settings: &str, options: &[&str]) -> Run {
        self.0.machine.put(RECIPE, &format!("include_recipe 'picoseg::default'\n{recipe}"));
        let attributes =
            format!(r#"{{"picoseg": {{"package": {{"source": "{PACKAGE}"}}, "settings": {settings}}}}}"#);
        let harness = ["ruby", "/srv/chef/test/harness.rb", "--cookbook", "/srv/chef/picoseg"];
        self.0.run(&[&harness[..], &["--attributes", &attributes], options, &[RECIPE]].concat())
    }

    /// The same, and insists that it works. How much was changed.
    fn converge(&self, recipe: &str, options: &[&str]) -> u32 {
        changed(&self.play(recipe, SETTINGS, options).exits(0))
    }
}

const SETTINGS: &str = r#"{"failsafe": {"ports": ["22/tcp"]}}"#;
const EVER: &str = "2020-01-01T00:00:00Z";

#[test]
fn chefs_cookbook_opens_and_ends_a_service_and_changes_nothing_twice() {
    let Some(node) = Node::boot("trixie") else { return };
    let Node(site) = &node;

    // Nothing is installed yet, and a rehearsal can be had all the same.
    let wanted = recipe("create", EVER, PORT);
    assert!(node.converge(&wanted, &["--why-run"]) > 0);
    assert_eq!(site.machine.run(&["test", "-e", "/usr/bin/picoseg"]).code, 1);

    assert!(node.converge(&wanted, &[]) > 0);
    site.is_open();
    let (daemon, before) = (site.daemon(), site.everything());
    assert_eq!(node.converge(&wanted, &[]), 0);
    assert_eq!(site.everything(), before);

    let ended = recipe("decommission", EVER, PORT);
    node.play(&ended, SETTINGS, &["--why-run"])
        .exits(0)
        .says(&["+state = \"decommissioned\"", "service[picosegd] reload"]);
    assert_eq!(site.everything(), before);

    // The line of the file, and what was meant.
    let bad = wanted.replace("'443/tcp'", "'443/tpc'");
    node.play(&bad, SETTINGS, &[]).exits(1).says(&["443/tpc", ":12:10: ", "help: write"]);
    node.play(&wanted.replace("owner", "boss"), SETTINGS, &[]).exits(1).says(&["boss"]);
    node.play(&wanted.replace("owner 'o'", ""), SETTINGS, &[]).exits(1).says(&["needs owner to create"]);
    node.play(&wanted.replace(SERVICE, "../x"), SETTINGS, &[]).exits(1).says(&["service_name is \"../x\""]);
    assert_eq!(site.everything(), before);

    // What somebody else wrote.
    site.machine.put(&file(SERVICE), "provider = 1\n");
    assert!(node.converge(&wanted, &[]) >= 2);
    assert_eq!(site.table(), before.lines().next().expect("the digest"));
    site.somebody_applies_something_else();
    assert_eq!(node.converge(&wanted, &[]), 2);
    site.is_open();

    site.connects();
    node.converge(&recipe("suspend", EVER, PORT), &[]);
    site.is_cut("suspended", "suspended");
    node.converge(&wanted, &[]);
    site.is_open();
    site.connects();
    assert_eq!(node.converge(&ended, &[]), 2);
    site.is_cut("decommissioned", "expired");
    assert_eq!(node.converge(&ended, &[]), 0);

    // A new lifetime, and its file is taken away.
    let again = rfc3339(in_ms(0));
    node.converge(&recipe("create", &again, PORT), &[]);
    site.is_open();
    site.connects();
    node.converge(&recipe("delete", &again, PORT), &[]);
    site.is_cut("decommissioned", "expired");
    assert_eq!(node.converge(&recipe("delete", &again, PORT), &[]), 0);
    site.was_never_restarted(&daemon);

    // One of the settings that cannot change while it runs.
    let moved = r#"{"attempts": {"log_group": 4800}}"#;
    node.play("", moved, &[]).exits(0).says(&["service[picosegd] restart"]);
    node.play("", moved, &[]).exits(0).says(&["0 updated"]);
    site.is_watched("expired");
}

fn recipe(action: &str, commission: &str, port: u16) -> String {
    format!(
        r##"
        picoseg_list 'provider' do
          entries ['# of the provider', '{PROVIDER}']
        end
        picoseg_segment 'hook' do
          subject unit: 'nobody.service'
          mode 'observe'
          dns false
          allow [{{ direction: 'ingress', from: ['192.0.2.0/24'], ports: ['8443/tcp'] }}]
        end
        picoseg_service '{SERVICE}' do
          provider_name 'Example "Provider" Ltd\\'
          owner 'o'
          lifetime commission: '{commission}', decommission: '2099-01-01T00:00:00Z'
          egress [{{ subject: {{ unit: '{SUBJECT}' }}, to: ['@provider'], ports: ['{port}/tcp'] }}]
          action :{action}
        end
        "##
    )
}

/// The number before `updated`.
fn changed(run: &Run) -> u32 {
    let number = run.said.lines().find_map(|line| line.strip_suffix(" updated")?.parse().ok());
    number.unwrap_or_else(|| panic!("no number in {run:?}"))
}
