//! The system calls and instructions that std does not offer, each behind a
//! safe function. Everything else in this program is safe code.

// UNSAFETY: raw system calls, signal handlers and single instructions are what
// this program measures; each is wrapped so that its callers cannot misuse it.
#![expect(unsafe_code)]

use std::arch::asm;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// The size of a page.
pub const PAGE: usize = 4096;
/// The length of the ud2 instruction.
const UD2_BYTES: i64 = 2;

fn die(what: &str) -> ! {
    eprintln!("guest-bench: {what}: {}", std::io::Error::last_os_error());
    exit_now(1)
}

/// The program that the exec benchmark runs is this one with the argument
/// `--exit`. It ends here, before std's start-up code, which would otherwise be
/// a good part of what is measured. The C library calls this with main's
/// arguments before main, as the x86-64 psABI supplement of ELF allows.
extern "C" fn leave_early(count: libc::c_int, arguments: *const *const libc::c_char) {
    if count != 2 {
        return;
    }
    // SAFETY: the C library gives main's arguments, and there are two.
    let second = unsafe { *arguments.add(1) };
    // SAFETY: arguments are strings that end with a zero.
    if unsafe { CStr::from_ptr(second) } == EXIT_ARGUMENT {
        exit_now(0);
    }
}

#[used]
// SAFETY: glibc calls what stands in this section with main's arguments.
#[unsafe(link_section = ".init_array")]
static EARLY: extern "C" fn(libc::c_int, *const *const libc::c_char) = leave_early;

/// The argument of the program that the exec benchmark runs.
const EXIT_ARGUMENT: &CStr = c"--exit";

/// End the process without running any handler.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes any number and touches no memory of ours.
    unsafe { libc::_exit(code) }
}

/// Set the timer slack to its least, 1 ns: sleeps then end as timers fire.
pub fn shortest_timer_slack() {
    // SAFETY: PR_SET_TIMERSLACK takes a number and no pointer.
    if unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) } != 0 {
        die("prctl(PR_SET_TIMERSLACK)");
    }
}

/// Bind the calling thread to one processor.
pub fn pin_to(cpu: usize) {
    // SAFETY: all zero bits are a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `cpu` is 0 or 1, inside every set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: `set` is a valid set of the size given.
    if unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) } != 0 {
        die("sched_setaffinity");
    }
}

/// The system call getppid.
pub fn getppid() {
    // SAFETY: getppid takes no argument.
    unsafe { libc::syscall(libc::SYS_getppid) };
}

/// gettimeofday through libc.
pub fn gettimeofday() {
    let mut time = libc::timeval {
        tv_sec: 0,
        tv_usec: 0,
    };
    // SAFETY: `time` is valid for the call; the time zone may be null.
    unsafe { libc::gettimeofday(&mut time, ptr::null_mut()) };
}

/// clock_gettime as a real system call, past the vDSO.
pub fn clock_gettime_by_syscall() {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let time: *mut libc::timespec = &mut time;
    // SAFETY: `time` is valid for the call.
    unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, time) };
}

/// The monotonic clock.
pub fn monotonic() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is valid for the call.
    if unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) } != 0 {
        die("clock_gettime");
    }
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// One nanosleep call of less than a second; a signal may end it early.
pub fn nanosleep(duration: Duration) {
    let time = libc::timespec {
        tv_sec: 0,
        tv_nsec: i64::from(duration.subsec_nanos()),
    };
    // SAFETY: `time` is valid for the call; the remainder may be null.
    unsafe { libc::nanosleep(&time, ptr::null_mut()) };
}

/// Close a connection at once by a reset, past TIME_WAIT.
pub fn close_by_reset(connection: std::net::TcpStream) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: `linger` is valid for the call and as long as said.
    let set = unsafe {
        libc::setsockopt(
            connection.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of_val(&linger) as libc::socklen_t,
        )
    };
    if set != 0 {
        die("setsockopt(SO_LINGER)");
    }
}

/// `x` unchanged, in a way that the compiler cannot look through.
#[inline(always)]
pub fn opaque(mut x: u64) -> u64 {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", inout(reg) x, options(nomem, nostack, preserves_flags)) };
    x
}

/// Read the time stamp counter, and nothing else.
pub fn rdtsc() {
    // SAFETY: Linux leaves RDTSC to processes; it changes these registers only.
    unsafe { asm!("rdtsc", out("eax") _, out("edx") _, options(nomem, nostack, preserves_flags)) };
}

/// The first register of a CPUID leaf.
pub fn cpuid(leaf: u32) -> u32 {
    std::arch::x86_64::__cpuid(leaf).eax
}

