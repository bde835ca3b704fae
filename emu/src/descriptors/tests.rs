//! Every kind of descriptor, as Xen's `xen/arch/x86/pv/descriptor-tables.c` answers.

use core::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::mem::host;

const PRESENT: u64 = 1 << 47;
const SEGMENT: u64 = 1 << 44;
const DPL3: u64 = 3 << 45;

fn system(kind: u64) -> u64 {
    PRESENT | kind << 40
}

/// A call gate's lower half.
fn gate(selector: u64, dpl: u64) -> u64 {
    0x1234_0000_0000_5678 | system(0xc) | selector << 16 | dpl << 45
}

#[test]
fn what_is_not_present_is_left_alone() {
    for d in [0, !PRESENT, system(9) & !PRESENT, gate(8, 3) & !PRESENT] {
        assert_eq!(fix(d), Ok(d));
    }
}

#[test]
fn code_and_data_get_privilege_3() {
    for kind in 0..16 {
        for dpl in 0..4u64 {
            let d = 0x00af_0000_0000_ffff | PRESENT | SEGMENT | kind << 40 | dpl << 45;
            assert_eq!(fix(d), Ok(d | DPL3), "type {kind:#x}, privilege {dpl}");
        }
    }
}

#[test]
fn system_descriptors_are_refused_but_for_gates() {
    for kind in 1..16 {
        let expected = if kind == 0xc {
            Ok(system(0xc))
        } else {
            Err(EINVAL)
        };
        assert_eq!(fix(system(kind)), expected, "type {kind:#x}");
        if kind != 0xc {
            assert_eq!(
                fix(system(kind) | DPL3),
                Err(EINVAL),
                "type {kind:#x} of privilege 3"
            );
        }
    }
}

#[test]
fn the_upper_half_of_a_gate_passes() {
    let upper = 0xffff_ffff;
    assert_eq!(fix(upper), Ok(upper));
    assert_eq!(fix(system(0)), Ok(system(0)));
}

#[test]
fn call_gates_keep_their_privilege_in_the_selector() {
    for dpl in 0..4 {
        assert_eq!(fix(gate(0x10, dpl)), Ok(gate(0x10 | dpl, 0)));
        // a requested privilege that was there before gives way
        assert_eq!(fix(gate(0x13, dpl)), Ok(gate(0x10 | dpl, 0)));
    }
}

#[test]
fn call_gates_lead_to_the_guests_own_segments_alone() {
    const KERNEL_CS: u64 = 0xe033;
    assert_eq!(
        fix(gate(0xdff8, 3)),
        Ok(gate(0xdffb, 0)),
        "last of the guest's"
    );
    assert_eq!(fix(gate(KERNEL_CS, 0)), Ok(gate(0xe030, 0)));
    assert_eq!(fix(gate(0xe00c, 3)), Ok(gate(0xe00f, 0)), "in the LDT");
    for selector in [0xe000, 0xe008, 0xe023, 0xe030, 0xe040, 0xfff8] {
        assert_eq!(fix(gate(selector, 3)), Err(EINVAL), "{selector:#x}");
    }
}

#[test]
fn call_gates_have_no_reserved_bits() {
    for bit in 32..40 {
        assert_eq!(fix(gate(0x10, 3) | 1 << bit), Err(EINVAL), "bit {bit}");
    }
}

#[test]
fn a_page_is_fixed_or_refused() {
    host::install(4, 0);
    let code = 0x00af_9b00_0000_ffff;
    entry(1, 2).store(code, Relaxed);
    entry(1, 511).store(gate(0x10, 3), Relaxed);
    assert_eq!(validate_page(1), Ok(()));
    assert_eq!(entry(1, 2).load(Relaxed), code | DPL3);
    assert_eq!(entry(1, 511).load(Relaxed), gate(0x13, 0));
    assert_eq!(entry(1, 0).load(Relaxed), 0);
    entry(1, 300).store(system(0xb), Relaxed);
    assert_eq!(validate_page(1), Err(EINVAL));
}
