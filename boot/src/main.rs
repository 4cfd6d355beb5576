//! A bare-metal image that links the stack as a kernel would.
#![no_std]
#![no_main]

extern crate alloc;

mod ahci;
mod block;
mod board;
mod console;
mod controller;
mod doorbell;
mod failing;
mod frames;
mod heap;
mod identity;
mod interrupts;
mod memory;
mod net;
mod noise;
mod nvme;
mod once;
mod parameters;
mod path;
mod pci;
mod registers;
mod translation;
mod tree;
mod usage;
mod vectors;
mod virtio;
mod workload;

use core::panic::PanicInfo;

use aarch64_paging::descriptor::El1Attributes;
use aarch64_rt::{
    ExceptionHandlers, InitialPagetable, RegisterStateRef, entry, exception_handlers,
    initial_pagetable,
};
use dmakit_cma::Step;
use dmakit_platform::NoTables;
use smccc::Hvc;

use interrupts::Interrupts;
use memory::{Coherent, Found};
use parameters::{Client, Parameters};
use translation::Translator;

const DEVICE: El1Attributes = El1Attributes::VALID
    .union(El1Attributes::ATTRIBUTE_INDEX_0)
    .union(El1Attributes::ACCESSED)
    .union(El1Attributes::UXN);
const MEMORY: El1Attributes = El1Attributes::VALID
    .union(El1Attributes::ATTRIBUTE_INDEX_1)
    .union(El1Attributes::INNER_SHAREABLE)
    .union(El1Attributes::ACCESSED)
    .union(El1Attributes::NON_GLOBAL);

initial_pagetable!({
    let mut table = [0; 512];
    table[0] = DEVICE.bits();
    let mut index = 1;
    while index < 256 {
        table[index] = (index << 30) | MEMORY.bits();
        index += 1;
    }
    table[256] = (256 << 30) | DEVICE.bits();
    InitialPagetable(table)
});

struct Exceptions;
impl ExceptionHandlers for Exceptions {
    extern "C" fn irq_current(_: RegisterStateRef<'_>) {
        interrupts::take();
    }
}
exception_handlers!(Exceptions);

entry!(main);
fn main(device_tree: u64, _: u64, _: u64, _: u64) -> ! {
    heap::start();
    if let Err(error) = run(device_tree) {
        println!("dmakit-boot: {error}");
    }
    off()
}

fn run(device_tree: u64) -> Result<(), &'static str> {
    // SAFETY: the boot protocol passes the tree's address, and nobody writes there.
    let machine = unsafe { tree::read(device_tree) }?;
    let parameters = Parameters::read(&machine.parameters)?;
    let image = memory::image().ok_or("no image")?;
    // SAFETY: QEMU's tree is right, the page table maps memory to the same numbers, and nothing ran
    // before this image.
    let found = unsafe { Found::take(&machine, image) }?;
    let early = found.reserve(&parameters.areas)?;
    // SAFETY: the device tree's word, and nobody else uses the GIC.
    let interrupts = unsafe { Interrupts::start(&machine, &early.areas) }?;
    println!(
        "its: {} bytes of tables from early areas",
        early.areas.taken_bytes()
    );
    let interrupts = interrupts.with_memory(NoTables);
    let memory = early.activate()?;
    let interrupts = interrupts.with_memory(memory.coherent);
    println!(
        "phys: {} frames free",
        memory.movable.allocator().free_frames()
    );

    let configuration = machine.configuration.ok_or("no PCI")?;
    let window = machine.window.ok_or("no PCI window")?;
    // SAFETY: the device tree's word.
    let mut bus = unsafe { pci::Bus::scan(configuration, window) };
    let translator = match parameters.passthrough {
        true => None,
        // SAFETY: the device tree's word, and nobody else uses the SMMU.
        false => Some(unsafe { Translator::start(&machine, memory.tables) }?),
    };
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
    interrupts: &Interrupts<&'static Coherent>,
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

fn off() -> ! {
    let _ = smccc::psci::system_off::<Hvc>();
    loop {
        core::hint::spin_loop();
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    println!("{info}");
    off()
}
