//! The hypervisor hole: guest-virtual addresses that belong to the emulator.
//!
//! Xen reserves L4 slots 256-271 of every PV guest's address space
//! (`xen/include/public/arch-x86/xen-x86_64.h`, `HYPERVISOR_VIRT_START`).

/// Bytes in a page frame.
pub const PAGE_SIZE: u64 = 4096;
/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;

/// Virtual address of the start of an L4 slot of the upper half.
pub const fn slot_va(slot: u64) -> u64 {
    0xffff_0000_0000_0000 | (slot << 39)
}

/// First L4 slot that belongs to the hypervisor.
pub const HOLE_FIRST_SLOT: usize = 256;
/// First L4 slot above the hole.
pub const HOLE_END_SLOT: usize = 272;
/// First address of the hypervisor hole.
pub const HOLE_START: u64 = slot_va(256);
/// First address above the hypervisor hole.
pub const HOLE_END: u64 = slot_va(272);
/// `va >> HOLE_SHIFT == HOLE_TAG` exactly for addresses in the hole.
pub const HOLE_SHIFT: u32 = 43;
/// See [`HOLE_SHIFT`].
pub const HOLE_TAG: u64 = HOLE_START >> HOLE_SHIFT;

/// L4 slot of the machine-to-physical table where ring 3 can use slot 256.
pub const M2P_SLOT: usize = 256;
/// L4 slot of the machine-to-physical table where ring 3 cannot.
pub const M2P_SLOT_ALT: usize = 257;
/// L4 slot of the emulator's image, vcpu areas and frame table.
pub const EMU_SLOT: usize = 260;
/// L4 slot of the descriptor windows and the page that ring 3 may execute.
pub const WINDOW_SLOT: usize = 261;
/// L4 slot of the emulator's map of guest-physical memory.
pub const DIRECT_SLOT: usize = 262;

/// Everything of the emulator's own that it touches often lies behind this address, at the same
/// offset as in machine memory, so that large pages can map it all: where ring 0 is
/// interpreted, every access costs a walk of the page tables.
pub const EMU_VA: u64 = slot_va(EMU_SLOT as u64);
/// The emulator's image is linked here.
pub const IMAGE_VA: u64 = EMU_VA;
/// Room for the image, in bytes.
pub const IMAGE_MAX: u64 = 0x20_0000;
/// The boot information page ([`crate::boot::BootInfo`]).
pub const BOOT_INFO_VA: u64 = IMAGE_VA + IMAGE_MAX;
/// The event channel table ([`crate::evtchn`]), 4 pages.
pub const EVTCHN_TABLE_VA: u64 = BOOT_INFO_VA + PAGE_SIZE;
/// The CPUID table ([`crate::boot::CpuidEntry`]), 1 page.
pub const CPUID_TABLE_VA: u64 = EVTCHN_TABLE_VA + 4 * PAGE_SIZE;
/// Pages from [`BOOT_INFO_VA`] to the end of the CPUID table.
pub const INFO_PAGES: u64 = 6;
/// The vcpu areas ([`crate::area`]), one after the other.
pub const VCPU_AREA_VA: u64 = EMU_VA + 0x40_0000;
/// Offset from [`EMU_VA`] of what only machine addresses reach: shared frames, page tables.
pub const UNMAPPED_OFFSET: u64 = 0xc0_0000;
/// The frame table: one `u32` ([`crate::frame`]) for each machine frame.
pub const FRAME_TABLE_VA: u64 = EMU_VA + 0x100_0000;

/// The descriptor windows: for each vcpu 16 pages through which the CPU reads
/// the guest's GDT, then 16 pages for its LDT.
pub const WINDOW_VA: u64 = slot_va(WINDOW_SLOT as u64);
/// Bytes of one vcpu's descriptor windows.
pub const WINDOW_SIZE: u64 = 32 * PAGE_SIZE;
/// Offset of the LDT window in a vcpu's windows.
pub const WINDOW_LDT: u64 = 16 * PAGE_SIZE;
/// The page that ring 3 may execute: SYSCALL's landing place on hosts where
/// SYSCALL does not raise the privilege.
pub const TRAMPOLINE_VA: u64 = WINDOW_VA + (1 << 30);

/// All guest-physical memory, supervisor only.
pub const DIRECT_VA: u64 = slot_va(DIRECT_SLOT as u64);

/// The domain's number; the process around it is domain 0.
pub const DOMID: u16 = 1;
/// Most vcpus of a domain.
pub const MAX_VCPUS: usize = 128;
/// Grant table frames of a domain.
pub const GRANT_FRAMES: u64 = 64;

/// Whether an address lies in the hypervisor hole.
pub const fn in_hole(va: u64) -> bool {
    va >> HOLE_SHIFT == HOLE_TAG
}

const _: () = assert!(slot_va(256) == 0xffff_8000_0000_0000);
const _: () = assert!(HOLE_END - 1 == 0xffff_87ff_ffff_ffff);
const _: () = assert!(in_hole(HOLE_START) && in_hole(HOLE_END - 1) && !in_hole(HOLE_END));
const _: () =
    assert!(VCPU_AREA_VA + MAX_VCPUS as u64 * crate::area::AREA_SIZE <= EMU_VA + UNMAPPED_OFFSET);
