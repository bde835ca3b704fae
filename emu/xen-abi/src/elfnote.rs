//! `elfnote.h`: note types of the owner `Xen`.

/// Legacy text.
pub const XEN_ELFNOTE_INFO: u32 = 0;
/// Entry point.
pub const XEN_ELFNOTE_ENTRY: u32 = 1;
/// Page to fill with hypercall stubs.
pub const XEN_ELFNOTE_HYPERCALL_PAGE: u32 = 2;
/// Virtual address of frame 0.
pub const XEN_ELFNOTE_VIRT_BASE: u32 = 3;
/// Subtracted from `p_paddr`.
pub const XEN_ELFNOTE_PADDR_OFFSET: u32 = 4;
/// Interface version.
pub const XEN_ELFNOTE_XEN_VERSION: u32 = 5;
/// Name.
pub const XEN_ELFNOTE_GUEST_OS: u32 = 6;
/// Version.
pub const XEN_ELFNOTE_GUEST_VERSION: u32 = 7;
/// Loader, `generic`.
pub const XEN_ELFNOTE_LOADER: u32 = 8;
/// 32-bit: PAE.
pub const XEN_ELFNOTE_PAE_MODE: u32 = 9;
/// Feature names.
pub const XEN_ELFNOTE_FEATURES: u32 = 10;
/// Load the symbol table.
pub const XEN_ELFNOTE_BSD_SYMTAB: u32 = 11;
/// Lowest address that Xen may use.
pub const XEN_ELFNOTE_HV_START_LOW: u32 = 12;
/// Which entries hold frames.
pub const XEN_ELFNOTE_L1_MFN_VALID: u32 = 13;
/// Suspend may return 1.
pub const XEN_ELFNOTE_SUSPEND_CANCEL: u32 = 14;
/// Where to map the P2M.
pub const XEN_ELFNOTE_INIT_P2M: u32 = 15;
/// The initrd need not be mapped.
pub const XEN_ELFNOTE_MOD_START_PFN: u32 = 16;
/// Feature bits.
pub const XEN_ELFNOTE_SUPPORTED_FEATURES: u32 = 17;
/// PVH entry.
pub const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
/// PVH relocation.
pub const XEN_ELFNOTE_PHYS32_RELOC: u32 = 19;
