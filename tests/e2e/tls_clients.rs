//! Programs that people use talk TLS where it is required, and are refused without.

use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::lab::schedule::{Lifetime, egress, schedule};
use crate::lab::{Cli, Lab, MOMENT, Running, Unit, at, clock, have};

/// A lab whose unit may talk TLS to the provider, the unit, and a server of OpenSSL on each of the provider's
/// addresses; `None` where curl or openssl is missing.
fn scene(more: &[&str]) -> Option<(Lab, Unit, Vec<Running>)> {
    if !have("curl") || !have("openssl") {
        return None;
    }
    let lab = Lab::new()?;
    let payments = lab.unit("payments");
    let remotes = [lab.provider4(0), lab.provider6(0)];
    let policies = remotes.map(|remote| egress(&payments, remote, "80-443/tcp") + "tls = \"required\"\n\n");
    lab.write("vault", &schedule(Lifetime::open(), &policies));
    lab.canary();
    let (key, certificate) = (lab.dir().join("key.pem"), lab.dir().join("certificate.pem"));
    let mut make = Command::new("openssl");
    make.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]);
    make.args(["-subj", "/CN=vault.example"]).arg("-keyout").arg(&key).arg("-out").arg(&certificate);
    lab.at_provider(make).ok();
    let servers = remotes.map(|remote| {
        let mut server = Command::new("openssl");
        server.args(["s_server", "-quiet", "-www", "-accept", &at(remote, 443).to_string()]);
        server.arg("-key").arg(&key).arg("-cert").arg(&certificate).args(more);
        lab.serve_at_provider(server)
    });
    let theirs = lab.provider();
    for remote in remotes {
        clock::until("openssl listens", MOMENT, || theirs.connect(at(remote, 443)).is_ok());
    }
    Some((lab, payments, servers.into()))
}

fn remotes(lab: &Lab) -> [IpAddr; 2] {
    [lab.provider4(0), lab.provider6(0)]
}

fn curl(lab: &Lab, unit: &Unit, url: &str, more: &[&str]) -> Cli {
    let common = ["curl", "--silent", "--show-error", "--insecure", "--max-time", "20", "--globoff"];
    lab.in_unit(unit, &[&common[..], more, &[url]].concat())
}

/// One request by `openssl s_client`, which says what it negotiated.
fn s_client(lab: &Lab, unit: &Unit, remote: IpAddr, more: &[&str]) -> String {
    let connect = at(remote, 443).to_string();
    let client = ["openssl", "s_client", "-ign_eof", "-connect", &connect];
    let request = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | timeout 20 \"$@\"";
    let all = [&["sh", "-c", request, "sh"], &client[..], more].concat();
    let said = lab.in_unit(unit, &all);
    assert!(said.stdout.contains("HTTP/1.0 200"), "{}{}", said.stdout, said.stderr);
    said.stdout
}

#[test]
fn curl_gets_https_over_every_version_and_no_http() {
    let Some((lab, unit, _servers)) = scene(&[]) else { return };
    let _daemon = lab.daemon();
    let theirs = lab.provider();
    for remote in remotes(&lab) {
        for version in [&["--tlsv1.3"][..], &["--tls-max", "1.2"]] {
            let said = curl(&lab, &unit, &format!("https://{}/", at(remote, 443)), version).ok();
            assert!(said.stdout.contains("s_server"), "{}", said.stdout);
        }
    }
    lab.expect_no_attempts(&theirs);
    for remote in remotes(&lab) {
        let started = Instant::now();
        // 56: failure in receiving, 52: nothing received, 55: failure in sending.
        let said = curl(&lab, &unit, &format!("http://{}/", at(remote, 443)), &[]);
        assert!([52, 55, 56].contains(&said.code), "{said:?}");
        assert!(
            started.elapsed() < clock::patient(Duration::from_secs(5)),
            "told at once: {:?}",
            started.elapsed()
        );
    }
    lab.all_on_record(&theirs);
    assert_eq!(lab.attempts_with(&[("service", "vault"), ("reason", "plaintext")]), 2);
    assert_eq!(lab.attempts_with(&[("service", "vault")]), 2);
}

#[test]
fn sessions_are_resumed_under_both_versions() {
    let Some((lab, unit, _servers)) = scene(&[]) else { return };
    let _daemon = lab.daemon();
    let theirs = lab.provider();
    let session = lab.dir().join("session.pem");
    let session = session.to_str().expect("a path of ours");
    for remote in remotes(&lab) {
        for version in ["-tls1_2", "-tls1_3"] {
            let first = s_client(&lab, &unit, remote, &[version, "-sess_out", session]);
            assert!(first.contains("New, TLS"), "{first}");
            let again = s_client(&lab, &unit, remote, &[version, "-sess_in", session]);
            assert!(again.contains("Reused, TLS"), "{again}");
        }
    }
    lab.expect_no_attempts(&theirs);
}

#[test]
fn a_hello_of_many_segments_passes() {
    let Some((lab, unit, _servers)) = scene(&[]) else { return };
    // As large as names of protocols make it: some 8 KiB; and each segment a packet of its own.
    let names: Vec<_> = (0..200).map(|number| format!("protocol-{number:030}")).collect();
    let names = names.join(",");
    let _daemon = lab.daemon();
    let theirs = lab.provider();
    for segments in ["65535", "1"] {
        let mut device = Command::new("ip");
        device.args(["link", "set", "dev", "host0", "gso_max_segs", segments]);
        lab.on_host(device).ok();
        for remote in remotes(&lab) {
            for version in ["-tls1_2", "-tls1_3"] {
                s_client(&lab, &unit, remote, &[version, "-alpn", &names]);
            }
        }
    }
    lab.expect_no_attempts(&theirs);
}
