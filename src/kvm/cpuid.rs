//! What CPUID tells: one table for KVM, one for the guest.
//!
//! KVM's table must have the bits that the emulator's own work needs (x2APIC, TSC deadline,
//! control register bits); the guest's has what Xen shows a PV domain. Plain CPUID is
//! answered by KVM from its table, the forced form by the emulator from the guest's.

use std::arch::x86_64::__cpuid_count;

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use xenner_emu_abi::boot::{self, CpuidEntry};
use xenner_xen_abi::arch_x86_64::{
    XEN_CPUID_FIRST_LEAF, XEN_CPUID_SIGNATURE_EBX, XEN_CPUID_SIGNATURE_ECX, XEN_CPUID_SIGNATURE_EDX,
};

use super::probe::Flavour;

#[cfg(test)]
mod tests;

/// Both tables, and what of the CPU the emulator may use.
#[derive(Debug)]
pub struct Tables {
    /// For KVM_SET_CPUID2.
    pub kvm: Vec<kvm_cpuid_entry2>,
    /// For the emulator.
    pub guest: Vec<CpuidEntry>,
    /// `FLAG_*` of the boot information that follow from the CPU.
    pub flags: u64,
}

/// Facts that the Xen leaves tell.
#[derive(Clone, Copy, Debug)]
pub struct XenFacts {
    /// As XENVER_version.
    pub version: u32,
    /// The guest's time stamp frequency.
    pub tsc_khz: u32,
    /// vcpus of a processor package, not 0.
    pub package: u32,
}

const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const XSAVE: u32 = 1 << 26;
const OSXSAVE: u32 = 1 << 27;
const HYPERVISOR: u32 = 1 << 31;

/// Leaf 1 ECX: SSE3 PCLMUL SSSE3 FMA CX16 SSE4.1 SSE4.2 MOVBE POPCNT AES XSAVE AVX F16C RDRAND.
const LEAF1_ECX: u32 = bits(&[0, 1, 9, 12, 13, 19, 20, 22, 23, 25, 26, 28, 29, 30]);
/// Leaf 1 EDX: FPU DE TSC MSR PAE MCE CX8 APIC SEP MCA CMOV PAT CLFSH MMX FXSR SSE SSE2 SS HTT.
/// Not PSE, PGE, MTRR: a PV guest has none. (There are no machine check banks, but a kernel
/// complains if the feature is not there.)
const LEAF1_EDX: u32 = bits(&[
    0, 2, 4, 5, 6, 7, 8, 9, 11, 14, 15, 16, 19, 23, 24, 25, 26, 27, 28,
]);
/// Leaf 7 EBX: FSGSBASE BMI1 AVX2 BMI2 ERMS AVX512F/DQ RDSEED ADX IFMA CLFLUSHOPT CLWB
/// AVX512PF/ER/CD SHA AVX512BW/VL.
const LEAF7_EBX: u32 = bits(&[
    0, 3, 5, 8, 9, 16, 17, 18, 19, 21, 23, 24, 26, 27, 28, 29, 30, 31,
]);
/// Leaf 7 ECX: AVX512_VBMI VBMI2 GFNI VAES VPCLMUL VNNI BITALG VPOPCNTDQ.
const LEAF7_ECX: u32 = bits(&[1, 6, 8, 9, 10, 11, 12, 14]);
/// Leaf 7 EDX: AVX512_4VNNIW 4FMAPS FSRM VP2INTERSECT.
const LEAF7_EDX: u32 = bits(&[2, 3, 4, 8]);
/// Leaf 7.1 EAX: SHA512 SM3 SM4 AVX_VNNI AVX512_BF16.
const LEAF7_1_EAX: u32 = bits(&[0, 1, 2, 4, 5]);
/// Leaf 80000001 ECX: LAHF CMP_LEGACY ABM SSE4A MISALIGNSSE 3DNOWPREFETCH XOP FMA4 TBM.
const EXT1_ECX: u32 = bits(&[0, 1, 5, 6, 7, 8, 11, 16, 21]);
/// Leaf 80000001 EDX: SYSCALL NX MMXEXT FXSR_OPT RDTSCP LM, and what repeats leaf 1 on AMD.
const EXT1_EDX: u32 = bits(&[
    0, 2, 4, 5, 6, 7, 8, 9, 11, 14, 15, 16, 20, 22, 23, 24, 25, 27, 29,
]);
/// XSAVE components: x87, SSE, AVX, AVX-512.
const XCR0: u32 = 0xe7;

const fn bits(list: &[u32]) -> u32 {
    let mut v = 0;
    let mut i = 0;
    while i < list.len() {
        v |= 1 << list[i];
        i += 1;
    }
    v
}

fn host(leaf: u32, subleaf: u32) -> kvm_cpuid_entry2 {
    let r = __cpuid_count(leaf, subleaf);
    kvm_cpuid_entry2 {
        function: leaf,
        index: subleaf,
        eax: r.eax,
        ebx: r.ebx,
        ecx: r.ecx,
        edx: r.edx,
        ..Default::default()
    }
}

