//! The boot parameters of contiguous areas.

use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use dmakit_addr::NodeId;

mod read;

use read::Reader;

/// Which boot parameter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parameter {
    /// `cma=`.
    Cma,
    /// `cma_pernuma=`.
    CmaPernuma,
    /// `numa_cma=`.
    NumaCma,
    /// `hugetlb_cma=`.
    HugetlbCma,
}

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cma => "cma",
            Self::CmaPernuma => "cma_pernuma",
            Self::NumaCma => "numa_cma",
            Self::HugetlbCma => "hugetlb_cma",
        })
    }
}

impl Parameter {
    const fn grammar(self) -> &'static str {
        match self {
            Self::Cma => "<size>[@<base>[-<end>]]",
            Self::CmaPernuma => "<size>",
            Self::NumaCma => "<node>:<size>[,<node>:<size>]...",
            Self::HugetlbCma => "<size> or <node>:<size>[,<node>:<size>]...",
        }
    }
}

/// What is wrong with a value, and where: the offset in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParamError {
    /// Of which parameter.
    pub parameter: Parameter,
    /// Where.
    pub offset: usize,
    /// What.
    pub kind: ParamErrorKind,
}

/// What is wrong with the value of a boot parameter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ParamErrorKind {
    /// Nothing at all.
    Empty,
    /// Something else than the grammar has there. Linux would take what stands before it.
    Unknown,
    /// A number that does not fit 64 bits with its suffix, or a node number that does not fit 16.
    OutOfRange,
    /// A node that was named before. Linux would take the last size.
    Repeated(NodeId),
    /// An end that leaves no room for the size above the base.
    End {
        /// The least that the end would have to be, where there is such a number.
        at_least: Option<u64>,
    },
}

impl fmt::Display for ParamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            parameter, offset, ..
        } = self;
        match self.kind {
            ParamErrorKind::Empty => write!(f, "{parameter}: no value"),
            ParamErrorKind::Unknown => write!(
                f,
                "{parameter}: byte {offset}: expected {}, sizes with K, M, G, T, P or E",
                parameter.grammar()
            ),
            ParamErrorKind::OutOfRange => {
                write!(f, "{parameter}: number at byte {offset} out of range")
            }
            ParamErrorKind::Repeated(node) => {
                write!(f, "{parameter}: byte {offset}: {node} was named before")
            }
            ParamErrorKind::End { at_least } => {
                write!(
                    f,
                    "{parameter}: end at byte {offset} leaves too little room"
                )?;
                match at_least {
                    Some(at_least) => write!(f, "; it has to be {at_least:#x} or more"),
                    None => f.write_str(" below the end of the address space"),
                }
            }
        }
    }
}

impl core::error::Error for ParamError {}

/// `cma=<size>[@<base>[-<end>]]`, as Linux reads it, but with every mistake an error instead of
/// silence.
///
/// Numbers are decimal, octal after `0` or hexadecimal after `0x`, with a binary suffix from `K` to
/// `E`, large or small.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CmaParam {
    /// Bytes of the default area; 0 for none.
    pub size: u64,
    /// Where it is to lie.
    pub base: Option<u64>,
    /// With an end, the base is only a lower bound, and this the first byte past the upper one.
    pub end: Option<u64>,
}

impl FromStr for CmaParam {
    type Err = ParamError;

    /// Reads the value, what stands after `cma=`.
    fn from_str(value: &str) -> Result<Self, ParamError> {
        let mut reader = Reader::new(Parameter::Cma, value)?;
        let size = reader.size()?;
        let base = reader.skip('@').then(|| reader.size()).transpose()?;
        let mut end = None;
        let end_offset = reader.offset() + 1;
        if base.is_some() && reader.skip('-') {
            end = Some(reader.size()?);
        }
        reader.finish()?;
        if let (Some(base), Some(end)) = (base, end) {
            let at_least = base.checked_add(size);
            if at_least.is_none_or(|at_least| end < at_least) {
                return Err(reader.error(end_offset, ParamErrorKind::End { at_least }));
            }
        }
        Ok(Self { size, base, end })
    }
}

