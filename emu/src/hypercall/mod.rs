//! Hypercalls answered in ring 0, and the way to the VMM for the others.
//!
//! The entry code calls [`TABLE`] by number with the six argument registers; a handler's
//! answer goes to rax. docs/hypercalls.md lists each with its state.
// UNSAFETY: one table entry is entry code.
#![expect(unsafe_code)]

pub mod event_channel;
pub mod misc;
pub mod mmu;
pub mod mmuext;
pub mod multicall;
pub mod sched;
pub mod vcpu_op;

use xenner_emu_abi::boot::{FLAG_RING0_SLOW, FLAG_SYSCALL_STAYS_USER};
use xenner_emu_abi::mailbox::Regs;
use xenner_xen_abi::errno::ENOSYS;
use xenner_xen_abi::xen::*;

use crate::mem::{Fault, boot_info, patch_code, read_guest_u8};
use crate::percpu::Vcpu;
use crate::{trap, vmm};

/// A handler: the argument registers rdi, rsi, rdx, r10, r8, r9 in, rax out.
pub type Handler = extern "C" fn(u64, u64, u64, u64, u64, u64) -> i64;

unsafe extern "C" {
    /// Completes the frame and calls [`with_regs`]. Only the entry code may call it.
    safe fn hypercall_with_regs(a: u64, b: u64, c: u64, d: u64, e: u64, f: u64) -> i64;
}

macro_rules! forward {
    ($name:ident, $nr:expr) => {
        extern "C" fn $name(a: u64, b: u64, c: u64, d: u64, e: u64, f: u64) -> i64 {
            vmm::hypercall($nr, [a, b, c, d, e, f])
        }
    };
}

forward!(platform_op, HYPERVISOR_PLATFORM_OP);
forward!(memory_op, HYPERVISOR_MEMORY_OP);
forward!(event_channel_op_compat, HYPERVISOR_EVENT_CHANNEL_OP_COMPAT);
forward!(console_io, HYPERVISOR_CONSOLE_IO);
forward!(physdev_op_compat, HYPERVISOR_PHYSDEV_OP_COMPAT);
forward!(grant_table_op, HYPERVISOR_GRANT_TABLE_OP);
forward!(
    va_mapping_otherdomain,
    HYPERVISOR_UPDATE_VA_MAPPING_OTHERDOMAIN
);
forward!(xsm_op, HYPERVISOR_XSM_OP);
forward!(nmi_op, HYPERVISOR_NMI_OP);
forward!(xenoprof_op, HYPERVISOR_XENOPROF_OP);
forward!(hvm_op, HYPERVISOR_HVM_OP);
forward!(sysctl, HYPERVISOR_SYSCTL);
forward!(domctl, HYPERVISOR_DOMCTL);
forward!(kexec_op, HYPERVISOR_KEXEC_OP);
forward!(tmem_op, HYPERVISOR_TMEM_OP);
forward!(argo_op, HYPERVISOR_ARGO_OP);
forward!(xenpmu_op, HYPERVISOR_XENPMU_OP);
forward!(dm_op, HYPERVISOR_DM_OP);
forward!(hypfs_op, HYPERVISOR_HYPFS_OP);
forward!(arch_0, HYPERVISOR_ARCH_0);

