//! GDT, IDT, TSS and the SYSCALL registers of a vcpu.
//!
//! The guest sees its own GDT in the first 14 pages of the descriptor window and
//! Xen's descriptors in page 14 (`xen/include/public/arch-x86/xen-x86_64.h`,
//! `FLAT_RING3_*`); the CPU's GDTR covers both.

use core::arch::asm;
use core::ptr::write_volatile;

use xenner_emu_abi::area::{
    AREA_CONTEXT, AREA_GDT, AREA_IST_TOP, AREA_SIZE, AREA_STUB, AREA_TSS, AREA_VCPU,
};
use xenner_emu_abi::boot::FLAG_SYSCALL_STAYS_USER;
use xenner_emu_abi::layout::{TRAMPOLINE_VA, VCPU_AREA_VA, WINDOW_LDT, WINDOW_SIZE, WINDOW_VA};
use xenner_emu_abi::mailbox::{VECTOR_EVENT, VECTOR_TIMER};
use xenner_xen_abi::arch_x86_64::{FLAT_KERNEL_CS, FLAT_KERNEL_SS};

use super::cpu;
use crate::mem::boot_info;

/// The emulator's code selector.
pub const EMU_CS: u16 = 0xe008;
const TSS_SELECTOR: u16 = 0xe040;
const LDT_SELECTOR: u16 = 0xe050;
/// Bytes of the GDT less one: 14 guest pages and one of ours.
const GDT_LIMIT: u16 = 0xefff;

const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_CSTAR: u32 = 0xc000_0083;
const MSR_SFMASK: u32 = 0xc000_0084;
const MSR_SYSENTER_CS: u32 = 0x174;
const MSR_SYSENTER_ESP: u32 = 0x175;
const MSR_SYSENTER_EIP: u32 = 0x176;

#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

#[repr(C, align(16))]
struct Idt([[u64; 2]; 256]);
static mut IDT: Idt = Idt([[0; 2]; 256]);

fn area(vcpu: u32) -> u64 {
    VCPU_AREA_VA + u64::from(vcpu) * AREA_SIZE
}

/// The vcpu's window for its GDT.
pub fn gdt_window(vcpu: u32) -> u64 {
    WINDOW_VA + u64::from(vcpu) * WINDOW_SIZE
}

fn put(va: u64, value: u64) {
    // SAFETY: `va` lies in the vcpu's own area or window page, mapped writable by the VMM.
    unsafe { write_volatile(va as *mut u64, value) };
}

/// Fills the IDT; once, before any vcpu loads it.
pub fn build_idt() {
    let stubs = cpu::vector_stubs();
    for vector in 0..256u64 {
        let dpl: u64 = if matches!(vector, 3 | 4 | 0x80) { 3 } else { 0 };
        let ist: u64 = if matches!(vector, 2 | 8 | 18) { 1 } else { 0 };
        let va = match vector as u8 {
            13 => cpu::gp_entry(),
            14 => cpu::pf_entry(),
            VECTOR_TIMER => cpu::timer_entry(),
            VECTOR_EVENT => cpu::event_entry(),
            _ => stubs + vector * 16,
        };
        let low = va & 0xffff
            | u64::from(EMU_CS) << 16
            | ist << 32
            | (0x8e | dpl << 5) << 40
            | (va >> 16 & 0xffff) << 48;
        // SAFETY: only the first vcpu is here, and no CPU has loaded the table yet.
        unsafe { (&raw mut IDT.0[vector as usize]).write_volatile([low, va >> 32]) };
    }
}

/// A 16-byte system descriptor for the GDT.
fn system_descriptor(base: u64, limit: u64, kind: u64) -> [u64; 2] {
    let low = limit & 0xffff
        | (base & 0xff_ffff) << 16
        | (0x80 | kind) << 40
        | (limit >> 16 & 0xf) << 48
        | (base >> 24 & 0xff) << 56;
    [low, base >> 32]
}

fn gdt_entry(vcpu: u32, selector: u16) -> u64 {
    area(vcpu) + AREA_GDT + u64::from(selector - 0xe000)
}

