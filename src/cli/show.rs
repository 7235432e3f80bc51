//! `show`.

use super::activation::{self, UNIT_DIRECTORIES};
use super::console::Console;
use super::daemon::{Daemon, service_name, understand};
use super::services::next;
use super::stop::Stop;
use super::table::{Cell, plain};
use super::when;
use crate::api::body::{Ended, Finding, Host, HostAddress, Ordered, Place, Policy, Resolved, Show};

/// Said below every service: it is how the kernel knows processes, and surprises.
const NOTE: &str = "A process is known by the cgroup in which its socket was created: a socket keeps its grant when its \
process moves or hands it on,\nand a listener that was made elsewhere (socket activation) belongs to its maker.";

pub async fn run(daemon: &Daemon, name: &str, console: &mut Console<'_>) -> Result<(), Stop> {
    let body = daemon.get(&format!("/v1/services/{}", service_name(name)?)).await?;
    if console.json {
        return console.print(body);
    }
    console.print(text(&understand(&body)?, console.colour))
}

fn text(show: &Show, colour: bool) -> String {
    let mut lines = head(show, colour);
    for (index, policy) in show.service.policies.iter().enumerate() {
        lines.push(String::new());
        lines.extend(policy_lines(policy, show.subjects.get(index)));
        let findings = show.findings.iter().filter(|finding| finding.policy == policy.id);
        lines.extend(findings.flat_map(finding_lines));
    }
    if let Some(error) = &show.findings_error {
        lines.extend([String::new(), line("findings", &format!("incomplete: {error}"))]);
    }
    lines.extend([String::new(), NOTE.to_owned()]);
    lines.join("\n")
}

fn head(show: &Show, colour: bool) -> Vec<String> {
    let service = &show.service;
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let compliance = Some(show.compliance.join(", ")).filter(|text| !text.is_empty());
    let mut lines = vec![
        line("name", &service.name),
        format!("{:14}{}", "state", Cell::state(&service.state).padded(0, colour)),
        line("next", &next(service)),
        line("mode", &service.mode),
        line("provider", &service.provider),
        line("owner", &service.owner),
        line("description", &or_dash(&show.description)),
        line("ticket", &or_dash(&show.ticket)),
        line("compliance", &or_dash(&compliance)),
        line("commission", &when::print(service.commission)),
        line("decommission", &when::print(service.decommission)),
        line("attempts", &service.attempts.to_string()),
    ];
    lines.extend(show.departed.then(|| line("file", "gone: the provider stays watched")));
    lines.extend(show.suspended.as_ref().map(|order| line("suspended", &suspension(order))));
    lines.extend(show.decommissioned.as_ref().map(|end| line("ended", &ending(end))));
    lines
}

fn line(key: &str, value: &str) -> String {
    format!("{key:14}{}", plain(value))
}

fn suspension(order: &Ordered) -> String {
    format!("{} by {}: {}", when::print(order.at), order.by, order.reason)
}

fn ending(end: &Ended) -> String {
    let by = end.by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
    let reason = end.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("{} ({}){by}{reason}", when::print(end.at), end.cause)
}

fn policy_lines(policy: &Policy, subject: Option<&Resolved>) -> Vec<String> {
    let prefixes = subject.map(|subject| match subject.prefixes {
        1 => " (1 prefix)".to_owned(),
        count => format!(" ({count} prefixes)"),
    });
    let prefixes = prefixes.unwrap_or_default();
    let remote = match policy.direction.as_str() {
        "ingress" => "  from",
        _ => "  to",
    };
    let mut lines = vec![line("policy", &policy.id), line("  subject", &policy.subject)];
    lines.extend(places(policy, subject).iter().map(|place| line("  is now", place)));
    lines.push(line(remote, &format!("{}{prefixes}", policy.endpoints.join(", "))));
    lines.extend(subject.iter().flat_map(|now| &now.names).map(|host| line("  name", &host_text(host))));
    lines.push(line("  ports", &policy.ports.join(", ")));
    lines.extend(policy.tls.as_ref().map(|tls| line("  tls", tls)));
    let listener = activation::of_policy(policy, UNIT_DIRECTORIES);
    lines.extend(listener.map(|listener| line("  mind", &listener.to_string())));
    lines
}

/// `api.example.com: 192.0.2.1 (since ...), 192.0.2.2 (since ..., learned); ignored: 10.0.0.1`.
fn host_text(host: &Host) -> String {
    let addresses: Vec<_> = host.addresses.iter().map(address_text).collect();
    let addresses = if addresses.is_empty() { "no address".to_owned() } else { addresses.join(", ") };
    let ignored: Vec<_> = host.ignored.iter().map(ToString::to_string).collect();
    let ignored = match ignored.is_empty() {
        true => String::new(),
        false => format!("; ignored because no prefix lists them: {}", ignored.join(", ")),
    };
    let error = host.error.as_ref().map(|error| format!("; cannot be resolved: {error}")).unwrap_or_default();
    format!("{}: {addresses}{ignored}{error}", host.name)
}

fn address_text(address: &HostAddress) -> String {
    let how = match (address.kept_until, address.resolved) {
        (Some(until), _) => format!(", has left, kept until {}", when::print(until)),
        (None, true) => String::new(),
        (None, false) => ", learned".to_owned(),
    };
    format!("{} (since {}{how})", address.address, when::print(address.since))
}

fn finding_lines(finding: &Finding) -> [String; 2] {
    [line("  found", &finding.what), line("  remedy", &finding.remedy)]
}

/// The subject that needs no cgroup.
const ANY_PROCESS: &str = "cgroup:/";

/// What a subject is right now, one place a line, and since when.
fn places(policy: &Policy, subject: Option<&Resolved>) -> Vec<String> {
    if policy.subject == ANY_PROCESS {
        return vec!["any process of this host".to_owned()];
    }
    let since = subject.and_then(|subject| subject.since);
    let since = since.map(|since| format!(", since {}", when::print(since))).unwrap_or_default();
    let places = subject.map_or(&[][..], |subject| subject.places.as_slice());
    match places.is_empty() {
        true => {
            let reason = subject.and_then(|subject| subject.reason.as_deref());
            vec![format!("unresolved, hence refused: {}{since}", reason.unwrap_or("it does not exist"))]
        }
        false => places.iter().map(|place| format!("{}{since}", place_text(place))).collect(),
    }
}

fn place_text(place: &Place) -> String {
    let cgroup = place.cgroup.as_ref().map(|path| match place.id {
        Some(id) => format!("cgroup /{path} (id {id})"),
        None => format!("cgroup /{path}"),
    });
    let user = place.uid.map(|uid| format!("user {uid}"));
    let group = place.gid.map(|gid| format!("group {gid}"));
    let address = place.address.map(|address| format!("forwarded from and to {address}"));
    let known = [cgroup, user, group, address].into_iter().flatten();
    known.collect::<Vec<_>>().join(", ")
}
