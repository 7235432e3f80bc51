//! What the daemon answers, printed: the real server on a socket, with a loop that answers by heart.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use picoseg::api::ask::{Answer, Ask, Asked, Outcome, Settle};
use picoseg::api::audit;
use picoseg::api::explain::Question;
use picoseg::api::server::{Server, serve};
use picoseg::metrics::Scraper;
use picoseg::model::{Direction, OrderKind, Reason, Settings};
use picoseg::store::{AttemptFilter, Verdict};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::etc::{Etc, Said, picoseg, run};

/// A daemon's sockets in `run` of a configuration.
struct Daemon {
    etc: Etc,
    asked: Arc<Mutex<Vec<Ask>>>,
    _server: Server,
    _runtime: Runtime,
}

impl Daemon {
    fn start(answer: impl Fn(&Ask) -> Answer + Send + 'static) -> Self {
        let etc = Etc::with_stripe();
        let runtime = Runtime::new().unwrap();
        let (line, mut questions) = mpsc::channel::<Asked>(8);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&asked);
        runtime.spawn(async move {
            while let Some(Asked { ask, reply }) = questions.recv().await {
                let _ = reply.send(answer(&ask));
                heard.lock().unwrap().push(ask);
            }
        });
        let mut settings = Settings::default();
        settings.paths.runtime = etc.path("run");
        let nobody = Scraper::new(mpsc::channel(1).0);
        let server = runtime.block_on(serve(&settings, line, nobody, std::future::pending())).unwrap();
        Self { etc, asked, _server: server, _runtime: runtime }
    }

    fn run(&self, arguments: &[&str]) -> Said {
        self.etc.run(arguments)
    }

    fn asked(&self) -> Vec<Ask> {
        self.asked.lock().unwrap().clone()
    }
}

fn done(body: Value) -> Answer {
    Answer { outcome: Outcome::Done, body }
}

fn failure(outcome: Outcome, error: &str) -> Answer {
    Answer { outcome, body: json!({"schema": 1, "error": error}) }
}

/// A daemon with three services that does as it is told.
fn ordinary(ask: &Ask) -> Answer {
    match ask {
        Ask::Status => done(status()),
        Ask::Services => done(json!({"schema": 1, "services": [
            service("api", "Acme Ltd", "open"),
            service("files", "ACME LTD", "closed"),
            service("stripe", "Stripe, Inc.", "decommissioned"),
        ]})),
        Ask::Show(name) if name.as_str() == "stripe" => done(show()),
        Ask::Show(name) => failure(Outcome::Unknown, &format!("there is no service {:?}", name.as_str())),
        Ask::Report(name) if name.as_str() == "stripe" => done(report()),
        Ask::Report(name) => failure(Outcome::Unknown, &format!("there is no service {:?}", name.as_str())),
        Ask::Attempts(_) => done(attempts(&[3], false, 9)),
        Ask::Apply { .. } | Ask::Confirm { .. } => done(json!({
            "schema": 1, "changed": true, "confirm_until": confirm_until(ask), "services": 3, "warnings": [
                {"file": "f", "line": 1, "column": 2, "message": "m", "help": null, "severity": "warning"}
            ], "recorded": true,
        })),
        Ask::Flows(_) => done(flows()),
        Ask::Plan => done(plan()),
        Ask::Explain(question) => done(explained(question)),
        Ask::Audit(question) => done(audit(question)),
        Ask::Settle(Settle { cgroup, id }) => done(json!({
            "schema": 1, "cgroups": [{"cgroup": cgroup, "id": id, "subjects": ["unit:payments.service"]}],
        })),
        Ask::Extend { service, until, .. } => {
            let mut body = ordering(service.as_str(), OrderKind::Resume, &[], true);
            body["closes_at"] = json!(until);
            done(body)
        }
        Ask::Order { service, kind, .. } => done(ordering(service.as_str(), *kind, &[], true)),
    }
}

/// Of an apply that is to be confirmed.
fn confirm_until(ask: &Ask) -> Option<&'static str> {
    matches!(ask, Ask::Apply { confirm: Some(_), .. }).then_some("2026-11-20T18:00:00.5Z")
}

/// One of many.
fn flows() -> Value {
    json!({
        "schema": 1,
        "flows": [{
            "service": "stripe", "provider": "Stripe, Inc.", "policy": "stripe/egress/0", "direction": "egress",
            "verdict": "allow", "until": "2026-11-20T18:00:00Z", "subject": "unit:payments.service", "uid": 0, "pid": 4711,
            "exe": null, "protocol": "tcp", "local": "10.0.0.1:40000", "remote": "192.0.2.1:443", "state": "ESTAB",
            "bytes_sent": 1000, "bytes_received": null, "tls": "required",
        }],
        "flows_total": 2,
    })
}

/// A change, a connection and a warning.
fn plan() -> Value {
    json!({
        "schema": 1,
        "changes": [
            {"kind": "settings.changed", "name": null, "detail": "[failsafe]"},
            {"kind": "service.removed", "name": "stripe", "detail": "decommissioned"},
        ],
        "cuts": [{
            "service": "stripe", "policy": null, "subject": "unit:payments.service", "protocol": "tcp",
            "local": "10.0.0.1:40000", "remote": "192.0.2.1:443",
        }],
        "cuts_total": 3, "warnings": ["lock-out: a\u{1b}[2J session"],
    })
}

