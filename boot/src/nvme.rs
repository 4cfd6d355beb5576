//! An NVMe disk, driven by a published driver that knows the machine by `dma-api` alone and makes
//! progress by interrupts only.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::num::{NonZeroU64, NonZeroUsize};
use core::ptr::NonNull;
use core::time::Duration;

use dma_api::{CpuDmaBuffer, DeviceDma, DmaDirection, DmaDomainId};
use dmakit_addr::{Attributes, Direction, PhysAddr, PhysRange};
use dmakit_dma::{Path, Translate, Unchecked};
use dmakit_dma_api::{DeviceOp, ProgramMemory};
use dmakit_platform::{IrqMutex, Platform};
use dmakit_swiotlb::NoGrowth;
use mmio_api::{MapError, MmioAddr, MmioOp, MmioRaw};
use nvme_driver::{Config, Nvme, NvmeBlockDriver};
use rdif_block::{
    BHardwareQueue, BlockController, CompletedRequest, CompletionSink, ControllerEvent,
    ControllerState, ControllerUpdate, IrqAck, OwnedRequest, OwnedRequestBatch, RequestFlags,
    RequestId, RequestOp, SubmissionSink,
};
use sha2::{Digest, Sha256};
use virtio_drivers::transport::pci::bus::DeviceFunction;

use crate::board::Board;
use crate::interrupts::{self, Interrupts};
use crate::memory::{Coherent, leak};
use crate::path::{Client, Untyped};
use crate::pci::{Bus, requester};
use crate::println;

/// The longest that anything is waited for.
const TIME_MAX: Duration = Duration::from_secs(5);

/// Bytes of one transfer.
const TRANSFER: usize = 64 << 10;

type Op<T> = DeviceOp<Board, NoGrowth, Identity, Unchecked, T>;

/// Memory that is mapped to the same numbers.
struct Identity;

// SAFETY: so it is, the program's included.
unsafe impl ProgramMemory for Identity {
    fn phys(&self, bytes: NonNull<[u8]>) -> Option<PhysRange> {
        let start = bytes.cast::<u8>().as_ptr().expose_provenance();
        PhysRange::new(PhysAddr::new(start as u64), bytes.len() as u64).ok()
    }
}

impl MmioOp for Identity {
    fn ioremap(&self, addr: MmioAddr, size: usize) -> Result<MmioRaw, MapError> {
        let start = core::ptr::with_exposed_provenance_mut(addr.as_usize());
        let start = NonNull::new(start).ok_or(MapError::Invalid)?;
        // SAFETY: device registers are mapped to the same numbers, for ever.
        Ok(unsafe { MmioRaw::new(addr, start, size) })
    }

    fn iounmap(&self, _mmio: &MmioRaw) {}
}

/// What interrupts said and nobody has looked at yet.
static SAID: IrqMutex<Board, VecDeque<IrqAck>> = IrqMutex::<Board, _>::new(VecDeque::new());

struct Disk<'a> {
    driver: NvmeBlockDriver,
    queues: Vec<BHardwareQueue>,
    interrupts: &'a Interrupts<&'static Coherent>,
    function: dmakit_its::Device,
    completions: u64,
}

/// Reads an NVMe disk from end to end.
pub struct ReadDisk<'a> {
    pub bus: &'a mut Bus,
    pub function: DeviceFunction,
    pub interrupts: &'a Interrupts<&'static Coherent>,
}

/// The first NVMe disk.
pub fn find(bus: &Bus) -> Result<DeviceFunction, &'static str> {
    bus.of_class(1, 8).ok_or("no NVMe disk")
}

impl Client for ReadDisk<'_> {
    fn run<T: Translate + 'static>(self, device: Untyped<T>) -> Result<(), &'static str> {
        let Self {
            bus,
            function,
            interrupts,
        } = self;
        let bar = bus.bar(function, 0).ok_or("no registers")?;
        let doorbell = PhysRange::new(interrupts.doorbell(), 4).map_err(|_| "no doorbell")?;
        let doorbell =
            device
                .device()
                .map_resource(doorbell, Direction::FromDevice, Attributes::NONE);
        let doorbell = doorbell.map_err(|_| "the doorbell is not mapped")?;
        let op: &Op<T> = leak(Op::new(device, Identity));
        let domain = match NonZeroU64::new(requester(function).into()) {
            Some(id) if matches!(op.device().device().path(), Path::Translated { .. }) => {
                DmaDomainId::Translated(id)
            }
            _ => DmaDomainId::Direct,
        };
        let dma = DeviceDma::new(op.info(domain), op);

        let its_device = interrupts.device(requester(function), 2)?;
        bus.enable_msix(function, doorbell.addr.raw(), 2)?;
        let config = Config::msix(4096, [0, 1]).map_err(|_| "no vectors")?;
        let address = MmioAddr::from(bar.start().raw());
        let nvme = Nvme::new(address, bar.len() as usize, dma.clone(), &Identity, config);
        let driver = NvmeBlockDriver::from_nvme(nvme.map_err(|_| "no NVMe controller")?);
        let mut disk = Disk {
            driver,
            queues: Vec::new(),
            interrupts,
            function: its_device,
            completions: 0,
        };
        disk.start()?;
        let digest = disk.hash(&dma)?;
        disk.stop()?;
        let (irqs, completions) = (interrupts::taken(), disk.completions);
        println!("sha256={digest:x} irqs={irqs} completions={completions}");
        drop(disk);
        let unmapped = op.device().device().unmap_resource(doorbell);
        unmapped.map_err(|_| "the doorbell is not unmapped")?;
        println!("dma: {:?}", op.device().device().stats());
        Ok(())
    }
}

