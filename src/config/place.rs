//! Where something stands in a schedule that is in order, for findings that need more than the files.

use toml::de::DeTable;

use super::lines::Lines;
use crate::model::PolicyId;

/// Line and column, both from 1, of a policy's subject; of the file where it is not found.
pub fn subject_place(text: &str, id: &PolicyId) -> (usize, usize) {
    let (root, _) = DeTable::parse_recoverable(text);
    let policies = root.get_ref().get(id.direction.as_str()).and_then(|value| value.get_ref().as_array());
    let policy = policies.and_then(|policies| policies.get(id.index)?.get_ref().as_table());
    let subject = policy.and_then(|policy| policy.get("subject"));
    subject.map_or((1, 1), |subject| Lines::new(text).position(subject.span().start))
}
