//! Memory as the emulator reaches it: machine frames through the direct map, guest
//! virtual memory through fault-safe copies, and the pages shared with the VMM.
//!
//! On the host (unit tests) the direct map is an arena, so that the MMU rules run there
//! unchanged.
// UNSAFETY: raw access to memory that Rust does not own; every address is checked or comes
// from the VMM's boot information.
#![expect(unsafe_code)]

use core::sync::atomic::AtomicU64;
#[cfg(target_os = "none")]
use core::{arch::asm, sync::atomic::AtomicU32};

#[cfg(target_os = "none")]
use xenner_emu_abi::{boot, layout};

/// Longest instruction in bytes.
pub const MAX_INSN: usize = 15;

/// A guest pointer that cannot be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

#[cfg(target_os = "none")]
fn direct(ma: u64) -> u64 {
    layout::DIRECT_VA + ma
}
#[cfg(not(target_os = "none"))]
fn direct(ma: u64) -> u64 {
    host::direct(ma)
}

/// The 8 bytes at a machine address, which the caller has checked to be the domain's memory.
pub fn word(ma: u64) -> &'static AtomicU64 {
    debug_assert!(ma & 7 == 0);
    // SAFETY: the direct map covers all guest-physical memory; 8-aligned; shared with other
    // vcpus, hence atomic.
    unsafe { &*(direct(ma) as *const AtomicU64) }
}

/// Entry `i` (0-511) of the table in frame `mfn`.
pub fn entry(mfn: u64, i: usize) -> &'static AtomicU64 {
    word((mfn << 12) + (i as u64 & 511) * 8)
}

/// Index of the first entry at or after `from` that is not zero; 512 if there is none.
///
/// One string instruction, because interpreted ring 0 pays for each instruction.
pub fn next_used(mfn: u64, from: usize) -> usize {
    let left = 512 - from;
    if left == 0 {
        return 512;
    }
    let after: u64;
    let found: u8;
    // SAFETY: scans the rest of one frame in the direct map.
    unsafe {
        core::arch::asm!(
            "repe scasq",
            "setne {found}",
            found = out(reg_byte) found,
            inout("rcx") left => _,
            inout("rdi") direct((mfn << 12) + from as u64 * 8) => after,
            in("rax") 0u64,
            options(nostack, readonly)
        );
    }
    if found == 0 {
        return 512;
    }
    ((after - direct(mfn << 12)) / 8 - 1) as usize
}

/// A byte of the vcpu_info at direct-map address `info`.
#[cfg(target_os = "none")]
pub fn info_u8(info: u64, offset: u64) -> &'static core::sync::atomic::AtomicU8 {
    // SAFETY: `info` is the direct-map address of a whole vcpu_info, checked when it was
    // registered; the guest writes it too, hence atomic.
    unsafe { &*((info + offset) as *const core::sync::atomic::AtomicU8) }
}

/// Eight bytes of the vcpu_info at direct-map address `info`.
#[cfg(target_os = "none")]
pub fn info_u64(info: u64, offset: u64) -> &'static AtomicU64 {
    // SAFETY: as for `info_u8`; vcpu_info is 8-aligned.
    unsafe { &*((info + offset) as *const AtomicU64) }
}

/// Direct-map address of a machine address.
#[cfg(target_os = "none")]
pub fn direct_va(ma: u64) -> u64 {
    direct(ma)
}

