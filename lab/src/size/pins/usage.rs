//! Which frames devices hold, for how long.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use dmakit_addr::PAGE_BYTES;
use dmakit_linux_model::cma::Reserved;
use dmakit_trace::pairing::{Map, MappingId};
use dmakit_trace::{Op, OpKind};

/// Counts of one owner, or of all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub mappings: u64,
    /// The most at once.
    pub mappings_at_once: u64,
    /// The most bytes at once, each frame once.
    pub once_bytes: u64,
    /// The most bytes at once, each mapping charged for itself.
    pub each_bytes: u64,
    pub longest_ns: u64,
}

/// What one owner holds.
#[derive(Clone, Debug, Default)]
pub struct OwnerPins {
    pub name: String,
    /// Every mapping: what may not move while a device uses it.
    pub all: Counts,
    /// Mappings that outlive the limit: what a pin would hold.
    pub long: Counts,
    /// Bytes of the long ones that lie in contiguous areas, summed over mappings: to be moved out
    /// before each is pinned.
    pub moved_bytes: u64,
    /// Long mappings with such bytes.
    pub moved_mappings: u64,
}

/// What a trace shows.
#[derive(Clone, Debug, Default)]
pub struct Pins {
    pub mappings: u64,
    pub owners: Vec<OwnerPins>,
    pub whole: OwnerPins,
    /// Mappings that never end in the recording.
    pub open: u64,
    /// Mappings whose frames an IOMMU hides: each counts as frames of its own.
    pub hidden: u64,
    /// Bounced mappings: devices hold the bounce pool, which never moves, and not these frames.
    pub bounced: u64,
    /// Whether the log says where contiguous areas lie.
    pub knows_areas: bool,
}

/// Collects mappings, then replays their beginnings and ends.
pub struct Usage {
    longer_than_ns: u64,
    /// First frame and frames of each contiguous area.
    areas: Vec<(u64, u64)>,
    live: HashMap<MappingId, Life>,
    lives: Vec<Life>,
    owners: Vec<String>,
    bounced: u64,
    end_ns: u64,
}

#[derive(Clone, Copy, Debug)]
struct Life {
    owner: usize,
    /// The first frame; `None` where it is hidden.
    frame: Option<u64>,
    frames: u64,
    begin_ns: u64,
    end_ns: Option<u64>,
}

impl Usage {
    pub fn new(longer_than: Duration, areas: &[Reserved]) -> Self {
        Self {
            longer_than_ns: u64::try_from(longer_than.as_nanos()).unwrap_or(u64::MAX),
            areas: areas.iter().map(|area| (area.pfn, area.pages)).collect(),
            live: HashMap::new(),
            lives: Vec::new(),
            owners: Vec::new(),
            bounced: 0,
            end_ns: 0,
        }
    }

    pub fn push(&mut self, op: Op) {
        self.end_ns = self.end_ns.max(op.time_ns);
        match op.kind {
            OpKind::Map(map) => {
                let life = self.life(&map, op.time_ns);
                self.live.insert(map.id, life);
            }
            OpKind::Unmap(unmap) => {
                if let Some(mut life) = self.live.remove(&unmap.id) {
                    life.end_ns = Some(op.time_ns.max(life.begin_ns));
                    self.lives.push(life);
                }
            }
            _ => {}
        }
    }

    fn life(&mut self, map: &Map, begin_ns: u64) -> Life {
        let name = map.device.as_str();
        let known = self.owners.iter().position(|owner| owner == name);
        let owner = known.unwrap_or_else(|| {
            self.owners.push(name.to_owned());
            self.owners.len() - 1
        });
        let is_bounced = map.attempt.is_some();
        self.bounced += u64::from(is_bounced);
        let bytes = if is_bounced { 0 } else { map.size.min(1 << 48) };
        let phys = map.phys.map(|phys| phys.raw());
        let offset = phys
            .filter(|_| bytes > 0)
            .map_or(0, |phys| phys % PAGE_BYTES);
        Life {
            owner,
            frame: phys.map(|phys| phys / PAGE_BYTES),
            frames: (offset + bytes).div_ceil(PAGE_BYTES),
            begin_ns,
            end_ns: None,
        }
    }

