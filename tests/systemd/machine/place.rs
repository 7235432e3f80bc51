//! What a machine is made of, outside of it: a directory, mounts, a cgroup. All of it is named after the test process, so
//! that the next one removes what a killed one left behind.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::clock;

/// Where the machines of all test processes are: not on a disk.
const PLACES: &str = "/run/picoseg-machines";
const CGROUP: &str = "picosegbox";
/// From the last signal until a cgroup is empty, on a loaded machine.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// A root file system that can be written to, over one that stays as it is.
pub struct Tree {
    dir: PathBuf,
}

impl Tree {
    /// # Errors
    /// The reason in words: no permission, no overlay file system.
    pub fn lay(id: &str, base: &Path) -> Result<Self, String> {
        let dir = Path::new(PLACES).join(id);
        fs::create_dir_all(dir.join("layers")).map_err(|e| format!("{}: {e}", dir.display()))?;
        let tree = Self { dir };
        let layers = tree.dir.join("layers");
        let options = Some("size=1g,mode=755");
        mount(Some("picoseg"), &layers, Some("tmpfs"), MsFlags::empty(), options)
            .map_err(|e| format!("cannot mount a tmpfs: {e}"))?;
        for part in ["layers/upper", "layers/work", "root"] {
            fs::create_dir_all(tree.dir.join(part)).map_err(|e| format!("{part}: {e}"))?;
        }
        let (upper, work) = (layers.join("upper"), layers.join("work"));
        let options =
            format!("lowerdir={},upperdir={},workdir={}", base.display(), upper.display(), work.display());
        mount(Some("overlay"), &tree.root(), Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .map_err(|e| format!("cannot mount an overlay: {e}"))?;
        Ok(tree)
    }

    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// A path beside the root, not seen from inside.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        clear(&self.dir);
    }
}

/// A cgroup in which everything of a machine runs, in every hierarchy that systemd uses.
pub struct Cage {
    dirs: Vec<PathBuf>,
}

impl Cage {
    /// # Errors
    /// The reason in words.
    pub fn build(id: &str) -> Result<Self, String> {
        let mut cage = Self { dirs: Vec::new() };
        for hierarchy in hierarchies()? {
            let dir = hierarchy.join(format!("{CGROUP}{id}"));
            fs::create_dir(&dir).map_err(|e| format!("mkdir {}: {e}", dir.display()))?;
            cage.dirs.push(dir);
        }
        Ok(cage)
    }

    /// A command that enters the cgroup and becomes `program`.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("sh");
        let enter = r#"while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs" || exit 125; shift; done; shift; exec "$@""#;
        command.args(["-c", enter, "sh"]).args(&self.dirs).args(["--", program]);
        command
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        self.dirs.iter().for_each(|dir| empty(dir));
    }
}

/// Removes what belongs to test processes that are gone.
pub fn sweep(belongs_to_the_dead: impl Fn(&str) -> bool) {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    for hierarchy in hierarchies().unwrap_or_default() {
        let dead = |path: &PathBuf| {
            name(path).as_deref().and_then(|n| n.strip_prefix(CGROUP)).is_some_and(&belongs_to_the_dead)
        };
        directories(&hierarchy).into_iter().filter(dead).for_each(|dir| empty(&dir));
    }
    let dead = |path: &PathBuf| name(path).is_some_and(|name| belongs_to_the_dead(&name));
    directories(Path::new(PLACES)).into_iter().filter(dead).for_each(|dir| clear(&dir));
}

/// Where cgroup2 is mounted, and systemd's own hierarchy beside it on a host that has both.
fn hierarchies() -> Result<Vec<PathBuf>, String> {
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(|e| format!("/proc/self/mounts: {e}"))?;
    let of_type = |wanted: &str| {
        let fits = |line: &&str| line.split(' ').nth(2) == Some(wanted);
        mounts.lines().find(fits).and_then(|line| line.split(' ').nth(1)).map(PathBuf::from)
    };
    let unified = of_type("cgroup2").ok_or("no cgroup2 hierarchy is mounted")?;
    let named = Some(PathBuf::from("/sys/fs/cgroup/systemd")).filter(|dir| dir.join("cgroup.procs").exists());
    Ok([unified].into_iter().chain(named).collect())
}

/// Kills everything in a cgroup, and removes it.
fn empty(dir: &Path) {
    let _ = fs::write(dir.join("cgroup.kill"), "1");
    let gone = clock::within(GONE_WITHIN, || {
        remove(dir);
        (!dir.exists()).then_some(())
    });
    if gone.is_none() {
        eprintln!("left behind: {}", dir.display());
    }
}

fn remove(dir: &Path) {
    directories(dir).iter().for_each(|child| remove(child));
    let _ = fs::remove_dir(dir);
}

/// Unmounts and removes the directory of a machine.
fn clear(dir: &Path) {
    for part in ["root", "layers"] {
        let _ = umount2(&dir.join(part), MntFlags::MNT_DETACH);
    }
    // Nothing of the base is below it any more, or it is not empty and stays.
    let removed = fs::remove_dir(dir.join("root"))
        .and_then(|()| fs::remove_dir(dir.join("layers")))
        .and_then(|()| fs::remove_dir_all(dir));
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            eprintln!("left behind: {}: {error}", dir.display())
        }
        Ok(()) | Err(_) => {}
    }
    // The last one.
    let _ = fs::remove_dir(PLACES);
}

fn directories(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}
