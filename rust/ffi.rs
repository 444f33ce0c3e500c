// SPDX-License-Identifier: GPL-2.0-only

//! The edge to C: safe types around KVM, perf and the shim.
//!
//! This is the only file that calls C. The sizes and offsets of what both sides
//! share are asserted here, by the generated bindings, and in the shim.

use crate::bindings;
use crate::lbr::{architectural, legacy, Description, Published, Trace, MAX_DEPTH};
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::mem::{align_of, offset_of, size_of};
use core::ops::Range;
use core::ptr::{addr_of_mut, NonNull};
use core::sync::atomic::{AtomicI32, Ordering};
use kernel::error::{from_err_ptr, to_result};
use kernel::prelude::*;

pub(crate) use bindings::{kvm_vcpu, kvm_vmx_lbr_caps, kvm_vmx_lbr_ops, KVM_VMX_LBR_ABI};

/// The values of a facility's LBR MSRs, in a structure of perf's.
///
/// # Safety
///
/// `Structure` must begin with `struct perf_guest_lbr`, and be valid with 0 everywhere.
/// The values must be at `OFFSET`.
pub(crate) unsafe trait LentRegisters {
    /// That structure.
    type Structure;
    /// Where in it the values are, in bytes.
    const OFFSET: usize;
}

/// Implements [`LentRegisters`] for what has the layout of the end of a structure, from its
/// field `$first` on.
macro_rules! lent_registers {
    ($values:ty, $structure:ident, $first:ident) => {
        static_assert!(offset_of!(bindings::$structure, head) == 0);
        static_assert!(
            (offset_of!(bindings::$structure, $first) + size_of::<$values>())
                .next_multiple_of(align_of::<bindings::$structure>())
                == size_of::<bindings::$structure>()
        );
        static_assert!(align_of::<$values>() <= align_of::<bindings::$structure>());

        // SAFETY: The layout is asserted just above; both sides have integers only, in the
        // same order.
        unsafe impl LentRegisters for $values {
            type Structure = bindings::$structure;
            const OFFSET: usize = offset_of!(bindings::$structure, $first);
        }
    };
}

lent_registers!(legacy::Records, perf_guest_lbr_legacy, select);
lent_registers!(architectural::Records, perf_guest_lbr_arch, ctl);
static_assert!(MAX_DEPTH == bindings::PERF_GUEST_LBR_MAX_DEPTH as usize);

impl From<&kvm_vmx_lbr_caps> for Description {
    fn from(caps: &kvm_vmx_lbr_caps) -> Self {
        Self {
            format: caps.format,
            depth: caps.depth,
            from: caps.from,
            to: caps.to,
            info: caps.info,
            tsx: caps.tsx,
            leaf: architectural::Leaf {
                eax: caps.leaf_eax,
                ebx: caps.leaf_ebx,
                ecx: caps.leaf_ecx,
            },
        }
    }
}

