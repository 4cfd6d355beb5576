//! A scenario as it is written: one page of TOML.

use serde::Deserialize;
use serde::de::Error as _;

use super::check::CheckName;
use super::machine::MachineName;
use crate::quantity::parse_size;

/// A checked scenario.
#[derive(Debug)]
pub struct Page {
    pub name: String,
    /// What it shows, for people.
    pub shows: String,
    /// Where it can run.
    pub machines: Vec<MachineName>,
    pub checks: Vec<CheckName>,
    /// Bytes of RAM of each node.
    pub nodes: Vec<u64>,
    mode: Mode,
    pub workload: Workload,
}

/// What is done.
#[derive(Debug)]
pub enum Workload {
    Cache(CacheTable),
    Disk(DiskTable),
    Edu(EduTable),
}

/// When unmapped memory is out of a device's reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    #[default]
    Strict,
    /// As strict, with one sync for many unmaps.
    Batched,
    Lazy,
}

/// Transfers of a device beside the CPU's caches.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheTable {
    pub rounds: u64,
    /// The largest transfer.
    pub bytes: Size,
    /// Bytes of a cache line.
    pub line: u64,
}

/// Transfers of a disk.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskTable {
    pub size: Size,
    pub pattern: Pattern,
    /// Transfers of a mixed load.
    pub rounds: Option<u64>,
    /// The smallest and the largest transfer.
    pub sizes: [Size; 2],
    /// Commands in flight, at most.
    pub depth: u64,
}

/// What a disk is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// All of it, from end to end.
    Read,
    /// Reads and writes at random.
    Mixed,
}

/// Transfers of a device with few address bits.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EduTable {
    pub bits: u32,
    pub rounds: u64,
}

/// A number of bytes: `4096`, `"4K"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Typed {
            Number(u64),
            Text(String),
        }
        match Typed::deserialize(deserializer)? {
            Typed::Number(bytes) => Ok(Self(bytes)),
            Typed::Text(text) => parse_size(&text).map(Self).map_err(D::Error::custom),
        }
    }
}

/// The page as it is typed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Typed {
    name: String,
    shows: String,
    machines: Vec<MachineName>,
    checks: Vec<CheckName>,
    memory: Option<MemoryTable>,
    domain: Option<DomainTable>,
    cache: Option<CacheTable>,
    disk: Option<DiskTable>,
    edu: Option<EduTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemoryTable {
    nodes: Vec<Size>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DomainTable {
    mode: Mode,
}

const MIB: u64 = 1 << 20;
/// A block of the disk; larger ones are whole multiples.
const BLOCK: u64 = 512;
/// Bytes of one PRP list's reach.
const TRANSFER_MAX: u64 = 2 * MIB;
const ROUNDS_MAX: u64 = 1_000_000_000;

impl Page {
    /// Reads and checks a page.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let typed: Typed = toml::from_str(text)?;
        let has_domain = typed.domain.is_some() || typed.memory.is_some();
        let nodes: Vec<u64> = match &typed.memory {
            Some(memory) => memory.nodes.iter().map(|size| size.0).collect(),
            None => vec![256 * MIB; 2],
        };
        for &bytes in &nodes {
            in_range("memory.nodes", bytes, 64 * MIB, 8192 * MIB)?;
            multiple("memory.nodes", bytes, 2 * MIB)?;
        }
        in_range("memory.nodes", nodes.len() as u64, 1, 8)?;
        let workload = match (typed.cache, typed.disk, typed.edu) {
            (Some(cache), None, None) if !has_domain => Workload::Cache(cache),
            (Some(_), None, None) => {
                anyhow::bail!("[memory] and [domain] say nothing about a [cache] scenario")
            }
            (None, Some(disk), None) => Workload::Disk(disk),
            (None, None, Some(edu)) => Workload::Edu(edu),
            _ => anyhow::bail!("expected one of [cache], [disk] and [edu]"),
        };
        match &workload {
            Workload::Cache(cache) => cache.check()?,
            Workload::Disk(disk) => disk.check()?,
            Workload::Edu(edu) => edu.check()?,
        }
        let mode = typed.domain.map_or(Mode::Strict, |domain| domain.mode);
        if mode == Mode::Batched && !matches!(workload, Workload::Disk(_)) {
            anyhow::bail!("domain.mode is \"batched\", which needs a ring: that of a [disk]");
        }
        if typed.checks.is_empty() {
            anyhow::bail!("checks is empty: nothing would be shown");
        }
        Ok(Self {
            name: typed.name,
            shows: typed.shows,
            machines: typed.machines,
            checks: typed.checks,
            nodes,
            mode,
            workload,
        })
    }

    /// When unmapped memory is out of reach.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether `machine` can do it.
    pub fn runs_on(&self, machine: MachineName) -> anyhow::Result<()> {
        if !self.machines.contains(&machine) {
            let names: Vec<_> = self.machines.iter().map(|name| name.word()).collect();
            anyhow::bail!(
                "scenario '{}' does not run on {}: it is for {}; try --machine {}",
                self.name,
                machine.word(),
                names.join(", "),
                names.first().unwrap_or(&"sim")
            );
        }
        let why = match (&self.workload, machine) {
            (Workload::Cache(_), MachineName::Sim) => return Ok(()),
            (Workload::Cache(_), _) => "QEMU's memory has no caches to be seen",
            (_, MachineName::QemuVirt) => return Ok(()),
            (_, MachineName::Sim) => "its scenarios on the simulated machine do not translate yet",
            (_, MachineName::QemuQ35) => "there is no driver for its IOMMU",
        };
        anyhow::bail!(
            "scenario '{}' cannot run on {}: {why}",
            self.name,
            machine.word()
        )
    }
}

