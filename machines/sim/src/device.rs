//! Devices, as a test holds them.

use std::fmt;

use dmakit_addr::{Direction, DmaAddr, DmaRange, NodeId, PhysRange};

use crate::bus::Path;
use crate::machine::Machine;
use crate::transfer::{Access, Transfer};
use crate::{BusWindow, DmaFault};

/// A device, counted from 0 in the order in which they were added.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DeviceId(pub(crate) usize);

impl DeviceId {
    /// Its number.
    pub const fn index(self) -> usize {
        self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device{}", self.0)
    }
}

/// A handle to a device; a clone stands for the same one.
///
/// A transfer is cut into parts, of a cache line each (a frame, in long ones), which reach memory
/// one by one, in random order, at moments that the machine's seed decides: some when the machine
/// is disturbed, the last when the device calls [`complete`](Self::complete).
#[derive(Clone, Debug)]
pub struct SimDevice {
    machine: Machine,
    id: DeviceId,
}

impl SimDevice {
    pub(crate) fn new(machine: Machine, id: DeviceId) -> Self {
        Self { machine, id }
    }

    /// Its number.
    pub fn id(&self) -> DeviceId {
        self.id
    }

    /// The node that it is closest to, where firmware says so.
    pub fn node(&self) -> Option<NodeId> {
        self.machine.with(|state| state.devices[self.id.0].node())
    }

    /// Whether its accesses look into the CPU's caches.
    pub fn is_coherent(&self) -> bool {
        self.machine.with(|state| state.devices[self.id.0].snoops)
    }

    /// The windows of its bus onto memory, for the firmware's description of it; none behind an
    /// SMMU.
    pub fn windows(&self) -> Vec<BusWindow> {
        self.machine
            .with(|state| match &state.devices[self.id.0].path {
                Path::Direct(windows) => windows.clone(),
                Path::Translated(..) => Vec::new(),
            })
    }

    /// Begins to read `len` bytes at `addr`. What it will have read is what memory holds when each
    /// part lands.
    pub fn start_read(&self, addr: DmaAddr, len: usize) -> Transfer {
        // A part that never lands reads as what a bus without an answer gives.
        self.start(Access::Read, addr, vec![0xff; len])
    }

    /// Begins to write `bytes` at `addr`.
    pub fn start_write(&self, addr: DmaAddr, bytes: &[u8]) -> Transfer {
        self.start(Access::Write, addr, bytes.to_vec())
    }

    fn start(&self, access: Access, addr: DmaAddr, bytes: Vec<u8>) -> Transfer {
        self.machine.with(|state| {
            let number = state.begin(self.id, access, addr, bytes);
            state.disturb();
            Transfer {
                device: self.id,
                number,
            }
        })
    }

    /// Lets all of `transfer` land, and gives what it read (nothing, for a write).
    ///
    /// # Errors
    /// The first fault of its parts; the others still landed. [`DmaFault::Aborted`] where the
    /// device was [cut off](Self::abort) meanwhile, or never began the transfer.
    #[allow(clippy::needless_pass_by_value)]
    pub fn complete(&self, transfer: Transfer) -> Result<Vec<u8>, DmaFault> {
        if transfer.device != self.id {
            return Err(DmaFault::Aborted);
        }
        self.machine.with(|state| {
            let number = transfer.number;
            while !state.devices[self.id.0].in_flight.is_complete(number) {
                if !state.land_one(self.id) {
                    break;
                }
            }
            let begun = state.devices[self.id.0].in_flight.finish(number);
            state.disturb();
            let begun = begun.ok_or(DmaFault::Aborted)?;
            match (begun.fault, begun.access) {
                (Some(fault), _) => Err(fault),
                (None, Access::Read) => Ok(begun.bytes),
                (None, Access::Write) => Ok(Vec::new()),
            }
        })
    }

