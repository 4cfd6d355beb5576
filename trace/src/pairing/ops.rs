//! Operations as an iterator over events.

use super::{PairOptions, Pairer};
use crate::{Event, Fidelity, Mappings, Op, TraceError};

/// An iterator of [`Op`]s over events; see the rules of this module.
pub struct Ops<I> {
    events: I,
    pairer: Pairer,
    ended: bool,
}

impl<I> Ops<I> {
    /// Over these events, which must be all of a trace and in its order.
    pub fn new(events: I, options: PairOptions) -> Self {
        Self {
            events,
            pairer: Pairer::new(options),
            ended: false,
        }
    }

    /// What the events come from.
    pub fn events(&self) -> &I {
        &self.events
    }

    /// The pairing part of the counts; final once the iterator has ended.
    pub fn counts(&self) -> Fidelity {
        self.pairer.counts()
    }

    /// Whole mappings instead of operations.
    pub fn mappings(self) -> Mappings<Self> {
        Mappings::new(self)
    }
}

impl Ops<crate::Trace> {
    /// Everything that is known to be missing, from reader and pairing together.
    pub fn fidelity(&self) -> Fidelity {
        self.events.fidelity().with_pairing(&self.pairer.counts())
    }
}

impl<I: Iterator<Item = Result<Event, TraceError>>> Iterator for Ops<I> {
    type Item = Result<Op, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(op) = self.pairer.pop() {
                return Some(Ok(op));
            }
            if self.ended {
                return None;
            }
            match self.events.next() {
                Some(Ok(event)) => self.pairer.push(&event),
                Some(Err(error)) => {
                    self.ended = true;
                    // What waits cannot be decided any more: it is not given out.
                    self.pairer = Pairer::default();
                    return Some(Err(error));
                }
                None => {
                    self.ended = true;
                    self.pairer.finish();
                }
            }
        }
    }
}
