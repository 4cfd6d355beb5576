//! The shape of a tree of tables.

use core::fmt;

use dmakit_addr::Granule;

/// How a tree of tables divides its input addresses.
///
/// Tables are counted by *height*: 0 is the table of single granules, the root is highest. (Arm
/// counts levels the other way: level = 3 - height.)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    granule: Granule,
    input_bits: u32,
    output_bits: u32,
    root_height: u32,
    root_entries: usize,
}

/// A shape that no tree has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GeometryError {
    /// The granule asked for, in bytes.
    pub granule: u64,
    /// Input address bits asked for.
    pub input_bits: u32,
    /// Output address bits asked for.
    pub output_bits: u32,
}

impl fmt::Display for GeometryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            granule,
            input_bits,
            output_bits,
        } = self;
        write!(
            f,
            "no table has {granule}-byte granules, {input_bits} input and {output_bits} output bits"
        )
    }
}

impl core::error::Error for GeometryError {}

impl Geometry {
    /// Tables of one granule with 8-byte entries, as many heights as `input_bits` need.
    ///
    /// With `concatenated`, up to 16 root tables lie side by side where that saves a height.
    ///
    /// # Errors
    /// [`GeometryError`] for fewer input bits than a granule has, or more than four heights hold.
    pub(crate) fn new(
        granule: Granule,
        input_bits: u32,
        output_bits: u32,
        concatenated: bool,
    ) -> Result<Self, GeometryError> {
        let refused = GeometryError {
            granule: granule.bytes(),
            input_bits,
            output_bits,
        };
        let per_height = granule.shift() - 3;
        if input_bits <= granule.shift() || output_bits <= granule.shift() {
            return Err(refused);
        }
        let index_bits = input_bits - granule.shift();
        let mut heights = index_bits.div_ceil(per_height);
        let root_bits = index_bits - (heights - 1) * per_height;
        let mut root_entries = 1_usize << root_bits;
        if concatenated && heights > 1 && root_bits <= 4 {
            heights -= 1;
            root_entries = 1 << (root_bits + per_height);
        }
        if heights > 4 {
            return Err(refused);
        }
        Ok(Self {
            granule,
            input_bits,
            output_bits,
            root_height: heights - 1,
            root_entries,
        })
    }

    /// The granule.
    pub fn granule(&self) -> Granule {
        self.granule
    }

    /// How many bits an input address has.
    pub fn input_bits(&self) -> u32 {
        self.input_bits
    }

    /// How many bits an output address has.
    pub fn output_bits(&self) -> u32 {
        self.output_bits
    }

    /// The height of the root.
    pub fn root_height(&self) -> u32 {
        self.root_height
    }

    /// Entries of the root: more than a table's where several lie side by side.
    pub fn root_entries(&self) -> usize {
        self.root_entries
    }

    /// Entries of every other table.
    #[inline]
    pub fn entries(&self) -> usize {
        1 << self.index_bits()
    }

    /// log2 of the bytes that one entry at `height` maps.
    #[inline]
    pub fn shift(&self, height: u32) -> u32 {
        self.granule.shift() + height * self.index_bits()
    }

    /// Bytes that one entry at `height` maps.
    #[inline]
    pub fn span(&self, height: u32) -> u64 {
        1 << self.shift(height)
    }

    /// Which entry of a table at `height` an input address falls into.
    #[inline]
    pub(crate) fn index(&self, address: u64, height: u32) -> usize {
        let entries = if height == self.root_height {
            self.root_entries
        } else {
            self.entries()
        };
        (address >> self.shift(height)) as usize & (entries - 1)
    }

    #[inline]
    fn index_bits(&self) -> u32 {
        self.granule.shift() - 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heights_and_roots_are_those_of_the_architecture() {
        // (granule, input bits, concatenated) -> (root height, root entries); Arm ARM D8.2.
        for (granule, bits, concatenated, height, entries) in [
            (Granule::K4, 48, false, 3, 512),
            (Granule::K4, 39, false, 2, 512),
            (Granule::K4, 32, false, 2, 4),
            (Granule::K16, 48, false, 3, 2),
            (Granule::K64, 48, false, 2, 64),
            (Granule::K64, 52, false, 2, 1024),
            (Granule::K4, 40, true, 2, 1024),
            (Granule::K4, 44, true, 3, 32),
            (Granule::K16, 48, true, 2, 4096),
        ] {
            let shape = Geometry::new(granule, bits, 48, concatenated).unwrap();
            assert_eq!(
                (shape.root_height(), shape.root_entries()),
                (height, entries),
                "{bits}"
            );
        }
    }

    #[test]
    fn a_shape_without_a_tree_is_refused() {
        assert!(Geometry::new(Granule::K4, 12, 48, false).is_err());
        assert!(Geometry::new(Granule::K4, 49, 48, false).is_err());
        assert!(Geometry::new(Granule::K4, 48, 12, false).is_err());
    }
}
