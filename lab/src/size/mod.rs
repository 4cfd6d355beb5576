//! The smallest setting that serves a load.

pub mod swiotlb;
