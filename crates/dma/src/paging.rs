//! A client of windows that pages memory in when its device faults, and out when it is to move.

use core::fmt;
use core::ops::Range;

use dmakit_addr::{Attributes, DirectionType, DmaAddr, PhysRange};
use dmakit_platform::Platform;

use crate::check::Checker;
use crate::{Debt, Device, DmaSegment, LinkError, PageWindow, Translate};

/// How many stretches of pages wait for one sync together.
const DEBTS_AT_ONCE: usize = 8;

/// What is known of a page: one for each, kept by the caller.
#[derive(Clone, Copy, Default, Debug)]
pub struct PageSlot {
    /// How often it was withdrawn.
    turn: u32,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum State {
    /// The device faults on it.
    #[default]
    Absent,
    Linked,
    /// The device faults on it, and its memory must not be linked.
    Withdrawn,
}

/// Memory of somebody else that a device sees page by page, as it asks for it: a mirror of an address
/// space, say.
///
/// Two things race: a fault, whose handler finds out where the page is, which may take a while, and its
/// owner, who moves or frees it. So a handler first says what it [expects](Self::expect), and what it
/// found is linked only if the page was not [withdrawn](Device::withdraw_pages) since. And a page that
/// is withdrawn is out of the device's reach, whatever it was about to do there, and stays so until it
/// is [restored](Self::restore): in between its memory moves, by whatever
/// contract. Whoever keeps one sees to it that its calls take turns, with a lock that may be held in an
/// interrupt; none of them sleeps, and finding the page is done outside.
#[must_use = "a dropped one leaks its addresses; close it"]
pub struct PagedWindow<D, S> {
    window: PageWindow<D>,
    slots: S,
    page_bytes: u64,
}

/// What the handler of a fault goes by: the page, and that nothing had happened to it yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expected {
    page: usize,
    turn: u32,
}

impl Expected {
    /// The page.
    pub fn page(&self) -> usize {
        self.page
    }
}

/// Pages whose memory no device reaches through this window until they are
/// [restored](PagedWindow::restore). Forgetting one leaves them so.
#[must_use = "a dropped one leaves its pages out of reach; restore it"]
#[derive(PartialEq, Eq, Debug)]
pub struct Withdrawn {
    pages: Range<usize>,
}

impl Withdrawn {
    /// Which.
    pub fn pages(&self) -> Range<usize> {
        self.pages.clone()
    }
}

/// Why a page is not linked, or not withdrawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PagingError {
    /// No IOMMU stands between: nothing would fault, and nothing could be taken away.
    Untranslated,
    /// There is no such page.
    Page {
        /// Its number.
        page: usize,
        /// How many there are.
        count: usize,
    },
    /// It is withdrawn: the fault is to be answered once it is restored.
    Withdrawn {
        /// Its number.
        page: usize,
    },
    /// It was withdrawn since the handler began: what it found may be somebody else's by now. The
    /// handler begins again.
    Stale {
        /// Its number.
        page: usize,
    },
    /// What is to be linked is not as long as a page.
    Length {
        /// Bytes.
        len: u64,
        /// Bytes of a page.
        page_bytes: u64,
    },
    /// The window.
    Link(LinkError),
}

