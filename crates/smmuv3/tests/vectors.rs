//! Bytes and register writes of an unmodified Linux driver, against ours.
//!
//! `vectors/smmuv3.toml` holds what Linux 6.12.95 wrote on QEMU 7.2. What differs is listed in
//! `docs/smmuv3.md`, and nowhere else.

use std::collections::BTreeMap;
use std::sync::Mutex;

use dmakit_addr::{DmaMask, Granule, Iova, IovaRange, NodeId, PhysAddr, PhysRange};
use dmakit_io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
use dmakit_io_pgtable::{Access, Format, Memory, PageTable, Permissions, WalkCoherence};
use dmakit_iommu::{Domain, DomainId, Fault, FaultReason, Invalidation};
use dmakit_iova::{CpuCache, Policy, Space};
use dmakit_platform::host::{HostPlatform, HostRam};
use dmakit_platform::{CpuSlot, Mmio, NoMemory, Platform, Segment, SegmentRequest, TableMemory};
use dmakit_smmuv3::spec::event::{Event, EventKind};
use dmakit_smmuv3::spec::{cd, command, ste};
use dmakit_smmuv3::{Config, Smmu, Tag, Translation};
use serde::Deserialize;

#[derive(Deserialize)]
struct Vectors {
    sequence: Vec<Sequence>,
    vector: Vec<Words>,
    page_table_path: Vec<TablePath>,
    unmap_invalidation: Vec<Commands>,
    command_sequence: Vec<Commands>,
    ring: Vec<Ring>,
}

#[derive(Deserialize)]
struct Sequence {
    name: String,
    #[serde(default)]
    writes: Vec<[String; 3]>,
}

#[derive(Deserialize)]
struct Words {
    name: String,
    words: Vec<String>,
}

#[derive(Deserialize)]
struct TablePath {
    name: String,
    entries: Vec<String>,
    leaf_level: u32,
}

#[derive(Deserialize)]
struct Commands {
    name: String,
    #[serde(default)]
    iova: Option<String>,
    #[serde(default)]
    size: Option<u64>,
    commands: Vec<[String; 2]>,
}

#[derive(Deserialize)]
struct Ring {
    name: String,
    entries: Vec<Vec<String>>,
}

fn vectors() -> Vectors {
    toml::from_str(include_str!("vectors/smmuv3.toml")).unwrap()
}

fn number(text: &str) -> u64 {
    u64::from_str_radix(text.trim_start_matches("0x"), 16)
        .or_else(|_| text.parse())
        .unwrap()
}

fn numbers<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<u64> {
    texts.into_iter().map(|text| number(text)).collect()
}

impl Vectors {
    fn words(&self, name: &str) -> Vec<u64> {
        let found = self.vector.iter().find(|vector| vector.name == name);
        numbers(&found.unwrap_or_else(|| panic!("no vector {name}")).words)
    }
}

/// The choice of `docs/smmuv3.md`: our syncs ask for no event to waiting CPUs.
const SYNC_CS_SEV: u64 = 2 << 12;

fn as_ours(command: [u64; 2]) -> [u64; 2] {
    match command::opcode(command) {
        0x46 => [command[0] & !SYNC_CS_SEV, command[1]],
        _ => command,
    }
}

#[test]
fn stream_table_entries_and_descriptors_are_the_same_words() {
    let vectors = vectors();
    for name in ["nvme", "virtio-blk", "virtio-9p"] {
        let words = vectors.words(&format!("ste-{name}-s1"));
        let context = words[0] & 0x000f_ffff_ffff_ffc0;
        assert_eq!(ste::stage_1(context, false)[..], words, "{name}");
    }
    for name in ["ste-abort", "ste-nvme-before-probe"] {
        assert_eq!(ste::ABORT[..], vectors.words(name));
    }
    let level_1 = vectors.words("ste-l1-desc-bus0")[0];
    assert_eq!(ste::level_1(level_1 & !0x3f, 8), level_1);
    assert_eq!(vectors.words("ste-l1-desc-unused"), [0]);
}

#[test]
fn context_descriptors_are_the_same_words_but_for_unused_attributes() {
    let vectors = vectors();
    for name in ["cd-nvme", "cd-virtio-blk", "cd-virtio-9p"] {
        let words = vectors.words(name);
        let ours = cd::stage_1(cd::Stage1 {
            asid: (words[0] >> 48) as u16,
            input_bits: 48,
            granule: 0,
            output: cd::output_size(44),
            table: words[1],
            mair: dmakit_io_pgtable::lpae::MAIR,
            coherent: true,
        });
        let mut theirs = words.clone();
        // Attributes 0 to 2 are what entries index; Linux has another, and a sign extension.
        theirs[3] &= 0xff_ffff;
        assert_eq!(ours[..], theirs, "{name}");
    }
}

