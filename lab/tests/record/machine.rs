//! A directory tree that looks like a Linux machine's `/proc`, `/sys` and `/dev`, and a thread that
//! makes tracing instances as the kernel does.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tempfile::TempDir;

/// What the kernel wrote between this program's own marks.
pub const EVENTS: &str = "\
              sh-153     [001] .....     5.154725: tracing_mark_write: PHASE_BEGIN recording
    kworker/u8:1-31      [001] .N...     6.964866: swiotlb_bounced: dev_name: 0000:00:01.0 dma_mask=ffffffffffffffff dev_addr=3792000 size=4096 FORCE
    kworker/u8:1-31      [001] .N...     6.964870: dma_map_page: 0000:00:01.0 dir=FROM_DEVICE dma_addr=7b400000 size=4096 phys_addr=3792000 attrs=
CPU:0 [LOST 5 EVENTS]
          <idle>-0       [000] d.h1.     6.964999: dma_unmap_page: 0000:00:01.0 dir=FROM_DEVICE dma_addr=7b400000 size=4096 attrs=
              sh-153     [001] .....     7.500000: tracing_mark_write: PHASE_END recording
";

/// Settings as the kernel has them while nobody traces.
const SETTINGS: [(&str, &str); 7] = [
    ("tracing_on", "1\n"),
    ("trace_clock", "[local] global counter mono\n"),
    ("buffer_size_kb", "1408\n"),
    ("current_tracer", "nop\n"),
    ("set_event", ""),
    ("trace", ""),
    ("trace_marker", ""),
];

const GROUPS: [&str; 4] = ["swiotlb", "dma", "iommu", "cma"];

/// The tree, which goes with this.
pub struct Machine {
    folder: TempDir,
    stop: Arc<AtomicBool>,
    kernel: Option<JoinHandle<()>>,
}

impl Machine {
    /// A machine whose tracefs has only the one buffer.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let machine = Self {
            folder,
            stop: Arc::default(),
            kernel: None,
        };
        machine.describe();
        tracefs(&machine.tracing());
        machine
    }

    /// A machine whose tracefs has instances.
    pub fn with_instances() -> Self {
        let mut machine = Self::new();
        let instances = machine.tracing().join("instances");
        fs::create_dir(&instances).unwrap();
        let stop = machine.stop.clone();
        machine.kernel = Some(thread::spawn(move || {
            let mut is_leaving = false;
            while !stop.load(Ordering::Relaxed) {
                is_leaving = keep_instances(&instances, is_leaving);
                thread::sleep(Duration::from_millis(1));
            }
        }));
        machine
    }

    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    pub fn tracing(&self) -> PathBuf {
        self.root().join("sys/kernel/tracing")
    }

    pub fn put(&self, below: &str, text: &str) {
        put(self.root(), below, text);
    }

    /// Every file of tracefs, to compare before and after. Streams and marks are no settings.
    pub fn settings(&self) -> Vec<(PathBuf, String)> {
        let mut files = Vec::new();
        list(&self.tracing(), &mut files);
        files.retain(|(path, _)| !path.ends_with("trace_marker"));
        for (path, text) in &mut files {
            if path.ends_with("trace_clock") {
                // The kernel shows the chosen clock between brackets; a plain file what was written.
                let chosen = text.split('[').nth(1).and_then(|t| t.split(']').next());
                *text = chosen.unwrap_or(text).to_owned();
            }
            *text = text.trim().to_owned();
        }
        files
    }

    fn describe(&self) {
        self.put("proc/sys/kernel/osrelease", "6.12.95+deb12-amd64\n");
        self.put("proc/sys/kernel/arch", "x86_64\n");
        self.put("proc/cmdline", "console=ttyS0 swiotlb=force x=\"a b\"\n");
        self.put("proc/meminfo", "MemTotal:  1954828 kB\nMemFree: 1 kB\n");
        self.put("sys/devices/system/cpu/online", "0-2,5\n");
        let log = "6,1,0,-;Linux version 6.12\n6,9,2382687,-;software IO TLB: area num 2.\n \
                   SUBSYSTEM=pci\n6,10,3000001,-;random: crng init done\n";
        self.put("dev/kmsg", log);
        for (name, value) in [("nslabs", 32768), ("used", 3), ("used_hiwater", 64)] {
            let file = format!("sys/kernel/debug/swiotlb/io_tlb_{name}");
            self.put(&file, &format!("{value}\n"));
        }
        self.put("sys/kernel/debug/cma/reserved/used", "16\n");
        self.put("sys/kernel/mm/cma/reserved/alloc_pages_fail", "2\n");
        let pci = "sys/bus/pci/devices/0000:00:01.0";
        let fields = [
            ("vendor", "0x1b36"),
            ("device", "0x0010"),
            ("class", "0x010802"),
            ("numa_node", "-1"),
            ("dma_mask_bits", "64"),
        ];
        for (name, value) in fields {
            self.put(&format!("{pci}/{name}"), &format!("{value}\n"));
        }
        let dir = self.root().join(pci);
        symlink("../../../drivers/nvme", dir.join("driver")).unwrap();
        symlink("../../../kernel/iommu_groups/7", dir.join("iommu_group")).unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(kernel) = self.kernel.take() {
            let _ = kernel.join();
        }
    }
}

fn put(dir: &Path, below: &str, text: &str) {
    let path = dir.join(below);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn tracefs(dir: &Path) {
    for group in GROUPS {
        put(dir, &format!("events/{group}/enable"), "0\n");
    }
    put(dir, "events/dma/dma_map_page/enable", "0\n");
    let stats = "entries: 5\noverrun: 2\ncommit overrun: 0\nbytes: 1\ndropped events: 1\n";
    put(dir, "per_cpu/cpu0/stats", stats);
    put(dir, "per_cpu/cpu1/stats", "overrun: 0\ndropped events: 0\n");
    put(dir, "trace_pipe", EVENTS);
    for (name, text) in SETTINGS.iter().rev() {
        // The recorder takes the last file for a sign that all are there.
        let unfinished = dir.join("unfinished");
        fs::write(&unfinished, text).unwrap();
        fs::rename(unfinished, dir.join(name)).unwrap();
    }
}

/// The kernel fills a directory that is made there, and empties one whose events are off again,
/// so that it can be removed; whether that is so.
fn keep_instances(instances: &Path, is_leaving: bool) -> bool {
    let dir = instances.join("dmakit");
    if !dir.is_dir() || is_leaving {
        return is_leaving && dir.is_dir();
    }
    if !dir.join("events").exists() {
        tracefs(&dir);
        return false;
    }
    let read = |below: &str| fs::read_to_string(dir.join(below)).unwrap_or_default();
    let groups_are_off = GROUPS
        .iter()
        .all(|group| read(&format!("events/{group}/enable")).trim() == "0");
    let was_used = !read("trace_marker").is_empty();
    if !(was_used && groups_are_off && read("tracing_on").trim() == "0") {
        return false;
    }
    let seen = instances.with_file_name("seen_in_instance");
    let settings = read("trace_clock").trim().to_owned() + read("buffer_size_kb").trim();
    fs::write(seen, settings).unwrap();
    for entry in fs::read_dir(&dir).unwrap().flatten() {
        let path = entry.path();
        fs::remove_file(&path)
            .or_else(|_| fs::remove_dir_all(&path))
            .unwrap();
    }
    true
}

fn list(dir: &Path, files: &mut Vec<(PathBuf, String)>) {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            list(&path, files);
        } else {
            let text = fs::read_to_string(&path).unwrap();
            files.push((path, text));
        }
    }
}
