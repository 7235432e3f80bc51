//! What may be written on the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::when::When;
use crate::api::explain::Remote;
use crate::api::{reason, word};
use crate::config;
use crate::files::SettingsFile;
use crate::model::{Direction, Reason, Sources, Subject};
use crate::store::{MOST_ROWS, Verdict};

/// Opens and closes third-party access on this host, by schedule, in the kernel.
///
/// Exit codes: 0 done; 1 failed; 2 usage; 3 the daemon does not answer; 4 `plan --exit-code` found changes; 5 not allowed; 78 invalid configuration (what was
/// in force stays in force).
#[derive(Debug, Clone, Parser)]
#[command(name = "picoseg", version)]
pub struct Arguments {
    /// The settings file [env: PICOSEG_CONFIG] [default: /etc/picoseg/picoseg.toml].
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The daemon's socket [env: PICOSEG_SOCKET] [default: by the settings].
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Prints JSON: the same bodies as the API.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

impl Arguments {
    pub fn settings(&self) -> SettingsFile {
        self.config.clone().into()
    }
}

#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    #[command(flatten)]
    Offline(Offline),
    #[command(flatten)]
    Online(Online),
    /// The ledger: what was decided and done, in order, hash-chained and signed.
    #[command(subcommand)]
    Audit(Audit),
}

/// What needs no daemon.
#[derive(Debug, Clone, Subcommand)]
pub enum Offline {
    /// Validates the files, offline and without root.
    ///
    /// Prints every mistake as `file:line:column: message` with help. Without FILE the whole configuration is judged. A
    /// FILE in the directory of segments or of lists is one of these, the settings file and any picoseg.toml are settings,
    /// everything else is a schedule, whatever its name.
    Check {
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
        /// What each FILE is, wherever it lies: for tools that check a copy before they put it in place.
        #[arg(long = "as", value_name = "KIND", requires = "files")]
        kind: Option<FileKind>,
    },
    /// Prints the ruleset for an instant, offline.
    ///
    /// Resolves against this host's cgroups; a subject that does not exist is a comment and no rule. Orders are the daemon's
    /// and not seen here: a service that was suspended by order is printed as its file and the time have it.
    Compile {
        /// RFC 3339 with an offset, or now.
        #[arg(long, value_name = "TIME", default_value = "now")]
        at: When,
    },
    /// Prints the openings of each service in a span of time, from the files, offline.
    ///
    /// Openings are merged and clipped to the lifetime and to the span. Orders are not seen here.
    Timeline(Timeline),
    /// Prints shell completions.
    Completions {
        #[arg(value_name = "SHELL")]
        shell: Shell,
    },
}

/// What the daemon answers.
#[derive(Debug, Clone, Subcommand)]
pub enum Online {
    /// Says what `apply` would change, which live connections it would cut, and what might lock you out.
    ///
    /// Nothing is changed and nothing goes on record.
    Plan {
        /// Exits with 4 when there are changes.
        #[arg(long)]
        exit_code: bool,
    },
    /// Has the daemon load the files; returns when they are in force.
    Apply {
        /// Falls back to what was in force before, unless `picoseg confirm` follows within this time: 90s, 10m, 1h.
        ///
        /// So does a daemon that is killed meanwhile, when it starts again, and a host that reboots. Services that the files end
        /// are only shut until then: a decommission is final.
        #[arg(long, value_name = "DURATION", value_parser = duration_of)]
        confirm: Option<String>,
    },
    /// Keeps what `apply --confirm` put in force.
    Confirm,
    /// Prints what is in force, and how the daemon is.
    Status,
    /// Prints every service with its state.
    Services,
    /// Prints one service with all that is known of it.
    Show {
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Prints refused packets by service, reason and source.
    ///
    /// PORT is the remote port of egress and the local port of ingress.
    Attempts(Attempts),
    /// Prints who talks to which provider right now: process, bytes, and until when.
    Flows {
        /// Only this service.
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
    },
    /// Prints the decommission report of a service: who ended its access, what was cut, and who tried since.
    ///
    /// A service that is not decommissioned has one too, which says so.
    Report(Report),
    /// Says whether a packet would pass, and why.
    ///
    /// A process of the subject is asked about; what encloses it right now (its slice, for example) counts too. Where no daemon answers,
    /// the files answer: orders and learned addresses are not known then.
    Explain(Explain),
    /// Waits until the unit's current cgroup is in force: for a unit's first `ExecStartPre=+/usr/bin/picoseg settle`.
    ///
    /// Done at once when no policy is about the unit. Fails when the cgroup is not in force within five seconds (1) and when
    /// the daemon does not answer (3): systemd then does not start the unit; `ExecStartPre=-+...` starts it all the same.
    Settle {
        /// The unit, by its full name [default: the cgroup of the calling process].
        #[arg(value_name = "UNIT")]
        unit: Option<String>,
    },
    /// Prolongs the opening in force, or opens once, until an instant inside the lifetime.
    ///
    /// For an operator who needs a window to last longer today; the file stays as it is. An exception in the file still closes, and so
    /// do `suspend` and `decommission`.
    Extend(Extension),
    /// Refuses a service until it is resumed; returns when its connections are cut.
    Suspend(Order),
    /// Lifts a suspension by order.
    Resume(Order),
    /// Ends a service for good; returns when its connections are cut.
    Decommission(Order),
}

/// What a file of the configuration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FileKind {
    Settings,
    Service,
    Segment,
    List,
}

