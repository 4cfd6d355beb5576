//! CPUs, contexts, locks and time.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dmakit_addr::{DmaMask, NodeId, PAGE_BYTES};
use dmakit_platform::{
    CpuGuard, CpuId, CpuSlot, Instant, IrqMutex, PerCpu, Platform, PoolMemory, SegmentRequest,
    SleepMutex, TableMemory,
};
use dmakit_sim::{Machine, MachineConfig, MachineMemory, Violation};

fn machine(cpus: u32) -> Machine {
    MachineConfig::new(0).cpus(cpus).build().unwrap()
}

fn contexts(machine: &Machine) -> Vec<&'static str> {
    let violations = machine.take_violations().first;
    let what = violations.into_iter().map(|violation| match violation {
        Violation::Context(violation) => violation.what,
        other => panic!("{other}"),
    });
    what.collect()
}

#[test]
fn a_thread_is_on_the_cpu_it_was_put_on_and_comes_back() {
    let machine = machine(3);
    let here = || machine.enter_cpu().cpu().index();
    assert_eq!(here(), 0);
    machine.on_cpu(CpuId::new(2), || {
        assert_eq!(here(), 2);
        machine.on_cpu(CpuId::new(1), || assert_eq!(here(), 1));
        assert_eq!(here(), 2);
    });
    assert_eq!(here(), 0);
    let other = MachineConfig::new(1).cpus(1).build().unwrap();
    assert_eq!(other.enter_cpu().cpu().index(), 0);
    machine.on_cpu(CpuId::new(1), || {
        assert_eq!(other.enter_cpu().cpu().index(), 0, "machines do not mix");
        assert_eq!(here(), 1);
    });
    machine.check().unwrap();
}

#[test]
fn guards_nest_and_a_thread_that_moves_with_one_is_caught() {
    let machine = machine(2);
    let outer = machine.enter_cpu();
    drop(machine.enter_cpu());
    machine.on_cpu(CpuId::new(1), || ());
    drop(outer);
    let moves = machine.take_violations();
    assert_eq!(moves.total, 2, "there and back");
    machine.on_cpu(CpuId::new(1), || ());
    machine.check().unwrap();
}

#[test]
fn a_nested_guard_does_not_let_others_in_when_it_goes() {
    let machine = machine(1);
    let entered = AtomicU64::new(0);
    let outer = machine.enter_cpu();
    std::thread::scope(|scope| {
        drop(machine.enter_cpu());
        scope.spawn(|| {
            let _guard = machine.enter_cpu();
            entered.store(1, Ordering::Relaxed);
        });
        for _ in 0..1000 {
            std::thread::yield_now();
            assert_eq!(entered.load(Ordering::Relaxed), 0);
        }
        drop(outer);
    });
    assert_eq!(entered.into_inner(), 1);
}

#[test]
fn threads_on_one_cpu_exclude_each_other() {
    let machine = machine(2);
    let slots: [CpuSlot<AtomicU64>; 2] = Default::default();
    let state = PerCpu::new(slots);
    let start = Barrier::new(4);
    const ROUNDS: u64 = 2000;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (machine, state, start) = (&machine, &state, &start);
            scope.spawn(move || {
                start.wait();
                machine.on_cpu(CpuId::new(thread % 2), || {
                    for _ in 0..ROUNDS {
                        let guard = machine.enter_cpu();
                        let (count, _) = state.enter(&guard).unwrap();
                        // No read-modify-write: only exclusion keeps this sum right.
                        let seen = count.load(Ordering::Relaxed);
                        std::hint::black_box(seen);
                        count.store(seen + 1, Ordering::Relaxed);
                    }
                });
            });
        }
    });
    let counts: Vec<u64> = state.iter().map(|c| c.load(Ordering::Relaxed)).collect();
    assert_eq!(counts, [2 * ROUNDS; 2]);
    machine.check().unwrap();
}

