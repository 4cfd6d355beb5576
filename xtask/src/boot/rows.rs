//! What is booted: machines, clients, paths, and what is to come of it.

use super::machine::Machine;

/// Who uses the stack.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    VirtioBlk,
    Nvme,
    Ahci,
    VirtioNet,
}

/// What is to come of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    /// All data right, nothing refused.
    Clean,
    /// All data right, though mappings fail: the driver is told.
    Errors,
    /// All data right, though mappings fail: the device faults and is reset.
    Resets,
    /// No interrupt arrives, and the SMMU says why.
    NoInterrupt,
}

/// One boot.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) machine: Machine,
    pub(crate) client: Client,
    /// Kernel parameters that choose the path.
    path: &'static str,
    pub(crate) expect: Expect,
}

const STRICT: &str = "";
const LAZY: &str = "iommu.strict=0";
const DIRECT: &str = "iommu.passthrough=1";
const BOUNCED: &str = "iommu.passthrough=1 swiotlb=force";
/// All that the device reaches is one pool: drivers that take memory to move, and map nothing.
const RESTRICTED: &str = "iommu.passthrough=1 restricted";
const UNTRUSTED: &str = "untrusted";
/// One mapping in a hundred fails: as if the domain were full,
const FAIL: &str = "fail=100";
const LAZY_FAIL: &str = "iommu.strict=0 fail=100";
/// as if there were no memory for it,
const DIRECT_FAIL: &str = "iommu.passthrough=1 fail=100";
/// or, of one request in twenty, because somebody else has all of the pool.
const BOUNCED_FAIL: &str = "iommu.passthrough=1 swiotlb=force fail=20";
/// On machines without an IOMMU.
const NO_IOMMU: &str = "";
const FORCED: &str = "swiotlb=force";
const FORCED_FAIL: &str = "swiotlb=force fail=20";

/// Frames for each small request of a disk, which has 33 KiB where a frame has 0.8.
const FRAMES: u64 = 40;

/// Small requests of a row whose mappings fail, at the least: one mapping in a hundred does.
const FAILING_REQUESTS_MIN: u64 = 300;

pub(crate) const ROWS: &[Row] = &[
    Row::clean("virtio-blk", Client::VirtioBlk, STRICT),
    Row::clean("virtio-blk-lazy", Client::VirtioBlk, LAZY),
    Row::clean("virtio-blk-direct", Client::VirtioBlk, DIRECT),
    Row::clean("virtio-blk-bounced", Client::VirtioBlk, BOUNCED),
    Row::clean("virtio-blk-untrusted", Client::VirtioBlk, UNTRUSTED),
    Row::resets("virtio-blk-fail", Client::VirtioBlk, FAIL),
    Row::resets("virtio-blk-lazy-fail", Client::VirtioBlk, LAZY_FAIL),
    Row::resets("virtio-blk-bounced-fail", Client::VirtioBlk, BOUNCED_FAIL),
    Row::clean("nvme", Client::Nvme, STRICT),
    Row::clean("nvme-lazy", Client::Nvme, LAZY),
    Row::clean("nvme-direct", Client::Nvme, DIRECT),
    Row::clean("nvme-restricted", Client::Nvme, RESTRICTED),
    Row::errors("nvme-fail", Client::Nvme, FAIL),
    Row::errors("nvme-lazy-fail", Client::Nvme, LAZY_FAIL),
    Row::errors("nvme-direct-fail", Client::Nvme, DIRECT_FAIL),
    Row {
        name: "nvme-doorbell-unmapped",
        machine: Machine::Virt,
        client: Client::Nvme,
        path: "doorbell=unmapped",
        expect: Expect::NoInterrupt,
    },
    Row::clean("ahci", Client::Ahci, STRICT),
    Row::clean("ahci-lazy", Client::Ahci, LAZY),
    Row::clean("ahci-direct", Client::Ahci, DIRECT),
    Row::clean("ahci-restricted", Client::Ahci, RESTRICTED),
    Row::errors("ahci-fail", Client::Ahci, FAIL),
    Row::errors("ahci-lazy-fail", Client::Ahci, LAZY_FAIL),
    Row::errors("ahci-direct-fail", Client::Ahci, DIRECT_FAIL),
    Row {
        name: "ahci-doorbell-unmapped",
        machine: Machine::Virt,
        client: Client::Ahci,
        path: "doorbell=unmapped",
        expect: Expect::NoInterrupt,
    },
    Row::clean("virtio-net", Client::VirtioNet, STRICT),
    Row::clean("virtio-net-lazy", Client::VirtioNet, LAZY),
    Row::clean("virtio-net-direct", Client::VirtioNet, DIRECT),
    Row::clean("virtio-net-bounced", Client::VirtioNet, BOUNCED),
    Row::clean("x86-virtio-blk-direct", Client::VirtioBlk, NO_IOMMU).on(Machine::Q35),
    Row::clean("x86-virtio-blk-bounced", Client::VirtioBlk, FORCED).on(Machine::Q35),
    Row::resets(
        "x86-virtio-blk-bounced-fail",
        Client::VirtioBlk,
        FORCED_FAIL,
    )
    .on(Machine::Q35),
    Row::clean("x86-nvme-direct", Client::Nvme, NO_IOMMU).on(Machine::Q35),
    Row::errors("x86-nvme-direct-fail", Client::Nvme, FAIL).on(Machine::Q35),
    Row::clean("x86-ahci-direct", Client::Ahci, NO_IOMMU).on(Machine::Q35),
    Row::clean("x86-virtio-net-direct", Client::VirtioNet, NO_IOMMU).on(Machine::Q35),
    Row::clean("x86-virtio-net-bounced", Client::VirtioNet, FORCED).on(Machine::Q35),
];

