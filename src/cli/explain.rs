//! `explain`: would this packet pass, and why.

use super::arguments;
use super::compile;
use super::console::Console;
use super::daemon::{Daemon, understand};
use super::stop::Stop;
use super::table::plain;
use super::when::{self, When};
use crate::api::body::Explained;
use crate::api::client::{ClientError, escaped};
use crate::api::explain::{self, FAILSAFE, Facts, Question, in_words};
use crate::compile::Standing;
use crate::files::{self, SettingsFile};
use crate::kernel::cgroups::Hierarchy;
use crate::kernel::clock;
use crate::model::Record;
use crate::resolvers;

pub async fn run(
    daemon: &Daemon,
    settings: &SettingsFile,
    asked: &arguments::Explain,
    console: &mut Console<'_>,
) -> Result<(), Stop> {
    let arguments::Explain { subject, remote, direction, at } = asked;
    let at = match at {
        When::Now => None,
        When::At(instant) => Some(*instant),
    };
    let question = Question { subject: subject.clone(), remote: *remote, direction: *direction, at };
    let body = match daemon.get(&path(&question)).await {
        Err(absent @ (ClientError::Absent { .. } | ClientError::Silent { .. })) => {
            console.note(format_args!(
                "picoseg: {absent}\npicoseg: this is what the files say: orders and learned addresses are not known"
            ));
            let explained = offline(settings, &question, console)?;
            serde_json::to_string(&explained).map_err(|error| Stop::Failed(error.to_string()))?
        }
        answered => answered?,
    };
    match console.json {
        true => console.print(body),
        false => console.print(plain(&text(&question, &understand(&body)?))),
    }
}

fn path(question: &Question) -> String {
    let Question { subject, remote, direction, at } = question;
    let (subject, remote) = (escaped(&subject.to_string()), escaped(&remote.to_string()));
    let at = at.map(|at| format!("&at={}", escaped(&when::print(at)))).unwrap_or_default();
    format!("/v1/explain?subject={subject}&remote={remote}&direction={direction}{at}")
}

/// From the files and this host's cgroups.
fn offline(
    settings: &SettingsFile,
    question: &Question,
    console: &mut Console<'_>,
) -> Result<Explained, Stop> {
    let loaded = files::load(settings).map_err(Stop::Invalid)?;
    let resolution = compile::resolve(&loaded, console);
    let hierarchy = Hierarchy::find().ok();
    let now = clock::now();
    let at = question.at.unwrap_or(now);
    let record = Record::default();
    let approved = loaded.settings.approval.required.is_empty();
    let standings = loaded.services.values().map(|service| Standing { service, record: &record, approved });
    let services: Vec<Standing<'_>> = standings.filter(|standing| standing.governs(at)).collect();
    let facts = Facts {
        settings: &loaded.settings,
        services: &services,
        segments: &loaded.segments,
        resolvers: &resolvers::read(),
        places: &|subject| resolution.get(subject).map(|places| places.to_vec()).unwrap_or_default(),
        hierarchy: hierarchy.as_ref(),
        now,
    };
    Ok(explain::answer(question, &facts))
}

fn text(question: &Question, explained: &Explained) -> String {
    let packet = in_words(question);
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    match explained.verdict.as_str() {
        "allow" if explained.reason.as_deref() == Some(FAILSAFE) => {
            format!("{packet}: allowed, because the fail-safe keeps the port reachable")
        }
        "allow" => {
            let until = explained.until.map(|until| format!(" until {}", when::print(until)));
            let tls = explained
                .tls
                .as_ref()
                .map(|_| ", if the client begins with a TLS ClientHello")
                .unwrap_or_default();
            format!("{packet}: allowed by {}{}{tls}", part(&explained.policy), until.unwrap_or_default())
        }
        "refuse" => refusal(&packet, explained),
        _ => format!("{packet}: not governed: nothing is about it"),
    }
}

fn refusal(packet: &str, explained: &Explained) -> String {
    let by = explained.policy.as_ref().or(explained.service.as_ref());
    let by = by.map(|by| format!(" by {by}")).unwrap_or_default();
    let reason = explained.reason.clone().unwrap_or_default();
    let until = match explained.until {
        Some(until) => format!("; it will pass from {} on", when::print(until)),
        None => "; time alone does not change that".to_owned(),
    };
    let observed = match explained.mode.as_deref() {
        Some("observe") => "; in observe mode: it is recorded and passes",
        Some(_) | None => "",
    };
    format!("{packet}: refused{by}, {reason}{until}{observed}")
}
