//! From facts to samples. Pure.
//!
//! Cardinality: a service has one sample of its state, not one of each state; when the state changes the old series
//! ends and another begins. Its next opening and its close exclude each other. So 10,000 services are 40,000 samples and those
//! of their attempts: by direction and reason, as far as there were any.

use super::catalogue::{self as all, Metric};
use super::facts::{Facts, Service};
use super::histogram::Histogram;
use crate::model::{Direction, Reason, ServiceState, Time};
use crate::store::{AttemptTotal, Verdict};

/// A metric with its samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    pub metric: &'static Metric,
    pub samples: Vec<Sample>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// In the order of the metric's labels.
    pub labels: Vec<(&'static str, String)>,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Count(u64),
    Number(f64),
    Durations(Box<Histogram>),
}

/// Every metric of the catalogue, in its order.
pub fn families(facts: &Facts) -> Vec<Family> {
    let mut families = health(facts);
    families.extend(counts(facts));
    families.extend(work(facts));
    families.extend(resolution(facts));
    families.extend(services(facts));
    families
}

fn health(facts: &Facts) -> Vec<Family> {
    let by_state = ServiceState::ALL.iter().map(|state| {
        let services = facts.count(*state);
        sample(&all::SERVICES, &[state.as_str()], number(services))
    });
    let until = facts.next_transition.as_ref().map(|next| seconds(next.at) - seconds(facts.now));
    vec![
        family(&all::BUILD, [sample(&all::BUILD, &[&facts.version], Value::Count(1))]),
        at(&all::START, Some(facts.started_at)),
        flag(&all::ENFORCING, facts.enforcing),
        at(&all::IN_FORCE_SINCE, Some(facts.in_force_since)),
        flag(&all::TABLE_OK, facts.table_error.is_none()),
        flag(&all::CONFIG_OK, facts.config_error.is_none()),
        flag(&all::STORE_OK, facts.store_error.is_none()),
        one(&all::WEAKER, Some(number(facts.weaker.len()))),
        family(&all::SERVICES, by_state),
        one(&all::SEGMENTS, Some(number(facts.segments))),
        // What is due is due now, not before.
        one(&all::NEXT_TRANSITION, until.map(|until| Value::Number(until.max(0.0)))),
    ]
}

fn counts(facts: &Facts) -> Vec<Family> {
    let attempts = facts.attempts.iter().flat_map(|sums| with_zeros(sums, &facts.services));
    let attempts = attempts.map(|sum| {
        let service = sum.service.as_ref().map_or("", |name| name.as_str());
        let labels = [service, sum.direction.as_str(), sum.reason.as_str(), sum.verdict.as_str()];
        sample(&all::ATTEMPTS, &labels, Value::Count(sum.count))
    });
    let every = Direction::ALL.into_iter().flat_map(|d| Reason::ALL.into_iter().map(move |r| (d, r)));
    let refused = every.filter_map(|(direction, reason)| {
        let count = facts.refused(direction, reason)?;
        Some(sample(&all::REFUSED_PACKETS, &[direction.as_str(), reason.as_str()], Value::Count(count)))
    });
    vec![
        family(&all::ATTEMPTS, attempts),
        family(&all::REFUSED_PACKETS, refused),
        one(&all::LOST_DETAILS, Some(Value::Count(facts.lost_details))),
        one(&all::DETAILS_OVERRUN, Some(Value::Count(facts.details_overrun))),
    ]
}

/// Every decommissioned service has its counts of late attempts from the beginning: a counter that appears with its first
/// attempt has not increased, for Prometheus, and nobody would be told.
fn with_zeros(sums: &[AttemptTotal], services: &[Service]) -> Vec<AttemptTotal> {
    let late = |service: &Service, direction| {
        let verdict = if service.enforcing { Verdict::Refused } else { Verdict::Observed };
        let service = Some(service.name.clone());
        AttemptTotal { service, direction, reason: Reason::Expired, verdict, count: 0 }
    };
    let ended = services.iter().filter(|service| service.state == ServiceState::Decommissioned);
    let zeros = ended.flat_map(|service| Direction::ALL.map(|direction| late(service, direction)));
    let mut all: Vec<AttemptTotal> = sums.iter().cloned().chain(zeros).collect();
    let key = |sum: &AttemptTotal| (sum.service.clone(), sum.direction, sum.reason, sum.verdict);
    // The larger one first, so that it stays.
    all.sort_by_cached_key(|sum| (key(sum), std::cmp::Reverse(sum.count)));
    all.dedup_by_key(|sum| key(sum));
    all
}

fn work(facts: &Facts) -> Vec<Family> {
    let commits = [("done", facts.commits.done), ("failed", facts.commits.failed)];
    let commits = commits.map(|(outcome, count)| sample(&all::COMMITS, &[outcome], Value::Count(count)));
    let durations = Value::Durations(Box::new(facts.commits.durations.clone()));
    vec![
        family(&all::COMMITS, commits),
        one(&all::COMMIT_DURATION, Some(durations)),
        one(&all::DRIFT, Some(Value::Count(facts.drift))),
        at(&all::DRIFT_LAST, facts.drift_at),
        one(&all::CLOCK_STEPS, Some(Value::Count(facts.clock_steps))),
        at(&all::STORE_LAST_SYNC, facts.last_sync),
        one(&all::LEDGER_HEAD_SEQ, facts.ledger.map(|head| Value::Count(head.seq))),
        at(&all::LEDGER_HEAD, facts.ledger.and_then(|head| head.at)),
    ]
}

