// SPDX-License-Identifier: GPL-2.0-only
//! The model as the emulator drives it: through its C functions.

use std::ffi::CString;

use emu_model::cpuid::Registers;
use emu_model::ffi::machine::{self, MachineHandle};
use emu_model::ffi::{self, Handle, Watch};
use emu_model::time::Now;

use crate::reference::{Branch, Place};

/// `struct emu_watch`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Wishes {
    pub(crate) deadline: u64,
    pub(crate) branches: bool,
    pub(crate) memory: bool,
    pub(crate) fetches: bool,
    pub(crate) step_branches: bool,
    pub(crate) interrupt: bool,
}

/// A machine file that was read.
pub(crate) struct Loaded(*mut MachineHandle);

impl Loaded {
    /// Reads a machine file that can be read.
    pub(crate) fn new(path: &str) -> Self {
        let path = CString::new(path).expect("a path");
        let mut error = [0; 512];
        // SAFETY: a string and room for a message.
        let machine = unsafe { machine::emu_machine_load(path.as_ptr(), error.as_mut_ptr(), 512) };
        assert!(!machine.is_null(), "{path:?} was read before");
        Self(machine)
    }

    /// CPUID leaf and subleaf, of which the emulator would answer `own`.
    pub(crate) fn cpuid(&self, leaf: u32, subleaf: u32, own: [u32; 4]) -> [u32; 4] {
        let [eax, ebx, ecx, edx] = own;
        let mut registers = Registers { eax, ebx, ecx, edx };
        // SAFETY: the machine lives as long as `self`.
        unsafe { machine::emu_cpuid(self.0, leaf, subleaf, &mut registers) };
        [registers.eax, registers.ebx, registers.ecx, registers.edx]
    }
}

/// Result of an access: the value, `None` for #GP.
pub(crate) type Outcome = Result<Option<u64>, NotMine>;

/// The register is not the model's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotMine;

fn outcome(code: i32, value: u64) -> Outcome {
    match code {
        0 => Err(NotMine),
        1 => Ok(Some(value)),
        _ => Ok(None),
    }
}

/// A CPU, and what time it is.
pub(crate) struct Cpu {
    cpu: *mut Handle,
    wishes: Box<Wishes>,
    cycles: u64,
    instructions: u64,
}

macro_rules! call {
    ($name:ident, $self:expr $(, $argument:expr)*) => {
        // SAFETY: the CPU and its watch live as long as `self`, and all places are valid.
        unsafe { ffi::$name($self.cpu $(, $argument)*) }
    };
}

impl Cpu {
    pub(crate) fn new(machine: &Loaded) -> Self {
        let mut wishes = Box::new(Wishes::default());
        let watch: *mut Wishes = &mut *wishes;
        // SAFETY: both live; `Wishes` is laid out as `Watch` is, by the header.
        let cpu = unsafe { ffi::emu_cpu_new(machine.0, watch.cast::<Watch>()) };
        Self {
            cpu,
            wishes,
            cycles: 0,
            instructions: 0,
        }
    }

    fn watch(&self) -> &Wishes {
        // The model writes through its pointer; read anew what it published.
        let wishes: *const Wishes = &*self.wishes;
        // SAFETY: no call of the model is under way.
        unsafe { &*std::hint::black_box(wishes) }
    }

    /// The instruction that executes is still to come.
    fn now(&self) -> Now {
        Now {
            cycles: self.cycles,
            instructions: self.instructions,
        }
    }

    /// The instruction that executes is over.
    fn after(&self) -> Now {
        Now {
            cycles: self.cycles + 1,
            instructions: self.instructions + 1,
        }
    }

    /// An instruction ends.
    pub(crate) fn end(&mut self, retires: bool) {
        self.cycles += 1;
        self.instructions += u64::from(retires);
        self.boundary();
    }

    /// Between two instructions the emulator looks whether time is up.
    pub(crate) fn boundary(&mut self) {
        if self.cycles >= self.watch().deadline {
            call!(emu_advance, self, self.now());
        }
    }

    /// A call that says whether it may have changed the watch.
    fn tells(&self, call: impl FnOnce() -> bool) {
        let before = *self.watch();
        let changed = call();
        assert!(changed || *self.watch() == before, "untold of {before:?}");
    }

    pub(crate) fn take_interrupt(&mut self) -> bool {
        let interrupt = self.watch().interrupt;
        self.wishes.interrupt = false;
        interrupt
    }

