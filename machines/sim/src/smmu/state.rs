//! Registers, queues, and transactions.

use std::collections::{BTreeMap, BTreeSet};

use dmakit_addr::{PhysAddr, PhysRange};

use super::caches::Caches;
use super::command::{Command, Kind, apply, kind, opcode};
use super::record::{BAD_STREAM, BAD_SUBSTREAM, DESCRIPTOR_FETCH, ENTRY_FETCH, Stopped, words};
use super::registers as reg;
use super::structures::{Contexts, Place, Route, context, route};
use super::{SmmuConfig, Source, SyncWaits};
use crate::cache::Cache;
use crate::log::Log;
use crate::rng::Rng;
use crate::transfer::Access;

/// One SMMU.
#[derive(Debug)]
pub(crate) struct SmmuState {
    pub(super) config: SmmuConfig,
    registers: BTreeMap<u64, u32>,
    caches: Caches,
    /// Commands that were consumed and have not taken effect.
    pending: Vec<Command>,
    /// How many were consumed, by number, syncs not counted.
    pub(super) consumed: BTreeMap<u8, u64>,
    pub(super) faults: Injected,
    pub(super) waits: SyncWaits,
}

/// What goes wrong on purpose.
#[derive(Clone, Debug, Default)]
pub(super) struct Injected {
    /// Commands that cannot be read before the next one can.
    pub(super) unreadable: u32,
    /// How many are read before those.
    pub(super) readable: u32,
    /// Nothing is executed after so many more.
    pub(super) until_stuck: Option<u32>,
    /// Nothing is executed any more.
    pub(super) is_stuck: bool,
    /// Nothing is executed until the command queue is turned off.
    pub(super) hangs: bool,
    /// The next record is lost.
    pub(super) loses_record: bool,
    /// Commands of these numbers do nothing, as if they had not been sent.
    pub(super) ignored: BTreeSet<u8>,
    /// Commands of these numbers are taken for what this makes of them.
    pub(super) misread: BTreeMap<u8, fn(Command) -> Command>,
}

/// The rest of the machine, as the SMMU sees it.
pub(crate) struct Memory<'a> {
    pub(crate) cache: &'a mut Cache,
    pub(crate) log: &'a mut Log,
    pub(crate) rng: &'a mut Rng,
}

/// What an SMMU waits for before it goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    /// Nothing to do.
    Idle,
    /// A command was consumed.
    Consumed,
    /// A sync stands at the head: transactions that were translated must land first.
    Sync,
}

impl SmmuState {
    pub(crate) fn new(config: SmmuConfig) -> Self {
        let identity = config.identity();
        let offsets = [0x00, 0x04, 0x0c, 0x14];
        Self {
            config,
            registers: offsets.into_iter().zip(identity).collect(),
            caches: Caches::default(),
            pending: Vec::new(),
            consumed: BTreeMap::new(),
            faults: Injected::default(),
            waits: SyncWaits::default(),
        }
    }

    pub(crate) fn get(&self, offset: u64) -> u32 {
        let source = match offset {
            reg::CR0ACK => reg::CR0,
            reg::IRQ_CTRLACK => reg::IRQ_CTRL,
            _ => offset,
        };
        let value = self.registers.get(&source).copied().unwrap_or(0);
        match offset {
            reg::GBPA => value & !reg::GBPA_UPDATE,
            _ => value,
        }
    }

    fn get64(&self, offset: u64) -> u64 {
        u64::from(self.get(offset)) | u64::from(self.get(offset + 4)) << 32
    }

    pub(crate) fn set(&mut self, offset: u64, value: u32) {
        let (is_on, queue_on) = (
            self.get(reg::CR0) & reg::SMMUEN != 0,
            self.get(reg::CR0) & reg::CMDQEN != 0,
        );
        let is_fixed = match offset {
            0..=0x1c | reg::CR0ACK | reg::IRQ_CTRLACK | reg::GERROR => true,
            // What is in use does not change (6.3).
            reg::STRTAB_BASE | 0x84 | reg::STRTAB_BASE_CFG => is_on,
            reg::CMDQ_BASE | 0x94 | reg::CMDQ_CONS => queue_on,
            _ => false,
        };
        if !is_fixed {
            self.registers.insert(offset, value);
        }
        if offset == reg::CR0 && value & reg::CMDQEN == 0 {
            self.faults.hangs = false;
        }
    }

    pub(super) fn raise(&mut self, error: u32) {
        let active = self.get(reg::GERROR) ^ self.get(reg::GERRORN);
        if active & error == 0 {
            let value = self.get(reg::GERROR) ^ error;
            self.registers.insert(reg::GERROR, value);
        }
    }

    fn is_active(&self, error: u32) -> bool {
        (self.get(reg::GERROR) ^ self.get(reg::GERRORN)) & error != 0
    }

