//! `arch-x86/xen.h`, `arch-x86/xen-x86_64.h` and `arch-x86/cpuid.h`: selectors,
//! register frames, `vcpu_guest_context`, address-space layout, CPUID leaves.
//! 64-bit layouts.

use core::mem::offset_of;

/// 32-bit code at ring 3.
pub const FLAT_RING3_CS32: u16 = 0xe023;
/// 64-bit code at ring 3.
pub const FLAT_RING3_CS64: u16 = 0xe033;
/// Data at ring 3.
pub const FLAT_RING3_DS32: u16 = 0xe02b;
/// The null selector.
pub const FLAT_RING3_DS64: u16 = 0;
/// Stack at ring 3.
pub const FLAT_RING3_SS32: u16 = 0xe02b;
/// Stack at ring 3.
pub const FLAT_RING3_SS64: u16 = 0xe02b;
/// The kernel's code segment.
pub const FLAT_KERNEL_CS: u16 = FLAT_RING3_CS64;
/// The kernel's data segment.
pub const FLAT_KERNEL_DS: u16 = FLAT_RING3_DS64;
/// The kernel's stack segment.
pub const FLAT_KERNEL_SS: u16 = FLAT_RING3_SS64;
/// User code segment.
pub const FLAT_USER_CS: u16 = FLAT_RING3_CS64;
/// User code segment, 32-bit.
pub const FLAT_USER_CS32: u16 = FLAT_RING3_CS32;
/// User data segment.
pub const FLAT_USER_DS: u16 = FLAT_RING3_DS64;
/// User stack segment.
pub const FLAT_USER_SS: u16 = FLAT_RING3_SS64;

/// First descriptor-table page of Xen's.
pub const FIRST_RESERVED_GDT_PAGE: u32 = 14;
/// Its byte offset.
pub const FIRST_RESERVED_GDT_BYTE: u32 = FIRST_RESERVED_GDT_PAGE * 4096;
/// Its first entry.
pub const FIRST_RESERVED_GDT_ENTRY: u32 = FIRST_RESERVED_GDT_BYTE / 8;

/// Start of Xen's part of every address space.
pub const HYPERVISOR_VIRT_START: u64 = 0xffff_8000_0000_0000;
/// Its end.
pub const HYPERVISOR_VIRT_END: u64 = 0xffff_8800_0000_0000;
/// Where the machine-to-physical table usually is.
pub const MACH2PHYS_VIRT_START: u64 = 0xffff_8000_0000_0000;
/// Its usual end.
pub const MACH2PHYS_VIRT_END: u64 = 0xffff_8040_0000_0000;
/// Its usual number of entries.
pub const MACH2PHYS_NR_ENTRIES: u64 = (MACH2PHYS_VIRT_END - MACH2PHYS_VIRT_START) >> 3;
/// Entry of a frame that no domain owns.
pub const INVALID_M2P_ENTRY: u64 = u64::MAX;
/// Entry of a frame shared with Xen.
pub const SHARED_M2P_ENTRY: u64 = u64::MAX - 1;

/// First L4 slot that Xen keeps for itself.
pub const ROOT_PAGETABLE_FIRST_XEN_SLOT: usize = 256;
/// Last L4 slot that Xen keeps for itself.
pub const ROOT_PAGETABLE_LAST_XEN_SLOT: usize = 271;

/// `set_segment_base`: FS.
pub const SEGBASE_FS: u32 = 0;
/// `set_segment_base`: the inactive (user) GS.
pub const SEGBASE_GS_USER: u32 = 1;
/// `set_segment_base`: the kernel's GS.
pub const SEGBASE_GS_KERNEL: u32 = 2;
/// `set_segment_base`: load a selector into the user GS.
pub const SEGBASE_GS_USER_SEL: u32 = 3;

/// `TrapInfo::flags`: privilege that may use `int n`.
pub const TI_DPL_MASK: u8 = 3;
/// `TrapInfo::flags`: mask events on entry.
pub const TI_IF: u8 = 4;

/// The FPU context is valid.
pub const VGCF_I387_VALID: u64 = 1;
/// The vCPU is in kernel mode.
pub const VGCF_IN_KERNEL: u64 = 4;
/// The failsafe callback masks events.
pub const VGCF_FAILSAFE_DISABLES_EVENTS: u64 = 8;
/// The syscall callback masks events.
pub const VGCF_SYSCALL_DISABLES_EVENTS: u64 = 16;
/// The vCPU is up.
pub const VGCF_ONLINE: u64 = 32;
/// `IretContext::flags`: return like SYSRET, rcx and r11 are not restored.
pub const VGCF_IN_SYSCALL: u64 = 256;

