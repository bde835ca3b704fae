//! A vcpu's area: descriptor tables, stacks, mailbox and the emulator's record
//! of the vcpu, at `VCPU_AREA_VA + vcpu * AREA_SIZE`.
//!
//! The main stack ends where the vcpu record begins, so that entry code finds
//! the record at a fixed offset from the stack pointer that the CPU loads.

/// Bytes of a vcpu's area.
pub const AREA_SIZE: u64 = 0x1_0000;
/// The page with Xen's own descriptors, seen through page 14 of the GDT window.
pub const AREA_GDT: u64 = 0x0000;
/// The task state segment.
pub const AREA_TSS: u64 = 0x1000;
/// The SYSCALL entry stub (executable in ring 0).
pub const AREA_STUB: u64 = 0x1800;
/// The mailbox page ([`crate::mailbox::Mailbox`]).
pub const AREA_MAILBOX: u64 = 0x2000;
/// First byte of the stack for NMI, double fault and machine check.
pub const AREA_IST: u64 = 0x3000;
/// End of that stack; it grows down from here.
pub const AREA_IST_TOP: u64 = 0x6000;
/// The frame by which the entry code goes to the guest kernel, at the top of that stack: the
/// exceptions that the stack is for end the domain.
pub const AREA_CONTEXT: u64 = AREA_IST_TOP - 48;
/// End of the main stack and start of the vcpu record.
pub const AREA_VCPU: u64 = 0xc000;
/// Room for the vcpu record.
pub const AREA_VCPU_MAX: u64 = AREA_SIZE - AREA_VCPU;
/// Offset in the vcpu record of its counters: hypercalls by number, 64 words.
pub const VCPU_HYPERCALLS: u64 = 0x68;
