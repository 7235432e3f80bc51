//! Listeners that systemd makes for a service: they and all that they accept belong to the socket unit.

use crate::agent::unit;
use crate::clock::until;
use crate::machine::{MOMENT, Machine};
use crate::outside::v4;
use crate::schedule::{file, ingress, schedule};

const PORT: u16 = 8443;
const SOCKET: &str = "[Socket]\nListenStream=8443\n";

fn machine_with(service: &str, socket: bool) -> Option<Machine> {
    let (provider, grants) = (file("provider"), schedule(&[ingress("hook.service", &[v4(0)], "8443/tcp")]));
    let units = [("/etc/systemd/system/hook.service", service), (provider.as_str(), grants.as_str())];
    let socket = socket.then_some(("/etc/systemd/system/hook.socket", SOCKET));
    let files: Vec<_> = units.into_iter().chain(socket).collect();
    Machine::boot(&files)
}

#[test]
fn a_listener_of_systemd_is_refused_and_show_says_why() {
    // Another user than the daemon's: what it has open is known all the same.
    let service = unit("activated", "User=nobody\nStandardInput=socket\nStandardOutput=journal");
    let Some(machine) = machine_with(&service, true) else { return };
    machine.start("hook.socket");
    // Somebody whom no service lists starts it.
    assert!(machine.outside().talks_to(PORT, v4(3)));
    assert_eq!(machine.property("hook.service", "ActiveState"), "active");
    assert!(!machine.outside().talks_to(PORT, v4(0)), "the policy is for the service");
    let said = machine.picoseg(&["show", "provider"]).ok().stdout;
    assert!(said.contains("/system.slice/hook.socket") && said.contains(r#"unit = "hook.socket""#), "{said}");
    let process = machine.property("hook.service", "MainPID");
    assert!(said.contains(&format!("process {process} of unit:hook.service holds it")), "{said}");
    machine.picoseg(&["check"]).ok().explains(&["hook.socket\" }"]);

    // The remedy: the maker is the subject.
    machine.put(&file("provider"), &schedule(&[ingress("hook.socket", &[v4(0)], "8443/tcp")]));
    machine.apply();
    assert!(machine.outside().talks_to(PORT, v4(0)));
    // Both units get new cgroups, the service makes none.
    machine.restart("hook.service");
    assert!(machine.outside().talks_to(PORT, v4(0)));
    machine.systemctl(&["stop", "hook.service", "hook.socket"]).ok();
    machine.start("hook.socket");
    until("the new listener is followed", MOMENT, || machine.outside().talks_to(PORT, v4(0)));
    assert!(!machine.picoseg(&["check"]).ok().stderr.contains("hook.socket"));
}

#[test]
fn a_service_that_makes_its_listener_itself_is_admitted() {
    let Some(machine) = machine_with(&unit(&format!("serve {PORT}"), ""), false) else { return };
    machine.start("hook.service");
    until("its provider is admitted", MOMENT, || machine.outside().talks_to(PORT, v4(0)));
    let said = machine.picoseg(&["show", "provider"]).ok().stdout;
    assert!(!said.contains("hook.socket"), "{said}");
}
