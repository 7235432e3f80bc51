//! Starts that go wrong: a clear error, an exit code, and nothing changed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _};

use crate::lab::schedule::{Lifetime, egress, schedule};
use crate::lab::{Failed, Lab, at, put};

const NONSENSE: &str = "provider = \"Acme Ltd\"\nownr = \"it@example.com\"\n";

#[test]
fn a_bad_file_at_start_leaves_the_last_accepted_files_in_force() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remote = at(lab.provider4(0), 443);
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, remote.ip(), "443/tcp")]));
    let daemon = lab.daemon();
    let (ours, other, theirs) = (lab.process(&payments), lab.process(&lab.unit("other")), lab.provider());
    theirs.echo(remote);
    assert!(daemon.term().success());

    lab.write("stripe", NONSENSE);
    let daemon = lab.daemon();
    assert!(ours.talks_to(remote) && other.connect(remote).is_err());
    let config = &lab.status()["config"];
    assert_eq!(config["ok"], false, "{config}");
    assert!(config["error"].to_string().contains("stripe.toml"), "{config}");
    assert_eq!(lab.state_of("stripe"), "open");

    // Not even a bad file that comes back by a reboot, with the table gone.
    assert!(daemon.term().success());
    lab.unload().ok();
    let _daemon = lab.daemon();
    assert!(ours.talks_to(remote) && other.connect(remote).is_err());
}

#[test]
fn a_bad_segment_at_start_leaves_the_last_accepted_one_in_force_with_its_lists() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let (allowed, other) = (at(lab.provider4(0), 443), at(lab.provider4(1), 443));
    lab.list("friends", &format!("{}\n", allowed.ip()));
    let segment = format!(
        "subject = {{ unit = \"{}\" }}\n[[allow]]\ndirection = \"egress\"\nto = [\"@friends\"]\nports = [\"443/tcp\"]\n",
        payments.name()
    );
    lab.segment("box", &segment);
    assert!(lab.daemon().term().success());
    let (ours, theirs) = (lab.process(&payments), lab.provider());
    theirs.echo(allowed);
    theirs.echo(other);

    // Bad files, the list of the accepted one changed, and the table gone.
    lab.list("friends", &format!("{}\n", other.ip()));
    lab.segment("box", &segment.replace("ports", "port"));
    lab.unload().ok();
    assert!(ours.talks_to(other), "nothing is in force");
    let daemon = lab.daemon();
    let config = &lab.status()["config"];
    assert!(config["error"].to_string().contains("box.toml"), "{config}");
    assert!(ours.talks_to(allowed) && ours.connect(other).is_err());

    // What runs on the last accepted files keeps them for the next start.
    assert!(daemon.term().success());
    lab.unload().ok();
    let _daemon = lab.daemon();
    assert!(ours.talks_to(allowed) && ours.connect(other).is_err());
}

#[test]
fn a_bad_file_at_the_first_start_is_an_error_and_leaves_what_is_in_force() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remote = at(lab.provider4(0), 443);
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, remote.ip(), "443/tcp")]));
    assert!(lab.daemon().term().success());
    let (ours, other, theirs) = (lab.process(&payments), lab.process(&lab.unit("other")), lab.provider());
    theirs.echo(remote);

    lab.write("stripe", NONSENSE);
    fs::remove_dir_all(lab.state()).and_then(|()| fs::create_dir(lab.state())).expect("a directory of ours");
    let failed = refused(lab.try_daemon());
    assert_eq!(failed.code, Some(78), "{}", failed.log);
    assert!(failed.log.contains("stripe.toml"), "{}", failed.log);
    assert!(ours.talks_to(remote) && other.connect(remote).is_err(), "the table of before");
}

#[test]
fn an_unknown_setting_is_an_error_with_its_place() {
    let Some(lab) = Lab::new() else { return };
    lab.settings("[enforcement]\nmoode = \"observe\"");
    let failed = refused(lab.try_daemon());
    assert_eq!(failed.code, Some(78), "{}", failed.log);
    assert!(failed.log.contains("picoseg.toml:") && failed.log.contains("moode"), "{}", failed.log);
}

