//! The tables that an interrupt translation service needs.
//!
//! The arithmetic is the driver's own.

mod args;
mod report;
mod text;

use dmakit_its::Features;
use dmakit_its::spec::table::PageSize;

pub use args::SizeItsArgs;

use crate::exit::Outcome;
use crate::output::{Closing, Confidence, Show, envelope};
use crate::quantity::{bytes, grouped};
use report::{ItsReport, Question};

/// What to size.
pub struct Plan {
    question: Question,
    reproduce: String,
}

impl Plan {
    /// Checks what was typed.
    pub fn new(typed: &SizeItsArgs) -> anyhow::Result<Self> {
        let features = Features::from_typer(typed.typer)?;
        let ids = features.device_ids();
        let devices = typed.devices.unwrap_or(ids);
        if devices == 0 {
            anyhow::bail!("--devices 0: expected at least one");
        }
        if devices > ids {
            anyhow::bail!(
                "--devices {devices}: GITS_TYPER {:#x} has {} bits of device IDs, {} at most",
                typed.typer,
                features.device_bits,
                grouped(ids)
            );
        }
        let its_page = PageSize::ALL
            .into_iter()
            .find(|page| page.bytes() == typed.its_page);
        let Some(its_page) = its_page else {
            anyhow::bail!(
                "--its-page {}: expected 4K, 16K or 64K",
                bytes(typed.its_page)
            );
        };
        if !typed.page.is_power_of_two() || !(1 << 12..=1 << 16).contains(&typed.page) {
            anyhow::bail!("--page {}: expected 4K, 16K or 64K", bytes(typed.page));
        }
        Ok(Self {
            question: Question {
                features,
                devices,
                entry: typed.entry,
                its_page,
                page: typed.page,
                max_order: typed.max_order,
                flat_only: typed.flat_only,
                node: typed.node,
            },
            reproduce: reproduce(typed),
        })
    }

    /// Computes, answers.
    pub fn run(&self, show: Show) -> anyhow::Result<(Vec<u8>, Outcome)> {
        let report = ItsReport::new(&self.question);
        let flat_reservation = report.flat_reservation(self.question.node);
        let closing = Closing {
            setting: text::setting(&report),
            confidence: Confidence::Exact,
            why: text::why(&report, &flat_reservation),
            reproduce: self.reproduce.clone(),
        };
        let answer = match show {
            Show::Json => envelope("size its", &report, &closing)?,
            Show::Text(look) => text::render(&report, &closing, look).into_bytes(),
        };
        let outcome = match report.levels {
            Some(_) => Outcome::Answered,
            None => Outcome::Refuted,
        };
        Ok((answer, outcome))
    }
}

fn reproduce(typed: &SizeItsArgs) -> String {
    let mut line = format!("dmakit size its --typer {:#x}", typed.typer);
    let mut add = |words: String| {
        line.push(' ');
        line.push_str(&words);
    };
    if let Some(devices) = typed.devices {
        add(format!("--devices {devices}"));
    }
    if typed.entry != 8 {
        add(format!("--entry {}", typed.entry));
    }
    if typed.its_page != 64 << 10 {
        add(format!("--its-page {}K", typed.its_page >> 10));
    }
    if typed.page != 4 << 10 {
        add(format!("--page {}K", typed.page >> 10));
    }
    if typed.max_order != 10 {
        add(format!("--max-order {}", typed.max_order));
    }
    if typed.flat_only {
        add("--flat-only".to_owned());
    }
    if let Some(node) = typed.node {
        add(format!("--node {node}"));
    }
    line
}
