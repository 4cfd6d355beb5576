//! The CPU's view of memory beside the devices'.
//!
//! Software reads and writes its own RAM through plain windows, which nothing can watch. So the CPU
//! view is RAM of its own (`cpu`), and beside it stands what each line held when it was last filled
//! or written back (`filled`): a line that differs is dirty. What non-coherent devices reach is
//! a third RAM (`memory`). All three are paid for only where they are touched, and the cost of an
//! operation goes with the lines that it names.
//!
//! The adversary's moves are those of a real cache: a dirty line may be written back at any moment,
//! a clean line may be dropped and fetched again at any moment, and always as a whole.

use std::sync::atomic::Ordering;

use dmakit_addr::{Address, PAGE_BYTES, PhysAddr, PhysRange};
use dmakit_platform::Window;
use dmakit_platform::host::HostRam;

use crate::log::{Event, Log};
use crate::rng::Rng;

/// Lines of which software or a device has lately taken notice: where the adversary strikes.
const RECENT_MAX: usize = 512;

#[derive(Debug)]
pub(crate) struct Cache {
    views: Views,
    line_bytes: u64,
    rng: Rng,
    chances: Chances,
    recent: Vec<u64>,
}

/// How often the adversary makes a move, of 256; drawn from the seed, so that seeds differ in
/// character and not only in order.
#[derive(Debug)]
struct Chances {
    /// A dirty line is written back before a device touches it.
    evicted_before_access: u32,
    /// A clean line was not in the cache when a device wrote to memory, so the CPU sees the write.
    absent_at_write: u32,
    /// A dirty line is written back before the CPU can drop it.
    evicted_before_drop: u32,
    /// A dirty line that was noticed lately is written back when the machine is disturbed.
    evicted_at_disturbance: u32,
    /// A clean line that was noticed lately is fetched again when the machine is disturbed.
    refilled_at_disturbance: u32,
}

#[derive(Debug)]
struct Views {
    cpu: HostRam,
    /// Absent where all devices are coherent: there is one view then.
    below: Option<Below>,
}

#[derive(Debug)]
struct Below {
    memory: HostRam,
    filled: HostRam,
}

/// One cache line in all three views, as words. Each word is moved in one step, so that a CPU that
/// writes elsewhere in the line at the same moment loses nothing.
struct Line<'a> {
    cpu: Window<'a>,
    memory: Window<'a>,
    filled: Window<'a>,
}

impl Views {
    /// The line at `start`; `None` where there is no cache, or no RAM.
    fn line(&self, start: u64, line_bytes: u64) -> Option<Line<'_>> {
        let below = self.below.as_ref()?;
        let line = PhysRange::new(PhysAddr::new(start), line_bytes).ok()?;
        Some(Line {
            cpu: self.cpu.hardware_window(line)?,
            memory: below.memory.hardware_window(line)?,
            filled: below.filled.hardware_window(line)?,
        })
    }

    fn memory(&self) -> &HostRam {
        self.below.as_ref().map_or(&self.cpu, |below| &below.memory)
    }
}

impl Line<'_> {
    fn differs(one: Window<'_>, other: Window<'_>) -> bool {
        let words = one.words64().into_iter().flatten();
        let others = other.words64().into_iter().flatten();
        words
            .zip(others)
            .any(|(word, other)| word.load(Ordering::Relaxed) != other.load(Ordering::Relaxed))
    }

    fn is_dirty(&self) -> bool {
        Self::differs(self.cpu, self.filled)
    }

    fn is_stale(&self) -> bool {
        Self::differs(self.cpu, self.memory)
    }

    fn each_word(&self, visit: impl Fn([&std::sync::atomic::AtomicU64; 3])) {
        let cpu = self.cpu.words64().into_iter().flatten();
        let memory = self.memory.words64().into_iter().flatten();
        let filled = self.filled.words64().into_iter().flatten();
        for ((cpu, memory), filled) in cpu.zip(memory).zip(filled) {
            visit([cpu, memory, filled]);
        }
    }

    fn write_back(&self) {
        self.each_word(|[cpu, memory, filled]| {
            let value = cpu.load(Ordering::Relaxed);
            memory.store(value, Ordering::Relaxed);
            filled.store(value, Ordering::Relaxed);
        });
    }

    /// Fetches a clean line again. What the CPU writes meanwhile stays, and makes the line dirty.
    fn refill(&self) {
        self.each_word(|[cpu, memory, filled]| {
            let new = memory.load(Ordering::Relaxed);
            let old = filled.swap(new, Ordering::Relaxed);
            let _ = cpu.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed);
        });
    }

    /// Drops the line, dirty or not, and fetches it again at once: the earliest moment at which
    /// speculation may, and so the worst.
    fn drop_and_refill(&self) {
        self.each_word(|[cpu, memory, filled]| {
            let value = memory.load(Ordering::Relaxed);
            cpu.store(value, Ordering::Relaxed);
            filled.store(value, Ordering::Relaxed);
        });
    }
}

