//! What the domain builder said: start info, the P2M list, the M2P table.

use super::xen::{at_mut, update_va_mapping};
use crate::arch::entry::{INIT_P2M, VIRT_BASE};
use crate::arch::hypercall::call;
use crate::arch::memory::{self, PAGE};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use xenner_xen_abi::arch_x86_64::MACH2PHYS_VIRT_START;
use xenner_xen_abi::memory::{MachphysMapping, XENMEM_MACHPHYS_MAPPING};
use xenner_xen_abi::xen::{HYPERVISOR_MEMORY_OP, StartInfo, UVMF_INVLPG};

static START_INFO: AtomicU64 = AtomicU64::new(0);
static M2P: AtomicU64 = AtomicU64::new(0);
static M2P_MAX: AtomicU64 = AtomicU64::new(0);
static SHARED: AtomicU64 = AtomicU64::new(0);

/// Remember start info, find the M2P, map the shared info page.
pub fn init(start_info: u64) -> i64 {
    START_INFO.store(start_info, Relaxed);
    let mut m = MachphysMapping::default();
    let r = call(
        HYPERVISOR_MEMORY_OP,
        [XENMEM_MACHPHYS_MAPPING.into(), at_mut(&mut m), 0, 0, 0],
    );
    if r == 0 {
        M2P.store(m.v_start, Relaxed);
        M2P_MAX.store(m.max_mfn, Relaxed);
    } else {
        M2P.store(MACH2PHYS_VIRT_START, Relaxed);
        M2P_MAX.store(u64::MAX, Relaxed);
    }
    let Some(va) = memory::alloc_page() else {
        return -12;
    };
    SHARED.store(va, Relaxed);
    update_va_mapping(va, info().shared_info | 7, UVMF_INVLPG)
}

/// Start info, a copy.
pub fn info() -> StartInfo {
    memory::get_struct(START_INFO.load(Relaxed))
}

/// Its address.
pub fn info_va() -> u64 {
    START_INFO.load(Relaxed)
}

/// The command line.
pub fn cmdline(buf: &mut [u8; 1024]) -> &str {
    memory::get(info_va() + 128, buf);
    let n = buf.iter().position(|&b| b == 0).unwrap_or(buf.len());
    core::str::from_utf8(&buf[..n]).unwrap_or("")
}

/// Address of the shared info page.
pub fn shared() -> u64 {
    SHARED.load(Relaxed)
}

/// Base of the M2P table.
pub fn m2p_base() -> u64 {
    M2P.load(Relaxed)
}

/// Highest frame in it.
pub fn m2p_max() -> u64 {
    M2P_MAX.load(Relaxed)
}

/// Machine frame of a pseudo-physical one.
pub fn p2m(pfn: u64) -> u64 {
    memory::read64(info().mfn_list + pfn * 8)
}

/// M2P entry of a machine frame. The frame must be below `m2p_max`.
pub fn m2p(mfn: u64) -> u64 {
    memory::read64(m2p_base() + mfn * 8)
}

/// Machine frame of an address in the initial mapping.
pub fn mfn_of(va: u64) -> u64 {
    p2m((va - VIRT_BASE) / PAGE)
}

/// Address in the initial mapping of a machine frame of ours.
pub fn va_of(mfn: u64) -> u64 {
    VIRT_BASE + m2p(mfn) * PAGE
}

/// Whether ring 3 shows selectors that are not the guest's: a machine that runs
/// it under its own control registers and descriptor tables, where CR0.TS,
/// breakpoints and reads of selectors cannot be the guest's.
pub fn hosted() -> bool {
    let [_, _, _, cs, _] = crate::arch::entry::entry_regs().r11_rcx_ds_cs_ss;
    cs as u16 != xenner_xen_abi::arch_x86_64::FLAT_KERNEL_CS
}

/// Whether the builder put the P2M where INIT_P2M asks for it.
pub fn p2m_is_apart() -> bool {
    info().mfn_list == INIT_P2M
}
