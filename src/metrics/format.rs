//! Which format a client gets: OpenMetrics when it asks for that, else the text format 0.0.4.

use hyper::HeaderMap;
use hyper::header::ACCEPT;

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    OpenMetrics,
    Plain,
}

/// Every `Accept` field, as one.
pub fn accepted(headers: &HeaderMap) -> String {
    let fields = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    fields.collect::<Vec<_>>().join(",")
}

impl Format {
    /// By the `Accept` header (RFC 9110, 12.5.1). OpenMetrics only where it is named and weighs no less than the
    /// other: who says `*/*`, like curl, may not know it.
    pub fn accepted(accept: &str) -> Self {
        let weight = |wanted| {
            let weights = accept.split(',').filter_map(|range| weight(range, wanted));
            weights.max().unwrap_or(0)
        };
        let open = weight("application/openmetrics-text");
        let plain = weight("text/plain").max(weight("text/*")).max(weight("*/*"));
        match open > 0 && open >= plain {
            true => Self::OpenMetrics,
            false => Self::Plain,
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => super::openmetrics::CONTENT_TYPE,
            Self::Plain => super::plain::CONTENT_TYPE,
        }
    }
}

/// The weight of a range of media types in thousandths, if it is the wanted one and of a version that we write.
fn weight(range: &str, wanted: &str) -> Option<u16> {
    let mut parts = range.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case(wanted) {
        return None;
    }
    let mut weight = 1000;
    for (key, value) in parts.filter_map(|part| part.split_once('=')) {
        let value = value.trim().trim_matches('"');
        match key.trim().to_ascii_lowercase().as_str() {
            "q" => weight = thousandths(value)?,
            "version" if !["0.0.1", "1.0.0", "0.0.4"].contains(&value) => return None,
            _ => {}
        }
    }
    Some(weight)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 1000")]
fn thousandths(value: &str) -> Option<u16> {
    let weight: f64 = value.parse().ok()?;
    (0.0..=1.0).contains(&weight).then_some((weight * 1000.0) as u16)
}

#[cfg(test)]
mod tests {
    use super::Format::{OpenMetrics, Plain};
    use super::*;

    #[test]
    fn prometheus_gets_openmetrics_and_curl_plain_text() {
        for (accept, expected) in [
            // Prometheus 2.42 and 3.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                 text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                 application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;q=0.3,\
                 text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
                OpenMetrics,
            ),
            ("application/openmetrics-text; version=\"1.0.0\"", OpenMetrics),
            ("Application/OpenMetrics-Text", OpenMetrics),
            ("*/*", Plain),
            ("", Plain),
            ("text/html,application/xhtml+xml,*/*;q=0.8", Plain),
            ("text/plain;version=0.0.4;q=1,application/openmetrics-text;q=0.5", Plain),
            ("application/openmetrics-text;q=0", Plain),
            ("application/openmetrics-text;version=9.0.0,*/*", Plain),
            ("application/openmetrics-text;q=nonsense", Plain),
            ("application/openmetrics-textile", Plain),
            (";,=;;,,", Plain),
        ] {
            assert_eq!(Format::accepted(accept), expected, "{accept}");
        }
    }
}
