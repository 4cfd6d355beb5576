//! `dmakit record` against directory trees that look like machines.

mod machine;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use dmakit_trace::Sidecar;
use machine::{EVENTS, Machine};
use tempfile::TempDir;

/// A place to write to.
struct Out(TempDir);

impl Out {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn sidecar(&self, name: &str) -> Sidecar {
        let text = fs::read_to_string(self.file(&format!("{name}.toml"))).unwrap();
        Sidecar::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn record(machine: &Machine, out: &Out, options: &[&str], command: &[&str]) -> Command {
    let mut run = Command::new(env!("CARGO_BIN_EXE_dmakit"));
    run.arg("record")
        .arg("--root")
        .arg(machine.root())
        .arg("-o")
        .arg(out.file("disk-6.12"))
        .args(options)
        .arg("--")
        .args(command)
        .stdin(Stdio::null());
    run
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn is_answered(output: &Output) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
}

#[test]
fn a_recording_leaves_a_trace_and_what_the_machine_says() {
    let (machine, out) = (Machine::with_instances(), Out::new());
    let output = run(&mut record(&machine, &out, &["--json"], &["echo", "hello"]));
    is_answered(&output);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["events_total"], 5);
    assert_eq!(json["trace"], "disk-6.12.txt.zst");
    assert_eq!(json["command_status"], 0);
    // The command's own words do not stand in the answer.
    assert_eq!(text(&output.stderr), "hello\n");
    assert_eq!(out.names(), ["disk-6.12.toml", "disk-6.12.txt.zst"]);

    let sidecar = out.sidecar("disk-6.12");
    let capture = &sidecar.capture;
    assert_eq!(capture.kernel.as_deref(), Some("6.12.95+deb12-amd64"));
    assert_eq!(
        capture.cmdline.as_deref(),
        Some("console=ttyS0 swiotlb=force x=\"a b\"")
    );
    assert_eq!(
        (capture.cpus, capture.mem_total_kib),
        (Some(4), Some(1_954_828))
    );
    assert_eq!(
        (capture.arch.as_deref(), capture.swiotlb_dynamic),
        (Some("x86_64"), Some(false))
    );
    assert_eq!(capture.workload.as_deref(), Some("echo hello"));
    assert_eq!(sidecar.events["swiotlb_bounced"], 1);
    assert_eq!(
        sidecar.dmesg.lines,
        ["[    2.382687] software IO TLB: area num 2."]
    );
    let pci = &sidecar.devices.pci[0];
    assert_eq!(
        pci.to_string(),
        "0000:00:01.0 0x1b36:0x0010 class=0x010802 numa=-1 drv=nvme dma_mask=64 iommu_group=7"
    );
    let [phase] = sidecar.phases.as_slice() else {
        panic!("{:?}", sidecar.phases);
    };
    assert_eq!(
        (phase.begin, phase.end, phase.swiotlb_nslabs),
        (Some(5.154725), Some(7.5), Some(32768))
    );
    // The mark was as high before: it says nothing about this recording.
    assert_eq!(phase.swiotlb_hiwater, None);
}

#[test]
fn losses_of_the_buffers_and_of_the_reader_are_counted() {
    let (machine, out) = (Machine::with_instances(), Out::new());
    let output = run(&mut record(&machine, &out, &["--json"], &["true"]));
    is_answered(&output);
    // Three by the buffers' statistics, five by the stream's mark, which may count the same ones.
    assert_eq!(out.sidecar("disk-6.12").capture.events_lost, Some(5));
    let stats = "overrun: 40\ncommit overrun: 1\ndropped events: 1\n";
    let shared = Machine::new();
    shared.put("sys/kernel/tracing/per_cpu/cpu1/stats", stats);
    let out = Out::new();
    let output = run(&mut record(
        &shared,
        &out,
        &["--packing", "plain"],
        &["true"],
    ));
    is_answered(&output);
    assert_eq!(out.sidecar("disk-6.12").capture.events_lost, Some(45));
    assert!(text(&output.stdout).contains("45 events lost"));
    assert!(text(&output.stdout).contains("larger --buffer than 16 MiB"));
    assert_eq!(
        fs::read_to_string(out.file("disk-6.12.txt")).unwrap(),
        EVENTS
    );
}

#[test]
fn replay_reads_what_record_wrote() {
    let (machine, out) = (Machine::with_instances(), Out::new());
    is_answered(&run(&mut record(&machine, &out, &[], &["true"])));
    let output = Command::new(env!("CARGO_BIN_EXE_dmakit"))
        .args(["replay", "--json", "--engine", "linux-6.12"])
        .arg(out.file("disk-6.12.txt.zst"))
        .output()
        .unwrap();
    let said = text(&output.stderr);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect(&said);
    assert_eq!(json["results"][0]["mappings"], 1);
    assert_eq!(json["trace"]["lost"], 5);
    assert_eq!(json["trace"]["kernel"], "6.12.95+deb12-amd64");
}

#[test]
fn tracefs_is_as_it_was_however_the_command_ends() {
    for machine in [Machine::new(), Machine::with_instances()] {
        let before = machine.settings();
        for (command, status) in [(["sh", "-c", "exit 0"], 0), (["sh", "-c", "exit 7"], 7)] {
            let out = Out::new();
            let output = run(&mut record(&machine, &out, &["--json"], &command));
            is_answered(&output);
            let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(json["command_status"], status);
            let seen = machine.tracing().join("seen_in_instance");
            let used = fs::read_to_string(&seen).unwrap_or("mono16384".to_owned());
            assert_eq!(used, "mono16384");
            let _ = fs::remove_file(seen);
            assert_eq!(machine.settings(), before);
        }
        let out = Out::new();
        let output = run(&mut record(&machine, &out, &[], &["/no/such/command"]));
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty());
        let said = text(&output.stderr);
        assert!(said.contains("/no/such/command: cannot be run"), "{said}");
        assert_eq!(said.lines().count(), 1);
        assert_eq!(out.names(), [""; 0]);
        let _ = fs::remove_file(machine.tracing().join("seen_in_instance"));
        assert_eq!(machine.settings(), before);
    }
}

