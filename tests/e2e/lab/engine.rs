//! What container engines make: cgroups by id, files that say which name belongs to which id, and networks.
//!
//! ```text
//!   provider  wire0 ---- host0  host  br0 ---- ethN  eth0  container N
//!                        masquerades  172.30.0.1/24        172.30.0.N
//!                                     fd30::1/64           fd30::N
//! ```

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::netns::Netns;
use super::{Lab, NETNS, Unit, knock_until_the_neighbour_answers, no_duplicate_address_detection, put};
use crate::agent::Agent;

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

/// A container with a network of its own behind a bridge of the host.
pub struct Container {
    netns: Netns,
    cgroup: Unit,
    addresses: [IpAddr; 2],
}

/// Makes the bridge for containers. What they send to the provider leaves with the host's address.
pub fn bridge(lab: &Lab) {
    for scope in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        lab.sysctl(true, scope, "1");
    }
    lab.host.ip("link add br0 type bridge\nlink set br0 up\naddr add 172.30.0.1/24 dev br0\naddr add fd30::1/64 dev br0 nodad\n");
    nat(
        lab,
        "chain out { type nat hook postrouting priority 100; ip saddr 172.30.0.0/24 oifname \"host0\" masquerade; \
         ip6 saddr fd30::/64 oifname \"host0\" masquerade; }",
    );
}

/// Publishes a port of a container at a port of the host, over both families.
pub fn publish(lab: &Lab, from: u16, container: &Container, to: u16) {
    let [v4, v6] = container.addresses;
    nat(
        lab,
        &format!(
            "chain in{from} {{ type nat hook prerouting priority -100; \
             iifname \"host0\" meta nfproto ipv4 tcp dport {from} dnat ip to {v4}:{to}; \
             iifname \"host0\" meta nfproto ipv6 tcp dport {from} dnat ip6 to [{v6}]:{to}; }}"
        ),
    );
}

fn nat(lab: &Lab, chain: &str) {
    let mut command = Command::new("nft");
    command.arg(format!("table inet engine {{\n{chain}\n}}\n"));
    lab.on_host(command).ok();
}

/// Starts a container: its first process comes later. `number` is the last part of its addresses.
pub fn start(lab: &Lab, cgroup: &Unit, number: u8) -> Container {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    let started = STARTED.fetch_add(1, Ordering::Relaxed);
    let netns = Netns::add(&format!("{NETNS}{}c{started}", lab.id())).expect("one more of what the lab has");
    let (v4, v6) =
        (Ipv4Addr::new(172, 30, 0, number), Ipv6Addr::new(0xfd30, 0, 0, 0, 0, 0, 0, u16::from(number)));
    netns.run(no_duplicate_address_detection);
    lab.host.ip(&format!(
        "link add eth{number} type veth peer name eth0 netns {}\nlink set eth{number} master br0 up\n",
        netns.name()
    ));
    netns.ip(&format!(
        "link set lo up\nlink set eth0 up\naddr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad\n\
         route add default via 172.30.0.1\nroute add default via fd30::1\n"
    ));
    let gateways = [Ipv4Addr::new(172, 30, 0, 1).into(), Ipv6Addr::new(0xfd30, 0, 0, 0, 0, 0, 0, 1).into()];
    netns.run(|| knock_until_the_neighbour_answers(&gateways));
    Container { netns, cgroup: cgroup.clone(), addresses: [v4.into(), v6.into()] }
}

impl Container {
    pub fn process(&self) -> Agent {
        self.netns.run(|| Agent::spawn(Some(self.cgroup.dir()), 0))
    }

    /// Takes its network away at once: the kernel ends a namespace when it likes.
    pub fn stop(self, lab: &Lab) {
        let [IpAddr::V4(v4), _] = self.addresses else { panic!("IPv4 comes first") };
        lab.host.ip(&format!("link del eth{}\n", v4.octets()[3]));
    }

    /// IPv4, IPv6.
    pub fn addresses(&self) -> [IpAddr; 2] {
        self.addresses
    }
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
