//! The local side of a policy, or what a segment encloses.

use super::reader::{Table, Value};
use crate::model::{Digest, Direction, Subject};

pub(super) const KEYS: [&str; 7] = ["unit", "cgroup", "exe", "sha256", "user", "group", "container"];

/// The kinds of subjects; each subject is of one.
const KINDS: [&str; 6] = ["unit", "cgroup", "exe", "user", "group", "container"];

const EXAMPLE: &str = "subject = { unit = \"payments.service\" }";

/// What a subject is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Policy(Direction),
    Segment,
}

/// Reads `subject`.
pub(super) fn read(parent: &Table<'_>, purpose: Use) -> Option<Subject> {
    let value = parent.required("subject", &format!("say which local process: {EXAMPLE}"))?;
    if let Some(text) = value.as_string() {
        let is_below_a_unit = [".slice", ".service", ".scope"].iter().any(|part| text.contains(part));
        let key = match (text.starts_with('/'), is_below_a_unit || text == "/") {
            (true, true) => "cgroup",
            (true, false) => "exe",
            (false, _) => "unit",
        };
        return value.wrong_type("a table", &format!("write subject = {{ {key} = {text:?} }}"));
    }
    let table = value.table("`subject`", &KEYS)?;
    let mut written: Vec<Value<'_>> = KINDS.iter().filter_map(|kind| table.get(kind)).collect();
    written.sort_by_key(|kind| kind.key().start);
    check_digest(&table);
    match written.as_slice() {
        [] => {
            table.missing(&KINDS, "the subject names no process".to_owned(), &format!("write {EXAMPLE}"));
            None
        }
        [one] => {
            let subject = read_kind(one, &table);
            check_owner(one, purpose);
            subject.filter(|subject| check_extent(one, subject, purpose))
        }
        [first, .., last] => {
            let message = format!("a subject is either `{}` or `{}`", first.name(), last.name());
            let help = "keep one; two subjects are two policies";
            table.report().error(last.key(), message, help);
            None
        }
    }
}

fn check_digest(table: &Table<'_>) {
    if let (Some(digest), None) = (table.get("sha256"), table.get("exe")) {
        let message = "`sha256` belongs to a subject with `exe`";
        table.report().error(digest.key(), message, "remove it, or name the file with `exe`");
    }
}

/// Sockets are told by their owner where they send only. On input a connection is judged before anybody accepted it, and
/// the sockets that the kernel keeps for it and for closed ones have no file, hence no owner.
fn check_owner(kind: &Value<'_>, purpose: Use) {
    let name = kind.name();
    if !matches!(name, "user" | "group") {
        return;
    }
    let why = "on input the kernel does not reliably know a socket's owner, since it is asked before the socket is \
               accepted, and closed sockets have none";
    let (message, help) = match purpose {
        Use::Policy(Direction::Egress) => return,
        Use::Policy(Direction::Ingress) => (
            format!("a subject of [[ingress]] cannot be a `{name}`: {why}"),
            format!("name the unit that listens: {EXAMPLE}"),
        ),
        Use::Segment => (
            format!("a segment cannot enclose a `{name}`: it needs both directions, and {why}"),
            "enclose the unit or slice of its processes, for example { unit = \"user-1000.slice\" }"
                .to_owned(),
        ),
    };
    kind.report().error(kind.key(), message, help);
}

/// False for a segment around the whole host.
fn check_extent(kind: &Value<'_>, subject: &Subject, purpose: Use) -> bool {
    if purpose != Use::Segment || !subject.is_any_process() {
        return true;
    }
    let message =
        "a segment cannot enclose every process of this host: whatever keeps the host alive would be inside";
    kind.error(message, "enclose slices or units, one file each, for example { unit = \"system.slice\" }");
    false
}

fn read_kind(value: &Value<'_>, table: &Table<'_>) -> Option<Subject> {
    match value.name() {
        "unit" => read_unit(value),
        "cgroup" => read_cgroup(value),
        "exe" => read_exe(value, table),
        "user" => read_account(value, Subject::user),
        "group" => read_account(value, Subject::group),
        _ => read_container(value),
    }
}

fn read_unit(value: &Value<'_>) -> Option<Subject> {
    let name = value.string()?;
    Subject::unit(name)
        .map_err(|_| value.error(format!("{name:?} is no unit with processes"), unit_help(name)))
        .ok()
}

fn unit_help(name: &str) -> String {
    let guess = match name.rsplit_once('.') {
        Some((stem, "timer" | "path" | "mount")) => Some(format!("{stem}.service")),
        Some(_) => None,
        None => Some(format!("{name}.service")),
    };
    match guess.filter(|guess| Subject::unit(guess).is_ok()) {
        Some(guess) => format!("did you mean {guess:?}?"),
        None => "write the full name of a service, slice, scope or socket, for example \"payments.service\""
            .to_owned(),
    }
}

