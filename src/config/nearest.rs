//! Which of the valid words somebody may have meant.

use std::str::FromStr as _;

use chrono_tz::{TZ_VARIANTS, Tz};

/// The most words that are proposed.
const MOST: usize = 3;

/// The longest word that is compared; nobody misspells into more.
const LONGEST: usize = 80;

/// A help text for an unknown word: the valid words nearest to it, or all of them where they are few and none is near.
pub(super) fn help(word: &str, valid: &[&str]) -> String {
    let near = nearest(word, valid);
    if !near.is_empty() {
        return format!("did you mean {}?", alternatives(&near));
    }
    match valid {
        [] => "there is none to choose from".to_owned(),
        [only] => format!("the only valid one is `{only}`"),
        few if few.len() <= 16 => format!("valid are {}", listing(few)),
        many => format!("the nearest are {}", listing(&ranked(word, many))),
    }
}

/// A help text for an unknown time zone; a city alone finds its zone.
pub(super) fn zone_help(word: &str) -> String {
    if let Some(zone) = zone_of_city(word) {
        return format!("did you mean `{zone}`?");
    }
    let names: Vec<&str> = TZ_VARIANTS.iter().map(|zone| zone.name()).collect();
    match nearest(word, &names).as_slice() {
        [] => format!("zones are named as in \"Europe/Berlin\"; {}", help(word, &names)),
        near => format!("did you mean {}?", alternatives(near)),
    }
}

/// `a`, `b` or `c`.
fn alternatives(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => format!("`{one}`"),
        [first @ .., last] => format!("{} or `{last}`", listing(first)),
    }
}

/// `a`, `b`, `c`.
pub(super) fn listing(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    quoted.join(", ")
}

/// Up to three of the valid words that differ by few letters, the nearest first.
pub(super) fn nearest<'v>(word: &str, valid: &[&'v str]) -> Vec<&'v str> {
    if word.chars().count() > LONGEST {
        return Vec::new();
    }
    let word = word.to_lowercase();
    let far = word.chars().count().div_ceil(3).max(1);
    let mut near: Vec<(usize, &str)> = valid
        .iter()
        .map(|other| (strsim::osa_distance(&word, &other.to_lowercase()), *other))
        .filter(|(distance, _)| *distance <= far)
        .collect();
    near.sort();
    let best = near.first().map_or(0, |(distance, _)| *distance);
    near.into_iter()
        .filter(|(distance, _)| *distance <= best + 1)
        .take(MOST)
        .map(|(_, other)| other)
        .collect()
}

/// The three most similar words, however far.
fn ranked<'v>(word: &str, valid: &[&'v str]) -> Vec<&'v str> {
    let word: String = word.to_lowercase().chars().take(LONGEST).collect();
    let likeness = |other: &&str| strsim::jaro_winkler(&word, &other.to_lowercase());
    let mut all: Vec<(f64, &str)> = valid.iter().map(|other| (likeness(other), *other)).collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    all.into_iter().take(MOST).map(|(_, other)| other).collect()
}

/// The zone whose last part is this word: `Berlin`, `new york`.
fn zone_of_city(word: &str) -> Option<&'static str> {
    let wanted = word.trim().replace(' ', "_").to_lowercase();
    let name = TZ_VARIANTS.iter().map(|zone| zone.name()).find(|name| {
        let lower = name.to_lowercase();
        lower == wanted || lower.rsplit('/').next() == Some(wanted.as_str())
    })?;
    Tz::from_str(name).is_ok().then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_word_finds_its_neighbours() {
        assert_eq!(nearest("comission", &["commission", "decommission"]), ["commission"]);
        assert_eq!(nearest("Enforce", &["enforce", "observe"]), ["enforce"]);
        assert!(nearest("zebra", &["enforce", "observe"]).is_empty());
        assert_eq!(help("zebra", &["a", "b"]), "valid are `a`, `b`");
        assert_eq!(help("x", &[]), "there is none to choose from");
    }

    #[test]
    fn a_zone_is_found_by_city_and_by_likeness() {
        assert_eq!(zone_help("berlin"), "did you mean `Europe/Berlin`?");
        assert_eq!(zone_help("New York"), "did you mean `America/New_York`?");
        assert!(zone_help("Europe/Berln").starts_with("did you mean `Europe/Berlin`"));
        assert!(zone_help("Mars/Olympus").contains("the nearest are "));
    }
}