impl Disk<'_> {
    fn start(&mut self) -> Result<(), &'static str> {
        let started = Board.now();
        let mut update = self.advance(ControllerEvent::Start { target_queues: 1 })?;
        loop {
            self.take(&mut update)?;
            let event = match update.controller_state() {
                ControllerState::Ready if !self.queues.is_empty() => return Ok(()),
                ControllerState::RegisterPending { .. } => ControllerEvent::RegisterRetry,
                _ => ControllerEvent::Irq(wait()?.control_event()),
            };
            if Board.now().saturating_since(started) > TIME_MAX {
                return Err("the controller does not become ready");
            }
            update = self.advance(event)?;
        }
    }

    fn stop(&mut self) -> Result<(), &'static str> {
        for queue in &mut self.queues {
            queue
                .shutdown(&mut Done(None))
                .map_err(|_| "a queue does not stop")?;
        }
        let started = Board.now();
        let mut event = ControllerEvent::Shutdown;
        while self.advance(event)?.controller_state() != ControllerState::Shutdown {
            event = ControllerEvent::RegisterRetry;
            if Board.now().saturating_since(started) > TIME_MAX {
                return Err("the controller does not stop");
            }
        }
        Ok(())
    }

    fn advance(&mut self, event: ControllerEvent) -> Result<ControllerUpdate, &'static str> {
        self.driver
            .advance(event)
            .map_err(|_| "the controller refuses")
    }

    /// Takes queues and interrupt handlers that the controller made.
    fn take(&mut self, update: &mut ControllerUpdate) -> Result<(), &'static str> {
        self.queues.append(&mut update.take_queues());
        for endpoint in update.take_irq_endpoints() {
            let event = endpoint.source_id() as u32;
            let mut handler = endpoint.into_handler();
            let handler = Box::new(move || SAID.lock().push_back(handler.ack()));
            self.interrupts.handle(&mut self.function, event, handler)?;
        }
        Ok(())
    }

    fn hash(&mut self, dma: &DeviceDma) -> Result<impl core::fmt::LowerHex + use<>, &'static str> {
        let info = self.driver.device_info();
        let block = info.logical_block_size as u64;
        let mut hash = Sha256::new();
        let mut next = 0;
        while next < info.num_blocks {
            let blocks = (info.num_blocks - next).min(TRANSFER as u64 / block);
            let completed = self.transfer(dma, next, blocks as u32, (blocks * block) as usize)?;
            hash.update(completed.as_slice_cpu());
            next += blocks;
        }
        Ok(hash.finalize())
    }

    /// Reads some blocks, and waits for the interrupt that says they are there.
    fn transfer(
        &mut self,
        dma: &DeviceDma,
        lba: u64,
        block_count: u32,
        bytes: usize,
    ) -> Result<CpuDmaBuffer, &'static str> {
        let len = NonZeroUsize::new(bytes).ok_or("nothing to read")?;
        let buffer = CpuDmaBuffer::new_zero(dma, len, 4096, DmaDirection::FromDevice);
        let request = OwnedRequest {
            op: RequestOp::Read,
            lba,
            block_count,
            data: Some(buffer.map_err(|_| "no buffer")?.prepare_for_device()),
            flags: RequestFlags::NONE,
        };
        let mut batch: OwnedRequestBatch = [request].into_iter().collect();
        let queue = self.queues.first_mut().ok_or("no queue")?;
        let submitted = queue.submit_batch_owned(&mut batch, &mut Accepted);
        if submitted.accepted() != 1 {
            return Err("the queue refuses a read");
        }
        queue
            .commit_submissions()
            .map_err(|_| "a read is not published")?;
        let mut done = Done(None);
        while done.0.is_none() {
            wait()?;
            queue
                .drain_completions(&mut done)
                .map_err(|_| "a broken completion queue")?;
        }
        self.completions += 1;
        let completed = done.0.ok_or("no completion")?;
        completed.result.map_err(|_| "a failed read")?;
        Ok(completed
            .data
            .ok_or("a read without data")?
            .into_cpu_buffer())
    }
}

/// The next interrupt's word.
fn wait() -> Result<IrqAck, &'static str> {
    let started = Board.now();
    loop {
        if let Some(said) = SAID.lock().pop_front() {
            return Ok(said);
        }
        if Board.now().saturating_since(started) > TIME_MAX {
            return Err("no interrupt");
        }
        core::hint::spin_loop();
    }
}

struct Accepted;

impl SubmissionSink for Accepted {
    fn accepted(&mut self, _id: RequestId) {}
}

struct Done(Option<CompletedRequest>);

impl CompletionSink for Done {
    fn complete(&mut self, request: CompletedRequest) {
        self.0 = Some(request);
    }
}
