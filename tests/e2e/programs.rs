//! `exe` subjects: the program by its file, from its first socket on.

mod program;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sha2::{Digest as _, Sha256};

use crate::agent::Agent;
use crate::lab::clock::{eventually, in_ms, patient, reach, soon, until};
use crate::lab::schedule::{Lifetime, policy, schedule, window};
use crate::lab::{Cli, Daemon, Lab, MOMENT, Unit, at, put};
use program::{Knock, Linked, Running, build, command_in, copy_to, knocks, knocks_with};

/// A replaced file is followed within this time; an execution goes on within it, whatever hangs.
const SECOND: Duration = Duration::from_secs(1);

/// A lab with a provider that echoes, a copy of the program, and a schedule that names it.
struct Case {
    lab: Lab,
    provider: Agent,
    remote: SocketAddr,
    built: PathBuf,
    program: PathBuf,
}

impl Case {
    fn new(linked: Linked) -> Option<Self> {
        let lab = Lab::new()?;
        let built = build(linked)?;
        let program = lab.dir().join("knock");
        copy_to(&built, &program);
        let remote = at(lab.provider4(0), 443);
        let provider = lab.provider();
        provider.echo(remote);
        Some(Self { lab, provider, remote, built, program })
    }

    fn subject(&self) -> String {
        format!("exe = \"{}\"", self.program.display())
    }

    fn write(&self, lifetime: Lifetime, subject: &str) {
        let egress = policy("egress", subject, &self.remote.ip().to_string(), "443/tcp");
        self.lab.write("stripe", &schedule(lifetime, &[egress]));
    }

    /// Both programs, with an open schedule for ours.
    fn run(&self) -> (Daemon, Daemon) {
        self.write(Lifetime::open(), &self.subject());
        (self.lab.execd(), self.lab.daemon())
    }
}

impl Case {
    fn knocks(&self, unit: &Unit) -> Knock {
        knocks(&self.lab, unit, &self.program, self.remote)
    }

    fn show(&self) -> String {
        self.lab.picoseg(&["show", "stripe"]).ok().stdout
    }

    fn is_resolved(&self) -> bool {
        self.lab.service("stripe")["policies"][0]["resolved"] == true
    }
}

/// Runs a case with a statically linked program, whose first connection comes soonest.
fn case() -> Option<Case> {
    Case::new(Linked::Static)
}

#[test]
fn the_first_socket_of_a_program_is_admitted_and_nobody_elses() {
    for linked in [Linked::Dynamic, Linked::Static] {
        let Some(case) = Case::new(linked) else { return };
        let (_helper, _daemon) = case.run();
        let (lab, remote, unit) = (&case.lab, case.remote, case.lab.unit("payments"));
        let first = case.knocks(&unit);
        assert!(first.is_ok(), "{first:?}");
        assert!(first.cgroup.starts_with(&format!("{}/picoseg-exe-", unit.path().display())), "{first:?}");
        assert!(case.is_resolved());

        let copy = lab.dir().join("copy");
        copy_to(&case.built, &copy);
        assert!(!knocks(lab, &unit, &copy, remote).is_ok(), "a copy is another program");
        assert!(lab.process(&unit).connect(remote).is_err(), "the neighbour in its cgroup");
        lab.expect_attempts(2, &[("service", "stripe"), ("reason", "undeclared")]);
    }
}

#[test]
fn two_hundred_starts_lose_no_packet() {
    let Some(case) = case() else { return };
    case.lab.canary();
    let (_helper, _daemon) = case.run();
    let units = ["a", "b", "c", "d"].map(|name| case.lab.unit(name));
    for (start, unit) in (0..200).zip(units.iter().cycle()) {
        let knock = case.knocks(unit);
        assert!(knock.is_ok(), "start {start}: {knock:?}");
    }
    case.lab.expect_no_attempts(&case.provider);
}