/// KVM's own table, good enough for the probe's guest.
pub fn for_probe(supported: &CpuId) -> CpuId {
    let mut table = supported.clone();
    for e in table.as_mut_slice().iter_mut().filter(|e| e.function == 1) {
        e.ecx |= X2APIC;
    }
    table
}

/// The tables for a vcpu.
pub fn tables(supported: &CpuId, flavour: Flavour, facts: XenFacts) -> Tables {
    let source = Source {
        supported,
        native_ring3: flavour.pvm,
    };
    let mut kvm: Vec<kvm_cpuid_entry2> = Vec::new();
    let max_basic = source.get(0, 0).eax.min(0xd);
    let max_ext = source
        .get(0x8000_0000, 0)
        .eax
        .clamp(0x8000_0001, 0x8000_0008);
    for leaf in (0..=max_basic).chain(0x8000_0000..=max_ext) {
        for subleaf in subleaves(&source, leaf) {
            let mut e = source.get(leaf, subleaf);
            restrict(&mut e, flavour, max_basic, max_ext);
            if leaf == 0x8000_0008 && is_amd(&source) {
                e.ecx = package(facts.package);
            }
            e.flags = if indexed(leaf) {
                KVM_CPUID_FLAG_SIGNIFCANT_INDEX
            } else {
                0
            };
            kvm.push(e);
        }
    }
    kvm.extend(xen_leaves(&source, facts));
    let guest = kvm.iter().map(guest_row).collect();
    let mut flags = 0;
    for (leaf, register, bit, flag) in [
        (7, 1, 0, boot::FLAG_FSGSBASE),
        (7, 1, 7, boot::FLAG_SMEP),
        (7, 2, 2, boot::FLAG_UMIP),
        (1, 2, 26, boot::FLAG_XSAVE),
    ] {
        let e = source.get(leaf, 0);
        let value = [e.eax, e.ebx, e.ecx, e.edx][register];
        // what ring 3 has without KVM's word, control registers do not know
        if value >> bit & 1 != 0 && !(flavour.pvm && leaf == 7) {
            flags |= flag;
        }
    }
    // the emulator's own CR4 bits must stand in KVM's table
    for e in &mut kvm {
        match e.function {
            1 => e.ecx |= X2APIC | TSC_DEADLINE,
            7 if e.index == 0 => {
                e.ebx |= source.get(7, 0).ebx & 1 << 7;
                e.ecx |= source.get(7, 0).ecx & 1 << 2;
            }
            _ => {}
        }
    }
    Tables { kvm, guest, flags }
}

fn is_amd(source: &Source<'_>) -> bool {
    // "Auth" and "Hygo"
    matches!(source.get(0, 0).ebx, 0x6874_7541 | 0x6f67_7948)
}

/// ECX of leaf 0x80000008 (AMD's manual, volume 3, E.4.7): cores of a package, and how many bits of
/// an APIC's number tell them apart. Linux takes the cores of a package for neighbours that share a
/// cache: an event that comes in on one vcpu ends a request of another without waking that one.
fn package(vcpus: u32) -> u32 {
    let last = vcpus.clamp(1, 256) - 1;
    last | (u32::BITS - last.leading_zeros()) << 12
}

struct Source<'a> {
    supported: &'a CpuId,
    /// Ring 3 runs on the host's CPU as it is, more than KVM says.
    native_ring3: bool,
}

impl Source<'_> {
    fn get(&self, leaf: u32, subleaf: u32) -> kvm_cpuid_entry2 {
        let found = self
            .supported
            .as_slice()
            .iter()
            .find(|e| e.function == leaf && (!indexed(leaf) || e.index == subleaf));
        let mut e = found.copied().unwrap_or(kvm_cpuid_entry2 {
            function: leaf,
            index: subleaf,
            ..Default::default()
        });
        if self.native_ring3 {
            let h = host(leaf, subleaf);
            match leaf {
                // what KVM hides though ring 3 has it: SSE3 and later, XSAVE, AVX
                1 => e.ecx |= h.ecx & LEAF1_ECX,
                7 if subleaf == 0 => {
                    e.ebx |= h.ebx & LEAF7_EBX;
                    e.ecx |= h.ecx & LEAF7_ECX;
                    e.edx |= h.edx & LEAF7_EDX;
                }
                7 if subleaf == 1 => e.eax |= h.eax & LEAF7_1_EAX,
                0xd => e = h,
                0x8000_0001 => e.ecx |= h.ecx & EXT1_ECX,
                0 => e.eax = e.eax.max(h.eax.min(0xd)),
                _ => {}
            }
        }
        e
    }
}

/// Leaves whose answer depends on ECX.
fn indexed(leaf: u32) -> bool {
    matches!(leaf, 4 | 7 | 0xb | 0xd | 0x4000_0003)
}

