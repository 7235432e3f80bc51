//! What was measured, as Markdown.

use std::fmt::Write as _;

use crate::rounds::{Row, Spread};
use crate::traffic::Mode;

pub fn markdown(mode: Mode, rows: &[Row]) -> String {
    let mut text = format!(
        "\n{} (`{}`)\n\n| | us | added us [p25..p75] | of no firewall | done |\n|---|---|---|---|---|\n",
        mode.title(),
        mode.name()
    );
    for row in rows {
        let _ = match &row.result {
            Ok(figures) => writeln!(
                text,
                "| {} | {} | {} | {:.1} % | {:.0} |",
                row.name,
                number(figures.whole.median),
                spread(figures.added),
                figures.share.median * 100.0,
                row.count
            ),
            Err(why) => writeln!(text, "| {} | not measured: {why} | | | |", row.name),
        };
    }
    text
}

fn spread(added: Spread) -> String {
    format!("{} [{}..{}]", signed(added.median), signed(added.low), signed(added.high))
}

fn signed(value: f64) -> String {
    format!("{}{}", if value < 0.0 { "-" } else { "+" }, number(value.abs()))
}

/// Three digits that tell something.
fn number(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}
