// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! #DB stops recording before the guest's handler runs, so that a debugger finds
//! the branches before it. Other exceptions are recorded, and recording goes on.

use anyhow::{ensure, Result};
use kvm_bindings::{KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_INJECT_DB, KVM_GUESTDBG_SINGLESTEP};
use kvm_selftests::guest::{Command, Symbol, JUMP_STRIDE};
use kvm_selftests::host::Host;
use kvm_selftests::ktap::{Suite, Verdict, PASS};
use kvm_selftests::msr::{Branch, Geometry};
use kvm_selftests::rules::{DEBUG, KVM};
use kvm_selftests::vcpu::{Note, Stop, Vcpu};
use kvm_selftests::vm::Vm;

/// How often each exception is raised.
const ROUNDS: u64 = 100;
/// The vectors.
const DB: u64 = 1;
const BP: u64 = 3;
const PF: u64 = 14;

fn start(host: &Host) -> Result<(Vm, Vcpu, Geometry)> {
    let vm = Vm::new(host)?;
    vm.note_exceptions()?;
    let vcpu = vm.vcpu(0)?;
    Ok((vm, vcpu, host.lbr()?))
}

/// What the handlers found, and what was recorded.
#[derive(Default)]
struct Found {
    /// How often the control was not what it should be.
    control: usize,
    /// How often the newest record was not the one that it should be.
    newest: usize,
    /// One that it was instead.
    instead: Option<Branch>,
}

impl Found {
    /// Looks at the last exception.
    fn add(
        &mut self,
        vcpu: &mut Vcpu,
        lbr: Geometry,
        expected: Note,
        newest: Branch,
    ) -> Result<()> {
        let note = vcpu.note()?;
        ensure!(
            note.vector == expected.vector && note.count == expected.count,
            "the guest noted {note:x?} and not {expected:x?}"
        );
        self.control += usize::from(note.control != expected.control);
        let branches = vcpu.guest_snapshot(lbr)?.branches(lbr);
        if branches[0] != newest {
            self.newest += 1;
            self.instead = Some(branches[0]);
        }
        Ok(())
    }

    fn verdict(&self, control: u64, newest: Branch) -> Result<Verdict> {
        let Self { instead, .. } = self;
        ensure!(
            self.control == 0 && self.newest == 0,
            "in {} of {ROUNDS} rounds the handler found another control than {control:#x}, in {} \
             another newest record than {newest}{}",
            self.control,
            self.newest,
            instead.map_or(String::new(), |branch| format!(", {branch}"))
        );
        PASS
    }
}

/// A #DB that the guest raises itself, after a jump.
fn stops(host: &Host, routine: Symbol, jump: Symbol) -> Result<Verdict> {
    let (_vm, mut vcpu, lbr) = start(host)?;
    let from = vcpu.address(jump);
    let jump = Branch {
        from,
        to: from + JUMP_STRIDE,
    };
    let stopped = vcpu.control().stopped();
    raised(&mut vcpu, lbr, routine, DB, stopped, jump)
}

/// Another exception than #DB.
fn goes_on(
    host: &Host,
    routine: Symbol,
    at: Symbol,
    vector: u64,
    handler: Symbol,
) -> Result<Verdict> {
    let (_vm, mut vcpu, lbr) = start(host)?;
    let delivery = Branch {
        from: vcpu.address(at),
        to: vcpu.address(handler),
    };
    let on = vcpu.control().on;
    raised(&mut vcpu, lbr, routine, vector, on, delivery)
}

fn raised(
    vcpu: &mut Vcpu,
    lbr: Geometry,
    routine: Symbol,
    vector: u64,
    control: u64,
    newest: Branch,
) -> Result<Verdict> {
    let mut found = Found::default();
    for count in 1..=ROUNDS {
        vcpu.call(routine, 0)?;
        let expected = Note {
            vector,
            control,
            count,
        };
        found.add(vcpu, lbr, expected, newest)?;
    }
    found.verdict(control, newest)
}

