//! A transport that takes the access-platform bit.

use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// `VIRTIO_F_ACCESS_PLATFORM` (Virtio 1.2, 6): the device's accesses are limited and translated as
/// the platform says.
const ACCESS_PLATFORM: u64 = 1 << 33;

/// A transport whose driver accepts `VIRTIO_F_ACCESS_PLATFORM` where the device offers it.
///
/// Right for every driver whose buffers all come through a [`DeviceHal`](crate::DeviceHal), which
/// gives device addresses whatever the path.
#[derive(Debug)]
pub struct AccessPlatform<T> {
    transport: T,
    offered: u64,
}

impl<T: Transport> AccessPlatform<T> {
    /// The transport, with the bit.
    pub fn new(transport: T) -> Self {
        Self {
            transport,
            offered: 0,
        }
    }
}

impl<T: Transport> Transport for AccessPlatform<T> {
    fn read_device_features(&mut self) -> u64 {
        self.offered = self.transport.read_device_features();
        self.offered
    }

    fn write_driver_features(&mut self, features: u64) {
        let features = features | (self.offered & ACCESS_PLATFORM);
        self.transport.write_driver_features(features);
    }

    fn device_type(&self) -> DeviceType {
        self.transport.device_type()
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.transport.max_queue_size(queue)
    }

    fn notify(&mut self, queue: u16) {
        self.transport.notify(queue);
    }

    fn get_status(&self) -> DeviceStatus {
        self.transport.get_status()
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.transport.set_status(status);
    }

    fn set_guest_page_size(&mut self, bytes: u32) {
        self.transport.set_guest_page_size(bytes);
    }

    fn requires_legacy_layout(&self) -> bool {
        self.transport.requires_legacy_layout()
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver_area: PhysAddr,
        device_area: PhysAddr,
    ) {
        self.transport
            .queue_set(queue, size, descriptors, driver_area, device_area);
    }

    fn queue_unset(&mut self, queue: u16) {
        self.transport.queue_unset(queue);
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.transport.queue_used(queue)
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        self.transport.ack_interrupt()
    }

    fn read_config_generation(&self) -> u32 {
        self.transport.read_config_generation()
    }

    fn read_config_space<V: FromBytes + IntoBytes>(&self, offset: usize) -> Result<V> {
        self.transport.read_config_space(offset)
    }

    fn write_config_space<V: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: V,
    ) -> Result<()> {
        self.transport.write_config_space(offset, value)
    }
}
