//! The step from the table in force to the wanted one.
//!
//! Only what differs is touched: a change of one service among thousands is a handful of messages. Knows
//! [`crate::ruleset`] only.

use crate::ruleset::{Chain, Element, Hook, Key, Rule, Ruleset, Set, SetKind};

/// What one transaction does, in an order that the kernel accepts. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changeset {
    pub table: String,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    AddCounter(String),
    /// The declaration; elements follow in [`Step::AddElements`].
    AddSet(String, Set),
    AddChain(String, Option<(Hook, i32)>),
    DeleteElements(String, Set, Vec<(Key, Option<Key>)>),
    /// Removes all rules of a chain.
    FlushChain(String),
    AddRule(String, Rule),
    /// The declaration of the set goes along: how an element is encoded depends on it.
    AddElements(String, Set, Vec<(Key, Element)>),
    DeleteChain(String),
    DeleteSet(String),
    DeleteCounter(String),
}

/// Names and shapes found in the kernel's table, without elements and rules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    pub counters: Vec<String>,
    pub sets: Vec<(String, bool /* dynamic */)>,
    pub chains: Vec<(String, Option<(Hook, i32)>)>,
}
