//! The steps of a move.

use dmakit_addr::Pfn;
use dmakit_phys::Frames;

use super::{PageId, Programs, lines_of};
use crate::Cost;
use crate::contents::{LINE_BYTES, LINES};

/// Why a page cannot be moved now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stays {
    /// No page of a program is in that frame.
    NoPage,
    /// Somebody moves it already.
    Moving,
    /// Somebody refers to it for a moment.
    Held,
}

impl Programs {
    /// Keeps programs out of the page that is in `frame`: the first step of a move.
    ///
    /// # Errors
    /// [`Stays`].
    pub fn exclude(&self, frame: Pfn) -> Result<PageId, Stays> {
        let mut book = self.lock();
        let id = *book.by_frame.get(&frame).ok_or(Stays::NoPage)?;
        let page = book.pages.get_mut(&id).ok_or(Stays::NoPage)?;
        match (page.is_excluded, page.holds) {
            (true, _) => Err(Stays::Moving),
            (false, 1..) => Err(Stays::Held),
            (false, 0) => {
                page.is_excluded = true;
                Ok(id)
            }
        }
    }

    /// Copies what is in `from` to `to`, line by line, while programs run.
    pub fn copy(&self, from: Pfn, to: Pfn) {
        let first = self.lock().rng.below(LINES as u64) as usize;
        for index in 0..LINES {
            let line = (first + index) % LINES;
            let mut bytes = [0; LINE_BYTES];
            self.load(from, line, &mut bytes);
            self.store(to, line, &bytes);
            if index % 16 == 0 {
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

    /// Lets the programs go on in `to`, and gives the frame that they were in; `to` back where no
    /// page is in `from`.
    pub fn switch(&self, from: Pfn, to: Frames) -> Frames {
        let mut book = self.lock();
        let Some(id) = book.by_frame.remove(&from) else {
            return to;
        };
        book.by_frame.insert(to.range().start(), id);
        book.uses.moved += 1;
        // Somebody else's from now on: whoever still reads there shall notice.
        if let Some(range) = lines_of(from, 0, LINES * LINE_BYTES) {
            self.machine.with(|state| state.cache.litter(range));
        }
        match book.pages.get_mut(&id) {
            Some(page) => {
                page.is_excluded = false;
                std::mem::replace(&mut page.frames, to)
            }
            None => to,
        }
    }

    /// Gives a move up: the programs go on where they were.
    pub fn restore(&self, frame: Pfn) {
        let mut book = self.lock();
        let id = book.by_frame.get(&frame).copied();
        if let Some(page) = id.and_then(|id| book.pages.get_mut(&id)) {
            page.is_excluded = false;
        }
    }
}
