//! Movable memory with owners, on a machine whose time is set by hand.

pub mod machine;
pub mod owners;
