//! The snapshot as a JSON document, and back.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Accepted, AcceptedSegment, AcceptedService, Departed, SCHEMA};
use crate::model::{Cause, SegmentName, ServiceName, Time};
use crate::store::text::hex;

#[derive(Deserialize)]
pub(super) struct Version {
    pub schema: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    /// Over the bytes that follow it: written and judged where the bytes are.
    #[serde(rename = "sha256", skip_serializing)]
    _sha256: IgnoredAny,
    schema: u32,
    settings_text: Option<String>,
    lists: BTreeMap<String, Arc<str>>,
    services: BTreeMap<String, ServiceText>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    segments: BTreeMap<String, SegmentText>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceText {
    text: String,
    lists: BTreeMap<String, String>,
    departed: Option<DepartedText>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SegmentText {
    text: String,
    lists: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DepartedText {
    at: Time,
    /// Absent in what former versions wrote: `at`.
    #[serde(default)]
    covers: Option<Time>,
    cause: String,
}

impl Document {
    pub fn of(accepted: &Accepted) -> Self {
        let mut shelf = Shelf::default();
        let services = accepted
            .services
            .iter()
            .map(|(name, service)| (name.to_string(), ServiceText::of(service, &mut shelf)))
            .collect();
        let segments = accepted.segments.iter().map(|(name, segment)| {
            let text = SegmentText { text: segment.text.clone(), lists: shelf.put_all(&segment.lists) };
            (name.to_string(), text)
        });
        let segments = segments.collect();
        Self {
            _sha256: IgnoredAny,
            schema: SCHEMA,
            settings_text: accepted.settings_text.clone(),
            lists: shelf.texts,
            services,
            segments,
        }
    }

    pub fn into_accepted(self) -> Result<Accepted, String> {
        let services = self
            .services
            .into_iter()
            .map(|(name, service)| {
                let name = ServiceName::new(&name).map_err(|error| error.to_string())?;
                Ok((name, service.into_service(&self.lists)?))
            })
            .collect::<Result<_, String>>()?;
        let segments = self.segments.into_iter().map(|(name, segment)| {
            let name = SegmentName::new(&name).map_err(|error| error.to_string())?;
            let lists = take_all(segment.lists, &self.lists)?;
            Ok((name, AcceptedSegment { text: segment.text, lists }))
        });
        let segments = segments.collect::<Result<_, String>>()?;
        Ok(Accepted { settings_text: self.settings_text, services, segments })
    }
}

/// Every list text once.
#[derive(Default)]
struct Shelf {
    texts: BTreeMap<String, Arc<str>>,
    /// Digests of texts by address: a shared text of many megabytes is hashed once.
    known: BTreeMap<*const u8, String>,
}

impl Shelf {
    fn put(&mut self, text: &Arc<str>) -> String {
        let digest =
            self.known.entry(text.as_ptr()).or_insert_with(|| hex(&Sha256::digest(text.as_bytes()))).clone();
        self.texts.entry(digest.clone()).or_insert_with(|| Arc::clone(text));
        digest
    }

    fn put_all(&mut self, lists: &BTreeMap<String, Arc<str>>) -> BTreeMap<String, String> {
        lists.iter().map(|(name, text)| (name.clone(), self.put(text))).collect()
    }
}

/// The texts of lists by their digests.
fn take_all(
    lists: BTreeMap<String, String>,
    texts: &BTreeMap<String, Arc<str>>,
) -> Result<BTreeMap<String, Arc<str>>, String> {
    let texts = lists.into_iter().map(|(name, digest)| {
        let text = texts.get(&digest).ok_or_else(|| format!("the text of list {name:?} is missing"))?;
        Ok((name, Arc::clone(text)))
    });
    texts.collect()
}

impl ServiceText {
    fn of(service: &AcceptedService, shelf: &mut Shelf) -> Self {
        Self {
            text: service.text.clone(),
            lists: shelf.put_all(&service.lists),
            departed: service.departed.as_ref().map(|departed| DepartedText {
                at: departed.at,
                covers: Some(departed.covers),
                cause: departed.cause.as_str().to_owned(),
            }),
        }
    }

    fn into_service(self, texts: &BTreeMap<String, Arc<str>>) -> Result<AcceptedService, String> {
        Ok(AcceptedService {
            text: self.text,
            lists: take_all(self.lists, texts)?,
            departed: self.departed.map(DepartedText::into_departed).transpose()?,
        })
    }
}

impl DepartedText {
    fn into_departed(self) -> Result<Departed, String> {
        let cause = Cause::parse(&self.cause)
            .ok_or_else(|| format!("{:?} is not a cause of a decommission", self.cause))?;
        Ok(Departed { at: self.at, covers: self.covers.unwrap_or(self.at), cause })
    }
}
