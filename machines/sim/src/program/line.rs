//! Lines of pages that devices write.

use super::{PageId, Programs};
use crate::contents::{LINE_BYTES, LINES};

/// A line of a page that a device is writing.
///
/// Give it back with [`Programs::finish_line`]: until then the line may hold the old bytes or the
/// new ones, and no program touches it.
#[derive(PartialEq, Eq, Debug)]
pub struct LineLoan {
    page: PageId,
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
        (self.line * LINE_BYTES) as u64
    }

    /// What the device is to write.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Programs {
    /// Lends a device the line of a page that it is to write next; `None` where another has it, or
    /// there is no such page.
    pub fn lend_line(&self, id: PageId, line: usize) -> Option<LineLoan> {
        let mut book = self.lock();
        let page = book.pages.get_mut(&id)?;
        if line >= LINES || page.lent.contains_key(&line) {
            return None;
        }
        let version = page.contents.version(line) + 1;
        page.lent.insert(line, version);
        Some(LineLoan {
            page: id,
            line,
            version,
            bytes: page.contents.line(line, version),
        })
    }

    /// Takes a line back; what the device said of its write must be true from now on.
    #[allow(clippy::needless_pass_by_value)]
    pub fn finish_line(&self, loan: LineLoan, has_landed: bool) {
        let mut book = self.lock();
        if let Some(page) = book.pages.get_mut(&loan.page) {
            page.lent.remove(&loan.line);
            if has_landed {
                page.contents.advance(loan.line, loan.version);
            }
        }
        self.check_page(&mut book, loan.page);
    }
}
