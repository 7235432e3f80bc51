//! `check`, `compile`, `timeline`, `completions`: no daemon, no root, no network.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::etc::{Etc, STRIPE, picoseg, run};

#[test]
fn files_in_order_exit_0_and_say_so() {
    let said = Etc::with_stripe().run(&["check"]).exits(0);
    assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("1 service in order\n", ""));
    let said = Etc::with_stripe().run(&["check", "--json"]).exits(0);
    assert_eq!(said.json(), json!({"schema": 1, "diagnostics": []}));
    let etc = Etc::with_stripe();
    etc.write("segments.d/payments.toml", SEGMENT);
    etc.write("lists/databases.txt", "192.0.2.7\ndb.example.com\n");
    let said = etc.run(&["check"]).exits(0);
    assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("1 service and 1 segment in order\n", ""));
}

/// A segment in order that uses a list.
const SEGMENT: &str = "subject = { unit = \"payments.service\" }\n[[allow]]\ndirection = \"egress\"\n\
                       to = [\"@databases\"]\nports = [\"5432/tcp\"]\n";

#[test]
fn a_segment_is_judged_by_its_directory_with_the_lists_of_this_host() {
    let etc = Etc::new();
    let segment = etc.write("segments.d/.payments.toml.tmp", SEGMENT);
    let said = etc.run_on("check", &segment).exits(78);
    assert!(said.stderr.contains("payments.toml.tmp:4:7: ") && said.stderr.contains("databases"), "{said:?}");
    etc.write("lists/databases.txt", "any\n");
    let said = etc.run_on("check", &segment).exits(78);
    assert!(said.stderr.contains("databases.txt:1:1: "), "{said:?}");
    etc.write("lists/databases.txt", "192.0.2.7\n");
    let said = etc.run_on("check", &segment).exits(0);
    assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("1 file in order\n", ""));
    let elsewhere = etc.write("payments.toml", SEGMENT);
    assert!(etc.run_on("check", &elsewhere).exits(78).stderr.contains("segments.d"));
}

#[test]
fn a_user_that_this_host_does_not_have_is_a_warning_where_it_is_named() {
    let etc = Etc::new();
    let subject = |text: &str| STRIPE.replace("{ unit = \"picoseg-test-of-no-host.service\" }", text);
    for known in ["{ user = \"root\" }", "{ user = \"4000000000\" }", "{ group = \"root\" }"] {
        etc.write("services.d/stripe.toml", &subject(known));
        assert_eq!(etc.run(&["check"]).exits(0).stderr, "", "{known}");
    }
    for kind in ["user", "group"] {
        let path =
            etc.write("services.d/stripe.toml", &subject(&format!("{{ {kind} = \"nobody-has-this\" }}")));
        let expected = format!(
            "{}:10:11: warning: this host has no {kind} \"nobody-has-this\"\n  help: ",
            path.display()
        );
        for said in [etc.run(&["check"]).exits(0), etc.run_on("check", &path).exits(0)] {
            assert!(said.stderr.contains(&expected), "{}", said.stderr);
        }
    }
}

#[test]
fn every_mistake_of_every_file_is_said_with_its_place() {
    let etc = Etc::with_stripe();
    let bad = etc.write("services.d/acme.toml", &STRIPE.replace("ports", "port"));
    let name = etc.write("services.d/.hidden.toml", STRIPE);
    let said = etc.run(&["check"]).exits(78);
    assert_eq!(said.stdout, "");
    assert!(said.stderr.contains(&format!("{}:12:1: ", bad.display())), "{}", said.stderr);
    assert!(said.stderr.contains(&format!("{}:1:1: ", name.display())), "{}", said.stderr);
    assert!(said.stderr.contains("\n  help: "), "{}", said.stderr);

    let said = etc.run(&["--json", "check"]).exits(78);
    assert_eq!(said.stderr, "");
    let diagnostics = said.json()["diagnostics"].as_array().unwrap().clone();
    assert!(diagnostics.len() >= 2);
    for one in diagnostics {
        let keys: Vec<&String> = one.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["column", "file", "help", "line", "message", "severity"]);
        assert_eq!(one["severity"], "error");
    }
}

