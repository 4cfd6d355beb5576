//! A stream into a file, packed on the way.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};

use ruzstd::encoding::{CompressionLevel, FrameCompressor};

use super::Packing;

impl Packing {
    /// What its files' names end with.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Zstd => ".txt.zst",
            Self::Plain => ".txt",
        }
    }

    /// Copies all of `source` into `file`.
    pub fn pack(self, source: &mut impl Read, file: File) -> io::Result<()> {
        match self {
            Self::Plain => {
                let mut file = file;
                io::copy(source, &mut file)?;
                Ok(())
            }
            Self::Zstd => zstd(source, file),
        }
    }
}

/// The compressor knows no errors, only panics: they are kept from it and reported afterwards. The
/// first one ends the copy.
fn zstd(source: &mut impl Read, file: File) -> io::Result<()> {
    let failure = RefCell::new(None);
    let mut out = BufWriter::new(file);
    let mut compressor = FrameCompressor::new(CompressionLevel::Fastest);
    compressor.set_source(Enduring {
        inner: source,
        failure: &failure,
    });
    compressor.set_drain(Enduring {
        inner: &mut out,
        failure: &failure,
    });
    compressor.compress();
    drop(compressor);
    failure.into_inner().map_or(Ok(()), Err)?;
    out.flush()
}

/// A reader that ends, and a writer that swallows, after the first error of either.
struct Enduring<'a, T> {
    inner: &'a mut T,
    failure: &'a RefCell<Option<io::Error>>,
}

impl<T> Enduring<'_, T> {
    fn has_failed(&self) -> bool {
        self.failure.borrow().is_some()
    }

    fn fail(&self, error: io::Error) {
        self.failure.borrow_mut().get_or_insert(error);
    }
}

impl<R: Read> Read for Enduring<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.has_failed() {
            return Ok(0);
        }
        Ok(self.inner.read(out).unwrap_or_else(|error| {
            self.fail(error);
            0
        }))
    }
}

impl<W: Write> Write for Enduring<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.has_failed() {
            if let Err(error) = self.inner.write_all(bytes) {
                self.fail(error);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut text = Vec::new();
        let mut state = 7_u64;
        for line in 0..40_000_u64 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            writeln!(
                text,
                "fio-{line} [000] dma_addr={:x} size=4096",
                state >> 40
            )
            .unwrap();
        }
        for packing in [Packing::Zstd, Packing::Plain] {
            let path = folder.path().join(packing.ending());
            let file = File::create(&path).unwrap();
            packing.pack(&mut text.as_slice(), file).unwrap();
            let read = match packing {
                Packing::Plain => std::fs::read(&path).unwrap(),
                Packing::Zstd => {
                    let file = File::open(&path).unwrap();
                    let mut read = Vec::new();
                    let decoder = ruzstd::decoding::StreamingDecoder::new(file);
                    decoder.unwrap().read_to_end(&mut read).unwrap();
                    read
                }
            };
            assert!(read == text, "{packing:?}");
        }
    }

    #[test]
    fn an_error_of_the_source_ends_the_copy_and_is_told() {
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("gone"))
            }
        }
        let folder = tempfile::tempdir().unwrap();
        for packing in [Packing::Zstd, Packing::Plain] {
            let file = File::create(folder.path().join("out")).unwrap();
            let error = packing.pack(&mut Failing, file).unwrap_err();
            assert_eq!(error.to_string(), "gone");
        }
    }
}