#[test]
fn a_program_is_its_file_by_whatever_name() {
    let Some(case) = Case::new(Linked::Dynamic) else { return };
    let (_helper, _daemon) = case.run();
    let (lab, unit) = (&case.lab, case.lab.unit("payments"));
    let program = case.program.to_str().expect("plain");
    let link = lab.dir().join("link");
    fs::hard_link(&case.program, &link).expect("a directory of ours");
    assert!(knocks(lab, &unit, &link, case.remote).is_ok(), "a hard link is the same file");

    let mounted = lab.dir().join("mounted");
    put(&mounted, "");
    let mount = "mount --bind \"$0\" \"$1\" && exec \"$1\" \"$2\"";
    let words = ["unshare", "-m", "sh", "-c", mount, program, mounted.to_str().expect("plain")];
    assert!(knocks_with(lab, command_in(&unit, &words), case.remote).is_ok(), "and so is a bind mount");

    if Path::new(LOADER).exists() {
        let loaded = knocks_with(lab, command_in(&unit, &[LOADER, program]), case.remote);
        assert!(!loaded.is_ok(), "what the loader runs was not executed: {loaded:?}");
    }
}

const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";

#[test]
fn a_script_is_a_program_when_it_is_executed_itself() {
    let Some(mut case) = case() else { return };
    let knock = std::mem::replace(&mut case.program, case.lab.dir().join("script"));
    put(&case.program, &format!("#!/bin/sh\n{} \"$@\"\n", knock.display()));
    fs::set_permissions(&case.program, fs::Permissions::from_mode(0o755)).expect("a file of ours");
    let (_helper, _daemon) = case.run();
    let unit = case.lab.unit("payments");
    let run = case.knocks(&unit);
    assert!(run.is_ok(), "what it starts belongs to it: {run:?}");
    let words = ["/bin/sh", case.program.to_str().expect("plain")];
    let read = knocks_with(&case.lab, command_in(&unit, &words), case.remote);
    assert!(!read.is_ok(), "a shell that reads it is the shell: {read:?}");
}

#[test]
fn a_program_that_a_program_starts_is_its_own_when_it_has_a_name() {
    let Some(case) = case() else { return };
    let (lab, remote) = (&case.lab, case.remote);
    let (named, nameless) = (lab.dir().join("named"), lab.dir().join("nameless"));
    for copy in [&named, &nameless] {
        copy_to(&case.built, copy);
    }
    let other = at(lab.provider4(1), 443);
    case.provider.echo(other);
    let subject = format!("exe = \"{}\"", named.display());
    let egress = policy("egress", &subject, &other.ip().to_string(), "443/tcp");
    lab.write("other", &schedule(Lifetime::open(), &[egress]));
    let (_helper, _daemon) = case.run();
    let mut running = Running::start(lab, &lab.unit("payments"), &case.program);
    assert!(running.knock(remote).is_ok());
    assert!(running.start_another(&nameless, remote).is_ok(), "it inherits");
    assert!(!running.start_another(&named, remote).is_ok(), "it has a policy of its own");
    assert!(running.start_another(&named, other).is_ok());
    assert!(!running.knock(other).is_ok());
}

#[test]
fn a_process_that_did_not_become_the_program_goes_back() {
    let Some(case) = case() else { return };
    let copy = case.lab.dir().join("copy");
    copy_to(&case.built, &copy);
    let (_helper, _daemon) = case.run();
    let unit = case.lab.unit("payments");
    let mut running = Running::start(&case.lab, &unit, &copy);
    running.fail_to_become(&case.program);
    until("it was moved", MOMENT, || running.knock(case.remote).cgroup.contains("picoseg-exe-"));
    until("it is back", Duration::from_secs(5), || {
        let knock = running.knock(case.remote);
        !knock.is_ok() && knock.cgroup == unit.path().to_str().expect("plain")
    });
}

#[test]
fn a_restarted_unit_is_followed() {
    let Some(case) = case() else { return };
    let (_helper, _daemon) = case.run();
    let unit = case.lab.unit("payments");
    for _ in 0..3 {
        let mut running = Running::start(&case.lab, &unit, &case.program);
        let first = running.knock(case.remote);
        assert!(first.is_ok(), "{first:?}");
        drop(running);
        unit.remove_with_children();
        unit.create();
    }
    assert!(case.knocks(&unit).is_ok());
}

