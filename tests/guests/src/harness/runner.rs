//! Start of the kernel, the list of tests, verdicts, the end.
//!
//! Lines on the console: `# text`, `PASS name`, `FAIL name: why`,
//! `SKIP name: why`, at last `@@DONE passed=N failed=N skipped=N`.

#![expect(unsafe_code)]
// UNSAFETY: the symbols that the entry code calls.

use super::console::{self, line};
use super::machine;
use super::xen::{callback, sched, set_trap_table};
use super::{events, paging, smp, user};
use crate::arch::entry::*;
use crate::arch::hypercall::call;
use crate::arch::{memory, probe, vcpu};
use crate::cases;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicUsize, Ordering::Relaxed};
use xenner_test_guests::cmdline;
use xenner_test_guests::text::Text;
use xenner_xen_abi::arch_x86_64::{FLAT_KERNEL_CS, FLAT_KERNEL_SS, TrapInfo};
use xenner_xen_abi::callback::{
    CALLBACKF_MASK_EVENTS, CALLBACKTYPE_EVENT, CALLBACKTYPE_FAILSAFE, CALLBACKTYPE_SYSCALL,
};
use xenner_xen_abi::sched::{SCHEDOP_SHUTDOWN, SHUTDOWN_CRASH, SHUTDOWN_POWEROFF, SchedShutdown};
use xenner_xen_abi::xen::HYPERVISOR_STACK_SWITCH;

/// Why a test did not pass; the text is in `Vcpu::why`.
#[derive(Clone, Copy)]
pub enum Verdict {
    /// The rule does not hold.
    Fail,
    /// It cannot be tested here.
    Skip,
}

/// A failure with its reason.
pub fn failed(why: fmt::Arguments<'_>) -> Verdict {
    vcpu::this().why.set(Text::format(why));
    Verdict::Fail
}

/// A skip with its reason.
pub fn skipped(why: fmt::Arguments<'_>) -> Verdict {
    vcpu::this().why.set(Text::format(why));
    Verdict::Skip
}

/// What a test returns.
pub type Result = core::result::Result<(), Verdict>;

/// A test.
pub struct Test {
    /// Its name: family, dash, rule.
    pub name: &'static str,
    /// The test.
    pub run: fn() -> Result,
    /// Part of `test=all`; others run only when named.
    pub all: bool,
}

/// A failure with a formatted reason.
#[macro_export]
macro_rules! fail {
    ($($arg:tt)+) => {
        return Err($crate::harness::runner::failed(format_args!($($arg)+)))
    };
}

/// A skip with a formatted reason.
#[macro_export]
macro_rules! skip {
    ($($arg:tt)+) => {
        return Err($crate::harness::runner::skipped(format_args!($($arg)+)))
    };
}

/// Fail unless the condition holds.
#[macro_export]
macro_rules! check {
    ($cond:expr, $($arg:tt)+) => {
        if !$cond {
            $crate::fail!($($arg)+)
        }
    };
}

/// Fail unless both are equal: `same!(got, wanted, "what")`.
#[macro_export]
macro_rules! same {
    ($got:expr, $want:expr, $($arg:tt)+) => {{
        let (got, want) = ($got, $want);
        if got != want {
            $crate::fail!("{}: {got:#x}, not {want:#x}", format_args!($($arg)+))
        }
    }};
}

static USER_ERROR: AtomicI64 = AtomicI64::new(0);
static CURRENT: AtomicUsize = AtomicUsize::new(0);
static FINISHED: AtomicBool = AtomicBool::new(false);
static COUNTS: [AtomicU32; 3] = [const { AtomicU32::new(0) }; 3];

/// Error of building the user address space, 0 for none.
pub fn user_error() -> i64 {
    USER_ERROR.load(Relaxed)
}

/// The trap table: all exceptions mask events, 0x80 is open to user mode, 0x81
/// to the kernel only, 0x82 to nobody (a kernel counts as ring 1), #BP and #OF to both.
pub fn traps() -> [TrapInfo; 37] {
    let mut list = [TrapInfo::default(); 37];
    for (i, t) in list[..35].iter_mut().enumerate() {
        let (vector, flags) = match i {
            3 | 4 => (i as u8, 3 | 4),
            32 => (0x80, 3),
            33 => (0x81, 1),
            34 => (0x82, 0),
            _ => (i as u8, 4),
        };
        *t = TrapInfo {
            vector,
            flags,
            cs: FLAT_KERNEL_CS,
            pad: 0,
            address: stub(vector.into()),
        };
    }
    list
}

/// Make everything that tests need; the first failure, if any.
fn init(start_info: u64) -> core::result::Result<(), (&'static str, i64)> {
    let ok = |what, r: i64| if r == 0 { Ok(()) } else { Err((what, r)) };
    let shared = machine::init(start_info);
    let mut buf = [0; 1024];
    console::init(cmdline::value(machine::cmdline(&mut buf), "out").unwrap_or("ring"));
    ok("map shared_info", shared)?;
    for i in 0..MAX_VCPUS {
        let v = vcpu::nth(i);
        v.info.set(machine::shared() + i as u64 * 64);
        v.code_page.set(memory::alloc_page().unwrap_or(0));
    }
    events::mask_all();
    ok("set_trap_table", set_trap_table(&traps()))?;
    ok(
        "event callback",
        callback(CALLBACKTYPE_EVENT, 0, stub(STUB_EVENT)),
    )?;
    ok(
        "failsafe callback",
        callback(CALLBACKTYPE_FAILSAFE, 0, stub(STUB_FAILSAFE)),
    )?;
    ok(
        "syscall callback",
        callback(
            CALLBACKTYPE_SYSCALL,
            CALLBACKF_MASK_EVENTS,
            stub(STUB_SYSCALL),
        ),
    )?;
    let sp = stack_base(0) + KERNEL_SP_TOP;
    ok(
        "stack_switch",
        call(
            HYPERVISOR_STACK_SWITCH,
            [FLAT_KERNEL_SS.into(), sp, 0, 0, 0],
        ),
    )?;
    USER_ERROR.store(user::init(), Relaxed);
    Ok(())
}

