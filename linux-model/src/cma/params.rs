//! The grammar of `cma=`, `cma_pernuma=` and `numa_cma=`.

use std::fmt;

use super::BLOCK_PAGES;

const BLOCK_BYTES: u64 = BLOCK_PAGES * dmakit_addr::PAGE_BYTES;

/// What a boot line says of contiguous areas, before any rounding.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Params {
    /// `cma=`: the default area.
    pub default: Option<DefaultArea>,
    /// `cma_pernuma=`: bytes of an area on every node.
    pub per_node: Option<u64>,
    /// `numa_cma=`: bytes of areas on the nodes named, in the order written.
    pub nodes: Vec<(u32, u64)>,
}

/// `<size>[@<base>[-<end>]]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DefaultArea {
    /// Bytes; 0 is no area.
    pub bytes: u64,
    /// Where it must begin, or may at the earliest if there is an end.
    pub base: Option<u64>,
    /// Where it must end at the latest.
    pub end: Option<u64>,
}

/// What is wrong with one of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ParamsError {
    /// Not a size: the kernel reads what it can and ignores the rest in silence.
    Size {
        /// The parameter.
        name: &'static str,
        /// As written.
        text: String,
    },
    /// Not `node:size`: the kernel stops there, and areas named before stay.
    Node {
        /// As written.
        text: String,
    },
    /// An end at or before the base.
    Order {
        /// As written.
        text: String,
    },
}

impl fmt::Display for ParamsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size { name, text } => write!(
                f,
                "{name}= takes a number with K, M, G, T, P or E; Linux ignores what it cannot \
                 read of \"{text}\""
            ),
            Self::Node { text } => write!(
                f,
                "numa_cma= takes <node>:<size>[,<node>:<size>...]; Linux ignores \"{text}\" and \
                 what follows"
            ),
            Self::Order { text } => write!(f, "cma={text}: the range ends before it begins"),
        }
    }
}

impl std::error::Error for ParamsError {}

impl Params {
    /// Reads the three values, each `None` where the line has it not.
    ///
    /// # Errors
    /// What the kernel would ignore in silence.
    pub fn parse(
        default: Option<&str>,
        per_node: Option<&str>,
        nodes: Option<&str>,
    ) -> Result<Self, ParamsError> {
        Ok(Self {
            default: default.map(default_area).transpose()?,
            per_node: per_node.map(|text| size("cma_pernuma", text)).transpose()?,
            nodes: nodes.map_or(Ok(Vec::new()), node_list)?,
        })
    }

    /// The areas that come of it on a machine with these nodes, in the order in which they are
    /// reserved: on each node the one of `cma_pernuma=`, then that of `numa_cma=`; the default area
    /// last. `built_in` is the size that the kernel was built with, for a line without `cma=`.
    ///
    /// Areas are whole pageblocks. One that does not fit its node is left out by the kernel with a
    /// warning, and the others stay; that is not seen here.
    pub fn areas(&self, nodes: &[u32], built_in: DefaultSize, ram_bytes: u64) -> Vec<Planned> {
        let mut areas = Vec::new();
        let mut plan = |name: String, node: Option<u32>, bytes: u64| {
            let bytes = bytes.checked_next_multiple_of(BLOCK_BYTES).unwrap_or(bytes);
            if bytes > 0 {
                areas.push(Planned { name, node, bytes });
            }
        };
        for node in nodes {
            plan(
                format!("pernuma{node}"),
                Some(*node),
                self.per_node.unwrap_or(0),
            );
            // A later size for the same node replaces an earlier one.
            let listed = self.nodes.iter().rev().find(|(listed, _)| listed == node);
            plan(
                format!("numa{node}"),
                Some(*node),
                listed.map_or(0, |(_, bytes)| *bytes),
            );
        }
        let default = self
            .default
            .map_or_else(|| built_in.bytes(ram_bytes), |area| area.bytes);
        plan("reserved".to_owned(), None, default);
        areas
    }
}

