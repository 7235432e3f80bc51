//! The question whether a process may exchange packets with a remote address, and its answer: the words of `explain`, the
//! core's judgement behind them.
//!
//! Whether a process that is known by one subject is also another one follows from where the two are right now. Asked about
//! several places (a template), what holds for all of them counts.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::body::{Explained, SCHEMA};
use crate::compile::{Place, Standing};
use crate::explain::{self, Explanation, Packet};
use crate::kernel::cgroups::{Hierarchy, subjects_by_name};
use crate::model::{
    Direction, Mode, Policy, PolicyId, Protocol, Reason, Segment, SegmentName, Service, ServiceName,
    Settings, Subject, Time,
};
use crate::schedule;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The process: any one that is this subject.
    pub subject: Subject,
    pub remote: Remote,
    /// Who opens the connection.
    pub direction: Direction,
    /// `None`: now.
    pub at: Option<Time>,
}

/// `192.0.2.1:443/tcp`, `[2001:db8::1]:53/udp`, `192.0.2.1/icmp`. The port is the remote one for egress, the local one for
/// ingress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remote {
    pub address: IpAddr,
    pub protocol: Protocol,
    /// 0 for icmp.
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a remote: write 192.0.2.1:443/tcp, [2001:db8::1]:53/udp or 192.0.2.1/icmp")]
pub struct RemoteError(String);

impl FromStr for Remote {
    type Err = RemoteError;

    fn from_str(text: &str) -> Result<Self, RemoteError> {
        parse_remote(text).ok_or_else(|| RemoteError(text.to_owned()))
    }
}

fn parse_remote(text: &str) -> Option<Remote> {
    let (place, protocol) = text.rsplit_once('/')?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "icmp" => {
            let bare = place.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(place);
            return Some(Remote { address: bare.parse().ok()?, protocol: Protocol::Icmp, port: 0 });
        }
        _ => return None,
    };
    let place: SocketAddr = place.parse().ok()?;
    (place.port() > 0).then(|| Remote { address: place.ip(), protocol, port: place.port() })
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            Protocol::Icmp => write!(f, "{}/icmp", self.address),
            Protocol::Tcp | Protocol::Udp => {
                write!(f, "{}/{}", SocketAddr::new(self.address, self.port), self.protocol.as_str())
            }
        }
    }
}

/// All that an answer depends on beside the question.
pub struct Facts<'a> {
    pub settings: &'a Settings,
    /// Those that govern, sorted by name.
    pub services: &'a [Standing<'a>],
    pub segments: &'a BTreeMap<SegmentName, Segment>,
    pub resolvers: &'a [IpAddr],
    /// Where a subject is, as far as that is known.
    pub places: &'a dyn Fn(&Subject) -> Vec<Place>,
    /// `None` where cgroups cannot be read.
    pub hierarchy: Option<&'a Hierarchy>,
    pub now: Time,
}

/// Of a policy whose clients have to begin with a TLS ClientHello.
pub const TLS: &str = "required";

/// The reason of what passes because it is to stay reachable.
pub const FAILSAFE: &str = "failsafe";

