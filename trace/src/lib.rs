//! Readers for what Linux records about DMA.
#![forbid(unsafe_code)]

pub mod log;
