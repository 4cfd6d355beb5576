//! Boot parameters, read whole or refused where they are wrong.

use core::fmt::{Debug, Display};
use core::str::FromStr;

use dmakit_addr::NodeId;
use dmakit_cma::{
    CmaParam, CmaPernumaParam, HugetlbCmaParam, NumaCmaParam, ParamError, ParamErrorKind,
};

const MIB: u64 = 1 << 20;

fn refused<T: FromStr<Err = ParamError> + Debug>(value: &str) -> (usize, ParamErrorKind) {
    let error = value.parse::<T>().unwrap_err();
    (error.offset, error.kind)
}

fn printed<T: FromStr<Err = ParamError> + Display + Debug + PartialEq>(values: &[&str]) {
    for value in values {
        let param: T = value
            .parse()
            .unwrap_or_else(|error| panic!("{value}: {error}"));
        assert_eq!(param.to_string(), *value);
    }
}

#[test]
fn what_is_written_is_printed() {
    printed::<CmaParam>(&[
        "0",
        "256M",
        "1G",
        "64M@0x40000000",
        "64M@0x0-0x100000000",
        "4097",
        "1E",
    ]);
    printed::<CmaPernumaParam>(&["0", "16M", "3K"]);
    printed::<NumaCmaParam>(&["0:16M", "0:16M,2:1G,65535:0"]);
    printed::<HugetlbCmaParam>(&["4G", "0:1G,3:2G"]);
}

#[test]
fn numbers_are_octal_and_hexadecimal_too_and_suffixes_large_or_small() {
    let size = |value: &str| value.parse::<CmaParam>().unwrap().size;
    assert_eq!(size("0x100m"), 256 * MIB);
    assert_eq!(size("0400M"), 256 * MIB);
    assert_eq!(size("262144k"), 256 * MIB);
    let ranged: CmaParam = "64m@1g-0x80000000".parse().unwrap();
    assert_eq!((ranged.base, ranged.end), (Some(1 << 30), Some(2 << 30)));
}

#[test]
fn a_half_readable_list_is_refused_where_it_stops_being_readable() {
    let unknown = ParamErrorKind::Unknown;
    assert_eq!(refused::<NumaCmaParam>("0:16M,x:16M"), (6, unknown));
    assert_eq!(refused::<NumaCmaParam>("0:16M,1=16M"), (7, unknown));
    assert_eq!(refused::<NumaCmaParam>("0:16M,"), (6, unknown));
    assert_eq!(refused::<NumaCmaParam>("0:16M;1:16M"), (5, unknown));
    assert_eq!(refused::<NumaCmaParam>("0:16MB"), (5, unknown));
    assert_eq!(refused::<NumaCmaParam>("16M"), (2, unknown));
    assert_eq!(
        refused::<NumaCmaParam>("0:1M,65536:1M"),
        (5, ParamErrorKind::OutOfRange)
    );
    assert_eq!(
        refused::<NumaCmaParam>("3:1M,1:1M,3:2M"),
        (10, ParamErrorKind::Repeated(NodeId::new(3)))
    );
    assert_eq!(refused::<HugetlbCmaParam>("1G,0:2G"), (1, unknown));
}

#[test]
fn garbage_is_refused_where_it_stands() {
    let unknown = ParamErrorKind::Unknown;
    assert_eq!(refused::<CmaParam>(""), (0, ParamErrorKind::Empty));
    assert_eq!(refused::<CmaParam>("lots"), (0, unknown));
    assert_eq!(refused::<CmaParam>("-1"), (0, unknown));
    assert_eq!(refused::<CmaParam>("64M@"), (4, unknown));
    assert_eq!(refused::<CmaParam>("64M-1G"), (3, unknown));
    assert_eq!(refused::<CmaParam>("64M@1G-"), (7, unknown));
    assert_eq!(refused::<CmaParam>("64M@1G-2G,"), (9, unknown));
    assert_eq!(refused::<CmaParam>("0x"), (2, unknown));
    assert_eq!(refused::<CmaParam>("09M"), (1, unknown));
    assert_eq!(refused::<CmaPernumaParam>("16M "), (3, unknown));
    assert_eq!(
        refused::<CmaParam>("64M@99999999999T"),
        (4, ParamErrorKind::OutOfRange)
    );
    assert_eq!(
        refused::<CmaParam>("64M@1G-1000M"),
        (
            7,
            ParamErrorKind::End {
                at_least: Some((1 << 30) + 64 * MIB)
            }
        )
    );
}

#[test]
fn an_error_says_what_was_expected() {
    let error = "0:16M,oops".parse::<NumaCmaParam>().unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("numa_cma: byte 6: expected <node>:<size>"),
        "{text}"
    );
}