/// Answers.
pub fn answer(question: &Question, facts: &Facts<'_>) -> Explained {
    let Question { remote, direction, .. } = question;
    let packet = Packet {
        direction: *direction,
        remote: remote.address,
        protocol: remote.protocol,
        port: remote.port,
    };
    let at = question.at.unwrap_or(facts.now);
    let process = Process::new(&question.subject, facts);
    let is = |subject: &Subject| process.is(subject, facts);
    let unknown = Explained {
        schema: SCHEMA,
        at,
        verdict: "ungoverned".to_owned(),
        reason: None,
        service: None,
        policy: None,
        until: None,
        mode: None,
        tls: None,
    };
    if remote.address.is_loopback() {
        return match shuts_loopback(facts, &packet, &is) {
            Some(segment) => isolated(facts, segment, unknown),
            None => unknown,
        };
    }
    let Facts { services, segments, resolvers, .. } = facts;
    match explain::explain_enclosed(services, segments, resolvers, &packet, &is, at) {
        Explanation::Allow { policy, until } => Explained {
            verdict: "allow".to_owned(),
            mode: mode(facts, &policy.service),
            tls: tls(facts, &policy),
            service: Some(policy.service.to_string()),
            policy: Some(policy.to_string()),
            until: Some(until),
            ..unknown
        },
        Explanation::Refuse { .. } | Explanation::Isolate { .. }
            if explain::failsafe(facts.settings, facts.services, &packet) =>
        {
            Explained { verdict: "allow".to_owned(), reason: Some(FAILSAFE.to_owned()), ..unknown }
        }
        Explanation::Refuse { service, reason } => Explained {
            verdict: "refuse".to_owned(),
            reason: Some(reason.to_string()),
            mode: mode(facts, &service),
            service: Some(service.to_string()),
            until: next_opening(facts, &packet, &is, at),
            ..unknown
        },
        Explanation::Isolate { segment } => {
            let until = next_opening(facts, &packet, &is, at);
            isolated(facts, &segment, Explained { until, ..unknown })
        }
        Explanation::Ungoverned => unknown,
    }
}

fn isolated(facts: &Facts<'_>, segment: &SegmentName, unknown: Explained) -> Explained {
    Explained {
        verdict: "refuse".to_owned(),
        reason: Some(Reason::Isolated.to_string()),
        policy: Some(format!("segment/{segment}")),
        mode: facts.segments.get(segment).map(|segment| in_force(facts, segment.mode)),
        ..unknown
    }
}

/// Loopback is nobody's but a segment's that does not let it pass.
fn shuts_loopback<'a>(
    facts: &'a Facts<'_>,
    packet: &Packet,
    is: &dyn Fn(&Subject) -> bool,
) -> Option<&'a SegmentName> {
    let shuts = |segment: &&Segment| {
        !segment.loopback && is(&segment.subject) && !explain::allows(segment, facts.resolvers, packet)
    };
    facts.segments.values().find(shuts).map(|segment| &segment.name)
}

fn tls(facts: &Facts<'_>, id: &PolicyId) -> Option<String> {
    let mut policies = facts.services.iter().flat_map(|standing| &standing.service.policies);
    policies.find(|policy| policy.id == *id && policy.tls).map(|_| TLS.to_owned())
}

fn in_force(facts: &Facts<'_>, mode: Mode) -> String {
    let observes = [facts.settings.enforcement.mode, mode].contains(&Mode::Observe);
    if observes { Mode::Observe } else { Mode::Enforce }.to_string()
}

fn mode(facts: &Facts<'_>, name: &ServiceName) -> Option<String> {
    let standing = facts.services.iter().find(|standing| standing.service.name == *name)?;
    Some(in_force(facts, standing.service.mode))
}

/// When time alone will admit the packet: the first beginning of an opening at which the answer is another one.
fn next_opening(facts: &Facts<'_>, packet: &Packet, is: &dyn Fn(&Subject) -> bool, at: Time) -> Option<Time> {
    let concerns = |policy: &&Policy| {
        policy.id.direction == packet.direction
            && (policy.is_any() || policy.prefixes.iter().any(|prefix| prefix.contains(packet.remote)))
    };
    let beginnings = facts.services.iter().flat_map(|standing| {
        let policies = standing.service.policies.iter().filter(concerns);
        policies.filter_map(|policy| beginning(standing, policy.windows.as_deref(), at))
    });
    let mut beginnings: Vec<Time> = beginnings.collect();
    beginnings.sort_unstable();
    beginnings.dedup();
    beginnings.into_iter().find(|begin| {
        matches!(explain::explain(facts.services, packet, is, *begin), Explanation::Allow { .. })
    })
}

