// SPDX-License-Identifier: GPL-2.0-only

//! Which MSRs a facility has and what they accept, as tables.

mod architectural;
mod legacy;

use lbr::{Accessor, Description, Facility};

fn canonical_48(address: u64) -> bool {
    let sign = (address as i64) << 16 >> 16;
    sign as u64 == address
}

/// Does whatever a guest or userspace can do with a facility, in the hope of a panic.
fn try_all<F: Facility>(description: &Description, msrs: &[u32], value: u64) {
    let Some(facility) = F::new(description) else {
        return;
    };
    assert!(facility.passed_through().flatten().count() < 128);
    let Description { from, to, info, .. } = *description;
    let bases = [from, to, info].map(|first| [first.wrapping_sub(1), first]);
    for msr in msrs.iter().chain(bases.iter().flatten()) {
        if let Some(register) = facility.register(*msr) {
            for accessor in [Accessor::Guest, Accessor::Userspace] {
                let _ = facility.accept(register, value, accessor, canonical_48);
            }
        }
    }
}
