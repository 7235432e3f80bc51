//! The mounted cgroup2 tree, and which of its cgroups a subject means.

use std::borrow::Cow;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::CgroupError;
use super::containers::OTHER_UNITS;
use crate::compile::Place;
use crate::model::Subject;

/// A cgroup as the kernel knows it. A path that is removed and made again has another id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cgroup {
    /// Below the root of the hierarchy: `/system.slice/x.service`; the root itself is `/`.
    pub path: String,
    /// What `socket cgroupv2` compares: the inode number of the directory (on 64-bit kernels).
    pub id: u64,
    /// How deep below the root; the root has 0. `socket cgroupv2 level N` looks at the N-th ancestor.
    pub level: usize,
}

/// The cgroup2 hierarchy as this process sees it: in a cgroup namespace, `/` is the namespace's root, which is
/// also what `socket cgroupv2` counts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    mount: PathBuf,
}

impl Hierarchy {
    /// Finds where cgroup2 is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` beside version 1.
    pub fn find() -> Result<Self, CgroupError> {
        let mounts = std::fs::read("/proc/self/mountinfo").map_err(CgroupError::Mounts)?;
        Self::in_mountinfo(&mounts).ok_or(CgroupError::Missing)
    }

    /// The hierarchy that is mounted at `mount`.
    pub fn at(mount: impl Into<PathBuf>) -> Self {
        Self { mount: mount.into() }
    }

    /// Prefers a mount of the whole tree under `/sys/fs/cgroup`: containers see bind mounts of parts elsewhere.
    fn in_mountinfo(text: &[u8]) -> Option<Self> {
        text.split(|byte| *byte == b'\n')
            .filter_map(cgroup2_mount)
            .min_by_key(|(root, mount)| {
                let place = Path::new(Self::STANDARD);
                (root != Path::new("/"), !mount.starts_with(place))
            })
            .map(|(_, mount)| Self::at(mount))
    }

    /// Where nft looks up the paths in its rules.
    const STANDARD: &str = "/sys/fs/cgroup";

    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// Cgroups in the core's words.
    pub fn places(&self, cgroups: Vec<Cgroup>) -> Vec<Place> {
        let prefix = self.nft_prefix();
        let place = |cgroup: Cgroup| {
            let path = format!("{prefix}{}", cgroup.path.trim_start_matches('/'));
            Place::cgroup(cgroup.id, u32::try_from(cgroup.level).unwrap_or(u32::MAX), path)
        };
        cgroups.into_iter().map(place).collect()
    }

    /// What stands before a path in nft's language: nothing, or `unified/` beside version 1.
    ///
    /// nft looks below `/sys/fs/cgroup` only: nothing too for a mount elsewhere, which it cannot name.
    pub fn nft_prefix(&self) -> String {
        let below = self.mount.strip_prefix(Self::STANDARD).ok();
        match below.and_then(Path::to_str) {
            None | Some("") => String::new(),
            Some(below) => format!("{below}/"),
        }
    }

    /// Returns the cgroups that a subject means right now, sorted by path; none when it does not exist.
    pub fn resolve(&self, subject: &Subject) -> Result<Vec<Cgroup>, CgroupError> {
        match subject {
            Subject::Cgroup(path) => Ok(self.cgroup(path)?.into_iter().collect()),
            Subject::Unit(unit) => self.resolve_unit(unit),
            Subject::Exe { .. } | Subject::User(_) | Subject::Group(_) | Subject::Container(_) => {
                Ok(Vec::new())
            }
        }
    }