/// Writes the emulator's descriptors and loads all tables and entry points of this vcpu.
pub fn load(vcpu: u32) {
    let area = area(vcpu);
    for (selector, value) in [
        (0xe008u16, 0x00af_9b00_0000_ffffu64), // ring 0 code
        (0xe010, 0x00cf_9300_0000_ffff),       // ring 0 data
        (0xe020, 0x00cf_fb00_0000_ffff),       // FLAT_RING3_CS32
        (0xe028, 0x00cf_f300_0000_ffff),       // FLAT_RING3_DS32
        (0xe030, 0x00af_fb00_0000_ffff),       // FLAT_RING3_CS64
    ] {
        put(gdt_entry(vcpu, selector), value);
    }
    let tss = area + AREA_TSS;
    let [low, high] = system_descriptor(tss, 0x67, 9);
    put(gdt_entry(vcpu, TSS_SELECTOR), low);
    put(gdt_entry(vcpu, TSS_SELECTOR) + 8, high);
    // the TSS: RSP0 at 4, IST1 at 0x24; the I/O map lies behind the limit
    // SAFETY: inside this vcpu's TSS.
    unsafe {
        ((tss + 4) as *mut u64).write_unaligned(area + AREA_VCPU);
        ((tss + 0x24) as *mut u64).write_unaligned(area + AREA_IST_TOP);
        ((tss + 0x66) as *mut u16).write_unaligned(0x68);
    }
    let gdt = TablePointer {
        limit: GDT_LIMIT,
        base: gdt_window(vcpu),
    };
    let idt = TablePointer {
        limit: 0xfff,
        base: &raw const IDT as u64,
    };
    // SAFETY: both tables are complete and stay where they are.
    unsafe {
        asm!("lgdt [{}]", in(reg) &gdt, options(readonly, nostack));
        asm!("lidt [{}]", in(reg) &idt, options(readonly, nostack));
        asm!("ltr {:x}", in(reg) TSS_SELECTOR, options(nostack));
    }
    set_ldt(vcpu, 0);
    for (word, value) in [(1, FLAT_KERNEL_CS), (2, 0x202), (4, FLAT_KERNEL_SS)] {
        put(area + AREA_CONTEXT + word * 8, value.into());
    }
    load_syscall(area);
}

fn load_syscall(area: u64) {
    let stub = area + AREA_STUB;
    write_stub(stub, area + AREA_VCPU, cpu::syscall_entry());
    write_stub(stub + 32, area + AREA_VCPU, cpu::syscall32_entry());
    cpu::wrmsr(MSR_STAR, 0xe023_u64 << 48 | u64::from(EMU_CS) << 32);
    if boot_info().flags & FLAG_SYSCALL_STAYS_USER != 0 {
        cpu::wrmsr(MSR_LSTAR, TRAMPOLINE_VA);
        cpu::wrmsr(MSR_CSTAR, TRAMPOLINE_VA);
    } else {
        cpu::wrmsr(MSR_LSTAR, stub);
        cpu::wrmsr(MSR_CSTAR, stub + 32);
    }
    // TF IF DF IOPL NT RF AC ID and the arithmetic flags
    cpu::wrmsr(MSR_SFMASK, 0x0025_7fd5);
    cpu::wrmsr(MSR_SYSENTER_CS, u64::from(EMU_CS));
    cpu::wrmsr(MSR_SYSENTER_ESP, area + AREA_VCPU);
    cpu::wrmsr(MSR_SYSENTER_EIP, cpu::sysenter_entry());
}

/// `mov [record.scratch_rsp], rsp; lea rsp, [record]; jmp entry`, all RIP-relative.
fn write_stub(at: u64, record: u64, entry: u64) {
    let scratch = record + core::mem::offset_of!(crate::percpu::Vcpu, scratch_rsp) as u64;
    let rel = |target: u64, next: u64| (target.wrapping_sub(next) as i32).to_le_bytes();
    let mut code = [0u8; 19];
    code[0..3].copy_from_slice(&[0x48, 0x89, 0x25]);
    code[3..7].copy_from_slice(&rel(scratch, at + 7));
    code[7..10].copy_from_slice(&[0x48, 0x8d, 0x25]);
    code[10..14].copy_from_slice(&rel(record, at + 14));
    code[14] = 0xe9;
    code[15..19].copy_from_slice(&rel(entry, at + 19));
    for (i, b) in code.iter().enumerate() {
        // SAFETY: inside the vcpu's stub, which nothing executes yet.
        unsafe { write_volatile((at + i as u64) as *mut u8, *b) };
    }
}

/// Points LDTR at the LDT window with this many entries; 0 for none.
pub fn set_ldt(vcpu: u32, entries: u32) {
    let selector = if entries == 0 { 0 } else { LDT_SELECTOR };
    if entries != 0 {
        let base = gdt_window(vcpu) + WINDOW_LDT;
        let [low, high] = system_descriptor(base, u64::from(entries) * 8 - 1, 2);
        put(gdt_entry(vcpu, LDT_SELECTOR), low);
        put(gdt_entry(vcpu, LDT_SELECTOR) + 8, high);
    }
    // SAFETY: the descriptor is complete; the window's pages were validated by the caller.
    unsafe { asm!("lldt {:x}", in(reg) selector, options(nostack)) };
}
