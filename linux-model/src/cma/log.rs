//! What the kernel's log says of contiguous areas.

use dmakit_trace::Sidecar;

const PAGE_BYTES: u64 = dmakit_addr::PAGE_BYTES;
/// What a list of free runs begins with.
const FREE_RUNS: &str = "number of available pages: ";

/// Lines of the log that concern contiguous areas.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Log {
    /// Ranges that were reserved at boot.
    pub ranges: Vec<Reserved>,
    /// Claims that failed, with what was free then.
    pub failures: Vec<FailureReport>,
}

/// `cma: Reserved 64 MiB at 0x1ba00000 on node -1`, or what a device tree's region prints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reserved {
    /// The number of its first page.
    pub pfn: u64,
    /// How many.
    pub pages: u64,
    /// The node it had to be on; `None` for any.
    pub node: Option<u32>,
    /// Its name, where the line has it.
    pub name: Option<String>,
}

/// `cma: __cma_alloc: reserved: alloc failed, req-size: 3038 pages, ret: -12` and the line behind,
/// or that line alone: the kernel limits the rate of the first, not of the second.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FailureReport {
    /// When it was printed, by the log's own clock.
    pub at_ns: u64,
    /// The area, where the line names it.
    pub area: Option<String>,
    /// Pages asked; `None` where only the free runs are printed.
    pub pages: Option<u64>,
    /// Free runs as first page, counted from the area's base, and pages; `None` where they were
    /// not printed.
    pub free_runs: Option<Vec<(u64, u64)>>,
    /// Pages of the area, where printed.
    pub area_pages: Option<u64>,
}

impl Log {
    /// Reads the lines of a sidecar.
    pub fn new(sidecar: &Sidecar) -> Self {
        let mut log = Self::default();
        let mut lines = sidecar.dmesg.lines.iter().map(String::as_str).peekable();
        while let Some(line) = lines.next() {
            if let Some(range) = reserved(line) {
                // A device tree's region may print two lines about itself.
                match log.ranges.iter_mut().find(|r| r.pfn == range.pfn) {
                    Some(known) => known.name = known.name.take().or(range.name),
                    None => log.ranges.push(range),
                }
            } else if let Some(failure) = failure(line) {
                log.failures.push(failure);
            } else if let Some((_, list)) = line.split_once(FREE_RUNS) {
                let mut list = list.to_owned();
                while let Some(more) = lines.next_if(|line| is_continued(&list, line)) {
                    list.push_str(text(more));
                }
                log.note_free_runs(line, &list);
            }
        }
        log
    }

    /// Of the failure printed before, if it has none yet; else of one whose own line the kernel
    /// left out.
    fn note_free_runs(&mut self, line: &str, list: &str) {
        let Some((runs, area_pages)) = free_runs(list) else {
            return;
        };
        let open = |failure: &&mut FailureReport| failure.free_runs.is_none();
        match self.failures.last_mut().filter(open) {
            Some(failure) => {
                failure.free_runs = Some(runs);
                failure.area_pages = Some(area_pages);
            }
            None => self.failures.push(FailureReport {
                at_ns: seconds_ns(line).unwrap_or(0),
                area: None,
                pages: None,
                free_runs: Some(runs),
                area_pages: Some(area_pages),
            }),
        }
    }
}

fn reserved(line: &str) -> Option<Reserved> {
    if let Some((_, rest)) = line.split_once("cma: Reserved ") {
        let (size, rest) = rest.split_once(" at 0x")?;
        let node = rest.split_once("on node ").map(|(_, node)| node);
        return Some(Reserved {
            pfn: hex(rest)? / PAGE_BYTES,
            pages: mib(size)? / PAGE_BYTES,
            // -1 is any.
            node: node.and_then(|node| node.trim().parse().ok()),
            name: None,
        });
    }
    if let Some((_, rest)) = line.split_once("created CMA memory pool at 0x") {
        let (_, size) = rest.split_once("size ")?;
        return Some(Reserved {
            pfn: hex(rest)? / PAGE_BYTES,
            pages: mib(size)? / PAGE_BYTES,
            node: None,
            name: None,
        });
    }
    let (_, rest) = line.split_once("OF: reserved mem: 0x")?;
    let (_, kib) = rest.split_once('(')?;
    let (_, name) = rest.split_once(" reusable ")?;
    Some(Reserved {
        pfn: hex(rest)? / PAGE_BYTES,
        pages: number(kib)?.checked_mul(1024)? / PAGE_BYTES,
        node: None,
        name: Some(name.trim().to_owned()),
    })
}

fn failure(line: &str) -> Option<FailureReport> {
    let (head, rest) = line.split_once("alloc failed, req-size: ")?;
    let (_, head) = head.split_once("cma: ")?;
    // `__cma_alloc: reserved: `, or without the area's name.
    let mut words = head.split(": ");
    words.next()?;
    Some(FailureReport {
        at_ns: seconds_ns(line).unwrap_or(0),
        area: words
            .next()
            .map(str::trim)
            .filter(|area| !area.is_empty())
            .map(str::to_owned),
        pages: Some(number(rest)?),
        free_runs: None,
        area_pages: None,
    })
}

/// Whether a line goes on with a list of free runs: one that is too long for a record of the log
/// fills several.
fn is_continued(list: &str, line: &str) -> bool {
    let text = text(line).trim_start();
    !list.contains("=>")
        && (text.starts_with(['+', '=']) || text.starts_with(|c: char| c.is_ascii_digit()))
}

/// What stands behind the time.
fn text(line: &str) -> &str {
    let stamped = line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "));
    stamped.map_or(line, |(_, text)| text)
}

/// `8@8+16@48=> 24 free of 16384 total pages`. An area of several ranges prints otherwise, which
/// is left alone.
fn free_runs(list: &str) -> Option<(Vec<(u64, u64)>, u64)> {
    let (list, sum) = list.split_once("=>")?;
    let (_, total) = sum
        .split_once(" of ")
        .or_else(|| sum.split_once("total: "))?;
    let mut runs = Vec::new();
    for run in list.trim().split('+').filter(|run| !run.is_empty()) {
        let (pages, at) = run.split_once('@')?;
        runs.push((at.parse().ok()?, pages.parse().ok()?));
    }
    Some((runs, number(total)?))
}

/// `[   25.119933] `, to the microsecond.
fn seconds_ns(line: &str) -> Option<u64> {
    let (stamp, _) = line.strip_prefix('[')?.split_once(']')?;
    let (seconds, fraction) = stamp.trim().split_once('.')?;
    let micros: u64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    let seconds: u64 = seconds.parse().ok()?;
    Some(seconds.checked_mul(1_000_000)?.checked_add(micros)? * 1000)
}

/// The decimal number that `text` begins with.
fn number(text: &str) -> Option<u64> {
    let text = text.trim_start();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text[..end].parse().ok()
}

fn hex(text: &str) -> Option<u64> {
    let end = text
        .find(|c: char| !c.is_ascii_hexdigit())
        .unwrap_or(text.len());
    u64::from_str_radix(&text[..end], 16).ok()
}

/// Bytes of `64 MiB`.
fn mib(text: &str) -> Option<u64> {
    let number = number(text)?;
    let unit = text
        .trim_start()
        .trim_start_matches(|c: char| c.is_ascii_digit());
    let shift = match unit.trim_start().as_bytes().first()? {
        b'K' => 10,
        b'M' => 20,
        b'G' => 30,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}