    /// Reads to the end.
    ///
    /// # Errors
    /// As [`complete`](Self::complete); `bytes` are then unchanged.
    pub fn read(&self, addr: DmaAddr, bytes: &mut [u8]) -> Result<(), DmaFault> {
        let read = self.complete(self.start_read(addr, bytes.len()))?;
        bytes.copy_from_slice(&read);
        Ok(())
    }

    /// Writes to the end.
    ///
    /// # Errors
    /// As [`complete`](Self::complete).
    pub fn write(&self, addr: DmaAddr, bytes: &[u8]) -> Result<(), DmaFault> {
        self.complete(self.start_write(addr, bytes)).map(|_| ())
    }

    /// What was begun before lands before what is begun after.
    pub fn fence(&self) {
        self.machine
            .with(|state| state.devices[self.id.0].in_flight.fence());
    }

    /// Lets everything in flight land.
    pub fn drain(&self) {
        self.machine.with(|state| while state.land_one(self.id) {});
    }

    /// Cuts the device off: what has not landed never will.
    pub fn abort(&self) {
        self.machine
            .with(|state| state.devices[self.id.0].in_flight.abort());
    }

    /// How many parts of transfers have not landed.
    pub fn parts_in_flight(&self) -> usize {
        self.machine
            .with(|state| state.devices[self.id.0].in_flight.parts())
    }

    /// The faults of its accesses, in order.
    pub fn faults(&self) -> Vec<DmaFault> {
        self.machine
            .with(|state| state.devices[self.id.0].faults.clone())
    }

    /// From now on, whatever the device reaches beyond its grants is a
    /// [`Violation`](crate::Violation), and reached all the same. The first grant has the same
    /// effect.
    pub fn confine(&self) {
        self.machine
            .with(|state| state.devices[self.id.0].is_confined = true);
    }

    /// Lends memory to the device, once more: as often as it was lent, it must be revoked.
    pub fn grant(&self, memory: PhysRange, direction: Direction) {
        self.change_grants(memory, direction, |count| count.saturating_add(1));
    }

    /// Takes one grant back.
    pub fn revoke(&self, memory: PhysRange, direction: Direction) {
        self.change_grants(memory, direction, |count| count.saturating_sub(1));
    }

    /// [`grant`](Self::grant)s the memory that the device's addresses lead to now.
    ///
    /// # Errors
    /// [`DmaFault`] where they lead nowhere; nothing is granted then.
    pub fn grant_bus(&self, range: DmaRange, direction: Direction) -> Result<(), DmaFault> {
        for memory in self.memory_behind(range)? {
            self.grant(memory, direction);
        }
        Ok(())
    }

    /// [`revoke`](Self::revoke)s the memory that the device's addresses lead to now.
    ///
    /// # Errors
    /// [`DmaFault`] where they lead nowhere; nothing is revoked then.
    pub fn revoke_bus(&self, range: DmaRange, direction: Direction) -> Result<(), DmaFault> {
        for memory in self.memory_behind(range)? {
            self.revoke(memory, direction);
        }
        Ok(())
    }

    /// Where the device's addresses lead now, piece by piece.
    ///
    /// # Errors
    /// [`DmaFault`] where some lead nowhere.
    pub fn memory_behind(&self, range: DmaRange) -> Result<Vec<PhysRange>, DmaFault> {
        self.machine.with(|state| {
            let path = &state.devices[self.id.0].path;
            let mut pieces = Vec::new();
            let mut rest = range;
            while !rest.is_empty() {
                let piece = path.translate(rest)?;
                rest = rest
                    .slice(piece.len(), rest.len() - piece.len())
                    .ok_or(DmaFault::NoWindow(rest.start()))?;
                pieces.push(piece);
            }
            Ok(pieces)
        })
    }

    fn change_grants(&self, memory: PhysRange, direction: Direction, change: fn(u32) -> u32) {
        self.machine
            .with(|state| state.devices[self.id.0].change_grants(memory, direction, change));
    }
}
