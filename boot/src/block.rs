//! A virtio disk, driven by a published driver.

use core::time::Duration;

use dmakit_dma::{DeviceStats, Translate};
use dmakit_platform::Platform;
use virtio_drivers::device::blk::{BlkReq, BlkResp, SECTOR_SIZE, VirtIOBlk};
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::DeviceFunction;

use crate::board::Board;
use crate::path::{Client, Untyped};
use crate::pci::Bus;
use crate::translation::Translator;
use crate::virtio::{self, Hal, Transport};
use crate::workload::{self, Disk, Failure, Workload};

/// The longest that a request is waited for.
const TIME_MAX: Duration = Duration::from_secs(5);

/// How often a disk that was reset is opened, until it is.
const OPENS: u32 = 10;

type Driver<T> = VirtIOBlk<Hal<T>, Transport>;

/// Puts a virtio disk through a workload.
pub struct Exercise<'a> {
    pub bus: &'a mut Bus,
    pub function: DeviceFunction,
    pub translator: Option<&'a Translator>,
    pub workload: Workload,
}

/// The first virtio disk.
pub fn find(bus: &Bus) -> Result<DeviceFunction, &'static str> {
    virtio::find(bus, DeviceType::Block).ok_or("no virtio disk")
}

impl Client for Exercise<'_> {
    fn run<T: Translate + 'static>(self, device: Untyped<T>) -> Result<DeviceStats, &'static str> {
        let device = virtio::settle(device);
        let mut disk = Blk {
            driver: Some(open(self.bus, self.function)?),
            device,
            bus: self.bus,
            function: self.function,
            translator: self.translator,
        };
        let digest = workload::run(&mut disk, &self.workload)?;
        println!("sha256={digest:x}");
        drop(disk);
        Ok(device.device().stats())
    }
}

fn open<T: Translate + 'static>(
    bus: &mut Bus,
    function: DeviceFunction,
) -> Result<Driver<T>, &'static str> {
    VirtIOBlk::new(virtio::transport::<T>(bus, function)?).map_err(|_| "no disk")
}

struct Blk<'a, T: Translate + 'static> {
    driver: Option<Driver<T>>,
    device: &'static Untyped<T>,
    bus: &'a mut Bus,
    function: DeviceFunction,
    translator: Option<&'a Translator>,
}

impl<T: Translate + 'static> Blk<'_, T> {
    fn driver(&mut self) -> Result<&mut Driver<T>, Failure> {
        self.driver.as_mut().ok_or(Failure::Broken("no driver"))
    }

    /// Whether the device was refused anything since this was last asked: the SMMU says so, or,
    /// where there is none, whoever maps its buffers.
    fn has_faulted(&self) -> bool {
        match self.translator {
            Some(translator) => translator.take_faults() > 0,
            None => virtio::take_refused() > 0,
        }
    }

    /// Waits until the device has used something; false if it faulted, or takes too long.
    fn wait(&mut self) -> Result<bool, Failure> {
        let started = Board.now();
        while self.driver()?.peek_used().is_none() {
            if self.has_faulted() || Board.now().saturating_since(started) > TIME_MAX {
                return Ok(false);
            }
            core::hint::spin_loop();
        }
        // A faulted read of a request gives it zeroes, and the device reports success.
        Ok(!self.has_faulted())
    }

    /// Begins again with a device that went wrong.
    fn reset(&mut self) -> Failure {
        // Resets the device.
        self.driver = None;
        // SAFETY: it was reset, and its driver is gone.
        if unsafe { self.device.unmap_all() }.is_err() {
            return Failure::Broken("a mapping of a device that was reset does not end");
        }
        // Its queue needs memory, which may be refused as well.
        self.driver = (0..OPENS).find_map(|_| open(self.bus, self.function).ok());
        match self.driver {
            Some(_) => Failure::Reset,
            None => Failure::Broken("the disk does not come back"),
        }
    }
}

impl<T: Translate + 'static> Disk for Blk<'_, T> {
    fn sectors(&self) -> u64 {
        self.driver.as_ref().map_or(0, |driver| driver.capacity())
    }

    fn read(&mut self, sector: u64, bytes: &mut [u8]) -> Result<(), Failure> {
        let (mut request, mut response) = (BlkReq::default(), BlkResp::default());
        // SAFETY: nothing touches the three until the request is completed, or the device reset.
        let token = unsafe {
            self.driver()?
                .read_blocks_nb(sector as usize, &mut request, bytes, &mut response)
        };
        let token = token.map_err(|_| Failure::Broken("the queue refuses a read"))?;
        if !self.wait()? {
            return Err(self.reset());
        }
        // SAFETY: the same three.
        let done = unsafe {
            self.driver()?
                .complete_read_blocks(token, &request, bytes, &mut response)
        };
        done.map_err(|_| self.reset())
    }

    fn write(&mut self, sector: u64, bytes: &[u8]) -> Result<(), Failure> {
        let (mut request, mut response) = (BlkReq::default(), BlkResp::default());
        // SAFETY: as in `read`.
        let token = unsafe {
            self.driver()?
                .write_blocks_nb(sector as usize, &mut request, bytes, &mut response)
        };
        let token = token.map_err(|_| Failure::Broken("the queue refuses a write"))?;
        if !self.wait()? {
            return Err(self.reset());
        }
        // SAFETY: the same three.
        let done = unsafe {
            self.driver()?
                .complete_write_blocks(token, &request, bytes, &mut response)
        };
        done.map_err(|_| self.reset())
    }
}

const _: () = assert!(SECTOR_SIZE == workload::SECTOR);
