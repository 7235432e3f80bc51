//! Takes turns: a slice of every host, round after round, each round in the other order.

use std::time::{Duration, Instant};

use rustix::thread::ClockId;
use rustix::time::clock_gettime;

use crate::lab::Lab;
use crate::traffic::{Mode, Traffic};

pub struct Plan {
    pub rounds: usize,
    /// Of the thread's CPU time.
    pub slice: Duration,
}

/// What was measured of one host.
pub struct Row {
    pub name: String,
    /// What was done in all slices.
    pub count: f64,
    pub result: Result<Figures, String>,
}

pub struct Figures {
    /// Microseconds.
    pub whole: Spread,
    /// Microseconds beyond no firewall, by round.
    pub added: Spread,
    /// The part of no firewall's throughput, by round.
    pub share: Spread,
}

#[derive(Debug, Clone, Copy)]
pub struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
        Self { low: at(0.25), median: at(0.5), high: at(0.75) }
    }
}

impl Plan {
    /// The first host is the one without a firewall.
    pub fn measure(&self, lab: &Lab, mode: Mode) -> Vec<Row> {
        let fitting = |index: &usize| lab.hosts[*index].variant.fits(mode);
        let mut order: Vec<usize> = (0..lab.hosts.len()).filter(fitting).collect();
        let hosts = order.clone();
        let mut turns: Vec<Turn> = lab.hosts.iter().map(|host| Turn::new(host.absent.clone())).collect();
        // Of the first round nothing is kept: caches are cold, neighbours and routes are looked up.
        for round in 0..=self.rounds {
            for index in &order {
                let turn = &mut turns[*index];
                if turn.failed.is_none() {
                    match self.slice(lab, mode, *index) {
                        Ok((each, count)) if round > 0 => turn.keep(each, count),
                        Ok(_) => (),
                        Err(error) => turn.failed = Some(format!("the traffic fails: {error}")),
                    }
                }
            }
            order.reverse();
        }
        let none = turns[0].each.clone();
        let row = |index: usize| turns[index].row(&lab.hosts[index].variant.name, &none);
        hosts.into_iter().map(row).collect()
    }

    /// Microseconds of each, and how many.
    fn slice(&self, lab: &Lab, mode: Mode, index: usize) -> rustix::io::Result<(f64, f64)> {
        let mut traffic = Traffic::begin(mode, lab, index)?;
        traffic.once()?;
        let started = Instant::now();
        let clock = || if mode.is_by_the_wall() { started.elapsed() } else { spent() };
        let (begun, mut count) = (clock(), 0.0);
        loop {
            count += traffic.once()?;
            let took = clock() - begun;
            if took >= self.slice {
                return Ok((took.as_secs_f64() * 1e6 / count, count));
            }
        }
    }
}

struct Turn {
    each: Vec<f64>,
    count: f64,
    failed: Option<String>,
}

impl Turn {
    fn new(failed: Option<String>) -> Self {
        Self { each: vec![], count: 0.0, failed }
    }

    fn keep(&mut self, each: f64, count: f64) {
        self.each.push(each);
        self.count += count;
    }

    fn row(&self, name: &str, none: &[f64]) -> Row {
        let paired = |of: fn(f64, f64) -> f64| {
            Spread::of(self.each.iter().zip(none).map(|(one, none)| of(*one, *none)).collect())
        };
        let figures = || Figures {
            whole: Spread::of(self.each.clone()),
            added: paired(|one, none| one - none),
            share: paired(|one, none| none / one),
        };
        let result = match &self.failed {
            Some(why) => Err(why.clone()),
            None if none.is_empty() => Err("nothing to compare with".into()),
            None => Ok(figures()),
        };
        Row { name: name.to_owned(), count: self.count, result }
    }
}

/// The CPU time of this thread.
fn spent() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("below a second"))
}