/// The first beginning of an opening of these windows after an instant.
fn beginning(standing: &Standing<'_>, windows: Option<&[usize]>, at: Time) -> Option<Time> {
    let service = standing.service;
    if schedule::shut(service, standing.record, standing.approved, at).is_some() {
        return None;
    }
    if windows.is_none() {
        let next = schedule::next_opening(service, standing.record, standing.approved, at);
        return next.map(|opening| opening.opens_at());
    }
    first_beginning(service, windows, at)
}

/// Looks ever further: windows of seconds are found at once, those of years in a few steps.
fn first_beginning(service: &Service, windows: Option<&[usize]>, at: Time) -> Option<Time> {
    let end = service.lifetime.closes_at();
    let mut step = chrono::TimeDelta::hours(1);
    let mut from = at.max(service.lifetime.opens_at());
    while from < end {
        let to = from.checked_add_signed(step).map_or(end, |to| to.min(end));
        let openings = schedule::openings(service, windows, from, to);
        let beginning = openings.into_iter().map(|opening| opening.opens_at()).find(|begin| *begin > at);
        if beginning.is_some() {
            return beginning;
        }
        (from, step) = (to, step * 8);
    }
    None
}

/// A process that is known by one of its subjects.
struct Process {
    subject: Subject,
    /// Where it may be, as the subject's source says.
    places: Vec<Place>,
    /// For each cgroup that it may be in: the ids of it and of all above it, and the subjects that their names stand for.
    cgroups: Vec<(Vec<u64>, Vec<Subject>)>,
}

impl Process {
    fn new(subject: &Subject, facts: &Facts<'_>) -> Self {
        let places = (facts.places)(subject);
        Self { subject: subject.clone(), cgroups: cgroups(subject, &places, facts.hierarchy), places }
    }

    /// Whether it is another subject too.
    fn is(&self, other: &Subject, facts: &Facts<'_>) -> bool {
        if other.is_any_process() || *other == self.subject {
            return true;
        }
        let theirs = (facts.places)(other);
        if is_program(&self.subject, other, !theirs.is_empty()) {
            return true;
        }
        let same_account = |place: &Place| match place {
            Place::User(_) | Place::Group(_) => theirs.contains(place),
            Place::Cgroup(_) | Place::Former(_) | Place::Address(_) => false,
        };
        let below = |(ids, subjects): &(Vec<u64>, Vec<Subject>)| {
            subjects.contains(other) || theirs.iter().any(|place| is_cgroup_of(place, ids))
        };
        self.places.iter().any(same_account) || (!self.cgroups.is_empty() && self.cgroups.iter().all(below))
    }
}

/// Whether both are the same program. A pinned one is what it should be only while its source finds it.
fn is_program(asked: &Subject, other: &Subject, resolved: bool) -> bool {
    match (asked, other) {
        (Subject::Exe { path, .. }, Subject::Exe { path: theirs, sha256 }) => {
            path == theirs && (sha256.is_none() || resolved)
        }
        _ => false,
    }
}

fn is_cgroup_of(place: &Place, ids: &[u64]) -> bool {
    match place {
        Place::Cgroup(place) => ids.contains(&place.id),
        Place::Former(_) | Place::User(_) | Place::Group(_) | Place::Address(_) => false,
    }
}

fn cgroups(
    subject: &Subject,
    places: &[Place],
    hierarchy: Option<&Hierarchy>,
) -> Vec<(Vec<u64>, Vec<Subject>)> {
    let paths: Vec<String> = match (subject, hierarchy) {
        (Subject::Unit(_), Some(hierarchy)) => {
            let found = hierarchy.resolve(subject).unwrap_or_default();
            found.into_iter().map(|cgroup| cgroup.path).collect()
        }
        (Subject::Cgroup(path), _) => vec![path.clone()],
        (Subject::Unit(_) | Subject::User(_) | Subject::Group(_), _) => Vec::new(),
        (Subject::Exe { .. } | Subject::Container(_), _) => {
            let prefix = hierarchy.map(Hierarchy::nft_prefix).unwrap_or_default();
            places.iter().filter_map(|place| path_of(place, &prefix)).collect()
        }
    };
    if let (Subject::Unit(unit), true) = (subject, paths.is_empty()) {
        // One that does not run is the instance of its template all the same.
        let by_name = subjects_by_name(&format!("/{unit}")).into_iter();
        return vec![(Vec::new(), by_name.filter(|subject| matches!(subject, Subject::Unit(_))).collect())];
    }
    let of_path = |path: String| {
        let lineage = hierarchy.and_then(|hierarchy| hierarchy.lineage(&path).ok().flatten());
        let ids = lineage.into_iter().flatten().map(|(cgroup, _)| cgroup.id).collect();
        (ids, subjects_by_name(&path))
    };
    paths.into_iter().map(of_path).collect()
}