/// First CPUID leaf of Xen's.
pub const XEN_CPUID_FIRST_LEAF: u32 = 0x4000_0000;
/// "XenV".
pub const XEN_CPUID_SIGNATURE_EBX: u32 = 0x566e_6558;
/// "MMXe".
pub const XEN_CPUID_SIGNATURE_ECX: u32 = 0x6558_4d4d;
/// "nVMM".
pub const XEN_CPUID_SIGNATURE_EDX: u32 = 0x4d4d_566e;
/// Leaf +2 ECX: `MMU_PT_UPDATE_PRESERVE_AD` works.
pub const XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD: u32 = 1;
/// Leaf +5 EBX: width of machine addresses.
pub const XEN_CPUID_MACHINE_ADDRESS_WIDTH_MASK: u32 = 0xff;
/// Number of leaves after the first.
pub const XEN_CPUID_MAX_NUM_LEAVES: u32 = 5;

/// `ud2a; .ascii "xen"`: with the instruction that follows, emulate it.
pub const XEN_EMULATE_PREFIX: [u8; 5] = [0x0f, 0x0b, b'x', b'e', b'n'];

/// Architecture part of `VcpuInfo`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct ArchVcpuInfo {
    /// Address of the last page fault.
    pub cr2: u64,
    /// Padding.
    pub pad: u64,
}

const _: () = assert!(size_of::<ArchVcpuInfo>() == 16);
const _: () = assert!(offset_of!(ArchVcpuInfo, cr2) == 0);
const _: () = assert!(offset_of!(ArchVcpuInfo, pad) == 8);

/// Architecture part of `SharedInfo`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct ArchSharedInfo {
    /// Last frame of the P2M list, plus one.
    pub max_pfn: u64,
    /// Frame of the top of the P2M frame list.
    pub pfn_to_mfn_frame_list_list: u64,
    /// `XEN_NMIREASON_*`.
    pub nmi_reason: u64,
    /// Frame of the page tables that map the P2M, 0 if not used.
    pub p2m_cr3: u64,
    /// Virtual address of the P2M.
    pub p2m_vaddr: u64,
    /// Odd while the P2M mapping changes.
    pub p2m_generation: u64,
}

const _: () = assert!(size_of::<ArchSharedInfo>() == 48);
const _: () = assert!(offset_of!(ArchSharedInfo, max_pfn) == 0);
const _: () = assert!(offset_of!(ArchSharedInfo, pfn_to_mfn_frame_list_list) == 8);
const _: () = assert!(offset_of!(ArchSharedInfo, nmi_reason) == 16);
const _: () = assert!(offset_of!(ArchSharedInfo, p2m_cr3) == 24);
const _: () = assert!(offset_of!(ArchSharedInfo, p2m_vaddr) == 32);
const _: () = assert!(offset_of!(ArchSharedInfo, p2m_generation) == 40);

/// Entry of `set_trap_table`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct TrapInfo {
    /// Exception or interrupt vector.
    pub vector: u8,
    /// `TI_*`.
    pub flags: u8,
    /// Code selector; not looked at in 64-bit.
    pub cs: u16,
    /// Padding.
    pub pad: u32,
    /// Handler; 0 ends the list.
    pub address: u64,
}

const _: () = assert!(size_of::<TrapInfo>() == 16);
const _: () = assert!(offset_of!(TrapInfo, vector) == 0);
const _: () = assert!(offset_of!(TrapInfo, flags) == 1);
const _: () = assert!(offset_of!(TrapInfo, cs) == 2);
const _: () = assert!(offset_of!(TrapInfo, pad) == 4);
const _: () = assert!(offset_of!(TrapInfo, address) == 8);

