//! Registers, the command queue, and interrupts on their way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::ItsConfig;
use super::bus::{Bus, little_endian};
use super::commands::{SYNC, decode};
use super::config::OnCommandError;
use super::redistributor::{Redistributor, settle};
use super::registers as reg;
use super::tables::snoops;
use super::view::{Command, View};

/// One ITS and its redistributors.
#[derive(Debug)]
pub(crate) struct ItsState {
    pub(super) config: ItsConfig,
    registers: BTreeMap<u64, u64>,
    /// After every command that was consumed.
    pub(super) now: View,
    /// What interrupts find: some of the latest commands are missing.
    pub(super) seen: View,
    pub(super) late: VecDeque<Command>,
    pub(super) redistributors: Vec<Redistributor>,
    pub(super) counts: ItsCounts,
    pub(super) faults: Injected,
}

/// What happened so far.
#[derive(Clone, Debug, Default)]
pub(super) struct ItsCounts {
    /// Commands consumed, by number.
    pub(super) consumed: BTreeMap<u8, u64>,
    pub(super) refused: u64,
    /// Interrupts that went nowhere.
    pub(super) dropped: u64,
    /// Entries that it reached, in tables of any kind: start and length.
    pub(super) reached: BTreeSet<(u64, u64)>,
}

/// What goes wrong on purpose.
#[derive(Clone, Debug, Default)]
pub(super) struct Injected {
    /// Nothing is executed any more.
    pub(super) is_stuck: bool,
    /// It never comes to rest.
    pub(super) is_restless: bool,
    /// The read index is somewhere else.
    pub(super) stray: Option<u64>,
    /// Commands of these numbers do nothing, as if they had not been sent.
    pub(super) ignored: BTreeSet<u8>,
    /// The next command of this number is refused.
    pub(super) refused: Option<u8>,
}

impl ItsState {
    pub(crate) fn new(config: ItsConfig) -> Self {
        let mut registers = BTreeMap::from([
            (reg::CTLR, reg::QUIESCENT),
            (reg::IIDR, 0),
            (reg::TYPER, config.typer()),
            (reg::PIDR2, 0x3b),
        ]);
        for index in 0..8 {
            registers.insert(reg::BASER + 8 * index as u64, config.fixed(index));
        }
        Self {
            config,
            registers,
            now: View::default(),
            seen: View::default(),
            late: VecDeque::new(),
            redistributors: (0..config.redistributors)
                .map(|_| Redistributor::default())
                .collect(),
            counts: ItsCounts::default(),
            faults: Injected::default(),
        }
    }

    pub(super) fn raw(&self, offset: u64) -> u64 {
        self.registers.get(&offset).copied().unwrap_or(0)
    }