#[derive(Debug, Clone, Args)]
pub struct Timeline {
    /// Only this service.
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// RFC 3339 with an offset, or now.
    #[arg(long, value_name = "TIME", default_value = "now")]
    pub from: When,
    /// The same [default: seven days after the beginning].
    #[arg(long, value_name = "TIME")]
    pub to: Option<When>,
}

#[derive(Debug, Clone, Args)]
pub struct Attempts {
    /// Only this service.
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Only this provider; upper and lower case are the same.
    #[arg(long, value_name = "TEXT")]
    pub provider: Option<String>,
    /// Only this remote address or prefix; `other`: what is not told apart by source.
    #[arg(long, value_name = "ADDR|PREFIX")]
    pub source: Option<Sources>,
    /// Only this reason, for example expired.
    #[arg(long, value_name = "REASON", value_parser = word::reason)]
    pub reason: Option<Reason>,
    /// Only egress or ingress.
    #[arg(long, value_name = "DIRECTION", value_parser = word::direction)]
    pub direction: Option<Direction>,
    /// Only what was refused, or observed.
    #[arg(long, value_name = "VERDICT", value_parser = word::verdict)]
    pub verdict: Option<Verdict>,
    /// Only what was seen at or after this instant: RFC 3339 with an offset, or now.
    #[arg(long, value_name = "TIME")]
    pub since: Option<When>,
    /// Only what was seen before this instant.
    #[arg(long, value_name = "TIME")]
    pub until: Option<When>,
    /// The latest rows, that many at most, up to 10000 [default: 1000, with --json 10000].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_ROWS)))]
    pub limit: Option<u32>,
    /// Goes on printing what is new or counts further, until interrupted; waits for a daemon that restarts.
    #[arg(long)]
    pub follow: bool,
}

#[derive(Debug, Clone, Subcommand)]
pub enum Audit {
    /// Prints the ledger; with --at the states and the ruleset of an instant.
    Show(AuditShow),
    /// Checks the ledger, offline: every entry, every signature and the end.
    ///
    /// Names the first entry that was altered, deleted, reordered, inserted or cut off. It tells tampering; it does not prevent it:
    /// whoever has the key can write another ledger, which only a checkpoint that was copied elsewhere exposes.
    Verify(AuditVerify),
    /// Writes the ledger for others, offline; it ends with the signed head, so that one that was cut off fails.
    Export(AuditExport),
}

#[derive(Debug, Clone, Args)]
pub struct AuditShow {
    /// What was in force at this instant: RFC 3339 with an offset, or now.
    #[arg(long, value_name = "TIME", conflicts_with_all = ["since", "limit"])]
    pub at: Option<When>,
    /// With `--at`: csv prints the access review for a spreadsheet.
    #[arg(long, value_name = "FORMAT", value_enum, requires = "at", conflicts_with = "json")]
    pub format: Option<ReviewFormat>,
    /// Only entries of this instant or later: RFC 3339 with an offset, or now.
    #[arg(long, value_name = "TIME")]
    pub since: Option<When>,
    /// Only this service.
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// At most so many entries, the latest [default: 1000].
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ReviewFormat {
    /// A table.
    Text,
    /// For spreadsheets.
    Csv,
}

#[derive(Debug, Clone, Args)]
pub struct AuditVerify {
    /// A database or an export [default: the database in the state directory, by the settings].
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Checkpoints that were copied elsewhere, anywhere in the text of this file; - is stdin. May be given several times.
    #[arg(long, value_name = "FILE")]
    pub checkpoint: Vec<PathBuf>,
    /// The public key to trust, PEM [default: ledger.pub beside the database, or the one that the export states].
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub struct AuditExport {
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = ExportFormat::Jsonl)]
    pub format: ExportFormat,
    /// Where to [default: stdout].
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Only entries of this instant or later: RFC 3339 with an offset, or now. The result is an excerpt.
    #[arg(long, value_name = "TIME")]
    pub since: Option<When>,
    /// Only entries of this service. The result is an excerpt.
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportFormat {
    /// A JSON object a line.
    Jsonl,
    /// For spreadsheets.
    Csv,
}

#[derive(Debug, Clone, Args)]
pub struct Report {
    /// The service.
    #[arg(value_name = "NAME")]
    pub name: String,
    /// How it is written; html is one self-contained page, for paper as well [default: text, with --json: json].
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<Format>,
    /// Where it goes; a file that is there is replaced [default: stdout].
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
    Markdown,
    Html,
}

#[derive(Debug, Clone, Args)]
pub struct Explain {
    /// The process, as in a policy: unit:payments.service, cgroup:/a/b, exe:/usr/bin/x, user:x, group:x, container:x.
    #[arg(long, value_name = "KIND:VALUE", value_parser = subject_of)]
    pub subject: Subject,
    /// 192.0.2.1:443/tcp, [2001:db8::1]:53/udp or 192.0.2.1/icmp; for ingress the port is the local one.
    #[arg(long, value_name = "ADDR:PORT/PROTO")]
    pub remote: Remote,
    /// Who opens the connection: the process, or the remote side.
    #[arg(long, value_name = "DIRECTION", default_value = "egress", value_parser = word::direction)]
    pub direction: Direction,
    /// RFC 3339 with an offset, or now.
    #[arg(long, value_name = "TIME", default_value = "now")]
    pub at: When,
}

#[derive(Debug, Clone, Args)]
pub struct Extension {
    #[arg(value_name = "NAME")]
    pub name: String,
    /// RFC 3339 with an offset.
    #[arg(long, value_name = "TIME")]
    pub until: When,
    /// Why; it goes on record.
    #[arg(long, value_name = "TEXT", value_parser = reason_of)]
    pub reason: String,
}

#[derive(Debug, Clone, Args)]
pub struct Order {
    #[command(flatten)]
    pub target: Target,
    /// Why; it goes on record.
    #[arg(long, value_name = "TEXT", value_parser = reason_of)]
    pub reason: String,
}

/// What an order is about.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub struct Target {
    /// The service.
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// All services of this provider instead; upper and lower case are the same.
    #[arg(long, value_name = "TEXT")]
    pub provider: Option<String>,
}

