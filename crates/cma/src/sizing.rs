//! How large areas are where nobody said so.

/// Which of two sizes is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SizeChoice {
    /// The fixed number of bytes.
    Bytes,
    /// The percentage of memory.
    Percent,
    /// The lesser of both.
    Least,
    /// The greater of both.
    Greatest,
}

/// The size of the default area where no `cma=` says it, as Linux's build options put it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DefaultSize {
    /// Bytes.
    pub bytes: u64,
    /// Percent of memory.
    pub percent: u32,
    /// Which of them counts.
    pub choice: SizeChoice,
}

impl DefaultSize {
    /// No area unless a parameter asks for one: Linux's values for x86.
    pub const NONE: Self = Self {
        bytes: 0,
        percent: 0,
        choice: SizeChoice::Bytes,
    };

    /// The size where there are `memory_bytes` of memory: of the machine for the default area, of a
    /// node for an area of its own.
    pub fn of(&self, memory_bytes: u64) -> u64 {
        let share = u128::from(memory_bytes) * u128::from(self.percent.min(100)) / 100;
        // At most `memory_bytes`.
        let share = share as u64;
        match self.choice {
            SizeChoice::Bytes => self.bytes,
            SizeChoice::Percent => share,
            SizeChoice::Least => self.bytes.min(share),
            SizeChoice::Greatest => self.bytes.max(share),
        }
    }
}

impl Default for DefaultSize {
    /// 16 MiB; or, if one chooses so, 10 %: Linux's values for other machines than x86.
    fn default() -> Self {
        Self {
            bytes: 16 << 20,
            percent: 10,
            choice: SizeChoice::Bytes,
        }
    }
}
