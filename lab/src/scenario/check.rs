//! What a run shows, and whether it held.

use serde::{Deserialize, Serialize};

/// A property.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckName {
    /// Every byte is where it belongs, and no other has changed.
    Data,
    /// Transfers through live mappings leave no record of a fault.
    NoFaults,
    /// A device does not reach what was unmapped.
    NoStaleHits,
    /// A device does not reach what was unmapped before a flush.
    NoStaleHitsAfterFlush,
    /// The machine saw no rule of its own broken.
    NoViolations,
    /// Addresses, tables, tickets and memory in use are as before.
    AllReturned,
    /// With room on the node, all its coherent memory lies there.
    Local,
    /// As room runs out, memory comes from where it should next.
    FallBackOrder,
    /// A claim is served while a window can be cleared and what has to move has room.
    Claims,
    /// Claims move no more than a tenth above the least number of frames.
    FewMoves,
    /// Every migration has asked the gate.
    Gate,
    /// A device whose pages are held never meets one on its way elsewhere.
    NoDeviceFaults,
    /// No long-term pin is in an area.
    PinsOutside,
    /// What is claimed early is zeroed, stays claimed, and can be freed.
    EarlyClaims,
    /// Areas are reserved in the order asked, and those expected.
    Order,
    /// An area lies on its node and nowhere else.
    ExactNode,
    /// A node without room leaves the others their areas.
    OthersLeft,
    /// The effective boot line asks for what came out.
    BootLine,
    /// The same without what is claimed to be needed fails.
    Control,
}

impl CheckName {
    /// The name in scenarios and answers.
    pub fn word(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::NoFaults => "no-faults",
            Self::NoStaleHits => "no-stale-hits",
            Self::NoStaleHitsAfterFlush => "no-stale-hits-after-flush",
            Self::NoViolations => "no-violations",
            Self::AllReturned => "all-returned",
            Self::Local => "local",
            Self::FallBackOrder => "fall-back-order",
            Self::Claims => "claims",
            Self::FewMoves => "few-moves",
            Self::Gate => "gate",
            Self::NoDeviceFaults => "no-device-faults",
            Self::PinsOutside => "pins-outside",
            Self::EarlyClaims => "early-claims",
            Self::Order => "order",
            Self::ExactNode => "exact-node",
            Self::OthersLeft => "others-left",
            Self::BootLine => "boot-line",
            Self::Control => "control",
        }
    }
}

/// How a property fared.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    pub name: CheckName,
    pub held: bool,
    /// How often it was put to the test.
    pub tried: u64,
    pub failed: u64,
    /// The first failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_failure: Option<String>,
}

impl Check {
    /// A property not yet tried.
    pub fn new(name: CheckName) -> Self {
        Self {
            name,
            held: true,
            tried: 0,
            failed: 0,
            first_failure: None,
        }
    }

    /// One trial; `failure` says what is wrong.
    pub fn trial(&mut self, failure: Option<String>) {
        self.tried += 1;
        if let Some(failure) = failure {
            self.failed += 1;
            self.held = false;
            self.first_failure.get_or_insert(failure);
        }
    }
}
