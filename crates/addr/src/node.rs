//! NUMA nodes.

use core::fmt;

/// A NUMA node, counted from 0. A device whose firmware names none has no `NodeId`, not a special
/// one: use `Option<NodeId>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u16);

impl NodeId {
    /// Node number `index`.
    pub const fn new(index: u16) -> Self {
        Self(index)
    }

    /// Its number, for indexing tables by node.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node{}", self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