/// Takes the ordinary entries of an L1 table from index `from` on: present ones with allowed bits,
/// of the domain's own plain frames. Does for each what `mmu::rules::take_l1` does, in as few
/// instructions as it goes, because this is most of the work of pinning. Returns the index of the
/// first entry that is not ordinary, or 512. The MMU lock is held: frames get no type meanwhile.
pub fn take_ordinary(mfn: u64, from: usize, nr_frames: u64) -> usize {
    use xenner_emu_abi::frame::{COUNT_ONE, FULL, NOT_OWNED, TYPE_MASK};
    use xenner_emu_abi::pte::L1_FORBIDDEN;
    const { assert!(FULL == 1 << 31) };
    if from >= 512 {
        return 512;
    }
    let start = direct(mfn << 12);
    let mut at = start + from as u64 * 8;
    // SAFETY: walks the entries of one frame in the direct map, and touches records of frames
    // below `nr_frames` alone, which the frame table covers.
    unsafe {
        core::arch::asm!(
            "2:",
            "mov {e}, [{at}]",
            "test {e:l}, 1",
            "jz 4f",
            "test {e}, {forbidden}",
            "jnz 4f",
            "mov {f}, {e}",
            "shl {f}, 12",
            "shr {f}, 24",
            "cmp {f}, {n}",
            "jae 4f",
            "lea {f}, [{records} + {f}*4]",
            "test byte ptr [{f}], {bad}",
            "jnz 4f",
            "test {e:l}, 2",
            "jz 3f",
            "lock add dword ptr [{f}], {one}",
            "js 6f",
            "3:",
            "test {e:l}, 4",
            "jnz 5f",
            "or byte ptr [{at}], 4",
            "5:",
            "add {at}, 8",
            "cmp {at}, {end}",
            "jb 2b",
            "jmp 4f",
            "6:",
            "lock sub dword ptr [{f}], {one}",
            "4:",
            at = inout(reg) at,
            end = in(reg) start + 4096,
            e = out(reg_abcd) _,
            f = out(reg) _,
            n = in(reg) nr_frames,
            records = in(reg) records(),
            forbidden = in(reg) L1_FORBIDDEN,
            bad = const TYPE_MASK | NOT_OWNED,
            one = const COUNT_ONE,
            options(nostack)
        );
    }
    ((at - start) / 8) as usize
}

/// Address of the frame table's first record.
#[cfg(target_os = "none")]
fn records() -> u64 {
    layout::FRAME_TABLE_VA
}
#[cfg(not(target_os = "none"))]
fn records() -> u64 {
    core::ptr::from_ref(host::frame_record(0)) as u64
}

/// Fills a frame with zeroes.
pub fn clear_frame(mfn: u64) {
    // SAFETY: a frame of the domain that is not a page table (checked by the caller).
    unsafe { core::ptr::write_bytes(direct(mfn << 12) as *mut u8, 0, 4096) };
}

/// Copies a frame.
pub fn copy_frame(to: u64, from: u64) {
    if to != from {
        // SAFETY: two different frames of the domain.
        unsafe {
            core::ptr::copy_nonoverlapping(
                direct(from << 12) as *const u8,
                direct(to << 12) as *mut u8,
                4096,
            );
        }
    }
}

/// The frame table's record of a frame below `nr_frames`.
#[cfg(target_os = "none")]
pub fn frame_record(mfn: u64) -> &'static AtomicU32 {
    // SAFETY: the frame table covers every frame below `nr_frames`; the caller checked that.
    unsafe { &*((layout::FRAME_TABLE_VA + mfn * 4) as *const AtomicU32) }
}

/// What the VMM said at the start.
#[cfg(target_os = "none")]
pub fn boot_info() -> &'static boot::BootInfo {
    // SAFETY: the VMM filled the page before the first instruction; nobody writes it later.
    unsafe { &*(layout::BOOT_INFO_VA as *const boot::BootInfo) }
}

/// The CPUID table.
#[cfg(target_os = "none")]
pub fn cpuid_table() -> &'static [boot::CpuidEntry] {
    let n = (boot_info().cpuid_entries as usize).min(boot::CPUID_ROWS);
    // SAFETY: as for `boot_info`.
    unsafe { core::slice::from_raw_parts(layout::CPUID_TABLE_VA as *const boot::CpuidEntry, n) }
}

/// An entry of the event channel table, which the VMM may change at any time.
#[cfg(target_os = "none")]
pub fn evtchn_entry(port: usize) -> u32 {
    use core::sync::atomic::Ordering::Acquire;
    let table = layout::EVTCHN_TABLE_VA as *const AtomicU32;
    // SAFETY: the table has `PORTS` entries.
    unsafe { &*table.add(port % xenner_emu_abi::evtchn::PORTS) }.load(Acquire)
}

