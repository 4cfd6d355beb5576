//! The scenarios that ship with the program.

use serde::Serialize;

use super::machine::MachineName;
use super::page::Page;
use crate::output::{Closing, Confidence, Show, Tone, envelope};

/// The pages, the default of each machine before its others.
const PAGES: &[&str] = &[
    include_str!("../../../scenarios/cache.toml"),
    include_str!("../../../scenarios/disk-read.toml"),
    include_str!("../../../scenarios/smmu-edu.toml"),
    include_str!("../../../scenarios/smmu-nvme.toml"),
    include_str!("../../../scenarios/smmu-nvme-batched.toml"),
    include_str!("../../../scenarios/smmu-nvme-lazy.toml"),
    include_str!("../../../scenarios/edu-bounce.toml"),
    include_str!("../../../scenarios/nvme-passthrough.toml"),
    include_str!("../../../scenarios/nvme-bounce.toml"),
    include_str!("../../../scenarios/per-node-cma.toml"),
    include_str!("../../../scenarios/pins-versus-cma.toml"),
    include_str!("../../../scenarios/movable-pressure.toml"),
    include_str!("../../../scenarios/boot-carving.toml"),
];

fn pages() -> anyhow::Result<Vec<Page>> {
    PAGES.iter().map(|text| Page::parse(text)).collect()
}

/// Their names.
pub fn names() -> Vec<String> {
    pages()
        .unwrap_or_default()
        .into_iter()
        .map(|page| page.name)
        .collect()
}

/// The one of that name.
pub fn named(name: &str) -> anyhow::Result<Option<Page>> {
    text(name)?.map(Page::parse).transpose()
}

/// The page of that name as it is written.
pub fn text(name: &str) -> anyhow::Result<Option<&'static str>> {
    for text in PAGES {
        if Page::parse(text)?.name == name {
            return Ok(Some(text));
        }
    }
    Ok(None)
}

/// The one that a machine runs when none is named.
pub fn default_on(machine: MachineName) -> anyhow::Result<Page> {
    let found = pages()?
        .into_iter()
        .find(|page| page.machines.contains(&machine));
    found.ok_or_else(|| anyhow::anyhow!("no built-in scenario runs on {}", machine.word()))
}

#[derive(Serialize)]
struct Listing {
    scenarios: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    machines: Vec<MachineName>,
    shows: String,
}

/// All of them, described.
pub fn list(show: Show) -> anyhow::Result<Vec<u8>> {
    let rows = pages()?.into_iter().map(|page| Row {
        name: page.name,
        machines: page.machines,
        shows: page.shows,
    });
    let listing = Listing {
        scenarios: rows.collect(),
    };
    let closing = Closing {
        setting: "none".to_owned(),
        confidence: Confidence::Exact,
        why: "These pages are compiled into the program; a file of the same form works too."
            .to_owned(),
        reproduce: "dmakit run --list".to_owned(),
    };
    let look = match show {
        Show::Json => return envelope("run", &listing, &closing),
        Show::Text(look) => look,
    };
    let mut text = String::new();
    for row in &listing.scenarios {
        let machines: Vec<_> = row.machines.iter().map(|machine| machine.word()).collect();
        text.push_str(&look.paint(Tone::Strong, &row.name));
        text.push_str(&format!("  on {}\n", machines.join(", ")));
        text.push_str(&look.field("", 0, Tone::Dim, &row.shows));
    }
    text.push('\n');
    text.push_str(&closing.render(look));
    Ok(text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_can_be_read_and_names_a_machine_that_can_run_it() {
        for page in pages().unwrap() {
            assert!(!page.machines.is_empty());
            for machine in page.machines.clone() {
                page.runs_on(machine).unwrap();
            }
        }
    }

    #[test]
    fn every_machine_has_a_default() {
        assert_eq!(default_on(MachineName::Sim).unwrap().name, "cache");
        assert_eq!(default_on(MachineName::QemuVirt).unwrap().name, "disk-read");
        assert_eq!(default_on(MachineName::QemuQ35).unwrap().name, "edu-bounce");
    }
}