/// What cache maintenance does to each line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Maintenance {
    Clean,
    Invalidate,
    CleanInvalidate,
}

impl Cache {
    pub(crate) fn new(
        cpu: HostRam,
        below: Option<[HostRam; 2]>,
        line_bytes: u64,
        seed: u64,
    ) -> Self {
        let mut rng = Rng::derived(seed, 0xcac4e);
        let chances = Chances {
            evicted_before_access: rng.pick(&[8, 32, 96]),
            absent_at_write: rng.pick(&[0, 16, 64]),
            evicted_before_drop: rng.pick(&[32, 128, 192]),
            evicted_at_disturbance: rng.pick(&[8, 32, 128]),
            refilled_at_disturbance: rng.pick(&[2, 16, 64]),
        };
        Self {
            views: Views {
                cpu,
                below: below.map(|[memory, filled]| Below { memory, filled }),
            },
            line_bytes,
            rng,
            chances,
            recent: Vec::new(),
        }
    }

    /// Whether devices and the CPU see the same memory whatever software does.
    pub(crate) fn is_coherent(&self) -> bool {
        self.views.below.is_none()
    }

    /// Into how long parts a device's transfer of `len` bytes is cut: long ones by frames, so that
    /// their number stays small.
    pub(crate) fn part_bytes(&self, len: u64) -> u64 {
        if len > 256 * self.line_bytes {
            PAGE_BYTES
        } else {
            self.line_bytes
        }
    }

    pub(crate) fn is_ram(&self, range: PhysRange) -> bool {
        self.views.cpu.hardware_window(range).is_some()
    }

    /// The part of `range` from its start that lies in one range of RAM; `None` where it starts
    /// outside.
    pub(crate) fn ram_at(&self, range: PhysRange) -> Option<PhysRange> {
        let ram = self
            .views
            .cpu
            .ranges()
            .find(|ram| ram.contains(range.start()))?;
        Some(ram.intersection(&range))
    }

    /// What memory holds, below the caches.
    pub(crate) fn peek(&self, range: PhysRange, bytes: &mut [u8]) -> bool {
        let window = self.views.memory().hardware_window(range);
        if let Some(window) = window {
            window.read(bytes);
        }
        window.is_some()
    }

    /// The bytes of RAM in `range` as a program on a CPU finds them.
    pub(crate) fn load(&self, range: PhysRange, bytes: &mut [u8]) -> bool {
        let window = self.views.cpu.hardware_window(range);
        if let Some(window) = window {
            window.read(bytes);
        }
        window.is_some()
    }

    /// Puts a program's bytes into the RAM of `range`.
    pub(crate) fn store(&self, range: PhysRange, bytes: &[u8]) -> bool {
        let window = self.views.cpu.hardware_window(range);
        if let Some(window) = window {
            window.write(bytes);
        }
        window.is_some()
    }

    /// The bytes of RAM in `range` as a device finds them.
    pub(crate) fn device_read(
        &mut self,
        range: PhysRange,
        snoops: bool,
        bytes: &mut [u8],
        log: &mut Log,
    ) {
        self.before_device(range, snoops, log);
        self.peek(range, bytes);
    }

    /// Puts a device's bytes into the RAM of `range`.
    pub(crate) fn device_write(
        &mut self,
        range: PhysRange,
        snoops: bool,
        bytes: &[u8],
        log: &mut Log,
    ) {
        self.before_device(range, snoops, log);
        if let Some(window) = self.views.memory().hardware_window(range) {
            window.write(bytes);
        }
        for start in lines(range, self.line_bytes) {
            let Some(line) = self.views.line(start, self.line_bytes) else {
                return;
            };
            if snoops || (!line.is_dirty() && self.rng.chance(self.chances.absent_at_write)) {
                line.refill();
            }
        }
    }