/// Two pages of entries, and two services where an instant is asked for.
fn audit(question: &audit::Question) -> Value {
    let entry = |seq: u64, kind: &str, service: Option<&str>, detail: Value| {
        json!({
            "seq": seq, "at": "2026-11-20T09:00:00.000000000Z", "kind": kind, "service": service, "detail": detail,
            "actor": "root (uid 0)", "prev": "a".repeat(64), "hash": "b".repeat(64),
        })
    };
    let entries = match question.after {
        None | Some(0) => vec![
            entry(
                1,
                "config.applied",
                None,
                json!({"part": 1, "parts": 1, "added": [{"name": "stripe"}], "services": 3}),
            ),
            entry(
                2,
                "window.opened",
                Some("stripe"),
                json!({"closes_at": "2026-11-20T18:00:00Z", "state": "open"}),
            ),
        ],
        Some(_) => vec![entry(
            3,
            "service.suspended",
            Some("stripe"),
            json!({"reason": "an\u{1b}[2J incident", "recorded": "later", "state": "suspended"}),
        )],
    };
    json!({
        "schema": 1, "entries": entries, "next_after": question.after.filter(|after| *after == 0).map(|_| 2),
        "earlier": false, "at": question.at, "last_seq": question.at.map(|_| 2), "mode": question.at.map(|_| "enforce"),
        "ruleset_digest": question.at.map(|_| "abc"),
        "services": question.at.map(|_| json!([past_service("stripe", "open"), past_service("zoom", "closed")])),
    })
}

fn past_service(name: &str, state: &str) -> Value {
    let policy = json!({
        "id": format!("{name}/egress/0"), "direction": "egress", "subject": "unit:payments.service",
        "endpoints": ["198.51.100.7", "@list"], "more_endpoints": {"count": 40, "sha256": "c"}, "ports": ["443/tcp"],
        "more_ports": null, "tls": "required", "windows": ["office"],
    });
    json!({
        "name": name, "provider": "=cmd()", "owner": "o@example.com", "ticket": null, "mode": "enforce", "state": state,
        "since": "2026-11-20T09:00:00Z", "by": "picosegd", "until": "2026-11-20T18:00:00Z",
        "commission": "2026-01-01T00:00:00Z", "decommission": "2027-01-01T00:00:00Z", "sha256": "d",
        "lists": [{"name": "list", "entries": 40, "sha256": "e"}], "policies": [policy], "more_policies": null,
    })
}

fn report() -> Value {
    let at = "2026-03-04T17:00:00Z";
    json!({
        "schema": 1, "service": "stripe", "provider": "Stripe <Inc.>", "owner": "o@example.com", "description": null,
        "ticket": null, "compliance": [], "state": "decommissioned", "mode": "enforce", "commissioned_at": at,
        "decommissioned_at": at, "planned_end": at, "cause": "order", "order": {"by": "root (uid 0)", "reason": "over"},
        "applied": null, "watched_until": null, "attempts": [], "attempts_total": 0, "sources_total": 0, "series": null,
        "teardown": {
            "sockets_closed": 2, "flows_removed": 0, "residue": [], "completed_at": at, "at_close": null
        },
        "ledger": {
            "first_seq": 1, "last_seq": 2, "head_seq": 3, "head_hash": "abc", "entries_total": 2, "entries": []
        },
        "checkpoint": null, "recorded": true, "ruleset_digest": "abc", "host": "h", "picoseg_version": "0.1.0",
        "generated_at": at,
    })
}

/// A row for each count.
fn attempts(counts: &[u64], truncated: bool, next: u64) -> Value {
    let rows: Vec<_> = counts.iter().map(|count| attempt("198.51.100.7", *count)).collect();
    json!({"schema": 1, "attempts": rows, "truncated": truncated, "next": next})
}

fn status() -> Value {
    json!({
        "schema": 1, "version": "0.1.0", "now": "2026-11-22T00:00:00Z", "mode": "enforce", "ruleset_digest": "abc",
        "in_force_since": "2026-11-21T00:00:00Z",
        "services": {"open": 1, "closed": 1, "pending": 0, "suspended": 0, "unapproved": 0, "decommissioned": 1},
        "config": {"ok": false, "error": "line 1\nis wrong"}, "store": {"ok": true, "error": null},
        "next_transition": {"at": "2026-11-22T18:00:00Z", "service": "api", "to": "closed"},
        "drift": {"count": 0, "last_at": null}, "attempts_total": 3, "lost_details": 0,
        "weaker": ["the table is not protected"],
    })
}

fn service(name: &str, provider: &str, state: &str) -> Value {
    let opens_at = (state == "closed").then_some("2026-11-23T09:00:00Z");
    let closes_at = (state == "open").then_some("2026-11-22T18:00:00Z");
    json!({
        "name": name, "provider": provider, "owner": "o@example.com", "state": state, "mode": "enforce",
        "commission": "2026-01-01T00:00:00Z", "decommission": "2027-01-01T00:00:00Z",
        "opens_at": opens_at, "closes_at": closes_at, "attempts": 3,
        "policies": [
            policy(name, 0, "unit:payments.service", true),
            policy(name, 1, "unit:gone.service", false),
            policy(name, 2, "cgroup:/", true),
        ],
    })
}

fn policy(name: &str, index: usize, subject: &str, resolved: bool) -> Value {
    json!({
        "id": format!("{name}/egress/{index}"), "direction": "egress", "subject": subject, "resolved": resolved,
        "endpoints": ["198.51.100.7", "@list"], "ports": ["443/tcp"], "tls": "required",
    })
}

