// SPDX-License-Identifier: GPL-2.0-only

//! The edge to C: safe types around KVM, perf, the LBR MSRs and the shim.
//!
//! This is the only file that calls C. The sizes and offsets of what both sides
//! share are asserted here, by the generated bindings, and in the shim.

use crate::bindings;
use crate::lbr::{self, Description, Facility, Hardware, Register};
use core::marker::PhantomData;
use core::mem::{align_of, size_of};
use core::ptr::NonNull;
use kernel::error::{from_err_ptr, to_result};
use kernel::ffi::{c_char, c_ulong, c_void};
use kernel::prelude::*;
use kernel::sync::lock::{Backend, Lock};
use kernel::sync::Arc;

pub(crate) use bindings::{kvm_vcpu, kvm_vmx_lbr_ops, KVM_VMX_LBR_ABI};

static_assert!(size_of::<lbr::Records>() == size_of::<bindings::guest_lbr_records>());
static_assert!(align_of::<lbr::Records>() == align_of::<bindings::guest_lbr_records>());
static_assert!(lbr::MAX_DEPTH == bindings::GUEST_LBR_MAX_DEPTH as usize);

/// Returns the LBR facility of this host's CPUs, or `ENODEV`.
pub(crate) fn host_facility() -> Result<Facility> {
    let mut caps = bindings::kvm_vmx_lbr_caps {
        format: 0,
        depth: 0,
        from: 0,
        to: 0,
        info: 0,
        tsx: 0,
    };
    // SAFETY: `caps` is valid for writes.
    to_result(unsafe { bindings::kvm_vmx_lbr_get_caps(&mut caps) })?;
    Facility::new(&Description {
        format: caps.format,
        depth: caps.depth,
        from: caps.from,
        to: caps.to,
        info: caps.info,
        tsx: caps.tsx != 0,
    })
    .ok_or(ENODEV)
}

/// Returns the time in jiffies.
pub(crate) fn jiffies() -> u64 {
    // SAFETY: It only reads a global variable.
    unsafe { bindings::guest_lbr_jiffies() }
}

/// A provider that KVM knows. Dropping it makes KVM forget it.
///
/// # Invariants
///
/// `ops` was registered and not unregistered yet.
pub(crate) struct RegisteredOps {
    ops: KBox<kvm_vmx_lbr_ops>,
}

// SAFETY: The table is only read, and its functions may be called by any thread.
unsafe impl Send for RegisteredOps {}
// SAFETY: As above.
unsafe impl Sync for RegisteredOps {}

impl RegisteredOps {
    /// Registers `ops` on behalf of `module`.
    ///
    /// # Safety
    ///
    /// The functions in `ops` must do what `linux/kvm_vmx_lbr.h` asks for, and be
    /// part of `module`.
    pub(crate) unsafe fn new(
        mut ops: kvm_vmx_lbr_ops,
        module: &'static ThisModule,
    ) -> Result<Self> {
        ops.owner = module.as_ptr().cast();
        let ops = KBox::new(ops, GFP_KERNEL)?;
        // SAFETY: KVM pins the module as long as a VM uses the table, which stays
        // where it is until drop() unregisters it when the module exits.
        to_result(unsafe { bindings::kvm_vmx_register_lbr_ops(&*ops) })?;
        // INVARIANT: Just done.
        Ok(Self { ops })
    }
}

impl Drop for RegisteredOps {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it is registered, and since the module
        // goes there is no VM that uses it.
        unsafe { bindings::kvm_vmx_unregister_lbr_ops(&*self.ops) }
    }
}

/// What can be traced about a vCPU.
pub(crate) enum Trace {
    /// It got the facility.
    Owned,
    /// The host has the facility.
    Lost,
    /// It got the facility back.
    Regained,
    /// It does not use the facility any more.
    Released,
    /// perf refused an event.
    CreateFailed(Error),
}

