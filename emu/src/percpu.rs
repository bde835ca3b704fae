//! The emulator's record of a vcpu, at the end of the vcpu's main stack.
//!
//! Fields in a `Cell` belong to the vcpu itself; those that other vcpus touch are
//! atomic. The entry code in `arch/entry.rs` addresses the first group of fields by
//! offset.

use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use xenner_emu_abi::area::{AREA_VCPU_MAX, VCPU_HYPERCALLS};
use xenner_emu_abi::mailbox::Regs;

/// A vcpu has never been initialised.
pub const STATE_NEW: u32 = 0;
/// Another vcpu gives it its context.
pub const STATE_INITIALISING: u32 = 1;
/// A vcpu has a context and is not running.
pub const STATE_DOWN: u32 = 2;
/// Another vcpu asked this one to start.
pub const STATE_STARTING: u32 = 3;
/// A vcpu runs guest code (or is blocked).
pub const STATE_UP: u32 = 4;

/// Bytes of the frame of an event or a system call: rcx, r11, rip, cs, rflags, rsp, ss.
const FRAME: u64 = 56;

/// Flag of a trap or callback: set the event mask on entry.
pub const MASK_EVENTS: u8 = 4;

/// A guest handler: where it is, and what entering it does.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Handler {
    /// Virtual address, 0 for none.
    pub rip: u64,
    /// Bits 0-1: the DPL for software interrupts. [`MASK_EVENTS`].
    pub flags: u8,
}

/// Numbers of the callbacks in [`Vcpu::callbacks`] (`xen/include/public/callback.h`).
pub const CALLBACKS: usize = 8;

