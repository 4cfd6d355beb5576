//! Numbers with suffixes, and lists of them by node.

use alloc::vec::Vec;

use dmakit_addr::NodeId;

use super::{ParamError, ParamErrorKind, Parameter};

/// Each stands for 1024 of the one before.
pub(super) const SUFFIXES: [char; 6] = ['K', 'M', 'G', 'T', 'P', 'E'];

/// Reads a value from its start to its end.
pub(super) struct Reader<'a> {
    parameter: Parameter,
    value: &'a str,
    offset: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(parameter: Parameter, value: &'a str) -> Result<Self, ParamError> {
        let reader = Self {
            parameter,
            value,
            offset: 0,
        };
        if value.is_empty() {
            return Err(reader.error(0, ParamErrorKind::Empty));
        }
        Ok(reader)
    }

    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    pub(super) fn error(&self, offset: usize, kind: ParamErrorKind) -> ParamError {
        ParamError {
            parameter: self.parameter,
            offset,
            kind,
        }
    }

    fn rest(&self) -> &'a str {
        &self.value[self.offset..]
    }

    /// Skips `character` if it comes next.
    pub(super) fn skip(&mut self, character: char) -> bool {
        let found = self.rest().starts_with(character);
        self.offset += if found { character.len_utf8() } else { 0 };
        found
    }

    /// Nothing may follow.
    pub(super) fn finish(&self) -> Result<(), ParamError> {
        match self.rest() {
            "" => Ok(()),
            _ => Err(self.error(self.offset, ParamErrorKind::Unknown)),
        }
    }

    /// Digits of `radix` up to the first character that is none.
    fn digits(&mut self, radix: u32) -> Result<u64, ParamError> {
        let rest = self.rest();
        let len = rest.find(|c: char| !c.is_digit(radix));
        let digits = &rest[..len.unwrap_or(rest.len())];
        if digits.is_empty() {
            return Err(self.error(self.offset, ParamErrorKind::Unknown));
        }
        let number = u64::from_str_radix(digits, radix);
        let number = number.map_err(|_| self.error(self.offset, ParamErrorKind::OutOfRange))?;
        self.offset += digits.len();
        Ok(number)
    }

    /// A number of bytes, perhaps with a suffix.
    pub(super) fn size(&mut self) -> Result<u64, ParamError> {
        let from = self.offset;
        let rest = self.rest();
        let number = if rest.starts_with("0x") || rest.starts_with("0X") {
            self.offset += 2;
            self.digits(16)?
        } else if rest.starts_with('0') {
            self.digits(8)?
        } else {
            self.digits(10)?
        };
        let next = self.rest().chars().next();
        let tens = next.and_then(|next| {
            let large = next.to_ascii_uppercase();
            SUFFIXES.iter().position(|suffix| *suffix == large)
        });
        let Some(tens) = tens else {
            return Ok(number);
        };
        self.offset += 1;
        let shift = 10 * (tens as u32 + 1);
        let bytes = number.checked_mul(1 << shift);
        bytes.ok_or(self.error(from, ParamErrorKind::OutOfRange))
    }

    fn node(&mut self) -> Result<NodeId, ParamError> {
        let from = self.offset;
        let number = u16::try_from(self.digits(10)?);
        let number = number.map_err(|_| self.error(from, ParamErrorKind::OutOfRange))?;
        Ok(NodeId::new(number))
    }

    /// `<node>:<size>`, once or several times with commas between.
    pub(super) fn node_sizes(&mut self) -> Result<Vec<(NodeId, u64)>, ParamError> {
        let mut sizes: Vec<(NodeId, u64)> = Vec::new();
        loop {
            let from = self.offset;
            let node = self.node()?;
            if sizes.iter().any(|(other, _)| *other == node) {
                return Err(self.error(from, ParamErrorKind::Repeated(node)));
            }
            if !self.skip(':') {
                return Err(self.error(self.offset, ParamErrorKind::Unknown));
            }
            sizes.push((node, self.size()?));
            if !self.skip(',') {
                return Ok(sizes);
            }
        }
    }
}