#[test]
fn an_interrupt_ends_the_recording_and_reaches_the_command() {
    for machine in [Machine::new(), Machine::with_instances()] {
        let (before, out) = (machine.settings(), Out::new());
        let script = "trap 'echo told > \"$0\"; exit' INT; echo started > \"$0\"; \
                      while :; do sleep 0.02; done";
        let note = out.file("note");
        let words = ["sh", "-c", script, note.to_str().unwrap()];
        let mut child = record(&machine, &out, &["--json"], &words)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        wait_for(|| fs::read_to_string(&note).is_ok_and(|text| text == "started\n"));
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        wait_for(|| child.try_wait().unwrap().is_some());
        let output = child.wait_with_output().unwrap();
        is_answered(&output);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["ended"], "interrupted");
        assert_eq!(fs::read_to_string(&note).unwrap(), "told\n");
        assert_eq!(out.sidecar("disk-6.12").capture.events_total, Some(5));
        let _ = fs::remove_file(machine.tracing().join("seen_in_instance"));
        assert_eq!(machine.settings(), before);
    }
}

fn wait_for(mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(20), "never came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_time_ends_a_recording_without_a_command() {
    let (machine, out) = (Machine::with_instances(), Out::new());
    let output = run(&mut record(&machine, &out, &["--duration", "50ms"], &[]));
    is_answered(&output);
    assert!(text(&output.stdout).contains("the time was over"));
}

#[test]
fn a_mark_that_was_set_back_is_the_recordings_own() {
    let (machine, out) = (Machine::with_instances(), Out::new());
    let mark = machine
        .root()
        .join("sys/kernel/debug/swiotlb/io_tlb_used_hiwater");
    let raise = format!("echo 9 > {}", mark.display());
    let words = ["sh", "-c", raise.as_str()];
    is_answered(&run(&mut record(
        &machine,
        &out,
        &["--reset-high-water"],
        &words,
    )));
    assert_eq!(out.sidecar("disk-6.12").phases[0].swiotlb_hiwater, Some(9));
    let sidecar = fs::read_to_string(out.file("disk-6.12.toml")).unwrap();
    let table: toml::Table = toml::from_str(&sidecar).unwrap();
    let before = &table["counters"]["before"];
    assert_eq!(
        before["swiotlb"]["default"]["used_hiwater"].as_integer(),
        Some(0)
    );
    assert_eq!(
        before["cma"]["reserved"]["alloc_pages_fail"].as_integer(),
        Some(2)
    );
}

#[test]
fn a_kernel_without_dma_events_is_told_about() {
    let (machine, out) = (Machine::with_instances(), Out::new());
    fs::remove_dir_all(machine.tracing().join("events/dma")).unwrap();
    machine.put("sys/kernel/tracing/kprobe_events", "");
    let output = run(&mut record(&machine, &out, &["--json"], &["true"]));
    is_answered(&output);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["missing"][0], "dma");
    let notes = json["notes"].to_string();
    assert!(
        notes.contains("neither whether they succeeded nor when they ended"),
        "{notes}"
    );
    assert!(notes.contains("--kprobes"), "{notes}");
}

#[test]
fn probes_are_set_and_removed() {
    let (machine, out) = (Machine::new(), Out::new());
    machine.put(
        "sys/kernel/tracing/kprobe_events",
        "p:theirs/x do_nothing\n",
    );
    machine.put("sys/kernel/tracing/events/dmakit/enable", "0\n");
    machine.put(
        "sys/kernel/tracing/kprobe_profile",
        "  sw_unmap   14470   597\n  x 3 4\n",
    );
    let before = machine.settings();
    let output = run(&mut record(&machine, &out, &["--kprobes"], &["true"]));
    is_answered(&output);
    let probes = machine.tracing().join("kprobe_events");
    let lines = fs::read_to_string(&probes).unwrap();
    // A plain file keeps every line that the kernel would have obeyed.
    assert!(lines.starts_with("p:theirs/x do_nothing\np:dmakit/sw_map "));
    for name in ["sw_map", "sw_map_ret", "sw_unmap"] {
        assert_eq!(lines.matches(&format!("-:dmakit/{name}\n")).count(), 1);
    }
    fs::write(&probes, "p:theirs/x do_nothing\n").unwrap();
    assert_eq!(machine.settings(), before);
    let kprobes = out.sidecar("disk-6.12").kprobes;
    assert_eq!(kprobes.profile.len(), 1);
    assert_eq!(kprobes.of("sw_unmap").map(|probe| probe.misses), Some(597));
}

