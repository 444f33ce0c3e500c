// SPDX-License-Identifier: GPL-2.0-only
//! The machine as a whole, for the emulator.

use std::ffi::{c_char, CStr};
use std::path::Path;

use crate::counters::{door::Door, Counters};
use crate::cpuid::{self, Registers};
use crate::machine::Machine;
use crate::random::Random;

/// The emulated machine.
#[derive(Debug)]
pub struct MachineHandle {
    pub(super) machine: Machine,
    pub(super) random: Random,
    pub(super) counters: Counters,
    pub(super) door: Door,
}

/// Writes as much of `message` as fits, and a terminator.
///
/// # Safety
///
/// `place` must have room for `size` bytes.
pub(super) unsafe fn tell(message: &str, place: *mut c_char, size: usize) {
    let length = message.len().min(size.saturating_sub(1));
    if size > 0 {
        // SAFETY: of the `size` bytes `length` and a terminator are written.
        unsafe {
            std::ptr::copy_nonoverlapping(message.as_ptr(), place.cast(), length);
            *place.add(length) = 0;
        }
    }
}

/// See the header.
///
/// # Safety
///
/// `path` must be a string, `error` have room for `size` bytes.
#[no_mangle]
pub unsafe extern "C" fn emu_machine_load(
    path: *const c_char,
    error: *mut c_char,
    size: usize,
) -> *mut MachineHandle {
    // SAFETY: the caller passes a string.
    let path = unsafe { CStr::from_ptr(path) };
    match Machine::load(Path::new(&*path.to_string_lossy())) {
        Ok(machine) => Box::into_raw(Box::new(MachineHandle {
            random: Random::new(machine.seed),
            counters: Counters::new(machine.cpu.count.into()),
            door: Door::default(),
            machine,
        })),
        Err(why) => {
            // SAFETY: the caller gives `size` bytes.
            unsafe { tell(&why.to_string(), error, size) };
            std::ptr::null_mut()
        }
    }
}

/// See the header.
///
/// # Safety
///
/// `machine` must come from `emu_machine_load()`, `model` be a string.
#[no_mangle]
pub unsafe extern "C" fn emu_machine_is(
    machine: *const MachineHandle,
    model: *const c_char,
    count: u32,
    ips: u32,
) -> bool {
    // SAFETY: the caller passes a live machine and a string.
    let (machine, model) = unsafe { (&(*machine).machine, CStr::from_ptr(model)) };
    model.to_bytes() == machine.cpu.model.as_bytes()
        && count == u32::from(machine.cpu.count)
        && ips == machine.cpu.ips
}

/// See the header.
///
/// # Safety
///
/// `machine` must come from `emu_machine_load()`.
#[no_mangle]
pub unsafe extern "C" fn emu_machine_linear_address_bits(machine: *const MachineHandle) -> u8 {
    // SAFETY: the caller passes a live machine.
    unsafe { &(*machine).machine }.cpu.linear_address_bits
}

/// See the header.
///
/// # Safety
///
/// `machine` must come from `emu_machine_load()`, `registers` be valid.
#[no_mangle]
pub unsafe extern "C" fn emu_cpuid(
    machine: *const MachineHandle,
    leaf: u32,
    subleaf: u32,
    registers: *mut Registers,
) {
    // SAFETY: the caller passes a live machine and valid registers.
    let (machine, registers) = unsafe { (&(*machine).machine, &mut *registers) };
    cpuid::amend(machine, leaf, subleaf, registers);
}

/// See the header.
///
/// # Safety
///
/// `machine` must come from `emu_machine_load()`.
#[no_mangle]
pub unsafe extern "C" fn emu_random(machine: *mut MachineHandle) -> u64 {
    // SAFETY: the caller passes a live machine.
    unsafe { &mut (*machine).random }.next_u64()
}

/// See the header.
///
/// # Safety
///
/// `machine` must come from `emu_machine_load()`.
#[no_mangle]
pub unsafe extern "C" fn emu_machine_has_arch_lbr(machine: *const MachineHandle) -> bool {
    // SAFETY: the caller passes a live machine.
    unsafe { &(*machine).machine }.lbr.is_architectural()
}
