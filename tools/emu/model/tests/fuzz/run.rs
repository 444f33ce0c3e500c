// SPDX-License-Identifier: GPL-2.0-only
//! Runs steps on the model and on the reference, and compares.

use crate::cpuid;
use crate::generate::Step;
use crate::machine::{Cpu, Loaded, NotMine};
use crate::reference::{Answer, Branch, Facts, Reference};

/// Where the two differ first.
pub(crate) struct Divergence {
    pub(crate) step: usize,
    pub(crate) what: String,
}

type Verdict = Result<(), String>;

fn same<T: PartialEq + std::fmt::Debug>(what: &str, model: T, reference: T) -> Verdict {
    if model == reference {
        return Ok(());
    }
    Err(format!(
        "{what}: the model has {model:x?}, the reference {reference:x?}"
    ))
}

struct Both<'a> {
    machine: &'a Loaded,
    facts: &'a Facts,
    model: Cpu,
    reference: Reference,
}

/// Registers that both the emulator and the model keep, and whose values are the
/// emulator's matter: IA32_BIOS_SIGN_ID, IA32_MISC_ENABLE.
fn is_shared(index: u32) -> bool {
    matches!(index, 0x8b | 0x1a0)
}

impl Both<'_> {
    fn end(&mut self, retires: bool) -> Verdict {
        self.model.end(retires);
        self.interrupts()
    }

    fn interrupts(&mut self) -> Verdict {
        let (model, reference) = (self.model.take_interrupt(), self.reference.take_interrupt());
        same("interrupt", model, reference)?;
        let (model, reference) = (self.model.steps_branches(), self.reference.steps_branches());
        same("BTF", model, reference)
    }

    fn set_user(&mut self, user: bool) {
        self.model.set_user(user);
        self.reference.set_user(user);
    }

    /// A branch that is an instruction.
    fn taken(&mut self, branch: &Branch) -> Verdict {
        let watched = self.model.wants_branches();
        self.model.branch(branch);
        self.reference.taken(branch, watched, Some(true));
        self.end(true)
    }

    fn event(&mut self, branch: &Branch) -> Verdict {
        let watched = self.model.wants_branches();
        self.model.branch(branch);
        self.reference.taken(branch, watched, None);
        self.model.boundary();
        self.interrupts()
    }

    /// What the reference says; for a register that it does not know the model may
    /// say that, or #GP.
    fn answers(what: &str, model: Result<Answer, NotMine>, reference: Option<Answer>) -> Verdict {
        match (model, reference) {
            (Err(NotMine) | Ok(None), None) => Ok(()),
            (Ok(model), Some(reference)) => same(what, model, reference),
            (model, reference) => same(what, model.ok(), reference),
        }
    }

    fn read(&mut self, index: u32) -> Verdict {
        let model = self.model.read(index);
        if is_shared(index) {
            return Ok(());
        }
        Self::answers(
            &format!("RDMSR {index:#x}"),
            model,
            self.reference.read(index),
        )
    }

    fn write(&mut self, index: u32, value: u64) -> Verdict {
        let model = self.model.write(index, value);
        let fails = model == Ok(None);
        self.reference.instruction(!fails);
        if is_shared(index) {
            return self.end(!fails);
        }
        let reference = self.reference.write(index, value);
        Self::answers(&format!("WRMSR {index:#x}, {value:#x}"), model, reference)?;
        self.end(!fails)
    }

    /// What hardware loads or stores between two instructions.
    fn load(&mut self, index: u32, value: u64) -> Verdict {
        let model = self.model.write(index, value);
        let reference = self.reference.write(index, value);
        Self::answers(&format!("load of {index:#x}, {value:#x}"), model, reference)
    }

    fn enter(&mut self, values: [u64; 3]) -> Verdict {
        let loads: &[usize] = if self.facts.architectural {
            &[0, 1, 2]
        } else {
            &[0, 2]
        };
        let registers = [0x1d9, 0x14ce, 0x38f];
        let mut all = true;
        for &n in loads {
            let reference = self.reference.loadable(registers[n], values[n]);
            let model = self.model.is_loadable(registers[n], values[n]);
            same(
                &format!("loadable {:#x}, {:#x}", registers[n], values[n]),
                model,
                reference,
            )?;
            all &= reference;
        }
        if !all {
            return Ok(());
        }
        self.model.enter_vm();
        self.reference.instruction(true);
        for &n in loads {
            self.load(registers[n], values[n])?;
        }
        self.end(true)
    }

    fn exit(&mut self, global: u64) -> Verdict {
        if !self.reference.loadable(0x38f, global) {
            return Ok(());
        }
        // The instruction that exits does not retire; what it loads takes effect
        // with its end.
        self.read(0x1d9)?;
        self.reference.instruction(true);
        self.load(0x1d9, 0)?;
        if self.facts.architectural {
            self.load(0x14ce, 0)?;
        }
        self.load(0x38f, global)?;
        self.end(true)
    }

    fn compare(&mut self) -> Verdict {
        for (first, number) in [
            (0x186, 8),
            (0xc1, 8),
            (0x309, 5),
            (0x38d, 6),
            (0x1c8, 2),
            (0x1d9, 6),
            (0x1e0, 1),
            (0x345, 1),
            (0x680, 32),
            (0x6c0, 32),
            (0xdc0, 32),
            (0x14ce, 2),
            (0x1200, 64),
            (0x1500, 64),
            (0x1600, 64),
        ] {
            for index in first..first + number {
                self.read(index)?;
            }
        }
        if self.facts.architectural {
            same("XINUSE[15]", self.model.xinuse(), self.reference.xinuse())?;
        }
        Ok(())
    }

    fn cpuid(&self, leaf: u32, subleaf: u32, own: [u32; 4]) -> Verdict {
        let model = self.machine.cpuid(leaf, subleaf, own);
        let reference = cpuid::expected(self.facts, leaf, subleaf, own);
        same(&format!("CPUID.{leaf:X}H.{subleaf}"), model, reference)
    }

    fn step(&mut self, step: &Step) -> Verdict {
        match step {
            Step::Plain(number) => {
                for _ in 0..*number {
                    self.reference.instruction(true);
                    self.end(true)?;
                }
            }
            Step::Faulting => {
                self.reference.instruction(false);
                self.end(false)?;
            }
            Step::Memory(accesses) => {
                for (load, store, place) in accesses {
                    self.model.memory(*load, *store, *place);
                }
                self.reference.memory(accesses);
                self.end(true)?;
            }
            Step::Fetch(place) => {
                self.model.fetch(*place);
                self.reference.fetch(*place);
                self.end(true)?;
            }
            Step::Flush(address) => {
                self.model.flush(*address);
                self.reference.flush(*address);
                self.reference.instruction(true);
                self.end(true)?;
            }
            Step::Taken(branch, user) => {
                if let Some(user) = user {
                    self.set_user(*user);
                }
                self.taken(branch)?;
            }
            Step::NotTaken(from) => {
                let watched = self.model.wants_branches();
                self.model.not_taken(*from);
                self.reference.not_taken(*from, watched);
                self.end(true)?;
            }
            Step::Int(branch, user) => {
                self.set_user(*user);
                let watched = self.model.wants_branches();
                self.model.branch(branch);
                self.model.far_retired();
                self.reference.taken(branch, watched, Some(true));
                self.end(true)?;
            }
            Step::Event(branch, user) => {
                self.set_user(*user);
                self.event(branch)?;
            }
            Step::DebugException(branch) => {
                self.set_user(false);
                self.model.debug_exception();
                self.reference.debug_exception();
                self.event(branch)?;
            }
            Step::Read(index) => {
                self.read(*index)?;
                self.reference.instruction(true);
                self.end(true)?;
            }
            Step::Write(index, value) => self.write(*index, *value)?,
            Step::Rdpmc(ecx) => {
                let model = self.model.rdpmc(*ecx);
                let reference = self.reference.pmu.rdpmc(*ecx);
                same(&format!("RDPMC {ecx:#x}"), model, Ok(reference))?;
                self.reference.instruction(reference.is_some());
                self.end(reference.is_some())?;
            }
            Step::Cpuid(leaf, subleaf, own) => self.cpuid(*leaf, *subleaf, *own)?,
            Step::Enter(values) => self.enter(*values)?,
            Step::Exit(global) => self.exit(*global)?,
            Step::Smi => {
                if !self.reference.in_smm() {
                    self.model.smm(true);
                    self.reference.smi();
                }
            }
            Step::Rsm(branch, user) => {
                if self.reference.in_smm() {
                    self.model.smm(false);
                    self.reference.rsm();
                    self.set_user(*user);
                    self.model.branch(branch);
                    self.reference.resumed(branch);
                    self.end(true)?;
                }
            }
            Step::Reset(kind) => {
                self.model.reset(*kind);
                self.reference.reset(*kind);
                self.set_user(false);
            }
            Step::Save => {
                if self.facts.architectural {
                    same("XSAVES", self.model.xsave(), self.reference.xsave())?;
                }
            }
            Step::Restore(area) => {
                let area = area.as_deref();
                let model = self.model.xrstor(area);
                self.reference.instruction(model);
                same("XRSTORS", model, self.reference.xrstor(area))?;
                self.end(model)?;
            }
            Step::Compare => self.compare()?,
        }
        self.interrupts()
    }
}

