//! A kernel command line.

use std::fmt;

use crate::boot::known::{DMA_PARAMETERS, fold, nearest_parameter};
use crate::boot::{SwiotlbParams, SwiotlbParamsError};
use crate::cma;

/// One word of a command line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parameter {
    /// Before the `=`, as written.
    pub name: String,
    /// Behind the `=`, without quotes.
    pub value: Option<String>,
}

/// What is wrong with parameters that were asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CommandLineError {
    /// Not a parameter of DMA memory.
    Unknown {
        /// As written.
        name: String,
        /// The known one that looks like it.
        nearest: Option<&'static str>,
    },
    /// A parameter without the value it needs.
    NoValue {
        /// Its name.
        name: &'static str,
    },
    /// A wrong `swiotlb=`.
    Swiotlb(SwiotlbParamsError),
    /// A wrong size of contiguous areas.
    Cma(cma::ParamsError),
}

impl fmt::Display for CommandLineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown {
                name,
                nearest: Some(nearest),
            } => {
                write!(
                    f,
                    "unknown kernel parameter \"{name}\": did you mean {nearest}?"
                )
            }
            Self::Unknown {
                name,
                nearest: None,
            } => {
                write!(f, "unknown kernel parameter \"{name}\"")
            }
            Self::NoValue { name } => write!(f, "kernel parameter {name}= needs a value"),
            Self::Swiotlb(error) => error.fmt(f),
            Self::Cma(error) => error.fmt(f),
        }
    }
}

// What it prints of a wrong value is all that the cause says.
impl std::error::Error for CommandLineError {}

impl From<SwiotlbParamsError> for CommandLineError {
    fn from(error: SwiotlbParamsError) -> Self {
        Self::Swiotlb(error)
    }
}

impl From<cma::ParamsError> for CommandLineError {
    fn from(error: cma::ParamsError) -> Self {
        Self::Cma(error)
    }
}

/// The parameters of a boot, in order. A later one of the same name wins, as in Linux.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CommandLine {
    parameters: Vec<Parameter>,
}

impl CommandLine {
    /// Splits a line as the kernel does: at blanks outside double quotes, until a lone `--`.
    /// Any word is taken; nothing is checked.
    pub fn parse(line: &str) -> Self {
        let mut parameters = Vec::new();
        for word in words(line) {
            if word == "--" {
                break;
            }
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(unquoted(value))),
                None => (word, None),
            };
            let name = unquoted(name);
            if !name.is_empty() {
                parameters.push(Parameter { name, value });
            }
        }
        Self { parameters }
    }

    /// As [`CommandLine::parse`], for parameters that someone asks for.
    ///
    /// # Errors
    /// Whatever the kernel would ignore in silence: an unknown name, a missing value, a wrong
    /// `swiotlb=`, a wrong size of contiguous areas.
    pub fn parse_dma(line: &str) -> Result<Self, CommandLineError> {
        let parsed = Self::parse(line);
        for parameter in &parsed.parameters {
            let known = DMA_PARAMETERS
                .iter()
                .find(|known| fold(known) == fold(&parameter.name));
            match known {
                None => {
                    return Err(CommandLineError::Unknown {
                        name: parameter.name.clone(),
                        nearest: nearest_parameter(&parameter.name),
                    });
                }
                Some(known) if known.ends_with('=') && parameter.value.is_none() => {
                    return Err(CommandLineError::NoValue {
                        name: known.trim_end_matches('='),
                    });
                }
                Some(_) => {}
            }
        }
        parsed.swiotlb()?;
        parsed.cma()?;
        Ok(parsed)
    }

    /// All parameters in order.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The value of the last parameter of that name, `Some("")` if it has none.
    pub fn value(&self, name: &str) -> Option<&str> {
        let is_named = |parameter: &&Parameter| fold(&parameter.name) == fold(name);
        let last = self.parameters.iter().rev().find(is_named)?;
        Some(last.value.as_deref().unwrap_or(""))
    }

    /// What `swiotlb=` says; nothing set without one.
    ///
    /// # Errors
    /// As for [`SwiotlbParams`].
    pub fn swiotlb(&self) -> Result<SwiotlbParams, SwiotlbParamsError> {
        self.value("swiotlb")
            .map_or(Ok(SwiotlbParams::default()), str::parse)
    }

    /// What `cma=`, `cma_pernuma=` and `numa_cma=` say.
    ///
    /// # Errors
    /// As for [`cma::Params::parse`].
    pub fn cma(&self) -> Result<cma::Params, cma::ParamsError> {
        let value = |name| self.value(name);
        cma::Params::parse(value("cma"), value("cma_pernuma"), value("numa_cma"))
    }

    /// This line with `over` laid on it name by name: a name in `over` replaces its value here,
    /// except that `swiotlb=` keeps `force` unless `over` says `noforce`.
    ///
    /// # Errors
    /// Either line's `swiotlb=` cannot be read.
    pub fn overlaid(&self, over: &Self) -> Result<Self, SwiotlbParamsError> {
        let swiotlb = self.swiotlb()?.overlaid(over.swiotlb()?);
        let mut parameters = self.parameters.clone();
        for parameter in &over.parameters {
            let is_named = |old: &Parameter| fold(&old.name) == fold(&parameter.name);
            let mut parameter = parameter.clone();
            if fold(&parameter.name) == "swiotlb" {
                parameter.value = Some(swiotlb.to_string());
            }
            match parameters.iter().position(is_named) {
                Some(place) => {
                    parameters[place] = parameter.clone();
                    let mut index = 0;
                    parameters.retain(|old| {
                        index += 1;
                        index - 1 == place || !is_named(old)
                    });
                }
                None => parameters.push(parameter),
            }
        }
        Ok(Self { parameters })
    }

    /// Only the parameters that concern DMA memory.
    #[must_use]
    pub fn dma_only(&self) -> Self {
        let is_known = |p: &&Parameter| DMA_PARAMETERS.iter().any(|k| fold(k) == fold(&p.name));
        Self {
            parameters: self.parameters.iter().filter(is_known).cloned().collect(),
        }
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, parameter) in self.parameters.iter().enumerate() {
            let gap = if index == 0 { "" } else { " " };
            write!(f, "{gap}{}", parameter.name)?;
            match &parameter.value {
                Some(value) if value.contains(char::is_whitespace) => write!(f, "=\"{value}\"")?,
                Some(value) => write!(f, "={value}")?,
                None => {}
            }
        }
        Ok(())
    }
}

fn unquoted(text: &str) -> String {
    text.replace('"', "")
}

/// Words between blanks that stand outside double quotes.
fn words(line: &str) -> impl Iterator<Item = &str> {
    let mut is_quoted = false;
    line.split(move |c: char| {
        is_quoted ^= c == '"';
        c.is_whitespace() && !is_quoted
    })
    .filter(|word| !word.is_empty())
}
