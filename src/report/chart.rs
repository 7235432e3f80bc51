//! The chart of attempts over time: stacked bars as SVG, told apart by patterns as well as by colours.

use maud::{Markup, html};

use super::words::{self, number};
use super::{Bucket, Report, Series};
use crate::escape::plain;

/// The drawing and the room around the bars, in units of its view box.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 312.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 8.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 58.0;

/// The widest bar, and the smallest height of one that is not empty.
const WIDEST: f64 = 56.0;
const LOWEST: f64 = 2.5;

/// The most times below the bars.
const TIMES: usize = 7;

/// The chart, its legend and a description for those who do not see it.
pub fn chart(report: &Report, series: &Series) -> Markup {
    let frame = Frame::new(series);
    let step = words::step(series.step_seconds);
    html! {
        div.chart role="region" aria-label="Attempts over time" tabindex="0" {
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-labelledby="chart-title chart-desc" {
                title id="chart-title" { "Attempts since the end of access, by " (step) }
                desc id="chart-desc" { (description(report, series)) }
                (patterns())
                text.axis-name x=(LEFT - 56.0) y="14" { "Refused packets per " (step) }
                @for tick in frame.ticks() { (level(&frame, tick)) }
                @for (place, bucket) in series.buckets.iter().enumerate() { (bar(&frame, place, bucket)) }
                line.axis x1=(LEFT) y1=(frame.y(0.0)) x2=(WIDTH - RIGHT) y2=(frame.y(0.0)) {}
                (times(&frame, series))
                text.axis-name.end x=(WIDTH - RIGHT) y=(HEIGHT - 4.0) { "Time (UTC)" }
                @if report.attempts_total == 0 {
                    text.nothing x=((LEFT + WIDTH - RIGHT) / 2.0) y=((TOP + HEIGHT - BOTTOM) / 2.0) {
                        "No attempt in all this time"
                    }
                }
            }
        }
        @if report.attempts_total > 0 { (legend(series)) }
    }
}

/// What the chart shows, in a sentence.
fn description(report: &Report, series: &Series) -> String {
    if report.attempts_total == 0 {
        return "No attempt was made: every bar is empty.".to_owned();
    }
    let highest = series.buckets.iter().max_by_key(|bucket| sum(bucket));
    let highest = highest
        .map(|bucket| format!(" The most are {}, from {}.", number(sum(bucket)), words::spoken(bucket.at)));
    format!(
        "{}, stacked by source.{} The table of numbers has all bars.",
        words::counted(series.buckets.iter().map(sum).sum(), "refused packet", "refused packets"),
        highest.unwrap_or_default()
    )
}

pub fn sum(bucket: &Bucket) -> u64 {
    bucket.counts.iter().sum()
}

/// Where things are drawn.
struct Frame {
    top: f64,
    tick: u64,
    bars: usize,
}

impl Frame {
    fn new(series: &Series) -> Self {
        let highest = series.buckets.iter().map(sum).max().unwrap_or(0).max(4);
        let tick = tick(highest);
        let top = highest.div_ceil(tick).saturating_mul(tick);
        Self { top: to_float(top), tick, bars: series.buckets.len().max(1) }
    }

    fn ticks(&self) -> impl Iterator<Item = u64> {
        let step = usize::try_from(self.tick).unwrap_or(usize::MAX);
        let top = self.top;
        (0_u64..).step_by(step).take_while(move |value| to_float(*value) <= top).take(12)
    }

    fn y(&self, value: f64) -> f64 {
        round(HEIGHT - BOTTOM - value / self.top * (HEIGHT - TOP - BOTTOM))
    }

    /// How much room a bar has.
    fn slot(&self) -> f64 {
        (WIDTH - LEFT - RIGHT) / to_float(self.bars as u64)
    }

    fn x(&self, place: usize) -> f64 {
        round(LEFT + to_float(place as u64) * self.slot())
    }

    fn bar_width(&self) -> f64 {
        round((self.slot() * 0.8).clamp(1.0, WIDEST))
    }
}

/// The largest 1, 2 or 5 times a power of ten that gives four lines or more.
fn tick(highest: u64) -> u64 {
    let mut power = 1_u64;
    while highest / power >= 40 {
        power = power.saturating_mul(10);
    }
    [10, 5, 2, 1].into_iter().map(|n| n * power).find(|tick| highest / tick >= 4).unwrap_or(power)
}

