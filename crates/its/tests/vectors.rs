//! Bytes and register writes of an unmodified Linux driver, against ours.
//!
//! `vectors/its.toml` holds what Linux 6.12.95 wrote on QEMU 7.2. What differs is listed in
//! `docs/its.md`, and nowhere else.

use std::sync::{Arc, Mutex};

use dmakit_addr::{NodeId, PhysAddr};
use dmakit_its::spec::{command, redistributor, registers, table};
use dmakit_its::{Config, Its, LpiConfig, Lpis, Redistributor};
use dmakit_platform::Mmio;
use dmakit_sim::{ItsConfig, Machine, MachineConfig, MachineMemory, SimIts};
use serde::Deserialize;

#[derive(Deserialize)]
struct Vectors {
    sequence: Vec<Sequence>,
    vector: Vec<Words>,
    command_sequence: Vec<Commands>,
    ring: Vec<Ring>,
}

#[derive(Deserialize)]
struct Sequence {
    name: String,
    #[serde(default)]
    accesses: Vec<[String; 5]>,
}

#[derive(Deserialize)]
struct Words {
    name: String,
    words: Vec<String>,
}

#[derive(Deserialize)]
struct Commands {
    name: String,
    commands: Vec<[String; 4]>,
}

#[derive(Deserialize)]
struct Ring {
    entries: Vec<[String; 4]>,
}

fn vectors() -> Vectors {
    toml::from_str(include_str!("vectors/its.toml")).unwrap()
}

fn number(text: &str) -> u64 {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).unwrap(),
        None => text.parse().unwrap(),
    }
}

fn commands(texts: &[[String; 4]]) -> Vec<command::Command> {
    texts
        .iter()
        .map(|words| words.each_ref().map(|word| number(word)))
        .collect()
}

impl Vectors {
    fn words(&self, name: &str) -> Vec<u64> {
        let found = self.vector.iter().find(|vector| vector.name == name);
        let found = found.unwrap_or_else(|| panic!("no vector {name}"));
        found.words.iter().map(|word| number(word)).collect()
    }
}

#[test]
fn commands_are_the_same_words() {
    let vectors = vectors();
    // Redistributors by number: 0 and 1.
    let ours = [
        ("cmd-mapc-0", command::mapc(0, 0)),
        (
            "cmd-mapc-1",
            command::mapc(1, command::redistributor(false, 0x80c_0000, 1)),
        ),
        ("cmd-sync-0", command::sync(0)),
        (
            "cmd-sync-2",
            command::sync(command::redistributor(false, 0, 1)),
        ),
        ("cmd-invall-0", command::invall(0)),
        ("cmd-mapd-0", command::mapd(0x18, 1, 0x439a_f800)),
        ("cmd-mapd-1", command::mapd(0x10, 2, 0x439a_f000)),
        ("cmd-mapd-2", command::mapd(8, 7, 0x4480_e000)),
        ("cmd-mapti-0", command::mapti(0x18, 0, 0x2000, 0)),
        ("cmd-mapti-1", command::mapti(0x18, 1, 0x2001, 1)),
        ("cmd-mapti-2", command::mapti(0x10, 0, 0x2002, 0)),
        ("cmd-inv-0", command::inv(0x18, 0)),
        ("cmd-inv-1", command::inv(0x18, 1)),
        ("cmd-inv-2", command::inv(0x10, 0)),
        ("cmd-discard-0", command::discard(8, 0)),
        ("cmd-mapd-unmap-0", command::unmapd(8, 7, 0x4480_e000)),
        ("cmd-mapd-unmap-2", command::unmapd(8, 7, 0x45e6_b000)),
    ];
    for (name, ours) in ours {
        assert_eq!(ours[..], vectors.words(name), "{name}");
    }
}

#[test]
fn table_and_configuration_entries_are_the_same_bytes() {
    let vectors = vectors();
    let level_1 = vectors.words("device-table-l1");
    assert_eq!(
        table::level_1(0x45e4_0000, table::PageSize::K64),
        level_1[0]
    );
    let bytes: Vec<u8> = vectors
        .words("lpi-config-table")
        .into_iter()
        .flat_map(u64::to_le_bytes)
        .collect();
    let priority = LpiConfig::default().priority;
    let [off, on] = [false, true].map(|on| redistributor::configuration(priority, on));
    assert!(bytes.iter().all(|byte| *byte == off || *byte == on));
    assert!(bytes.contains(&off) && bytes.contains(&on));
}