#[unsafe(no_mangle)]
extern "C" fn pvtest_main(start_info: u64) -> ! {
    if let Err((what, r)) = init(start_info) {
        die(format_args!("start: {what} gives {r}"));
    }
    let mut buf = [0; 1024];
    let cmd = machine::cmdline(&mut buf);
    let pattern = cmdline::value(cmd, "test").unwrap_or("all");
    if cmdline::has(cmd, "list") {
        cases::each(|t| line(format_args!("{}", t.name)));
        shutdown(SHUTDOWN_POWEROFF)
    }
    cases::each(|t| {
        let named = pattern.split(',').any(|p| p == t.name);
        if cmdline::chosen(pattern, t.name) && (t.all || named) {
            one(t);
        }
    });
    let [passed, failed, skipped] = COUNTS.each_ref().map(|c| c.load(Relaxed));
    line(format_args!(
        "@@DONE passed={passed} failed={failed} skipped={skipped}"
    ));
    shutdown(if failed == 0 {
        SHUTDOWN_POWEROFF
    } else {
        SHUTDOWN_CRASH
    })
}

#[unsafe(no_mangle)]
extern "C" fn pvtest_ap_main() -> ! {
    smp::ap_main()
}

/// Run one test and print its verdict.
fn one(t: &'static Test) {
    line(format_args!("# {}", t.name));
    CURRENT.store((&raw const *t) as usize, Relaxed);
    FINISHED.store(false, Relaxed);
    let mark = memory::pool_mark();
    let before = COUNTS[1].load(Relaxed);
    if !probe::guarded(run_current) || !FINISHED.load(Relaxed) {
        COUNTS[1].fetch_add(1, Relaxed);
        let trap = vcpu::this().trap.get();
        line(format_args!(
            "FAIL {}: unexpected trap {}, error {:#x}, rip {:#x}, cr2 {:#x}, {:x?}",
            t.name, trap.number, trap.error, trap.rip, trap.cr2, trap
        ));
    }
    if COUNTS[1].load(Relaxed) == before {
        // pages of a failed test may still be page tables: they stay taken
        memory::pool_reset(mark);
    }
}

/// The test of `CURRENT`, in the frame that an unexpected trap unwinds to.
extern "C" fn run_current() {
    let mut found = None;
    cases::each(|t| {
        if (&raw const *t) as usize == CURRENT.load(Relaxed) {
            found = Some(t);
        }
    });
    let Some(t) = found else { return };
    let n = match (t.run)() {
        Ok(()) => {
            line(format_args!("PASS {}", t.name));
            0
        }
        Err(Verdict::Fail) => {
            let why = vcpu::this().why.get();
            line(format_args!("FAIL {}: {why}", t.name));
            1
        }
        Err(Verdict::Skip) => {
            let why = vcpu::this().why.get();
            line(format_args!("SKIP {}: {why}", t.name));
            2
        }
    };
    COUNTS[n].fetch_add(1, Relaxed);
    FINISHED.store(true, Relaxed);
}

/// Print a last line and crash the domain.
pub fn die(why: fmt::Arguments<'_>) -> ! {
    line(format_args!("@@DIED {why}"));
    shutdown(SHUTDOWN_CRASH)
}

/// Shut the domain down.
pub fn shutdown(reason: u32) -> ! {
    if console::page() != 0 {
        console::flush();
    }
    let mut arg = SchedShutdown { reason };
    loop {
        sched(SCHEDOP_SHUTDOWN, &mut arg);
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    die(format_args!("panic: {info}"))
}

/// Pages that the kernel runs on, for tests that map one elsewhere.
pub fn a_page() -> core::result::Result<u64, Verdict> {
    memory::alloc_page().ok_or_else(|| failed(format_args!("page pool is empty")))
}

/// The result of an operation on page tables as a test's result.
pub fn paged<T>(what: &str, r: core::result::Result<T, i64>) -> core::result::Result<T, Verdict> {
    r.map_err(|e| failed(format_args!("{what}: {e}")))
}

/// Fail with the error of building user mode, if it had one.
pub fn need_user() -> Result {
    match user_error() {
        0 => Ok(()),
        e => fail!("no user address space: error {e}"),
    }
}

/// An entry that no test may use: frame of the running L4.
pub fn running_l4() -> u64 {
    machine::mfn_of(machine::info().pt_base)
}

/// Address of the L1 entry of an address of the initial mapping.
pub fn l1_entry(va: u64) -> core::result::Result<u64, Verdict> {
    paging::kernel_entry_at(va, 1).ok_or_else(|| failed(format_args!("{va:#x} has no L1")))
}
