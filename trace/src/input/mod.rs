//! From a file, a pipe or bytes in memory to lines or to a seekable image.

mod decompress;
mod lines;

pub use decompress::Compression;
pub(crate) use decompress::{Unpacked, fill, unpack};
pub(crate) use lines::{Lines, Next, input_error};