    fn before_device(&mut self, range: PhysRange, snoops: bool, log: &mut Log) {
        for start in lines(range, self.line_bytes) {
            let Some(line) = self.views.line(start, self.line_bytes) else {
                return;
            };
            if line.is_dirty() {
                if snoops {
                    line.write_back();
                } else if self.rng.chance(self.chances.evicted_before_access) {
                    line.write_back();
                    evicted(start, log);
                }
            }
            self.notice(start);
        }
    }

    /// Cache maintenance by the CPU, on every line that `range` touches.
    pub(crate) fn maintain(&mut self, range: PhysRange, what: Maintenance, log: &mut Log) {
        log.counts.lines_maintained += line_count(range, self.line_bytes);
        if self.is_coherent() {
            return;
        }
        for start in lines(range, self.line_bytes) {
            let Some(line) = self.views.line(start, self.line_bytes) else {
                continue;
            };
            if line.is_dirty() {
                if what != Maintenance::Invalidate {
                    line.write_back();
                    log.counts.lines_written_back += 1;
                } else if self.rng.chance(self.chances.evicted_before_drop) {
                    line.write_back();
                    evicted(start, log);
                }
            }
            if what != Maintenance::Clean {
                line.drop_and_refill();
            }
        }
        self.notice_some(range);
    }

    /// Lets the adversary move up to `moves` lines that were noticed lately.
    pub(crate) fn disturb(&mut self, moves: usize, log: &mut Log) {
        for _ in 0..moves.min(self.recent.len()) {
            let start = self.recent[self.rng.below(self.recent.len() as u64) as usize];
            let Some(line) = self.views.line(start, self.line_bytes) else {
                continue;
            };
            if line.is_dirty() {
                if self.rng.chance(self.chances.evicted_at_disturbance) {
                    line.write_back();
                    evicted(start, log);
                }
            } else if line.is_stale() && self.rng.chance(self.chances.refilled_at_disturbance) {
                line.refill();
                log.counts.lines_refilled += 1;
                log.event(Event::Refilled(PhysAddr::new(start)));
            }
        }
    }

    /// Overwrites `range`, in every view, with bytes that nobody chose.
    pub(crate) fn scramble(&mut self, range: PhysRange) {
        let byte = self.garbage();
        self.fill(range, byte);
    }

    /// Leaves the garbage of an earlier owner in the CPU's view of `range`, in dirty lines.
    pub(crate) fn litter(&mut self, range: PhysRange) {
        let byte = self.garbage();
        if let Some(window) = self.views.cpu.hardware_window(range) {
            window.fill(byte);
        }
    }

    /// One byte for a whole range is quick to write; it is not zero.
    fn garbage(&mut self) -> u8 {
        self.rng.bits() as u8 | 1
    }

    /// Overwrites `range`, in every view.
    pub(crate) fn fill(&self, range: PhysRange, byte: u8) {
        let below = self.views.below.iter();
        let rams = below.flat_map(|below| [&below.memory, &below.filled]);
        for ram in rams.chain([&self.views.cpu]) {
            if let Some(window) = ram.hardware_window(range) {
                window.fill(byte);
            }
        }
    }

    /// Notices a line; a full list forgets a random one.
    fn notice(&mut self, start: u64) {
        if self.recent.len() < RECENT_MAX {
            self.recent.push(start);
        } else {
            let index = self.rng.below(RECENT_MAX as u64) as usize;
            self.recent[index] = start;
        }
    }

    /// Notices the first and last lines of `range`, which others may share, and a few inside.
    fn notice_some(&mut self, range: PhysRange) {
        let Some(last) = range.last() else {
            return;
        };
        let first = range.start().align_down(self.line_bytes).raw();
        self.notice(first);
        self.notice(last.align_down(self.line_bytes).raw());
        let count = line_count(range, self.line_bytes);
        for _ in 0..count.min(8) {
            let index = self.rng.below(count);
            self.notice(first + index * self.line_bytes);
        }
    }
}

fn evicted(start: u64, log: &mut Log) {
    log.counts.lines_evicted += 1;
    log.event(Event::Evicted(PhysAddr::new(start)));
}

/// How many lines `range` touches.
fn line_count(range: PhysRange, line_bytes: u64) -> u64 {
    let first = range.start().raw() / line_bytes;
    range
        .last()
        .map_or(0, |last| last.raw() / line_bytes - first + 1)
}

/// The first bytes of the lines that `range` touches.
fn lines(range: PhysRange, line_bytes: u64) -> impl Iterator<Item = u64> {
    let first = range.start().align_down(line_bytes).raw();
    (0..line_count(range, line_bytes)).map(move |index| first + index * line_bytes)
}
