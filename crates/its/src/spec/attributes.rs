//! Memory attributes, which four kinds of register hold in two places (12.18, 12.11).

/// How the hardware reaches a table or queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// 0 not shareable, 1 inner, 2 outer.
    pub shareability: u8,
    /// Inner cacheability: 0 device memory, 1 not cacheable, 7 read and write allocate, write-back.
    pub inner: u8,
    /// Outer cacheability: 0 as the inner.
    pub outer: u8,
}

impl Attributes {
    /// Inner shareable, write-back: coherent with the CPUs, if the hardware agrees.
    pub const SHARED: Self = Self {
        shareability: 1,
        inner: 7,
        outer: 0,
    };

    /// Neither shared nor cached.
    pub const UNCACHED: Self = Self {
        shareability: 0,
        inner: 1,
        outer: 0,
    };

    /// Whether accesses look into the CPU's caches.
    pub const fn is_coherent(self) -> bool {
        self.shareability != 0 && self.inner > 1
    }
}

/// Where a register keeps its attributes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placement {
    inner: u32,
    outer: u32,
}

impl Placement {
    /// `GITS_BASER`, `GITS_CBASER`.
    pub const ITS: Self = Self {
        inner: 59,
        outer: 53,
    };

    /// `GICR_PROPBASER`, `GICR_PENDBASER`.
    pub const REDISTRIBUTOR: Self = Self {
        inner: 7,
        outer: 56,
    };

    /// The bits that hold attributes.
    pub const fn mask(self) -> u64 {
        7 << self.inner | 7 << self.outer | 0b11 << 10
    }

    /// Attributes as bits.
    pub const fn encode(self, attributes: Attributes) -> u64 {
        (attributes.inner as u64 & 7) << self.inner
            | (attributes.outer as u64 & 7) << self.outer
            | (attributes.shareability as u64 & 0b11) << 10
    }

    /// What a register says.
    pub const fn decode(self, register: u64) -> Attributes {
        Attributes {
            shareability: (register >> 10 & 0b11) as u8,
            inner: (register >> self.inner & 7) as u8,
            outer: (register >> self.outer & 7) as u8,
        }
    }
}
