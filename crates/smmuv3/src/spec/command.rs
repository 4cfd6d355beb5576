//! Commands (chapter 4): 16 bytes each.

/// One command, as two little-endian words.
pub type Command = [u64; 2];

/// The opcode of a command.
pub const fn opcode(command: Command) -> u8 {
    command[0] as u8
}

/// Forgets everything known of all streams (`CMD_CFGI_ALL`, the widest `CMD_CFGI_STE_RANGE`).
pub const CFGI_ALL: Command = [0x04, 31];

/// Forgets all translations of non-secure EL1 (`CMD_TLBI_NSNH_ALL`).
pub const TLBI_NSNH_ALL: Command = [0x30, 0];

/// The largest `NUM` that a range invalidation can carry, plus one.
pub const RANGE_NUM_MAX: u64 = 32;

/// Forgets what is known of a stream's table entry (`CMD_CFGI_STE`), and only that (leaf).
pub const fn cfgi_ste(stream: u32) -> Command {
    [0x03 | (stream as u64) << 32, 1]
}

/// Forgets what is known of a stream's table entry and of the level-1 descriptor above it.
pub const fn cfgi_ste_and_table(stream: u32) -> Command {
    [0x03 | (stream as u64) << 32, 0]
}

/// Forgets what is known of a stream's context descriptor (`CMD_CFGI_CD`), and only that (leaf).
pub const fn cfgi_cd(stream: u32, substream: u32) -> Command {
    [0x05 | (substream as u64) << 12 | (stream as u64) << 32, 1]
}

/// As [`cfgi_cd`], and what is known of the level-1 entry above it.
pub const fn cfgi_cd_and_table(stream: u32, substream: u32) -> Command {
    [cfgi_cd(stream, substream)[0], 0]
}

/// Forgets what is known of all context descriptors of a stream (`CMD_CFGI_CD_ALL`).
pub const fn cfgi_cd_all(stream: u32) -> Command {
    [0x06 | (stream as u64) << 32, 0]
}

/// Forgets all translations of an ASID (`CMD_TLBI_NH_ASID`).
pub const fn tlbi_nh_asid(asid: u16) -> Command {
    [0x11 | (asid as u64) << 48, 0]
}

/// Forgets all translations of a VMID, both stages (`CMD_TLBI_S12_VMALL`).
pub const fn tlbi_s12_vmall(vmid: u16) -> Command {
    [0x28 | (vmid as u64) << 32, 0]
}

/// Which translations of a tag are forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TlbiRange {
    /// The first address, a multiple of the granule.
    pub address: u64,
    /// `num` x 2^`scale` granules, `num` from 1 to 32; without range invalidation both stand for
    /// one leaf.
    pub num: u32,
    /// See `num`.
    pub scale: u32,
    /// Arm's level of all leaves in the range, or 0 where they differ or that is unknown.
    pub level_hint: u32,
    /// (granule shift - 10) / 2, or 0 for an invalidation that is not by range.
    pub granule: u32,
    /// Only leaves: caches of walks through intermediate tables stay.
    pub leaf: bool,
}

impl TlbiRange {
    const fn words(self, opcode: u64) -> Command {
        let num = self.num.saturating_sub(1) as u64;
        [
            opcode | num << 12 | (self.scale as u64) << 20,
            self.address
                | (self.leaf as u64)
                | (self.level_hint as u64) << 8
                | (self.granule as u64) << 10,
        ]
    }

    /// Of an ASID (`CMD_TLBI_NH_VA`).
    pub const fn of_asid(self, asid: u16) -> Command {
        let words = self.words(0x12);
        [words[0] | (asid as u64) << 48, words[1]]
    }

    /// Of a VMID's stage 2 (`CMD_TLBI_S2_IPA`).
    pub const fn of_vmid(self, vmid: u16) -> Command {
        let words = self.words(0x2a);
        [words[0] | (vmid as u64) << 32, words[1]]
    }
}

/// Completes when everything before it has taken effect (`CMD_SYNC`), and says so by the consumer
/// index alone.
pub const SYNC: Command = [0x46 | SYNC_SHARE_INNER | SYNC_WRITE_BACK, 0];

const SYNC_SHARE_INNER: u64 = 0b11 << 22;
const SYNC_WRITE_BACK: u64 = 0xf << 24;

/// A sync that writes `data` to `address` when it completes.
pub const fn sync_with_message(address: u64, data: u32) -> Command {
    [
        0x46 | 1 << 12 | SYNC_SHARE_INNER | SYNC_WRITE_BACK | (data as u64) << 32,
        address & !3,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_equal_those_an_unmodified_linux_driver_queued() {
        // Linux 6.12.95 on arm64, read out of a paused guest's ring. Its sync also asks for an
        // event to waiting CPUs (CS = 2), which is a choice.
        assert_eq!(CFGI_ALL, [0x4, 0x1f]);
        assert_eq!(TLBI_NSNH_ALL, [0x30, 0]);
        assert_eq!(tlbi_nh_asid(1), [0x0001_0000_0000_0011, 0]);
        assert_eq!(cfgi_cd(0x10, 0), [0x0000_0010_0000_0005, 1]);
        assert_eq!(cfgi_ste(0x10), [0x0000_0010_0000_0003, 1]);
        assert_eq!(SYNC[0] | 2 << 12, 0x0fc0_2046);
    }
}