/// The vcpu that runs this code.
#[cfg(target_os = "none")]
pub fn current() -> &'static crate::percpu::Vcpu {
    use xenner_emu_abi::area::{AREA_SIZE, AREA_VCPU};
    let rsp: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rsp", out(reg) rsp, options(nomem, nostack, preserves_flags)) };
    // SAFETY: every stack lies in its vcpu's area, which is aligned to its size, and the record
    // is at a fixed offset. A zeroed record is a valid one.
    unsafe { &*((((rsp - 1) & !(AREA_SIZE - 1)) + AREA_VCPU) as *const crate::percpu::Vcpu) }
}

/// Another vcpu's record; `id` is below the number of vcpus. Only its atomic fields may be
/// touched while it runs.
#[cfg(target_os = "none")]
pub fn vcpu(id: u32) -> Option<&'static crate::percpu::Vcpu> {
    use xenner_emu_abi::area::{AREA_SIZE, AREA_VCPU};
    if u64::from(id) >= boot_info().nr_vcpus {
        return None;
    }
    let va = layout::VCPU_AREA_VA + u64::from(id) * AREA_SIZE + AREA_VCPU;
    // SAFETY: as for `current`.
    Some(unsafe { &*(va as *const crate::percpu::Vcpu) })
}

/// This vcpu's mailbox.
#[cfg(target_os = "none")]
pub fn mailbox() -> *mut xenner_emu_abi::mailbox::Mailbox {
    use xenner_emu_abi::area::{AREA_MAILBOX, AREA_VCPU};
    (core::ptr::from_ref(current()) as u64 - AREA_VCPU + AREA_MAILBOX) as *mut _
}

/// Whether `len` bytes at `va` lie outside the hypervisor hole (and do not wrap).
#[cfg(target_os = "none")]
pub fn guest_range(va: u64, len: u64) -> bool {
    match va.checked_add(len) {
        None => false,
        Some(end) => end <= layout::HOLE_START || va >= layout::HOLE_END,
    }
}

/// Reads 8 bytes of guest-virtual memory in the present address space.
///
/// # Errors
/// [`Fault`] if the address is the hypervisor's, or not mapped.
#[cfg(target_os = "none")]
#[inline]
pub fn read_guest(va: u64) -> Result<u64, Fault> {
    if !guest_range(va, 8) {
        return Err(Fault);
    }
    let (v, bad): (u64, u32);
    // SAFETY: a fault is caught by the exception table.
    unsafe {
        asm!(
            "mov {bad:e}, 1",
            "2: mov {v}, [{a}]",
            "xor {bad:e}, {bad:e}",
            "3:",
            ".pushsection .extable, \"a\"", ".quad 2b, 3b", ".popsection",
            bad = out(reg) bad, v = out(reg) v, a = in(reg) va, options(nostack)
        );
    }
    if bad == 0 { Ok(v) } else { Err(Fault) }
}

/// Writes 8 bytes of guest-virtual memory in the present address space.
///
/// # Errors
/// [`Fault`] if the address is the hypervisor's, not mapped or read-only.
#[cfg(target_os = "none")]
#[inline]
pub fn write_guest(va: u64, value: u64) -> Result<(), Fault> {
    if !guest_range(va, 8) {
        return Err(Fault);
    }
    let bad: u32;
    // SAFETY: a fault is caught by the exception table.
    unsafe {
        asm!(
            "mov {bad:e}, 1",
            "2: mov [{a}], {v}",
            "xor {bad:e}, {bad:e}",
            "3:",
            ".pushsection .extable, \"a\"", ".quad 2b, 3b", ".popsection",
            bad = out(reg) bad, v = in(reg) value, a = in(reg) va, options(nostack)
        );
    }
    if bad == 0 { Ok(()) } else { Err(Fault) }
}