#[test]
fn warnings_are_said_and_exit_0() {
    let etc = Etc::with_stripe();
    etc.write("services.d/acme.toml", STRIPE);
    let said = etc.run(&["check"]).exits(0);
    assert!(said.stderr.contains("warning: ") && said.stderr.contains("share"), "{}", said.stderr);
    let said = etc.run(&["check", "--json"]).exits(0);
    assert_eq!(said.json()["diagnostics"][0]["severity"], "warning");
    assert_eq!(said.stderr, "");
}

#[test]
fn a_missing_settings_file_is_an_error_when_it_was_named_and_a_missing_directory_always() {
    let etc = Etc::new();
    for word in ["check", "compile", "timeline", "status"] {
        let said = run(picoseg().arg("--config").arg(etc.path("absent.toml")).arg(word)).exits(78);
        assert!(said.stderr.contains("absent.toml:1:1: cannot read this file"), "{word}: {}", said.stderr);
    }
    fs::remove_dir(etc.path("services.d")).unwrap();
    for word in ["check", "compile", "timeline"] {
        let said = etc.run(&[word]).exits(78);
        assert!(said.stderr.contains("services.d:1:1: cannot read this directory"), "{}", said.stderr);
    }
}

#[test]
fn the_environment_names_the_settings_and_an_option_overrides_it() {
    let etc = Etc::with_stripe();
    let absent = etc.path("absent.toml");
    run(picoseg().arg("check").env("PICOSEG_CONFIG", etc.path("picoseg.toml"))).exits(0);
    run(picoseg().arg("check").env("PICOSEG_CONFIG", &absent)).exits(78);
    run(etc.command().arg("check").env("PICOSEG_CONFIG", &absent)).exits(0);
}

#[test]
fn a_file_is_judged_by_its_content_whatever_its_name() {
    let etc = Etc::new();
    for name in ["stripe.toml.dpkg-new", ".stripe20261122-1-abc", "services.d/Bad_Name.toml", "copy"] {
        let path = etc.write(name, STRIPE);
        let said = etc.run_on("check", &path).exits(0);
        assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("1 file in order\n", ""), "{name}");
        let path = etc.write(name, "provider = 1\n");
        let said = etc.run_on("check", &path).exits(78);
        assert!(said.stderr.contains(&format!("{}:1:", path.display())), "{name}: {}", said.stderr);
    }
}

#[test]
fn the_directory_decides_what_a_file_is() {
    let etc = Etc::new();
    let list = etc.write("lists/new.txt.tmp", "198.51.100.1\n");
    etc.run_on("check", &list).exits(0);
    let list = etc.write("lists/new.txt.tmp", STRIPE);
    let said = etc.run_on("check", &list).exits(78);
    assert!(said.stderr.contains("new.txt.tmp:1:1: "), "{}", said.stderr);
    let segment = etc.write("segments.d/payments.toml", "");
    let said = etc.run_on("check", &segment).exits(78);
    assert!(said.stderr.contains("segments"), "{}", said.stderr);
    etc.run_on("check", &etc.path("picoseg.toml")).exits(0);
    fs::create_dir(etc.path("staging")).unwrap();
    let settings = etc.write("staging/picoseg.toml", "[enforcement]\nmode = \"enforse\"\n");
    let said = etc.run_on("check", &settings).exits(78);
    assert!(said.stderr.contains("picoseg.toml:2:8: ") && said.stderr.contains("enforce"), "{}", said.stderr);
    let link = etc.path("elsewhere");
    symlink(etc.path("lists"), &link).unwrap();
    etc.write("lists/linked.txt", "198.51.100.1\n");
    etc.run_on("check", &link.join("linked.txt")).exits(0);
}

#[test]
fn a_copy_is_what_the_caller_says_it_is() {
    let etc = Etc::new();
    let as_kind = |kind, path: &Path| etc.run(&["check", "--as", kind, path.to_str().unwrap()]);
    let texts = [
        ("settings", "[metrics]\nlisten = \"\"\n"),
        ("service", STRIPE),
        ("segment", "subject = { unit = \"payments.service\" }\n"),
        ("list", "198.51.100.1\n"),
    ];
    for (kind, _) in texts {
        for (other, text) in texts {
            let code = if kind == other { 0 } else { 78 };
            as_kind(kind, &etc.write("source", text)).exits(code);
            as_kind(kind, &etc.write("segments.d/copy", text)).exits(code);
        }
    }
    etc.run(&["check", "--as", "list"]).exits(2);
}

