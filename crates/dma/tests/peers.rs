//! Which way one device reaches another's memory, and how its owner gets it back.

use std::sync::Mutex;
use std::time::Duration;

use dmakit_addr::{Attributes, DmaAddr, DmaMask, FromDevice, PhysAddr, PhysRange};
use dmakit_dma::{
    BounceCause, BounceWhen, CoherentSource, Device, DeviceId, DeviceInfo, Forwards, Import,
    MapError, Path, PeerError, PeerImporter, PeerMapping, PeerPaths, PeerProvider, PeerRefusal,
    PeerRoute, PeerWindow, Place, PlaceId, ProviderId, Redirect, TakeBack, Topology,
};
use dmakit_platform::host::{HostPlatform, HostRam};
use dmakit_swiotlb::{BounceConfig, BouncePool};

const NONE: Attributes = Attributes::NONE;

fn bridge(forwards: Forwards) -> Place {
    Place::HostBridge { forwards }
}

fn port(above: u32, redirect: Redirect) -> Place {
    let above = PlaceId(above);
    Place::Port { above, redirect }
}

fn function(above: u32) -> Place {
    Place::Function {
        above: PlaceId(above),
        redirect: Redirect::Off,
    }
}

/// A root port, a switch of one upstream and two downstream ports, a function below each.
fn switch(forwards: Forwards, redirect: Redirect) -> [Place; 7] {
    let off = Redirect::Off;
    [
        bridge(forwards),
        port(0, off),
        port(1, off),
        port(2, redirect),
        port(2, off),
        function(3),
        function(4),
    ]
}

const FIRST: PlaceId = PlaceId(5);
const SECOND: PlaceId = PlaceId(6);

#[test]
fn below_one_switch_peers_use_bus_addresses_whatever_the_host_bridge_does() {
    let places = switch(Forwards::Unknown, Redirect::Off);
    let topology = Topology::new(&places).unwrap();
    let path = topology.path(FIRST, SECOND).unwrap();
    assert_eq!((path.route(), path.hops()), (PeerRoute::Bus, 4));
    assert_eq!((path.provider(), path.client()), (FIRST, SECOND));
    let own = topology.path(FIRST, FIRST).unwrap();
    assert_eq!((own.route(), own.hops()), (PeerRoute::Bus, 0));
}

#[test]
fn a_port_that_redirects_or_may_sends_both_ways_through_the_host_bridge() {
    for redirect in [Redirect::On, Redirect::Unknown] {
        let places = switch(Forwards::Below, redirect);
        let topology = Topology::new(&places).unwrap();
        for (provider, client) in [(FIRST, SECOND), (SECOND, FIRST)] {
            let path = topology.path(provider, client).unwrap();
            assert_eq!((path.route(), path.hops()), (PeerRoute::HostBridge, 8));
        }
        let places = switch(Forwards::Unknown, redirect);
        let refused = Topology::new(&places).unwrap().path(FIRST, SECOND);
        let (bridge, redirected) = (PlaceId(0), Some(PlaceId(3)));
        let refusal = PeerRefusal::HostBridge { bridge, redirected };
        assert_eq!(refused, Err(refusal));
        assert_eq!(refusal.number(), 2);
    }
}

#[test]
fn two_host_bridges_forward_to_each_other_only_if_it_is_known_of_both() {
    use Forwards::{Below, Everywhere, Unknown};
    for one in [Unknown, Below, Everywhere] {
        for other in [Unknown, Below, Everywhere] {
            let places = [bridge(one), bridge(other), function(0), function(1)];
            let path = Topology::new(&places).unwrap().path(PlaceId(2), PlaceId(3));
            match (one, other) {
                (Everywhere, Everywhere) => {
                    assert_eq!(path.unwrap().route(), PeerRoute::HostBridge);
                }
                _ => {
                    let refusal = path.unwrap_err();
                    let unknown = PlaceId(u32::from(one == Everywhere));
                    let (provider, client) = (PlaceId(0), PlaceId(1));
                    assert_eq!(
                        refusal,
                        PeerRefusal::HostBridges {
                            provider,
                            client,
                            unknown
                        }
                    );
                }
            }
        }
    }
}

