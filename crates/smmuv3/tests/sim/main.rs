//! The driver on an SMMU that does what the architecture allows, when it hurts most.

mod acknowledge;
mod costs;
mod faults;
mod intruder;
mod migrate;
mod mutants;
mod recovery;
mod reset;
mod rig;
mod room;
mod shapes;
mod substreams;
mod take_over;
mod threshold;
