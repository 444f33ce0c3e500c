// SPDX-License-Identifier: GPL-2.0-only
//! Conformance of a bare CPU's performance monitoring and last branch records
//! to Intel's manual (SDM), one row per rule.  There is no operating system: a
//! Multiboot loader starts this program, which prints KTAP to the second serial
//! port and switches the machine off.

#![no_std]
#![no_main]

mod accesses;
mod apic;
mod boot;
mod branches;
mod cpu;
mod door;
mod facts;
mod lbr;
mod lives;
mod msr;
mod pmu;
mod report;
mod rows;
mod runtime;
mod serial;
mod smm;
mod traps;
mod vmx;
mod xsave;

use core::ffi::CStr;

use facts::Facts;
use serial::say;

/// The ACPI controller's PM1 control register: SLP_EN with type 0 is off.
fn power_off() -> ! {
    serial::flush();
    cpu::out16(0xb004, 0x2000);
    loop {
        core::hint::spin_loop();
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    say!("Bail out! {}", info.message());
    power_off()
}

/// `information` is what the Multiboot loader left.
#[no_mangle]
extern "C" fn main(information: &[u32; 5]) -> ! {
    serial::init();
    traps::init();
    apic::init();
    let [_, _, _, _, command_line] = *information;
    // SAFETY: the loader gives the address of a string that ends with 0.
    let line = unsafe { CStr::from_ptr(command_line as usize as *const _) };
    let facts = Facts::parse(line.to_str().unwrap_or_default());
    rows::run(&facts);
    power_off()
}
