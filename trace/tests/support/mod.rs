//! Small `trace.dat` files, built part by part.
#![allow(dead_code, reason = "each test uses its part")]

use std::io::Write;

/// How a version 7 file packs its parts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    None,
    Zlib,
}

const PAGE: usize = 4096;

const HEADER_PAGE: &str = "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n\
    \tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;\n\
    \tfield: char data;\toffset:16;\tsize:4080;\tsigned:0;\n";

const COMMON: &str = "format:\n\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
    \tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;\n\
    \tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;\n\
    \tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n";

pub const UNMAP: u16 = 500;
pub const SG: u16 = 501;
pub const PRINT: u16 = 5;

fn format(name: &str, id: u16, fields: &str) -> String {
    format!("name: {name}\nID: {id}\n{COMMON}{fields}\nprint fmt: \"\"\n")
}

fn unmap_format() -> String {
    format(
        "dma_unmap_page",
        UNMAP,
        "\tfield:__data_loc char[] device;\toffset:8;\tsize:4;\tsigned:0;\n\
         \tfield:u64 addr;\toffset:16;\tsize:8;\tsigned:0;\n\
         \tfield:size_t size;\toffset:24;\tsize:8;\tsigned:0;\n\
         \tfield:enum dma_data_direction dir;\toffset:32;\tsize:4;\tsigned:0;\n\
         \tfield:unsigned long attrs;\toffset:40;\tsize:8;\tsigned:0;\n",
    )
}

fn sg_format() -> String {
    format(
        "dma_unmap_sg",
        SG,
        "\tfield:__rel_loc char[] device;\toffset:8;\tsize:4;\tsigned:0;\n\
         \tfield:__data_loc u64[] addrs;\toffset:12;\tsize:4;\tsigned:0;\n\
         \tfield:enum dma_data_direction dir;\toffset:16;\tsize:4;\tsigned:0;\n\
         \tfield:unsigned long attrs;\toffset:24;\tsize:8;\tsigned:0;\n",
    )
}

fn print_format() -> String {
    format(
        "print",
        PRINT,
        "\tfield:unsigned long ip;\toffset:8;\tsize:8;\tsigned:0;\n\
         \tfield:char buf[];\toffset:16;\tsize:0;\tsigned:0;\n",
    )
}

fn common(id: u16, flags: u8, pid: u32) -> Vec<u8> {
    let mut data = id.to_le_bytes().to_vec();
    data.extend([flags, 0x21]);
    data.extend(pid.to_le_bytes());
    data
}

pub fn unmap(pid: u32, dma: u64) -> Vec<u8> {
    let mut data = common(UNMAP, 0x10, pid);
    data.extend((4u32 << 16 | 48).to_le_bytes());
    data.extend([0; 4]);
    data.extend(dma.to_le_bytes());
    data.extend(512u64.to_le_bytes());
    data.extend(1u32.to_le_bytes());
    data.extend([0; 4]);
    data.extend(0x100u64.to_le_bytes());
    data.extend(*b"dev\0");
    data
}

pub fn unmap_sg(pid: u32, phys: &[u64]) -> Vec<u8> {
    let mut data = common(SG, 0, pid);
    data.extend((4u32 << 16 | (32 - 12)).to_le_bytes());
    let len = u32::try_from(phys.len() * 8).unwrap();
    data.extend((len << 16 | 36).to_le_bytes());
    data.extend(2u32.to_le_bytes());
    data.extend([0; 4]);
    data.extend(0u64.to_le_bytes());
    data.extend(*b"dev\0");
    for phys in phys {
        data.extend(phys.to_le_bytes());
    }
    data
}

pub fn print(pid: u32, text: &str) -> Vec<u8> {
    let mut data = common(PRINT, 0, pid);
    data.extend(0u64.to_le_bytes());
    data.extend(text.as_bytes());
    data.extend(*b"\n\0");
    data
}

/// A page of events, each with its time since the one before.
pub fn page(time: u64, missed: Option<u64>, events: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (delta, event) in events {
        let mut event = event.clone();
        event.resize(event.len().next_multiple_of(4), 0);
        let words = u32::try_from(event.len() / 4).unwrap();
        if words <= 28 {
            body.extend((delta << 5 | words).to_le_bytes());
        } else {
            body.extend((delta << 5).to_le_bytes());
            body.extend((words * 4 + 4).to_le_bytes());
        }
        body.extend(event);
    }
    let mut commit = body.len() as u64;
    if missed.is_some() {
        commit |= 1 << 31 | 1 << 30;
    }
    let mut page = time.to_le_bytes().to_vec();
    page.extend(commit.to_le_bytes());
    page.extend(body);
    page.extend(missed.unwrap_or(0).to_le_bytes());
    page.resize(PAGE, 0);
    page
}

/// A time extension of 2^27 ns times `high`, as an event header of its own.
pub fn extended(page: &mut Vec<u8>, high: u32) {
    let commit = u64::from_le_bytes(page[8..16].try_into().unwrap());
    let mut item = 30u32.to_le_bytes().to_vec();
    item.extend(high.to_le_bytes());
    page.splice(16..16, item);
    page.truncate(PAGE);
    page[8..16].copy_from_slice(&(commit + 8).to_le_bytes());
}

/// Pages of CPU 0 and CPU 1.
pub fn pages() -> [Vec<u8>; 2] {
    let mut second = page(2_000, Some(9), &[(10, unmap_sg(7, &[0x1000, 0x3000]))]);
    extended(&mut second, 1);
    let long: Vec<u64> = (0..40).map(|n| n << 12).collect();
    let first = page(
        1_000,
        None,
        &[
            (5, unmap(7, 0x7b40_0000)),
            (1_500, print(0, "PHASE_BEGIN a")),
            (0, unmap_sg(8, &long)),
        ],
    );
    [
        [first, second].concat(),
        page(1_500, None, &[(1, unmap(9, 0x7b40_0800))]),
    ]
}

