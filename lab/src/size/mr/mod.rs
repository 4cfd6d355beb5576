//! What a memory region costs a device that keeps translations of its own.

mod churn;
mod text;

use std::path::PathBuf;

use serde::Serialize;

use crate::exit::Outcome;
use crate::output::{Closing, Confidence, Show, envelope};
use crate::quantity::{bytes, parse_size};
use churn::{BITS_MAX, Churn, Others, Outcome as Filled, Tries};

const PAGE: u64 = 4096;
/// One entry of a table of pages.
const ENTRY_BYTES: u64 = 8;
/// Where all is one piece there is no table: its address and its length.
const WHOLE_BYTES: u64 = 16;
const TABLE_BYTES: u64 = 4096;

/// Say what a memory region costs by alignment
///
/// A device that keeps translations of its own (an RDMA card) holds one entry
/// for each piece of a region; a region that is one aligned block needs 16
/// bytes. Says how often such blocks can be had from our address allocator
/// after others came and went at the given fill, and what the IOMMU behind it
/// holds instead.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dmakit size mr 100MB
  dmakit size mr 1G --iova 40 --leaf 4K,2M,1G --fill 95
  dmakit mr 100MB --json")]
pub struct SizeMrArgs {
    /// The region in bytes with K, M, G (binary) or KB, MB, GB
    #[arg(value_name = "SIZE", value_parser = parse_size)]
    pub size: u64,

    /// Bits of the device's addresses
    #[arg(long, value_name = "BITS", default_value_t = 48,
          value_parser = clap::value_parser!(u32).range(20..=52))]
    pub iova: u32,

    /// Sizes of the device's and the IOMMU's pages, powers of two
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = parse_size,
          default_value = "4K,64K,2M,1G")]
    pub leaf: Vec<u64>,

    /// How full the addresses are, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 90,
          value_parser = clap::value_parser!(u64).range(0..=99))]
    pub fill: u64,

    /// How often one of the others goes and another comes
    #[arg(long, value_name = "N", default_value_t = 20_000,
          value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub steps: u64,

    /// What everything random follows from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// Also write the answer as one self-contained page
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// What to answer.
pub struct Plan {
    args: SizeMrArgs,
}

/// The answer.
#[derive(Debug, Serialize)]
pub struct MrReport {
    pub bytes: u64,
    pub iova_bits: u32,
    /// Bits of the space that was tried.
    pub tried_bits: u32,
    pub fill_percent: u64,
    /// What neighbours of powers of two, and of any lengths, really filled on average.
    pub filled_percent: f64,
    pub filled_percent_any: f64,
    pub steps: u64,
    pub seed: u64,
    /// Ways to hold the region, the smallest pieces first; the last is one piece.
    pub device: Vec<Way>,
    /// What the IOMMU holds for the region, by the size of its leaves.
    pub iommu: Vec<Leaves>,
    pub notes: Vec<String>,
}

/// The region as aligned pieces of one size.
#[derive(Debug, Serialize)]
pub struct Way {
    /// Bytes and alignment of each piece.
    pub piece_bytes: u64,
    pub entries: u64,
    /// Translations that the device keeps.
    pub mapping_bytes: u64,
    /// Less than with the smallest pieces.
    pub saved_bytes: u64,
    /// How often that was tried, among each kind of neighbours.
    pub tries: u64,
    /// How often all pieces could be had, in percent, among neighbours of powers of two and of any
    /// lengths.
    /// `null` where it was not tried.
    pub chance_percent: Option<f64>,
    pub chance_percent_any: Option<f64>,
}

/// The region in the IOMMU.
#[derive(Debug, Serialize)]
pub struct Leaves {
    pub leaf_bytes: u64,
    pub leaves: u64,
    /// Of the tables that hold them.
    pub table_bytes: u64,
}

impl Plan {
    /// Checks what was typed.
    ///
    /// # Errors
    /// A region or leaf that is none.
    pub fn new(mut args: SizeMrArgs) -> anyhow::Result<Self> {
        anyhow::ensure!(
            args.size > 0 && args.size <= 1 << (args.iova - 1),
            "a region of {}: expected 1 byte to half of {} bits of addresses ({})",
            bytes(args.size),
            args.iova,
            bytes(1 << (args.iova - 1))
        );
        for leaf in &args.leaf {
            anyhow::ensure!(
                leaf.is_power_of_two() && (PAGE..=1 << 40).contains(leaf),
                "--leaf {leaf}: expected a power of two from 4K to 1T"
            );
        }
        args.leaf.sort_unstable();
        args.leaf.dedup();
        Ok(Self { args })
    }

    /// Counts, tries, answers.
    pub fn run(&self, show: Show) -> anyhow::Result<(Vec<u8>, Outcome)> {
        let report = self.report()?;
        let closing = self.closing(&report);
        if let Some(path) = &self.args.html {
            crate::page::write(path, &text::page(&report, &closing))?;
        }
        let answer = match show {
            Show::Json => envelope("size mr", &report, &closing)?,
            Show::Text(look) => text::render(&report, &closing, look).into_bytes(),
        };
        Ok((answer, Outcome::Answered))
    }

