//! What container engines make: cgroups by id, and files that say which name belongs to which id.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::{Lab, Unit, put};

/// How an engine names cgroups.
pub const DOCKER: &str = "docker-@.scope";
pub const PODMAN: &str = "libpod-@.scope";
pub const CONTAINERD: &str = "cri-containerd-@.scope";
pub const WITHOUT_SYSTEMD: &str = "@";

/// 64 hex digits that are this container's alone on this machine.
pub fn id(lab: &Lab, container: &str) -> String {
    let mut hasher = DefaultHasher::new();
    (lab.id(), container).hash(&mut hasher);
    format!("{:016x}", hasher.finish()).repeat(4)
}

/// The cgroup of a container.
pub fn cgroup(lab: &Lab, shape: &str, id: &str) -> Unit {
    lab.scope(&shape.replace('@', id))
}

/// What Docker writes down of a container.
pub fn docker(lab: &Lab, id: &str, name: &str) {
    let text = format!(r#"{{"StreamConfig":{{}},"State":{{"Running":true}},"ID":"{id}","Name":"/{name}"}}"#);
    write(lab, &format!("docker/containers/{id}/config.v2.json"), &text);
}

/// What Podman writes down of all containers.
pub fn podman(lab: &Lab, containers: &[(&str, &str)]) {
    let all: Vec<_> = containers
        .iter()
        .map(|(id, name)| format!(r#"{{"id":"{id}","names":["{name}"],"image":"x"}}"#))
        .collect();
    write(lab, "containers/storage/overlay-containers/containers.json", &format!("[{}]", all.join(",")));
}

/// What nerdctl writes down of a container.
pub fn nerdctl(lab: &Lab, id: &str, name: &str) {
    write(lab, &format!("nerdctl/1935db59/names/default/{name}"), id);
}

/// Forgets what Docker wrote down of a container.
pub fn forget_docker(lab: &Lab, id: &str) {
    fs::remove_dir_all(lab.engines().join("docker/containers").join(id)).expect("it was written");
}

fn write(lab: &Lab, path: &str, text: &str) {
    let path = lab.engines().join(path);
    fs::create_dir_all(path.parent().expect("not the root")).expect("a directory of ours");
    put(&path, text);
}

/// Puts a directory in the place of `/var/lib` for the calling thread and what it starts.
pub fn see_state(directory: &Path) {
    if !directory.exists() {
        return;
    }
    let nothing: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS).expect("root makes a mount namespace");
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
        .expect("a namespace of ours");
    mount(Some(directory), "/var/lib", nothing, MsFlags::MS_BIND, nothing).expect("a namespace of ours");
}
