//! What is typed.

use crate::quantity::parse_size;

/// Find the tables that an interrupt translation service needs
///
/// From the feature register of a GICv3 ITS: bytes of its device table, flat
/// and in two levels, the device IDs that a page allocator's largest run would
/// leave, and what to reserve. Exits 1 if no table serves so many IDs, 2 if the
/// ITS has fewer.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dmakit size its --typer 0x1f00026fb1
  dmakit size its --typer 0x1f00026fb1 --devices 65536 --flat-only
  dmakit its --typer 0x1f0001efb1 --page 64K --node 1 --json")]
pub struct SizeItsArgs {
    /// GITS_TYPER, as the ITS says it
    #[arg(long, value_name = "REGISTER", value_parser = parse_register)]
    pub typer: u64,

    /// Device IDs to serve, 0 up to this; all that the ITS has if not given
    #[arg(long, value_name = "N", value_parser = parse_register)]
    pub devices: Option<u64>,

    /// Bytes of an entry of the device table: Entry_Size of its GITS_BASER, plus one
    #[arg(long, value_name = "BYTES", default_value_t = 8,
          value_parser = clap::value_parser!(u64).range(1..=32))]
    pub entry: u64,

    /// The largest page of tables that the ITS takes: 4K, 16K or 64K
    #[arg(long, value_name = "SIZE", default_value = "64K", value_parser = parse_size)]
    pub its_page: u64,

    /// Page size of the page allocator
    #[arg(long, value_name = "SIZE", default_value = "4K", value_parser = parse_size)]
    pub page: u64,

    /// Largest order of the page allocator
    #[arg(long, value_name = "N", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(0..=24))]
    pub max_order: u32,

    /// The ITS has no two-level tables
    #[arg(long)]
    pub flat_only: bool,

    /// The node that the ITS stands on
    #[arg(long, value_name = "N")]
    pub node: Option<u16>,
}

fn parse_register(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("'{text}' is not a number, expected 0x… or decimal"))
}