/// KVM's side of a vCPU.
///
/// # Invariants
///
/// The pointer is valid, and methods are called only while an operation of
/// `struct kvm_vmx_lbr_ops` for that vCPU is being called.
pub(crate) struct KvmVcpu(NonNull<kvm_vcpu>);

impl KvmVcpu {
    /// Takes the vCPU that KVM gave to an operation.
    ///
    /// # Safety
    ///
    /// `vcpu` must be valid until the last use of the result, and every use must be
    /// within an operation of `struct kvm_vmx_lbr_ops` for it.
    pub(crate) unsafe fn new(vcpu: NonNull<kvm_vcpu>) -> Self {
        // INVARIANT: By the safety requirements.
        Self(vcpu)
    }

    /// Tells KVM what it tests before each VM-entry.
    pub(crate) fn publish<T: EventOwner>(
        &self,
        event: Option<&PerfEvent<T>>,
        passthrough: bool,
        attention: bool,
    ) {
        let event = event.map_or(core::ptr::null_mut(), |event| event.event.as_ptr());
        // SAFETY: By the type invariant; `event` is null or valid, and whoever
        // releases it publishes another before.
        unsafe {
            bindings::kvm_vmx_lbr_publish(
                self.0.as_ptr(),
                event,
                passthrough.into(),
                attention.into(),
            );
        }
    }

    /// Has the service operation called.
    pub(crate) fn request(&self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::kvm_vmx_lbr_request(self.0.as_ptr()) }
    }

    /// Reads `IA32_DEBUGCTL` in the VMCS of the loaded vCPU.
    pub(crate) fn read_debugctl(&self) -> u64 {
        // SAFETY: By the type invariant.
        unsafe { bindings::kvm_vmx_lbr_read_debugctl(self.0.as_ptr()) }
    }

    /// Writes `IA32_DEBUGCTL` in the VMCS of the loaded vCPU.
    pub(crate) fn write_debugctl(&self, debugctl: u64) {
        // SAFETY: By the type invariant.
        unsafe { bindings::kvm_vmx_lbr_write_debugctl(self.0.as_ptr(), debugctl) }
    }

    /// Returns whether the vCPU's linear addresses can hold `address`.
    pub(crate) fn is_canonical(&self, address: u64) -> bool {
        // SAFETY: By the type invariant.
        unsafe { bindings::kvm_vmx_lbr_is_noncanonical(self.0.as_ptr(), address) == 0 }
    }

    /// Intercepts all accesses of `msr`, or none but those that the VM's MSR filter
    /// denies.
    pub(crate) fn set_intercept(&self, msr: u32, intercept: bool) {
        const MSR_RW: i32 = (bindings::KVM_VMX_LBR_MSR_R | bindings::KVM_VMX_LBR_MSR_W) as i32;
        // SAFETY: By the type invariant.
        unsafe {
            bindings::vmx_set_intercept_for_msr(self.0.as_ptr(), msr, MSR_RW, intercept);
        }
    }

    /// Fires a tracepoint about this vCPU.
    pub(crate) fn trace(&self, trace: Trace) {
        // SAFETY: By the type invariant.
        let id = unsafe { bindings::kvm_vmx_lbr_vcpu_id(self.0.as_ptr()) };
        // SAFETY: Tracepoints take any value, in any context.
        unsafe {
            match trace {
                Trace::Owned => bindings::guest_lbr_trace_owned(id),
                Trace::Lost => bindings::guest_lbr_trace_lost(id),
                Trace::Regained => bindings::guest_lbr_trace_regained(id),
                Trace::Released => bindings::guest_lbr_trace_released(id),
                Trace::CreateFailed(error) => {
                    bindings::guest_lbr_trace_create_failed(id, error.to_errno());
                }
            }
        }
    }
}