#[test]
fn what_is_no_function_has_no_way_and_what_is_no_tree_is_no_topology() {
    let places = switch(Forwards::Everywhere, Redirect::Off);
    let topology = Topology::new(&places).unwrap();
    for place in [PlaceId(0), PlaceId(3), PlaceId(7)] {
        let refused = Err(PeerRefusal::NoFunction { place });
        assert_eq!(topology.path(place, FIRST), refused);
        assert_eq!(topology.path(FIRST, place), refused);
    }
    let below_itself = [bridge(Forwards::Unknown), function(1)];
    let below_a_function = [bridge(Forwards::Unknown), function(0), function(1)];
    for places in [&below_itself[..], &below_a_function] {
        let error = Topology::new(places).unwrap_err();
        assert_eq!(error.above, PlaceId(1));
    }
}

#[test]
fn the_nearest_provider_is_one_that_all_clients_reach() {
    let off = Redirect::Off;
    let places = [
        bridge(Forwards::Below),
        port(0, off),
        function(1),
        function(1),
        function(0),
        bridge(Forwards::Unknown),
        function(5),
    ];
    let topology = Topology::new(&places).unwrap();
    let [near, far, apart] = [PlaceId(3), PlaceId(4), PlaceId(6)];
    let nearest = |providers: &[PlaceId]| {
        topology.nearest(providers.iter().copied(), &[PlaceId(2), PlaceId(4)])
    };
    assert_eq!(nearest(&[apart, near]), Some((near, 2 + 3)));
    assert_eq!(nearest(&[near, far]), Some((far, 3)));
    assert_eq!(nearest(&[apart]), None);
}

/// What a topology must say, from the lists of all that is above both ends.
fn naive(places: &[Place], provider: u32, client: u32) -> Option<(PeerRoute, usize)> {
    let way_up = |mut at: u32| {
        let mut way = vec![at];
        while let Place::Port { above, .. } | Place::Function { above, .. } = places[at as usize] {
            at = above.0;
            way.push(at);
        }
        way
    };
    let redirects = |at: &u32| {
        let (Place::Port { redirect, .. } | Place::Function { redirect, .. }) =
            places[*at as usize]
        else {
            return false;
        };
        redirect != Redirect::Off
    };
    if provider == client {
        return Some((PeerRoute::Bus, 0));
    }
    let (to, from) = (way_up(provider), way_up(client));
    let is_port = |at: u32| matches!(places[at as usize], Place::Port { .. });
    let meeting = to.iter().find(|at| is_port(**at) && from.contains(at));
    if let Some(meeting) = meeting {
        let links = |way: &[u32]| way.iter().position(|at| at == meeting).unwrap();
        let (up, down) = (links(&from), links(&to));
        if !from[..=up].iter().chain(&to[..=down]).any(redirects) {
            return Some((PeerRoute::Bus, up + down));
        }
    }
    let fact = |way: &[u32]| match places[*way.last().unwrap() as usize] {
        Place::HostBridge { forwards } => forwards,
        _ => unreachable!(),
    };
    let needs = match to.last() == from.last() {
        true => Forwards::Below,
        false => Forwards::Everywhere,
    };
    let forwards = fact(&to) >= needs && fact(&from) >= needs;
    forwards.then(|| (PeerRoute::HostBridge, to.len() + from.len() - 2))
}

