//! What a running SMMU is used for, found in its registers and in memory.

use core::fmt;

use dmakit_addr::PhysAddr;
use dmakit_platform::Mmio;

use crate::spec::registers::{CR0, CR0_SMMUEN, STRTAB_BASE, STRTAB_BASE_CFG};
use crate::spec::ste::{self, Ste};

/// Address bits of a table's base, an entry's context pointer and a level-1 descriptor.
const ADDRESS: u64 = 0x000f_ffff_ffff_ffc0;

/// How a stream translates on an SMMU that runs, whoever brought it up: what a driver that takes
/// over after a crash may let live on, as [`Inherited`](crate::Inherited).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InUse {
    /// The stream's entry.
    pub entry: Ste,
    /// The ASID of its context, where the entry has stage 1.
    pub asid: Option<u16>,
    /// The VMID, where it has stage 2.
    pub vmid: Option<u16>,
}

/// A stream of which nothing can be inherited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InUseError {
    /// Translation is off, so no table is in use.
    Off,
    /// The table has no valid entry of the stream, or the entry no valid context.
    Invalid {
        /// The stream.
        stream: u32,
    },
    /// The stream has substreams, each with an ASID of its own.
    Substreams {
        /// The stream.
        stream: u32,
    },
    /// A table, or a context, in memory that is not given.
    Unreadable {
        /// The word.
        at: PhysAddr,
    },
}

impl fmt::Display for InUseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("the SMMU does not translate"),
            Self::Invalid { stream } => write!(f, "stream {stream:#x} has no valid entry"),
            Self::Substreams { stream } => write!(f, "stream {stream:#x} has substreams"),
            Self::Unreadable { at } => write!(f, "the earlier owner's table at {at} is not given"),
        }
    }
}

impl core::error::Error for InUseError {}

impl InUse {
    /// Follows a stream through the tables that the SMMU uses now (3.3), for
    /// [`Smmu::take_over`](crate::Smmu::take_over). `read` gives a word of the earlier owner's
    /// memory, which is only looked at; `None` where that may not be. Ten words at most. Does not
    /// sleep.
    ///
    /// The earlier owner's CPUs have stopped: nobody changes the tables meanwhile.
    ///
    /// # Errors
    /// [`InUseError`].
    pub fn read(
        regs: &impl Mmio,
        stream: u32,
        mut read: impl FnMut(PhysAddr) -> Option<u64>,
    ) -> Result<Self, InUseError> {
        if regs.read32(CR0) & CR0_SMMUEN == 0 {
            return Err(InUseError::Off);
        }
        let invalid = InUseError::Invalid { stream };
        let mut word = |at: u64| {
            let at = PhysAddr::new(at);
            read(at).ok_or(InUseError::Unreadable { at })
        };
        let base = regs.read64(STRTAB_BASE) & ADDRESS;
        let config = regs.read32(STRTAB_BASE_CFG);
        let (shift, split) = (config & 0x3f, config >> 6 & 0x1f);
        if u64::from(stream) >> shift != 0 {
            return Err(invalid);
        }
        let at = match config >> 16 & 0b11 {
            0 => base + u64::from(stream) * ste::BYTES,
            _ => {
                let level_1 = word(base + u64::from(stream >> split) * 8)?;
                let within = u64::from(stream) & ((1 << split) - 1);
                let span = level_1 & 0x1f;
                if span == 0 || within >> (span - 1) != 0 {
                    return Err(invalid);
                }
                (level_1 & ADDRESS) + within * ste::BYTES
            }
        };
        let mut entry = ste::ABORT;
        for (index, slot) in (0..).zip(&mut entry) {
            *slot = word(at + index * 8)?;
        }
        if entry[0] & 1 == 0 {
            return Err(invalid);
        }
        // Config: bit 0 for stage 1, bit 1 for stage 2, where bit 2 lets the stream through.
        let stages = match entry[0] >> 1 & 0b111 {
            config @ 0b100.. => config & 0b11,
            _ => 0,
        };
        let mut asid = None;
        if stages & 0b01 != 0 {
            if entry[0] >> 59 != 0 {
                return Err(InUseError::Substreams { stream });
            }
            let context = word(entry[0] & ADDRESS)?;
            if context >> 31 & 1 == 0 {
                return Err(invalid);
            }
            asid = Some((context >> 48) as u16);
        }
        let vmid = (stages & 0b10 != 0).then_some(entry[2] as u16);
        Ok(Self { entry, asid, vmid })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    extern crate alloc;

    use super::*;
    use alloc::collections::BTreeMap;

    /// Registers that hold what they are given.
    struct Regs(BTreeMap<u64, u64>);

    impl Mmio for Regs {
        fn read32(&self, offset: u64) -> u32 {
            self.read64(offset) as u32
        }

        fn read64(&self, offset: u64) -> u64 {
            self.0.get(&offset).copied().unwrap_or(0)
        }

        fn write32(&self, _offset: u64, _value: u32) {}

        fn write64(&self, _offset: u64, _value: u64) {}
    }

    #[test]
    fn what_an_unmodified_linux_driver_left_is_found_by_address() {
        // Linux 6.12.95 on arm64, out of a paused guest: stream 8, ASID 3, two levels.
        let table = [
            (STRTAB_BASE, 0x4000_0000_448e_4000),
            (STRTAB_BASE_CFG, 0x1_0210),
        ];
        let on = [(CR0, u64::from(CR0_SMMUEN))];
        let regs = Regs(table.into_iter().chain(on).collect());
        let entry = [0x4587_c00b, 0xd6, 0, 0, 0, 0, 0, 0];
        let mut memory = BTreeMap::from([
            (0x448e_4000, 0x7ac6_0009),
            (0x4587_c000, 0x0003_e204_c000_3510),
        ]);
        for (index, word) in (0_u64..).zip(entry) {
            memory.insert(0x7ac6_0000 + 8 * 64 + index * 8, word);
        }
        let read = |at: PhysAddr| memory.get(&at.raw()).copied();
        let expected = InUse {
            entry,
            asid: Some(3),
            vmid: None,
        };
        assert_eq!(InUse::read(&regs, 8, read), Ok(expected));
        let at = PhysAddr::new(0x7ac6_0000 + 9 * 64);
        assert_eq!(
            InUse::read(&regs, 9, read),
            Err(InUseError::Unreadable { at })
        );
        let stream = 1 << 16;
        assert_eq!(
            InUse::read(&regs, stream, read),
            Err(InUseError::Invalid { stream })
        );
        let zeroes = |_| Some(0);
        assert_eq!(
            InUse::read(&regs, 8, zeroes),
            Err(InUseError::Invalid { stream: 8 })
        );
        let regs = Regs(table.into());
        assert_eq!(InUse::read(&regs, 8, read), Err(InUseError::Off));
    }
}
