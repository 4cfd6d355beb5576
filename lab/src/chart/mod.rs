//! Charts: vectors for the page, blocks for the terminal.
//!
//! The vector charts carry classes instead of colours, so that the page's
//! style sheet decides them for light and dark.

mod axis;
mod bars;
mod blocks;
mod curve;
mod occupancy;

pub use bars::{Bar, BarRow, bars, stacked};
pub use blocks::blocks;
pub use curve::{Curve, CurvePoint, CurveWords, curve};
pub use occupancy::{Band, Series, Words, occupancy};