#[test]
fn threads_without_a_cpu_get_one_each() {
    let machine = machine(3);
    let mut seen: Vec<usize> = std::thread::scope(|scope| {
        let spawn = |_| scope.spawn(|| machine.enter_cpu().cpu().index());
        let threads: Vec<_> = (0..2).map(spawn).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    seen.sort_unstable();
    assert_eq!(seen, [1, 2], "CPU 0 is the builder's");
}

#[test]
fn what_may_sleep_is_caught_in_interrupts_and_under_guards_and_locks() {
    let machine = machine(1);
    let memory = MachineMemory::new(&machine);
    let sleeping: SleepMutex<Machine, ()> = SleepMutex::<Machine, ()>::new(());
    let irq: IrqMutex<Machine, ()> = IrqMutex::<Machine, ()>::new(());
    let request = SegmentRequest {
        len: PAGE_BYTES,
        align: PAGE_BYTES,
        node: None,
        limit: DmaMask::ALL,
    };
    let everything = || {
        drop(sleeping.lock());
        drop(sleeping.try_lock());
        let pool = memory.allocate_pool(&request).unwrap();
        machine.share(pool.range()).unwrap();
        machine.unshare(pool.range()).unwrap();
        pool.window().fill(0);
        memory.free_pool(pool);
        // These may be called anywhere.
        drop(irq.try_lock());
        let table = memory.allocate_table(&request).unwrap();
        machine.clean(table.range());
        memory.free_table(table);
        drop(machine.enter_cpu());
    };
    let expected = [
        "a sleeping lock was taken",
        "a sleeping lock was tried",
        "pool memory was allocated",
        "memory was shared",
        "memory was unshared",
        "pool memory was freed",
    ];
    everything();
    assert_eq!(contexts(&machine), Vec::<&str>::new());
    machine.in_interrupt(everything);
    assert_eq!(contexts(&machine), expected);
    {
        let _guard = machine.enter_cpu();
        everything();
    }
    assert_eq!(contexts(&machine), expected);
    {
        let _locked = irq.lock();
        everything();
    }
    assert_eq!(contexts(&machine), expected);
    {
        let _locked = sleeping.lock();
        let _inner = irq.lock();
    }
    everything();
    assert_eq!(contexts(&machine), Vec::<&str>::new());
}

#[test]
fn an_interrupt_while_interrupts_are_off_is_caught() {
    let machine = machine(1);
    let irq: IrqMutex<Machine, ()> = IrqMutex::<Machine, ()>::new(());
    let locked = irq.lock();
    machine.in_interrupt(|| ());
    drop(locked);
    machine.in_interrupt(|| machine.in_interrupt(|| drop(irq.lock())));
    assert_eq!(
        contexts(&machine),
        ["an interrupt arrived while interrupts were off"]
    );
}

#[test]
#[should_panic(expected = "already holds")]
fn taking_a_lock_twice_panics_instead_of_hanging() {
    let lock = IrqMutex::<Machine, ()>::new(());
    let _outer = lock.lock();
    let _inner = lock.lock();
}

#[test]
fn time_stands_still_until_it_is_moved() {
    let machine = machine(1);
    assert_eq!(machine.now(), Instant::from_nanos(0));
    machine.advance(Duration::from_micros(3));
    assert_eq!(machine.clone().now(), Instant::from_nanos(3000));
    machine.advance(Duration::MAX);
    assert_eq!(machine.now(), Instant::from_nanos(u64::MAX));
}

#[test]
fn ram_is_handed_out_once() {
    let machine = machine(1);
    let node = NodeId::new(0);
    let ranges: Vec<_> = machine.take_ram(node).iter().map(|s| s.range()).collect();
    let described: Vec<_> = machine
        .ram()
        .filter(|&(of, _)| of == node)
        .map(|(_, range)| range)
        .collect();
    assert_eq!(ranges, described);
    assert!(machine.take_ram(node).is_empty());
    assert!(machine.take_ram(NodeId::new(9)).is_empty());
}