/// The record of one vcpu.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Vcpu {
    // Addressed by entry code.
    /// 1: guest kernel mode, 0: guest user mode.
    pub kernel_mode: Cell<u8>,
    /// Saved by entry code.
    pub scratch_rsp: Cell<u64>,
    /// Saved by entry code.
    pub scratch_a: Cell<u64>,
    /// Saved by entry code.
    pub scratch_b: Cell<u64>,
    /// CR3 of guest kernel mode.
    pub kernel_cr3: Cell<u64>,
    /// CR3 of guest user mode, 0 for none.
    pub user_cr3: Cell<u64>,
    /// Where the frame of a trap from user mode lies on the guest kernel's stack: from rcx, r11 on,
    /// below the 16-aligned top.
    pub kernel_frame: Cell<u64>,
    /// The guest's `vcpu_info`, in the direct map.
    pub info: AtomicU64,
    /// Handler of a system call from user mode, 0 if the short way does not apply.
    pub fast_syscall: Cell<u64>,
    /// Handler of a page fault from user mode, 0 if the short way does not apply.
    pub fast_pf: Cell<u64>,
    /// Numbers of the last eight hypercalls, latest in the lowest byte.
    pub trace: Cell<u64>,
    /// Stack pointer to go back to when an interrupt ends `hlt`.
    pub idle_rsp: Cell<u64>,
    /// Frames below this are the domain's memory, as in the boot information.
    pub nr_frames: Cell<u64>,
    /// Hypercalls by number.
    pub hypercalls: [Cell<u64>; 64],
    /// The vcpu's number.
    pub id: Cell<u32>,
    /// The domain has other vcpus.
    pub smp: Cell<u8>,
    /// shared_info, in the direct map.
    pub shared_info: Cell<u64>,
    /// System time at which the one-shot timer fires, 0 if off. It stays there, past, when the short way
    /// has raised the VIRQ.
    pub oneshot: Cell<u64>,
    /// System time at which the periodic timer fires next, 0 if off.
    pub period_next: Cell<u64>,
    /// The local APIC's timer serves the one-shot timer alone.
    pub oneshot_alone: Cell<bool>,
    /// What the entry code needs of the vcpu's time record, while the record has this version.
    pub clock_version: Cell<u32>,
    /// The record's time stamp.
    pub clock_tsc: Cell<u64>,
    /// The record's system time.
    pub clock_system: Cell<u64>,
    /// Ticks of the time stamp counter in 2^32 ns, rounded up.
    pub clock_ticks: Cell<u64>,

    // Not addressed by entry code, but for the event callback and the NMI's flag.
    /// Guest trap table (set_trap_table).
    pub traps: [Cell<Handler>; 256],
    /// Guest callbacks by `CALLBACKTYPE_*`.
    pub callbacks: [Cell<Handler>; CALLBACKS],
    /// Virtual IOPL (physdev set_iopl).
    pub iopl: Cell<u8>,
    /// Virtual CR0.TS.
    pub ts: Cell<bool>,
    /// CR4 bits that the guest set itself.
    pub guest_cr4: Cell<u64>,
    /// Guest DR6 (debug status).
    pub dr6: Cell<u64>,
    /// Guest DR7.
    pub dr7: Cell<u64>,
    /// Entries of the guest's GDT.
    pub gdt_entries: Cell<u32>,
    /// Frames of the guest's GDT.
    pub gdt_frames: [Cell<u64>; 14],
    /// Pages mapped in the LDT window.
    pub ldt_pages: Cell<u32>,
    /// Period of the periodic timer in ns, 0 if off.
    pub period: Cell<u64>,
    /// System time at which SCHEDOP_poll gives up, 0 for never or reached.
    pub poll_until: Cell<u64>,
    /// Guest-virtual address of the runstate area, 0 if none.
    pub runstate: AtomicU64,
    /// Guest-virtual address of the time record's second copy, 0 if none.
    pub time_area: AtomicU64,
    /// The copy is to be made whatever its version.
    pub time_area_stale: AtomicBool,
    /// Version of the copy.
    pub time_area_version: Cell<u32>,
    /// Present `RUNSTATE_*`.
    pub runstate_now: Cell<u32>,
    /// Stolen time already accounted for, in ns.
    pub steal_seen: Cell<u64>,
    /// The runstate's `state_entry_time`.
    pub runstate_entry: Cell<u64>,
    /// The runstate's times by state.
    pub runstate_time: [Cell<u64>; 4],
    /// Refused operations reported so far.
    pub refusals: Cell<u32>,
    /// A multicall runs: another one inside it is refused.
    pub in_multicall: Cell<bool>,
    /// NMI handler runs: no other one before its iret.
    pub nmi_blocked: Cell<bool>,

    // Touched by other vcpus.
    /// `STATE_*`.
    pub state: AtomicU32,
    /// Machine address of the registered vcpu_info, for the vcpu itself to take up.
    pub info_ma: AtomicU64,
    /// Generation of TLB flush asked of this vcpu.
    pub flush_wanted: AtomicU64,
    /// Generation of TLB flush done by this vcpu.
    pub flush_done: AtomicU64,
    /// The vcpu sleeps in ring 0 and flushes its TLB before it runs guest code.
    pub idle: AtomicBool,
    /// An NMI waits to be delivered.
    pub nmi_pending: AtomicBool,
    /// The vcpu polls ports (SCHEDOP_poll).
    pub polling: AtomicBool,
    /// Initial registers, taken when the vcpu starts; written while it is down.
    pub start_regs: Cell<Regs>,
    /// FS, kernel GS and user GS base to load when the vcpu starts.
    pub start_bases: Cell<[u64; 3]>,
    /// Entries to be in the GDT when the vcpu starts.
    pub start_gdt: Cell<u32>,
    /// LDT base and entries when the vcpu starts.
    pub start_ldt: Cell<(u64, u32)>,
    /// Where KVM writes the stolen time (`struct kvm_steal_time`, 64 bytes).
    pub steal: StealTime,
}

impl Vcpu {
    /// Top of the guest kernel's stack for traps from user mode, 16-aligned.
    pub fn kernel_sp(&self) -> u64 {
        self.kernel_frame.get().wrapping_add(FRAME)
    }

    /// Sets the guest kernel's stack for traps from user mode.
    pub fn set_kernel_sp(&self, sp: u64) {
        self.kernel_frame.set((sp & !15).wrapping_sub(FRAME));
    }
}

/// KVM's `struct kvm_steal_time` (Linux, arch/x86/include/uapi/asm/kvm_para.h).
#[derive(Debug)]
#[repr(C, align(64))]
pub struct StealTime {
    /// Nanoseconds that the vcpu was ready and did not run.
    pub steal: AtomicU64,
    rest: [AtomicU64; 7],
}

const _: () = assert!(size_of::<Vcpu>() as u64 <= AREA_VCPU_MAX);
const _: () = assert!(core::mem::offset_of!(Vcpu, hypercalls) as u64 == VCPU_HYPERCALLS);
