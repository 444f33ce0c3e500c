// SPDX-License-Identifier: GPL-2.0-only
//! Counting, for the emulator.

use std::ffi::{c_char, CStr};
use std::fs;
use std::path::Path;

use super::machine::{tell, MachineHandle};
use crate::counters::{MsrAccess, PAGE};

/// The instructions of each CPU.
///
/// # Safety
///
/// `instructions` must be valid for as many numbers as `machine` has CPUs.
unsafe fn all<'a>(machine: &MachineHandle, instructions: *const u64) -> &'a [u64] {
    let count = machine.machine.cpu.count.into();
    // SAFETY: by the promise of the caller.
    unsafe { std::slice::from_raw_parts(instructions, count) }
}

/// See the header.
///
/// # Safety
///
/// `machine` must come from `emu_machine_load()`.
#[no_mangle]
pub unsafe extern "C" fn emu_count_reset(machine: *mut MachineHandle, cpu: u32, instructions: u64) {
    // SAFETY: the caller passes a live machine.
    let counters = unsafe { &mut (*machine).counters };
    counters.reset(cpu as usize, instructions);
}

/// See the header.
///
/// # Safety
///
/// `machine` must come from `emu_machine_load()`.
#[no_mangle]
pub unsafe extern "C" fn emu_count_entry(machine: *mut MachineHandle, cpu: u32, instructions: u64) {
    // SAFETY: the caller passes a live machine.
    let counters = unsafe { &mut (*machine).counters };
    counters.entry(cpu as usize, instructions);
}

/// See the header.
///
/// # Safety
///
/// `machine` must come from `emu_machine_load()`.
#[no_mangle]
pub unsafe extern "C" fn emu_count_exit(
    machine: *mut MachineHandle,
    cpu: u32,
    reason: u32,
    ecx: u32,
    instructions: u64,
) {
    // SAFETY: the caller passes a live machine.
    let counters = unsafe { &mut (*machine).counters };
    // The basic reason is the low half.
    counters.exit(cpu as usize, reason as u16, ecx, instructions);
}

/// See the header.
///
/// # Safety
///
/// `machine` must come from `emu_machine_load()`.
#[no_mangle]
pub unsafe extern "C" fn emu_count_msr(
    machine: *mut MachineHandle,
    cpu: u32,
    index: u32,
    access: u8,
) {
    // SAFETY: the caller passes a live machine.
    let counters = unsafe { &mut (*machine).counters };
    if let Some(access) = MsrAccess::from_number(access) {
        counters.msr(cpu as usize, index, access);
    }
}

/// See the header.
///
/// # Safety
///
/// `machine` must come from `emu_machine_load()`, `bitmap` be a page.
#[no_mangle]
pub unsafe extern "C" fn emu_count_bitmap(
    machine: *mut MachineHandle,
    cpu: u32,
    address: u64,
    bitmap: *const [u8; PAGE],
) {
    // SAFETY: the caller passes a live machine and a page.
    let (counters, bitmap) = unsafe { (&mut (*machine).counters, &*bitmap) };
    counters.bitmap(cpu as usize, address, bitmap);
}

/// See the header.
///
/// # Safety
///
/// `machine` must come from `emu_machine_load()`; `instructions` must be valid for
/// as many numbers as it has CPUs.
#[no_mangle]
pub unsafe extern "C" fn emu_door_write(
    machine: *mut MachineHandle,
    byte: u8,
    instructions: *const u64,
) {
    // SAFETY: the caller passes a live machine.
    let machine = unsafe { &mut *machine };
    // SAFETY: and a number for each CPU.
    let instructions = unsafe { all(machine, instructions) };
    machine
        .door
        .write(byte, &mut machine.counters, instructions);
}

/// See the header.
///
/// # Safety
///
/// `machine` must come from `emu_machine_load()`.
#[no_mangle]
pub unsafe extern "C" fn emu_door_read(machine: *mut MachineHandle) -> u8 {
    // SAFETY: the caller passes a live machine.
    unsafe { &mut (*machine).door }.read()
}

/// See the header.
///
/// # Safety
///
/// `machine` must come from `emu_machine_load()`; `path` must be a string,
/// `instructions` valid for as many numbers as the machine has CPUs, `error` have
/// room for `size` bytes.
#[no_mangle]
pub unsafe extern "C" fn emu_counters_save(
    machine: *mut MachineHandle,
    path: *const c_char,
    instructions: *const u64,
    error: *mut c_char,
    size: usize,
) -> bool {
    // SAFETY: the caller passes a live machine and a string.
    let (machine, path) = unsafe { (&mut *machine, CStr::from_ptr(path)) };
    // SAFETY: and a number for each CPU.
    machine
        .counters
        .advance(unsafe { all(machine, instructions) });
    let path = path.to_string_lossy();
    let saved = machine
        .counters
        .report(None)
        .map_err(|error| error.to_string())
        .and_then(|report| serde_json::to_string_pretty(&report).map_err(|e| e.to_string()))
        .and_then(|text| fs::write(Path::new(&*path), text + "\n").map_err(|e| e.to_string()));
    if let Err(why) = &saved {
        // SAFETY: the caller gives `size` bytes.
        unsafe { tell(&format!("counters {path}: {why}"), error, size) };
    }
    saved.is_ok()
}
