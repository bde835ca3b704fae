//! Decoding the few instructions that are carried out for a guest: privileged ones, and writes
//! to page tables (AMD APM volume 3, "Opcode and Operand Encodings").
//!
//! Pure: bytes in, description out. 64-bit code only.

use xenner_emu_abi::mailbox::Regs;

#[cfg(test)]
mod tests;

/// Legacy and REX prefixes.
#[derive(Clone, Copy, Debug, Default)]
struct Prefixes {
    operand16: bool,
    repeat: bool,
    rex: u8,
    len: usize,
}

impl Prefixes {
    fn read(code: &[u8]) -> Self {
        let mut p = Self::default();
        for b in code {
            match b {
                0x66 => p.operand16 = true,
                0xf2 | 0xf3 => p.repeat = true,
                0xf0 | 0x2e | 0x36 | 0x3e | 0x26 | 0x64 | 0x65 | 0x67 => {}
                0x40..=0x4f => {
                    // a REX prefix counts only right before the opcode
                    p.rex = *b;
                    p.len += 1;
                    break;
                }
                _ => break,
            }
            p.len += 1;
        }
        p
    }

    /// Operand size in bytes of an instruction that has a byte form.
    fn size(self, byte: bool) -> u8 {
        match (byte, self.rex & 8 != 0, self.operand16) {
            (true, _, _) => 1,
            (_, true, _) => 8,
            (_, _, true) => 2,
            _ => 4,
        }
    }

    fn reg(self, modrm: u8) -> u8 {
        modrm >> 3 & 7 | (self.rex & 4) << 1
    }

    fn rm(self, modrm: u8) -> u8 {
        modrm & 7 | (self.rex & 1) << 3
    }
}

/// A general register by its number in instructions.
pub fn gpr(regs: &mut Regs, n: u8) -> &mut u64 {
    match n & 15 {
        0 => &mut regs.rax,
        1 => &mut regs.rcx,
        2 => &mut regs.rdx,
        3 => &mut regs.rbx,
        4 => &mut regs.rsp,
        5 => &mut regs.rbp,
        6 => &mut regs.rsi,
        7 => &mut regs.rdi,
        8 => &mut regs.r8,
        9 => &mut regs.r9,
        10 => &mut regs.r10,
        11 => &mut regs.r11,
        12 => &mut regs.r12,
        13 => &mut regs.r13,
        14 => &mut regs.r14,
        _ => &mut regs.r15,
    }
}

/// The bits of an operand of `size` bytes.
pub const fn size_mask(size: u8) -> u64 {
    if size >= 8 {
        u64::MAX
    } else {
        (1 << (size * 8)) - 1
    }
}

/// A privileged instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Privileged {
    Cli,
    Sti,
    Clts,
    /// WBINVD or INVD.
    Wbinvd,
    Cpuid,
    Rdmsr,
    Wrmsr,
    Xsetbv,
    /// RDTSC, or RDTSCP with `aux`.
    Rdtsc {
        aux: bool,
    },
    /// IN: `size` bytes from an immediate port or the one in dx.
    In {
        size: u8,
        port: Option<u8>,
    },
    Out {
        size: u8,
        port: Option<u8>,
    },
    /// INS: to memory at rdi; `repeat`: rcx times.
    Ins {
        size: u8,
        repeat: bool,
    },
    /// OUTS: from memory at rsi.
    Outs {
        size: u8,
        repeat: bool,
    },
    ReadCr {
        cr: u8,
        reg: u8,
    },
    WriteCr {
        cr: u8,
        reg: u8,
    },
    ReadDr {
        dr: u8,
        reg: u8,
    },
    WriteDr {
        dr: u8,
        reg: u8,
    },
}

