//! A mapping that fails half-way leaves nothing behind.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};

use dmakit_addr::{DmaMask, IovaRange};
use dmakit_io_pgtable::Permissions;
use dmakit_iommu::{Domain, DomainId, Hardware, Invalidation, MapError, SyncError};
use dmakit_platform::Platform;
use dmakit_platform::host::HostPlatform;
use support::{aperture, ram, run, space, table};

/// Hardware that forgets at once, and refuses to hear of mappings on request.
#[derive(Default)]
struct Refusing(AtomicBool);

impl Hardware for &Refusing {
    fn invalidate(&self, _what: &Invalidation) -> Result<(), SyncError> {
        Ok(())
    }

    fn invalidate_all(&self) -> Result<(), SyncError> {
        Ok(())
    }

    fn sync(&self) -> Result<(), SyncError> {
        Ok(())
    }

    fn mapped(&self, _range: IovaRange) -> Result<(), SyncError> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(SyncError::Failed),
            false => Ok(()),
        }
    }
}

#[test]
fn addresses_that_hardware_refused_are_free_and_unmapped() {
    let platform = HostPlatform::new(1);
    let (_ram, memory) = ram();
    let (table, space) = (table(&platform, memory), space(1));
    let hardware = Refusing::default();
    let domain = Domain::new(DomainId(1), space, table, &hardware);
    let cpu = platform.enter_cpu();
    // A whole leaf table falls out of the tree when this is undone.
    let runs = || [run(1 << 33, 1 << 20), run(1 << 34, 1 << 20)].into_iter();
    let map = || domain.map(&cpu, runs(), Permissions::READ_WRITE, 1, DmaMask::ALL);

    hardware.0.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        assert!(matches!(map(), Err(MapError::Hardware(_))));
        assert_eq!(domain.table().leaves(aperture()).count(), 0);
        assert_eq!(domain.space().statistics().used, 0);
        assert_eq!(domain.quarantined(), 0);
    }
    let tables = domain.table().statistics();
    hardware.0.store(false, Ordering::Relaxed);
    let mapped = map().unwrap();
    let ticket = domain.unmap(mapped).unwrap();
    let proof = domain.sync().unwrap();
    domain.redeem(&cpu, ticket, &proof).unwrap();
    assert_eq!(domain.table().statistics(), tables, "no table was lost");
}
