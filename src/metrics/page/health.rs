//! The top of the page: is everything in order, and if not, what does it mean.

use std::fmt::{self, Write};

use super::html::{Count, Text, When};
use crate::metrics::facts::Facts;

/// One fact of health.
struct Card<'a> {
    title: &'static str,
    grade: Grade,
    /// HTML.
    says: String,
    /// What is wrong, as the daemon says it, and what follows.
    wrong: Option<(&'a str, &'static str)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Grade {
    Good,
    /// Somebody should know.
    Note,
    Bad,
}

impl Grade {
    /// Class and word.
    fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Note => "note",
            Self::Bad => "bad",
        }
    }
}

pub fn write(page: &mut String, facts: &Facts) -> fmt::Result {
    let cards = cards(facts);
    let alerts = cards.iter().filter_map(|card| Some((card.title, card.wrong?)));
    for (title, (error, consequence)) in alerts {
        let error = Text(error);
        writeln!(
            page,
            "<p class=\"alert\" role=\"alert\"><strong>{title}:</strong> {error}. {consequence}</p>"
        )?;
    }
    page.push_str("<section id=\"health\" aria-labelledby=\"h-health\">\n<h2 id=\"h-health\">Health</h2>\n<dl class=\"cards\">\n");
    for Card { title, grade, says, .. } in &cards {
        let grade = grade.as_str();
        writeln!(page, "<div class=\"card {grade}\"><dt>{title}</dt><dd>{says}</dd></div>")?;
    }
    page.push_str("</dl>\n");
    weaker(page, &facts.weaker)?;
    page.push_str("</section>\n");
    Ok(())
}

fn cards(facts: &Facts) -> Vec<Card<'_>> {
    let when = |at| When { at, now: facts.now };
    let since = when(facts.in_force_since);
    let health = |title, error: &'_ Option<String>, good: String, bad: &str| {
        let (grade, says) = match error {
            None => (Grade::Good, good),
            Some(_) => (Grade::Bad, bad.to_owned()),
        };
        (title, grade, says)
    };
    let table = health("Table", &facts.table_error, format!("in force since {since}"), "cannot be read");
    let synced = facts.last_sync.map(|at| format!(", last synced {}", when(at))).unwrap_or_default();
    let store = health("Store", &facts.store_error, format!("works{synced}"), "does not work");
    let config = health("Configuration", &facts.config_error, "in force".to_owned(), "not accepted");
    let meanings = [
        (table, &facts.table_error, "What the kernel lets pass now is not known."),
        (store, &facts.store_error, "Nothing opens; closing goes on."),
        (config, &facts.config_error, "What was in force before stays in force."),
    ];
    let mut cards: Vec<Card<'_>> = meanings
        .into_iter()
        .map(|((title, grade, says), error, means)| Card {
            title,
            grade,
            says,
            wrong: error.as_deref().map(|error| (error.trim_end_matches('.'), means)),
        })
        .collect();
    cards.extend([mode(facts), drift(facts), ledger(facts), next(facts), subjects(facts)]);
    cards
}

fn card(title: &'static str, grade: Grade, says: String) -> Card<'static> {
    Card { title, grade, says, wrong: None }
}

fn mode(facts: &Facts) -> Card<'static> {
    match facts.enforcing {
        true => card("Mode", Grade::Good, "enforce".to_owned()),
        false => card("Mode", Grade::Note, "observe: nothing is refused".to_owned()),
    }
}

fn drift(facts: &Facts) -> Card<'static> {
    match facts.drift_at {
        None => card("Drift", Grade::Good, "none since the start".to_owned()),
        Some(at) => {
            let last = When { at, now: facts.now };
            card("Drift", Grade::Note, format!("{} times, last {last}", Count(facts.drift)))
        }
    }
}

fn ledger(facts: &Facts) -> Card<'static> {
    let Some(head) = facts.ledger else {
        return card("Ledger", Grade::Bad, "cannot be read".to_owned());
    };
    let at = head.at.map(|at| format!(", {}", When { at, now: facts.now })).unwrap_or_default();
    card("Ledger", Grade::Good, format!("entry {}{at}", Count(head.seq)))
}

fn next(facts: &Facts) -> Card<'static> {
    let says = match &facts.next_transition {
        None => "time changes nothing".to_owned(),
        Some(next) => {
            let at = When { at: next.at, now: facts.now };
            format!("{} becomes {}, {at}", Text(next.service.as_str()), next.to)
        }
    };
    card("Next transition", Grade::Good, says)
}

fn subjects(facts: &Facts) -> Card<'static> {
    let failing = match facts.host_names_failing {
        0 => String::new(),
        failing => format!("; {failing} of {} host names do not resolve", facts.host_names),
    };
    match (facts.unresolved_subjects, facts.host_names_failing) {
        (0, 0) => card("Subjects", Grade::Good, "all resolved".to_owned()),
        (0, _) => card("Subjects", Grade::Note, format!("all resolved{failing}")),
        (nowhere, _) => {
            let says = match facts.unresolved_services {
                1 => format!("{nowhere} nowhere right now, of 1 service: refused{failing}"),
                services => format!("{nowhere} nowhere right now, of {services} services: refused{failing}"),
            };
            card("Subjects", Grade::Note, says)
        }
    }
}

fn weaker(page: &mut String, weaker: &[String]) -> fmt::Result {
    if weaker.is_empty() {
        return Ok(());
    }
    let promises = if weaker.len() == 1 { "promise is" } else { "promises are" };
    writeln!(page, "<details><summary>{} {promises} weaker on this host</summary>\n<ul>", weaker.len())?;
    for sentence in weaker {
        writeln!(page, "<li>{}</li>", Text(sentence))?;
    }
    page.push_str("</ul></details>\n");
    Ok(())
}
