//! A virtio network card, driven by a published driver.

use alloc::vec;

use dmakit_dma::{DeviceStats, Translate};
use virtio_drivers::device::net::VirtIONetRaw;
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::DeviceFunction;

use crate::frames::{self, Card, wait};
use crate::path::{Client, Untyped};
use crate::pci::Bus;
use crate::virtio::{self, Hal, Transport};
use crate::workload::Workload;

/// Descriptors of each queue.
const QUEUE: usize = 16;
/// Bytes of a buffer, the driver's header included.
const BUFFER: usize = 2048;
/// What a receive buffer holds before.
const PATTERN: u8 = 0xee;

type Driver<T> = VirtIONetRaw<Hal<T>, Transport, QUEUE>;

/// Puts a virtio network card through a workload.
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
        frames::run(&mut card, &self.workload)?;
        drop(card);
        Ok(device.device().stats())
    }
}

impl<T: Translate + 'static> Card for Driver<T> {
    fn address(&self) -> [u8; 6] {
        self.mac_address()
    }

    fn exchange(&mut self, frame: &[u8]) -> Result<(), &'static str> {
        let mut received = vec![PATTERN; BUFFER];
        // SAFETY: nothing touches the buffer until it is completed.
        let expecting = unsafe { self.receive_begin(&mut received) };
        let expecting = expecting.map_err(|_| "the queue takes no buffer")?;

        let mut sent = vec![0; BUFFER];
        let header = self.fill_buffer_header(&mut sent);
        let header = header.map_err(|_| "no header")?;
        sent.truncate(header);
        sent.extend_from_slice(frame);
        // SAFETY: as above.
        let sending = unsafe { self.transmit_begin(&sent) };
        let sending = sending.map_err(|_| "the queue takes no frame")?;
        wait("no frame is sent", || self.poll_transmit())?;
        // SAFETY: the same buffer.
        let done = unsafe { self.transmit_complete(sending, &sent) };
        done.map_err(|_| "a frame is not sent")?;

        wait("no frame comes back", || self.poll_receive())?;
        // SAFETY: the same buffer.
        let done = unsafe { self.receive_complete(expecting, &mut received) };
        let (at, len) = done.map_err(|_| "a frame is not received")?;
        if received.get(at..at + len) != Some(frame) {
            return Err("another frame comes back");
        }
        match received[at + len..].iter().all(|byte| *byte == PATTERN) {
            true => Ok(()),
            false => Err("memory behind a frame has changed"),
        }
    }
}