fn show() -> Value {
    let address = |address: &str, resolved: bool, kept_until: Value| {
        json!({
            "address": address, "since": "2026-11-01T10:00:00Z", "resolved": resolved, "learned_until": null,
            "left_at": null, "kept_until": kept_until,
        })
    };
    let host = json!({
        "name": "api.example.com", "ignored": ["10.0.0.1"], "answered_at": null, "error": "SERVFAIL", "failed_at": null,
        "addresses": [
            address("192.0.2.1", true, json!(null)),
            address("192.0.2.2", false, json!(null)),
            address("192.0.2.3", false, json!("2026-11-01T11:00:00Z")),
        ],
    });
    let mut show = service("stripe", "Stripe, Inc.", "decommissioned");
    let subject = |index: usize, subject: &str, places: Value, reason: Value| {
        let since = (index < 2).then_some("2026-11-01T10:00:00Z");
        json!({
            "policy": format!("stripe/egress/{index}"), "subject": subject, "places": places, "since": since,
            "reason": reason, "prefixes": 4, "names": [],
        })
    };
    let none = json!({"cgroup": null, "id": null, "level": null, "uid": null, "gid": null, "address": null});
    let place = |facts: Value| {
        let mut place = none.clone();
        place.as_object_mut().unwrap().extend(facts.as_object().unwrap().clone());
        place
    };
    let places = json!([
        place(json!({"cgroup": "system.slice/payments.service", "id": 4711, "level": 2})),
        place(json!({"uid": 33})),
        place(json!({"gid": 34})),
        place(json!({"address": "172.17.0.2"})),
    ]);
    let more = json!({
        "schema": 1, "description": null, "ticket": "SEC-1", "compliance": ["PCI-DSS", "SOX"], "departed": true,
        "suspended": null,
        "decommissioned": {"at": "2026-11-01T00:00:00Z", "cause": "order", "by": "root (uid 0)", "reason": "over"},
        "subjects": [
            subject(0, "unit:payments.service", places, json!(null)),
            subject(1, "unit:gone.service", json!([]), json!("it does not run")),
            subject(2, "cgroup:/", json!([]), json!(null)),
        ],
        "findings": [{"policy": "stripe/egress/1", "what": "a socket\u{1b}[2J", "remedy": "restart it"}],
        "findings_error": "too much",
    });
    show.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    show["subjects"][1]["names"] = json!([host]);
    show
}

fn attempt(remote: &str, count: u64) -> Value {
    json!({
        "service": "stripe", "provider": "Stripe, Inc.", "policy": null, "direction": "egress", "reason": "expired",
        "verdict": "refused", "protocol": "tcp", "remote": remote, "remote_port": 443, "local": null,
        "local_port": null, "subject": null, "uid": 1000, "also": [], "count": count,
        "first_seen": "2026-11-21T00:00:00Z", "last_seen": "2026-11-22T00:00:00.5Z",
    })
}

/// Refused by `stripe`, but for port 443.
fn explained(question: &Question) -> Value {
    let fits = question.remote.port == 443;
    json!({
        "schema": 1, "at": "2026-11-22T00:00:00Z", "verdict": if fits { "allow" } else { "refuse" },
        "reason": (!fits).then_some("closed"), "service": "stripe", "policy": fits.then_some("stripe/egress/0"),
        "until": "2026-11-22T18:00:00Z", "mode": "observe", "tls": fits.then_some("required"),
    })
}

fn ordering(service: &str, kind: OrderKind, residue: &[&str], recorded: bool) -> Value {
    let (state, torn) = match kind {
        OrderKind::Suspend => ("suspended", true),
        OrderKind::Resume => ("open", false),
        OrderKind::Decommission => ("decommissioned", true),
    };
    let teardown = torn.then(|| json!({
        "sockets_closed": 2, "flows_removed": 1, "residue": residue, "completed_at": "2026-11-22T00:00:00Z",
    }));
    json!({
        "schema": 1, "service": service, "state": state, "teardown": teardown, "recorded": recorded, "warnings": [],
    })
}

#[test]
fn json_is_the_body_as_it_came() {
    let daemon = Daemon::start(ordinary);
    assert_eq!(daemon.run(&["status", "--json"]).exits(0).stdout, format!("{}\n", status()));
    assert_eq!(daemon.run(&["--json", "show", "stripe"]).exits(0).stdout, format!("{}\n", show()));
    for arguments in
        [&["services"][..], &["attempts"], &["settle"], &["apply"], &["suspend", "api", "--reason", "r"]]
    {
        let said = run(daemon.etc.command().arg("--json").args(arguments)).exits(0);
        assert_eq!(said.json()["schema"], 1, "{arguments:?}");
        assert_eq!(said.stdout.lines().count(), 1, "{arguments:?}");
    }
}

#[test]
fn entries_are_a_table_in_words() {
    let daemon = Daemon::start(ordinary);
    let said = daemon.run(&["audit", "show", "--service", "stripe"]).exits(0);
    let expected = "\
TIME                  KIND            SERVICE  ACTOR         WHAT
2026-11-20T09:00:00Z  config.applied  -        root (uid 0)  services: 3; added: stripe
2026-11-20T09:00:00Z  window.opened   stripe   root (uid 0)  until 2026-11-20T18:00:00Z
";
    assert_eq!(said.stdout, expected);
    let Some(Ask::Audit(asked)) = daemon.asked().pop() else { panic!("the ledger") };
    let service = asked.service.map(|name| name.to_string());
    assert_eq!((service.as_deref(), asked.after, asked.limit), (Some("stripe"), None, 1_000));

    // Page by page, and what stands in a reason moves no cursor.
    let said = daemon.run(&["audit", "show", "--since", "2026-01-01T00:00:00Z"]).exits(0);
    assert_eq!(said.stdout.lines().count(), 4, "{}", said.stdout);
    assert!(
        said.stdout.contains("an\\u{1b}[2J incident") && !said.stdout.contains('\u{1b}'),
        "{}",
        said.stdout
    );
    let pages: Vec<_> = daemon.asked().into_iter().rev().take(2).collect();
    let after = |ask: &Ask| if let Ask::Audit(question) = ask { question.after } else { None };
    assert_eq!(pages.iter().map(after).collect::<Vec<_>>(), [Some(2), Some(0)]);
    let json = daemon.run(&["audit", "show", "--json", "--since", "2026-01-01T00:00:00Z"]).exits(0).json();
    assert_eq!(json["entries"].as_array().map(Vec::len), Some(3));
    assert_eq!(json["entries"][0]["prev"], "a".repeat(64));
}

