//! The reason that every order carries.

/// The longest reason, in characters.
pub const MAX: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReasonError {
    #[error("the reason is empty: say why, it goes on record")]
    Empty,
    #[error("the reason is longer than {MAX} characters")]
    TooLong,
    #[error("the reason has control characters: it is one line of text")]
    Control,
}

/// Insists on one line of text.
pub fn check(reason: &str) -> Result<(), ReasonError> {
    if reason.trim().is_empty() {
        return Err(ReasonError::Empty);
    }
    if reason.chars().count() > MAX {
        return Err(ReasonError::TooLong);
    }
    match reason.chars().any(char::is_control) {
        true => Err(ReasonError::Control),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_of_text() {
        assert_eq!(check("contract ended"), Ok(()));
        assert_eq!(check(&"ä".repeat(MAX)), Ok(()));
        assert_eq!(check(" \t"), Err(ReasonError::Empty));
        assert_eq!(check(&"a".repeat(MAX + 1)), Err(ReasonError::TooLong));
        assert_eq!(check("a\nb"), Err(ReasonError::Control));
        assert_eq!(check("a\u{1b}[2J"), Err(ReasonError::Control));
    }
}