/// Who keeps the records of a guest LBR event.
///
/// perf calls the methods on the event's CPU, with interrupts disabled and its own
/// lock held: they may access the LBR MSRs and take raw spinlocks, nothing else.
pub(crate) trait EventOwner: Send + Sync {
    /// The event has got the facility; `intact` if its records are still there.
    fn gained(&self, intact: bool);
    /// The event is about to lose the facility.
    fn lost(&self);
    /// The owner's copy of the records is wanted.
    fn sync(&self);
}

/// A guest LBR event of perf's. Dropping it releases it.
///
/// # Invariants
///
/// `event` is valid. perf uses `callbacks` and what its `data` points to, which is
/// `_owner`, until the event is released.
pub(crate) struct PerfEvent<T: EventOwner> {
    event: NonNull<bindings::perf_event>,
    _callbacks: KBox<bindings::perf_guest_lbr_owner>,
    _owner: Arc<T>,
}

impl<T: EventOwner> PerfEvent<T> {
    /// Creates a guest LBR event of the current thread for `owner`.
    pub(crate) fn new(owner: Arc<T>) -> Result<Self> {
        let mut callbacks = KBox::new(
            bindings::perf_guest_lbr_owner {
                gained: Some(gained::<T>),
                lost: Some(lost::<T>),
                sync: Some(sync::<T>),
                data: core::ptr::from_ref::<T>(&owner).cast_mut().cast(),
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        // SAFETY: `callbacks` and `owner` stay where they are, and alive, until
        // drop() has released the event.
        let event =
            from_err_ptr(unsafe { bindings::perf_guest_lbr_create_event(&mut *callbacks) })?;
        // INVARIANT: perf returned a valid event or an error.
        Ok(Self {
            event: NonNull::new(event).ok_or(ENODEV)?,
            _callbacks: callbacks,
            _owner: owner,
        })
    }

    /// Returns whether the event belongs to the current thread.
    pub(crate) fn is_ours(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { bindings::guest_lbr_event_is_ours(self.event.as_ptr()) != 0 }
    }

    /// Has perf schedule the event again if it is in ERROR state. May sleep.
    pub(crate) fn enable(&self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::perf_event_enable(self.event.as_ptr()) }
    }

    /// Has perf call [`EventOwner::sync`] on the CPU that has the records. May sleep.
    pub(crate) fn sync(&self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::perf_guest_lbr_sync_event(self.event.as_ptr()) }
    }
}

impl<T: EventOwner> Drop for PerfEvent<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; no callback follows.
        unsafe { bindings::perf_event_release_kernel(self.event.as_ptr()) };
    }
}

/// The event has got the facility.
///
/// # Safety
///
/// `data` must be that of a [`PerfEvent<T>`] that is not released.
unsafe extern "C" fn gained<T: EventOwner>(data: *mut c_void, intact: u32) {
    // SAFETY: By the safety requirements and the type invariant of `PerfEvent`.
    unsafe { &*data.cast::<T>() }.gained(intact != 0);
}

/// The event is about to lose the facility.
///
/// # Safety
///
/// `data` must be that of a [`PerfEvent<T>`] that is not released.
unsafe extern "C" fn lost<T: EventOwner>(data: *mut c_void) {
    // SAFETY: By the safety requirements and the type invariant of `PerfEvent`.
    unsafe { &*data.cast::<T>() }.lost();
}

/// The copy of the records is wanted.
///
/// # Safety
///
/// `data` must be that of a [`PerfEvent<T>`] that is not released.
unsafe extern "C" fn sync<T: EventOwner>(data: *mut c_void) {
    // SAFETY: By the safety requirements and the type invariant of `PerfEvent`.
    unsafe { &*data.cast::<T>() }.sync();
}

/// The backend of [`RawSpinLock`].
pub(crate) struct RawSpinLockIrqsave;

// SAFETY: `raw_spinlock_t` ensures mutual exclusion; `relock` is the default one.
unsafe impl Backend for RawSpinLockIrqsave {
    type State = kernel::bindings::raw_spinlock_t;
    type GuardState = c_ulong;

