//! What this project's own stack writes down beyond Linux's events.

use dmakit_addr::{DmaAddr, PhysAddr};

use super::body::{Vocabulary, device};
use super::fields::{Expected, Fields, decimal};
use crate::{Stage, Step};

const PEER: Expected = "peer= in decimal";

pub(super) fn parse(
    name: &str,
    mut fields: Fields<'_>,
    words: &mut Vocabulary,
) -> Result<Stage, Expected> {
    let device = device(&mut fields, words)?;
    let direction = fields.direction()?;
    let dma = DmaAddr::new(fields.hex("dma_addr", "dma_addr= in hexadecimal")?);
    let size = fields.decimal("size", "size= in decimal")?;
    let step = match name {
        "dma_iova_reserve" => Step::Reserve,
        "dma_iova_link" => {
            let phys = phys(&mut fields)?;
            let peer = fields
                .optional("peer")
                .map(|peer| decimal(peer).ok_or(PEER));
            let peer = peer.transpose()?;
            Step::Link { phys, peer }
        }
        "dma_iova_unlink" => Step::Unlink,
        "dma_iova_withhold" => Step::Withhold,
        "dma_iova_readmit" => Step::Readmit {
            phys: phys(&mut fields)?,
        },
        "dma_map_peer" => Step::MapPeer {
            phys: phys(&mut fields)?,
            peer: fields.decimal("peer", PEER)?,
        },
        "dma_unmap_peer" => Step::UnmapPeer {
            peer: fields.decimal("peer", PEER)?,
        },
        _ => Step::Destroy,
    };
    Ok(Stage {
        device,
        direction,
        dma,
        size,
        step,
    })
}

fn phys(fields: &mut Fields<'_>) -> Result<PhysAddr, Expected> {
    let phys = fields.hex("phys_addr", "phys_addr= in hexadecimal")?;
    Ok(PhysAddr::new(phys))
}