#[test]
fn an_access_review_is_a_table_or_a_spreadsheet() {
    let daemon = Daemon::start(ordinary);
    let at = ["audit", "show", "--at", "2026-11-20T10:00:00Z"];
    let said = daemon.run(&at).exits(0);
    let expected = "\
at      2026-11-20T10:00:00Z
entry   2
mode    enforce
digest  abc

SERVICE  PROVIDER  OWNER          STATE   SINCE                 UNTIL                 SUBJECT                DIRECTION  \
ENDPOINTS                              PORTS
stripe   =cmd()    o@example.com  open    2026-11-20T09:00:00Z  2026-11-20T18:00:00Z  unit:payments.service  egress     \
198.51.100.7, @list, ... 40 in all  443/tcp (tls required) (only in office)
";
    let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let stripe: String = said.stdout.lines().take(7).map(|line| format!("{line}\n")).collect();
    assert_eq!(squeezed(&stripe), squeezed(expected));
    let Some(Ask::Audit(asked)) = daemon.asked().pop() else { panic!("the ledger") };
    assert_eq!(asked.at, Some("2026-11-20T10:00:00Z".parse().unwrap()));

    let said = daemon.run(&[&at[..], &["--format", "csv"]].concat()).exits(0);
    let line = said.stdout.lines().nth(1).unwrap_or_default().to_owned();
    assert!(line.starts_with("stripe,'=cmd(),o@example.com,,enforce,open,2026-11-20T09:00:00Z,"), "{line}");
    assert!(line.contains("\"198.51.100.7, @list, ... 40 in all\""), "{line}");
    daemon.run(&["audit", "show", "--format", "csv"]).exits(2);
}

#[test]
fn services_are_a_table() {
    let said = Daemon::start(ordinary).run(&["services"]).exits(0);
    let expected = "\
NAME    STATE           CLOSES/OPENS                 PROVIDER      OWNER          ATTEMPTS
api     open            closes 2026-11-22T18:00:00Z  Acme Ltd      o@example.com  3
files   closed          opens 2026-11-23T09:00:00Z   ACME LTD      o@example.com  3
stripe  decommissioned  -                            Stripe, Inc.  o@example.com  3
";
    assert_eq!(said.stdout, expected);
}

#[test]
fn attempts_are_a_table_and_the_options_reach_the_daemon() {
    let daemon = Daemon::start(ordinary);
    let said =
        daemon.run(&["attempts", "--service", "stripe", "--since", "2026-11-22T01:00:00+01:00"]).exits(0);
    let expected = "\
SERVICE  DIRECTION  VERDICT  REASON   REMOTE        PORT  PROTO  UID   COUNT  FIRST                 LAST                      PROVIDER
stripe   egress     refused  expired  198.51.100.7  443   tcp    1000  3      2026-11-21T00:00:00Z  2026-11-22T00:00:00.500Z  Stripe, Inc.
";
    assert_eq!(said.stdout, expected);
    let Some(Ask::Attempts(filter)) = daemon.asked().pop() else { panic!("attempts") };
    assert_eq!(filter.service.unwrap().as_str(), "stripe");
    assert_eq!(filter.since.unwrap(), "2026-11-22T00:00:00Z".parse::<picoseg::model::Time>().unwrap());
}

#[test]
fn a_report_has_four_formats_that_say_the_same() {
    let daemon = Daemon::start(ordinary);
    let said = |arguments: &[&str]| daemon.run(arguments).exits(0).stdout;
    let json = format!("{}\n", report());
    assert_eq!(said(&["report", "stripe", "--json"]), json);
    assert_eq!(said(&["report", "stripe", "--format", "json"]), json);
    for (format, escaped) in
        [("text", "Stripe <Inc.>"), ("markdown", "Stripe &lt;Inc.&gt;"), ("html", "Stripe &lt;Inc.&gt;")]
    {
        let report = said(&["report", "stripe", "--format", format]);
        assert!(report.contains(&format!("Access of {escaped} ended on 4 March 2026")), "{format}: {report}");
    }
    assert!(said(&["report", "stripe"]).starts_with("Decommission report: stripe\n"));
    daemon.run(&["report", "nobody"]).exits(1);
    daemon.run(&["report", "stripe", "--format", "pdf"]).exits(2);
    daemon.run(&["report"]).exits(2);
}

#[test]
fn a_report_goes_to_a_file() {
    let daemon = Daemon::start(ordinary);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stripe.html");
    let output = path.to_str().unwrap();
    for _ in 0..2 {
        let said = daemon.run(&["report", "stripe", "--format", "html", "--output", output]).exits(0);
        assert_eq!(said.stdout, "");
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("</html>\n"));
    }
    daemon.run(&["report", "stripe", "--output", "/proc/nothing/here"]).exits(1);
}

