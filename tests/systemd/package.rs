//! The Debian package on a real Debian: installed, upgraded, downgraded, removed, purged, installed again.

use std::fs;
use std::net::SocketAddr;

use serde_json::Value;

use crate::agent::{Agent, unit};
use crate::clock::until;
use crate::converge::{PACKAGE, Run, package};
use crate::machine::{MOMENT, Machine, System, shipped_units};
use crate::outside::{Echo, v4};
use crate::schedule::{egress, file, schedule};

const SUITES: [&str; 2] = ["bookworm", "trixie"];
const DAEMON: &str = "picosegd.service";
/// The same programs with a higher version.
const NEWER: &str = "/root/newer.deb";

/// A machine without picoseg, and the package at its place.
fn machine(suite: &'static str, files: &[(&str, &str)]) -> Option<Machine> {
    let package = package()?;
    let machine = Machine::bare(System { suite, variant: "base" }, files)?;
    fs::copy(&package, machine.path(PACKAGE)).expect("the package, and a tree of ours");
    Some(machine)
}

fn run(machine: &Machine, arguments: &[&str]) -> Run {
    Run::of(machine.command(arguments)).exits(0)
}

fn install(machine: &Machine) {
    run(machine, &["apt-get", "install", "--yes", PACKAGE]);
    until("the daemon is up", MOMENT, || machine.property(DAEMON, "ActiveState") == "active");
}

/// Text that a command prints, on one line each.
fn lines(machine: &Machine, arguments: &[&str]) -> Vec<String> {
    machine.run(arguments).ok().stdout.lines().map(str::to_owned).collect()
}

#[test]
fn an_installed_package_runs_and_refuses_nothing_yet() {
    for suite in SUITES {
        let Some(machine) = machine(suite, &[]) else { return };
        install(&machine);
        let running = shipped_units().into_iter().filter(|unit| !unit.contains("-early"));
        for unit in running {
            assert_eq!(
                machine.property(&unit, "ActiveState"),
                "active",
                "{unit}: {}",
                machine.journal(&unit)
            );
        }
        for unit in shipped_units() {
            assert_eq!(machine.property(&unit, "UnitFileState"), "enabled", "{unit}");
        }
        let failed = machine.systemctl(&["list-units", "--failed", "--plain", "--no-legend"]).ok();
        assert_eq!(failed.stdout, "");
        let status = machine.status();
        for part in ["config", "store"] {
            assert_eq!(status[part]["ok"], true, "{status:#}");
        }
        machine.picoseg(&["check"]).ok();
        let echo = machine.outside().echo(443);
        let talk = format!("exec 3<>/dev/tcp/{}/443", v4(0));
        machine.run(&["bash", "-c", &talk]).ok();
        until("the connection is there", MOMENT, || echo.accepted() == 1);
    }
}