impl Row {
    const fn clean(name: &'static str, client: Client, path: &'static str) -> Self {
        Self {
            name,
            machine: Machine::Virt,
            client,
            path,
            expect: Expect::Clean,
        }
    }

    const fn errors(name: &'static str, client: Client, path: &'static str) -> Self {
        Self {
            expect: Expect::Errors,
            ..Self::clean(name, client, path)
        }
    }

    const fn resets(name: &'static str, client: Client, path: &'static str) -> Self {
        Self {
            expect: Expect::Resets,
            ..Self::clean(name, client, path)
        }
    }

    /// The same on another machine.
    const fn on(self, machine: Machine) -> Self {
        Self { machine, ..self }
    }

    /// How many small requests it makes where others make `asked`.
    pub(crate) fn requests(&self, asked: u64) -> u64 {
        match self.expect {
            Expect::Clean if self.client == Client::VirtioNet => asked * FRAMES,
            Expect::Clean => asked,
            Expect::Errors | Expect::Resets => asked.max(FAILING_REQUESTS_MIN),
            Expect::NoInterrupt => 0,
        }
    }

    /// Kernel parameters.
    pub(crate) fn append(&self, requests: u64, seed: u64) -> String {
        let client = match self.client {
            Client::VirtioBlk => "virtio-blk",
            Client::Nvme => "nvme",
            Client::Ahci => "ahci",
            Client::VirtioNet => "virtio-net",
        };
        let path = self.path;
        let line =
            format!("cma=32M cma_pernuma=16M client={client} requests={requests} seed={seed}");
        [line.as_str(), path].join(" ").trim_end().to_owned()
    }

    /// QEMU's arguments for the device, before `backend`.
    pub(crate) fn devices(&self, backend: &str) -> Vec<String> {
        let (kind, devices): (_, &[&str]) = match self.client {
            Client::VirtioBlk => (
                "-drive",
                &["virtio-blk-pci,drive=disk,disable-legacy=on,iommu_platform=on"],
            ),
            Client::Nvme => ("-drive", &["nvme,drive=disk,serial=1"]),
            Client::Ahci => (
                "-drive",
                &["ich9-ahci,id=ahci", "ide-hd,drive=disk,bus=ahci.0"],
            ),
            Client::VirtioNet => (
                "-netdev",
                &["virtio-net-pci,netdev=wire,disable-legacy=on,iommu_platform=on,romfile="],
            ),
        };
        let devices = devices.iter().flat_map(|device| ["-device", *device]);
        [kind, backend]
            .into_iter()
            .chain(devices)
            .map(str::to_owned)
            .collect()
    }

    /// Whether the image counts interrupts, and completions that they told of.
    pub(crate) fn counts_interrupts(&self) -> bool {
        matches!(self.client, Client::Nvme | Client::Ahci)
    }

    /// Whether the device's accesses are translated.
    pub(crate) fn is_translated(&self) -> bool {
        self.machine == Machine::Virt && !self.path.contains(DIRECT)
    }
}
