//! The local side of a policy.

use super::reader::{Table, Value};
use crate::model::{Digest, Subject};

const KEYS: [&str; 7] = ["unit", "cgroup", "exe", "sha256", "user", "group", "container"];

/// The kinds of subjects; each subject is of one.
const KINDS: [&str; 6] = ["unit", "cgroup", "exe", "user", "group", "container"];

const EXAMPLE: &str = "subject = { unit = \"payments.service\" }";

/// Reads `subject` of a policy.
pub(super) fn read(policy: &Table<'_>) -> Option<Subject> {
    let value = policy.required("subject", &format!("say which local process: {EXAMPLE}"))?;
    if let Some(text) = value.as_string() {
        let key = if text.starts_with('/') { "cgroup" } else { "unit" };
        return value.wrong_type("a table", &format!("write subject = {{ {key} = {text:?} }}"));
    }
    let table = value.table("`subject`", &KEYS)?;
    let mut written: Vec<Value<'_>> = KINDS.iter().filter_map(|kind| table.get(kind)).collect();
    written.sort_by_key(|kind| kind.key().start);
    check_digest(&table);
    match written.as_slice() {
        [one] if one.name() == "exe" => read_exe(one, &table),
        [] => {
            table.missing(&KINDS, "the subject names no process".to_owned(), &format!("write {EXAMPLE}"));
            None
        }
        [one] => read_kind(one),
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

fn read_kind(value: &Value<'_>) -> Option<Subject> {
    match value.name() {
        "unit" => read_unit(value),
        "cgroup" => read_cgroup(value),
        "user" => read_plain(value, Subject::user, "write a user's name or number"),
        "group" => read_plain(value, Subject::group, "write a group's name or number"),
        _ => read_plain(value, Subject::container, "write a container's name or id"),
    }
}

fn read_plain(
    value: &Value<'_>,
    subject: impl Fn(&str) -> Result<Subject, crate::model::SubjectError>,
    help: &str,
) -> Option<Subject> {
    let text = value.string()?;
    subject(text).map_err(|error| value.error(error.to_string(), help)).ok()
}

fn read_exe(value: &Value<'_>, table: &Table<'_>) -> Option<Subject> {
    let path = value.string()?;
    let digest = match table.get("sha256") {
        None => None,
        Some(written) => {
            let text = written.string()?;
            let digest = Digest::parse(text);
            if digest.is_none() {
                written
                    .error(format!("{text:?} is no SHA-256 digest"), "write the 64 hex digits of sha256sum");
            }
            Some(digest?)
        }
    };
    let help = "write the absolute path of the program, for example \"/usr/bin/agent\"";
    Subject::exe(path, digest).map_err(|error| value.error(error.to_string(), help)).ok()
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