#[test]
fn the_package_brings_users_directories_pages_and_completions() {
    for suite in SUITES {
        let Some(machine) = machine(suite, &[]) else { return };
        install(&machine);
        let listed = lines(&machine, &["dpkg-query", "--listfiles", "picoseg"]);
        let man =
            ["man1/picoseg.1", "man5/picoseg.toml.5", "man5/picoseg-service.5", "man5/picoseg-segment.5"];
        let man = man.iter().chain(&["man8/picosegd.8", "man8/picoseg-execd.8"]);
        let man = man.map(|page| format!("/usr/share/man/{page}.gz"));
        let others = [
            "/usr/bin/picoseg",
            "/usr/bin/picosegd",
            "/usr/bin/picoseg-execd",
            "/usr/share/bash-completion/completions/picoseg",
            "/usr/share/zsh/vendor-completions/_picoseg",
            "/usr/share/fish/vendor_completions.d/picoseg.fish",
            "/usr/share/doc/picoseg/README.md",
            "/usr/share/doc/picoseg/README.Debian",
            "/usr/share/doc/picoseg/docs/metrics.md",
            "/usr/share/doc/picoseg/copyright",
            "/usr/share/doc/picoseg/examples/services.d/example.toml.sample",
        ];
        let units = shipped_units().into_iter().map(|unit| format!("/usr/lib/systemd/system/{unit}"));
        for path in man.chain(others.map(str::to_owned)).chain(units) {
            assert!(listed.contains(&path), "{path} is missing:\n{}", listed.join("\n"));
        }
        for group in ["picoseg", "picoseg-admin"] {
            machine.run(&["getent", "group", group]).ok();
        }
        let of = |path: &str| machine.run(&["stat", "--format=%U:%G %a", path]).ok().stdout.trim().to_owned();
        for directory in ["", "/services.d", "/segments.d", "/lists"] {
            assert_eq!(of(&format!("/etc/picoseg{directory}")), "root:root 755");
        }
        assert_eq!(of("/var/lib/picoseg"), "picoseg:picoseg 700");
        assert_eq!(of("/run/picoseg/control.sock"), "picoseg:picoseg-admin 660");
        assert_eq!(of("/run/picoseg/observe.sock"), "picoseg:picoseg 660");
        let conffiles =
            machine.run(&["dpkg-query", "--show", "--showformat=${Conffiles}", "picoseg"]).ok().stdout;
        assert_eq!(conffiles.matches("/etc/").count(), 1, "{conffiles}");
        assert!(conffiles.contains("/etc/picoseg/picoseg.toml"), "{conffiles}");
    }
}

/// A machine with picoseg, a service, a unit that it admits with a connection, and one that floods what it must not
/// reach.
struct Site {
    machine: Machine,
    admitted: Agent,
    _echo: Echo,
}

const PROVIDER: u8 = 0;
/// Listed, and granted to nobody.
const FORBIDDEN: u8 = 1;
/// Listed nowhere.
const ELSEWHERE: u8 = 2;

fn at(number: u8) -> SocketAddr {
    SocketAddr::new(v4(number), 443)
}

impl Site {
    fn set_up(suite: &'static str) -> Option<Self> {
        let grants = [
            egress("pay.service", &[v4(PROVIDER)], "443/tcp"),
            egress("nobody.service", &[v4(FORBIDDEN)], "443/tcp"),
        ];
        let flood = unit(&format!("hasty {} {}", at(FORBIDDEN), at(ELSEWHERE)), "");
        let units = [
            ("/etc/systemd/system/pay.service", &*unit("ask pay", "")),
            ("/etc/systemd/system/flood.service", &flood),
        ];
        let machine = machine(suite, &units)?;
        install(&machine);
        let echo = machine.outside().echo(443);
        machine.start("pay.service");
        machine.put(&file("pay"), &schedule(&grants));
        machine.apply();
        let admitted = machine.agent("pay");
        until("the unit is followed", MOMENT, || admitted.talks_to(at(PROVIDER)));
        assert!(admitted.holds(at(PROVIDER)));
        machine.start("flood.service");
        let site = Self { machine, admitted, _echo: echo };
        assert!(site.refused() > 0);
        Some(site)
    }

    /// Packets of the flood that were refused so far, once there are more than at the last question.
    fn refused(&self) -> u64 {
        let counted = || self.machine.status()["attempts_total"].as_u64().expect("a number");
        let before = counted();
        until("the flood goes on", MOMENT, || counted() > before + 100);
        counted()
    }

    fn daemon(&self) -> String {
        self.machine.property(DAEMON, "MainPID")
    }

    fn holds_all_the_same(&self) {
        assert_eq!(self.machine.outside().arrived(FORBIDDEN), 0, "packets have passed");
        assert!(self.admitted.talks_to(at(PROVIDER)), "who was admitted still is");
    }

    fn is_refused(&self) -> bool {
        !self.machine.agent("pay").talks_to(at(FORBIDDEN))
    }
}

