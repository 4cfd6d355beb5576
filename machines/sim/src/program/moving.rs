//! The steps of a move.

use dmakit_addr::{Pfn, PfnRange};
use dmakit_phys::{CpuMappings, DeviceMappings, Frames, Refusal};

use super::{PageId, Programs, lines_of};
use crate::Cost;
use crate::contents::{LINE_BYTES, LINES};

/// Lines that are copied before somebody else gets a turn.
const LINES_AT_ONCE: usize = 16;

/// The device's side where no device reaches the pages of programs.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoDevices;

impl DeviceMappings for NoDevices {
    type Quiesced = ();

    fn quiesce(&self, _: PfnRange) -> Result<(), Refusal> {
        Ok(())
    }

    fn redirect(&self, (): &mut (), _: PfnRange) -> Result<(), Refusal> {
        Ok(())
    }

    fn resume(&self, (): ()) {}
}

/// The processors' side of a move. Between the lines that are copied programs run and the machine
/// is disturbed; the old frames are full of garbage afterwards, so that whoever still reads there
/// notices.
impl CpuMappings for Programs {
    type Excluded = PageId;

    /// Refuses as [`Gone`](Refusal::Gone) where no page is just there, as [`Busy`](Refusal::Busy)
    /// where somebody refers to it or moves it already.
    fn exclude_writers(&self, frames: PfnRange) -> Result<PageId, Refusal> {
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

    fn copy(&self, from: PfnRange, to: PfnRange) {
        for index in 0..from.len().min(to.len()) {
            let [from, to] = [from, to].map(|range| Pfn::new(range.start().raw() + index));
            self.copy_frame(from, to);
        }
    }

    fn redirect(&self, id: PageId, to: PfnRange) {
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

    fn readmit(&self, id: PageId) {
        if let Some(page) = self.lock().pages.get_mut(&id) {
            page.is_excluded = false;
        }
    }
}

impl Programs {
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
}