impl fmt::Display for CmaParam {
    /// The value as it would be written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Bytes(self.size).fmt(f)?;
        if let Some(base) = self.base {
            write!(f, "@{base:#x}")?;
        }
        match self.end {
            Some(end) => write!(f, "-{end:#x}"),
            None => Ok(()),
        }
    }
}

/// `cma_pernuma=<size>`: an area of one size on every node; numbers as in [`CmaParam`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CmaPernumaParam {
    /// Bytes of each area; 0 for none.
    pub size: u64,
}

impl FromStr for CmaPernumaParam {
    type Err = ParamError;

    /// Reads the value, what stands after `cma_pernuma=`.
    fn from_str(value: &str) -> Result<Self, ParamError> {
        let mut reader = Reader::new(Parameter::CmaPernuma, value)?;
        let size = reader.size()?;
        reader.finish()?;
        Ok(Self { size })
    }
}

impl fmt::Display for CmaPernumaParam {
    /// The value as it would be written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Bytes(self.size).fmt(f)
    }
}

/// `numa_cma=<node>:<size>[,<node>:<size>]...`: an area on each listed node. Nodes are decimal,
/// sizes as in [`CmaParam`]. Linux stops silently at the first entry that it cannot read and keeps
/// those before; here the list is read whole or not at all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NumaCmaParam {
    /// Nodes and bytes, as written.
    pub sizes: Vec<(NodeId, u64)>,
}

impl FromStr for NumaCmaParam {
    type Err = ParamError;

    /// Reads the value, what stands after `numa_cma=`.
    fn from_str(value: &str) -> Result<Self, ParamError> {
        let mut reader = Reader::new(Parameter::NumaCma, value)?;
        let sizes = reader.node_sizes()?;
        reader.finish()?;
        Ok(Self { sizes })
    }
}

impl fmt::Display for NumaCmaParam {
    /// The value as it would be written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(&self.sizes, f)
    }
}

/// `hugetlb_cma=`: areas from which gigantic pages are made; numbers as in [`CmaParam`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HugetlbCmaParam {
    /// `<size>`: so many bytes in all, spread over the nodes.
    Spread(u64),
    /// `<node>:<size>[,<node>:<size>]...`, as written.
    Listed(Vec<(NodeId, u64)>),
}

impl FromStr for HugetlbCmaParam {
    type Err = ParamError;

    /// Reads the value, what stands after `hugetlb_cma=`.
    fn from_str(value: &str) -> Result<Self, ParamError> {
        let mut reader = Reader::new(Parameter::HugetlbCma, value)?;
        let param = if value.contains(':') {
            Self::Listed(reader.node_sizes()?)
        } else {
            Self::Spread(reader.size()?)
        };
        reader.finish()?;
        Ok(param)
    }
}

impl fmt::Display for HugetlbCmaParam {
    /// The value as it would be written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spread(size) => Bytes(*size).fmt(f),
            Self::Listed(sizes) => list(sizes, f),
        }
    }
}

fn list(sizes: &[(NodeId, u64)], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (at, (node, size)) in sizes.iter().enumerate() {
        let separator = if at == 0 { "" } else { "," };
        write!(f, "{separator}{}:{}", node.index(), Bytes(*size))?;
    }
    Ok(())
}

/// A number of bytes, written with the largest suffix that divides it.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tens = match self.0 {
            0 => 0,
            bytes => (bytes.trailing_zeros() / 10) as usize,
        };
        write!(f, "{}", self.0 >> (10 * tens))?;
        match tens.checked_sub(1).and_then(|at| read::SUFFIXES.get(at)) {
            Some(suffix) => write!(f, "{suffix}"),
            None => Ok(()),
        }
    }
}
