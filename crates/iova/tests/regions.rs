//! Large regions of memory, each to be one entry of a device's own table: the space must have a
//! whole aligned block for them however long others came and went.
//!
//! `DMAKIT_STEPS` sets the number of steps, `DMAKIT_SEED` the first seed.

use dmakit_addr::{DmaMask, Granule, Iova, IovaRange};
use dmakit_iova::{CpuCache, Policy, Request, Reservation, Space};
use dmakit_platform::host::HostPlatform;
use dmakit_platform::{CpuSlot, Platform};

const APERTURE: u64 = 1 << 40;
const FILL_PERCENT: u64 = 90;
/// 100 MB, which aligned to 128 MiB is one entry.
const REGION: u64 = 100_000_000;
const ALIGN: u64 = 128 << 20;
/// Others: powers of two from 4 KiB to 512 MiB, each as often as any other.
const ORDERS: u64 = 18;

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) * n) >> 32
    }

    /// A power of two.
    fn size(&mut self) -> u64 {
        4096 << self.below(ORDERS)
    }
}

fn variable(name: &str, default: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn nearly_every_region_finds_an_aligned_block() {
    let (steps, seed) = (
        variable("DMAKIT_STEPS", 100_000),
        variable("DMAKIT_SEED", 1),
    );
    let platform = HostPlatform::new(1);
    let cpu = platform.enter_cpu();
    let aperture = IovaRange::new(Iova::new(0), APERTURE).unwrap();
    let caches = [CpuSlot::<CpuCache>::default()];
    let space = Space::<HostPlatform, _>::new(Granule::K4, aperture, Policy::TopDown, caches);
    let space = space.unwrap();
    let request = |len, align| Request {
        len,
        align,
        limit: DmaMask::ALL,
    };
    let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut held: Vec<Reservation> = Vec::new();
    let (mut used, mut asked, mut found, mut refused) = (0, 0_u64, 0_u64, 0_u64);
    let most = APERTURE / 100 * FILL_PERCENT;
    for step in 0..steps {
        // Up to the fill, then one goes for each that comes.
        while used < most {
            space.maintain().unwrap();
            let len = rng.size();
            match space.alloc(&cpu, &request(len, 1)) {
                Ok(reservation) => {
                    used += reservation.range().len();
                    held.push(reservation);
                }
                Err(_) => {
                    refused += 1;
                    break;
                }
            }
        }
        let victim = rng.below(held.len() as u64) as usize;
        let gone = held.swap_remove(victim);
        used -= gone.range().len();
        space.free(&cpu, gone);
        space.maintain().unwrap();
        if step % 10 == 0 {
            asked += 1;
            if let Ok(region) = space.alloc(&cpu, &request(REGION, ALIGN)) {
                assert_eq!(region.range().start().raw() % ALIGN, 0);
                found += 1;
                space.free(&cpu, region);
            }
        }
    }
    println!(
        "seed {seed}: {found} of {asked} regions aligned, {refused} others refused, {} held",
        held.len()
    );
    assert!(
        asked > 0 && found * 1000 >= asked * 999,
        "{found} of {asked}"
    );
}
