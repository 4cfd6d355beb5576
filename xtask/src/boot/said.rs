//! What the image said, held to what its devices saw.

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use super::rows::{Expect, Row};
use super::wire::Seen;

/// The lines of one boot.
pub(crate) struct Said {
    lines: Vec<String>,
}

impl Said {
    pub(crate) fn new(lines: Vec<String>) -> Self {
        Self { lines }
    }

    /// The value of the last word `name=value`.
    fn word(&self, name: &str) -> Option<&str> {
        let words = self.lines.iter().rev().flat_map(|line| line.split(' '));
        let mut values = words.filter_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        values.next()
    }

    fn number(&self, name: &str) -> Result<u64> {
        let word = self.word(name);
        let word = word.with_context(|| format!("the image says no {name}"))?;
        word.parse().with_context(|| format!("{name}={word}"))
    }

    /// Holds a boot to what its disk held before and holds after it.
    pub(crate) fn check_disk(
        &self,
        row: &Row,
        requests: u64,
        before: &[u8],
        after: &[u8],
    ) -> Result<()> {
        if row.expect == Expect::NoInterrupt {
            ensure!(before == after, "the disk has changed");
            return self.check_no_interrupt();
        }
        self.check_end(row)?;
        self.check_digest("sha256", after)?;
        if requests > 0 {
            self.check_digest("before", before)?;
            ensure!(self.number("requests")? == requests, "requests are missing");
            ensure!(self.number("written")? > 0, "nothing was written");
            ensure!(before != after, "nothing was written to the disk");
        } else {
            ensure!(before == after, "the disk has changed");
        }
        if row.counts_interrupts() {
            let (interrupts, completions) = (self.number("irqs")?, self.number("completions")?);
            ensure!(
                interrupts >= completions && completions > 0,
                "{completions} completions and {interrupts} interrupts"
            );
        }
        self.check_failures(row)
    }

    /// Holds a boot to what came over its wire.
    pub(crate) fn check_wire(&self, row: &Row, requests: u64, seen: &Seen) -> Result<()> {
        self.check_end(row)?;
        let (frames, bytes) = (self.number("frames")?, self.number("bytes")?);
        ensure!(
            (frames, bytes) == (requests, seen.bytes) && seen.frames == frames && seen.wrong == 0,
            "{frames} frames of {bytes} bytes were sent, and {seen:?} came"
        );
        Ok(())
    }

    /// A boot that came to its end, with everything given back and no fault but those that are to be.
    fn check_end(&self, row: &Row) -> Result<()> {
        if let Some(error) = self.error() {
            bail!("{error}");
        }
        ensure!(self.number("leaks")? == 0, "something was not given back");
        if row.is_translated() {
            let faults = self.number("faults")?;
            let expected = row.expect == Expect::Resets;
            ensure!((faults > 0) == expected, "{faults} records of faults");
        }
        Ok(())
    }

    /// Mappings that failed where they should, and what came of it.
    fn check_failures(&self, row: &Row) -> Result<()> {
        let why = match row.expect {
            Expect::Errors => "requests_refused",
            Expect::Resets => "resets",
            Expect::Clean | Expect::NoInterrupt => return Ok(()),
        };
        ensure!(self.number("mappings_refused")? > 0, "no mapping failed");
        ensure!(self.number(why)? > 0, "nothing came of failed mappings");
        Ok(())
    }

    /// The control: where the doorbell is not mapped, interrupts fault and do not arrive.
    fn check_no_interrupt(&self) -> Result<()> {
        let error = self.error().context("interrupts arrived all the same")?;
        ensure!(error == "no interrupt", "another error: {error}");
        ensure!(self.number("faults")? > 0, "nothing was refused");
        Ok(())
    }

    fn check_digest(&self, name: &str, contents: &[u8]) -> Result<()> {
        let said = self.word(name);
        let said = said.with_context(|| format!("the image says no {name}"))?;
        let held = hexadecimal(contents);
        ensure!(
            said == held,
            "the disk's {name} is {held}, and the image read {said}"
        );
        Ok(())
    }

