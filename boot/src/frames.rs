//! What a network card is put through, whoever drives it: frames go out, and whatever is at the
//! other end of the wire sends each of them back.

use alloc::vec;
use core::time::Duration;

use dmakit_platform::Platform;

use crate::board::Board;
use crate::noise::Noise;
use crate::workload::Workload;

/// The longest that a card is waited for.
const TIME_MAX: Duration = Duration::from_secs(5);

/// Bytes before what a frame carries: two addresses and a type.
const HEADER: usize = 14;
/// A type for experiments (IEEE 802, 9.2.3).
const TYPE: [u8; 2] = [0x88, 0xb5];
/// Bytes of the shortest and the longest frame.
const FRAME_MIN: usize = 60;
const FRAME_MAX: usize = 1514;

/// A network card, driven by somebody.
pub trait Card {
    fn address(&self) -> [u8; 6];
    /// Sends a frame, and compares the next one that comes with it.
    fn exchange(&mut self, frame: &[u8]) -> Result<(), &'static str>;
}

/// Sends frames of noise, each with its number, and takes them back.
pub fn run(card: &mut impl Card, workload: &Workload) -> Result<(), &'static str> {
    let mut noise = Noise::new(workload.seed);
    let mut bytes = 0;
    for number in 0..workload.requests {
        let len = FRAME_MIN + noise.below((FRAME_MAX - FRAME_MIN + 1) as u64) as usize;
        let mut frame = vec![0xff; len];
        frame[6..12].copy_from_slice(&card.address());
        frame[12..HEADER].copy_from_slice(&TYPE);
        frame[HEADER..HEADER + 8].copy_from_slice(&number.to_be_bytes());
        noise.fill(&mut frame[HEADER + 8..]);
        card.exchange(&frame)?;
        bytes += len;
    }
    println!("frames={} bytes={bytes}", workload.requests);
    Ok(())
}

/// Waits until something is there.
pub fn wait<T>(why: &'static str, mut look: impl FnMut() -> Option<T>) -> Result<T, &'static str> {
    let started = Board.now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Board.now().saturating_since(started) > TIME_MAX {
            return Err(why);
        }
        core::hint::spin_loop();
    }
}
