//! The access review: who had access to what at an instant, a line for each policy of an open service and one for every
//! other service.

use super::super::stop::Stop;
use super::super::table::{Cell, Table, plain};
use super::super::when;
use crate::api::body::{Audit, More, PastPolicy, PastService};

const COLUMNS: [&str; 13] = [
    "service",
    "provider",
    "owner",
    "ticket",
    "mode",
    "state",
    "since",
    "until",
    "by",
    "subject",
    "direction",
    "endpoints",
    "ports",
];

/// What was in force, for people.
pub fn text(audit: &Audit, colour: bool) -> String {
    let or_dash = |text: &Option<String>| text.as_deref().unwrap_or("-").to_owned();
    let mut lines = vec![
        format!("at      {}", when::print_or_dash(audit.at)),
        format!("entry   {}", audit.last_seq.unwrap_or(0)),
        format!("mode    {}", plain(&or_dash(&audit.mode))),
        format!("digest  {}", plain(&or_dash(&audit.ruleset_digest))),
        String::new(),
    ];
    let services = audit.services.as_deref().unwrap_or_default();
    if services.is_empty() {
        lines.push("no service".to_owned());
        return lines.join("\n");
    }
    let header = [
        "SERVICE",
        "PROVIDER",
        "OWNER",
        "STATE",
        "SINCE",
        "UNTIL",
        "SUBJECT",
        "DIRECTION",
        "ENDPOINTS",
        "PORTS",
    ];
    let mut table = Table::new(header);
    for (service, policy) in rows(services) {
        let [endpoints, ports] = remote(policy);
        table.push([
            Cell::from(&service.name),
            Cell::from(or_dash(&service.provider)),
            Cell::from(or_dash(&service.owner)),
            Cell::state(&service.state),
            Cell::from(when::print_seconds_or_dash(service.since)),
            Cell::from(when::print_seconds_or_dash(service.until)),
            Cell::from(policy.map_or("-", |policy| &policy.subject)),
            Cell::from(policy.map_or("-", |policy| &policy.direction)),
            Cell::from(endpoints.unwrap_or_else(|| "-".to_owned())),
            Cell::from(ports.unwrap_or_else(|| "-".to_owned())),
        ]);
    }
    lines.push(table.take(colour));
    lines.join("\n")
}

/// The same for a spreadsheet, with times in full and no cell that is a formula.
pub fn csv(services: &[PastService]) -> Result<String, Stop> {
    let failed = |error: &dyn std::fmt::Display| Stop::Failed(format!("cannot write CSV: {error}"));
    let mut writer = ::csv::WriterBuilder::new().from_writer(Vec::new());
    writer.write_record(COLUMNS).map_err(|error| failed(&error))?;
    for (service, policy) in rows(services) {
        let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
        let [endpoints, ports] = remote(policy).map(Option::unwrap_or_default);
        let cells = [
            service.name.clone(),
            or_empty(&service.provider),
            or_empty(&service.owner),
            or_empty(&service.ticket),
            or_empty(&service.mode),
            service.state.clone(),
            service.since.map(when::print).unwrap_or_default(),
            service.until.map(when::print).unwrap_or_default(),
            or_empty(&service.by),
            policy.map(|policy| policy.subject.clone()).unwrap_or_default(),
            policy.map(|policy| policy.direction.clone()).unwrap_or_default(),
            endpoints,
            ports,
        ];
        writer.write_record(cells.iter().map(|cell| guarded(cell))).map_err(|error| failed(&error))?;
    }
    let bytes = writer.into_inner().map_err(|error| failed(&error))?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

fn rows(services: &[PastService]) -> impl Iterator<Item = (&PastService, Option<&PastPolicy>)> {
    services.iter().flat_map(|service| {
        let none = service.policies.is_empty().then_some((service, None));
        none.into_iter().chain(service.policies.iter().map(move |policy| (service, Some(policy))))
    })
}

/// Endpoints and ports, with what narrows them.
fn remote(policy: Option<&PastPolicy>) -> [Option<String>; 2] {
    let Some(policy) = policy else { return [None, None] };
    let tls = policy.tls.as_ref().map(|tls| format!(" (tls {tls})")).unwrap_or_default();
    let windows = policy.windows.as_ref().map(|names| format!(" (only in {})", names.join(", ")));
    let ports = listed(&policy.ports, policy.more_ports.as_ref()) + &tls + &windows.unwrap_or_default();
    [Some(listed(&policy.endpoints, policy.more_endpoints.as_ref())), Some(ports)]
}

fn listed(texts: &[String], more: Option<&More>) -> String {
    let more = more.map(|more| format!(", ... {} in all", more.count)).unwrap_or_default();
    texts.join(", ") + &more
}

/// No spreadsheet takes the cell for a formula.
fn guarded(text: &str) -> String {
    match text.starts_with(['=', '+', '-', '@', '\t', '\r', '\'']) {
        true => format!("'{}", plain(text)),
        false => plain(text).into_owned(),
    }
}
