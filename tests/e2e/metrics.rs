//! Metrics and dashboard of a real daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use picoseg::metrics::catalogue::{self, Kind};

use crate::agent::{Kind as Packet, Packets};
use crate::lab::clock::{in_ms, until};
use crate::lab::schedule::{Lifetime, egress, ingress, schedule, window};
use crate::lab::{Lab, MOMENT, SHOWN, at, promtool, put};

const LISTEN: &str = "127.0.0.1:9477";

/// Longer than an answer is kept.
const KEPT: Duration = Duration::from_secs(5);

/// What was answered: its head and its body.
struct Answer {
    head: String,
    body: String,
}

impl Answer {
    fn over(
        mut stream: impl std::io::Read + std::io::Write,
        path: &str,
        accept: &str,
    ) -> std::io::Result<Self> {
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\naccept: {accept}\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").expect("an answer over HTTP");
        Ok(Self { head: head.to_owned(), body: body.to_owned() })
    }

    fn ok(self) -> String {
        assert!(self.head.starts_with("HTTP/1.1 200 "), "{}\n{}", self.head, self.body);
        self.body
    }

    /// The samples of the plain format by name and labels.
    fn samples(self) -> BTreeMap<String, f64> {
        let lines =
            self.ok().lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
        let sample = |line: &String| {
            let (name, value) = line.rsplit_once(' ').expect("a sample");
            (name.to_owned(), value.parse().expect("a value"))
        };
        lines.iter().map(sample).collect()
    }
}

fn get(lab: &Lab, listen: &str, path: &str, accept: &str) -> std::io::Result<Answer> {
    let address: SocketAddr = listen.parse().expect("an address");
    lab.in_host(|| {
        let stream = TcpStream::connect_timeout(&address, MOMENT)?;
        stream.set_read_timeout(Some(MOMENT * 3))?;
        Answer::over(stream, path, accept)
    })
}

fn scrape(lab: &Lab) -> BTreeMap<String, f64> {
    get(lab, LISTEN, "/metrics", "*/*").expect("it answers").samples()
}

fn metrics_at(listen: &str) -> String {
    format!("[metrics]\nlisten = \"{listen}\"")
}

fn late(service: &str, direction: &str) -> String {
    format!(
        "picoseg_attempts_total{{service=\"{service}\",direction=\"{direction}\",reason=\"expired\",verdict=\"refused\"}}"
    )
}

#[test]
fn values_move_after_refused_packets_and_outlive_the_daemon() {
    let Some(lab) = Lab::new() else { return };
    let unit = lab.unit("payments");
    let (old, closed) = (lab.provider4(0), lab.provider4(1));
    lab.settings(&metrics_at(LISTEN));
    lab.write("old-crm", &schedule(Lifetime::over(), &[ingress(&unit, old, "8443/tcp")]));
    let windows = [window(in_ms(1_200_000), in_ms(1_800_000)), egress(&unit, closed, "443/tcp")];
    lab.write("later", &schedule(Lifetime::open(), &windows));
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&unit, lab.provider4(2), "443/tcp")]));
    lab.write("ahead", &schedule(Lifetime::ahead(), &[egress(&unit, lab.provider4(3), "443/tcp")]));
    lab.canary();
    let daemon = lab.daemon();
    let before = scrape(&lab);
    assert_eq!(before[&late("old-crm", "ingress")], 0.0, "from the beginning");
    for state in ["table", "config", "store"] {
        assert_eq!(before[&format!("picoseg_{state}_ok")], 1.0);
    }
    assert_eq!(before["picoseg_services{state=\"decommissioned\"}"], 1.0);
    assert_eq!(before["picoseg_service_state{service=\"later\",state=\"closed\"}"], 1.0);
    assert_eq!(before["picoseg_service_state{service=\"stripe\",state=\"open\"}"], 1.0);
    assert!(
        before.keys().filter(|name| name.starts_with("picoseg_service_state{service=\"stripe\"")).count()
            == 1
    );
    let opens = |service| format!("picoseg_service_opens_timestamp_seconds{{service=\"{service}\"}}");
    let in_an_hour = before[&opens("ahead")] - before["picoseg_start_timestamp_seconds"];
    assert!((3_500.0..=3_600.0).contains(&in_an_hour), "{in_an_hour}");
    assert!(before.contains_key(&opens("later")) && !before.contains_key(&opens("stripe")));
    assert!(before.contains_key("picoseg_service_closes_timestamp_seconds{service=\"stripe\"}"));
    let next = before["picoseg_next_transition_seconds"];
    assert!((1_000.0..=1_200.0).contains(&next), "{next}");
    assert!(before["picoseg_commits_total{outcome=\"done\"}"] >= 1.0);

    let theirs = lab.provider();
    theirs.raw(Packets { kind: Packet::Syn, from: at(old, 40_000), to: at(lab.host4(), 8443), count: 300 });
    lab.all_on_record(&theirs);
    until("the counts show", SHOWN, || scrape(&lab)[&late("old-crm", "ingress")] == 300.0);
    let refused = "picoseg_refused_packets_total{direction=\"ingress\",reason=\"expired\"}";
    assert_eq!(scrape(&lab)[refused], 300.0);

    let commits = scrape(&lab)["picoseg_commits_total{outcome=\"done\"}"];
    lab.picoseg(&["suspend", "stripe", "--reason", "looks odd"]).ok();
    until("the order shows", SHOWN, || {
        let now = scrape(&lab);
        now.contains_key("picoseg_service_state{service=\"stripe\",state=\"suspended\"}")
            && now["picoseg_commits_total{outcome=\"done\"}"] > commits
            && now["picoseg_ledger_head_seq"] > before["picoseg_ledger_head_seq"]
    });

    daemon.kill9();
    assert!(get(&lab, LISTEN, "/metrics", "").is_err(), "nobody serves it");
    let _daemon = lab.daemon();
    let after = scrape(&lab);
    assert_eq!(after[&late("old-crm", "ingress")], 300.0, "counters go on");
    assert_eq!(after[refused], 300.0);
    assert!(after["picoseg_start_timestamp_seconds"] > before["picoseg_start_timestamp_seconds"]);
}

