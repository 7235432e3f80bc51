//! The command of `[notify]`: told of new sources after a decommission, at least once, and no more than is good for it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::agent::{Agent, Kind, Packets};
use crate::lab::schedule::{Lifetime, egress, schedule};
use crate::lab::{Lab, at, clock};

/// Beyond the pause between two starts of the command.
const TOLD: Duration = Duration::from_secs(20);

struct Ear {
    heard: PathBuf,
    script: PathBuf,
}

impl Ear {
    /// A command that keeps what it is told.
    fn new(lab: &Lab) -> Self {
        let ear = Self { heard: lab.dir().join("heard"), script: lab.dir().join("hear") };
        ear.does(&format!("cat >> {}", ear.heard.display()));
        ear
    }

    fn does(&self, script: &str) {
        fs::write(&self.script, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&self.script, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn settings(&self) -> String {
        format!("[notify]\ncommand = [\"{}\", \"an argument\"]\n", self.script.display())
    }

    fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.heard).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn hears(&self, count: usize) -> Vec<Value> {
        clock::until(&format!("{count} lines were told"), TOLD, || self.lines().len() >= count);
        self.lines()
    }
}

fn knock(lab: &Lab, provider: &Agent, number: u8, count: u32) {
    let from = at(lab.provider4(number), 40_000);
    provider.raw(Packets { kind: Kind::Syn, from, to: at(lab.host4(), 8443), count });
}

/// One service that has ended and one that has not.
fn services(lab: &Lab) {
    let payments = lab.unit("payments");
    let ended = [0, 1, 2].map(|number| egress(&payments, lab.provider4(number), "443/tcp"));
    lab.write("ended", &schedule(Lifetime::over(), &ended));
    lab.write("open", &schedule(Lifetime::open(), &[egress(&payments, lab.provider4(3), "443/tcp")]));
    lab.canary();
}

#[test]
fn each_new_source_after_a_decommission_is_told_once_also_across_a_restart() {
    let Some(lab) = Lab::new() else { return };
    let ear = Ear::new(&lab);
    services(&lab);
    lab.settings(&ear.settings());
    let daemon = lab.daemon();
    let theirs = lab.provider();
    knock(&lab, &theirs, 3, 5);
    knock(&lab, &theirs, 0, 5);
    let told = ear.hears(1);
    let row = lab.attempts().into_iter().find(|row| row["service"] == "ended").unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let mut expected = keys(&row);
    expected.extend(["event".to_owned(), "schema".to_owned()]);
    expected.sort();
    assert_eq!(keys(&told[0]), expected);
    let of = |key: &str| told[0][key].clone();
    assert_eq!((of("schema"), of("event")), (1.into(), "new_source".into()));
    assert_eq!((of("service"), of("reason")), ("ended".into(), "expired".into()));
    assert_eq!((of("remote"), of("count")), (lab.provider4(0).to_string().into(), 5.into()));
    drop(daemon);
    let _daemon = lab.daemon();
    knock(&lab, &theirs, 0, 5);
    knock(&lab, &theirs, 1, 1);
    let told = ear.hears(2);
    assert_eq!(told[1]["remote"], lab.provider4(1).to_string());
    lab.all_on_record(&theirs);
    knock(&lab, &theirs, 2, 1);
    let remotes: Vec<_> = ear.hears(3).iter().map(|line| line["remote"].clone()).collect();
    assert_eq!(remotes, [0, 1, 2].map(|number| lab.provider4(number).to_string()));
}

#[test]
fn what_a_failing_command_was_not_told_it_is_told_when_it_works_again() {
    let Some(lab) = Lab::new() else { return };
    let ear = Ear::new(&lab);
    services(&lab);
    lab.settings("[notify]\ncommand = [\"/nonexistent/command\"]\n");
    let daemon = lab.daemon();
    let theirs = lab.provider();
    knock(&lab, &theirs, 0, 1);
    clock::until("it says so", TOLD, || daemon.said().contains("/nonexistent/command"));
    knock(&lab, &theirs, 1, 1);
    lab.all_on_record(&theirs);
    fs::write(
        lab.config(),
        fs::read_to_string(lab.config())
            .unwrap()
            .replace("/nonexistent/command", ear.script.to_str().unwrap()),
    )
    .unwrap();
    lab.picoseg(&["apply"]).ok();
    assert_eq!(ear.hears(2).len(), 2);
    assert_eq!(daemon.said().matches("nobody was told").count(), 1);
}

#[test]
fn a_daemon_that_is_killed_while_it_tells_tells_again() {
    let Some(lab) = Lab::new() else { return };
    let ear = Ear::new(&lab);
    let begun = lab.dir().join("begun");
    ear.does(&format!("touch {}; sleep 8", begun.display()));
    services(&lab);
    lab.settings(&ear.settings());
    let daemon = lab.daemon();
    let theirs = lab.provider();
    knock(&lab, &theirs, 0, 1);
    clock::until("the command runs", TOLD, || begun.exists());
    daemon.kill9();
    ear.does(&format!("cat >> {}", ear.heard.display()));
    let _daemon = lab.daemon();
    assert_eq!(ear.hears(1)[0]["remote"], lab.provider4(0).to_string());
}

#[test]
fn the_command_has_no_capabilities_no_environment_and_no_descriptors_of_ours() {
    let Some(lab) = Lab::new() else { return };
    let ear = Ear::new(&lab);
    let out = lab.dir().join("out");
    let script =
        "grep -E 'Cap(Inh|Prm|Eff|Amb)|NoNewPrivs' /proc/self/status; env; ls -l /proc/self/fd; echo $1";
    ear.does(&format!("({script}) > {0}.part; mv {0}.part {0}", out.display()));
    services(&lab);
    lab.settings(&ear.settings());
    let _daemon = lab.daemon();
    knock(&lab, &lab.provider(), 0, 1);
    clock::until("it ran", TOLD, || out.exists());
    let said = fs::read_to_string(out).unwrap();
    let lines: Vec<_> = said.lines().map(|line| line.replace('\t', "")).collect();
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert!(lines.contains(&format!("{set}{}", "0".repeat(16))), "{said}");
    }
    assert!(lines.contains(&"NoNewPrivs:1".to_owned()), "{said}");
    assert!(lines.contains(&"an argument".to_owned()), "{said}");
    assert!(!said.contains("NOTIFY_SOCKET") && !said.contains("CARGO"), "{said}");
    // The socket that owns the table above all: whoever has it open keeps the table after us.
    let state = lab.state().display().to_string();
    assert!(!said.contains("socket:") && !said.contains("anon_inode") && !said.contains(&state), "{said}");
}
