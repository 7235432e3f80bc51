//! Programs that keep a firewall, each with its rules in the namespace of the calling thread. None of them matches a cgroup or a
//! window of time.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::places;
use crate::shapes::{Entry, entries};
use crate::variant::{InForce, run};

/// How long one may take to put its rules in force.
const PATIENCE: Duration = Duration::from_secs(60);

/// A child, and its files; it ends with this value.
pub struct Daemon {
    child: Child,
    dir: Option<TempDir>,
}

impl Daemon {
    fn start(command: &mut Command, log: &Path) -> Result<Self, String> {
        let file = fs::File::create(log).map_err(|e| e.to_string())?;
        let again = file.try_clone().map_err(|e| e.to_string())?;
        command.stdin(Stdio::null()).stdout(file).stderr(again);
        let child =
            command.spawn().map_err(|e| format!("{}: {e}", command.get_program().to_string_lossy()))?;
        Ok(Self { child, dir: None })
    }

    fn keeping(mut self, dir: TempDir) -> Self {
        self.dir = Some(dir);
        self
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Ours; its rules go with the namespace.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// firewalld with a policy from the host to anywhere, a rich rule for each service. It looks at connections' states first.
///
/// # Errors
/// It is not installed, or it does not come up.
pub fn firewalld(count: usize) -> Result<InForce, String> {
    installed("firewalld")?;
    installed("dbus-daemon")?;
    let dir = TempDir::new().map_err(|e| e.to_string())?;
    let place = dir.path();
    let bus = format!("unix:path={}/bus", place.display());
    fs::create_dir_all(place.join("config/policies")).map_err(|e| e.to_string())?;
    let mut policy = String::from(
        "<policy target=\"CONTINUE\"><ingress-zone name=\"HOST\"/><egress-zone name=\"ANY\"/>\n",
    );
    for Entry { v4, v6, port, .. } in entries(count) {
        for (family, address) in [("ipv4", v4.to_string()), ("ipv6", v6.to_string())] {
            let _ = writeln!(
                policy,
                "<rule family=\"{family}\"><destination address=\"{address}\"/>\
                 <port port=\"{port}\" protocol=\"tcp\"/><accept/></rule>"
            );
        }
    }
    policy += "<rule family=\"ipv4\" priority=\"100\"><destination address=\"198.18.0.0/15\"/><drop/></rule>\n</policy>\n";
    let settings = "DefaultZone=trusted\nFirewallBackend=nftables\n";
    let bus_config = format!(
        "<busconfig><listen>{bus}</listen><auth>EXTERNAL</auth><policy context=\"default\"><allow own=\"*\"/>\
         <allow send_destination=\"*\"/><allow receive_sender=\"*\"/></policy></busconfig>"
    );
    let files = [
        ("config/policies/bench.xml", policy.as_str()),
        ("config/firewalld.conf", settings),
        ("bus.conf", &bus_config),
    ];
    for (name, text) in files {
        fs::write(place.join(name), text).map_err(|e| e.to_string())?;
    }
    let mut command = Command::new("dbus-daemon");
    command.arg("--nofork").arg(format!("--config-file={}", place.join("bus.conf").display()));
    let bus_daemon = Daemon::start(&mut command, &place.join("bus.log"))?;
    wait(|| place.join("bus").exists(), "its bus does not come up")?;
    let mut command = Command::new("firewalld");
    command.args(["--nofork", "--nopid", "--log-target=console", "--system-config"]);
    command.arg(place.join("config")).env("DBUS_SYSTEM_BUS_ADDRESS", &bus);
    let mut daemon = Daemon::start(&mut command, &place.join("log"))?;
    let mut state = Command::new("firewall-cmd");
    state.arg("--state").env("DBUS_SYSTEM_BUS_ADDRESS", &bus);
    wait(|| daemon.has_ended() || run(&mut state).is_ok(), "it does not say that it runs")?;
    if daemon.has_ended() {
        return Err(last_line(&place.join("log")));
    }
    shows(&places::GOVERNED4.to_string())?;
    Ok(InForce::by(vec![daemon, bus_daemon.keeping(dir)]))
}

/// ufw with a rule `allow out` for each service. It looks at connections' states first.
///
/// # Errors
/// It is not installed, or refuses.
pub fn ufw(count: usize) -> Result<InForce, String> {
    installed("ufw")?;
    let dir = TempDir::new().map_err(|e| e.to_string())?;
    let etc = dir.path().join("etc");
    fs::create_dir_all(etc.join("default")).map_err(|e| e.to_string())?;
    run(Command::new("cp").args(["-r", "/etc/ufw"]).arg(&etc))?;
    let defaults = "IPV6=yes\nDEFAULT_INPUT_POLICY=\"DROP\"\nDEFAULT_OUTPUT_POLICY=\"ACCEPT\"\n\
                    DEFAULT_FORWARD_POLICY=\"DROP\"\nDEFAULT_APPLICATION_POLICY=\"SKIP\"\n\
                    MANAGE_BUILTINS=no\nIPT_SYSCTL=\nIPT_MODULES=\"\"\n";
    fs::write(etc.join("default/ufw"), defaults).map_err(|e| e.to_string())?;
    fs::write(etc.join("ufw/ufw.conf"), "ENABLED=yes\nLOGLEVEL=off\n").map_err(|e| e.to_string())?;
    let (mut four, mut six) = (String::from("### RULES ###\n"), String::from("### RULES ###\n"));
    for Entry { v4, v6, port, .. } in entries(count) {
        let _ = writeln!(four, "-A ufw-user-output -p tcp -d {v4} --dport {port} -j ACCEPT");
        let _ = writeln!(six, "-A ufw6-user-output -p tcp -d {v6} --dport {port} -j ACCEPT");
    }
    four += "-A ufw-user-output -d 198.18.0.0/15 -j DROP\n";
    for (name, rules) in [("user.rules", four), ("user6.rules", six)] {
        let template = fs::read_to_string(Path::new("/usr/share/ufw/iptables").join(name));
        let template = template.map_err(|e| format!("{name}: {e}"))?;
        let filled = template.replacen("### RULES ###\n", &rules, 1);
        fs::write(etc.join("ufw").join(name), filled).map_err(|e| e.to_string())?;
    }
    run(Command::new("/lib/ufw/ufw-init").arg("--datadir").arg(dir.path()).arg("start"))?;
    shows(&places::GOVERNED4.to_string())?;
    Ok(InForce::default())
}

/// opensnitchd without its window, with a rule that allows for each service.
///
/// # Errors
/// It is not installed, or its queue does not come up.
pub fn opensnitch(count: usize) -> Result<InForce, String> {
    installed("opensnitchd")?;
    let dir = TempDir::new().map_err(|e| e.to_string())?;
    let rules = dir.path().join("rules");
    fs::create_dir_all(&rules).map_err(|e| e.to_string())?;
    for (index, Entry { v4, .. }) in entries(count).enumerate() {
        let rule = serde_json::json!({
            "created": "2026-01-01T00:00:00Z", "updated": "2026-01-01T00:00:00Z", "name": format!("{index:06}"),
            "enabled": true, "precedence": false, "action": "allow", "duration": "always",
            "operator": { "type": "simple", "operand": "dest.ip", "sensitive": false, "data": v4.to_string(), "list": [] }
        });
        fs::write(rules.join(format!("{index:06}.json")), rule.to_string()).map_err(|e| e.to_string())?;
    }
    let mut command = Command::new("opensnitchd");
    command
        .args(["-process-monitor-method", "proc", "-no-live-reload", "-warning", "-rules-path"])
        .arg(rules);
    command.arg("-log-file").arg(dir.path().join("log"));
    command.args(["-ui-socket", "unix:///nonexistent/picoseg-bench"]);
    let mut daemon = Daemon::start(&mut command, &dir.path().join("said"))?;
    let queued = || {
        let queues = fs::read_to_string("/proc/thread-self/net/netfilter/nfnetlink_queue");
        queues.is_ok_and(|text| !text.is_empty()) && shows("queue").is_ok()
    };
    wait(|| daemon.has_ended() || queued(), "its queue does not come up")?;
    if daemon.has_ended() {
        return Err(last_line(&dir.path().join("log")));
    }
    Ok(InForce::by(vec![daemon.keeping(dir)]))
}

fn installed(program: &str) -> Result<(), String> {
    let places = ["/usr/sbin", "/usr/bin"].map(|place| Path::new(place).join(program));
    let found = places.iter().any(|path| path.exists());
    if found { Ok(()) } else { Err(format!("{program} is not installed")) }
}

/// Rules that name this are in force: a peer that started and protects nothing is not measured.
fn shows(word: &str) -> Result<(), String> {
    let listed = Command::new("nft").args(["-n", "list", "ruleset"]).stdin(Stdio::null()).output();
    let listed = listed.map_err(|e| format!("nft: {e}"))?;
    match String::from_utf8_lossy(&listed.stdout).contains(word) {
        true => Ok(()),
        false => Err("it runs, but its rules are not in force".into()),
    }
}

fn wait(mut condition: impl FnMut() -> bool, otherwise: &str) -> Result<(), String> {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() >= end {
            return Err(otherwise.into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn last_line(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().last().unwrap_or("it ended and said nothing").to_owned()
}