#[test]
fn what_stands_in_the_way_is_one_clear_line() {
    let refused = |machine: &Machine, out: &Out, options: &[&str]| {
        let output = run(&mut record(machine, out, options, &["true"]));
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(output.stdout.is_empty());
        assert_eq!(said.lines().count(), 1, "{said}");
        said
    };
    let (machine, out) = (Machine::new(), Out::new());
    assert!(refused(&machine, &out, &["--events", "a b"]).contains("'a b' is no event"));
    assert!(refused(&machine, &out, &["--events", "nope"]).contains("none of the events nope"));
    assert!(refused(&machine, &out, &["--buffer", "0"]).contains("--buffer 0"));
    assert!(refused(&machine, &out, &["--duration", "soon"]).contains("'soon' is not a time"));
    assert!(refused(&machine, &out, &["--kprobes"]).contains("no kprobe_events"));
    assert_eq!(out.names(), [""; 0]);

    let before = machine.settings();
    fs::write(out.file("disk-6.12.txt.zst"), "mine").unwrap();
    assert!(refused(&machine, &out, &[]).contains("exists; --force overwrites it"));
    let mine = fs::read_to_string(out.file("disk-6.12.txt.zst")).unwrap();
    assert_eq!(mine, "mine");
    assert_eq!(machine.settings(), before);

    let out = Out::new();
    let mark = "sys/kernel/debug/swiotlb/io_tlb_used_hiwater";
    fs::remove_file(machine.root().join(mark)).unwrap();
    let said = refused(&machine, &out, &["--reset-high-water"]);
    assert!(said.contains("no high-water mark"), "{said}");
    machine.put("sys/kernel/tracing/set_event", "sched:sched_switch\n");
    assert!(refused(&machine, &out, &[]).contains("in use by other tracing"));
    let empty = Machine::new();
    fs::remove_dir_all(empty.tracing()).unwrap();
    assert!(refused(&empty, &out, &[]).contains("no tracefs at"));
    let taken = Machine::new();
    fs::create_dir_all(taken.tracing().join("instances/dmakit")).unwrap();
    assert!(refused(&taken, &out, &[]).contains("another recording is under way"));
}

#[test]
fn the_script_is_a_shell_script_and_records_the_same() {
    for machine in [Machine::new(), Machine::with_instances()] {
        let (before, out) = (machine.settings(), Out::new());
        is_answered(&run(&mut record(
            &machine,
            &out,
            &["--force"],
            &["sh", "-c", "exit 3"],
        )));
        let written = out.sidecar("disk-6.12");
        let _ = fs::remove_file(machine.tracing().join("seen_in_instance"));

        let scripted = Out::new();
        let words = ["sh", "-c", "exit 3"];
        let printed = run(&mut record(
            &machine,
            &scripted,
            &["--print-script"],
            &words,
        ));
        is_answered(&printed);
        let script = scripted.file("record.sh");
        fs::write(&script, &printed.stdout).unwrap();
        assert!(shell(&script, &["-n"]).status.success());
        let output = shell(&script, &[]);
        is_answered(&output);
        assert!(text(&output.stderr).contains("status 3"));
        let mut read = scripted.sidecar("disk-6.12");
        read.capture.workload = written.capture.workload.clone();
        assert_eq!(read, written);
        let counters = |out: &Out| -> toml::Table {
            let text = fs::read_to_string(out.file("disk-6.12.toml")).unwrap();
            toml::from_str(&text).unwrap()
        };
        assert_eq!(counters(&scripted)["counters"], counters(&out)["counters"]);
        let _ = fs::remove_file(machine.tracing().join("seen_in_instance"));
        assert_eq!(machine.settings(), before);
    }
}

#[test]
fn an_interrupted_script_leaves_tracefs_as_it_was() {
    let machine = Machine::new();
    let (before, out) = (machine.settings(), Out::new());
    let note = out.file("note");
    let wait = format!("echo started > {}; sleep 30", note.display());
    let printed = run(&mut record(
        &machine,
        &out,
        &["--print-script"],
        &["sh", "-c", &wait],
    ));
    let script = out.file("record.sh");
    fs::write(&script, &printed.stdout).unwrap();
    let mut child = Command::new("sh").arg(&script).spawn().unwrap();
    wait_for(|| note.exists());
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    wait_for(|| child.try_wait().unwrap().is_some());
    assert_eq!(machine.settings(), before);
    assert_eq!(out.sidecar("disk-6.12").capture.events_total, Some(5));
}

fn shell(script: &Path, options: &[&str]) -> Output {
    Command::new("sh")
        .args(options)
        .arg(script)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}
