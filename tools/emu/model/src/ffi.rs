// SPDX-License-Identifier: GPL-2.0-only
//! What the emulator calls; declared for it in `include/emu_model.h`, which says
//! what each function means.
//!
//! A logical CPU belongs to one thread at a time.  Nothing here unwinds: the
//! model has no panic on any input of the emulated software.

pub mod counters;
pub mod machine;

use std::ffi::c_int;

use self::machine::MachineHandle;
use crate::branch::{Kind, Taken};
use crate::cpu::{LogicalCpu, Memory, Reset};
use crate::lbr::architectural::AREA;
use crate::msr::Result;
use crate::time::Now;

/// What the emulator looks at without a call: `struct emu_watch`.
#[repr(C)]
#[derive(Debug)]
pub struct Watch {
    /// Core cycle at which `emu_advance()` must be called.
    deadline: u64,
    /// Branches must be reported.
    branches: bool,
    /// Loads and stores must be reported.
    memory: bool,
    /// Fetches of code must be reported.
    fetches: bool,
    /// RFLAGS.TF means a step to the next taken branch.
    step_branches: bool,
    /// A performance monitoring interrupt is asked for.
    interrupt: bool,
}

/// One logical CPU and where it publishes what it wants.
#[derive(Debug)]
pub struct Handle {
    cpu: LogicalCpu,
    watch: *mut Watch,
}

/// Where an instruction is: `struct emu_place`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its linear address.
    pub address: u64,
    /// Its offset in the code segment.
    pub ip: u64,
}

const NOT_MINE: c_int = 0;
const DONE: c_int = 1;
const FAULT: c_int = 2;

impl Handle {
    /// Publishes what the CPU wants now.
    fn publish(&mut self) {
        let interrupt = self.cpu.take_interrupt();
        // SAFETY: `emu_cpu_new()` demands that the watch lives as long as the CPU
        // and that nobody else touches it during a call.
        let watch = unsafe { &mut *self.watch };
        watch.deadline = self.cpu.deadline();
        watch.branches = self.cpu.wants_branches();
        watch.memory = self.cpu.wants_memory();
        watch.fetches = self.cpu.wants_fetches();
        watch.step_branches = self.cpu.steps_branches();
        watch.interrupt |= interrupt;
    }

    /// Publishes if a counter overflowed, and gives that; nothing else that happens at
    /// branches and accesses changes the watch.
    fn publish_overflow(&mut self, overflow: bool) -> bool {
        if overflow {
            self.publish();
        }
        overflow
    }
}

fn outcome<T>(result: Option<Result<T>>, done: impl FnOnce(T)) -> c_int {
    match result {
        None => NOT_MINE,
        Some(Err(_)) => FAULT,
        Some(Ok(value)) => {
            done(value);
            DONE
        }
    }
}

/// See the header.
///
/// # Safety
///
/// `machine` must come from `emu_machine_load()`; `watch` must be valid for the
/// life of the CPU.
#[no_mangle]
pub unsafe extern "C" fn emu_cpu_new(
    machine: *const MachineHandle,
    watch: *mut Watch,
) -> *mut Handle {
    // SAFETY: the caller passes a live machine.
    let cpu = LogicalCpu::new(unsafe { &(*machine).machine });
    let mut handle = Box::new(Handle { cpu, watch });
    handle.publish();
    Box::into_raw(handle)
}

/// See the header.
///
/// # Safety
///
/// `cpu` must come from `emu_cpu_new()`.
#[no_mangle]
pub unsafe extern "C" fn emu_reset(cpu: *mut Handle, kind: u8, now: Now) {
    // SAFETY: the caller passes a live CPU.
    let handle = unsafe { &mut *cpu };
    if let Some(kind) = Reset::from_number(kind) {
        handle.cpu.reset(kind, now);
        handle.publish();
    }
}

/// See the header.
///
/// # Safety
///
/// `cpu` must come from `emu_cpu_new()`.
#[no_mangle]
pub unsafe extern "C" fn emu_advance(cpu: *mut Handle, now: Now) {
    // SAFETY: the caller passes a live CPU.
    let handle = unsafe { &mut *cpu };
    handle.cpu.advance(now);
    handle.publish();
}

/// See the header.
///
/// # Safety
///
/// `cpu` must come from `emu_cpu_new()`.
#[no_mangle]
pub unsafe extern "C" fn emu_set_user(cpu: *mut Handle, user: bool, now: Now) {
    // SAFETY: the caller passes a live CPU.
    let handle = unsafe { &mut *cpu };
    handle.cpu.set_user(user, now);
    handle.publish();
}