    fn report(&self) -> anyhow::Result<MrReport> {
        let args = &self.args;
        let whole = args.size.max(PAGE).next_power_of_two();
        let mut pieces: Vec<u64> = args.leaf.iter().copied().filter(|l| *l < whole).collect();
        pieces.push(whole);
        let shapes: Vec<(u64, u64)> = pieces
            .iter()
            .map(|piece| (*piece.min(&args.size), args.size.div_ceil(*piece)))
            .collect();
        let tried_bits = args.iova.min(BITS_MAX.max(whole.ilog2() + 6));
        let tries = |others| {
            Churn {
                bits: tried_bits,
                fill_percent: args.fill,
                steps: args.steps,
                seed: args.seed,
                others,
            }
            .run(&shapes)
        };
        let (powers, any) = (tries(Others::Powers)?, tries(Others::Any)?);
        let most = mapping_bytes(shapes[0].1);
        let device = pieces
            .iter()
            .zip(&shapes)
            .zip(powers.tries.iter().zip(&any.tries));
        Ok(MrReport {
            bytes: args.size,
            iova_bits: args.iova,
            tried_bits,
            fill_percent: args.fill,
            filled_percent: powers.filled_percent,
            filled_percent_any: any.filled_percent,
            steps: args.steps,
            seed: args.seed,
            device: device
                .map(|((piece, (_, entries)), (powers, any))| Way {
                    piece_bytes: *piece,
                    entries: *entries,
                    mapping_bytes: mapping_bytes(*entries),
                    saved_bytes: most.saturating_sub(mapping_bytes(*entries)),
                    tries: powers.tried,
                    chance_percent: percent(*powers),
                    chance_percent_any: percent(*any),
                })
                .collect(),
            iommu: args
                .leaf
                .iter()
                .map(|leaf| leaves(args.size, *leaf))
                .collect(),
            notes: notes(args, tried_bits, [&powers, &any]),
        })
    }

    fn closing(&self, report: &MrReport) -> Closing {
        let args = &self.args;
        let whole = report.device.last();
        let align = whole.map_or(PAGE, |way| way.piece_bytes);
        let mut reproduce = format!("dmakit size mr {}", args.size);
        let leaves: Vec<String> = args.leaf.iter().map(u64::to_string).collect();
        reproduce.push_str(&format!(
            " --iova {} --leaf {} --fill {} --steps {} --seed {}",
            args.iova,
            leaves.join(","),
            args.fill,
            args.steps,
            args.seed
        ));
        Closing {
            setting: format!("align the region's addresses to {}", bytes(align)),
            confidence: Confidence::Modelled,
            why: text::why(report),
            reproduce,
        }
    }
}

fn mapping_bytes(entries: u64) -> u64 {
    match entries {
        1 => WHOLE_BYTES,
        entries => entries * ENTRY_BYTES,
    }
}

/// Tables of 512 entries; of leaves above, as many as their table has.
fn leaves(size: u64, leaf: u64) -> Leaves {
    let leaves = size.div_ceil(leaf);
    Leaves {
        leaf_bytes: leaf,
        leaves,
        table_bytes: leaves.div_ceil(TABLE_BYTES / ENTRY_BYTES) * TABLE_BYTES,
    }
}

/// Rounded down: a try that failed shows.
fn percent(tries: Tries) -> Option<f64> {
    let hundredths = (tries.found * 10_000).checked_div(tries.tried)?;
    Some(hundredths as f64 / 100.0)
}

fn notes(args: &SizeMrArgs, tried_bits: u32, filled: [&Filled; 2]) -> Vec<String> {
    let mut notes = vec![
        "bytes are exact; the chance is that of this project's address allocator, with neighbours \
         that come and go at random, each power of two as often as any other"
            .to_owned(),
        "a device needs one entry of 8 bytes for each piece, and 16 bytes, an address and a \
         length, where the region is one piece"
            .to_owned(),
        "the IOMMU uses a leaf only where memory is contiguous and aligned as far: 4 KiB always, \
         larger ones with huge pages"
            .to_owned(),
    ];
    let [powers, any] = filled.map(|filled| filled.filled_percent);
    notes.push(format!(
        "on average {powers} % were in use among neighbours of powers of two and {any} % among odd \
         ones, whose lengths do not pack: some found no room"
    ));
    if tried_bits < args.iova {
        notes.push(format!(
            "{} bits of addresses are tried as {tried_bits}: at the same fill a larger space has \
             more blocks of every size, so the chance there is no lower",
            args.iova
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 MB as the mailing list has it: 200 K of translations, or 16 bytes.
    #[test]
    fn a_hundred_megabytes_are_sixteen_bytes_when_aligned() {
        assert_eq!(mapping_bytes(100_000_000_u64.div_ceil(4096)), 195_320);
        assert_eq!(mapping_bytes(1), 16);
    }

    #[test]
    fn leaves_fill_whole_tables() {
        let small = leaves(100_000_000, 4096);
        assert_eq!((small.leaves, small.table_bytes), (24_415, 48 * 4096));
        assert_eq!(leaves(100_000_000, 2 << 20).table_bytes, 4096);
    }
}