/// All topologies with one more place than `places`, down to `depth` more; how many ways were asked.
fn every_topology(places: &mut Vec<Place>, depth: u32) -> u64 {
    let topology = Topology::new(places).unwrap();
    let mut asked = 0;
    let functions = |place: &Place| matches!(place, Place::Function { .. });
    let numbers = || (0..places.len() as u32).filter(|at| functions(&places[*at as usize]));
    for provider in numbers() {
        for client in numbers() {
            let path = topology.path(PlaceId(provider), PlaceId(client));
            let found = path.map(|path| (path.route(), path.hops() as usize));
            let expected = naive(places, provider, client);
            assert_eq!(found.ok(), expected, "{provider} {client} {places:?}");
            asked += 1;
        }
    }
    if depth == 0 {
        return asked;
    }
    let mut next = vec![];
    for forwards in [Forwards::Unknown, Forwards::Below, Forwards::Everywhere] {
        next.push(bridge(forwards));
    }
    for above in 0..places.len() as u32 {
        if functions(&places[above as usize]) {
            continue;
        }
        for redirect in [Redirect::Off, Redirect::On] {
            let above = PlaceId(above);
            next.push(Place::Port { above, redirect });
            next.push(Place::Function { above, redirect });
        }
    }
    for place in next {
        places.push(place);
        asked += every_topology(places, depth - 1);
        places.pop();
    }
    asked
}

#[test]
fn every_topology_of_six_places_says_what_a_naive_walk_says() {
    let asked = every_topology(&mut Vec::new(), 6);
    println!("{asked} ways");
    assert!(asked > 1_000_000);
}

type Provider<'p> = PeerProvider<'p, HostPlatform, 2>;

const BAR: u64 = 0x80_0000_0000;
const BAR_BYTES: u64 = 1 << 20;
/// Where the bus shows the window.
const ON_BUS: u64 = 0x4000_0000;

fn window() -> PeerWindow {
    let range = PhysRange::new(PhysAddr::new(BAR), BAR_BYTES).unwrap();
    PeerWindow::new(range, DmaAddr::new(ON_BUS)).unwrap()
}

/// An importer that ends what it has when it is told, if it wants to.
struct Importer {
    device: Device<'static, HostPlatform>,
    held: Mutex<Vec<PeerMapping<FromDevice>>>,
    told: Mutex<Vec<ProviderId>>,
}

impl PeerImporter for Importer {
    fn revoked(&self, provider: ProviderId, _: &TakeBack<'_>) {
        self.told.lock().unwrap().push(provider);
    }
}

impl Importer {
    fn new(id: u64, path: Path<'static, HostPlatform>) -> Self {
        let info = DeviceInfo::new(DeviceId::new(id), "importer", DmaMask::ALL);
        let platform = HostPlatform::new(1);
        Self {
            device: Device::new(platform, info, path, CoherentSource::None),
            held: Mutex::default(),
            told: Mutex::default(),
        }
    }

    fn map(
        &self,
        provider: &Provider<'_>,
        import: &Import,
        paths: &mut PeerPaths<'_>,
    ) -> Result<u64, PeerError> {
        let memory = provider.lend(import, 0x3000, 0x1234)?;
        match self.device.map_peer(memory, paths, NONE) {
            Ok(mapping) => {
                let at = mapping.segment().addr.raw();
                assert!(!mapping.is_translated());
                self.held.lock().unwrap().push(mapping);
                Ok(at)
            }
            Err(failure) => {
                provider.take_back(failure.memory).unwrap();
                Err(failure.error)
            }
        }
    }

    fn end_all(&self, provider: &Provider<'_>) {
        for mapping in self.held.lock().unwrap().drain(..) {
            let debt = self.device.unmap_peer(mapping).unwrap();
            let proof = self.device.sync().unwrap();
            provider
                .take_back(self.device.redeem(debt, &proof).unwrap())
                .unwrap();
        }
    }
}

