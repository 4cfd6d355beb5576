//! Who writes and who reads during a transfer.

use core::fmt;

/// Which way bytes move while a device owns a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// The device only reads.
    ToDevice,
    /// The device only writes.
    FromDevice,
    /// The device does both.
    Bidirectional,
}

impl Direction {
    /// Whether the device may read, so what the CPU wrote must have reached memory first.
    #[inline]
    pub const fn device_reads(self) -> bool {
        matches!(self, Self::ToDevice | Self::Bidirectional)
    }

    /// Whether the device may write, so the CPU must look at memory afresh afterwards.
    #[inline]
    pub const fn device_writes(self) -> bool {
        matches!(self, Self::FromDevice | Self::Bidirectional)
    }

    /// The spelling of Linux's traces and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ToDevice => "TO_DEVICE",
            Self::FromDevice => "FROM_DEVICE",
            Self::Bidirectional => "BIDIRECTIONAL",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A [`Direction`] as a type, so that a sync the wrong way does not compile.
pub trait DirectionType: sealed::Sealed + Send + Sync + 'static {
    /// The direction as a value.
    const DIRECTION: Direction;
}

/// A direction in which the device writes, so the CPU has something to read afterwards.
pub trait ReadableByCpu: DirectionType {}

/// A direction in which the device reads, so what the CPU writes matters to it.
pub trait WritableByCpu: DirectionType {}

/// The device only reads.
#[derive(Clone, Copy, Debug)]
pub enum ToDevice {}
/// The device only writes.
#[derive(Clone, Copy, Debug)]
pub enum FromDevice {}
/// The device reads and writes.
#[derive(Clone, Copy, Debug)]
pub enum Bidirectional {}

impl sealed::Sealed for ToDevice {}
impl sealed::Sealed for FromDevice {}
impl sealed::Sealed for Bidirectional {}

impl DirectionType for ToDevice {
    const DIRECTION: Direction = Direction::ToDevice;
}
impl DirectionType for FromDevice {
    const DIRECTION: Direction = Direction::FromDevice;
}
impl DirectionType for Bidirectional {
    const DIRECTION: Direction = Direction::Bidirectional;
}

impl ReadableByCpu for FromDevice {}
impl ReadableByCpu for Bidirectional {}
impl WritableByCpu for ToDevice {}
impl WritableByCpu for Bidirectional {}
