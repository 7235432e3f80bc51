//! Text from elsewhere made harmless where it is shown: names of providers, reasons and programs are not ours.

use std::borrow::Cow;

/// The text with characters escaped that could end a line, move a cursor or reverse the direction of what follows.
pub fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unprintable) {
        return Cow::Borrowed(text);
    }
    let escaped = text.chars().map(|c| match is_unprintable(c) {
        true => c.escape_unicode().to_string(),
        false => c.to_string(),
    });
    Cow::Owned(escaped.collect())
}

fn is_unprintable(c: char) -> bool {
    let unseen = matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    c.is_control() || unseen
}

/// The text as Markdown that shows it letter by letter: no markup, no HTML, no link, and nobody is notified.
pub fn markdown(text: &str) -> String {
    let mut escaped = String::new();
    for c in plain(text).chars() {
        match c {
            // An empty comment keeps GitHub from reading a name behind it.
            '@' => escaped.push_str("@<!-- -->"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            // CommonMark 2.4: a backslash takes the meaning from any ASCII punctuation.
            '.' if escaped.to_ascii_lowercase().ends_with("www") => escaped.push_str("\\."),
            ',' | '.' | '%' | '/' | '?' | '\'' | '-' => escaped.push(c),
            _ if c.is_ascii_punctuation() => escaped.extend(['\\', c]),
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_elsewhere_cannot_move_the_cursor() {
        assert_eq!(plain("a\u{1b}[2Jb\nc\u{202e}"), "a\\u{1b}[2Jb\\u{a}c\\u{202e}");
        assert_eq!(plain("Überweisung, Inc."), "Überweisung, Inc.");
    }

    #[test]
    fn text_from_elsewhere_is_no_markup() {
        for (text, escaped) in [
            ("Stripe, Inc.", "Stripe, Inc."),
            ("a | b", "a \\| b"),
            ("<script>", "&lt;script&gt;"),
            ("[x](http://y)", "\\[x\\]\\(http\\://y\\)"),
            ("www.example.com", "www\\.example.com"),
            ("**bold** `code` #1 $x$", "\\*\\*bold\\*\\* \\`code\\` \\#1 \\$x\\$"),
            ("&lt;", "&amp;lt\\;"),
            ("a\nb", "a\\\\u\\{a\\}b"),
            ("ask @security", "ask @<!-- -->security"),
        ] {
            assert_eq!(markdown(text), escaped);
        }
    }
}
