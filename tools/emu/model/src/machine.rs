// SPDX-License-Identifier: GPL-2.0-only
//! The description of an emulated machine: a TOML file, see `machines/`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The environment variable that tells the emulator the path of the machine
/// file.
pub const MACHINE_VARIABLE: &str = "EMU_MACHINE";
/// The environment variable that tells the emulator the path of the file where it
/// writes its counters in the end.
pub const COUNTERS_VARIABLE: &str = "EMU_COUNTERS";

/// One emulated machine.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// One line for people.
    pub description: String,
    /// Start value of the machine's random sources (RDRAND, RDSEED).
    pub seed: u64,
    /// The processors.
    pub cpu: Cpu,
    /// The memory.
    pub memory: Memory,
    /// Architectural performance monitoring.
    pub pmu: Pmu,
    /// Last branch records.
    pub lbr: Lbr,
}

/// The processors of a machine.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Cpu {
    /// Name of a Bochs CPU model: CPUID and instruction set.
    pub model: String,
    /// Logical CPUs, 1 to 4.
    pub count: u8,
    /// Instructions per emulated second, a multiple of 1 MHz from 1 MHz to
    /// 4 GHz; also the frequency of the TSC and of the core.
    pub ips: u32,
    /// Bits of a linear address, as the CPU model's CPUID leaf 80000008H reports them: 48,
    /// or 57 with 5-level paging.
    pub linear_address_bits: u8,
    /// Microcode revision, as IA32_BIOS_SIGN_ID reports it.
    pub microcode: u32,
}

/// The memory of a machine.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Size in MiB, 64 to 16384.
    pub mib: u32,
}

/// Architectural performance monitoring, as CPUID leaf 0AH reports it.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Pmu {
    /// Version: 3 (Haswell), 4 (Skylake) or 5 (Ice Lake on).
    pub version: u8,
    /// General-purpose counters, 1 to 8.
    pub general_counters: u8,
    /// Fixed-function counters, 1 to 4; the fourth counts slots.
    pub fixed_counters: u8,
    /// Width of every counter in bits, 33 to 48.
    pub counter_bits: u8,
    /// Slots of the pipeline per cycle, 1 to 8; 0 if no counter counts them.
    #[serde(default)]
    pub slots_per_cycle: u8,
}

/// The kind of last branch records.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Lbr {
    /// Model-specific records (LBR_SELECT, LBR_TOS).
    Legacy {
        /// Number of records: 8, 16 or 32.
        depth: u8,
        /// Their format.
        format: LbrFormat,
    },
    /// Architectural records (IA32_LBR_CTL, IA32_LBR_DEPTH).
    Architectural {
        /// The numbers of records that software can choose from, ascending: 8, 16
        /// and 32 or some of them.
        depths: Vec<u8>,
    },
}

impl Lbr {
    /// The value of IA32_PERF_CAPABILITIES.LBR_FMT.
    pub fn format_encoding(&self) -> u8 {
        match self {
            Self::Legacy { format, .. } => format.encoding(),
            Self::Architectural { .. } => 0x3f,
        }
    }

    /// The largest number of records.
    pub fn depth(&self) -> u8 {
        match self {
            Self::Legacy { depth, .. } => *depth,
            Self::Architectural { depths } => depths.last().copied().unwrap_or(0),
        }
    }

    /// Whether the records are architectural.
    pub fn is_architectural(&self) -> bool {
        matches!(self, Self::Architectural { .. })
    }
}

/// The format of model-specific records.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum LbrFormat {
    /// FROM has a flag for a misprediction in bit 63.
    EipFlags2,
    /// FROM and TO have no flags, INFO has them and cycles.
    Info,
}

impl LbrFormat {
    /// The value of IA32_PERF_CAPABILITIES.LBR_FMT.
    pub fn encoding(self) -> u8 {
        match self {
            Self::EipFlags2 => 4,
            Self::Info => 5,
        }
    }
}

/// Why a machine file is of no use.
#[derive(Debug, Error)]
pub enum MachineError {
    /// The file cannot be read.
    #[error("machine {}: {source}; name one of the files in tools/emu/machines", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No TOML, an unknown key, a missing key or a value of a wrong type.
    #[error("machine {}: line {line}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line of the file, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// A value that this emulator cannot have.
    #[error("machine {}: {key} is {value}, must be {allowed}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key, with its section.
        key: &'static str,
        /// Its value in the file.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
}