#[test]
fn a_grant_ends_on_time_with_daemon_and_helper_dead() {
    let Some(case) = case() else { return };
    let close = soon(6_000);
    let open = window(in_ms(-60_000), close);
    let egress = policy("egress", &case.subject(), &case.remote.ip().to_string(), "443/tcp");
    case.lab.write("stripe", &schedule(Lifetime::open(), &[open, egress]));
    let (helper, daemon) = (case.lab.execd(), case.lab.daemon());
    let unit = case.lab.unit("payments");
    let mut running = Running::start(&case.lab, &unit, &case.program);
    assert!(running.knock(case.remote).is_ok());
    daemon.kill9();
    assert!(case.knocks(&unit).is_ok(), "the helper alone classifies where the table knows the cgroup");
    helper.kill9();
    assert!(running.knock(case.remote).is_ok(), "the kernel needs neither");
    assert!(!case.knocks(&unit).is_ok(), "a new process is not classified");
    reach(close);
    assert!(!running.knock(case.remote).is_ok());
}

#[test]
fn a_pinned_program_is_admitted_with_its_digest_alone() {
    let Some(case) = case() else { return };
    let bytes = fs::read(&case.program).expect("a file of ours");
    let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let pinned = format!("{}, sha256 = \"{digest}\"", case.subject());
    case.write(Lifetime::open(), &pinned);
    let (_helper, _daemon) = (case.lab.execd(), case.lab.daemon());
    let unit = case.lab.unit("payments");
    assert!(case.knocks(&unit).is_ok());
    let mut running = Running::start(&case.lab, &unit, &case.program);
    assert!(running.knock(case.remote).is_ok());

    let mut other = bytes.clone();
    other.push(0);
    replace(&case.program, &other);
    assert!(!case.knocks(&unit).is_ok(), "not for a moment");
    until("the subject is unresolved", MOMENT, || !case.is_resolved());
    assert!(case.show().contains("another digest"), "{}", case.show());
    assert!(!running.knock(case.remote).is_ok(), "unresolved is refused");

    replace(&case.program, &bytes);
    until("it is followed again", MOMENT, || case.knocks(&unit).is_ok());
    // The same file, written to.
    fs::OpenOptions::new()
        .append(true)
        .open(&case.program)
        .and_then(|mut f| std::io::Write::write_all(&mut f, b"x"))
        .expect("a file of ours");
    assert!(!case.knocks(&unit).is_ok(), "not for a moment");
    until("the subject is unresolved", MOMENT, || !case.is_resolved());
}

/// Puts another file in its place, as a package manager does.
fn replace(path: &Path, bytes: &[u8]) {
    let fresh = path.with_extension("new");
    fs::write(&fresh, bytes).expect("a directory of ours");
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).expect("a file of ours");
    fs::rename(&fresh, path).expect("a directory of ours");
}

#[test]
fn a_replaced_file_is_followed_within_a_second() {
    let Some(mut case) = case() else { return };
    let bytes = fs::read(&case.program).expect("a file of ours");
    // A link further up, which no watch of the file's own directory tells of.
    let (old, new, current) =
        (case.lab.dir().join("v1"), case.lab.dir().join("v2"), case.lab.dir().join("current"));
    for dir in [&old, &new] {
        fs::create_dir_all(dir.join("bin")).expect("a directory of ours");
        replace(&dir.join("bin/knock"), &bytes);
    }
    symlink(&old, &current).expect("a directory of ours");
    case.program = current.join("bin/knock");
    let (_helper, _daemon) = case.run();
    let unit = case.lab.unit("payments");
    let mut running = Running::start(&case.lab, &unit, &case.program);
    assert!(running.knock(case.remote).is_ok());
    replace(&old.join("bin/knock"), &bytes);
    until("a new file", SECOND, || case.knocks(&unit).is_ok());
    fs::remove_file(&current).and_then(|()| symlink(&new, &current)).expect("a directory of ours");
    until("another directory", SECOND, || case.knocks(&unit).is_ok());
    assert!(running.knock(case.remote).is_ok(), "what runs stays what it was");
    let stale = knocks(&case.lab, &unit, &old.join("bin/knock"), case.remote);
    assert!(!stale.is_ok(), "what is not in its place any more is no program: {stale:?}");
}

