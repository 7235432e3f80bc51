//! The daemon comes and goes; the table stays until somebody unloads it.

use std::process::Command;

use crate::lab::clock::until;
use crate::lab::schedule::{Lifetime, egress, schedule};
use crate::lab::{Lab, MOMENT, at, have, put};

#[test]
fn sigterm_leaves_the_table_in_force_and_unload_removes_it() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remote = at(lab.provider4(0), 443);
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, remote.ip(), "443/tcp")]));
    let daemon = lab.daemon();
    let (ours, other, theirs) = (lab.process(&payments), lab.process(&lab.unit("other")), lab.provider());
    theirs.echo(remote);
    let connected = ours.connect(remote).expect("admitted");
    assert!(daemon.term().success());
    assert!(connected.echoes() && ours.talks_to(remote) && other.connect(remote).is_err());

    lab.unload().ok();
    assert!(other.talks_to(remote), "nothing is governed any more");
    lab.unload().ok();
}

#[test]
fn without_a_daemon_a_command_exits_with_3() {
    let Some(lab) = Lab::new() else { return };
    let asks =
        [&["status"][..], &["services"], &["apply"], &["attempts"], &["suspend", "stripe", "--reason", "x"]];
    for command in asks {
        lab.picoseg(command).exits(3).explains(&["daemon", "picosegd"]);
    }
    drop(lab.daemon());
    lab.picoseg(&["status"]).exits(3).explains(&["daemon", "picosegd"]);
}

#[test]
fn a_word_that_is_no_command_is_a_usage_error() {
    let Some(lab) = Lab::new() else { return };
    lab.picoseg(&["statsu"]).exits(2).explains(&["status"]);
    lab.picoseg(&["show"]).exits(2);
}

#[test]
fn show_tells_of_one_service_and_knows_no_other() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, lab.provider4(0), "443/tcp")]));
    let _daemon = lab.daemon();
    let text = lab.picoseg(&["show", "stripe"]).ok().stdout;
    for fact in ["stripe", "Example Provider Ltd", "open", payments.name(), "443/tcp"] {
        assert!(text.contains(fact), "{fact} is not in\n{text}");
    }
    lab.picoseg(&["show", "strype"]).exits(1).explains(&["strype"]);
}

#[test]
fn the_ruleset_can_be_printed_without_a_daemon_and_nft_accepts_it() {
    let Some(lab) = Lab::new() else { return };
    if !have("nft") {
        return;
    }
    let payments = lab.unit("payments");
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, lab.provider4(0), "443/tcp")]));
    let printed = lab.picoseg(&["compile"]).ok().stdout;
    assert!(printed.contains("table inet picoseg"), "{printed}");
    let file = lab.dir().join("printed.nft");
    put(&file, &printed);
    let mut check = Command::new("nft");
    check.args(["-c", "-f"]).arg(&file);
    lab.on_host(check).ok();
}

#[test]
fn tables_of_others_stay_as_they_are() {
    let Some(lab) = Lab::new() else { return };
    if !have("nft") {
        return;
    }
    let nft = |arguments: &[&str]| {
        let mut command = Command::new("nft");
        command.args(arguments);
        lab.on_host(command).ok().stdout
    };
    let foreign = lab.dir().join("foreign.nft");
    let text = "table ip filter {\n chain input {\n type filter hook input priority 0; policy accept;\n tcp dport 9 drop\n }\n}\n\
                table inet picoseg2 {\n set s { type ipv4_addr; elements = { 198.51.100.1 } }\n}\n";
    put(&foreign, text);
    nft(&["-f", &foreign.display().to_string()]);
    let listed =
        || nft(&["-a", "list", "table", "ip", "filter"]) + &nft(&["-a", "list", "table", "inet", "picoseg2"]);
    let before = listed();

    let payments = lab.unit("payments");
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, lab.provider4(0), "443/tcp")]));
    let daemon = lab.daemon();
    lab.picoseg(&["suspend", "stripe", "--reason", "test"]).ok();
    lab.remove("stripe");
    lab.picoseg(&["apply"]).ok();
    assert_eq!(listed(), before);
    assert!(daemon.term().success());
    lab.unload().ok();
    assert_eq!(listed(), before);
}

#[test]
fn the_sockets_are_gone_after_a_stop_and_come_back_after_a_kill() {
    let Some(lab) = Lab::new() else { return };
    let daemon = lab.daemon();
    for name in ["control.sock", "observe.sock"] {
        assert!(lab.dir().join("run").join(name).exists(), "{name}");
    }
    daemon.kill9();
    let daemon = lab.daemon();
    until("the daemon answers", MOMENT, || lab.picoseg(&["status"]).code == 0);
    assert!(daemon.term().success());
    lab.picoseg(&["status"]).exits(3);
}

#[test]
fn a_reader_may_look_but_not_order() {
    use std::os::unix::fs::PermissionsExt as _;
    let Some(lab) = Lab::new() else { return };
    let _daemon = lab.daemon();
    let mode = |name: &str| {
        let file = std::fs::metadata(lab.dir().join("run").join(name)).expect("a socket");
        file.permissions().mode() & 0o777
    };
    assert_eq!(mode("control.sock") & 0o007, 0, "control.sock is closed to others");
    assert_eq!(mode("observe.sock") & 0o007, 0, "observe.sock is closed to others");
    let observe = lab.dir().join("run/observe.sock");
    lab.picoseg_over(&observe, &["status"]).ok();
    lab.picoseg_over(&observe, &["suspend", "stripe", "--reason", "x"]).exits(5);
    lab.picoseg_over(&observe, &["apply"]).exits(5);
}
