//! The namespaces: one of the provider, and one of a host for every variant, each with a wire to the provider; and the cgroup of
//! all sockets.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};

use crate::netns::{self, Netns};
use crate::places;
use crate::traffic::{Ends, Family};
use crate::variant::{InForce, Variant};

pub struct Lab {
    pub hosts: Vec<Host>,
    pub ends: Ends,
    provider: Netns,
    _cgroup: Cgroup,
}

pub struct Host {
    pub variant: Variant,
    pub netns: Netns,
    /// Why it is not measured.
    pub absent: Option<String>,
    /// Its table leaves with it.
    _in_force: Option<InForce>,
}

impl Lab {
    /// # Errors
    /// The reason in words: no permission, no cgroup2, no `ip`.
    pub fn new(variants: Vec<Variant>) -> Result<Self, String> {
        sweep();
        let id = std::process::id();
        let cgroup = Cgroup::enter(&format!("picopath{id}"))?;
        let provider = Netns::add(&format!("picopath{id}p"))?;
        // What the listeners may hold back; room for ports in TIME_WAIT.
        provider.run(|| {
            set("net/core/somaxconn", "4096");
            alike();
        });
        let mut setup = String::from("link set lo up\n");
        setup.extend(places::PROVIDER4.iter().map(|address| format!("addr add {address}/32 dev lo\n")));
        setup
            .extend(places::PROVIDER6.iter().map(|address| format!("addr add {address}/128 dev lo nodad\n")));
        provider.ip(&setup);
        let mut hosts = vec![];
        for (index, variant) in variants.into_iter().enumerate() {
            let netns = Netns::add(&format!("picopath{id}h{index}"))?;
            wire(&provider, &netns, index);
            let loaded = netns.run(|| variant.load(&cgroup));
            let (absent, in_force) = match loaded {
                Ok(in_force) => (None, Some(in_force)),
                Err(why) => (Some(why), None),
            };
            hosts.push(Host { variant, netns, absent, _in_force: in_force });
        }
        let ends = provider.run(Ends::listen);
        Ok(Self { hosts, ends, provider, _cgroup: cgroup })
    }
}

impl Lab {
    /// Moves the calling thread into the namespace of a host, or of the provider.
    pub fn enter(&self, host: Option<usize>) {
        let netns = host.map_or(&self.provider, |index| &self.hosts[index].netns);
        let place = fs::File::open(format!("/run/netns/{}", netns.name())).expect("the namespace has a name");
        setns(place, CloneFlags::CLONE_NEWNET).expect("root enters a network namespace");
    }
}

/// Removes what runs left behind that were killed.
fn sweep() {
    let is_of_the_dead = |name: &str| {
        let id =
            name.strip_prefix("picopath").and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
        id.is_some_and(|id| !id.is_empty() && !Path::new("/proc").join(id).exists())
    };
    netns::sweep(is_of_the_dead);
    for entry in root().and_then(|root| fs::read_dir(root).ok()).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_of_the_dead) {
            remove(&entry.path()).unwrap_or_else(|why| eprintln!("left behind: {why}"));
        }
    }
}

/// Where cgroup2 is.
fn root() -> Option<PathBuf> {
    let places = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from);
    places.into_iter().find(|path| path.join("cgroup.controllers").exists())
}

/// Removes a cgroup and those in it.
fn remove(slice: &Path) -> Result<(), String> {
    let units = fs::read_dir(slice).into_iter().flatten().flatten().map(|entry| entry.path());
    for dir in units.filter(|path| path.is_dir()).chain([slice.to_owned()]) {
        fs::remove_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    Ok(())
}

/// Neighbours are written down: nobody asks for them while it is measured.
fn wire(provider: &Netns, host: &Netns, index: usize) {
    let (theirs, ours) = (format!("02:00:00:01:00:{index:02x}"), format!("02:00:00:02:00:{index:02x}"));
    let ((their4, our4), (their6, our6)) = (places::wire(index, Family::V4), places::wire(index, Family::V6));
    provider.ip(&format!(
        "link add w{index} address {theirs} type veth peer name w address {ours} netns {}\n\
         addr add {their4}/24 dev w{index}\naddr add {their6}/64 dev w{index} nodad\nlink set w{index} up\n\
         neigh replace {our4} lladdr {ours} dev w{index} nud permanent\n\
         neigh replace {our6} lladdr {ours} dev w{index} nud permanent\n",
        host.name()
    ));
    host.run(alike);
    host.ip(&format!(
        "link set lo up\naddr add {our4}/24 dev w\naddr add {our6}/64 dev w nodad\nlink set w up\n\
         neigh replace {their4} lladdr {theirs} dev w nud permanent\n\
         neigh replace {their6} lladdr {theirs} dev w nud permanent\n\
         route add default via {their4}\nroute add default via {their6}\n"
    ));
}

/// Ports for many connections, and the congestion control that every kernel has: one that paces (BBR) measures its timers.
fn alike() {
    set("net/ipv4/ip_local_port_range", "10000 65000");
    set("net/ipv4/tcp_congestion_control", "reno");
}

fn set(key: &str, value: &str) {
    fs::write(Path::new("/proc/sys").join(key), value).unwrap_or_else(|error| panic!("{key}: {error}"));
}

/// A cgroup of level 2 in which this process is while it lives; others beside it belong to services that are not measured.
pub struct Cgroup {
    root: PathBuf,
    name: String,
    before: PathBuf,
}

impl Cgroup {
    fn enter(name: &str) -> Result<Self, String> {
        let root = root().ok_or("no cgroup2 file system is mounted")?;
        let own = fs::read_to_string("/proc/self/cgroup").map_err(|e| e.to_string())?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default().to_owned();
        let made = Self { before: root.join(own), root, name: name.to_owned() };
        let target = made.dir("target");
        fs::create_dir_all(&target).map_err(|e| format!("mkdir {}: {e}", target.display()))?;
        join(&target)?;
        Ok(made)
    }

    fn dir(&self, unit: &str) -> PathBuf {
        self.root.join(&self.name).join(unit)
    }

    /// The path of a unit's cgroup as nft writes it, below /sys/fs/cgroup. It is made when it is not there.
    pub fn path(&self, unit: &str) -> String {
        let dir = self.dir(unit);
        fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("mkdir {}: {e}", dir.display()));
        dir.strip_prefix("/sys/fs/cgroup").expect("below it").display().to_string()
    }

    /// The path below the root of cgroup2, as `iptables -m cgroup --path` writes it.
    pub fn below_root(&self, unit: &str) -> String {
        let path = self.path(unit);
        path.strip_prefix("unified/").map_or_else(|| path.clone(), str::to_owned)
    }

    pub fn id(&self, unit: &str) -> u64 {
        fs::metadata(self.dir(unit)).map_or_else(|e| panic!("{unit}: {e}"), |metadata| metadata.ino())
    }
}

fn join(dir: &Path) -> Result<(), String> {
    let procs = dir.join("cgroup.procs");
    fs::write(&procs, "0").map_err(|e| format!("{}: {e}", procs.display()))
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let left = join(&self.before).and_then(|()| remove(&self.root.join(&self.name)));
        if let Err(why) = left {
            eprintln!("left behind: {why}");
        }
    }
}
