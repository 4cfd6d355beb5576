//! Single frames taken ahead by each CPU.

use core::fmt;

use dmakit_platform::{CpuGuard, CpuSlot, IrqMutex, PerCpu, Platform};

use crate::error::NoFrames;
use crate::frame::Frame;
use crate::page_allocator::{FrameRequest, Frames, PageAllocator};

/// Frames taken at once where a CPU has none left.
const BATCH: usize = 32;

/// Frames of one kind.
struct List {
    /// What they were taken for: only a request like it is served.
    request: FrameRequest,
    /// Where they start, and the numbers of their allocations.
    frames: [(u64, u32); BATCH],
    len: usize,
}

impl List {
    const EMPTY: Self = Self {
        request: FrameRequest::NONE,
        frames: [(0, 0); BATCH],
        len: 0,
    };

    fn pop(&mut self) -> Option<Frames> {
        self.len = self.len.checked_sub(1)?;
        let (start, number) = *self.frames.get(self.len)?;
        Some(Frames::new(start, 1, number))
    }
}

/// What one CPU has taken ahead: up to 32 frames that stay and up to 32 of one mover. 1.2 KiB.
pub struct CpuStock<P: Platform> {
    lists: IrqMutex<P, [List; 2]>,
}

impl<P: Platform> CpuStock<P> {
    /// An empty stock.
    pub const fn new() -> Self {
        Self {
            lists: IrqMutex::<P, _>::new([List::EMPTY; 2]),
        }
    }
}

impl<P: Platform> Default for CpuStock<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Platform> fmt::Debug for CpuStock<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuStock").finish_non_exhaustive()
    }
}

/// Stocks of single frames, one for each CPU, before a page allocator.
///
/// A CPU takes 32 frames under one hold of the allocator's lock and hands them out under its own,
/// for which nobody else contends. Frames are freed to the allocator itself, which checks who frees
/// what and whether it is pinned; so what is in a stock was never anybody's, and a stock that was
/// emptied while a claim keeps what is free in its range has no frame of it: a claim needs no interrupt on any
/// CPU, only [`drain`](Self::drain) in [`Migrate::drain`](crate::Migrate::drain).
///
/// `C` is storage that the caller supplies, a [`CpuSlot`] for each CPU, also early. Every call may
/// be made in hard interrupts; none sleeps or allocates.
pub struct FrameStocks<'a, P: Platform, S, C> {
    allocator: &'a PageAllocator<P, S>,
    cpus: PerCpu<C>,
}

impl<'a, P, S, C> FrameStocks<'a, P, S, C>
where
    P: Platform + 'a,
    S: AsRef<[Frame]> + AsMut<[Frame]>,
    C: AsRef<[CpuSlot<CpuStock<P>>]>,
{
    /// Stocks before `allocator`, in `cpus`.
    pub const fn new(allocator: &'a PageAllocator<P, S>, cpus: C) -> Self {
        Self {
            allocator,
            cpus: PerCpu::new(cpus),
        }
    }

    /// Allocates. A request for one frame that is like the one before on this CPU comes from the
    /// stock; all others, and those of CPUs without one, go to the allocator.
    ///
    /// # Errors
    /// As [`PageAllocator::allocate`]. Frames in the stocks of other CPUs are not counted as free:
    /// [`drain`](Self::drain) and ask again.
    pub fn allocate(
        &self,
        cpu: &impl CpuGuard,
        request: &FrameRequest,
    ) -> Result<Frames, NoFrames> {
        let slot = self.cpus.enter(cpu).filter(|_| request.frames == 1);
        let Some((stock, _)) = slot else {
            return self.allocator.allocate(request);
        };
        let mut lists = stock.lists.lock();
        let list = &mut lists[usize::from(request.mover.is_some())];
        if list.request == *request {
            if let Some(frames) = list.pop() {
                return Ok(frames);
            }
        }
        self.empty(list);
        self.fill(list, request)
    }

    /// Gives all stocks back, whichever CPU they are of.
    pub fn drain(&self) {
        for stock in self.cpus.iter() {
            for list in stock.lists.lock().iter_mut() {
                self.empty(list);
            }
        }
    }

    /// Frames in stocks, which are neither free nor anybody's.
    pub fn frames(&self) -> u64 {
        let held = |stock: &CpuStock<P>| stock.lists.lock().iter().map(|list| list.len).sum();
        self.cpus
            .iter()
            .map(held)
            .map(|held: usize| held as u64)
            .sum()
    }

    fn fill(&self, list: &mut List, request: &FrameRequest) -> Result<Frames, NoFrames> {
        list.request = *request;
        self.allocator.locked(|buddy| {
            let of = request.migrate_type();
            let (start, number) = buddy.allocate(request, of)?;
            // Those taken ahead go out in the order in which they would have been taken.
            while list.len < BATCH {
                match buddy.allocate(request, of) {
                    Ok(taken) => list.frames[list.len] = taken,
                    Err(_) => break,
                }
                list.len += 1;
            }
            list.frames[..list.len].reverse();
            Ok(Frames::new(start, 1, number))
        })
    }

    fn empty(&self, list: &mut List) {
        self.allocator.locked(|buddy| {
            while let Some(frames) = list.pop() {
                let freed = buddy.free(frames.range().start().raw(), 1, frames.number());
                debug_assert!(freed.is_ok(), "a frame in a stock is nobody's");
            }
        });
    }
}

impl<P: Platform, S, C> fmt::Debug for FrameStocks<'_, P, S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameStocks").finish_non_exhaustive()
    }
}
