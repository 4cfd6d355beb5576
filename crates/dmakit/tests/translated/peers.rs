//! A device behind the SMMU that uses another device's memory: here memory of the machine that nobody
//! else uses stands for it.

use std::sync::Mutex;
use std::time::Duration;

use dmakit::addr::{Attributes, Bidirectional, DmaAddr, PhysAddr};
use dmakit::dma::{
    Forwards, PeerError, PeerImporter, PeerList, PeerMapping, PeerPaths, PeerProvider, PeerRoute,
    PeerWindow, Place, PlaceId, ProviderId, Redirect, TakeBack, Topology, Translate,
};
use dmakit::platform::{Platform, Segment};
use dmakit_sim::{Machine, Rng};

use crate::rig::{BOTH, Rig, TestDevice};

const NONE: Attributes = Attributes::NONE;
const BYTES: u64 = 0x8000;
const PROVIDER: PlaceId = PlaceId(1);
const CLIENT: PlaceId = PlaceId(2);

/// Two functions at a host bridge that forwards.
const PLACES: [Place; 3] = [
    Place::HostBridge {
        forwards: Forwards::Below,
    },
    function(0),
    function(0),
];

const fn function(above: u32) -> Place {
    Place::Function {
        above: PlaceId(above),
        redirect: Redirect::Off,
    }
}

type Provider<'p> = PeerProvider<'p, Machine>;

fn provider<'p>(rig: &Rig, memory: &Segment) -> Provider<'p> {
    let window = PeerWindow::new(memory.range(), DmaAddr::new(0x5000_0000)).unwrap();
    PeerProvider::new(rig.machine.clone(), ProviderId(3), PROVIDER, window)
}

/// No line of it is in the CPU's caches, as for memory of a device.
fn device_memory(rig: &Rig) -> Segment {
    let memory = rig.segment(BYTES);
    rig.machine.clean_invalidate(memory.range());
    memory
}

fn paths() -> PeerPaths<'static> {
    PeerPaths::new(Topology::new(&PLACES).unwrap(), CLIENT)
}

fn bytes(memory: &Segment) -> Vec<u8> {
    let mut bytes = vec![0; memory.len() as usize];
    memory.window().read(&mut bytes);
    bytes
}

/// The driver of the device that uses the memory: ends what it has when it is told.
struct Client<'a, T: Translate> {
    device: TestDevice<'a, T>,
    held: Mutex<Vec<PeerMapping<Bidirectional>>>,
}

impl<'a, T: Translate> Client<'a, T> {
    fn new(rig: &'a Rig, domain: &'a T) -> Self {
        Self {
            device: rig.device(rig.info(), domain),
            held: Mutex::default(),
        }
    }
}

impl<T: Translate> PeerImporter for Client<'_, T> {
    fn revoked(&self, provider: ProviderId, take_back: &TakeBack<'_>) {
        assert_eq!(provider, ProviderId(3));
        let mut debts = Vec::new();
        for mapping in self.held.lock().unwrap().drain(..) {
            debts.push(self.device.unmap_peer(mapping).unwrap());
        }
        let proof = self.device.sync().unwrap();
        for debt in debts {
            take_back(self.device.redeem(debt, &proof).unwrap()).unwrap();
        }
    }
}

