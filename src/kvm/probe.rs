//! Finds out how this KVM treats ring 3, with a guest of a few instructions.
//!
//! On hardware, SYSCALL takes ring 3 to ring 0. On hosts without virtualization extensions
//! KVM may run ring 3 natively and interpret ring 0; there SYSCALL stays in ring 3, and the
//! lowest L4 slot of the upper half cannot be used. docs/flavours.md has the story.

use kvm_ioctls::{Kvm, VcpuExit};
use log::info;

use super::vm::{Ring0Start, Vm, start_in_ring0};
use super::{KvmError, call, cpuid};
use crate::config::Flavour as Forced;
use crate::memory::{LARGE_PAGE, Memory};

/// How a KVM behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flavour {
    /// SYSCALL from ring 3 does not reach ring 0, ring 0 is interpreted, and ring 3 cannot use L4
    /// slot 256.
    pub pvm: bool,
}

/// The flavour by the user's word or, on `Auto`, by a look at what KVM does.
///
/// # Errors
/// KVM refuses, or the probe's guest went astray.
pub fn flavour(kvm: &Kvm, forced: Forced) -> Result<Flavour, KvmError> {
    let flavour = match forced {
        Forced::Hardware => Flavour { pvm: false },
        Forced::Pvm => Flavour { pvm: true },
        Forced::Auto => Flavour {
            pvm: !syscall_reaches_ring0(kvm)?,
        },
    };
    info!(target: "xenner::kvm", "KVM flavour: {}", if flavour.pvm { "pvm" } else { "hardware" });
    Ok(flavour)
}

const CODE: u64 = 0x1000;
const L4: u64 = 0x2000;
// not ports of the in-kernel interrupt controllers
const PORT_RING0: u8 = 0xe0;
const PORT_RING3: u8 = 0xe3;

/// The guest: ring 0 sets STAR and LSTAR, loads a GDT and an IDT with one gate, and goes to
/// ring 3; ring 3 executes SYSCALL. LSTAR points at an `out`, which works in ring 0, and in
/// ring 3 raises #GP, whose handler says so through another port.
fn syscall_reaches_ring0(kvm: &Kvm) -> Result<bool, KvmError> {
    let memory = Memory::new(64, LARGE_PAGE, 4096).map_err(|e| KvmError::Probe(e.to_string()))?;
    write_guest(&memory).map_err(|e| KvmError::Probe(e.to_string()))?;
    let vm = Vm::new(kvm, &memory)?;
    let mut vcpu = vm.create_vcpu(0)?;
    let supported = kvm
        .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
        .map_err(call("KVM_GET_SUPPORTED_CPUID"))?;
    let table = cpuid::for_probe(&supported);
    vcpu.set_cpuid2(&table).map_err(call("KVM_SET_CPUID2"))?;
    start_in_ring0(
        &vcpu,
        Ring0Start {
            cr3: L4,
            rip: CODE,
            rsp: 0x8000,
            rdi: 0,
        },
    )?;
    for _ in 0..16 {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(port, _)) if port == u16::from(PORT_RING0) => return Ok(true),
            Ok(VcpuExit::IoOut(port, _)) if port == u16::from(PORT_RING3) => return Ok(false),
            Ok(exit) => return Err(KvmError::Probe(format!("{exit:?}"))),
            Err(e) if e.errno() == libc::EINTR || e.errno() == libc::EAGAIN => {}
            Err(source) => {
                return Err(KvmError::Call {
                    call: "KVM_RUN",
                    source,
                });
            }
        }
    }
    Err(KvmError::Probe("no answer".into()))
}

const GDT: u64 = 0x5000;
const TSS: u64 = 0x5800;
const IDT: u64 = 0x6000;
const RING3: u64 = 0x1200;
const SYSCALL_ENTRY: u64 = 0x1300;
const GP_HANDLER: u64 = 0x1400;
const POINTERS: u64 = 0x1500;
const IRET_FRAME: u64 = 0x7fd8;

fn write_guest(m: &Memory) -> Result<(), crate::memory::MemoryError> {
    // identity map of the first 2 MiB, user accessible
    m.store(L4, 0x3007)?;
    m.store(0x3000, 0x4007)?;
    m.store(0x4000, 0x87)?;
    for (slot, descriptor) in [
        (1u64, 0x00af_9b00_0000_ffffu64), // 08: ring 0 code
        (2, 0x00cf_9300_0000_ffff),       // 10: ring 0 data
        (4, 0x00cf_f300_0000_ffff),       // 20: ring 3 data
        (5, 0x00af_fb00_0000_ffff),       // 28: ring 3 code
        (6, 0x0000_8900_0000_0067 | TSS << 16),
    ] {
        m.store(GDT + slot * 8, descriptor)?;
    }
    m.write(TSS + 4, &0x8000u64.to_le_bytes())?;
    // no I/O permission bitmap
    m.write(TSS + 0x66, &0x68u16.to_le_bytes())?;
    // gates 6 (#UD) and 13 (#GP) to the handler
    for vector in [6u64, 13] {
        let gate = GP_HANDLER & 0xffff | 0x08 << 16 | 0x8e << 40 | (GP_HANDLER >> 16) << 48;
        m.store(IDT + vector * 16, gate)?;
    }
    let pointer = |limit: u16, base: u64| {
        let mut p = [0u8; 10];
        p[..2].copy_from_slice(&limit.to_le_bytes());
        p[2..].copy_from_slice(&base.to_le_bytes());
        p
    };
    m.write(POINTERS, &pointer(0x3f, GDT))?;
    m.write(POINTERS + 16, &pointer(0xfff, IDT))?;
    let frame = [RING3, 0x2b, 0x202, 0x7000, 0x23];
    for (i, v) in frame.iter().enumerate() {
        m.store(IRET_FRAME + i as u64 * 8, *v)?;
    }
    m.write(CODE, &ring0_code())?;
    m.write(RING3, &[0x0f, 0x05, 0x0f, 0x0b])?; // syscall; ud2
    m.write(SYSCALL_ENTRY, &[0xe6, PORT_RING0, 0x0f, 0x0b])?; // out PORT_RING0, al; ud2
    m.write(GP_HANDLER, &[0xe6, PORT_RING3, 0x0f, 0x0b]) // out PORT_RING3, al; ud2
}

fn ring0_code() -> Vec<u8> {
    let mut code = Vec::new();
    let wrmsr = |code: &mut Vec<u8>, msr: u32, value: u64| {
        code.push(0xb9);
        code.extend(msr.to_le_bytes());
        code.push(0xb8);
        code.extend((value as u32).to_le_bytes());
        code.push(0xba);
        code.extend(((value >> 32) as u32).to_le_bytes());
        code.extend([0x0f, 0x30]);
    };
    code.extend([0x0f, 0x01, 0x14, 0x25]); // lgdt [POINTERS]
    code.extend((POINTERS as u32).to_le_bytes());
    code.extend([0x0f, 0x01, 0x1c, 0x25]); // lidt [POINTERS + 16]
    code.extend((POINTERS as u32 + 16).to_le_bytes());
    code.extend([0xb8, 0x30, 0, 0, 0, 0x0f, 0x00, 0xd8]); // mov eax, 0x30; ltr ax
    wrmsr(&mut code, 0xc000_0081, 0x0018_0008 << 32);
    wrmsr(&mut code, 0xc000_0082, SYSCALL_ENTRY);
    wrmsr(&mut code, 0xc000_0084, 0x200);
    code.push(0xbc); // mov esp, IRET_FRAME
    code.extend((IRET_FRAME as u32).to_le_bytes());
    code.extend([0x48, 0xcf]); // iretq
    code
}
