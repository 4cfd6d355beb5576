//! Kernel parameters of areas, as a page has them.

use anyhow::Context;
use dmakit_cma::{
    AreaParams, CmaParam, CmaPernumaParam, DefaultSize, GiganticTurn, HugetlbCmaParam,
    NumaCmaParam, PerNode,
};
use dmakit_linux_model::CommandLine;

/// The parameters of areas.
const KNOWN: [&str; 4] = ["cma", "cma_pernuma", "numa_cma", "hugetlb_cma"];

/// Reads a line of parameters; without `cma=` there is no default area.
///
/// # Errors
/// What Linux would ignore in silence, and parameters that are not about areas.
pub fn read(line: &str, gigantic: GiganticTurn) -> anyhow::Result<AreaParams> {
    let read = CommandLine::parse_dma(line).context("params")?;
    for parameter in read.parameters() {
        if !KNOWN.contains(&parameter.name.as_str()) {
            anyhow::bail!(
                "params: {} says nothing about areas, expected {}",
                parameter.name,
                KNOWN.join(", ")
            );
        }
    }
    let value = |name| read.value(name);
    let cma: Option<CmaParam> = value("cma").map(str::parse).transpose()?;
    let per_node: Option<CmaPernumaParam> = value("cma_pernuma").map(str::parse).transpose()?;
    let numa_cma: Option<NumaCmaParam> = value("numa_cma").map(str::parse).transpose()?;
    let hugetlb_cma: Option<HugetlbCmaParam> = value("hugetlb_cma").map(str::parse).transpose()?;
    Ok(AreaParams {
        cma,
        per_node: per_node.map_or(PerNode::Off, PerNode::Sized),
        numa_cma,
        hugetlb_cma,
        default_size: DefaultSize::NONE,
        gigantic,
    })
}

/// The line that asks for the same.
pub fn written(params: &AreaParams) -> String {
    let mut words = Vec::new();
    words.extend(params.cma.map(|value| format!("cma={value}")));
    if let PerNode::Sized(value) = params.per_node {
        words.push(format!("cma_pernuma={value}"));
    }
    let listed = params.numa_cma.as_ref();
    words.extend(listed.map(|value| format!("numa_cma={value}")));
    let gigantic = params.hugetlb_cma.as_ref();
    words.extend(gigantic.map(|value| format!("hugetlb_cma={value}")));
    words.join(" ")
}
