//! Every metric that there is: one source for the daemon, `docs/metrics.md`, the alert rules and the dashboard of Grafana.
//!
//! A name is `picoseg_`, the words, the unit, and what the type asks for: `_total` or `_info`.

/// What a family holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; over restarts too where its help does not say otherwise.
    Counter,
    Gauge,
    Histogram,
    /// Always 1: its labels say it.
    Info,
}

impl Kind {
    /// As OpenMetrics calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }
}

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// With `picoseg_`, without unit and suffix.
    pub stem: &'static str,
    pub unit: Option<&'static str>,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    /// A sentence.
    pub help: &'static str,
}

impl Metric {
    /// As it is written in a query.
    pub fn name(&self) -> String {
        let unit = self.unit.map(|unit| format!("_{unit}")).unwrap_or_default();
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        format!("{}{unit}{suffix}", self.stem)
    }
}

const SECONDS: Option<&str> = Some("seconds");

/// Defines the metrics and lists them in the order in which they are served.
macro_rules! metrics {
    ($($(#[$doc:meta])* $name:ident: $kind:ident, $stem:literal, $unit:expr, [$($label:literal),*], $help:literal;)*) => {
        $(
            $(#[$doc])*
            pub const $name: Metric = Metric {
                stem: concat!("picoseg_", $stem),
                unit: $unit,
                kind: Kind::$kind,
                labels: &[$($label),*],
                help: $help,
            };
        )*
        /// All of them.
        pub const ALL: &[&Metric] = &[$(&$name),*];
    };
}

metrics! {
    BUILD: Info, "build", None, ["version"], "The version of the daemon.";
    START: Gauge, "start_timestamp", SECONDS, [], "When the daemon started.";
    ENFORCING: Gauge, "enforcing", None, [],
        "1 in mode enforce, 0 in mode observe, in which nothing is refused.";
    IN_FORCE_SINCE: Gauge, "in_force_since_timestamp", SECONDS, [], "Since when the table is the one that it is.";
    TABLE_OK: Gauge, "table_ok", None, [], "1 while the kernel's table was there when it was last read.";
    CONFIG_OK: Gauge, "config_ok", None, [], "1 while the files that are there are the ones in force.";
    STORE_OK: Gauge, "store_ok", None, [], "1 while the store works; without it nothing opens.";
    WEAKER: Gauge, "weaker_promises", None, [], "How many promises are weaker on this host; status names them.";
    SERVICES: Gauge, "services", None, ["state"], "Services by state, those left out whose watch is over.";
    SEGMENTS: Gauge, "segments", None, [], "Segments.";
    NEXT_TRANSITION: Gauge, "next_transition", SECONDS, [],
        "Time until the next change of a service's state; no sample when time changes none.";
    ATTEMPTS: Counter, "attempts", None, ["service", "direction", "reason", "verdict"],
        "Attempts: refused packets, and observed flows; the service of a segment is empty.";
    REFUSED_PACKETS: Counter, "refused_packets", None, ["direction", "reason"],
        "Refused packets by the kernel's counters.";
    LOST_DETAILS: Counter, "lost_details", None, [],
        "Refused packets without a detailed record, since the daemon started; counts are exact all the same.";
    DETAILS_OVERRUN: Counter, "details_overrun", None, [],
        "Log records that the kernel made and the daemon did not get, since it started.";
    COMMITS: Counter, "commits", None, ["outcome"],
        "Transactions with the kernel since the daemon started, by outcome: done or failed.";
    COMMIT_DURATION: Histogram, "commit_duration", SECONDS, [],
        "How long a change took until it was in the kernel and read back, since the daemon started.";
    DRIFT: Counter, "drift", None, [],
        "How often the kernel held something else than was committed, since the daemon started.";
    DRIFT_LAST: Gauge, "drift_last_timestamp", SECONDS, [], "When that was last seen; no sample when never.";
    CLOCK_STEPS: Counter, "clock_steps", None, [], "How often the wall clock was stepped, since the daemon started.";
    STORE_LAST_SYNC: Gauge, "store_last_sync_timestamp", SECONDS, [],
        "When the store last had decisions on the disk; every five minutes while it works.";
    LEDGER_HEAD_SEQ: Gauge, "ledger_head_seq", None, [], "The number of the ledger's last entry.";
    LEDGER_HEAD: Gauge, "ledger_head_timestamp", SECONDS, [], "When the ledger's last entry was made.";
    UNRESOLVED_SUBJECTS: Gauge, "unresolved_subjects", None, [],
        "Subjects of policies and segments that are nowhere right now; their grants stay refused.";
    UNRESOLVED_SERVICES: Gauge, "unresolved_services", None, [],
        "Services with a subject that is nowhere right now, the decommissioned ones left out.";
    HOST_NAMES: Gauge, "host_names", None, [], "Host names that are resolved.";
    HOST_NAMES_FAILING: Gauge, "host_names_failing", None, [],
        "Host names whose last try failed; they keep the addresses that they had.";
    SERVICE: Info, "service", None, ["service", "provider"], "The provider of a service.";
    SERVICE_STATE: Gauge, "service_state", None, ["service", "state"],
        "Always 1: one sample for each service, with its present state.";
    SERVICE_OPENS: Gauge, "service_opens_timestamp", SECONDS, ["service"],
        "When a service that is not open opens next; no sample when no window is left.";
    SERVICE_CLOSES: Gauge, "service_closes_timestamp", SECONDS, ["service"],
        "When the opening now in force ends.";
    SERVICE_DECOMMISSION: Gauge, "service_decommission_timestamp", SECONDS, ["service"],
        "When the service is decommissioned, or was.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        let names: BTreeSet<String> = ALL.iter().map(|metric| metric.name()).collect();
        assert_eq!(names.len(), ALL.len(), "each name once");
        for metric in ALL {
            let name = metric.name();
            let plain = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(name.starts_with("picoseg_") && name.chars().all(plain), "{name}");
            let ends = |suffix| name.ends_with(suffix);
            assert_eq!(ends("_total"), metric.kind == Kind::Counter, "{name}");
            assert_eq!(ends("_info"), metric.kind == Kind::Info, "{name}");
            assert!(!ends("_bucket") && !ends("_sum") && !ends("_count"), "{name}");
            // What the two formats would have to escape, each in its own way.
            assert!(metric.help.ends_with('.') && !metric.help.contains(['"', '\\', '\n']), "{name}");
        }
    }

    #[test]
    fn the_names_of_the_contract_are_there() {
        let names = ALL.iter().map(|metric| metric.name()).collect::<BTreeSet<_>>();
        for name in
            ["attempts_total", "services", "next_transition_seconds", "lost_details_total", "store_ok"]
        {
            assert!(names.contains(&format!("picoseg_{name}")), "{name}");
        }
        assert_eq!(ATTEMPTS.labels, ["service", "direction", "reason", "verdict"]);
        assert_eq!(SERVICES.labels, ["state"]);
    }
}