#[test]
fn status_is_a_line_for_each_fact() {
    let said = Daemon::start(ordinary).run(&["status"]).exits(0);
    for line in [
        "mode            enforce",
        "next            2026-11-22T18:00:00Z api becomes closed",
        "attempts        3",
        "configuration   not ok: line 1\\u{a}is wrong",
        "store           ok",
        "weaker          the table is not protected",
    ] {
        assert!(said.stdout.lines().any(|said| said == line), "{line}\n{}", said.stdout);
    }
}

#[test]
fn show_says_what_each_subject_is_right_now() {
    let daemon = Daemon::start(ordinary);
    let said = daemon.run(&["show", "stripe"]).exits(0);
    for line in [
        "state         decommissioned",
        "compliance    PCI-DSS, SOX",
        "ended         2026-11-01T00:00:00Z (order) by root (uid 0): over",
        "  is now      cgroup /system.slice/payments.service (id 4711), since 2026-11-01T10:00:00Z",
        "  is now      user 33, since 2026-11-01T10:00:00Z",
        "  is now      group 34, since 2026-11-01T10:00:00Z",
        "  is now      forwarded from and to 172.17.0.2, since 2026-11-01T10:00:00Z",
        "  is now      unresolved, hence refused: it does not run, since 2026-11-01T10:00:00Z",
        "  name        api.example.com: 192.0.2.1 (since 2026-11-01T10:00:00Z), 192.0.2.2 (since 2026-11-01T10:00:00Z, \
         learned), 192.0.2.3 (since 2026-11-01T10:00:00Z, has left, kept until 2026-11-01T11:00:00Z); ignored because no \
         prefix lists them: 10.0.0.1; cannot be resolved: SERVFAIL",
        "  found       a socket\\u{1b}[2J",
        "  remedy      restart it",
        "findings      incomplete: too much",
        "  is now      any process of this host",
        "  to          198.51.100.7, @list (4 prefixes)",
    ] {
        assert!(said.stdout.lines().any(|said| said == line), "{line}\n{}", said.stdout);
    }
    assert!(said.stdout.contains("the cgroup in which its socket was created"), "{}", said.stdout);
    assert!(daemon.run(&["show", "strype"]).exits(1).stderr.contains("strype"));
    daemon.run(&["show", "../status"]).exits(1);
}

#[test]
fn explain_asks_the_daemon_and_says_until_when_it_holds() {
    let daemon = Daemon::start(ordinary);
    let explain = |remote: &str, more: &[&str]| {
        let arguments = ["explain", "--subject", "unit:payments.service", "--remote", remote];
        daemon.run(&[&arguments[..], more].concat()).exits(0)
    };
    assert_eq!(
        explain("198.51.100.7:443/tcp", &[]).stdout,
        "unit:payments.service to 198.51.100.7:443/tcp: allowed by stripe/egress/0 until 2026-11-22T18:00:00Z, \
         if the client begins with a TLS ClientHello\n"
    );
    let said =
        explain("[2001:db8::1]:80/tcp", &["--direction", "ingress", "--at", "2026-11-22T01:00:00+01:00"]);
    assert_eq!(
        said.stdout,
        "[2001:db8::1]:80/tcp to unit:payments.service: refused by stripe, closed; it will pass from \
         2026-11-22T18:00:00Z on; in observe mode: it is recorded and passes\n"
    );
    let Some(Ask::Explain(question)) = daemon.asked().pop() else { panic!("explain") };
    assert_eq!(question.direction, Direction::Ingress);
    assert_eq!(question.at, Some("2026-11-22T00:00:00Z".parse().unwrap()));
    assert_eq!(explain("192.0.2.1/icmp", &["--json"]).json()["verdict"], "refuse");
    for bad in [
        ["--subject", "payments.service", "--remote", "192.0.2.1:1/tcp"],
        ["--subject", "unit:payments.service", "--remote", "192.0.2.1:1"],
        ["--subject", "unit:payments.service", "--remote", "api.example:443/tcp"],
    ] {
        daemon.run(&[&["explain"][..], &bad].concat()).exits(2);
    }
}

#[test]
fn without_a_daemon_explain_works_from_the_files_and_says_so() {
    let etc = Etc::with_stripe();
    let explain = |remote: &str, at: &str| {
        let subject = ["--subject", "unit:picoseg-test-of-no-host.service"];
        etc.run(&[&["explain", "--json", "--remote", remote, "--at", at], &subject[..]].concat()).exits(0)
    };
    let said = explain("198.51.100.7:443/tcp", "2026-11-23T10:00:00Z");
    assert!(said.stderr.contains("orders and learned addresses are not known"), "{}", said.stderr);
    let expected = json!({
        "schema": 1, "at": "2026-11-23T10:00:00Z", "verdict": "allow", "reason": null, "service": "stripe",
        "policy": "stripe/egress/0", "until": "2026-11-23T18:00:00Z", "mode": "enforce", "tls": null,
    });
    assert_eq!(said.json(), expected);
    let closed = explain("198.51.100.7:443/tcp", "2026-11-22T10:00:00Z").json();
    assert_eq!((&closed["reason"], &closed["until"]), (&json!("closed"), &json!("2026-11-23T09:00:00Z")));
    assert_eq!(explain("192.0.2.1:443/tcp", "now").json()["verdict"], "ungoverned");
    etc.write("services.d/stripe.toml", "nonsense");
    etc.run(&["explain", "--subject", "user:root", "--remote", "192.0.2.1/icmp"]).exits(78);
}

