//! What the user reads when a guest crashes: registers, top of the stack, last hypercalls.

use std::fmt::Write;

use xenner_emu_abi::area::{AREA_MAILBOX, AREA_SIZE};
use xenner_emu_abi::mailbox::{Mailbox, Regs};

use super::Domain;
use crate::guest_va::GuestVa;

/// Reads a vcpu's mailbox, all of it untrusted, field by field as plain numbers.
fn field(domain: &Domain, vcpu: u32, offset: usize) -> u64 {
    let at = domain.map.areas + u64::from(vcpu) * AREA_SIZE + AREA_MAILBOX + offset as u64;
    domain.memory.load(at).unwrap_or(0)
}

fn regs(domain: &Domain, vcpu: u32) -> [u64; 21] {
    let base = std::mem::offset_of!(Mailbox, regs);
    std::array::from_fn(|i| field(domain, vcpu, base + i * 8))
}

const NAMES: [&str; 21] = [
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi",
    "rdi", "err", "rip", "cs", "rflags", "rsp", "ss",
];
/// Order in which registers are shown.
const SHOWN: [usize; 20] = [
    16, 19, 18, 17, 20, 10, 5, 11, 12, 13, 14, 4, 9, 8, 7, 6, 3, 2, 1, 0,
];

/// The report of a crash on a vcpu.
pub fn report(domain: &Domain, vcpu: u32, why: &str) -> String {
    let r = regs(domain, vcpu);
    let mode = field(domain, vcpu, std::mem::offset_of!(Mailbox, kernel_mode));
    let cr2 = field(domain, vcpu, std::mem::offset_of!(Mailbox, cr2));
    let cr3 = field(domain, vcpu, std::mem::offset_of!(Mailbox, cr3));
    let last = field(domain, vcpu, std::mem::offset_of!(Mailbox, last_hypercalls));
    let mut text = format!(
        "The domain crashed on vcpu {vcpu} in guest {} mode: {why}\n",
        if mode == 1 { "kernel" } else { "user" }
    );
    for row in SHOWN.chunks(4) {
        for i in row {
            // writing to a string cannot fail
            let _ = write!(text, "{:>7} {:016x}", NAMES[*i], r[*i]);
        }
        text.push('\n');
    }
    let _ = writeln!(text, "    cr2 {cr2:016x}    cr3 {cr3:016x}");
    stack(domain, cr3, r[19], &mut text);
    let list: Vec<String> = last
        .to_le_bytes()
        .iter()
        .map(|n| format!("{n} ({})", name(*n)))
        .collect();
    let _ = write!(text, "last hypercalls, latest first: {}", list.join(", "));
    text
}

fn stack(domain: &Domain, cr3: u64, rsp: u64, text: &mut String) {
    let guest = GuestVa::new(&domain.memory, &domain.map, cr3);
    text.push_str("stack:");
    for i in 0..16u64 {
        if i % 4 == 0 {
            let _ = write!(text, "\n  {:016x}:", rsp.wrapping_add(i * 8));
        }
        match guest.u64(rsp.wrapping_add(i * 8)) {
            Ok(v) => {
                let _ = write!(text, " {v:016x}");
            }
            Err(_) => {
                text.push_str(" not mapped");
                break;
            }
        }
    }
    text.push('\n');
}

/// Name of a hypercall.
pub fn name(n: u8) -> &'static str {
    const NAMES: [&str; 43] = [
        "set_trap_table",
        "mmu_update",
        "set_gdt",
        "stack_switch",
        "set_callbacks",
        "fpu_taskswitch",
        "sched_op_compat",
        "platform_op",
        "set_debugreg",
        "get_debugreg",
        "update_descriptor",
        "11",
        "memory_op",
        "multicall",
        "update_va_mapping",
        "set_timer_op",
        "event_channel_op_compat",
        "xen_version",
        "console_io",
        "physdev_op_compat",
        "grant_table_op",
        "vm_assist",
        "update_va_mapping_otherdomain",
        "iret",
        "vcpu_op",
        "set_segment_base",
        "mmuext_op",
        "xsm_op",
        "nmi_op",
        "sched_op",
        "callback_op",
        "xenoprof_op",
        "event_channel_op",
        "physdev_op",
        "hvm_op",
        "sysctl",
        "domctl",
        "kexec_op",
        "tmem_op",
        "argo_op",
        "xenpmu_op",
        "dm_op",
        "hypfs_op",
    ];
    NAMES.get(usize::from(n)).copied().unwrap_or("?")
}

const _: () = assert!(size_of::<Regs>() == 21 * 8);
