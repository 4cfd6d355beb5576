//! Arm's 64-bit tables, VMSAv8-64 (Arm ARM DDI 0487, D8.3; SMMUv3 IHI 0070, 3.4).

use dmakit_addr::{Granule, PhysAddr};

use crate::{Access, Entry, Format, Geometry, GeometryError, Memory, Permissions};

/// Memory attributes that stage 1 entries index, as an SMMU's context descriptor or a CPU's MAIR
/// wants them: 0 normal uncached, 1 normal write-back, 2 device nGnRE.
pub const MAIR: u64 = 0x04_ff_44;

const VALID: u64 = 1;
/// At height 0 a leaf and above it a table; clear in a block.
const TABLE_OR_PAGE: u64 = 1 << 1;
const SHARE_OUTER: u64 = 0b10 << 8;
const SHARE_INNER: u64 = 0b11 << 8;
const ACCESSED: u64 = 1 << 10;
const CONTIGUOUS: u64 = 1 << 52;

const S1_INDEX_SHIFT: u32 = 2;
const S1_UNPRIVILEGED: u64 = 1 << 6;
const S1_READ_ONLY: u64 = 1 << 7;
const S1_NOT_GLOBAL: u64 = 1 << 11;
const S1_NO_EXECUTE: u64 = 0b11 << 53;

const S2_MEMORY_DEVICE: u64 = 0b0001 << 2;
const S2_MEMORY_UNCACHED: u64 = 0b0101 << 2;
const S2_MEMORY_CACHED: u64 = 0b1111 << 2;
const S2_READ: u64 = 1 << 6;
const S2_WRITE: u64 = 1 << 7;
const S2_NO_EXECUTE: u64 = 0b10 << 53;

/// Which translation stage the tables are for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Of a device's own addresses, tagged by ASID.
    One,
    /// Of a guest's physical addresses, tagged by VMID. It can say write-only.
    Two,
}

/// Whether the contiguous hint is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ContiguousHint {
    /// Every leaf stands for itself, so any granule can be unmapped alone.
    Never,
    /// Aligned groups say that hardware may cache them as one; they are unmapped whole.
    WhereAligned,
}

/// The format of Arm's tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lpae {
    geometry: Geometry,
    stage: Stage,
    hint: ContiguousHint,
}

impl Lpae {
    /// Tables of a stage: `input_bits` from 32 to 52 and `output_bits` up to 52 (above 48 only with
    /// 64 KiB granules). Stage 2 roots are concatenated where that saves a walk.
    ///
    /// # Errors
    /// [`GeometryError`] for a combination that the architecture does not have.
    pub fn new(
        stage: Stage,
        granule: Granule,
        input_bits: u32,
        output_bits: u32,
        hint: ContiguousHint,
    ) -> Result<Self, GeometryError> {
        let most = if granule == Granule::K64 { 52 } else { 48 };
        let known = [Granule::K4, Granule::K16, Granule::K64].contains(&granule);
        if !known || !(32..=most).contains(&input_bits) || output_bits > most {
            return Err(GeometryError {
                granule: granule.bytes(),
                input_bits,
                output_bits,
            });
        }
        let geometry = Geometry::new(granule, input_bits, output_bits, stage == Stage::Two)?;
        Ok(Self {
            geometry,
            stage,
            hint,
        })
    }

    /// The stage.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Arm's number for the level at which walks start.
    pub fn start_level(&self) -> u32 {
        3 - self.geometry.root_height()
    }

    #[inline]
    fn stage_one(permissions: Permissions) -> u64 {
        let (index, share) = match permissions.memory {
            Memory::Uncached => (0, SHARE_OUTER),
            Memory::Cached => (1, SHARE_INNER),
            Memory::Device => (2, SHARE_OUTER),
        };
        let mut bits = index << S1_INDEX_SHIFT | share | S1_NOT_GLOBAL;
        if permissions.access == Access::Read {
            bits |= S1_READ_ONLY;
        }
        if !permissions.privileged {
            bits |= S1_UNPRIVILEGED;
        }
        if !permissions.executable {
            bits |= S1_NO_EXECUTE;
        }
        bits
    }

    #[inline]
    fn stage_two(permissions: Permissions) -> u64 {
        let mut bits = match permissions.memory {
            Memory::Uncached => S2_MEMORY_UNCACHED | SHARE_OUTER,
            Memory::Cached => S2_MEMORY_CACHED | SHARE_INNER,
            Memory::Device => S2_MEMORY_DEVICE | SHARE_OUTER,
        };
        bits |= match permissions.access {
            Access::Read => S2_READ,
            Access::Write => S2_WRITE,
            Access::ReadWrite => S2_READ | S2_WRITE,
        };
        if !permissions.executable {
            bits |= S2_NO_EXECUTE;
        }
        bits
    }

    /// The address that an entry carries.
    #[inline]
    fn output(&self, entry: u64) -> PhysAddr {
        let granule = self.geometry.granule();
        let low = entry & ((1 << 48) - granule.bytes());
        let high = if granule == Granule::K64 {
            (entry >> 12 & 0xf) << 48
        } else {
            0
        };
        PhysAddr::new(low | high)
    }
}

