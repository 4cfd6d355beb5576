//! A CPU's redistributor: pending interrupts, and what it remembers of their configuration.

use std::collections::BTreeMap;

use super::bus::Bus;
use super::commands::FIRST;
use super::config::{ItsConfig, Shareable};
use super::registers as reg;
use super::tables::snoops;

#[derive(Debug, Default)]
pub(super) struct Redistributor {
    pub(super) ctlr: u64,
    pub(super) prop: u64,
    pub(super) pend: u64,
    known: BTreeMap<u32, u8>,
}

/// What becomes of attributes in a register that keeps the inner cacheability at `inner`.
pub(super) fn settle(value: u64, inner: u32, shareable: Shareable) -> u64 {
    let (share, cache) = (0b11 << 10, 0b111 << inner);
    match shareable {
        Shareable::AsWritten => value,
        Shareable::Outer if value & share != 0 => value & !share | 0b10 << 10,
        Shareable::Outer => value,
        Shareable::Never => value & !share,
        Shareable::NeverCached => value & !share & !cache | 1 << inner,
    }
}

impl Redistributor {
    fn is_on(&self) -> bool {
        self.ctlr & reg::ENABLE_LPIS != 0
    }

    pub(super) fn get(&self, offset: u64, cpu: u16, config: &ItsConfig) -> u64 {
        match offset {
            reg::R_CTLR => self.ctlr | u64::from(config.lpis_clear) << 1,
            reg::R_TYPER => {
                let last = u64::from(cpu + 1 == config.redistributors) << 4;
                1 | last | u64::from(cpu) << 8 | u64::from(cpu) << 32
            }
            reg::PROPBASER => self.prop,
            reg::PENDBASER => self.pend,
            _ => 0,
        }
    }

    pub(super) fn set(&mut self, offset: u64, value: u64, config: &ItsConfig, bus: &mut Bus<'_>) {
        match offset {
            reg::R_CTLR if config.lpis_clear => self.ctlr = value & reg::ENABLE_LPIS,
            // Once on, always on.
            reg::R_CTLR => self.ctlr |= value & reg::ENABLE_LPIS,
            reg::PROPBASER | reg::PENDBASER if self.is_on() => {
                bus.violate("tables of LPIs were moved while they are in use");
            }
            reg::PROPBASER => {
                let bits = (value & 0x1f).min(u64::from(config.interrupt_bits) - 1);
                let value = value & 0x070f_ffff_ffff_ff80 | bits;
                self.prop = settle(value, 7, config.shareable);
            }
            reg::PENDBASER => {
                self.pend = settle(value & 0x070f_ffff_ffff_0f80, 7, config.shareable);
            }
            _ => {}
        }
    }

    /// Whether it serves an interrupt at all.
    fn has(&self, interrupt: u32) -> bool {
        self.is_on() && interrupt >= FIRST && u64::from(interrupt) >> ((self.prop & 0x1f) + 1) == 0
    }

    fn configuration(&mut self, interrupt: u32, config: &ItsConfig, bus: &mut Bus<'_>) -> u8 {
        if let Some(known) = self.known.get(&interrupt) {
            return *known;
        }
        let at = (self.prop & reg::ADDRESS) + u64::from(interrupt - FIRST);
        let snoops = config.bus_coherent && snoops(self.prop, 7);
        let byte = bus.read(at, 1, snoops).map_or(0, |bytes| bytes[0]);
        self.known.insert(interrupt, byte);
        byte
    }

    /// Whether an interrupt that is pending goes to the CPU.
    pub(super) fn is_enabled(
        &mut self,
        interrupt: u32,
        config: &ItsConfig,
        bus: &mut Bus<'_>,
    ) -> bool {
        self.has(interrupt) && self.configuration(interrupt, config, bus) & 1 != 0
    }

    pub(super) fn forget(&mut self, interrupt: u32) {
        self.known.remove(&interrupt);
    }

    pub(super) fn forget_all(&mut self) {
        self.known.clear();
    }

    /// Changes a pending bit; says what it was.
    pub(super) fn set_pending(
        &mut self,
        interrupt: u32,
        is_pending: bool,
        config: &ItsConfig,
        bus: &mut Bus<'_>,
    ) -> bool {
        if !self.has(interrupt) {
            return false;
        }
        let at = (self.pend & reg::ADDRESS) + u64::from(interrupt / 8);
        let snoops = config.bus_coherent && snoops(self.pend, 7);
        let Some(mut byte) = bus.read(at, 1, snoops) else {
            return false;
        };
        let bit = 1 << (interrupt % 8);
        let was = byte[0] & bit != 0;
        byte[0] = if is_pending {
            byte[0] | bit
        } else {
            byte[0] & !bit
        };
        if was != is_pending {
            bus.write(at, &byte, snoops);
        }
        was
    }

    pub(super) fn is_pending(&self, interrupt: u32, config: &ItsConfig, bus: &mut Bus<'_>) -> bool {
        let at = (self.pend & reg::ADDRESS) + u64::from(interrupt / 8);
        let snoops = config.bus_coherent && snoops(self.pend, 7);
        self.has(interrupt)
            && bus
                .read(at, 1, snoops)
                .is_some_and(|byte| byte[0] >> (interrupt % 8) & 1 != 0)
    }
}