/// An access as the recording has it: what was written, where.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Write {
    block: String,
    offset: u64,
    width: u64,
    value: u64,
}

#[derive(Clone)]
struct Recorded<R> {
    inner: R,
    block: String,
    writes: Arc<Mutex<Vec<Write>>>,
}

impl<R: Mmio> Recorded<R> {
    fn note(&self, offset: u64, width: u64, value: u64) {
        self.writes.lock().unwrap().push(Write {
            block: self.block.clone(),
            offset,
            width,
            value,
        });
    }
}

impl<R: Mmio> Mmio for Recorded<R> {
    fn read32(&self, offset: u64) -> u32 {
        self.inner.read32(offset)
    }

    fn read64(&self, offset: u64) -> u64 {
        self.inner.read64(offset)
    }

    fn write32(&self, offset: u64, value: u32) {
        self.note(offset, 4, value.into());
        self.inner.write32(offset, value);
    }

    fn write64(&self, offset: u64, value: u64) {
        self.note(offset, 8, value);
        self.inner.write64(offset, value);
    }
}

/// The simulated ITS as QEMU's is: the registers of the recording.
fn as_recorded() -> (Machine, MachineMemory, SimIts) {
    let machine = MachineConfig::new(1).build().unwrap();
    let its = machine.add_its(ItsConfig {
        event_entry: 12,
        collection_bits: Some(16),
        lpis_clear: true,
        ..ItsConfig::default()
    });
    assert_eq!(its.read64(registers::TYPER), 0x1f_0001_efb1);
    let memory = MachineMemory::new(&machine);
    (machine, memory, its)
}

type Driver = Its<Machine, Recorded<SimIts>, MachineMemory>;

struct Running {
    its: Driver,
    lpis: Lpis<Machine>,
    writes: Arc<Mutex<Vec<Write>>>,
    machine: Machine,
}

fn bring_up() -> Running {
    let (machine, memory, sim) = as_recorded();
    let writes = Arc::new(Mutex::new(Vec::new()));
    let regs = Recorded {
        inner: sim.clone(),
        block: "GITS".into(),
        writes: writes.clone(),
    };
    let config = Config::new(sim.base(), 2);
    let its = Its::start(machine.clone(), regs, memory.clone(), config).unwrap();
    let lpis = Lpis::new(machine.clone(), &memory, LpiConfig::default()).unwrap();
    for cpu in 0..2 {
        let inner = sim.redistributor(cpu);
        let base = inner.base();
        let regs = Recorded {
            inner,
            block: format!("GICR{cpu}"),
            writes: writes.clone(),
        };
        let node = Some(NodeId::new(0));
        let redistributor = Redistributor::start(&regs, base, node, &lpis, &memory).unwrap();
        its.map_collection(cpu, redistributor.target()).unwrap();
    }
    Running {
        its,
        lpis,
        writes,
        machine,
    }
}

/// Addresses are nobody's choice but the allocator's.
fn without_address(write: &Write) -> Write {
    let is_base = match write.block.as_str() {
        "GITS" => write.offset == registers::CBASER || write.offset >= registers::baser(0),
        _ => write.offset >= redistributor::PROPBASER,
    };
    let mask = if is_base { 0x0000_ffff_ffff_f000 } else { 0 };
    Write {
        value: write.value & !mask,
        ..write.clone()
    }
}