/// Reads `N` words of guest-virtual memory.
///
/// # Errors
/// [`Fault`] if the range touches the hypervisor's, or is not all mapped.
#[cfg(target_os = "none")]
#[inline]
pub fn read_guest_words<const N: usize>(va: u64) -> Result<[u64; N], Fault> {
    if !guest_range(va, N as u64 * 8) {
        return Err(Fault);
    }
    let mut words = [0; N];
    let mut pairs = words.chunks_exact_mut(2);
    let mut at = va;
    for pair in &mut pairs {
        let (a, b, bad): (u64, u64, u32);
        // SAFETY: a fault is caught by the exception table.
        unsafe {
            asm!(
                "mov {bad:e}, 1",
                "2: mov {x}, [{a}]",
                "4: mov {y}, [{a} + 8]",
                "xor {bad:e}, {bad:e}",
                "3:",
                ".pushsection .extable, \"a\"", ".quad 2b, 3b", ".quad 4b, 3b", ".popsection",
                bad = out(reg) bad, x = out(reg) a, y = out(reg) b, a = in(reg) at,
                options(nostack)
            );
        }
        if bad != 0 {
            return Err(Fault);
        }
        pair[0] = a;
        pair[1] = b;
        at += 16;
    }
    if let [last] = pairs.into_remainder() {
        *last = read_guest(at)?;
    }
    Ok(words)
}

/// Reads 4 bytes of guest-virtual memory.
///
/// # Errors
/// [`Fault`] if the address is the hypervisor's, or not mapped.
#[cfg(target_os = "none")]
pub fn read_guest_u32(va: u64) -> Result<u32, Fault> {
    if !guest_range(va, 4) {
        return Err(Fault);
    }
    let (v, bad): (u32, u32);
    // SAFETY: a fault is caught by the exception table.
    unsafe {
        asm!(
            "mov {bad:e}, 1",
            "2: mov {v:e}, [{a}]",
            "xor {bad:e}, {bad:e}",
            "3:",
            ".pushsection .extable, \"a\"", ".quad 2b, 3b", ".popsection",
            bad = out(reg) bad, v = out(reg) v, a = in(reg) va, options(nostack)
        );
    }
    if bad == 0 { Ok(v) } else { Err(Fault) }
}

/// Replaces one byte of guest code, whatever the mapping's rights.
#[cfg(target_os = "none")]
pub fn patch_code(cr3: u64, va: u64, byte: u8) {
    use crate::mmu::{rules, walk};
    if let Some((ma, _)) = walk::translate(cr3, va)
        && ma >> 12 < boot_info().nr_frames
        && rules::take_writable(ma >> 12).is_ok()
    {
        // SAFETY: a frame of the domain that is no page table, and is held so; one byte, so that
        // other vcpus see the old instruction or the new one.
        unsafe { (direct(ma) as *mut u8).write_volatile(byte) };
        rules::drop_writable(ma >> 12);
    }
}

/// Reads one byte of guest-virtual memory.
///
/// # Errors
/// [`Fault`] if the address is the hypervisor's, or not mapped.
#[cfg(target_os = "none")]
pub fn read_guest_u8(va: u64) -> Result<u8, Fault> {
    if !guest_range(va, 1) {
        return Err(Fault);
    }
    let (v, bad): (u32, u32);
    // SAFETY: a fault is caught by the exception table.
    unsafe {
        asm!(
            "mov {bad:e}, 1",
            "2: movzx {v:e}, byte ptr [{a}]",
            "xor {bad:e}, {bad:e}",
            "3:",
            ".pushsection .extable, \"a\"", ".quad 2b, 3b", ".popsection",
            bad = out(reg) bad, v = out(reg) v, a = in(reg) va, options(nostack)
        );
    }
    if bad == 0 { Ok(v as u8) } else { Err(Fault) }
}

/// Writes 4 bytes of guest-virtual memory.
///
/// # Errors
/// [`Fault`] if the address is the hypervisor's, not mapped or read-only.
#[cfg(target_os = "none")]
pub fn write_guest_u32(va: u64, value: u32) -> Result<(), Fault> {
    if !guest_range(va, 4) {
        return Err(Fault);
    }
    let bad: u32;
    // SAFETY: a fault is caught by the exception table.
    unsafe {
        asm!(
            "mov {bad:e}, 1",
            "2: mov [{a}], {v:e}",
            "xor {bad:e}, {bad:e}",
            "3:",
            ".pushsection .extable, \"a\"", ".quad 2b, 3b", ".popsection",
            bad = out(reg) bad, v = in(reg) value, a = in(reg) va, options(nostack)
        );
    }
    if bad == 0 { Ok(()) } else { Err(Fault) }
}

