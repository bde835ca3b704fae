//! `xen.h`: hypercall numbers, MMU interface, virtual interrupts, `start_info`,
//! `shared_info` and what both hold. 64-bit layouts; an address is a `u64`.

use core::mem::offset_of;

use crate::arch_x86_64::{ArchSharedInfo, ArchVcpuInfo};

/// Hypercall `set_trap_table`.
pub const HYPERVISOR_SET_TRAP_TABLE: u64 = 0;
/// Hypercall `mmu_update`.
pub const HYPERVISOR_MMU_UPDATE: u64 = 1;
/// Hypercall `set_gdt`.
pub const HYPERVISOR_SET_GDT: u64 = 2;
/// Hypercall `stack_switch`.
pub const HYPERVISOR_STACK_SWITCH: u64 = 3;
/// Hypercall `set_callbacks`.
pub const HYPERVISOR_SET_CALLBACKS: u64 = 4;
/// Hypercall `fpu_taskswitch`.
pub const HYPERVISOR_FPU_TASKSWITCH: u64 = 5;
/// Hypercall `sched_op_compat`.
pub const HYPERVISOR_SCHED_OP_COMPAT: u64 = 6;
/// Hypercall `platform_op`.
pub const HYPERVISOR_PLATFORM_OP: u64 = 7;
/// Hypercall `set_debugreg`.
pub const HYPERVISOR_SET_DEBUGREG: u64 = 8;
/// Hypercall `get_debugreg`.
pub const HYPERVISOR_GET_DEBUGREG: u64 = 9;
/// Hypercall `update_descriptor`.
pub const HYPERVISOR_UPDATE_DESCRIPTOR: u64 = 10;
/// Hypercall `memory_op`.
pub const HYPERVISOR_MEMORY_OP: u64 = 12;
/// Hypercall `multicall`.
pub const HYPERVISOR_MULTICALL: u64 = 13;
/// Hypercall `update_va_mapping`.
pub const HYPERVISOR_UPDATE_VA_MAPPING: u64 = 14;
/// Hypercall `set_timer_op`.
pub const HYPERVISOR_SET_TIMER_OP: u64 = 15;
/// Hypercall `event_channel_op_compat`.
pub const HYPERVISOR_EVENT_CHANNEL_OP_COMPAT: u64 = 16;
/// Hypercall `xen_version`.
pub const HYPERVISOR_XEN_VERSION: u64 = 17;
/// Hypercall `console_io`.
pub const HYPERVISOR_CONSOLE_IO: u64 = 18;
/// Hypercall `physdev_op_compat`.
pub const HYPERVISOR_PHYSDEV_OP_COMPAT: u64 = 19;
/// Hypercall `grant_table_op`.
pub const HYPERVISOR_GRANT_TABLE_OP: u64 = 20;
/// Hypercall `vm_assist`.
pub const HYPERVISOR_VM_ASSIST: u64 = 21;
/// Hypercall `update_va_mapping_otherdomain`.
pub const HYPERVISOR_UPDATE_VA_MAPPING_OTHERDOMAIN: u64 = 22;
/// Hypercall `iret`.
pub const HYPERVISOR_IRET: u64 = 23;
/// Hypercall `vcpu_op`.
pub const HYPERVISOR_VCPU_OP: u64 = 24;
/// Hypercall `set_segment_base`.
pub const HYPERVISOR_SET_SEGMENT_BASE: u64 = 25;
/// Hypercall `mmuext_op`.
pub const HYPERVISOR_MMUEXT_OP: u64 = 26;
/// Hypercall `xsm_op`.
pub const HYPERVISOR_XSM_OP: u64 = 27;
/// Hypercall `nmi_op`.
pub const HYPERVISOR_NMI_OP: u64 = 28;
/// Hypercall `sched_op`.
pub const HYPERVISOR_SCHED_OP: u64 = 29;
/// Hypercall `callback_op`.
pub const HYPERVISOR_CALLBACK_OP: u64 = 30;
/// Hypercall `xenoprof_op`.
pub const HYPERVISOR_XENOPROF_OP: u64 = 31;
/// Hypercall `event_channel_op`.
pub const HYPERVISOR_EVENT_CHANNEL_OP: u64 = 32;
/// Hypercall `physdev_op`.
pub const HYPERVISOR_PHYSDEV_OP: u64 = 33;
/// Hypercall `hvm_op`.
pub const HYPERVISOR_HVM_OP: u64 = 34;
/// Hypercall `sysctl`.
pub const HYPERVISOR_SYSCTL: u64 = 35;
/// Hypercall `domctl`.
pub const HYPERVISOR_DOMCTL: u64 = 36;
/// Hypercall `kexec_op`.
pub const HYPERVISOR_KEXEC_OP: u64 = 37;
/// Hypercall `tmem_op`.
pub const HYPERVISOR_TMEM_OP: u64 = 38;
/// Hypercall `argo_op`.
pub const HYPERVISOR_ARGO_OP: u64 = 39;
/// Hypercall `xenpmu_op`.
pub const HYPERVISOR_XENPMU_OP: u64 = 40;
/// Hypercall `dm_op`.
pub const HYPERVISOR_DM_OP: u64 = 41;
/// Hypercall `hypfs_op`.
pub const HYPERVISOR_HYPFS_OP: u64 = 42;
/// First of eight architecture calls; on x86 `mca`.
pub const HYPERVISOR_ARCH_0: u64 = 48;
/// Hypercall numbers lie below this.
pub const HYPERVISOR_NR: u64 = 64;

