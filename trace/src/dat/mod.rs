//! `trace.dat`, the binary file of `trace-cmd record`.

mod format;
mod header;
mod image;
mod pages;
mod unpack;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

pub(crate) use image::Image;

use crate::error::Malformed;
use crate::record;
use crate::text::Vocabulary;
use crate::{
    Body, Context, Event, Fidelity, Level, Options, Position, Probe, Task, TraceError, Value,
};
use format::{DatRecord, EventFormat};
use header::Header;
use pages::{CpuPages, RawEvent};

/// Events of all CPUs in the order of their times, those of the lowest CPU first where equal.
pub(crate) struct DatReader {
    image: Image,
    header: Header,
    cpus: Vec<CpuPages>,
    heads: Vec<Option<RawEvent>>,
    order: BinaryHeap<Reverse<(u64, usize)>>,
    words: Vocabulary,
    options: Options,
    index: u64,
    started: bool,
}

impl DatReader {
    pub(crate) fn new(mut image: Image, options: Options) -> Result<Self, TraceError> {
        let header = Header::read(&mut image)?;
        let mut words = Vocabulary::default();
        words.fidelity.overwritten = header.lost.overwritten;
        let mut cpus = Vec::new();
        for data in &header.cpus {
            match CpuPages::new(data, &mut image, header.endian) {
                Ok(pages) => cpus.push(pages),
                Err(TraceError::Cut { .. }) if options.tolerate_truncation => {
                    words.fidelity.cut = true;
                }
                Err(error) => return Err(error),
            }
        }
        cpus.sort_by_key(|pages| pages.cpu);
        Ok(Self {
            image,
            header,
            heads: cpus.iter().map(|_| None).collect(),
            cpus,
            order: BinaryHeap::new(),
            words,
            options,
            index: 0,
            started: false,
        })
    }

    pub(crate) fn fidelity(&self) -> Fidelity {
        self.words.fidelity
    }

    /// The next event; `None` at the end.
    pub(crate) fn read(&mut self) -> Result<Option<Event>, TraceError> {
        if !self.started {
            self.started = true;
            for at in 0..self.cpus.len() {
                self.refill(at)?;
            }
        }
        while let Some(Reverse((_, at))) = self.order.pop() {
            let Some(raw) = self.heads[at].take() else {
                continue;
            };
            let event = self.event(at, &raw);
            self.refill(at)?;
            match event {
                Ok(event) => {
                    self.index += 1;
                    self.words.fidelity.events = self.index;
                    return Ok(Some(event));
                }
                Err(malformed) => self.tolerate(malformed)?,
            }
        }
        Ok(None)
    }