    pub(crate) fn wants_branches(&self) -> bool {
        self.watch().branches
    }

    pub(crate) fn steps_branches(&self) -> bool {
        self.watch().step_branches
    }

    pub(crate) fn branch(&mut self, branch: &Branch) {
        if !self.watch().branches {
            return;
        }
        let &Branch {
            kind,
            length,
            from,
            to,
            bases,
        } = branch;
        let at = |address: u64, base| ffi::Place {
            address,
            ip: address.wrapping_sub(base),
        };
        let (origin, target) = (at(from, bases.0), at(to, bases.1));
        let retires = self.cycles + 1;
        self.tells(|| {
            if bases == (0, 0) {
                call!(emu_branch, self, kind, length, from, to, retires)
            } else {
                call!(
                    emu_branch_in_segments,
                    self,
                    kind,
                    length,
                    origin,
                    target,
                    retires
                )
            }
        });
    }

    pub(crate) fn not_taken(&mut self, from: u64) {
        if self.watch().branches {
            self.tells(|| call!(emu_branch_not_taken, self, from));
        }
    }

    pub(crate) fn far_retired(&mut self) {
        if self.watch().branches {
            self.tells(|| call!(emu_far_branch_retired, self));
        }
    }

    /// The instruction that executes accesses memory.
    pub(crate) fn memory(&mut self, load: bool, store: bool, place: Place) {
        if self.watch().memory {
            let Place { address, length } = place;
            let retires = self.cycles + 1;
            self.tells(|| call!(emu_memory, self, load, store, address, length, retires));
        }
    }

    /// The instruction that executes is fetched.
    pub(crate) fn fetch(&mut self, place: Place) {
        if self.watch().fetches {
            self.tells(|| call!(emu_fetch, self, place.address, place.length));
        }
    }

    /// CLFLUSH, or WBINVD.
    pub(crate) fn flush(&mut self, address: Option<u64>) {
        match address {
            Some(address) => call!(emu_flush, self, address),
            None => call!(emu_flush_all, self),
        }
    }

    pub(crate) fn debug_exception(&mut self) {
        call!(emu_debug_exception, self);
    }

    pub(crate) fn set_user(&mut self, user: bool) {
        call!(emu_set_user, self, user, self.now());
    }

    pub(crate) fn smm(&mut self, inside: bool) {
        let now = if inside { self.now() } else { self.after() };
        call!(emu_smm, self, inside, now);
    }

    pub(crate) fn reset(&mut self, kind: u8) {
        if kind != 2 {
            // Time starts anew.
            self.cycles = 0;
            self.instructions = 0;
        }
        call!(emu_reset, self, kind, self.now());
    }

    pub(crate) fn read(&mut self, index: u32) -> Outcome {
        let mut value = 0;
        let code = call!(emu_rdmsr, self, index, &mut value, self.now());
        outcome(code, value)
    }

    pub(crate) fn write(&mut self, index: u32, value: u64) -> Outcome {
        let code = call!(emu_wrmsr, self, index, value, self.after());
        outcome(code, 0)
    }

    pub(crate) fn rdpmc(&mut self, ecx: u32) -> Outcome {
        let mut value = 0;
        let code = call!(emu_rdpmc, self, ecx, &mut value, self.now());
        outcome(code, value)
    }

    pub(crate) fn is_loadable(&self, index: u32, value: u64) -> bool {
        call!(emu_is_loadable, self, index, value)
    }

    pub(crate) fn enter_vm(&mut self) {
        call!(emu_advance, self, self.after());
    }

    pub(crate) fn xinuse(&self) -> bool {
        call!(emu_lbr_xinuse, self)
    }

    pub(crate) fn xsave(&self) -> [u64; 101] {
        let mut area = [0; 101];
        call!(emu_lbr_xsave, self, &mut area);
        area
    }

    pub(crate) fn xrstor(&mut self, area: Option<&[u64; 101]>) -> bool {
        let area = area.map_or(std::ptr::null(), std::ptr::from_ref);
        call!(emu_lbr_xrstor, self, area, self.after())
    }
}

impl Drop for Cpu {
    fn drop(&mut self) {
        // SAFETY: `emu_cpu_new()` made it as a box, and nobody uses it any more.
        drop(unsafe { Box::from_raw(self.cpu) });
    }
}