#[test]
fn without_the_helper_a_program_is_unresolved_and_refused() {
    let Some(case) = case() else { return };
    case.write(Lifetime::open(), &case.subject());
    let _daemon = case.lab.daemon();
    let unit = case.lab.unit("payments");
    let mut early = Running::start(&case.lab, &unit, &case.program);
    assert!(!early.knock(case.remote).is_ok());
    assert!(!case.is_resolved());
    assert!(case.show().contains("picoseg-execd does not answer"), "{}", case.show());

    let helper = case.lab.execd();
    until("the daemon finds it", MOMENT, || case.knocks(&unit).is_ok());
    assert!(!early.knock(case.remote).is_ok(), "what ran before is not classified");
    until("the remedy is named", MOMENT, || case.show().contains("start them anew"));
    let mut running = Running::start(&case.lab, &unit, &case.program);
    assert!(running.knock(case.remote).is_ok());

    helper.kill9();
    until("without it", Duration::from_secs(5), || !case.is_resolved());
    assert!(!running.knock(case.remote).is_ok());
    let _helper = case.lab.execd();
    until("it is back", MOMENT, || running.knock(case.remote).is_ok());
}

#[test]
fn a_restart_of_helper_or_daemon_cuts_nothing() {
    let Some(case) = case() else { return };
    case.lab.canary();
    let (helper, daemon) = case.run();
    let unit = case.lab.unit("payments");
    let mut running = Running::start(&case.lab, &unit, &case.program);
    assert!(running.knock(case.remote).is_ok());
    helper.kill9();
    assert!(running.knock(case.remote).is_ok());
    let _helper = case.lab.execd();
    daemon.kill9();
    let _daemon = case.lab.daemon();
    assert!(running.knock(case.remote).is_ok());
    until("the helper is known again", MOMENT, || case.knocks(&case.lab.unit("later")).is_ok());
    assert!(running.knock(case.remote).is_ok());
}

#[test]
fn a_stopped_helper_holds_no_execution_for_a_second() {
    let Some(case) = case() else { return };
    let (helper, _daemon) = case.run();
    let unit = case.lab.unit("payments");
    assert!(case.knocks(&unit).is_ok());
    let responder = child_of(helper.pid());
    kill(responder, Signal::SIGSTOP).expect("root");
    let (knock, took) = timed(|| case.knocks(&unit));
    assert!(!knock.is_ok() && knock.cgroup == unit.path().to_str().expect("plain"), "{knock:?}");
    // The rest of the second is for the shell and the connection.
    assert!(took < SECOND + patient(Duration::from_millis(300)), "{took:?}");
    until("another responder", MOMENT, || case.knocks(&unit).is_ok());
    assert_ne!(child_of(helper.pid()), responder);
}

#[test]
fn an_execution_goes_on_when_the_helper_is_killed_that_holds_it() {
    let Some(case) = case() else { return };
    let (helper, daemon) = case.run();
    // Nobody confirms a new cgroup: the execution is held until it is let go.
    kill(daemon.pid(), Signal::SIGSTOP).expect("root");
    let unit = case.lab.unit("payments");
    let responder = child_of(helper.pid());
    let start = Instant::now();
    let mut held = Running::start_knocking(&case.lab, &unit, &case.program, case.remote);
    eventually("a cgroup", MOMENT, || unit.has_children().then_some(()));
    helper.kill9();
    let (knock, took) = (held.heard(), start.elapsed());
    assert!(!knock.is_ok(), "{knock:?}");
    assert!(took < SECOND + patient(Duration::from_millis(300)), "{took:?}");
    until("the responder dies with its guard", MOMENT, || !Path::new(&format!("/proc/{responder}")).exists());
    kill(daemon.pid(), Signal::SIGCONT).expect("root");
}

#[test]
fn a_hung_daemon_holds_no_execution_for_a_second() {
    let Some(case) = case() else { return };
    let (_helper, daemon) = case.run();
    let (known, new) = (case.lab.unit("known"), case.lab.unit("new"));
    assert!(case.knocks(&known).is_ok());
    kill(daemon.pid(), Signal::SIGSTOP).expect("root");
    assert!(case.knocks(&known).is_ok(), "the table knows this cgroup");
    let (knock, took) = timed(|| case.knocks(&new));
    kill(daemon.pid(), Signal::SIGCONT).expect("root");
    assert!(!knock.is_ok(), "{knock:?}");
    assert!(took < SECOND + patient(Duration::from_millis(300)), "{took:?}");
    until("the daemon is back", MOMENT, || case.knocks(&new).is_ok());
}

