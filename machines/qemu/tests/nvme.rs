//! A disk behind the SMMU: what it reads and writes is what was mapped for it, and nothing else.

mod disk;

use std::os::unix::fs::FileExt;

use disk::{DISK, Disk, Random, Rig};
use dmakit_addr::{IovaRange, PAGE_BYTES};
use dmakit_io_pgtable::Permissions;
use dmakit_iommu::{FaultReason, Mapped};
use dmakit_qemu::devices::nvme::{NvmeError, Operation};
use dmakit_qemu::smmu::{Mode, Port, Scattered};

const ALL: dmakit_addr::DmaMask = dmakit_addr::DmaMask::ALL;
const MIB: u64 = 1 << 20;
const BLOCK: u64 = 512;

fn buffer(rig: &Rig, random: &mut Random, len: u64) -> Scattered {
    let pages = len.div_ceil(PAGE_BYTES) as usize;
    Scattered::allocate(rig.stack.memory(), 2, pages, |n| random.below(n)).unwrap()
}

fn map(port: &Port, buffer: &Scattered, operation: Operation) -> Mapped {
    let permissions = match operation {
        Operation::Read => Permissions::READ_WRITE,
        Operation::Write => Permissions::READ,
    };
    port.map(buffer.runs(), permissions).unwrap()
}

#[test]
fn a_megabyte_scattered_over_both_nodes_goes_to_the_disk_and_back() {
    let rig = disk::start(ALL, 4 * MIB);
    let (port, mut disk) = rig.disk(Mode::Strict);
    let identity = disk.identity().clone();
    assert_eq!((identity.block, identity.blocks), (BLOCK, 4 * MIB / BLOCK));
    assert_eq!(identity.serial, "dmakit");
    assert_eq!(identity.transfer_max, 2 * MIB, "mdts=9");
    let mut random = Random(1);
    let source = buffer(&rig, &mut random, MIB);
    let nodes = source.runs().filter(|run| run.start().raw() >= 0x5000_0000);
    assert_eq!(nodes.count(), 128, "half of the pages are of node 1");
    let sent = random.bytes(MIB as usize);
    source.write(&sent);
    let mapped = map(&port, &source, Operation::Write);
    assert_eq!(mapped.range().len(), MIB, "one range of addresses");
    disk.transfer(Operation::Write, 2048, mapped.range())
        .unwrap();
    disk.flush().unwrap();
    assert!(
        rig.stored(MIB, MIB as usize) == sent,
        "the file has other bytes"
    );
    assert!(rig.stored(0, MIB as usize).iter().all(|&byte| byte == 0));
    assert!(
        rig.stored(2 * MIB, 2 * MIB as usize)
            .iter()
            .all(|&byte| byte == 0)
    );

    let kept = random.bytes(MIB as usize);
    rig.file.write_all_at(&kept, 2 * MIB).unwrap();
    let target = buffer(&rig, &mut random, MIB + 2 * PAGE_BYTES);
    target.fill(0xee);
    let canaries = map(&port, &target, Operation::Read);
    let middle = canaries.range().slice(PAGE_BYTES, MIB).unwrap();
    disk.transfer(Operation::Read, 4096, middle).unwrap();
    let seen = target.read(target.len() as usize);
    let (before, rest) = seen.split_at(PAGE_BYTES as usize);
    let (landed, after) = rest.split_at(MIB as usize);
    assert!(landed == kept, "memory has other bytes");
    assert!(
        before.iter().chain(after).all(|&byte| byte == 0xee),
        "canaries"
    );
    rig.no_faults();
    port.unmap([mapped, canaries]).unwrap();
    source.free(rig.stack.memory());
    target.free(rig.stack.memory());
    rig.close_disk(port, disk);
}

