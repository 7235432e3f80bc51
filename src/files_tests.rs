use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::{Duration, Instant};

use rustix::fs::Mode;

use super::*;

/// A configuration in a directory of its own.
struct Etc(tempfile::TempDir);

impl Etc {
    fn new() -> Self {
        let etc = Self(tempfile::tempdir().unwrap());
        for directory in ["services.d", "segments.d", "lists"] {
            fs::create_dir(etc.path(directory)).unwrap();
        }
        let paths = ["services", "segments", "lists"].map(|key| {
            let directory = if key == "lists" { key.to_owned() } else { format!("{key}.d") };
            format!("{key} = \"{}\"\n", etc.path(&directory).display())
        });
        fs::write(etc.path("picoseg.toml"), format!("[paths]\n{}", paths.concat())).unwrap();
        etc
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn settings(&self) -> SettingsFile {
        SettingsFile::Given(self.path("picoseg.toml"))
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self) -> Reading {
        read(&self.settings())
    }

    /// The only schedule.
    fn service(&self) -> Source {
        let reading = self.read();
        assert_eq!(reading.files.services.len(), 1, "{:?}", reading.files.services);
        reading.files.services.into_iter().next().unwrap()
    }

    fn mistakes(&self) -> Vec<String> {
        let mistakes = load(&self.settings()).unwrap_err();
        mistakes.iter().map(ToString::to_string).collect()
    }
}

/// A schedule in order that uses the lists.
fn schedule(lists: &[&str]) -> String {
    let lists: Vec<String> = lists.iter().map(|name| format!("\"@{name}\"")).collect();
    format!(
        "provider = \"P\"\nowner = \"o@example.com\"\n[lifetime]\ncommission = 2026-01-01T00:00:00Z\n\
         decommission = 2027-01-01T00:00:00Z\n[[egress]]\nsubject = {{ unit = \"x.service\" }}\n\
         to = [{}]\nports = [\"443/tcp\"]\n",
        lists.join(", ")
    )
}

#[test]
fn schedules_are_read_and_other_files_ignored() {
    let etc = Etc::new();
    etc.write("services.d/stripe.toml", &schedule(&["stripe"]));
    etc.write("lists/stripe.txt", "198.51.100.0/24\n");
    for other in ["stripe.toml~", "stripe.toml.bak", ".stripe.toml.swp", "README", "#stripe.toml#"] {
        etc.write(&format!("services.d/{other}"), "nonsense");
    }
    fs::create_dir(etc.path("services.d/stripe.approvals")).unwrap();
    let loaded = load(&etc.settings()).unwrap();
    assert_eq!(loaded.services.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["stripe"]);
}

#[test]
fn a_hidden_schedule_is_a_mistake_and_not_ignored() {
    for hidden in [".stripe.toml", ".toml"] {
        let etc = Etc::new();
        etc.write(&format!("services.d/{hidden}"), &schedule(&["stripe"]));
        etc.write("lists/stripe.txt", "198.51.100.0/24\n");
        assert!(etc.mistakes().concat().contains("is not a service name"), "{:?}", etc.mistakes());
    }
}

#[test]
fn a_fifo_does_not_hang() {
    let etc = Etc::new();
    rustix::fs::mkfifoat(rustix::fs::CWD, etc.path("services.d/stripe.toml"), Mode::from(0o600)).unwrap();
    let start = Instant::now();
    assert_eq!(etc.service().text.unwrap_err(), "it is no regular file");
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_device_and_a_directory_are_no_schedules() {
    let etc = Etc::new();
    symlink("/dev/zero", etc.path("services.d/stripe.toml")).unwrap();
    assert_eq!(etc.service().text.unwrap_err(), "it is no regular file");
    fs::remove_file(etc.path("services.d/stripe.toml")).unwrap();
    fs::create_dir(etc.path("services.d/stripe.toml")).unwrap();
    assert_eq!(etc.service().text.unwrap_err(), "it is a directory");
    assert_eq!(etc.mistakes().len(), 1);
    assert!(etc.mistakes()[0].contains("services.d/stripe.toml:1:1: "), "{:?}", etc.mistakes());
}

#[test]
fn links_are_followed_and_loops_are_mistakes_of_the_file() {
    let etc = Etc::new();
    etc.write("elsewhere", "text");
    symlink(etc.path("elsewhere"), etc.path("services.d/stripe.toml")).unwrap();
    assert_eq!(etc.service().text.unwrap(), b"text");
    fs::remove_file(etc.path("services.d/stripe.toml")).unwrap();
    symlink("stripe.toml", etc.path("services.d/stripe.toml")).unwrap();
    assert!(etc.service().text.unwrap_err().contains("symbolic links"), "{:?}", etc.service());
    fs::remove_file(etc.path("services.d/stripe.toml")).unwrap();
    symlink("nowhere", etc.path("services.d/stripe.toml")).unwrap();
    assert_eq!(etc.service().text.unwrap_err(), "No such file or directory");
}

#[test]
fn never_more_is_read_than_the_limit_and_one_byte() {
    let etc = Etc::new();
    for name in ["services.d/stripe.toml", "lists/stripe.txt"] {
        File::create(etc.path(name)).unwrap().set_len(1 << 40).unwrap();
    }
    assert_eq!(etc.service().text.unwrap().len(), MAX_FILE + 1);
    let list = read_source(&etc.path("lists/stripe.txt"), MAX_LIST);
    assert_eq!(list.text.unwrap().len(), MAX_LIST + 1);
    assert!(etc.mistakes()[0].contains("larger than 1 MiB"), "{:?}", etc.mistakes());
}

#[test]
fn the_lists_that_schedules_use_are_read_and_of_the_others_the_names() {
    let etc = Etc::new();
    etc.write("services.d/stripe.toml", &schedule(&["used", "absent"]));
    etc.write("lists/used.txt", "198.51.100.1\n");
    etc.write("lists/absence.txt", "nonsense");
    etc.write("lists/used.txt~", "nonsense");
    let lists = etc.read().files.lists;
    assert_eq!(lists.keys().collect::<Vec<_>>(), ["absence", "used"]);
    assert_eq!(lists["used"].text, Ok(b"198.51.100.1\n".to_vec()));
    assert!(lists["absence"].text.is_err());
    let mistakes = etc.mistakes().concat();
    assert!(mistakes.contains("absent") && mistakes.contains("absence"), "{mistakes}");
}

#[test]
fn a_missing_directory_of_schedules_is_a_mistake_and_the_others_may_be_missing() {
    let etc = Etc::new();
    fs::remove_dir(etc.path("segments.d")).unwrap();
    fs::remove_dir(etc.path("lists")).unwrap();
    assert!(load(&etc.settings()).unwrap().services.is_empty());
    fs::remove_dir(etc.path("services.d")).unwrap();
    let mistakes = etc.mistakes();
    assert_eq!(mistakes.len(), 1);
    assert!(mistakes[0].contains("services.d:1:1: cannot read this directory: No such file"), "{mistakes:?}");
}

#[test]
fn a_directory_that_cannot_be_read_is_a_mistake() {
    let etc = Etc::new();
    for name in ["segments.d", "lists"] {
        fs::remove_dir(etc.path(name)).unwrap();
        etc.write(name, "a file");
    }
    let mistakes = etc.mistakes();
    assert_eq!(mistakes.len(), 2, "{mistakes:?}");
    assert!(mistakes.iter().all(|one| one.contains("cannot read this directory")), "{mistakes:?}");
}

#[test]
fn a_segment_is_read_too() {
    let etc = Etc::new();
    etc.write("segments.d/payments.toml", "");
    assert_eq!(etc.read().files.segments.len(), 1);
}

#[test]
fn settings_that_were_given_have_to_be_there() {
    let etc = Etc::new();
    let absent = SettingsFile::Given(etc.path("absent.toml"));
    let mistakes = load(&absent).unwrap_err();
    assert_eq!(mistakes.len(), 1);
    assert!(mistakes[0].to_string().contains("absent.toml:1:1: cannot read this file: No such file"));
}

#[test]
fn of_settings_with_mistakes_nothing_else_is_read() {
    let etc = Etc::new();
    etc.write("picoseg.toml", "nonsense = 1");
    let reading = etc.read();
    assert!(reading.files.services.is_empty() && reading.mistakes.is_empty());
    assert_eq!(etc.mistakes().len(), 1);
}

#[test]
fn a_file_without_permission_says_so() {
    let etc = Etc::new();
    etc.write("services.d/stripe.toml", "");
    fs::set_permissions(etc.path("services.d/stripe.toml"), fs::Permissions::from_mode(0o000)).unwrap();
    if rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: root may read everything");
        return;
    }
    assert_eq!(etc.service().text.unwrap_err(), "Permission denied");
}
