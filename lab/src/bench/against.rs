//! Two programs compared: run in turn, and judged by the ratios within pairs.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde::Serialize;

use super::student::quantile;

/// What a row's times say about the two.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    pub row: String,
    pub pairs: usize,
    /// This program's time to the other's, less 1: below 0 this one is faster.
    pub effect: f64,
    /// Where the effect lies: all rows' intervals together err once in 20 comparisons.
    pub interval: [f64; 2],
    /// The least effect that as many pairs would show four times of five.
    pub smallest_detectable: f64,
    pub verdict: Verdict,
}

/// What can be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Verdict {
    #[serde(rename = "faster")]
    Faster,
    #[serde(rename = "slower")]
    Slower,
    /// The difference, if any, is less than these pairs can show.
    #[serde(rename = "not resolvable")]
    NotResolvable,
}

impl Verdict {
    pub fn word(self) -> &'static str {
        match self {
            Self::Faster => "faster",
            Self::Slower => "slower",
            Self::NotResolvable => "not resolvable",
        }
    }
}

/// Median nanoseconds by row.
type Times = BTreeMap<String, f64>;

/// Runs both programs `pairs` times with `options`, each first every other time, and compares the
/// rows that both have.
pub fn compare(
    this: &Path,
    other: &Path,
    options: &[String],
    pairs: u32,
    tell: &dyn Fn(&str),
) -> anyhow::Result<Vec<Comparison>> {
    let mut ratios: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for pair in 0..pairs {
        tell(&format!("pair {} of {pairs}", pair + 1));
        // What comes second finds a warmer machine.
        let (ours, theirs) = if pair % 2 == 0 {
            let ours = run(this, options)?;
            (ours, run(other, options)?)
        } else {
            let theirs = run(other, options)?;
            (run(this, options)?, theirs)
        };
        for (row, ns) in ours {
            if let Some(theirs) = theirs.get(&row).filter(|theirs| **theirs > 0.0 && ns > 0.0) {
                ratios.entry(row).or_default().push((ns / theirs).ln());
            }
        }
    }
    ratios.retain(|_, logs| logs.len() == pairs as usize);
    let compared = ratios.len();
    let rows: Vec<Comparison> = ratios
        .into_iter()
        .map(|(row, logs)| judge(row, &logs, compared))
        .collect();
    if rows.is_empty() {
        bail!(
            "{}: has no timed row that this program has",
            other.display()
        );
    }
    Ok(rows)
}

fn run(program: &Path, options: &[String]) -> anyhow::Result<Times> {
    let shown = program.display();
    let output = Command::new(program)
        .args(["bench", "--json"])
        .args(options)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{shown}: cannot be run"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{shown} bench: {}: {}", output.status, said.trim());
    }
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{shown} bench --json: no JSON"))?;
    let rows = answer
        .pointer("/timing/rows")
        .and_then(|rows| rows.as_array());
    let rows = rows.with_context(|| format!("{shown} bench --json: no timing"))?;
    let time = |row: &serde_json::Value| {
        let name = row.get("row")?.as_str()?.to_owned();
        Some((name, row.pointer("/ns/median")?.as_f64()?))
    };
    Ok(rows.iter().filter_map(time).collect())
}

/// Student's t on the logarithms of the ratios; the chance to err is shared among `compared` rows.
fn judge(row: String, logs: &[f64], compared: usize) -> Comparison {
    let count = logs.len() as f64;
    let mean = logs.iter().sum::<f64>() / count;
    let squares: f64 = logs.iter().map(|log| (log - mean).powi(2)).sum();
    let error = (squares / (count - 1.0) / count).sqrt();
    let freedom = logs.len().saturating_sub(1);
    let half = quantile(0.025 / compared.max(1) as f64, freedom) * error;
    let verdict = if mean + half < 0.0 {
        Verdict::Faster
    } else if mean - half > 0.0 {
        Verdict::Slower
    } else {
        Verdict::NotResolvable
    };
    let as_effect = |log: f64| (log.exp_m1() * 1e4).round() / 1e4;
    Comparison {
        row,
        pairs: logs.len(),
        effect: as_effect(mean),
        interval: [as_effect(mean - half), as_effect(mean + half)],
        smallest_detectable: as_effect(half + quantile(0.2, freedom) * error),
        verdict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_beyond_the_noise_is_told_and_one_within_is_not() {
        let slower = judge("a".into(), &[0.10, 0.11, 0.09, 0.10], 1);
        assert_eq!(slower.verdict, Verdict::Slower);
        assert!(slower.interval[0] > 0.08 && slower.interval[1] < 0.13);
        let faster = judge("b".into(), &[-0.10, -0.11, -0.09, -0.10], 1);
        assert_eq!(faster.verdict, Verdict::Faster);
        let noise = judge("c".into(), &[0.10, -0.11, 0.09, -0.07], 1);
        assert_eq!(noise.verdict, Verdict::NotResolvable);
        assert!(noise.smallest_detectable > 0.15, "{noise:?}");
    }

    #[test]
    fn equal_times_are_not_resolvable() {
        assert_eq!(
            judge("a".into(), &[0.0; 4], 1).verdict,
            Verdict::NotResolvable
        );
    }
}