/// A #DB that userspace injects, while the guest records.
fn injected(host: &Host, inject: fn(&Vcpu) -> Result<()>) -> Result<Verdict> {
    let (_vm, mut vcpu, lbr) = start(host)?;
    let newest = vcpu.expected_jumps(Symbol::JumpsOnFirst, lbr)[0];
    let mut found = Found::default();
    for count in 1..=ROUNDS {
        let stop = vcpu.start(&[Command::Call(Symbol::JumpsOn, 0)])?;
        ensure!(stop == Stop::Yield, "the guest did not yield");
        inject(&vcpu)?;
        ensure!(vcpu.resume()? == Stop::Done, "the guest did not stop");
        let expected = Note {
            vector: DB,
            control: vcpu.control().stopped(),
            count,
        };
        found.add(&mut vcpu, lbr, expected, newest)?;
        vcpu.debug(0)?;
    }
    found.verdict(vcpu.control().stopped(), newest)
}

/// A debugger of the host's that steps through the guest: the guest records on.
fn host_steps(host: &Host) -> Result<Verdict> {
    let (_vm, mut vcpu, lbr) = start(host)?;
    let stop = vcpu.start(&[Command::Call(Symbol::JumpsOn, 0)])?;
    ensure!(stop == Stop::Yield, "the guest did not yield");
    let jumps = vcpu.expected_jumps(Symbol::JumpsOnFirst, lbr);
    vcpu.debug(KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP)?;
    let mut last = 0;
    for _ in 0..3 {
        // The exit's OUT, RET, and what is behind the call.
        last = vcpu.run_to_debug_exit()?;
    }
    vcpu.debug(0)?;
    ensure!(
        vcpu.get_msr(vcpu.control().msr)? == Some(vcpu.control().on),
        "the guest's recording got lost by the host's steps"
    );
    let branches = vcpu.host_snapshot(lbr)?.branches(lbr);
    ensure!(
        branches[0] != jumps[0] && branches[1] == jumps[0],
        "stepped to {last:#x}; the newest records are {} and {}",
        branches[0],
        branches[1]
    );
    ensure!(vcpu.resume()? == Stop::Done, "the guest did not stop");
    let note = vcpu.note()?;
    ensure!(note.count == 0, "the guest saw the host's steps, {note:x?}");
    PASS
}

/// Returns the cases.
pub(crate) fn suite() -> Suite {
    const LOSES: &str = "a record is lost whenever the vCPU is scheduled out";
    const STAYS: &str = "upstream leaves DEBUGCTL.LBR set, and records the delivery";
    const STOPS: &str = "#DB clears what switches recording before the handler runs: the newest \
                         record is the branch before it.";
    const GOES_ON: &str = "An exception other than #DB leaves recording on, and its delivery is \
                           the newest record.";
    let mut suite = Suite::new(DEBUG);
    for (name, routine, jump) in [
        ("icebp", Symbol::Icebp, Symbol::IcebpMark),
        ("single_step", Symbol::SingleStep, Symbol::SingleStepMark),
        (
            "data_breakpoint",
            Symbol::DataBreakpoint,
            Symbol::DataBreakpointMark,
        ),
        (
            "code_breakpoint",
            Symbol::CodeBreakpoint,
            Symbol::CodeBreakpointMark,
        ),
    ] {
        suite
            .case(format!("{name}_stops"), STOPS, move |host| {
                stops(host, routine, jump)
            })
            .builtin_fails(STAYS)
            .builtin_may_fail(LOSES);
    }
    suite
        .case("int3_goes_on", GOES_ON, |host| {
            goes_on(host, Symbol::Int3, Symbol::Int3At, BP, Symbol::NoteBp)
        })
        .builtin_may_fail(LOSES)
        .case("page_fault_goes_on", GOES_ON, |host| {
            let (at, handler) = (Symbol::PageFaultAt, Symbol::NotePf);
            goes_on(host, Symbol::PageFault, at, PF, handler)
        })
        .builtin_may_fail(LOSES)
        .case(
            "restored_db_stops",
            "A #DB that KVM_SET_VCPU_EVENTS makes pending stops recording as the CPU's own does.",
            |host| injected(host, Vcpu::restore_db),
        )
        .builtin_fails(STAYS)
        .builtin_may_fail(LOSES)
        .case(
            "debugger_injects_db",
            "A #DB that KVM_SET_GUEST_DEBUG injects stops recording as the CPU's own does.",
            |host| {
                injected(host, |vcpu| {
                    vcpu.debug(KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_INJECT_DB)
                })
            },
        )
        .builtin_fails(STAYS)
        .builtin_may_fail(LOSES)
        .by(KVM)
        .case(
            "host_steps_unseen",
            "KVM_GUESTDBG_SINGLESTEP traps to userspace: the guest gets no #DB and records on.",
            host_steps,
        );
    suite
}