#[test]
fn table_and_leaf_entries_are_the_same_words() {
    let format = Lpae::new(Stage::One, Granule::K4, 48, 44, ContiguousHint::Never).unwrap();
    let doorbell = Permissions {
        access: Access::Write,
        memory: Memory::Device,
        privileged: false,
        executable: false,
    };
    let vectors = vectors();
    assert_eq!(vectors.page_table_path.len(), 5);
    let low = |entry: u64| entry & 0xffff_ffff_f000;
    for path in &vectors.page_table_path {
        let entries = numbers(&path.entries);
        let (leaf, tables) = entries.split_last().unwrap();
        for table in tables {
            assert_eq!(format.table(PhysAddr::new(low(*table))), *table);
        }
        let permissions = match path.name.as_str() {
            "pt-msi-doorbell" => doorbell,
            name if name.ends_with("ro") => Permissions::READ,
            _ => Permissions::READ_WRITE,
        };
        let ours = format.leaf(3 - path.leaf_level, permissions)
            | format.address(PhysAddr::new(low(*leaf)));
        assert_eq!(ours, *leaf, "{}", path.name);
    }
    for (name, height) in [("pt-64k-run-leaves", 0), ("pt-2m-block-run", 1)] {
        for word in vectors.words(name) {
            let bits = format.leaf(height, Permissions::READ);
            assert_eq!(bits | format.address(PhysAddr::new(low(word))), word);
        }
    }
}

#[test]
fn each_command_is_the_same_words() {
    let vectors = vectors();
    let theirs = |name: &str| {
        let words = vectors.words(name);
        as_ours([words[0], words[1]])
    };
    assert_eq!(command::CFGI_ALL, theirs("cmd-cfgi-ste-range"));
    assert_eq!(command::SYNC, theirs("cmd-sync"));
    assert_eq!(command::TLBI_NSNH_ALL, theirs("cmd-tlbi-nsnh-all"));
    assert_eq!(command::tlbi_nh_asid(1), theirs("cmd-tlbi-nh-asid"));
    assert_eq!(command::cfgi_cd(0x10, 0), theirs("cmd-cfgi-cd"));
    assert_eq!(command::cfgi_ste(0x10), theirs("cmd-cfgi-ste"));
}

#[test]
fn every_record_of_a_fault_reads_as_linux_printed_it() {
    let vectors = vectors();
    let ring = vectors.ring.iter().find(|ring| ring.name == "eventq");
    let records = &ring.unwrap().entries;
    assert_eq!(records.len(), 16);
    for (index, record) in records.iter().enumerate() {
        let words: [u64; 4] = numbers(record).try_into().unwrap();
        let event = Event::from_words(words);
        assert_eq!(event.kind, EventKind::Translation);
        let fault = Fault::from(event);
        assert_eq!(fault.reason, FaultReason::Unmapped);
        assert_eq!((fault.stream, fault.is_write), (8, Some(false)));
        let address = 0x12_4567_8000 + 4 * index as u64;
        assert_eq!(fault.iova, Some(Iova::new(address)));
    }
}

/// Registers that answer as the recorded machine's did, and remember what was written.
struct Recorded {
    registers: Mutex<BTreeMap<u64, u64>>,
    writes: Mutex<Vec<(u64, u64, u64)>>,
}

impl Recorded {
    fn new() -> Self {
        let identity = [
            (0, 0xd40_101a),
            (4, 0x273_0010),
            (0xc, 0x1404),
            (0x14, 0x74),
        ];
        Self {
            registers: Mutex::new(identity.into()),
            writes: Mutex::default(),
        }
    }

    fn get(&self, offset: u64) -> u64 {
        let registers = self.registers.lock().unwrap();
        let source = match offset {
            // Acknowledgements, and a command queue that is always done.
            0x24 => 0x20,
            0x54 => 0x50,
            0x9c => 0x98,
            _ => offset,
        };
        registers.get(&source).copied().unwrap_or(0)
    }

    fn set(&self, offset: u64, width: u64, value: u64) {
        self.registers.lock().unwrap().insert(offset, value);
        self.writes.lock().unwrap().push((offset, width, value));
    }
}

impl Mmio for &Recorded {
    fn read32(&self, offset: u64) -> u32 {
        self.get(offset) as u32
    }

    fn read64(&self, offset: u64) -> u64 {
        self.get(offset)
    }

