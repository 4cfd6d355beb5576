//! What SMMUs do of themselves, at the worst moment.

use super::state::{Memory, Progress};
use super::{SmmuId, SmmuState, Source};
use crate::bus::Path;
use crate::machine::State;
use crate::transfer::Access;
use crate::{Cost, DeviceId};

/// Commands that an undisturbed SMMU consumes at most at once.
const STEPS: u64 = 4;

impl State {
    fn with_smmu<T>(
        &mut self,
        id: SmmuId,
        act: impl FnOnce(&mut SmmuState, &mut Memory<'_>) -> T,
    ) -> T {
        let mut memory = Memory {
            cache: &mut self.cache,
            log: &mut self.log,
            rng: &mut self.rng,
        };
        act(&mut self.smmus[id.0], &mut memory)
    }

    /// Where the SMMU sends an access; `None` where it stops it.
    pub(crate) fn translate(
        &mut self,
        id: SmmuId,
        source: Source,
        access: Access,
        address: u64,
    ) -> Option<u64> {
        self.with_smmu(id, |smmu, memory| {
            smmu.translate(source, access, address, memory)
        })
    }

    /// Consumes a command. Before a sync is complete, what was translated earlier lands.
    pub(crate) fn step_smmu(&mut self, id: SmmuId) {
        if self.with_smmu(id, SmmuState::step) != Progress::Sync {
            return;
        }
        for device in 0..self.devices.len() {
            if matches!(self.devices[device].path, Path::Translated(smmu, _) if smmu == id) {
                while self.land_translated(DeviceId(device)) {}
            }
        }
        self.with_smmu(id, SmmuState::complete_sync);
        self.note_sync(id);
    }

    /// Counts a sync, and the time that it takes an SMMU that is on a node.
    fn note_sync(&mut self, id: SmmuId) {
        let smmu = &mut self.smmus[id.0];
        let Some(node) = smmu.config.node else {
            return;
        };
        let Some(queue) = self.config.node_of(smmu.command_queue()) else {
            return;
        };
        let distance = self.config.distances.get(node, queue);
        let ns = self.config.latencies.figure(Cost::Sync, distance).ns;
        smmu.waits.syncs += 1;
        smmu.waits.local += u64::from(queue == node);
        smmu.waits.total_ns += ns;
        self.elapsed_ns += ns;
    }

    /// Time passes: commands are consumed and take effect, things are forgotten, transactions are
    /// translated and wait.
    pub(crate) fn disturb_smmu(&mut self, id: SmmuId) {
        for _ in 0..self.rng.below(STEPS) {
            self.step_smmu(id);
        }
        if self.rng.chance(64) {
            self.with_smmu(id, |smmu, memory| smmu.apply_one(memory.rng));
        }
        if self.rng.chance(32) {
            self.with_smmu(id, |smmu, memory| smmu.evict(memory.rng));
        }
        for device in 0..self.devices.len() {
            let Path::Translated(smmu, source) = self.devices[device].path else {
                continue;
            };
            if smmu == id && self.rng.chance(128) {
                self.translate_ahead(DeviceId(device), smmu, source);
            }
        }
    }

    /// Translates a part of a transfer, which lands later.
    fn translate_ahead(&mut self, device: DeviceId, smmu: SmmuId, source: Source) {
        let in_flight = &mut self.devices[device.0].in_flight;
        let Some(part) = in_flight.any_part(&mut self.rng).copied() else {
            return;
        };
        let Some(begun) = in_flight.begun(part.transfer) else {
            return;
        };
        let (access, address) = (begun.access, begun.address(part.offset));
        if part.translated.is_some() {
            return;
        }
        // One that is stopped is stopped then, and tried no more than that.
        let Some(output) = self.translate(smmu, source, access, address) else {
            return;
        };
        let in_flight = &mut self.devices[device.0].in_flight;
        in_flight.note_translated(part, output);
    }
}
