//! Everything at once for an hour, by `scripts/soak`: windows that open and close each minute, floods, kills, frozen moments, cgroup
//! storms, resolvers that fail and lie, good and bad applies, orders, broken copies of the database, tables of others. At the
//! end every promise is checked, and figures are printed.
//!
//! What goes wrong is collected and told at the end: an hour is too long to stop at the first.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use chrono::Timelike as _;

use crate::agent::{Agent, Kind, Manner, Packets, Socket};
use crate::chaos::{Frozen, Random, Storm, descriptors, flip, ledger_verifies, of_status, processor};
use crate::lab::clock::{self, Time, in_ms, now};
use crate::lab::dns::{self, NameServer};
use crate::lab::schedule::{Lifetime, egress, ingress, schedule};
use crate::lab::{Daemon, Lab, Unit, at, program, public4, put};

/// One datagram of a provider that is not let in any more.
const KNOCK: Duration = Duration::from_millis(5);
/// One record of a connection.
const BEAT: Duration = Duration::from_millis(10);
/// After a close the last packet is long gone; before it, and before an opening, nothing is asked.
const MARGIN: u32 = 4;
/// How long an order may take; the contract says 2 seconds, this machine has other things to do.
const ORDER: Duration = Duration::from_secs(2);

/// From this share of the time on the table belongs to nobody: what others do to it is undone.
const UNPROTECTED: f64 = 0.93;
/// How long that may take; usually it is milliseconds.
const UNDONE: Duration = Duration::from_secs(5);

/// A start that is not ready in time is told, and tried again so often.
const STARTS: u32 = 3;

/// A service that opens each minute at `opens` for `lasts` seconds.
struct Cycle {
    name: &'static str,
    opens: u32,
    lasts: u32,
    number: u8,
}

const CYCLES: [Cycle; 2] = [
    Cycle { name: "office", opens: 0, lasts: 30, number: 0 },
    Cycle { name: "late", opens: 45, lasts: 25, number: 1 },
];

impl Cycle {
    /// Where the provider sends datagrams to.
    fn port(&self) -> u16 {
        9443 + u16::from(self.number)
    }

    /// Seconds since the last opening began.
    fn elapsed(&self, at: Time) -> u32 {
        (at.second() + 60 - self.opens) % 60
    }

    fn is_open(&self, at: Time) -> bool {
        (MARGIN..self.lasts - MARGIN).contains(&self.elapsed(at))
    }

    /// When it closed, if that is a while ago and it does not open in a moment.
    fn closed_at(&self, at: Time) -> Option<Time> {
        let elapsed = self.elapsed(at);
        let closed = (self.lasts + MARGIN..60 - MARGIN).contains(&elapsed);
        let whole = at - chrono::TimeDelta::nanoseconds(i64::from(at.nanosecond()));
        closed.then(|| whole - chrono::TimeDelta::seconds(i64::from(elapsed - self.lasts)))
    }
}

/// What is counted and what went wrong.
#[derive(Default)]
struct Figures {
    done: BTreeMap<&'static str, u64>,
    wrong: Vec<String>,
    orders: Vec<Duration>,
    starts: Vec<Duration>,
    /// Minutes since the start, memory in kB, descriptors, threads, time on a processor.
    samples: Vec<(f64, u64, u64, u64, Duration)>,
}

impl Figures {
    fn did(&mut self, what: &'static str, how_often: u64) {
        *self.done.entry(what).or_default() += how_often;
    }

    fn insist(&mut self, holds: bool, what: impl FnOnce() -> String) {
        self.did("checks", 1);
        if !holds {
            let what = format!("{}: {}", now().format("%T%.3f"), what());
            eprintln!("WRONG {what}");
            self.wrong.push(what);
        }
    }
}