/// A life of a CPU.
pub(crate) fn run(machine: &Loaded, facts: &Facts, program: &[Step]) -> Result<(), Divergence> {
    let mut both = Both {
        machine,
        facts,
        model: Cpu::new(machine),
        reference: Reference::new(facts),
    };
    let rsm = Branch {
        kind: 8,
        length: 0,
        from: 0x1000,
        to: 0x2000,
        bases: (0, 0),
    };
    let (resume, end) = (Step::Rsm(rsm, false), Step::Compare);
    for (step, what) in program.iter().chain([&resume, &end]).enumerate() {
        both.step(what).map_err(|what| Divergence { step, what })?;
    }
    Ok(())
}

/// A shorter life with a divergence, and that.
pub(crate) fn shrink(
    machine: &Loaded,
    facts: &Facts,
    mut program: Vec<Step>,
    mut last: Divergence,
) -> (Vec<Step>, Divergence) {
    program.truncate(last.step + 1);
    let mut chunk = program.len().div_ceil(2);
    while chunk > 0 {
        let mut at = 0;
        while at < program.len() {
            let mut less = program.clone();
            less.drain(at..(at + chunk).min(program.len()));
            match run(machine, facts, &less) {
                Err(found) => (program, last) = (less, found),
                Ok(()) => at += chunk,
            }
        }
        chunk /= 2;
    }
    (program, last)
}
