//! How answers look: JSON envelope, text for people, the closing lines.

mod closing;
mod envelope;
mod table;
mod text;

pub use closing::{Closing, Confidence};
pub use envelope::envelope;
pub use table::{Cell, Table};
pub use text::{Look, Tone};

/// The form an answer takes.
#[derive(Clone, Copy, Debug)]
pub enum Show {
    Json,
    Text(Look),
}
