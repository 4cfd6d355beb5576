//! A device's DMA engine: from the transfer that it was told to do to bytes in memory.

use dmakit_addr::{Direction, DmaAddr, DmaRange, NodeId, PAGE_BYTES, PhysAddr, PhysRange};

use crate::bus::Path;
use crate::log::{self, Event};
use crate::machine::State;
use crate::smmu::Source;
use crate::spans::Spans;
use crate::transfer::{Access, Begun, InFlight, Part};
use crate::{BUS_OFFSET, BeyondWires, BusWindow, DeviceConfig, DeviceId, DmaFault, Violation};

/// How often a device may read, and write, a byte: as often as it was lent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Grants {
    reads: u32,
    writes: u32,
}

#[derive(Debug)]
pub(crate) struct DeviceState {
    config: DeviceConfig,
    pub(crate) path: Path,
    pub(crate) snoops: bool,
    pub(crate) in_flight: InFlight,
    granted: Spans<Grants>,
    /// Whether its grants are all it may reach.
    pub(crate) is_confined: bool,
    pub(crate) faults: Vec<DmaFault>,
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
            snoops: is_machine_coherent || config.coherent.unwrap_or(false),
            path: match config.stream {
                Some((smmu, stream)) => Path::Translated(
                    smmu,
                    Source {
                        stream,
                        substream: config.substream,
                    },
                ),
                None => Path::Direct(windows),
            },
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

    pub(crate) fn change_grants(
        &mut self,
        memory: PhysRange,
        direction: Direction,
        change: fn(u32) -> u32,
    ) {
        self.is_confined = true;
        let (start, end) = (memory.start().raw(), memory.end().raw());
        self.granted.update(start, end, |mut grants| {
            if direction.device_reads() {
                grants.reads = change(grants.reads);
            }
            if direction.device_writes() {
                grants.writes = change(grants.writes);
            }
            grants
        });
    }

    pub(crate) fn node(&self) -> Option<NodeId> {
        self.config.node
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

impl State {
    /// Begins a transfer as the device's counters allow.
    pub(crate) fn begin(
        &mut self,
        id: DeviceId,
        access: Access,
        addr: DmaAddr,
        mut bytes: Vec<u8>,
    ) -> u64 {
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
        let part = self.devices[id.0].in_flight.take_part(&mut self.rng);
        self.land_part(id, part)
    }

    /// Lets a part land that was translated before; false where none waits.
    pub(crate) fn land_translated(&mut self, id: DeviceId) -> bool {
        let part = self.devices[id.0].in_flight.take_translated();
        self.land_part(id, part)
    }

    fn land_part(&mut self, id: DeviceId, part: Option<Part>) -> bool {
        let Some(part) = part else {
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
            let latched = part.translated.map(|output| output + done as u64);
            match self.access(id, access, addr, latched, &mut bytes[done..]) {
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
        latched: Option<u64>,
        bytes: &mut [u8],
    ) -> Result<usize, DmaFault> {
        let range = self.on_wires(id, addr, bytes.len() as u64)?;
        let memory = self.route(id, access, range, latched)?;
        let memory = self
            .cache
            .ram_at(memory)
            .map(within_frame)
            .ok_or(DmaFault::NoRam(memory.start()))?;
        let len = memory.len() as usize;
        let bytes = &mut bytes[..len];
        let cipher = self.private_access(id, access, memory)?;
        if let Some(at) = self.devices[id.0].ungranted(memory, access) {
            self.violations.push(Violation::NotGranted {
                device: id,
                access,
                at: PhysAddr::new(at),
            });
        }
        let snoops = self.devices[id.0].snoops;
        match access {
            Access::Read => {
                self.cache.device_read(memory, snoops, bytes, &mut self.log);
                cipher.apply(memory, bytes);
                self.log.counts.device_read_bytes += len as u64;
            }
            Access::Write => {
                cipher.apply(memory, bytes);
                self.cache
                    .device_write(memory, snoops, bytes, &mut self.log);
                self.log.counts.device_written_bytes += len as u64;
            }
        }
        self.record(id, access, range.start(), memory, bytes);
        Ok(len)
    }

    /// Where a part of a transfer goes: now, or where it was sent some time ago.
    fn route(
        &mut self,
        id: DeviceId,
        access: Access,
        range: DmaRange,
        latched: Option<u64>,
    ) -> Result<PhysRange, DmaFault> {
        let Path::Translated(smmu, source) = self.devices[id.0].path else {
            return self.devices[id.0].path.translate(range);
        };
        let lost = DmaFault::NotTranslated(range.start());
        let output = match latched {
            Some(output) => output,
            None => self
                .translate(smmu, source, access, range.start().raw())
                .ok_or(lost)?,
        };
        // Parts do not cross frames, and no translation is of less.
        PhysRange::new(PhysAddr::new(output), range.len()).map_err(|_| lost)
    }

    fn record(
        &mut self,
        device: DeviceId,
        access: Access,
        addr: DmaAddr,
        memory: PhysRange,
        bytes: &[u8],
    ) {
        if !self.log.is_recording() {
            return;
        }
        let reached = log::DeviceAccess {
            device,
            addr,
            memory,
            hash: log::hash(bytes),
        };
        self.log.event(match access {
            Access::Read => Event::DeviceRead(reached),
            Access::Write => Event::DeviceWrite(reached),
        });
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
