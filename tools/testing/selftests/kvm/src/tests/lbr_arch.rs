// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What is the architectural LBR's alone: its leaf of CPUID, its registers' rules, and what
//! events do to it, while the guest has the LBR and while the host has it.

use anyhow::{ensure, Result};
use kvm_selftests::guest::Command;
use kvm_selftests::host::{pin_to, Host};
use kvm_selftests::ktap::{Suite, Verdict};
use kvm_selftests::msr::{self, Geometry};
use kvm_selftests::perf::HostLbr;
use kvm_selftests::rules::{ARCH_LBR, OWNERSHIP};
use kvm_selftests::vcpu::{Vcpu, EXIT_NOISE};
use kvm_selftests::vm::Vm;

mod enumeration;
mod events;
mod registers;
mod sharing;

/// Who has the CPU's LBR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// The guest: its accesses go to the hardware.
    Guest,
    /// An event of the host's.
    Host,
}

/// A vCPU on a CPU whose LBR has a known owner.
struct Setup {
    vm: Vm,
    vcpu: Vcpu,
    lbr: Geometry,
    cpu: usize,
    event: Option<HostLbr>,
}

impl Setup {
    fn new(host: &Host, owner: Owner) -> Result<Self> {
        let vm = Vm::new(host)?;
        let vcpu = vm.vcpu(0)?;
        Self::of(host, vm, vcpu, owner)
    }

    fn of(host: &Host, vm: Vm, vcpu: Vcpu, owner: Owner) -> Result<Self> {
        let cpu = host.cpu()?;
        pin_to(cpu)?;
        let mut setup = Self {
            vm,
            vcpu,
            lbr: host.lbr()?,
            cpu,
            event: None,
        };
        if owner == Owner::Host {
            setup.event = Some(HostLbr::pinned(cpu)?);
        }
        // The first access has the guest ask for the LBR.
        setup.vcpu.rdmsr(msr::LER_INFO)??;
        let exits = setup.vcpu.exits_of(&[Command::Rdmsr(msr::LER_INFO); 200])?;
        ensure!(
            (exits < EXIT_NOISE) == (owner == Owner::Guest),
            "{exits} exits by 200 reads of IA32_LER_INFO"
        );
        Ok(setup)
    }
}

/// Name, rule and function of a case that needs no owner.
type Case = (
    &'static str,
    &'static str,
    fn(&Host, Geometry) -> Result<Verdict>,
);
/// The same of a case that holds whoever has the LBR.
type OwnedCase = (
    &'static str,
    &'static str,
    fn(&Host, Owner) -> Result<Verdict>,
);

fn add(
    suite: &mut Suite,
    name: impl Into<String>,
    rule: &str,
    run: impl Fn(&Host) -> Result<Verdict> + 'static,
) {
    suite.case(name, rule, run).only(Geometry::is_architectural);
}

fn add_owned(
    suite: &mut Suite,
    name: &str,
    rule: &str,
    run: impl Fn(&Host, Owner) -> Result<Verdict> + Copy + 'static,
) {
    for (owner, suffix) in [(Owner::Guest, "granted"), (Owner::Host, "taken")] {
        add(suite, format!("{name}_{suffix}"), rule, move |host| {
            run(host, owner)
        });
    }
}

/// Returns the cases.
pub(crate) fn suite() -> Suite {
    let mut suite = Suite::new(ARCH_LBR);
    for (name, rule, run) in enumeration::CASES {
        add(&mut suite, *name, rule, |host| run(host, host.lbr()?));
    }
    enumeration::add_tables(&mut suite);
    for (name, rule, run) in registers::CASES.iter().chain(events::CASES) {
        add_owned(&mut suite, name, rule, run);
    }
    for (name, rule, run) in events::GRANTED {
        add(&mut suite, *name, rule, |host| run(host, Owner::Guest));
    }
    suite.by(OWNERSHIP);
    for (name, rule, run) in sharing::CASES {
        add(&mut suite, *name, rule, |host| run(host, host.lbr()?));
    }
    suite
}
