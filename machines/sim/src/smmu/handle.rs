//! An SMMU, as a driver and a test hold it.

use std::time::Duration;

use dmakit_addr::NodeId;
use dmakit_platform::Mmio;

use super::registers as reg;
use super::{SmmuConfig, SmmuState};
use crate::Machine;
use crate::machine::State;

/// An SMMU, counted from 0 in the order in which they were added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SmmuId(pub(crate) usize);

/// The syncs of an SMMU that is on a node, and what they took by the machine's
/// [`LatencyTable`](crate::LatencyTable).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SyncWaits {
    /// How many completed.
    pub syncs: u64,
    /// Of these, with the queue on the SMMU's own node.
    pub local: u64,
    /// What they took together, in nanoseconds.
    pub total_ns: u64,
}

/// What a register read costs in virtual time: so that whoever waits comes to an end.
const READ_TIME: Duration = Duration::from_micros(1);

/// A handle to an SMMU and its registers; a clone stands for the same one.
#[derive(Clone, Debug)]
pub struct SimSmmu {
    machine: Machine,
    id: SmmuId,
}

impl SimSmmu {
    pub(crate) fn new(machine: Machine, id: SmmuId) -> Self {
        Self { machine, id }
    }

    /// Its number, for [`DeviceConfig::stream`](crate::DeviceConfig::stream).
    pub fn id(&self) -> SmmuId {
        self.id
    }

    /// The next `count` commands cannot be read.
    pub fn fail_command_reads(&self, count: u32) {
        self.with(|smmu| smmu.faults.unreadable = count);
    }

    /// After `count` more commands the next one cannot be read, once.
    pub fn fail_command_read_after(&self, count: u32) {
        self.with(|smmu| {
            smmu.faults.readable = count;
            smmu.faults.unreadable = 1;
        });
    }

    /// It executes nothing any more, or goes on.
    pub fn stick(&self, is_stuck: bool) {
        self.with(|smmu| {
            smmu.faults.is_stuck = is_stuck;
            smmu.faults.until_stuck = None;
        });
    }

    /// It executes nothing any more, until its command queue is turned off.
    pub fn hang(&self) {
        self.with(|smmu| smmu.faults.hangs = true);
    }

    /// It executes so many commands more, and then nothing.
    pub fn stick_after(&self, count: u32) {
        self.with(|smmu| smmu.faults.until_stuck = Some(count));
    }

    /// It goes into service failure mode.
    pub fn fail_service(&self) {
        self.with(|smmu| smmu.raise(reg::SERVICE_FAILURE));
    }

    /// The next record cannot be written: it is lost, and a global error says so.
    pub fn fail_record_write(&self) {
        self.with(|smmu| smmu.faults.loses_record = true);
    }

    /// Commands of this number do nothing from now on, as if the driver had not sent them.
    pub fn ignore(&self, opcode: u8) {
        self.with(|smmu| smmu.faults.ignored.insert(opcode));
    }

    /// Commands of this number are taken for what `other` makes of them from now on, as if the driver
    /// had sent that; not for syncs.
    pub fn misread(&self, opcode: u8, other: fn([u64; 2]) -> [u64; 2]) {
        self.with(|smmu| smmu.faults.misread.insert(opcode, other));
    }

    /// The node that its command queue lies on, once it has one.
    pub fn queue_node(&self) -> Option<NodeId> {
        let queue = self.with(|smmu| smmu.command_queue());
        self.machine.node_of(queue)
    }

    /// Its syncs so far, modelled.
    pub fn sync_waits(&self) -> SyncWaits {
        self.with(|smmu| smmu.waits)
    }

    /// How many commands of this number it has consumed; syncs are not counted.
    pub fn consumed(&self, opcode: u8) -> u64 {
        self.with(|smmu| smmu.consumed.get(&opcode).copied().unwrap_or(0))
    }

    fn with<T>(&self, act: impl FnOnce(&mut SmmuState) -> T) -> T {
        self.machine.with(|state| act(&mut state.smmus[self.id.0]))
    }

    fn read(&self, offset: u64) -> u32 {
        self.machine.advance(READ_TIME);
        self.machine.with(|state| {
            if matches!(offset, reg::CMDQ_CONS | reg::GERROR) {
                // Whoever looks waits for something: it happens, sooner or later.
                for _ in 0..state.rng.below(4) {
                    state.step_smmu(self.id);
                }
            }
            state.smmus[self.id.0].get(offset)
        })
    }

    fn write(&self, offset: u64, value: u32) {
        self.machine.with(|state: &mut State| {
            state.smmus[self.id.0].set(offset, value);
            state.disturb();
        });
    }
}

impl SimSmmu {
    /// What it can do, and was made to.
    pub fn config(&self) -> SmmuConfig {
        self.with(|smmu| smmu.config)
    }
}

impl Mmio for SimSmmu {
    fn read32(&self, offset: u64) -> u32 {
        self.read(offset)
    }

    fn read64(&self, offset: u64) -> u64 {
        u64::from(self.read(offset)) | u64::from(self.read(offset + 4)) << 32
    }

    fn write32(&self, offset: u64, value: u32) {
        self.write(offset, value);
    }

    fn write64(&self, offset: u64, value: u64) {
        self.machine.with(|state| {
            let smmu = &mut state.smmus[self.id.0];
            smmu.set(offset, value as u32);
            smmu.set(offset + 4, (value >> 32) as u32);
        });
    }
}
