//! Nodes by number, in memory that is brought before a lock is taken.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::node::Linked;

/// Nodes that are added at once.
const CHUNK: usize = 16;

type Chunk<N> = Box<[N; CHUNK]>;

/// Numbers of nodes, last in, first out, linked through the nodes.
#[derive(Default)]
pub(crate) struct List {
    head: u32,
    len: u32,
}

impl List {
    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }
}

/// Nodes of one kind. They never move and stay until the pool is dropped.
pub(crate) struct Pool<N> {
    chunks: Vec<Chunk<N>>,
    /// Nodes in any state.
    blank: List,
}

/// Memory for more nodes, and where the list of chunks is full, for a longer one.
pub(crate) struct Supply<N> {
    /// Until the pool has taken it.
    chunk: Option<Chunk<N>>,
    directory: Vec<Chunk<N>>,
}

impl<N: Linked + Clone> Supply<N> {
    /// Memory for the pool that gave `directory`; `None` where there is none.
    pub(crate) fn new(directory: usize, node: &N) -> Option<Self> {
        let mut chunk = Vec::new();
        chunk.try_reserve_exact(CHUNK).ok()?;
        chunk.resize(CHUNK, node.clone());
        let mut list = Vec::new();
        list.try_reserve_exact(directory).ok()?;
        Some(Self {
            chunk: Some(chunk.into_boxed_slice().try_into().ok()?),
            directory: list,
        })
    }
}

impl<N: Linked> Pool<N> {
    pub(crate) const fn new() -> Self {
        Self {
            chunks: Vec::new(),
            blank: List { head: 0, len: 0 },
        }
    }

    /// How long a list of chunks the next supply must bring; 0 where the present one has room.
    pub(crate) fn directory_wanted(&self) -> usize {
        if self.chunks.len() < self.chunks.capacity() {
            0
        } else {
            (self.chunks.len() * 2).max(4)
        }
    }

    /// Takes a supply in. What comes back is to be dropped without a lock. A supply that another
    /// caller has forestalled comes back whole.
    pub(crate) fn accept(&mut self, mut supply: Supply<N>) -> Option<Supply<N>> {
        if self.chunks.len() == self.chunks.capacity() {
            if supply.directory.capacity() <= self.chunks.len() {
                return Some(supply);
            }
            supply.directory.append(&mut self.chunks);
            core::mem::swap(&mut self.chunks, &mut supply.directory);
        }
        let first = (self.chunks.len() * CHUNK) as u32;
        let Some(chunk) = supply.chunk.take() else {
            return Some(supply);
        };
        self.chunks.push(chunk);
        for index in (first..first + CHUNK as u32).rev() {
            self.discard(index);
        }
        Some(supply)
    }

    #[inline]
    pub(crate) fn get(&self, index: u32) -> &N {
        let index = index as usize;
        &self.chunks[index / CHUNK][index % CHUNK]
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, index: u32) -> &mut N {
        let index = index as usize;
        &mut self.chunks[index / CHUNK][index % CHUNK]
    }

    /// Nodes in any state that wait to be used.
    pub(crate) fn blanks(&self) -> usize {
        self.blank.len()
    }

    pub(crate) fn take_blank(&mut self) -> Option<u32> {
        let head = self.blank.head.checked_sub(1)?;
        self.blank.head = *self.get_mut(head).link();
        self.blank.len -= 1;
        Some(head)
    }

    pub(crate) fn discard(&mut self, index: u32) {
        *self.get_mut(index).link() = self.blank.head;
        self.blank.head = index + 1;
        self.blank.len += 1;
    }

    /// Takes a node out of a list of this pool's nodes.
    #[inline]
    pub(crate) fn pop(&mut self, list: &mut List) -> Option<u32> {
        let head = list.head.checked_sub(1)?;
        list.head = *self.get_mut(head).link();
        list.len -= 1;
        Some(head)
    }

    #[inline]
    pub(crate) fn push(&mut self, list: &mut List, index: u32) {
        *self.get_mut(index).link() = list.head;
        list.head = index + 1;
        list.len += 1;
    }

    /// Bytes that the nodes and their list occupy.
    pub(crate) fn bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<N>() + self.chunks.capacity() * size_of::<Chunk<N>>()
    }
}
