//! The query of `attempts`.

use serde::Deserialize;

use super::failure::Refused;
use super::routes::{instant, service_name};
use crate::api::word;
use crate::model::SourcesError;
use crate::store::{AttemptFilter, ROWS};

/// As it stands in a request. An unknown key is an error: it would seem to narrow.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    service: Option<String>,
    provider: Option<String>,
    source: Option<String>,
    direction: Option<String>,
    reason: Option<String>,
    verdict: Option<String>,
    since: Option<String>,
    until: Option<String>,
    after: Option<u64>,
    limit: Option<u32>,
}

impl Which {
    /// Which rows are asked for. A service that has no name is unknown, whatever else is wrong a bad request.
    pub fn filter(self) -> Result<AttemptFilter, Refused> {
        let bad = |key: &'static str| move |error: String| Refused::BadRequest(format!("{key}: {error}"));
        let time = |key: &'static str, text: Option<String>| text.map(|text| instant(key, &text)).transpose();
        if let Some(limit) = self.limit.filter(|limit| !(1..=ROWS).contains(limit)) {
            return Err(bad("limit")(format!("{limit} is not between 1 and {ROWS}")));
        }
        let source = self.source.map(|text| text.parse().map_err(|error: SourcesError| error.to_string()));
        Ok(AttemptFilter {
            service: self.service.map(|text| service_name(&text)).transpose()?,
            provider: self.provider,
            sources: source.transpose().map_err(bad("source"))?,
            direction: self
                .direction
                .map(|text| word::direction(&text))
                .transpose()
                .map_err(bad("direction"))?,
            reason: self.reason.map(|text| word::reason(&text)).transpose().map_err(bad("reason"))?,
            verdict: self.verdict.map(|text| word::verdict(&text)).transpose().map_err(bad("verdict"))?,
            since: time("since", self.since)?,
            until: time("until", self.until)?,
            after: self.after,
            limit: self.limit,
        })
    }
}
