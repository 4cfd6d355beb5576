//! Programs that use their memory while somebody moves it.

mod line;
mod mover;
mod moving;
mod pressure;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dmakit_addr::{PAGE_BYTES, Pfn, PfnRange, PhysAddr, PhysRange};
use dmakit_phys::Frames;

use crate::contents::{Contents, LINE_BYTES, LINES};
use crate::{Machine, Rng};

pub use line::LineLoan;
pub use mover::{GateCounts, Mover};
pub use moving::NoDevices;
pub use pressure::{Pressure, PressureConfig};

/// A page of a program, wherever it is: one frame, or several next to each other that move together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PageId(u64);

impl PageId {
    /// Its number, counted from 0 in the order in which pages were added.
    pub const fn raw(self) -> u64 {
        self.0
    }
}

impl fmt::Display for PageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page{}", self.0)
    }
}

/// Bytes that a page should not have had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Which page.
    pub page: PageId,
    /// The frame that it was in, or the one of its frames.
    pub frame: Pfn,
    /// Which of the 64 lines of the frame.
    pub line: usize,
    /// The version of that line that was expected.
    pub version: u32,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} in frame {}: line {} does not hold its version {}",
            self.page, self.frame, self.line, self.version
        )
    }
}

/// What programs did, and what they noticed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Uses {
    /// Frames that were looked at whole and then written to.
    pub touched: u64,
    /// Touches that had to wait, since the page was being moved.
    pub waited: u64,
    /// Looks at every page.
    pub rounds: u64,
    /// Pages that were moved.
    pub moved: u64,
    /// The first wrong bytes that were found.
    pub damage: Option<Damage>,
    /// How many lines were wrong in all.
    pub damaged: u64,
}

/// The programs of a machine: pages with contents that can be checked, used all the time.
///
/// A program does not know which frames its pages are in. It writes to them until a move excludes
/// it, waits while the page is moved, and goes on in the new frame. Whatever it finds there that it
/// did not write is [`Damage`]. The steps of a move are those of
/// [`CpuMappings`](dmakit_phys::CpuMappings), then [`exchange`](Self::exchange); [`Mover`] takes
/// them.
///
/// A clone is a handle to the same programs.
#[derive(Clone, Debug)]
pub struct Programs {
    machine: Machine,
    book: Arc<Mutex<Book>>,
}

#[derive(Debug)]
struct Book {
    rng: Rng,
    pages: BTreeMap<PageId, Page>,
    /// By the first frame of each page.
    by_frame: BTreeMap<Pfn, PageId>,
    /// The pages in no order, to pick one from.
    list: Vec<PageId>,
    next: u64,
    uses: Uses,
}

#[derive(Debug)]
struct Page {
    /// Where it is.
    range: PfnRange,
    /// The owner of these frames, but for a moment in a move.
    frames: Frames,
    /// Of each frame.
    contents: Vec<Contents>,
    /// Programs are kept out: it is being moved.
    is_excluded: bool,
    /// References that nobody may move it under.
    holds: u32,
    /// Reasons why its program does not free it.
    keeps: u32,
    /// Lines under a device, by frame and line, and what they become.
    lent: BTreeMap<(usize, usize), u32>,
    /// Where in the list.
    index: usize,
}

impl Page {
    fn frame(&self, index: usize) -> Pfn {
        Pfn::new(self.range.start().raw() + index as u64)
    }
}

