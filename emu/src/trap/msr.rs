//! Model-specific registers as a PV guest kernel sees them.

use crate::arch::cpu;
use crate::percpu::Vcpu;

const APIC_BASE: u32 = 0x1b;
const TSC: u32 = 0x10;
const PLATFORM_ID: u32 = 0x17;
const UCODE_REV: u32 = 0x8b;
const PLATFORM_INFO: u32 = 0xce;
const MISC_FEATURES: u32 = 0x140;
const PERF_STATUS: u32 = 0x198;
const PERF_CTL: u32 = 0x199;
const THERM_CONTROL: u32 = 0x19a;
const MISC_ENABLE: u32 = 0x1a0;
const ENERGY_BIAS: u32 = 0x1b0;
const DEBUGCTL: u32 = 0x1d9;
const PAT: u32 = 0x277;
const PERF_CAPABILITIES: u32 = 0x345;
const EFER: u32 = 0xc000_0080;
/// FS base.
pub const FS_BASE: u32 = 0xc000_0100;
/// Base of GS for the present mode.
pub const GS_BASE: u32 = 0xc000_0101;
/// Base of GS for the other mode, exchanged by SWAPGS.
pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
const TSC_AUX: u32 = 0xc000_0103;
const AMD_NB_CFG: u32 = 0xc001_001f;
const AMD_HWCR: u32 = 0xc001_0015;
const AMD_DE_CFG: u32 = 0xc001_1029;

/// Xen's page attribute table: WB WT UC- UC WC WP UC UC.
const PAT_VALUE: u64 = 0x0000_0501_0007_0406;

/// Whether an address is canonical (48 bits).
pub fn canonical(va: u64) -> bool {
    (va as i64) << 16 >> 16 == va as i64
}

/// RDMSR; None: #GP.
pub fn read(me: &Vcpu, msr: u32) -> Option<u64> {
    Some(match msr {
        FS_BASE | GS_BASE | KERNEL_GS_BASE => cpu::rdmsr(msr),
        EFER => 0xd01, // NXE, LMA, LME, SCE
        PAT => PAT_VALUE,
        APIC_BASE => 0xfee0_0800 | if me.id.get() == 0 { 0x100 } else { 0 },
        TSC => cpu::rdtsc(),
        TSC_AUX => u64::from(me.id.get()),
        MISC_ENABLE => 1 << 11 | 1 << 12, // no BTS, no PEBS
        AMD_DE_CFG => 1 << 1,             // LFENCE serialises
        UCODE_REV => u64::from(u32::MAX) << 32,
        PLATFORM_ID | PLATFORM_INFO | MISC_FEATURES | PERF_STATUS | PERF_CTL | THERM_CONTROL
        | ENERGY_BIAS | DEBUGCTL | PERF_CAPABILITIES | AMD_NB_CFG | AMD_HWCR => 0,
        // machine check banks: none
        0x179..=0x17b | 0x400..=0x47f => 0,
        0xc001_0061..=0xc001_006b => 0,
        // before the guest can take a #GP, unknown registers read as 0
        _ if me.traps[13].get().rip == 0 => 0,
        _ => return None,
    })
}

/// WRMSR; false: #GP.
pub fn write(me: &Vcpu, msr: u32, value: u64) -> bool {
    match msr {
        FS_BASE | GS_BASE | KERNEL_GS_BASE => {
            let ok = canonical(value);
            if ok {
                cpu::wrmsr(msr, value);
            }
            ok
        }
        EFER => read(me, EFER) == Some(value),
        UCODE_REV | MISC_ENABLE | PERF_STATUS | PERF_CTL | THERM_CONTROL | ENERGY_BIAS
        | AMD_NB_CFG | AMD_HWCR | AMD_DE_CFG => true,
        MISC_FEATURES => value == 0,
        0x179..=0x17b | 0x400..=0x47f => value == 0,
        0xc001_0061..=0xc001_006b => true,
        _ => false,
    }
}
