//! Compressed parts of a version 7 file.

use std::io::Read;

use flate2::read::ZlibDecoder;
use ruzstd::decoding::FrameDecoder;

use crate::{Malformed, Position, TraceError};

/// What a file's parts are compressed with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Codec {
    None,
    Zlib,
    Zstd,
}

impl Codec {
    pub(crate) fn by_name(name: &str) -> Option<Self> {
        match name {
            "none" | "" => Some(Self::None),
            "zlib" => Some(Self::Zlib),
            "zstd" => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// The largest part that is believed; kernels' symbol tables are a tenth of this.
const PART_BYTES_MAX: u64 = 1 << 28;

/// The `unpacked` bytes inside.
pub(crate) fn decompress(
    codec: Codec,
    packed: &[u8],
    unpacked: u64,
    position: Position,
) -> Result<Vec<u8>, TraceError> {
    let damaged = |found: &str| {
        TraceError::Malformed(Malformed::new(
            position,
            "a compressed part of the stated size",
            found,
        ))
    };
    let size = usize::try_from(unpacked).ok();
    let size = size.filter(|_| unpacked <= PART_BYTES_MAX);
    let size = size.ok_or_else(|| damaged("a size above 256 MiB"))?;
    // The output grows with what really comes, not with what a damaged size says.
    let mut out = Vec::new();
    let limit = unpacked + 1;
    let failed = match codec {
        Codec::None => return Err(damaged("compression in a file without a codec")),
        Codec::Zlib => ZlibDecoder::new(packed)
            .take(limit)
            .read_to_end(&mut out)
            .is_err(),
        Codec::Zstd => {
            let mut packed = packed;
            let mut decoder = FrameDecoder::new();
            match decoder.init(&mut packed) {
                Ok(()) => Zstd { decoder, packed }
                    .take(limit)
                    .read_to_end(&mut out)
                    .is_err(),
                Err(_) => true,
            }
        }
    };
    if failed || out.len() != size {
        return Err(damaged("damage"));
    }
    Ok(out)
}

struct Zstd<'a> {
    decoder: FrameDecoder,
    packed: &'a [u8],
}

impl Read for Zstd<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        use ruzstd::decoding::BlockDecodingStrategy::UptoBytes;
        while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
            self.decoder
                .decode_blocks(&mut self.packed, UptoBytes(out.len()))
                .map_err(std::io::Error::other)?;
        }
        self.decoder.read(out)
    }
}