impl From<LinkError> for PagingError {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

impl fmt::Display for PagingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untranslated => f.write_str("no IOMMU stands between"),
            Self::Page { page, count } => write!(f, "there is no page {page} of {count}"),
            Self::Withdrawn { page } => write!(f, "page {page} is withdrawn"),
            Self::Stale { page } => write!(f, "page {page} was withdrawn meanwhile"),
            Self::Length { len, page_bytes } => {
                write!(f, "{len} bytes are no page of {page_bytes}")
            }
            Self::Link(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for PagingError {}

impl<D, S: AsRef<[PageSlot]> + AsMut<[PageSlot]>> PagedWindow<D, S> {
    /// Where the device finds a page, once it is linked.
    pub fn dma_addr(&self, page: usize) -> Option<DmaAddr> {
        self.slots.as_ref().get(page)?;
        self.window.dma_addr(page as u64 * self.page_bytes)
    }

    /// Which page an address at which the device faulted is of.
    pub fn page_at(&self, addr: DmaAddr) -> Option<usize> {
        let offset = addr.raw().checked_sub(self.dma_addr(0)?.raw())?;
        let page = usize::try_from(offset / self.page_bytes).ok()?;
        self.slots.as_ref().get(page).map(|_| page)
    }

    /// Bytes that are linked.
    pub fn linked(&self) -> u64 {
        self.window.linked()
    }

    /// Begins to answer a fault: to be called before anybody asks where the page is.
    ///
    /// # Errors
    /// [`PagingError::Page`], and [`PagingError::Withdrawn`] while it is withdrawn.
    pub fn expect(&self, page: usize) -> Result<Expected, PagingError> {
        let slots = self.slots.as_ref();
        let count = slots.len();
        let slot = slots.get(page).ok_or(PagingError::Page { page, count })?;
        match slot.state {
            State::Withdrawn => Err(PagingError::Withdrawn { page }),
            State::Absent | State::Linked => Ok(Expected {
                page,
                turn: slot.turn,
            }),
        }
    }

    /// Lets pages be linked again.
    pub fn restore(&mut self, withdrawn: Withdrawn) {
        for slot in self.slots.as_mut()[withdrawn.pages].iter_mut() {
            slot.state = State::Absent;
        }
    }
}

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> Device<'m, P, M, C, T> {
    /// A window of as many pages as there are `slots`, of `page_bytes` each, whole granules, at a
    /// multiple of `align`. Nothing is linked, and what the slots hold does not matter. Never sleeps.
    ///
    /// # Errors
    /// [`PagingError`], with the slots.
    #[track_caller]
    pub fn open_paged<D: DirectionType, S: AsRef<[PageSlot]> + AsMut<[PageSlot]>>(
        &self,
        mut slots: S,
        page_bytes: u64,
        align: u64,
        attributes: Attributes,
    ) -> Result<PagedWindow<D, S>, (PagingError, S)> {
        if self.translation().is_none() {
            return Err((PagingError::Untranslated, slots));
        }
        slots.as_mut().fill(PageSlot::default());
        let len = page_bytes.saturating_mul(slots.as_ref().len() as u64);
        match self.open_window(len, align, attributes) {
            Ok(window) => Ok(PagedWindow {
                window,
                slots,
                page_bytes,
            }),
            Err(error) => Err((error.into(), slots)),
        }
    }

    /// Answers a fault: lets the device have `memory` as the page that was
    /// [expected](PagedWindow::expect), and says where. Where another fault has been answered with it
    /// meanwhile nothing is left to do. Costs and context as [`link_page`](Self::link_page).
    ///
    /// # Errors
    /// [`PagingError`]: the page is as before.
    #[track_caller]
    pub fn page_in<D: DirectionType, S: AsRef<[PageSlot]> + AsMut<[PageSlot]>>(
        &self,
        paged: &mut PagedWindow<D, S>,
        expected: Expected,
        memory: PhysRange,
    ) -> Result<DmaSegment, PagingError> {
        let (page, page_bytes) = (expected.page, paged.page_bytes);
        let now = paged.expect(page)?;
        if now != expected {
            return Err(PagingError::Stale { page });
        }
        if memory.len() != page_bytes {
            let len = memory.len();
            return Err(PagingError::Length { len, page_bytes });
        }
        let offset = page as u64 * page_bytes;
        let slot = &mut paged.slots.as_mut()[page];
        if let (State::Linked, Some(addr)) = (slot.state, paged.window.dma_addr(offset)) {
            let len = page_bytes;
            return Ok(DmaSegment { addr, len });
        }
        let segment = self.link_page(&mut paged.window, offset, memory)?;
        slot.state = State::Linked;
        // An announcement that fails says nothing of the table: the device faults again.
        self.announce_pages(&mut paged.window, offset, page_bytes)?;
        Ok(segment)
    }

    /// Takes pages away from the device, whether it has them or not. When this returns, what it wrote
    /// there has landed, and nothing more gets there: the memory may be copied, moved or freed. Faults
    /// that are being answered with it will be found stale. Never sleeps; spins, for a bounded time.
    ///
    /// # Errors
    /// [`PagingError`]: the memory stays where it is. Where hardware did not say in time that it has
    /// forgotten the pages, the device may reach them still, and withdrawing them again waits for it.
    pub fn withdraw_pages<D: DirectionType, S: AsRef<[PageSlot]> + AsMut<[PageSlot]>>(
        &self,
        paged: &mut PagedWindow<D, S>,
        pages: Range<usize>,
    ) -> Result<Withdrawn, PagingError> {
        let slots = paged.slots.as_mut();
        let count = slots.len();
        let Some(some) = slots.get_mut(pages.clone()) else {
            let page = pages.end;
            return Err(PagingError::Page { page, count });
        };
        let is_out = |slot: &PageSlot| slot.state == State::Withdrawn;
        if let Some(out) = some.iter().position(is_out) {
            let page = pages.start + out;
            return Err(PagingError::Withdrawn { page });
        }
        for slot in some.iter_mut() {
            slot.turn = slot.turn.wrapping_add(1);
        }
        self.unlink_stretches(paged, pages.clone())?;
        for slot in paged.slots.as_mut()[pages.clone()].iter_mut() {
            slot.state = State::Withdrawn;
        }
        Ok(Withdrawn { pages })
    }

    /// Unlinks the pages that are linked, stretch by stretch, and waits.
    fn unlink_stretches<D: DirectionType, S: AsRef<[PageSlot]> + AsMut<[PageSlot]>>(
        &self,
        paged: &mut PagedWindow<D, S>,
        pages: Range<usize>,
    ) -> Result<(), PagingError> {
        let (mut at, page_bytes) = (pages.start, paged.page_bytes);
        while at < pages.end {
            let mut owed: [Option<Debt<()>>; DEBTS_AT_ONCE] = [const { None }; DEBTS_AT_ONCE];
            for place in &mut owed {
                let slots = &mut paged.slots.as_mut()[at..pages.end];
                let is_linked = |slot: &PageSlot| slot.state == State::Linked;
                let skipped = slots.iter().take_while(|slot| !is_linked(slot)).count();
                let stretch = &mut slots[skipped..];
                let count = stretch.iter().take_while(|slot| is_linked(slot)).count();
                at += skipped;
                if count == 0 {
                    continue;
                }
                let (offset, len) = (at as u64 * page_bytes, count as u64 * page_bytes);
                let unlinked = self.unlink_pages(&mut paged.window, offset, len, ());
                *place = Some(unlinked.map_err(|unmoved| unmoved.error)?);
                let stretch = &mut paged.slots.as_mut()[at..at + count];
                stretch
                    .iter_mut()
                    .for_each(|slot| slot.state = State::Absent);
                at += count;
            }
            // Or an earlier call has unlinked some, and could not wait.
            if owed.iter().all(Option::is_none) && !paged.window.is_stale() {
                continue;
            }
            let proof = self.sync_window(&mut paged.window)?;
            for debt in owed.into_iter().flatten() {
                // Of an earlier moment of this domain: what it does not pay is lost, and counted.
                let _ = self.redeem(debt, &proof);
            }
        }
        Ok(())
    }

    /// Takes all pages away, and gives the addresses back.
    ///
    /// # Errors
    /// As [`withdraw_pages`](Self::withdraw_pages), with the window.
    #[allow(clippy::type_complexity)]
    pub fn close_paged<D: DirectionType, S: AsRef<[PageSlot]> + AsMut<[PageSlot]>>(
        &self,
        mut paged: PagedWindow<D, S>,
    ) -> Result<S, (PagingError, PagedWindow<D, S>)> {
        let all = 0..paged.slots.as_ref().len();
        if let Err(error) = self.unlink_stretches(&mut paged, all) {
            return Err((error, paged));
        }
        let PagedWindow {
            window,
            slots,
            page_bytes,
        } = paged;
        match self.close_window(window) {
            Ok(()) => Ok(slots),
            Err(unmoved) => {
                let window = unmoved.state;
                let paged = PagedWindow {
                    window,
                    slots,
                    page_bytes,
                };
                Err((unmoved.error.into(), paged))
            }
        }
    }
}

impl<D: DirectionType, S> fmt::Debug for PagedWindow<D, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Paged{:?}", self.window)
    }
}
