//! Short strings that repeat: device names, task names, event names.

use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// A shared string: a copy costs one reference count. Equal and ordered by content.
#[derive(Clone, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// A name of its own, not shared with any reader's.
    pub fn new(text: &str) -> Self {
        Self(Arc::from(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        // Names from one reader are usually the same allocation.
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Names handed out so far. Past [`Names::LIMIT`] distinct ones it starts afresh, so that a trace
/// of a million short-lived tasks does not keep them all; names already handed out stay valid.
#[derive(Default)]
pub(crate) struct Names {
    known: HashSet<Name>,
    // One device and one task stand in most events: try the previous ones before hashing.
    recent: [Option<Name>; 4],
    turn: usize,
}

impl Names {
    const LIMIT: usize = 1 << 16;

    pub(crate) fn name(&mut self, text: &str) -> Name {
        for recent in self.recent.iter().flatten() {
            if recent == text {
                return recent.clone();
            }
        }
        let name = match self.known.get(text) {
            Some(known) => known.clone(),
            None => {
                if self.known.len() >= Self::LIMIT {
                    self.known.clear();
                }
                let name = Name::new(text);
                self.known.insert(name.clone());
                name
            }
        };
        self.recent[self.turn] = Some(name.clone());
        self.turn = (self.turn + 1) % self.recent.len();
        name
    }
}
