//! `services`.

use super::console::Console;
use super::daemon::{Daemon, understand};
use super::stop::Stop;
use super::table::{Cell, Table};
use super::when;
use crate::api::body::{Service, Services};

pub async fn run(daemon: &Daemon, console: &mut Console<'_>) -> Result<(), Stop> {
    let body = daemon.get("/v1/services").await?;
    if console.json {
        return console.print(body);
    }
    let Services { services, .. } = understand(&body)?;
    let mut table = Table::new(["NAME", "STATE", "CLOSES/OPENS", "PROVIDER", "OWNER", "ATTEMPTS"]);
    services.iter().for_each(|service| table.push(row(service)));
    console.print(table.take(console.colour))
}

fn row(service: &Service) -> [Cell; 6] {
    [
        (&service.name).into(),
        Cell::state(&service.state),
        next(service).into(),
        (&service.provider).into(),
        (&service.owner).into(),
        service.attempts.into(),
    ]
}

/// What time does next to the service.
pub fn next(service: &Service) -> String {
    match (service.closes_at, service.opens_at) {
        (Some(closes_at), _) => format!("closes {}", when::print(closes_at)),
        (None, Some(opens_at)) => format!("opens {}", when::print(opens_at)),
        (None, None) => "-".to_owned(),
    }
}
