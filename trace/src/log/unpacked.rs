//! Logs are often kept packed.

use std::io::{self, BufRead, Read};

/// The text of `source`: plain, gzip or zstd, told by its first bytes.
///
/// # Errors
/// The source cannot be read, or its archive header is damaged.
pub fn unpacked(source: impl Read + Send + 'static) -> io::Result<impl BufRead + Send + 'static> {
    crate::input::unpack(Box::new(source)).map(|(text, _)| text)
}
