//! Privileged instructions of a guest kernel in ring 3, as Xen carries them out.

use xenner_emu_abi::mailbox::Regs;
use xenner_xen_abi::arch_x86_64::XEN_EMULATE_PREFIX;

use core::sync::atomic::Ordering::Relaxed;

use super::{bounce, msr, page_fault, set_ts, software_interrupt};
use crate::arch::cpu;
use crate::decode::{self, Privileged};
use crate::event::CR2;
use crate::hypercall::{misc, mmuext};
use crate::mem::{cpuid_table, fetch, info_u64, read_guest_u8, write_guest_u8};
use crate::percpu::Vcpu;
use crate::vmm;

const CR0_TS: u64 = 1 << 3;
const CR4_TSD: u64 = 1 << 2;
const CR4_DE: u64 = 1 << 3;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_OSXSAVE: u64 = 1 << 18;
/// CR4 bits that the guest may set for itself.
pub const CR4_GUEST: u64 = CR4_TSD | CR4_DE | CR4_FSGSBASE | CR4_OSXSAVE;

/// #UD: the forced CPUID, and INT n where it arrives as #UD.
pub fn invalid_opcode(me: &Vcpu, regs: &mut Regs) {
    let (code, n) = fetch(regs.rip);
    if n >= 7 && code[..5] == XEN_EMULATE_PREFIX && code[5..7] == [0x0f, 0xa2] {
        forced_cpuid(me, regs);
        regs.rip = regs.rip.wrapping_add(7);
    } else if n >= 2 && code[0] == 0xcd {
        let vector = code[1];
        software_interrupt(me, regs, vector, 2, u32::from(vector) << 3 | 2);
    } else {
        bounce::exception(me, regs, 6, None);
    }
}

/// What CPUID says, by the table that the VMM made.
fn lookup_cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let find = |leaf| {
        cpuid_table()
            .iter()
            .find(|e| e.leaf == leaf && (e.indexed == 0 || e.subleaf == subleaf))
            .map(|e| [e.eax, e.ebx, e.ecx, e.edx])
    };
    find(leaf).unwrap_or([0; 4])
}

fn forced_cpuid(me: &Vcpu, regs: &mut Regs) {
    const OSXSAVE: u32 = 1 << 27;
    const XSAVE: u32 = 1 << 26;
    let (leaf, subleaf) = (regs.rax as u32, regs.rcx as u32);
    let [eax, mut ebx, mut ecx, edx] = lookup_cpuid(leaf, subleaf);
    if leaf == 1 {
        // the APIC's number, which tells the cores of a package apart
        ebx |= me.id.get() << 24;
        // Xen shows OSXSAVE to a guest kernel that asks in this way if XSAVE is offered
        let on = ecx & XSAVE != 0
            && (me.kernel_mode.get() == 1 || me.guest_cr4.get() & CR4_OSXSAVE != 0);
        ecx = if on { ecx | OSXSAVE } else { ecx & !OSXSAVE };
    }
    regs.rax = u64::from(eax);
    regs.rbx = u64::from(ebx);
    regs.rcx = u64::from(ecx);
    regs.rdx = u64::from(edx);
}

/// #GP with error code 0: carries out the instruction if it is one that Xen does for a PV
/// guest. False: the guest gets the fault.
pub fn emulate(me: &Vcpu, regs: &mut Regs) -> bool {
    let (code, n) = fetch(regs.rip);
    let Some((insn, len)) = decode::privileged(&code[..n]) else {
        return false;
    };
    let kernel = me.kernel_mode.get() == 1;
    let io = matches!(
        insn,
        Privileged::In { .. }
            | Privileged::Out { .. }
            | Privileged::Ins { .. }
            | Privileged::Outs { .. }
    );
    if !kernel && !io {
        return false;
    }
    let done = match insn {
        Privileged::Cli | Privileged::Sti => misc::io_allowed(me),
        Privileged::Clts => {
            set_ts(me, false);
            true
        }
        Privileged::Wbinvd => true,
        Privileged::Cpuid => {
            forced_cpuid(me, regs);
            true
        }
        Privileged::In { size, port } => port_in(me, regs, size, port),
        Privileged::Out { .. } => misc::io_allowed(me),
        Privileged::Ins { size, repeat } => return string_io(me, regs, len, size, repeat, true),
        Privileged::Outs { size, repeat } => return string_io(me, regs, len, size, repeat, false),
        Privileged::ReadCr { cr, reg } => read_cr(me, regs, cr, reg),
        Privileged::WriteCr { cr, reg } => write_cr(me, regs, cr, reg),
        Privileged::ReadDr { dr, reg } => match misc::get_debugreg(me, dr) {
            Some(v) => {
                *decode::gpr(regs, reg) = v;
                true
            }
            None => false,
        },
        Privileged::WriteDr { dr, reg } => {
            let v = *decode::gpr(regs, reg);
            misc::set_debugreg(me, u64::from(dr), v).is_ok()
        }
        Privileged::Rdmsr => msr::read(me, regs.rcx as u32).is_some_and(|v| {
            regs.rax = v & 0xffff_ffff;
            regs.rdx = v >> 32;
            true
        }),
        Privileged::Wrmsr => {
            let value = regs.rdx << 32 | regs.rax & 0xffff_ffff;
            msr::write(me, regs.rcx as u32, value)
        }
        Privileged::Rdtsc { aux } => {
            let t = cpu::rdtsc();
            regs.rax = t & 0xffff_ffff;
            regs.rdx = t >> 32;
            if aux {
                regs.rcx = u64::from(me.id.get());
            }
            true
        }
        Privileged::Xsetbv => vmm::xsetbv(regs.rcx as u32, regs.rdx << 32 | regs.rax & 0xffff_ffff),
    };
    if done {
        regs.rip = regs.rip.wrapping_add(u64::from(len));
    }
    done
}