const COMMS: &str = "7 fio\n8 kworker/0:1\n";

fn start(version: &str) -> Vec<u8> {
    let mut file = b"\x17\x08\x44tracing".to_vec();
    file.extend(version.as_bytes());
    file.extend([0, 0, 8]);
    file.extend((PAGE as u32).to_le_bytes());
    file
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn page_part() -> Vec<u8> {
    let mut out = b"header_page\0".to_vec();
    text(&mut out, HEADER_PAGE);
    out.extend(*b"header_event\0");
    text(&mut out, "# compressed entry header\n");
    out
}

fn ftrace_part() -> Vec<u8> {
    let mut out = 1u32.to_le_bytes().to_vec();
    text(&mut out, &print_format());
    out
}

fn systems_part() -> Vec<u8> {
    let mut out = 1u32.to_le_bytes().to_vec();
    out.extend(*b"dma\0");
    out.extend(2u32.to_le_bytes());
    text(&mut out, &unmap_format());
    text(&mut out, &sg_format());
    out
}

pub fn version_6() -> Vec<u8> {
    version_6_with("ffffffff81000000 T _text\n")
}

/// With these kernel symbols.
pub fn version_6_with(symbols: &str) -> Vec<u8> {
    let mut file = start("6");
    file.extend(page_part());
    file.extend(ftrace_part());
    file.extend(systems_part());
    for symbols in [symbols, ""] {
        file.extend((symbols.len() as u32).to_le_bytes());
        file.extend(symbols.as_bytes());
    }
    text(&mut file, COMMS);
    file.extend(2u32.to_le_bytes());
    file.extend(*b"options  \0");
    let statistics = b"CPU: 0\nentries: 4\noverrun: 3\ndropped events: 0\n\0";
    file.extend(2u16.to_le_bytes());
    file.extend((statistics.len() as u32).to_le_bytes());
    file.extend(statistics);
    file.extend(0u16.to_le_bytes());
    file.extend(*b"flyrecord\0");
    let pages = pages();
    let mut offset = (file.len() + 32).next_multiple_of(PAGE);
    for cpu in &pages {
        file.extend((offset as u64).to_le_bytes());
        file.extend((cpu.len() as u64).to_le_bytes());
        offset += cpu.len();
    }
    file.resize(file.len().next_multiple_of(PAGE), 0);
    file.extend(pages.concat());
    file
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    let packed = zlib(bytes);
    let mut out = (packed.len() as u32).to_le_bytes().to_vec();
    out.extend((bytes.len() as u32).to_le_bytes());
    out.extend(packed);
    out
}

fn section(file: &mut Vec<u8>, id: u16, packing: Packing, data: &[u8]) -> u64 {
    let at = file.len() as u64;
    let data = match packing {
        Packing::None => data.to_vec(),
        Packing::Zlib => chunk(data),
    };
    file.extend(id.to_le_bytes());
    file.extend(u16::from(packing == Packing::Zlib).to_le_bytes());
    file.extend(0u32.to_le_bytes());
    file.extend((data.len() as u64).to_le_bytes());
    file.extend(data);
    at
}

fn option(options: &mut Vec<u8>, id: u16, data: &[u8]) {
    options.extend(id.to_le_bytes());
    options.extend((data.len() as u32).to_le_bytes());
    options.extend(data);
}

pub fn version_7(packing: &Packing) -> Vec<u8> {
    let packing = *packing;
    let mut file = start("7");
    file.extend(match packing {
        Packing::None => b"none\0\0".to_vec(),
        Packing::Zlib => b"zlib\x001.2.13\0".to_vec(),
    });
    let pointer = file.len();
    file.extend([0; 8]);
    let mut comms = Vec::new();
    text(&mut comms, COMMS);
    let mut options = Vec::new();
    for (id, part) in [
        (16, page_part()),
        (17, ftrace_part()),
        (18, systems_part()),
        (21, comms),
    ] {
        let at = section(&mut file, id, packing, &part);
        option(&mut options, id, &at.to_le_bytes());
    }
    // The CPUs' data lie inside the buffer's section, behind its header.
    let buffer_at = file.len() as u64;
    file.extend(3u16.to_le_bytes());
    file.extend(u16::from(packing == Packing::Zlib).to_le_bytes());
    file.extend([0; 12]);
    let mut buffer = buffer_at.to_le_bytes().to_vec();
    buffer.extend(*b"\0mono\0");
    buffer.extend((PAGE as u32).to_le_bytes());
    buffer.extend(2u32.to_le_bytes());
    for (cpu, pages) in pages().iter().enumerate() {
        let data = match packing {
            Packing::None => pages.clone(),
            Packing::Zlib => {
                let mut out = ((pages.len() / PAGE) as u32).to_le_bytes().to_vec();
                out.extend(pages.chunks(PAGE).flat_map(chunk));
                out
            }
        };
        buffer.extend((cpu as u32).to_le_bytes());
        buffer.extend((file.len() as u64).to_le_bytes());
        buffer.extend((data.len() as u64).to_le_bytes());
        file.extend(data);
    }
    option(&mut options, 3, &buffer);
    option(&mut options, 2, b"CPU: 0\noverrun: 3\n\0");
    option(&mut options, 0, &0u64.to_le_bytes());
    let at = section(&mut file, 0, Packing::None, &options);
    file[pointer..pointer + 8].copy_from_slice(&at.to_le_bytes());
    file
}