/// The path below the root of the hierarchy.
fn path_of(place: &Place, prefix: &str) -> Option<String> {
    match place {
        Place::Cgroup(place) => Some(format!("/{}", place.path.strip_prefix(prefix)?)),
        Place::Former(_) | Place::User(_) | Place::Group(_) | Place::Address(_) => None,
    }
}

/// Says in words what a question was about.
pub fn in_words(question: &Question) -> String {
    let Question { subject, remote, direction, .. } = question;
    match direction {
        Direction::Egress => format!("{subject} to {remote}"),
        Direction::Ingress => format!("{remote} to {subject}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    use crate::config;
    use crate::model::Record;

    const FILE: &str = r#"
provider = "p"
owner = "o"
[lifetime]
commission = 2026-01-01T00:00:00Z
decommission = 2027-01-01T00:00:00Z
[[window]]
name = "office"
cron = "0 9 * * Mon-Fri"
duration = "9h"
[[window]]
name = "night"
cron = "0 22 * * Sun"
duration = "1h"
[[egress]]
subject = { unit = "web@.service" }
to = ["192.0.2.0/24", "2001:db8::1"]
ports = ["443/tcp", "icmp"]
windows = ["office"]
[[egress]]
subject = { cgroup = "/a.slice" }
to = ["192.0.2.1"]
ports = ["53/udp"]
windows = ["night"]
[[ingress]]
subject = { cgroup = "/" }
from = ["192.0.2.9"]
ports = ["8443/tcp"]
"#;

    /// Asks about the file above, with these cgroups on the host.
    fn ask(directories: &[&str], subject: &str, direction: Direction, remote: &str, at: &str) -> Explained {
        let root = tempfile::tempdir().unwrap();
        for directory in directories {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        let (settings, name) = (Settings::default(), ServiceName::new("s").unwrap());
        let (service, found) = config::parse_service(Path::new("s.toml"), &name, FILE, &|_| None, &settings);
        let service = service.unwrap_or_else(|| panic!("{found:?}"));
        let hierarchy = Hierarchy::at(root.path());
        let places = |subject: &Subject| hierarchy.places(hierarchy.resolve(subject).unwrap());
        let question = Question {
            subject: Subject::parse(subject).unwrap().unwrap(),
            remote: remote.parse().unwrap(),
            direction,
            at: Some(at.parse().unwrap()),
        };
        let record = Record::default();
        let facts = Facts {
            settings: &settings,
            services: &[Standing { service: &service, record: &record, approved: true }],
            segments: &BTreeMap::new(),
            resolvers: &[],
            places: &places,
            hierarchy: Some(&hierarchy),
            now: Time::UNIX_EPOCH,
        };
        answer(&question, &facts)
    }

    fn said(explained: &Explained) -> String {
        let until = explained.until.map(|until| until.to_rfc3339()).unwrap_or_default();
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        format!("{} {} {} {until}", explained.verdict, text(&explained.reason), text(&explained.policy))
    }

    const MONDAY: &str = "2026-11-23T10:00:00Z";
    const SUNDAY: &str = "2026-11-22T10:00:00Z";

    #[test]
    fn an_answer_says_until_when_it_holds() {
        let ask = |remote, at| said(&ask(&[], "unit:web@1.service", Direction::Egress, remote, at));
        assert_eq!(ask("192.0.2.7:443/tcp", MONDAY), "allow  s/egress/0 2026-11-23T18:00:00+00:00");
        assert_eq!(ask("192.0.2.7:443/tcp", SUNDAY), "refuse closed  2026-11-23T09:00:00+00:00");
        assert_eq!(ask("[2001:db8::1]:443/tcp", MONDAY), "allow  s/egress/0 2026-11-23T18:00:00+00:00");
        assert_eq!(ask("192.0.2.7/icmp", MONDAY), "allow  s/egress/0 2026-11-23T18:00:00+00:00");
        assert_eq!(ask("192.0.2.7:80/tcp", MONDAY), "refuse undeclared  ");
        assert_eq!(ask("192.0.2.7:443/tcp", "2027-06-01T00:00:00Z"), "refuse expired  ");
        assert_eq!(ask("198.51.100.1:443/tcp", MONDAY), "ungoverned   ");
    }

    #[test]
    fn a_process_is_what_encloses_it_and_not_what_it_encloses() {
        let at = "2026-11-22T22:30:00Z";
        let directories =
            ["a.slice/x.service/sub", "b.slice/y.service", "a.slice/z@1.service", "b.slice/z@2.service"];
        let verdict = |subject| ask(&directories, subject, Direction::Egress, "192.0.2.1:53/udp", at).verdict;
        for inside in
            ["unit:a.slice", "unit:x.service", "cgroup:/a.slice/x.service/sub", "cgroup:/a.slice/new"]
        {
            assert_eq!(verdict(inside), "allow", "{inside}");
        }
        for outside in ["unit:y.service", "unit:gone.service", "cgroup:/", "user:root", "unit:z@.service"] {
            assert_eq!(verdict(outside), "refuse", "{outside}: not every process of it is in the slice");
        }
    }

    #[test]
    fn any_process_matches_every_subject_and_the_failsafe_is_no_grant() {
        let ingress = |remote| ask(&[], "user:nobody", Direction::Ingress, remote, MONDAY);
        assert_eq!(said(&ingress("192.0.2.9:8443/tcp")), "allow  s/ingress/0 2026-11-23T18:00:00+00:00");
        assert_eq!(said(&ingress("192.0.2.9:22/tcp")), "allow failsafe  ");
        assert_eq!(ingress("192.0.2.9:23/tcp").verdict, "refuse");
        assert_eq!(ingress("198.51.100.1:22/tcp").verdict, "ungoverned");
    }

    #[test]
    fn accounts_are_the_same_by_their_number() {
        let settings = Settings::default();
        let known = BTreeMap::from([("user:web", 33), ("user:33", 33), ("user:root", 0)]);
        let places = |subject: &Subject| {
            known.get(subject.to_string().as_str()).map(|uid| Place::User(*uid)).into_iter().collect()
        };
        let now = Time::UNIX_EPOCH;
        let facts = Facts {
            settings: &settings,
            services: &[],
            segments: &BTreeMap::new(),
            resolvers: &[],
            places: &places,
            hierarchy: None,
            now,
        };
        let subject = |text: &str| Subject::parse(text).unwrap().unwrap();
        let web = Process::new(&subject("user:web"), &facts);
        assert!(web.is(&subject("user:33"), &facts) && !web.is(&subject("user:root"), &facts));
    }

    #[test]
    fn a_remote_reads_back_as_it_was_written() {
        for text in ["192.0.2.1:443/tcp", "[2001:db8::1]:53/udp", "192.0.2.1/icmp", "2001:db8::1/icmp"] {
            assert_eq!(text.parse::<Remote>().unwrap().to_string(), text);
        }
        for bad in
            ["", "192.0.2.1", "192.0.2.1:443", "192.0.2.1:0/tcp", "a.example:443/tcp", "192.0.2.1:1/sctp"]
        {
            assert!(bad.parse::<Remote>().unwrap_err().to_string().contains("is not a remote"), "{bad}");
        }
    }
}