/// Returns the LBR facility of this host's CPUs, or `ENODEV`.
pub(crate) fn host_facility() -> Result<Description> {
    let mut caps = kvm_vmx_lbr_caps {
        format: 0,
        depth: 0,
        from: 0,
        to: 0,
        info: 0,
        leaf_eax: 0,
        leaf_ebx: 0,
        leaf_ecx: 0,
        tsx: false,
    };
    // SAFETY: `caps` is valid for writes.
    to_result(unsafe { bindings::kvm_vmx_lbr_get_caps(&mut caps) })?;
    Ok(Description::from(&caps))
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

/// Proof that a VM-Entry is imminent and interrupts are disabled.
pub(crate) struct VmEntry(PhantomData<*mut ()>);

impl VmEntry {
    /// Takes KVM's word for it.
    ///
    /// # Safety
    ///
    /// The result must not outlive the `enter` operation that creates it.
    pub(crate) unsafe fn new() -> Self {
        Self(PhantomData)
    }
}

/// KVM's side of a vCPU.
///
/// # Invariants
///
/// The pointer is valid, and methods are called only while an operation of
/// `struct kvm_vmx_lbr_ops` for that vCPU is being called.
pub(crate) struct KvmVcpu {
    vcpu: NonNull<kvm_vcpu>,
    /// Valid as well.
    registers: NonNull<bindings::perf_guest_lbr>,
}

impl KvmVcpu {
    /// Takes the vCPU that KVM gave to an operation, and the registers that are lent the
    /// LBRs for it.
    ///
    /// # Safety
    ///
    /// Both must be valid until the last use of the result, and every use must be within
    /// an operation of `struct kvm_vmx_lbr_ops` for `vcpu`.
    pub(crate) unsafe fn new(
        vcpu: NonNull<kvm_vcpu>,
        registers: NonNull<bindings::perf_guest_lbr>,
    ) -> Self {
        // INVARIANT: By the safety requirements.
        Self { vcpu, registers }
    }

    /// Tells KVM what it tests before each VM-Entry.
    pub(crate) fn publish(&self, published: Published) {
        // Without an event nothing is granted.
        let lbr = if published.has_event {
            self.registers.as_ptr().cast_const()
        } else {
            core::ptr::null()
        };
        // SAFETY: By the type invariant.
        unsafe {
            bindings::kvm_vmx_lbr_publish(
                self.vcpu.as_ptr(),
                lbr,
                published.passthrough,
                published.has_event,
                published.attention,
            );
        }
    }

    /// Has the service operation called.
    pub(crate) fn request_service(&self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::kvm_vmx_lbr_request(self.vcpu.as_ptr()) }
    }

    /// Reads the guest's `IA32_DEBUGCTL`.
    pub(crate) fn read_debugctl(&self) -> u64 {
        // SAFETY: By the type invariant.
        unsafe { bindings::kvm_vmx_lbr_read_debugctl(self.vcpu.as_ptr()) }
    }

    /// Writes the guest's `IA32_DEBUGCTL`.
    pub(crate) fn write_debugctl(&self, debugctl: u64) {
        // SAFETY: By the type invariant.
        unsafe { bindings::kvm_vmx_lbr_write_debugctl(self.vcpu.as_ptr(), debugctl) }
    }

    /// Reads the guest's `IA32_LBR_CTL`.
    pub(crate) fn read_ctl(&self) -> u64 {
        // SAFETY: By the type invariant.
        unsafe { bindings::kvm_vmx_lbr_read_ctl(self.vcpu.as_ptr()) }
    }

    /// Writes the guest's `IA32_LBR_CTL`.
    pub(crate) fn write_ctl(&self, ctl: u64) {
        // SAFETY: By the type invariant.
        unsafe { bindings::kvm_vmx_lbr_write_ctl(self.vcpu.as_ptr(), ctl) }
    }

    /// Returns whether the guest's LBRs are frozen.
    pub(crate) fn is_frozen(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { bindings::kvm_vmx_lbr_is_frozen(self.vcpu.as_ptr()) }
    }

    /// Returns whether the vCPU's linear addresses can hold `address`.
    pub(crate) fn is_canonical(&self, address: u64) -> bool {
        // SAFETY: By the type invariant.
        unsafe { !bindings::kvm_vmx_lbr_is_noncanonical(self.vcpu.as_ptr(), address) }
    }

    /// Intercepts all accesses of these MSRs, or none but those that the VM's MSR filter
    /// denies.
    pub(crate) fn set_intercept(&self, msrs: Range<u32>, intercept: bool) {
        const MSR_RW: i32 = (bindings::KVM_VMX_LBR_MSR_R | bindings::KVM_VMX_LBR_MSR_W) as i32;
        let vcpu = self.vcpu.as_ptr();
        let first = msrs.start;
        match msrs.end.saturating_sub(first) {
            0 => {}
            // SAFETY: By the type invariant.
            1 => unsafe { bindings::vmx_set_intercept_for_msr(vcpu, first, MSR_RW, intercept) },
            // SAFETY: By the type invariant.
            count => unsafe {
                bindings::vmx_set_intercept_for_msr_range(vcpu, first, count, intercept);
            },
        }
    }

    /// Fires a tracepoint about this vCPU.
    pub(crate) fn trace(&self, trace: Trace) {
        // SAFETY: By the type invariant.
        let id = unsafe { bindings::kvm_vmx_lbr_vcpu_id(self.vcpu.as_ptr()) };
        // SAFETY: Tracepoints take any value, in any context.
        unsafe {
            match trace {
                Trace::Owned => bindings::guest_lbr_trace_owned(id),
                Trace::Lost => bindings::guest_lbr_trace_lost(id),
                Trace::Regained => bindings::guest_lbr_trace_regained(id),
                Trace::Released => bindings::guest_lbr_trace_released(id),
                Trace::CreateFailed(errno) => {
                    bindings::guest_lbr_trace_create_failed(id, errno.0);
                }
            }
        }
    }
}

/// One guest's LBR registers: perf moves them between here and the LBRs of a CPU.
///
/// perf writes `cpu` at any moment as long as there is an event, and the rest while the
/// LBRs are granted. Without the grant the rest is the [`GuestLbrEvent`]'s.
struct Registers<R: LentRegisters>(KBox<UnsafeCell<R::Structure>>);

impl<R: LentRegisters> Registers<R> {
    /// The registers of a vCPU, which nobody moves yet.
    fn new(values: R) -> Result<Self> {
        // SAFETY: By the trait's safety requirements.
        let structure = unsafe { core::mem::zeroed() };
        let registers = Self(KBox::new(UnsafeCell::new(structure), GFP_KERNEL_ACCOUNT)?);
        // SAFETY: Both pointers are valid, and nobody else has them.
        unsafe {
            (*registers.head().as_ptr()).cpu = bindings::PERF_GUEST_LBR_NO_CPU;
            registers.values().write(values);
        }
        Ok(registers)
    }

    fn head(&self) -> NonNull<bindings::perf_guest_lbr> {
        // SAFETY: It is not NULL. By the trait's safety requirements the head comes first.
        unsafe { NonNull::new_unchecked(self.0.get().cast()) }
    }

    fn values(&self) -> *mut R {
        // SAFETY: By the trait's safety requirements that is within the structure.
        unsafe { self.0.get().byte_add(R::OFFSET) }.cast()
    }
}