/// Decodes a privileged instruction; returns it with its length.
pub fn privileged(code: &[u8]) -> Option<(Privileged, u8)> {
    let p = Prefixes::read(code);
    let at = |i: usize| code.get(p.len + i).copied();
    // there is no I/O of 8 bytes
    let io_size = |op: u8| p.size(op & 1 == 0).min(4);
    let (insn, len) = match at(0)? {
        0xfa => (Privileged::Cli, 1),
        0xfb => (Privileged::Sti, 1),
        op @ (0xe4 | 0xe5) => (
            Privileged::In {
                size: io_size(op),
                port: Some(at(1)?),
            },
            2,
        ),
        op @ (0xe6 | 0xe7) => (
            Privileged::Out {
                size: io_size(op),
                port: Some(at(1)?),
            },
            2,
        ),
        op @ (0xec | 0xed) => (
            Privileged::In {
                size: io_size(op),
                port: None,
            },
            1,
        ),
        op @ (0xee | 0xef) => (
            Privileged::Out {
                size: io_size(op),
                port: None,
            },
            1,
        ),
        op @ (0x6c | 0x6d) => (
            Privileged::Ins {
                size: io_size(op),
                repeat: p.repeat,
            },
            1,
        ),
        op @ (0x6e | 0x6f) => (
            Privileged::Outs {
                size: io_size(op),
                repeat: p.repeat,
            },
            1,
        ),
        0x0f => match at(1)? {
            0x06 => (Privileged::Clts, 2),
            0x08 | 0x09 => (Privileged::Wbinvd, 2),
            0x30 => (Privileged::Wrmsr, 2),
            0x31 => (Privileged::Rdtsc { aux: false }, 2),
            0x32 => (Privileged::Rdmsr, 2),
            0xa2 => (Privileged::Cpuid, 2),
            0x01 => match at(2)? {
                0xd1 => (Privileged::Xsetbv, 3),
                0xf9 => (Privileged::Rdtsc { aux: true }, 3),
                _ => return None,
            },
            // MOV to and from control and debug registers ignores the mod field
            op @ 0x20..=0x23 => {
                let modrm = at(2)?;
                let (n, reg) = (p.reg(modrm), p.rm(modrm));
                let insn = match op {
                    0x20 => Privileged::ReadCr { cr: n, reg },
                    0x21 => Privileged::ReadDr { dr: n, reg },
                    0x22 => Privileged::WriteCr { cr: n, reg },
                    _ => Privileged::WriteDr { dr: n, reg },
                };
                (insn, 3)
            }
            _ => return None,
        },
        _ => return None,
    };
    Some((insn, (p.len + len) as u8))
}

/// Bytes of a ModRM memory operand from the ModRM byte on; None for a register operand.
fn operand_len(code: &[u8]) -> Option<usize> {
    let modrm = *code.first()?;
    let (mode, rm) = (modrm >> 6, modrm & 7);
    if mode == 3 {
        return None;
    }
    let sib = rm == 4;
    let base5 = if sib { code.get(1)? & 7 == 5 } else { rm == 5 };
    let displacement = match mode {
        0 if base5 => 4,
        0 => 0,
        1 => 1,
        _ => 4,
    };
    let len = 1 + usize::from(sib) + displacement;
    (code.len() >= len).then_some(len)
}

/// Decodes `mov r64, [memory]`: length and register.
pub fn load64(code: &[u8]) -> Option<(u8, u8)> {
    let p = Prefixes::read(code);
    if p.rex & 8 == 0 || *code.get(p.len)? != 0x8b {
        return None;
    }
    let rest = &code[p.len + 1..];
    let len = operand_len(rest)?;
    Some(((p.len + 1 + len) as u8, p.reg(rest[0])))
}

/// Decodes `xchg [memory], r64` without prefixes but REX: length and register.
pub fn exchange64(code: &[u8]) -> Option<(u8, u8)> {
    let [rex, 0x87, rest @ ..] = code else {
        return None;
    };
    if rex & 0xf8 != 0x48 {
        return None;
    }
    let len = operand_len(rest)?;
    Some(((2 + len) as u8, rest[0] >> 3 & 7 | (rex & 4) << 1))
}

/// What an instruction does to its memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Change {
    Store(u64),
    /// Exchange with a register.
    Xchg(u8),
    /// Compare with rax, store the register's value if equal.
    CmpXchg(u64),
    /// Exchange and add: the register.
    Xadd(u8),
    And(u64),
    Or(u64),
    Xor(u64),
    Add(u64),
    Sub(u64),
    /// Bit number; `BTS`, `BTR`, `BTC`.
    SetBit(u8),
    ClearBit(u8),
    FlipBit(u8),
    /// STOS: rdi advances.
    Stos,
}

/// A write to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryWrite {
    /// Bytes of the instruction.
    pub len: u8,
    /// Bytes of the operand.
    pub size: u8,
    /// What happens to it.
    pub change: Change,
}

