//! What a disk is put through, whoever drives it: all of it is read, then small requests read and
//! write at random places, then all of it is read again.
//!
//! Every sector is known by a sum from its first reading on, so each later reading is checked; each
//! write is read back at once. What lies around a buffer must never change, nor may the buffer of a
//! read that was refused.

use alloc::vec;
use alloc::vec::Vec;

use sha2::{Digest, Sha256};

use crate::failing;
use crate::noise::Noise;

/// Bytes of a sector.
pub const SECTOR: usize = 512;

/// Sectors of the longest request.
const SECTORS_MAX: u64 = 128;

/// Bytes on each side of a buffer that nobody may change.
const MARGIN: usize = 512;

/// What they hold, and a buffer before it is read into.
const PATTERN: u8 = 0xee;

/// How often a request is tried that does not succeed.
const TRIES: u32 = 50;

/// The hash of all that a disk holds.
pub type Hash = sha2::digest::Output<Sha256>;

/// A disk, driven by somebody.
pub trait Disk {
    fn sectors(&self) -> u64;
    fn read(&mut self, sector: u64, bytes: &mut [u8]) -> Result<(), Failure>;
    fn write(&mut self, sector: u64, bytes: &[u8]) -> Result<(), Failure>;
}

/// Why a request did not succeed.
#[derive(Clone, Copy, Debug)]
pub enum Failure {
    /// It never reached the device: its memory could not be mapped.
    Refused,
    /// The device went wrong, and was reset.
    Reset,
    /// There is no point in going on.
    Broken(&'static str),
}

/// How much is asked of the disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Workload {
    /// Small requests.
    pub requests: u64,
    /// Where they go, and what is written.
    pub seed: u64,
    /// One mapping in this many is refused meanwhile; 0 for none.
    pub fail: u64,
}

#[derive(Default)]
struct Counts {
    read: u64,
    written: u64,
    refused: u64,
    resets: u64,
}

struct Exercise<'a, D> {
    disk: &'a mut D,
    /// By sector, from its first reading on.
    sums: Vec<u64>,
    /// Margin, buffer, margin.
    memory: Vec<u8>,
    counts: Counts,
}

/// Puts a disk through it; the hash of what it holds in the end.
pub fn run(disk: &mut impl Disk, workload: &Workload) -> Result<Hash, &'static str> {
    let mut exercise = Exercise {
        sums: Vec::new(),
        memory: vec![PATTERN; SECTORS_MAX as usize * SECTOR + 3 * MARGIN],
        counts: Counts::default(),
        disk,
    };
    let before = exercise.pass()?;
    if workload.requests == 0 {
        return Ok(before);
    }
    println!("before={before:x}");
    failing::start(workload.fail, workload.seed);
    let mut noise = Noise::new(workload.seed);
    for _ in 0..workload.requests {
        exercise.request(&mut noise)?;
    }
    let failed = failing::stop();
    let after = exercise.pass()?;
    let Counts {
        read,
        written,
        refused,
        resets,
    } = exercise.counts;
    println!(
        "requests={} read={read} written={written}",
        workload.requests
    );
    if workload.fail > 0 {
        println!("mappings_refused={failed} requests_refused={refused} resets={resets}");
    }
    Ok(after)
}

impl<D: Disk> Exercise<'_, D> {
    /// Reads all of the disk.
    fn pass(&mut self) -> Result<Hash, &'static str> {
        let mut hash = Sha256::new();
        let mut sector = 0;
        while sector < self.disk.sectors() {
            let count = (self.disk.sectors() - sector).min(SECTORS_MAX);
            hash.update(self.read(sector, count, MARGIN)?);
            sector += count;
        }
        Ok(hash.finalize())
    }

    /// Reads or writes a few sectors somewhere, of a buffer that begins anywhere.
    fn request(&mut self, noise: &mut Noise) -> Result<(), &'static str> {
        let count = 1 + noise.below(SECTORS_MAX.min(self.disk.sectors()));
        let sector = noise.below(self.disk.sectors() - count + 1);
        let start = MARGIN + noise.below(MARGIN as u64 / 16) as usize * 16;
        if noise.below(2) == 0 {
            self.write(sector, count, start, noise)?;
        }
        self.read(sector, count, start).map(drop)
    }

    fn read(&mut self, sector: u64, count: u64, start: usize) -> Result<&[u8], &'static str> {
        let end = start + count as usize * SECTOR;
        self.memory.fill(PATTERN);
        for _ in 0..TRIES {
            let crowd = failing::crowd();
            let done = self.disk.read(sector, &mut self.memory[start..end]);
            drop(crowd);
            let (margins, buffer) = ([&self.memory[..start], &self.memory[end..]], start..end);
            if !margins.iter().all(|margin| is_untouched(margin)) {
                return Err("memory beside a buffer has changed");
            }
            if matches!(done, Err(Failure::Refused)) && !is_untouched(&self.memory[buffer.clone()])
            {
                return Err("the buffer of a refused read has changed");
            }
            if self.counts.settle(done)? {
                self.counts.read += count * SECTOR as u64;
                check(&mut self.sums, sector, &self.memory[buffer.clone()])?;
                return Ok(&self.memory[buffer]);
            }
        }
        Err("a read that never succeeds")
    }

    fn write(
        &mut self,
        sector: u64,
        count: u64,
        start: usize,
        noise: &mut Noise,
    ) -> Result<(), &'static str> {
        let end = start + count as usize * SECTOR;
        noise.fill(&mut self.memory[start..end]);
        for _ in 0..TRIES {
            let crowd = failing::crowd();
            let done = self.disk.write(sector, &self.memory[start..end]);
            drop(crowd);
            if self.counts.settle(done)? {
                self.counts.written += count * SECTOR as u64;
                let sectors = self.memory[start..end].chunks_exact(SECTOR);
                for (known, bytes) in self.sums[sector as usize..].iter_mut().zip(sectors) {
                    *known = sum(bytes);
                }
                return Ok(());
            }
        }
        Err("a write that never succeeds")
    }
}

impl Counts {
    /// Whether a request is done; false where it should be tried again.
    fn settle(&mut self, done: Result<(), Failure>) -> Result<bool, &'static str> {
        match done {
            Ok(()) => return Ok(true),
            Err(Failure::Refused) => self.refused += 1,
            Err(Failure::Reset) => self.resets += 1,
            Err(Failure::Broken(why)) => return Err(why),
        }
        Ok(false)
    }
}

/// Compares sectors with what is known of them; learns those that come next.
fn check(sums: &mut Vec<u64>, sector: u64, bytes: &[u8]) -> Result<(), &'static str> {
    for (index, bytes) in (sector as usize..).zip(bytes.chunks_exact(SECTOR)) {
        match sums.get(index) {
            Some(known) if *known == sum(bytes) => {}
            Some(_) => return Err("a sector does not hold what was written"),
            None => sums.push(sum(bytes)),
        }
    }
    Ok(())
}

fn is_untouched(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == PATTERN)
}

/// Tells sectors apart; not more than that.
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8);
    words.fold(0, |sum: u64, word| {
        let word = word.try_into().map_or(0, u64::from_le_bytes);
        (sum ^ word)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
    })
}
