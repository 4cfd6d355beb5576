//! Lines of pages that devices write.

use super::{PageId, Programs};
use crate::contents::{LINE_BYTES, LINES};

/// A line of a page that a device is writing.
///
/// Give it back with [`Programs::finish_line`]: until then the line may hold the old bytes or the
/// new ones, and no program writes to it.
#[derive(PartialEq, Eq, Debug)]
pub struct LineLoan {
    page: PageId,
    frame: usize,
    line: usize,
    version: u32,
    bytes: [u8; LINE_BYTES],
}

impl LineLoan {
    /// Of which page.
    pub fn page(&self) -> PageId {
        self.page
    }

    /// Where in the page, in bytes.
    pub fn offset(&self) -> u64 {
        ((self.frame * LINES + self.line) * LINE_BYTES) as u64
    }

    /// What the device is to write.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Programs {
    /// Lends a device the line of a page that it is to write next, counted over all its frames;
    /// `None` where another has it, or there is no such line.
    pub fn lend_line(&self, id: PageId, line: usize) -> Option<LineLoan> {
        let mut book = self.lock();
        let page = book.pages.get_mut(&id)?;
        let (frame, line) = (line / LINES, line % LINES);
        let contents = page.contents.get(frame)?;
        if page.lent.contains_key(&(frame, line)) {
            return None;
        }
        let version = contents.version(line) + 1;
        let bytes = contents.line(line, version);
        page.lent.insert((frame, line), version);
        Some(LineLoan {
            page: id,
            frame,
            line,
            version,
            bytes,
        })
    }

    /// Takes a line back; what the device said of its write must be true from now on.
    #[allow(clippy::needless_pass_by_value)]
    pub fn finish_line(&self, loan: LineLoan, has_landed: bool) {
        let book = &mut *self.lock();
        if let Some(page) = book.pages.get_mut(&loan.page) {
            page.lent.remove(&(loan.frame, loan.line));
            if has_landed {
                page.contents[loan.frame].advance(loan.line, loan.version);
            }
            self.check_frame(&mut book.uses, loan.page, page, loan.frame);
        }
    }

    /// What a device that reads the line must find: the bytes now, which no program changes while
    /// this is asked and compared in one step of the machine.
    pub fn line(&self, id: PageId, line: usize) -> Option<[u8; LINE_BYTES]> {
        let book = self.lock();
        let contents = book.pages.get(&id)?.contents.get(line / LINES)?;
        Some(contents.line(line % LINES, contents.version(line % LINES)))
    }
}
