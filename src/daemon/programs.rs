//! What is known of programs beside their places, in the words of `show`.

use super::engine::Engine;
use super::subjects::ProgramState;
use crate::api::body::{Finding, Show};
use crate::model::{Policy, ServiceName};

/// Says why a program has no place.
pub fn explain(engine: &Engine, name: &ServiceName, shown: &mut Show) {
    for (policy, state) in programs(engine, name) {
        let id = policy.id.to_string();
        let its = shown.subjects.iter_mut().find(|subject| subject.policy == id && subject.reason.is_some());
        if let Some(subject) = its {
            let no_process = || "no process of it was started since it is followed".to_owned();
            subject.reason = Some(state.unresolved.clone().unwrap_or_else(no_process));
        }
    }
}

/// Processes of a program that were started before anybody looked: their sockets were made elsewhere.
pub fn strangers(engine: &Engine, name: &ServiceName) -> Vec<Finding> {
    let outside = programs(engine, name).into_iter().filter(|(_, state)| state.outside > 0);
    let finding = |(policy, state): (&Policy, &ProgramState)| Finding {
        policy: policy.id.to_string(),
        what: format!(
            "{} processes of {} were started before it was followed",
            state.outside, policy.subject
        ),
        remedy: "start them anew".to_owned(),
    };
    outside.map(finding).collect()
}

fn programs<'a>(engine: &'a Engine, name: &ServiceName) -> Vec<(&'a Policy, &'a ProgramState)> {
    let Some(standing) = engine.world.standing(name) else { return Vec::new() };
    let policies = standing.service.policies.iter();
    policies.filter_map(|policy| Some((policy, engine.subjects.program(&policy.subject)?))).collect()
}