#[test]
fn faults_of_data_show_in_the_event_queue_and_not_in_the_status() {
    let rig = disk::start(ALL, MIB);
    let (port, mut disk) = rig.disk(Mode::Strict);
    rig.file.write_all_at(&[0x77; 8192], 0).unwrap();
    let mut random = Random(2);
    let page = buffer(&rig, &mut random, PAGE_BYTES);
    page.fill(0xee);
    let mapped = map(&port, &page, Operation::Read);
    let range = mapped.range();
    let both = IovaRange::new(range.start(), 2 * PAGE_BYTES).unwrap();
    disk.transfer(Operation::Read, 0, both).unwrap();
    assert_eq!(page.read(4096), [0x77; 4096], "the first page is mapped");
    let (faults, _) = rig.stack.take_faults();
    assert!(!faults.is_empty(), "the second is not");
    for fault in faults {
        assert_eq!(fault.stream, u32::from(DISK.raw()));
        assert_eq!(
            (fault.reason, fault.is_write),
            (FaultReason::Unmapped, Some(true))
        );
        let at = fault.iova.unwrap();
        assert!(both.contains(at) && !range.contains(at), "{fault}");
    }
    port.unmap([mapped]).unwrap();
    let only_read = map(&port, &page, Operation::Write);
    page.fill(0xee);
    disk.transfer(Operation::Read, 0, only_read.range())
        .unwrap();
    assert_eq!(page.read(4096), [0xee; 4096], "mapped for reading only");
    let (faults, _) = rig.stack.take_faults();
    assert!(!faults.is_empty());
    assert!(
        faults
            .iter()
            .all(|fault| fault.reason == FaultReason::Permission)
    );
    port.unmap([only_read]).unwrap();
    page.free(rig.stack.memory());
    rig.close_disk(port, disk);
}

#[test]
fn what_the_disk_cannot_do_is_refused_before_it_is_asked() {
    let rig = disk::start(ALL, 4 * MIB);
    let (port, mut disk) = rig.disk(Mode::Strict);
    let mut random = Random(3);
    let large = buffer(&rig, &mut random, 2 * MIB + PAGE_BYTES);
    let mapped = map(&port, &large, Operation::Read);
    let whole = mapped.range();
    let part = |at, len| whole.slice(at, len).unwrap();
    assert!(matches!(
        disk.submit(Operation::Read, 0, whole),
        Err(NvmeError::TooLong { max, .. }) if max == 2 * MIB
    ));
    assert!(matches!(
        disk.submit(Operation::Read, 0, part(0, 100)),
        Err(NvmeError::Shape { .. })
    ));
    assert!(matches!(
        disk.submit(Operation::Read, 0, part(2, 512)),
        Err(NvmeError::Shape { .. })
    ));
    assert!(matches!(
        disk.submit(Operation::Read, 8191, part(0, 1024)),
        Err(NvmeError::Beyond { size: 8192, .. })
    ));
    for _ in 0..Disk::DEPTH_MAX {
        disk.submit(Operation::Read, 0, part(0, 512)).unwrap();
    }
    let full = disk.submit(Operation::Read, 0, part(0, 512));
    assert_eq!(full, Err(NvmeError::Full));
    for _ in 0..Disk::DEPTH_MAX {
        assert_eq!(disk.wait().unwrap().status, 0);
    }
    assert_eq!(disk.in_flight(), 0);
    rig.no_faults();
    port.unmap([mapped]).unwrap();
    large.free(rig.stack.memory());
    rig.close_disk(port, disk);
}

#[test]
fn an_unattached_disk_does_not_come_up() {
    let rig = disk::start(ALL, MIB);
    let (port, disk) = rig.disk(Mode::Strict);
    let memory = disk.stop().unwrap();
    rig.stack.smmu().detach(DISK.raw().into()).unwrap();
    let machine = rig.stack.machine();
    let regs = machine.pci().enable(DISK).unwrap().bar(0).unwrap();
    let failure = Disk::start(machine.platform(), regs, memory).err().unwrap();
    assert!(
        matches!(failure.error, NvmeError::Fatal { .. }),
        "{failure}"
    );
    // The architecture aborts such a stream without a record.
    rig.no_faults();
    port.free_block(failure.memory).unwrap();
    rig.close(port);
}

/// A transfer in flight.
struct Transfer {
    slot: u16,
    operation: Operation,
    lane: u64,
    buffer: Scattered,
    mapped: Mapped,
    len: u64,
    bytes: Vec<u8>,
}

/// Each command in flight has a part of the disk of its own.
const LANES: u64 = 32;

struct Load<'a> {
    rig: &'a Rig,
    port: &'a Port,
    disk: &'a mut Disk,
    random: Random,
    /// What the disk must hold.
    model: Vec<u8>,
    round: u64,
}

