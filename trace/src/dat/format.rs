//! Event formats, as the traced kernel described them in the file itself.

use std::borrow::Cow;
use std::collections::HashMap;

use super::image::Endian;
use crate::record::Record;

/// How the bytes of one kind of event are laid out.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct EventFormat {
    pub(crate) system: Box<str>,
    pub(crate) name: Box<str>,
    pub(crate) fields: Vec<Field>,
}

/// One field.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Field {
    pub(crate) name: Box<str>,
    offset: usize,
    size: usize,
    is_signed: bool,
    shape: Shape,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shape {
    Scalar,
    /// In place; runs to the event's end where the size is 0.
    Array {
        element: usize,
    },
    /// Elsewhere in the event: 16 bits of offset below 16 bits of length, the offset counted from
    /// the event's start, or (`__rel_loc`) from behind this field.
    Located {
        element: usize,
        relative: bool,
    },
}

/// All formats of a file, by event id.
pub(crate) type Formats = HashMap<u16, EventFormat>;

/// Reads one format description; gives its id too. `None` where it is none.
pub(crate) fn parse(system: &str, text: &str, long_bytes: usize) -> Option<(u16, EventFormat)> {
    let mut name = None;
    let mut id = None;
    let mut fields = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("name:") {
            name = Some(rest.trim());
        } else if let Some(rest) = line.strip_prefix("ID:") {
            id = rest.trim().parse().ok();
        } else if line.starts_with("field:") {
            fields.push(field(line, long_bytes)?);
        } else if line.starts_with("print fmt") {
            break;
        }
    }
    let format = EventFormat {
        system: system.into(),
        name: name?.into(),
        fields,
    };
    Some((id?, format))
}

/// `field:TYPE NAME; offset:N; size:N; signed:N;`.
pub(crate) fn field(line: &str, long_bytes: usize) -> Option<Field> {
    let mut parts = line.split(';').map(str::trim);
    let declaration = parts.next()?.strip_prefix("field:")?.trim();
    let mut number = |key: &str| -> Option<usize> {
        let part = parts.next()?;
        part.strip_prefix(key)?
            .strip_prefix(':')?
            .trim()
            .parse()
            .ok()
    };
    let offset = number("offset")?;
    let size = number("size")?;
    let is_signed = number("signed").unwrap_or(0) != 0;
    let (kind, name) = declaration.rsplit_once([' ', '*'])?;
    let kind = kind.trim();
    let (name, in_place) = match name.split_once('[') {
        Some((name, _)) => (name, true),
        None => (name, false),
    };
    let located = |prefix: &str| kind.strip_prefix(prefix).map(|rest| rest.trim());
    let shape = if let Some(rest) = located("__data_loc ") {
        Shape::Located {
            element: element_bytes(rest, long_bytes),
            relative: false,
        }
    } else if let Some(rest) = located("__rel_loc ") {
        Shape::Located {
            element: element_bytes(rest, long_bytes),
            relative: true,
        }
    } else if in_place {
        Shape::Array {
            element: element_bytes(kind, long_bytes),
        }
    } else {
        Shape::Scalar
    };
    Some(Field {
        name: name.into(),
        offset,
        size,
        is_signed,
        shape,
    })
}

/// The width of one element of an array of this type; 1 where it is not known.
fn element_bytes(kind: &str, long_bytes: usize) -> usize {
    let kind = kind.trim_end_matches("[]").trim();
    if kind.contains("64") || kind.contains("long long") {
        return 8;
    }
    if kind.contains("long") || kind.contains('*') || kind == "size_t" {
        return long_bytes;
    }
    if kind.contains("short") || kind.contains("16") {
        return 2;
    }
    if kind.contains("char") || kind.contains('8') || kind == "bool" {
        return 1;
    }
    match kind {
        "dma_addr_t" | "phys_addr_t" => 8,
        _ if kind.contains("int") || kind.contains("32") || kind.starts_with("enum") => 4,
        _ => 1,
    }
}

impl Field {
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    fn bytes<'a>(&self, data: &'a [u8], endian: Endian) -> Option<&'a [u8]> {
        let end = self.offset.checked_add(self.size)?;
        match self.shape {
            Shape::Scalar => data.get(self.offset..end),
            Shape::Array { .. } if self.size == 0 => data.get(self.offset..),
            Shape::Array { .. } => data.get(self.offset..end),
            Shape::Located { relative, .. } => {
                let word = endian.at(data, self.offset, 4)?;
                let len = usize::try_from(word >> 16).ok()?;
                let from = usize::try_from(word & 0xffff).ok()?;
                let from = if relative {
                    end.checked_add(from)?
                } else {
                    from
                };
                data.get(from..from.checked_add(len)?)
            }
        }
    }

    pub(crate) fn number(&self, data: &[u8], endian: Endian) -> Option<u64> {
        if self.shape != Shape::Scalar || !matches!(self.size, 1 | 2 | 4 | 8) {
            return None;
        }
        let number = endian.number(self.bytes(data, endian)?);
        let spare = 64 - 8 * self.size as u32;
        if self.is_signed {
            return Some(((number << spare) as i64 >> spare) as u64);
        }
        Some(number)
    }

    pub(crate) fn is_text(&self) -> bool {
        match self.shape {
            Shape::Scalar => false,
            Shape::Array { element } | Shape::Located { element, .. } => element == 1,
        }
    }

    pub(crate) fn text<'a>(&self, data: &'a [u8], endian: Endian) -> Option<Cow<'a, str>> {
        let bytes = self.bytes(data, endian)?;
        let end = bytes.iter().position(|&byte| byte == 0);
        Some(String::from_utf8_lossy(
            &bytes[..end.unwrap_or(bytes.len())],
        ))
    }

    fn list(&self, data: &[u8], endian: Endian) -> Option<Vec<u64>> {
        let element = match self.shape {
            Shape::Scalar => return None,
            Shape::Array { element } | Shape::Located { element, .. } => element,
        };
        let bytes = self.bytes(data, endian)?;
        if bytes.len() % element != 0 {
            return None;
        }
        Some(bytes.chunks(element).map(|b| endian.number(b)).collect())
    }
}

/// One event's bytes with their format.
pub(crate) struct DatRecord<'a> {
    pub(crate) format: &'a EventFormat,
    pub(crate) data: &'a [u8],
    pub(crate) endian: Endian,
}

impl DatRecord<'_> {
    fn field(&self, name: &str) -> Option<&Field> {
        self.format.fields.iter().find(|field| &*field.name == name)
    }
}

impl Record for DatRecord<'_> {
    fn number(&self, field: &str) -> Option<u64> {
        self.field(field)?.number(self.data, self.endian)
    }

    fn text(&self, field: &str) -> Option<Cow<'_, str>> {
        self.field(field)?.text(self.data, self.endian)
    }

    fn list(&self, field: &str) -> Option<Vec<u64>> {
        self.field(field)?.list(self.data, self.endian)
    }
}
