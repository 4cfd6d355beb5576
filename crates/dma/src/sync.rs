//! Passing a mapped buffer back and forth.

use dmakit_addr::{ReadableByCpu, ToDevice, WritableByCpu};
use dmakit_platform::Platform;

use crate::check::Checker;
use crate::mapping::Route;
use crate::translated::Translated;
use crate::{CpuMapping, CpuPart, Device, DmaMemory, Mapping, Refused, TokenError, Translate};
use crate::{bounce, cache};

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> Device<'m, P, M, C, T> {
    /// Puts a mapping into the CPU's hands, with everything that the device wrote. The driver knows
    /// that the device is done with it for now.
    ///
    /// One branch where the device is coherent and works on the memory itself; otherwise O(bytes).
    /// Never sleeps.
    ///
    /// # Errors
    /// [`Refused`] with the mapping where it is another device's.
    #[inline]
    pub fn sync_for_cpu<D: ReadableByCpu, B: DmaMemory>(
        &self,
        mut mapping: Mapping<D, B>,
    ) -> Result<CpuMapping<D, B>, Refused<Mapping<D, B>>> {
        if mapping.record.is_quiet {
            return Ok(CpuMapping { mapping });
        }
        let len = mapping.record.len;
        match self.fetch(&mut mapping, 0, len) {
            Ok(()) => Ok(CpuMapping { mapping }),
            Err(error) => Err(Refused {
                error,
                token: mapping,
            }),
        }
    }

    /// Gives a mapping to the device again, with everything that the CPU wrote. Cost as
    /// [`sync_for_cpu`](Self::sync_for_cpu).
    ///
    /// # Errors
    /// [`Refused`] with the mapping where it is another device's.
    #[inline]
    pub fn sync_for_device<D: WritableByCpu, B: DmaMemory>(
        &self,
        token: CpuMapping<D, B>,
    ) -> Result<Mapping<D, B>, Refused<CpuMapping<D, B>>> {
        if token.mapping.record.is_quiet {
            return Ok(token.mapping);
        }
        match self.push(&token.mapping, 0, token.mapping.record.len) {
            Ok(()) => Ok(token.mapping),
            Err(error) => Err(Refused { error, token }),
        }
    }

    /// Puts `len` bytes at `offset` into the CPU's hands, with what the device wrote there; the
    /// device may go on using the rest. Any offset and length inside the mapping will do.
    ///
    /// On a device that goes past the CPU's caches ownership goes by whole lines: the device keeps
    /// away from every line that the part touches.
    ///
    /// # Errors
    /// [`TokenError`] where the bytes are not all in the mapping or it is another device's.
    pub fn sync_part_for_cpu<'a, D: ReadableByCpu, B: DmaMemory>(
        &self,
        mapping: &'a mut Mapping<D, B>,
        offset: u64,
        len: u64,
    ) -> Result<CpuPart<'a, D, B>, TokenError> {
        self.fetch(mapping, offset, len)?;
        Ok(CpuPart {
            mapping,
            offset,
            len,
        })
    }

    /// Puts `len` bytes at `offset` into the CPU's hands, to be filled again. The device only read,
    /// so there is nothing to sync.
    ///
    /// # Errors
    /// As [`sync_part_for_cpu`](Self::sync_part_for_cpu).
    pub fn withdraw_part<'a, B: DmaMemory>(
        &self,
        mapping: &'a mut Mapping<ToDevice, B>,
        offset: u64,
        len: u64,
    ) -> Result<CpuPart<'a, ToDevice, B>, TokenError> {
        self.check_token(&mapping.record, offset, len)?;
        Ok(CpuPart {
            mapping,
            offset,
            len,
        })
    }

    /// Gives a part to the device again, with everything that the CPU wrote there.
    ///
    /// # Errors
    /// [`TokenError`] where the mapping is another device's.
    pub fn sync_part_for_device<D: WritableByCpu, B: DmaMemory>(
        &self,
        part: CpuPart<'_, D, B>,
    ) -> Result<(), TokenError> {
        self.push(part.mapping, part.offset, part.len)
    }

    /// What the device wrote, for the CPU.
    fn fetch<D: ReadableByCpu, B: DmaMemory>(
        &self,
        mapping: &mut Mapping<D, B>,
        offset: u64,
        len: u64,
    ) -> Result<(), TokenError> {
        self.check_token(&mapping.record, offset, len)?;
        if mapping.record.is_quiet || len == 0 {
            return Ok(());
        }
        let needs_caches = mapping.record.needs_caches;
        match (&mapping.record.route, self.pool()) {
            (Route::Bounced(buffer), Some((pool, _))) => {
                let slots = bounce::slots(buffer);
                if let Some(part) = slots.slice(offset, len).filter(|_| needs_caches) {
                    cache::before_cpu_reads(&self.platform, part);
                }
                // The part was checked to lie inside, and the pool is the one of the record.
                let copied = pool.sync_for_cpu(buffer, &mut mapping.memory, offset, len);
                debug_assert!(copied.is_ok());
                self.counters.copied_out(len);
            }
            (Route::Translated { range, slots }, _) => {
                let (range, slots) = (*range, *slots);
                self.fetch_translated::<D, B>(Translated { range, slots }, mapping, offset, len);
            }
            _ => {
                for run in cache::slices(mapping.memory.runs(), offset, len) {
                    cache::before_cpu_reads(&self.platform, run);
                }
            }
        }
        Ok(())
    }

    /// What the device wrote by way of a domain.
    fn fetch_translated<D: ReadableByCpu, B: DmaMemory>(
        &self,
        translated: Translated,
        mapping: &mut Mapping<D, B>,
        offset: u64,
        len: u64,
    ) {
        let Some(domain) = self.translation() else {
            return;
        };
        let (mut from, end) = (offset, offset + len);
        while from < end {
            let runs = mapping.memory.runs();
            let next = self
                .touched(domain, translated, runs, from, end - from)
                .next();
            let Some(part) = next else { return };
            if mapping.record.needs_caches {
                cache::before_cpu_reads(&self.platform, part.memory());
            }
            if let Some((start, (pool, _))) = part.slots.zip(self.pool()) {
                let of = &mut mapping.memory;
                if bounce::fetch::<P, M, D, B>(pool, start, of, &part) {
                    self.counters.copied_out(part.len);
                }
            }
            from = part.at + part.offset + part.len;
        }
    }

    /// What the CPU wrote, for the device.
    fn push<D: WritableByCpu, B: DmaMemory>(
        &self,
        mapping: &Mapping<D, B>,
        offset: u64,
        len: u64,
    ) -> Result<(), TokenError> {
        self.check_token(&mapping.record, offset, len)?;
        if mapping.record.is_quiet || len == 0 {
            return Ok(());
        }
        match (&mapping.record.route, self.pool()) {
            (Route::Translated { range, slots }, _) => {
                let (range, slots) = (*range, *slots);
                self.push_translated::<D, B>(Translated { range, slots }, mapping, offset, len);
            }
            (Route::Bounced(buffer), Some((pool, _))) => {
                // As in `fetch`.
                let copied = pool.sync_for_device(buffer, &mapping.memory, offset, len);
                debug_assert!(copied.is_ok());
                self.counters.copied_in(len);
                let slots = bounce::slots(buffer);
                let needs_caches = mapping.record.needs_caches;
                if let Some(part) = slots.slice(offset, len).filter(|_| needs_caches) {
                    cache::after_cpu_wrote(&self.platform, part);
                }
            }
            _ => {
                for run in cache::slices(mapping.memory.runs(), offset, len) {
                    cache::after_cpu_wrote(&self.platform, run);
                }
            }
        }
        Ok(())
    }

    /// What the CPU wrote, for a device behind a domain.
    fn push_translated<D: WritableByCpu, B: DmaMemory>(
        &self,
        translated: Translated,
        mapping: &Mapping<D, B>,
        offset: u64,
        len: u64,
    ) {
        let Some(domain) = self.translation() else {
            return;
        };
        let runs = mapping.memory.runs();
        for part in self.touched(domain, translated, runs, offset, len) {
            if let Some((start, (pool, _))) = part.slots.zip(self.pool()) {
                if bounce::push::<P, M, D, B>(pool, start, &mapping.memory, &part) {
                    self.counters.copied_in(part.len);
                }
            }
            if mapping.record.needs_caches {
                cache::after_cpu_wrote(&self.platform, part.memory());
            }
        }
    }
}
