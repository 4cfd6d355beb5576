//! The answer, for programs and for people.

use serde::Serialize;

use super::cause::{Cause, Certainty};
use super::evidence::Evidence;
use super::finding::Finding;
use crate::input::Source;
use crate::output::{Closing, Confidence, Look, Tone};

/// What is looked for, told where nothing was found.
const LOOKED_FOR: &[&str] = &[
    "bounce pool: `swiotlb buffer is full`, `Out of SW-IOMMU space`, `coherent allocation failed`",
    "addresses: `DMA addr ... overflow`, `swiotlb addr ... overflow`",
    "contiguous areas: `cma_alloc ... alloc failed`, `PFNs busy`, `Failed to reserve`",
    "IOMMU: SMMU context faults and events, AMD `IO_PAGE_FAULT`, DMAR faults, I/O address space used up",
    "pinning: `RLIMIT_MEMLOCK exceeded`, `VFIO_MAP_DMA failed`",
    "drivers: `DMA-API:` complaints, the atomic pool, ITS tables cut short",
    "traces: maps that returned no address; debugfs: a pool that was full",
];

/// The fields of the JSON between `command` and `closing`.
#[derive(Serialize)]
pub struct Report {
    pub input: InputSummary,
    pub findings: Vec<Finding>,
    /// Lines that look like failures and are none, beside real ones.
    pub notices: Vec<Finding>,
}

/// What was read.
#[derive(Serialize)]
pub struct InputSummary {
    pub name: String,
    pub format: &'static str,
    pub lines: u64,
    /// Lines recognised as evidence.
    pub recognised: u64,
    /// Recognised lines beyond the number that is kept.
    pub surplus: u64,
}

impl Report {
    pub fn new(
        source: &Source,
        format: &'static str,
        evidence: &Evidence,
        findings: Vec<Finding>,
        notices: Vec<Finding>,
    ) -> Self {
        Self {
            input: InputSummary {
                name: source.name(),
                format,
                lines: evidence.lines,
                recognised: evidence.seen.len() as u64 + evidence.surplus,
                surplus: evidence.surplus,
            },
            findings,
            notices,
        }
    }

    /// The closing lines.
    pub fn closing(&self, source: &Source) -> Closing {
        let reproduce = format!("dmakit diagnose {}", source.argument());
        let Some(best) = self.findings.first() else {
            return Closing {
                setting: "nothing to change".to_owned(),
                confidence: Confidence::Exact,
                why: format!("no failure recognised in {} lines", self.input.lines),
                reproduce,
            };
        };
        let setting = match best.cause {
            Cause::Harmless => "nothing to change".to_owned(),
            _ => best
                .fix
                .first()
                .cloned()
                .unwrap_or_else(|| "none known".to_owned()),
        };
        Closing {
            setting,
            confidence: match best.certainty {
                Certainty::Certain => Confidence::Exact,
                Certainty::Likely => Confidence::Modelled,
                Certainty::Possible => Confidence::Extrapolated,
            },
            why: format!(
                "{} ({}), line {}",
                best.cause.name(),
                best.certainty.word(),
                best.line
            ),
            reproduce,
        }
    }

    /// The text for people.
    pub fn render(&self, look: Look, closing: &Closing) -> String {
        let input = &self.input;
        let mut text = format!(
            "{}  {}\n",
            look.paint(Tone::Strong, &input.name),
            look.paint(
                Tone::Dim,
                &format!(
                    "{}, {} lines, {} recognised",
                    input.format, input.lines, input.recognised
                )
            )
        );
        if self.findings.is_empty() {
            text.push_str("\nNothing found. These are the kinds of lines looked for:\n\n");
            for kind in LOOKED_FOR {
                text.push_str(&look.item(2, "-", kind));
            }
        }
        let mut before: Option<&Finding> = None;
        for (number, finding) in self.findings.iter().enumerate() {
            text.push('\n');
            text.push_str(&shown(finding, before, number + 1, look));
            before = Some(finding);
        }
        if !self.notices.is_empty() {
            text.push_str("\nNot failures:\n");
            for notice in &self.notices {
                text.push_str(&look.item(
                    2,
                    "-",
                    &format!(
                        "line {}: {}; {}",
                        notice.line, notice.text, notice.arithmetic
                    ),
                ));
            }
        }
        text.push('\n');
        text.push_str(&closing.render(look));
        text
    }
}

/// One finding; what the one before it said already is not repeated.
fn shown(finding: &Finding, before: Option<&Finding>, number: usize, look: Look) -> String {
    const LABEL: usize = 8;
    let tone = match (finding.cause, finding.certainty) {
        (Cause::Harmless, _) => Tone::Good,
        (_, Certainty::Certain) => Tone::Bad,
        (_, Certainty::Likely) => Tone::Warning,
        (_, Certainty::Possible) => Tone::Dim,
    };
    let mut text = format!(
        "{number}. {}  {}\n",
        look.paint(tone, finding.cause.name()),
        look.paint(Tone::Strong, finding.certainty.word())
    );
    if before.is_none_or(|b| b.line != finding.line) {
        let repeated = match finding.count {
            0 | 1 => String::new(),
            more => format!("  (and {} more like it)", more - 1),
        };
        let line = format!("{}: {}{repeated}", finding.line, finding.text);
        text.push_str(&look.field("line", LABEL, Tone::Dim, &line));
    }
    if before.is_none_or(|b| b.arithmetic != finding.arithmetic) {
        text.push_str(&look.field("because", LABEL, Tone::Dim, &finding.arithmetic));
    }
    text.push_str(&look.items("fix", LABEL, Tone::Dim, &finding.fix));
    text.push_str(&look.items("no help", LABEL, Tone::Dim, &finding.not_helping));
    text
}
