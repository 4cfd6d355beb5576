//! Flows of control, and what their next event says about what they had under way.

use crate::demand::event::{Context, Event, EventKind};
use crate::demand::ingest::Ingest;
use crate::demand::ingest::timing::{NEAR_NS, STANDSTILL_NS, Window};
use crate::demand::load::{Op, OpKind, Switch};

/// A flow of control whose events follow one another: a task wherever it runs, or one interrupt
/// level of one CPU. An idle task is one per CPU.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Thread {
    Task(u32),
    Cpu(u32, Context),
}

impl Thread {
    pub fn of(context: Context, cpu: u32, pid: u32) -> Self {
        match (context, pid) {
            (Context::Task, 1..) => Self::Task(pid),
            _ => Self::Cpu(cpu, context),
        }
    }
}

/// Interrupts on top of a thread's open operations.
#[derive(Clone, Copy, Debug, Default)]
enum Interrupted {
    #[default]
    Not,
    /// The last one was over by then.
    OverBy(u64),
    /// One came, but its events do not tell when it was over, or it does not matter.
    Somehow,
}

#[derive(Debug, Default)]
pub(super) struct ThreadState {
    /// Attempts that no mapping event has claimed.
    pub pending: Vec<u32>,
    /// Operations that ended no later than this thread's next event.
    pub open_ops: Vec<usize>,
    /// Releases under way.
    pub window: Option<Window>,
    interrupted: Interrupted,
    /// A probe told when the search began, so interrupts before it do not matter.
    is_probed: bool,
    pub last_event_ns: u64,
}

impl Ingest {
    /// What any event says about the operations that its thread, and others, have under way.
    pub(super) fn bound(
        &mut self,
        state: &mut ThreadState,
        event: &Event,
        at_ns: u64,
        gap_ns: u64,
    ) {
        self.close_interrupts_above(event, at_ns);
        self.note_switch(event, at_ns);
        self.note_interrupt(event, at_ns);
        if gap_ns > STANDSTILL_NS && !state.pending.is_empty() {
            // A thread in the midst of mapping does not sleep: nothing ran.
            self.standstills.add(at_ns - gap_ns, at_ns);
        }
        if event.kind == EventKind::SlotWanted {
            state.is_probed = true;
            for op in &state.open_ops {
                self.ops[*op].earliest_ns = at_ns;
                self.ops[*op].likely_ns = at_ns + NEAR_NS;
            }
        } else if !self.continues_window(state, event, at_ns) {
            self.close(state, at_ns);
        }
    }

    /// Bounds what this thread had under way by its next event.
    pub(super) fn close(&mut self, state: &mut ThreadState, at_ns: u64) {
        let is_probed = std::mem::take(&mut state.is_probed);
        let interrupted = std::mem::take(&mut state.interrupted);
        for op in state.open_ops.drain(..) {
            self.ops[op].latest_ns = at_ns;
            if let (OpKind::Map(mapping), false) = (self.ops[op].kind, is_probed) {
                let bytes = self.mappings[mapping as usize].bytes;
                self.settle(op, bytes, interrupted, at_ns);
            }
        }
        if let Some(window) = state.window.take().filter(|window| window.count > 0) {
            self.windows.push(Window {
                end_ns: at_ns,
                ..window
            });
        }
    }

    /// An interrupt came between an attempt and its mapping's event: if the time after it is
    /// enough for all of the copying, the search came after it, too.
    fn settle(&mut self, op: usize, bytes: u64, interrupted: Interrupted, at_ns: u64) {
        let op = &mut self.ops[op];
        match (interrupted, self.durations.usual_ns(bytes)) {
            (Interrupted::Not, _) => self.durations.note(bytes, at_ns - op.earliest_ns),
            (Interrupted::OverBy(over_ns), Some(usual_ns)) if at_ns - over_ns >= usual_ns => {
                op.likely_ns = at_ns - usual_ns;
            }
            _ => {}
        }
    }

    fn note_switch(&mut self, event: &Event, at_ns: u64) {
        match self.running.insert(event.cpu, (event.pid, at_ns)) {
            Some((pid, from_ns)) if pid != event.pid => {
                let switch = Switch {
                    from_ns,
                    to_ns: at_ns,
                };
                self.switches.entry(event.cpu).or_default().push(switch);
            }
            _ => {}
        }
    }

    /// Whatever a CPU does outside an interrupt shows that the interrupt is over.
    fn close_interrupts_above(&mut self, event: &Event, at_ns: u64) {
        for level in [Context::Softirq, Context::Hardirq] {
            if level > event.context {
                let thread = Thread::Cpu(event.cpu, level);
                if let Some(mut state) = self.threads.remove(&thread) {
                    self.close(&mut state, at_ns);
                    self.threads.insert(thread, state);
                }
            }
        }
    }

    /// Interrupts carry the number of the task that they interrupted.
    fn note_interrupt(&mut self, event: &Event, at_ns: u64) {
        if event.context == Context::Task {
            return;
        }
        let thread = Thread::of(Context::Task, event.cpu, event.pid);
        if let Some(state) = self.threads.get_mut(&thread) {
            if !state.open_ops.is_empty() {
                // Other events come before the work that they tell of, so it is not over.
                let is_over = matches!(event.kind, EventKind::UnmapPage { .. });
                state.interrupted = if is_over {
                    Interrupted::OverBy(at_ns)
                } else {
                    Interrupted::Somehow
                };
            }
        }
    }

    /// Releases that begin now and end before the thread's next event.
    pub(super) fn open_window(
        &mut self,
        state: &mut ThreadState,
        at_ns: u64,
        mappings: &[u32],
        event: &Event,
        skips_sync: bool,
    ) {
        let first_op = self.ops.len();
        let mut copied_bytes: u64 = 0;
        for index in mappings {
            let mapping = &mut self.mappings[*index as usize];
            mapping.skips_sync = skips_sync;
            copied_bytes = copied_bytes.saturating_add(mapping.copied_back());
            self.add_op(at_ns, at_ns, at_ns, OpKind::Unmap(*index));
        }
        let count = mappings.len();
        state.window = Some(Window {
            first_op,
            count,
            copied_bytes,
            begin_ns: at_ns,
            end_ns: u64::MAX,
            is_on_idle: event.pid == 0,
        });
    }

    /// A probed release inside a window tells when one of its operations happens.
    fn continues_window(&mut self, state: &mut ThreadState, event: &Event, at_ns: u64) -> bool {
        let (EventKind::SlotReleased { tlb, .. }, Some(window)) =
            (&event.kind, state.window.as_mut())
        else {
            return false;
        };
        let after = window.first_op + window.count;
        let is_this =
            |op: &Op| matches!(op.kind, OpKind::Unmap(m) if self.dma[m as usize] == Some(*tlb));
        let Some(found) = (window.first_op..after).find(|op| is_this(&self.ops[*op])) else {
            return false;
        };
        for op in state.open_ops.drain(..) {
            self.ops[op].latest_ns = at_ns;
        }
        self.ops[found].earliest_ns = at_ns;
        self.ops[found].likely_ns = at_ns + NEAR_NS;
        state.open_ops.push(found);
        // Those before it that the probe missed lie between its neighbours.
        for op in &mut self.ops[window.first_op..found] {
            op.earliest_ns = window.begin_ns;
            op.likely_ns = at_ns - 1;
            op.latest_ns = at_ns;
        }
        window.count = after - found - 1;
        window.first_op = found + 1;
        window.begin_ns = at_ns;
        true
    }
}