#[test]
fn settle_asks_for_the_cgroup_of_whoever_calls_it() {
    let daemon = Daemon::start(ordinary);
    let said = daemon.run(&["settle"]).exits(0);
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
    let Some(Ask::Settle(Settle { cgroup, id })) = daemon.asked().pop() else { panic!("settle") };
    assert_eq!(cgroup, own);
    assert_eq!(said.stdout, format!("the cgroup {own} (id {id}) is in force for unit:payments.service\n"));
    let said = daemon.run(&["settle", "--json"]).exits(0).json();
    assert_eq!(said["cgroups"][0]["subjects"][0], "unit:payments.service");
    let asked = daemon.asked().len();
    let said = daemon.run(&["settle", "picoseg-test-of-no-host.service"]).exits(1);
    assert!(said.stderr.contains("has no cgroup"), "{}", said.stderr);
    assert!(daemon.run(&["settle", "payments"]).exits(1).stderr.contains("full name"));
    assert_eq!(daemon.asked().len(), asked);
}

#[test]
fn apply_says_what_is_in_force_and_what_to_mind() {
    let said = Daemon::start(ordinary).run(&["apply"]).exits(0);
    assert_eq!(
        (said.stdout.as_str(), said.stderr.as_str()),
        ("3 services in force\n", "f:1:2: warning: m\n")
    );
}

#[test]
fn flows_are_a_table_of_one_service_or_of_all() {
    let daemon = Daemon::start(ordinary);
    let said = daemon.run(&["flows", "--service", "stripe"]).exits(0);
    assert_eq!(
        said.stdout,
        "SERVICE  PROVIDER      VERDICT  SUBJECT                PID   LOCAL               REMOTE         SENT  RECEIVED  TLS       UNTIL\n\
         stripe   Stripe, Inc.  allow    unit:payments.service  4711  10.0.0.1:40000/tcp  192.0.2.1:443  1000  -         required  2026-11-20T18:00:00Z\n\
         and 1 more flow\n"
    );
    assert_eq!(daemon.run(&["flows", "--json"]).exits(0).json(), flows());
    let asked = daemon.asked();
    assert!(matches!(&asked[..], [Ask::Flows(Some(name)), Ask::Flows(None)] if name.as_str() == "stripe"));
    daemon.run(&["flows", "--service", "A"]).exits(1);
}

#[test]
fn an_extension_says_until_when_it_is_open() {
    let daemon = Daemon::start(ordinary);
    let until = "2026-11-20T18:00:00+01:00";
    let said = daemon.run(&["extend", "api", "--until", until, "--reason", "release"]).exits(0);
    assert_eq!(said.stdout, "api is open until 2026-11-20T17:00:00Z\n");
    daemon.run(&["extend", "api", "--until", until]).exits(2);
    daemon.run(&["extend", "api", "--until", "18:00", "--reason", "release"]).exits(2);
}

#[test]
fn what_waits_for_a_confirmation_says_until_when() {
    let daemon = Daemon::start(ordinary);
    let said = daemon.run(&["apply", "--confirm", "10m"]).exits(0);
    assert_eq!(said.stdout, "3 services in force until 2026-11-20T18:00:00Z; `picoseg confirm` keeps it\n");
    assert_eq!(daemon.run(&["confirm"]).exits(0).stdout, "3 services in force\n");
    let [Ask::Apply { confirm, .. }, Ask::Confirm { .. }] = &daemon.asked()[..] else { panic!("both") };
    assert_eq!(*confirm, Some(Duration::from_secs(600)));
    daemon.run(&["apply", "--confirm", "10"]).exits(2);
}

#[test]
fn a_plan_is_two_tables_and_warnings_and_has_an_exit_code_where_that_is_asked_for() {
    let said = Daemon::start(ordinary).run(&["plan"]).exits(0);
    assert_eq!(
        said.stdout,
        "CHANGE            NAME    DETAIL\n\
         settings.changed  -       [failsafe]\n\
         service.removed   stripe  decommissioned\n\n\
         3 live connections would be cut:\n\
         BY      SUBJECT                PROTOCOL  LOCAL           REMOTE\n\
         stripe  unit:payments.service  tcp       10.0.0.1:40000  192.0.2.1:443\n\
         and 2 more\n"
    );
    assert_eq!(said.stderr, "warning: lock-out: a\\u{1b}[2J session\n");
    let said = Daemon::start(ordinary).run(&["plan", "--exit-code", "--json"]).exits(4);
    assert_eq!(said.json(), plan());
    let same =
        |_: &Ask| done(json!({"schema": 1, "changes": [], "cuts": [], "cuts_total": 0, "warnings": []}));
    let said = Daemon::start(same).run(&["plan", "--exit-code"]).exits(0);
    assert_eq!(said.stdout, "nothing to change: what the files say is in force\n");
}

#[test]
fn diagnostics_of_the_daemon_are_those_of_check() {
    let daemon = Daemon::start(|_| {
        let one = json!({"file": "/etc/f", "line": 3, "column": 4, "message": "m", "help": "h", "severity": "error"});
        Answer { outcome: Outcome::Invalid, body: json!({"schema": 1, "diagnostics": [one]}) }
    });
    let said = daemon.run(&["apply"]).exits(78);
    assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("", "/etc/f:3:4: m\n  help: h\n"));
    let said = daemon.run(&["apply", "--json"]).exits(78);
    assert_eq!(said.json()["diagnostics"][0]["line"], 3);
}

