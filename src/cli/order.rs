//! `suspend`, `resume`, `decommission`: for one service, or for all of a provider.

use std::collections::BTreeSet;

use super::apply::NOT_ON_RECORD;
use super::arguments::{Order, Target};
use super::console::Console;
use super::daemon::{Daemon, service_name, understand};
use super::stop::{Exit, Stop};
use super::table::{counted, plain};
use crate::api::body::{OrderRequest, Ordering, Service, Services, Teardown};
use crate::model::OrderKind;

pub async fn run(
    daemon: &Daemon,
    kind: OrderKind,
    order: &Order,
    console: &mut Console<'_>,
) -> Result<(), Stop> {
    let names = names(daemon, kind, &order.target).await?;
    let mut worst = Exit::Done;
    // One that fails does not keep the others from being cut.
    for name in &names {
        let ended = give(daemon, kind, name, &order.reason, console).await;
        let exit = ended.map_or_else(|stop| console.report(stop), |()| Exit::Done);
        worst = worst.max(exit);
    }
    match worst {
        Exit::Done => Ok(()),
        exit => Err(Stop::Said(exit)),
    }
}

/// The services that an order is about.
async fn names(daemon: &Daemon, kind: OrderKind, target: &Target) -> Result<Vec<String>, Stop> {
    match (&target.name, &target.provider) {
        (Some(name), _) => Ok(vec![service_name(name)?.to_string()]),
        (None, Some(provider)) => {
            let Services { services, .. } = understand(&daemon.get("/v1/services").await?)?;
            of_provider(&services, kind, provider)
        }
        (None, None) => Ok(Vec::new()),
    }
}

/// The services of a provider for which an order makes sense; where there is none of these all of them, so that the
/// daemon says why.
fn of_provider(services: &[Service], kind: OrderKind, provider: &str) -> Result<Vec<String>, Stop> {
    let same = |service: &&Service| service.provider.to_lowercase() == provider.to_lowercase();
    let theirs: Vec<&Service> = services.iter().filter(same).collect();
    if theirs.is_empty() {
        return Err(Stop::Failed(no_provider(services, provider)));
    }
    let sensible = |service: &&&Service| match kind {
        OrderKind::Suspend => service.state != "decommissioned",
        OrderKind::Resume => service.state == "suspended",
        OrderKind::Decommission => true,
    };
    let chosen: Vec<&&Service> = theirs.iter().filter(sensible).collect();
    let names = |chosen: Vec<&&Service>| chosen.iter().map(|service| service.name.clone()).collect();
    Ok(match chosen.is_empty() {
        true => names(theirs.iter().collect()),
        false => names(chosen),
    })
}

fn no_provider(services: &[Service], provider: &str) -> String {
    let known: BTreeSet<&str> = services.iter().map(|service| service.provider.as_str()).collect();
    let known: Vec<String> = known.iter().map(|name| format!("{name:?}")).collect();
    match known.is_empty() {
        true => format!("no service has the provider {provider:?}: there is no service"),
        false => format!("no service has the provider {provider:?}; there are {}", known.join(", ")),
    }
}

async fn give(
    daemon: &Daemon,
    kind: OrderKind,
    name: &str,
    reason: &str,
    console: &mut Console<'_>,
) -> Result<(), Stop> {
    let request = OrderRequest { reason: reason.to_owned() };
    let request = serde_json::to_string(&request).map_err(|error| Stop::Failed(error.to_string()))?;
    let body = daemon.post(&format!("/v1/services/{name}/{}", kind.as_str()), request).await?;
    let ordering: Ordering = understand(&body)?;
    match console.json {
        true => console.print(body)?,
        false => console.print(text(&ordering))?,
    }
    // The next order of several may take its time.
    console.flush()?;
    remarks(&ordering, console)
}

/// Says what is not as it should be.
pub fn remarks(ordering: &Ordering, console: &mut Console<'_>) -> Result<(), Stop> {
    let name = &ordering.service;
    if !ordering.recorded {
        console.note(format_args!("{NOT_ON_RECORD} ({name})"));
    }
    for warning in &ordering.warnings {
        console.note(format_args!("picoseg: {name}: {}", plain(warning)));
    }
    let residue = ordering.teardown.as_ref().map_or(&[][..], |teardown| teardown.residue.as_slice());
    for rest in residue {
        console.note(format_args!("picoseg: {name}: not torn down: {}", plain(rest)));
    }
    match residue.is_empty() {
        true => Ok(()),
        // The order is in force, but its proof failed.
        false => Err(Stop::Said(Exit::Failed)),
    }
}

fn text(ordering: &Ordering) -> String {
    let torn = ordering.teardown.as_ref().map(torn_down).unwrap_or_default();
    plain(&format!("{} is {}{torn}", ordering.service, ordering.state)).into_owned()
}

fn torn_down(teardown: &Teardown) -> String {
    let sockets = counted(teardown.sockets_closed, "socket");
    let flows = counted(teardown.flows_removed, "tracked flow");
    let left = match teardown.residue.is_empty() {
        true => "nothing is left",
        false => "something is left",
    };
    format!(": closed {sockets}, removed {flows}, {left}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, provider: &str, state: &str) -> Service {
        Service {
            name: name.into(),
            provider: provider.into(),
            owner: "o".into(),
            state: state.into(),
            mode: "enforce".into(),
            commission: chrono::DateTime::UNIX_EPOCH,
            decommission: chrono::DateTime::UNIX_EPOCH,
            opens_at: None,
            closes_at: None,
            attempts: 0,
            policies: Vec::new(),
        }
    }

    #[test]
    fn a_provider_is_compared_as_a_whole_whatever_the_case() {
        let services = [
            service("a", "Acme Ltd", "open"),
            service("b", "ACME LTD", "closed"),
            service("c", "Acme", "open"),
        ];
        assert_eq!(of_provider(&services, OrderKind::Suspend, "acme ltd").unwrap(), ["a", "b"]);
        assert_eq!(of_provider(&services, OrderKind::Suspend, "acme").unwrap(), ["c"]);
        let Err(Stop::Failed(why)) = of_provider(&services, OrderKind::Suspend, "Acm") else {
            panic!("none")
        };
        assert_eq!(why, r#"no service has the provider "Acm"; there are "ACME LTD", "Acme", "Acme Ltd""#);
    }

    #[test]
    fn of_several_services_those_are_meant_for_which_the_order_makes_sense() {
        let services =
            [service("a", "P", "open"), service("b", "P", "suspended"), service("c", "P", "decommissioned")];
        let names = |kind| of_provider(&services, kind, "P").unwrap();
        assert_eq!(names(OrderKind::Suspend), ["a", "b"]);
        assert_eq!(names(OrderKind::Resume), ["b"]);
        assert_eq!(names(OrderKind::Decommission), ["a", "b", "c"]);
        let ended = [service("c", "P", "decommissioned")];
        assert_eq!(of_provider(&ended, OrderKind::Suspend, "P").unwrap(), ["c"], "the daemon says why not");
    }
}
