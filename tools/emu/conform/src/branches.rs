// SPDX-License-Identifier: GPL-2.0-only
//! Scenarios: pieces of assembly with known branches.
//!
//! Each runs between a WRMSR that switches something on and one that switches it
//! off again, with no other branch in between.

mod kinds;
mod sequences;
mod steps;

use core::arch::global_asm;

use crate::boot;
use crate::traps;

pub use kinds::*;
pub use sequences::*;
pub use steps::*;

/// What a branch is, as LBR_SELECT's filters tell them apart.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Conditional near jump.
    Jcc,
    /// Direct near jump.
    RelJmp,
    /// Indirect near jump.
    IndJmp,
    /// Direct near call.
    RelCall,
    /// Direct near call of the next instruction.
    ZeroCall,
    /// Indirect near call.
    IndCall,
    /// Near return.
    Ret,
    /// An instruction that loads CS.
    Far,
    /// An interrupt or an exception.
    Event,
}

/// The ring in which a branch ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ring {
    /// Ring 0.
    K,
    /// Ring 3.
    U,
}

/// A branch that a scenario takes.
#[derive(Clone, Copy)]
pub struct Branch {
    pub kind: Kind,
    pub ring: Ring,
    pub from: u64,
    pub to: u64,
}

/// A piece of assembly.
pub struct Scenario {
    /// What it does, for the name of a row.
    pub about: &'static str,
    pub(crate) code: unsafe extern "C" fn(msr: u32, on: u64),
    pub(crate) addresses: unsafe extern "C" fn(),
    pub(crate) kinds: &'static [(Kind, Ring)],
}

impl Scenario {
    /// Runs it, with `on` in the register `msr` and 0 in it afterwards.
    pub fn run(&self, msr: u32, on: u64) {
        self.run_then(msr, on, || ());
    }

    /// Runs it, and right behind it `then`, with few branches in between.
    pub fn run_then<T>(&self, msr: u32, on: u64, then: impl FnOnce() -> T) -> T {
        // SAFETY: the code keeps what the calling convention wants kept.
        unsafe { (self.code)(msr, on) }
        let result = then();
        for vector in [1, 3, 6, 13, 14, traps::SOFTWARE, traps::LOCAL, traps::NMI] {
            traps::restore(vector);
        }
        result
    }

    /// FROM and TO of its first branch; 0 if it has none.
    pub fn first(&self) -> (u64, u64) {
        Self::ends(self.branches().next())
    }

    /// FROM and TO of its last branch; 0 if it has none.
    pub fn last(&self) -> (u64, u64) {
        Self::ends(self.branches().next_back())
    }

    fn ends(branch: Option<Branch>) -> (u64, u64) {
        branch.map_or((0, 0), |branch| (branch.from, branch.to))
    }

    /// Its branches, in order.
    pub fn branches(&self) -> impl DoubleEndedIterator<Item = Branch> + Clone + '_ {
        let addresses = self.addresses as *const [u64; 2];
        self.kinds
            .iter()
            .enumerate()
            .map(move |(n, &(kind, ring))| {
                // SAFETY: the table has an entry for each kind.
                let [from, to] = unsafe { *addresses.add(n) };
                Branch {
                    kind,
                    ring,
                    from,
                    to,
                }
            })
    }
}

#[no_mangle]
extern "C" fn conform_gate(vector: usize, handler: u64) {
    traps::handle(vector, handler);
}

/// Points the call gate to the alias of `target` in the upper half.
#[no_mangle]
extern "C" fn conform_call_gate(target: u64) {
    boot::set_call_gate(boot::UPPER_HALF | target);
}

#[no_mangle]
extern "C" fn conform_wrmsr(index: u32, value: u64) {
    crate::cpu::wrmsr(index, value);
}

/// Code may use all registers but R13 to R15; it leaves the stack anywhere.
macro_rules! scenarios {
    ($($name:ident $about:literal
        before [$($before:literal)*]
        code [$($code:literal)*]
        branches [$($kind:ident $ring:ident $from:literal $to:literal,)*]
    )*) => {
        $(
            global_asm!(
                ".text",
                concat!(stringify!($name), ":"),
                "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
                "sub rsp, 8",
                "mov r13, rsp", "mov r14d, edi", "mov r15, rsi",
                $($before,)*
                "mov ecx, r14d", "mov eax, r15d", "mov rdx, r15", "shr rdx, 32",
                "wrmsr",
                $($code,)*
                "mov ecx, r14d", "xor eax, eax", "xor edx, edx",
                "wrmsr",
                "lea rsp, [r13 + 8]",
                "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx",
                "ret",
                ".pushsection .rodata",
                ".balign 8",
                concat!(stringify!($name), "_branches:"),
                $(concat!(".quad ", $from, ", ", $to),)*
                ".popsection",
            );
            /// A scenario.
            #[allow(non_upper_case_globals)]
            pub static $name: Scenario = {
                mod symbol {
                    extern "C" {
                        pub(super) fn $name(msr: u32, on: u64);
                    }
                }
                mod addresses {
                    extern "C" {
                        #[link_name = concat!(stringify!($name), "_branches")]
                        pub(super) fn $name();
                    }
                }
                Scenario {
                    about: $about,
                    code: symbol::$name,
                    addresses: addresses::$name,
                    kinds: &[$((
                        crate::branches::Kind::$kind,
                        crate::branches::Ring::$ring,
                    )),*],
                }
            };
        )*
    };
}

pub(crate) use scenarios;

global_asm!(
    ".text",
    // ends stepping, and notes where it came to
    ".globl stop_stepping",
    "stop_stepping:",
    "push rax",
    "inc qword ptr [rip + trap_shared + 32]",
    "mov rax, [rsp + 8]",
    "mov [rip + trap_shared + 40], rax",
    "and qword ptr [rsp + 24], 0xfffffffffffffeff",
    "pop rax",
    "iretq",
    // ends an interrupt of the local APIC
    "acknowledge:",
    "push rax",
    "mov eax, 0xfee000b0",
    "mov dword ptr [rax], 0",
    "pop rax",
    "acknowledge_end: iretq",
);
