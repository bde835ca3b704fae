//! The decoder against iced-x86, and results and flags against the manual's definitions
//! (AMD APM volume 3, "General-Purpose Instruction Reference"), computed in wide integers.

extern crate std;

use std::vec::Vec;

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use proptest::prelude::*;

use super::*;

/// What iced-x86 makes of the first instruction; None if it is none.
fn iced(code: &[u8]) -> Option<Instruction> {
    // LOCK on a MOV is for the CPU to refuse; here it never arrives
    let i = Decoder::with_ip(64, code, 0, DecoderOptions::NO_INVALID_CHECK).decode();
    (!i.is_invalid()).then_some(i)
}

/// Distinct values, so that a wrong register shows.
fn registers() -> Regs {
    let mut regs = Regs::default();
    for n in 0..16u8 {
        *gpr(&mut regs, n) = 0x1122_3344_5566_7780_u64.rotate_left(u32::from(n) * 4) ^ u64::from(n);
    }
    regs.rip = 0x1000;
    regs
}

/// A register's value as its name says it, AH and the like included.
fn value_of(regs: &Regs, r: Register) -> u64 {
    let mut copy = *regs;
    let high = [Register::AH, Register::CH, Register::DH, Register::BH];
    match high.iter().position(|h| *h == r) {
        Some(n) => *gpr(&mut copy, n as u8) >> 8 & 0xff,
        None => *gpr(&mut copy, number(r)) & size_mask(r.size() as u8),
    }
}

fn number(r: Register) -> u8 {
    r.full_register() as u8 - Register::RAX as u8
}

/// Legacy prefixes, then perhaps REX: the only order in which REX counts.
fn prefixes() -> impl Strategy<Value = Vec<u8>> {
    const LEGACY: [u8; 11] = [
        0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65,
    ];
    let legacy = prop::collection::vec(prop::sample::select(&LEGACY[..]), 0..3);
    (legacy, prop::option::of(0x40u8..0x50)).prop_map(|(mut list, rex)| {
        list.extend(rex);
        list
    })
}

/// An instruction with one of these opcodes and random bytes behind it.
fn instruction(opcodes: &'static [&'static [u8]]) -> impl Strategy<Value = Vec<u8>> {
    let tail = prop::collection::vec(any::<u8>(), 12);
    (prefixes(), prop::sample::select(opcodes), tail)
        .prop_map(|(prefix, opcode, tail)| [&prefix[..], opcode, &tail].concat())
}

const WRITES: &[&[u8]] = &[
    &[0x00],
    &[0x01],
    &[0x08],
    &[0x09],
    &[0x20],
    &[0x21],
    &[0x28],
    &[0x29],
    &[0x30],
    &[0x31],
    &[0x80],
    &[0x81],
    &[0x83],
    &[0x86],
    &[0x87],
    &[0x88],
    &[0x89],
    &[0xaa],
    &[0xab],
    &[0xc6],
    &[0xc7],
    &[0x0f, 0xb0],
    &[0x0f, 0xb1],
    &[0x0f, 0xc0],
    &[0x0f, 0xc1],
    &[0x0f, 0xba],
];

const PRIVILEGED: &[&[u8]] = &[
    &[0xfa],
    &[0xfb],
    &[0xe4],
    &[0xe5],
    &[0xe6],
    &[0xe7],
    &[0xec],
    &[0xed],
    &[0xee],
    &[0xef],
    &[0x6c],
    &[0x6d],
    &[0x6e],
    &[0x6f],
    &[0x0f, 0x06],
    &[0x0f, 0x08],
    &[0x0f, 0x09],
    &[0x0f, 0x30],
    &[0x0f, 0x31],
    &[0x0f, 0x32],
    &[0x0f, 0xa2],
    &[0x0f, 0x01, 0xd1],
    &[0x0f, 0x01, 0xf9],
    &[0x0f, 0x20],
    &[0x0f, 0x21],
    &[0x0f, 0x22],
    &[0x0f, 0x23],
];