    fn write32(&self, offset: u64, value: u32) {
        self.set(offset, 4, value.into());
    }

    fn write64(&self, offset: u64, value: u64) {
        self.set(offset, 8, value);
    }
}

/// RAM from which tables are cut, never to come back.
struct Tables {
    ram: HostRam,
    rest: Mutex<Option<Segment>>,
}

impl Tables {
    fn new() -> Self {
        let range = PhysRange::new(PhysAddr::new(1 << 30), 64 << 20).unwrap();
        let (ram, mut segments) = HostRam::new(&[range]).unwrap();
        Self {
            ram,
            rest: Mutex::new(segments.pop()),
        }
    }

    fn word(&self, address: u64) -> u64 {
        let mut bytes = [0; 8];
        let range = PhysRange::new(PhysAddr::new(address), 8).unwrap();
        self.ram.hardware_window(range).unwrap().read(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}

impl TableMemory for &Tables {
    fn allocate_table(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        let mut rest = self.rest.lock().unwrap();
        let segment = rest.take().unwrap();
        let start = segment.range().start().raw();
        let skip = start.next_multiple_of(request.align) - start;
        let (_, segment) = segment.split_at(skip).unwrap();
        let (segment, left) = segment.split_at(request.len).unwrap();
        *rest = Some(left);
        segment.window().fill(0);
        Ok(segment)
    }

    fn free_table(&self, _segment: Segment) {}
}

/// The recorded lengths of the queues.
fn recorded_config() -> Config {
    Config {
        node: Some(NodeId::new(0)),
        command_shift: 16,
        event_shift: 15,
        ..Config::default()
    }
}

#[test]
fn bring_up_writes_the_same_registers_in_the_same_order() {
    let vectors = vectors();
    let theirs = vectors.sequence.iter().find(|s| s.name == "probe-writes");
    let theirs = theirs.unwrap().writes.iter().map(|write| {
        let [offset, width, value] = write.each_ref().map(|text| number(text));
        (offset, width, without_address(offset, value))
    });
    let (regs, memory) = (Recorded::new(), Tables::new());
    Smmu::start(HostPlatform::new(1), &regs, &memory, recorded_config()).unwrap();
    let ours = regs.writes.lock().unwrap().clone();
    let ours: Vec<_> = ours
        .into_iter()
        .map(|(offset, width, value)| (offset, width, without_address(offset, value)))
        .collect();
    assert_eq!(ours, theirs.collect::<Vec<_>>());
}

/// Where tables and queues lie is the allocator's business.
fn without_address(offset: u64, value: u64) -> u64 {
    match offset {
        0x80 | 0x90 | 0xa0 => value & 0xfff0_0000_0000_001f,
        _ => value,
    }
}

/// What stands in the command queue, with each sync as it would be without its choices.
fn queued(regs: &Recorded, memory: &Tables) -> Vec<[u64; 2]> {
    let base = regs.get(0x90) & 0x000f_ffff_ffff_ffe0;
    let slot = |index| [0, 8].map(|byte| memory.word(base + index * 16 + byte));
    (0..regs.get(0x98)).map(slot).collect()
}

fn theirs(commands: &Commands) -> Vec<[u64; 2]> {
    let words = |command: &[String; 2]| as_ours(command.each_ref().map(|text| number(text)));
    commands.commands.iter().map(words).collect()
}

#[test]
fn reset_and_attach_queue_what_linux_queued_but_for_named_choices() {
    let vectors = vectors();
    let sequence = |name: &str| {
        let found = vectors.command_sequence.iter().find(|s| s.name == name);
        theirs(found.unwrap())
    };
    let (regs, memory) = (Recorded::new(), Tables::new());
    let platform = HostPlatform::new(1);
    let smmu = Smmu::start(platform.clone(), &regs, &memory, recorded_config()).unwrap();
    assert_eq!(queued(&regs, &memory), sequence("reset"));
    let format = Lpae::new(Stage::One, Granule::K4, 48, 44, ContiguousHint::Never).unwrap();
    let table = PageTable::new(format, platform, &memory, None, WalkCoherence::Coherent).unwrap();
    let context = smmu.create_context(&table).unwrap();
    smmu.attach(0x10, &context).unwrap();
    // Linux writes the descriptor in two steps, since streams share the table that it stands in,
    // and asks for a prefetch at the end. We ask for the entry with its table, which is new, and
    // for the descriptor after each step of the entry.
    let steps = [command::cfgi_ste_and_table(0x10), command::cfgi_cd(0x10, 0)];
    let ours = [
        vec![command::tlbi_nh_asid(1), command::SYNC],
        steps.to_vec(),
        vec![command::SYNC],
        steps.to_vec(),
        vec![command::SYNC],
    ];
    assert_eq!(queued(&regs, &memory)[4..], ours.concat());
    let theirs = sequence("attach-first-device");
    assert_eq!(theirs[..2], ours[0]);
    let kinds = |commands: &[[u64; 2]]| {
        let mut kinds: Vec<_> = commands.iter().map(|c| command::opcode(*c)).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    };
    let mut expected = kinds(&ours.concat());
    expected.insert(0, 0x01);
    assert_eq!(kinds(&theirs), expected, "only the prefetch is left out");
}

#[test]
fn unmaps_of_every_recorded_size_queue_the_same_commands() {
    let vectors = vectors();
    let mut sizes = 0;
    for recorded in &vectors.unmap_invalidation {
        let expected = theirs(recorded);
        let Some((iova, size)) = recorded.iova.as_ref().zip(recorded.size) else {
            continue;
        };
        let asid = (expected[0][0] >> 48) as u16;
        let (regs, memory) = (Recorded::new(), Tables::new());
        let platform = HostPlatform::new(1);
        let smmu = Smmu::start(platform.clone(), &regs, &memory, recorded_config()).unwrap();
        let is_block = size == 0x20_0000;
        let before = queued(&regs, &memory).len();
        let what = Invalidation {
            range: IovaRange::new(Iova::new(number(iova)), size).unwrap(),
            granule: Granule::K4,
            leaf_shift: Some(if is_block { 21 } else { 12 }),
            leaf_height: Some(u32::from(is_block)),
            tables: false,
        };
        smmu.invalidate(Tag::Asid(asid), &what).unwrap();
        smmu.sync().unwrap();
        assert_eq!(
            queued(&regs, &memory)[before..],
            expected,
            "{}",
            recorded.name
        );
        sizes += 1;
    }
    assert_eq!(sizes, 16);
    let (regs, memory) = (Recorded::new(), Tables::new());
    let smmu = Smmu::start(HostPlatform::new(1), &regs, &memory, recorded_config()).unwrap();
    let replaced = vectors.unmap_invalidation.iter();
    let replaced = replaced.clone().find(|one| one.iova.is_none()).unwrap();
    let what = Invalidation {
        range: IovaRange::new(Iova::new(0xffc0_0000), 0x20_0000).unwrap(),
        granule: Granule::K4,
        leaf_shift: None,
        leaf_height: None,
        tables: true,
    };
    smmu.invalidate(Tag::Asid(1), &what).unwrap();
    smmu.sync().unwrap();
    assert_eq!(queued(&regs, &memory)[4..], theirs(replaced));
}

#[test]
fn a_domains_unmap_queues_them_too() {
    let (regs, memory) = (Recorded::new(), Tables::new());
    let platform = HostPlatform::new(1);
    let smmu = Smmu::start(platform.clone(), &regs, &memory, recorded_config()).unwrap();
    let format = Lpae::new(Stage::One, Granule::K4, 48, 44, ContiguousHint::Never).unwrap();
    let aperture = IovaRange::new(Iova::new(0), 1 << 32).unwrap();
    let cpus = vec![CpuSlot::<CpuCache>::default()];
    let space = Space::new(Granule::K4, aperture, Policy::TopDown, cpus).unwrap();
    let table = PageTable::new(
        format,
        platform.clone(),
        &memory,
        None,
        WalkCoherence::Coherent,
    )
    .unwrap();
    let context = smmu.create_context(&table).unwrap();
    let domain = Domain::new(DomainId(1), space, table, Translation::new(&smmu, context));
    let cpu = platform.enter_cpu();
    let run = PhysRange::new(PhysAddr::new(0x4000_0000), 0x1000).unwrap();
    let map = || {
        domain
            .map(
                &cpu,
                [run; 3].into_iter(),
                Permissions::READ_WRITE,
                1,
                DmaMask::ALL,
            )
            .unwrap()
    };
    let mapped = map();
    let before = queued(&regs, &memory).len();
    let start = mapped.range().start().raw();
    let ticket = domain.unmap(mapped).unwrap();
    let proof = domain.sync().unwrap();
    let commands = &queued(&regs, &memory)[before..];
    let three = [0x0001_0000_0000_2012, start | 0x701];
    assert_eq!(commands, [three, command::SYNC]);
    domain.redeem(&cpu, ticket, &proof).unwrap();
    let counts = smmu.command_counts();
    assert_eq!(counts.commands, queued(&regs, &memory).len() as u64);
}
