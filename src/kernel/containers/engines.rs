//! The names that engines gave to containers, from the files in which they keep them.
//!
//! | engine | where | what |
//! |---|---|---|
//! | Docker | `/var/lib/docker/containers/ID/config.v2.json` | `Name`, with a slash before it |
//! | Podman, CRI-O | `/var/lib/containers/storage/DRIVER-containers/containers.json` | `id`, `names` |
//! | containerd with nerdctl | `/var/lib/nerdctl/HASH/names/NAMESPACE/NAME` | the id |
//!
//! Only at these places: engines with other directories, and those of users, are known by id alone. A file that cannot
//! be read is an error in the log, and its containers have no names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::kernel::cgroups::is_id;

/// The longest state file that is read: a host has thousands of containers, not millions.
const LONGEST: u64 = 64 << 20;

/// The state of the engines below a root directory, read again when a file is another one.
#[derive(Debug)]
pub struct Engines {
    root: PathBuf,
    /// Names by id, for each file or directory that was read.
    read: BTreeMap<PathBuf, (Stamp, Names)>,
}

/// Names by id.
type Names = BTreeMap<String, BTreeSet<String>>;

/// Tells a file from what it was before.
type Stamp = (u64, i64, i64, u64);

#[derive(Debug, thiserror::Error)]
enum StateError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("not what an engine writes: {0}")]
    Json(#[from] serde_json::Error),
    #[error("longer than {LONGEST} bytes")]
    Long,
}

impl Engines {
    /// The engines whose state lies below `root`, which is `/` but in tests.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), read: BTreeMap::new() }
    }

    /// The names of a container right now, by its full id; none when no engine knows it.
    pub fn names(&mut self, id: &str) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let mut files: Vec<(PathBuf, Reader)> = vec![(self.docker(id), read_docker)];
        for storage in children(&self.root.join("var/lib/containers/storage")) {
            if storage.as_os_str().as_encoded_bytes().ends_with(b"-containers") {
                files.push((storage.join("containers.json"), read_storage));
            }
        }
        for store in children(&self.root.join("var/lib/nerdctl")) {
            files.extend(
                children(&store.join("names")).into_iter().map(|space| (space, read_names as Reader)),
            );
        }
        for (path, reader) in files {
            let known = self.names_in(&path, reader).and_then(|known| known.get(id));
            names.extend(known.into_iter().flatten().cloned());
        }
        names
    }

    /// Forgets what was read of a container that is gone.
    pub fn forget(&mut self, id: &str) {
        self.read.remove(&self.docker(id));
    }

    fn docker(&self, id: &str) -> PathBuf {
        self.root.join("var/lib/docker/containers").join(id).join("config.v2.json")
    }

    fn names_in(&mut self, path: &Path, reader: Reader) -> Option<&Names> {
        let Some(stamp) = stamp(path) else {
            self.read.remove(path);
            return None;
        };
        if self.read.get(path).is_none_or(|(known, _)| *known != stamp) {
            let names = reader(path).unwrap_or_else(|error| {
                tracing::error!(path = %path.display(), %error, "cannot read the names of containers");
                Names::new()
            });
            // nerdctl makes a file and then writes the id into it, of which the directory's time says nothing.
            let half_written = names.keys().any(|id| !is_id(id));
            let stamp = if half_written { Stamp::default() } else { stamp };
            self.read.insert(path.to_owned(), (stamp, names));
        }
        self.read.get(path).map(|(_, names)| names)
    }
}

type Reader = fn(&Path) -> Result<Names, StateError>;

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.len()))
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn bounded(path: &Path) -> Result<Vec<u8>, StateError> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(StateError::Long);
    }
    Ok(bytes)
}

fn read_docker(path: &Path) -> Result<Names, StateError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Config {
        #[serde(rename = "ID")]
        id: String,
        name: String,
    }
    let config: Config = serde_json::from_slice(&bounded(path)?)?;
    let name = config.name.trim_start_matches('/').to_owned();
    Ok(Names::from([(config.id, BTreeSet::from([name]))]))
}

fn read_storage(path: &Path) -> Result<Names, StateError> {
    #[derive(Deserialize)]
    struct Container {
        id: String,
        names: Option<BTreeSet<String>>,
    }
    let containers: Vec<Container> = serde_json::from_slice(&bounded(path)?)?;
    Ok(containers.into_iter().map(|one| (one.id, one.names.unwrap_or_default())).collect())
}

/// A directory with a file for each name.
fn read_names(directory: &Path) -> Result<Names, StateError> {
    let mut names = Names::new();
    for path in children(directory) {
        let id = String::from_utf8_lossy(&bounded(&path)?).trim().to_owned();
        if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
            names.entry(id).or_default().insert(name.to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn names_are_found_where_each_engine_keeps_them() {
        let root = tempfile::tempdir().unwrap();
        let [docker, podman, nerdctl, unknown] = ['a', 'b', 'c', 'd'].map(id);
        let config = format!(r#"{{"StreamConfig":{{}},"State":{{"Pid":7}},"ID":"{docker}","Name":"/web"}}"#);
        write(root.path(), &format!("var/lib/docker/containers/{docker}/config.v2.json"), &config);
        let stored =
            format!(r#"[{{"id":"{podman}","names":["db","alias"],"image":"x"}},{{"id":"{unknown}"}}]"#);
        write(root.path(), "var/lib/containers/storage/overlay-containers/containers.json", &stored);
        write(root.path(), "var/lib/nerdctl/1935db59/names/default/cache", &nerdctl);
        let mut engines = Engines::new(root.path());
        let names = |engines: &mut Engines, id: &str| engines.names(id).into_iter().collect::<Vec<_>>();
        assert_eq!(names(&mut engines, &docker), ["web"]);
        assert_eq!(names(&mut engines, &podman), ["alias", "db"]);
        assert_eq!(names(&mut engines, &nerdctl), ["cache"]);
        assert!(engines.names(&unknown).is_empty());
    }

    #[test]
    fn a_rename_is_seen_and_a_half_written_name_is_read_again() {
        let root = tempfile::tempdir().unwrap();
        let mut engines = Engines::new(root.path());
        let path = "var/lib/containers/storage/vfs-containers/containers.json";
        write(root.path(), path, &format!(r#"[{{"id":"{}","names":["old"]}}]"#, id('a')));
        assert!(engines.names(&id('a')).contains("old"));
        write(root.path(), path, &format!(r#"[{{"id":"{}","names":["renamed"]}}]"#, id('a')));
        assert!(engines.names(&id('a')).contains("renamed"));
        write(root.path(), "var/lib/nerdctl/1/names/default/cache", "");
        assert!(engines.names(&id('c')).is_empty());
        std::fs::write(root.path().join("var/lib/nerdctl/1/names/default/cache"), id('c')).unwrap();
        assert!(engines.names(&id('c')).contains("cache"));
    }

    #[test]
    fn what_no_engine_writes_names_nothing() {
        let root = tempfile::tempdir().unwrap();
        let path = format!("var/lib/docker/containers/{}/config.v2.json", id('a'));
        for text in ["", "{", "[]", r#"{"ID":7,"Name":"/web"}"#, r#"{"Name":"/web"}"#] {
            write(root.path(), &path, text);
            assert!(Engines::new(root.path()).names(&id('a')).is_empty(), "{text:?}");
        }
        // The state of another container says nothing about this one.
        write(root.path(), &path, &format!(r#"{{"ID":"{}","Name":"/web"}}"#, id('b')));
        assert!(Engines::new(root.path()).names(&id('a')).is_empty());
    }
}