fn subleaves(source: &Source<'_>, leaf: u32) -> Vec<u32> {
    match leaf {
        4 => (0..4).collect(),
        7 => vec![0, 1],
        0xb => vec![0],
        0xd => {
            let components = source.get(0xd, 0).eax & XCR0;
            let mut list = vec![0, 1];
            list.extend((2..32).filter(|i| components >> i & 1 != 0));
            list
        }
        _ => vec![0],
    }
}

/// Reduces an entry to what a PV guest is shown.
fn restrict(e: &mut kvm_cpuid_entry2, flavour: Flavour, max_basic: u32, max_ext: u32) {
    let zero = |e: &mut kvm_cpuid_entry2| (e.eax, e.ebx, e.ecx, e.edx) = (0, 0, 0, 0);
    match (e.function, e.index) {
        (0, _) => e.eax = max_basic,
        (1, _) => {
            e.ecx = e.ecx & LEAF1_ECX & !OSXSAVE | HYPERVISOR;
            e.edx &= LEAF1_EDX;
            if flavour.pvm {
                // SYSENTER is for 32-bit processes, which that KVM interprets
                e.edx &= !(1 << 11);
            }
            e.ebx &= 0x00ff_ffff;
        }
        (7, 0) => {
            e.eax = e.eax.min(1);
            e.ebx &= LEAF7_EBX;
            e.ecx &= LEAF7_ECX;
            e.edx &= LEAF7_EDX;
        }
        (7, 1) => {
            e.eax &= LEAF7_1_EAX;
            (e.ebx, e.ecx, e.edx) = (0, 0, 0);
        }
        (0xd, 0) => {
            e.eax &= XCR0;
            e.edx = 0;
            e.ecx = xsave_size(e.eax);
            e.ebx = e.ecx;
        }
        (0xd, 1) => {
            e.eax &= 0b111; // XSAVEOPT, XSAVEC, XGETBV1; not XSAVES
            (e.ebx, e.ecx, e.edx) = (xsave_size(XCR0 & host(0xd, 0).eax), 0, 0);
        }
        (4 | 0xd, _) => {}
        (6, _) => (e.eax, e.ebx, e.ecx, e.edx) = (e.eax & 4, 0, 0, 0),
        (2, _) => {}
        (0x8000_0000, _) => e.eax = max_ext,
        (0x8000_0001, _) => {
            e.ecx &= EXT1_ECX;
            e.edx &= EXT1_EDX;
        }
        (0x8000_0002..=0x8000_0006, _) => {}
        (0x8000_0008, _) => (e.ebx, e.ecx, e.edx) = (0, 0, 0),
        // power management, topology, performance counters and all that is newer
        _ => zero(e),
    }
}

/// Bytes of the standard XSAVE area for these components (offset and size of the last one).
fn xsave_size(components: u32) -> u32 {
    (2..32)
        .filter(|i| components >> i & 1 != 0)
        .map(|i| host(0xd, i))
        .map(|e| e.eax + e.ebx)
        .max()
        .unwrap_or(0)
        .max(512 + 64)
}

fn xen_leaves(source: &Source<'_>, facts: XenFacts) -> Vec<kvm_cpuid_entry2> {
    let width = source.get(0x8000_0008, 0).eax & 0xff;
    let row = |n: u32, index: u32, [eax, ebx, ecx, edx]: [u32; 4]| kvm_cpuid_entry2 {
        function: XEN_CPUID_FIRST_LEAF + n,
        index,
        flags: if n == 3 {
            KVM_CPUID_FLAG_SIGNIFCANT_INDEX
        } else {
            0
        },
        eax,
        ebx,
        ecx,
        edx,
        ..Default::default()
    };
    let signature = [
        XEN_CPUID_FIRST_LEAF + 5,
        XEN_CPUID_SIGNATURE_EBX,
        XEN_CPUID_SIGNATURE_ECX,
        XEN_CPUID_SIGNATURE_EDX,
    ];
    vec![
        row(0, 0, signature),
        row(1, 0, [facts.version, 0, 0, 0]),
        row(2, 0, [1, XEN_CPUID_FIRST_LEAF, 1, 0]),
        row(3, 0, [0, 0, facts.tsc_khz, 1]),
        row(3, 2, [facts.tsc_khz, 0, 0, 0]),
        row(4, 0, [0; 4]),
        // frames of at most 32 bits keep Linux on version 1 of the grant table
        row(5, 0, [0, width.clamp(36, 44), 0, 0]),
    ]
}

fn guest_row(e: &kvm_cpuid_entry2) -> CpuidEntry {
    CpuidEntry {
        leaf: e.function,
        subleaf: e.index,
        indexed: u32::from(indexed(e.function)),
        eax: e.eax,
        ebx: e.ebx,
        ecx: if e.function == 1 {
            e.ecx & !(X2APIC | TSC_DEADLINE) | e.ecx & XSAVE
        } else {
            e.ecx
        },
        edx: e.edx,
        pad: 0,
    }
}
