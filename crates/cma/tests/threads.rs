//! Claims of one area from several CPUs at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use dmakit_addr::{Pfn, PfnRange};
use dmakit_cma::Area;
use dmakit_platform::host::HostPlatform;

const FRAMES: u64 = 8192;
const ROUNDS: u64 = 40_000;

fn mark(taken: &[AtomicBool], frames: PfnRange, to: bool) {
    for frame in frames.start().raw()..frames.end().raw() {
        let was = taken[frame as usize].swap(to, Ordering::Relaxed);
        assert_ne!(was, to, "frame {frame} is claimed twice or not at all");
    }
}

#[test]
fn two_claims_never_overlap() {
    let whole = PfnRange::new(Pfn::new(0), FRAMES).unwrap();
    let area: Area<HostPlatform> = Area::new(&[whole], 0).unwrap();
    let taken: Vec<AtomicBool> = (0..FRAMES).map(|_| AtomicBool::new(false)).collect();
    thread::scope(|scope| {
        for cpu in 0..3_u64 {
            let (area, taken) = (&area, &taken);
            scope.spawn(move || {
                let mut live: Vec<PfnRange> = Vec::new();
                let mut state = 0x9E37_79B9_7F4A_7C15 ^ (cpu + 1);
                for _ in 0..ROUNDS {
                    state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
                    let size = 1 + (state >> 40) % 300;
                    if state >> 63 == 0 {
                        if let Ok(frames) = area.claim(size, (state >> 30) as u32 % 9) {
                            mark(taken, frames, true);
                            live.push(frames);
                        }
                    } else if !live.is_empty() {
                        let frames = live.swap_remove((state >> 40) as usize % live.len());
                        mark(taken, frames, false);
                        area.release(frames).unwrap();
                    }
                }
                for frames in live {
                    mark(taken, frames, false);
                    area.release(frames).unwrap();
                }
            });
        }
    });
    assert_eq!(area.usage().free, FRAMES);
}
