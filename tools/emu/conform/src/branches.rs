// SPDX-License-Identifier: GPL-2.0-only
//! Scenarios: pieces of assembly with known branches.
//!
//! Each runs between a WRMSR that switches something on and one that switches it
//! off again, with no other branch in between.

use core::arch::global_asm;

use crate::traps;

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

scenarios! {
    nothing "no branch"
    before []
    code ["nop"]
    branches []

    jcc_short "a taken Jcc rel8"
    before []
    code ["xor eax, eax" "20: jz 21f" "nop" "21:"]
    branches [Jcc K "20b" "21b",]

    jcc_near "a taken Jcc rel32"
    before []
    code ["xor eax, eax" "20: jz 21f" ".fill 200, 1, 0x90" "21:"]
    branches [Jcc K "20b" "21b",]

    jcc_not_taken "a Jcc that is not taken"
    before []
    code ["xor eax, eax" "20: jnz 21f" "nop" "21:"]
    branches []

    jrcxz "a taken JRCXZ"
    before []
    code ["xor ecx, ecx" "20: jrcxz 21f" "nop" "21:"]
    branches [Jcc K "20b" "21b",]

    loops "LOOP that is taken once"
    before []
    code ["mov ecx, 2" "20: loop 20b"]
    branches [Jcc K "20b" "20b",]

    jmp_short "JMP rel8"
    before []
    code ["20: jmp 21f" "nop" "21:"]
    branches [RelJmp K "20b" "21b",]

    jmp_near "JMP rel32"
    before []
    code ["20: jmp 21f" ".fill 200, 1, 0x90" "21:"]
    branches [RelJmp K "20b" "21b",]

    jmp_register "JMP r64"
    before []
    code ["lea rax, [rip + 21f]" "20: jmp rax" "nop" "21:"]
    branches [IndJmp K "20b" "21b",]

    jmp_memory "JMP m64"
    before []
    code ["lea rax, [rip + 21f]" "push rax" "20: jmp qword ptr [rsp]" "nop" "21:" "pop rax"]
    branches [IndJmp K "20b" "21b",]

    call_relative "CALL rel32 and RET"
    before []
    code ["20: call 22f" "21:" ".pushsection .text.out" "22: ret" ".popsection"]
    branches [RelCall K "20b" "22b", Ret K "22b" "21b",]

    call_register "CALL r64 and RET imm16"
    before []
    code ["lea rax, [rip + 22f]" "push rax" "20: call rax" "21:"
        ".pushsection .text.out" "22: ret 8" ".popsection"]
    branches [IndCall K "20b" "22b", Ret K "22b" "21b",]

    call_memory "CALL m64 and RET"
    before []
    code ["lea rax, [rip + 22f]" "push rax" "20: call qword ptr [rsp]" "21:"
        ".pushsection .text.out" "22: ret" ".popsection"]
    branches [IndCall K "20b" "22b", Ret K "22b" "21b",]

    call_zero "CALL of the next instruction"
    before []
    code ["20: call 21f" "21: pop rax"]
    branches [ZeroCall K "20b" "21b",]

    jmp_far "far JMP m16:64"
    before []
    code ["lea rax, [rip + 21f]" "mov qword ptr [rsp - 8], 8" "mov [rsp - 16], rax"
        "20: .byte 0x48, 0xff, 0x6c, 0x24, 0xf0" "nop" "21:"]
    branches [Far K "20b" "21b",]

    call_far "far CALL m16:64 and far RET"
    before []
    code ["lea rax, [rip + 22f]" "mov qword ptr [rsp - 8], 8" "mov [rsp - 16], rax"
        "20: .byte 0x48, 0xff, 0x5c, 0x24, 0xf0" "21:"
        ".pushsection .text.out" "22: .byte 0x48, 0xcb" ".popsection"]
    branches [Far K "20b" "22b", Far K "22b" "21b",]

    iret "IRETQ"
    before []
    code ["mov rax, rsp" "push 0x10" "push rax" "pushfq" "push 0x08" "lea rax, [rip + 21f]"
        "push rax" "20: iretq" "nop" "21:"]
    branches [Far K "20b" "21b",]

    int_n "INT n and IRETQ"
    before ["mov edi, 0x80" "lea rsi, [rip + return_at_once]" "call conform_gate"]
    code ["20: int 0x80" "21:"]
    branches [Far K "20b" "return_at_once", Far K "return_at_once" "21b",]

    int3 "INT3 and IRETQ"
    before ["mov edi, 3" "lea rsi, [rip + return_at_once]" "call conform_gate"]
    code ["20: int3" "21:"]
    branches [Far K "20b" "return_at_once", Far K "return_at_once" "21b",]

    undefined "a fault (#UD) and IRETQ"
    before ["mov edi, 6" "lea rsi, [rip + skip_two]" "call conform_gate"]
    code ["20: ud2" "21:"]
    branches [Event K "20b" "skip_two", Far K "skip_two + 5" "21b",]

    protection "a fault with an error code (#GP) and IRETQ"
    before ["mov edi, 13" "lea rsi, [rip + skip_three]" "call conform_gate"]
    code ["mov rax, 0x8000000000000000" "20: mov rax, [rax]" "21:"]
    branches [Event K "20b" "skip_three", Far K "skip_three + 9" "21b",]

    page_fault "a page fault and IRETQ"
    before ["mov edi, 14" "lea rsi, [rip + skip_three]" "call conform_gate"]
    code ["mov rax, 0x200000000" "20: mov rax, [rax]" "21:"]
    branches [Event K "20b" "skip_three", Far K "skip_three + 9" "21b",]

    interrupt "a maskable interrupt and IRETQ"
    before ["mov edi, 0x50" "lea rsi, [rip + acknowledge]" "call conform_gate"]
    code ["mov eax, 0xfee00300" "sti" "nop" "mov dword ptr [rax], 0x40050" "20: nop" "cli"]
    branches [Event K "20b" "acknowledge", Far K "acknowledge_end" "20b",]

    nmi "an NMI and IRETQ"
    before ["mov edi, 2" "lea rsi, [rip + return_at_once]" "call conform_gate"]
    code ["mov eax, 0xfee00300" "mov dword ptr [rax], 0x4400" "20: nop" "nop"]
    branches [Event K "20b" "return_at_once", Far K "return_at_once" "20b",]

    user "ring 3 by IRETQ, branches there, back by INT n"
    before ["mov edi, 0x80" "lea rsi, [rip + 29f]" "call conform_gate"]
    code ["mov rax, rsp" "push 0x23" "push rax" "push 2" "push 0x2b" "lea rax, [rip + 28f]"
        "push rax" "20: iretq"
        "28: xor eax, eax"
        "22: jz 23f" "nop"
        "23: call 26f"
        "24: jmp 25f" "nop"
        "25: int 0x80"
        "29: mov rsp, r13"
        ".pushsection .text.out" "26: ret" ".popsection"]
    branches [Far U "20b" "28b", Jcc U "22b" "23b", RelCall U "23b" "26b", Ret U "26b" "24b",
        RelJmp U "24b" "25b", Far K "25b" "29b",]

    syscall "SYSCALL"
    before ["mov edi, 0xc0000082" "lea rsi, [rip + 29f]" "call conform_wrmsr"]
    code ["mov rax, rsp" "push 0x23" "push rax" "push 2" "push 0x2b" "lea rax, [rip + 22f]"
        "push rax" "20: iretq" "22: syscall" "29: mov rsp, r13"]
    branches [Far U "20b" "22b", Far K "22b" "29b",]

    sysret "SYSRET"
    before ["mov edi, 0x80" "lea rsi, [rip + 29f]" "call conform_gate"]
    code ["lea rcx, [rip + 22f]" "mov r11d, 2" "20: sysretq" "22: int 0x80" "29: mov rsp, r13"]
    branches [Far U "20b" "22b", Far K "22b" "29b",]

    sysenter "SYSENTER"
    before ["mov edi, 0x174" "mov esi, 8" "call conform_wrmsr"
        "mov edi, 0x175" "mov rsi, r13" "call conform_wrmsr"
        "mov edi, 0x176" "lea rsi, [rip + 29f]" "call conform_wrmsr"]
    code ["mov rax, rsp" "push 0x23" "push rax" "push 2" "push 0x2b" "lea rax, [rip + 22f]"
        "push rax" "20: iretq" "22: sysenter" "29: mov rsp, r13"]
    branches [Far U "20b" "22b", Far K "22b" "29b",]

    sysexit "SYSEXIT"
    before ["mov edi, 0x174" "mov esi, 8" "call conform_wrmsr"
        "mov edi, 0x80" "lea rsi, [rip + 29f]" "call conform_gate"]
    code ["lea rdx, [rip + 22f]" "mov rcx, rsp" "20: .byte 0x48, 0x0f, 0x35"
        "22: int 0x80" "29: mov rsp, r13"]
    branches [Far U "20b" "22b", Far K "22b" "29b",]

    all "one branch of each kind"
    before ["mov edi, 0x80" "lea rsi, [rip + return_at_once]" "call conform_gate"]
    code ["xor eax, eax"
        "20: jz 30f" "nop"
        "30: jmp 31f" "nop"
        "31: lea rax, [rip + 33f]"
        "32: jmp rax" "nop"
        "33: call 40f"
        "34: lea rax, [rip + 41f]"
        "35: call rax"
        "36: int 0x80"
        "37:"
        ".pushsection .text.out" "40: ret" "41: ret" ".popsection"]
    branches [Jcc K "20b" "30b", RelJmp K "30b" "31b", IndJmp K "32b" "33b",
        RelCall K "33b" "40b", Ret K "40b" "34b", IndCall K "35b" "41b", Ret K "41b" "36b",
        Far K "36b" "return_at_once", Far K "return_at_once" "37b",]

    many "forty jumps"
    before []
    code ["mov ecx, 41" "20: loop 20b"]
    branches [
        Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b",
        Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b",
        Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b",
        Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b",
        Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b",
        Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b",
        Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b",
        Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b",
        Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b",
        Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b", Jcc K "20b" "20b",]

    call_stays "CALL without RET"
    before []
    code ["20: call 22f" "21:" ".pushsection .text.out" "22: mov rsp, r13" "jmp 23f" ".popsection" "nop" "23:"]
    branches [RelCall K "20b" "22b",]

    call_register_stays "an indirect CALL without RET"
    before []
    code ["lea rax, [rip + 22f]" "20: call rax" "nop" "22: mov rsp, r13"]
    branches [IndCall K "20b" "22b",]

    call_nested "CALL, in it CALL and RET"
    before []
    code ["20: call 22f" "nop" "22: call 23f" "24: mov rsp, r13"
        ".pushsection .text.out" "23: ret" ".popsection"]
    branches [RelCall K "20b" "22b", RelCall K "22b" "23b", Ret K "23b" "24b",]

    call_zero_nested "CALL, in it CALL of the next instruction"
    before []
    code ["20: call 22f" "nop" "22: call 23f" "23: mov rsp, r13"]
    branches [RelCall K "20b" "22b", ZeroCall K "22b" "23b",]

    calls "forty CALLs without RET"
    before []
    code ["mov ecx, 40" "20: call 22f" "nop" "22: dec ecx" "jnz 20b" "mov rsp, r13"]
    branches [
        RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b",
        RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b",
        RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b",
        RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b",
        RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b",
        RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b",
        RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b",
        RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b",
        RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b",
        RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b", RelCall K "20b" "22b",]

    jump_fault_jump "JMP, then a fault, then JMP"
    before ["mov edi, 6" "lea rsi, [rip + skip_two]" "call conform_gate"]
    code ["20: jmp 21f" "nop" "21: ud2" "22: jmp 23f" "nop" "23:"]
    branches [RelJmp K "20b" "21b", Event K "21b" "skip_two", Far K "skip_two + 5" "22b",
        RelJmp K "22b" "23b",]

    jump_interrupt "JMP, then an interrupt"
    before ["mov edi, 0x50" "lea rsi, [rip + acknowledge]" "call conform_gate"]
    code ["mov eax, 0xfee00300" "sti" "20: jmp 21f" "nop" "21: mov dword ptr [rax], 0x40050"
        "22: nop" "cli"]
    branches [RelJmp K "20b" "21b", Event K "22b" "acknowledge", Far K "acknowledge_end" "22b",]

    // TF takes effect behind the instruction after POPFQ.
    single_step "a single step (#DB) between two JMPs"
    before ["mov edi, 1" "lea rsi, [rip + stop_stepping]" "call conform_gate"]
    code ["20: jmp 21f" "nop" "21: pushfq" "or qword ptr [rsp], 0x100" "popfq" "nop" "nop"
        "jmp 22f" "nop" "22:"]
    branches [RelJmp K "20b" "21b",]

    branch_step "steps by branches"
    before ["mov edi, 1" "lea rsi, [rip + stop_stepping]" "call conform_gate"]
    code ["pushfq" "or qword ptr [rsp], 0x100" "popfq" "nop" "nop" "nop" "20: jmp 21f" "nop"
        "21: nop" "nop"]
    branches [RelJmp K "20b" "21b",]

    nops_10 "10 NOPs"
    before []
    code [".fill 10, 1, 0x90"]
    branches []

    nops_110 "110 NOPs"
    before []
    code [".fill 110, 1, 0x90"]
    branches []

    load_fault "a load that faults (#PF)"
    before ["mov edi, 14" "lea rsi, [rip + skip_three]" "call conform_gate"]
    code ["mov rax, 0x200000000" "20: mov rax, [rax]" "21:"]
    branches [Event K "20b" "skip_three", Far K "skip_three + 9" "21b",]

    repeated "STOSB repeated 50 times"
    before []
    code ["mov ecx, 50" "mov rdi, rsp" "sub rdi, 200" "cld" "rep stosb"]
    branches []

    not_repeated "STOSB repeated once"
    before []
    code ["mov ecx, 1" "mov rdi, rsp" "sub rdi, 200" "cld" "rep stosb"]
    branches []

    user_nops_10 "10 NOPs in ring 3"
    before ["mov edi, 0x80" "lea rsi, [rip + 29f]" "call conform_gate"]
    code ["mov rax, rsp" "push 0x23" "push rax" "push 2" "push 0x2b" "lea rax, [rip + 22f]"
        "push rax" "20: iretq" "22: .fill 10, 1, 0x90" "23: int 0x80" "29: mov rsp, r13"]
    branches [Far U "20b" "22b", Far K "23b" "29b",]

    user_nops_60 "60 NOPs in ring 3"
    before ["mov edi, 0x80" "lea rsi, [rip + 29f]" "call conform_gate"]
    code ["mov rax, rsp" "push 0x23" "push rax" "push 2" "push 0x2b" "lea rax, [rip + 22f]"
        "push rax" "20: iretq" "22: .fill 60, 1, 0x90" "23: int 0x80" "29: mov rsp, r13"]
    branches [Far U "20b" "22b", Far K "23b" "29b",]

    // RBX is 0 if RDPMC did not fault.
    user_rdpmc "RDPMC in ring 3"
    before ["mov edi, 0x80" "lea rsi, [rip + 28f]" "call conform_gate"
        "mov edi, 13" "lea rsi, [rip + 29f]" "call conform_gate"]
    code ["mov rax, rsp" "push 0x23" "push rax" "push 2" "push 0x2b" "lea rax, [rip + 22f]"
        "push rax" "iretq" "22: xor ecx, ecx" "rdpmc" "int 0x80"
        "28: mov qword ptr [rip + trap_shared + 32], 1"
        "29: mov rsp, r13"]
    branches []

    // The interrupt comes from the local APIC's timer.
    halt "HLT until an interrupt"
    before ["mov edi, 0x50" "lea rsi, [rip + acknowledge]" "call conform_gate"]
    code ["mov eax, 0xfee003e0" "mov dword ptr [rax], 0xb"
        "mov eax, 0xfee00320" "mov dword ptr [rax], 0x50"
        "mov eax, 0xfee00380" "mov dword ptr [rax], 200000" "sti" "hlt" "cli"]
    branches []

    jumps_and_nops "JMP, 50 NOPs, JMP"
    before []
    code ["20: jmp 21f" "nop" "21: .fill 50, 1, 0x90" "22: jmp 23f" "nop" "23:"]
    branches [RelJmp K "20b" "21b", RelJmp K "22b" "23b",]

    not_taken_and_jmp "a Jcc that is not taken, JMP"
    before []
    code ["xor eax, eax" "jnz 21f" "20: jmp 21f" "nop" "21:"]
    branches [RelJmp K "20b" "21b",]
}

global_asm!(
    ".text",
    // ends stepping, and notes where it came to
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

/// Scenarios whose branches are all different in kind, place or cause.
pub static KINDS: [&Scenario; 26] = [
    &jcc_short,
    &jcc_near,
    &jrcxz,
    &loops,
    &jmp_short,
    &jmp_near,
    &jmp_register,
    &jmp_memory,
    &call_relative,
    &call_register,
    &call_memory,
    &call_zero,
    &jmp_far,
    &call_far,
    &iret,
    &int_n,
    &int3,
    &undefined,
    &protection,
    &page_fault,
    &interrupt,
    &nmi,
    &syscall,
    &sysret,
    &sysenter,
    &sysexit,
];
