//! The RPM: what is in it, and what its scriptlets do. Nothing here runs a distribution of that family: the files are
//! unpacked on a Debian, and the scriptlets are run there with the numbers that `rpm` would give them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cli::Cli;
use crate::clock::until;
use crate::converge::{Run, newest};
use crate::machine::{MOMENT, Machine, System, shipped_units};
use crate::outside::v4;
use crate::schedule::{egress, file, schedule};
use crate::skip::have;

const DAEMON: &str = "picosegd.service";

/// The package; `None` after saying why there is none, or no `rpm` to look into it.
fn package() -> Option<PathBuf> {
    let package = newest("PICOSEG_RPM", "picoseg-", "rpm")?;
    have("rpm").then_some(package)
}

fn query(package: &Path, arguments: &[&str]) -> String {
    let mut rpm = Command::new("rpm");
    rpm.args(["--query", "--package"]).args(arguments).arg(package);
    Cli::run(rpm).ok().stdout
}

#[test]
fn the_rpm_has_what_the_debian_package_has() {
    let Some(package) = package() else { return };
    let listed = query(&package, &["--list"]);
    let listed: Vec<_> = listed.lines().collect();
    let files = [
        "/etc/picoseg/picoseg.toml",
        "/etc/picoseg/services.d",
        "/usr/bin/picoseg",
        "/usr/bin/picosegd",
        "/usr/bin/picoseg-execd",
        "/usr/lib/sysusers.d/picoseg.conf",
        "/usr/lib/tmpfiles.d/picoseg.conf",
        "/usr/share/bash-completion/completions/picoseg",
        "/usr/share/zsh/site-functions/_picoseg",
        "/usr/share/fish/vendor_completions.d/picoseg.fish",
        "/usr/share/man/man1/picoseg.1.gz",
        "/usr/share/man/man8/picosegd.8.gz",
        "/usr/share/doc/picoseg/README.md",
        "/usr/share/licenses/picoseg/LICENSE-MIT",
    ];
    let units = shipped_units().into_iter().map(|unit| format!("/usr/lib/systemd/system/{unit}"));
    for path in files.map(str::to_owned).into_iter().chain(units) {
        assert!(listed.contains(&path.as_str()), "{path} is missing:\n{}", listed.join("\n"));
    }
    assert_eq!(query(&package, &["--configfiles"]), "/etc/picoseg/picoseg.toml\n");
    let requires = query(&package, &["--requires"]);
    for library in ["libnftnl.so.11", "libc.so.6"] {
        assert!(requires.contains(library), "{requires}");
    }
}

/// Runs a scriptlet of the package as `rpm` does: `remaining` is how many of the package there will be.
fn scriptlet(machine: &Machine, package: &Path, tag: &str, remaining: u8) -> Run {
    let text = query(package, &["--queryformat", &format!("%{{{tag}}}")]);
    assert!(!text.contains("(none)"), "no {tag}");
    machine.put(&format!("/root/{tag}"), &text);
    let remaining = remaining.to_string();
    Run::of(machine.command(&["sh", &format!("/root/{tag}"), &remaining])).exits(0)
}

#[test]
fn its_scriptlets_start_restart_and_stop_without_opening_anything() {
    let Some(package) = package() else { return };
    let Some(machine) = Machine::bare(System { suite: "trixie", variant: "base" }, &[]) else { return };
    fs::copy(&package, machine.path("/root/picoseg.rpm")).expect("the package, and a tree of ours");
    // An archive beside the package.
    let mut unpack = Command::new("rpm2archive");
    unpack.arg(machine.path("/root/picoseg.rpm"));
    Run::of(unpack).exits(0);
    let extract = ["tar", "--extract", "--directory=/", "--no-same-owner", "--file=/root/picoseg.rpm.tgz"];
    Run::of(machine.command(&extract)).exits(0);

    // The first one is installed.
    scriptlet(&machine, &package, "POSTIN", 1);
    until("the daemon is up", MOMENT, || machine.property(DAEMON, "ActiveState") == "active");
    for unit in shipped_units() {
        assert_eq!(machine.property(&unit, "UnitFileState"), "enabled", "{unit}");
    }
    machine.put(&file("pay"), &schedule(&[egress("nobody.service", &[v4(0)], "443/tcp")]));
    machine.apply();
    let _echo = machine.outside().echo(443);
    let refused = || {
        let talk = format!("exec 3<>/dev/tcp/{}/443", v4(0));
        assert_ne!(machine.run(&["bash", "-c", &talk]).code, 0, "somebody else gets through");
        assert_eq!(machine.outside().arrived(0), 0);
    };
    refused();

    // A second one comes, the first one goes.
    let before = machine.property(DAEMON, "MainPID");
    scriptlet(&machine, &package, "POSTIN", 2);
    scriptlet(&machine, &package, "PREUN", 1);
    scriptlet(&machine, &package, "POSTUN", 1);
    until("the daemon is up", MOMENT, || machine.property(DAEMON, "ActiveState") == "active");
    assert_ne!(machine.property(DAEMON, "MainPID"), before, "the daemon is the one before");
    refused();

    // The last one goes.
    scriptlet(&machine, &package, "PREUN", 0).says(&["stays in force", "picosegd --unload"]);
    let files = "rm -f /usr/bin/picoseg* /usr/lib/systemd/system/picoseg*";
    machine.run(&["sh", "-c", files]).ok();
    scriptlet(&machine, &package, "POSTUN", 0);
    assert_eq!(machine.property(DAEMON, "ActiveState"), "inactive");
    assert_eq!(machine.run(&["find", "/etc/systemd", "-name", "picoseg*"]).ok().stdout, "");
    assert!(machine.table().contains("hook output"));
    refused();
}