#[test]
fn a_schedule_is_judged_with_the_lists_of_this_host_and_without_its_other_mistakes() {
    let etc = Etc::new();
    etc.write("services.d/broken.toml", "nonsense");
    let text = STRIPE.replace("\"198.51.100.7\"", "\"@stripe\"");
    let copy = etc.write("copy", &text);
    let said = etc.run_on("check", &copy).exits(78);
    assert!(said.stderr.contains("copy:11:7: ") && said.stderr.contains("stripe"), "{}", said.stderr);
    assert!(!said.stderr.contains("broken"), "{}", said.stderr);
    etc.write("lists/stripe.txt", "198.51.100.1\n");
    etc.run_on("check", &copy).exits(0);
    etc.write("lists/stripe.txt", "nonsense\n");
    assert!(etc.run_on("check", &copy).exits(78).stderr.contains("stripe.txt:1:1: "));
    etc.write("picoseg.toml", "nonsense");
    etc.run_on("check", &etc.write("copy", STRIPE)).exits(0);
}

#[test]
fn relative_paths_are_said_as_they_were_written() {
    let etc = Etc::new();
    etc.write("copy", "");
    let said = run(etc.command().args(["check", "copy"]).current_dir(etc.path(""))).exits(78);
    assert!(said.stderr.starts_with("copy:1:1: "), "{}", said.stderr);
}

