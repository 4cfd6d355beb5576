//! Which kernel's rules are modelled.

use std::fmt;

/// The rules of one Linux version and configuration.
///
/// Sources: the software IO TLB of 6.1.y and 6.12.y as their documentation and behaviour show it;
/// each rule is checked against recordings of that kernel (see the crate's tests).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Engine {
    /// 6.1.y: strides doubled for a page or more, no padding slots, no high-water counter.
    Linux6_1,
    /// 6.12.y with one static pool.
    Linux6_12,
    /// 6.12.y built with `CONFIG_SWIOTLB_DYNAMIC`: grown and transient pools.
    Linux6_12Dynamic,
}

impl Engine {
    /// Every engine, oldest first.
    pub const ALL: [Self; 3] = [Self::Linux6_1, Self::Linux6_12, Self::Linux6_12Dynamic];

    /// The name on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Linux6_1 => "linux-6.1",
            Self::Linux6_12 => "linux-6.12",
            Self::Linux6_12Dynamic => "linux-6.12-dynamic",
        }
    }

    /// The engine of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|engine| engine.name() == name)
    }

    /// The engine whose rules are nearest to a kernel release such as `6.1.0-50-amd64`.
    ///
    /// The rules changed in 6.9 (alignment) and 6.10 (padding), so everything before counts as
    /// 6.1 and everything from there on as 6.12. `None` when the text has no version in it.
    pub fn for_release(release: &str, has_dynamic_pools: bool) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        let major: u32 = numbers.next()?.parse().ok()?;
        let minor: u32 = numbers.next()?.parse().ok()?;
        Some(match (major, minor) {
            (..6, _) | (6, ..9) => Self::Linux6_1,
            _ if has_dynamic_pools => Self::Linux6_12Dynamic,
            _ => Self::Linux6_12,
        })
    }

    /// Whether the kernel keeps a high-water counter in debugfs (6.4 and later).
    pub const fn keeps_high_water(self) -> bool {
        !matches!(self, Self::Linux6_1)
    }

    /// Whether pools are added while the machine runs.
    pub const fn grows(self) -> bool {
        matches!(self, Self::Linux6_12Dynamic)
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
