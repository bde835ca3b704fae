//! The per-vcpu mailbox page and the ports that make the VMM look at it.

/// `out` of a [`Request`] number here: the VMM reads the mailbox, acts, answers
/// in it, and enters the vcpu again.
pub const PORT_REQUEST: u16 = 0x1e0;
/// `out` of an event channel port number (32 bits) here: the backend bound to it is
/// notified. Backends put an ioeventfd on it, so the vcpu does not leave the kernel.
pub const PORT_EVTCHN: u16 = 0x1e4;

/// Interrupt vector: an event was made pending for this vcpu.
pub const VECTOR_EVENT: u8 = 0xf0;
/// Interrupt vector: the local APIC timer.
pub const VECTOR_TIMER: u8 = 0xf1;
/// Interrupt vector: another vcpu wants this one's TLB flushed, or its attention.
pub const VECTOR_CALL: u8 = 0xf2;
/// Interrupt vector: the VMM wants the guest to get an NMI on this vcpu.
pub const VECTOR_NMI: u8 = 0xf3;

/// What the emulator wants of the VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Request {
    /// A hypercall: `op` and `args`; the answer goes to `result`.
    Hypercall = 1,
    /// The domain crashed: `args[0]` a [`CrashReason`], `regs` the guest's registers.
    Crash = 2,
    /// The emulator itself failed: `text` says how.
    Panic = 3,
    /// The vcpu spins for another one: let somebody else run.
    Yield = 4,
    /// XSETBV: `args[0]` the register's number, `args[1]` the value; `result` 0 or not.
    Xsetbv = 5,
    /// A line for the log: `text`.
    Log = 6,
    /// A bit changed that only the VMM knows of: event channel port in `args[0]`
    /// is bound to a backend that has no ioeventfd.
    Notify = 7,
    /// Takes the ordinary entries of an L1 table from the first on (`args[0]`: its frame), as
    /// `mem::take_ordinary` does; `result`: index of the first that is not ordinary, or 512.
    TakeOrdinary = 8,
}

impl Request {
    /// The request with this number.
    pub const fn from_u32(n: u32) -> Option<Self> {
        Some(match n {
            1 => Self::Hypercall,
            2 => Self::Crash,
            3 => Self::Panic,
            4 => Self::Yield,
            5 => Self::Xsetbv,
            6 => Self::Log,
            7 => Self::Notify,
            8 => Self::TakeOrdinary,
            _ => return None,
        })
    }
}

/// Why a domain crashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum CrashReason {
    /// A trap without a handler.
    NoHandler = 1,
    /// The guest's stack could not take the bounce frame.
    BadStack = 2,
    /// The iret hypercall's frame was unreadable.
    BadIretFrame = 3,
    /// Return to user mode without a user base pointer.
    NoUserBase = 4,
    /// The CPU refused the context that the guest asked for, and there is no failsafe callback.
    BadContext = 5,
}

impl CrashReason {
    /// What to tell the user.
    pub const fn text(n: u64) -> &'static str {
        match n {
            1 => "trap without a handler",
            2 => "the guest's stack cannot take the exception frame",
            3 => "the iret hypercall's frame is unreadable",
            4 => "return to user mode without a user page table",
            5 => "the CPU refuses the context that the guest loads",
            _ => "unknown reason",
        }
    }
}

/// Registers in the order of Xen's `struct cpu_user_regs`
/// (`xen/include/public/arch-x86/xen-x86_64.h`) up to `ss`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Regs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// Low half: the CPU's error code; high half: the vector.
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// Bytes of text that a mailbox carries.
pub const TEXT_LEN: usize = 512;

/// The mailbox page. One side writes at a time: the emulator before its `out`,
/// the VMM before it enters the vcpu again. `virq_port` alone may be written by
/// the VMM at any time.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Mailbox {
    /// Hypercall number of [`Request::Hypercall`].
    pub op: u64,
    /// Arguments.
    pub args: [u64; 6],
    /// The VMM's answer.
    pub result: i64,
    /// Kernel base pointer (machine address of the L4) for guest pointers in `args`.
    pub cr3: u64,
    /// Event channel port of each per-vcpu VIRQ, 0 if unbound.
    pub virq_port: [u32; 24],
    /// Registers at a crash or shutdown.
    pub regs: Regs,
    /// 1: the vcpu was in guest kernel mode, 0: user mode.
    pub kernel_mode: u64,
    /// The fault address of the last page fault, for crash reports.
    pub cr2: u64,
    /// Numbers of the last eight hypercalls, latest in the lowest byte.
    pub last_hypercalls: u64,
    /// Bytes used of `text`.
    pub text_len: u64,
    /// Text of [`Request::Panic`] and [`Request::Log`].
    pub text: [u8; TEXT_LEN],
    /// Hypercalls by number.
    pub hypercalls: [u64; 64],
    /// Traps by vector (those that took the general path).
    pub traps: [u64; 32],
}

const _: () = assert!(size_of::<Mailbox>() <= 4096);
const _: () = assert!(size_of::<Regs>() == 168);