// Virtual interrupts (V: one a vCPU, G: one a domain).

/// V. Timer.
pub const VIRQ_TIMER: u32 = 0;
/// V. Request to dump debug information.
pub const VIRQ_DEBUG: u32 = 1;
/// G. Bytes on the emergency console.
pub const VIRQ_CONSOLE: u32 = 2;
/// G. Exceptional event of a domain.
pub const VIRQ_DOM_EXC: u32 = 3;
/// G. Trace records.
pub const VIRQ_TBUF: u32 = 4;
/// G. A domain paused for debugging.
pub const VIRQ_DEBUGGER: u32 = 6;
/// V. Profiling sample.
pub const VIRQ_XENOPROF: u32 = 7;
/// G. Bytes on the console ring.
pub const VIRQ_CON_RING: u32 = 8;
/// G. Physical processor state.
pub const VIRQ_PCPU_STATE: u32 = 9;
/// G. Memory event.
pub const VIRQ_MEM_EVENT: u32 = 10;
/// G. Argo message.
pub const VIRQ_ARGO: u32 = 11;
/// G. Low on heap.
pub const VIRQ_ENOMEM: u32 = 12;
/// V. Performance counter interrupt.
pub const VIRQ_XENPMU: u32 = 13;
/// First of eight architecture interrupts.
pub const VIRQ_ARCH_0: u32 = 16;
/// Number of virtual interrupts.
pub const NR_VIRQS: u32 = 24;

// `mmu_update`: low two bits of `MmuUpdate::ptr`.
/// Checked store to the entry at a machine address.
pub const MMU_NORMAL_PT_UPDATE: u64 = 0;
/// Store to the machine-to-physical table.
pub const MMU_MACHPHYS_UPDATE: u64 = 1;
/// As normal, but keep the accessed and dirty bits.
pub const MMU_PT_UPDATE_PRESERVE_AD: u64 = 2;
/// As normal, no shadow translation.
pub const MMU_PT_UPDATE_NO_TRANSLATE: u64 = 3;
/// Internal bit of the count: the call is a continuation.
pub const MMU_UPDATE_PREEMPTED: u64 = 0x80000000;