/// What carrying out a write gives.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// The operand's new value.
    pub value: u64,
    old: u64,
    flags: Option<u64>,
}

const CF: u64 = 1;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;
const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;

fn sign_extend(v: u64, size: u8) -> u64 {
    let shift = 64 - u32::from(size) * 8;
    ((v << shift) as i64 >> shift) as u64
}

/// An immediate of an instruction with operands of `size` bytes.
fn immediate(code: &[u8], size: u8) -> Option<(u64, usize)> {
    let n = usize::from(size.min(4));
    let mut b = [0u8; 8];
    b[..n].copy_from_slice(code.get(..n)?);
    Some((sign_extend(u64::from_le_bytes(b), size.min(4)), n))
}

/// Register operand of `size` bytes; byte registers 4-7 without REX are ah, ch, dh, bh.
fn source(regs: &Regs, p: Prefixes, n: u8, size: u8) -> u64 {
    let mut copy = *regs;
    if size == 1 && p.rex == 0 && (4..8).contains(&n) {
        return *gpr(&mut copy, n - 4) >> 8 & 0xff;
    }
    *gpr(&mut copy, n) & size_mask(size)
}

fn group1(n: u8, v: u64) -> Option<Change> {
    Some(match n & 7 {
        0 => Change::Add(v),
        1 => Change::Or(v),
        4 => Change::And(v),
        5 => Change::Sub(v),
        6 => Change::Xor(v),
        _ => return None,
    })
}

/// Decodes an instruction that writes to memory, as far as kernels use it on page tables.
pub fn memory_write(code: &[u8], regs: &Regs) -> Option<MemoryWrite> {
    let p = Prefixes::read(code);
    let op = *code.get(p.len)?;
    if op == 0x0f {
        return two_byte(code, p, regs);
    }
    let rest = code.get(p.len + 1..)?;
    let size = p.size(op & 1 == 0);
    if matches!(op, 0xaa | 0xab) {
        if p.repeat {
            return None;
        }
        return Some(MemoryWrite {
            len: (p.len + 1) as u8,
            size,
            change: Change::Stos,
        });
    }
    let operand = operand_len(rest)?;
    let reg = p.reg(rest[0]);
    let after = &rest[operand..];
    let head = p.len + 1 + operand;
    let (change, extra) = match op {
        0x88 | 0x89 => (Change::Store(source(regs, p, reg, size)), 0),
        0x86 | 0x87 if size == 1 && p.rex == 0 && reg >= 4 => return None,
        0x86 | 0x87 => (Change::Xchg(reg), 0),
        0xc6 | 0xc7 if reg & 7 == 0 => {
            let (v, n) = immediate(after, size)?;
            (Change::Store(v), n)
        }
        0x80 | 0x81 => {
            let (v, n) = immediate(after, size)?;
            (group1(reg, v)?, n)
        }
        0x83 => (group1(reg, sign_extend(u64::from(*after.first()?), 1))?, 1),
        0x00 | 0x01 | 0x08 | 0x09 | 0x20 | 0x21 | 0x28 | 0x29 | 0x30 | 0x31 => {
            (group1(op >> 3, source(regs, p, reg, size))?, 0)
        }
        _ => return None,
    };
    Some(MemoryWrite {
        len: (head + extra) as u8,
        size,
        change,
    })
}

fn two_byte(code: &[u8], p: Prefixes, regs: &Regs) -> Option<MemoryWrite> {
    let op = *code.get(p.len + 1)?;
    let rest = code.get(p.len + 2..)?;
    let operand = operand_len(rest)?;
    let reg = p.reg(rest[0]);
    let size = match op {
        0xb0 | 0xc0 => 1,
        _ => p.size(false),
    };
    let head = p.len + 2 + operand;
    let bit = |n: u8| n & (size * 8 - 1);
    let (change, extra) = match op {
        0xb0 | 0xb1 => (Change::CmpXchg(source(regs, p, reg, size)), 0),
        0xc0 if p.rex == 0 && reg >= 4 => return None,
        0xc0 | 0xc1 => (Change::Xadd(reg), 0),
        0xba => {
            let n = bit(*rest.get(operand)?);
            let change = match reg & 7 {
                5 => Change::SetBit(n),
                6 => Change::ClearBit(n),
                7 => Change::FlipBit(n),
                _ => return None,
            };
            (change, 1)
        }
        _ => return None,
    };
    Some(MemoryWrite {
        len: (head + extra) as u8,
        size,
        change,
    })
}

