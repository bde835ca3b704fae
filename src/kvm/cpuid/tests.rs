//! What a guest is shown of a processor that has everything, and of this machine's.

use super::*;

const HARDWARE: Flavour = Flavour { pvm: false };
const PVM: Flavour = Flavour { pvm: true };
const FACTS: XenFacts = XenFacts {
    version: 0x4_0011,
    tsc_khz: 2_500_000,
    package: 6,
};

fn row(function: u32, index: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function,
        index,
        eax,
        ebx,
        ecx,
        edx,
        ..Default::default()
    }
}

/// A KVM that supports every bit of every leaf.
fn everything() -> CpuId {
    let all = [u32::MAX; 4];
    let mut rows = vec![
        row(0, 0, [0x20, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
        row(7, 0, all),
        row(7, 1, all),
        row(0x8000_0000, 0, [0x8000_0020, 0, 0, 0]),
        row(0x8000_0008, 0, [0x3030, 0xff, 0xff, 0xff]),
    ];
    for leaf in [
        1,
        6,
        0xa,
        0xb,
        0x14,
        0x1f,
        0x4000_0000,
        0x4000_0001,
        0x8000_0001,
        0x8000_0007,
    ] {
        rows.push(row(leaf, 0, all));
    }
    CpuId::from_entries(&rows).unwrap()
}

/// This machine's leaves, as KVM may support them.
fn this_machine() -> CpuId {
    let rows: Vec<_> = [0, 1, 7, 0xd, 0x8000_0000, 0x8000_0001, 0x8000_0008]
        .into_iter()
        .map(|leaf| host(leaf, 0))
        .collect();
    CpuId::from_entries(&rows).unwrap()
}

/// The guest's row of a leaf.
fn guest(t: &Tables, leaf: u32, subleaf: u32) -> CpuidEntry {
    let mut rows = t
        .guest
        .iter()
        .filter(|e| e.leaf == leaf && e.subleaf == subleaf);
    let row = *rows
        .next()
        .unwrap_or_else(|| panic!("leaf {leaf:#x}.{subleaf}"));
    assert!(rows.next().is_none(), "leaf {leaf:#x}.{subleaf} twice");
    row
}

fn kvm(t: &Tables, leaf: u32) -> kvm_cpuid_entry2 {
    *t.kvm
        .iter()
        .find(|e| e.function == leaf && e.index == 0)
        .unwrap()
}

#[test]
fn what_breaks_pv_guests_is_hidden() {
    for supported in [everything(), this_machine()] {
        for flavour in [HARDWARE, PVM] {
            let t = tables(&supported, flavour, FACTS);
            let one = guest(&t, 1, 0);
            assert_eq!(one.edx & bits(&[3, 12, 13, 17]), 0, "PSE MTRR PGE PSE36");
            assert_eq!(one.ecx & bits(&[3, 5, 15, 17]), 0, "MONITOR VMX PDCM PCID");
            assert_eq!(one.ecx & (X2APIC | TSC_DEADLINE | OSXSAVE), 0);
            assert_eq!(one.ecx & HYPERVISOR, HYPERVISOR);
            assert_eq!(one.ebx >> 24, 0, "the APIC's number is the vcpu's");
            let seven = guest(&t, 7, 0);
            assert_eq!(seven.ebx & bits(&[7, 10, 20]), 0, "SMEP INVPCID SMAP");
            assert_eq!(seven.ecx & bits(&[2, 3, 16, 22]), 0, "UMIP PKU LA57 RDPID");
            let extended = guest(&t, 0x8000_0001, 0);
            assert_eq!(
                extended.edx & bits(&[3, 13, 17, 26]),
                0,
                "PSE PGE PSE36 1GB"
            );
            assert_eq!(extended.ecx & bits(&[2, 3]), 0, "SVM EXTAPIC");
        }
    }
}

#[test]
fn what_linux_cannot_do_without_is_there() {
    for flavour in [HARDWARE, PVM] {
        let t = tables(&everything(), flavour, FACTS);
        // FPU TSC MSR PAE CX8 CMOV FXSR SSE SSE2; SYSCALL NX LM
        let basic = bits(&[0, 4, 5, 6, 8, 15, 24, 25, 26]);
        assert_eq!(guest(&t, 1, 0).edx & basic, basic);
        let extended = bits(&[11, 20, 29]);
        assert_eq!(guest(&t, 0x8000_0001, 0).edx & extended, extended);
    }
    let sep = |flavour| guest(&tables(&everything(), flavour, FACTS), 1, 0).edx >> 11 & 1;
    assert_eq!((sep(HARDWARE), sep(PVM)), (1, 0), "SYSENTER");
}

#[test]
fn kvm_knows_what_the_emulator_itself_uses() {
    let t = tables(&everything(), HARDWARE, FACTS);
    let mine = X2APIC | TSC_DEADLINE;
    assert_eq!(kvm(&t, 1).ecx & mine, mine);
    assert_eq!(kvm(&t, 7).ebx >> 7 & 1, 1, "SMEP");
    assert_eq!(kvm(&t, 7).ecx >> 2 & 1, 1, "UMIP");
    let all = boot::FLAG_FSGSBASE | boot::FLAG_SMEP | boot::FLAG_UMIP | boot::FLAG_XSAVE;
    assert_eq!(t.flags, all);
    // a processor without: nothing is invented
    let bare = CpuId::from_entries(&[row(0, 0, [7, 0, 0, 0])]).unwrap();
    let t = tables(&bare, HARDWARE, FACTS);
    assert_eq!(t.flags, 0);
    assert_eq!((kvm(&t, 7).ebx, kvm(&t, 7).ecx), (0, 0));
    let probe = for_probe(&everything());
    assert_eq!(probe.as_slice()[5].ecx & X2APIC, X2APIC);
}

#[test]
fn leaves_end_where_the_table_says() {
    let t = tables(&everything(), HARDWARE, FACTS);
    assert_eq!(guest(&t, 0, 0).eax, 0xd);
    assert_eq!(guest(&t, 0x8000_0000, 0).eax, 0x8000_0008);
    assert_eq!(guest(&t, 0, 0).ebx, 0x6874_7541, "the vendor stays");
    for e in &t.guest {
        let known =
            matches!(e.leaf, 0..=0xd | 0x8000_0000..=0x8000_0008 | 0x4000_0000..=0x4000_0005);
        assert!(known, "leaf {:#x}", e.leaf);
    }
    for leaf in [6, 0xa, 0xb, 0x8000_0007] {
        let e = guest(&t, leaf, 0);
        assert_eq!(
            (e.eax & !4, e.ebx, e.ecx, e.edx),
            (0, 0, 0, 0),
            "leaf {leaf:#x}"
        );
    }
    assert!(t.guest.len() <= boot::CPUID_ROWS);
}

#[test]
fn xen_introduces_itself_where_kvm_would() {
    let t = tables(&everything(), HARDWARE, FACTS);
    let text: Vec<u8> = {
        let e = guest(&t, 0x4000_0000, 0);
        [e.ebx, e.ecx, e.edx]
            .iter()
            .flat_map(|r| r.to_le_bytes())
            .collect()
    };
    assert_eq!(text, b"XenVMMXenVMM");
    assert_eq!(guest(&t, 0x4000_0000, 0).eax, 0x4000_0005);
    assert_eq!(guest(&t, 0x4000_0001, 0).eax, FACTS.version);
    assert_eq!(guest(&t, 0x4000_0002, 0).eax, 1, "pages of MSRs");
    assert_eq!(guest(&t, 0x4000_0003, 0).ecx, FACTS.tsc_khz);
    assert_eq!(guest(&t, 0x4000_0003, 2).eax, FACTS.tsc_khz);
    assert_eq!(
        guest(&t, 0x4000_0005, 0).ebx,
        44,
        "bits of a machine address, at most"
    );
    for (kvm, guest) in t.kvm.iter().zip(&t.guest) {
        assert_eq!((kvm.function, kvm.index), (guest.leaf, guest.subleaf));
        assert_eq!(kvm.flags != 0, guest.indexed != 0, "leaf {:#x}", guest.leaf);
    }
}

#[test]
fn native_ring_3_has_the_hosts_own_vector_units() {
    // what KVM without hardware virtualization admits to
    let mut one = host(1, 0);
    one.ecx = 0x8120_2000;
    let rows = [host(0, 0), one, row(0x8000_0000, 0, [0x8000_0008, 0, 0, 0])];
    let supported = CpuId::from_entries(&rows).unwrap();
    let shown = guest(&tables(&supported, PVM, FACTS), 1, 0).ecx;
    assert_eq!(shown & LEAF1_ECX, host(1, 0).ecx & LEAF1_ECX);
    // elsewhere KVM's word counts
    let shown = guest(&tables(&supported, HARDWARE, FACTS), 1, 0).ecx;
    assert_eq!(shown & LEAF1_ECX & !(1 << 13), 0);
    // CR4 there knows none of the newer bits
    let flags = tables(&supported, PVM, FACTS).flags;
    assert_eq!(flags & !boot::FLAG_XSAVE, 0);
}

#[test]
fn the_xsave_area_holds_what_is_shown() {
    let host_components = host(0xd, 0).eax;
    let t = tables(&this_machine(), PVM, FACTS);
    if guest(&t, 1, 0).ecx & XSAVE == 0 {
        eprintln!("SKIPPED, this machine has no XSAVE");
        return;
    }
    let area = guest(&t, 0xd, 0);
    assert_eq!(area.eax, host_components & XCR0);
    assert_eq!(area.edx, 0);
    for i in (2..32).filter(|i| area.eax >> i & 1 == 1) {
        let part = guest(&t, 0xd, i);
        assert!(part.eax + part.ebx <= area.ebx, "component {i}");
    }
    assert!((576..=0x1000).contains(&area.ebx) && area.ebx == area.ecx);
    assert_eq!(guest(&t, 0xd, 1).eax & !0b111, 0, "no XSAVES");
}

#[test]
fn the_vcpus_of_a_package_are_its_cores() {
    let t = tables(&everything(), HARDWARE, FACTS);
    assert_eq!(guest(&t, 0x8000_0008, 0).ecx, 3 << 12 | 5);
    let one = XenFacts {
        package: 1,
        ..FACTS
    };
    let t = tables(&everything(), HARDWARE, one);
    assert_eq!(guest(&t, 0x8000_0008, 0).ecx, 0);
    // Intel's processors have nothing there
    let mut rows = everything().as_slice().to_vec();
    rows[0].ebx = 0x756e_6547;
    let t = tables(&CpuId::from_entries(&rows).unwrap(), HARDWARE, FACTS);
    assert_eq!(guest(&t, 0x8000_0008, 0).ecx, 0);
}
