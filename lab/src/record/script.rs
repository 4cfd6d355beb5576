//! The same recording as a shell script, for a machine without this program.

use std::fmt::Write;

use super::kprobes::definitions;
use super::{Packing, RecordArgs};
use crate::input::quoted;

const TEMPLATE: &str = include_str!("record.sh");

/// The script with the settings filled in.
pub fn script(args: &RecordArgs) -> anyhow::Result<String> {
    let text = TEMPLATE
        .replace("@SETTINGS@", &settings(args)?)
        .replace("@PROBES@", &probes()?);
    Ok(text)
}

fn settings(args: &RecordArgs) -> anyhow::Result<String> {
    let words: Vec<String> = (args.command.iter())
        .map(|word| quoted(&word.to_string_lossy()))
        .collect();
    let seconds = match args.duration {
        // Not every `sleep` takes a part of a second.
        Some(duration) => duration.as_millis().div_ceil(1000).to_string(),
        None => String::new(),
    };
    let root = args.root.display().to_string();
    let mut text = String::new();
    let lines = [
        ("NAME", quoted(&args.output.display().to_string())),
        ("EVENTS", quoted(&args.events.join(" "))),
        ("BUFFER_KIB", args.buffer.div_ceil(1024).to_string()),
        ("DURATION", seconds),
        ("KPROBES", u8::from(args.kprobes).to_string()),
        ("RESET", u8::from(args.reset_high_water).to_string()),
        ("PACK", u8::from(args.packing == Packing::Zstd).to_string()),
        ("ROOT", quoted(root.trim_end_matches('/'))),
        ("COMMAND", quoted(&words.join(" "))),
    ];
    for (name, value) in lines {
        writeln!(text, "{name}={value}")?;
    }
    Ok(text.trim_end().to_owned())
}

/// The probes for each kind of kernel, as `case` branches.
fn probes() -> anyhow::Result<String> {
    let mut text = String::new();
    for (kind, release) in [("a", "6.1"), ("b", "6.10"), ("c", "6.12")] {
        writeln!(text, "\t{kind})")?;
        for definition in definitions(release) {
            writeln!(
                text,
                "\t\techo '{}' >>\"$T/kprobe_events\" || die \"the kernel refuses a probe\"\n\
                 \t\tPROBES=\"$PROBES {}\"",
                definition.line(),
                definition.name
            )?;
        }
        writeln!(text, "\t\t;;")?;
    }
    Ok(text.trim_end().to_owned())
}
