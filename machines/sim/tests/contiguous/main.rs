//! Contiguous areas on a machine whose programs borrow them and never stop.
//!
//! `DMAKIT_STEPS` sets the number of steps, `DMAKIT_SEED` the first seed; each run prints its own.

mod pins;
mod world;

use dmakit_sim::for_each_failure;
use world::{Parts, Shape, World, boot};

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn steps(default: u64) -> u64 {
    variable("DMAKIT_STEPS").unwrap_or(default)
}

/// Runs from seed to seed until there were so many steps.
fn run(shapes: &[Shape], steps_in_all: u64, steps_each: u64) {
    let first = variable("DMAKIT_SEED").unwrap_or(1);
    let (mut left, mut seed) = (steps_in_all, first);
    let [mut made, mut refused, mut moved_out, mut recalled] = [0; 4];
    while left > 0 {
        let count = left.min(steps_each);
        let shape = shapes[(seed % shapes.len() as u64) as usize];
        println!("DMAKIT_SEED={seed}: {count} steps, {shape:?}");
        let mut parts: Parts = boot(seed, shape);
        let mut world = World::new(seed, shape, &mut parts);
        world.fill();
        for step in 0..count {
            match step % 4 {
                0 => world.claim_or_release(),
                1 => world.pin_or_unpin(),
                _ => world.pressure_step(),
            }
            if step % 1000 == 999 {
                world.check();
            }
        }
        made += world.made;
        refused += world.refused;
        moved_out += world.pins.moved_out;
        recalled += world.pins.recalled;
        world.end();
        parts.machine.check().unwrap();
        left -= count;
        seed += 1;
    }
    println!(
        "{made} claims made, {refused} refused; {moved_out} pins left an area, {recalled} leases \
         were called in"
    );
    for count in [made, refused, moved_out, recalled] {
        assert!(count > 0, "a run in which something never happens");
    }
}

#[test]
fn a_claim_never_fails_while_a_window_can_be_cleared_and_no_byte_is_lost() {
    let small = Shape {
        nodes: 2,
        blocks: 8,
        area_blocks: 3,
        order_max: 0,
        refused_of_256: 16,
    };
    let shapes = [
        small,
        Shape {
            nodes: 4,
            blocks: 6,
            order_max: 2,
            ..small
        },
        Shape {
            nodes: 1,
            blocks: 12,
            area_blocks: 6,
            refused_of_256: 0,
            ..small
        },
    ];
    run(&shapes, steps(9_000), 3_000);
}

#[test]
fn each_migration_that_fails_in_its_turn_leaves_what_was() {
    let shape = Shape {
        nodes: 2,
        blocks: 4,
        area_blocks: 1,
        order_max: 1,
        refused_of_256: 0,
    };
    let mut refused = 0;
    let failures = for_each_failure(|plan| {
        let mut parts: Parts = boot(11, shape);
        let mut world = World::new(11, shape, &mut parts);
        world.fill();
        refused += u64::from(world.claim_that_may_fail(plan));
        world.end();
        parts.machine.check().unwrap();
    });
    println!("{failures} migrations failed in turn, {refused} claims were refused");
    assert!(failures > 30 && refused == failures);
}
