//! Every mapping written down, as lines that `dmakit` reads.

use core::fmt::{self, Write};
use core::panic::Location;

use dmakit_addr::PhysRange;
use dmakit_platform::{CpuGuard, IrqMutex, Platform};

use crate::check::{Checker, Event, Kind};
use crate::{DeviceInfo, RawError};

/// A [`Checker`] that writes a line for whatever it sees, in the text form of Linux's tracing:
/// `dmakit-0 [cpu] flags seconds.nanoseconds: event: text`. `dmakit` and the `trace` crate read it.
///
/// | what | event | as in Linux |
/// |---|---|---|
/// | a buffer or raw handle, mapped and unmapped | `dma_map_phys`, `dma_unmap_phys` | yes, with the number of runs behind |
/// | registers | `dma_map_resource`, `dma_unmap_resource` | yes |
/// | coherent memory | `dma_alloc`, `dma_free` | yes |
/// | another device's memory | `dma_map_peer`, `dma_unmap_peer` | no such event |
/// | addresses of a request or window | `dma_iova_reserve`, `dma_iova_destroy` | no such event |
/// | memory at them | `dma_iova_link`, `dma_iova_unlink` | no such event |
/// | memory that moves | `dma_iova_withhold`, `dma_iova_readmit` | no such event |
/// | a raw handle used wrongly, a device that goes away | `dma_misused`, `dma_removed` | no such event |
///
/// A list is one line: its first DMA address, all its bytes, its first run. Without an IOMMU a request
/// has no addresses of its own, and each of its links is reserved and destroyed by itself.
///
/// Lines that `W` does not take are [counted](Self::lost). Nothing is allocated; `W` is written to under
/// an interrupt-safe lock, and should be a buffer.
pub struct Tracer<P: Platform, W> {
    platform: P,
    sink: IrqMutex<P, Sink<W>>,
}

struct Sink<W> {
    out: W,
    lost: u64,
}

impl<P: Platform, W: Write> Tracer<P, W> {
    /// What comes first in a file of such lines.
    pub const HEADER: &'static str = "# tracer: nop\n";

    /// Writes to `out`, with the time and the processor that `platform` says.
    pub fn new(platform: P, out: W) -> Self {
        Self {
            platform,
            sink: IrqMutex::<P, _>::new(Sink { out, lost: 0 }),
        }
    }

    /// How many lines were not taken, or only in part.
    pub fn lost(&self) -> u64 {
        self.sink.lock().lost
    }

    /// Looks at what was written, or takes it away. Lines wait meanwhile.
    pub fn with<R>(&self, act: impl FnOnce(&mut W) -> R) -> R {
        act(&mut self.sink.lock().out)
    }

    fn line(&self, event: &str, text: fmt::Arguments<'_>) {
        let ns = self.platform.now().as_nanos();
        let (seconds, rest) = (ns / 1_000_000_000, ns % 1_000_000_000);
        let cpu = self.platform.enter_cpu().cpu().index();
        let mut sink = self.sink.lock();
        let written = writeln!(
            sink.out,
            "dmakit-0 [{cpu:03}] ..... {seconds}.{rest:09}: {event}: {text}"
        );
        sink.lost += u64::from(written.is_err());
    }

    fn about(&self, name: &str, device: &DeviceInfo<'_>, event: &Event, more: fmt::Arguments<'_>) {
        let Event {
            dma,
            len,
            direction,
            ..
        } = event;
        let (who, dma) = (device.name, dma.raw());
        self.line(
            name,
            format_args!("{who} dir={direction} dma_addr={dma:x} size={len}{more}"),
        );
    }

    fn reserved(&self, device: &DeviceInfo<'_>, event: &Event) {
        self.about("dma_iova_reserve", device, event, format_args!(""));
    }

    fn link(&self, device: &DeviceInfo<'_>, event: &Event, run: PhysRange) {
        let (phys, peer) = (run.start().raw(), Peer(event));
        let more = format_args!(" phys_addr={phys:x}{peer}");
        self.about("dma_iova_link", device, event, more);
    }
}

/// The provider, where there is one.
struct Peer<'a>(&'a Event);

impl fmt::Display for Peer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.peer {
            Some(provider) => write!(f, " peer={}", provider.0),
            None => Ok(()),
        }
    }
}

impl<'m, P: Platform, W: Write> Checker<'m> for &Tracer<P, W> {
    fn began(
        &self,
        device: &DeviceInfo<'m>,
        event: &Event,
        runs: impl Iterator<Item = PhysRange> + Clone,
    ) {
        let first = runs.clone().next();
        let phys = first.map_or(0, |run| run.start().raw());
        let peer = Peer(event);
        match event.kind {
            Kind::Streaming | Kind::Raw => {
                let count = runs.count();
                let more = format_args!(" phys_addr={phys:x} attrs= runs={count}");
                self.about("dma_map_phys", device, event, more);
            }
            Kind::Resource => {
                let more = format_args!(" phys_addr={phys:x} attrs=");
                self.about("dma_map_resource", device, event, more);
            }
            Kind::Peer => {
                let more = format_args!(" phys_addr={phys:x}{peer}");
                self.about("dma_map_peer", device, event, more);
            }
            Kind::Coherent => {
                let more = format_args!(" virt_addr={phys:x} flags= attrs=");
                self.about("dma_alloc", device, event, more);
            }
            Kind::Request | Kind::Window => {
                self.reserved(device, event);
                runs.for_each(|run| self.link(device, event, run));
            }
        }
    }

    fn ended(&self, device: &DeviceInfo<'m>, event: &Event) {
        let name = match event.kind {
            Kind::Streaming | Kind::Raw => "dma_unmap_phys",
            Kind::Resource => "dma_unmap_resource",
            Kind::Peer => "dma_unmap_peer",
            Kind::Coherent => "dma_free",
            Kind::Request | Kind::Window => "dma_iova_destroy",
        };
        let more = match event.kind {
            Kind::Streaming | Kind::Raw | Kind::Resource => " attrs=",
            Kind::Coherent => " virt_addr=0 attrs=",
            Kind::Peer | Kind::Request | Kind::Window => "",
        };
        self.about(name, device, event, format_args!("{more}{}", Peer(event)));
    }

    fn linked(&self, device: &DeviceInfo<'m>, event: &Event, run: PhysRange) {
        self.link(device, event, run);
    }

    fn unlinked(&self, device: &DeviceInfo<'m>, event: &Event) {
        self.about("dma_iova_unlink", device, event, format_args!(""));
    }

    fn withheld(&self, device: &DeviceInfo<'m>, event: &Event) {
        self.about("dma_iova_withhold", device, event, format_args!(""));
    }

    fn readmitted(&self, device: &DeviceInfo<'m>, event: &Event, memory: PhysRange) {
        let phys = memory.start().raw();
        let more = format_args!(" phys_addr={phys:x}");
        self.about("dma_iova_readmit", device, event, more);
    }

    fn misused(
        &self,
        device: &DeviceInfo<'m>,
        error: &RawError,
        caller: &'static Location<'static>,
    ) {
        let (who, file, line) = (device.name, caller.file(), caller.line());
        self.line(
            "dma_misused",
            format_args!("{who} at {file}:{line}: {error}"),
        );
    }

    fn removed(&self, device: &DeviceInfo<'m>) {
        self.line("dma_removed", format_args!("{}", device.name));
    }
}

impl<P: Platform, W> fmt::Debug for Tracer<P, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tracer")
    }
}
