//! Calls of a kernel that records none: what one unmap ends was one call.

use std::collections::{BTreeMap, HashMap};

use dmakit_addr::Direction;

use crate::calls::load::{
    Buffer, BufferKind, Call, CallKind, CallSource, Calls, DeviceCalls, Flow, Piece, RecordedOp,
    RecordedOpKind, RecordedTranslation,
};

/// Groups the recorded runs. The input addresses tell which runs one unmap ends, and nothing else;
/// runs that are never unmapped are calls of their own.
pub(super) fn calls(
    mut recorded: RecordedTranslation,
    flushes: Vec<Call>,
) -> (Calls, RecordedTranslation) {
    let groups = Groups::new(&recorded.ops);
    let mut calls = Calls {
        source: CallSource::Translations,
        devices: vec![DeviceCalls {
            name: "one domain".to_owned(),
            is_translated: true,
        }],
        buffers: Vec::new(),
        order: Vec::new(),
        unmaps_unseen: groups.unseen,
        cut_lists: 0,
        mixed_domains: groups.mixed,
    };
    let mut buffers: HashMap<usize, u32> = HashMap::new();
    let mut flushes = flushes.into_iter().peekable();
    for (index, op) in recorded.ops.iter().enumerate() {
        while let Some(flush) = flushes.next_if(|flush| flush.event < op.event) {
            calls.order.push(flush);
        }
        let Some(group) = groups.of(index) else {
            continue;
        };
        let kind = match op.kind {
            // The last run of a call is mapped when the call returns.
            RecordedOpKind::Map { .. } if groups.last[group] == index => {
                let number = calls.buffers.len() as u32;
                let (buffer, iova) = buffer(&recorded.ops, &groups.runs[group]);
                calls.buffers.push(buffer);
                recorded.dma.push(Some(iova));
                recorded.segments.push(Vec::new());
                buffers.insert(group, number);
                CallKind::Map(number)
            }
            RecordedOpKind::Unmap { .. } => match buffers.get(&group) {
                Some(buffer) => CallKind::Unmap(*buffer),
                None => continue,
            },
            RecordedOpKind::Map { .. } => continue,
        };
        calls.order.push(Call {
            at_ns: op.at_ns,
            cpu: op.cpu,
            flow: op.flow,
            event: op.event,
            kind,
        });
    }
    calls.order.extend(flushes);
    (calls, recorded)
}

fn buffer(ops: &[RecordedOp], runs: &[usize]) -> (Buffer, u64) {
    let mut pieces = Vec::new();
    let mut first = u64::MAX;
    for run in runs {
        if let RecordedOpKind::Map { iova, phys, bytes } = ops[*run].kind {
            first = first.min(iova);
            pieces.push(Piece {
                phys: Some(phys),
                bytes: Some(bytes),
            });
        }
    }
    let kind = match pieces.len() {
        1 => BufferKind::Single,
        _ => BufferKind::List,
    };
    let buffer = Buffer {
        device: 0,
        direction: Direction::Bidirectional,
        kind,
        bytes: pieces.iter().filter_map(|piece| piece.bytes).sum(),
        pieces,
        merged: Vec::new(),
        skips_sync: false,
    };
    (buffer, first)
}

/// Ranges that calls gave back, by their first address: one past their last, rounded as the
/// allocator keeps them. Such a range is handed out again whole, or not at all while it is kept.
#[derive(Default)]
struct Given(BTreeMap<u64, u64>);

impl Given {
    fn note(&mut self, start: u64, bytes: u64) {
        let end = start.saturating_add(bytes.checked_next_power_of_two().unwrap_or(bytes));
        let within: Vec<u64> = self.0.range(start..end).map(|(at, _)| *at).collect();
        for at in within {
            self.0.remove(&at);
        }
        self.0.insert(start, end);
    }

    /// The range that begins at an address: where it ends.
    fn end_of(&self, start: u64) -> Option<u64> {
        self.0.get(&start).copied()
    }
}

/// Runs that are never unmapped, as calls: one goes on as long as its flow maps the next address at
/// once, upwards, for calls of their own come from the top down. Among ranges that were given back
/// there is no such order; there a call ends with its range.
fn lasting(ops: &[RecordedOp], live: Vec<Lasting>) -> Vec<Vec<usize>> {
    let mut calls: Vec<Vec<usize>> = Vec::new();
    let mut next: HashMap<Flow, (u64, u64, usize)> = HashMap::new();
    for Lasting { run, given_to } in live {
        let RecordedOpKind::Map { iova, bytes, .. } = ops[run].kind else {
            continue;
        };
        let goes_on = next
            .get(&ops[run].flow)
            .filter(|(at, end, _)| *at == iova && iova + bytes <= *end && given_to.is_none());
        let (end, call) = match goes_on {
            Some((_, end, call)) => (*end, *call),
            None => {
                calls.push(Vec::new());
                (given_to.unwrap_or(u64::MAX), calls.len() - 1)
            }
        };
        calls[call].push(run);
        next.insert(ops[run].flow, (iova + bytes, end, call));
    }
    calls
}

/// A run that is never unmapped, and the end of the range that was given back at its address.
#[derive(Clone, Copy)]
struct Lasting {
    run: usize,
    given_to: Option<u64>,
}

/// Which recorded changes belong to one call.
struct Groups {
    /// The call of each change.
    call: Vec<Option<usize>>,
    /// Maps of each call, in order.
    runs: Vec<Vec<usize>>,
    /// The last of them.
    last: Vec<usize>,
    unseen: u64,
    mixed: u64,
}

impl Groups {
    fn new(ops: &[RecordedOp]) -> Self {
        let mut groups = Self {
            call: vec![None; ops.len()],
            runs: Vec::new(),
            last: Vec::new(),
            unseen: 0,
            mixed: 0,
        };
        let mut live: BTreeMap<u64, (Lasting, u64)> = BTreeMap::new();
        let mut given = Given::default();
        for (index, op) in ops.iter().enumerate() {
            match op.kind {
                RecordedOpKind::Map { iova, bytes, .. } => {
                    let over = live.range(..iova.saturating_add(bytes)).next_back();
                    let overlaps = over.is_some_and(|(at, (_, len))| at + len > iova);
                    groups.mixed += u64::from(overlaps);
                    let run = Lasting {
                        run: index,
                        given_to: given.end_of(iova),
                    };
                    live.insert(iova, (run, bytes));
                }
                RecordedOpKind::Unmap { iova, bytes } => {
                    let within = live.range(iova..iova.saturating_add(bytes));
                    let runs: Vec<(u64, usize)> =
                        within.map(|(at, (run, _))| (*at, run.run)).collect();
                    for (at, _) in &runs {
                        live.remove(at);
                    }
                    given.note(iova, bytes);
                    match groups.add(runs.into_iter().map(|(_, run)| run).collect()) {
                        Some(call) => groups.call[index] = Some(call),
                        None => groups.unseen += 1,
                    }
                }
            }
        }
        let mut live: Vec<Lasting> = live.into_values().map(|(run, _)| run).collect();
        live.sort_unstable_by_key(|run| run.run);
        for call in lasting(ops, live) {
            groups.add(call);
        }
        groups
    }

    fn add(&mut self, mut runs: Vec<usize>) -> Option<usize> {
        runs.sort_unstable();
        let last = *runs.last()?;
        let call = self.runs.len();
        for run in &runs {
            self.call[*run] = Some(call);
        }
        self.runs.push(runs);
        self.last.push(last);
        Some(call)
    }

    fn of(&self, index: usize) -> Option<usize> {
        self.call[index]
    }
}
