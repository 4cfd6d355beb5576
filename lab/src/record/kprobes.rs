//! Probes in the kernel's bounce functions, for kernels whose events do not tell slots and ends.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, bail};
use dmakit_trace::sidecar::KprobeProfile;

use super::root::text;

/// The group that the probes are events of.
pub const GROUP: &str = "dmakit";

/// Probes that are set, and removed when this is dropped.
pub struct Kprobes<'a> {
    top: &'a Path,
    names: Vec<&'static str>,
}

/// A probe's definition: name, kind and place, arguments.
pub struct Definition {
    pub name: &'static str,
    /// What stands before and after `GROUP/NAME`.
    kind: char,
    function: &'static str,
    arguments: &'static str,
}

impl Definition {
    /// The line that sets it.
    pub fn line(&self) -> String {
        let Self {
            name,
            kind,
            function,
            arguments,
        } = self;
        format!("{kind}:{GROUP}/{name} {function} {arguments}")
    }
}

/// The probes for a kernel. `release` is `uname -r`: the arguments changed with 6.10, the function
/// that ends a mapping got another name with 6.12.
pub fn definitions(release: &str) -> Vec<Definition> {
    let version = version(release);
    let map = match version >= (6, 10) {
        true => {
            "dev=+0(+0($arg1)):string orig=$arg2:x64 size=$arg3:u64 align=$arg4:x32 \
             dir=$arg5:s32 attrs=$arg6:x64"
        }
        false => {
            "dev=+0(+0($arg1)):string orig=$arg2:x64 size=$arg3:u64 alloc=$arg4:u64 \
             align=$arg5:x32 dir=$arg6:s32"
        }
    };
    let unmap = match version >= (6, 12) {
        true => "__swiotlb_tbl_unmap_single",
        false => "swiotlb_tbl_unmap_single",
    };
    let of = |name, kind, function, arguments| Definition {
        name,
        kind,
        function,
        arguments,
    };
    vec![
        of("sw_map", 'p', "swiotlb_tbl_map_single", map),
        of(
            "sw_map_ret",
            'r',
            "swiotlb_tbl_map_single",
            "tlb=$retval:x64",
        ),
        of(
            "sw_unmap",
            'p',
            unmap,
            "dev=+0(+0($arg1)):string tlb=$arg2:x64 size=$arg3:u64 dir=$arg4:s32",
        ),
    ]
}

/// `6.12.95+deb12-amd64` is (6, 12).
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|digits| digits.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

impl<'a> Kprobes<'a> {
    /// Whether the kernel takes probes.
    pub fn are_possible(top: &Path) -> bool {
        top.join("kprobe_events").exists()
    }

    /// Sets the probes.
    ///
    /// # Errors
    /// A kernel without kprobes, or without such functions.
    pub fn set(top: &'a Path, release: &str) -> anyhow::Result<Self> {
        if !Self::are_possible(top) {
            bail!("--kprobes: this kernel has no kprobe_events");
        }
        let mut probes = Self {
            top,
            names: Vec::new(),
        };
        for definition in definitions(release) {
            append(top, &definition.line()).with_context(|| {
                format!(
                    "--kprobes: the kernel refuses a probe in {}",
                    definition.function
                )
            })?;
            probes.names.push(definition.name);
        }
        Ok(probes)
    }

    /// How often each fired, and how often it was missed.
    pub fn profile(&self) -> Vec<KprobeProfile> {
        let all = text(&self.top.join("kprobe_profile")).unwrap_or_default();
        all.lines()
            .map(|line| KprobeProfile::from(line.trim().to_owned()))
            .filter(|profile| self.names.contains(&profile.name.as_str()))
            .collect()
    }

    /// Removes the probes, which nobody may be recording any more.
    pub fn remove(mut self) -> anyhow::Result<()> {
        self.take_out().context("kprobe_events")
    }

    fn take_out(&mut self) -> io::Result<()> {
        let mut result = Ok(());
        for name in self.names.drain(..) {
            result = result.and(append(self.top, &format!("-:{GROUP}/{name}")));
        }
        result
    }
}

impl Drop for Kprobes<'_> {
    fn drop(&mut self) {
        // An error is on its way already if this is reached.
        let _ = self.take_out();
    }
}

/// Truncating the file would remove every probe of every user.
fn append(top: &Path, line: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .append(true)
        .open(top.join("kprobe_events"))?;
    file.write_all(format!("{line}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probes_fit_the_kernel() {
        let lines = |release: &str| -> String {
            definitions(release)
                .iter()
                .map(|definition| definition.line() + "\n")
                .collect()
        };
        assert!(lines("6.1.0-50-amd64").contains("alloc=$arg4:u64 align=$arg5:x32 dir=$arg6"));
        assert!(lines("6.12.95+deb12-amd64").contains("align=$arg4:x32 dir=$arg5"));
        assert!(lines("6.12.95").contains("p:dmakit/sw_unmap __swiotlb_tbl_unmap_single dev="));
        assert!(lines("6.1.0").contains("p:dmakit/sw_unmap swiotlb_tbl_unmap_single dev="));
    }
}