fn resolution(facts: &Facts) -> Vec<Family> {
    vec![
        one(&all::UNRESOLVED_SUBJECTS, Some(number(facts.unresolved_subjects))),
        one(&all::UNRESOLVED_SERVICES, Some(number(facts.unresolved_services))),
        one(&all::HOST_NAMES, Some(number(facts.host_names))),
        one(&all::HOST_NAMES_FAILING, Some(number(facts.host_names_failing))),
    ]
}

fn services(facts: &Facts) -> Vec<Family> {
    let of = |metric: &'static Metric, at: fn(&Service) -> Option<Time>| {
        let samples = facts.services.iter().filter_map(|service| {
            Some(sample(metric, &[service.name.as_str()], Value::Number(seconds(at(service)?))))
        });
        family(metric, samples)
    };
    let provider = |service: &Service| {
        sample(&all::SERVICE, &[service.name.as_str(), &service.provider], Value::Count(1))
    };
    let state = |service: &Service| {
        sample(&all::SERVICE_STATE, &[service.name.as_str(), service.state.as_str()], Value::Count(1))
    };
    vec![
        family(&all::SERVICE, facts.services.iter().map(provider)),
        family(&all::SERVICE_STATE, facts.services.iter().map(state)),
        of(&all::SERVICE_OPENS, |service| service.opens_at),
        of(&all::SERVICE_CLOSES, |service| service.closes_at),
        of(&all::SERVICE_DECOMMISSION, |service| Some(service.decommission)),
    ]
}

fn family(metric: &'static Metric, samples: impl IntoIterator<Item = Sample>) -> Family {
    Family { metric, samples: samples.into_iter().collect() }
}

fn sample(metric: &'static Metric, labels: &[&str], value: Value) -> Sample {
    let values = labels.iter().map(|value| (*value).to_owned());
    Sample { labels: metric.labels.iter().copied().zip(values).collect(), value }
}

fn one(metric: &'static Metric, value: Option<Value>) -> Family {
    family(metric, value.map(|value| sample(metric, &[], value)))
}

fn flag(metric: &'static Metric, holds: bool) -> Family {
    one(metric, Some(Value::Count(holds.into())))
}

fn at(metric: &'static Metric, time: Option<Time>) -> Family {
    one(metric, time.map(|time| Value::Number(seconds(time))))
}

fn number(count: usize) -> Value {
    Value::Count(u64::try_from(count).unwrap_or(u64::MAX))
}

/// Since 1970, to the millisecond: more would not survive in a float for long.
#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit into 53 bits for 280,000 years")]
fn seconds(time: Time) -> f64 {
    time.timestamp_millis() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::super::sample::facts;
    use super::*;

    fn values(families: &[Family], metric: &Metric) -> Vec<(Vec<String>, Value)> {
        let family = families.iter().find(|family| family.metric == metric).expect("every metric is there");
        let labels = |sample: &Sample| sample.labels.iter().map(|(_, value)| value.clone()).collect();
        family.samples.iter().map(|sample| (labels(sample), sample.value.clone())).collect()
    }

    #[test]
    fn every_metric_of_the_catalogue_is_served_in_its_order_with_its_labels() {
        let families = families(&facts());
        let served: Vec<_> = families.iter().map(|family| family.metric).collect();
        assert_eq!(served, all::ALL);
        for Family { metric, samples } in families {
            assert!(!samples.is_empty(), "{}: the example has a sample of each", metric.name());
            for sample in samples {
                let labels: Vec<_> = sample.labels.iter().map(|(name, _)| *name).collect();
                assert_eq!(labels, metric.labels, "{}", metric.name());
            }
        }
    }

    #[test]
    fn late_attempts_of_a_decommissioned_service_count_from_zero() {
        let attempts = values(&families(&facts()), &all::ATTEMPTS);
        let late = |direction: &str| {
            let labels = ["old-crm", direction, "expired", "refused"].map(str::to_owned).to_vec();
            attempts.iter().filter(|(found, _)| *found == labels).map(|(_, v)| v.clone()).collect::<Vec<_>>()
        };
        assert_eq!(late("ingress"), [Value::Count(41)]);
        assert_eq!(late("egress"), [Value::Count(0)]);
        let open = attempts.iter().filter(|(labels, _)| labels[0] == "stripe" && labels[2] == "expired");
        assert_eq!(open.count(), 0, "not of the others");
    }

    #[test]
    fn what_the_store_cannot_say_is_absent_and_not_zero() {
        let broken = Facts { attempts: None, ledger: None, ..facts() };
        let families = families(&broken);
        for metric in [&all::ATTEMPTS, &all::REFUSED_PACKETS, &all::LEDGER_HEAD_SEQ, &all::LEDGER_HEAD] {
            assert_eq!(values(&families, metric), [], "{}", metric.name());
        }
    }

    #[test]
    fn observed_flows_are_no_refused_packets() {
        let mut facts = facts();
        for sum in facts.attempts.iter_mut().flatten() {
            sum.verdict = Verdict::Observed;
        }
        let refused = values(&families(&facts), &all::REFUSED_PACKETS);
        assert_eq!(refused.len(), 2 * Reason::ALL.len());
        assert!(refused.iter().all(|(_, value)| *value == Value::Count(0)));
    }
}