    fn resolve_unit(&self, unit: &str) -> Result<Vec<Cgroup>, CgroupError> {
        let mut found = Vec::new();
        let mut slices = vec!["/".to_owned()];
        while let Some(slice) = slices.pop() {
            for name in self.children(&slice)? {
                let path = join(&slice, &name);
                if units_of(&name).any(|known| known == unit) {
                    found.extend(self.cgroup(&path)?);
                }
                if is_slice(&name) {
                    slices.push(path);
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// The cgroup at a path, when there is one.
    pub(super) fn cgroup(&self, path: &str) -> Result<Option<Cgroup>, CgroupError> {
        let directory = self.directory(path);
        let metadata = match std::fs::symlink_metadata(&directory) {
            Err(error) if is_gone(&error) => return Ok(None),
            other => other.map_err(|source| CgroupError::Read { path: directory, source })?,
        };
        Ok(metadata.is_dir().then(|| Cgroup {
            path: path.to_owned(),
            id: metadata.ino(),
            level: path.split('/').filter(|part| !part.is_empty()).count(),
        }))
    }

    /// The names of the cgroups right below a path; none when it is gone. Names that are not UTF-8 belong to no
    /// unit and to no path of a schedule.
    pub fn children(&self, path: &str) -> Result<Vec<String>, CgroupError> {
        let directory = self.directory(path);
        let names = std::fs::read_dir(&directory).and_then(|entries| {
            entries
                .filter(|entry| !matches!(entry, Ok(entry) if !entry.file_type().is_ok_and(|t| t.is_dir())))
                .map(|entry| Ok(entry?.file_name().into_string().ok()))
                .collect::<io::Result<Vec<_>>>()
        });
        match names {
            Ok(names) => Ok(names.into_iter().flatten().collect()),
            Err(error) if is_gone(&error) => Ok(Vec::new()),
            Err(source) => Err(CgroupError::Read { path: directory, source }),
        }
    }

    pub(super) fn directory(&self, path: &str) -> PathBuf {
        self.mount.join(path.trim_start_matches('/'))
    }
}

/// A path may vanish at any time: `ENODEV` is what a directory says that is just being removed.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::ENOTDIR))
}

/// The path of `name` in the cgroup `parent`.
pub(super) fn join(parent: &str, name: &str) -> String {
    format!("{}/{name}", parent.trim_end_matches('/'))
}

pub(super) fn is_slice(name: &str) -> bool {
    name.ends_with(".slice")
}

/// The name of a unit that is no slice.
pub(super) fn is_unit(name: &str) -> bool {
    OTHER_UNITS.iter().any(|kind| name.len() > kind.len() && name.ends_with(kind))
}

/// True when every part of a path is a slice, also for the root.
///
/// Only below such a path does a name stand for a unit of the system manager. Below a service or a scope the tree
/// may be delegated: a user, or the root of a container, could make a directory with any unit's name there.
pub(super) fn is_slice_chain(path: &str) -> bool {
    path.split('/').filter(|part| !part.is_empty()).all(is_slice)
}

/// The unit names of subjects that a directory of this name stands for: the unit, and for `x@1.service` the
/// template `x@.service` too. A template itself never runs.
pub(super) fn units_of(name: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let unit = unit_of(name);
    let instance = unit.split_once('@').and_then(|(stem, rest)| Some((stem, rest.rsplit_once('.')?)));
    match instance {
        None => [Some(Cow::Borrowed(unit)), None],
        Some((_, ("", _))) => [None, None],
        Some((stem, (_, kind))) => [Some(Cow::Borrowed(unit)), Some(Cow::Owned(format!("{stem}@.{kind}")))],
    }
    .into_iter()
    .flatten()
}

/// The unit whose directory has this name: systemd puts `_` before names that the kernel could mistake for files
/// of its own (`cpu.service`) and before those that begin with `_` (systemd, `cg_escape`).
pub(super) fn unit_of(name: &str) -> &str {
    name.strip_prefix('_').unwrap_or(name)
}

/// Root and mount point of a line of mountinfo (proc_pid_mountinfo(5)) when it is about cgroup2.
fn cgroup2_mount(line: &[u8]) -> Option<(PathBuf, PathBuf)> {
    let mut fields = line.split(|byte| *byte == b' ');
    let root = fields.nth(3)?;
    let mount = fields.next()?;
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    (kind == b"cgroup2").then(|| (unescaped(root), unescaped(mount)))
}

/// Blanks, tabs, line breaks and backslashes stand as `\` and three octal digits.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 master:1 - cgroup2 cgroup2 rw
";
    const UNIFIED: &str = "\
30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate
";

    fn tree(directories: &[&str]) -> (tempfile::TempDir, Hierarchy) {
        let root = tempfile::tempdir().unwrap();
        for directory in directories {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        std::fs::write(root.path().join("cgroup.procs"), "").unwrap();
        let hierarchy = Hierarchy::at(root.path());
        (root, hierarchy)
    }

    fn paths(hierarchy: &Hierarchy, subject: &Subject) -> Vec<String> {
        let found = hierarchy.resolve(subject).unwrap();
        found.into_iter().map(|cgroup| cgroup.path).collect()
    }

    fn unit(name: &str) -> Subject {
        Subject::unit(name).unwrap()
    }

    #[test]
    fn the_mount_is_found_on_hybrid_and_on_unified_hosts() {
        let hybrid = Hierarchy::in_mountinfo(HYBRID.as_bytes()).unwrap();
        assert_eq!(hybrid.mount(), Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(hybrid.nft_prefix(), "unified/");
        let unified = Hierarchy::in_mountinfo(UNIFIED.as_bytes()).unwrap();
        assert_eq!(unified.mount(), Path::new("/sys/fs/cgroup"));
        assert_eq!(unified.nft_prefix(), "");
    }

    #[test]
    fn the_whole_tree_in_its_place_wins_over_parts_elsewhere() {
        let text = format!(
            "50 1 0:26 /lxc/a /mnt/part rw - cgroup2 cgroup2 rw\n\
             51 1 0:26 / /srv/with\\040blank rw - cgroup2 none rw\n{UNIFIED}"
        );
        let found = Hierarchy::in_mountinfo(text.as_bytes()).unwrap();
        assert_eq!(found.mount(), Path::new("/sys/fs/cgroup"));
        let elsewhere = Hierarchy::in_mountinfo(text.lines().nth(1).unwrap().as_bytes()).unwrap();
        assert_eq!(elsewhere.mount(), Path::new("/srv/with blank"));
        assert_eq!(elsewhere.nft_prefix(), "");
    }

    #[test]
    fn without_cgroup2_there_is_no_hierarchy() {
        let version1 = HYBRID.lines().take(2).collect::<Vec<_>>().join("\n");
        assert_eq!(Hierarchy::in_mountinfo(version1.as_bytes()), None);
        assert_eq!(Hierarchy::in_mountinfo(b"\n - \n1 2 3\n"), None);
    }

    #[test]
    fn a_cgroup_is_its_path_and_the_root_has_level_0() {
        let (_root, hierarchy) = tree(&["a/b"]);
        let root = hierarchy.resolve(&Subject::cgroup("/").unwrap()).unwrap();
        assert_eq!((root[0].path.as_str(), root[0].level), ("/", 0));
        let inner = hierarchy.resolve(&Subject::cgroup("/a/b").unwrap()).unwrap();
        assert_eq!((inner[0].path.as_str(), inner[0].level), ("/a/b", 2));
        assert!(paths(&hierarchy, &Subject::cgroup("/a/c").unwrap()).is_empty());
        assert!(paths(&hierarchy, &Subject::cgroup("/cgroup.procs").unwrap()).is_empty());
    }

    #[test]
    fn a_unit_is_found_below_slices_only() {
        let (_root, hierarchy) = tree(&[
            "system.slice/x.service/x.service",
            "a.slice/a-b.slice/x.service",
            "user.slice/user-1000.slice/user@1000.service/app.slice/x.service",
            "docker-1.scope/system.slice/x.service",
            "lxc/x.service",
        ]);
        let found = paths(&hierarchy, &unit("x.service"));
        assert_eq!(found, ["/a.slice/a-b.slice/x.service", "/system.slice/x.service"]);
        assert_eq!(paths(&hierarchy, &unit("a-b.slice")), ["/a.slice/a-b.slice"]);
        assert!(paths(&hierarchy, &unit("app.slice")).is_empty());
    }

    #[test]
    fn a_template_is_all_its_instances_and_an_instance_only_itself() {
        let (_root, hierarchy) = tree(&[
            "system.slice/x@1.service",
            "system.slice/x@a.b@c.service",
            "system.slice/x@.service",
            "system.slice/xx@1.service",
            "system.slice/x@1.scope",
        ]);
        let found = paths(&hierarchy, &unit("x@.service"));
        assert_eq!(found, ["/system.slice/x@1.service", "/system.slice/x@a.b@c.service"]);
        assert_eq!(paths(&hierarchy, &unit("x@1.service")), ["/system.slice/x@1.service"]);
    }

    #[test]
    fn names_that_systemd_escapes_are_found() {
        let (_root, hierarchy) = tree(&["system.slice/_cpu.service", "system.slice/__x.service"]);
        assert_eq!(paths(&hierarchy, &unit("cpu.service")), ["/system.slice/_cpu.service"]);
        assert_eq!(paths(&hierarchy, &unit("_x.service")), ["/system.slice/__x.service"]);
        assert!(paths(&hierarchy, &unit("x.service")).is_empty());
    }
}
