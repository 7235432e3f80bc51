//! The keys of every body: those of the contract, and those of the OpenAPI document.

use std::collections::{BTreeMap, BTreeSet};

use picoseg::api::body::{self, SCHEMA};
use picoseg::model::Time;
use picoseg::report;
use serde::Serialize;
use serde_json::Value;

/// The words in a text.
fn words(text: &str) -> BTreeSet<String> {
    text.split([',', ' ', '\n']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

fn value(body: impl Serialize) -> Value {
    serde_json::to_value(body).unwrap()
}

/// One of each body with nothing known that may be unknown.
fn samples() -> BTreeMap<&'static str, Value> {
    let at = Time::UNIX_EPOCH;
    let health = body::Health { ok: true, error: None };
    let drift = body::Drift { count: 0, last_at: None };
    let next = body::NextTransition { at, service: String::new(), to: String::new() };
    let policy = body::Policy {
        id: String::new(),
        direction: String::new(),
        subject: String::new(),
        resolved: false,
        endpoints: Vec::new(),
        ports: Vec::new(),
        tls: None,
    };
    let service = body::Service {
        name: String::new(),
        provider: String::new(),
        owner: String::new(),
        state: String::new(),
        mode: String::new(),
        commission: at,
        decommission: at,
        opens_at: None,
        closes_at: None,
        attempts: 0,
        policies: Vec::new(),
    };
    let place = body::Place::default();
    let resolved = body::Resolved {
        policy: String::new(),
        subject: String::new(),
        places: Vec::new(),
        since: None,
        reason: None,
        prefixes: 0,
        names: Vec::new(),
    };
    let host = body::Host {
        name: String::new(),
        addresses: Vec::new(),
        ignored: Vec::new(),
        answered_at: None,
        error: None,
        failed_at: None,
    };
    let host_address = body::HostAddress {
        address: [192, 0, 2, 1].into(),
        since: at,
        resolved: true,
        learned_until: None,
        left_at: None,
        kept_until: None,
    };
    let finding = body::Finding { policy: String::new(), what: String::new(), remedy: String::new() };
    let suspended = body::Ordered { at, by: String::new(), reason: String::new() };
    let ended = body::Ended { at, cause: String::new(), by: None, reason: None };
    let show = body::Show {
        schema: SCHEMA,
        service: service.clone(),
        description: None,
        ticket: None,
        compliance: Vec::new(),
        departed: false,
        suspended: None,
        decommissioned: None,
        subjects: Vec::new(),
        findings: Vec::new(),
        findings_error: None,
    };
    let attempt = body::Attempt {
        service: None,
        provider: None,
        policy: None,
        direction: String::new(),
        reason: String::new(),
        verdict: String::new(),
        protocol: String::new(),
        remote: "192.0.2.1".to_owned(),
        remote_port: None,
        local: None,
        local_port: None,
        subject: None,
        uid: None,

        pid: Some(4711),
        exe: None,
        also: Vec::new(),
        count: 0,
        first_seen: at,
        last_seen: at,
    };
    let diagnostic = body::Diagnostic {
        file: String::new(),
        line: 1,
        column: 1,
        message: String::new(),
        help: None,
        severity: "error".to_owned(),
    };
    let ordering = body::Ordering {
        schema: SCHEMA,
        service: String::new(),
        state: String::new(),
        closes_at: None,
        teardown: None,
        recorded: true,
        warnings: Vec::new(),
    };
    let status = body::Status {
        schema: SCHEMA,
        version: String::new(),
        now: at,
        mode: String::new(),
        ruleset_digest: String::new(),
        in_force_since: None,
        services: BTreeMap::new(),
        config: health.clone(),
        store: health.clone(),
        next_transition: None,
        drift: drift.clone(),
        attempts_total: 0,
        lost_details: 0,
        confirmation: None,
        weaker: Vec::new(),
    };
    let applied = body::Applied {
        schema: SCHEMA,
        changed: false,
        services: 0,
        warnings: Vec::new(),
        recorded: true,
        confirm_until: None,
    };
    let flow = body::Flow {
        service: String::new(),
        provider: String::new(),
        policy: None,
        direction: None,
        verdict: String::new(),
        until: None,
        subject: None,
        uid: None,
        pid: None,
        exe: None,
        protocol: String::new(),
        local: String::new(),
        remote: String::new(),
        state: None,
        bytes_sent: None,
        bytes_received: None,
        tls: None,
    };
    let plan = body::Plan {
        schema: SCHEMA,
        changes: Vec::new(),
        cuts: Vec::new(),
        cuts_total: 0,
        warnings: Vec::new(),
    };
    let cut = body::Cut {
        service: None,
        policy: None,
        subject: None,
        protocol: String::new(),
        local: String::new(),
        remote: String::new(),
    };
    let settled = body::SettledCgroup { cgroup: String::new(), id: 0, subjects: Vec::new() };
    let explained = body::Explained {
        schema: SCHEMA,
        at,
        verdict: String::new(),
        reason: None,
        service: None,
        policy: None,
        until: None,
        mode: None,
        tls: None,
    };
    let audit = body::Audit {
        schema: SCHEMA,
        entries: Vec::new(),
        next_after: None,
        earlier: false,
        at: None,
        last_seq: None,
        mode: None,
        ruleset_digest: None,
        services: None,
    };
    let entry = body::LedgerEntry {
        seq: 1,
        at: String::new(),
        kind: String::new(),
        service: None,
        actor: String::new(),
        detail: Value::Null,
        prev: String::new(),
        hash: String::new(),
    };
    let past_policy = body::PastPolicy {
        id: String::new(),
        direction: String::new(),
        subject: String::new(),
        endpoints: Vec::new(),
        more_endpoints: None,
        ports: Vec::new(),
        more_ports: None,
        tls: None,
        windows: None,
    };
    let past_service = body::PastService {
        name: String::new(),
        provider: None,
        owner: None,
        ticket: None,
        mode: None,
        state: String::new(),
        since: None,
        by: None,
        until: None,
        commission: None,
        decommission: None,
        sha256: None,
        lists: Vec::new(),
        policies: Vec::new(),
        more_policies: None,
    };
    let past_list = body::PastList { name: String::new(), entries: 0, sha256: String::new() };
    let mut samples = report_samples();
    samples.extend([
        ("Audit", value(audit)),
        ("LedgerEntry", value(entry)),
        ("PastService", value(past_service)),
        ("PastPolicy", value(past_policy)),
        ("PastList", value(past_list)),
        ("More", value(body::More { count: 0, sha256: String::new() })),
        ("Explained", value(explained)),
        ("Settled", value(body::Settled { schema: SCHEMA, cgroups: Vec::new() })),
        ("SettledCgroup", value(settled)),
        ("Status", value(status)),
        ("Health", value(health)),
        ("NextTransition", value(next)),
        ("Drift", value(drift)),
        ("Services", value(body::Services { schema: SCHEMA, services: Vec::new() })),
        ("Service", value(service)),
        ("Policy", value(policy)),
        ("Show", value(show)),
        ("Finding", value(finding)),
        ("Suspended", value(suspended)),
        ("Decommissioned", value(ended)),
        ("Resolved", value(resolved)),
        ("Host", value(host)),
        ("HostAddress", value(host_address)),
        ("Place", value(place)),
        (
            "Attempts",
            value(body::Attempts { schema: SCHEMA, attempts: Vec::new(), truncated: false, next: 0 }),
        ),
        ("Attempt", value(attempt)),
        ("OrderRequest", value(body::OrderRequest { reason: String::new() })),
        ("ExtendRequest", value(body::ExtendRequest { until: at, reason: String::new() })),
        ("Ordering", value(ordering)),
        ("Teardown", value(body::Teardown::default())),
        ("Flows", value(body::Flows { schema: SCHEMA, flows: Vec::new(), flows_total: 0 })),
        ("Flow", value(flow)),
        ("Plan", value(plan)),
        ("Change", value(body::Change { kind: String::new(), name: None, detail: String::new() })),
        ("Cut", value(cut)),
        ("Applied", value(applied)),
        ("Waiting", value(body::Waiting { until: at, by: String::new(), at })),
        ("Diagnostics", value(body::Diagnostics { schema: SCHEMA, diagnostics: Vec::new() })),
        ("Diagnostic", value(diagnostic)),
        ("Failure", value(body::Failure { schema: SCHEMA, error: String::new() })),
    ]);
    samples
}

/// The decommission report and its parts.
fn report_samples() -> BTreeMap<&'static str, Value> {
    let at = Time::UNIX_EPOCH;
    let text = String::new;
    let stream = report::Stream { remote: text(), direction: text() };
    let ledger = report::Ledger {
        first_seq: None,
        last_seq: None,
        head_seq: 0,
        head_hash: text(),
        entries_total: 0,
        entries: Vec::new(),
    };
    let reference = report::Reference { seq: 1, at: text(), kind: text(), actor: text(), hash: text() };
    let checkpoint = report::Checkpoint { seq: 1, at: text(), hash: text(), key: text(), signature: text() };
    let teardown = report::Teardown {
        sockets_closed: 0,
        flows_removed: 0,
        residue: Vec::new(),
        completed_at: at,
        at_close: None,
    };
    let attempt = report::Attempt {
        remote: text(),
        direction: text(),
        count: 0,
        sources: 1,
        first_seen: at,
        last_seen: at,
    };
    let report = report::Report {
        schema: SCHEMA,
        service: text(),
        provider: text(),
        owner: text(),
        description: None,
        ticket: None,
        compliance: Vec::new(),
        state: text(),
        mode: text(),
        commissioned_at: at,
        decommissioned_at: None,
        planned_end: at,
        cause: None,
        order: None,
        applied: None,
        teardown: None,
        watched_until: None,
        attempts: Vec::new(),
        attempts_total: 0,
        sources_total: 0,
        series: None,
        ledger: ledger.clone(),
        checkpoint: None,
        recorded: true,
        ruleset_digest: text(),
        host: text(),
        picoseg_version: text(),
        generated_at: at,
    };
    BTreeMap::from([
        ("Report", value(report)),
        ("ReportOrder", value(report::Order { by: text(), reason: text() })),
        ("ReportApplied", value(report::Applied { by: text(), at, seq: 1, kind: text() })),
        ("ReportTeardown", value(teardown)),
        ("ReportAttempt", value(attempt)),
        ("ReportSeries", value(report::Series { step_seconds: 1, sources: Vec::new(), buckets: Vec::new() })),
        ("ReportStream", value(stream)),
        ("ReportBucket", value(report::Bucket { at, counts: Vec::new() })),
        ("ReportLedger", value(ledger)),
        ("ReportReference", value(reference)),
        ("ReportCheckpoint", value(checkpoint)),
    ])
}

