//! Regions that a device reaches at their own address: all or nothing, and counted.

mod support;

use std::sync::Mutex;

use dmakit_addr::{DmaMask, Iova, IovaRange, PhysRange};
use dmakit_io_pgtable::Permissions;
use dmakit_io_pgtable::lpae::Lpae;
use dmakit_iommu::{Domain, DomainId, Hardware, IdentityError, Invalidation, SyncError, Ticket};
use dmakit_iova::{CpuCache, ReserveCause};
use dmakit_platform::host::{HostPlatform, SegmentStore};
use dmakit_platform::{CpuSlot, NoMemory, Platform, Segment, SegmentRequest, TableMemory};
use support::{aperture, ram, run, space, table};

/// Hardware that caches the absence of mappings, and hears of none that it refuses.
#[derive(Default)]
struct Caching(Mutex<State>);

#[derive(Default)]
struct State {
    announced: Vec<IovaRange>,
    refuses: bool,
}

impl Hardware for &Caching {
    fn invalidate(&self, _what: &Invalidation) -> Result<(), SyncError> {
        Ok(())
    }

    fn invalidate_all(&self) -> Result<(), SyncError> {
        Ok(())
    }

    fn sync(&self) -> Result<(), SyncError> {
        Ok(())
    }

    fn mapped(&self, range: IovaRange) -> Result<(), SyncError> {
        let mut state = self.0.lock().unwrap();
        if state.refuses {
            return Err(SyncError::Failed);
        }
        state.announced.push(range);
        Ok(())
    }
}

/// Memory for so many tables.
struct Few(SegmentStore, Mutex<u64>);

impl TableMemory for &Few {
    fn allocate_table(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        let mut left = self.1.lock().unwrap();
        *left = left.checked_sub(1).ok_or(NoMemory {
            request: *request,
            largest_free: None,
        })?;
        self.0.allocate_table(request)
    }

    fn free_table(&self, segment: Segment) {
        self.0.free_table(segment);
    }
}

type TestDomain<'a> = Domain<HostPlatform, Vec<CpuSlot<CpuCache>>, Lpae, &'a Few, &'a Caching>;

fn with_domain(number: u64, test: impl FnOnce(TestDomain<'_>, &HostPlatform, &Few, &Caching)) {
    let platform = HostPlatform::new(1);
    let (_ram, store) = ram();
    let memory = Few(store, Mutex::new(1));
    let (table, space) = (table(&platform, &memory), space(1));
    let hardware = Caching::default();
    let domain = Domain::new(DomainId(number), space, table, &hardware);
    test(domain, &platform, &memory, &hardware);
}

fn redeem(domain: &TestDomain<'_>, platform: &HostPlatform, ticket: Ticket) {
    let proof = domain.sync().unwrap();
    domain
        .redeem(&platform.enter_cpu(), ticket, &proof)
        .unwrap();
}

/// A region of a frame buffer, across two leaf tables.
fn region() -> PhysRange {
    run(0x801f_f000, 0x2000)
}

fn is_clean(domain: &TestDomain<'_>, free: u64) {
    assert_eq!(domain.space().statistics().free, free);
    assert_eq!(domain.space().statistics().used, 0);
    assert_eq!(domain.table().leaves(aperture()).count(), 0);
    assert_eq!(domain.quarantined(), 0);
}

#[test]
fn a_region_for_which_a_table_is_missing_leaves_no_trace() {
    // Two levels above the leaves, and two tables of those.
    for tables in 0..4 {
        with_domain(1, |domain, platform, memory, hardware| {
            let free = domain.space().statistics().free;
            *memory.1.lock().unwrap() = tables;
            let failed = domain.map_identity(region(), Permissions::READ_WRITE);
            let error = failed.unwrap_err();
            assert!(matches!(error, IdentityError::Table(_)), "{error}");
            is_clean(&domain, free);
            assert_eq!(hardware.0.lock().unwrap().announced, []);
            *memory.1.lock().unwrap() = 4;
            let region = domain.map_identity(region(), Permissions::READ_WRITE);
            let ticket = domain.unmap_identity(region.unwrap()).unwrap().unwrap();
            redeem(&domain, platform, ticket);
            is_clean(&domain, free);
        });
    }
}

#[test]
fn a_region_that_is_refused_leaves_no_trace() {
    with_domain(1, |domain, _, memory, hardware| {
        let free = domain.space().statistics().free;
        let map = |region| domain.map_identity(region, Permissions::READ_WRITE);
        *memory.1.lock().unwrap() = 4;
        hardware.0.lock().unwrap().refuses = true;
        let error = map(region()).unwrap_err();
        assert!(matches!(error, IdentityError::Hardware(_)), "{error}");
        is_clean(&domain, free);
        hardware.0.lock().unwrap().refuses = false;
        let granule = 4096;
        let aperture = aperture();
        for (region, cause) in [
            (run(0x9000_0800, 0x1000), ReserveCause::Granules { granule }),
            (run(1 << 40, 0x1000), ReserveCause::Outside { aperture }),
        ] {
            let IdentityError::Space(error) = map(region).unwrap_err() else {
                panic!("of the addresses");
            };
            assert_eq!(error.cause, cause);
            is_clean(&domain, free);
        }
    });
}

#[test]
fn a_region_is_announced_and_keeps_its_domain_open_until_it_is_unmapped() {
    with_domain(1, |domain, platform, memory, hardware| {
        *memory.1.lock().unwrap() = 16;
        let mapped = domain.map_identity(region(), Permissions::READ).unwrap();
        assert_eq!(hardware.0.lock().unwrap().announced, [mapped.range()]);
        let at = Iova::new(0x8020_0008);
        assert_eq!(domain.table().iova_to_phys(at).unwrap().raw(), at.raw());
        // Nobody else gets these addresses, by name or otherwise.
        domain
            .map_identity(region(), Permissions::READ)
            .unwrap_err();
        let cpu = platform.enter_cpu();
        let runs = [run(1 << 33, 1 << 31)].into_iter();
        let below = DmaMask::bits(32).unwrap();
        domain
            .map(&cpu, runs, Permissions::READ, 1, below)
            .unwrap_err();
        let Err((domain, used)) = domain.close() else {
            panic!("a device still uses the region");
        };
        assert_eq!(used, 0x2000);
        let mut mapped = Some(mapped);
        with_domain(2, |other, _, _, _| {
            mapped = other.unmap_identity(mapped.take().unwrap()).err();
        });
        let mapped = mapped.expect("it comes back");
        let ticket = domain.unmap_identity(mapped).unwrap().unwrap();
        assert_eq!(domain.space().statistics().used, 0x2000, "owed");
        redeem(&domain, platform, ticket);
        assert!(domain.close().is_ok());
    });
}
