//! Words of closed sets as somebody wrote them, in queries and on the command line. A wrong one names the right ones.

use crate::model::{Direction, Reason};
use crate::store::Verdict;

pub fn direction(text: &str) -> Result<Direction, String> {
    one_of(text, &Direction::ALL, Direction::as_str)
}

pub fn reason(text: &str) -> Result<Reason, String> {
    one_of(text, &Reason::ALL, Reason::as_str)
}

pub fn verdict(text: &str) -> Result<Verdict, String> {
    one_of(text, &Verdict::ALL, Verdict::as_str)
}

fn one_of<T: Copy>(text: &str, all: &[T], word: impl Fn(T) -> &'static str) -> Result<T, String> {
    let found = all.iter().copied().find(|one| word(*one) == text);
    found.ok_or_else(|| {
        let words: Vec<_> = all.iter().map(|one| word(*one)).collect();
        format!("{text:?} is none of {}", words.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_word_names_the_right_ones() {
        assert_eq!(reason("expired"), Ok(Reason::Expired));
        assert_eq!(verdict("observed"), Ok(Verdict::Observed));
        assert_eq!(direction("in"), Err("\"in\" is none of egress, ingress".to_owned()));
    }
}