/// Packs the same files as another version, with another default of the settings.
fn pack_newer(machine: &Machine) {
    let script = format!(
        "set -e; dpkg-deb --raw-extract {PACKAGE} /root/tree
        sed -i 's/^Version: .*/&+newer/' /root/tree/DEBIAN/control
        dpkg-deb --root-owner-group -Zgzip -z1 --build /root/tree {NEWER}
        rm -r /root/tree"
    );
    run(machine, &["sh", "-c", &script]);
}

#[test]
fn an_upgrade_and_a_downgrade_under_a_flood_let_nothing_pass_and_cut_nothing() {
    for suite in SUITES {
        let Some(site) = Site::set_up(suite) else { return };
        let machine = &site.machine;
        pack_newer(machine);
        let edited = "# ours\n[enforcement]\nmode = \"enforce\"\n";
        machine.put("/etc/picoseg/picoseg.toml", edited);
        for package in [NEWER, PACKAGE] {
            let before = (site.daemon(), site.refused());
            run(machine, &["dpkg", "--install", package]);
            until("the daemon is up", MOMENT, || machine.property(DAEMON, "ActiveState") == "active");
            assert_ne!(site.daemon(), before.0, "the daemon is the one before");
            site.holds_all_the_same();
            assert!(site.refused() > before.1, "the flood goes on, and is counted on");
            assert_eq!(machine.property("picoseg-exec.service", "ActiveState"), "active");
        }
        assert_eq!(fs::read_to_string(machine.path("/etc/picoseg/picoseg.toml")).unwrap(), edited);
        assert!(!site.admitted.lost(), "the connection is cut");
        assert_eq!(machine.status()["drift"]["count"], 0);
        machine.picoseg(&["audit", "verify"]).ok();
    }
}

/// The entries of the ledger.
fn ledger(machine: &Machine) -> Vec<Value> {
    let shown = machine.picoseg(&["audit", "show", "--json"]).ok().json();
    shown["entries"].as_array().expect("a list").clone()
}

#[test]
fn removing_leaves_the_table_and_purging_leaves_the_ledger_which_goes_on() {
    for suite in SUITES {
        let Some(site) = Site::set_up(suite) else { return };
        let machine = &site.machine;
        let before = ledger(machine);

        run(machine, &["apt-get", "remove", "--yes", "picoseg"])
            .says(&["stays in force", "picosegd --unload"]);
        assert_eq!(site.daemon(), "0");
        assert!(machine.table().contains("hook output"));
        site.holds_all_the_same();
        assert!(!site.admitted.lost(), "the connection is cut");
        assert!(machine.path(&file("pay")).exists(), "what the administrator wrote is gone");

        run(machine, &["apt-get", "purge", "--yes", "picoseg"]).says(&["/var/lib/picoseg"]);
        assert!(!machine.path("/etc/picoseg").exists(), "/etc/picoseg is there");
        assert!(machine.path("/var/lib/picoseg/picoseg.db").exists(), "the ledger is gone");
        machine.run(&["getent", "passwd", "picoseg"]).ok();
        let left = machine.run(&["find", "/etc/systemd", "-name", "picoseg*"]).ok().stdout;
        assert_eq!(left, "");
        assert!(site.is_refused());

        install(machine);
        machine.picoseg(&["audit", "verify"]).ok();
        let after = ledger(machine);
        assert_eq!(after[..before.len()], before, "the ledger is another one");
        assert!(after.len() > before.len());
        let state = machine.picoseg(&["show", "pay", "--json"]).ok().json();
        assert_eq!(
            state["state"], "decommissioned",
            "the provider of a file that is gone stays watched: {state:#}"
        );
        assert_eq!(machine.outside().arrived(FORBIDDEN), 0, "packets have passed");

        let purge = ["env", "PICOSEG_PURGE_STATE=yes", "apt-get", "purge", "--yes", "picoseg"];
        let purge = machine.command(&purge);
        Run::of(purge).exits(0);
        assert!(
            !machine.path("/var/lib/picoseg").exists(),
            "the ledger is there although it was to be deleted"
        );
    }
}
