//! The driver on an ITS that does what the architecture allows, when it hurts most.

mod early;
mod errors;
mod interrupts;
mod lockstep;
mod mutants;
mod rig;
mod sweep;