#[test]
fn through_the_bridge_the_domain_maps_the_window_and_no_cache_is_maintained() {
    let rig = Rig::non_coherent(60);
    let memory = device_memory(&rig);
    let domain = rig.strict();
    let client = Client::new(&rig, &domain);
    let provider = provider(&rig, &memory);
    let import = provider.import(client.device.info().id, &client).unwrap();
    let mut paths = paths();
    let before = rig.machine.counts();
    let part = provider.lend(&import, 0x1100, 0x2000).unwrap();
    let range = part.range();
    let mapping = client
        .device
        .map_peer::<Bidirectional>(part, &mut paths, NONE)
        .unwrap();
    assert_eq!(mapping.route(), PeerRoute::HostBridge);
    assert!(mapping.is_translated());
    let segment = mapping.segment();
    assert_eq!((segment.addr.raw() & 0xfff, segment.len), (0x100, 0x2000));
    rig.sim.write(segment.addr, &[0x77; 0x2000]).unwrap();
    let mut seen = vec![0; 0x2000];
    assert!(rig.machine.peek(range.start(), &mut seen));
    assert!(seen.iter().all(|&byte| byte == 0x77));
    let debt = client.device.unmap_peer(mapping).unwrap();
    let proof = client.device.sync().unwrap();
    provider
        .take_back(client.device.redeem(debt, &proof).unwrap())
        .unwrap();
    assert!(rig.sim.write(segment.addr, &[0x78; 64]).is_err());
    let after = rig.machine.counts();
    assert_eq!(
        (before.cleans, before.invalidates, before.clean_invalidates),
        (after.cleans, after.invalidates, after.clean_invalidates)
    );
    provider.leave(import).unwrap();
    provider.release().unwrap();
    assert_eq!(client.device.stats().live(), 0);
    rig.close(domain);
}

#[test]
fn a_request_of_many_parts_asks_the_topology_once_and_ends_with_one_sync() {
    let rig = Rig::non_coherent(61);
    let memory = device_memory(&rig);
    let domain = rig.strict();
    let client = Client::new(&rig, &domain);
    let device = &client.device;
    let provider = provider(&rig, &memory);
    let import = provider.import(device.info().id, &client).unwrap();
    let mut paths = paths();
    let parts = [(0x2000, 0x1000), (0x6000, 0x2000), (0x1000, 0x800)];
    let parts = parts.map(|(offset, len)| provider.lend(&import, offset, len).unwrap());

    let first = PhysAddr::new(0);
    let caches = device
        .reserve::<Bidirectional>(first, 0x4000, 1, NONE)
        .unwrap();
    let mut request = caches;
    let refused = device.link_peer(&mut request, &parts[0], &mut paths);
    assert_eq!(refused, Err(PeerError::Caches));
    let none = device.cancel(request, PeerList([]), core::iter::empty());
    let proof = device.sync().unwrap();
    let PeerList([]) = device.redeem(none.unwrap(), &proof).unwrap();

    let skips = Attributes::SKIP_CPU_SYNC;
    let mut request = device
        .reserve::<Bidirectional>(first, 0x4000, 1, skips)
        .unwrap();
    let before = rig.machine.counts();
    let mut at = None;
    for part in &parts {
        let segment = device.link_peer(&mut request, part, &mut paths).unwrap();
        assert!(at.is_none_or(|at| at == segment.addr.raw()));
        at = Some(segment.addr.raw() + segment.len);
    }
    assert_eq!(paths.asked(), 1);
    let ragged = device.link_peer(&mut request, &parts[0], &mut paths);
    assert!(matches!(ragged, Err(PeerError::Link(_))), "{ragged:?}");
    let sealed = device.seal(request).unwrap();
    let segment = sealed.segment().unwrap();
    assert_eq!(segment.len, 0x3800);
    let data: Vec<u8> = (0..0x3800_u32).map(|i| (i / 7) as u8).collect();
    rig.sim.write(segment.addr, &data).unwrap();
    let mut at = 0;
    for part in &parts {
        let mut seen = vec![0; part.range().len() as usize];
        assert!(rig.machine.peek(part.range().start(), &mut seen));
        assert!(seen == data[at..at + seen.len()], "{part:?}");
        at += seen.len();
    }
    let debt = device
        .destroy(sealed, PeerList(parts), core::iter::empty())
        .unwrap();
    let PeerList(parts) = device.redeem(debt, &device.sync().unwrap()).unwrap();
    for part in parts {
        provider.take_back(part).unwrap();
    }
    let after = rig.machine.counts();
    assert_eq!(
        (before.cleans, before.invalidates, before.clean_invalidates),
        (after.cleans, after.invalidates, after.clean_invalidates)
    );
    provider.leave(import).unwrap();
    provider.release().unwrap();
    rig.close(domain);
}