fn subject_of(text: &str) -> Result<Subject, String> {
    let kinds = || "write KIND:VALUE, for example unit:payments.service".to_owned();
    Subject::parse(text).ok_or_else(kinds)?.map_err(|error| error.to_string())
}

fn duration_of(text: &str) -> Result<String, String> {
    config::parse_duration(text).map(|_| text.to_owned())
}

fn reason_of(text: &str) -> Result<String, reason::ReasonError> {
    reason::check(text).map(|()| text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Arguments, ErrorKind> {
        Arguments::try_parse_from(line.split(' ')).map_err(|error| error.kind())
    }

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn global_options_stand_before_or_after_the_command() {
        for line in [
            "picoseg --json --config c --socket s show stripe",
            "picoseg show stripe --json --config c --socket s",
            "picoseg --config c show --json stripe --socket s",
        ] {
            let arguments = parse(line).unwrap();
            assert!(arguments.json, "{line}");
            assert_eq!(arguments.config, Some("c".into()), "{line}");
            assert_eq!(arguments.socket, Some("s".into()), "{line}");
        }
    }

    #[test]
    fn an_order_is_about_a_service_or_a_provider_and_has_a_reason() {
        for word in ["suspend", "resume", "decommission"] {
            assert!(parse(&format!("picoseg {word} stripe --reason r")).is_ok());
            assert!(parse(&format!("picoseg {word} --provider Stripe --reason r")).is_ok());
            let missing = ErrorKind::MissingRequiredArgument;
            assert_eq!(parse(&format!("picoseg {word} stripe")).unwrap_err(), missing);
            assert_eq!(parse(&format!("picoseg {word} --reason r")).unwrap_err(), missing);
            let both = parse(&format!("picoseg {word} stripe --provider Stripe --reason r"));
            assert_eq!(both.unwrap_err(), ErrorKind::ArgumentConflict);
            let empty = parse(&format!("picoseg {word} stripe --reason="));
            assert_eq!(empty.unwrap_err(), ErrorKind::ValueValidation);
        }
    }

    #[test]
    fn commands_of_later_versions_are_unknown() {
        for word in ["approve", "suggest"] {
            assert_eq!(
                parse(&format!("picoseg {word}")).unwrap_err(),
                ErrorKind::InvalidSubcommand,
                "{word}"
            );
        }
    }

    #[test]
    fn the_ledger_is_shown_verified_and_exported() {
        for good in [
            "show",
            "show --at now",
            "show --since now --service stripe --limit 5",
            "verify",
            "verify export.csv --checkpoint a --checkpoint - --key ledger.pub",
            "export --format csv --output out --since now --service stripe",
        ] {
            assert!(parse(&format!("picoseg audit {good}")).is_ok(), "{good}");
        }
        assert_eq!(parse("picoseg audit").unwrap_err(), ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand);
        assert_eq!(parse("picoseg audit show --limit 0").unwrap_err(), ErrorKind::ValueValidation);
        assert_eq!(parse("picoseg audit export --format xml").unwrap_err(), ErrorKind::InvalidValue);
    }

    #[test]
    fn times_have_an_offset() {
        for good in ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.5+02:00", "now"] {
            assert!(parse(&format!("picoseg compile --at {good}")).is_ok(), "{good}");
        }
        for bad in ["2026-01-01T00:00:00", "2026-01-01", "tomorrow", "NOW"] {
            let kind = parse(&format!("picoseg compile --at {bad}")).unwrap_err();
            assert_eq!(kind, ErrorKind::ValueValidation, "{bad}");
        }
    }
}