// `mmuext_op` commands.
/// Pin a level 1 table.
pub const MMUEXT_PIN_L1_TABLE: u32 = 0;
/// Pin a level 2 table.
pub const MMUEXT_PIN_L2_TABLE: u32 = 1;
/// Pin a level 3 table.
pub const MMUEXT_PIN_L3_TABLE: u32 = 2;
/// Pin a level 4 table.
pub const MMUEXT_PIN_L4_TABLE: u32 = 3;
/// Unpin a table.
pub const MMUEXT_UNPIN_TABLE: u32 = 4;
/// Load the kernel's page tables.
pub const MMUEXT_NEW_BASEPTR: u32 = 5;
/// Flush this vCPU.
pub const MMUEXT_TLB_FLUSH_LOCAL: u32 = 6;
/// Flush one address on this vCPU.
pub const MMUEXT_INVLPG_LOCAL: u32 = 7;
/// Flush the vCPUs of a mask.
pub const MMUEXT_TLB_FLUSH_MULTI: u32 = 8;
/// Flush one address on the vCPUs of a mask.
pub const MMUEXT_INVLPG_MULTI: u32 = 9;
/// Flush all vCPUs.
pub const MMUEXT_TLB_FLUSH_ALL: u32 = 10;
/// Flush one address on all vCPUs.
pub const MMUEXT_INVLPG_ALL: u32 = 11;
/// Write back and drop the caches.
pub const MMUEXT_FLUSH_CACHE: u32 = 12;
/// Load a local descriptor table.
pub const MMUEXT_SET_LDT: u32 = 13;
/// Load the user page tables (64-bit only).
pub const MMUEXT_NEW_USER_BASEPTR: u32 = 15;
/// Zero a frame.
pub const MMUEXT_CLEAR_PAGE: u32 = 16;
/// Copy a frame.
pub const MMUEXT_COPY_PAGE: u32 = 17;
/// Flush the caches of all processors.
pub const MMUEXT_FLUSH_CACHE_GLOBAL: u32 = 18;
/// Mark a superpage; not supported.
pub const MMUEXT_MARK_SUPER: u32 = 19;
/// Unmark a superpage; not supported.
pub const MMUEXT_UNMARK_SUPER: u32 = 20;

// `update_va_mapping` flags.
/// No flush.
pub const UVMF_NONE: u64 = 0;
/// Flush everything.
pub const UVMF_TLB_FLUSH: u64 = 1;
/// Flush the one address.
pub const UVMF_INVLPG: u64 = 2;
/// The bits that hold the kind of flush.
pub const UVMF_FLUSHTYPE_MASK: u64 = 3;
/// Flush on the vCPUs of the mask that the remaining bits point to.
pub const UVMF_MULTI: u64 = 0;
/// Flush on this vCPU.
pub const UVMF_LOCAL: u64 = 0;
/// Flush on all vCPUs.
pub const UVMF_ALL: u64 = 4;

/// `console_io`: write.
pub const CONSOLEIO_WRITE: u32 = 0;
/// `console_io`: read.
pub const CONSOLEIO_READ: u32 = 1;
/// `vm_assist`: enable.
pub const VMASST_CMD_ENABLE: u32 = 0;
/// `vm_assist`: disable.
pub const VMASST_CMD_DISABLE: u32 = 1;
/// 32-bit: 4 GiB segments.
pub const VMASST_TYPE_4GB_SEGMENTS: u32 = 0;
/// 32-bit: trap 15 on such use.
pub const VMASST_TYPE_4GB_SEGMENTS_NOTIFY: u32 = 1;
/// Direct stores to page tables are emulated.
pub const VMASST_TYPE_WRITABLE_PAGETABLES: u32 = 2;
/// 32-bit: top tables above 4 GiB.
pub const VMASST_TYPE_PAE_EXTENDED_CR3: u32 = 3;
/// IOPL as on hardware.
pub const VMASST_TYPE_ARCHITECTURAL_IOPL: u32 = 4;
/// Mark runstate updates by `XEN_RUNSTATE_UPDATE`.
pub const VMASST_TYPE_RUNSTATE_UPDATE_FLAG: u32 = 5;
/// Hide the machine-to-physical table from user mode.
pub const VMASST_TYPE_M2P_STRICT: u32 = 32;

