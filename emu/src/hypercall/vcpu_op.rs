//! vcpu_op and set_timer_op: bringing vcpus up and down, timers, registered areas.

use core::mem::offset_of;
use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};

use xenner_emu_abi::frame::TYPE_L4;
use xenner_emu_abi::mailbox::{Regs, VECTOR_CALL};
use xenner_emu_abi::pte::{P, RW};
use xenner_xen_abi::arch_x86_64::VcpuGuestContext as Context;
use xenner_xen_abi::callback::{CALLBACKTYPE_EVENT, CALLBACKTYPE_FAILSAFE, CALLBACKTYPE_SYSCALL};
use xenner_xen_abi::errno::{EEXIST, EFAULT, EINVAL, ENOENT, ENOSYS};
use xenner_xen_abi::sched::{SCHEDOP_SHUTDOWN, SHUTDOWN_POWEROFF};
use xenner_xen_abi::vcpu::*;
use xenner_xen_abi::xen::{HYPERVISOR_SCHED_OP, HYPERVISOR_VCPU_OP, XEN_LEGACY_MAX_VCPUS};

use super::{misc, mmuext, sched};
use crate::arch::{cpu, descriptors};
use crate::mem::{Fault, boot_info, current, read_guest, read_guest_words, vcpu, write_guest};
use crate::mmu::{rules, types};
use crate::percpu::{
    Handler, MASK_EVENTS, STATE_DOWN, STATE_INITIALISING, STATE_NEW, STATE_STARTING, STATE_UP, Vcpu,
};
use crate::trap::{msr, privileged};
use crate::{event, smp, time, time_area, vmm};

/// Shortest period of the periodic timer.
const MIN_PERIOD: u64 = 1_000_000;
/// Deadlines farther ahead than this (about 13 days) come from old Linux' overflow: they fire
/// soon.
const FAR: u64 = 1 << 50;

/// vcpu_op(cmd, vcpu, arg).
pub extern "C" fn vcpu_op(cmd: u64, id: u64, arg: u64, _: u64, _: u64, _: u64) -> i64 {
    if id >= boot_info().nr_vcpus {
        return -ENOENT;
    }
    let Some(target) = vcpu(id as u32) else {
        return -ENOENT;
    };
    op(current(), target, cmd as u32, arg).unwrap_or_else(|e| -e)
}

fn op(me: &Vcpu, target: &'static Vcpu, cmd: u32, arg: u64) -> Result<i64, i64> {
    let own = me.id.get() == target.id.get();
    match cmd {
        VCPUOP_IS_UP => return Ok(i64::from(target.state.load(Acquire) >= STATE_STARTING)),
        VCPUOP_SET_SINGLESHOT_TIMER if own => {
            let at = fault(read_guest(arg))?;
            time::set_oneshot(me, at.max(1));
        }
        VCPUOP_STOP_SINGLESHOT_TIMER if own => time::set_oneshot(me, 0),
        VCPUOP_SET_SINGLESHOT_TIMER | VCPUOP_STOP_SINGLESHOT_TIMER => return Err(EINVAL),
        VCPUOP_INITIALISE => initialise(target, arg)?,
        VCPUOP_UP => up(target)?,
        VCPUOP_DOWN => down(me, target)?,
        VCPUOP_GET_RUNSTATE_INFO => get_runstate(target, arg)?,
        VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA => {
            let at = fault(read_guest(arg))?;
            target.runstate.store(at, SeqCst);
            if own {
                time::runstate(me, RUNSTATE_RUNNING);
            }
        }
        VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA => {
            time_area::register(me, target, fault(read_guest(arg))?)?;
        }
        VCPUOP_SET_PERIODIC_TIMER => {
            let period = fault(read_guest(arg))?;
            if period < MIN_PERIOD || !own {
                return Err(EINVAL);
            }
            time::set_period(me, period);
        }
        VCPUOP_STOP_PERIODIC_TIMER => {
            if own {
                time::set_period(me, 0);
            }
        }
        VCPUOP_REGISTER_VCPU_INFO => register_info(me, target, arg)?,
        VCPUOP_SEND_NMI => {
            target.nmi_pending.store(true, SeqCst);
            // to itself as well: the interrupt arrives behind the hypercall
            smp::interrupt(target.id.get(), VECTOR_CALL);
        }
        VCPUOP_GET_PHYSID => return Err(EINVAL),
        _ => return Err(ENOSYS),
    }
    Ok(0)
}

