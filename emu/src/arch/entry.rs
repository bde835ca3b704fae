//! Ways into ring 0 and out of it.
//!
//! Three short ways take the bulk of all transitions without saving what they do
//! not touch: hypercalls, system calls of guest user mode, page faults of guest user
//! mode. All else goes through `common_entry`, which saves a whole
//! [`Regs`](xenner_emu_abi::mailbox::Regs) and calls Rust.
//!
//! Rules that hold throughout:
//! - Ring 0 runs with interrupts off, except at the one `hlt` of `idle_wait`. An interrupt that
//!   arrives elsewhere is a mistake of the host's, and ring 0 goes on as if it had not.
//! - On entry from ring 3 the stack pointer is the vcpu record's address less what
//!   the CPU pushed, so fields are addressed from the stack pointer.
//! - Only `iretq` to ring 3 leaves; nothing returns from ring 0 to ring 0 by `iretq`,
//!   because interpreted ring 0 does not know that.
//! - Every access to guest-virtual memory stands in the exception table.
//! - The direction flag is the guest's until `cld`, which comes before any call of Rust.

use core::arch::global_asm;
use core::mem::offset_of;

use xenner_emu_abi::area::{AREA_CONTEXT, AREA_MAILBOX, AREA_VCPU};
use xenner_emu_abi::frame::{BUSY, FULL, NOT_OWNED, TYPE_L1, TYPE_L4, TYPE_MASK};
use xenner_emu_abi::layout::{
    DIRECT_VA, FRAME_TABLE_VA, HOLE_END, HOLE_SHIFT, HOLE_TAG, TRAMPOLINE_VA,
};
use xenner_emu_abi::mailbox::{Mailbox, VECTOR_EVENT, VECTOR_TIMER};
use xenner_emu_abi::pte::L1_FORBIDDEN;
use xenner_xen_abi::callback::CALLBACKTYPE_EVENT;
use xenner_xen_abi::xen::VIRQ_TIMER;

use crate::percpu::{Handler, Vcpu};
use crate::trap::{TIMER_ACKNOWLEDGED, TIMER_RAISED};
use crate::{event, time};

/// Where the mailbox has the port of VIRQ_TIMER, from the vcpu record.
const TIMER_PORT: i64 = AREA_MAILBOX as i64 - AREA_VCPU as i64
    + offset_of!(Mailbox, virq_port) as i64
    + VIRQ_TIMER as i64 * 4;

/// The frame that `iretq` takes into the guest kernel, from the vcpu record: all but the two
/// addresses stands there for good.
const KERNEL_CONTEXT: i64 = AREA_CONTEXT as i64 - AREA_VCPU as i64;

global_asm!(
    include_str!("entry/macros.s"),
    include_str!("entry/hypercalls.s"),
    include_str!("entry/hypercalls_short.s"),
    include_str!("entry/iret.s"),
    include_str!("entry/system_calls.s"),
    include_str!("entry/general_protection.s"),
    include_str!("entry/timers.s"),
    include_str!("entry/traps.s"),
    start = sym crate::boot::start,
    table = sym crate::hypercall::TABLE,
    writable_dropped = sym crate::mmu::rules::WRITABLE_DROPPED,
    upcall = sym crate::trap::upcall_after_hypercall,
    hypercall_full = sym crate::hypercall::with_regs,
    iret_slow = sym crate::trap::iret_slow,
    trap = sym crate::trap::from_guest,
    trap_ring0 = sym crate::trap::from_ring0,
    fatal = sym crate::trap::fatal,
    MODE = const offset_of!(Vcpu, kernel_mode),
    SCRATCH_RSP = const offset_of!(Vcpu, scratch_rsp),
    SCRATCH_A = const offset_of!(Vcpu, scratch_a),
    SCRATCH_B = const offset_of!(Vcpu, scratch_b),
    KERNEL_CR3 = const offset_of!(Vcpu, kernel_cr3),
    USER_CR3 = const offset_of!(Vcpu, user_cr3),
    KERNEL_FRAME = const offset_of!(Vcpu, kernel_frame),
    KERNEL_CONTEXT = const KERNEL_CONTEXT,
    INFO = const offset_of!(Vcpu, info),
    FAST_SYSCALL = const offset_of!(Vcpu, fast_syscall),
    FAST_PF = const offset_of!(Vcpu, fast_pf),
    TRACE = const offset_of!(Vcpu, trace),
    HYPERCALLS = const offset_of!(Vcpu, hypercalls),
    IOPL = const offset_of!(Vcpu, iopl),
    ID = const offset_of!(Vcpu, id),
    SHARED_INFO = const offset_of!(Vcpu, shared_info),
    ONESHOT = const offset_of!(Vcpu, oneshot),
    ALONE = const offset_of!(Vcpu, oneshot_alone),
    CLOCK_VERSION = const offset_of!(Vcpu, clock_version),
    CLOCK_TSC = const offset_of!(Vcpu, clock_tsc),
    CLOCK_SYSTEM = const offset_of!(Vcpu, clock_system),
    CLOCK_TICKS = const offset_of!(Vcpu, clock_ticks),
    EVENT_CALLBACK = const offset_of!(Vcpu, callbacks)
        + CALLBACKTYPE_EVENT as usize * size_of::<Handler>() + offset_of!(Handler, rip),
    TIMER_PORT = const TIMER_PORT,
    PENDING = const event::PENDING,
    MASK = const event::MASK,
    TIME = const time::TIME,
    VECTOR_TIMER = const VECTOR_TIMER,
    TIMER_RAISED = const TIMER_RAISED,
    TIMER_ACKNOWLEDGED = const TIMER_ACKNOWLEDGED,
    VECTOR_EVENT = const VECTOR_EVENT,
    pollers = sym event::POLLERS,
    NR_FRAMES = const offset_of!(Vcpu, nr_frames),
    FRAME_TABLE = const FRAME_TABLE_VA as i64,
    DIRECT = const DIRECT_VA as i64,
    L1_FORBIDDEN = const L1_FORBIDDEN as i64,
    NO_FREE_L1 = const (TYPE_MASK & !TYPE_L1 | NOT_OWNED | BUSY | FULL) as i32,
    NOT_WRITABLE = const (TYPE_MASK | NOT_OWNED | FULL) as i32,
    SMP = const offset_of!(Vcpu, smp),
    l1_released = sym crate::mmu::types::l1_released,
    release = sym crate::mmu::types::release_l4,
    TYPE_L4 = const TYPE_L4,
    HELD_MASK = const (TYPE_MASK | BUSY | FULL) as i32,
    NOT_OWNED = const NOT_OWNED,
    NMI_BLOCKED = const offset_of!(Vcpu, nmi_blocked),
    HOLE_SHIFT = const HOLE_SHIFT,
    HOLE_END = const HOLE_END as i64,
    HOLE_TAG = const HOLE_TAG,
    TRAMP_LO = const TRAMPOLINE_VA as u32 as i32,
    TRAMP_HI = const (TRAMPOLINE_VA >> 32) as u32 as i32,
);
