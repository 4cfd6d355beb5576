//! What is said of an access that was stopped.

use dmakit_addr::{DmaAddr, DmaMask, Iova};
use dmakit_io_pgtable::Permissions;
use dmakit_iommu::{DomainId, Fault, FaultReason};

use crate::rig::{Mutant, Rig, STREAM, Shape, faults};

#[test]
fn a_fault_names_domain_device_address_access_and_reason() {
    let rig = Rig::new(1, Shape::default());
    let driver = rig.driver();
    let domains = [7, 8].map(|id| rig.numbered_domain(&driver, Mutant::Nothing, DomainId(id)));
    let buffer = rig.buffer(4096, 0);
    for domain in &domains {
        driver
            .attach(STREAM, domain.hardware().inner.context())
            .unwrap();
        let mapped = rig.map(domain, &[buffer.range()], Permissions::READ, DmaMask::ALL);
        let fault = |iova, is_write, reason| Fault {
            domain: Some(domain.id()),
            stream: STREAM,
            substream: None,
            iova: Some(Iova::new(iova)),
            is_write: Some(is_write),
            reason,
        };
        let read_only = mapped.range().start().raw() + 0x40;
        assert!(rig.device.read(DmaAddr::new(0x4000), &mut [0; 64]).is_err());
        let unmapped = faults(&driver);
        assert!(!unmapped.is_empty());
        let expected = fault(0x4000, false, FaultReason::Unmapped);
        assert!(
            unmapped.iter().all(|fault| *fault == expected),
            "{unmapped:?}"
        );
        assert!(rig.device.write(DmaAddr::new(read_only), &[1; 64]).is_err());
        let denied = faults(&driver);
        assert!(!denied.is_empty());
        let expected = fault(read_only, true, FaultReason::Permission);
        assert!(denied.iter().all(|fault| *fault == expected), "{denied:?}");
        let ticket = domain.unmap(mapped).unwrap();
        rig.redeem(domain, ticket, &[buffer.range()]);
    }
    let text = Fault {
        domain: Some(DomainId(8)),
        stream: STREAM,
        substream: None,
        iova: Some(Iova::new(0x4000)),
        is_write: Some(false),
        reason: FaultReason::Unmapped,
    };
    assert_eq!(
        text.to_string(),
        "read by stream 0x108 in domain 8 at 0x4000: nothing is mapped there"
    );
    rig.machine.check().unwrap();
}
