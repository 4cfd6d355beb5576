//! What the manual fixes: registers, their fields, commands.
//!
//! Layouts only, no algorithms. Names and sections are those of the Arm Generic Interrupt Controller
//! Architecture Specification, GIC architecture version 3 and 4, IHI 0069.

pub mod attributes;
pub mod command;
pub mod redistributor;
pub mod registers;
pub mod table;