    fn read<const N: usize>(&self, address: u64, memory: &mut Memory<'_>) -> Option<[u64; N]> {
        let range = PhysRange::new(PhysAddr::new(address), N as u64 * 8).ok()?;
        if !memory.cache.is_ram(range) {
            return None;
        }
        let mut bytes = vec![0; N * 8];
        memory
            .cache
            .device_read(range, self.config.coherent, &mut bytes, memory.log);
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = bytes
                .iter()
                .rev()
                .fold(0, |word, byte| word << 8 | u64::from(*byte));
        }
        Some(words)
    }

    fn write(&self, address: u64, bytes: &[u8], memory: &mut Memory<'_>) {
        if let Ok(range) = PhysRange::new(PhysAddr::new(address), bytes.len() as u64) {
            if memory.cache.is_ram(range) {
                memory
                    .cache
                    .device_write(range, self.config.coherent, bytes, memory.log);
            }
        }
    }

    // Commands.

    /// Consumes a command; before a sync it stops once.
    pub(crate) fn step(&mut self, memory: &mut Memory<'_>) -> Progress {
        let is_running = self.get(reg::CR0) & reg::CMDQEN != 0
            && !self.is_active(reg::CMDQ_ERR | reg::SERVICE_FAILURE)
            && !self.faults.is_stuck
            && !self.faults.hangs;
        let (base, mask) = self.queue(reg::CMDQ_BASE);
        let cons = self.get(reg::CMDQ_CONS) & mask;
        if !is_running || cons == self.get(reg::CMDQ_PROD) & mask {
            return Progress::Idle;
        }
        let slot = base + u64::from(cons & mask >> 1) * 16;
        if self.faults.until_stuck == Some(0) {
            self.faults.is_stuck = true;
            return Progress::Idle;
        }
        self.faults.until_stuck = self.faults.until_stuck.map(|left| left - 1);
        let command = match (self.faults.readable, self.faults.unreadable) {
            (0, 1..) => None,
            _ => self.read::<2>(slot, memory),
        };
        self.faults.readable = self.faults.readable.saturating_sub(1);
        let Some(command) = command else {
            self.faults.unreadable = self.faults.unreadable.saturating_sub(1);
            self.refuse(cons, 2);
            return Progress::Consumed;
        };
        let command = match self.faults.misread.get(&opcode(command)) {
            Some(other) => other(command),
            None => command,
        };
        match kind(command, self.config.ranges, self.config.messages) {
            Kind::Illegal => self.refuse(cons, 1),
            Kind::Deferred => {
                self.pending.push(command);
                *self.consumed.entry(opcode(command)).or_default() += 1;
                self.consume(cons, mask);
            }
            Kind::Sync(_) => return Progress::Sync,
        }
        Progress::Consumed
    }

    /// Completes the sync at the head of the queue.
    pub(crate) fn complete_sync(&mut self, memory: &mut Memory<'_>) {
        while !self.pending.is_empty() {
            self.apply_one(memory.rng);
        }
        let (base, mask) = self.queue(reg::CMDQ_BASE);
        let cons = self.get(reg::CMDQ_CONS) & mask;
        let slot = base + u64::from(cons & mask >> 1) * 16;
        let command = self.read::<2>(slot, memory).unwrap_or_default();
        self.consume(cons, mask);
        let kind = kind(command, self.config.ranges, self.config.messages);
        if let Kind::Sync(Some((address, data))) = kind {
            self.write(address, &data.to_le_bytes(), memory);
        }
    }

    /// Where the command queue begins.
    pub(super) fn command_queue(&self) -> PhysAddr {
        PhysAddr::new(self.queue(reg::CMDQ_BASE).0)
    }

    /// Lets one pending command, any of them, take effect.
    pub(crate) fn apply_one(&mut self, rng: &mut Rng) {
        if self.pending.is_empty() {
            return;
        }
        let command = self
            .pending
            .swap_remove(rng.below(self.pending.len() as u64) as usize);
        if !self.faults.ignored.contains(&opcode(command)) {
            apply(command, &mut self.caches, self.config.ranges);
        }
    }

    /// Drops something that is remembered.
    pub(crate) fn evict(&mut self, rng: &mut Rng) {
        self.caches.evict(rng);
    }

    fn consume(&mut self, cons: u32, mask: u32) {
        self.registers.insert(reg::CMDQ_CONS, (cons + 1) & mask);
    }

    fn refuse(&mut self, cons: u32, reason: u32) {
        self.registers.insert(reg::CMDQ_CONS, cons | reason << 24);
        self.raise(reg::CMDQ_ERR);
    }

    /// A queue's address, and the mask of its indices with the wrap bit.
    fn queue(&self, register: u64) -> (u64, u32) {
        let base = self.get64(register);
        let shift = (base & 0x1f).min(19) as u32;
        (base & reg::ADDRESS, (1 << (shift + 1)) - 1)
    }

    // Transactions.

    /// Where an access goes; `None` where it was stopped, and recorded.
    pub(crate) fn translate(
        &mut self,
        source: Source,
        access: Access,
        address: u64,
        memory: &mut Memory<'_>,
    ) -> Option<u64> {
        if self.get(reg::CR0) & reg::SMMUEN == 0 {
            let aborts = self.get(reg::GBPA) & reg::GBPA_ABORT != 0;
            return (!aborts).then_some(address);
        }
        let stopped = match self.look_up(source, access, address, memory) {
            Ok(output) => return Some(output),
            Err(stopped) => stopped,
        };
        if let Stopped::Record(number) = stopped {
            let record = words(number, source, address, access == Access::Read);
            self.record(record, memory);
        }
        None
    }

    fn look_up(
        &mut self,
        source: Source,
        access: Access,
        address: u64,
        memory: &mut Memory<'_>,
    ) -> Result<u64, Stopped> {
        let entry = self.entry(source.stream, memory)?;
        let (tag, tables) = match route(&entry, &self.config)? {
            Route::Bypass => return Ok(address),
            Route::Stage1(contexts) => {
                let number = contexts.number(source.substream)?;
                let descriptor = self.descriptor(source.stream, number, contexts, memory)?;
                context(&descriptor, &self.config)?
            }
            Route::Stage2(tag, tables) => (tag, tables),
        };
        if let Some(leaf) = self.caches.leaf(tag, address) {
            return leaf.access(access, address);
        }
        let mut caches = std::mem::take(&mut self.caches);
        let mut rng = memory.rng.clone();
        let leaf = tables.walk(tag, address, &mut caches, &mut rng, |at| {
            self.read::<1>(at, memory).map(|[word]| word)
        });
        *memory.rng = rng;
        if let Ok(leaf) = leaf {
            caches.add_leaf(leaf, memory.rng);
        }
        self.caches = caches;
        leaf?.access(access, address)
    }

    /// A context descriptor; whatever was read is remembered, valid or not.
    fn descriptor(
        &mut self,
        stream: u32,
        number: u32,
        contexts: Contexts,
        memory: &mut Memory<'_>,
    ) -> Result<[u64; 8], Stopped> {
        let key = (stream, number);
        if let Some(known) = self.caches.descriptors.get(&key) {
            return Ok(*known);
        }
        let at = match contexts.place(number) {
            Place::At(at) => at,
            Place::Below(entry, offset) => {
                let key = (stream, number >> 6);
                let table = match self.caches.descriptor_tables.get(&key) {
                    Some(known) => *known,
                    None => self.read::<1>(entry, memory).ok_or(DESCRIPTOR_FETCH)?[0],
                };
                self.caches.descriptor_tables.insert(key, table);
                if table & 1 == 0 {
                    return Err(BAD_SUBSTREAM);
                }
                (table & 0x000f_ffff_ffff_f000) + offset
            }
        };
        let descriptor = self.read(at, memory).ok_or(DESCRIPTOR_FETCH)?;
        self.caches.descriptors.insert(key, descriptor);
        Ok(descriptor)
    }

    /// A stream's entry; whatever was read is remembered, valid or not.
    fn entry(&mut self, stream: u32, memory: &mut Memory<'_>) -> Result<[u64; 8], Stopped> {
        if let Some(known) = self.caches.entries.get(&stream) {
            return Ok(*known);
        }
        let base = self.get64(reg::STRTAB_BASE) & reg::ADDRESS;
        let config = self.get(reg::STRTAB_BASE_CFG);
        let (shift, split) = (config & 0x3f, config >> 6 & 0x1f);
        if u64::from(stream) >> shift != 0 {
            return Err(BAD_STREAM);
        }
        let at = match config >> 16 & 0b11 {
            0 => base + u64::from(stream) * 64,
            _ => {
                let index = stream >> split;
                let level_1 = match self.caches.level_1.get(&index) {
                    Some(known) => *known,
                    None => self
                        .read::<1>(base + u64::from(index) * 8, memory)
                        .ok_or(ENTRY_FETCH)?[0],
                };
                self.caches.level_1.insert(index, level_1);
                let within = stream & ((1 << split) - 1);
                let span = (level_1 & 0x1f) as u32;
                if span == 0 || within >> (span - 1) != 0 {
                    return Err(BAD_STREAM);
                }
                (level_1 & reg::ADDRESS) + u64::from(within) * 64
            }
        };
        let entry = self.read(at, memory).ok_or(ENTRY_FETCH)?;
        self.caches.entries.insert(stream, entry);
        Ok(entry)
    }

    fn record(&mut self, record: [u64; 4], memory: &mut Memory<'_>) {
        if self.get(reg::CR0) & reg::EVENTQEN == 0 {
            return;
        }
        if std::mem::take(&mut self.faults.loses_record) {
            self.raise(reg::EVENTQ_ABORT);
            return;
        }
        let (base, mask) = self.queue(reg::EVENTQ_BASE);
        let (prod, cons) = (self.get(reg::EVENTQ_PROD), self.get(reg::EVENTQ_CONS));
        if prod.wrapping_sub(cons) & mask == mask.div_ceil(2) {
            // Full: said once, until it was acknowledged.
            if (prod ^ cons) & reg::OVERFLOW == 0 {
                self.registers
                    .insert(reg::EVENTQ_PROD, prod ^ reg::OVERFLOW);
            }
            return;
        }
        let at = base + u64::from(prod & mask >> 1) * 32;
        let bytes: Vec<u8> = record.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.write(at, &bytes, memory);
        let next = (prod & reg::OVERFLOW) | ((prod + 1) & mask);
        self.registers.insert(reg::EVENTQ_PROD, next);
    }
}