impl Machine {
    /// Reads and checks the machine file `path`.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is no valid TOML, has a key too many or too
    /// few, or a value out of range.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, MachineError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|source| MachineError::Read {
            path: path.into(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// As [`Machine::load`], from `text`; `path` is only for messages.
    ///
    /// # Errors
    ///
    /// As [`Machine::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, MachineError> {
        let machine: Self = toml::from_str(text).map_err(|error| MachineError::Parse {
            path: path.into(),
            line: line_of(text, error.span().map_or(0, |span| span.start)),
            message: error.message().into(),
        })?;
        machine.check(path)?;
        Ok(machine)
    }

    fn check(&self, path: &Path) -> Result<(), MachineError> {
        let depth_ok = |depth: &u8| matches!(depth, 8 | 16 | 32);
        let (lbr_key, lbr_value, lbr_ok, lbr_allowed) = match &self.lbr {
            Lbr::Legacy { depth, .. } => (
                "lbr.depth",
                depth.to_string(),
                depth_ok(depth),
                "8, 16 or 32",
            ),
            Lbr::Architectural { depths } => (
                "lbr.depths",
                format!("{depths:?}"),
                !depths.is_empty()
                    && depths.is_sorted_by(|a, b| a < b)
                    && depths.iter().all(depth_ok),
                "8, 16 and 32 or some of them, ascending",
            ),
        };
        let (versions, version_allowed) = if self.lbr.is_architectural() {
            (4..=5, "4 or 5 with the architectural LBR")
        } else {
            (3..=5, "3 to 5")
        };
        let slots = self.pmu.slots_per_cycle;
        let slots_ok = (self.pmu.fixed_counters > 3) == (slots > 0) && slots <= 8;
        let ips_ok = (1_000_000..=4_000_000_000).contains(&self.cpu.ips)
            && self.cpu.ips.is_multiple_of(1_000_000);
        let model_ok = !self.cpu.model.is_empty()
            && self
                .cpu
                .model
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_');
        #[rustfmt::skip]
        let rules: [(bool, &str, &dyn std::fmt::Display, &str); 11] = [
            (model_ok, "cpu.model", &self.cpu.model, "a name of letters, digits and _"),
            ((1..=4).contains(&self.cpu.count), "cpu.count", &self.cpu.count, "1 to 4"),
            (matches!(self.cpu.linear_address_bits, 48 | 57), "cpu.linear_address_bits", &self.cpu.linear_address_bits, "48 or 57"),
            (ips_ok, "cpu.ips", &self.cpu.ips, "a multiple of 1000000, at most 4000000000"),
            ((64..=16384).contains(&self.memory.mib), "memory.mib", &self.memory.mib, "64 to 16384"),
            (versions.contains(&self.pmu.version), "pmu.version", &self.pmu.version, version_allowed),
            ((1..=8).contains(&self.pmu.general_counters), "pmu.general_counters", &self.pmu.general_counters, "1 to 8"),
            ((1..=4).contains(&self.pmu.fixed_counters), "pmu.fixed_counters", &self.pmu.fixed_counters, "1 to 4"),
            ((33..=48).contains(&self.pmu.counter_bits), "pmu.counter_bits", &self.pmu.counter_bits, "33 to 48"),
            (slots_ok, "pmu.slots_per_cycle", &slots, "1 to 8 with a fourth fixed counter, else 0"),
            (lbr_ok, lbr_key, &lbr_value, lbr_allowed),
        ];
        let broken = rules.into_iter().find(|(ok, ..)| !ok);
        match broken {
            None => Ok(()),
            Some((_, key, value, allowed)) => Err(MachineError::Value {
                path: path.into(),
                key,
                value: value.to_string(),
                allowed,
            }),
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.get(..offset).unwrap_or(text);
    before.bytes().filter(|&byte| byte == b'\n').count() + 1
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const SKYLAKE: &str = include_str!("../../machines/skylake.toml");

    const SAPPHIRE_RAPIDS: &str = include_str!("../../machines/sapphire-rapids.toml");

    pub(crate) fn haswell() -> Machine {
        parse(include_str!("../../machines/haswell.toml")).unwrap()
    }

    pub(crate) fn skylake() -> Machine {
        parse(SKYLAKE).unwrap()
    }

    pub(crate) fn icelake() -> Machine {
        parse(include_str!("../../machines/icelake.toml")).unwrap()
    }

    pub(crate) fn sapphire_rapids() -> Machine {
        parse(SAPPHIRE_RAPIDS).unwrap()
    }

    fn parse(text: &str) -> Result<Machine, String> {
        Machine::parse(text, Path::new("m.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn skylake_is_what_its_file_says() {
        let machine = parse(SKYLAKE).unwrap();
        assert_eq!(machine.cpu.model, "corei7_skylake_x");
        assert_eq!(machine.pmu.version, 4);
        assert_eq!(
            machine.lbr,
            Lbr::Legacy {
                depth: 32,
                format: LbrFormat::Info
            }
        );
    }

    fn refuses(text: &str, good: &str, bad: &str, message: &str) {
        assert!(text.contains(good), "{good}");
        let error = parse(&text.replace(good, bad)).unwrap_err();
        assert!(error.contains(message), "{bad}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }

    #[test]
    fn every_wrong_value_is_named() {
        for (good, bad, message) in [
            ("count = 1", "count = 5", "cpu.count is 5, must be 1 to 4"),
            ("count = 1", "count = 0", "cpu.count is 0, must be 1 to 4"),
            ("corei7_skylake_x", "a b", "cpu.model is a b"),
            ("100_000_000", "1_500_000", "cpu.ips is 1500000"),
            (
                "bits = 48\nmicro",
                "bits = 52\nmicro",
                "cpu.linear_address_bits is 52, must be 48 or 57",
            ),
            ("100_000_000", "0", "cpu.ips is 0"),
            ("mib = 2048", "mib = 1", "memory.mib is 1"),
            (
                "version = 4",
                "version = 2",
                "pmu.version is 2, must be 3 to 5",
            ),
            (
                "general_counters = 4",
                "general_counters = 9",
                "general_counters is 9",
            ),
            (
                "fixed_counters = 3",
                "fixed_counters = 0",
                "fixed_counters is 0",
            ),
            (
                "counter_bits = 48",
                "counter_bits = 49",
                "counter_bits is 49",
            ),
            (
                "fixed_counters = 3",
                "fixed_counters = 4",
                "pmu.slots_per_cycle is 0, must be 1 to 8 with a fourth",
            ),
            ("depth = 32", "depth = 12", "lbr.depth is 12"),
        ] {
            refuses(SKYLAKE, good, bad, message);
        }
        for (good, bad, message) in [
            ("[8, 16, 32]", "[]", "lbr.depths is [], must be"),
            ("[8, 16, 32]", "[8, 24]", "lbr.depths is [8, 24], must be"),
            ("[8, 16, 32]", "[16, 8]", "lbr.depths is [16, 8], must be"),
            ("[8, 16, 32]", "[8, 8]", "lbr.depths is [8, 8], must be"),
            (
                "slots_per_cycle = 6",
                "slots_per_cycle = 9",
                "pmu.slots_per_cycle is 9",
            ),
            (
                "version = 5",
                "version = 3",
                "pmu.version is 3, must be 4 or 5 with the architectural LBR",
            ),
        ] {
            refuses(SAPPHIRE_RAPIDS, good, bad, message);
        }
    }

    #[test]
    fn the_depth_is_the_largest() {
        assert_eq!(haswell().lbr.depth(), 16);
        assert_eq!(sapphire_rapids().lbr.depth(), 32);
    }

    #[test]
    fn unknown_and_missing_keys_are_errors_with_a_line() {
        let error = parse(&SKYLAKE.replace("count", "cuont")).unwrap_err();
        assert!(
            error.contains("m.toml: line 7: unknown field `cuont`"),
            "{error}"
        );
        let error = parse(&SKYLAKE.replace("depth = 32", "")).unwrap_err();
        assert!(error.contains("missing field `depth`"), "{error}");
        let error = parse(&SKYLAKE.replace("depth = 32", "depth = 32\nsize = 1")).unwrap_err();
        assert!(error.contains("unknown field `size`"), "{error}");
        let error = parse(&SKYLAKE.replace("\"info\"", "\"lip\"")).unwrap_err();
        assert!(error.contains("unknown variant `lip`"), "{error}");
        assert!(parse("[cpu").unwrap_err().contains("line 1"));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Machine::load("/nonexistent/x.toml")
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("machine /nonexistent/x.toml: No such file"),
            "{error}"
        );
    }
}