/// IN: there is nothing behind the ports. The PIT's counter reads 0, which ends Linux's
/// calibration at once; all else reads as an empty bus.
fn port_in(me: &Vcpu, regs: &mut Regs, size: u8, port: Option<u8>) -> bool {
    if !misc::io_allowed(me) {
        return false;
    }
    let port = port.map_or(regs.rdx as u16, u16::from);
    let value = if port == 0x42 { 0 } else { u64::MAX };
    let mask = decode::size_mask(size);
    regs.rax = match size {
        4 => value & mask,
        _ => regs.rax & !mask | value & mask,
    };
    true
}

/// INS and OUTS: an empty bus again. A long repetition is done in parts, so that interrupts get
/// their turn; a fault in memory is the guest's, at the element where it happens.
fn string_io(me: &Vcpu, regs: &mut Regs, len: u8, size: u8, repeat: bool, input: bool) -> bool {
    const PART: u64 = 256;
    if !misc::io_allowed(me) {
        return false;
    }
    let count = if repeat { regs.rcx } else { 1 };
    let step = if regs.rflags >> 10 & 1 == 0 {
        u64::from(size)
    } else {
        u64::from(size).wrapping_neg()
    };
    let mut done = 0;
    while done < count.min(PART) {
        let va = if input { regs.rdi } else { regs.rsi };
        for i in 0..u64::from(size) {
            let at = va.wrapping_add(i);
            let access = if input {
                write_guest_u8(at, 0xff)
            } else {
                read_guest_u8(at).map(|_| ())
            };
            if access.is_err() {
                // the instruction goes on here once the guest has mapped the page
                page_fault::reflect(me, regs, at, input);
                return true;
            }
        }
        if input {
            regs.rdi = regs.rdi.wrapping_add(step);
        } else {
            regs.rsi = regs.rsi.wrapping_add(step);
        }
        if repeat {
            regs.rcx -= 1;
        }
        done += 1;
    }
    if done == count {
        regs.rip = regs.rip.wrapping_add(u64::from(len));
    }
    true
}

fn read_cr(me: &Vcpu, regs: &mut Regs, cr: u8, reg: u8) -> bool {
    let value = match cr {
        0 => cpu::read_cr0() & !CR0_TS | if me.ts.get() { CR0_TS } else { 0 },
        2 => info_u64(me.info.load(Relaxed), CR2).load(Relaxed),
        3 => me.kernel_cr3.get(),
        4 => {
            const SHOWN: u64 = 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10;
            cpu::read_cr4() & SHOWN | me.guest_cr4.get()
        }
        _ => return false,
    };
    *decode::gpr(regs, reg) = value;
    true
}

fn write_cr(me: &Vcpu, regs: &mut Regs, cr: u8, reg: u8) -> bool {
    let value = *decode::gpr(regs, reg);
    match cr {
        0 => {
            let present = cpu::read_cr0();
            if (value ^ present) & !CR0_TS & 0xffff_ffff != 0 {
                return false;
            }
            set_ts(me, value & CR0_TS != 0);
            true
        }
        2 => {
            info_u64(me.info.load(Relaxed), CR2).store(value, Relaxed);
            true
        }
        3 => mmuext::new_baseptr(me, value >> 12).is_ok(),
        4 => {
            set_guest_cr4(me, value & CR4_GUEST);
            true
        }
        _ => false,
    }
}

/// Takes up the CR4 bits that are the guest's own.
pub fn set_guest_cr4(me: &Vcpu, value: u64) {
    use xenner_emu_abi::boot::FLAG_FSGSBASE;
    me.guest_cr4.set(value);
    let cr4 = cpu::read_cr4() & !(CR4_TSD | CR4_DE | CR4_FSGSBASE);
    let mut wanted = value & (CR4_TSD | CR4_DE);
    if crate::mem::boot_info().flags & FLAG_FSGSBASE != 0 {
        wanted |= value & CR4_FSGSBASE;
    }
    if cr4 | wanted != cpu::read_cr4() {
        cpu::write_cr4(cr4 | wanted);
    }
}