/// What iced-x86 says that a memory write does; None for what is left to others on purpose.
fn expected_change(i: &Instruction, regs: &Regs) -> Option<Change> {
    let stos = matches!(
        i.mnemonic(),
        Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq
    );
    if stos {
        return (!i.has_rep_prefix() && !i.has_repne_prefix()).then_some(Change::Stos);
    }
    let memory = (0..i.op_count()).find(|op| i.op_kind(*op) == OpKind::Memory)?;
    let other = 1 - memory;
    let register = (i.op_kind(other) == OpKind::Register).then(|| i.op_register(other));
    let value = || match register {
        Some(r) => value_of(regs, r),
        None => i.immediate(other),
    };
    // results in AH, CH, DH and BH are left to the guest's own fault handler
    let writable = || register.filter(|r| !(Register::AH..=Register::BH).contains(r));
    let bit = || value() as u8 & (i.memory_size().size() as u8 * 8 - 1);
    Some(match i.mnemonic() {
        Mnemonic::Mov if memory == 0 => Change::Store(value()),
        Mnemonic::Xchg => Change::Xchg(number(writable()?)),
        Mnemonic::Xadd => Change::Xadd(number(writable()?)),
        Mnemonic::Cmpxchg => Change::CmpXchg(value()),
        Mnemonic::Add => Change::Add(value()),
        Mnemonic::Or => Change::Or(value()),
        Mnemonic::And => Change::And(value()),
        Mnemonic::Sub => Change::Sub(value()),
        Mnemonic::Xor => Change::Xor(value()),
        Mnemonic::Bts => Change::SetBit(bit()),
        Mnemonic::Btr => Change::ClearBit(bit()),
        Mnemonic::Btc => Change::FlipBit(bit()),
        _ => return None,
    })
}

/// Changes are the same if they are within the operand; bits above it do not count.
fn within(c: Change, size: u8) -> Change {
    let m = size_mask(size);
    match c {
        Change::Store(v) => Change::Store(v & m),
        Change::CmpXchg(v) => Change::CmpXchg(v & m),
        Change::And(v) => Change::And(v & m),
        Change::Or(v) => Change::Or(v & m),
        Change::Xor(v) => Change::Xor(v & m),
        Change::Add(v) => Change::Add(v & m),
        Change::Sub(v) => Change::Sub(v & m),
        c => c,
    }
}