/// Register frame (`cpu_user_regs`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuUserRegs {
    /// r15.
    pub r15: u64,
    /// r14.
    pub r14: u64,
    /// r13.
    pub r13: u64,
    /// r12.
    pub r12: u64,
    /// rbp.
    pub rbp: u64,
    /// rbx.
    pub rbx: u64,
    /// r11.
    pub r11: u64,
    /// r10.
    pub r10: u64,
    /// r9.
    pub r9: u64,
    /// r8.
    pub r8: u64,
    /// rax.
    pub rax: u64,
    /// rcx.
    pub rcx: u64,
    /// rdx.
    pub rdx: u64,
    /// rsi.
    pub rsi: u64,
    /// rdi.
    pub rdi: u64,
    /// Private.
    pub error_code: u32,
    /// Private.
    pub entry_vector: u32,
    /// rip.
    pub rip: u64,
    /// cs.
    pub cs: u16,
    /// Padding.
    pub pad0: u16,
    /// Upcall mask of the interrupted context.
    pub saved_upcall_mask: u8,
    /// Padding.
    pub pad1: [u8; 3],
    /// rflags.
    pub rflags: u64,
    /// rsp.
    pub rsp: u64,
    /// ss.
    pub ss: u16,
    /// Padding.
    pub pad2: [u16; 3],
    /// es.
    pub es: u16,
    /// Padding.
    pub pad3: [u16; 3],
    /// ds.
    pub ds: u16,
    /// Padding.
    pub pad4: [u16; 3],
    /// fs.
    pub fs: u16,
    /// Padding.
    pub pad5: [u16; 3],
    /// gs.
    pub gs: u16,
    /// Padding.
    pub pad6: [u16; 3],
}

const _: () = assert!(size_of::<CpuUserRegs>() == 200);
const _: () = assert!(offset_of!(CpuUserRegs, r15) == 0);
const _: () = assert!(offset_of!(CpuUserRegs, r14) == 8);
const _: () = assert!(offset_of!(CpuUserRegs, r13) == 16);
const _: () = assert!(offset_of!(CpuUserRegs, r12) == 24);
const _: () = assert!(offset_of!(CpuUserRegs, rbp) == 32);
const _: () = assert!(offset_of!(CpuUserRegs, rbx) == 40);
const _: () = assert!(offset_of!(CpuUserRegs, r11) == 48);
const _: () = assert!(offset_of!(CpuUserRegs, r10) == 56);
const _: () = assert!(offset_of!(CpuUserRegs, r9) == 64);
const _: () = assert!(offset_of!(CpuUserRegs, r8) == 72);
const _: () = assert!(offset_of!(CpuUserRegs, rax) == 80);
const _: () = assert!(offset_of!(CpuUserRegs, rcx) == 88);
const _: () = assert!(offset_of!(CpuUserRegs, rdx) == 96);
const _: () = assert!(offset_of!(CpuUserRegs, rsi) == 104);
const _: () = assert!(offset_of!(CpuUserRegs, rdi) == 112);
const _: () = assert!(offset_of!(CpuUserRegs, error_code) == 120);
const _: () = assert!(offset_of!(CpuUserRegs, entry_vector) == 124);
const _: () = assert!(offset_of!(CpuUserRegs, rip) == 128);
const _: () = assert!(offset_of!(CpuUserRegs, cs) == 136);
const _: () = assert!(offset_of!(CpuUserRegs, pad0) == 138);
const _: () = assert!(offset_of!(CpuUserRegs, saved_upcall_mask) == 140);
const _: () = assert!(offset_of!(CpuUserRegs, pad1) == 141);
const _: () = assert!(offset_of!(CpuUserRegs, rflags) == 144);
const _: () = assert!(offset_of!(CpuUserRegs, rsp) == 152);
const _: () = assert!(offset_of!(CpuUserRegs, ss) == 160);
const _: () = assert!(offset_of!(CpuUserRegs, pad2) == 162);
const _: () = assert!(offset_of!(CpuUserRegs, es) == 168);
const _: () = assert!(offset_of!(CpuUserRegs, pad3) == 170);
const _: () = assert!(offset_of!(CpuUserRegs, ds) == 176);
const _: () = assert!(offset_of!(CpuUserRegs, pad4) == 178);
const _: () = assert!(offset_of!(CpuUserRegs, fs) == 184);
const _: () = assert!(offset_of!(CpuUserRegs, pad5) == 186);
const _: () = assert!(offset_of!(CpuUserRegs, gs) == 192);
const _: () = assert!(offset_of!(CpuUserRegs, pad6) == 194);

/// State of a vCPU for `VCPUOP_INITIALISE`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct VcpuGuestContext {
    /// FXSAVE image.
    pub fpu_ctxt: [u8; 512],
    /// `VGCF_*`.
    pub flags: u64,
    /// Registers.
    pub user_regs: CpuUserRegs,
    /// Trap table.
    pub trap_ctxt: [TrapInfo; 256],
    /// Local descriptor table.
    pub ldt_base: u64,
    /// Its entries.
    pub ldt_ents: u64,
    /// Frames of the descriptor table.
    pub gdt_frames: [u64; 16],
    /// Its entries.
    pub gdt_ents: u64,
    /// Kernel stack segment.
    pub kernel_ss: u64,
    /// Kernel stack pointer.
    pub kernel_sp: u64,
    /// Control registers: 0 cr0, 1 user cr3, 3 kernel cr3, 4 cr4.
    pub ctrlreg: [u64; 8],
    /// Debug registers.
    pub debugreg: [u64; 8],
    /// Event callback.
    pub event_callback_eip: u64,
    /// Failsafe callback.
    pub failsafe_callback_eip: u64,
    /// Syscall callback.
    pub syscall_callback_eip: u64,
    /// Bits of `VMASST_TYPE_*`.
    pub vm_assist: u64,
    /// FS base.
    pub fs_base: u64,
    /// Kernel GS base.
    pub gs_base_kernel: u64,
    /// User GS base.
    pub gs_base_user: u64,
}

