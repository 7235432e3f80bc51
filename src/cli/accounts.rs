//! Users and groups that schedules name and this host does not know. A number needs no account.

use nix::unistd::{Group, User};

use crate::model::{Policy, PolicyId, Subject};

/// A policy whose subject is nobody here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    pub policy: PolicyId,
    pub message: String,
}

pub const HELP: &str = "until it exists the policy admits nothing; it may come with a package, or from a directory that \
                        does not answer now";

/// The policies whose user or group the host does not know.
pub fn unknown<'p>(policies: impl IntoIterator<Item = &'p Policy>) -> Vec<Unknown> {
    unknown_to(policies, is_known)
}

fn unknown_to<'p>(
    policies: impl IntoIterator<Item = &'p Policy>,
    is_known: impl Fn(&Subject) -> bool,
) -> Vec<Unknown> {
    let nobody = policies.into_iter().filter(|policy| !is_known(&policy.subject));
    let unknown = nobody.map(|policy| Unknown {
        policy: policy.id.clone(),
        message: format!("this host has no {} {:?}", policy.subject.kind(), policy.subject.value()),
    });
    unknown.collect()
}

/// False where the host's databases say that there is none; a look-up that fails says nothing.
fn is_known(subject: &Subject) -> bool {
    match subject {
        Subject::User(name) => is_number(name) || !matches!(User::from_name(name), Ok(None)),
        Subject::Group(name) => is_number(name) || !matches!(Group::from_name(name), Ok(None)),
        Subject::Unit(_) | Subject::Cgroup(_) | Subject::Exe { .. } | Subject::Container(_) => true,
    }
}

fn is_number(name: &str) -> bool {
    name.parse::<u32>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_everywhere_and_numbers_need_no_account() {
        for known in [Subject::user("root"), Subject::group("root"), Subject::user("4000000000")] {
            assert!(is_known(&known.unwrap()));
        }
        for unknown in [Subject::user("picoseg-nobody-has-this"), Subject::group("picoseg-nobody-has-this")] {
            assert!(!is_known(&unknown.unwrap()));
        }
    }
}