extern "C" fn none(_: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> i64 {
    -ENOSYS
}

/// Handlers by hypercall number.
pub static TABLE: [Handler; 64] = {
    let mut t: [Handler; 64] = [none; 64];
    t[HYPERVISOR_SET_TRAP_TABLE as usize] = misc::set_trap_table;
    t[HYPERVISOR_MMU_UPDATE as usize] = mmu::mmu_update;
    t[HYPERVISOR_SET_GDT as usize] = misc::set_gdt;
    t[HYPERVISOR_STACK_SWITCH as usize] = misc::stack_switch;
    t[HYPERVISOR_SET_CALLBACKS as usize] = misc::set_callbacks;
    t[HYPERVISOR_FPU_TASKSWITCH as usize] = misc::fpu_taskswitch;
    t[HYPERVISOR_SCHED_OP_COMPAT as usize] = hypercall_with_regs;
    t[HYPERVISOR_PLATFORM_OP as usize] = platform_op;
    t[HYPERVISOR_SET_DEBUGREG as usize] = misc::set_debugreg_call;
    t[HYPERVISOR_GET_DEBUGREG as usize] = misc::get_debugreg_call;
    t[HYPERVISOR_UPDATE_DESCRIPTOR as usize] = misc::update_descriptor;
    t[HYPERVISOR_MEMORY_OP as usize] = memory_op;
    t[HYPERVISOR_MULTICALL as usize] = multicall::multicall;
    t[HYPERVISOR_UPDATE_VA_MAPPING as usize] = mmu::update_va_mapping;
    t[HYPERVISOR_SET_TIMER_OP as usize] = vcpu_op::set_timer_op;
    t[HYPERVISOR_EVENT_CHANNEL_OP_COMPAT as usize] = event_channel_op_compat;
    t[HYPERVISOR_XEN_VERSION as usize] = misc::xen_version;
    t[HYPERVISOR_CONSOLE_IO as usize] = console_io;
    t[HYPERVISOR_PHYSDEV_OP_COMPAT as usize] = physdev_op_compat;
    t[HYPERVISOR_GRANT_TABLE_OP as usize] = grant_table_op;
    t[HYPERVISOR_VM_ASSIST as usize] = misc::vm_assist;
    t[HYPERVISOR_UPDATE_VA_MAPPING_OTHERDOMAIN as usize] = va_mapping_otherdomain;
    t[HYPERVISOR_IRET as usize] = hypercall_with_regs;
    t[HYPERVISOR_VCPU_OP as usize] = vcpu_op::vcpu_op;
    t[HYPERVISOR_SET_SEGMENT_BASE as usize] = misc::set_segment_base;
    t[HYPERVISOR_MMUEXT_OP as usize] = mmuext::mmuext_op;
    t[HYPERVISOR_XSM_OP as usize] = xsm_op;
    t[HYPERVISOR_NMI_OP as usize] = nmi_op;
    t[HYPERVISOR_SCHED_OP as usize] = hypercall_with_regs;
    t[HYPERVISOR_CALLBACK_OP as usize] = misc::callback_op;
    t[HYPERVISOR_XENOPROF_OP as usize] = xenoprof_op;
    t[HYPERVISOR_EVENT_CHANNEL_OP as usize] = event_channel::event_channel_op;
    t[HYPERVISOR_PHYSDEV_OP as usize] = misc::physdev_op;
    t[HYPERVISOR_HVM_OP as usize] = hvm_op;
    t[HYPERVISOR_SYSCTL as usize] = sysctl;
    t[HYPERVISOR_DOMCTL as usize] = domctl;
    t[HYPERVISOR_KEXEC_OP as usize] = kexec_op;
    t[HYPERVISOR_TMEM_OP as usize] = tmem_op;
    t[HYPERVISOR_ARGO_OP as usize] = argo_op;
    t[HYPERVISOR_XENPMU_OP as usize] = xenpmu_op;
    t[HYPERVISOR_DM_OP as usize] = dm_op;
    t[HYPERVISOR_HYPFS_OP as usize] = hypfs_op;
    t[HYPERVISOR_ARCH_0 as usize] = arch_0;
    t
};

/// Hypercalls that want the guest's registers: those that may end the domain or change what
/// the guest goes on with.
pub extern "C" fn with_regs(regs: &mut Regs) {
    let me = crate::mem::current();
    if regs.rax == HYPERVISOR_IRET {
        return trap::iret_general(me, regs);
    }
    let result = sched::sched_op(regs.rax, [regs.rdi, regs.rsi, regs.rdx], regs);
    regs.rax = result as u64;
    trap::finish(me, regs);
}

/// Any hypercall, called from Rust with the whole frame.
pub fn general(me: &Vcpu, regs: &mut Regs) {
    match regs.rax {
        HYPERVISOR_IRET => return trap::iret_general(me, regs),
        HYPERVISOR_SCHED_OP | HYPERVISOR_SCHED_OP_COMPAT => {
            let result = sched::sched_op(regs.rax, [regs.rdi, regs.rsi, regs.rdx], regs);
            regs.rax = result as u64;
            return;
        }
        _ => {}
    }
    let result = match TABLE.get(regs.rax as usize) {
        Some(handler) => handler(regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9),
        None => -ENOSYS,
    };
    regs.rax = result as u64;
}

/// A SYSCALL of the guest kernel on a host where SYSCALL stays in ring 3: the hypercall, and a
/// patch of the site so that it traps directly from now on.
pub fn from_trampoline(me: &Vcpu, regs: &mut Regs) {
    regs.rip = regs.rcx;
    regs.rflags = regs.r11;
    if boot_info().flags & (FLAG_RING0_SLOW | FLAG_SYSCALL_STAYS_USER) != 0 {
        patch_site(me, regs.rcx.wrapping_sub(2));
    }
    general(me, regs);
}

/// Turns `0f 05` (SYSCALL) into `f4 05`: HLT traps with #GP, and the second byte tells the
/// entry code what it was. One byte changes, so other vcpus see the one or the other.
fn patch_site(me: &Vcpu, at: u64) {
    let syscall = [Ok::<u8, Fault>(0x0f), Ok(0x05)];
    if [read_guest_u8(at), read_guest_u8(at.wrapping_add(1))] == syscall {
        patch_code(me.kernel_cr3.get(), at, 0xf4);
    }
}