impl MemoryWrite {
    /// What the operand becomes, given its present value.
    pub fn apply(&self, old: u64, regs: &Regs) -> Outcome {
        let mask = size_mask(self.size);
        let mut copy = *regs;
        let mut of = |n| *gpr(&mut copy, n) & mask;
        let (value, flags) = match self.change {
            Change::Store(v) => (v, None),
            Change::Stos => (regs.rax, None),
            Change::Xchg(r) => (of(r), None),
            Change::CmpXchg(v) => {
                let flags = self.sub_flags(regs.rax & mask, old);
                (if regs.rax & mask == old { v } else { old }, Some(flags))
            }
            Change::Xadd(r) => (old.wrapping_add(of(r)), Some(self.add_flags(old, of(r)))),
            Change::Add(v) => (old.wrapping_add(v), Some(self.add_flags(old, v & mask))),
            Change::Sub(v) => (old.wrapping_sub(v), Some(self.sub_flags(old, v & mask))),
            Change::And(v) => (old & v, Some(self.result_flags(old & v & mask))),
            Change::Or(v) => (old | v, Some(self.result_flags((old | v) & mask))),
            Change::Xor(v) => (old ^ v, Some(self.result_flags((old ^ v) & mask))),
            Change::SetBit(n) => (old | 1 << n, Some(old >> n & 1)),
            Change::ClearBit(n) => (old & !(1 << n), Some(old >> n & 1)),
            Change::FlipBit(n) => (old ^ 1 << n, Some(old >> n & 1)),
        };
        Outcome {
            value: value & mask,
            old,
            flags,
        }
    }

    /// Brings the registers to where they are after the instruction.
    pub fn finish(&self, done: &Outcome, regs: &mut Regs) {
        match self.change {
            Change::Xchg(r) | Change::Xadd(r) => self.write_register(regs, r, done.old),
            Change::CmpXchg(_) if regs.rax & size_mask(self.size) != done.old => {
                self.write_register(regs, 0, done.old);
            }
            Change::Stos => {
                let step = u64::from(self.size);
                regs.rdi = if regs.rflags >> 10 & 1 == 0 {
                    regs.rdi.wrapping_add(step)
                } else {
                    regs.rdi.wrapping_sub(step)
                };
            }
            _ => {}
        }
        if let Some(f) = done.flags {
            let affected = match self.change {
                Change::SetBit(_) | Change::ClearBit(_) | Change::FlipBit(_) => CF,
                _ => ARITHMETIC,
            };
            regs.rflags = regs.rflags & !affected | f;
        }
        regs.rip = regs.rip.wrapping_add(u64::from(self.len));
    }

    fn write_register(&self, regs: &mut Regs, n: u8, v: u64) {
        let r = gpr(regs, n);
        *r = match self.size {
            // 32-bit results clear the upper half
            4 | 8 => v & size_mask(self.size),
            _ => *r & !size_mask(self.size) | v & size_mask(self.size),
        };
    }

    fn sign(&self) -> u64 {
        1 << (u32::from(self.size) * 8 - 1)
    }

    fn result_flags(&self, v: u64) -> u64 {
        let mut f = 0;
        if v == 0 {
            f |= ZF;
        }
        if v & self.sign() != 0 {
            f |= SF;
        }
        if (v as u8).count_ones() & 1 == 0 {
            f |= PF;
        }
        f
    }

    fn add_flags(&self, a: u64, b: u64) -> u64 {
        let mask = size_mask(self.size);
        let r = a.wrapping_add(b) & mask;
        let mut f = self.result_flags(r);
        if r < a {
            f |= CF;
        }
        if (a ^ r) & (b ^ r) & self.sign() != 0 {
            f |= OF;
        }
        f | (a ^ b ^ r) & AF
    }

    fn sub_flags(&self, a: u64, b: u64) -> u64 {
        let mask = size_mask(self.size);
        let r = a.wrapping_sub(b) & mask;
        let mut f = self.result_flags(r);
        if a < b {
            f |= CF;
        }
        if (a ^ b) & (a ^ r) & self.sign() != 0 {
            f |= OF;
        }
        f | (a ^ b ^ r) & AF
    }
}