    pub(super) fn get(&self, offset: u64) -> u64 {
        match (offset, self.faults.stray) {
            (reg::CREADR, Some(stray)) => stray,
            _ => self.raw(offset),
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.raw(reg::CTLR) & reg::ENABLED != 0
    }

    pub(super) fn set(&mut self, offset: u64, value: u64, bus: &mut Bus<'_>) {
        match offset {
            reg::CTLR => self.set_control(value, bus),
            reg::CBASER if self.is_on() => bus.violate("its queue was moved while it is on"),
            reg::CBASER => {
                let value = settle(value & 0xf8ef_ffff_ffff_fcff, 59, self.config.shareable);
                self.registers.insert(reg::CBASER, value);
                self.registers.insert(reg::CREADR, 0);
            }
            reg::CWRITER => {
                self.registers.insert(reg::CWRITER, value & reg::OFFSET);
                if value & reg::RETRY != 0 {
                    let stopped = self.raw(reg::CREADR) & !reg::STALLED;
                    self.registers.insert(reg::CREADR, stopped);
                }
            }
            reg::BASER..reg::BASER_END if offset % 8 == 0 => self.set_table(offset, value, bus),
            _ => {}
        }
    }

    fn set_table(&mut self, offset: u64, value: u64, bus: &mut Bus<'_>) {
        let fixed = self.config.fixed(((offset - reg::BASER) / 8) as usize);
        if fixed == 0 {
            return;
        }
        let resting = self.raw(reg::CTLR) & (reg::ENABLED | reg::QUIESCENT) == reg::QUIESCENT;
        if !resting {
            bus.violate("a table was moved while it may be in use");
            return;
        }
        let mut value = value & 0xf8e0_ffff_ffff_ffff | fixed;
        if !self.config.two_levels {
            value &= !reg::INDIRECT;
        }
        let page = self.config.pages.settle(value >> 8 & 3);
        let size = (value & 0xff).min(self.config.pages_max - 1);
        value = value & !0x3ff | page << 8 | size;
        self.registers
            .insert(offset, settle(value, 59, self.config.shareable));
    }

    fn set_control(&mut self, value: u64, bus: &mut Bus<'_>) {
        let was_on = self.is_on();
        let is_on = value & reg::ENABLED != 0;
        let mut ctlr = self.raw(reg::CTLR) & !reg::ENABLED | u64::from(is_on);
        if is_on {
            ctlr &= !reg::QUIESCENT;
        }
        self.registers.insert(reg::CTLR, ctlr);
        if is_on && !was_on {
            self.check_tables(bus);
            self.now = View::default();
            self.seen = View::default();
            self.late.clear();
        }
    }

    /// What must hold when it is turned on.
    fn check_tables(&mut self, bus: &mut Bus<'_>) {
        if self.raw(reg::CBASER) & reg::VALID == 0 {
            bus.violate("it was turned on without a queue");
        }
        for index in 0..3 {
            let Some(table) = self.table(index) else {
                continue;
            };
            if !table.looks_empty(bus) {
                bus.violate("a table was not empty when it was turned on");
            }
        }
    }

    /// Time passes: what was turned off comes to rest, commands are consumed and take effect.
    pub(super) fn step(&mut self, bus: &mut Bus<'_>) {
        if !self.is_on() {
            if !self.faults.is_restless {
                let ctlr = self.raw(reg::CTLR) | reg::QUIESCENT;
                self.registers.insert(reg::CTLR, ctlr);
                self.seen = View::default();
                self.late.clear();
            }
            return;
        }
        let cbaser = self.raw(reg::CBASER);
        let creadr = self.raw(reg::CREADR);
        let has_work = creadr & reg::STALLED == 0
            && creadr & reg::OFFSET != self.raw(reg::CWRITER) & reg::OFFSET;
        if !has_work || self.faults.is_stuck || cbaser & reg::VALID == 0 {
            return;
        }
        let at = (cbaser & reg::ADDRESS) + (creadr & reg::OFFSET);
        let snoops = self.config.bus_coherent && snoops(cbaser, 59);
        let Some(bytes) = bus.read(at, 32, snoops) else {
            return;
        };
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks(8)) {
            *word = little_endian(bytes);
        }
        let number = words[0] as u8;
        let is_refused = self.faults.refused == Some(number);
        let command = decode(words, &self.now, &self.config)
            .filter(|_| !is_refused)
            .filter(|command| self.reaches(*command, bus));
        match command {
            Some(command) => self.consume(number, command, bus),
            None => {
                self.faults.refused = None;
                self.counts.refused += 1;
                if self.config.on_error == OnCommandError::Stall {
                    self.registers.insert(reg::CREADR, creadr | reg::STALLED);
                    return;
                }
            }
        }
        let len = ((cbaser & 0xff) + 1) << 12;
        let next = ((creadr & reg::OFFSET) + 32) % len;
        self.registers.insert(reg::CREADR, next);
    }

    fn consume(&mut self, number: u8, command: Command, bus: &mut Bus<'_>) {
        *self.counts.consumed.entry(number).or_default() += 1;
        if self.faults.ignored.contains(&number) {
            return;
        }
        if number == SYNC {
            while self.apply_one(bus) {}
            return;
        }
        self.now.apply(command);
        self.write_mark(command, bus);
        self.late.push_back(command);
    }
}