#[test]
fn what_is_served_is_the_catalogue_and_promtool_finds_nothing_to_say() {
    let Some(lab) = Lab::new() else { return };
    let unit = lab.unit("payments");
    lab.settings(&metrics_at(LISTEN));
    lab.write("old-crm", &schedule(Lifetime::over(), &[ingress(&unit, lab.provider4(0), "8443/tcp")]));
    let windows = [window(in_ms(600_000), in_ms(900_000)), egress(&unit, lab.provider4(1), "443/tcp")];
    lab.write("later", &schedule(Lifetime::open(), &windows));
    lab.canary();
    let _daemon = lab.daemon();
    let plain = get(&lab, LISTEN, "/metrics", "*/*").expect("it answers").ok();
    let typed = |text: &str| -> BTreeSet<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        lines.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
    };
    let names: BTreeSet<String> = catalogue::ALL.iter().map(|metric| metric.name()).collect();
    assert_eq!(typed(&plain), names);
    let open =
        get(&lab, LISTEN, "/metrics", "application/openmetrics-text; version=1.0.0").expect("it answers");
    assert!(open.head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{}", open.head);
    let open = open.ok();
    assert!(open.ends_with("\n# EOF\n"), "{open}");
    let suffixed = catalogue::ALL.iter().map(|metric| match metric.kind {
        Kind::Counter => metric.name().trim_end_matches("_total").to_owned(),
        Kind::Info => metric.name().trim_end_matches("_info").to_owned(),
        Kind::Gauge | Kind::Histogram => metric.name(),
    });
    assert_eq!(typed(&open), suffixed.collect());

    let Some(promtool) = promtool() else { return };
    let mut check = Command::new(promtool);
    check.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = check.spawn().expect("it is there");
    child.stdin.take().expect("a pipe").write_all(plain.as_bytes()).expect("it reads");
    let checked = child.wait_with_output().expect("it ends");
    let said = [checked.stdout, checked.stderr].concat();
    assert_eq!((checked.status.code(), &*String::from_utf8_lossy(&said)), (Some(0), ""));
}

#[test]
fn the_unix_sockets_serve_the_same() {
    let Some(lab) = Lab::new() else { return };
    lab.canary();
    let _daemon = lab.daemon();
    for socket in ["control.sock", "observe.sock"] {
        let path = lab.runtime().join(socket);
        let over = |accept| Answer::over(UnixStream::connect(&path).expect("it listens"), "/metrics", accept);
        let plain = over("*/*").expect("it answers");
        assert!(
            plain.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"),
            "{}",
            plain.head
        );
        assert_eq!(plain.samples()["picoseg_store_ok"], 1.0);
        let open = over("application/openmetrics-text").expect("it answers");
        assert!(open.ok().ends_with("# EOF\n"));
    }
}

