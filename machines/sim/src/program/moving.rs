//! The steps of a move.

use dmakit_addr::{Pfn, PfnRange};
use dmakit_phys::{Frames, Refusal};

use super::{PageId, Programs, lines_of};
use crate::Cost;
use crate::contents::{LINE_BYTES, LINES};

/// Lines that are copied before somebody else gets a turn.
const LINES_AT_ONCE: usize = 16;

impl Programs {
    /// Keeps programs out of the page that is in `frames`: the first step of a move.
    ///
    /// # Errors
    /// [`Refusal::Gone`] where no page is just there, [`Refusal::Busy`] where somebody refers to it
    /// or moves it already.
    pub fn exclude(&self, frames: PfnRange) -> Result<PageId, Refusal> {
        let mut book = self.lock();
        let id = book.by_frame.get(&frames.start()).copied();
        let page = id.and_then(|id| book.pages.get_mut(&id));
        let (Some(id), Some(page)) = (id, page) else {
            return Err(Refusal::Gone);
        };
        if page.range != frames {
            return Err(Refusal::Gone);
        }
        if page.is_excluded || page.holds > 0 {
            return Err(Refusal::Busy);
        }
        page.is_excluded = true;
        Ok(id)
    }

    /// Copies what is in `from` to `to`, line by line, while programs run.
    pub fn copy(&self, from: PfnRange, to: PfnRange) {
        for index in 0..from.len().min(to.len()) {
            let [from, to] = [from, to].map(|range| Pfn::new(range.start().raw() + index));
            self.copy_frame(from, to);
        }
    }

    fn copy_frame(&self, from: Pfn, to: Pfn) {
        let first = self.lock().rng.below(LINES as u64) as usize;
        for index in 0..LINES {
            let line = (first + index) % LINES;
            let mut bytes = [0; LINE_BYTES];
            self.load(from, line, &mut bytes);
            self.store(to, line, &bytes);
            if index % LINES_AT_ONCE == 0 {
                self.machine.disturb();
                self.run(1);
                // The one who is moved is the one who would be hurt.
                if let Some(id) = self.page_in(from) {
                    self.run_on(id);
                }
            }
        }
        self.machine.spend(Cost::CopyFrame, from, to);
    }

    /// Lets the programs go on in `to`, which is as long. The old frames are full of garbage from
    /// then on: whoever still reads there shall notice.
    pub fn redirect(&self, id: PageId, to: PfnRange) {
        let mut book = self.lock();
        let Some(page) = book.pages.get_mut(&id) else {
            return;
        };
        let old = std::mem::replace(&mut page.range, to);
        page.is_excluded = false;
        book.by_frame.remove(&old.start());
        book.by_frame.insert(to.start(), id);
        book.uses.moved += 1;
        for index in 0..old.len() {
            let frame = Pfn::new(old.start().raw() + index);
            if let Some(range) = lines_of(frame, 0, LINES * LINE_BYTES) {
                self.machine.with(|state| state.cache.litter(range));
            }
        }
    }

    /// Hands over the owner of the frames that a page has been redirected to, and gives that of
    /// those which it was in; `to` back where there is no such page.
    pub fn exchange(&self, to: Frames) -> Frames {
        let mut book = self.lock();
        let id = book.by_frame.get(&to.range().start()).copied();
        match id.and_then(|id| book.pages.get_mut(&id)) {
            Some(page) => std::mem::replace(&mut page.frames, to),
            None => to,
        }
    }

    /// Gives a move up: the programs go on where they were.
    pub fn readmit(&self, id: PageId) {
        if let Some(page) = self.lock().pages.get_mut(&id) {
            page.is_excluded = false;
        }
    }
}
