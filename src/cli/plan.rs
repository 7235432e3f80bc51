//! `plan`.

use super::console::Console;
use super::daemon::{Daemon, understand};
use super::stop::{Exit, Stop};
use super::table::{Table, counted, plain};
use crate::api::body::{Change, Cut, Plan};

pub async fn run(daemon: &Daemon, exit_code: bool, console: &mut Console<'_>) -> Result<(), Stop> {
    let body = daemon.get_slowly("/v1/plan").await?;
    let plan: Plan = understand(&body)?;
    match console.json {
        true => console.print(body)?,
        false => {
            console.print(text(&plan, console.colour))?;
            plan.warnings.iter().for_each(|warning| console.note(plain(&format!("warning: {warning}"))));
        }
    }
    match exit_code && !plan.changes.is_empty() {
        true => Err(Stop::Said(Exit::Changes)),
        false => Ok(()),
    }
}

fn text(plan: &Plan, colour: bool) -> String {
    if plan.changes.is_empty() {
        return "nothing to change: what the files say is in force".to_owned();
    }
    let mut table = Table::new(["CHANGE", "NAME", "DETAIL"]);
    for Change { kind, name, detail } in &plan.changes {
        table.push([kind.into(), name.as_deref().unwrap_or("-").into(), detail.into()]);
    }
    let changes = table.take(colour);
    if plan.cuts_total == 0 {
        return format!("{changes}\n\nno live connection would be cut");
    }
    let mut table = Table::new(["BY", "SUBJECT", "PROTOCOL", "LOCAL", "REMOTE"]);
    plan.cuts.iter().for_each(|cut| table.push(row(cut)));
    let total = counted(plan.cuts_total, "live connection");
    let more = match plan.cuts_total - plan.cuts.len().min(plan.cuts_total) {
        0 => String::new(),
        more => format!("\nand {more} more"),
    };
    format!("{changes}\n\n{total} would be cut:\n{}{more}", table.take(colour))
}

fn row(cut: &Cut) -> [super::table::Cell; 5] {
    let Cut { service, policy, subject, protocol, local, remote } = cut;
    let by = service.as_deref().or(policy.as_deref()).unwrap_or("-");
    [by.into(), subject.as_deref().unwrap_or("-").into(), protocol.into(), local.into(), remote.into()]
}
