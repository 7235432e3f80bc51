//! Containers, without an engine: what an engine makes is made here.

use std::time::Duration;

use crate::lab::engine::{self, CONTAINERD, DOCKER, PODMAN, WITHOUT_SYSTEMD};
use crate::lab::schedule::{Lifetime, policy, schedule};
use crate::lab::{Lab, Unit, at, clock};

/// From a change of a container until the kernel has it.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(2);

fn subject(container: &str) -> String {
    format!("container = {container:?}")
}

/// The provider listens on 443 of both families and nobody but the container may connect.
fn write(lab: &Lab, container: &str, lifetime: Lifetime) {
    let remotes = [lab.provider4(0), lab.provider6(0)];
    let policies =
        remotes.map(|remote| policy("egress", &subject(container), &remote.to_string(), "443/tcp"));
    lab.write("stripe", &schedule(lifetime, &policies));
}

/// True when a process of the cgroup reaches the provider over both families.
fn talks(lab: &Lab, cgroup: &Unit) -> bool {
    let process = lab.process(cgroup);
    [lab.provider4(0), lab.provider6(0)].iter().all(|remote| process.talks_to(at(*remote, 443)))
}

#[test]
fn a_container_on_the_hosts_network_is_found_by_id_whatever_engine_made_it() {
    for (shape, digits) in [(DOCKER, 64), (PODMAN, 12), (CONTAINERD, 40), (WITHOUT_SYSTEMD, 12)] {
        let Some(lab) = Lab::new() else { return };
        let [id, other] = ["web", "other"].map(|name| engine::id(&lab, name));
        let [web, neighbour] = [&id, &other].map(|id| engine::cgroup(&lab, shape, id));
        write(&lab, &id[..digits], Lifetime::open());
        let theirs = lab.provider();
        let _listeners = [lab.provider4(0), lab.provider6(0)].map(|remote| theirs.echo(at(remote, 443)));
        let _daemon = lab.daemon();
        assert!(talks(&lab, &web), "{shape}");
        assert!(talks(&lab, &web.child("nested")), "{shape}: what is below belongs to it");
        let stranger = lab.process(&neighbour);
        assert!(stranger.connect(at(lab.provider4(0), 443)).is_err(), "{shape}");
        assert!(stranger.connect(at(lab.provider6(0), 443)).is_err(), "{shape}");
        lab.expect_attempts(2, &[("service", "stripe"), ("direction", "egress"), ("reason", "undeclared")]);
    }
}

#[test]
fn a_container_is_found_by_the_name_that_its_engine_knows() {
    for (shape, name) in [(DOCKER, "web"), (PODMAN, "db"), (CONTAINERD, "cache")] {
        let Some(lab) = Lab::new() else { return };
        let [id, other] = ["web", "other"].map(|name| engine::id(&lab, name));
        engine::docker(&lab, if shape == DOCKER { &id } else { &other }, "web");
        engine::podman(&lab, &[(if shape == PODMAN { &id } else { &other }, "db")]);
        engine::nerdctl(&lab, if shape == CONTAINERD { &id } else { &other }, "cache");
        let [web, neighbour] = [&id, &other].map(|id| engine::cgroup(&lab, shape, id));
        write(&lab, name, Lifetime::open());
        let theirs = lab.provider();
        let _listeners = [lab.provider4(0), lab.provider6(0)].map(|remote| theirs.echo(at(remote, 443)));
        let _daemon = lab.daemon();
        assert!(talks(&lab, &web), "{shape}");
        assert!(!talks(&lab, &neighbour), "{shape}");
    }
}

#[test]
fn a_container_is_followed_when_it_starts_again_and_when_another_takes_its_name() {
    let Some(lab) = Lab::new() else { return };
    let [first, second] = ["first", "second"].map(|name| engine::id(&lab, name));
    engine::docker(&lab, &first, "web");
    write(&lab, "web", Lifetime::open());
    let theirs = lab.provider();
    let _listeners = [lab.provider4(0), lab.provider6(0)].map(|remote| theirs.echo(at(remote, 443)));
    let _daemon = lab.daemon();
    let web = engine::cgroup(&lab, DOCKER, &first);
    let reached = |cgroup: &Unit| clock::until("it is admitted", FOLLOWED_WITHIN, || talks(&lab, cgroup));
    reached(&web);
    web.remove();
    web.create();
    reached(&web);
    web.remove();
    engine::forget_docker(&lab, &first);
    engine::docker(&lab, &second, "web");
    let again = engine::cgroup(&lab, DOCKER, &second);
    reached(&again);
    // Who has lost the name has lost the grant, although it may run on.
    engine::docker(&lab, &second, "renamed");
    clock::until("its name is gone", FOLLOWED_WITHIN, || !talks(&lab, &again));
}

#[test]
fn a_container_that_nobody_knows_or_that_could_be_several_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let [first, second] = ["first", "second"].map(|name| engine::id(&lab, name));
    let cgroups = [(DOCKER, &first), (PODMAN, &second)].map(|(shape, id)| engine::cgroup(&lab, shape, id));
    write(&lab, "web", Lifetime::open());
    let theirs = lab.provider();
    let _listeners = [lab.provider4(0), lab.provider6(0)].map(|remote| theirs.echo(at(remote, 443)));
    engine::docker(&lab, &first, "other");
    let daemon = lab.daemon();
    assert!(!cgroups.iter().any(|cgroup| talks(&lab, cgroup)));
    engine::docker(&lab, &first, "web");
    clock::until("it has the name", FOLLOWED_WITHIN, || talks(&lab, &cgroups[0]));
    engine::podman(&lab, &[(&second, "web")]);
    clock::until("two have the name", FOLLOWED_WITHIN, || !talks(&lab, &cgroups[0]));
    assert!(!talks(&lab, &cgroups[1]));
    assert!(daemon.said().contains("several containers fit"));
}

#[test]
fn a_look_alike_below_something_else_is_no_container() {
    let Some(lab) = Lab::new() else { return };
    let id = engine::id(&lab, "web");
    let service = lab.unit("delegated");
    let look_alike = service.child(&DOCKER.replace('@', &id));
    let inside = engine::cgroup(&lab, DOCKER, &engine::id(&lab, "evil")).child(&DOCKER.replace('@', &id));
    write(&lab, &id, Lifetime::open());
    let theirs = lab.provider();
    let _listeners = [lab.provider4(0), lab.provider6(0)].map(|remote| theirs.echo(at(remote, 443)));
    let _daemon = lab.daemon();
    assert!(!talks(&lab, &look_alike));
    assert!(!talks(&lab, &inside));
}
