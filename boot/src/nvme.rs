//! An NVMe disk, driven by a published driver that knows the machine by `dma-api` alone and makes
//! progress by interrupts only.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::num::{NonZeroU64, NonZeroUsize};
use core::time::Duration;

use dma_api::{CpuDmaBuffer, DeviceDma, DmaDirection, DmaDomainId};
use dmakit_addr::{Attributes, Direction, PhysAddr, PhysRange};
use dmakit_dma::{DeviceStats, DmaSegment, Path, Translate, Unchecked};
use dmakit_dma_api::DeviceOp;
use dmakit_platform::{IrqMutex, Platform};
use dmakit_swiotlb::NoGrowth;
use mmio_api::MmioAddr;
use nvme_driver::{Config, Nvme, NvmeBlockDriver};
use rdif_block::{
    BHardwareQueue, BlockController, CompletedRequest, CompletionSink, ControllerEvent,
    ControllerState, ControllerUpdate, IrqAck, OwnedRequest, OwnedRequestBatch, RequestFlags,
    RequestId, RequestOp, SubmissionSink,
};
use virtio_drivers::transport::pci::bus::DeviceFunction;

use crate::board::Board;
use crate::identity::Identity;
use crate::interrupts::{self, Interrupts};
use crate::memory::{Coherent, leak};
use crate::path::{Client, Untyped};
use crate::pci::{Bus, requester};
use crate::println;
use crate::workload::{self, Disk, Failure, SECTOR, Workload};

/// The longest that anything is waited for.
const TIME_MAX: Duration = Duration::from_secs(5);

type Op<T> = DeviceOp<Board, NoGrowth, Identity, Unchecked, T>;

/// What interrupts said and nobody has looked at yet.
static SAID: IrqMutex<Board, VecDeque<IrqAck>> = IrqMutex::<Board, _>::new(VecDeque::new());

struct Driven<'a> {
    driver: NvmeBlockDriver,
    dma: DeviceDma,
    queues: Vec<BHardwareQueue>,
    interrupts: &'a Interrupts<&'static Coherent>,
    function: dmakit_its::Device,
    completions: u64,
}

/// Puts an NVMe disk through a workload.
pub struct Exercise<'a> {
    pub bus: &'a mut Bus,
    pub function: DeviceFunction,
    pub interrupts: &'a Interrupts<&'static Coherent>,
    pub workload: Workload,
    /// Whether the device is not let to the doorbell, so that interrupts must fail.
    pub doorbell_unmapped: bool,
}

/// The first NVMe disk.
pub fn find(bus: &Bus) -> Result<DeviceFunction, &'static str> {
    bus.of_class(1, 8).ok_or("no NVMe disk")
}

impl Client for Exercise<'_> {
    fn run<T: Translate + 'static>(self, device: Untyped<T>) -> Result<DeviceStats, &'static str> {
        let Self {
            bus,
            function,
            interrupts,
            ..
        } = self;
        let bar = bus.bar(function, 0).ok_or("no registers")?;
        let doorbell = Doorbell::open(&device, interrupts.doorbell(), self.doorbell_unmapped)?;
        let op: &Op<T> = leak(Op::new(device, Identity));
        let domain = match NonZeroU64::new(requester(function).into()) {
            Some(id) if matches!(op.device().device().path(), Path::Translated { .. }) => {
                DmaDomainId::Translated(id)
            }
            _ => DmaDomainId::Direct,
        };
        let dma = DeviceDma::new(op.info(domain), op);

        let its_device = interrupts.device(requester(function), 2)?;
        bus.enable_msix(function, doorbell.addr, 2)?;
        let config = Config::msix(4096, [0, 1]).map_err(|_| "no vectors")?;
        let address = MmioAddr::from(bar.start().raw());
        let nvme = Nvme::new(address, bar.len() as usize, dma.clone(), &Identity, config);
        let driver = NvmeBlockDriver::from_nvme(nvme.map_err(|_| "no NVMe controller")?);
        let mut disk = Driven {
            driver,
            dma,
            queues: Vec::new(),
            interrupts,
            function: its_device,
            completions: 0,
        };
        disk.start()?;
        if disk.driver.device_info().logical_block_size != SECTOR {
            return Err("blocks that are no sectors");
        }
        let digest = workload::run(&mut disk, &self.workload)?;
        disk.stop()?;
        let (irqs, completions) = (interrupts::taken(), disk.completions);
        println!("sha256={digest:x} irqs={irqs} completions={completions}");
        drop(disk);
        doorbell.close(op.device())?;
        Ok(op.device().device().stats())
    }
}