#[test]
fn without_an_iommu_the_address_is_the_bus_s_or_the_physical_one() {
    for (redirect, address) in [(Redirect::Off, ON_BUS), (Redirect::On, BAR)] {
        let places = switch(Forwards::Below, redirect);
        let topology = Topology::new(&places).unwrap();
        let importer = Importer::new(1, Path::Direct);
        let provider = Provider::new(HostPlatform::new(1), ProviderId(1), FIRST, window());
        let import = provider
            .import(importer.device.info().id, &importer)
            .unwrap();
        let mut paths = PeerPaths::new(topology, SECOND);
        for _ in 0..5 {
            let at = importer.map(&provider, &import, &mut paths).unwrap();
            assert_eq!(at, address + 0x3000);
        }
        assert_eq!(paths.asked(), 1, "once for each provider");
        importer.end_all(&provider);
        provider.leave(import).unwrap();
        provider.release().unwrap();
        assert_eq!(importer.device.stats().live(), 0);
    }
}

#[test]
fn a_device_that_does_not_reach_the_window_is_refused_and_the_part_comes_back() {
    let places = switch(Forwards::Unknown, Redirect::On);
    let topology = Topology::new(&places).unwrap();
    let importer = Importer::new(1, Path::Direct);
    let provider = Provider::new(HostPlatform::new(1), ProviderId(1), FIRST, window());
    let import = provider.import(DeviceId::new(1), &importer).unwrap();
    let mut paths = PeerPaths::new(topology, SECOND);
    let refused = importer.map(&provider, &import, &mut paths).unwrap_err();
    let is_bridge = matches!(refused, PeerError::Refused(PeerRefusal::HostBridge { .. }));
    assert!(is_bridge, "{refused}");

    let places = switch(Forwards::Below, Redirect::On);
    let topology = Topology::new(&places).unwrap();
    let mut info = *importer.device.info();
    info.streaming_mask = DmaMask::bits(32).unwrap();
    let narrow = Device::<_>::new(
        HostPlatform::new(1),
        info,
        Path::Direct,
        CoherentSource::None,
    );
    let mut paths = PeerPaths::new(topology, SECOND);
    let memory = provider.lend(&import, 0, 4096).unwrap();
    let failure = narrow
        .map_peer::<FromDevice>(memory, &mut paths, NONE)
        .unwrap_err();
    let unreachable = matches!(failure.error, PeerError::Map(MapError::Unreachable { .. }));
    assert!(unreachable, "{failure}");
    let memory = failure.memory;
    let failure = narrow
        .map_peer::<FromDevice>(memory, &mut paths, Attributes::REQUIRE_COHERENT)
        .unwrap_err();
    let attributes = matches!(failure.error, PeerError::Map(MapError::Attributes(_)));
    assert!(attributes, "{failure}");
    provider.take_back(failure.memory).unwrap();
    provider.release().unwrap();
}

#[test]
fn a_window_comes_back_only_when_every_part_has_and_its_holders_are_named() {
    let places = switch(Forwards::Unknown, Redirect::Off);
    let topology = Topology::new(&places).unwrap();
    let importers = [1, 2].map(|id| Importer::new(id, Path::Direct));
    let provider = Provider::new(HostPlatform::new(1), ProviderId(9), FIRST, window());
    let mut paths = PeerPaths::new(topology, SECOND);
    let imports = [0, 1].map(|i| {
        let importer: &Importer = &importers[i];
        let import = provider
            .import(DeviceId::new(i as u64 + 1), importer)
            .unwrap();
        importer.map(&provider, &import, &mut paths).unwrap();
        import
    });
    let full = provider
        .import(DeviceId::new(3), &importers[0])
        .unwrap_err();
    assert_eq!(full, PeerError::Importers { max: 2 });
    importers[1].end_all(&provider);
    importers[0]
        .map(&provider, &imports[0], &mut paths)
        .unwrap();

    let held = provider.revoke(Duration::from_millis(1)).unwrap_err();
    let (provider, unwaited) = provider.release().unwrap_err();
    assert_eq!(unwaited.holders, held.holders);
    assert!(held.waited >= Duration::from_millis(1));
    let holders: Vec<_> = held.holders.into_iter().flatten().collect();
    assert_eq!(holders.len(), 1, "{held}");
    assert_eq!((holders[0].device, holders[0].parts), (DeviceId::new(1), 2));
    for importer in &importers {
        assert_eq!(importer.told.lock().unwrap()[..], [ProviderId(9)]);
    }
    let revoked = PeerError::Revoked {
        provider: ProviderId(9),
    };
    let refused = importers[1].map(&provider, &imports[1], &mut paths);
    assert_eq!(refused, Err(revoked));
    assert_eq!(
        provider.import(DeviceId::new(4), &importers[1]),
        Err(revoked)
    );
    let [first, _] = imports;
    let (first, kept) = provider.leave(first).unwrap_err();
    assert!(
        matches!(kept, PeerError::HasParts { parts: 2, .. }),
        "{kept}"
    );

    importers[0].end_all(&provider);
    provider.leave(first).unwrap();
    provider.revoke(Duration::from_secs(60)).unwrap();
    assert_eq!(provider.release().unwrap(), window());
}

