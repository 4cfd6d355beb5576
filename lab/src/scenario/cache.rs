//! A device beside the CPU's caches, on the simulated machine.

use anyhow::Context;
use dmakit_addr::{Direction, DmaAddr, DmaMask};
use dmakit_platform::{Platform, Segment, SegmentRequest};
use dmakit_sim::{BUS_OFFSET, DeviceConfig, Machine, MachineConfig, MachineMemory, Rng, SimDevice};

use super::check::CheckName;
use super::page::CacheTable;
use super::report::RunReport;
use crate::progress::Progress;

struct Rounds {
    machine: Machine,
    memory: MachineMemory,
    device: SimDevice,
    rng: Rng,
    /// The alignment of buffers: no line is shared.
    line: u64,
}

/// Runs the rounds, and then some of them without maintenance.
pub fn run(
    table: &CacheTable,
    seed: u64,
    report: &mut RunReport,
    progress: &Progress,
) -> anyhow::Result<()> {
    let machine = MachineConfig::new(seed)
        .non_coherent()
        .line_bytes(table.line)
        .build()?;
    let mut rounds = Rounds {
        memory: MachineMemory::new(&machine),
        device: machine.add_device(DeviceConfig::new()),
        rng: Rng::derived(seed, 1),
        line: table.line,
        machine,
    };
    let lines = table.bytes.0.div_ceil(table.line);
    for round in 0..table.rounds {
        let len = (1 + rounds.rng.below(lines)) * table.line;
        let lost = rounds.transfer(len, true)?;
        report.dma_bytes += len;
        report.trial(
            CheckName::Data,
            lost.then(|| format!("round {round}: {len} bytes")),
        );
        if round % 64 == 0 {
            progress.say(format!("{round} of {} rounds", table.rounds));
        }
    }
    report.faults = rounds.device.faults().len() as u64;
    let fault = rounds.device.faults().first().map(ToString::to_string);
    report.trial(CheckName::NoFaults, fault);
    let violations = rounds.machine.check().err();
    report.trial(
        CheckName::NoViolations,
        violations.map(|violations| violations.to_string()),
    );
    let left = rounds.memory.outstanding_bytes();
    report.trial(
        CheckName::AllReturned,
        (left > 0).then(|| format!("{left} bytes of memory left")),
    );
    report.counters.insert("transfers", table.rounds);
    let mut noticed = 0_u64;
    let controls = table.rounds.clamp(16, 256);
    for _ in 0..controls {
        let len = (1 + rounds.rng.below(lines)) * table.line;
        noticed += u64::from(rounds.transfer(len, false)?);
    }
    report.counters.insert("control_transfers", controls);
    report.counters.insert("control_lost", noticed);
    report.trial(
        CheckName::Control,
        (noticed == 0).then(|| "nothing was lost without maintenance".to_owned()),
    );
    report.skip(
        "translation",
        "this scenario maps nothing; --machine qemu:virt shows some",
    );
    Ok(())
}

impl Rounds {
    /// One transfer with or without cache maintenance; whether data was lost.
    fn transfer(&mut self, len: u64, maintains: bool) -> anyhow::Result<bool> {
        let request = SegmentRequest {
            len,
            align: self.line,
            node: None,
            limit: DmaMask::ALL,
        };
        let buffer = self.memory.allocate(&request)?;
        let lost = match self.rng.below(2) {
            0 => self.send(&buffer, maintains),
            _ => self.receive(&buffer, maintains),
        };
        self.memory.free(buffer);
        lost.context("a transfer of the simulated device")
    }

    fn send(&mut self, buffer: &Segment, maintains: bool) -> anyhow::Result<bool> {
        let (range, sent) = (buffer.range(), self.pattern(buffer.len()));
        buffer.window().write(&sent);
        if maintains {
            self.machine.clean(range);
        }
        self.device.grant(range, Direction::ToDevice);
        let mut seen = vec![0; sent.len()];
        let read = self.device.read(address(buffer), &mut seen);
        self.device.revoke(range, Direction::ToDevice);
        read?;
        Ok(seen != sent)
    }

    fn receive(&mut self, buffer: &Segment, maintains: bool) -> anyhow::Result<bool> {
        let (range, sent) = (buffer.range(), self.pattern(buffer.len()));
        // Lines of an earlier use, dirty.
        buffer.window().fill(0);
        if maintains {
            self.machine.invalidate(range);
        }
        self.device.grant(range, Direction::FromDevice);
        let written = self.device.write(address(buffer), &sent);
        self.machine.disturb();
        self.device.revoke(range, Direction::FromDevice);
        written?;
        if maintains {
            self.machine.invalidate(range);
        }
        let mut seen = vec![0; sent.len()];
        buffer.window().read(&mut seen);
        Ok(seen != sent)
    }

    fn pattern(&mut self, len: u64) -> Vec<u8> {
        (0..len).map(|_| self.rng.bits() as u8).collect()
    }
}

fn address(buffer: &Segment) -> DmaAddr {
    DmaAddr::new(buffer.range().start().raw() + BUS_OFFSET)
}
