//! A disk's controller, driven by a published driver that knows the machine by `dma-api` alone,
//! shows a disk as `rdif-block` wants it, and makes progress by interrupts only.

use alloc::vec::Vec;
use core::num::{NonZeroU64, NonZeroUsize};

use dma_api::{CpuDmaBuffer, DeviceDma, DmaDirection, DmaDomainId};
use dmakit_dma::{DeviceStats, Path, Translate, Unchecked};
use dmakit_dma_api::DeviceOp;
use dmakit_platform::Platform;
use dmakit_swiotlb::NoGrowth;
use rdif_block::{
    BBlockController, BBlockControllerGroup, BHardwareQueue, CompletedRequest, CompletionSink,
    ControllerEvent, ControllerState, GroupControllerEvent, IrqDisposition, OwnedRequest,
    OwnedRequestBatch, RequestFlags, RequestId, RequestOp, SubmissionSink,
};
use virtio_drivers::transport::pci::bus::DeviceFunction;

use crate::board::Board;
use crate::doorbell::Doorbell;
use crate::handlers;
use crate::identity::Identity;
use crate::interrupts::Running;
use crate::memory::leak;
use crate::path::{Client, Untyped};
use crate::pci::{Bus, Message, requester};
use crate::vectors::{self, TIME_MAX, Vectors};
use crate::workload::{self, Disk, Failure, SECTOR, Workload};

/// Vectors of a function: one for the controller, one for its queue, or one for both.
pub const VECTORS: u32 = 2;

type Op<T> = DeviceOp<Board, NoGrowth, Identity, Unchecked, T>;

/// What a driver begins with.
pub struct Hardware<'a> {
    pub bus: &'a mut Bus,
    pub function: DeviceFunction,
    /// What the function writes to interrupt.
    pub message: Message,
    pub dma: DeviceDma,
}

/// A driver that has begun.
pub struct Driver {
    pub controller: BBlockController,
    /// What the disk shares with others.
    pub group: Option<BBlockControllerGroup>,
    /// Where the controller's interrupts come from, of those that have handlers.
    pub sources: Vec<usize>,
}

/// How a driver begins.
pub type Open = fn(Hardware<'_>, &mut Vectors<'_>) -> Result<Driver, &'static str>;

/// Puts a disk behind a controller through a workload.
pub struct Exercise<'a> {
    pub bus: &'a mut Bus,
    pub function: DeviceFunction,
    pub open: Open,
    pub interrupts: &'a Running,
    pub workload: Workload,
    /// Whether the device is not let to the doorbell, so that interrupts must fail.
    pub doorbell_unmapped: bool,
}

impl Client for Exercise<'_> {
    fn run<T: Translate + 'static>(self, device: Untyped<T>) -> Result<DeviceStats, &'static str> {
        let (function, interrupts) = (self.function, self.interrupts);
        let doorbell = Doorbell::open(&device, interrupts.doorbell(), self.doorbell_unmapped)?;
        let op: &Op<T> = leak(Op::new(device, Identity));
        let domain = match NonZeroU64::new(requester(function).into()) {
            Some(id) if matches!(op.device().device().path(), Path::Translated { .. }) => {
                DmaDomainId::Translated(id)
            }
            _ => DmaDomainId::Direct,
        };
        let dma = DeviceDma::new(op.info(domain), op);
        let mut vectors = Vectors::new(interrupts, requester(function), VECTORS)?;
        let hardware = Hardware {
            bus: self.bus,
            function,
            message: Message {
                addr: doorbell.addr(),
                first: vectors.message(),
            },
            dma: dma.clone(),
        };
        let mut disk = Controller {
            driver: (self.open)(hardware, &mut vectors)?,
            queues: Vec::new(),
            dma,
            vectors,
            completions: 0,
        };
        disk.start()?;
        let digest = workload::run(&mut disk, &self.workload)?;
        disk.stop()?;
        let (irqs, completions) = (handlers::taken(), disk.completions);
        println!("sha256={digest:x} irqs={irqs} completions={completions}");
        drop(disk);
        doorbell.close(op.device())?;
        Ok(op.device().device().stats())
    }
}