impl Default for VcpuGuestContext {
    fn default() -> Self {
        Self {
            fpu_ctxt: [0; 512],
            flags: 0,
            user_regs: CpuUserRegs::default(),
            trap_ctxt: [TrapInfo::default(); 256],
            ldt_base: 0,
            ldt_ents: 0,
            gdt_frames: [0; 16],
            gdt_ents: 0,
            kernel_ss: 0,
            kernel_sp: 0,
            ctrlreg: [0; 8],
            debugreg: [0; 8],
            event_callback_eip: 0,
            failsafe_callback_eip: 0,
            syscall_callback_eip: 0,
            vm_assist: 0,
            fs_base: 0,
            gs_base_kernel: 0,
            gs_base_user: 0,
        }
    }
}

const _: () = assert!(size_of::<VcpuGuestContext>() == 5168);
const _: () = assert!(offset_of!(VcpuGuestContext, fpu_ctxt) == 0);
const _: () = assert!(offset_of!(VcpuGuestContext, flags) == 512);
const _: () = assert!(offset_of!(VcpuGuestContext, user_regs) == 520);
const _: () = assert!(offset_of!(VcpuGuestContext, trap_ctxt) == 720);
const _: () = assert!(offset_of!(VcpuGuestContext, ldt_base) == 4816);
const _: () = assert!(offset_of!(VcpuGuestContext, ldt_ents) == 4824);
const _: () = assert!(offset_of!(VcpuGuestContext, gdt_frames) == 4832);
const _: () = assert!(offset_of!(VcpuGuestContext, gdt_ents) == 4960);
const _: () = assert!(offset_of!(VcpuGuestContext, kernel_ss) == 4968);
const _: () = assert!(offset_of!(VcpuGuestContext, kernel_sp) == 4976);
const _: () = assert!(offset_of!(VcpuGuestContext, ctrlreg) == 4984);
const _: () = assert!(offset_of!(VcpuGuestContext, debugreg) == 5048);
const _: () = assert!(offset_of!(VcpuGuestContext, event_callback_eip) == 5112);
const _: () = assert!(offset_of!(VcpuGuestContext, failsafe_callback_eip) == 5120);
const _: () = assert!(offset_of!(VcpuGuestContext, syscall_callback_eip) == 5128);
const _: () = assert!(offset_of!(VcpuGuestContext, vm_assist) == 5136);
const _: () = assert!(offset_of!(VcpuGuestContext, fs_base) == 5144);
const _: () = assert!(offset_of!(VcpuGuestContext, gs_base_kernel) == 5152);
const _: () = assert!(offset_of!(VcpuGuestContext, gs_base_user) == 5160);

/// Stack frame of the `iret` hypercall (`struct iret_context`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct IretContext {
    /// rax to return with.
    pub rax: u64,
    /// r11.
    pub r11: u64,
    /// rcx.
    pub rcx: u64,
    /// `VGCF_IN_SYSCALL` or 0.
    pub flags: u64,
    /// rip.
    pub rip: u64,
    /// cs; the low two bits choose kernel (not 3) or user (3).
    pub cs: u64,
    /// rflags.
    pub rflags: u64,
    /// rsp.
    pub rsp: u64,
    /// ss.
    pub ss: u64,
}

const _: () = assert!(size_of::<IretContext>() == 72);
const _: () = assert!(offset_of!(IretContext, rax) == 0);
const _: () = assert!(offset_of!(IretContext, r11) == 8);
const _: () = assert!(offset_of!(IretContext, rcx) == 16);
const _: () = assert!(offset_of!(IretContext, flags) == 24);
const _: () = assert!(offset_of!(IretContext, rip) == 32);
const _: () = assert!(offset_of!(IretContext, cs) == 40);
const _: () = assert!(offset_of!(IretContext, rflags) == 48);
const _: () = assert!(offset_of!(IretContext, rsp) == 56);
const _: () = assert!(offset_of!(IretContext, ss) == 64);
