//! The first steps of every vcpu in ring 0.

use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use xenner_emu_abi::boot::{FLAG_FSGSBASE, FLAG_SMEP, FLAG_UMIP, FLAG_XSAVE};
use xenner_emu_abi::mailbox::{Regs, VECTOR_TIMER};
use xenner_xen_abi::arch_x86_64::{FLAT_KERNEL_CS, FLAT_KERNEL_SS};
use xenner_xen_abi::xen::XEN_LEGACY_MAX_VCPUS;

use crate::arch::{cpu, descriptors};
use crate::hypercall::vcpu_op;
use crate::mem::{boot_info, current, direct_va};
use crate::percpu::STATE_UP;
use crate::{event, time};

static READY: AtomicBool = AtomicBool::new(false);

const CR0_MP: u64 = 1 << 1;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_AM: u64 = 1 << 18;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const CR4_UMIP: u64 = 1 << 11;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_OSXSAVE: u64 = 1 << 18;
const CR4_SMEP: u64 = 1 << 20;

const X2APIC_TPR: u32 = 0x808;
const X2APIC_SPURIOUS: u32 = 0x80f;
const X2APIC_LVT_TIMER: u32 = 0x832;
const LVT_TSC_DEADLINE: u64 = 2 << 17;
const LVT_MASKED: u64 = 1 << 16;
const X2APIC_LVT_LINT0: u32 = 0x835;
const X2APIC_LVT_LINT1: u32 = 0x836;

/// Entry from `emu_start`: brings this vcpu up as far as ring 0 goes; vcpu 0 then enters the
/// guest, the others wait to be started by it.
pub extern "C" fn start(id: u32) -> ! {
    let me = current();
    me.id.set(id);
    me.nr_frames.set(boot_info().nr_frames);
    me.shared_info.set(direct_va(boot_info().shared_info << 12));
    me.smp.set(u8::from(boot_info().nr_vcpus > 1));
    if id == 0 {
        descriptors::build_idt();
        READY.store(true, Release);
    }
    while !READY.load(Acquire) {
        cpu::pause();
    }
    control_registers();
    descriptors::load(id);
    local_apic();
    if (id as usize) < XEN_LEGACY_MAX_VCPUS {
        // lies in shared_info until the guest moves it; the others have none until then
        time::use_info(me, (boot_info().shared_info << 12) + u64::from(id) * 64);
    }
    time::start_steal_time(me);
    me.dr6.set(0xffff_0ff0);
    me.dr7.set(0x400);
    if id == 0 {
        first_vcpu()
    } else {
        vcpu_op::wait_to_start()
    }
}

fn control_registers() {
    let flags = boot_info().flags;
    cpu::write_cr0(cpu::read_cr0() | CR0_MP | CR0_NE | CR0_WP | CR0_AM);
    let mut cr4 = cpu::read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT;
    for (flag, bit) in [
        (FLAG_FSGSBASE, CR4_FSGSBASE),
        (FLAG_XSAVE, CR4_OSXSAVE),
        (FLAG_SMEP, CR4_SMEP),
        (FLAG_UMIP, CR4_UMIP),
    ] {
        if flags & flag != 0 {
            cr4 |= bit;
        }
    }
    cpu::write_cr4(cr4);
}

fn local_apic() {
    cpu::wrmsr(X2APIC_SPURIOUS, 0x1ff);
    cpu::wrmsr(X2APIC_TPR, 0);
    cpu::wrmsr(X2APIC_LVT_LINT0, LVT_MASKED);
    cpu::wrmsr(X2APIC_LVT_LINT1, LVT_MASKED);
    cpu::wrmsr(X2APIC_LVT_TIMER, LVT_TSC_DEADLINE | u64::from(VECTOR_TIMER));
}

fn first_vcpu() -> ! {
    let me = current();
    let info = boot_info();
    time::start_wall_clock();
    me.kernel_cr3.set(info.l4 << 12);
    me.kernel_mode.set(1);
    me.set_kernel_sp(info.rsp);
    me.state.store(STATE_UP, Relaxed);
    event::set_masked(me, true);
    time::start_runstate(me);
    cpu::write_cr3(info.l4 << 12);
    cpu::enter_guest(&Regs {
        rip: info.rip,
        rsp: info.rsp,
        rsi: info.rsi,
        cs: u64::from(FLAT_KERNEL_CS),
        ss: u64::from(FLAT_KERNEL_SS),
        rflags: 0x202,
        ..Default::default()
    })
}
