//! A virtio network card, driven by a published driver. Whatever is at the other end of the wire
//! sends every frame back.

use alloc::vec;
use core::time::Duration;

use dmakit_dma::{DeviceStats, Translate};
use dmakit_platform::Platform;
use virtio_drivers::device::net::VirtIONetRaw;
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::DeviceFunction;

use crate::board::Board;
use crate::noise::Noise;
use crate::path::{Client, Untyped};
use crate::pci::Bus;
use crate::println;
use crate::virtio::{self, Hal, Transport};
use crate::workload::Workload;

/// The longest that a frame is waited for.
const TIME_MAX: Duration = Duration::from_secs(5);

/// Descriptors of each queue.
const QUEUE: usize = 16;

/// Bytes before what a frame carries: two addresses and a type.
const HEADER: usize = 14;
/// A type for experiments (IEEE 802, 9.2.3).
const TYPE: [u8; 2] = [0x88, 0xb5];
/// Bytes of the shortest and the longest frame.
const FRAME_MIN: usize = 60;
const FRAME_MAX: usize = 1514;
/// Bytes of a receive buffer, the driver's header included.
const RECEIVE: usize = 2048;
/// What a receive buffer holds before.
const PATTERN: u8 = 0xee;

type Driver<T> = VirtIONetRaw<Hal<T>, Transport, QUEUE>;

/// Sends frames over a virtio network card and takes them back.
pub struct Exercise<'a> {
    pub bus: &'a mut Bus,
    pub function: DeviceFunction,
    pub workload: Workload,
}

/// The first virtio network card.
pub fn find(bus: &Bus) -> Result<DeviceFunction, &'static str> {
    virtio::find(bus, DeviceType::Network).ok_or("no virtio network card")
}

impl Client for Exercise<'_> {
    fn run<T: Translate + 'static>(self, device: Untyped<T>) -> Result<DeviceStats, &'static str> {
        let device = virtio::settle(device);
        let transport = virtio::transport::<T>(self.bus, self.function)?;
        let mut card = Driver::<T>::new(transport).map_err(|_| "no network card")?;
        let mut noise = Noise::new(self.workload.seed);
        let mut bytes = 0;
        for number in 0..self.workload.requests {
            bytes += echo(&mut card, number, &mut noise)?;
        }
        drop(card);
        println!("frames={} bytes={bytes}", self.workload.requests);
        Ok(device.device().stats())
    }
}

/// Sends one frame, and compares what comes back; its bytes. It carries its number, then noise.
fn echo<T: Translate + 'static>(
    card: &mut Driver<T>,
    number: u64,
    noise: &mut Noise,
) -> Result<usize, &'static str> {
    let len = FRAME_MIN + noise.below((FRAME_MAX - FRAME_MIN + 1) as u64) as usize;
    let mut received = vec![PATTERN; RECEIVE];
    // SAFETY: nothing touches the buffer until it is completed.
    let expecting = unsafe { card.receive_begin(&mut received) };
    let expecting = expecting.map_err(|_| "the queue takes no buffer")?;

    let mut sent = vec![0; RECEIVE];
    let header = card.fill_buffer_header(&mut sent);
    let header = header.map_err(|_| "no header")?;
    let frame = &mut sent[header..header + len];
    frame[..6].copy_from_slice(&[0xff; 6]);
    frame[6..12].copy_from_slice(&card.mac_address());
    frame[12..HEADER].copy_from_slice(&TYPE);
    frame[HEADER..HEADER + 8].copy_from_slice(&number.to_be_bytes());
    noise.fill(&mut frame[HEADER + 8..]);
    let sent = &sent[..header + len];
    // SAFETY: as above.
    let sending = unsafe { card.transmit_begin(sent) }.map_err(|_| "the queue takes no frame")?;
    wait("no frame is sent", || card.poll_transmit().is_some())?;
    // SAFETY: the same buffer.
    let done = unsafe { card.transmit_complete(sending, sent) };
    done.map_err(|_| "a frame is not sent")?;

    wait("no frame comes back", || card.poll_receive().is_some())?;
    // SAFETY: the same buffer.
    let done = unsafe { card.receive_complete(expecting, &mut received) };
    let (at, came) = done.map_err(|_| "a frame is not received")?;
    if received.get(at..at + came) != Some(&sent[header..]) {
        return Err("another frame comes back");
    }
    match received[at + came..].iter().all(|byte| *byte == PATTERN) {
        true => Ok(len),
        false => Err("memory behind a frame has changed"),
    }
}

fn wait(why: &'static str, mut is_done: impl FnMut() -> bool) -> Result<(), &'static str> {
    let started = Board.now();
    while !is_done() {
        if Board.now().saturating_since(started) > TIME_MAX {
            return Err(why);
        }
        core::hint::spin_loop();
    }
    Ok(())
}
