//! What an exit status means, decided in one place.

use std::io;
use std::process::ExitCode;

/// How a run that could be carried out ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The question was answered, whatever the answer.
    Answered,
    /// The property asked about does not hold: a replay with failures, a run
    /// that violated a property, a size that no setting serves.
    #[allow(dead_code, reason = "commands that can refute come with replay")]
    Refuted,
}

/// Turns the result of the whole command into its exit status and, for a
/// failure, its one line on standard error.
///
/// 0 answered, 1 refuted, 2 usage, input or environment. A reader that closed
/// the pipe has seen what it wanted: that ends quietly with 0.
pub fn code(result: anyhow::Result<Outcome>) -> ExitCode {
    match result {
        Ok(Outcome::Answered) => ExitCode::SUCCESS,
        Ok(Outcome::Refuted) => ExitCode::from(1),
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dmakit: {}", one_line(&format!("{error:#}")));
            ExitCode::from(2)
        }
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// Folds control characters away, so that no input can break the line.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words
        .join(" ")
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_found_below_its_context() {
        let pipe = io::Error::new(io::ErrorKind::BrokenPipe, "pipe");
        let error = anyhow::Error::new(pipe).context("writing the answer");
        assert!(is_closed_pipe(&error));
        assert!(!is_closed_pipe(&anyhow::anyhow!("no pipe here")));
    }

    #[test]
    fn an_error_is_one_line_without_escapes() {
        assert_eq!(one_line("a\n  b\u{1b}[1m"), "a b\u{fffd}[1m");
    }
}
