//! Cron expressions: the five or six fields that the contract has, and nothing else of what other crons have.
//!
//! Each field is expanded here and handed to the `cron` crate as a plain list, so that none of that crate's
//! readings of steps, ranges, `?` and numeric days can differ from what is documented. Both the day of month and the
//! day of week must match: the crate filters the days of the month by the day of the week.

use std::collections::BTreeSet;

use super::nearest;
use super::time::Mistake;
use crate::model::CronExpression;

/// The longest expression that is read, in bytes; the longest sensible one has about 500.
const LONGEST: usize = 1024;

/// One field: its word, its range and, where it has them, its names from `low` on.
struct Field {
    word: &'static str,
    low: u8,
    high: u8,
    names: &'static [&'static str],
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Sunday first, as crons count; ranges do not wrap, so it matters.
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

const FIELDS: [Field; 6] = [
    field("second", 0, 59, &[]),
    field("minute", 0, 59, &[]),
    field("hour", 0, 23, &[]),
    field("day of month", 1, 31, &[]),
    field("month", 1, 12, &MONTHS),
    DAY_OF_WEEK,
];

const DAY_OF_WEEK: Field = field("day of week", 0, 6, &DAYS);

const fn field(word: &'static str, low: u8, high: u8, names: &'static [&'static str]) -> Field {
    Field { word, low, high, names }
}

/// Reads an expression, or returns everything that is wrong with it.
pub(super) fn parse(text: &str) -> Result<CronExpression, Vec<Mistake>> {
    let parts = fields(text).map_err(|mistake| vec![mistake])?;
    let mut mistakes = Vec::new();
    let mut sets = Vec::new();
    for (field, part) in FIELDS.iter().zip(&parts) {
        match expand(field, part) {
            Ok(set) => sets.push(set),
            Err(found) => mistakes.extend(found),
        }
    }
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    fires(&sets, text).map_err(|mistake| vec![mistake])?;
    let normalised: Vec<String> = FIELDS.iter().zip(&sets).map(|(field, set)| print(field, set)).collect();
    CronExpression::new(text, &normalised.join(" "))
        .map_err(|error| vec![Mistake::new(format!("{text:?}: {error}"), FIELDS_HELP)])
}

const FIELDS_HELP: &str = "write minute, hour, day of month, month and day of week, for example \"0 9 * * Mon-Fri\"; seconds may stand first";

/// The six fields as written, seconds first.
fn fields(text: &str) -> Result<Vec<&str>, Mistake> {
    if text.len() > LONGEST {
        return Err(Mistake::new(format!("the cron expression is longer than {LONGEST} bytes"), FIELDS_HELP));
    }
    if text.trim_start().starts_with('@') {
        return Err(shorthand(text.trim()));
    }
    let mut parts: Vec<&str> = text.split_ascii_whitespace().collect();
    match parts.len() {
        5 => parts.insert(0, "0"),
        6 => {}
        7 => {
            let help = "leave the seventh out: years are bounded by [lifetime]";
            return Err(Mistake::new(format!("{text:?} has 7 fields"), help));
        }
        other => {
            let fields = if other == 1 { "field" } else { "fields" };
            return Err(Mistake::new(format!("{text:?} has {other} {fields}"), FIELDS_HELP));
        }
    }
    Ok(parts)
}

fn shorthand(text: &str) -> Mistake {
    let meaning = match text.to_lowercase().as_str() {
        "@hourly" => Some("0 * * * *"),
        "@daily" | "@midnight" => Some("0 0 * * *"),
        "@weekly" => Some("0 0 * * Sun"),
        "@monthly" => Some("0 0 1 * *"),
        "@yearly" | "@annually" => Some("0 0 1 1 *"),
        _ => None,
    };
    let help = meaning.map_or(FIELDS_HELP.to_owned(), |meaning| format!("write \"{meaning}\""));
    Mistake::new(format!("{text:?}: shorthands are not read"), help)
}

/// Every value that a field names.
fn expand(field: &Field, text: &str) -> Result<BTreeSet<u8>, Vec<Mistake>> {
    if field.word == DAY_OF_WEEK.word && text.split(',').any(is_numeric_day) {
        return Err(vec![numeric_days(text)]);
    }
    let mut set = BTreeSet::new();
    let mut mistakes = Vec::new();
    for item in text.split(',') {
        match expand_item(field, item) {
            Ok(values) => set.extend(values),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    if mistakes.is_empty() { Ok(set) } else { Err(mistakes) }
}

/// The values of `*`, `a`, `a-b`, each with or without `/step`.
fn expand_item(field: &Field, item: &str) -> Result<Vec<u8>, Mistake> {
    let (base, step) = match item.split_once('/') {
        Some((base, step)) => (base, Some(parse_step(field, step)?)),
        None => (item, None),
    };
    let every = usize::from(step.unwrap_or(1));
    if base == "*" {
        return Ok((field.low..=field.high).step_by(every).collect());
    }
    let Some((first, last)) = base.split_once('-') else {
        let first = parse_value(field, base)?;
        let last = if step.is_some() { field.high } else { first };
        return Ok((first..=last).step_by(every).collect());
    };
    let (from, to) = (parse_value(field, first)?, parse_value(field, last)?);
    if from > to {
        let named = !first.bytes().all(|b| b.is_ascii_digit());
        return Err(wrapping(field, base, from, to, every, named));
    }
    Ok((from..=to).step_by(every).collect())
}

fn parse_step(field: &Field, text: &str) -> Result<u8, Mistake> {
    let step = number(text).filter(|step| (1..=field.high.into()).contains(step));
    step.and_then(|step| u8::try_from(step).ok()).ok_or_else(|| {
        let message = format!("{text:?} is no step of the field {}", field.word);
        Mistake::new(message, format!("a step is a number from 1 to {}", field.high))
    })
}

fn number(text: &str) -> Option<u32> {
    let plain = (1..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

fn parse_value(field: &Field, text: &str) -> Result<u8, Mistake> {
    if let Some(value) = number(text).and_then(|n| u8::try_from(n).ok()) {
        let known = (field.low..=field.high).contains(&value);
        return known.then_some(value).ok_or_else(|| no_value(field, text));
    }
    let index = field.names.iter().position(|name| is_name(text, name));
    index
        .and_then(|index| u8::try_from(index).ok())
        .map(|index| field.low + index)
        .ok_or_else(|| no_value(field, text))
}

/// True for the whole name or its first three letters, in any case.
fn is_name(text: &str, name: &str) -> bool {
    text.eq_ignore_ascii_case(name) || name.get(..3).is_some_and(|short| text.eq_ignore_ascii_case(short))
}

fn no_value(field: &Field, text: &str) -> Mistake {
    let Field { word, low, high, .. } = field;
    let message = format!("{text:?} is no value of the field {word}");
    if let Some(help) = foreign_notation(field, text) {
        return Mistake::new(message, help);
    }
    let names: Vec<&str> = field.names.iter().filter_map(|name| name.get(..3)).collect();
    let help = match (*word, text) {
        ("hour", "24") => "midnight is 0".to_owned(),
        (word, _) if word == DAY_OF_WEEK.word => nearest::help(text, &names),
        (_, text)
            if !names.is_empty() && text.bytes().all(|b| b.is_ascii_alphabetic()) && !text.is_empty() =>
        {
            nearest::help(text, &names)
        }
        (word, _) => format!("the field {word} goes from {low} to {high}"),
    };
    Mistake::new(message, help)
}

/// What to write instead of `?`, `L`, `W` and `#`, which some crons have.
fn foreign_notation(field: &Field, text: &str) -> Option<String> {
    if text == "?" {
        return Some("write `*`: day of month and day of week must both match anyway".to_owned());
    }
    if let Some((day, nth)) = text.split_once('#') {
        let first = number(nth).filter(|n| (1..=4).contains(n)).map(|n| n * 7 - 6)?;
        return Some(format!(
            "`#` is not read: write day of month {first}-{} and day of week {day}",
            first + 6
        ));
    }
    let digits = text.trim_end_matches(['L', 'W', 'l', 'w']);
    let is_foreign = digits.len() < text.len() && (digits.is_empty() || number(digits).is_some());
    let is_last_weekday = field.word == DAY_OF_WEEK.word && text.len() == 4 && text.ends_with(['L', 'l']);
    (is_foreign || is_last_weekday).then(|| {
        "`L` and `W` are not read: list the days, or name the instants with [[window]] open and close"
            .to_owned()
    })
}

/// The mistake about a range that ends before it begins; proposes the list.
fn wrapping(field: &Field, range: &str, from: u8, to: u8, every: usize, named: bool) -> Mistake {
    let values = (from..=field.high).chain(field.low..=to).step_by(every);
    let list: Vec<String> = values.map(|value| spell(field, value, named)).collect();
    let message = format!("the range {range:?} of the field {} ends before it begins", field.word);
    Mistake::new(message, format!("ranges do not wrap: write the list {}", list.join(",")))
}

fn spell(field: &Field, value: u8, named: bool) -> String {
    let index = usize::from(value.saturating_sub(field.low));
    let name = field.names.get(index).and_then(|name| name.get(..3));
    match name {
        Some(name) if named => name.to_owned(),
        Some(_) | None => value.to_string(),
    }
}

fn is_numeric_day(item: &str) -> bool {
    let base = item.split('/').next().unwrap_or_default();
    base.split('-').any(|end| number(end).is_some())
}

/// Crons disagree about numeric days (Sunday is 0 or 7 in one, 1 in another), so none is read.
fn numeric_days(text: &str) -> Mistake {
    let message = format!("{text:?}: days of the week are written by name");
    let names: Option<Vec<String>> = text.split(',').map(name_days).collect();
    let help = match names {
        Some(names) => {
            format!("write {}, if you mean crontab's numbers, where 0 and 7 are Sunday", names.join(","))
        }
        None => "write Mon-Fri or Sat,Sun".to_owned(),
    };
    Mistake::new(message, help)
}

/// One entry of crontab's numeric days by name: `1-5` is `Mon-Fri`, `5-7` is `Fri,Sat,Sun`.
fn name_days(item: &str) -> Option<String> {
    let (base, step) = match item.split_once('/') {
        Some((base, step)) => (base, Some(number(step).filter(|step| *step > 0)?)),
        None => (item, None),
    };
    let day = |text: &str| -> Option<u32> {
        let named = DAYS.iter().position(|name| is_name(text, name));
        number(text).or(named.and_then(|n| u32::try_from(n).ok())).filter(|n| *n <= 7)
    };
    let short = |n: u32| DAYS.get(usize::try_from(n % 7).ok()?)?.get(..3);
    let suffix = step.map_or(String::new(), |step| format!("/{step}"));
    let Some((first, last)) = base.split_once('-') else {
        return (base == "*")
            .then(|| "*".to_owned())
            .or_else(|| Some(short(day(base)?)?.to_owned()))
            .map(|name| name + &suffix);
    };
    let (first, last) = (day(first)?, day(last)?);
    let days = || {
        (first..=last)
            .step_by(step.and_then(|step| usize::try_from(step).ok()).unwrap_or(1))
            .map(short)
            .collect::<Option<Vec<_>>>()
    };
    match (first, last) {
        (first, last) if first > last => None,
        (first, last) if last - first >= 6 && step.is_none() => Some("*".to_owned()),
        (_, 7) => Some(days()?.join(",")),
        (first, last) => Some(format!("{}-{}{suffix}", short(first)?, short(last)?)),
    }
}

/// Refuses an expression without any day in any year, such as the 30th of February.
fn fires(sets: &[BTreeSet<u8>], text: &str) -> Result<(), Mistake> {
    let [_, _, _, days, months, _] = sets else {
        return Ok(());
    };
    let longest = months.iter().map(|month| days_of(*month)).max().unwrap_or(0);
    if days.first().is_some_and(|first| *first <= longest) {
        return Ok(());
    }
    Err(Mistake::new(
        format!("the window never opens: {text:?} names a day that none of its months has"),
        format!("the longest of its months has {longest} days"),
    ))
}

fn days_of(month: u8) -> u8 {
    match month {
        2 => 29,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The field as the `cron` crate shall read it.
fn print(field: &Field, set: &BTreeSet<u8>) -> String {
    if set.len() > usize::from(field.high - field.low) {
        return "*".to_owned();
    }
    let named = field.word == DAY_OF_WEEK.word;
    let values: Vec<String> = set.iter().map(|value| spell(field, *value, named)).collect();
    values.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, Datelike};

    fn normalised(text: &str) -> String {
        parse(text).unwrap().schedule().to_string()
    }

    fn help(text: &str) -> String {
        let mistakes = parse(text).unwrap_err();
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        mistakes[0].help.clone()
    }

    #[test]
    fn five_fields_get_second_zero() {
        assert_eq!(normalised("0 9 * * Mon-Fri"), "0 0 9 * * Mon,Tue,Wed,Thu,Fri");
        assert_eq!(normalised("30 0 9 * * *"), "30 0 9 * * *");
        assert_eq!(normalised("  0\t9 * * *  "), "0 0 9 * * *");
    }

    #[test]
    fn steps_lists_and_names_are_expanded() {
        assert_eq!(normalised("*/20 9-11 1,15 jan-MAR *"), "0 0,20,40 9,10,11 1,15 1,2,3 *");
        assert_eq!(normalised("5/25 0 * December sunday"), "0 5,30,55 0 * 12 Sun");
        assert_eq!(normalised("0 0 * * */2"), "0 0 0 * * Sun,Tue,Thu,Sat");
        assert_eq!(normalised("0 0 * * Sun-Sat"), "0 0 0 * * *");
        assert_eq!(normalised("0 0 29 Feb *"), "0 0 0 29 2 *");
    }

    #[test]
    fn day_of_month_and_day_of_week_must_both_match() {
        let cron = parse("0 9 1-7 * Mon").unwrap();
        let start = DateTime::from_timestamp(1_767_225_600, 0).unwrap();
        for fire in cron.schedule().after(&start).take(30) {
            assert_eq!(fire.weekday(), chrono::Weekday::Mon);
            assert!(fire.day() <= 7, "{fire}");
        }
    }

    #[test]
    fn numeric_days_get_their_names_proposed() {
        for (numbers, names) in [
            ("1-5", "Mon-Fri"),
            ("0", "Sun"),
            ("7", "Sun"),
            ("5-7", "Fri,Sat,Sun"),
            ("0-6", "*"),
            ("1-7", "*"),
            ("1,3,5", "Mon,Wed,Fri"),
            ("1-5/2", "Mon-Fri/2"),
            ("Mon,6", "Mon,Sat"),
        ] {
            let help = help(&format!("0 9 * * {numbers}"));
            assert!(help.starts_with(&format!("write {names},")), "{help}");
        }
        assert_eq!(help("0 9 * * 8"), "write Mon-Fri or Sat,Sun");
    }

    #[test]
    fn a_wrapping_range_gets_its_list_proposed() {
        for (text, list) in [
            ("0 9 * * Fri-Mon", "Fri,Sat,Sun,Mon"),
            ("0 9 * * Sat-Sun", "Sat,Sun"),
            ("0 22-2 * * *", "22,23,0,1,2"),
            ("0 9 * Nov-Feb *", "Nov,Dec,Jan,Feb"),
            ("0 9 * 11-2 *", "11,12,1,2"),
            ("58-1 9 * * *", "58,59,0,1"),
            ("0 9 30-2 * *", "30,31,1,2"),
            ("0 22-4/2 * * *", "22,0,2,4"),
        ] {
            assert_eq!(help(text), format!("ranges do not wrap: write the list {list}"));
        }
    }

    #[test]
    fn what_other_crons_have_is_refused_with_a_way_out() {
        assert_eq!(help("@daily"), "write \"0 0 * * *\"");
        assert!(help("@reboot").starts_with("write minute"));
        assert!(help("0 9 ? * Mon").starts_with("write `*`"));
        assert!(help("0 9 L * *").contains("list the days"));
        assert!(help("0 9 15W * *").contains("list the days"));
        assert!(help("0 9 * * FriL").contains("list the days"));
        assert!(help("0 9 * * Mon#2").contains("day of month 8-14 and day of week Mon"));
        assert!(help("0 0 9 * * * 2026").contains("lifetime"));
    }

    #[test]
    fn nonsense_is_refused_whole() {
        for text in [
            "",
            "* * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * 32 * *",
            "* * * 13 *",
            "*/0 * * * *",
            "*/60 * * * *",
            "1, * * * *",
            ",1 * * * *",
            "1-2-3 * * * *",
            "1/2/3 * * * *",
            "-1 * * * *",
            "1- * * * *",
            "Mon * * * *",
            "* * * Mon *",
            "* * * * Mond",
            "* * * * M",
            "+1 * * * *",
            "99999999999 * * * *",
            "* * ä * *",
            "0 0 30 Feb *",
            "0 0 31 Apr,Jun,9,11 *",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("60 24 32 13 Xyz").unwrap_err().len(), 5);
    }
}
