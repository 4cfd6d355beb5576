//! The smallest setting that serves a load.

pub mod its;
pub mod swiotlb;
