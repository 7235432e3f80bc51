//! `flows`.

use super::console::Console;
use super::daemon::{Daemon, service_name, understand};
use super::stop::Stop;
use super::table::{Cell, Table, counted};
use super::when;
use crate::api::body::{Flow, Flows};

pub async fn run(daemon: &Daemon, service: Option<&str>, console: &mut Console<'_>) -> Result<(), Stop> {
    let path = match service {
        Some(name) => format!("/v1/flows?service={}", service_name(name)?),
        None => "/v1/flows".to_owned(),
    };
    let body = daemon.get(&path).await?;
    if console.json {
        return console.print(body);
    }
    let flows: Flows = understand(&body)?;
    console.print(text(&flows, console.colour))
}

fn text(Flows { flows, flows_total, .. }: &Flows, colour: bool) -> String {
    let mut table = Table::new([
        "SERVICE", "PROVIDER", "VERDICT", "SUBJECT", "PID", "LOCAL", "REMOTE", "SENT", "RECEIVED", "TLS",
        "UNTIL",
    ]);
    flows.iter().for_each(|flow| table.push(row(flow)));
    let more = match flows_total.saturating_sub(flows.len()) {
        0 => String::new(),
        more => format!("\nand {}", counted(more, "more flow")),
    };
    table.take(colour) + &more
}

fn row(flow: &Flow) -> [Cell; 11] {
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    [
        (&flow.service).into(),
        (&flow.provider).into(),
        (&flow.verdict).into(),
        flow.subject.as_deref().unwrap_or("-").into(),
        number(flow.pid.map(u64::from)).into(),
        format!("{}/{}", flow.local, flow.protocol).into(),
        (&flow.remote).into(),
        number(flow.bytes_sent).into(),
        number(flow.bytes_received).into(),
        flow.tls.as_deref().unwrap_or("-").into(),
        when::print_seconds_or_dash(flow.until).into(),
    ]
}