#[test]
fn registers_are_written_with_the_same_values_in_the_same_order() {
    let vectors = vectors();
    let mut sequences = vectors.sequence.iter();
    let sequence = sequences.find(|sequence| sequence.name == "its-and-redistributor-all");
    let theirs = sequence.unwrap().accesses.iter();
    let theirs = theirs
        .filter(|access| access[0] == "W")
        .map(|access| Write {
            block: access[1].clone(),
            offset: number(&access[2]),
            width: number(&access[3]),
            value: number(&access[4]),
        });
    // Waking a CPU's redistributor is no business of LPIs.
    let waker = |write: &Write| write.block == "GICR1" && write.offset == 0x14;
    let mut theirs: Vec<Write> = theirs
        .filter(|write| !waker(write))
        .map(|write| without_address(&write))
        .collect();
    // The choices of docs/its.md: two levels are tried with the page size that was agreed on and
    // the fixed fields as they read, and the commands of a collection are handed over at once.
    let tried = theirs
        .iter_mut()
        .find(|write| write.value == 0x7800_0000_0000_0400);
    tried.unwrap().value = 0x7907_0000_0000_0600;
    let half_way =
        |write: &Write| write.offset == registers::CWRITER && matches!(write.value, 0x40 | 0xc0);
    theirs.retain(|write| !half_way(write));
    let running = bring_up();
    let ours = running.writes.lock().unwrap();
    let ours: Vec<Write> = ours.iter().map(without_address).collect();
    assert_eq!(ours, theirs);
}

/// The commands in the ring so far.
fn queued(running: &Running) -> Vec<command::Command> {
    let count = running.its.command_counts().commands;
    let base = {
        let writes = running.writes.lock().unwrap();
        let base = writes
            .iter()
            .find(|write| write.block == "GITS" && write.offset == registers::CBASER);
        base.unwrap().value & 0x000f_ffff_ffff_f000
    };
    (0..count)
        .map(|index| {
            let mut bytes = [0; 32];
            let start = PhysAddr::new(base + index * 32);
            assert!(running.machine.peek(start, &mut bytes));
            let mut words = [0; 4];
            for (word, bytes) in words.iter_mut().zip(bytes.chunks(8)) {
                *word = u64::from_le_bytes(bytes.try_into().unwrap());
            }
            words
        })
        .collect()
}

/// Tables' addresses aside.
fn without_table(command: command::Command) -> command::Command {
    match command::opcode(command) {
        0x08 => [command[0], command[1], command[2] & 1 << 63, command[3]],
        _ => command,
    }
}

#[test]
fn a_device_is_set_up_and_taken_down_by_the_same_commands() {
    let vectors = vectors();
    let ring = commands(&vectors.ring[0].entries);
    let running = bring_up();
    assert_eq!(queued(&running), ring[..8], "two collections");
    let before = queued(&running).len();
    let probe = &vectors.command_sequence[0];
    assert_eq!(probe.name, "first-probe-of-nvme");
    // Six LPIs were given out before.
    let mut lpis: Vec<_> = (0..7).map(|_| running.lpis.allocate().unwrap()).collect();
    let its = &running.its;
    let mut device = its.create_device(8, 65).unwrap();
    its.map(&mut device, 0, lpis.pop().unwrap(), 1).unwrap();
    its.enable(&running.lpis, &device, 0).unwrap();
    let ours: Vec<_> = queued(&running)[before..]
        .iter()
        .map(|command| without_table(*command))
        .collect();
    let mut theirs = commands(&probe.commands);
    // The choice of docs/its.md: what is remembered of the interrupt is forgotten at once.
    theirs.insert(2, command::inv(8, 0));
    let theirs: Vec<_> = theirs.into_iter().map(without_table).collect();
    assert_eq!(ours, theirs);

    let before = queued(&running).len();
    running.lpis.free(its.unmap(&mut device, 0).unwrap());
    assert!(its.destroy_device(device).unwrap().is_none());
    let ours: Vec<_> = queued(&running)[before..]
        .iter()
        .map(|command| without_table(*command))
        .collect();
    // Theirs, then the choice of docs/its.md: a sync for each redistributor before the device's
    // table is somebody else's.
    let at = ring
        .iter()
        .position(|command| command::opcode(*command) == 0x0f)
        .unwrap();
    let theirs: Vec<_> = ring[at..at + 3]
        .iter()
        .map(|one| without_table(*one))
        .collect();
    assert_eq!(ours[..3], theirs);
    assert_eq!(ours[3..], [command::sync(0), command::sync(1 << 16)]);
}
