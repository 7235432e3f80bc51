//! Samples as the text format 0.0.4 of Prometheus: what `curl` gets, and clients older than OpenMetrics.

use std::fmt::{self, Display, Write};

use super::catalogue::{Kind, Metric};
use super::families::{Family, Sample, Value};
use super::histogram::Histogram;

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Returns the text.
///
/// # Errors
/// Never by itself: the writer is a string.
pub fn write(families: &[Family]) -> Result<String, fmt::Error> {
    let mut text = String::new();
    for Family { metric, samples } in families {
        let name = metric.name();
        writeln!(text, "# HELP {name} {}", metric.help)?;
        writeln!(text, "# TYPE {name} {}", kind(metric))?;
        for sample in samples {
            write_sample(&mut text, &name, sample)?;
        }
    }
    Ok(text)
}

/// This format has no infos.
fn kind(metric: &Metric) -> &'static str {
    match metric.kind {
        Kind::Info => Kind::Gauge.as_str(),
        Kind::Counter | Kind::Gauge | Kind::Histogram => metric.kind.as_str(),
    }
}

fn write_sample(text: &mut String, name: &str, sample: &Sample) -> fmt::Result {
    let labels: Vec<(&str, &str)> = sample.labels.iter().map(|(name, value)| (*name, &**value)).collect();
    match &sample.value {
        Value::Count(count) => line(text, name, &labels, count),
        Value::Number(number) => line(text, name, &labels, number),
        Value::Durations(durations) => write_histogram(text, name, &labels, durations),
    }
}

fn write_histogram(
    text: &mut String,
    name: &str,
    labels: &[(&str, &str)],
    durations: &Histogram,
) -> fmt::Result {
    let mut below = 0;
    for (bound, count) in durations.buckets() {
        below += count;
        let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
        let labels = [labels, &[("le", &bound)]].concat();
        line(text, &format!("{name}_bucket"), &labels, &below)?;
    }
    line(text, &format!("{name}_sum"), labels, &durations.sum())?;
    line(text, &format!("{name}_count"), labels, &durations.count())
}

fn line(text: &mut String, name: &str, labels: &[(&str, &str)], value: &impl Display) -> fmt::Result {
    text.push_str(name);
    for (index, (label, value)) in labels.iter().enumerate() {
        write!(text, "{}{label}=\"", if index == 0 { '{' } else { ',' })?;
        escape(text, value);
        text.push('"');
    }
    if !labels.is_empty() {
        text.push('}');
    }
    writeln!(text, " {value}")
}

/// The three characters that a label's value cannot hold as they are.
fn escape(text: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::families::families;
    use super::super::openmetrics;
    use super::super::sample::facts;
    use super::*;

    #[test]
    fn the_text_is_that_of_prometheus() {
        insta::assert_snapshot!(write(&families(&facts())).unwrap());
    }

    #[test]
    fn a_foreign_label_cannot_leave_its_quotes() {
        let mut text = String::new();
        line(&mut text, "m", &[("a", "x\"} 1\nm{b=\"\\")], &1).unwrap();
        assert_eq!(text, "m{a=\"x\\\"} 1\\nm{b=\\\"\\\\\"} 1\n");
    }

    #[test]
    fn both_formats_name_the_same_samples() {
        let mut hostile = facts();
        hostile.services[0].provider = "a\"b\\c\nd".to_owned();
        let samples = |text: &str| {
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            let names = lines.map(|line| line.rsplit_once(' ').expect("a value").0.replace("1.0\"", "1\""));
            names.map(|name| name.replace("10.0\"", "10\"")).collect::<std::collections::BTreeSet<String>>()
        };
        let families = families(&hostile);
        let plain = samples(&write(&families).unwrap());
        assert_eq!(plain, samples(&openmetrics::write(families).unwrap()));
    }
}