impl CacheTable {
    fn check(&self) -> anyhow::Result<()> {
        in_range("cache.rounds", self.rounds, 1, ROUNDS_MAX)?;
        in_range("cache.bytes", self.bytes.0, 64, MIB)?;
        in_range("cache.line", self.line, 8, 4096)?;
        match self.line.is_power_of_two() {
            true => Ok(()),
            false => anyhow::bail!("cache.line is {}, expected a power of two", self.line),
        }
    }
}

impl DiskTable {
    fn check(&self) -> anyhow::Result<()> {
        let [smallest, largest] = self.sizes.map(|size| size.0);
        in_range("disk.sizes", largest, BLOCK, TRANSFER_MAX)?;
        in_range("disk.sizes", smallest, BLOCK, largest)?;
        multiple("disk.sizes", smallest, BLOCK)?;
        multiple("disk.sizes", largest, BLOCK)?;
        in_range("disk.depth", self.depth, 1, 63)?;
        in_range("disk.size", self.size.0, self.depth * largest, 1024 * MIB)?;
        multiple("disk.size", self.size.0, largest)?;
        match (self.pattern, self.rounds) {
            (Pattern::Mixed, Some(rounds)) => in_range("disk.rounds", rounds, 1, ROUNDS_MAX),
            (Pattern::Mixed, None) => anyhow::bail!("a mixed load needs disk.rounds"),
            (Pattern::Read, None) => Ok(()),
            (Pattern::Read, Some(_)) => {
                anyhow::bail!("disk.rounds says nothing about a disk that is read from end to end")
            }
        }
    }
}

impl EduTable {
    fn check(&self) -> anyhow::Result<()> {
        in_range("edu.bits", self.bits.into(), 20, 64)?;
        in_range("edu.rounds", self.rounds, 1, ROUNDS_MAX)
    }
}

fn in_range(what: &str, value: u64, low: u64, high: u64) -> anyhow::Result<()> {
    match (low..=high).contains(&value) {
        true => Ok(()),
        false => anyhow::bail!("{what} is {value}, expected {low} to {high}"),
    }
}

fn multiple(what: &str, value: u64, of: u64) -> anyhow::Result<()> {
    match value % of {
        0 => Ok(()),
        _ => anyhow::bail!("{what} is {value}, expected a multiple of {of}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = include_str!("../../../scenarios/smmu-nvme.toml");

    fn complaint(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from));
        let parsed = Page::parse(&GOOD.replace(from, to));
        parsed
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn what_makes_no_sense_is_named_with_its_bounds() {
        for (from, to, says) in [
            (
                "depth = 32",
                "depth = 64",
                "disk.depth is 64, expected 1 to 63",
            ),
            ("\"1M\"", "\"3M\"", "disk.sizes is 3145728"),
            ("\"4K\"", "\"4X\"", "unknown unit 'X'"),
            ("\"4K\"", "100", "disk.sizes is 100"),
            ("rounds = 1000", "", "needs disk.rounds"),
            ("size = \"32M\"", "size = \"8M\"", "disk.size is 8388608"),
            ("\"256M\", \"256M\"", "\"63M\"", "memory.nodes"),
            ("[disk]", "[floppy]", "floppy"),
            ("\"data\", ", "\"date\", ", "date"),
            ("\"strict\"", "\"slack\"", "slack"),
            (
                "pattern = \"mixed\"",
                "pattern = \"read\"",
                "from end to end",
            ),
        ] {
            let said = complaint(from, to);
            assert!(said.contains(says), "{to}: {said}");
        }
        assert!(Page::parse("").is_err());
    }

    #[test]
    fn a_machine_that_cannot_do_it_gets_a_reason() {
        let page = Page::parse(GOOD).unwrap();
        let refused = page.runs_on(MachineName::Sim).unwrap_err().to_string();
        assert!(refused.contains("try --machine qemu:virt"), "{refused}");
        let text = GOOD.replace("[\"qemu:virt\"]", "[\"qemu:q35\"]");
        let page = Page::parse(&text).unwrap();
        let refused = page.runs_on(MachineName::QemuQ35).unwrap_err().to_string();
        assert!(refused.contains("no driver for its IOMMU"), "{refused}");
    }
}
