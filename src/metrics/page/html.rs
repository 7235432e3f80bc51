//! Foreign text, times and spans as HTML.

use std::fmt::{self, Display, Formatter};

use chrono::TimeDelta;

use crate::model::Time;

/// Text that cannot be anything but text, neither between tags nor in a quoted attribute.
#[derive(Debug, Clone, Copy)]
pub struct Text<'a>(pub &'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                '\n' | '\t' => f.write_str(" ")?,
                // Neither control characters nor such that turn the line around.
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' => {
                    f.write_str("\u{fffd}")?;
                }
                c if c.is_control() => f.write_str("\u{fffd}")?,
                c => write!(f, "{c}")?,
            }
        }
        Ok(())
    }
}

/// An instant, with how far it is from now.
#[derive(Debug, Clone, Copy)]
pub struct When {
    pub at: Time,
    pub now: Time,
}

/// The same without the distance.
#[derive(Debug, Clone, Copy)]
pub struct Instant(Time);

impl When {
    pub fn plain(self) -> Instant {
        Instant(self.at)
    }
}

impl Display for Instant {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (machine, human) = (self.0.format("%Y-%m-%dT%H:%M:%SZ"), self.0.format("%Y-%m-%d %H:%M:%S"));
        write!(f, "<time datetime=\"{machine}\">{human}</time>")
    }
}

impl Display for When {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { at, now } = *self;
        write!(f, "{} <span class=\"away\">", self.plain())?;
        match at > now {
            true => write!(f, "in {}", Span(at - now))?,
            false => write!(f, "{} ago", Span(now - at))?,
        }
        f.write_str("</span>")
    }
}

/// A length of time in its two largest units.
#[derive(Debug, Clone, Copy)]
struct Span(TimeDelta);

impl Display for Span {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let seconds = self.0.num_seconds().max(0);
        let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
        match (days, hours, minutes) {
            (0, 0, 0) => write!(f, "{seconds} s"),
            (0, 0, minutes) => write!(f, "{minutes} min"),
            (0, hours, minutes) => write!(f, "{hours} h {minutes} min"),
            (days @ 1..=13, hours, _) => write!(f, "{days} d {hours} h"),
            (days, ..) => write!(f, "{days} d"),
        }
    }
}

/// A count with its thousands apart.
#[derive(Debug, Clone, Copy)]
pub struct Count(pub u64);

impl Display for Count {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                f.write_str("\u{202f}")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_stays_text() {
        let foreign = "<script>alert('x')</script> \"&\u{202e}\u{7}\n";
        let text = Text(foreign).to_string();
        assert_eq!(text, "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &quot;&amp;\u{fffd}\u{fffd} ");
    }

    #[test]
    fn spans_are_short() {
        let spans = [0, 59, 60, 3_700, 90_000, 2_000_000].map(|s| Span(TimeDelta::seconds(s)).to_string());
        assert_eq!(spans, ["0 s", "59 s", "1 min", "1 h 1 min", "1 d 1 h", "23 d"]);
    }

    #[test]
    fn thousands_stand_apart() {
        let counts = [0, 999, 1_000, 12_345_678].map(|count| Count(count).to_string());
        assert_eq!(counts, ["0", "999", "1\u{202f}000", "12\u{202f}345\u{202f}678"]);
    }
}
