//! Which free block serves a request.

use dmakit_addr::PAGE_SHIFT;

use super::{Buddy, Found};
use crate::error::NoFrames;
use crate::frame::{Frame, MigrateType};
use crate::page_allocator::{FrameRequest, MAX_ORDER};
use crate::zone::Zone;

impl<S: AsRef<[Frame]> + AsMut<[Frame]>> Buddy<S> {
    /// The block that serves a request of 2^`order` frames: of the nearest node, there of the
    /// highest zone, there of the best type.
    pub(super) fn search(
        &self,
        request: &FrameRequest,
        of: MigrateType,
        order: u32,
    ) -> Option<Found> {
        if order > MAX_ORDER {
            return None;
        }
        let last = request.limit.last();
        for node in self.nodes_for(request) {
            for zone in self.zones_on(*node, last) {
                let cut = !ends_by(zone.top, last);
                for migrate_type in of.served_by() {
                    let found = if cut {
                        self.look_below(zone, *migrate_type, order, last)
                    } else {
                        self.look(zone, *migrate_type, order)
                    };
                    if found.is_some() {
                        return found;
                    }
                }
            }
        }
        None
    }

    /// The nodes that may serve a request, the nearest first.
    #[inline]
    fn nodes_for(&self, request: &FrameRequest) -> &[u16] {
        let unplaced = self.order.len() - 1;
        let row = request
            .node
            .map_or(unplaced, |node| node.index().min(unplaced));
        let nodes = &self.order[row];
        match request.node {
            Some(node) if request.only_node => &nodes[..usize::from(node.index() < unplaced)],
            _ => nodes,
        }
    }

    /// The zones of a node that have frames at or below byte `last`: the highest first, which fewer
    /// devices reach.
    #[inline]
    fn zones_on(&self, node: u16, last: u64) -> impl Iterator<Item = &Zone> {
        let first = usize::from(node) * self.zones_per_node;
        let zones = &self.zones[first..first + self.zones_per_node];
        let reached = move |index: &usize| {
            let below = index.checked_sub(1).map_or(0, |below| zones[below].end);
            below <= last >> PAGE_SHIFT
        };
        let indices = (0..zones.len()).rev().filter(reached);
        indices.map(move |index| &zones[index])
    }

    #[inline]
    fn look(&self, zone: &Zone, migrate_type: MigrateType, order: u32) -> Option<Found> {
        let serving = zone.stocked[migrate_type as usize] >> order << order;
        let order = serving.trailing_zeros();
        let head = *zone.heads[migrate_type as usize].get(order as usize)?;
        let frame = self.sections.frame(head);
        Some(Found {
            frame,
            order,
            migrate_type,
        })
    }

    /// The same where a limit cuts the zone: a block that starts low enough. Walks the lists.
    #[cold]
    fn look_below(&self, zone: &Zone, of: MigrateType, order: u32, last: u64) -> Option<Found> {
        (order..=MAX_ORDER).find_map(|found| {
            let head = zone.heads[of as usize][found as usize];
            let mut listed = self.list(head);
            let frame = listed.find(|frame| ends_by(frame + (1 << order), last))?;
            Some(Found {
                frame,
                order: found,
                migrate_type: of,
            })
        })
    }

    pub(super) fn list(&self, head: u32) -> impl Iterator<Item = u64> + '_ {
        let mut next = head;
        core::iter::from_fn(move || {
            let entry = self.table.as_ref().get(next as usize)?;
            let frame = self.sections.frame(next);
            next = entry.next;
            Some(frame)
        })
    }

    #[cold]
    pub(super) fn no_frames(
        &self,
        request: &FrameRequest,
        of: MigrateType,
        order: u32,
    ) -> NoFrames {
        let (mut free, mut stocked) = (0, 0_u32);
        let last = request.limit.last();
        let nodes = self.nodes_for(request).iter();
        for zone in nodes.flat_map(|node| self.zones_on(*node, last)) {
            free += zone.free;
            for migrate_type in of.served_by() {
                stocked |= zone.stocked[*migrate_type as usize];
            }
        }
        NoFrames {
            frames: request.frames,
            order,
            limit: request.limit,
            node: request.node,
            migrate_type: of,
            free,
            largest_order: stocked.checked_ilog2(),
        }
    }
}

/// Whether a block that ends before frame `end` has no byte above `last`.
fn ends_by(end: u64, last: u64) -> bool {
    end.checked_mul(1 << PAGE_SHIFT)
        .is_some_and(|end| end.saturating_sub(1) <= last)
}
