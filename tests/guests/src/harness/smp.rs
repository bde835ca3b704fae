//! Other vCPUs: started for one function at a time, down in between.

use super::machine::{info, mfn_of, shared};
use super::time::spin;
use super::xen::{vcpu_op, vcpu_op0};
use super::{runner, user};
use crate::arch::entry::{
    KERNEL_SP_TOP, MAX_VCPUS, STACK_SIZE, STUB_EVENT, STUB_FAILSAFE, STUB_SYSCALL, ap_entry,
    stack_base, stub,
};
use crate::arch::{memory, vcpu};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering::SeqCst};
use xenner_xen_abi::arch_x86_64::*;
use xenner_xen_abi::vcpu::*;

static JOB: [AtomicUsize; MAX_VCPUS] = [const { AtomicUsize::new(0) }; MAX_VCPUS];
static DONE: [AtomicU64; MAX_VCPUS] = [const { AtomicU64::new(0) }; MAX_VCPUS];
static FUNCTION: [AtomicPtr<Job>; MAX_VCPUS] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_VCPUS];
static INITIALISED: [AtomicBool; MAX_VCPUS] = [const { AtomicBool::new(false) }; MAX_VCPUS];

/// What another vCPU runs.
pub struct Job {
    /// The function.
    pub run: fn(),
}

/// vCPUs of the domain, up or not.
pub fn count() -> usize {
    (0..MAX_VCPUS as u64)
        .take_while(|&i| vcpu_op0(VCPUOP_IS_UP, i) >= 0)
        .count()
}

/// The state that vCPU `id` starts with.
pub fn context(id: usize) -> VcpuGuestContext {
    let mut c = VcpuGuestContext {
        flags: VGCF_IN_KERNEL,
        ..VcpuGuestContext::default()
    };
    c.user_regs.rip = ap_entry();
    c.user_regs.cs = FLAT_KERNEL_CS;
    c.user_regs.ss = FLAT_KERNEL_SS;
    c.user_regs.rsp = stack_base(id) + STACK_SIZE;
    c.user_regs.rflags = 0x202;
    c.kernel_ss = FLAT_KERNEL_SS.into();
    c.kernel_sp = stack_base(id) + KERNEL_SP_TOP;
    c.ctrlreg[3] = mfn_of(info().pt_base) << 12;
    c.event_callback_eip = stub(STUB_EVENT);
    c.failsafe_callback_eip = stub(STUB_FAILSAFE);
    c.syscall_callback_eip = stub(STUB_SYSCALL);
    for t in runner::traps() {
        c.trap_ctxt[usize::from(t.vector)] = t;
    }
    c
}

/// Initialise vCPU `id` unless that was done; 0 or the error.
pub fn initialise(id: usize) -> i64 {
    if INITIALISED[id].load(SeqCst) {
        return 0;
    }
    let v = vcpu::nth(id);
    v.info.set(shared() + id as u64 * 64);
    memory::write8(v.info.get() + 1, 1);
    let mut c = context(id);
    let r = vcpu_op(VCPUOP_INITIALISE, id as u64, &mut c);
    INITIALISED[id].store(r == 0, SeqCst);
    r
}

/// Start a job on another vCPU; 0 or the error. The job table must outlive it.
pub fn start(id: usize, job: &'static Job) -> i64 {
    let r = initialise(id);
    if r != 0 {
        return r;
    }
    FUNCTION[id].store((&raw const *job).cast_mut(), SeqCst);
    JOB[id].fetch_add(1, SeqCst);
    vcpu_op0(VCPUOP_UP, id as u64)
}

/// Wait until the job is done and the vCPU is down.
pub fn join(id: usize) -> bool {
    spin(10_000, || {
        DONE[id].load(SeqCst) == JOB[id].load(SeqCst) as u64
    }) && spin(10_000, || vcpu_op0(VCPUOP_IS_UP, id as u64) == 0)
}

/// Entered by other vCPUs.
pub fn ap_main() -> ! {
    let id = vcpu::id();
    // the user address space is not part of the context
    user::load();
    loop {
        if !crate::arch::probe::guarded(run_job) {
            super::console::line(format_args!(
                "# vcpu {id}: unexpected {:x?}",
                vcpu::this().trap.get()
            ));
        }
        DONE[id].store(JOB[id].load(SeqCst) as u64, SeqCst);
        vcpu_op0(VCPUOP_DOWN, id as u64);
    }
}

extern "C" fn run_job() {
    if let Some(job) = vcpu::static_ref(FUNCTION[vcpu::id()].load(SeqCst)) {
        (job.run)();
    }
}