impl fmt::Display for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        if let Some(DefaultArea { bytes, base, end }) = self.default {
            write!(f, "cma={}", Shown(bytes))?;
            if let Some(base) = base {
                write!(f, "@{}", Shown(base))?;
            }
            if let Some(end) = end {
                write!(f, "-{}", Shown(end))?;
            }
            gap = " ";
        }
        if let Some(bytes) = self.per_node {
            write!(f, "{gap}cma_pernuma={}", Shown(bytes))?;
            gap = " ";
        }
        for (index, (node, bytes)) in self.nodes.iter().enumerate() {
            let lead = if index == 0 { gap } else { "" };
            let word = if index == 0 { "numa_cma=" } else { "," };
            write!(f, "{lead}{word}{node}:{}", Shown(*bytes))?;
        }
        Ok(())
    }
}

/// An area that a boot line asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Planned {
    /// Its name in traces.
    pub name: String,
    /// The node it must be on.
    pub node: Option<u32>,
    /// Whole pageblocks.
    pub bytes: u64,
}

/// How large the default area is when the boot line does not say: what the kernel was built with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DefaultSize {
    /// `CONFIG_CMA_SIZE_SEL_MBYTES`: 0 on x86, else 16 unless set otherwise.
    Bytes(u64),
    /// `CONFIG_CMA_SIZE_SEL_PERCENTAGE` of all memory.
    Percent(u8),
    /// The smaller of both.
    Min(u64, u8),
    /// The larger of both.
    Max(u64, u8),
}

impl DefaultSize {
    /// Bytes on a machine with so much memory.
    pub fn bytes(self, ram_bytes: u64) -> u64 {
        let part = |percent: u8| ram_bytes / 100 * u64::from(percent);
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => part(percent),
            Self::Min(bytes, percent) => bytes.min(part(percent)),
            Self::Max(bytes, percent) => bytes.max(part(percent)),
        }
    }
}

fn default_area(text: &str) -> Result<DefaultArea, ParamsError> {
    let (bytes, place) = match text.split_once('@') {
        Some((bytes, place)) => (bytes, Some(place)),
        None => (text, None),
    };
    let (base, end) = match place.and_then(|place| place.split_once('-')) {
        Some((base, end)) => (Some(base), Some(end)),
        None => (place, None),
    };
    let read = |part: Option<&str>| part.map(|part| size("cma", part)).transpose();
    let area = DefaultArea {
        bytes: size("cma", bytes)?,
        base: read(base)?,
        end: read(end)?,
    };
    match (area.base, area.end) {
        (Some(base), Some(end)) if end <= base => Err(ParamsError::Order {
            text: text.to_owned(),
        }),
        _ => Ok(area),
    }
}

fn node_list(text: &str) -> Result<Vec<(u32, u64)>, ParamsError> {
    text.split(',')
        .map(|pair| {
            let wrong = || ParamsError::Node {
                text: pair.to_owned(),
            };
            let (node, bytes) = pair.split_once(':').ok_or_else(wrong)?;
            let node = node.parse().map_err(|_| wrong())?;
            Ok((node, size("numa_cma", bytes).map_err(|_| wrong())?))
        })
        .collect()
}

/// A number, decimal, octal with a leading 0 or hexadecimal with 0x, and a binary suffix.
fn size(name: &'static str, text: &str) -> Result<u64, ParamsError> {
    let wrong = || ParamsError::Size {
        name,
        text: text.to_owned(),
    };
    let (digits, shift) = match text.char_indices().next_back() {
        Some((at, letter)) if letter.is_ascii_alphabetic() && !is_hex_digit(text, letter) => {
            let place = "KMGTPE".find(letter.to_ascii_uppercase());
            (&text[..at], (place.ok_or_else(wrong)? as u32 + 1) * 10)
        }
        _ => (text, 0),
    };
    let number = if let Some(hex) = digits.strip_prefix("0x") {
        u64::from_str_radix(hex, 16)
    } else if let Some(octal) = digits.strip_prefix('0').filter(|rest| !rest.is_empty()) {
        u64::from_str_radix(octal, 8)
    } else {
        digits.parse()
    };
    let number = number.map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

/// `E` is a digit of `0x1E` and a suffix of `1E`.
fn is_hex_digit(text: &str, letter: char) -> bool {
    text.starts_with("0x") && letter.is_ascii_hexdigit()
}

/// A size with the largest suffix that divides it.
struct Shown(u64);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffixes = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
        for (shift, suffix) in suffixes {
            if self.0 > 0 && self.0 % (1 << shift) == 0 {
                return write!(f, "{}{suffix}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}
