//! The elements of a set: hundreds of thousands at 10,000 services, most of which are a key and nothing else.
//!
//! So what stands beside a key is kept only where there is something, and once for neighbours that have the same. A clone shares
//! everything: a changeset that makes a set holds the elements of the table, no copy.

use std::collections::{BTreeMap, btree_map};
use std::fmt;
use std::ops::RangeBounds;
use std::sync::Arc;

use super::{Element, Key};

/// Elements by key.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Elements(Arc<BTreeMap<Key, Beside>>);

/// `None`: nothing.
type Beside = Option<Arc<Element>>;

static NOTHING: Element = Element { last: None, verdict: None, closes_at: None, comment: None };

fn seen(beside: &Beside) -> &Element {
    beside.as_deref().unwrap_or(&NOTHING)
}

/// `before`: that of the element before, which is used again where it is equal.
fn kept(element: Element, before: &mut Beside) -> Beside {
    if element == NOTHING {
        return None;
    }
    if before.as_deref() != Some(&element) {
        *before = Some(Arc::new(element));
    }
    before.clone()
}

impl Elements {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, key: &Key) -> Option<&Element> {
        self.0.get(key).map(seen)
    }

    pub fn contains_key(&self, key: &Key) -> bool {
        self.0.contains_key(key)
    }

    pub fn iter(&self) -> Iter<'_> {
        Iter(self.0.iter())
    }

    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.0.keys()
    }

    pub fn values(&self) -> impl Iterator<Item = &Element> {
        self.0.values().map(seen)
    }

    pub fn range(&self, range: impl RangeBounds<Key>) -> impl DoubleEndedIterator<Item = (&Key, &Element)> {
        self.0.range(range).map(|(key, beside)| (key, seen(beside)))
    }

    /// Puts an element in place of what has its key.
    pub fn insert(&mut self, key: Key, element: Element) {
        Arc::make_mut(&mut self.0).insert(key, kept(element, &mut None));
    }

    pub fn remove(&mut self, key: &Key) {
        Arc::make_mut(&mut self.0).remove(key);
    }

    pub fn retain(&mut self, mut stays: impl FnMut(&Key, &Element) -> bool) {
        Arc::make_mut(&mut self.0).retain(|key, beside| stays(key, seen(beside)));
    }
}

impl fmt::Debug for Elements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl FromIterator<(Key, Element)> for Elements {
    fn from_iter<I: IntoIterator<Item = (Key, Element)>>(elements: I) -> Self {
        let mut before = None;
        let elements = elements.into_iter().map(|(key, element)| (key, kept(element, &mut before)));
        Self(Arc::new(elements.collect()))
    }
}

impl Extend<(Key, Element)> for Elements {
    fn extend<I: IntoIterator<Item = (Key, Element)>>(&mut self, elements: I) {
        let mut before = None;
        let elements = elements.into_iter().map(|(key, element)| (key, kept(element, &mut before)));
        Arc::make_mut(&mut self.0).extend(elements);
    }
}

impl From<Vec<(Key, Element)>> for Elements {
    fn from(elements: Vec<(Key, Element)>) -> Self {
        elements.into_iter().collect()
    }
}

impl<const N: usize> From<[(Key, Element); N]> for Elements {
    fn from(elements: [(Key, Element); N]) -> Self {
        elements.into_iter().collect()
    }
}

impl IntoIterator for Elements {
    type Item = (Key, Element);
    type IntoIter = std::vec::IntoIter<(Key, Element)>;

    fn into_iter(self) -> Self::IntoIter {
        let all: Vec<_> = self.iter().map(|(key, element)| (key.clone(), element.clone())).collect();
        all.into_iter()
    }
}

impl<'a> IntoIterator for &'a Elements {
    type Item = (&'a Key, &'a Element);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// Elements in the order of their keys.
pub struct Iter<'a>(btree_map::Iter<'a, Key, Beside>);

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a Key, &'a Element);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(key, beside)| (key, seen(beside)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl DoubleEndedIterator for Iter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.next_back().map(|(key, beside)| (key, seen(beside)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Family;

    fn key(number: u128) -> Key {
        Key::builder().address(Family::V4, number).build()
    }

    fn named(name: &str) -> Element {
        Element { comment: Some(name.into()), ..Element::default() }
    }

    #[test]
    fn an_element_is_what_was_put_in_and_neighbours_share_it() {
        let mut elements: Elements =
            [(key(1), named("a")), (key(2), named("a")), (key(3), Element::default())].into();
        assert_eq!(elements.get(&key(2)), Some(&named("a")));
        assert_eq!(elements.get(&key(3)), Some(&Element::default()));
        let beside: Vec<_> = elements.0.values().flatten().collect();
        assert!(Arc::ptr_eq(beside[0], beside[1]) && beside.len() == 2);
        elements.insert(key(2), named("b"));
        assert_eq!(elements.values().filter_map(|e| e.comment.as_deref()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn a_clone_shares_everything_until_it_changes() {
        let elements: Elements = [(key(1), named("a"))].into();
        let mut other = elements.clone();
        assert!(Arc::ptr_eq(&elements.0, &other.0));
        other.remove(&key(1));
        assert_eq!((elements.len(), other.len()), (1, 0));
    }
}
