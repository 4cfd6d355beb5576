//! A function's interrupt vectors, and what the handlers of a driver said when they were called.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::time::Duration;

use dmakit_platform::{IrqMutex, Platform};
use rdif_block::{
    GroupIrqEvent, GroupIrqSink, GroupIrqTarget, IrqAck, IrqDisposition, IrqEndpoint,
    SharedIrqEndpoint,
};

use crate::board::Board;
use crate::interrupts::{Running, Source};

/// The longest that anything is waited for.
pub const TIME_MAX: Duration = Duration::from_secs(5);

/// What interrupts said and nobody has looked at yet.
static SAID: IrqMutex<Board, VecDeque<IrqAck>> = IrqMutex::<Board, _>::new(VecDeque::new());

/// The vectors of one function; a driver's source of interrupts is the event of its number.
pub struct Vectors<'a> {
    interrupts: &'a Running,
    function: Source,
}

impl<'a> Vectors<'a> {
    /// `events` vectors of the function with this requester's number.
    pub fn new(interrupts: &'a Running, id: u32, events: u32) -> Result<Self, &'static str> {
        Ok(Self {
            interrupts,
            function: interrupts.source(id, events)?,
        })
    }

    /// What the function writes for vector 0; one more for each further one.
    pub fn message(&self) -> u32 {
        self.interrupts.message(&self.function)
    }

    /// Lets a driver's handler be called; the source that it is for.
    pub fn install(&mut self, endpoint: IrqEndpoint) -> Result<usize, &'static str> {
        let source = endpoint.source_id();
        let mut handler = endpoint.into_handler();
        let handler = Box::new(move || SAID.lock().push_back(handler.ack()));
        let handled = self
            .interrupts
            .handle(&mut self.function, source as u32, handler);
        handled.map(|()| source)
    }

    /// The same, of a handler that several disks share; what it says of `member` is listened to.
    pub fn install_shared(
        &mut self,
        endpoint: SharedIrqEndpoint,
        member: usize,
    ) -> Result<usize, &'static str> {
        let source = endpoint.source_id();
        let mut handler = endpoint.into_handler();
        let handler = Box::new(move || {
            handler.ack(&mut Member(member));
        });
        let handled = self
            .interrupts
            .handle(&mut self.function, source as u32, handler);
        handled.map(|()| source)
    }
}

/// The next interrupt's word.
pub fn wait() -> Result<IrqAck, &'static str> {
    let started = Board.now();
    loop {
        if let Some(said) = SAID.lock().pop_front() {
            return Ok(said);
        }
        if Board.now().saturating_since(started) > TIME_MAX {
            return Err("no interrupt");
        }
        core::hint::spin_loop();
    }
}

/// The one disk of a group that is listened to.
struct Member(usize);

impl GroupIrqSink for Member {
    fn publish(&mut self, event: GroupIrqEvent) {
        if event.target() != GroupIrqTarget::Member(self.0) {
            return;
        }
        let (queues, control) = (event.queues(), event.control());
        SAID.lock().push_back(match event.disposition() {
            IrqDisposition::Spurious => IrqAck::spurious(control.source_id()),
            IrqDisposition::Cleared => IrqAck::cleared(queues, control),
            IrqDisposition::MaskedNeedsRearm => IrqAck::masked_needs_rearm(queues, control),
        });
    }
}