#[test]
fn an_order_says_what_became_of_it() {
    let daemon = Daemon::start(ordinary);
    let said = daemon.run(&["suspend", "api", "--reason", "incident"]).exits(0);
    assert_eq!(said.stdout, "api is suspended: closed 2 sockets, removed 1 tracked flow, nothing is left\n");
    assert_eq!(daemon.run(&["resume", "api", "--reason", "over"]).exits(0).stdout, "api is open\n");
    let Some(Ask::Order { kind, reason, by, .. }) = daemon.asked().first().cloned() else {
        panic!("an order")
    };
    assert_eq!((kind, reason.as_str()), (OrderKind::Suspend, "incident"));
    assert!(by.contains("uid "), "{by}");
}

#[test]
fn an_order_that_is_not_on_record_yet_is_in_force_and_says_so() {
    let daemon = Daemon::start(|ask| match ask {
        Ask::Order { service, kind, .. } => done(ordering(service.as_str(), *kind, &[], false)),
        _ => failure(Outcome::Failed, "no"),
    });
    for arguments in
        [&["suspend", "api", "--reason", "r"][..], &["suspend", "api", "--reason", "r", "--json"]]
    {
        let said = daemon.run(arguments).exits(0);
        assert!(said.stderr.contains("not on record yet"), "{}", said.stderr);
    }
}

#[test]
fn an_order_without_its_proof_fails() {
    let daemon = Daemon::start(|ask| match ask {
        Ask::Order { service, kind, .. } => {
            done(ordering(service.as_str(), *kind, &["a socket of pid 7"], true))
        }
        _ => failure(Outcome::Failed, "no"),
    });
    let said = daemon.run(&["suspend", "api", "--reason", "r"]).exits(1);
    assert!(said.stderr.contains("api: not torn down: a socket of pid 7"), "{}", said.stderr);
}

#[test]
fn an_order_for_a_provider_reaches_all_of_its_services_also_behind_one_that_fails() {
    let daemon = Daemon::start(|ask| match ask {
        Ask::Order { service, .. } if service.as_str() == "api" => {
            failure(Outcome::Conflict, "api is stubborn")
        }
        _ => ordinary(ask),
    });
    let said = daemon.run(&["suspend", "--provider", "acme ltd", "--reason", "breach"]).exits(1);
    assert!(said.stderr.contains("api is stubborn"), "{}", said.stderr);
    assert!(said.stdout.starts_with("files is suspended"), "{}", said.stdout);
    let orders = daemon.asked().into_iter().filter(|ask| matches!(ask, Ask::Order { .. })).count();
    assert_eq!(orders, 2);
    let said = daemon.run(&["suspend", "--provider", "Nobody", "--reason", "breach"]).exits(1);
    assert!(
        said.stderr.contains("\"Nobody\"") && said.stderr.contains("\"Stripe, Inc.\""),
        "{}",
        said.stderr
    );
}

#[test]
fn every_option_of_attempts_reaches_the_daemon() {
    let daemon = Daemon::start(ordinary);
    let line = "attempts --provider stripe --source 203.0.113.9/24 --reason expired --direction ingress \
                --verdict refused --until 2026-11-22T00:00:00Z --limit 7";
    let arguments: Vec<_> = line.split_whitespace().collect();
    daemon.run(&arguments).exits(0);
    let Some(Ask::Attempts(filter)) = daemon.asked().pop() else { panic!("attempts") };
    let expected = AttemptFilter {
        service: None,
        provider: Some("stripe".to_owned()),
        sources: Some("203.0.113.0/24".parse().unwrap()),
        reason: Some(Reason::Expired),
        direction: Some(Direction::Ingress),
        verdict: Some(Verdict::Refused),
        since: None,
        until: Some("2026-11-22T00:00:00Z".parse().unwrap()),
        after: None,
        limit: Some(7),
    };
    assert_eq!(filter, expected);
}

#[test]
fn rows_that_are_left_out_are_said_on_stderr() {
    let daemon = Daemon::start(|_| done(attempts(&[3], true, 9)));
    let said = daemon.run(&["attempts", "--limit", "1"]).exits(0);
    assert!(said.stderr.contains("the latest 1 rows") && said.stderr.contains("--since"), "{}", said.stderr);
    assert_eq!(said.stdout.lines().count(), 2);
}

#[test]
fn follow_goes_on_behind_what_was_told_and_waits_for_a_daemon_that_is_away() {
    let answers = Mutex::new(
        [
            done(attempts(&[1], false, 10)),
            failure(Outcome::Failed, "cannot read the attempts"),
            failure(Outcome::Failed, "cannot read the attempts"),
            done(attempts(&[2, 3], true, 12)),
            done(attempts(&[4], false, 13)),
            done(attempts(&[], false, 13)),
            // Another store.
            done(attempts(&[], false, 2)),
            done(attempts(&[5], false, 3)),
        ]
        .into_iter(),
    );
    let daemon = Daemon::start(move |_| {
        answers.lock().unwrap().next().unwrap_or_else(|| done(attempts(&[], false, 3)))
    });
    let [output, notes] = ["output", "notes"].map(|name| daemon.etc.path(name));
    let [out, err] = [&output, &notes].map(|path| fs::File::create(path).unwrap());
    let mut child =
        daemon.etc.command().args(["attempts", "--follow"]).stdout(out).stderr(err).spawn().unwrap();
    let began = Instant::now();
    while daemon.asked().len() < 9 && began.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(child.try_wait().unwrap().is_none(), "it goes on");
    child.kill().unwrap();
    child.wait().unwrap();
    let printed = fs::read_to_string(output).unwrap();
    let counts: Vec<&str> = printed.lines().map(|line| line.split_whitespace().nth(8).unwrap()).collect();
    assert_eq!(counts, ["COUNT", "1", "2", "3", "4", "5"], "{printed}");
    let notes = fs::read_to_string(notes).unwrap();
    assert_eq!(notes, "picoseg: cannot read the attempts; waiting\n");
    let asked: Vec<_> = daemon
        .asked()
        .into_iter()
        .map(|ask| match ask {
            Ask::Attempts(filter) => filter.after,
            other => panic!("{other:?}"),
        })
        .take(9)
        .collect();
    let expected = [None, Some(10), Some(10), Some(10), Some(12), Some(13), Some(13), Some(0), Some(3)];
    assert_eq!(asked, expected);
}

