//! Samples as OpenMetrics 1.0, by the encoder of `prometheus-client`.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use super::catalogue::Kind;
use super::families::{Family, Sample, Value};

pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Returns the text, with its end mark.
///
/// # Errors
/// Never by itself: the encoder's writer is a string.
pub fn write(families: Vec<Family>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(families)));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Family { metric, samples } in &self.0 {
            let unit = metric.unit.map(|unit| Unit::Other(unit.to_owned()));
            let kind = kind(metric.kind);
            let mut encoder = encoder.encode_descriptor(metric.stem, metric.help, unit.as_ref(), kind)?;
            for sample in samples {
                encode(&mut encoder, metric.kind, sample)?;
            }
        }
        Ok(())
    }
}

fn kind(kind: Kind) -> MetricType {
    match kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
        Kind::Histogram => MetricType::Histogram,
        Kind::Info => MetricType::Info,
    }
}

fn encode(encoder: &mut MetricEncoder<'_>, kind: Kind, sample: &Sample) -> fmt::Result {
    if kind == Kind::Info {
        return encoder.encode_info(&sample.labels);
    }
    match sample.labels.is_empty() {
        true => encode_value(encoder, kind, &sample.value),
        false => encode_value(&mut encoder.encode_family(&sample.labels)?, kind, &sample.value),
    }
}

fn encode_value(encoder: &mut MetricEncoder<'_>, kind: Kind, value: &Value) -> fmt::Result {
    const NONE: Option<&Exemplar<NoLabelSet, f64>> = None;
    match (value, kind) {
        (Value::Count(count), Kind::Counter) => encoder.encode_counter(count, NONE),
        (Value::Number(number), Kind::Counter) => encoder.encode_counter(number, NONE),
        (Value::Count(count), Kind::Gauge | Kind::Info | Kind::Histogram) => encoder.encode_gauge(count),
        (Value::Number(number), Kind::Gauge | Kind::Info | Kind::Histogram) => encoder.encode_gauge(number),
        (Value::Durations(durations), _) => {
            let buckets: Vec<_> = durations.buckets().collect();
            encoder.encode_histogram::<NoLabelSet>(durations.sum(), durations.count(), &buckets, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::families::families;
    use super::super::sample::facts;
    use super::*;

    #[test]
    fn the_text_is_openmetrics() {
        insta::assert_snapshot!(write(families(&facts())).unwrap());
    }
}