impl Load<'_> {
    /// Starts `depth` transfers, waits for all, checks each.
    fn batch(&mut self, depth: u64) -> Vec<Transfer> {
        let mut running: Vec<_> = (0..depth).map(|lane| self.start(lane)).collect();
        let mut done = Vec::new();
        while !running.is_empty() {
            let completion = self.disk.wait().unwrap();
            assert_eq!(completion.status, 0, "round {}", self.round);
            let at = running.iter().position(|t| t.slot == completion.slot);
            let transfer = running.swap_remove(at.unwrap());
            self.check(&transfer);
            done.push(transfer);
        }
        self.rig.no_faults();
        done
    }

    fn start(&mut self, lane: u64) -> Transfer {
        self.round += 1;
        // 4 KiB to 1 MiB, small ones more often, not always powers of two.
        let top = PAGE_BYTES << self.random.below(9);
        let len = (top - self.random.below(top / BLOCK / 2) * BLOCK).max(PAGE_BYTES);
        let operation = match self.random.below(2) {
            0 => Operation::Read,
            _ => Operation::Write,
        };
        let buffer = buffer(self.rig, &mut self.random, len);
        let begin = (lane * MIB) as usize;
        let end = begin + len as usize;
        let bytes = match operation {
            Operation::Read => {
                buffer.fill(0xee);
                self.model[begin..end].to_vec()
            }
            Operation::Write => {
                let bytes = self.random.bytes(len as usize);
                buffer.write(&bytes);
                self.model[begin..end].copy_from_slice(&bytes);
                bytes
            }
        };
        let mapped = map(self.port, &buffer, operation);
        let range = mapped.range().slice(0, len).unwrap();
        let slot = self
            .disk
            .submit(operation, lane * MIB / BLOCK, range)
            .unwrap();
        Transfer {
            slot,
            operation,
            lane,
            buffer,
            mapped,
            len,
            bytes,
        }
    }

    fn check(&self, transfer: &Transfer) {
        if transfer.operation == Operation::Read {
            let seen = transfer.buffer.read(transfer.buffer.len() as usize);
            let (landed, rest) = seen.split_at(transfer.len as usize);
            assert!(
                landed == transfer.bytes,
                "round {}, lane {}",
                self.round,
                transfer.lane
            );
            assert!(
                rest.iter().all(|&byte| byte == 0xee),
                "round {}",
                self.round
            );
        }
    }

    /// Unmaps; then the disk must not reach any of it, which is tried with one of the reads.
    fn end(&mut self, done: Vec<Transfer>) {
        let reads = done.iter().enumerate();
        let reads = reads.filter(|(_, transfer)| transfer.operation == Operation::Read);
        let reads: Vec<usize> = reads.map(|(index, _)| index).collect();
        let picked = self.random.below(reads.len() as u64) as usize;
        let tried = reads.get(picked).copied();
        let first = tried.map(|index| done[index].mapped.range().slice(0, BLOCK).unwrap());
        if let Some(first) = first {
            // Now the SMMU surely has it at hand.
            self.disk.transfer(Operation::Read, 0, first).unwrap();
            self.rig.no_faults();
        }
        let (mapped, buffers): (Vec<_>, Vec<_>) =
            done.into_iter().map(|t| (t.mapped, t.buffer)).unzip();
        self.port.unmap(mapped).unwrap();
        self.port.flush().unwrap();
        if let (Some(index), Some(first)) = (tried, first) {
            self.retry(first, &buffers[index]);
        }
        for buffer in buffers {
            buffer.free(self.rig.stack.memory());
        }
    }

    fn retry(&mut self, first: IovaRange, buffer: &Scattered) {
        buffer.fill(0xcc);
        let lba = self.random.below(LANES) * MIB / BLOCK;
        self.disk.transfer(Operation::Read, lba, first).unwrap();
        let round = self.round;
        let (faults, _) = self.rig.stack.take_faults();
        assert!(!faults.is_empty(), "round {round}: a stale hit");
        assert!(
            faults
                .iter()
                .all(|fault| fault.iova.is_some_and(|at| first.contains(at)))
        );
        let seen = buffer.read(buffer.len() as usize);
        assert!(
            seen.iter().all(|&byte| byte == 0xcc),
            "round {round}: a stale hit"
        );
    }
}