#[test]
fn the_dashboard_shows_who_came_after_the_decommission() {
    let Some(lab) = Lab::new() else { return };
    let unit = lab.unit("payments");
    let old = lab.provider4(0);
    lab.settings(&metrics_at(LISTEN));
    let text = schedule(Lifetime::over(), &[ingress(&unit, old, "8443/tcp")]);
    lab.write("old-crm", &text.replace("Example Provider Ltd", "Old <i>CRM</i> & Sons"));
    lab.canary();
    let _daemon = lab.daemon();
    let page = || get(&lab, LISTEN, "/", "text/html").expect("it answers");
    let first = page();
    assert!(
        first.head.contains("content-security-policy: default-src 'none'; style-src 'sha256-"),
        "{}",
        first.head
    );
    assert!(first.body.contains("Nobody came back after a decommission."), "{}", first.body);
    let theirs = lab.provider();
    theirs.raw(Packets { kind: Packet::Syn, from: at(old, 40_000), to: at(lab.host4(), 8443), count: 12 });
    lab.all_on_record(&theirs);
    until("the source shows", SHOWN + KEPT, || {
        let page = page().ok();
        page.contains(&format!("<code>{old}</code>")) && page.contains(">12</span>")
    });
    let page = page().ok();
    assert!(page.contains("Old &lt;i&gt;CRM&lt;/i&gt; &amp; Sons") && !page.contains("<i>"), "{page}");
}

#[test]
fn apply_moves_the_listener() {
    let Some(lab) = Lab::new() else { return };
    lab.settings(&metrics_at(LISTEN));
    lab.canary();
    let _daemon = lab.daemon();
    assert!(get(&lab, LISTEN, "/metrics", "").is_ok());
    let elsewhere = "[::1]:9478";
    let first = std::fs::read_to_string(lab.config()).expect("it was written");
    put(&lab.config(), &first.replace(LISTEN, elsewhere));
    lab.picoseg(&["apply"]).ok();
    until("it moves", MOMENT, || get(&lab, elsewhere, "/metrics", "").is_ok());
    assert!(get(&lab, LISTEN, "/metrics", "").is_err());
    put(&lab.config(), &first.replace(LISTEN, ""));
    lab.picoseg(&["apply"]).ok();
    until("it ends", MOMENT, || get(&lab, elsewhere, "/metrics", "").is_err());
}

#[test]
fn an_address_in_use_is_no_refusal_to_start() {
    let Some(lab) = Lab::new() else { return };
    lab.settings(&metrics_at(LISTEN));
    lab.canary();
    let other = lab.in_host(|| TcpListener::bind(LISTEN)).expect("it is free");
    let daemon = lab.daemon();
    let said = || lab.status()["weaker"].to_string();
    assert!(said().contains(&format!("cannot listen on {LISTEN}")), "{}", said());
    assert!(daemon.said().contains("metrics and dashboard are not served"), "{}", daemon.said());
    drop(other);
    until("it is tried again", MOMENT * 2, || get(&lab, LISTEN, "/metrics", "").is_ok());
    assert!(!said().contains("cannot listen"), "{}", said());
}

#[test]
fn a_store_that_does_not_work_shows_and_its_counts_do_not_fall() {
    let Some(lab) = Lab::new() else { return };
    let (unit, old) = (lab.unit("payments"), lab.provider4(0));
    lab.settings(&metrics_at(LISTEN));
    lab.write("old-crm", &schedule(Lifetime::over(), &[ingress(&unit, old, "8443/tcp")]));
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&unit, lab.provider4(2), "443/tcp")]));
    lab.canary();
    let _daemon = lab.daemon();
    let theirs = lab.provider();
    theirs.raw(Packets { kind: Packet::Syn, from: at(old, 40_000), to: at(lab.host4(), 8443), count: 5 });
    lab.all_on_record(&theirs);
    until("the counts show", SHOWN, || scrape(&lab)[&late("old-crm", "ingress")] == 5.0);
    let (file, aside) = (lab.state().join("picoseg.db"), lab.state().join("aside.db"));
    std::fs::rename(&file, &aside).expect("a file of the daemon");
    // Nothing can be made in its place either.
    std::fs::create_dir(&file).expect("a directory of ours");
    lab.picoseg(&["suspend", "stripe", "--reason", "looks odd"]).ok();
    until("the store shows", SHOWN, || scrape(&lab)["picoseg_store_ok"] == 0.0);
    assert_eq!(scrape(&lab)[&late("old-crm", "ingress")], 5.0);
    let page = get(&lab, LISTEN, "/", "text/html").expect("it answers").ok();
    assert!(page.contains("role=\"alert\"") && page.contains("Nothing opens; closing goes on."), "{page}");
}
