//! Who is on the other end of a connection, and what that allows.
//!
//! The mode of the socket already keeps strangers out. This asks the kernel once more for each connection, so that a
//! mode that somebody loosened, or one not yet set, opens nothing.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::time::Duration;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use super::Side;

/// The group whose members may give orders.
pub const CONTROL_GROUP: &str = "picoseg-admin";

/// The group whose members may look.
pub const OBSERVE_GROUP: &str = "picoseg";

/// How long the user database may take; it may be on the network that this daemon filters.
const DATABASE: Duration = Duration::from_secs(1);

/// Both groups, where this host has them, and who the daemon is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups {
    pub control: Option<u32>,
    pub observe: Option<u32>,
    pub daemon: u32,
}

/// A process, as the kernel noted it when it connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub uid: u32,
    /// The primary group and the supplementary ones.
    pub gids: BTreeSet<u32>,
}

impl Groups {
    pub fn of_this_host() -> Self {
        let gid = |name| Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw());
        Self {
            control: gid(CONTROL_GROUP),
            observe: gid(OBSERVE_GROUP),
            daemon: nix::unistd::geteuid().as_raw(),
        }
    }

    /// The group that may connect to a socket.
    pub fn of(&self, side: Side) -> Option<u32> {
        match side {
            Side::Control => self.control,
            Side::Observe => self.observe,
        }
    }

    /// Whether a peer may talk on a socket: root and the daemon's own user on both, those who may order may also look.
    pub fn permit(&self, side: Side, peer: &Peer) -> bool {
        let member = |group: Option<u32>| group.is_some_and(|gid| peer.gids.contains(&gid));
        let owner = peer.uid == 0 || peer.uid == self.daemon;
        match side {
            Side::Control => owner || member(self.control),
            Side::Observe => owner || member(self.control) || member(self.observe),
        }
    }
}

impl Peer {
    /// Asks the kernel about the other end of a connection.
    pub async fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let (uid, gid) = (credentials.uid(), credentials.gid());
        let supplementary = match credentials.pid().and_then(groups_of_process) {
            Some(gids) => gids,
            // Where /proc hides the processes of others.
            None => groups_of_user(uid, gid).await,
        };
        Ok(Self { uid, gids: supplementary.into_iter().chain([gid]).collect() })
    }
}

/// The supplementary groups of a process: also those that a unit was given by `SupplementaryGroups`, which the user
/// database does not know.
fn groups_of_process(pid: i32) -> Option<Vec<u32>> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"))?;
    Some(groups.split_whitespace().filter_map(|gid| gid.parse().ok()).collect())
}

/// The groups of a user by the database; none when it does not answer.
async fn groups_of_user(uid: u32, gid: u32) -> Vec<u32> {
    let look_up = move || {
        let user = User::from_uid(Uid::from_raw(uid)).ok()??;
        let name = CString::new(user.name).ok()?;
        getgrouplist(&name, Gid::from_raw(gid)).ok()
    };
    let gids = in_the_database(look_up).await.unwrap_or_default();
    gids.into_iter().map(Gid::as_raw).collect()
}

/// Who gives an order: `root (uid 0)`, or `uid 4711` where the database has no name.
pub async fn actor(uid: u32) -> String {
    let look_up = move || User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
    match in_the_database(look_up).await {
        Some(name) => format!("{name} (uid {uid})"),
        None => format!("uid {uid}"),
    }
}

/// Looks something up on a thread of its own: one that the database never answers must not keep the daemon from ending,
/// as a thread of the runtime would.
async fn in_the_database<T: Send + 'static>(
    look_up: impl FnOnce() -> Option<T> + Send + 'static,
) -> Option<T> {
    let (found, answer) = oneshot::channel();
    let thread = std::thread::Builder::new().name("user-database".to_owned());
    thread.spawn(move || found.send(look_up())).ok()?;
    tokio::time::timeout(DATABASE, answer).await.ok()?.ok()?
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUPS: Groups = Groups { control: Some(10), observe: Some(20), daemon: 0 };

    fn peer(uid: u32, gids: &[u32]) -> Peer {
        Peer { uid, gids: gids.iter().copied().collect() }
    }

    /// Whether a peer may order and may look.
    fn may(groups: Groups, peer: &Peer) -> (bool, bool) {
        (groups.permit(Side::Control, peer), groups.permit(Side::Observe, peer))
    }

    #[test]
    fn root_may_everything_whatever_its_groups() {
        assert_eq!(may(GROUPS, &peer(0, &[])), (true, true));
    }

    #[test]
    fn a_member_of_the_admins_may_order_and_look() {
        assert_eq!(may(GROUPS, &peer(1000, &[1000, 10])), (true, true));
        assert_eq!(may(GROUPS, &peer(1000, &[10])), (true, true));
    }

    #[test]
    fn a_member_of_the_observers_may_look_only() {
        assert_eq!(may(GROUPS, &peer(1000, &[1000, 20])), (false, true));
    }

    #[test]
    fn others_may_nothing() {
        assert_eq!(may(GROUPS, &peer(1000, &[1000])), (false, false));
        assert_eq!(may(GROUPS, &peer(10, &[1000])), (false, false), "a uid is no gid");
        assert_eq!(may(GROUPS, &peer(1000, &[0])), (false, false), "the group root is not the user root");
    }

    #[test]
    fn without_the_groups_only_root_and_the_daemons_user_may() {
        let groups = Groups { control: None, observe: None, daemon: 500 };
        assert_eq!(may(groups, &peer(1000, &[10, 20])), (false, false));
        assert_eq!(may(groups, &peer(500, &[])), (true, true));
        assert_eq!(may(groups, &peer(0, &[])), (true, true));
    }

    #[test]
    fn the_groups_of_this_process_are_read_from_proc() {
        let mut own: Vec<u32> = nix::unistd::getgroups().unwrap().into_iter().map(Gid::as_raw).collect();
        let mut read = groups_of_process(std::process::id() as i32).unwrap();
        own.sort_unstable();
        read.sort_unstable();
        assert_eq!(read, own);
    }

    #[tokio::test]
    async fn an_actor_has_a_name_where_the_database_knows_it() {
        assert_eq!(actor(0).await, "root (uid 0)");
        assert_eq!(actor(3_999_999_999).await, "uid 3999999999");
    }
}