fn level(frame: &Frame, value: u64) -> Markup {
    let y = frame.y(to_float(value));
    html! {
        line.grid x1=(LEFT) y1=(y) x2=(WIDTH - RIGHT) y2=(y) {}
        text.tick.end x=(LEFT - 6.0) y=(y + 4.0) { (number(value)) }
    }
}

fn bar(frame: &Frame, place: usize, bucket: &Bucket) -> Markup {
    let mut floor = frame.y(0.0);
    let others = bucket.counts.len().saturating_sub(1);
    let pieces: Vec<_> = bucket
        .counts
        .iter()
        .enumerate()
        .filter(|(_, count)| **count > 0)
        .map(|(source, count)| {
            let height = (frame.y(0.0) - frame.y(to_float(*count))).max(LOWEST);
            floor = round((floor - height).max(TOP));
            (pattern(source, others), floor, round(height))
        })
        .collect();
    html! {
        @for (pattern, y, height) in pieces {
            rect.bar x=(frame.x(place)) y=(y) width=(frame.bar_width()) height=(height) fill=(pattern) {}
        }
    }
}

/// How a source is filled: the largest plainly, since the tiles of a pattern show on paper. All others look the same however
/// many stand alone.
fn pattern(source: usize, others: usize) -> String {
    match source {
        _ if source == others => "url(#others)".to_owned(),
        0 => "var(--c0)".to_owned(),
        _ => format!("url(#source{source})"),
    }
}

fn times(frame: &Frame, series: &Series) -> Markup {
    let every = series.buckets.len().div_ceil(TIMES).max(1);
    let y = frame.y(0.0);
    html! {
        @for (place, bucket) in series.buckets.iter().enumerate().step_by(every) {
            line.axis x1=(frame.x(place)) y1=(y) x2=(frame.x(place)) y2=(y + 5.0) {}
            text.tick x=(frame.x(place)) y=(y + 18.0) { (bucket.at.format("%-d %b %Y")) }
            @if series.step_seconds < 86_400 {
                text.tick x=(frame.x(place)) y=(y + 31.0) { (bucket.at.format("%H:%M")) }
            }
        }
    }
}

/// What tells sources apart beside their colours: stripes, dots, crosses, lines and bars.
fn patterns() -> Markup {
    html! {
        defs {
            pattern id="source1" class="c1" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)" {
                rect width="6" height="6" {}
                path d="M0 1.2H6" {}
            }
            pattern id="source2" class="c2" width="6" height="6" patternUnits="userSpaceOnUse" {
                rect width="6" height="6" {}
                circle cx="3" cy="3" r="1.5" {}
            }
            pattern id="source3" class="c3" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(135)" {
                rect width="6" height="6" {}
                path d="M0 1.2H6M1.2 0V6" {}
            }
            pattern id="source4" class="c4" width="5" height="5" patternUnits="userSpaceOnUse" {
                rect width="5" height="5" {}
                path d="M0 1.2H5" {}
            }
            pattern id="others" class="c5" width="4" height="4" patternUnits="userSpaceOnUse" {
                rect width="4" height="4" {}
                path d="M1 0V4" {}
            }
        }
    }
}

fn legend(series: &Series) -> Markup {
    let others = series.sources.len();
    let has_others = series.buckets.iter().any(|bucket| bucket.counts.last().is_some_and(|count| *count > 0));
    let names = series
        .sources
        .iter()
        .map(|stream| format!("{}, {}", plain(&stream.remote), words::direction(&stream.direction)));
    let names = names.chain(has_others.then(|| "all other sources together".to_owned()));
    html! {
        ul.legend {
            @for (source, name) in names.enumerate() {
                li {
                    svg viewBox="0 0 18 18" width="18" height="18" aria-hidden="true" {
                        rect.bar x="1" y="1" width="16" height="16" fill=(pattern(source, others)) {}
                    }
                    (name)
                }
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a pixel is much more than what is lost")]
fn to_float(number: u64) -> f64 {
    number as f64
}

fn round(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        for (highest, expected) in [
            (4, 1),
            (7, 1),
            (8, 2),
            (39, 5),
            (40, 10),
            (99, 20),
            (1_234, 200),
            (u64::MAX, 2_000_000_000_000_000_000),
        ] {
            assert_eq!(tick(highest), expected, "{highest}");
            assert!(highest / tick(highest) <= 10, "{highest}");
        }
    }
}