/// perf's side of a vCPU: the guest LBR event, if there is one. Dropping it releases that.
///
/// # Invariants
///
/// - `event` is valid, and was created with `registers`, which no other event has.
/// - The LBRs are not granted without an event. If they are not granted, they become so
///   in [`GuestLbrEvent::grant`] alone.
pub(crate) struct GuestLbrEvent<R: LentRegisters> {
    event: Option<NonNull<bindings::perf_event>>,
    registers: Registers<R>,
}

impl<R: LentRegisters> GuestLbrEvent<R> {
    /// Creates the registers with these values, and no event.
    pub(crate) fn new(values: R) -> Result<Self> {
        // INVARIANT: These registers are new.
        Ok(Self {
            event: None,
            registers: Registers::new(values)?,
        })
    }

    /// Returns the registers, for KVM to see whether the LBRs are granted. They are valid
    /// as long as `self` is, wherever it moves.
    pub(crate) fn registers(&self) -> NonNull<bindings::perf_guest_lbr> {
        self.registers.head()
    }

    /// Creates an event of the current thread. May sleep.
    pub(crate) fn create(&mut self) -> Result {
        self.release();
        // SAFETY: The registers stay where they are, and `self` keeps them until it has
        // released the event.
        let event = from_err_ptr(unsafe {
            bindings::perf_guest_lbr_create_event(self.registers.head().as_ptr())
        })?;
        // INVARIANT: perf returned a valid event or an error.
        self.event = Some(NonNull::new(event).ok_or(ENODEV)?);
        Ok(())
    }

    /// Releases the event, if there is one. May sleep.
    pub(crate) fn release(&mut self) {
        // INVARIANT: There is no event any more, and perf is done with the registers.
        if let Some(event) = self.event.take() {
            // SAFETY: By the type invariant, and nobody uses it any more.
            unsafe { bindings::perf_event_release_kernel(event.as_ptr()) };
        }
    }

    /// Returns whether there is an event.
    pub(crate) fn exists(&self) -> bool {
        self.event.is_some()
    }

    /// Returns whether there is an event, and it belongs to the current thread.
    pub(crate) fn is_ours(&self) -> bool {
        // SAFETY: By the type invariant.
        let is_ours =
            |event: NonNull<_>| unsafe { bindings::guest_lbr_event_is_ours(event.as_ptr()) };
        self.event.is_some_and(is_ours)
    }

    /// Asks for the LBRs of this CPU.
    pub(crate) fn grant(&mut self, _: &VmEntry) -> bool {
        // SAFETY: By the type invariant, and interrupts are disabled. `&mut` says that
        // nobody looks at the registers.
        let grant = |event: NonNull<_>| unsafe { bindings::perf_guest_lbr_grant(event.as_ptr()) };
        self.event.is_some_and(grant)
    }

    /// Reads an LBR MSR of this CPU, if its LBRs are granted.
    pub(crate) fn read(&self, msr: u32) -> Option<u64> {
        let mut value = 0;
        // SAFETY: By the type invariant; `value` is valid for writes.
        let read = |event: NonNull<_>| unsafe {
            bindings::perf_guest_lbr_read(event.as_ptr(), msr, &mut value)
        };
        self.event.is_some_and(read).then_some(value)
    }

    /// Writes an LBR MSR of this CPU, if its LBRs are granted.
    pub(crate) fn write(&mut self, msr: u32, value: u64) -> bool {
        // SAFETY: By the type invariant.
        let write = |event: NonNull<_>| unsafe {
            bindings::perf_guest_lbr_write(event.as_ptr(), msr, value)
        };
        self.event.is_some_and(write)
    }

    /// Ends the grant, if there is one, and returns the registers. May sleep.
    pub(crate) fn park(&mut self) -> &mut R {
        // SAFETY: The pointer is valid. perf writes the field at any moment, and as the last
        // one when it ends the grant.
        let cpu =
            unsafe { AtomicI32::from_ptr(addr_of_mut!((*self.registers.head().as_ptr()).cpu)) };
        if cpu.load(Ordering::Acquire) != bindings::PERF_GUEST_LBR_NO_CPU {
            if let Some(event) = self.event {
                // SAFETY: By the type invariant; `&mut` says that nobody asks for the grant
                // meanwhile.
                unsafe { bindings::perf_guest_lbr_park(event.as_ptr()) };
            }
        }
        // SAFETY: The LBRs are not granted, and by the type invariant that stays so as
        // long as the result borrows `self`: perf leaves the registers alone, and so does
        // KVM.
        unsafe { &mut *self.registers.values() }
    }

    /// Has perf load the registers at the next grant. The LBRs are not granted.
    pub(crate) fn mark_dirty(&mut self) {
        // SAFETY: The pointer is valid. perf looks at the field in grant() alone.
        unsafe { (*self.registers.head().as_ptr()).dirty = 1 };
    }
}

impl<R: LentRegisters> Drop for GuestLbrEvent<R> {
    fn drop(&mut self) {
        self.release();
    }
}