fn expected_privileged(i: &Instruction) -> Option<Privileged> {
    use Mnemonic as M;
    use Privileged as P;
    let repeat = i.has_rep_prefix() || i.has_repne_prefix();
    let io = |data: u32, port: u32| {
        let size = i.op_register(data).size() as u8;
        let immediate = i.op_kind(port) == OpKind::Immediate8;
        (size, immediate.then(|| i.immediate8()))
    };
    let class = |r: Register, first: Register| r as u8 - first as u8;
    Some(match i.mnemonic() {
        M::Cli => P::Cli,
        M::Sti => P::Sti,
        M::Clts => P::Clts,
        M::Invd | M::Wbinvd | M::Wbnoinvd => P::Wbinvd,
        M::Cpuid => P::Cpuid,
        M::Rdmsr => P::Rdmsr,
        M::Wrmsr => P::Wrmsr,
        M::Xsetbv => P::Xsetbv,
        M::Rdtsc => P::Rdtsc { aux: false },
        M::Rdtscp => P::Rdtsc { aux: true },
        M::In => {
            let (size, port) = io(0, 1);
            P::In { size, port }
        }
        M::Out => {
            let (size, port) = io(1, 0);
            P::Out { size, port }
        }
        M::Insb | M::Insw | M::Insd => P::Ins {
            size: i.memory_size().size() as u8,
            repeat,
        },
        M::Outsb | M::Outsw | M::Outsd => P::Outs {
            size: i.memory_size().size() as u8,
            repeat,
        },
        M::Mov => {
            let (to, from) = (i.op0_register(), i.op1_register());
            if from.is_cr() {
                P::ReadCr {
                    cr: class(from, Register::CR0),
                    reg: number(to),
                }
            } else if from.is_dr() {
                P::ReadDr {
                    dr: class(from, Register::DR0),
                    reg: number(to),
                }
            } else if to.is_cr() {
                P::WriteCr {
                    cr: class(to, Register::CR0),
                    reg: number(from),
                }
            } else {
                P::WriteDr {
                    dr: class(to, Register::DR0),
                    reg: number(from),
                }
            }
        }
        _ => return None,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn memory_writes_are_what_iced_says(code in instruction(WRITES)) {
        let regs = registers();
        let ours = memory_write(&code, &regs);
        let theirs = iced(&code).and_then(|i| Some((i, expected_change(&i, &regs)?)));
        if let Some((len, reg)) = exchange64(&code) {
            let same = ours.is_some_and(|w| (w.len, w.size, w.change) == (len, 8, Change::Xchg(reg)));
            prop_assert!(same, "{:02x?}", code);
        }
        match (ours, theirs) {
            (None, None) => {}
            (Some(w), Some((i, change))) => {
                prop_assert_eq!(usize::from(w.len), i.len(), "{}", i);
                prop_assert_eq!(usize::from(w.size), i.memory_size().size(), "{}", i);
                prop_assert_eq!(within(w.change, w.size), within(change, w.size), "{}", i);
            }
            (ours, theirs) => prop_assert!(false, "{code:02x?}: {ours:?}, {theirs:?}"),
        }
    }

    #[test]
    fn privileged_instructions_are_what_iced_says(code in instruction(PRIVILEGED)) {
        // prefixes that make another instruction of it, or none, never get as far as #GP
        let Some(i) = iced(&code).filter(|i| !i.has_lock_prefix()) else {
            return Ok(());
        };
        let theirs = expected_privileged(&i).map(|p| (p, i.len() as u8));
        prop_assert_eq!(privileged(&code), theirs, "{} {:02x?}", i, code);
    }

    #[test]
    fn loads_are_what_iced_says(code in instruction(&[&[0x8b], &[0x8a], &[0xa1], &[0x0f, 0xb6]])) {
        let theirs = iced(&code).and_then(|i| {
            let load = i.op_code().op_code() == 0x8b
                && i.op1_kind() == OpKind::Memory
                && i.op0_register().is_gpr64();
            load.then(|| (i.len() as u8, number(i.op0_register())))
        });
        prop_assert_eq!(load64(&code), theirs, "{:02x?}", code);
    }

    #[test]
    fn any_bytes_of_any_length_are_safe(code in prop::collection::vec(any::<u8>(), 0..16)) {
        let regs = registers();
        let fits = |len: u8| usize::from(len) <= code.len();
        prop_assert!(privileged(&code).is_none_or(|(_, len)| fits(len)));
        prop_assert!(load64(&code).is_none_or(|(len, _)| fits(len)));
        prop_assert!(memory_write(&code, &regs).is_none_or(|w| fits(w.len)));
    }

    #[test]
    fn truncated_instructions_are_none(code in instruction(WRITES)) {
        let regs = registers();
        if let Some(w) = memory_write(&code, &regs) {
            for n in 0..usize::from(w.len) {
                prop_assert_eq!(memory_write(&code[..n], &regs), None);
            }
        }
    }
}

/// The flags that adding (or subtracting) gives, from exact integers.
fn arithmetic_flags(subtract: bool, a: u64, b: u64, size: u8) -> u64 {
    let bits = u32::from(size) * 8;
    let signed = |v: u64| i128::from(sign_extend(v, size) as i64);
    let (wide, exact, nibble) = if subtract {
        (
            i128::from(a) - i128::from(b),
            signed(a) - signed(b),
            i128::from(a & 15) - i128::from(b & 15),
        )
    } else {
        (
            i128::from(a) + i128::from(b),
            signed(a) + signed(b),
            i128::from(a & 15) + i128::from(b & 15),
        )
    };
    let half = 1i128 << (bits - 1);
    let mut f = logic_flags(wide as u64, size);
    if wide < 0 || wide >> bits != 0 {
        f |= CF;
    }
    if !(-half..half).contains(&exact) {
        f |= OF;
    }
    if !(0..16).contains(&nibble) {
        f |= AF;
    }
    f
}

fn logic_flags(value: u64, size: u8) -> u64 {
    let bits = u32::from(size) * 8;
    let v = value & size_mask(size);
    let mut f = 0;
    if v == 0 {
        f |= ZF;
    }
    if v >> (bits - 1) == 1 {
        f |= SF;
    }
    if (0..8).filter(|i| v >> i & 1 == 1).count() % 2 == 0 {
        f |= PF;
    }
    f
}

/// Values at and around the edges as often as any others.
fn edge() -> impl Strategy<Value = u64> {
    let near = (
        prop::sample::select(&[0u32, 4, 7, 8, 15, 16, 31, 32, 63][..]),
        0u64..3,
    )
        .prop_map(|(shift, d)| (1u64 << shift).wrapping_add(d).wrapping_sub(1));
    prop_oneof![any::<u64>(), near.clone(), near.prop_map(|v| !v)]
}

fn size() -> impl Strategy<Value = u8> {
    prop::sample::select(&[1u8, 2, 4, 8][..])
}

/// Carries a change out on `old`; returns the operand's and the flags' new values and the registers.
fn carry_out(change: Change, size: u8, old: u64, mut regs: Regs) -> (u64, u64, Regs) {
    let w = MemoryWrite {
        len: 3,
        size,
        change,
    };
    let done = w.apply(old, &regs);
    w.finish(&done, &mut regs);
    assert_eq!(regs.rip, 0x1003);
    (done.value, regs.rflags & ARITHMETIC, regs)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn sums_differences_and_their_flags(a in edge(), b in edge(), size in size(), before in any::<u64>()) {
        let m = size_mask(size);
        let old = a & m;
        // an immediate comes sign-extended to 64 bits
        let v = sign_extend(b, size);
        let regs = Regs { rflags: before, ..registers() };
        let (value, flags, after) = carry_out(Change::Add(v), size, old, regs);
        prop_assert_eq!(value, old.wrapping_add(b) & m);
        prop_assert_eq!(flags, arithmetic_flags(false, old, b & m, size));
        prop_assert_eq!(after.rflags & !ARITHMETIC, before & !ARITHMETIC, "other flags stay");
        let (value, flags, _) = carry_out(Change::Sub(v), size, old, regs);
        prop_assert_eq!(value, old.wrapping_sub(b) & m);
        prop_assert_eq!(flags, arithmetic_flags(true, old, b & m, size));
    }

    #[test]
    fn logic_clears_carry_and_overflow(a in edge(), b in edge(), size in size()) {
        let m = size_mask(size);
        let old = a & m;
        let regs = Regs { rflags: u64::MAX, ..registers() };
        let cases = [
            (Change::And(b), old & b),
            (Change::Or(b), old | b),
            (Change::Xor(b), old ^ b),
        ];
        for (change, expected) in cases {
            let (value, flags, _) = carry_out(change, size, old, regs);
            prop_assert_eq!(value, expected & m);
            prop_assert_eq!(flags, logic_flags(expected, size));
        }
    }

    #[test]
    fn compare_and_exchange(a in edge(), b in edge(), new in edge(), equal in any::<bool>(), size in size()) {
        let m = size_mask(size);
        let old = a & m;
        // what lies above the operand in rax has no say
        let rax = if equal { old | b & !m } else { b };
        let regs = Regs { rax, ..registers() };
        let (value, flags, after) = carry_out(Change::CmpXchg(new & m), size, old, regs);
        prop_assert_eq!(flags, arithmetic_flags(true, rax & m, old, size));
        if rax & m == old {
            prop_assert_eq!(value, new & m);
            prop_assert_eq!(after.rax, rax);
        } else {
            prop_assert_eq!(value, old);
            let kept = if size < 4 { rax & !m } else { 0 };
            prop_assert_eq!(after.rax, kept | old);
        }
    }

    #[test]
    fn exchanges_give_the_register_the_old_value(a in edge(), n in 0u8..16, size in size()) {
        let m = size_mask(size);
        let old = a & m;
        let mut before = registers();
        let v = *gpr(&mut before, n);
        let result = |full: u64| if size < 4 { full & !m | old } else { old };
        let (value, flags, mut after) = carry_out(Change::Xchg(n), size, old, before);
        prop_assert_eq!((value, flags), (v & m, 0));
        prop_assert_eq!(*gpr(&mut after, n), result(v));
        let (value, flags, mut after) = carry_out(Change::Xadd(n), size, old, before);
        prop_assert_eq!(value, old.wrapping_add(v) & m);
        prop_assert_eq!(flags, arithmetic_flags(false, old, v & m, size));
        prop_assert_eq!(*gpr(&mut after, n), result(v));
    }

    #[test]
    fn bit_instructions_move_the_bit_to_carry(a in edge(), n in 0u8..64, size in size()) {
        let n = n % (size * 8);
        let old = a & size_mask(size);
        let regs = Regs { rflags: ZF | SF | OF, ..registers() };
        let cases = [
            (Change::SetBit(n), old | 1 << n),
            (Change::ClearBit(n), old & !(1 << n)),
            (Change::FlipBit(n), old ^ 1 << n),
        ];
        for (change, expected) in cases {
            let (value, flags, _) = carry_out(change, size, old, regs);
            prop_assert_eq!(value, expected);
            prop_assert_eq!(flags, ZF | SF | OF | old >> n & 1, "carry alone changes");
        }
    }
}

#[test]
fn stos_advances_by_the_direction_flag() {
    const DF: u64 = 1 << 10;
    for (size, rflags, step) in [(1u8, 0, 1i64), (8, 0, 8), (4, DF, -4), (2, DF, -2)] {
        let regs = Regs {
            rflags,
            ..registers()
        };
        let (value, _, after) = carry_out(Change::Stos, size, 0, regs);
        assert_eq!(value, regs.rax & size_mask(size));
        assert_eq!(after.rdi, regs.rdi.wrapping_add_signed(step));
        assert_eq!(after.rflags, rflags, "no flag changes");
    }
}

/// What Linux does to its page tables without a hypercall.
#[test]
fn kernels_own_writes() {
    let regs = Regs {
        rax: 0x1234,
        rdx: 0x5678,
        ..Regs::default()
    };
    let write = |code: &[u8]| memory_write(code, &regs).map(|w| (w.len, w.size, w.change));
    // xchg [rdi], rax
    assert_eq!(write(&[0x48, 0x87, 0x07]), Some((3, 8, Change::Xchg(0))));
    // lock and byte [rdi], 0xfd, and the form that alternatives make of it for one CPU
    let cleared = Change::And(0xffff_ffff_ffff_fffd);
    assert_eq!(write(&[0xf0, 0x80, 0x27, 0xfd]), Some((4, 1, cleared)));
    assert_eq!(write(&[0x3e, 0x80, 0x27, 0xfd]), Some((4, 1, cleared)));
    // lock cmpxchg [rsi + 8], rdx
    let cmpxchg = Some((6, 8, Change::CmpXchg(0x5678)));
    assert_eq!(write(&[0xf0, 0x48, 0x0f, 0xb1, 0x56, 0x08]), cmpxchg);
    // mov qword [rip + 0x10], 0
    let clear = Some((11, 8, Change::Store(0)));
    assert_eq!(write(&[0x48, 0xc7, 0x05, 0x10, 0, 0, 0, 0, 0, 0, 0]), clear);
    // rep stosq goes to the guest's own handler
    assert_eq!(write(&[0xf3, 0x48, 0xab]), None);
}