#[test]
fn what_is_no_file_is_said_and_hangs_nobody() {
    let etc = Etc::new();
    let fifo = etc.path("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::from(0o600)).unwrap();
    symlink("loop", etc.path("loop")).unwrap();
    for path in [&fifo, &etc.path("loop"), &etc.path("absent"), &etc.path("lists"), Path::new("/dev/zero")] {
        let said = etc.run_on("check", path).exits(78);
        let expected = format!("{}:1:1: cannot read this file: ", path.display());
        assert!(said.stderr.starts_with(&expected), "{}", said.stderr);
        assert_eq!(said.stderr.matches(":1:1: ").count(), 1, "{}", said.stderr);
    }
}

#[test]
fn compile_prints_the_table_and_a_comment_for_what_does_not_exist() {
    let etc = Etc::with_stripe();
    let said = etc.run(&["compile", "--at", "2026-11-23T10:00:00.9+01:00"]).exits(0);
    assert!(said.stdout.starts_with("# as of 2026-11-23T09:00:00Z\n"), "{}", said.stdout);
    assert!(
        said.stdout.contains("\n# unit:picoseg-test-of-no-host.service does not exist"),
        "{}",
        said.stdout
    );
    assert!(said.stdout.contains("table inet picoseg {"), "{}", said.stdout);
    assert!(said.stdout.contains("198.51.100.7"), "{}", said.stdout);
    let json = etc.run(&["compile", "--at", "2026-11-23T09:00:00.9Z", "--json"]).exits(0).json();
    assert_eq!(json["at"], "2026-11-23T09:00:00Z");
    assert!(said.stdout.ends_with(json["ruleset"].as_str().unwrap()));
    etc.write("services.d/stripe.toml", "");
    etc.run(&["compile"]).exits(78);
}

#[test]
fn compile_works_at_the_ends_of_time() {
    let etc = Etc::with_stripe();
    for at in ["0001-01-01T00:00:00Z", "1969-12-31T23:59:59Z", "2600-01-01T00:00:00Z", "9999-12-31T23:59:59Z"]
    {
        etc.run(&["compile", "--at", at]).exits(0);
        etc.run(&["timeline", "--from", at]).exits(0);
    }
}

/// In a network namespace of its own; `-c` commits nothing even so.
#[test]
fn nft_accepts_what_compile_prints() {
    let etc = Etc::with_stripe();
    let subject = existing_cgroup().unwrap_or_else(|| {
        eprintln!("SKIPPED in part: this host has no cgroup below the root, so the rules know no process");
        "/".to_owned()
    });
    let text =
        STRIPE.replace("unit = \"picoseg-test-of-no-host.service\"", &format!("cgroup = \"{subject}\""));
    etc.write(
        "services.d/acme.toml",
        &text.replace("\"443/tcp\"", "\"443/tcp\", \"8000-8100/udp\", \"icmp\""),
    );
    let ingress = text.replace("[[egress]]", "[[ingress]]").replace("to = ", "from = ");
    etc.write("services.d/hook.toml", &ingress.replace("198.51.100.7", "2001:db8::/32"));
    if !rustix::process::geteuid().is_root() || Command::new("nft").arg("--version").output().is_err() {
        eprintln!("SKIPPED: nft and root are needed to have the kernel judge the ruleset");
        return;
    }
    for at in ["2026-11-23T10:00:00Z", "2026-11-21T10:00:00Z", "2025-01-01T00:00:00Z", "2028-01-01T00:00:00Z"]
    {
        let said = etc.run(&["compile", "--at", at]).exits(0);
        let ruleset = etc.write("ruleset.nft", &said.stdout);
        let judged = run(Command::new("unshare").args(["-n", "nft", "-c", "-f"]).arg(ruleset));
        assert_eq!((judged.code, judged.stderr.as_str()), (0, ""), "{at}: {}", said.stdout);
    }
}

/// Some cgroup of this host below the root, as a schedule names it.
fn existing_cgroup() -> Option<String> {
    let hierarchy = picoseg::kernel::cgroups::Hierarchy::find().ok()?;
    let children = fs::read_dir(hierarchy.mount()).ok()?.flatten();
    let name = children
        .filter(|child| child.path().is_dir())
        .find_map(|child| child.file_name().into_string().ok())?;
    Some(format!("/{name}"))
}

#[test]
fn a_timeline_is_merged_clipped_and_by_time() {
    let etc = Etc::with_stripe();
    let acme = STRIPE.replace("\"0 9 * * Mon-Fri\"", "\"0 8 * * Mon\"").replace("9h", "1h");
    etc.write(
        "services.d/acme.toml",
        &format!("{acme}[[window]]\ncron = \"0 9 * * Mon\"\nduration = \"1h\"\n"),
    );
    let said = etc.run(&[
        "timeline",
        "--from",
        "2026-11-20T10:00:00Z",
        "--to",
        "2026-11-23T11:00:00+01:00",
        "--json",
    ]);
    let opening = |service: &str, opens_at: &str, closes_at: &str| json!({"service": service, "opens_at": opens_at, "closes_at": closes_at});
    let expected = json!({"schema": 1, "openings": [
        opening("stripe", "2026-11-20T10:00:00Z", "2026-11-20T18:00:00Z"),
        opening("acme", "2026-11-23T08:00:00Z", "2026-11-23T10:00:00Z"),
        opening("stripe", "2026-11-23T09:00:00Z", "2026-11-23T10:00:00Z"),
    ]});
    assert_eq!(said.exits(0).json(), expected);
    let said =
        etc.run(&["timeline", "stripe", "--from", "2026-11-20T00:00:00Z", "--to", "2026-11-22T00:00:00Z"]);
    let expected =
        "SERVICE  OPENS                 CLOSES\nstripe   2026-11-20T09:00:00Z  2026-11-20T18:00:00Z\n";
    assert_eq!(said.exits(0).stdout, expected);
    let year =
        etc.run(&["timeline", "stripe", "--from", "2020-01-01T00:00:00Z", "--to", "2030-01-01T00:00:00Z"]);
    assert_eq!(year.exits(0).stdout.lines().count(), 1 + 261, "the lifetime cuts off both ends");
}

#[test]
fn an_opening_longer_than_the_span_is_one_opening() {
    let etc = Etc::new();
    etc.write(
        "services.d/stripe.toml",
        &STRIPE.replace("\"0 9 * * Mon-Fri\"", "\"* * * * *\"").replace("9h", "1m"),
    );
    let said =
        etc.run(&["timeline", "--from", "2020-01-01T00:00:00Z", "--to", "2030-01-01T00:00:00Z", "--json"]);
    let openings = said.exits(0).json()["openings"].as_array().unwrap().clone();
    assert_eq!(openings.len(), 1, "{openings:?}");
    assert_eq!(openings[0]["opens_at"], "2026-01-01T00:00:00Z");
    assert_eq!(openings[0]["closes_at"], "2027-01-01T00:00:00Z");
}

#[test]
fn a_timeline_of_seconds_over_years_ends_with_a_sentence() {
    let etc = Etc::new();
    let text = STRIPE.replace("\"0 9 * * Mon-Fri\"", "\"*/2 * * * * *\"").replace("9h", "1s");
    etc.write("services.d/stripe.toml", &text);
    let said =
        etc.run(&["timeline", "--from", "2026-01-01T00:00:00Z", "--to", "2027-01-01T00:00:00Z"]).exits(1);
    assert!(said.stderr.contains("shorter span"), "{}", said.stderr);
}

#[test]
fn a_service_that_its_file_suspends_has_no_openings() {
    let etc = Etc::new();
    etc.write("services.d/stripe.toml", &format!("state = \"suspended\"\n{STRIPE}"));
    let said = etc.run(&["timeline", "--from", "2026-11-20T00:00:00Z"]).exits(0);
    assert_eq!(said.stdout.lines().count(), 1);
    assert!(said.stderr.contains("stripe is suspended by its file"), "{}", said.stderr);
}

#[test]
fn a_timeline_of_what_is_not_there_fails() {
    let etc = Etc::with_stripe();
    assert!(etc.run(&["timeline", "strype"]).exits(1).stderr.contains("strype"));
    etc.run(&["timeline", "no_name"]).exits(1);
    let said =
        etc.run(&["timeline", "--from", "2026-01-02T00:00:00Z", "--to", "2026-01-02T00:00:00Z"]).exits(2);
    assert!(said.stderr.contains("is not after"), "{}", said.stderr);
}

#[test]
fn usage_errors_exit_2_and_help_0() {
    let etc = Etc::with_stripe();
    let wrong: [&[&str]; 7] = [
        &[],
        &["explode"],
        &["compile", "--at", "2026-01-01T00:00:00"],
        &["timeline", "--from", "tomorrow"],
        &["suspend", "stripe"],
        &["suspend", "stripe", "--reason", "a\nb"],
        &["suspend", "--reason", "r"],
    ];
    for arguments in wrong {
        let said = etc.run(arguments).exits(2);
        assert_eq!(said.stdout, "", "{arguments:?}");
        assert!(!said.stderr.is_empty(), "{arguments:?}");
    }
    for arguments in [&["--help"][..], &["check", "--help"], &["--version"]] {
        assert!(!etc.run(arguments).exits(0).stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn completions_name_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let said = Etc::new().run(&["completions", shell]).exits(0);
        assert!(said.stdout.contains("decommission"), "{shell}");
    }
    Etc::new().run(&["completions", "tcsh"]).exits(2);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let etc = Etc::with_stripe();
    for arguments in
        [&["compile"][..], &["timeline"], &["completions", "bash"], &["check", "--json"], &["--help"]]
    {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut child = etc.command().args(arguments).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    let etc = Etc::with_stripe();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut child = etc.command().arg("compile").stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(stderr.contains("cannot write"), "{stderr}");
}

#[test]
fn nothing_is_coloured_that_is_no_terminal() {
    let etc = Etc::with_stripe();
    assert!(!etc.run(&["timeline"]).exits(0).stdout.contains('\u{1b}'));
}

#[test]
fn no_root_is_needed() {
    let etc = Etc::with_stripe();
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: this is not root anyway");
        return;
    }
    let directory = etc.path("");
    let owner = fs::metadata(&directory).unwrap().uid();
    assert_eq!(owner, 0);
    let Some(binary) = crate::online::binary_for_everybody(&directory) else { return };
    for word in ["check", "compile", "timeline"] {
        let mut command = Command::new(&binary);
        command.arg("--config").arg(etc.path("picoseg.toml")).arg(word);
        run(crate::online::as_nobody(&mut command)).exits(0);
    }
}
