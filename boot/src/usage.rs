//! What a device holds of the stack's resources, and whether it gave all of it back.

use dmakit_dma::DeviceStats;

/// What is held at one moment.
#[derive(Clone, Copy, Default, Debug)]
pub struct Usage {
    /// Bytes of device addresses.
    pub addresses: u64,
    /// Page tables in the tree.
    pub tables: u64,
    /// Bytes of addresses that are lost until the hardware is reset.
    pub quarantined: u64,
    /// Bounce slots.
    pub slots: u64,
}

/// Says what a device did with memory, and what did not come back: `leaks=0` if everything did.
pub fn settle(stats: DeviceStats, before: Usage, after: Usage) -> Result<(), &'static str> {
    println!(
        "dma: mapped={} bounced={} copied_in={} copied_out={} coherent={} refused={}",
        stats.mapped,
        stats.bounced,
        stats.bytes_copied_in,
        stats.bytes_copied_out,
        stats.coherent_allocated,
        stats.failed.total(),
    );
    let held = [
        ("mappings", stats.live(), 0),
        ("lost mappings", stats.lost, 0),
        ("coherent blocks", stats.coherent_live(), 0),
        ("bytes of addresses", after.addresses, before.addresses),
        ("bytes of quarantine", after.quarantined, before.quarantined),
        ("page tables", after.tables, before.tables),
        ("bounce slots", after.slots, before.slots),
    ];
    let mut leaks = 0;
    for (what, after, before) in held {
        if after != before {
            println!("leaked: {after} {what}, and {before} before");
            leaks += 1;
        }
    }
    println!("leaks={leaks}");
    Ok(())
}
