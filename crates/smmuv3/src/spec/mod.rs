//! What the manual fixes: registers, table entries, commands, event records.
//!
//! Layouts only, no algorithms. Names and sections are those of the Arm SMMU Architecture
//! Specification, IHI 0070, version 3.

pub mod cd;
pub mod command;
pub mod event;
pub mod registers;
pub mod ste;