/// One round for each hundred of the steps that other tests take: a transfer is dear.
fn random_load(mode: Mode, seed: u64) {
    let steps: u64 = std::env::var("DMAKIT_STEPS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1_000_000);
    let rounds = steps / 100;
    println!("seed {seed}, {rounds} rounds");
    let rig = disk::start(ALL, LANES * MIB);
    let (port, mut disk) = rig.disk(mode);
    let mut load = Load {
        rig: &rig,
        port: &port,
        disk: &mut disk,
        random: Random(seed),
        model: vec![0; (LANES * MIB) as usize],
        round: 0,
    };
    let mut batches = 0_u64;
    while load.round < rounds {
        let depth = 1 + load.random.below(LANES);
        let done = load.batch(depth);
        batches += 1;
        load.end(done);
    }
    let model = load.model;
    disk.flush().unwrap();
    assert!(
        rig.stored(0, model.len()) == model,
        "the file has other bytes"
    );
    rig.no_faults();
    let counters = rig.close_disk(port, disk);
    println!("{counters:?}");
    match mode {
        Mode::Strict => assert_eq!(counters.syncs, batches + 1, "one for each batch"),
        Mode::Lazy => assert!(counters.syncs >= batches),
    }
}

#[test]
fn random_sizes_and_depths_with_no_stale_hit_after_a_sync() {
    random_load(Mode::Strict, 0x5eed);
}

#[test]
fn random_sizes_and_depths_with_no_stale_hit_after_a_lazy_flush() {
    random_load(Mode::Lazy, 0x1a2f);
}

/// What makes the two above worth something.
#[test]
fn a_lazy_domain_lets_the_disk_in_until_it_is_flushed() {
    let rig = disk::start(ALL, MIB);
    let (port, mut disk) = rig.disk(Mode::Lazy);
    rig.file.write_all_at(&[0x77; 512], 0).unwrap();
    let mut random = Random(4);
    let page = buffer(&rig, &mut random, PAGE_BYTES);
    let mapped = map(&port, &page, Operation::Read);
    let first = mapped.range().slice(0, BLOCK).unwrap();
    disk.transfer(Operation::Read, 0, first).unwrap();
    page.fill(0xcc);
    port.unmap([mapped]).unwrap();
    assert_eq!(port.exposure().bytes, PAGE_BYTES);
    disk.transfer(Operation::Read, 0, first).unwrap();
    assert_eq!(
        page.read(512),
        [0x77; 512],
        "a stale hit: that is what lazy means"
    );
    rig.no_faults();
    port.flush().unwrap();
    assert_eq!(port.exposure().bytes, 0);
    page.fill(0xcc);
    disk.transfer(Operation::Read, 0, first).unwrap();
    assert_eq!(page.read(512), [0xcc; 512]);
    assert!(!rig.stack.take_faults().0.is_empty());
    page.free(rig.stack.memory());
    rig.close_disk(port, disk);
}

#[test]
fn a_walk_ends_at_the_page_that_the_disk_writes() {
    let rig = disk::start(ALL, MIB);
    let (port, mut disk) = rig.disk(Mode::Strict);
    rig.file.write_all_at(&[0x77; 512], 0).unwrap();
    let mut random = Random(5);
    let pages = buffer(&rig, &mut random, 4 * PAGE_BYTES);
    let mapped = map(&port, &pages, Operation::Read);
    let third = mapped.range().slice(2 * PAGE_BYTES, BLOCK).unwrap();
    disk.transfer(Operation::Read, 0, third).unwrap();
    let steps = port.walk(third.start());
    assert_eq!(steps.len(), 4);
    let levels: Vec<_> = steps.iter().map(|step| step.level).collect();
    assert_eq!(levels, [0, 1, 2, 3]);
    let dmakit_io_pgtable::Entry::Leaf(phys, _) = steps[3].entry else {
        panic!("{}", steps[3]);
    };
    assert_eq!(phys, pages.runs().nth(2).unwrap().start());
    let run = dmakit_addr::PhysRange::new(phys, 512).unwrap();
    let mut bytes = [0; 512];
    rig.stack
        .machine()
        .hardware_window(run)
        .unwrap()
        .read(&mut bytes);
    assert_eq!(bytes, [0x77; 512]);
    port.unmap([mapped]).unwrap();
    assert_eq!(
        port.walk(third.start()).last().unwrap().entry,
        dmakit_io_pgtable::Entry::Absent
    );
    pages.free(rig.stack.memory());
    rig.close_disk(port, disk);
}