#[test]
fn without_a_daemon_every_question_exits_3() {
    let etc = Etc::with_stripe();
    let commands: [&[&str]; 8] = [
        &["settle"],
        &["apply"],
        &["status"],
        &["services"],
        &["show", "stripe"],
        &["attempts"],
        &["suspend", "stripe", "--reason", "r"],
        &["decommission", "--provider", "Stripe, Inc.", "--reason", "r"],
    ];
    for arguments in commands {
        let said = etc.run(arguments).exits(3);
        assert!(said.stderr.contains("does not answer") && said.stderr.contains("control.sock"), "{said:?}");
        let said = run(etc.command().arg("--json").args(arguments)).exits(3);
        assert!(said.json()["error"].is_string());
    }
}

#[test]
fn the_socket_is_where_the_option_the_environment_or_the_settings_say() {
    let daemon = Daemon::start(ordinary);
    let socket = daemon.etc.path("run/control.sock");
    run(picoseg().arg("--socket").arg(&socket).arg("status")).exits(0);
    run(picoseg().arg("status").env("PICOSEG_SOCKET", &socket)).exits(0);
    run(picoseg().arg("status").env("PICOSEG_CONFIG", daemon.etc.path("picoseg.toml"))).exits(0);
    let absent = daemon.etc.path("absent.sock");
    run(daemon.etc.command().arg("status").env("PICOSEG_SOCKET", &absent)).exits(3);
    run(picoseg().arg("--socket").arg(&socket).arg("status").env("PICOSEG_SOCKET", &absent)).exits(0);
}

#[test]
fn settings_with_mistakes_keep_nobody_from_asking() {
    let daemon = Daemon::start(ordinary);
    let text = fs::read_to_string(daemon.etc.path("picoseg.toml")).unwrap();
    daemon.etc.write("picoseg.toml", &format!("{text}[enforcement]\nmode = \"enforse\"\n"));
    daemon.run(&["check"]).exits(78);
    daemon.run(&["status"]).exits(0);
    daemon.etc.write("picoseg.toml", &format!("{text}= broken"));
    daemon.run(&["status"]).exits(0);
}

#[test]
fn reading_falls_back_to_the_observers_socket_and_orders_do_not() {
    let daemon = Daemon::start(ordinary);
    fs::remove_file(daemon.etc.path("run/control.sock")).unwrap();
    for arguments in [&["status"][..], &["services"], &["show", "stripe"], &["attempts"], &["settle"]] {
        daemon.run(arguments).exits(0);
    }
    daemon.run(&["suspend", "api", "--reason", "r"]).exits(3);
    daemon.run(&["apply"]).exits(3);
    let observe = daemon.etc.path("run/observe.sock");
    let said =
        run(daemon.etc.command().arg("--socket").arg(observe).args(["suspend", "api", "--reason", "r"]));
    assert!(said.exits(5).stderr.contains("control.sock only"));
}

#[test]
fn who_may_not_is_told_so_by_the_mode_of_the_socket_and_by_the_daemon() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can try it as somebody else");
        return;
    }
    let daemon = Daemon::start(ordinary);
    let Some(binary) = binary_for_everybody(&daemon.etc.path("")) else { return };
    let nobody = |arguments: &[&str]| {
        let mut command = Command::new(&binary);
        command.arg("--config").arg(daemon.etc.path("picoseg.toml")).args(arguments);
        run(as_nobody(&mut command))
    };
    let commands = [&["status"][..], &["apply"], &["suspend", "api", "--reason", "r"]];
    for arguments in commands {
        assert!(nobody(arguments).exits(5).stderr.contains("ermission denied"), "{arguments:?}");
    }
    for socket in ["run/control.sock", "run/observe.sock"] {
        fs::set_permissions(daemon.etc.path(socket), Permissions::from_mode(0o666)).unwrap();
    }
    for arguments in commands {
        assert!(nobody(arguments).exits(5).stderr.contains("you may not use this socket"), "{arguments:?}");
    }
    assert_eq!(daemon.asked(), [], "nothing reached the loop");
}

/// A copy of the program where everybody may run it; `None`, loudly, where that cannot be.
pub fn binary_for_everybody(directory: &Path) -> Option<PathBuf> {
    let binary = directory.join("picoseg");
    fs::copy(env!("CARGO_BIN_EXE_picoseg"), &binary).unwrap();
    for path in [directory, &binary] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new(&binary);
    let runs = as_nobody(&mut command).arg("--version").stdout(Stdio::null()).status();
    if runs.is_ok_and(|status| status.success()) {
        return Some(binary);
    }
    eprintln!("SKIPPED: nobody may not run programs in {}", directory.display());
    None
}

/// As a user without any right.
pub fn as_nobody(command: &mut Command) -> &mut Command {
    command.uid(65534).gid(65534).env_clear().current_dir("/")
}
