//! The `detail` of a ledger entry: JSON in its one canonical text.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// A JSON value as text without spaces and with sorted keys.
///
/// Fractions become strings: a reader that rounds them differently would break the hash. Put counts, milliseconds and
/// the like as whole numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detail(String);

impl Detail {
    pub fn new(value: &Value) -> Self {
        let mut text = String::new();
        write(value, &mut text);
        Self(text)
    }

    /// Takes what stands in the ledger, also when somebody altered it: the hash judges it, not the syntax.
    pub(super) fn from_stored(text: String) -> Self {
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value; text that was altered so that it is no JSON any more comes back as a string.
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.0).unwrap_or_else(|_| Value::String(self.0.clone()))
    }
}

/// Sorted by hand: whether `serde_json` sorts depends on a feature that any other crate may switch on.
fn write(value: &Value, out: &mut String) {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => out.push_str(&value.to_string()),
        Value::Number(number) if number.is_f64() => {
            out.push_str(&Value::String(number.to_string()).to_string());
        }
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::Array(items) => join(out, '[', items, ']', write),
        Value::Object(map) => {
            let mut members: Vec<_> = map.iter().collect();
            members.sort_by_key(|(key, _)| key.as_str());
            join(out, '{', members, '}', |(key, value), out| {
                out.push_str(&Value::String(key.clone()).to_string());
                out.push(':');
                write(value, out);
            });
        }
    }
}

fn join<T>(
    out: &mut String,
    open: char,
    items: impl IntoIterator<Item = T>,
    close: char,
    mut each: impl FnMut(T, &mut String),
) {
    out.push(open);
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        each(item, out);
    }
    out.push(close);
}

impl Serialize for Detail {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Detail {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(|value| Self::new(&value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn keys_are_sorted_and_nothing_is_spaced() {
        let detail = Detail::new(&json!({"b": [1, null, true], "a": {"z": "x\"y\n", "ä": -1}}));
        assert_eq!(detail.as_str(), "{\"a\":{\"z\":\"x\\\"y\\n\",\"ä\":-1},\"b\":[1,null,true]}");
    }

    #[test]
    fn fractions_become_strings() {
        assert_eq!(Detail::new(&json!({"x": 0.1})).as_str(), r#"{"x":"0.1"}"#);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_text_survives_being_exported_and_read(value in value()) {
            let detail = Detail::new(&value);
            let exported = serde_json::to_string_pretty(&detail).unwrap();
            prop_assert_eq!(serde_json::from_str::<Detail>(&exported).unwrap(), detail);
        }
    }
}
