//! Which events bound an operation in time.

use std::collections::{HashMap, VecDeque};

use super::buffer::Stream;
use crate::{Event, Level};

/// What was recorded last, by stream and by CPU.
#[derive(Default)]
pub(super) struct Clock {
    last: HashMap<Stream, u64>,
    cpus: HashMap<u32, [Option<u64>; 4]>,
    recent: VecDeque<(u64, u64)>,
}

const RECENT_EVENTS: usize = 4096;
/// Streams remembered; a trace of many short tasks forgets the old ones all at once.
const STREAMS: usize = 1 << 14;

/// The stream that recorded an event. Where the format has no context flags, an interrupt cannot be
/// told from the task that it interrupted.
pub(super) fn stream(event: &Event) -> Stream {
    let level = event.context.map_or(Level::Task, |context| context.level);
    let id = match level {
        // Every CPU has an idle task of its own, all with pid 0.
        Level::Task if event.task.pid != 0 => u64::from(event.task.pid),
        _ => u64::from(event.cpu) | 1 << 32,
    };
    Stream { level, id }
}

fn rank(level: Level) -> usize {
    match level {
        Level::Task => 0,
        Level::SoftIrq => 1,
        Level::HardIrq => 2,
        Level::Nmi => 3,
    }
}

impl Clock {
    /// The last event known to have been recorded before an operation that this event, its own
    /// record, follows by at most `within_ns`.
    pub(super) fn earliest(&self, event: &Event, stream: Stream, within_ns: u64) -> u64 {
        let mut after = self.last.get(&stream).copied().unwrap_or(0);
        // An interrupt began after whatever its CPU recorded below it.
        if let Some(levels) = self.cpus.get(&event.cpu) {
            for last in levels[..rank(stream.level)].iter().flatten() {
                after = after.max(*last);
            }
        }
        let since = event.time_ns.saturating_sub(within_ns);
        let old = self.recent.partition_point(|&(_, time)| time < since);
        match old.checked_sub(1).and_then(|at| self.recent.get(at)) {
            Some(&(index, _)) => after.max(index),
            None => after,
        }
    }

    pub(super) fn record(&mut self, event: &Event, stream: Stream) {
        if self.last.len() >= STREAMS {
            self.last.clear();
        }
        self.last.insert(stream, event.index);
        self.cpus.entry(event.cpu).or_default()[rank(stream.level)] = Some(event.index);
        if self.recent.len() == RECENT_EVENTS {
            self.recent.pop_front();
        }
        self.recent.push_back((event.index, event.time_ns));
    }
}

/// Whether an event of `now` on `cpu` shows that what `stream` was doing has ended: the stream
/// itself went on, or the CPU is back below the interrupt.
pub(super) fn ends(stream: Stream, now: Stream, cpu: u32) -> bool {
    let on_cpu = stream.id == (u64::from(cpu) | 1 << 32);
    stream == now || (on_cpu && stream.level > now.level)
}