/// Revokes a window while the device writes to it, gives it to somebody else, and says whether that
/// one's bytes stay as they are, with how many writes landed before and how many faulted.
fn reassigned_with_dma_in_flight(seed: u64, lazy: bool, ignored: &[u8]) -> (bool, usize, usize) {
    let rig = Rig::coherent(seed);
    let memory = device_memory(&rig);
    memory.window().fill(0);
    let run = |device: TestDevice<'_, _>| scene(&rig, &memory, device, seed, ignored);
    if lazy {
        let domain = rig.lazy();
        let result = scene(
            &rig,
            &memory,
            rig.device(rig.info(), &domain),
            seed,
            ignored,
        );
        if ignored.is_empty() {
            rig.close_lazy(domain);
        }
        return result;
    }
    let domain = rig.strict();
    let result = run(rig.device(rig.info(), &domain));
    if ignored.is_empty() {
        rig.close(domain);
    }
    result
}

fn scene<T: Translate>(
    rig: &Rig,
    memory: &Segment,
    device: TestDevice<'_, T>,
    seed: u64,
    ignored: &[u8],
) -> (bool, usize, usize) {
    let client = Client {
        device,
        held: Mutex::default(),
    };
    let provider = provider(rig, memory);
    let import = provider.import(client.device.info().id, &client).unwrap();
    let part = provider.lend(&import, 0, BYTES).unwrap();
    let mapping = client
        .device
        .map_peer::<Bidirectional>(part, &mut paths(), NONE)
        .unwrap();
    let addr = mapping.segment().addr;
    client.held.lock().unwrap().push(mapping);
    if ignored.is_empty() {
        // From here on, what reaches the memory after it was released is a violation.
        rig.sim.grant(memory.range(), BOTH);
    }
    let mut rng = Rng::new(seed);
    let mut write = |byte: u8| {
        let at = rng.below(BYTES - 256);
        rig.sim
            .start_write(DmaAddr::new(addr.raw() + at), &[byte; 256])
    };
    let mut flying: Vec<_> = (0..12).map(|_| write(0x11)).collect();
    for _ in 0..4 {
        rig.machine.disturb();
    }
    for &opcode in ignored {
        rig.smmu.ignore(opcode);
    }
    provider.revoke(Duration::ZERO).unwrap();
    let landed = bytes(memory).iter().filter(|&&byte| byte == 0x11).count();
    provider.leave(import).unwrap();
    let window = provider.release().unwrap();
    assert_eq!(window.range(), memory.range());
    // Somebody else's now.
    if ignored.is_empty() {
        rig.sim.revoke(memory.range(), BOTH);
    }
    memory.window().fill(0xee);
    flying.extend((0..12).map(|_| write(0x22)));
    let ends = flying
        .into_iter()
        .map(|transfer| rig.sim.complete(transfer));
    let faults = ends.filter(Result::is_err).count();
    let is_clean = bytes(memory).iter().all(|&byte| byte == 0xee);
    assert_eq!(client.device.stats().live(), 0);
    (is_clean, landed, faults)
}

#[test]
fn late_dma_faults_and_never_reaches_a_window_that_was_reassigned() {
    for lazy in [false, true] {
        let (mut landed, mut faults) = (0, 0);
        for seed in 0..40 {
            let (is_clean, before, after) = reassigned_with_dma_in_flight(seed, lazy, &[]);
            assert!(is_clean, "seed {seed}, lazy {lazy}");
            assert!(after >= 12, "seed {seed}: what begins later faults");
            landed += before;
            faults += after;
        }
        println!("lazy {lazy}: {landed} bytes landed before, {faults} writes faulted");
        assert!(landed > 0, "some were in flight and translated");
    }
}

#[test]
fn with_an_smmu_that_is_not_told_to_forget_late_dma_reaches_it() {
    // TLBI_NH_VA, TLBI_NH_ASID and TLBI_NSNH_ALL.
    let ignored = [0x12, 0x11, 0x30];
    let reached = (0..40).filter(|&seed| !reassigned_with_dma_in_flight(seed, false, &ignored).0);
    assert!(reached.count() > 0);
}
