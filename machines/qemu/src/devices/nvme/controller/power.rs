//! From reset to ready, and back.

use std::time::Duration;

use dmakit_dma::Translate;
use dmakit_platform::{Mmio, Platform};

use super::{COMMAND_TIME_MAX, IO, Identity, NAMESPACE, Nvme, judged};
use crate::devices::nvme::NvmeError;
use crate::devices::nvme::command::{self, Command, Identify, LIST_ENTRIES, PAGE};
use crate::devices::nvme::memory::{ENTRIES, IdentifyPage};
use crate::devices::nvme::registers::{self as reg, Capabilities};

/// Whether a controller does what this driver needs.
pub(super) fn check(capabilities: Capabilities) -> Result<(), NvmeError> {
    let unsupported = |what| NvmeError::Unsupported {
        what,
        value: capabilities.0,
    };
    if capabilities.entries_max() < ENTRIES.into() {
        return Err(unsupported("queues of 65 entries"));
    }
    if capabilities.page_shift_min() > PAGE.trailing_zeros() {
        return Err(unsupported("pages of 4 KiB"));
    }
    Ok(())
}

impl<P: Platform, T: Translate, R: Mmio> Nvme<'_, P, T, R> {
    pub(super) fn shut_down(&self) -> Result<(), NvmeError> {
        let enabled = reg::CC_ENABLED | reg::CC_SHUTDOWN;
        self.regs.write32(reg::CC, enabled);
        self.until(COMMAND_TIME_MAX, |status| {
            status & reg::CSTS_SHUTDOWN_MASK == reg::CSTS_SHUTDOWN_DONE
        })
    }

    /// Turns the controller off, and gives back all memory that it used.
    pub(super) fn disable(self) -> Result<(), NvmeError> {
        self.regs.write32(reg::CC, 0);
        self.until(self.ready_time_max(), |status| {
            status & reg::CSTS_READY == 0
        })?;
        self.memory.free(self.device);
        Ok(())
    }

    pub(super) fn bring_up(&mut self, vector: Option<u16>) -> Result<(), NvmeError> {
        self.until(self.ready_time_max(), |status| {
            status & reg::CSTS_READY == 0
        })?;
        let entries = u32::from(self.memory.admin.entries() - 1);
        self.regs.write32(reg::AQA, entries << 16 | entries);
        let [submissions, completions] = self.memory.admin.bases();
        self.regs.write64(reg::ASQ, submissions);
        self.regs.write64(reg::ACQ, completions);
        self.regs.write32(reg::CC, reg::CC_ENABLED);
        self.until(self.ready_time_max(), |status| {
            status & reg::CSTS_READY != 0
        })?;
        self.identify()?;
        let (entries, [submissions, completions]) =
            (self.memory.io.entries(), self.memory.io.bases());
        self.administer(&command::create_completion(
            0,
            IO,
            entries,
            completions,
            vector,
        ))?;
        self.administer(&command::create_submission(0, IO, entries, submissions))
    }

    fn identify(&mut self) -> Result<(), NvmeError> {
        let controller = self.identify_page(0, Identify::Controller)?;
        let namespace = self.identify_page(NAMESPACE, Identify::Namespace)?;
        let text = |range: std::ops::Range<usize>| {
            String::from_utf8_lossy(&controller[range])
                .trim()
                .to_owned()
        };
        let format = usize::from(namespace[26] & 0xf);
        let shift = u32::from(namespace[128 + 4 * format + 2]);
        if !(9..=12).contains(&shift) {
            return Err(NvmeError::Unsupported {
                what: "blocks of 512 to 4096 bytes",
                value: shift.into(),
            });
        }
        let mut size = [0; 8];
        size.copy_from_slice(&namespace[..8]);
        // A PRP list of one page, and the first page before it.
        let listed = (LIST_ENTRIES as u64 + 1) * PAGE;
        let limit = match u32::from(controller[77]) {
            0 => listed,
            shift => 1_u64
                .checked_shl(shift + self.capabilities.page_shift_min())
                .unwrap_or(u64::MAX),
        };
        self.identity = Identity {
            model: text(24..64),
            serial: text(4..24),
            transfer_max: limit.min(listed),
            block: 1 << shift,
            blocks: u64::from_le_bytes(size),
        };
        Ok(())
    }

    fn identify_page(&mut self, namespace: u32, what: Identify) -> Result<IdentifyPage, NvmeError> {
        let page = self.memory.page.dma_addr().raw();
        self.administer(&command::identify(0, namespace, what, page))?;
        let view = self.device.view(&self.memory.page);
        let page = view.and_then(|view| view.at(0)).map(|page| page.read());
        Ok(page.unwrap_or([0; PAGE as usize]))
    }

    /// Runs one admin command to its end.
    fn administer(&mut self, command: &Command) -> Result<(), NvmeError> {
        let tail = self.memory.admin.push(self.device, command);
        let tail = tail.ok_or(NvmeError::Full)?;
        self.ring(0, tail);
        let start = self.platform.now();
        loop {
            if let Some((entry, head)) = self.memory.admin.pop(self.device) {
                self.ring(1, head);
                return judged(command[0] as u8, entry.status);
            }
            self.check_alive(start)?;
        }
    }

    fn ready_time_max(&self) -> Duration {
        Duration::from_millis(500) * self.capabilities.ready_halves().max(1)
    }

    fn until(&self, limit: Duration, done: impl Fn(u32) -> bool) -> Result<(), NvmeError> {
        let start = self.platform.now();
        loop {
            let status = self.regs.read32(reg::CSTS);
            if done(status) {
                return Ok(());
            }
            if status & reg::CSTS_FATAL != 0 {
                return Err(NvmeError::Fatal { status });
            }
            if self.platform.now().saturating_since(start) > limit {
                return Err(NvmeError::NotReady {
                    status,
                    after: limit,
                });
            }
            std::thread::yield_now();
        }
    }
}
