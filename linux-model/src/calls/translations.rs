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
        skips_sync: false,
    };
    (buffer, first)
}

/// Runs that are never unmapped, as calls: one goes on as long as its flow maps the next address at
/// once, upwards; calls of their own come from the top down.
fn lasting(ops: &[RecordedOp], live: BTreeMap<u64, (usize, u64)>) -> Vec<Vec<usize>> {
    let mut runs: Vec<usize> = live.into_values().map(|(run, _)| run).collect();
    runs.sort_unstable();
    let mut calls: Vec<Vec<usize>> = Vec::new();
    let mut next: HashMap<Flow, (u64, usize)> = HashMap::new();
    for run in runs {
        let RecordedOpKind::Map { iova, bytes, .. } = ops[run].kind else {
            continue;
        };
        let goes_on = next.get(&ops[run].flow).filter(|(at, _)| *at == iova);
        let call = match goes_on {
            Some((_, call)) => *call,
            None => {
                calls.push(Vec::new());
                calls.len() - 1
            }
        };
        calls[call].push(run);
        next.insert(ops[run].flow, (iova + bytes, call));
    }
    calls
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
        let mut live: BTreeMap<u64, (usize, u64)> = BTreeMap::new();
        for (index, op) in ops.iter().enumerate() {
            match op.kind {
                RecordedOpKind::Map { iova, bytes, .. } => {
                    let over = live.range(..iova.saturating_add(bytes)).next_back();
                    let overlaps = over.is_some_and(|(at, (_, len))| at + len > iova);
                    groups.mixed += u64::from(overlaps);
                    live.insert(iova, (index, bytes));
                }
                RecordedOpKind::Unmap { iova, bytes } => {
                    let within = live.range(iova..iova.saturating_add(bytes));
                    let runs: Vec<(u64, usize)> =
                        within.map(|(at, (run, _))| (*at, *run)).collect();
                    for (at, _) in &runs {
                        live.remove(at);
                    }
                    match groups.add(runs.into_iter().map(|(_, run)| run).collect()) {
                        Some(call) => groups.call[index] = Some(call),
                        None => groups.unseen += 1,
                    }
                }
            }
        }
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
