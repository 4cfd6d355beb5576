//! Pages of a window, and what the model knows of them.

use dmakit::addr::{Attributes, Bidirectional, DmaAddr};
use dmakit::dma::{PageWindow, Translate};
use dmakit::platform::Segment;
use dmakit_sim::Rng;

use super::slot::noise;
use crate::rig::{BOTH, Rig, TestDevice};

const PAGE: u64 = 4096;
const PAGES: usize = 8;

pub struct Pages {
    window: PageWindow<Bidirectional>,
    memory: Vec<Segment>,
    is_linked: [bool; PAGES],
    bytes: Vec<Vec<u8>>,
    pub device: usize,
}

impl Pages {
    pub fn new<T: Translate>(
        rig: &Rig,
        device: &TestDevice<'_, T>,
        index: usize,
        rng: &mut Rng,
    ) -> Self {
        let len = PAGES as u64 * PAGE;
        let window = device.open_window(len, 1, Attributes::NONE).unwrap();
        let memory: Vec<_> = (0..PAGES).map(|_| rig.segment(PAGE)).collect();
        let bytes: Vec<_> = (0..PAGES).map(|_| noise(rng, PAGE)).collect();
        for (page, bytes) in memory.iter().zip(&bytes) {
            page.window().write(bytes);
        }
        Self {
            window,
            memory,
            is_linked: [false; PAGES],
            bytes,
            device: index,
        }
    }

    fn addr(&self, page: usize) -> DmaAddr {
        self.window.dma_addr(page as u64 * PAGE).unwrap()
    }

    pub fn step<T: Translate>(&mut self, rig: &Rig, device: &TestDevice<'_, T>, rng: &mut Rng) {
        let page = rng.below(PAGES as u64) as usize;
        match (self.is_linked[page], rng.chance(128)) {
            (false, _) => self.link(rig, device, page, rng),
            (true, true) => self.transfer(rig, page, rng),
            (true, false) => {
                let linked = self.is_linked[page..].iter().take_while(|linked| **linked);
                let count = 1 + rng.below(linked.count() as u64) as usize;
                self.unlink(rig, device, page, count, rng);
            }
        }
    }

    fn link<T: Translate>(
        &mut self,
        rig: &Rig,
        device: &TestDevice<'_, T>,
        page: usize,
        rng: &mut Rng,
    ) {
        self.bytes[page] = noise(rng, PAGE);
        self.memory[page].window().write(&self.bytes[page]);
        let range = self.memory[page].range();
        rig.sim.grant(range, BOTH);
        let at = page as u64 * PAGE;
        device.link_page(&mut self.window, at, range).unwrap();
        device.announce_pages(&mut self.window, at, PAGE).unwrap();
        self.is_linked[page] = true;
    }

    fn transfer(&mut self, rig: &Rig, page: usize, rng: &mut Rng) {
        let at = rng.below(PAGE) as usize;
        let len = 1 + rng.below((PAGE as usize - at).min(200) as u64) as usize;
        let addr = DmaAddr::new(self.addr(page).raw() + at as u64);
        let here = &mut self.bytes[page][at..at + len];
        if rng.chance(128) {
            here.copy_from_slice(&noise(rng, len as u64));
            rig.sim.write(addr, here).unwrap();
        } else {
            let mut seen = vec![0; len];
            rig.sim.read(addr, &mut seen).unwrap();
            assert!(seen == here, "the device reads something else");
        }
    }

    /// With a write on its way to the first page, which lands by the end of the sync or never.
    fn unlink<T: Translate>(
        &mut self,
        rig: &Rig,
        device: &TestDevice<'_, T>,
        page: usize,
        count: usize,
        rng: &mut Rng,
    ) {
        let (at, news) = (rng.below(PAGE / 64) as usize * 64, noise(rng, 64));
        let addr = DmaAddr::new(self.addr(page).raw() + at as u64);
        let late = rng.chance(128).then(|| rig.sim.start_write(addr, &news));
        let (offset, len) = (page as u64 * PAGE, count as u64 * PAGE);
        let debt = device.unlink_pages(&mut self.window, offset, len, ());
        rig.machine.disturb();
        let proof = device.sync().unwrap();
        let pages = page..page + count;
        for page in &self.memory[pages.clone()] {
            rig.sim.revoke(page.range(), BOTH);
        }
        if late.is_some_and(|late| rig.sim.complete(late).is_ok()) {
            self.bytes[page][at..at + 64].copy_from_slice(&news);
        }
        device.redeem(debt.unwrap(), &proof).unwrap();
        for page in pages {
            self.is_linked[page] = false;
            let mut seen = vec![0; PAGE as usize];
            self.memory[page].window().read(&mut seen);
            assert!(seen == self.bytes[page], "page {page} has other bytes");
            assert!(rig.sim.write(self.addr(page), &[9; 8]).is_err());
        }
    }

    pub fn close<T: Translate>(mut self, device: &TestDevice<'_, T>) {
        for page in (0..PAGES).filter(|page| self.is_linked[*page]) {
            let at = page as u64 * PAGE;
            let debt = device.unlink_pages(&mut self.window, at, PAGE, ());
            device
                .redeem(debt.unwrap(), &device.sync().unwrap())
                .unwrap();
        }
        device.close_window(self.window).unwrap();
    }
}