/// See the header.
///
/// # Safety
///
/// `cpu` must come from `emu_cpu_new()`.
#[no_mangle]
pub unsafe extern "C" fn emu_vmentered(cpu: *mut Handle) {
    // SAFETY: the caller passes a live CPU.
    unsafe { (*cpu).cpu.entered() }
}

/// See the header.
///
/// # Safety
///
/// `cpu` must come from `emu_cpu_new()`.
#[no_mangle]
pub unsafe extern "C" fn emu_smm(cpu: *mut Handle, inside: bool, now: Now) {
    // SAFETY: the caller passes a live CPU.
    let handle = unsafe { &mut *cpu };
    handle.cpu.smm(inside, now);
    handle.publish();
}

/// See the header.
///
/// # Safety
///
/// `cpu` must come from `emu_cpu_new()`.
#[no_mangle]
pub unsafe extern "C" fn emu_branch(
    cpu: *mut Handle,
    kind: u8,
    length: u8,
    from: u64,
    to: u64,
    cycles: u64,
) -> bool {
    let Some(kind) = Kind::from_number(kind) else {
        return false;
    };
    // SAFETY: the caller passes a live CPU.
    let handle = unsafe { &mut *cpu };
    let branch = Taken::flat(kind, from, to, length);
    let overflow = handle.cpu.taken(&branch, cycles);
    handle.publish_overflow(overflow)
}

/// See the header.
///
/// # Safety
///
/// `cpu` must come from `emu_cpu_new()`.
#[no_mangle]
#[cold]
pub unsafe extern "C" fn emu_branch_in_segments(
    cpu: *mut Handle,
    kind: u8,
    length: u8,
    from: Place,
    to: Place,
    cycles: u64,
) -> bool {
    let Some(kind) = Kind::from_number(kind) else {
        return false;
    };
    // SAFETY: the caller passes a live CPU.
    let handle = unsafe { &mut *cpu };
    let branch = Taken {
        kind,
        from: from.address,
        to: to.address,
        from_ip: from.ip,
        to_ip: to.ip,
        length,
    };
    let overflow = handle.cpu.taken(&branch, cycles);
    handle.publish_overflow(overflow)
}

/// See the header.
///
/// # Safety
///
/// `cpu` must come from `emu_cpu_new()`.
#[no_mangle]
pub unsafe extern "C" fn emu_branch_not_taken(cpu: *mut Handle, from: u64) -> bool {
    // SAFETY: the caller passes a live CPU.
    let handle = unsafe { &mut *cpu };
    let overflow = handle.cpu.not_taken(from);
    handle.publish_overflow(overflow)
}

/// See the header.
///
/// # Safety
///
/// `cpu` must come from `emu_cpu_new()`.
#[no_mangle]
pub unsafe extern "C" fn emu_far_branch_retired(cpu: *mut Handle) -> bool {
    // SAFETY: the caller passes a live CPU.
    let handle = unsafe { &mut *cpu };
    let overflow = handle.cpu.retired(Kind::Far);
    handle.publish_overflow(overflow)
}

/// See the header.
///
/// # Safety
///
/// `cpu` must come from `emu_cpu_new()`.
#[no_mangle]
pub unsafe extern "C" fn emu_memory(
    cpu: *mut Handle,
    load: bool,
    store: bool,
    address: u64,
    length: u32,
    cycles: u64,
) -> bool {
    // SAFETY: the caller passes a live CPU.
    let handle = unsafe { &mut *cpu };
    let access = Memory {
        load,
        store,
        address,
        length: length.into(),
    };
    let overflow = handle.cpu.memory(&access, cycles);
    handle.publish_overflow(overflow)
}

/// See the header.
///
/// # Safety
///
/// `cpu` must come from `emu_cpu_new()`.
#[no_mangle]
pub unsafe extern "C" fn emu_fetch(cpu: *mut Handle, address: u64, length: u32) -> bool {
    // SAFETY: the caller passes a live CPU.
    let handle = unsafe { &mut *cpu };
    let overflow = handle.cpu.fetch(address, length.into());
    handle.publish_overflow(overflow)
}

/// See the header.
///
/// # Safety
///
/// `cpu` must come from `emu_cpu_new()`.
#[no_mangle]
pub unsafe extern "C" fn emu_flush(cpu: *mut Handle, address: u64) {
    // SAFETY: the caller passes a live CPU.
    let handle = unsafe { &mut *cpu };
    handle.cpu.flush(Some(address));
}

