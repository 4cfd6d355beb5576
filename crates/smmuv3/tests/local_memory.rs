//! An SMMU's queues and tables come from the contiguous area of its own node.

use std::collections::BTreeMap;
use std::sync::Mutex;

use dmakit_addr::{DmaMask, NodeId, PhysAddr, PhysRange};
use dmakit_cma::{
    AreaParams, CoherentMemory, DeviceArea, InactiveAreas, Outcome, PerNode, Step, Waiting, reserve,
};
use dmakit_phys::{
    AttachedRam, Frame, MemoryKind, MemoryMap, MovableMemory, NoMovers, PageAllocator, Region,
};
use dmakit_platform::Mmio;
use dmakit_platform::host::{HostPlatform, HostRam};
use dmakit_smmuv3::{Config, Smmu};

/// Registers of an SMMU that does at once what it is told.
struct Registers(Mutex<BTreeMap<u64, u64>>);

impl Registers {
    fn new() -> Self {
        let identity = [
            (0, 0xd40_101a),
            (4, 0x273_0010),
            (0xc, 0x1404),
            (0x14, 0x74),
        ];
        Self(Mutex::new(identity.into()))
    }

    fn get(&self, offset: u64) -> u64 {
        let source = match offset {
            // Acknowledgements, and a command queue that is always done.
            0x24 => 0x20,
            0x54 => 0x50,
            0x9c => 0x98,
            _ => offset,
        };
        self.0.lock().unwrap().get(&source).copied().unwrap_or(0)
    }

    fn set(&self, offset: u64, value: u64) {
        self.0.lock().unwrap().insert(offset, value);
    }
}

impl Mmio for &Registers {
    fn read32(&self, offset: u64) -> u32 {
        self.get(offset) as u32
    }

    fn read64(&self, offset: u64) -> u64 {
        self.get(offset)
    }

    fn write32(&self, offset: u64, value: u32) {
        self.set(offset, value.into());
    }

    fn write64(&self, offset: u64, value: u64) {
        self.set(offset, value);
    }
}

const NODE_BYTES: u64 = 16 << 20;

/// All above 4 GiB.
fn node_range(node: u16) -> PhysRange {
    PhysRange::new(PhysAddr::new((u64::from(node) + 2) << 32), NODE_BYTES).unwrap()
}

/// Starts an SMMU on each node of a machine and gives where its memory is to `check`.
fn with_nodes(nodes: u16, check: impl Fn(NodeId, PhysAddr, &str)) -> [u64; 5] {
    let mut map = MemoryMap::new(nodes);
    for node in 0..nodes {
        map.add(Region {
            range: node_range(node).frames(),
            node: NodeId::new(node),
            kind: MemoryKind::Usable,
        })
        .unwrap();
    }
    let params = AreaParams {
        cma: "4M".parse().ok(),
        per_node: PerNode::Sized("4M".parse().unwrap()),
        ..AreaParams::default()
    };
    let requests = params.requests(&map, DmaMask::ALL);
    let done = reserve(&mut map, &[], requests);
    let reserved = done.into_iter().map(|one| match one.outcome {
        Outcome::Reserved(area) => area,
        _ => panic!("{one}"),
    });
    let inactive = InactiveAreas::new(reserved);
    type Allocator = PageAllocator<HostPlatform, Vec<Frame>>;
    let platform = HostPlatform::new(1);
    let table = vec![Frame::default(); Allocator::table_entries(&map) as usize];
    let allocator = Allocator::new(&map, &[], table).unwrap();
    let memory = MovableMemory::new(platform.clone(), allocator, NoMovers);
    let (areas, _) = inactive.activate(&memory);
    let ranges: Vec<PhysRange> = (0..nodes).map(node_range).collect();
    let (_, segments) = HostRam::new(&ranges).unwrap();
    let ram = AttachedRam::new(platform.clone(), memory.allocator(), segments, 1024);
    let device = DeviceArea::None;
    let coherent = CoherentMemory::new(platform.clone(), &areas, &ram, device, Waiting::Never);
    for node in (0..nodes).map(NodeId::new) {
        let registers = Registers::new();
        let config = Config {
            node: Some(node),
            // 4096 commands and as many records: more than a page each.
            event_shift: 12,
            ..Config::default()
        };
        Smmu::start(platform.clone(), &registers, &coherent, config).unwrap();
        for (offset, name) in [(0x80, "stream table"), (0x90, "commands"), (0xa0, "events")] {
            let address = registers.get(offset) & 0x000f_ffff_ffff_ffe0;
            check(node, PhysAddr::new(address), name);
        }
    }
    let statistics = coherent.statistics();
    Step::ALL.map(|step| statistics.of(step).served)
}

#[test]
fn queues_and_tables_of_every_smmu_are_local_on_machines_of_2_to_16_nodes() {
    for nodes in [2, 4, 8, 16] {
        let served = with_nodes(nodes, |node, address, name| {
            let local = node_range(node.index() as u16).contains(address);
            assert!(local, "{name} of {node} at {address} of {nodes} nodes");
        });
        let [device, per_node, listed, default, _] = served;
        assert_eq!((device, listed, default), (0, 0, 0));
        assert!(per_node >= 2 * u64::from(nodes));
    }
}