/// Writes one byte of guest-virtual memory.
///
/// # Errors
/// [`Fault`] if the address is the hypervisor's, not mapped or read-only.
#[cfg(target_os = "none")]
pub fn write_guest_u8(va: u64, value: u8) -> Result<(), Fault> {
    if !guest_range(va, 1) {
        return Err(Fault);
    }
    let bad: u32;
    // SAFETY: a fault is caught by the exception table.
    unsafe {
        asm!(
            "mov {bad:e}, 1",
            "2: mov byte ptr [{a}], {v}",
            "xor {bad:e}, {bad:e}",
            "3:",
            ".pushsection .extable, \"a\"", ".quad 2b, 3b", ".popsection",
            bad = out(reg) bad, v = in(reg_byte) value, a = in(reg) va, options(nostack)
        );
    }
    if bad == 0 { Ok(()) } else { Err(Fault) }
}

/// Reads the instruction bytes at `va`; returns how many could be read.
///
/// Two loads do as a rule; byte by byte only where the next page is not there.
#[cfg(target_os = "none")]
pub fn fetch(va: u64) -> ([u8; 16], usize) {
    let mut bytes = [0; 16];
    if let Ok([low, high]) = read_guest_words(va) {
        bytes[..8].copy_from_slice(&low.to_le_bytes());
        bytes[8..].copy_from_slice(&high.to_le_bytes());
        return (bytes, MAX_INSN);
    }
    for (i, b) in bytes.iter_mut().take(MAX_INSN).enumerate() {
        match read_guest_u8(va.wrapping_add(i as u64)) {
            Ok(v) => *b = v,
            Err(Fault) => return (bytes, i),
        }
    }
    (bytes, MAX_INSN)
}

/// Writes `words` at guest-virtual `va`, in one string instruction, because interpreted ring 0 pays
/// for each.
///
/// # Errors
/// [`Fault`] if the range touches the hypervisor's, or is not all mapped writable; what is before
/// the fault is written.
#[cfg(target_os = "none")]
pub fn write_guest_words(va: u64, words: &[u64]) -> Result<(), Fault> {
    if !guest_range(va, words.len() as u64 * 8) {
        return Err(Fault);
    }
    let left: u64;
    // SAFETY: reads the slice; a fault of the destination is caught by the exception table, and
    // leaves a count behind.
    unsafe {
        asm!(
            "2: rep movsq",
            "3:",
            ".pushsection .extable, \"a\"", ".quad 2b, 3b", ".popsection",
            inout("rcx") words.len() as u64 => left,
            inout("rsi") words.as_ptr() => _,
            inout("rdi") va => _,
            options(nostack)
        );
    }
    if left == 0 { Ok(()) } else { Err(Fault) }
}

/// The M2P's entry of a frame.
#[cfg(target_os = "none")]
pub fn m2p(mfn: u64) -> Option<u64> {
    use core::sync::atomic::Ordering::Relaxed;
    m2p_entry(mfn).map(|e| e.load(Relaxed))
}

/// The M2P's entry of a frame, to be changed.
#[cfg(target_os = "none")]
pub fn m2p_entry(mfn: u64) -> Option<&'static AtomicU64> {
    let info = boot_info();
    if mfn >= info.m2p_entries {
        return None;
    }
    // SAFETY: the table has `m2p_entries` entries; ring 3 maps it read-only, so the write goes
    // through the direct map.
    Some(word(info.m2p_ma + mfn * 8))
}

/// The fix-up for an instruction that may fault, if it is one.
#[cfg(target_os = "none")]
pub fn extable_fixup(rip: u64) -> Option<u64> {
    let (start, end) = (
        crate::arch::cpu::extable_start(),
        crate::arch::cpu::extable_end(),
    );
    // SAFETY: the linker script delimits the table, pairs of addresses.
    let table = unsafe {
        core::slice::from_raw_parts(start as *const [u64; 2], ((end - start) / 16) as usize)
    };
    table.iter().find(|e| e[0] == rip).map(|e| e[1])
}

