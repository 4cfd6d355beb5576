//! The book and the lines of two-step mappings, of memory that moves and of other devices' memory.

use dmakit::addr::{Attributes, Bidirectional, DmaAddr, ToDevice};
use dmakit::dma::{
    Fault, Forwards, Kind, Ledger, PeerImporter, PeerPaths, PeerProvider, PeerWindow, Place,
    PlaceId, ProviderId, Redirect, ScatterList, TakeBack, Topology, Tracer,
};
use dmakit::platform::Platform;
use dmakit_sim::Machine;

use crate::rig::Rig;

const NONE: Attributes = Attributes::NONE;
const PAGE: u64 = 4096;

const PLACES: [Place; 3] = [
    Place::HostBridge {
        forwards: Forwards::Below,
    },
    function(),
    function(),
];

const fn function() -> Place {
    Place::Function {
        above: PlaceId(0),
        redirect: Redirect::Off,
    }
}

fn paths() -> PeerPaths<'static> {
    PeerPaths::new(Topology::new(&PLACES).unwrap(), PlaceId(2))
}

struct Untold;

impl PeerImporter for Untold {
    fn revoked(&self, _: ProviderId, _: &TakeBack<'_>) {}
}

/// What the lines must be; the reader of traces is held to them too.
const LINES: &str = include_str!("traced.trace");

#[test]
fn every_step_is_a_line_and_everything_live_has_its_entry() {
    let rig = Rig::coherent(70);
    let domain = rig.strict();
    let ledger = Ledger::<Machine, 32, 8>::new(&rig.machine);
    let tracer = Tracer::new(rig.machine.clone(), String::new());
    let device = rig.device(rig.info(), &domain).watched((&ledger, &tracer));

    let mut around = rig.buffer(0x1800, 0x800, 1);
    let mapping = device.map::<ToDevice>(around.take(), NONE).unwrap();
    device.unmap_and_sync(mapping).unwrap();
    let block = device.alloc_coherent::<u64>(512, NONE).unwrap();
    device.free_coherent(block).unwrap();

    let [mut one, mut two] = [1, 2].map(|byte| rig.buffer(2 * PAGE, 0, byte));
    let [first, second] = [one.run, two.run];
    let (one, two) = (one.take(), two.take());
    let request = device.reserve::<Bidirectional>(first.start(), 4 * PAGE, 1, NONE);
    let mut request = request.unwrap();
    device.link(&mut request, first, &one).unwrap();
    device.link(&mut request, second, &two).unwrap();
    let sealed = device.seal(request).unwrap();
    assert_eq!(ledger.live(), 3);

    // The second page moves to one of its own.
    let target = rig.segment(PAGE);
    let mut moving = device.withhold(&sealed, PAGE, PAGE).unwrap();
    assert_eq!(ledger.live(), 4, "the first link is in two");
    moving.redirect(target.range().start()).unwrap();
    device.readmit(moving).unwrap().unwrap();
    let mut request = sealed.reopen();
    let tail = ScatterList::new(vec![two]).unwrap();
    let none = core::iter::empty();
    let tail = device
        .unlink_tail(&mut request, 2 * PAGE, tail, none.clone())
        .unwrap();
    assert_eq!(ledger.live(), 3);

    // Where the page was is nobody's; where it is, it is in the book.
    let mut window = device
        .open_window::<Bidirectional>(4 * PAGE, 1, NONE)
        .unwrap();
    let was = first.slice(PAGE, PAGE).unwrap();
    device.link_page(&mut window, 0, was).unwrap();
    assert_eq!(ledger.counts().total(), 0);
    device.link_page(&mut window, PAGE, target.range()).unwrap();
    assert_eq!(ledger.counts().overlaps, 1);
    let debt = device.unlink_pages(&mut window, 0, 2 * PAGE, ()).unwrap();

    let memory = rig.segment(4 * PAGE);
    let range = PeerWindow::new(memory.range(), DmaAddr::new(0x5000_0000)).unwrap();
    let provider = PeerProvider::<_>::new(rig.machine.clone(), ProviderId(3), PlaceId(1), range);
    let import = provider.import(device.info().id, &Untold).unwrap();
    let mut lend = |offset| provider.lend(&import, offset, PAGE).unwrap();
    let parts = [lend(0), lend(PAGE), lend(2 * PAGE)];
    let [in_request, in_window, alone] = parts;
    let mut paths = paths();
    device
        .link_peer(&mut request, &in_request, &mut paths)
        .unwrap();
    device
        .link_peer_page(&mut window, 2 * PAGE, &in_window, &mut paths)
        .unwrap();
    let alone = device
        .map_peer::<ToDevice>(alone, &mut paths, NONE)
        .unwrap();
    assert_eq!(ledger.live(), 7);
    let alone = device.unmap_peer(alone).unwrap();
    let in_window = device
        .unlink_pages(&mut window, 2 * PAGE, PAGE, in_window)
        .unwrap();
    let one = ScatterList::new(vec![one]).unwrap();
    let one = device.cancel(request, one, none).unwrap();
    let proof = device.sync().unwrap();
    for debt in [tail, one] {
        device.redeem(debt, &proof).unwrap();
    }
    device.redeem(debt, &proof).unwrap();
    device.close_window(window).unwrap();
    for part in [alone, in_window] {
        let part = device.redeem(part, &proof).unwrap();
        provider.take_back(part).unwrap();
    }
    provider.take_back(in_request).unwrap();
    assert_eq!(ledger.live(), 0);
    assert_eq!(ledger.counts().total(), 1);
    device.remove().unwrap();
    let lines = tracer.with(|lines| lines.clone());
    let header = Tracer::<Machine, String>::HEADER;
    assert_eq!(format!("{header}{lines}"), LINES);
    assert_eq!(tracer.lost(), 0);
    rig.close(domain);
}

#[test]
fn what_a_driver_forgot_in_another_devices_memory_or_out_of_reach_is_named() {
    let rig = Rig::coherent(71);
    let domain = rig.strict();
    let ledger = Ledger::<Machine, 32, 8>::new(&rig.machine);
    let device = rig.device(rig.info(), &domain).watched(&ledger);
    let mut around = rig.buffer(2 * PAGE, 0, 1);
    let (run, buffer) = (around.run, around.take());
    let request = device.reserve::<Bidirectional>(run.start(), run.len(), 1, NONE);
    let mut request = request.unwrap();
    device.link(&mut request, run, &buffer).unwrap();
    let sealed = device.seal(request).unwrap();
    let moving = device.withhold(&sealed, PAGE, PAGE).unwrap();
    drop(moving);
    let debt = device.destroy(sealed, buffer, core::iter::empty()).unwrap();
    assert!(device.redeem(debt, &device.sync().unwrap()).is_err());
    let finding = ledger.finding(0).unwrap();
    assert_eq!(finding.fault, Fault::Withheld);
    assert_eq!(
        (finding.party.kind, finding.party.len),
        (Kind::Request, PAGE)
    );

    let memory = rig.segment(PAGE);
    rig.machine.clean_invalidate(memory.range());
    let range = PeerWindow::new(memory.range(), DmaAddr::new(0x5000_0000)).unwrap();
    let provider = PeerProvider::<_>::new(rig.machine.clone(), ProviderId(3), PlaceId(1), range);
    let import = provider.import(device.info().id, &Untold).unwrap();
    let part = provider.lend(&import, 0, PAGE).unwrap();
    let mapping = device.map_peer::<ToDevice>(part, &mut paths(), NONE);
    drop(mapping.unwrap());
    device.remove().unwrap_err();
    let finding = ledger.finding(1).unwrap();
    assert_eq!(
        (finding.fault, finding.party.kind),
        (Fault::Leak, Kind::Peer)
    );
    let text = finding.to_string();
    assert!(text.contains("memory of provider 3"), "{text}");
    assert!(text.contains("traced.rs"), "{text}");
}