fn read_cgroup(value: &Value<'_>) -> Option<Subject> {
    let path = value.string()?;
    let help = || {
        let guess = format!("/{}", path.trim_start_matches("/sys/fs/cgroup").trim_matches('/'));
        match Subject::cgroup(&guess) {
            Ok(_) => format!("did you mean {guess:?}?"),
            Err(_) => {
                "write the path below the cgroup2 root; it begins with / and has no empty, `.` or `..` part"
                    .to_owned()
            }
        }
    };
    if path.starts_with("/sys/fs/cgroup") {
        value.error(format!("{path:?} is a path of the file system"), help());
        return None;
    }
    Subject::cgroup(path).map_err(|_| value.error(format!("{path:?} is no cgroup path"), help())).ok()
}

fn read_exe(value: &Value<'_>, table: &Table<'_>) -> Option<Subject> {
    let digest = match table.get("sha256") {
        None => Some(None),
        Some(written) => read_digest(&written).map(Some),
    };
    let path = value.string()?;
    if path.contains(['*', '?']) {
        value.error(format!("{path:?}: a path takes no star"), "name each program in a policy of its own");
        return None;
    }
    let read = |digest| Subject::exe(path, digest);
    match read(None) {
        Ok(_) => read(digest?).ok(),
        Err(_) => {
            let (reason, help) = exe_mistake(path);
            value.error(format!("{path:?} is no path of a program: {reason}"), help);
            None
        }
    }
}

fn exe_mistake(path: &str) -> (&'static str, String) {
    let guess = || format!("/{}", plain_parts(path).join("/"));
    let propose = |guess: String| match Subject::exe(&guess, None) {
        Ok(_) => format!("did you mean {guess:?}?"),
        Err(_) => "write the absolute path of the program, for example \"/usr/bin/agent\"".to_owned(),
    };
    if !path.starts_with('/') {
        let name = path.rsplit('/').next().unwrap_or_default();
        let example = Subject::exe(&format!("/usr/bin/{name}"), None).map_or("agent", |_| name);
        ("it does not begin with /", format!("write it from / on, for example \"/usr/bin/{example}\""))
    } else if path.ends_with('/') {
        ("it ends with a slash, as directories do", propose(String::new()))
    } else if path.split('/').skip(1).any(|part| matches!(part, "" | "." | "..")) {
        ("it has an empty, `.` or `..` part", propose(guess()))
    } else if path.len() > 4096 {
        ("it is longer than 4096 bytes", propose(String::new()))
    } else {
        ("it holds a quote or a control character", propose(String::new()))
    }
}

/// The parts of a path without empty ones and dots.
fn plain_parts(path: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts
}

fn read_digest(value: &Value<'_>) -> Option<Digest> {
    let text = value.string()?;
    let digest = Digest::parse(text);
    if digest.is_none() {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let is_hex = hex.bytes().all(|b| b.is_ascii_hexdigit());
        let help = match (Digest::parse(hex), is_hex, hex.len()) {
            (Some(digest), ..) => format!("did you mean \"{digest}\"?"),
            (None, true, 32) => "that is the length of MD5: write what `sha256sum FILE` prints".to_owned(),
            (None, true, 40) => "that is the length of SHA-1: write what `sha256sum FILE` prints".to_owned(),
            (None, true, 128) => {
                "that is the length of SHA-512: write what `sha256sum FILE` prints".to_owned()
            }
            (None, ..) => "write the 64 hex digits that `sha256sum FILE` prints".to_owned(),
        };
        value.error(format!("{text:?} is no SHA-256 digest"), help);
    }
    digest
}

fn read_account(
    value: &Value<'_>,
    subject: impl Fn(&str) -> Result<Subject, crate::model::SubjectError>,
) -> Option<Subject> {
    let name = value.string()?;
    let kind = value.name();
    // The last number means nobody to the kernel.
    let is_number = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
    if is_number && name.parse::<u32>().map_or(true, |number| number == u32::MAX) {
        value.error(format!("{name:?} is no number of a {kind}"), "they go from 0 to 4294967294");
        return None;
    }
    let help = format!("write the {kind}'s name, or its number in quotes");
    subject(name).map_err(|_| value.error(format!("{name:?} is no name of a {kind}"), help)).ok()
}

fn read_container(value: &Value<'_>) -> Option<Subject> {
    let name = value.string()?;
    let plain = name.trim_start_matches('/');
    let help = match Subject::container(plain) {
        Ok(_) => format!("did you mean {plain:?}?"),
        Err(_) if name.contains([':', '/']) => {
            "that looks like an image: write the container's own name or id, as `docker ps` shows it"
                .to_owned()
        }
        Err(_) => "write the container's name or id, as `docker ps` or `podman ps` shows it".to_owned(),
    };
    Subject::container(name)
        .map_err(|_| value.error(format!("{name:?} is no name or id of a container"), help))
        .ok()
}