    unsafe fn init(
        ptr: *mut Self::State,
        name: *const c_char,
        key: *mut kernel::bindings::lock_class_key,
    ) {
        // SAFETY: The caller ensures that all three are valid, for long enough.
        unsafe { bindings::guest_lbr_lock_init(ptr.cast(), name, key.cast()) }
    }

    unsafe fn lock(ptr: *mut Self::State) -> Self::GuardState {
        // SAFETY: The caller ensures that the lock was initialised.
        unsafe { bindings::guest_lbr_lock(ptr.cast()) }
    }

    unsafe fn unlock(ptr: *mut Self::State, flags: &Self::GuardState) {
        // SAFETY: The caller owns the lock and passes what lock() returned.
        unsafe { bindings::guest_lbr_unlock(ptr.cast(), *flags) }
    }
}

/// A raw spinlock that keeps interrupts disabled: it can be taken with perf's locks
/// held.
pub(crate) type RawSpinLock<T> = Lock<T, RawSpinLockIrqsave>;

/// Returns an initialiser of a lock around `data`.
pub(crate) fn new_raw_spinlock<T>(data: T) -> impl PinInit<RawSpinLock<T>> {
    RawSpinLock::new(
        data,
        kernel::c_str!("guest_lbr records"),
        kernel::static_lock_class!(),
    )
}

/// Proof that interrupts are disabled: the code stays on this CPU, and perf does not
/// move its LBR facility.
pub(crate) struct ThisCpu<'a>(PhantomData<(&'a (), *mut ())>);

/// Calls `f` with the lock held and thus interrupts disabled.
pub(crate) fn with_locked<T, R>(
    lock: &RawSpinLock<T>,
    f: impl FnOnce(&mut T, ThisCpu<'_>) -> R,
) -> R {
    let mut guard = lock.lock();
    f(&mut guard, ThisCpu(PhantomData))
}

/// The LBR MSRs of this CPU.
pub(crate) struct Msrs<'a> {
    facility: &'a Facility,
    _cpu: ThisCpu<'a>,
}

impl<'a> Msrs<'a> {
    /// Gives access to the MSRs of the `facility` that this CPU has.
    pub(crate) fn new(facility: &'a Facility, cpu: ThisCpu<'a>) -> Self {
        Self {
            facility,
            _cpu: cpu,
        }
    }

    fn numbers(&self) -> bindings::guest_lbr_msrs {
        bindings::guest_lbr_msrs {
            depth: self.facility.depth(),
            from: self.facility.first_from(),
            to: self.facility.first_to(),
            info: self.facility.first_info(),
            sign_bits: self.facility.sign_bits_of_from(),
        }
    }
}

impl Hardware for Msrs<'_> {
    fn cpu(&self) -> u32 {
        // SAFETY: Interrupts are disabled, see `ThisCpu`.
        unsafe { bindings::guest_lbr_cpu() }
    }

    fn save(&mut self, records: &mut lbr::Records) {
        let records = core::ptr::from_mut(records).cast();
        // SAFETY: The layouts are the same, asserted above; the depth is not
        // greater than the arrays by the invariant of `Facility`.
        unsafe { bindings::guest_lbr_save(&self.numbers(), records) }
    }

    fn load(&mut self, records: &lbr::Records) {
        let records = core::ptr::from_ref(records).cast();
        // SAFETY: As in save().
        unsafe { bindings::guest_lbr_load(&self.numbers(), records) }
    }

    fn read(&mut self, register: Register) -> u64 {
        self.facility.msr(register).map_or(0, |msr| {
            // SAFETY: The CPU has this MSR.
            unsafe { bindings::guest_lbr_rdmsr(msr) }
        })
    }

    fn write(&mut self, register: Register, value: u64) {
        if let Some(msr) = self.facility.msr(register) {
            // SAFETY: The CPU has this MSR, and the facility accepts the value.
            unsafe { bindings::guest_lbr_wrmsr(msr, value) }
        }
    }
}