#[test]
fn the_openapi_document_has_the_keys_of_the_bodies() {
    let document: Value = serde_json::from_str(include_str!("../../docs/openapi.json")).unwrap();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let mut samples = samples();
    for (name, schema) in schemas.iter().filter(|(name, _)| *name != "ApplyRequest") {
        let sample = samples.remove(name.as_str()).unwrap_or_else(|| panic!("there is no body {name}"));
        assert_eq!(keys(&schema["properties"]), keys(&sample), "{name}");
        let required: BTreeSet<String> = serde_json::from_value(schema["required"].clone()).unwrap();
        assert_eq!(required, keys(&sample), "{name}: absent facts are null, never missing");
    }
    assert_eq!(samples.into_keys().collect::<Vec<_>>(), [""; 0], "not in the document");
}

/// Word for word from what users were promised; more keys are free.
#[test]
fn the_bodies_have_the_keys_that_users_were_promised() {
    let promised = [
        (
            "Status",
            "schema, version, now, mode, ruleset_digest, in_force_since, services, config, store, next_transition, \
             drift, attempts_total, lost_details",
        ),
        ("Health", "ok, error"),
        ("NextTransition", "at, service, to"),
        ("Drift", "count, last_at"),
        ("Services", "schema, services"),
        (
            "Service",
            "name, provider, owner, state, mode, commission, decommission, opens_at, closes_at, attempts, policies",
        ),
        ("Policy", "id, direction, subject, resolved, endpoints, ports"),
        ("Attempts", "schema, attempts, truncated, next"),
        (
            "Attempt",
            "service, provider, policy, direction, reason, verdict, protocol, remote, remote_port, local, local_port, \
             subject, uid, also, count, first_seen, last_seen",
        ),
        ("Audit", "schema, entries"),
        ("LedgerEntry", "seq, at, kind, service, actor, detail, prev, hash"),
        ("Plan", "schema, changes, cuts, warnings"),
        ("Change", "kind, name, detail"),
        ("Cut", "service, subject, local, remote"),
        ("Explained", "verdict, reason, service, policy, until"),
        ("Diagnostics", "schema, diagnostics"),
        ("Diagnostic", "file, line, column, message, help"),
        ("Teardown", "sockets_closed, flows_removed, residue, completed_at"),
        (
            "Report",
            "schema, service, provider, commissioned_at, decommissioned_at, order, teardown, attempts, ledger",
        ),
        ("ReportOrder", "by, reason"),
        ("ReportTeardown", "sockets_closed, flows_removed, residue, completed_at, at_close"),
        ("ReportAttempt", "remote, direction, count, first_seen, last_seen"),
        ("ReportLedger", "first_seq, last_seq, head_hash"),
    ];
    let samples = samples();
    for (name, promised) in promised {
        let missing: Vec<_> = words(promised).difference(&keys(&samples[name])).cloned().collect();
        assert!(missing.is_empty(), "{name} lacks {missing:?}");
    }
}

#[test]
fn times_are_rfc_3339_in_utc() {
    assert_eq!(samples()["Service"]["commission"], "1970-01-01T00:00:00Z");
}