#[test]
fn a_second_daemon_does_not_start_and_does_not_disturb_the_first() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remote = at(lab.provider4(0), 443);
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, remote.ip(), "443/tcp")]));
    let mut first = lab.daemon();
    let (ours, other, theirs) = (lab.process(&payments), lab.process(&lab.unit("other")), lab.provider());
    theirs.echo(remote);
    let before = lab.status();
    fs::create_dir(lab.dir().join("second-state")).expect("a directory of ours");
    fs::create_dir(lab.dir().join("second-run")).expect("a directory of ours");
    for config in [lab.config(), lab.second_config()] {
        let failed = refused(lab.daemon_with(&config));
        assert_eq!(failed.code, Some(1), "{}", failed.log);
        let words = ["another", "already", "owns", "in use"];
        assert!(words.iter().any(|word| failed.log.contains(word)), "{}", failed.log);
    }
    assert!(first.runs());
    assert_eq!(lab.status()["ruleset_digest"], before["ruleset_digest"]);
    assert!(ours.talks_to(remote) && other.connect(remote).is_err());
    lab.picoseg(&["suspend", "stripe", "--reason", "the first still rules"]).ok();
    assert!(ours.connect(remote).is_err());
}

#[test]
fn without_root_the_daemon_says_so() {
    let Some(lab) = Lab::new() else { return };
    // A copy of its own: the directory it was built in may be closed to other users.
    let (binary, nobody) = (lab.dir().join("picosegd"), 65534);
    fs::copy(env!("CARGO_BIN_EXE_picosegd"), &binary).expect("a copy");
    for path in [lab.dir(), &binary] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a file of ours");
    }
    let mut command = Command::new(binary);
    command.arg("--config").arg(lab.config()).uid(nobody).gid(nobody);
    lab.on_host(command).exits(1).explains(&["root", "CAP_NET_ADMIN", "permission", "not permitted"]);
}

#[test]
fn without_a_cgroup2_hierarchy_the_daemon_says_so() {
    let Some(lab) = Lab::new() else { return };
    // In a mount namespace of its own, where none is mounted any more.
    let script = r#"set -e; mount --make-rprivate /
        awk '/ - cgroup2 /{ print $5 }' /proc/self/mountinfo | xargs -n 1 umount --lazy
        exec "$0" --config "$1""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_picosegd")]).arg(lab.config());
    lab.on_host(command).exits(1).explains(&["cgroup2"]);
}

#[test]
fn a_database_of_a_later_version_is_an_error_and_is_left_alone() {
    let Some(lab) = Lab::new() else { return };
    let payments = lab.unit("payments");
    let remote = at(lab.provider4(0), 443);
    lab.write("stripe", &schedule(Lifetime::open(), &[egress(&payments, remote.ip(), "443/tcp")]));
    assert!(lab.daemon().term().success());
    let (ours, other, theirs) = (lab.process(&payments), lab.process(&lab.unit("other")), lab.provider());
    theirs.echo(remote);

    in_database(
        &lab,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                       VALUES (20991231000000, 'from the future', 1, x'00', 1)",
    );
    let failed = refused(lab.try_daemon());
    assert_eq!(failed.code, Some(1), "{}", failed.log);
    assert!(failed.log.contains("picoseg.db"), "{}", failed.log);
    assert!(ours.talks_to(remote) && other.connect(remote).is_err(), "the table of before");

    in_database(&lab, "DELETE FROM _sqlx_migrations WHERE version = 20991231000000");
    let _daemon = lab.daemon();
}

#[test]
fn directories_that_cannot_be_used_are_named() {
    let Some(lab) = Lab::new() else { return };
    let moved = |name: &str| lab.dir().join(format!("{name}-moved"));
    for (name, path) in [("services", lab.etc("services.d")), ("state", lab.state())] {
        fs::rename(&path, moved(name)).expect("a directory of ours");
        put(&path, "a file where a directory should be");
        let failed = refused(lab.try_daemon());
        assert!(matches!(failed.code, Some(1 | 78)), "{name}: {:?}\n{}", failed.code, failed.log);
        assert!(failed.log.contains(&path.display().to_string()), "{name}:\n{}", failed.log);
        fs::remove_file(&path).and_then(|()| fs::rename(moved(name), &path)).expect("a directory of ours");
    }
    let _daemon = lab.daemon();
}

fn refused(outcome: Result<crate::lab::Daemon, Failed>) -> Failed {
    outcome.err().expect("this start should fail")
}

fn in_database(lab: &Lab, statement: &'static str) {
    let options = SqliteConnectOptions::new().filename(lab.state().join("picoseg.db"));
    let run = async {
        let mut connection: SqliteConnection = options.connect().await?;
        sqlx::query(statement).execute(&mut connection).await?;
        connection.close().await
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(run).unwrap_or_else(|e| panic!("{statement}: {e}"));
}
