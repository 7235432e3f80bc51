//! The dashboard: one page that needs nothing but itself, no script, and refreshes by itself. For a look from a phone at
//! night: what is wrong stands first, in words and not in colour alone.

mod health;
mod html;
mod tables;

use std::fmt::{self, Write};
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::facts::Facts;
use html::{Text, When};

const STYLE: &str = include_str!("style.css");

/// Seconds between two loads of the page by itself.
const REFRESH: u32 = 30;

/// Nothing but the page's own style, by its digest: foreign text that got past the escaping could still load, run and
/// send nothing.
pub fn content_security_policy() -> String {
    static DIGEST: LazyLock<String> = LazyLock::new(|| STANDARD.encode(Sha256::digest(STYLE)));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        *DIGEST
    )
}

/// Returns the page.
///
/// # Errors
/// Never by itself: the writer is a string.
pub fn write(facts: &Facts) -> Result<String, fmt::Error> {
    let mut page = String::new();
    let host = Text(&facts.host);
    write!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<meta http-equiv=\"refresh\" content=\"{REFRESH}\">\n\
         <title>picoseg on {host}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
    )?;
    write!(
        page,
        "<header><h1>picoseg <span>on {host}</span></h1>\n<p>As of {}. Times are UTC.</p></header>\n<main>\n",
        When { at: facts.now, now: facts.now }.plain()
    )?;
    health::write(&mut page, facts)?;
    tables::write(&mut page, facts)?;
    write!(
        page,
        "</main>\n<footer><p>picosegd {}, since {}. <a href=\"/metrics\">Metrics</a></p></footer>\n</body>\n</html>\n",
        Text(&facts.version),
        When { at: facts.started_at, now: facts.now }
    )?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::super::sample::{at, facts, name, service};
    use super::*;
    use crate::metrics::facts::Service;
    use crate::model::ServiceState;

    #[test]
    fn foreign_text_is_escaped_everywhere() {
        let evil = "<script>alert(1)</script>\"'";
        let mut facts = facts();
        facts.host = evil.to_owned();
        facts.version = evil.to_owned();
        for error in [&mut facts.table_error, &mut facts.config_error, &mut facts.store_error] {
            *error = Some(evil.to_owned());
        }
        facts.weaker = vec![evil.to_owned()];
        for service in &mut facts.services {
            service.provider = evil.to_owned();
        }
        for late in facts.late.iter_mut().flatten() {
            late.provider = Some(evil.to_owned());
        }
        let page = write(&facts).unwrap();
        assert!(!page.contains("<script") && !page.contains("\"'"), "{page}");
        assert!(page.matches("&lt;script&gt;").count() >= 8, "{page}");
    }

    #[test]
    fn the_page_needs_nothing_else() {
        let page = write(&facts()).unwrap();
        for reference in ["src=", "url(", "@import", "http://", "https://", "<link", "<script", " style="] {
            assert!(!page.contains(reference), "{reference}");
        }
        assert!(content_security_policy().starts_with("default-src 'none'; style-src 'sha256-"));
    }

    #[test]
    fn what_is_wrong_stands_first_and_in_words() {
        let healthy = write(&facts()).unwrap();
        assert!(!healthy.contains("role=\"alert\""), "{healthy}");
        let broken = Facts { store_error: Some("disk full".to_owned()), ..facts() };
        let page = write(&broken).unwrap();
        let alert = page.find("role=\"alert\"").expect("an alert");
        assert!(alert < page.find("<h2").unwrap(), "before everything else");
        assert!(page.contains("disk full") && page.contains("Nothing opens"), "{page}");
    }

    #[test]
    fn sections_show_who_ends_soon_what_comes_next_and_who_came_late() {
        let page = write(&facts()).unwrap();
        let section = |id: &str| {
            let from = page.find(&format!("<section id=\"{id}\"")).unwrap_or_else(|| panic!("no {id}"));
            page[from..].split("</section>").next().unwrap()
        };
        assert!(section("ending").contains("stripe") && !section("ending").contains("paypal"));
        assert!(section("next").contains("stripe") && section("next").contains("paypal"));
        assert!(!section("next").contains("old-crm"));
        assert!(section("late").contains("203.0.113.7") && section("late").contains("41"));
    }

    #[test]
    fn ten_thousand_services_are_a_short_page() {
        let many = (0..10_000).map(|number| Service {
            name: name(&format!("service-{number}")),
            closes_at: Some(at("2026-03-02T17:00:00Z")),
            ..service("x", "Provider", ServiceState::Open, "2026-03-05T00:00:00Z")
        });
        let page = write(&Facts { services: many.collect(), ..facts() }).unwrap();
        assert!(page.len() < 64 << 10, "{}", page.len());
        assert!(page.contains("9\u{202f}980 more"), "{page}");
    }
}