    /// Takes a CPU's next event into the order.
    fn refill(&mut self, at: usize) -> Result<(), TraceError> {
        loop {
            let fidelity = &mut self.words.fidelity;
            match self.cpus[at].advance(&mut self.image, &self.header, fidelity) {
                Ok(Some(raw)) => {
                    self.order.push(Reverse((raw.time, at)));
                    self.heads[at] = Some(raw);
                    return Ok(());
                }
                Ok(None) => return Ok(()),
                Err(TraceError::Malformed(malformed)) => self.tolerate(malformed)?,
                Err(TraceError::Cut { .. }) if self.options.tolerate_truncation => {
                    self.words.fidelity.cut = true;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn tolerate(&mut self, malformed: Malformed) -> Result<(), TraceError> {
        if self.words.fidelity.malformed >= self.options.malformed_max {
            return Err(TraceError::Malformed(malformed));
        }
        self.words.fidelity.malformed += 1;
        Ok(())
    }

    fn event(&mut self, at: usize, raw: &RawEvent) -> Result<Event, Malformed> {
        let pages = &self.cpus[at];
        let data = pages.data(raw);
        let position = Position::Page {
            cpu: pages.cpu,
            offset: raw.offset,
        };
        let endian = self.header.endian;
        // These four have stood at the same places since there are formats.
        let (Some(id), Some(flags), Some(depths), Some(pid)) = (
            endian.at(data, 0, 2),
            endian.at(data, 2, 1),
            endian.at(data, 3, 1),
            endian.at(data, 4, 4),
        ) else {
            return Err(Malformed::new(position, "an event of 8 bytes at least", ""));
        };
        let format = u16::try_from(id)
            .ok()
            .and_then(|id| self.header.formats.get(&id))
            .ok_or_else(|| {
                Malformed::new(
                    position,
                    "an event that the file describes",
                    &id.to_string(),
                )
            })?;
        let record = DatRecord {
            format,
            data,
            endian,
        };
        let body = body(&record, &mut self.words)
            .map_err(|expected| Malformed::new(position, expected, &format.name))?;
        let pid = (pid & u64::from(u32::MAX)) as u32;
        let comm = match self.header.comms.get(&pid) {
            Some(comm) => comm,
            None if pid == 0 => "<idle>",
            None => "<...>",
        };
        Ok(Event {
            index: self.index,
            position,
            time_ns: raw.time,
            cpu: pages.cpu,
            task: Task {
                comm: self.words.name(comm),
                pid,
            },
            context: Some(context(flags, depths)),
            body,
        })
    }
}

fn context(flags: u64, depths: u64) -> Context {
    const IRQS_OFF: u64 = 1;
    const HARD_IRQ: u64 = 8;
    const SOFT_IRQ: u64 = 16;
    const NMI: u64 = 64;
    const BH_OFF: u64 = 128;
    let is = |flag| flags & flag != 0;
    Context {
        level: if is(NMI) {
            Level::Nmi
        } else if is(HARD_IRQ) {
            Level::HardIrq
        } else if is(SOFT_IRQ) {
            Level::SoftIrq
        } else {
            Level::Task
        },
        irqs_off: is(IRQS_OFF),
        bh_off: is(BH_OFF),
        preempt_depth: (depths & 15) as u8,
        migrate_depth: (depths >> 4 & 15) as u8,
    }
}

fn body(record: &DatRecord<'_>, words: &mut Vocabulary) -> Result<Body, &'static str> {
    let EventFormat { system, name, .. } = record.format;
    let known = ["swiotlb", "dma", "cma", "iommu", "intel_iommu"].contains(&&**system)
        || (&**system == "ftrace" && &**name == "print");
    if known {
        if let Some(body) = record::body(name, record, words)? {
            return Ok(body);
        }
    }
    match probe(record, words)? {
        Some(probe) => Ok(Body::Probe(Box::new(probe))),
        None => Ok(Body::Other(words.name(name))),
    }
}

/// A kprobe or uprobe: its format begins with where it stands.
fn probe(record: &DatRecord<'_>, words: &mut Vocabulary) -> Result<Option<Probe>, &'static str> {
    use crate::record::Record;
    let ip = record.number("__probe_ip");
    let location = match (ip, record.number("__probe_func")) {
        (Some(ip), _) => format!("{ip:#x}"),
        (None, Some(function)) => {
            let from = record.number("__probe_ret_ip").unwrap_or(0);
            format!("{from:#x} <- {function:#x}")
        }
        (None, None) => return Ok(None),
    };
    let mut fields = Vec::new();
    for field in &record.format.fields {
        if field.name.starts_with("common_") || field.name.starts_with("__probe_") {
            continue;
        }
        let value = if field.is_text() {
            let text = field.text(record.data, record.endian);
            Value::Text(words.name(&text.ok_or("a probe's string")?))
        } else {
            let number = field.number(record.data, record.endian);
            Value::Number(number.ok_or("a probe's number")?)
        };
        fields.push((words.name(&field.name), value));
    }
    Ok(Some(Probe {
        name: words.name(&record.format.name),
        location: location.into(),
        fields,
    }))
}