/// See the header.
///
/// # Safety
///
/// `cpu` must come from `emu_cpu_new()`.
#[no_mangle]
pub unsafe extern "C" fn emu_flush_all(cpu: *mut Handle) {
    // SAFETY: the caller passes a live CPU.
    let handle = unsafe { &mut *cpu };
    handle.cpu.flush(None);
}

/// See the header.
///
/// # Safety
///
/// `cpu` must come from `emu_cpu_new()`.
#[no_mangle]
pub unsafe extern "C" fn emu_debug_exception(cpu: *mut Handle) {
    // SAFETY: the caller passes a live CPU.
    let handle = unsafe { &mut *cpu };
    handle.cpu.debug_exception();
    handle.publish();
}

/// See the header.
///
/// # Safety
///
/// `cpu` must come from `emu_cpu_new()`, `value` be valid.
#[no_mangle]
pub unsafe extern "C" fn emu_rdmsr(
    cpu: *mut Handle,
    index: u32,
    value: *mut u64,
    now: Now,
) -> c_int {
    // SAFETY: the caller passes a live CPU and a valid place.
    let (handle, value) = unsafe { (&mut *cpu, &mut *value) };
    let result = handle.cpu.read(index, now);
    handle.publish();
    outcome(result, |read| *value = read)
}

/// See the header.
///
/// # Safety
///
/// `cpu` must come from `emu_cpu_new()`.
#[no_mangle]
pub unsafe extern "C" fn emu_wrmsr(cpu: *mut Handle, index: u32, value: u64, now: Now) -> c_int {
    // SAFETY: the caller passes a live CPU.
    let handle = unsafe { &mut *cpu };
    let result = handle.cpu.write(index, value, now);
    handle.publish();
    outcome(result, |()| ())
}

/// See the header.
///
/// # Safety
///
/// `cpu` must come from `emu_cpu_new()`, `value` be valid.
#[no_mangle]
pub unsafe extern "C" fn emu_rdpmc(cpu: *mut Handle, ecx: u32, value: *mut u64, now: Now) -> c_int {
    // SAFETY: the caller passes a live CPU and a valid place.
    let (handle, value) = unsafe { (&mut *cpu, &mut *value) };
    let result = handle.cpu.rdpmc(ecx, now);
    handle.publish();
    outcome(Some(result), |read| *value = read)
}

/// See the header.
///
/// # Safety
///
/// `cpu` must come from `emu_cpu_new()`.
#[no_mangle]
pub unsafe extern "C" fn emu_is_loadable(cpu: *const Handle, index: u32, value: u64) -> bool {
    // SAFETY: the caller passes a live CPU.
    unsafe { &(*cpu).cpu }.is_loadable(index, value)
}

/// See the header.
///
/// # Safety
///
/// `cpu` must come from `emu_cpu_new()`.
#[no_mangle]
pub unsafe extern "C" fn emu_lbr_xinuse(cpu: *const Handle) -> bool {
    // SAFETY: the caller passes a live CPU.
    unsafe { &(*cpu).cpu }.is_xinuse()
}

/// See the header.
///
/// # Safety
///
/// `cpu` must come from `emu_cpu_new()`, `area` have room for the state component.
#[no_mangle]
pub unsafe extern "C" fn emu_lbr_xsave(cpu: *const Handle, area: *mut [u64; AREA]) -> u32 {
    // SAFETY: the caller passes a live CPU and a valid area.
    let (cpu, area) = unsafe { (&(*cpu).cpu, &mut *area) };
    let Some((state, length)) = cpu.xsave() else {
        return 0;
    };
    *area = state;
    length as u32
}

/// See the header.
///
/// # Safety
///
/// `cpu` must come from `emu_cpu_new()`; `area` must be NULL or a state component.
#[no_mangle]
pub unsafe extern "C" fn emu_lbr_xrstor(
    cpu: *mut Handle,
    area: *const [u64; AREA],
    now: Now,
) -> bool {
    // SAFETY: the caller passes a live CPU, and an area or NULL.
    let (handle, area) = unsafe { (&mut *cpu, area.as_ref()) };
    let result = handle.cpu.xrstor(area);
    if result.is_ok() {
        handle.cpu.advance(now);
    }
    handle.publish();
    result.is_ok()
}
