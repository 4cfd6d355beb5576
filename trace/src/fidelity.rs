//! What a trace does not show, counted.

/// Counts of everything that was lost, cut, malformed or left unmatched on the way from the kernel
/// to the caller. The reader fills its part, pairing fills its own; a report must print both.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Fidelity {
    /// Events delivered.
    pub events: u64,
    /// Events that the trace itself says were lost in the middle (`[LOST n EVENTS]`, missed-event
    /// flags of `trace.dat`, perf's lost records).
    pub lost_marked: u64,
    /// Places where events were lost without a number.
    pub lost_unnumbered: u64,
    /// Events written to the ring buffer but no longer in it when it was read (the header's
    /// `entries-in-buffer/entries-written`).
    pub overwritten: u64,
    /// Malformed records that were skipped within the tolerance.
    pub malformed: u64,
    /// Attribute names that were not recognised, and so are in no event's set.
    pub unknown_attributes: u64,
    /// Scatterlist events whose list was cut short by the kernel.
    pub truncated_lists: u64,
    /// Entries that those lists do not show.
    pub truncated_entries: u64,
    /// The input or its archive ended early, and that was tolerated.
    pub cut: bool,

    /// Mappings seen (pages and scatterlist entries that succeeded).
    pub maps: u64,
    /// Unmaps that were matched to their mapping.
    pub unmaps_matched: u64,
    /// Unmaps of something that no event had mapped.
    pub unmaps_unmatched: u64,
    /// Unmaps without an event, proved by the next user of their address.
    pub unmaps_inferred: u64,
    /// Mappings never unmapped in the trace.
    pub left_mapped: u64,
    /// Bounce attempts seen (`swiotlb_bounced`).
    pub attempts: u64,
    /// Attempts whose mapping succeeded.
    pub attempts_mapped: u64,
    /// Attempts whose failure an event shows (a map event without an address).
    pub attempts_failed: u64,
    /// Attempts that no map event followed although the trace has map events: mappings that failed
    /// without one, and what they undid.
    pub attempts_orphaned: u64,
    /// Attempts in a trace without map events: nothing can be said about their outcome.
    pub attempts_unknown: u64,
    /// Unmaps whose event came after the next user's map event, put back in their order.
    pub reordered: u64,
}

impl Fidelity {
    /// Events that were recorded and are not here, where the trace gives numbers. The header counts
    /// what markers count too, so the larger of the two stands.
    pub fn lost(&self) -> u64 {
        self.lost_marked.max(self.overwritten)
    }

    /// Whether nothing at all is known to be missing from the events themselves.
    pub fn is_complete(&self) -> bool {
        self.lost() == 0
            && self.lost_unnumbered == 0
            && self.malformed == 0
            && self.truncated_entries == 0
            && !self.cut
    }

    /// The reader's part of `self` with the pairing part of `pairing`.
    #[must_use]
    pub fn with_pairing(self, pairing: &Self) -> Self {
        Self {
            maps: pairing.maps,
            unmaps_matched: pairing.unmaps_matched,
            unmaps_unmatched: pairing.unmaps_unmatched,
            unmaps_inferred: pairing.unmaps_inferred,
            left_mapped: pairing.left_mapped,
            attempts: pairing.attempts,
            attempts_mapped: pairing.attempts_mapped,
            attempts_failed: pairing.attempts_failed,
            attempts_orphaned: pairing.attempts_orphaned,
            attempts_unknown: pairing.attempts_unknown,
            reordered: pairing.reordered,
            ..self
        }
    }
}
