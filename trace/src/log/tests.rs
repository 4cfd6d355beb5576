use std::io::Cursor;

use super::prefix::shape_errors;
use super::{Error, LINE_BYTES_MAX, Reader, split};

const MESSAGE: &str = "nvme 0000:00:01.0: swiotlb buffer is full (sz: 65536 bytes)";

fn lines(bytes: &[u8]) -> Result<Vec<String>, Error> {
    Reader::new(Cursor::new(bytes))
        .map(|line| line.map(|l| l.text))
        .collect()
}

#[test]
fn every_prefix_shape_compiles() {
    assert_eq!(shape_errors(), Vec::<String>::new());
}

#[test]
fn every_known_prefix_leaves_the_same_message() {
    for prefix in [
        "",
        "[   12.345678] ",
        "[   12.345678][ T1947] ",
        "[   12.345678] [    C0] ",
        "<4>[   12.345678] ",
        "<4>",
        "kern  :warn  : [   12.345678] ",
        "[Tue Jul 29 14:38:52 2025] ",
        "[mar. juil. 29 14:38:52 2025] ",
        "[Jul29 14:38] ",
        "[  +0.000012] ",
        "Jul 29 14:38:52 host kernel: ",
        "Jul  9 14:38:52 host kernel: [   12.345678] ",
        "juil. 29 14:38:52 host kernel: ",
        "Jul 29 14:38:52.123456 my-host.example kernel: ",
        "2025-07-29T14:38:52+0200 host kernel: ",
        "2025-07-29T14:38:52.123456+02:00 host kernel: [   12.345678] ",
        "2025-07-29T14:38:52,123456+02:00 ",
        "[ 5706.856473] host kernel: ",
        "<6>Jul 29 14:38:52 host kernel: [   12.345678] ",
        "[   12.415458]  [2:   Binder:714_1:  744] ",
        "07-29 14:38:52.000     0     0 W ",
        "[14:38:52.123] [   12.345678] ",
        "[2025-07-29 14:38:52.123] [   12.345678] ",
        "14:38:52.123 [   12.345678] ",
        "kernel: ",
    ] {
        let line = format!("{prefix}{MESSAGE}");
        let (found, message) = split(&line);
        assert_eq!(message, MESSAGE, "{prefix:?}");
        assert_eq!(found.is_present, !prefix.is_empty(), "{prefix:?}");
    }
}

#[test]
fn level_and_seconds_are_read() {
    let (prefix, _) = split("<4>[   12.500000] text");
    assert_eq!((prefix.level, prefix.seconds), (Some(4), Some(12.5)));
    let (prefix, _) = split("kern  :err   : [  +0.000012] text");
    assert_eq!(prefix.level, Some(3));
}

#[test]
fn a_message_that_looks_like_a_prefix_is_kept() {
    for message in [
        "[drm] num bos allocated: 173",
        "DMAR: [DMA Write] Request device [01:00.0] fault addr f1f7e000",
        "0000:00:01.0: map failed",
        "=> 3072 free of 4096 total pages",
    ] {
        assert_eq!(split(message).1, message);
    }
}

#[test]
fn what_a_console_adds_is_removed() {
    let text = b"\x1b[1;31m> > [    1.000000] a\tb\x1b[0m  \r\n\x1b]0;title\x07next\nc\r\n";
    assert_eq!(lines(text).unwrap(), ["[    1.000000] a b", "next", "c"]);
}

#[test]
fn some_garbled_bytes_are_kept_as_marks() {
    let text = b"a long enough line of a console with \xff one bad byte\nand more text here\n";
    let read = lines(text).unwrap();
    assert!(read[0].contains('\u{fffd}'), "{read:?}");
}

#[test]
fn binary_input_is_refused() {
    let mut bytes = vec![0u8; 4096];
    bytes[100] = b'\n';
    assert!(matches!(lines(&bytes), Err(Error::Binary { line: 1, .. })));
    assert!(matches!(lines(b"\0\x01"), Err(Error::Binary { .. })));
}

#[test]
fn a_huge_line_is_refused_where_it_stands() {
    let mut bytes = b"first\n".to_vec();
    bytes.resize(LINE_BYTES_MAX + 100, b'x');
    let error = lines(&bytes).unwrap_err();
    assert!(matches!(error, Error::LongLine { line: 2 }), "{error}");
    let longest = vec![b'x'; LINE_BYTES_MAX];
    assert_eq!(lines(&longest).unwrap()[0].len(), LINE_BYTES_MAX);
}

#[test]
fn an_error_ends_the_reading() {
    let mut reader = Reader::new(Cursor::new(vec![0u8; 4096]));
    assert!(reader.next().is_some_and(|item| item.is_err()));
    assert!(reader.next().is_none());
}

#[test]
fn empty_input_has_no_lines() {
    assert!(lines(b"").unwrap().is_empty());
    assert_eq!(lines(b"\n").unwrap(), [""]);
}
