// SPDX-License-Identifier: GPL-2.0-only
//! IA32_DEBUGCTL (SDM, "Debug, Branch Profile, TSC, and Intel Resource Director
//! Technology Features": "IA32_DEBUGCTL MSR").

/// LBR: record branches.
pub const LBR: u64 = 1;
/// BTF: single-step on branches.
pub const BTF: u64 = 1 << 1;
/// FREEZE_LBRS_ON_PMI.
pub const FREEZE_LBRS_ON_PMI: u64 = 1 << 11;
/// FREEZE_PERFMON_ON_PMI.
pub const FREEZE_PERFMON_ON_PMI: u64 = 1 << 12;
/// FREEZE_WHILE_SMM.
pub const FREEZE_WHILE_SMM: u64 = 1 << 14;

/// The bits that exist.  Branch trace messages and stores (TR, BTS, BTINT,
/// BTS_OFF_OS, BTS_OFF_USR) need the debug store, which no machine has; RTM
/// (RTM_DEBUG) needs TSX, which none has either.
pub const VALID: u64 = LBR | BTF | FREEZE_LBRS_ON_PMI | FREEZE_PERFMON_ON_PMI | FREEZE_WHILE_SMM;
