//! Devices: what they are wired to do, and what they are told to do.

use std::fmt;

use dmakit_addr::{
    BoundaryMask, Direction, DmaAddr, DmaMask, DmaRange, PAGE_BYTES, PhysAddr, PhysRange,
};

use crate::bus::Path;
use crate::log;
use crate::machine::{Machine, State};
use crate::spans::Spans;
use crate::transfer::{Access, Begun, InFlight, Part, Transfer};
use crate::{BUS_OFFSET, BusWindow, DmaFault, Event, Violation};

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

/// What becomes of an address with more bits than the device has wires.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BeyondWires {
    /// The upper bits get lost, and the access hits something else: what most hardware does. A
    /// limit that is not `2^n - 1` has no upper bits to lose, and faults.
    Truncate,
    /// The access goes nowhere.
    Fault,
}

/// The description of a device, as it is built: not as software believes it to be.
///
/// Unless told otherwise it has 64 address wires, no limit to its segments, the machine's
/// coherence, and sees each range of RAM [`BUS_OFFSET`] above where it lies.
#[derive(Clone, Debug)]
pub struct DeviceConfig {
    wires: DmaMask,
    beyond: BeyondWires,
    windows: Vec<BusWindow>,
    segment_bytes_max: u64,
    boundary: BoundaryMask,
    coherent: Option<bool>,
    ordered: bool,
}

impl Default for DeviceConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl DeviceConfig {
    /// The default device.
    pub fn new() -> Self {
        Self {
            wires: DmaMask::ALL,
            beyond: BeyondWires::Truncate,
            windows: Vec::new(),
            segment_bytes_max: u64::MAX,
            boundary: BoundaryMask::NONE,
            coherent: None,
            ordered: false,
        }
    }

    /// The highest address that its wires carry, and what becomes of a higher one.
    #[must_use]
    pub fn wires(mut self, wires: DmaMask, beyond: BeyondWires) -> Self {
        self.wires = wires;
        self.beyond = beyond;
        self
    }

    /// One more window of its bus onto memory. The first call replaces the default ones.
    #[must_use]
    pub fn window(mut self, window: BusWindow) -> Self {
        self.windows.push(window);
        self
    }

    /// It sees memory at its physical addresses, as on a PC. Convenient, and blind to code that
    /// takes one kind of address for the other.
    #[must_use]
    pub fn identity(self) -> Self {
        let all = DmaRange::between(DmaAddr::new(0), DmaAddr::new(u64::MAX));
        all.into_iter().fold(self, |config, bus| {
            config.window(BusWindow {
                bus,
                memory: PhysAddr::new(0),
            })
        })
    }

    /// The longest segment that its length counter can do: of a longer one it does this much.
    #[must_use]
    pub fn segment_bytes_max(mut self, bytes: u64) -> Self {
        self.segment_bytes_max = bytes;
        self
    }

    /// The boundary over which its address counter does not carry: it wraps.
    #[must_use]
    pub fn boundary(mut self, boundary: BoundaryMask) -> Self {
        self.boundary = boundary;
        self
    }

    /// Whether its accesses look into the CPU's caches, whatever the machine's other devices do.
    #[must_use]
    pub fn coherent(mut self, coherent: bool) -> Self {
        self.coherent = Some(coherent);
        self
    }

    /// Its writes land one transfer after the other; within a transfer still in any order.
    #[must_use]
    pub fn ordered(mut self) -> Self {
        self.ordered = true;
        self
    }
}

/// How often a device may read, and write, a byte: as often as it was lent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Grants {
    reads: u32,
    writes: u32,
}

#[derive(Debug)]
pub(crate) struct DeviceState {
    config: DeviceConfig,
    path: Path,
    snoops: bool,
    in_flight: InFlight,
    granted: Spans<Grants>,
    /// Whether anything was ever granted: until then a device may go everywhere.
    is_confined: bool,
    faults: Vec<DmaFault>,
}

impl DeviceState {
    pub(crate) fn new(
        config: DeviceConfig,
        ram: impl Iterator<Item = PhysRange>,
        is_machine_coherent: bool,
    ) -> Self {
        let mut windows = config.windows.clone();
        if windows.is_empty() {
            windows.extend(ram.filter_map(|range| {
                let bus = DmaAddr::new(range.start().raw().checked_add(BUS_OFFSET)?);
                Some(BusWindow {
                    bus: DmaRange::new(bus, range.len()).ok()?,
                    memory: range.start(),
                })
            }));
        }
        Self {
            snoops: config.coherent.unwrap_or(is_machine_coherent),
            path: Path::Direct(windows),
            config,
            in_flight: InFlight::default(),
            granted: Spans::default(),
            is_confined: false,
            faults: Vec::new(),
        }
    }

