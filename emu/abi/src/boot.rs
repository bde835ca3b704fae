//! What the VMM tells the emulator before the first instruction.

/// SYSCALL does not reach ring 0 (see docs/flavours.md).
pub const FLAG_SYSCALL_STAYS_USER: u64 = 1 << 0;
/// CR4.FSGSBASE may be set.
pub const FLAG_FSGSBASE: u64 = 1 << 1;
/// CR4.OSXSAVE may be set.
pub const FLAG_XSAVE: u64 = 1 << 2;
/// CR4.PCIDE may be set.
pub const FLAG_PCID: u64 = 1 << 3;
/// CR4.SMEP may be set.
pub const FLAG_SMEP: u64 = 1 << 4;
/// CR4.UMIP may be set.
pub const FLAG_UMIP: u64 = 1 << 5;
/// Ring 0 is interpreted: guest code is worth patching to save a transition.
pub const FLAG_RING0_SLOW: u64 = 1 << 6;
/// The memory of `KVM_FEATURE_STEAL_TIME` works.
pub const FLAG_STEAL_TIME: u64 = 1 << 7;

/// The boot information page.
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "zerocopy", derive(zerocopy::IntoBytes, zerocopy::Immutable))]
#[repr(C)]
pub struct BootInfo {
    /// `FLAG_*`.
    pub flags: u64,
    /// Machine frames below this are the domain's memory (but for the hole).
    pub nr_frames: u64,
    /// First frame of the hole in the domain's memory.
    pub hole_start: u64,
    /// First frame above that hole.
    pub hole_end: u64,
    /// First frame of those that the VMM shares with the guest (shared_info, grant table).
    pub shared_start: u64,
    /// First frame above those.
    pub shared_end: u64,
    /// Machine frame of shared_info; the first of the shared ones.
    pub shared_info: u64,
    /// Virtual address of the machine-to-physical table.
    pub m2p_va: u64,
    /// Machine address of that table.
    pub m2p_ma: u64,
    /// Entries of the machine-to-physical table.
    pub m2p_entries: u64,
    /// vcpus of the domain.
    pub nr_vcpus: u64,
    /// Entries of the CPUID table.
    pub cpuid_entries: u64,
    /// The emulator's entries for L4 slots 256-271.
    pub hole_l4: [u64; 16],
    /// First frame of the L1 tables that map the descriptor windows (one table for 16 vcpus).
    pub window_l1: u64,
    /// A frame of zeroes that stands for empty descriptor pages.
    pub zero_frame: u64,
    /// Machine address of the first vcpu area.
    pub vcpu_areas: u64,
    /// Entry point of the guest.
    pub rip: u64,
    /// The guest's first stack pointer.
    pub rsp: u64,
    /// Virtual address of start_info.
    pub rsi: u64,
    /// Machine frame of the first L4.
    pub l4: u64,
    /// What `xen_version(XENVER_version)` answers.
    pub xen_version: u64,
    /// Seconds, in two's complement, that the guest's wall clock is ahead of the host's.
    pub wall_clock_ahead: u64,
}

/// One row of the CPUID table, as the guest is told.
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "zerocopy", derive(zerocopy::IntoBytes, zerocopy::Immutable))]
#[repr(C)]
#[allow(missing_docs)]
pub struct CpuidEntry {
    pub leaf: u32,
    pub subleaf: u32,
    /// 1: the row counts only for `subleaf`.
    pub indexed: u32,
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
    pub pad: u32,
}

/// Rows that fit the CPUID page.
pub const CPUID_ROWS: usize = 4096 / size_of::<CpuidEntry>();
