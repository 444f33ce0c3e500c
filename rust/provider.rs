// SPDX-License-Identifier: GPL-2.0-only

//! The provider that KVM sees: entry points that rebuild safe types and delegate.
//!
//! KVM passes what [`vcpu_create`] returned, a [`Vcpu`], as `data`, and calls one
//! operation of a vCPU at a time: that is what makes every reborrow below sound.

use crate::ffi::{
    kvm_vcpu, kvm_vmx_lbr_caps, kvm_vmx_lbr_ops, KvmVcpu, LentRegisters, RegisteredOps, VmEntry,
    KVM_VMX_LBR_ABI,
};
use crate::lbr::{Accessor, Debugctl, Description, Facility, GeneralProtection};
use crate::vcpu::Vcpu;
use core::mem::size_of;
use core::ptr::NonNull;
use kernel::ffi::{c_int, c_void};
use kernel::prelude::*;

fn accessor(host_initiated: bool) -> Accessor {
    if host_initiated {
        Accessor::Userspace
    } else {
        Accessor::Guest
    }
}

/// Returns to KVM what an MSR access came to.
fn outcome(result: core::result::Result<(), GeneralProtection>) -> c_int {
    match result {
        Ok(()) => 0,
        Err(GeneralProtection) => 1,
    }
}

/// The registration of this module as the provider of guest LBR.
pub(crate) struct Registration {
    _ops: RegisteredOps,
}

impl Registration {
    /// Offers guest LBR of this facility, which is the host's, to the VMs that are created
    /// from now on. Fails with `ENODEV` if guests cannot have it as `host` describes it.
    pub(crate) fn new<F: Facility<Records: LentRegisters>>(
        module: &'static ThisModule,
        host: &Description,
    ) -> Result<Self> {
        F::new(host).ok_or(ENODEV).inspect_err(|_| {
            pr_info!(
                "this host has an unknown LBR: format {}, {} deep\n",
                host.format,
                host.depth
            );
        })?;
        let ops = kvm_vmx_lbr_ops {
            abi: KVM_VMX_LBR_ABI,
            size: size_of::<kvm_vmx_lbr_ops>() as u32,
            owner: core::ptr::null_mut(),
            vcpu_create: Some(vcpu_create::<F>),
            vcpu_free: Some(vcpu_free::<F>),
            refresh: Some(refresh::<F>),
            reset: Some(reset::<F>),
            is_valid_msr: Some(is_valid_msr::<F>),
            get_msr: Some(get_msr::<F>),
            set_msr: Some(set_msr::<F>),
            debugctl_written: Some(debugctl_written::<F>),
            deliver_pmi: Some(deliver_pmi::<F>),
            service: Some(service::<F>),
            enter: Some(enter::<F>),
            msr_filter_changed: Some(msr_filter_changed::<F>),
        };
        // SAFETY: The functions below are this module's and do what is asked for.
        let ops = unsafe { RegisteredOps::new(ops, module) }?;
        Ok(Self { _ops: ops })
    }
}

/// Rebuilds the vCPU that KVM talks about.
///
/// # Safety
///
/// `data` must come from [`vcpu_create`] of this facility, with nobody else using it
/// meanwhile.
unsafe fn vcpu<'a, F: Facility<Records: LentRegisters>>(data: *mut c_void) -> &'a mut Vcpu<F> {
    // SAFETY: By the safety requirements.
    unsafe { &mut *data.cast::<Vcpu<F>>() }
}

/// Creates the LBR of a vCPU.
///
/// # Safety
///
/// `kvm` must be a valid vCPU, and `data` valid for writes.
unsafe extern "C" fn vcpu_create<F: Facility<Records: LentRegisters>>(
    kvm: *mut kvm_vcpu,
    data: *mut *mut c_void,
) -> c_int {
    let Some(kvm) = NonNull::new(kvm) else {
        return EINVAL.to_errno();
    };
    // SAFETY: KVM frees the vCPU after the last operation, and only operations reach the
    // result, which has the registers as well.
    let vcpu = Vcpu::<F>::new(|perf| unsafe { KvmVcpu::new(kvm, perf.registers()) });
    match vcpu {
        Ok(vcpu) => {
            // SAFETY: By the safety requirements.
            unsafe { *data = KBox::into_raw(vcpu).cast() };
            0
        }
        Err(error) => error.to_errno(),
    }
}

/// Frees the LBR of a vCPU.
///
/// # Safety
///
/// `data` must come from [`vcpu_create`], and no operation may follow.
unsafe extern "C" fn vcpu_free<F: Facility<Records: LentRegisters>>(data: *mut c_void) {
    // SAFETY: By the safety requirements.
    drop(unsafe { KBox::from_raw(data.cast::<Vcpu<F>>()) });
}

/// Defines an entry point that delegates to the vCPU's life.
macro_rules! operation {
    ($name:ident($($arg:ident: $type:ty),*) $(-> $return:ty)?,
     |$life:pat_param, $kvm:pat_param, $perf:pat_param| $body:expr) => {
        /// Delegates to the method of this name of [`Lifecycle`](crate::lbr::Lifecycle).
        ///
        /// # Safety
        ///
        /// See [`vcpu`]; a pointer must be valid for writes.
        unsafe extern "C" fn $name<F: Facility<Records: LentRegisters>>(
            data: *mut c_void
            $(, $arg: $type)*
        ) $(-> $return)? {
            // SAFETY: By the safety requirements.
            let Vcpu { life: $life, kvm: $kvm, perf: $perf } = unsafe { vcpu::<F>(data) };
            $body
        }
    };
}

operation!(refresh(caps: *const kvm_vmx_lbr_caps), |life, kvm, perf| {
    // SAFETY: KVM passes the vCPU's facility or NULL.
    let guest = unsafe { caps.as_ref() }.map(Description::from);
    life.refresh(kvm, perf, guest.as_ref());
});
operation!(reset(), |life, kvm, perf| life.reset(kvm, perf));
operation!(is_valid_msr(msr: u32) -> bool, |life, _, _| life.is_valid_msr(msr));
operation!(
    get_msr(msr: u32, value: *mut u64, host_initiated: bool) -> c_int,
    |life, kvm, perf| {
        let read = life.get_msr(kvm, perf, msr, accessor(host_initiated));
        // SAFETY: By the safety requirements.
        outcome(read.map(|read| unsafe { *value = read }))
    }
);
operation!(
    set_msr(msr: u32, value: u64, host_initiated: bool) -> c_int,
    |life, kvm, perf| outcome(life.set_msr(kvm, perf, msr, value, accessor(host_initiated)))
);
operation!(debugctl_written(debugctl: u64), |life, kvm, perf| {
    life.debugctl_written(kvm, perf, Debugctl::from_raw(debugctl));
});
operation!(deliver_pmi(version: u32), |life, kvm, _| life.deliver_pmi(kvm, version));
operation!(service(new_slice: bool), |life, kvm, perf| life.service(kvm, perf, new_slice));
operation!(enter(), |life, kvm, perf| {
    // SAFETY: This is that operation.
    let entry = unsafe { VmEntry::new() };
    life.enter(kvm, perf, &entry);
});
operation!(msr_filter_changed(), |life, kvm, _| life
    .msr_filter_changed(kvm));