/// Prepares a frame of ring 0 for going on at `rip`: puts it on the interrupted stack, where
/// the entry code's `ret` finds it.
#[cfg(target_os = "none")]
pub fn interrupted_frame(regs: &mut xenner_emu_abi::mailbox::Regs, rip: u64) {
    regs.rsp -= 8;
    // SAFETY: the word below the interrupted stack pointer is the CPU's own SS slot or padding.
    unsafe { (regs.rsp as *mut u64).write_volatile(rip) };
}

/// The context that a faulting `iretq` was to load: registers as they are, the rest from its stack.
#[cfg(target_os = "none")]
pub fn iretq_frame(regs: &xenner_emu_abi::mailbox::Regs) -> xenner_emu_abi::mailbox::Regs {
    // SAFETY: the instruction's stack pointer points at five words on this vcpu's stack.
    let [rip, cs, rflags, rsp, ss] = unsafe { *(regs.rsp as *const [u64; 5]) };
    xenner_emu_abi::mailbox::Regs {
        rip,
        cs,
        rflags,
        rsp,
        ss,
        error: 0,
        ..*regs
    }
}

/// Puts a frame at the top of the vcpu's main stack and returns its address, marked for the
/// entry code.
#[cfg(target_os = "none")]
pub fn return_frame(me: &crate::percpu::Vcpu, regs: &xenner_emu_abi::mailbox::Regs) -> u64 {
    let at = core::ptr::from_ref(me) as u64 - size_of_val(regs) as u64;
    // SAFETY: the top of this vcpu's stack, above all that still runs.
    unsafe { (at as *mut xenner_emu_abi::mailbox::Regs).write_volatile(*regs) };
    at | 1
}

/// The host's stand-in for the direct map and the frame table, for unit tests.
#[cfg(not(target_os = "none"))]
pub mod host {
    extern crate std;
    use core::sync::atomic::AtomicU32;
    use std::boxed::Box;
    use std::cell::Cell;
    use std::vec;

    use xenner_emu_abi::boot::BootInfo;

    std::thread_local! {
        static MEMORY: Cell<u64> = const { Cell::new(0) };
        static RECORDS: Cell<Option<&'static [AtomicU32]>> = const { Cell::new(None) };
        static INFO: Cell<Option<&'static BootInfo>> = const { Cell::new(None) };
    }

    /// Makes `frames` zeroed frames this thread's machine memory, all of them the domain's but
    /// the last `shared`, which are as shared_info is. Leaks, as tests may.
    pub fn install(frames: u64, shared: u64) {
        let words = vec![0u64; (frames as usize + 1) * 512].leak();
        let base = (words.as_ptr() as u64 + 4095) & !4095;
        MEMORY.set(base);
        let records: Box<[AtomicU32]> = (0..frames).map(|_| AtomicU32::new(0)).collect();
        RECORDS.set(Some(Box::leak(records)));
        let info = BootInfo {
            nr_frames: frames - shared,
            shared_start: frames - shared,
            shared_end: frames,
            hole_l4: core::array::from_fn(|i| 0xabc0_0000 + ((i as u64) << 12) + 3),
            ..Default::default()
        };
        INFO.set(Some(Box::leak(Box::new(info))));
    }

    /// What makes another thread's machine memory this thread's.
    pub fn share() -> impl Fn() + Send + Copy {
        let (memory, records, info) = (MEMORY.get(), RECORDS.get(), INFO.get());
        move || {
            MEMORY.set(memory);
            RECORDS.set(records);
            INFO.set(info);
        }
    }

    pub(super) fn direct(ma: u64) -> u64 {
        MEMORY.get() + ma
    }

    /// See the ring-0 version.
    pub fn frame_record(mfn: u64) -> &'static AtomicU32 {
        static NONE: AtomicU32 = AtomicU32::new(0);
        RECORDS
            .get()
            .and_then(|r| r.get(mfn as usize))
            .unwrap_or(&NONE)
    }

    /// See the ring-0 version.
    pub fn boot_info() -> &'static BootInfo {
        static EMPTY: std::sync::OnceLock<BootInfo> = std::sync::OnceLock::new();
        INFO.get()
            .unwrap_or_else(|| EMPTY.get_or_init(BootInfo::default))
    }
}
#[cfg(not(target_os = "none"))]
pub use host::{boot_info, frame_record};