static SIGNALS: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_signal(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

extern "C" fn on_invalid_opcode(
    _: libc::c_int,
    _: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    let context: *mut libc::ucontext_t = context.cast();
    // SAFETY: with SA_SIGINFO the third argument is the interrupted context,
    // and nothing else refers to it while the handler runs.
    let registers = unsafe { &mut (*context).uc_mcontext.gregs };
    registers[libc::REG_RIP as usize] += UD2_BYTES;
}

fn set_handler(signal: libc::c_int, handler: libc::sighandler_t, flags: libc::c_int) {
    // SAFETY: all zero bits are a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    // SAFETY: `action` is valid, and the handlers of this module only touch
    // atomics and the context that they are given.
    if unsafe { libc::sigaction(signal, &action, ptr::null_mut()) } != 0 {
        die("sigaction");
    }
}

/// Run `work`, which must send itself `n` signals, all of them handled.
pub fn count_signals<T>(work: impl FnOnce() -> T, n: u64) -> T {
    set_handler(
        libc::SIGUSR1,
        on_signal as *const () as libc::sighandler_t,
        0,
    );
    SIGNALS.store(0, Ordering::Relaxed);
    let result = work();
    assert_eq!(SIGNALS.load(Ordering::Relaxed), n, "signals were lost");
    result
}

/// Send SIGUSR1 to the calling thread, the only one.
pub fn signal_self() {
    // Asked for once: a system call more would double what is measured.
    static PROCESS: std::sync::OnceLock<libc::pid_t> = std::sync::OnceLock::new();
    // SAFETY: getpid takes nothing.
    let process = *PROCESS.get_or_init(|| unsafe { libc::getpid() });
    // SAFETY: tgkill takes numbers alone; the first thread has the process's number.
    unsafe { libc::syscall(libc::SYS_tgkill, process, process, libc::SIGUSR1) };
}

/// Run `work` with invalid opcodes (of two bytes) stepped over.
pub fn with_skipped_ud2<T>(work: impl FnOnce() -> T) -> T {
    let handler = on_invalid_opcode as *const () as libc::sighandler_t;
    set_handler(libc::SIGILL, handler, libc::SA_SIGINFO);
    let result = work();
    set_handler(libc::SIGILL, libc::SIG_DFL, 0);
    result
}

/// Raise an invalid opcode exception. Without [`with_skipped_ud2`] around it
/// the process ends by SIGILL.
pub fn ud2() {
    // SAFETY: the handler steps over it; it changes no register and no memory.
    unsafe { asm!("ud2", options(nomem, nostack, preserves_flags)) };
}

/// A private anonymous mapping of whole pages.
pub struct Mapping {
    base: *mut u8,
    bytes: usize,
}

impl Mapping {
    /// Map `bytes`, readable and writable.
    pub fn new(bytes: usize) -> Mapping {
        let (rights, kind) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe { libc::mmap(ptr::null_mut(), bytes, rights, kind, -1, 0) };
        if base == libc::MAP_FAILED {
            die("mmap");
        }
        Mapping {
            base: base.cast(),
            bytes,
        }
    }

    /// Keep to pages of 4 KiB.
    pub fn without_huge_pages(&mut self) {
        // SAFETY: the range is this mapping. A kernel without huge pages
        // refuses, which is as good.
        unsafe { libc::madvise(self.base.cast(), self.bytes, libc::MADV_NOHUGEPAGE) };
    }

    /// Write one byte to each page.
    pub fn touch(&mut self) {
        for offset in (0..self.bytes).step_by(PAGE) {
            // SAFETY: the offset is inside the mapping, which is writable
            // whenever callers of this program touch it.
            unsafe { self.base.add(offset).write_volatile(1) };
        }
    }

    /// Make it writable, or read-only.
    pub fn protect(&mut self, writable: bool) {
        let write = if writable { libc::PROT_WRITE } else { 0 };
        // SAFETY: the range is this mapping, and no reference to it exists.
        unsafe { libc::mprotect(self.base.cast(), self.bytes, libc::PROT_READ | write) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is this mapping, which nobody uses any more.
        unsafe { libc::munmap(self.base.cast(), self.bytes) };
    }
}

/// A child process that has not been waited for.
#[must_use]
pub struct Child(libc::pid_t);

impl Child {
    /// Wait for its end; give back its exit code, or -1 after a signal.
    pub fn wait(self) -> i32 {
        let mut status = 0;
        // SAFETY: `status` is valid for the call.
        if unsafe { libc::waitpid(self.0, &mut status, 0) } != self.0 {
            die("waitpid");
        }
        if libc::WIFEXITED(status) {
            libc::WEXITSTATUS(status)
        } else {
            -1
        }
    }
}

/// Fork; the child runs `work` and ends with its result. Called only while the
/// process has one thread.
pub fn fork(work: impl FnOnce() -> i32) -> Child {
    // SAFETY: the process has one thread, so the child's memory is consistent.
    match unsafe { libc::fork() } {
        -1 => die("fork"),
        0 => exit_now(work()),
        pid => Child(pid),
    }
}

/// Replace the process by this program, which then ends at once; returns on failure.
pub fn exec_and_exit() -> i32 {
    let arguments = [c"guest-bench".as_ptr(), EXIT_ARGUMENT.as_ptr(), ptr::null()];
    let environment = [ptr::null()];
    // SAFETY: both arrays end with a null and hold strings that end with a zero.
    unsafe {
        libc::execve(
            c"/proc/self/exe".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
        )
    };
    127
}

/// Close descriptors that a forked child inherited and must not hold open.
/// Their owners never run destructors in the child, which ends by `_exit`.
pub fn close_all(descriptors: &[&dyn AsFd]) {
    for descriptor in descriptors {
        // SAFETY: the child uses these no more and drops none of their owners.
        unsafe { libc::close(descriptor.as_fd().as_raw_fd()) };
    }
}

/// Sleep while `word` is `seen`.
pub fn futex_wait(word: &AtomicU32, seen: u32) {
    futex(word, libc::FUTEX_WAIT, seen);
}

/// Wake one sleeper on `word`.
pub fn futex_wake(word: &AtomicU32) {
    futex(word, libc::FUTEX_WAKE, 1);
}

fn futex(word: &AtomicU32, operation: libc::c_int, value: u32) {
    let operation = operation | libc::FUTEX_PRIVATE_FLAG;
    let no_timeout: *const libc::timespec = ptr::null();
    // SAFETY: the word outlives the call, and both operations take it alone.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, no_timeout) };
}
