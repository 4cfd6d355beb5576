//! What a recording demands of the software IO TLB, with the recorded addresses kept apart.

mod event;
mod ingest;
mod load;
mod trace;

pub use event::{Context, Event, EventKind, SgEntry};
pub use ingest::Ingest;
pub use load::{
    Demand, Device, Known, Mapping, Op, OpKind, Phase, Recorded, RecordedAddresses, Switch,
    Unpaired,
};
pub use trace::TraceIngest;
