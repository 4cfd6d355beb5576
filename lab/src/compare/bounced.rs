//! The load through a bounce pool, whoever's.

use std::collections::HashMap;

use dmakit_linux_model as model;
use model::{BounceMemory, BufferKind, CallKind, Calls, DeviceLimits, Request, SLOT_BYTES, Slots};

use super::counts::Counts;

/// Runs the calls. What is longer than the pool's longest mapping is split, as drivers do that ask
/// for the limit.
pub fn run(calls: &Calls, limits: &[DeviceLimits], memory: &mut dyn BounceMemory) -> Counts {
    let mut held: HashMap<u32, Vec<Slots>> = HashMap::new();
    let mut counts = Counts::default();
    let mut now_ns = 0;
    for call in &calls.order {
        now_ns = call.at_ns.max(now_ns);
        memory.advance(now_ns);
        match call.kind {
            CallKind::Map(number) => {
                let buffer = &calls.buffers[number as usize];
                if buffer.kind == BufferKind::Coherent {
                    continue;
                }
                let limits = &limits[buffer.device as usize];
                counts.ios += 1;
                counts.bytes += buffer.bytes;
                match pieces(buffer, limits, memory, call.cpu, now_ns) {
                    Some(slots) => {
                        counts.bounces += slots.len() as u64;
                        // The pool is filled from the original whatever the direction.
                        counts.bytes_copied += buffer.bytes;
                        held.insert(number, slots);
                    }
                    None => counts.failed += 1,
                }
            }
            CallKind::Unmap(number) => {
                let buffer = &calls.buffers[number as usize];
                if let Some(slots) = held.remove(&number) {
                    slots.iter().for_each(|slots| memory.unmap(slots));
                    if buffer.direction.device_writes() && !buffer.skips_sync {
                        counts.bytes_copied += buffer.bytes;
                    }
                }
            }
            CallKind::Sync { buffer, bytes } => {
                if held.contains_key(&buffer) {
                    counts.bytes_copied += bytes;
                }
            }
            CallKind::Flush { .. } => {}
        }
    }
    counts
}

/// All pieces, or none.
fn pieces(
    buffer: &model::Buffer,
    limits: &DeviceLimits,
    memory: &mut dyn BounceMemory,
    cpu: u32,
    now_ns: u64,
) -> Option<Vec<Slots>> {
    let most = model::MAPPING_BYTES_MAX - limits.min_align_mask.next_multiple_of(SLOT_BYTES);
    let mut taken = Vec::new();
    for (original, bytes) in buffer.runs(PAGE_BYTES) {
        let mut done = 0;
        while done < bytes {
            let request = Request {
                cpu,
                original: original + done,
                bytes: most.min(bytes - done),
                alloc_align_mask: 0,
            };
            match memory.map(now_ns, limits, &request) {
                Ok(slots) => taken.push(slots),
                Err(_) => {
                    taken.iter().for_each(|slots| memory.unmap(slots));
                    return None;
                }
            }
            done += request.bytes;
        }
    }
    Some(taken)
}

const PAGE_BYTES: u64 = 4096;
