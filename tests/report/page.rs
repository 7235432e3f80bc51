//! Just enough of HTML to see whether a page is well-formed and what it shows.

use std::collections::BTreeMap;

/// Elements without an end.
const VOID: [&str; 4] = ["meta", "br", "link", "img"];

pub struct Page {
    /// What is shown, without the style sheet.
    pub text: String,
    elements: Vec<Element>,
}

struct Element {
    name: String,
    attributes: BTreeMap<String, String>,
    /// The elements around it, outermost first.
    inside: Vec<String>,
}

impl Page {
    /// Insists that every element ends where it has to and every `&` and `<` in a text is escaped.
    pub fn parse(html: &str) -> Result<Self, String> {
        let mut rest = html.strip_prefix("<!DOCTYPE html>").ok_or("no doctype")?;
        let (mut open, mut elements, mut text) = (Vec::<String>::new(), Vec::new(), String::new());
        while !rest.is_empty() {
            let (before, after) = rest.split_once('<').unwrap_or((rest, ""));
            if open.last().is_none_or(|name| name != "style") {
                text.push_str(&unescape(before)?);
                text.push(' ');
            }
            if after.is_empty() {
                break;
            }
            let (tag, after) = after.split_once('>').ok_or("a tag without an end")?;
            rest = after;
            if let Some(name) = tag.strip_prefix('/') {
                let opened = open.pop();
                if opened.as_deref() != Some(name) {
                    return Err(format!("</{name}> ends {opened:?}"));
                }
                continue;
            }
            let element = element(tag, &open)?;
            if !VOID.contains(&element.name.as_str()) {
                open.push(element.name.clone());
            }
            elements.push(element);
        }
        match open.is_empty() {
            true => Ok(Self { text, elements }),
            false => Err(format!("{open:?} never end")),
        }
    }

    pub fn count(&self, name: &str) -> usize {
        self.elements.iter().filter(|element| element.name == name).count()
    }

    /// No element names anything outside of the page, and the policy would not allow it.
    pub fn is_self_contained(&self) -> Result<(), String> {
        let allowed = |name: &str, value: &str| match name {
            "href" => value.starts_with('#'),
            "src" | "srcset" | "action" | "data" | "style" | "poster" | "xlink:href" => false,
            "fill" => value.strip_prefix("url(").is_none_or(|value| value.starts_with('#')),
            _ => !name.starts_with("on") && !value.contains("://"),
        };
        for element in &self.elements {
            if let Some((name, value)) = element.attributes.iter().find(|(name, value)| !allowed(name, value))
            {
                return Err(format!("<{} {name}={value:?}>", element.name));
            }
            if let Some(target) = element.attributes.get("href").and_then(|value| value.strip_prefix('#'))
                && !self.elements.iter().any(|e| e.attributes.get("id").is_some_and(|id| id == target))
            {
                return Err(format!("nothing is called {target}"));
            }
        }
        let policy = self.elements.iter().find_map(|element| {
            (element.attributes.get("http-equiv")? == "Content-Security-Policy")
                .then(|| element.attributes["content"].clone())
        });
        match policy {
            Some(policy) if policy.starts_with("default-src 'none';") && !policy.contains("unsafe") => Ok(()),
            policy => Err(format!("the content policy is {policy:?}")),
        }
    }

    pub fn tables_have_headers(&self) -> Result<(), String> {
        let unscoped = |e: &&Element| e.name == "th" && !e.attributes.contains_key("scope");
        if self.elements.iter().any(|element| unscoped(&element)) {
            return Err("a header that heads neither a row nor a column".to_owned());
        }
        let within = |e: &&Element, name: &str| e.inside.iter().any(|outer| outer == name);
        let heads = self.elements.iter().filter(|e| e.name == "th" && within(e, "thead")).count();
        match self.count("table") {
            tables
                if tables == self.count("caption")
                    && tables == self.count("thead")
                    && heads >= 2 * tables =>
            {
                Ok(())
            }
            tables => Err(format!("{tables} tables, {} captions", self.count("caption"))),
        }
    }
}

fn element(tag: &str, inside: &[String]) -> Result<Element, String> {
    let (name, mut rest) = tag.split_once(' ').unwrap_or((tag, ""));
    if !name.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Err(format!("an element called {name:?}"));
    }
    let mut attributes = BTreeMap::new();
    while !rest.trim().is_empty() {
        let (key, after) =
            rest.split_once("=\"").ok_or_else(|| format!("<{tag}>: a value without quotes"))?;
        let (value, after) =
            after.split_once('"').ok_or_else(|| format!("<{tag}>: a value without an end"))?;
        attributes.insert(key.trim().to_owned(), unescape(value)?);
        rest = after;
    }
    Ok(Element { name: name.to_owned(), attributes, inside: inside.to_vec() })
}

fn unescape(text: &str) -> Result<String, String> {
    let mut parts = text.split('&');
    let mut plain = parts.next().unwrap_or("").to_owned();
    for part in parts {
        let (name, rest) = part.split_once(';').ok_or_else(|| format!("a bare & before {part:?}"))?;
        let letter = match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            other => return Err(format!("&{other};")),
        };
        plain.push(letter);
        plain.push_str(rest);
    }
    Ok(plain)
}