// Domain ids.
/// Real ids lie below this.
pub const DOMID_FIRST_RESERVED: u16 = 0x7ff0;
/// The calling domain.
pub const DOMID_SELF: u16 = 0x7ff0;
/// Owner of I/O memory.
pub const DOMID_IO: u16 = 0x7ff1;
/// The hypervisor itself.
pub const DOMID_XEN: u16 = 0x7ff2;
/// Owner of shared copy-on-write pages.
pub const DOMID_COW: u16 = 0x7ff3;
/// No domain.
pub const DOMID_INVALID: u16 = 0x7ff4;
/// The idle domain.
pub const DOMID_IDLE: u16 = 0x7fff;
/// Bits of a domain id.
pub const DOMID_MASK: u16 = 0x7fff;

// `StartInfo::flags`.
/// The domain is privileged.
pub const SIF_PRIVILEGED: u32 = 1;
/// It is the initial domain.
pub const SIF_INITDOMAIN: u32 = 2;
/// `mod_start` is a multiboot module.
pub const SIF_MULTIBOOT_MOD: u32 = 4;
/// `mod_start` is a frame number.
pub const SIF_MOD_START_PFN: u32 = 8;
/// Tools understand a virtually mapped P2M.
pub const SIF_VIRT_P2M_4TOOLS: u32 = 16;
/// Power-management options.
pub const SIF_PM_MASK: u32 = 0xff00;

/// Bytes of `StartInfo::cmd_line`.
pub const MAX_GUEST_CMDLINE: usize = 1024;
/// vCPUs with a record in `SharedInfo`.
pub const XEN_LEGACY_MAX_VCPUS: usize = 32;

/// `VcpuTimeInfo::flags`: all vCPUs agree.
pub const XEN_PVCLOCK_TSC_STABLE_BIT: u8 = 1;
/// `VcpuTimeInfo::flags`: the host stopped the guest.
pub const XEN_PVCLOCK_GUEST_STOPPED: u8 = 2;

/// One `mmu_update` request.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MmuUpdate {
    /// Machine address of the entry; the low two bits are the command.
    pub ptr: u64,
    /// The new entry.
    pub val: u64,
}

const _: () = assert!(size_of::<MmuUpdate>() == 16);
const _: () = assert!(offset_of!(MmuUpdate, ptr) == 0);
const _: () = assert!(offset_of!(MmuUpdate, val) == 8);

/// One `mmuext_op` request.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MmuextOp {
    /// `MMUEXT_*`.
    pub cmd: u32,
    /// Padding.
    pub pad: u32,
    /// Frame or linear address.
    pub arg1: u64,
    /// Entries, address of a vCPU mask, or source frame.
    pub arg2: u64,
}

const _: () = assert!(size_of::<MmuextOp>() == 24);
const _: () = assert!(offset_of!(MmuextOp, cmd) == 0);
const _: () = assert!(offset_of!(MmuextOp, pad) == 4);
const _: () = assert!(offset_of!(MmuextOp, arg1) == 8);
const _: () = assert!(offset_of!(MmuextOp, arg2) == 16);

/// One entry of a `multicall` list.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MulticallEntry {
    /// Hypercall number.
    pub op: u64,
    /// Its result (negative errno in two's complement).
    pub result: u64,
    /// Its arguments.
    pub args: [u64; 6],
}

const _: () = assert!(size_of::<MulticallEntry>() == 64);
const _: () = assert!(offset_of!(MulticallEntry, op) == 0);
const _: () = assert!(offset_of!(MulticallEntry, result) == 8);
const _: () = assert!(offset_of!(MulticallEntry, args) == 16);

/// Time record of a vCPU (pvclock).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct VcpuTimeInfo {
    /// Odd while it is updated.
    pub version: u32,
    /// Padding.
    pub pad0: u32,
    /// TSC at the last update.
    pub tsc_timestamp: u64,
    /// Nanoseconds since boot at that TSC.
    pub system_time: u64,
    /// Multiplier, 32.32.
    pub tsc_to_system_mul: u32,
    /// Shift of the TSC difference, left if positive.
    pub tsc_shift: i8,
    /// `XEN_PVCLOCK_*`.
    pub flags: u8,
    /// Padding.
    pub pad1: [u8; 2],
}