#[test]
fn parts_lie_in_the_window_and_go_home_to_their_provider() {
    let importer = Importer::new(1, Path::Direct);
    let one = Provider::new(HostPlatform::new(1), ProviderId(1), FIRST, window());
    let other = Provider::new(HostPlatform::new(1), ProviderId(2), FIRST, window());
    let import = one.import(DeviceId::new(1), &importer).unwrap();
    for (offset, len) in [(0, 0), (0, BAR_BYTES + 1), (BAR_BYTES, 1), (u64::MAX, 2)] {
        let outside = one.lend(&import, offset, len).unwrap_err();
        assert!(matches!(outside, PeerError::Outside { .. }), "{outside}");
    }
    let foreign = PeerError::Foreign {
        owner: ProviderId(1),
        provider: ProviderId(2),
    };
    assert_eq!(other.lend(&import, 0, 1), Err(foreign));
    let memory = one.lend(&import, BAR_BYTES - 1, 1).unwrap();
    let (memory, error) = other.take_back(memory).unwrap_err();
    assert_eq!(error, foreign);
    one.take_back(memory).unwrap();
    one.release().unwrap();
    other.release().unwrap();
}

#[test]
fn a_device_of_which_everything_bounces_never_gets_peer_memory() {
    let start = PhysAddr::new(0x4000_0000);
    let range = PhysRange::new(start, 1 << 20).unwrap();
    let (_ram, segments) = HostRam::new(&[range]).unwrap();
    let segment = segments.into_iter().next().unwrap();
    let config = BounceConfig::default();
    let pool = BouncePool::<_>::new(HostPlatform::new(1), segment, &config).unwrap();
    let places = switch(Forwards::Below, Redirect::Off);
    let importer = Importer::new(1, Path::Direct);
    let provider = Provider::new(HostPlatform::new(1), ProviderId(1), FIRST, window());
    let import = provider.import(DeviceId::new(1), &importer).unwrap();
    for (when, bounces) in [(BounceWhen::Always, true), (BounceWhen::Needed, false)] {
        let path = Path::Bounced {
            pool: &pool,
            id: pool.attach(None).unwrap(),
            when,
        };
        let info = *importer.device.info();
        let device = Device::<_>::new(HostPlatform::new(1), info, path, CoherentSource::None);
        let mut paths = PeerPaths::new(Topology::new(&places).unwrap(), SECOND);
        let memory = provider.lend(&import, 0, 4096).unwrap();
        let memory = match device.map_peer::<FromDevice>(memory, &mut paths, NONE) {
            Ok(mapping) => {
                assert!(!bounces);
                let debt = device.unmap_peer(mapping).unwrap();
                device.redeem(debt, &device.sync().unwrap()).unwrap()
            }
            Err(failure) => {
                assert!(bounces);
                let forced = PeerError::WouldBounce(BounceCause::Forced);
                assert_eq!(failure.error, forced);
                failure.memory
            }
        };
        provider.take_back(memory).unwrap();
    }
    assert_eq!(pool.used(), 0);
    provider.release().unwrap();
}
