//! A bare-metal image that links the stack as a kernel would.
#![no_std]
#![no_main]

extern crate alloc;

macro_rules! println {
    ($($argument:tt)*) => {
        $crate::console::print(format_args!("{}\n", format_args!($($argument)*)))
    };
}

#[cfg_attr(target_arch = "aarch64", path = "aarch64/mod.rs")]
#[cfg_attr(target_arch = "x86_64", path = "x86_64/mod.rs")]
mod arch;

mod ahci;
mod block;
mod controller;
mod doorbell;
mod failing;
mod frames;
mod handlers;
mod heap;
mod identity;
mod lock;
mod machine;
mod memory;
mod net;
mod noise;
mod nvme;
mod once;
// On a host, where the image is linted only, `std` has one.
#[cfg(target_os = "none")]
mod panic;
mod parameters;
mod path;
mod pci;
mod registers;
mod usage;
mod vectors;
mod virtio;
mod workload;

use dmakit_cma::Step;

use arch::{board, console, interrupts, translation};
use interrupts::{Interrupts, Running};
use machine::Machine;
use memory::{Coherent, Found};
use parameters::{Client, Parameters};
use translation::Translator;

/// Runs on a machine, and turns it off.
fn boot(machine: Result<Machine, &'static str>) -> ! {
    if let Err(error) = machine.and_then(|machine| run(&machine)) {
        println!("dmakit-boot: {error}");
    }
    arch::off()
}

fn run(machine: &Machine) -> Result<(), &'static str> {
    let parameters = Parameters::read(&machine.parameters)?;
    let image = arch::image().ok_or("no image")?;
    // SAFETY: QEMU's description is right, the page table maps memory to the same numbers, and what
    // ran before this image is over.
    let found = unsafe { Found::take(machine, image) }?;
    let early = found.reserve(&parameters.areas)?;
    // SAFETY: the description's word, and nobody else uses them.
    let interrupts = unsafe { Interrupts::start(machine, &early.areas) }?;
    let memory = early.activate()?;
    let interrupts = interrupts.with_memory(memory.coherent);
    println!(
        "phys: {} frames free",
        memory.movable.allocator().free_frames()
    );

    let configuration = machine.configuration.ok_or("no PCI")?;
    let window = machine.window.ok_or("no PCI window")?;
    // SAFETY: the description's word.
    let mut bus = unsafe { pci::Bus::scan(configuration, window) };
    // SAFETY: the description's word, and nobody else uses it.
    let translator = unsafe { Translator::find(machine, &parameters, memory.tables) }?;
    let translator = translator.as_ref();
    let ran = drive(
        &parameters,
        translator,
        &mut bus,
        &interrupts,
        memory.coherent,
    );
    if let Some(translator) = translator {
        translator.report();
    }
    let statistics = memory.coherent.statistics();
    for step in Step::ALL {
        let of = statistics.of(step);
        if of.served > 0 {
            println!(
                "coherent: {step:?} served {} requests, {} bytes",
                of.served, of.bytes
            );
        }
    }
    ran
}

/// Runs the client that the parameters name, on the first device that it can drive.
fn drive(
    parameters: &Parameters,
    translator: Option<&Translator>,
    bus: &mut pci::Bus,
    interrupts: &Running,
    memory: &'static Coherent,
) -> Result<(), &'static str> {
    let workload = parameters.workload;
    match parameters.client {
        Client::Nvme | Client::Ahci => {
            let (name, function, open): (_, _, controller::Open) = match parameters.client {
                Client::Nvme => ("nvme", nvme::find(bus)?, nvme::open),
                _ => ("ahci", ahci::find(bus)?, ahci::open),
            };
            let client = controller::Exercise {
                bus,
                function,
                open,
                interrupts,
                workload,
                doorbell_unmapped: parameters.doorbell_unmapped,
            };
            let device = (name, pci::requester(function));
            path::run(parameters, translator, memory, device, client)
        }
        Client::VirtioBlk => {
            let function = block::find(bus)?;
            let client = block::Exercise {
                bus,
                function,
                translator,
                workload,
            };
            let device = ("virtio-blk", pci::requester(function));
            path::run(parameters, translator, memory, device, client)
        }
        Client::VirtioNet => {
            let function = net::find(bus)?;
            let client = net::Exercise {
                bus,
                function,
                workload,
            };
            let device = ("virtio-net", pci::requester(function));
            path::run(parameters, translator, memory, device, client)
        }
    }
}
