// SPDX-License-Identifier: GPL-2.0-only

//! The provider that KVM sees: entry points that rebuild safe types and delegate.
//!
//! KVM passes what [`vcpu_create`] returned, a [`Vcpu`], as `data`, and calls one
//! operation of a vCPU at a time: that is what makes every reborrow below sound.

use crate::ffi::{kvm_vcpu, kvm_vmx_lbr_ops, KvmVcpu, RegisteredOps, KVM_VMX_LBR_ABI};
use crate::vcpu::Vcpu;
use core::mem::size_of;
use core::ptr::NonNull;
use kernel::ffi::{c_int, c_void};
use kernel::prelude::*;

/// What an MSR access returns to KVM to have a #GP.
const GENERAL_PROTECTION: c_int = 1;

/// The registration of this module as the provider of guest LBR.
pub(crate) struct Registration {
    _ops: RegisteredOps,
}

impl Registration {
    /// Offers guest LBR to the VMs that are created from now on.
    pub(crate) fn new(module: &'static ThisModule) -> Result<Self> {
        let ops = kvm_vmx_lbr_ops {
            abi: KVM_VMX_LBR_ABI,
            size: size_of::<kvm_vmx_lbr_ops>() as u32,
            owner: core::ptr::null_mut(),
            vcpu_create: Some(vcpu_create),
            vcpu_free: Some(vcpu_free),
            refresh: Some(refresh),
            reset: Some(reset),
            is_valid_msr: Some(is_valid_msr),
            get_msr: Some(get_msr),
            set_msr: Some(set_msr),
            get_debugctl: Some(get_debugctl),
            set_debugctl: Some(set_debugctl),
            // set_debugctl() sees all writes.
            debugctl_written: None,
            deliver_pmi: Some(deliver_pmi),
            service: Some(service),
            enter: Some(enter),
            msr_filter_changed: Some(msr_filter_changed),
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
/// `data` must come from [`vcpu_create`], with nobody else using it meanwhile.
unsafe fn vcpu<'a>(data: *mut c_void) -> &'a mut Vcpu {
    // SAFETY: By the safety requirements.
    unsafe { &mut *data.cast::<Vcpu>() }
}

/// Creates the LBR of a vCPU.
///
/// # Safety
///
/// `kvm` must be a valid vCPU, and `data` valid for writes.
unsafe extern "C" fn vcpu_create(kvm: *mut kvm_vcpu, data: *mut *mut c_void) -> c_int {
    let Some(kvm) = NonNull::new(kvm) else {
        return EINVAL.to_errno();
    };
    // SAFETY: KVM frees the vCPU after the last operation, and only operations
    // reach the result.
    let kvm = unsafe { KvmVcpu::new(kvm) };
    let vcpu = Vcpu::new(kvm).and_then(|vcpu| Ok(KBox::new(vcpu, GFP_KERNEL_ACCOUNT)?));
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
unsafe extern "C" fn vcpu_free(data: *mut c_void) {
    // SAFETY: By the safety requirements.
    drop(unsafe { KBox::from_raw(data.cast::<Vcpu>()) });
}

/// Defines an entry point that delegates to a method of the vCPU.
macro_rules! operation {
    ($name:ident($($arg:ident: $type:ty),*) $(-> $return:ty)?, |$vcpu:ident| $body:expr) => {
        /// Delegates to the method of this name of [`Vcpu`].
        ///
        /// # Safety
        ///
        /// See [`vcpu`]; a pointer must be valid for writes.
        unsafe extern "C" fn $name(data: *mut c_void $(, $arg: $type)*) $(-> $return)? {
            // SAFETY: By the safety requirements.
            let $vcpu = unsafe { vcpu(data) };
            $body
        }
    };
}

operation!(refresh(enabled: u32), |vcpu| vcpu.refresh(enabled != 0));
operation!(reset(), |vcpu| vcpu.reset());
operation!(is_valid_msr(msr: u32) -> u32, |vcpu| vcpu.is_valid_msr(msr).into());
operation!(
    get_msr(msr: u32, value: *mut u64, host_initiated: u32) -> c_int,
    |vcpu| match vcpu.get_msr(msr, host_initiated != 0) {
        Some(read) => {
            // SAFETY: By the safety requirements.
            unsafe { *value = read };
            0
        }
        None => GENERAL_PROTECTION,
    }
);
operation!(
    set_msr(msr: u32, value: u64, host_initiated: u32) -> c_int,
    |vcpu| match vcpu.set_msr(msr, value, host_initiated != 0) {
        Some(()) => 0,
        None => GENERAL_PROTECTION,
    }
);
operation!(get_debugctl(vmcs: u64) -> u64, |vcpu| vcpu.get_debugctl(vmcs));
operation!(set_debugctl(debugctl: u64) -> u64, |vcpu| vcpu.set_debugctl(debugctl));
operation!(deliver_pmi(version: u32), |vcpu| vcpu.deliver_pmi(version));
operation!(service(new_slice: u32), |vcpu| vcpu.service(new_slice != 0));
operation!(enter(active: u32), |vcpu| vcpu.enter(active != 0));
operation!(msr_filter_changed(), |vcpu| vcpu.msr_filter_changed());
