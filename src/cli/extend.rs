//! `extend`.

use super::arguments::Extension;
use super::console::Console;
use super::daemon::{Daemon, service_name, understand};
use super::order::remarks;
use super::stop::Stop;
use super::table::plain;
use super::when;
use crate::api::body::{ExtendRequest, Ordering};
use crate::model::Time;

pub async fn run(
    daemon: &Daemon,
    wanted: &Extension,
    now: Time,
    console: &mut Console<'_>,
) -> Result<(), Stop> {
    let name = service_name(&wanted.name)?;
    let request = ExtendRequest { until: wanted.until.at(now), reason: wanted.reason.clone() };
    let request = serde_json::to_string(&request).map_err(|error| Stop::Failed(error.to_string()))?;
    let body = daemon.post(&format!("/v1/services/{name}/extend"), request).await?;
    let ordering: Ordering = understand(&body)?;
    match console.json {
        true => console.print(body)?,
        false => console.print(text(&ordering))?,
    }
    remarks(&ordering, console)
}

fn text(Ordering { service, state, closes_at, .. }: &Ordering) -> String {
    let until = closes_at.map(|until| format!(" until {}", when::print(until))).unwrap_or_default();
    plain(&format!("{service} is {state}{until}")).into_owned()
}