const _: () = assert!(size_of::<VcpuTimeInfo>() == 32);
const _: () = assert!(offset_of!(VcpuTimeInfo, version) == 0);
const _: () = assert!(offset_of!(VcpuTimeInfo, pad0) == 4);
const _: () = assert!(offset_of!(VcpuTimeInfo, tsc_timestamp) == 8);
const _: () = assert!(offset_of!(VcpuTimeInfo, system_time) == 16);
const _: () = assert!(offset_of!(VcpuTimeInfo, tsc_to_system_mul) == 24);
const _: () = assert!(offset_of!(VcpuTimeInfo, tsc_shift) == 28);
const _: () = assert!(offset_of!(VcpuTimeInfo, flags) == 29);
const _: () = assert!(offset_of!(VcpuTimeInfo, pad1) == 30);

/// Per-vCPU record.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct VcpuInfo {
    /// Nonzero: an event is pending.
    pub evtchn_upcall_pending: u8,
    /// Nonzero: no upcall.
    pub evtchn_upcall_mask: u8,
    /// Padding.
    pub pad: [u8; 6],
    /// Words of `evtchn_pending` to look at.
    pub evtchn_pending_sel: u64,
    /// Architecture part.
    pub arch: ArchVcpuInfo,
    /// Time.
    pub time: VcpuTimeInfo,
}

const _: () = assert!(size_of::<VcpuInfo>() == 64);
const _: () = assert!(offset_of!(VcpuInfo, evtchn_upcall_pending) == 0);
const _: () = assert!(offset_of!(VcpuInfo, evtchn_upcall_mask) == 1);
const _: () = assert!(offset_of!(VcpuInfo, pad) == 2);
const _: () = assert!(offset_of!(VcpuInfo, evtchn_pending_sel) == 8);
const _: () = assert!(offset_of!(VcpuInfo, arch) == 16);
const _: () = assert!(offset_of!(VcpuInfo, time) == 32);

/// The page shared by domain and hypervisor.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SharedInfo {
    /// The first vCPUs' records.
    pub vcpu_info: [VcpuInfo; XEN_LEGACY_MAX_VCPUS],
    /// Pending bits, by port.
    pub evtchn_pending: [u64; 64],
    /// Mask bits, by port.
    pub evtchn_mask: [u64; 64],
    /// Version of the wall clock, odd while it is updated.
    pub wc_version: u32,
    /// Wall-clock seconds at system time 0, low half.
    pub wc_sec: u32,
    /// Its nanoseconds.
    pub wc_nsec: u32,
    /// Its seconds, high half.
    pub wc_sec_hi: u32,
    /// Architecture part.
    pub arch: ArchSharedInfo,
}

impl Default for SharedInfo {
    fn default() -> Self {
        Self {
            vcpu_info: [VcpuInfo::default(); XEN_LEGACY_MAX_VCPUS],
            evtchn_pending: [0; 64],
            evtchn_mask: [0; 64],
            wc_version: 0,
            wc_sec: 0,
            wc_nsec: 0,
            wc_sec_hi: 0,
            arch: ArchSharedInfo::default(),
        }
    }
}

const _: () = assert!(size_of::<SharedInfo>() == 3136);
const _: () = assert!(offset_of!(SharedInfo, vcpu_info) == 0);
const _: () = assert!(offset_of!(SharedInfo, evtchn_pending) == 2048);
const _: () = assert!(offset_of!(SharedInfo, evtchn_mask) == 2560);
const _: () = assert!(offset_of!(SharedInfo, wc_version) == 3072);
const _: () = assert!(offset_of!(SharedInfo, wc_sec) == 3076);
const _: () = assert!(offset_of!(SharedInfo, wc_nsec) == 3080);
const _: () = assert!(offset_of!(SharedInfo, wc_sec_hi) == 3084);
const _: () = assert!(offset_of!(SharedInfo, arch) == 3088);

