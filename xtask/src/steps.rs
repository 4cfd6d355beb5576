//! The steps of a check: one line before each, elapsed time after it, all failures at the end.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::environment::MissingFromMachine;

/// How a step ended that did not fail.
pub(crate) enum Outcome {
    Held,
    /// Not done on this machine, and why. In continuous integration this is a failure.
    Skipped(String),
}

/// Runs steps one after another and remembers what did not hold.
pub(crate) struct Steps {
    total: usize,
    begun: usize,
    may_skip: bool,
    started: Instant,
    failed: Vec<String>,
    skipped: Vec<String>,
}

impl Steps {
    pub(crate) fn new(total: usize, may_skip: bool) -> Self {
        let started = Instant::now();
        Self {
            total,
            begun: 0,
            may_skip,
            started,
            failed: Vec::new(),
            skipped: Vec::new(),
        }
    }

    /// Runs one step. A failed one is remembered and the next ones still run, so that one run
    /// shows everything.
    ///
    /// # Errors
    /// Only where going on is pointless: the machine lacks something.
    pub(crate) fn step(
        &mut self,
        name: &str,
        what: &str,
        run: impl FnOnce() -> Result<Outcome>,
    ) -> Result<()> {
        self.begun += 1;
        println!("== {}/{} {name}: {what}", self.begun, self.total);
        let started = Instant::now();
        let result = run();
        let seconds = started.elapsed().as_secs_f64();
        match result {
            Ok(Outcome::Held) => println!("   {name} held, {seconds:.1} s"),
            Ok(Outcome::Skipped(reason)) if self.may_skip => {
                println!("   {name} skipped: {reason}");
                self.skipped.push(format!("{name} ({reason})"));
            }
            Ok(Outcome::Skipped(reason)) => {
                self.fail(
                    name,
                    &format!("nothing may be skipped in CI: {reason}"),
                    seconds,
                );
            }
            Err(error) if error.downcast_ref::<MissingFromMachine>().is_some() => {
                return Err(error);
            }
            Err(error) => self.fail(name, &format!("{error:#}"), seconds),
        }
        Ok(())
    }

    /// Says what was skipped and fails if any step did.
    pub(crate) fn finish(self) -> Result<()> {
        let seconds = self.started.elapsed().as_secs_f64();
        for skipped in &self.skipped {
            println!("not checked here: {skipped}");
        }
        if !self.failed.is_empty() {
            bail!("after {seconds:.0} s, failed: {}", self.failed.join(", "));
        }
        println!(
            "{} steps held in {seconds:.0} s",
            self.total - self.skipped.len()
        );
        Ok(())
    }

    fn fail(&mut self, name: &str, error: &str, seconds: f64) {
        println!("   {name} FAILED, {seconds:.1} s: {error}");
        self.failed.push(name.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn a_failed_step_fails_the_run_and_lets_the_next_one_run() {
        let mut steps = Steps::new(2, true);
        let mut ran = false;
        steps.step("first", "fails", || Err(anyhow!("no"))).unwrap();
        steps
            .step("second", "holds", || {
                ran = true;
                Ok(Outcome::Held)
            })
            .unwrap();
        assert!(ran);
        assert!(steps.finish().unwrap_err().to_string().contains("first"));
    }

    #[test]
    fn a_skip_is_a_failure_in_continuous_integration_only() {
        for (may_skip, held) in [(true, true), (false, false)] {
            let mut steps = Steps::new(1, may_skip);
            steps
                .step("one", "skips", || Ok(Outcome::Skipped("no tool".into())))
                .unwrap();
            assert_eq!(steps.finish().is_ok(), held);
        }
    }

    #[test]
    fn a_machine_that_lacks_something_ends_the_run_at_once() {
        let mut steps = Steps::new(1, true);
        let missing = MissingFromMachine {
            what: "x".into(),
            type_this: "y".into(),
        };
        assert!(steps.step("one", "lacks", || Err(missing.into())).is_err());
    }
}