struct Controller<'a> {
    driver: Driver,
    queues: Vec<BHardwareQueue>,
    dma: DeviceDma,
    vectors: Vectors<'a>,
    completions: u64,
}

impl Controller<'_> {
    fn start(&mut self) -> Result<(), &'static str> {
        let started = Board.now();
        let mut state = self.advance(ControllerEvent::Start { target_queues: 1 })?;
        while state != ControllerState::Ready || self.queues.is_empty() {
            if Board.now().saturating_since(started) > TIME_MAX {
                return Err("the controller does not become ready");
            }
            state = match state {
                ControllerState::RegisterPending { .. } => {
                    self.advance(ControllerEvent::RegisterRetry)?
                }
                _ => self.serve(&mut Done(None))?,
            };
        }
        match self.driver.controller.device_info().logical_block_size {
            SECTOR => Ok(()),
            _ => Err("blocks that are no sectors"),
        }
    }

    /// Stops the controller, then the queues, which it can no longer reach.
    fn stop(&mut self) -> Result<(), &'static str> {
        self.quiesce(GroupControllerEvent::QuiesceIrqs)?;
        self.advance(ControllerEvent::QuiesceIrqs)?;
        let started = Board.now();
        let mut event = ControllerEvent::Shutdown;
        while self.advance(event)? != ControllerState::Shutdown {
            event = ControllerEvent::RegisterRetry;
            if Board.now().saturating_since(started) > TIME_MAX {
                return Err("the controller does not stop");
            }
        }
        for queue in &mut self.queues {
            queue
                .shutdown(&mut Done(None))
                .map_err(|_| "a queue does not stop")?;
        }
        self.quiesce(GroupControllerEvent::Shutdown)
    }

    /// Stops something of what the disk shares with others, if it does.
    fn quiesce(&mut self, event: GroupControllerEvent) -> Result<(), &'static str> {
        let Some(group) = &mut self.driver.group else {
            return Ok(());
        };
        let advanced = group.advance(event).map(drop);
        advanced.map_err(|_| "the group refuses")
    }

    /// Lets the driver go on, and takes queues and interrupt handlers that it made.
    fn advance(&mut self, event: ControllerEvent) -> Result<ControllerState, &'static str> {
        let advanced = self.driver.controller.advance(event);
        let mut update = advanced.map_err(|_| "the controller refuses")?;
        let (mut queues, endpoints) = (update.take_queues(), update.take_irq_endpoints());
        let is_new = !queues.is_empty() || !endpoints.is_empty();
        self.queues.append(&mut queues);
        for endpoint in endpoints {
            self.driver.sources.push(self.vectors.install(endpoint)?);
        }
        if is_new {
            for index in 0..self.driver.sources.len() {
                self.arm(self.driver.sources[index])?;
            }
        }
        Ok(update.controller_state())
    }

    /// Lets a source interrupt, for the first time or again.
    fn arm(&mut self, source_id: usize) -> Result<(), &'static str> {
        let event = ControllerEvent::Rearm { source_id };
        let armed = self.driver.controller.advance(event).map(drop);
        armed.map_err(|_| "a source of interrupts is not armed")
    }

    /// Waits for an interrupt, and does what it asks for.
    fn serve(&mut self, done: &mut Done) -> Result<ControllerState, &'static str> {
        let said = vectors::wait()?;
        for queue in &mut self.queues {
            if said.queues().contains(queue.id()) {
                let drained = queue.drain_completions(done);
                drained.map_err(|_| "a broken completion queue")?;
            }
        }
        let state = self.advance(ControllerEvent::Irq(said.control_event()))?;
        if said.disposition() == IrqDisposition::MaskedNeedsRearm {
            self.arm(said.control_event().source_id())?;
        }
        Ok(state)
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
            self.serve(&mut done).map_err(Failure::Broken)?;
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

impl Disk for Controller<'_> {
    fn sectors(&self) -> u64 {
        self.driver.controller.device_info().num_blocks
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