/// What the domain builder tells the kernel (`rsi` at entry).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct StartInfo {
    /// `xen-3.0-x86_64`.
    pub magic: [u8; 32],
    /// Pages of the domain.
    pub nr_pages: u64,
    /// Machine address of `SharedInfo`.
    pub shared_info: u64,
    /// `SIF_*`.
    pub flags: u32,
    /// Padding.
    pub pad0: u32,
    /// Frame of the xenstore ring.
    pub store_mfn: u64,
    /// Its event channel.
    pub store_evtchn: u32,
    /// Padding.
    pub pad1: u32,
    /// Frame of the console ring.
    pub console_mfn: u64,
    /// Its event channel.
    pub console_evtchn: u32,
    /// Padding.
    pub pad2: u32,
    /// Virtual address of the top page table.
    pub pt_base: u64,
    /// Number of page-table pages.
    pub nr_pt_frames: u64,
    /// Virtual address of the P2M list.
    pub mfn_list: u64,
    /// Virtual address or frame of the initrd, 0 if none.
    pub mod_start: u64,
    /// Its length in bytes.
    pub mod_len: u64,
    /// Command line, NUL-terminated.
    pub cmd_line: [u8; MAX_GUEST_CMDLINE],
    /// First frame of the P2M list, if it has its own mapping.
    pub first_p2m_pfn: u64,
    /// Frames of it, page tables included.
    pub nr_p2m_frames: u64,
}

impl Default for StartInfo {
    fn default() -> Self {
        Self {
            magic: [0; 32],
            nr_pages: 0,
            shared_info: 0,
            flags: 0,
            pad0: 0,
            store_mfn: 0,
            store_evtchn: 0,
            pad1: 0,
            console_mfn: 0,
            console_evtchn: 0,
            pad2: 0,
            pt_base: 0,
            nr_pt_frames: 0,
            mfn_list: 0,
            mod_start: 0,
            mod_len: 0,
            cmd_line: [0; MAX_GUEST_CMDLINE],
            first_p2m_pfn: 0,
            nr_p2m_frames: 0,
        }
    }
}

const _: () = assert!(size_of::<StartInfo>() == 1168);
const _: () = assert!(offset_of!(StartInfo, magic) == 0);
const _: () = assert!(offset_of!(StartInfo, nr_pages) == 32);
const _: () = assert!(offset_of!(StartInfo, shared_info) == 40);
const _: () = assert!(offset_of!(StartInfo, flags) == 48);
const _: () = assert!(offset_of!(StartInfo, pad0) == 52);
const _: () = assert!(offset_of!(StartInfo, store_mfn) == 56);
const _: () = assert!(offset_of!(StartInfo, store_evtchn) == 64);
const _: () = assert!(offset_of!(StartInfo, pad1) == 68);
const _: () = assert!(offset_of!(StartInfo, console_mfn) == 72);
const _: () = assert!(offset_of!(StartInfo, console_evtchn) == 80);
const _: () = assert!(offset_of!(StartInfo, pad2) == 84);
const _: () = assert!(offset_of!(StartInfo, pt_base) == 88);
const _: () = assert!(offset_of!(StartInfo, nr_pt_frames) == 96);
const _: () = assert!(offset_of!(StartInfo, mfn_list) == 104);
const _: () = assert!(offset_of!(StartInfo, mod_start) == 112);
const _: () = assert!(offset_of!(StartInfo, mod_len) == 120);
const _: () = assert!(offset_of!(StartInfo, cmd_line) == 128);
const _: () = assert!(offset_of!(StartInfo, first_p2m_pfn) == 1152);
const _: () = assert!(offset_of!(StartInfo, nr_p2m_frames) == 1160);

/// Event channels of the two-level interface, 64-bit.
pub const EVTCHN_2L_NR_CHANNELS: u32 = 4096;