/// Where the device's interrupts go.
struct Doorbell {
    addr: u64,
    mapped: Option<DmaSegment>,
}

impl Doorbell {
    fn open<T: Translate + 'static>(
        device: &Untyped<T>,
        at: PhysAddr,
        unmapped: bool,
    ) -> Result<Self, &'static str> {
        if unmapped {
            return Ok(Self {
                addr: at.raw(),
                mapped: None,
            });
        }
        let at = PhysRange::new(at, 4).map_err(|_| "no doorbell")?;
        let device = device.device();
        let mapped = device.map_resource(at, Direction::FromDevice, Attributes::NONE);
        let mapped = mapped.map_err(|_| "the doorbell is not mapped")?;
        Ok(Self {
            addr: mapped.addr.raw(),
            mapped: Some(mapped),
        })
    }

    fn close<T: Translate + 'static>(self, device: &Untyped<T>) -> Result<(), &'static str> {
        let unmapped = self
            .mapped
            .map(|mapped| device.device().unmap_resource(mapped));
        let unmapped = unmapped.transpose().map(drop);
        unmapped.map_err(|_| "the doorbell is not unmapped")
    }
}

impl Driven<'_> {
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

    /// Reads or writes some blocks, and waits for the interrupt that says it is done.
    fn transfer(
        &mut self,
        op: RequestOp,
        sector: u64,
        buffer: CpuDmaBuffer,
    ) -> Result<CpuDmaBuffer, Failure> {
        let blocks = buffer.len().get() / SECTOR;
        let request = OwnedRequest {
            op,
            lba: sector,
            block_count: blocks as u32,
            data: Some(buffer.prepare_for_device()),
            flags: RequestFlags::NONE,
        };
        let mut batch: OwnedRequestBatch = [request].into_iter().collect();
        let queue = self.queues.first_mut().ok_or(Failure::Broken("no queue"))?;
        let submitted = queue.submit_batch_owned(&mut batch, &mut Accepted);
        if submitted.accepted() != 1 {
            return Err(Failure::Broken("the queue refuses a request"));
        }
        queue
            .commit_submissions()
            .map_err(|_| Failure::Broken("a request is not published"))?;
        let mut done = Done(None);
        while done.0.is_none() {
            wait().map_err(Failure::Broken)?;
            queue
                .drain_completions(&mut done)
                .map_err(|_| Failure::Broken("a broken completion queue"))?;
        }
        self.completions += 1;
        let completed = done.0.ok_or(Failure::Broken("no completion"))?;
        completed
            .result
            .map_err(|_| Failure::Broken("a failed request"))?;
        let data = completed.data.ok_or(Failure::Broken("no data"))?;
        Ok(data.into_cpu_buffer())
    }

    /// Memory for a transfer, which may be refused.
    fn buffer(&self, bytes: usize, to: DmaDirection) -> Result<CpuDmaBuffer, Failure> {
        let len = NonZeroUsize::new(bytes).ok_or(Failure::Broken("nothing to transfer"))?;
        CpuDmaBuffer::new_zero(&self.dma, len, 4096, to).map_err(|_| Failure::Refused)
    }
}

impl Disk for Driven<'_> {
    fn sectors(&self) -> u64 {
        let info = self.driver.device_info();
        info.num_blocks * info.logical_block_size as u64 / SECTOR as u64
    }

    fn read(&mut self, sector: u64, bytes: &mut [u8]) -> Result<(), Failure> {
        let buffer = self.buffer(bytes.len(), DmaDirection::FromDevice)?;
        let buffer = self.transfer(RequestOp::Read, sector, buffer)?;
        bytes.copy_from_slice(buffer.as_slice_cpu());
        Ok(())
    }

    fn write(&mut self, sector: u64, bytes: &[u8]) -> Result<(), Failure> {
        let mut buffer = self.buffer(bytes.len(), DmaDirection::ToDevice)?;
        buffer.copy_from_slice_cpu(bytes);
        self.transfer(RequestOp::Write, sector, buffer).map(drop)
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
