//! `features.h`: bit numbers of `XENVER_GET_FEATURES` and of the FEATURES note.

/// Page tables may be written directly.
pub const XENFEAT_WRITABLE_PAGE_TABLES: u32 = 0;
/// Descriptor tables may be written directly.
pub const XENFEAT_WRITABLE_DESCRIPTOR_TABLES: u32 = 1;
/// No machine frames.
pub const XENFEAT_AUTO_TRANSLATED_PHYSMAP: u32 = 2;
/// The kernel runs in ring 0.
pub const XENFEAT_SUPERVISOR_MODE_KERNEL: u32 = 3;
/// 32-bit top tables anywhere.
pub const XENFEAT_PAE_PGDIR_ABOVE_4GB: u32 = 4;
/// `MMU_PT_UPDATE_PRESERVE_AD` works.
pub const XENFEAT_MMU_PT_UPDATE_PRESERVE_AD: u32 = 5;
/// Clear and copy page calls.
pub const XENFEAT_HIGHMEM_ASSIST: u32 = 6;
/// Available bits on grant mappings.
pub const XENFEAT_GNTTAB_MAP_AVAIL_BITS: u32 = 7;
/// HVM: callback vector.
pub const XENFEAT_HVM_CALLBACK_VECTOR: u32 = 8;
/// HVM: pvclock.
pub const XENFEAT_HVM_SAFE_PVCLOCK: u32 = 9;
/// HVM: physical interrupts.
pub const XENFEAT_HVM_PIRQS: u32 = 10;
/// The initial domain.
pub const XENFEAT_DOM0: u32 = 11;
/// ARM.
pub const XENFEAT_GRANT_MAP_IDENTITY: u32 = 12;
/// Virtual nodes in `memory_op`.
pub const XENFEAT_MEMORY_OP_VNODE_SUPPORTED: u32 = 13;
/// ARM.
pub const XENFEAT_ARM_SMCCC_SUPPORTED: u32 = 14;
/// ACPI root pointer anywhere.
pub const XENFEAT_LINUX_RSDP_UNRESTRICTED: u32 = 15;
/// Frames are not device addresses.
pub const XENFEAT_NOT_DIRECT_MAPPED: u32 = 16;
/// Frames are device addresses.
pub const XENFEAT_DIRECT_MAPPED: u32 = 17;
/// Runstate area by physical address.
pub const XENFEAT_RUNSTATE_PHYS_AREA: u32 = 18;
/// Time area by physical address.
pub const XENFEAT_VCPU_TIME_PHYS_AREA: u32 = 19;
/// Device models see all MSI-X writes.
pub const XENFEAT_DM_MSIX_ALL_WRITES: u32 = 20;