    pub fn finish(mut self) -> Pins {
        let mut open: Vec<(MappingId, Life)> = self.live.drain().collect();
        open.sort_unstable_by_key(|(id, _)| *id);
        let open_count = open.len() as u64;
        self.lives.extend(open.into_iter().map(|(_, life)| life));
        let mut pins = Pins {
            mappings: self.lives.len() as u64,
            open: open_count,
            hidden: self.lives.iter().filter(|l| l.frame.is_none()).count() as u64,
            bounced: self.bounced,
            knows_areas: !self.areas.is_empty(),
            whole: self.owned("all", None),
            owners: Vec::new(),
        };
        let owners = self.owners.iter().enumerate();
        pins.owners = owners
            .map(|(index, name)| self.owned(name, Some(index)))
            .collect();
        pins.owners.sort_by(|a, b| a.name.cmp(&b.name));
        pins
    }

    fn owned(&self, name: &str, owner: Option<usize>) -> OwnerPins {
        let own = |life: &&Life| owner.is_none_or(|owner| life.owner == owner);
        let long = |life: &&Life| self.length(life) >= self.longer_than_ns;
        let all: Vec<&Life> = self.lives.iter().filter(own).collect();
        let held: Vec<&Life> = all.iter().copied().filter(|life| long(life)).collect();
        let in_areas = held.iter().map(|life| self.in_areas(life));
        let moved: Vec<u64> = in_areas.filter(|frames| *frames > 0).collect();
        OwnerPins {
            name: name.to_owned(),
            all: self.counts(&all),
            long: self.counts(&held),
            moved_bytes: moved.iter().sum::<u64>() * PAGE_BYTES,
            moved_mappings: moved.len() as u64,
        }
    }

    /// A mapping without an end lives at least to the end of the recording.
    fn length(&self, life: &Life) -> u64 {
        life.end_ns
            .unwrap_or(self.end_ns)
            .saturating_sub(life.begin_ns)
    }

    fn in_areas(&self, life: &Life) -> u64 {
        let Some(first) = life.frame else {
            return 0;
        };
        let shared = |(base, frames): &(u64, u64)| {
            let end = (first + life.frames).min(base + frames);
            end.saturating_sub(first.max(*base))
        };
        self.areas.iter().map(shared).sum()
    }

    fn counts(&self, lives: &[&Life]) -> Counts {
        // Ends before beginnings at the same time: nobody holds both.
        let mut moments: Vec<(u64, bool, usize)> = Vec::with_capacity(lives.len() * 2);
        for (index, life) in lives.iter().enumerate() {
            moments.push((life.begin_ns, true, index));
            if let Some(end_ns) = life.end_ns.filter(|end| *end > life.begin_ns) {
                moments.push((end_ns, false, index));
            }
        }
        moments.sort_unstable();
        let mut frames = Frames::default();
        let (mut live, mut each, mut most) = (0_u64, 0_u64, Counts::default());
        for (_, begins, index) in moments {
            let life = lives[index];
            frames.change(life, begins);
            if begins {
                live += 1;
                each += life.frames;
            } else {
                live -= 1;
                each -= life.frames;
            }
            most.mappings_at_once = most.mappings_at_once.max(live);
            most.each_bytes = most.each_bytes.max(each * PAGE_BYTES);
            most.once_bytes = most.once_bytes.max(frames.distinct * PAGE_BYTES);
            if begins && life.end_ns == Some(life.begin_ns) {
                // Gone within the resolution of the clock.
                frames.change(life, false);
                live -= 1;
                each -= life.frames;
            }
        }
        most.mappings = lives.len() as u64;
        most.longest_ns = lives
            .iter()
            .map(|life| self.length(life))
            .max()
            .unwrap_or(0);
        most
    }
}

/// How often each frame is held: how the count changes at frames, from the lowest up.
#[derive(Default)]
struct Frames {
    held: BTreeMap<u64, u32>,
    distinct: u64,
}

impl Frames {
    fn change(&mut self, life: &Life, begins: bool) {
        let Some(first) = life.frame else {
            self.distinct = if begins {
                self.distinct + life.frames
            } else {
                self.distinct - life.frames
            };
            return;
        };
        for frame in first..first + life.frames {
            let count = self.held.entry(frame).or_insert(0);
            if begins {
                *count += 1;
                self.distinct += u64::from(*count == 1);
            } else {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.held.remove(&frame);
                    self.distinct -= 1;
                }
            }
        }
    }
}