impl Format for Lpae {
    #[inline]
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    #[inline]
    fn leaf(&self, height: u32, permissions: Permissions) -> u64 {
        let kind = if height == 0 {
            VALID | TABLE_OR_PAGE
        } else {
            VALID
        };
        let rest = match self.stage {
            Stage::One => Self::stage_one(permissions),
            Stage::Two => Self::stage_two(permissions),
        };
        kind | ACCESSED | rest
    }

    #[inline]
    fn address(&self, phys: PhysAddr) -> u64 {
        // Bits 51:48 of an address stand in 15:12, which only 64 KiB granules leave free.
        phys.raw() & ((1 << 48) - 1) | (phys.raw() >> 48) << 12
    }

    #[inline]
    fn table(&self, phys: PhysAddr) -> u64 {
        self.address(phys) | VALID | TABLE_OR_PAGE
    }

    #[inline]
    fn parse(&self, height: u32, entry: u64) -> Entry {
        match (entry & VALID != 0, entry & TABLE_OR_PAGE != 0, height) {
            (false, ..) => Entry::Absent,
            (true, true, 1..) => Entry::Table(self.output(entry)),
            (true, true, 0) | (true, false, 1..) => {
                Entry::Leaf(self.output(entry), entry & CONTIGUOUS != 0)
            }
            // Reserved: hardware faults.
            (true, false, 0) => Entry::Absent,
        }
    }

    #[inline]
    fn has_leaves(&self, height: u32) -> bool {
        match height {
            0 | 1 => true,
            2 => match self.geometry.granule() {
                Granule::K4 => true,
                // 4 TiB blocks came with 52-bit addresses.
                Granule::K64 => self.geometry.output_bits() > 48,
                _ => false,
            },
            _ => false,
        }
    }

    #[inline]
    fn contiguous(&self, height: u32) -> Option<(usize, u64)> {
        if self.hint == ContiguousHint::Never {
            return None;
        }
        // Arm ARM, table D8-92: entries in a contiguous group.
        let count = match (self.geometry.granule(), height) {
            (Granule::K4, 0..=2) => 16,
            (Granule::K16, 0) => 128,
            (Granule::K16, 1) => 32,
            (Granule::K64, 0 | 1) => 32,
            _ => return None,
        };
        Some((count, CONTIGUOUS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage_one() -> Lpae {
        Lpae::new(Stage::One, Granule::K4, 48, 44, ContiguousHint::Never).unwrap()
    }

    fn entry(format: &Lpae, height: u32, phys: u64, permissions: Permissions) -> u64 {
        format.leaf(height, permissions) | format.address(PhysAddr::new(phys))
    }

    #[test]
    fn entries_equal_those_an_unmodified_linux_driver_wrote() {
        // Linux 6.12.95 on arm64 behind an SMMUv3, read out of a paused guest.
        let format = stage_one();
        let doorbell = Permissions {
            access: Access::Write,
            memory: Memory::Device,
            privileged: false,
            executable: false,
        };
        assert_eq!(
            entry(&format, 0, 0x0809_0000, doorbell),
            0x0060_0000_0809_0e4b
        );
        assert_eq!(
            entry(&format, 0, 0x49ec_b000, Permissions::READ_WRITE),
            0x49ec_bf47
        );
        assert_eq!(
            entry(&format, 0, 0x49c6_3000, Permissions::READ),
            0x49c6_3fc7
        );
        assert_eq!(
            entry(&format, 1, 0x4640_0000, Permissions::READ),
            0x4640_0fc5
        );
        assert_eq!(format.table(PhysAddr::new(0x458a_4000)), 0x458a_4003);
    }

    #[test]
    fn high_address_bits_fold_into_low_ones_with_64k_granules() {
        let format = Lpae::new(Stage::One, Granule::K64, 52, 52, ContiguousHint::Never).unwrap();
        let phys = PhysAddr::new(0x000f_0000_0001_0000);
        assert_eq!(format.address(phys), 0x1_f000);
        let leaf = entry(&format, 0, phys.raw(), Permissions::READ);
        assert_eq!(format.parse(0, leaf), Entry::Leaf(phys, false));
        assert_eq!(format.parse(1, format.table(phys)), Entry::Table(phys));
        assert!(format.has_leaves(2));
    }

    #[test]
    fn combinations_that_the_architecture_lacks_are_refused() {
        let new = |granule, input, output| {
            Lpae::new(Stage::One, granule, input, output, ContiguousHint::Never).is_ok()
        };
        assert!(
            !new(Granule::K4, 52, 48) && !new(Granule::K4, 48, 52) && !new(Granule::K4, 31, 40)
        );
        assert!(!new(Granule::of_bytes(8192).unwrap(), 48, 48));
        assert!(new(Granule::K64, 52, 52) && new(Granule::K16, 48, 48));
    }
}