struct Soak<'a> {
    lab: &'a Lab,
    daemon: Option<Daemon>,
    began: Instant,
    lasts: Duration,
    random: Random,
    figures: Figures,
    payments: &'a Unit,
    ours: &'a Agent,
    theirs: &'a Agent,
    resolver: &'a NameServer,
    /// The ends of datagrams at the host, by service: pump and drain.
    flows: Vec<(&'static Cycle, Socket<'a>, Socket<'a>)>,
    /// Datagrams of services that are closed for good: pump, and how many there will be.
    knocks: Vec<(Socket<'a>, u32)>,
    bursts: u64,
    extra: u64,
    /// What `ordered` was last told to be.
    ordered: &'static str,
    others: String,
    /// Only the daemon may change the table, where the kernel can hold others to that.
    protected: bool,
}

#[test]
#[ignore = "takes an hour: scripts/soak"]
fn an_hour_of_everything_at_once() {
    let minutes =
        std::env::var("PICOSEG_SOAK_MINUTES").ok().and_then(|text| text.parse().ok()).unwrap_or(60_u64);
    let lasts = Duration::from_secs(minutes * 60);
    let Some(lab) = Lab::new() else { return };
    lab.public(6);
    let resolver = lab.name_server(5);
    lab.resolvers(&[lab.provider4(5)]);
    resolver.set("api.example.com", &[public4(0)], 5);
    let payments = lab.unit("payments");
    furnish(&lab, &payments);
    let others = "table inet other { set s { type ipv4_addr; elements = { 192.0.2.1, 192.0.2.2 }; }\n\
        chain c { type filter hook input priority 10; ip saddr @s counter drop; }; }";
    nft(&lab, others);
    let (ours, theirs, knocking) = (lab.process(&payments), lab.provider(), lab.provider());
    let mut soak = Soak {
        daemon: Some(lab.daemon()),
        began: Instant::now(),
        lasts,
        random: Random::new(),
        figures: Figures::default(),
        payments: &payments,
        ours: &ours,
        theirs: &theirs,
        resolver: &resolver,
        flows: Vec::new(),
        knocks: Vec::new(),
        bursts: 0,
        extra: 0,
        ordered: "open",
        others: listed(&lab),
        protected: true,
        lab: &lab,
    };
    let connection = soak.connect(&knocking);
    while soak.began.elapsed() < lasts {
        if soak.protected && soak.part() > UNPROTECTED {
            soak.drop_protection();
        }
        soak.act();
        soak.look(&connection);
    }
    soak.finish(&connection);
    soak.print();
    assert!(soak.figures.wrong.is_empty(), "{:#?}", soak.figures.wrong);
}

fn long() -> Lifetime {
    Lifetime(in_ms(-3_600_000), in_ms(20 * 3_600_000))
}

fn furnish(lab: &Lab, payments: &Unit) {
    for cycle in &CYCLES {
        let remote = lab.provider4(cycle.number);
        let window =
            format!("[[window]]\ncron = \"{} * * * * *\"\nduration = \"{}s\"\n\n", cycle.opens, cycle.lasts);
        let port = format!("{}/udp", cycle.port());
        let tables = [window, egress(payments, remote, "443/tcp"), ingress(payments, remote, &port)];
        lab.write(cycle.name, &schedule(long(), &tables));
    }
    lab.write("over", &schedule(Lifetime::over(), &[egress(payments, lab.provider4(2), "443/tcp")]));
    lab.write("over6", &schedule(Lifetime::over(), &[egress(payments, lab.provider6(2), "443/tcp")]));
    lab.write("steady", &schedule(long(), &[egress(payments, lab.provider4(3), "443/tcp")]));
    lab.write("ordered", &schedule(long(), &[egress(payments, lab.provider4(4), "443/tcp")]));
    lab.write("named", &schedule(long(), &[egress(payments, "api.example.com", "443/tcp")]));
    lab.canary();
    lab.settings("[attempts]\nretain = \"365d\"");
}

fn nft(lab: &Lab, text: &str) -> i32 {
    let file = lab.dir().join("others.nft");
    put(&file, text);
    let mut command = Command::new("nft");
    command.arg("-f").arg(&file);
    lab.on_host(command).code
}

/// The table of others, with its handles.
fn listed(lab: &Lab) -> String {
    let mut command = Command::new("nft");
    command.args(["-a", "list", "table", "inet", "other"]);
    lab.on_host(command).ok().stdout
}

impl<'a> Soak<'a> {
    /// Starts all that flows for the whole time; returns both ends of a connection that nothing may break.
    fn connect(&mut self, knocking: &'a Agent) -> [Socket<'a>; 2] {
        let lab = self.lab;
        let patience = Duration::from_secs(70);
        for cycle in &CYCLES {
            self.theirs.echo(at(lab.provider4(cycle.number), 443));
            let remote = at(lab.provider4(cycle.number), 7000);
            let ours = self.ours.udp_to(at(lab.host4(), cycle.port()), remote);
            let theirs = self.theirs.udp_to(remote, ours.local());
            ours.drain();
            theirs.pump(KNOCK);
            self.flows.push((cycle, theirs, ours));
        }
        let count = (self.lasts.as_millis() / KNOCK.as_millis()) as u32 * 8 / 10;
        for (from, to) in [(lab.provider4(2), lab.host4()), (lab.provider6(2), lab.host6())] {
            let packets = Packets { kind: Kind::Udp, from: at(from, 9), to: at(to, 9000), count };
            self.knocks.push((knocking.raw_pump(packets, KNOCK), count));
        }
        self.theirs.echo(at(lab.provider4(4), 443));
        self.theirs.echo(at(public4(0), 443));
        let listener = self.theirs.listen(at(lab.provider4(3), 443), Manner::Keep);
        let ours = clock::eventually("steady is open", patience, || self.ours.connect(listener.local()).ok());
        let theirs = listener.accept().expect("admitted");
        for end in [&ours, &theirs] {
            end.drain();
            end.pump(BEAT);
        }
        [ours, theirs]
    }

    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("it is started again at once")
    }

    fn part(&self) -> f64 {
        self.began.elapsed().as_secs_f64() / self.lasts.as_secs_f64()
    }

    /// In the middle nothing ends the daemon, so that its growth can be seen.
    fn may_kill(&self) -> bool {
        !(0.3..0.9).contains(&self.part())
    }

    fn drop_protection(&mut self) {
        self.protected = false;
        self.lab.settings("[enforcement]\nprotect = false");
        self.restart();
    }

    fn act(&mut self) {
        match self.random.below(16) {
            0..=2 if self.may_kill() => self.kill(),
            0 | 1 => self.freeze(),
            2 | 3 => self.order(),
            4 | 5 => self.apply_good(),
            6 => self.apply_bad(),
            7 | 8 => self.storm(),
            9 | 10 => self.resolver(),
            11 => self.burst(),
            12 => self.corrupt_a_copy(),
            13 => self.foreign(),
            14 if self.may_kill() => self.restart(),
            _ => self.random.pause(Duration::from_secs(2)),
        }
    }

    // What is done to it

    fn start(&mut self) {
        let began = Instant::now();
        for _ in 0..STARTS {
            match self.lab.try_daemon() {
                Ok(daemon) => {
                    self.daemon = Some(daemon);
                    self.figures.starts.push(began.elapsed());
                    return;
                }
                Err(failed) => self.figures.insist(false, || format!("no start: {failed:?}")),
            }
        }
        self.print();
        panic!("picosegd does not start again: {:#?}", self.figures.wrong);
    }

    /// At any moment: at rest, in an order, in an apply.
    fn kill(&mut self) {
        let order: &[&str] = match self.random.below(4) {
            0 => &["suspend", "ordered", "--reason", "soak"],
            1 => &["resume", "ordered", "--reason", "soak"],
            2 => &["apply"],
            _ => &[],
        };
        let under_way = (!order.is_empty()).then(|| {
            let mut command = Command::new(program("picoseg"));
            command.arg("--config").arg(self.lab.config()).args(order);
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
            self.lab.spawn_on_host(command)
        });
        self.random.pause(Duration::from_millis(150));
        self.daemon.take().expect("it runs").kill9();
        let code = under_way.map(|mut child| child.wait().expect("our own child").code());
        if self.random.below(3) == 0 {
            // Dead for a while: the kernel opens and closes alone.
            self.random.pause(Duration::from_secs(20));
            self.closed_stays_closed();
        }
        self.start();
        self.figures.did("kills", 1);
        match (order, code) {
            (["suspend", ..], Some(Some(0))) => self.ordered = "suspended",
            (["resume", ..], Some(Some(0))) => self.ordered = "open",
            // Killed before it was told: it may be either, and says which.
            (["suspend" | "resume", ..], _) => {
                self.ordered = if self.lab.state_of("ordered") == "open" { "open" } else { "suspended" };
            }
            _ => {}
        }
        self.as_ordered("after a kill");
    }

    fn restart(&mut self) {
        let status = self.daemon.take().expect("it runs").term();
        self.figures.insist(status.success(), || format!("SIGTERM: {status:?}"));
        self.start();
        self.figures.did("restarts", 1);
    }

    fn freeze(&mut self) {
        let frozen = Frozen::new(self.daemon.as_ref().expect("it runs"));
        self.random.pause(Duration::from_secs(3));
        drop(frozen);
        self.figures.did("frozen", 1);
    }

    fn order(&mut self) {
        let (order, state) = match self.ordered {
            "open" => ("suspend", "suspended"),
            _ => ("resume", "open"),
        };
        let began = Instant::now();
        let said = self.lab.picoseg(&[order, "ordered", "--reason", "soak"]);
        let took = began.elapsed();
        self.figures.insist(said.code == 0, || format!("{order}: exit {}: {}", said.code, said.stderr));
        self.figures.insist(took < ORDER, || format!("{order} took {took:?}"));
        self.figures.orders.push(took);
        self.ordered = state;
        self.as_ordered(order);
        self.figures.did("orders", 1);
    }

    /// Its traffic passes if and only if it is open.
    fn as_ordered(&mut self, when: &str) {
        let passes = self.ours.talks_to(at(self.lab.provider4(4), 443));
        let ordered = self.ordered;
        self.figures
            .insist(passes == (ordered == "open"), || format!("{when}: {ordered}, traffic passes: {passes}"));
    }

    fn apply_good(&mut self) {
        if self.extra > 0 && self.random.below(2) == 0 {
            self.lab.remove(&format!("extra{}", self.extra - 1));
        }
        let policy = egress(self.payments, format!("192.0.2.{}", self.extra % 250), "443/tcp");
        self.lab.write(&format!("extra{}", self.extra), &schedule(long(), &[policy]));
        self.extra += 1;
        let said = self.lab.picoseg(&["apply"]);
        self.figures.insist(said.code == 0, || format!("apply: exit {}: {}", said.code, said.stderr));
        self.figures.did("good applies", 1);
    }

    fn apply_bad(&mut self) {
        let before = self.lab.status()["ruleset_digest"].clone();
        let text = self.random.pick(&[
            "provider = ",
            "\u{0}\u{1}",
            "[[egress]]\nto = [\"0.0.0.0/0\"]\n",
            "x = 1\nx = 2\n",
        ]);
        self.lab.write("bad", text);
        let said = self.lab.picoseg(&["apply"]);
        self.lab.remove("bad");
        self.figures.insist(said.code == 78, || format!("a bad apply: exit {}: {}", said.code, said.stderr));
        let after = self.lab.status()["ruleset_digest"].clone();
        self.figures.insist(before == after, || format!("a bad apply changed {before} to {after}"));
        self.figures.did("bad applies", 1);
    }

    fn storm(&mut self) {
        let storm = Storm::around(self.payments);
        thread::sleep(Duration::from_secs(2));
        // In the middle of it everything works.
        self.order();
        let made = storm.made();
        drop(storm);
        self.figures.did("cgroups made and removed", made);
    }

    fn resolver(&mut self) {
        let manner = self.random.pick(&dns::Manner::ALL);
        self.resolver.behave(manner);
        let lie = ["10.1.2.3", "127.0.0.1"].map(|text| text.parse().expect("an address"));
        let addresses = match self.random.below(3) {
            0 => lie.to_vec(),
            1 => vec![public4(0), public4(self.random.below(5) as u8)],
            _ => vec![public4(0)],
        };
        self.resolver.set("api.example.com", &addresses, 1);
        self.figures.did("moods of the resolver", 1);
    }

    /// As fast as it goes, from thousands of sources.
    fn burst(&mut self) {
        const COUNT: u32 = 10_000;
        let lab = self.lab;
        let packets = Packets {
            kind: Kind::Udp,
            from: at(lab.provider4(2), 9),
            to: at(lab.host4(), 9000),
            count: COUNT,
        };
        self.theirs.raw(packets);
        self.bursts += u64::from(COUNT);
        self.figures.did("bursts", 1);
    }

    /// Whoever checks a copy of the state is told, and nothing crashes. The daemon does not notice.
    fn corrupt_a_copy(&mut self) {
        let (state, copy) = (self.lab.state(), self.lab.dir().join("second-state"));
        let _ = fs::remove_dir_all(&copy);
        fs::create_dir_all(&copy).expect("a directory of ours");
        for name in ["picoseg.db", "picoseg.db-wal", "ledger.key", "ledger.pub"] {
            // While the daemon writes: a copy that does not fit together is one more way to be broken.
            let _ = fs::copy(state.join(name), copy.join(name));
        }
        let victim = copy.join(self.random.pick(&["picoseg.db", "picoseg.db", "picoseg.db-wal"]));
        if fs::metadata(&victim).is_ok_and(|file| file.len() > 0) {
            flip(&victim, 64, &mut self.random);
        }
        let config = self.lab.second_config();
        let mut command = Command::new(program("picoseg"));
        command.arg("--config").arg(config).args(["audit", "verify", "--json"]);
        let said = self.lab.on_host(command);
        let known = [0, 1].contains(&said.code) && !said.stderr.contains("panicked");
        self.figures.insist(known, || format!("a broken copy: exit {}: {}", said.code, said.stderr));
        self.figures
            .did(if said.code == 0 { "broken copies, ledger untouched" } else { "broken copies, found" }, 1);
    }

    /// Others have tables of their own, and may not touch ours.
    fn foreign(&mut self) {
        let lab = self.lab;
        let code = nft(lab, "table inet guest { chain c { type filter hook output priority 5; counter; }; }");
        self.figures.insist(code == 0, || "another table is refused".to_owned());
        nft(lab, "delete table inet guest");
        if self.protected {
            for edit in ["flush table inet picoseg", "delete table inet picoseg"] {
                // Owned by the daemon's socket since 6.9.
                let code = nft(lab, edit);
                self.figures.insist(code != 0, || format!("{edit}: done by another process"));
            }
            self.figures.did("edits of others, refused", 2);
            return;
        }
        // None that would let anything pass meanwhile: how long that lasts is measured elsewhere.
        nft(lab, "add chain inet picoseg stranger");
        let gone = clock::within(UNDONE, || {
            let mut command = Command::new("nft");
            command.args(["list", "chain", "inet", "picoseg", "stranger"]);
            (lab.on_host(command).code != 0).then_some(())
        });
        self.figures.insist(gone.is_some(), || "a chain of somebody else stays in our table".to_owned());
        self.figures.did("edits of others, undone", 1);
    }

    // What has to hold

    fn look(&mut self, connection: &[Socket<'a>; 2]) {
        self.closed_stays_closed();
        for cycle in &CYCLES {
            let remote = at(self.lab.provider4(cycle.number), 443);
            let before = now();
            let passes = self.ours.connect(remote).is_ok();
            let after = now();
            if cycle.is_open(before) && cycle.is_open(after) {
                self.figures.insist(passes, || format!("{} is open and refuses", cycle.name));
            } else if cycle.closed_at(before).is_some() && cycle.closed_at(after).is_some() {
                self.figures.insist(!passes, || format!("{} is closed and admits", cycle.name));
            }
        }
        for end in connection {
            let flow = end.flow();
            self.figures.insist(flow.end.is_none(), || format!("the steady connection: {:?}", flow.end));
        }
        let minutes = self.began.elapsed().as_secs_f64() / 60.0;
        if self.figures.samples.last().is_none_or(|last| minutes - last.0 >= 1.0) {
            let daemon = self.daemon();
            let sample = (
                minutes,
                of_status(daemon, "VmRSS"),
                descriptors(daemon),
                of_status(daemon, "Threads"),
                processor(daemon),
            );
            self.figures.samples.push(sample);
            let verifies = ledger_verifies(self.lab);
            self.figures.insist(verifies, || "the ledger does not verify".to_owned());
            let others = listed(self.lab);
            let same = others == self.others;
            self.figures.insist(same, || format!("the table of others has changed: {others}"));
        }
    }

    /// Nothing that was sent after a close has arrived.
    fn closed_stays_closed(&mut self) {
        for index in 0..self.flows.len() {
            let (cycle, _, ours) = &self.flows[index];
            let Some(closed) = cycle.closed_at(now()) else { continue };
            let flow = ours.flow();
            if cycle.closed_at(now()) != Some(closed) {
                continue;
            }
            let late = flow.last_stamp - closed.timestamp_nanos_opt().expect("in range");
            let name = cycle.name;
            self.figures.insist(late < 0, || format!("{name}: a packet of {late} ns after the close"));
            self.figures.did("closes looked at", 1);
        }
    }

    /// Ends what flows, and counts.
    fn finish(&mut self, connection: &[Socket<'a>; 2]) {
        let lab = self.lab;
        self.resolver.behave(dns::Manner::Honest);
        let settled = Duration::from_secs(60);
        let whole = clock::within(self.lasts, || {
            self.knocks.iter().all(|(pump, count)| pump.flow().sent == u64::from(*count)).then_some(())
        });
        self.figures.insist(whole.is_some(), || "the knocks did not come to an end".to_owned());
        for end in connection {
            let flow = end.flow();
            self.figures
                .insist(flow.end.is_none() && flow.received > 0, || format!("steady at the end: {flow:?}"));
            self.figures.did("records of the steady connection", flow.received);
        }
        // What is sent from now on does not leave: the counts of both sides come to rest.
        let mut down = Command::new("ip");
        down.args(["link", "set", "wire0", "down"]);
        lab.at_provider(down).ok();
        thread::sleep(Duration::from_millis(500));
        for (index, service) in [(0, "over"), (1, "over6")] {
            let sent = u64::from(self.knocks[index].1) + if index == 0 { self.bursts } else { 0 };
            let counted = self.counted(service, sent, settled);
            self.figures.insist(counted == sent, || format!("{service}: {sent} sent, {counted} on record"));
            self.figures.did("packets of ended services", sent);
        }
        for index in 0..self.flows.len() {
            let (cycle, theirs, ours) = &self.flows[index];
            let (name, sent, received) = (cycle.name, theirs.flow().sent, ours.flow().received);
            let counted = self.counted(name, sent - received, settled);
            self.figures.insist(counted == sent - received, || {
                format!("{name}: {sent} sent, {received} arrived, {counted} on record")
            });
            self.figures.did("packets of services with windows", sent);
            self.figures.did("of them admitted", received);
        }
        let verifies = ledger_verifies(lab);
        self.figures.insist(verifies, || "at the end the ledger does not verify".to_owned());
        let status = lab.status();
        self.figures.insist(status["store"]["ok"] == true, || format!("{}", status["store"]));
        let status = self.daemon.take().expect("it runs").term();
        self.figures.insist(status.success(), || format!("the last SIGTERM: {status:?}"));
    }

    /// Attempts to come in, once they are as many as expected or stay as they are.
    fn counted(&self, service: &str, expected: u64, patience: Duration) -> u64 {
        let of_it = || self.lab.attempts_with(&[("service", service), ("direction", "ingress")]);
        clock::within(patience, || (of_it() >= expected).then_some(()));
        thread::sleep(Duration::from_secs(2));
        of_it()
    }

    fn print(&mut self) {
        let (figures, minutes) = (&mut self.figures, self.began.elapsed().as_secs_f64() / 60.0);
        println!("\n| figure | value |\n|---|---|\n| minutes | {minutes:.1} |");
        for (what, how_often) in &figures.done {
            println!("| {what} | {how_often} |");
        }
        for (what, all) in [("order", &mut figures.orders), ("start", &mut figures.starts)] {
            all.sort_unstable();
            let part = |share: f64| {
                all.get(((all.len() as f64 - 1.0) * share).round() as usize).copied().unwrap_or_default()
            };
            println!("| {what}: p50, p99, most | {:?}, {:?}, {:?} |", part(0.5), part(0.99), part(1.0));
        }
        // Of the daemon that lived longest: through the middle part.
        let middle: Vec<_> = figures
            .samples
            .iter()
            .filter(|sample| (0.35..0.9).contains(&(sample.0 * 60.0 / self.lasts.as_secs_f64())))
            .collect();
        if let (Some(first), Some(last)) = (middle.first(), middle.last()) {
            let span = last.0 - first.0;
            println!("| one daemon watched for, minutes | {span:.1} |");
            println!("| resident, first and last, kB | {}, {} |", first.1, last.1);
            println!("| descriptors, first and last | {}, {} |", first.2, last.2);
            println!("| threads, first and last | {}, {} |", first.3, last.3);
            let busy = last.4.saturating_sub(first.4).as_secs_f64() / (span * 60.0);
            println!("| processor, share of one core | {:.1} % |", busy * 100.0);
        }
        println!("| wrong | {} |", figures.wrong.len());
    }
}
