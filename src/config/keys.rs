//! The keys that files may have, table by table: what manual pages and configuration management are held to.

use super::{policy, segment, service, settings, subject, window};

/// A table as it is written, `""` at the top level, and its keys.
pub type TableKeys = (&'static str, &'static [&'static str]);

/// Those of `picoseg.toml`.
#[must_use]
pub fn of_settings() -> Vec<TableKeys> {
    vec![
        ("", &settings::KEYS),
        ("[paths]", &settings::PATHS_KEYS),
        ("[enforcement]", &settings::ENFORCEMENT_KEYS),
        ("[failsafe]", &settings::FAILSAFE_KEYS),
        ("[attempts]", &settings::ATTEMPTS_KEYS),
        ("[approval]", &settings::APPROVAL_KEYS),
        ("[metrics]", &settings::METRICS_KEYS),
        ("[notify]", &settings::NOTIFY_KEYS),
    ]
}

/// Those of a schedule.
#[must_use]
pub fn of_services() -> Vec<TableKeys> {
    vec![
        ("", service::KEYS.valid),
        ("[lifetime]", &window::LIFETIME_KEYS),
        ("[[window]]", &window::WINDOW_KEYS),
        ("[[except]]", &window::EXCEPT_KEYS),
        ("[[egress]]", policy::EGRESS_KEYS.valid),
        ("[[ingress]]", policy::INGRESS_KEYS.valid),
        ("subject", &subject::KEYS),
        ("[teardown]", &service::TEARDOWN_KEYS),
    ]
}

/// Those of a segment; its subject has the keys of any.
#[must_use]
pub fn of_segments() -> Vec<TableKeys> {
    vec![("", segment::KEYS.valid), ("[[allow]]", segment::ALLOW_KEYS.valid)]
}