fn fault<T>(r: Result<T, Fault>) -> Result<T, i64> {
    r.map_err(|Fault| EFAULT)
}

/// set_timer_op(absolute ns).
pub extern "C" fn set_timer_op(at: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> i64 {
    let me = current();
    let now = time::now();
    let at = if at != 0 && (at as i64) < 0 || at > now.saturating_add(FAR) {
        now + 100_000_000
    } else {
        at
    };
    time::set_oneshot(me, at);
    0
}

fn get_runstate(target: &Vcpu, at: u64) -> Result<(), i64> {
    fault(write_guest(at, u64::from(target.runstate_now.get())))?;
    fault(write_guest(at + 8, target.runstate_entry.get()))?;
    for (i, t) in target.runstate_time.iter().enumerate() {
        fault(write_guest(at + 16 + i as u64 * 8, t.get()))?;
    }
    Ok(())
}

/// The VMM moves the content and remembers the place; the vcpu itself has KVM's clock follow.
fn register_info(me: &Vcpu, target: &Vcpu, arg: u64) -> Result<(), i64> {
    let [mfn, rest] = fault(read_guest_words(arg))?;
    let offset = rest & 0xffff_ffff;
    let id = u64::from(target.id.get());
    if !rules::owned(mfn) {
        return Err(EINVAL);
    }
    // held as by a writable mapping, so that the frame is no page table and becomes none
    let mapping = rules::take_l1(mfn << 12 | P | RW).map_err(|_| EINVAL)?;
    let result = vmm::hypercall(
        HYPERVISOR_VCPU_OP,
        [VCPUOP_REGISTER_VCPU_INFO.into(), id, mfn, offset, 0, 0],
    );
    if result < 0 {
        rules::drop_l1(mapping);
        return Err(-result);
    }
    let ma = (mfn << 12) + offset;
    target.info_ma.store(ma, SeqCst);
    if me.id.get() == target.id.get() {
        time::use_info(me, ma);
    } else if target.state.load(Acquire) == STATE_UP {
        smp::interrupt(target.id.get(), VECTOR_CALL);
    } else {
        target.info.store(crate::mem::direct_va(ma), SeqCst);
    }
    Ok(())
}

/// Takes up a vcpu_info that another vcpu registered for this one.
pub fn take_info(me: &Vcpu) {
    let ma = me.info_ma.load(SeqCst);
    if ma != 0
        && (me.info.load(Relaxed) != crate::mem::direct_va(ma)
            || me.state.load(Relaxed) != STATE_UP)
    {
        time::use_info(me, ma);
    }
}

fn initialise(target: &'static Vcpu, at: u64) -> Result<(), i64> {
    // two callers at once would drop the references of one twice
    target
        .state
        .compare_exchange(STATE_NEW, STATE_INITIALISING, SeqCst, Relaxed)
        .map_err(|_| EEXIST)?;
    let done = take_context(target, at);
    let state = if done.is_ok() { STATE_DOWN } else { STATE_NEW };
    target.state.store(state, SeqCst);
    done
}

fn take_context(target: &'static Vcpu, at: u64) -> Result<(), i64> {
    if target.id.get() as usize >= XEN_LEGACY_MAX_VCPUS && target.info_ma.load(SeqCst) == 0 {
        return Err(EINVAL);
    }
    let word = |offset: usize| fault(read_guest(at.wrapping_add(offset as u64)));
    let cr3 = word(offset_of!(Context, ctrlreg) + 24)?;
    let user_cr3 = word(offset_of!(Context, ctrlreg) + 8)?;
    let mut regs: [u64; 21] = [0; 21];
    for (i, r) in regs.iter_mut().enumerate() {
        *r = word(offset_of!(Context, user_regs) + i * 8)?;
    }
    for vector in 0..256usize {
        let entry = offset_of!(Context, trap_ctxt) + vector * 16;
        let [head, rip] = [word(entry)?, word(entry + 8)?];
        target.traps[vector].set(Handler {
            rip,
            flags: (head >> 8) as u8,
        });
    }
    let flags = word(offset_of!(Context, flags))?;
    for (kind, offset, mask) in [
        (
            CALLBACKTYPE_EVENT,
            offset_of!(Context, event_callback_eip),
            true,
        ),
        (
            CALLBACKTYPE_FAILSAFE,
            offset_of!(Context, failsafe_callback_eip),
            flags & 8 != 0,
        ),
        (
            CALLBACKTYPE_SYSCALL,
            offset_of!(Context, syscall_callback_eip),
            flags & 16 != 0,
        ),
    ] {
        let flags = if mask { MASK_EVENTS } else { 0 };
        target.callbacks[usize::from(kind)].set(Handler {
            rip: word(offset)?,
            flags,
        });
    }
    misc::refresh_short_ways(target);
    misc::set_kernel_sp(target, word(offset_of!(Context, kernel_sp))?);
    target
        .guest_cr4
        .set(word(offset_of!(Context, ctrlreg) + 32)? & privileged::CR4_GUEST);
    let bases = [
        word(offset_of!(Context, fs_base))?,
        word(offset_of!(Context, gs_base_kernel))?,
        word(offset_of!(Context, gs_base_user))?,
    ];
    if !bases.into_iter().chain([regs[16]]).all(msr::canonical) {
        return Err(EINVAL);
    }
    target.start_bases.set(bases);
    target.start_ldt.set((
        word(offset_of!(Context, ldt_base))?,
        word(offset_of!(Context, ldt_ents))?.min(8192) as u32,
    ));
    // The context's flags carry the virtual IOPL: Linux asks for level 1 so, and by
    // PHYSDEVOP_set_iopl only for the first vcpu.
    target.iopl.set((regs[18] >> 12 & 3) as u8);
    target.start_regs.set(start_regs(&regs));
    target
        .kernel_mode
        .set(u8::from(flags & 4 != 0 || regs[17] & 3 == 0));
    take_tables(target, at, cr3, user_cr3)
}

/// Takes the references that the context's base pointers and GDT mean.
fn take_tables(target: &Vcpu, at: u64, cr3: u64, user_cr3: u64) -> Result<(), i64> {
    let word = |offset: usize| fault(read_guest(at.wrapping_add(offset as u64)));
    let entries = word(offset_of!(Context, gdt_ents))?;
    if entries > 7168 {
        return Err(EINVAL);
    }
    let mut frames = [0u64; 14];
    for (i, f) in frames
        .iter_mut()
        .take(entries.div_ceil(512) as usize)
        .enumerate()
    {
        *f = word(offset_of!(Context, gdt_frames) + i * 8)?;
    }
    misc::install_gdt(target, &frames, entries as u32)?;
    let lock = types::lock();
    types::get(&lock, cr3 >> 12, TYPE_L4).map_err(|_| EINVAL)?;
    target.kernel_cr3.set(cr3 & !0xfff);
    if user_cr3 != 0 {
        types::get(&lock, user_cr3 >> 12, TYPE_L4).map_err(|_| EINVAL)?;
        target.user_cr3.set(user_cr3 & !0xfff);
    }
    Ok(())
}

/// `struct cpu_user_regs` has the order of [`Regs`]; selectors and flags as a guest may have
/// them.
fn start_regs(r: &[u64; 21]) -> Regs {
    let [
        r15,
        r14,
        r13,
        r12,
        rbp,
        rbx,
        r11,
        r10,
        r9,
        r8,
        rax,
        rcx,
        rdx,
        rsi,
        rdi,
        _,
        rip,
        cs,
        fl,
        rsp,
        ss,
    ] = *r;
    Regs {
        r15,
        r14,
        r13,
        r12,
        rbp,
        rbx,
        r11,
        r10,
        r9,
        r8,
        rax,
        rcx,
        rdx,
        rsi,
        rdi,
        error: 0,
        rip,
        cs: cs & 0xffff | 3,
        rflags: fl & 0x0024_4fd7 | 0x202,
        rsp,
        ss: ss & 0xffff | 3,
    }
}

fn up(target: &Vcpu) -> Result<(), i64> {
    match target.state.load(Acquire) {
        STATE_NEW | STATE_INITIALISING => Err(EINVAL),
        STATE_DOWN => {
            tell(VCPUOP_UP, target);
            target.state.store(STATE_STARTING, SeqCst);
            smp::interrupt(target.id.get(), VECTOR_CALL);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The VMM waits for a vcpu that it unplugs to go down. It is told before the guest can see the
/// change, so that it hears of a down and the up that follows in their order.
fn tell(cmd: u32, target: &Vcpu) {
    let id = target.id.get().into();
    vmm::hypercall(HYPERVISOR_VCPU_OP, [cmd.into(), id, 0, 0, 0, 0]);
}

fn down(me: &Vcpu, target: &Vcpu) -> Result<(), i64> {
    match target.state.load(Acquire) {
        STATE_NEW | STATE_INITIALISING => return Err(EINVAL),
        STATE_DOWN => {}
        _ => tell(VCPUOP_DOWN, target),
    }
    target.state.store(STATE_DOWN, SeqCst);
    let any_up = (0..boot_info().nr_vcpus as u32)
        .any(|i| vcpu(i).is_some_and(|v| v.state.load(SeqCst) >= STATE_STARTING));
    if !any_up {
        let args = [
            SCHEDOP_SHUTDOWN.into(),
            SHUTDOWN_POWEROFF.into(),
            0,
            0,
            0,
            1,
        ];
        vmm::hypercall(HYPERVISOR_SCHED_OP, args);
    }
    if me.id.get() == target.id.get() {
        park_if_down(me);
    } else {
        smp::interrupt(target.id.get(), VECTOR_CALL);
        smp::spin(|| target.state.load(Acquire) != STATE_DOWN || target.idle.load(Acquire));
    }
    Ok(())
}

/// Sleeps for as long as this vcpu is down; goes on where it was.
pub fn park_if_down(me: &Vcpu) {
    if me.state.load(Acquire) != STATE_DOWN {
        return;
    }
    time::runstate(me, RUNSTATE_OFFLINE);
    while me.state.load(Acquire) == STATE_DOWN {
        me.idle.store(true, SeqCst);
        if me.state.load(SeqCst) == STATE_DOWN {
            cpu::wait_for_interrupt(&me.idle_rsp);
        }
    }
    me.state.store(STATE_UP, SeqCst);
    me.idle.store(false, SeqCst);
    smp::flush_local();
    smp::serve_flush(me);
    time::runstate(me, RUNSTATE_RUNNING);
}

/// A secondary vcpu: waits to be initialised and started, then enters the guest.
pub fn wait_to_start() -> ! {
    let me = current();
    while me.state.load(Acquire) != STATE_STARTING {
        sched::sleep_until_starting(me);
    }
    me.state.store(STATE_UP, SeqCst);
    take_info_at_start(me);
    let (ldt_base, ldt_entries) = me.start_ldt.get();
    cpu::write_cr3(me.kernel_cr3.get());
    mmuext::install_ldt(me, me.kernel_cr3.get(), ldt_base, ldt_entries);
    descriptors::set_ldt(me.id.get(), ldt_entries);
    let [fs, gs_kernel, gs_user] = me.start_bases.get();
    let (active, other) = if me.kernel_mode.get() == 1 {
        (gs_kernel, gs_user)
    } else {
        (gs_user, gs_kernel)
    };
    cpu::wrmsr(msr::FS_BASE, fs);
    cpu::wrmsr(msr::GS_BASE, active);
    cpu::wrmsr(msr::KERNEL_GS_BASE, other);
    privileged::set_guest_cr4(me, me.guest_cr4.get());
    time::start_runstate(me);
    smp::serve_flush(me);
    if me.kernel_mode.get() == 0 {
        cpu::write_cr3(me.user_cr3.get());
    }
    let regs = me.start_regs.get();
    debug_assert!(event::masked(me) || regs.rip != 0);
    cpu::enter_guest(&regs)
}

fn take_info_at_start(me: &Vcpu) {
    let ma = me.info_ma.load(SeqCst);
    if ma != 0 {
        time::use_info(me, ma);
    }
}
