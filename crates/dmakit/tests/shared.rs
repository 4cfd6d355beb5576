//! What a kernel makes once, for all of its CPUs.

use dmakit::cma::{Areas, CoherentMemory, EarlyAreas};
use dmakit::dma::{Device, DeviceTables, NoTranslation, Unchecked};
use dmakit::phys::{AttachedRam, ClaimedRam, Frame, MovableMemory, NoMovers, PageAllocator};
use dmakit::platform::host::HostPlatform;
use dmakit::swiotlb::{BouncePool, NoGrowth};

type P = HostPlatform;
type Table = &'static mut [Frame];

fn is_shared<T: Send + Sync>() {}

#[test]
fn all_of_it_may_be_used_from_any_cpu() {
    is_shared::<EarlyAreas<'static, P>>();
    is_shared::<PageAllocator<P, Table>>();
    is_shared::<MovableMemory<P, Table, NoMovers>>();
    is_shared::<Areas<'static, P, Table, NoMovers>>();
    is_shared::<AttachedRam<'static, P, Table>>();
    is_shared::<ClaimedRam<'static, P, Table, NoMovers>>();
    is_shared::<CoherentMemory<'static, P, Table, NoMovers>>();
    is_shared::<BouncePool<P, NoGrowth>>();
    is_shared::<Device<'static, P>>();
    is_shared::<DeviceTables<'static, 'static, P, NoGrowth, Unchecked, NoTranslation>>();
}
