//! The other end of a network card's wire: it knows every frame that is to come, and sends it back.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::noise::Noise;

/// Two addresses and a type.
const HEADER: usize = 14;
/// Bytes of the shortest and the longest frame.
const FRAME_MIN: u64 = 60;
const FRAME_MAX: u64 = 1514;

/// What came over the wire.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Seen {
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
    /// Frames that were not those that were to come.
    pub(crate) wrong: u64,
}

/// A wire that is open.
pub(crate) struct Wire {
    /// Where QEMU sends to, and from.
    ports: (u16, u16),
    closing: Arc<AtomicBool>,
    echoing: JoinHandle<Result<Seen>>,
}

impl Wire {
    /// Opens a wire on which frames of this seed are to come.
    pub(crate) fn open(seed: u64) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("no port")?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        // A port that was free a moment ago.
        let far = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let ports = (socket.local_addr()?.port(), far.local_addr()?.port());
        let closing = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&closing);
        let echoing = thread::spawn(move || echo(&socket, &seen, seed));
        Ok(Self {
            ports,
            closing,
            echoing,
        })
    }

    /// QEMU's argument for its end.
    pub(crate) fn netdev(&self) -> String {
        let (to, from) = self.ports;
        format!("socket,id=wire,udp=127.0.0.1:{to},localaddr=127.0.0.1:{from}")
    }

    /// What came, once nothing more will.
    pub(crate) fn close(self) -> Result<Seen> {
        self.closing.store(true, Ordering::Relaxed);
        let seen = self.echoing.join();
        seen.map_err(|_| anyhow!("the wire broke"))?
    }
}

fn echo(socket: &UdpSocket, closing: &AtomicBool, seed: u64) -> Result<Seen> {
    let mut expected = Frames::new(seed);
    let mut seen = Seen::default();
    let mut frame = [0; 4096];
    while !closing.load(Ordering::Relaxed) {
        // Nothing came for a while: look whether anything is to come.
        let Ok((len, from)) = socket.recv_from(&mut frame) else {
            continue;
        };
        let frame = &frame[..len];
        seen.frames += 1;
        seen.bytes += len as u64;
        seen.wrong += u64::from(!expected.next_is(frame));
        socket.send_to(frame, from)?;
    }
    Ok(seen)
}

/// The frames of a seed, one after another.
struct Frames {
    noise: Noise,
    number: u64,
}

impl Frames {
    fn new(seed: u64) -> Self {
        Self {
            noise: Noise::new(seed),
            number: 0,
        }
    }

    /// Whether a frame is the next one. Who sent it is not known here, and not compared.
    fn next_is(&mut self, frame: &[u8]) -> bool {
        let len = FRAME_MIN + self.noise.below(FRAME_MAX - FRAME_MIN + 1);
        let mut expected = vec![0; len as usize];
        expected[..6].fill(0xff);
        expected[12..HEADER].copy_from_slice(&[0x88, 0xb5]);
        expected[HEADER..HEADER + 8].copy_from_slice(&self.number.to_be_bytes());
        self.noise.fill(&mut expected[HEADER + 8..]);
        self.number += 1;
        frame.len() == expected.len()
            && frame[..6] == expected[..6]
            && frame[12..] == expected[12..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_with_one_wrong_byte_is_noticed() {
        let mut noise = Noise::new(7);
        let len = FRAME_MIN + noise.below(FRAME_MAX - FRAME_MIN + 1);
        let mut frame = vec![0; len as usize];
        frame[..6].fill(0xff);
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        noise.fill(&mut frame[22..]);
        assert!(Frames::new(7).next_is(&frame));
        frame[40] ^= 1;
        assert!(!Frames::new(7).next_is(&frame));
        assert!(!Frames::new(8).next_is(&frame));
    }
}
