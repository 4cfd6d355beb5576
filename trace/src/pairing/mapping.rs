//! Mappings from beginning to end, for those who need no operation order.

use std::collections::{HashMap, VecDeque};

use super::{Attempt, AttemptId, Map, MappingId, Op, OpKind};
use crate::{Context, Task, TraceError};

/// One mapping's life.
#[derive(Clone, PartialEq, Debug)]
pub struct Mapping {
    /// What was mapped, and where.
    pub map: Map,
    /// Its bounce attempt, where there was one.
    pub attempt: Option<Attempt>,
    /// When the attempt was recorded, in ns.
    pub attempted_ns: Option<u64>,
    /// When the mapping was recorded, in ns.
    pub mapped_ns: u64,
    /// Who mapped.
    pub task: Task,
    /// Where.
    pub cpu: u32,
    /// In which context.
    pub context: Option<Context>,
    /// Its end, where the trace has it.
    pub end: Option<MappingEnd>,
}

/// The end of a mapping.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct MappingEnd {
    /// When it was recorded, in ns.
    pub unmapped_ns: u64,
    /// Where.
    pub cpu: u32,
    /// In which context.
    pub context: Option<Context>,
}

/// An iterator of [`Mapping`]s over operations, in the order of their ends; those that never end
/// come last, in the order of their beginnings. Failed mappings are not among them.
pub struct Mappings<I> {
    ops: I,
    attempts: HashMap<AttemptId, (Attempt, u64)>,
    live: HashMap<MappingId, Mapping>,
    left: Option<VecDeque<Mapping>>,
}

impl<I> Mappings<I> {
    /// Over these operations.
    pub fn new(ops: I) -> Self {
        Self {
            ops,
            attempts: HashMap::new(),
            live: HashMap::new(),
            left: None,
        }
    }

    /// What the operations come from.
    pub fn ops(&self) -> &I {
        &self.ops
    }

    fn take(&mut self, op: Op) -> Option<Mapping> {
        match op.kind {
            OpKind::Attempt(attempt) => {
                self.attempts.insert(attempt.id, (attempt, op.time_ns));
            }
            OpKind::Map(map) => {
                let attempt = map.attempt.and_then(|id| self.attempts.remove(&id));
                let (attempt, attempted_ns) = attempt.unzip();
                let mapping = Mapping {
                    attempt,
                    attempted_ns,
                    mapped_ns: op.time_ns,
                    task: op.task,
                    cpu: op.cpu,
                    context: op.context,
                    end: None,
                    map,
                };
                self.live.insert(mapping.map.id, mapping);
            }
            OpKind::Unmap(unmap) => {
                let mut mapping = self.live.remove(&unmap.id)?;
                mapping.end = Some(MappingEnd {
                    unmapped_ns: op.time_ns,
                    cpu: op.cpu,
                    context: op.context,
                });
                return Some(mapping);
            }
            OpKind::Fail(fail) => {
                for id in fail.attempts {
                    self.attempts.remove(&id);
                }
            }
            _ => {}
        }
        None
    }
}

impl<I: Iterator<Item = Result<Op, TraceError>>> Iterator for Mappings<I> {
    type Item = Result<Mapping, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(left) = &mut self.left {
            return left.pop_front().map(Ok);
        }
        while let Some(op) = self.ops.next() {
            match op {
                Ok(op) => {
                    if let Some(mapping) = self.take(op) {
                        return Some(Ok(mapping));
                    }
                }
                Err(error) => {
                    self.left = Some(VecDeque::new());
                    return Some(Err(error));
                }
            }
        }
        let mut left: Vec<_> = self.live.drain().map(|(_, mapping)| mapping).collect();
        left.sort_unstable_by_key(|mapping| mapping.map.id);
        self.left.insert(left.into()).pop_front().map(Ok)
    }
}
