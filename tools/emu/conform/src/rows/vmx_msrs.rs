// SPDX-License-Identifier: GPL-2.0-only
//! SDM vol. 3, "VM Entries": "Loading MSRs", "VM Exits": "Saving MSRs", "Loading MSRs",
//! "VMX Non-Root Operation": "Instructions That Cause VM Exits Conditionally".

use super::vmx::{exits, NONE, VMCALL};
use crate::cpu::{rdmsr, wrmsr};
use crate::facts::Facts;
use crate::lbr;
use crate::msr::{self, IA32_DEBUGCTL};
use crate::pmu::{self, Counter};
use crate::report::{row, same, Report};
use crate::vmx::{self, field, guest, AreaEntry, Controls};

// Basic exit reasons.
const RDPMC: u64 = 15;
const RDMSR: u64 = 31;
const WRMSR: u64 = 32;
const MSR_LOADING: u64 = 1 << 31 | 34;

pub fn rows(report: &mut Report, facts: &Facts) {
    areas(report, facts);
    intercepts(report, facts);
    pmu::reset(facts);
    lbr::reset(facts, 0);
}

fn areas(report: &mut Report, facts: &Facts) {
    #[rustfmt::skip]
    let own = if facts.is_architectural() {
        [
            ("IA32_LBR_CTL", msr::IA32_LBR_CTL, 6),
            ("IA32_LBR_31_INFO", msr::IA32_LBR_0_INFO + 31, 5),
            ("IA32_LBR_0_FROM_IP", msr::IA32_LBR_0_FROM_IP, 0x1234),
            ("IA32_LBR_0_TO_IP", msr::IA32_LBR_0_TO_IP, 0x5678),
        ]
    } else {
        [
            ("MSR_LBR_SELECT", msr::MSR_LBR_SELECT, 5),
            ("MSR_LASTBRANCH_TOS", msr::MSR_LASTBRANCH_TOS, 3),
            ("MSR_LASTBRANCH_0_FROM_IP", msr::MSR_LASTBRANCH_0_FROM_IP, 0x1234),
            ("MSR_LASTBRANCH_0_TO_IP", msr::MSR_LASTBRANCH_0_TO_IP, 0x5678),
        ]
    };
    let counters = [
        ("IA32_PERFEVTSEL0", msr::IA32_PERFEVTSEL0, 0x3c),
        ("IA32_FIXED_CTR_CTRL", msr::IA32_FIXED_CTR_CTRL, 3),
    ];
    let clear = || {
        pmu::reset(facts);
        lbr::reset(facts, 0);
    };
    for (name, index, value) in own.into_iter().chain(counters) {
        row!(report, ("VM-entry MSR-load area: {name} is loaded"), || {
            clear();
            let area = [AreaEntry {
                index,
                value,
                ..AreaEntry::default()
            }];
            vmx::prepare(guest::exit, NONE);
            vmx::write(field::ENTRY_LOAD_ADDRESS, area.as_ptr() as u64);
            vmx::write(field::ENTRY_LOAD_COUNT, 1);
            exits(VMCALL)?;
            same(name, rdmsr(index), value)
        });
        row!(
            report,
            ("VM-exit MSR-store and MSR-load areas: {name} is stored, then loaded"),
            || {
                clear();
                wrmsr(index, value);
                let mut store = [AreaEntry {
                    index,
                    ..AreaEntry::default()
                }];
                let load = [AreaEntry {
                    index,
                    value: 1,
                    ..AreaEntry::default()
                }];
                vmx::prepare(guest::exit, NONE);
                vmx::write(field::EXIT_STORE_ADDRESS, store.as_mut_ptr() as u64);
                vmx::write(field::EXIT_STORE_COUNT, 1);
                vmx::write(field::EXIT_LOAD_ADDRESS, load.as_ptr() as u64);
                vmx::write(field::EXIT_LOAD_COUNT, 1);
                exits(VMCALL)?;
                // SAFETY: the area is on the stack; the CPU wrote it.
                let stored = unsafe { (&raw const store[0].value).read_volatile() };
                same("stored", stored, value)?;
                same(name, rdmsr(index), 1)
            }
        );
    }
    let [(_, filters, _), .., (_, to, _)] = own;
    for (name, index, value) in [
        ("a reserved bit of the filters", filters, 1 << 10),
        ("a non-canonical address for TO", to, 1 << 63),
        (
            "a register that is read-only",
            msr::IA32_PERF_CAPABILITIES,
            0,
        ),
    ] {
        row!(
            report,
            ("VM-entry MSR-load area: VM entry fails on {name}, which it names"),
            || {
                clear();
                let good = AreaEntry {
                    index: msr::IA32_PERFEVTSEL0,
                    ..AreaEntry::default()
                };
                let area = [
                    good,
                    AreaEntry {
                        index,
                        value,
                        ..AreaEntry::default()
                    },
                ];
                vmx::prepare(guest::exit, NONE);
                vmx::write(field::ENTRY_LOAD_ADDRESS, area.as_ptr() as u64);
                vmx::write(field::ENTRY_LOAD_COUNT, 2);
                exits(MSR_LOADING)?;
                same(
                    "exit qualification",
                    vmx::read(field::EXIT_QUALIFICATION),
                    2,
                )
            }
        );
    }
    clear();
}

fn intercepts(report: &mut Report, facts: &Facts) {
    for (name, code, index) in [
        (
            "RDMSR",
            guest::rdmsr as unsafe extern "C" fn(),
            IA32_DEBUGCTL,
        ),
        ("WRMSR", guest::wrmsr, msr::IA32_PERFEVTSEL0),
    ] {
        let reads = name == "RDMSR";
        row!(
            report,
            ("MSR bitmap: {name} exits where its bit is set"),
            || {
                vmx::prepare(code, NONE);
                vmx::intercept(index, reads, !reads);
                exits(if reads { RDMSR } else { WRMSR })
            }
        );
        row!(
            report,
            ("MSR bitmap: {name} does not exit where only the other bit is set"),
            || {
                vmx::prepare(code, NONE);
                vmx::intercept(index, !reads, reads);
                exits(VMCALL)
            }
        );
    }
    row!(
        report,
        ("MSR bitmap: a WRMSR that does not exit reaches IA32_PERFEVTSEL0"),
        || {
            pmu::reset(facts);
            vmx::prepare(guest::wrmsr, NONE);
            exits(VMCALL)?;
            same("IA32_PERFEVTSEL0", rdmsr(msr::IA32_PERFEVTSEL0), 4)
        }
    );
    row!(report, ("RDPMC exiting: RDPMC exits"), || {
        let processor = vmx::RDPMC_EXITING;
        vmx::prepare(guest::rdpmc, Controls { processor, ..NONE });
        exits(RDPMC)
    });
    row!(
        report,
        ("without RDPMC exiting a guest reads the counter"),
        || {
            pmu::reset(facts);
            Counter::General(0).write(0x1234);
            vmx::prepare(guest::rdpmc, NONE);
            exits(VMCALL)?;
            same("counter", vmx::answer(), 0x1234)
        }
    );
}