    /// The first byte of `range` that the device may not reach, if any.
    fn ungranted(&self, range: PhysRange, access: Access) -> Option<u64> {
        if !self.is_confined {
            return None;
        }
        self.granted.first_not(
            range.start().raw(),
            range.end().raw(),
            |grants| match access {
                Access::Read => grants.reads > 0,
                Access::Write => grants.writes > 0,
            },
        )
    }

    /// Whether nothing is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Whether the device may reach any byte of `range`.
    pub(crate) fn is_granted_any(&self, range: PhysRange) -> bool {
        self.granted
            .first_not(range.start().raw(), range.end().raw(), |grants| {
                grants == Grants::default()
            })
            .is_some()
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

    /// Whether its accesses look into the CPU's caches.
    pub fn is_coherent(&self) -> bool {
        self.machine.with(|state| state.devices[self.id.0].snoops)
    }

    /// The windows of its bus onto memory, for the firmware's description of it.
    pub fn windows(&self) -> Vec<BusWindow> {
        self.machine.with(|state| {
            let Path::Direct(windows) = &state.devices[self.id.0].path;
            windows.clone()
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
            let transfer = state.start(self.id, access, addr, bytes);
            state.disturb();
            Transfer(transfer)
        })
    }

    /// Lets all of `transfer` land, and gives what it read (nothing, for a write).
    ///
    /// # Errors
    /// The first fault of its parts; the others still landed. [`DmaFault::Aborted`] where the
    /// device was [cut off](Self::abort) meanwhile.
    #[allow(clippy::needless_pass_by_value)]
    pub fn complete(&self, transfer: Transfer) -> Result<Vec<u8>, DmaFault> {
        self.machine.with(|state| {
            while !state.devices[self.id.0].in_flight.is_complete(transfer.0) {
                if !state.land_one(self.id) {
                    break;
                }
            }
            let begun = state.devices[self.id.0].in_flight.finish(transfer.0);
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
            .with(|state| state.devices[self.id.0].in_flight = InFlight::default());
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

    /// Lends memory to the device, once more. From the first grant on, whatever it reaches beyond
    /// its grants is a [`Violation`], and reached all the same.
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
        self.machine.with(|state| {
            let device = &mut state.devices[self.id.0];
            device.is_confined = true;
            let (start, end) = (memory.start().raw(), memory.end().raw());
            device.granted.update(start, end, |mut grants| {
                if direction.device_reads() {
                    grants.reads = change(grants.reads);
                }
                if direction.device_writes() {
                    grants.writes = change(grants.writes);
                }
                grants
            });
        });
    }
}

impl State {
    /// Begins a transfer as the device's counters allow.
    fn start(&mut self, id: DeviceId, access: Access, addr: DmaAddr, mut bytes: Vec<u8>) -> u64 {
        let config = &self.devices[id.0].config;
        let len = bytes.len() as u64;
        let max = config.segment_bytes_max;
        let wrap = config.boundary.raw();
        let is_ordered = config.ordered;
        if len > max {
            self.violations.push(Violation::SegmentTooLong {
                device: id,
                len,
                max,
            });
        }
        if len > 0 && len - 1 > wrap - (addr.raw() & wrap) {
            self.violations.push(Violation::BoundaryCrossed {
                device: id,
                addr,
                len,
            });
        }
        let done = usize::try_from(max).map_or(bytes.len(), |max| max.min(bytes.len()));
        if access == Access::Write {
            bytes.truncate(done);
        }
        let part_bytes = self.cache.part_bytes(len);
        let in_flight = &mut self.devices[id.0].in_flight;
        if is_ordered {
            in_flight.fence();
        }
        in_flight.begin(
            Begun::new(access, addr.raw(), wrap, bytes),
            done,
            part_bytes,
        )
    }

    /// Lets one part of the device's transfers reach memory; false where none is in flight.
    pub(crate) fn land_one(&mut self, id: DeviceId) -> bool {
        let Some(part) = self.devices[id.0].in_flight.take_part(&mut self.rng) else {
            return false;
        };
        let fault = self.land(id, part).err();
        if let Some(fault) = fault {
            self.log.counts.faults += 1;
            self.log.event(Event::Fault(id, fault));
            self.devices[id.0].faults.push(fault);
        }
        self.devices[id.0].in_flight.landed(part, fault);
        true
    }

    fn land(&mut self, id: DeviceId, part: Part) -> Result<(), DmaFault> {
        let Some(begun) = self.devices[id.0].in_flight.begun(part.transfer) else {
            return Ok(());
        };
        let access = begun.access;
        let addr = begun.address(part.offset);
        // The bytes leave the transfer while they travel, so that the rest of the state is free.
        let mut bytes = begun.bytes[part.offset..][..part.len].to_vec();
        let mut done = 0;
        let mut result = Ok(());
        while done < bytes.len() && result.is_ok() {
            let addr = addr.wrapping_add(done as u64);
            match self.access(id, access, addr, &mut bytes[done..]) {
                Ok(reached) => done += reached,
                Err(fault) => result = Err(fault),
            }
        }
        if let Some(begun) = self.devices[id.0].in_flight.begun(part.transfer) {
            begun.bytes[part.offset..][..part.len].copy_from_slice(&bytes);
        }
        result
    }

    /// One access, as far as it lies in one piece of memory; says how many bytes that was.
    fn access(
        &mut self,
        id: DeviceId,
        access: Access,
        addr: u64,
        bytes: &mut [u8],
    ) -> Result<usize, DmaFault> {
        let range = self.on_wires(id, addr, bytes.len() as u64)?;
        let memory = self.devices[id.0].path.translate(range)?;
        let memory = self
            .cache
            .ram_at(memory)
            .map(within_frame)
            .ok_or(DmaFault::NoRam(memory.start()))?;
        let len = memory.len() as usize;
        let bytes = &mut bytes[..len];
        if let Some(at) = self.devices[id.0].ungranted(memory, access) {
            self.violations.push(Violation::NotGranted {
                device: id,
                access,
                at: PhysAddr::new(at),
            });
        }
        let garbles = self.private_access(id, access, memory)?;
        let snoops = self.devices[id.0].snoops;
        match access {
            Access::Read => {
                self.cache.device_read(memory, snoops, bytes, &mut self.log);
                garbles.apply(memory, bytes);
                self.log.counts.device_read_bytes += len as u64;
            }
            Access::Write => {
                garbles.apply(memory, bytes);
                self.cache
                    .device_write(memory, snoops, bytes, &mut self.log);
                self.log.counts.device_written_bytes += len as u64;
            }
        }
        if self.log.is_recording() {
            let access_made = log::DeviceAccess {
                device: id,
                addr: range.start(),
                memory,
                hash: log::hash(bytes),
            };
            self.log.event(match access {
                Access::Read => Event::DeviceRead(access_made),
                Access::Write => Event::DeviceWrite(access_made),
            });
        }
        Ok(len)
    }

    /// What the device's wires make of an address.
    fn on_wires(&mut self, id: DeviceId, addr: u64, len: u64) -> Result<DmaRange, DmaFault> {
        let config = &self.devices[id.0].config;
        let (wires, beyond) = (config.wires.last(), config.beyond);
        let wanted = DmaAddr::new(addr);
        let last = addr.checked_add(len - 1);
        let mut start = addr;
        if last.is_none_or(|last| last > wires) {
            self.violations.push(Violation::BeyondWires {
                device: id,
                addr: wanted,
                wires,
            });
            let has_upper_bits = wires & wires.wrapping_add(1) == 0;
            if beyond == BeyondWires::Fault || !has_upper_bits {
                return Err(DmaFault::BeyondWires(wanted));
            }
            start &= wires;
        }
        // Parts end at lines, and no limit of wires cuts a line in two.
        DmaRange::new(DmaAddr::new(start), len).map_err(|_| DmaFault::BeyondWires(wanted))
    }
}

/// The part of `range` in its first frame: sharing goes by frames.
fn within_frame(range: PhysRange) -> PhysRange {
    let room = PAGE_BYTES - (range.start().raw() & (PAGE_BYTES - 1));
    range.slice(0, range.len().min(room)).unwrap_or(range)
}
