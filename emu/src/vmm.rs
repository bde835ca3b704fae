//! Asking the VMM: fill the mailbox, one `out`, read the answer.
// UNSAFETY: the mailbox is shared with the VMM and accessed volatile.
#![expect(unsafe_code)]

use core::fmt::{self, Write};
use core::ptr::addr_of_mut;

use xenner_emu_abi::mailbox::{
    CrashReason, Mailbox, PORT_EVTCHN, PORT_REQUEST, Regs, Request, TEXT_LEN,
};

use crate::arch::cpu;
use crate::mem::{current, mailbox};

macro_rules! put {
    ($mb:expr, $field:ident, $value:expr) => {{
        let mb: *mut Mailbox = $mb;
        // SAFETY: this vcpu's mailbox page, mapped for as long as the domain lives.
        unsafe { addr_of_mut!((*mb).$field).write_volatile($value) }
    }};
}

fn call(request: Request) {
    cpu::out32(PORT_REQUEST, request as u32);
}

/// Has the VMM answer a hypercall.
pub fn hypercall(op: u64, args: [u64; 6]) -> i64 {
    let mb = mailbox();
    put!(mb, op, op);
    put!(mb, args, args);
    put!(mb, cr3, current().kernel_cr3.get());
    put!(mb, result, -38);
    call(Request::Hypercall);
    // SAFETY: as in `put`.
    unsafe { addr_of_mut!((*mb).result).read_volatile() }
}

/// [`hypercall`] with the guest's registers, for those that end the domain.
pub fn hypercall_with_regs(op: u64, args: [u64; 6], regs: &Regs) -> i64 {
    report_state(regs);
    hypercall(op, args)
}

fn report_state(regs: &Regs) {
    let mb = mailbox();
    let me = current();
    put!(mb, regs, *regs);
    put!(mb, kernel_mode, u64::from(me.kernel_mode.get()));
    put!(mb, cr2, cpu::read_cr2());
    put!(mb, cr3, me.kernel_cr3.get());
    put!(mb, last_hypercalls, me.trace.get());
    publish_counters();
}

/// Copies the counters to the mailbox, where the VMM reads them.
pub fn publish_counters() {
    let me = current();
    let mb = mailbox();
    let counts: [u64; 64] = core::array::from_fn(|i| me.hypercalls[i].get());
    put!(mb, hypercalls, counts);
}

/// Ends the domain.
pub fn crash(reason: CrashReason, regs: &Regs) -> ! {
    report_state(regs);
    put!(mailbox(), args, [reason as u64, 0, 0, 0, 0, 0]);
    call(Request::Crash);
    cpu::dead_end()
}

/// Lets the host run something else: this vcpu only spins.
pub fn yield_cpu() {
    call(Request::Yield);
}

/// Sets an extended control register; false if the VMM refuses.
pub fn xsetbv(index: u32, value: u64) -> bool {
    let mb = mailbox();
    put!(mb, args, [u64::from(index), value, 0, 0, 0, 0]);
    put!(mb, result, -1);
    call(Request::Xsetbv);
    // SAFETY: as in `put`.
    unsafe { addr_of_mut!((*mb).result).read_volatile() == 0 }
}

/// Has the VMM take the ordinary entries of an L1 table; the index of the first other one, or 512.
pub fn take_ordinary(mfn: u64) -> usize {
    let mb = mailbox();
    put!(mb, args, [mfn, 0, 0, 0, 0, 0]);
    put!(mb, result, 0);
    call(Request::TakeOrdinary);
    // SAFETY: as in `put`.
    unsafe { addr_of_mut!((*mb).result).read_volatile() as usize }
}

/// Notifies the backend bound to an event channel port.
pub fn notify_backend(port: u32) {
    cpu::out32(PORT_EVTCHN, port);
}

/// The port that a per-vcpu VIRQ is bound to on this vcpu; 0 for none.
pub fn virq_port(virq: usize) -> u32 {
    let mb = mailbox();
    // SAFETY: as in `put`; `virq` is below 24.
    unsafe { addr_of_mut!((*mb).virq_port[virq % 24]).read_volatile() }
}

struct Text {
    buf: [u8; TEXT_LEN],
    len: usize,
}

impl Write for Text {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for b in s.bytes().take(TEXT_LEN - self.len) {
            self.buf[self.len] = b;
            self.len += 1;
        }
        Ok(())
    }
}

fn send_text(request: Request, args: fmt::Arguments<'_>) {
    let mut t = Text {
        buf: [0; TEXT_LEN],
        len: 0,
    };
    // cannot fail: what does not fit is cut
    let _ = t.write_fmt(args);
    let mb = mailbox();
    put!(mb, text, t.buf);
    put!(mb, text_len, t.len as u64);
    call(request);
}

/// Refusals that a vcpu reports at most; a guest may try for ever.
const MAX_REFUSALS: u32 = 64;

/// Reports an MMU operation that was refused, for `-d mmu`.
pub fn log_refusal(args: fmt::Arguments<'_>) {
    let me = current();
    if me.refusals.get() < MAX_REFUSALS {
        me.refusals.set(me.refusals.get() + 1);
        send_text(Request::Log, args);
    }
}

/// The emulator cannot go on.
pub fn panic(args: fmt::Arguments<'_>) -> ! {
    send_text(Request::Panic, args);
    cpu::dead_end()
}

#[panic_handler]
fn on_panic(info: &core::panic::PanicInfo<'_>) -> ! {
    panic(format_args!("{info}"))
}