    fn error(&self) -> Option<&str> {
        let mut lines = self.lines.iter();
        lines.find_map(|line| line.strip_prefix("dmakit-boot: "))
    }
}

fn hexadecimal(contents: &[u8]) -> String {
    let digest = Sha256::digest(contents);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::rows::ROWS;
    use super::*;

    fn row(name: &str) -> &'static Row {
        ROWS.iter().find(|row| row.name == name).unwrap()
    }

    fn said(text: &str) -> Said {
        Said::new(text.lines().map(str::to_owned).collect())
    }

    fn disk(rest: &str, before: &[u8], after: &[u8]) -> Said {
        let (before, after) = (hexadecimal(before), hexadecimal(after));
        said(&format!(
            "before={before}\nrequests=2 read=9 written=4\nsha256={after} {rest}"
        ))
    }

    #[test]
    fn another_disk_is_noticed() {
        let (one, two, three) = ([1; 64], [2; 64], [3; 64]);
        let good = disk("leaks=0 faults=0", &one, &two);
        let row = row("virtio-blk");
        assert!(good.check_disk(row, 2, &one, &two).is_ok());
        assert!(good.check_disk(row, 2, &one, &three).is_err());
        assert!(good.check_disk(row, 2, &three, &two).is_err());
        assert!(good.check_disk(row, 3, &one, &two).is_err());
        assert!(said("").check_disk(row, 0, &one, &one).is_err());
    }

    #[test]
    fn leaks_faults_and_missing_interrupts_are_noticed() {
        let (one, two) = ([1; 64], [2; 64]);
        for name in ["nvme", "ahci"] {
            let check = |rest| disk(rest, &one, &two).check_disk(row(name), 2, &one, &two);
            assert!(check("irqs=3 completions=3 leaks=0 faults=0").is_ok());
            assert!(check("irqs=2 completions=3 leaks=0 faults=0").is_err());
            assert!(check("leaks=0 faults=0").is_err());
            assert!(check("irqs=3 completions=3 leaks=1 faults=0").is_err());
            assert!(check("irqs=3 completions=3 leaks=0 faults=1").is_err());
            assert!(check("irqs=3 completions=3 leaks=0").is_err());
        }
    }

    #[test]
    fn failures_without_consequences_are_noticed() {
        let (one, two) = ([1; 64], [2; 64]);
        let check = |rest| disk(rest, &one, &two).check_disk(row("virtio-blk-fail"), 2, &one, &two);
        assert!(check("leaks=0 faults=9 mappings_refused=2 resets=2").is_ok());
        assert!(check("leaks=0 faults=0 mappings_refused=2 resets=2").is_err());
        assert!(check("leaks=0 faults=9 mappings_refused=2 resets=0").is_err());
        assert!(check("leaks=0 faults=9 mappings_refused=0 resets=2").is_err());
    }

    #[test]
    fn an_interrupt_that_must_not_arrive_is_noticed() {
        let check = |text| said(text).check_disk(row("nvme-doorbell-unmapped"), 0, &[], &[]);
        assert!(check("faults=1\ndmakit-boot: no interrupt").is_ok());
        assert!(check("faults=0\ndmakit-boot: no interrupt").is_err());
        assert!(check("faults=1\ndmakit-boot: no disk").is_err());
        assert!(check("faults=1\nsha256=1").is_err());
    }

    #[test]
    fn a_frame_that_the_wire_did_not_see_is_noticed() {
        let seen = |frames, wrong| Seen {
            frames,
            bytes: 100,
            wrong,
        };
        let said = said("frames=2 bytes=100\nleaks=0\nfaults=0");
        let row = row("virtio-net");
        assert!(said.check_wire(row, 2, &seen(2, 0)).is_ok());
        assert!(said.check_wire(row, 2, &seen(1, 0)).is_err());
        assert!(said.check_wire(row, 2, &seen(2, 1)).is_err());
        assert!(said.check_wire(row, 3, &seen(3, 0)).is_err());
    }
}
