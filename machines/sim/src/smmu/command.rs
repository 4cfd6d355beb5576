//! What commands mean (chapter 4).

use super::caches::{Caches, Forget, Tag};

/// A command, as read from the queue.
pub(super) type Command = [u64; 2];

/// What the queue does with a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// It takes effect some time.
    Deferred,
    /// Everything before it takes effect now; then, maybe, a message is written.
    Sync(Option<(u64, u32)>),
    Illegal,
}

pub(super) fn opcode(command: Command) -> u8 {
    command[0] as u8
}

pub(super) fn kind(command: Command, ranges: bool, messages: bool) -> Kind {
    match opcode(command) {
        0x01 | 0x03..=0x06 | 0x10 | 0x11 | 0x28 | 0x30 => Kind::Deferred,
        0x12 | 0x2a => match is_reserved(command, ranges) {
            true => Kind::Illegal,
            false => Kind::Deferred,
        },
        0x46 => match command[0] >> 12 & 0b11 {
            0b01 if messages => {
                let address = command[1] & 0x000f_ffff_ffff_fffc;
                Kind::Sync(Some((address, (command[0] >> 32) as u32)))
            }
            0b11 => Kind::Illegal,
            _ => Kind::Sync(None),
        },
        _ => Kind::Illegal,
    }
}

/// A range of one granule whose level is not given (4.4.1.1).
fn is_reserved(command: Command, ranges: bool) -> bool {
    let granule = command[1] >> 10 & 0b11;
    let rest = command[0] >> 12 & 0x1f | command[0] >> 20 & 0x1f | command[1] >> 8 & 0b11;
    ranges && granule != 0 && rest == 0
}

/// Lets caches forget what a deferred command names, and not more.
pub(super) fn apply(command: Command, caches: &mut Caches, ranges: bool) {
    let stream = (command[0] >> 32) as u32;
    match opcode(command) {
        0x03 => {
            caches.entries.remove(&stream);
            if command[1] & 1 == 0 {
                caches.level_1.remove(&(stream >> 8));
            }
        }
        0x04 => {
            let bits = (command[1] & 0x1f) as u32 + 1;
            let block = |id: u32| u64::from(id) >> bits;
            caches.entries.retain(|&id, _| block(id) != block(stream));
            caches
                .descriptors
                .retain(|&(id, _), _| block(id) != block(stream));
            caches
                .descriptor_tables
                .retain(|&(id, _), _| block(id) != block(stream));
            caches.level_1.clear();
        }
        0x05 => {
            let number = (command[0] >> 12 & 0xf_ffff) as u32;
            caches.descriptors.remove(&(stream, number));
            if command[1] & 1 == 0 {
                caches.descriptor_tables.remove(&(stream, number >> 6));
            }
        }
        0x06 => {
            caches.descriptors.retain(|&(id, _), _| id != stream);
            caches.descriptor_tables.retain(|&(id, _), _| id != stream);
        }
        0x10 => caches.forget_tags(|tag| matches!(tag, Tag::Asid(_))),
        0x11 => {
            let asid = (command[0] >> 48) as u16;
            caches.forget_tags(|tag| tag == Tag::Asid(asid));
        }
        0x28 => caches.forget_tags(|tag| tag == Tag::Vmid(stream as u16)),
        0x30 => caches.forget_tags(|_| true),
        0x12 => caches.forget(&range(
            command,
            Tag::Asid((command[0] >> 48) as u16),
            ranges,
        )),
        0x2a => caches.forget(&range(command, Tag::Vmid(stream as u16), ranges)),
        _ => {}
    }
}

fn range(command: Command, tag: Tag, ranges: bool) -> Forget {
    let start = command[1] & !0xfff;
    let granule = (command[1] >> 10 & 0b11) as u32;
    let by_range = ranges && granule != 0;
    let len = match by_range {
        true => {
            let num = (command[0] >> 12 & 0x1f) + 1;
            num << (command[0] >> 20 & 0x1f) << (10 + 2 * granule)
        }
        // Whatever maps the address.
        false => 1,
    };
    Forget {
        tag,
        start,
        last: start + (len - 1),
        level: if by_range {
            (command[1] >> 8 & 0b11) as u32
        } else {
            0
        },
        only_leaves: command[1] & 1 != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_an_unmodified_linux_driver_queued_cover_what_it_unmapped() {
        // Linux 6.12.95, out of a paused guest: 4 KiB to 2 MiB.
        let tag = Tag::Asid(3);
        for (command, start, len, level) in [
            (
                [0x0003_0000_0000_0012, 0xffff_b701],
                0xffff_b000,
                0x1000_u64,
                3,
            ),
            ([0x0003_0000_0000_e012, 0xfff9_0701], 0xfff9_0000, 0xf000, 3),
            (
                [0x0003_0000_0030_2012, 0xfff6_0701],
                0xfff6_0000,
                0x1_8000,
                3,
            ),
            (
                [0x0003_0000_0090_0012, 0xffc0_0601],
                0xffc0_0000,
                0x20_0000,
                2,
            ),
        ] {
            assert_eq!(kind(command, true, true), Kind::Deferred);
            let forget = range(command, tag, true);
            assert_eq!((forget.start, forget.last), (start, start + len - 1));
            assert_eq!((forget.level, forget.only_leaves), (level, true));
        }
        assert_eq!(kind([0x0fc0_2046, 0], true, true), Kind::Sync(None));
        assert_eq!(kind([0x12, 0x400], true, true), Kind::Illegal);
    }
}
