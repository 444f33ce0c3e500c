// SPDX-License-Identifier: GPL-2.0-only
//! What the machine's description says, from the command line: the expectations
//! come from there, and never from what the machine answers.

/// The description of the machine.
#[derive(Clone, Copy, Default)]
pub struct Facts {
    /// Number of last branch records.
    pub depth: u32,
    /// Numbers of records to choose from, as CPUID.1CH:EAX[7:0]; 0 if there is no
    /// choice.
    pub depths: u32,
    /// IA32_PERF_CAPABILITIES.LBR_FMT.
    pub format: u32,
    /// Version of architectural performance monitoring.
    pub version: u32,
    /// General counters.
    pub general: u32,
    /// Fixed counters.
    pub fixed: u32,
    /// Slots of the pipeline in a cycle; 0 if nothing counts them.
    pub slots: u32,
    /// Width of a counter.
    pub bits: u32,
    /// Frequency in MHz.
    pub mhz: u32,
    /// Bits of a linear address.
    pub linear: u32,
    /// Microcode revision.
    pub microcode: u32,
}

impl Facts {
    /// Reads `KEY=NUMBER` words; other words are of no interest.
    pub fn parse(line: &str) -> Self {
        let mut facts = Self::default();
        for word in line.split_ascii_whitespace() {
            let Some((key, value)) = word.split_once('=') else {
                continue;
            };
            let slot = match key {
                "depth" => &mut facts.depth,
                "depths" => &mut facts.depths,
                "format" => &mut facts.format,
                "version" => &mut facts.version,
                "general" => &mut facts.general,
                "fixed" => &mut facts.fixed,
                "slots" => &mut facts.slots,
                "bits" => &mut facts.bits,
                "mhz" => &mut facts.mhz,
                "linear" => &mut facts.linear,
                "microcode" => &mut facts.microcode,
                _ => continue,
            };
            *slot = value
                .parse()
                .unwrap_or_else(|_| panic!("{key}={value} is no number"));
        }
        facts
    }

    /// Whether the records have an INFO register.
    pub fn has_info(&self) -> bool {
        self.format == 5 || self.is_architectural()
    }

    /// Whether the records are architectural.
    pub fn is_architectural(&self) -> bool {
        self.format == 0x3f
    }

    /// The counters' bits in the global registers.
    pub fn global(&self) -> u64 {
        ((1 << self.general) - 1) | ((1 << self.fixed) - 1) << 32
    }

    /// Linear addresses with these names, all of which are canonical.
    pub fn canonical(&self) -> [(u64, &'static str); 3] {
        let half = 1 << (self.linear - 1);
        [
            (half - 1, "highest canonical user address"),
            (0_u64.wrapping_sub(half), "lowest canonical kernel address"),
            (u64::MAX, "highest address"),
        ]
    }

    /// Addresses beside these, none of which is canonical.
    pub fn not_canonical(&self) -> [u64; 4] {
        let half = 1_u64 << (self.linear - 1);
        [half, !half, half << 1, 1 << 60]
    }

    /// Largest value of a counter.
    pub fn counter_mask(&self) -> u64 {
        (1 << self.bits) - 1
    }
}