#[test]
fn other_programs_are_never_held() {
    let Some(case) = case() else { return };
    let (helper, _daemon) = case.run();
    kill(child_of(helper.pid()), Signal::SIGSTOP).expect("root");
    // The guard waits longer than this before it kills a silent responder.
    let (_, took) = timed(|| Cli::run(Command::new("/bin/true")).ok());
    assert!(took < patient(Duration::from_millis(300)), "{took:?}");
}

#[test]
fn the_helper_marks_nothing_that_it_runs_on() {
    let Some(case) = case() else { return };
    let own = fs::canonicalize(env!("CARGO_BIN_EXE_picoseg-execd")).expect("it is built");
    let loader = fs::canonicalize(LOADER).unwrap_or_else(|_| own.clone());
    for path in [own, loader] {
        case.write(Lifetime::open(), &format!("exe = \"{}\"", path.display()));
        let (_helper, daemon) = (case.lab.execd(), case.lab.daemon());
        until("the daemon says so", MOMENT, || daemon.said().contains("runs on this file itself"));
        assert!(!case.is_resolved());
    }
}

#[test]
fn nothing_is_marked_unless_a_schedule_names_it() {
    let Some(case) = case() else { return };
    let (helper, _daemon) = case.run();
    let marks = || {
        let fds = format!("/proc/{}/fdinfo", child_of(helper.pid()));
        let infos = fs::read_dir(fds).expect("root").flatten();
        let text = infos.filter_map(|info| fs::read_to_string(info.path()).ok()).collect::<String>();
        text.matches("fanotify ino:").count()
    };
    until("one mark", MOMENT, || marks() == 1);
    case.write(Lifetime::open(), "cgroup = \"/nobody\"");
    case.lab.picoseg(&["apply"]).ok();
    until("no mark", MOMENT, || marks() == 0);
}

fn child_of(pid: Pid) -> Pid {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("root");
    Pid::from_raw(children.trim().parse().unwrap_or_else(|_| panic!("not one child: {children:?}")))
}

fn timed<T>(body: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let outcome = body();
    (outcome, start.elapsed())
}

#[test]
fn a_segment_around_a_program_holds_without_the_helper() {
    let Some(case) = case() else { return };
    let (elsewhere, unit) = (at(case.lab.provider4(1), 443), case.lab.unit("payments"));
    case.provider.echo(elsewhere);
    case.lab.segment("box", &format!("subject = {{ {} }}\n", case.subject()));
    let (helper, _daemon) = case.run();
    let mut running = Running::start(&case.lab, &unit, &case.program);
    assert!(running.knock(case.remote).is_ok(), "a service grants it");
    assert!(!running.knock(elsewhere).is_ok());

    helper.kill9();
    until("without it", Duration::from_secs(5), || !case.is_resolved());
    assert!(!running.knock(case.remote).is_ok(), "what cannot be told admits nothing");
    assert!(!running.knock(elsewhere).is_ok(), "and is enclosed all the same");
    case.lab.expect_attempts(2, &[("reason", "isolated")]);

    let _helper = case.lab.execd();
    until("it is back", MOMENT, || running.knock(case.remote).is_ok());
    assert!(!running.knock(elsewhere).is_ok());
}

#[test]
fn a_policy_for_any_address_admits_nothing_without_the_helper() {
    let Some(case) = case() else { return };
    let unit = case.lab.unit("payments");
    let any = policy("egress", &case.subject(), "any", "443/tcp");
    case.lab.write("stripe", &schedule(Lifetime::open(), &[any]));
    let (helper, _daemon) = (case.lab.execd(), case.lab.daemon());
    let mut running = Running::start(&case.lab, &unit, &case.program);
    assert!(running.knock(case.remote).is_ok());

    helper.kill9();
    until("without it", Duration::from_secs(5), || !case.is_resolved());
    assert!(!running.knock(case.remote).is_ok());
    let _helper = case.lab.execd();
    until("it is back", MOMENT, || running.knock(case.remote).is_ok());
}
