// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Depths of its own for everybody who shares a CPU's LBR.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use kvm_selftests::guest::{Symbol, GP};
use kvm_selftests::hardware::HostMsrs;
use kvm_selftests::host::{pin_to, Host};
use kvm_selftests::ktap::{Verdict, PASS};
use kvm_selftests::msr::{self, Geometry, Snapshot};
use kvm_selftests::perf::{HostLbr, Samples, PERIOD};
use kvm_selftests::vm::Vm;

use super::enumeration::depths;
use super::{Case, Owner, Setup};

/// Where a second VM is.
const OTHER_BASE: u64 = 0x2000_0000_0000;

/// By name.
pub(super) const CASES: &[Case] = &[
    (
        "host_depth",
        "The host's events have the greatest depth, whatever the guest's is, and the guest gets \
         its own back.",
        host_depth,
    ),
    (
        "depths_of_two_vms",
        "Two guests that take turns each have their own depth, filter and records.",
        depths_of_two_vms,
    ),
    (
        "depths_move_to_new_vms",
        "A guest's depth, control and records move to a new VM by its MSRs, in any order.",
        depths_move_to_new_vms,
    ),
];

/// A guest with a lesser depth leaves the host its own, and gets back what it had.
fn host_depth(host: &Host, lbr: Geometry) -> Result<Verdict> {
    let mut setup = Setup::new(host, Owner::Guest)?;
    let hardware = HostMsrs::of(setup.cpu)?;
    let mut event = HostLbr::flexible(setup.cpu, PERIOD)?;
    for depth in depths(host)? {
        event.stop()?;
        event.drain()?;
        let vcpu = &mut setup.vcpu;
        let lesser = Geometry { depth, ..lbr };
        vcpu.wrmsr(msr::LBR_DEPTH, depth.into())??;
        vcpu.call(Symbol::Jumps, 0)?;
        let before = vcpu.guest_snapshot(lesser)?;
        ensure!(
            before.branches(lesser) == vcpu.expected_jumps(Symbol::JumpsFirst, lesser),
            "the guest records something else with a depth of {depth}"
        );
        event.go_on()?;
        let hosts = hardware.read(msr::LBR_DEPTH)?;
        let end = Instant::now() + Duration::from_millis(20);
        let mut samples = Samples::default();
        while Instant::now() < end {
            samples.extend(event.drain()?);
        }
        ensure!(
            hosts == u64::from(lbr.depth),
            "the host's depth is {hosts} when the guest's is {depth}"
        );
        ensure!(samples.count > 0, "the host got no samples");
        ensure!(
            samples.branches.len() > samples.count * 8,
            "the host got {} samples with {} records",
            samples.count,
            samples.branches.len()
        );
        samples.expect_none_of(vcpu)?;
        before.expect_same(&vcpu.host_snapshot(lesser)?, lesser)?;
        before.expect_same(&vcpu.guest_snapshot(lesser)?, lesser)?;
        event.stop()?;
        before.expect_same(&vcpu.guest_snapshot(lesser)?, lesser)?;
        vcpu.expect_passthrough(lesser)?;
        before.expect_same(&vcpu.guest_snapshot(lesser)?, lesser)?;
    }
    PASS
}

/// Two guests with depths and filters of their own take turns.
fn depths_of_two_vms(host: &Host, lbr: Geometry) -> Result<Verdict> {
    pin_to(host.cpu()?)?;
    let all = depths(host)?;
    let vms = [Vm::new(host)?, Vm::at(host, OTHER_BASE)?];
    let mut vcpus = [vms[0].vcpu(0)?, vms[1].vcpu(0)?];
    let own = |round: usize, index: usize| Geometry {
        depth: all[(round + index) % all.len()],
        ..lbr
    };
    for round in 0..6 {
        let mut before = vec![];
        for (index, vcpu) in vcpus.iter_mut().enumerate() {
            let own = own(round, index);
            vcpu.wrmsr(msr::LBR_DEPTH, own.depth.into())??;
            // The two suppress different branches, of which the jumps are none.
            vcpu.suppress(lbr, 1 << (3 + index))?;
            vcpu.call(Symbol::Jumps, 0)?;
            let seen = vcpu.guest_snapshot(own)?;
            let expected = vcpu.expected_jumps(Symbol::JumpsFirst, own);
            ensure!(
                seen.branches(own) == expected,
                "round {round}: the newest record is {}",
                seen.branches(own)[0]
            );
            if round % 2 != 0 {
                vcpu.write_snapshot(own, &Snapshot::pattern(own, (round + index) as u64))?;
            }
            let stopped = vcpu.control().stopped();
            vcpu.wrmsr(msr::LBR_CTL, stopped)??;
            vcpu.expect_passthrough(own)?;
            before.push(vcpu.guest_snapshot(own)?);
        }
        for (index, (vcpu, before)) in vcpus.iter_mut().zip(before).enumerate() {
            let own = own(round, index);
            before.expect_same(&vcpu.host_snapshot(own)?, own)?;
            before.expect_same(&vcpu.guest_snapshot(own)?, own)?;
            let (ctl, stopped) = (vcpu.rdmsr(msr::LBR_CTL)?, vcpu.control().stopped());
            ensure!(ctl == Ok(stopped), "IA32_LBR_CTL is {ctl:x?}");
        }
    }
    PASS
}

/// A guest with a depth of its own is moved by all its MSRs, in whatever order.
fn depths_move_to_new_vms(host: &Host, lbr: Geometry) -> Result<Verdict> {
    let mut setup = Setup::new(host, Owner::Guest)?;
    for depth in depths(host)? {
        let own = Geometry { depth, ..lbr };
        setup.vcpu.wrmsr(msr::LBR_DEPTH, depth.into())??;
        setup.vcpu.call(Symbol::Jumps, 0)?;
        let stopped = setup.vcpu.control().stopped();
        setup.vcpu.wrmsr(msr::LBR_CTL, stopped)??;
        let before = setup.vcpu.guest_snapshot(own)?;
        let mut saved = vec![];
        for register in lbr.passed_through() {
            let value = setup.vcpu.get_msr(register)?;
            saved.push((register, value.context("not to be saved")?));
        }
        let listed = saved.clone();
        saved.sort_unstable();
        let sorted = saved.clone();
        saved.reverse();
        for order in [listed, sorted, saved] {
            let vm = Vm::new(host)?;
            let mut vcpu = vm.vcpu(0)?;
            for (register, value) in order {
                vcpu.must_set_msr(register, value)?;
            }
            before.expect_same(&vcpu.host_snapshot(own)?, own)?;
            before.expect_same(&vcpu.guest_snapshot(own)?, own)?;
            let ctl = vcpu.rdmsr(msr::LBR_CTL)?;
            ensure!(ctl == Ok(stopped), "IA32_LBR_CTL is {ctl:x?}");
            for base in [lbr.from(), lbr.to(), lbr.info()] {
                ensure!(
                    depth == lbr.depth || vcpu.rdmsr(base + depth)? == Err(GP),
                    "the guest has MSR {:#x} with a depth of {depth}",
                    base + depth
                );
            }
        }
    }
    PASS
}