impl Programs {
    /// Programs without a page, whose steps are decided by `seed`.
    pub fn new(machine: &Machine, seed: u64) -> Self {
        let book = Book {
            rng: Rng::derived(seed, 0x9209),
            pages: BTreeMap::new(),
            by_frame: BTreeMap::new(),
            list: Vec::new(),
            next: 0,
            uses: Uses::default(),
        };
        Self {
            machine: machine.clone(),
            book: Arc::new(Mutex::new(book)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a program one more page, in frames of its own, and fills it.
    ///
    /// # Panics
    /// Where `frames` are not RAM.
    pub fn add(&self, frames: Frames) -> PageId {
        let range = frames.range();
        let mut book = self.lock();
        let id = PageId(book.next);
        book.next += 1;
        let tag = self.machine.seed() ^ id.0.rotate_left(32);
        let contents = (0..range.len()).map(|index| Contents::new(tag ^ index << 16));
        let page = Page {
            range,
            frames,
            contents: contents.collect(),
            is_excluded: false,
            holds: 0,
            keeps: 0,
            lent: BTreeMap::new(),
            index: book.list.len(),
        };
        for (index, contents) in page.contents.iter().enumerate() {
            let frame = page.frame(index);
            assert!(self.store(frame, 0, &contents.page()), "{frame} is no RAM");
        }
        book.list.push(id);
        book.by_frame.insert(range.start(), id);
        book.pages.insert(id, page);
        id
    }

    /// Takes a page away, once more checked; `None` while it is moved, held, kept or under a device,
    /// and for one that is gone.
    pub fn remove(&self, id: PageId) -> Option<Frames> {
        let mut book = self.lock();
        let page = book.pages.get(&id)?;
        if page.is_excluded || page.holds + page.keeps > 0 || !page.lent.is_empty() {
            return None;
        }
        self.check_page(&mut book, id);
        let page = book.pages.remove(&id)?;
        book.by_frame.remove(&page.range.start());
        book.list.swap_remove(page.index);
        if let Some(&other) = book.list.get(page.index) {
            if let Some(other) = book.pages.get_mut(&other) {
                other.index = page.index;
            }
        }
        Some(page.frames)
    }

    /// How many pages there are.
    pub fn pages(&self) -> usize {
        self.lock().list.len()
    }

    /// One of the pages, by a number below [`pages`](Self::pages), in no order.
    pub fn page(&self, index: usize) -> Option<PageId> {
        self.lock().list.get(index).copied()
    }

    /// The page that has a frame.
    pub fn page_in(&self, frame: Pfn) -> Option<PageId> {
        let book = self.lock();
        let (_, id) = book.by_frame.range(..=frame).next_back()?;
        let page = book.pages.get(id)?;
        page.range.contains(frame).then_some(*id)
    }

    /// The frames that a page is in.
    pub fn range_of(&self, id: PageId) -> Option<PfnRange> {
        self.lock().pages.get(&id).map(|page| page.range)
    }

    /// What was done and noticed so far.
    pub fn uses(&self) -> Uses {
        self.lock().uses.clone()
    }

    /// Lets programs take `steps` steps: each looks at a whole frame and writes to a line of it.
    pub fn run(&self, steps: u64) {
        let mut book = self.lock();
        for _ in 0..steps {
            let count = book.list.len() as u64;
            let index = book.rng.below(count) as usize;
            let Some(&id) = book.list.get(index) else {
                return;
            };
            self.touch(&mut book, id);
        }
    }

    /// Lets a program take a step on this page.
    pub fn run_on(&self, id: PageId) {
        self.touch(&mut self.lock(), id);
    }

    fn touch(&self, book: &mut Book, id: PageId) {
        let line = book.rng.below(LINES as u64) as usize;
        let Some(page) = book.pages.get_mut(&id) else {
            return;
        };
        if page.is_excluded {
            book.uses.waited += 1;
            return;
        }
        book.uses.touched += 1;
        let index = book.rng.below(page.contents.len() as u64) as usize;
        self.check_frame(&mut book.uses, id, page, index);
        if !page.lent.contains_key(&(index, line)) {
            let contents = &mut page.contents[index];
            let version = contents.version(line) + 1;
            contents.advance(line, version);
            let bytes = contents.line(line, version);
            self.store(page.frame(index), line, &bytes);
        }
    }

    /// Looks at every page. While one is moved it is looked at where it was.
    pub fn check(&self) {
        let mut book = self.lock();
        book.uses.rounds += 1;
        let ids = book.list.clone();
        for id in ids {
            self.check_page(&mut book, id);
        }
    }

    fn check_page(&self, book: &mut Book, id: PageId) {
        if let Some(page) = book.pages.get_mut(&id) {
            for index in 0..page.contents.len() {
                self.check_frame(&mut book.uses, id, page, index);
            }
        }
    }

    fn check_frame(&self, uses: &mut Uses, id: PageId, page: &Page, index: usize) {
        let (frame, contents) = (page.frame(index), &page.contents[index]);
        let mut found = [0; LINES * LINE_BYTES];
        self.load(frame, 0, &mut found);
        if found == contents.page() {
            return;
        }
        for (line, bytes) in found.chunks_exact(LINE_BYTES).enumerate() {
            let holds = |version| contents.line(line, version)[..] == *bytes;
            let version = contents.version(line);
            let pending = page.lent.get(&(index, line)).copied();
            if holds(version) || pending.is_some_and(holds) {
                continue;
            }
            uses.damaged += 1;
            uses.damage.get_or_insert(Damage {
                page: id,
                frame,
                line,
                version,
            });
            // Said once: from here on the page is as it should be.
            self.store(frame, line, &contents.line(line, version));
        }
    }

    /// Refers to a page for a moment: it cannot be moved until [`release`](Self::release). False
    /// where there is none, or it is being moved.
    pub fn hold(&self, id: PageId) -> bool {
        let mut book = self.lock();
        let page = book.pages.get_mut(&id).filter(|page| !page.is_excluded);
        let Some(page) = page else {
            return false;
        };
        page.holds += 1;
        true
    }

    /// Ends one [`hold`](Self::hold).
    pub fn release(&self, id: PageId) {
        if let Some(page) = self.lock().pages.get_mut(&id) {
            page.holds = page.holds.saturating_sub(1);
        }
    }

    /// Its program does not free the page until [`unkeep`](Self::unkeep): it is pinned, or leased.
    /// It may move.
    pub fn keep(&self, id: PageId) {
        if let Some(page) = self.lock().pages.get_mut(&id) {
            page.keeps += 1;
        }
    }

    /// Ends one [`keep`](Self::keep).
    pub fn unkeep(&self, id: PageId) {
        if let Some(page) = self.lock().pages.get_mut(&id) {
            page.keeps = page.keeps.saturating_sub(1);
        }
    }

    fn load(&self, frame: Pfn, line: usize, bytes: &mut [u8]) -> bool {
        let range = lines_of(frame, line, bytes.len());
        range.is_some_and(|range| self.machine.with(|state| state.cache.load(range, bytes)))
    }

    fn store(&self, frame: Pfn, line: usize, bytes: &[u8]) -> bool {
        let range = lines_of(frame, line, bytes.len());
        range.is_some_and(|range| self.machine.with(|state| state.cache.store(range, bytes)))
    }
}

/// `len` bytes of a frame from a line on.
fn lines_of(frame: Pfn, line: usize, len: usize) -> Option<PhysRange> {
    let start = frame.raw().checked_mul(PAGE_BYTES)?;
    PhysRange::new(
        PhysAddr::new(start + (line * LINE_BYTES) as u64),
        len as u64,
    )
    .ok()
}
