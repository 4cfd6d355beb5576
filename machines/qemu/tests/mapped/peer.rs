//! The memory of a disk's controller that nobody else uses, lent to another.

use dmakit_addr::{Attributes, Bidirectional, DmaAddr};
use dmakit_dma::{
    Import, PeerError, PeerMapping, PeerMemory, PeerPaths, PeerProvider, PeerRoute, PeerWindow,
    ProviderId,
};
use dmakit_platform::Mmio;
use dmakit_platform::host::HostPlatform;
use dmakit_qemu::QemuMmio;
use dmakit_qemu::smmu::QemuDevice;

use super::buffers::PAGE;
use crate::disk::{Rig, SPARE};
use crate::fabric::{Client, PROVIDER, paths};

/// The BAR of the memory.
const BUFFER: u8 = 2;

/// The provider, and what its clients have of it.
pub struct Peer {
    provider: PeerProvider<'static, HostPlatform>,
    imports: [Import; 2],
    paths: PeerPaths<'static>,
    memory: QemuMmio,
}

impl Peer {
    pub fn new(rig: &Rig, devices: &[QemuDevice<'_>; 2]) -> Self {
        let spare = rig.machine.pci().enable(SPARE).unwrap();
        let (range, memory) = (spare.bar_range(BUFFER).unwrap(), spare.bar(BUFFER).unwrap());
        let window = PeerWindow::new(range, DmaAddr::new(range.start().raw())).unwrap();
        let platform = rig.machine.platform();
        let provider = PeerProvider::new(platform, ProviderId(1), PROVIDER, window);
        let imports = devices
            .each_ref()
            .map(|device| provider.import(device.info().id, &Client).unwrap());
        Self {
            provider,
            imports,
            paths: paths(),
            memory,
        }
    }

    /// Lends page `lane` to a device, filled with `bytes`.
    pub fn lend(
        &mut self,
        (index, device): (usize, &QemuDevice<'_>),
        lane: u64,
        bytes: &[u8],
    ) -> PeerMapping<Bidirectional> {
        for (word, bytes) in (0..).zip(bytes.chunks(8)) {
            let value = u64::from_le_bytes(bytes.try_into().unwrap());
            self.memory.write64(lane * PAGE + 8 * word, value);
        }
        let part = self.provider.lend(&self.imports[index], lane * PAGE, PAGE);
        let mapping = device
            .map_peer(part.unwrap(), &mut self.paths, Attributes::NONE)
            .unwrap();
        assert_eq!(mapping.route(), PeerRoute::HostBridge);
        mapping
    }

    /// A device of which everything is copied gets nothing of it: it is not this machine's to copy.
    pub fn refuse(&mut self, (index, device): (usize, &QemuDevice<'_>)) {
        let part = self.provider.lend(&self.imports[index], 0, PAGE).unwrap();
        let failure = device
            .map_peer::<Bidirectional>(part, &mut self.paths, Attributes::NONE)
            .unwrap_err();
        assert!(
            matches!(failure.error, PeerError::WouldBounce(_)),
            "{failure}"
        );
        self.take_back(failure.memory);
    }

    /// What is in page `lane`.
    pub fn read(&self, lane: u64, len: usize) -> Vec<u8> {
        let words = (0..len as u64).step_by(8);
        words
            .flat_map(|at| self.memory.read64(lane * PAGE + at).to_le_bytes())
            .collect()
    }

    /// Takes back what no device reaches any more.
    pub fn take_back(&self, part: PeerMemory) {
        self.provider.take_back(part).unwrap();
    }

    /// Ends it: nobody has any of it.
    pub fn end(self) {
        for import in self.imports {
            self.provider.leave(import).unwrap();
        }
        self.provider.release().unwrap();
    }
}
