//! Running a vcpu: one thread, from entry to exit and back, until the domain ends. The thread
//! waits for the next domain then.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kvm_bindings::kvm_xcrs;
use kvm_ioctls::{VcpuExit, VcpuFd};
use log::{debug, error, info};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};
use xenner_emu_abi::area::{AREA_MAILBOX, AREA_SIZE};
use xenner_emu_abi::mailbox::{CrashReason, Mailbox, PORT_EVTCHN, PORT_REQUEST, Request, TEXT_LEN};

use crate::domain::{Domain, crash};
use crate::frames;
use crate::guest_va::GuestVa;
use crate::hypercall::{self, Call};
use crate::kvm::stats::ExitLog;

/// Whether vcpus may run.
#[derive(Debug, Default)]
struct Gate {
    paused: Mutex<bool>,
    changed: Condvar,
    /// vcpus that stand at the gate.
    waiting: AtomicU32,
    /// Cheap look before each entry.
    closed: AtomicBool,
}

/// A thread for the vcpus of one number, of one domain after the other.
#[derive(Debug)]
struct Worker {
    /// None once the thread is to end.
    vcpus: Option<mpsc::Sender<Vcpu>>,
    thread: Option<JoinHandle<()>>,
    tid: i32,
}

impl Worker {
    fn start(id: u32) -> std::io::Result<Self> {
        let (vcpus, given) = mpsc::channel::<Vcpu>();
        let (told, tid) = mpsc::channel();
        let thread = thread::Builder::new()
            .name(format!("CPU {id}/KVM"))
            .spawn(move || {
                // whoever started this thread waits for it
                let _ = told.send(rustix::thread::gettid());
                for vcpu in given {
                    let _over = SetAtEnd(vcpu.over.clone());
                    vcpu.run();
                }
            })?;
        let tid = tid.recv().map_err(std::io::Error::other)?;
        Ok(Self {
            vcpus: Some(vcpus),
            thread: Some(thread),
            tid: tid.as_raw_nonzero().get(),
        })
    }

    fn give(&self, vcpu: Vcpu) -> std::io::Result<()> {
        let given = self.vcpus.as_ref().map(|vcpus| vcpus.send(vcpu));
        match given {
            Some(Ok(())) => Ok(()),
            _ => Err(std::io::Error::other("it has panicked before")),
        }
    }

    fn kick(&self) {
        if let Some(thread) = &self.thread
            && let Err(e) = thread.kill(SIGRTMIN())
        {
            debug!(target: "xenner::kvm", "kick: {e}");
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.vcpus = None;
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            error!(target: "xenner::kvm", "a vcpu thread panicked");
        }
    }
}

/// Tells that a vcpu is over, even if its thread panics.
struct SetAtEnd(Arc<AtomicBool>);

impl Drop for SetAtEnd {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The host's threads for vcpus. They outlive domains: a guest's reboot changes neither their
/// numbers, which libvirt asks for once, nor the processors and groups that they were put into.
#[derive(Debug, Default)]
pub struct Workers(Vec<Arc<Worker>>);

impl Workers {
    /// The threads of the first `count` vcpus.
    fn first(&mut self, count: usize) -> std::io::Result<&[Arc<Worker>]> {
        for id in self.0.len()..count {
            self.0.push(Arc::new(Worker::start(id as u32)?));
        }
        Ok(&self.0[..count])
    }
}

/// The vcpus of a domain on their threads.
#[derive(Debug)]
pub struct VcpuThreads {
    domain: Arc<Domain>,
    gate: Arc<Gate>,
    /// Those that a vcpu was given to; each with whether that is over.
    workers: Vec<(Arc<Worker>, Arc<AtomicBool>)>,
    exits: Vec<Arc<AtomicU64>>,
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

impl VcpuThreads {
    /// Runs each vcpu on its thread; they wait at the gate if `paused`. With an `exit_log` they
    /// count there how often they come back.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn start(
        workers: &mut Workers,
        domain: &Arc<Domain>,
        vcpus: Vec<VcpuFd>,
        paused: bool,
        exit_log: Option<&ExitLog>,
    ) -> std::io::Result<Self> {
        register_signal_handler(SIGRTMIN(), on_kick)
            .map_err(|e| std::io::Error::from_raw_os_error(e.errno()))?;
        let gate = Arc::new(Gate::default());
        *gate.paused.lock().unwrap_or_else(PoisonError::into_inner) = paused;
        gate.closed.store(paused, Ordering::SeqCst);
        let mut threads = Self {
            domain: domain.clone(),
            gate,
            workers: Vec::new(),
            exits: Vec::new(),
        };
        let workers = workers.first(vcpus.len())?;
        for ((id, fd), worker) in (0..).zip(vcpus).zip(workers) {
            let vcpu = Vcpu {
                domain: domain.clone(),
                gate: threads.gate.clone(),
                id,
                fd,
                exit_log: exit_log.cloned(),
                exits: Arc::default(),
                over: Arc::default(),
            };
            let (exits, over) = (vcpu.exits.clone(), vcpu.over.clone());
            worker.give(vcpu)?;
            threads.exits.push(exits);
            threads.workers.push((worker.clone(), over));
        }
        Ok(threads)
    }

    /// The host's number of each vcpu's thread.
    pub fn tids(&self) -> Vec<i32> {
        self.workers.iter().map(|(worker, _)| worker.tid).collect()
    }

    /// How often each vcpu came back from KVM_RUN to this process.
    pub fn exits(&self) -> Vec<u64> {
        let exits = self.exits.iter();
        exits.map(|exits| exits.load(Ordering::Relaxed)).collect()
    }

    /// Stops all vcpus at the gate; returns when they stand there.
    pub fn pause(&self) {
        *self
            .gate
            .paused
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.gate.closed.store(true, Ordering::SeqCst);
        while (self.gate.waiting.load(Ordering::SeqCst) as usize) < self.workers.len()
            && !self.domain.end.is_over()
        {
            self.kick();
            thread::sleep(Duration::from_micros(200));
        }
    }

    /// Lets the vcpus run.
    pub fn resume(&self) {
        self.gate.closed.store(false, Ordering::SeqCst);
        *self
            .gate
            .paused
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = false;
        self.gate.changed.notify_all();
    }

    fn running(&self) -> impl Iterator<Item = &Worker> {
        let workers = self.workers.iter();
        workers
            .filter_map(|(worker, over)| (!over.load(Ordering::SeqCst)).then_some(worker.as_ref()))
    }

    fn kick(&self) {
        self.running().for_each(Worker::kick);
    }
}

impl Drop for VcpuThreads {
    /// Ends the vcpus. The domain must be over, or it is made so.
    fn drop(&mut self) {
        if !self.domain.end.is_over() {
            self.domain.end.quit();
        }
        self.resume();
        // a kick can fall between the look at the flag and the entry, so kick until they are gone
        while self.running().next().is_some() {
            self.kick();
            thread::sleep(Duration::from_micros(200));
        }
    }
}

struct Vcpu {
    domain: Arc<Domain>,
    gate: Arc<Gate>,
    id: u32,
    fd: VcpuFd,
    exit_log: Option<ExitLog>,
    /// Written by this thread alone.
    exits: Arc<AtomicU64>,
    /// Set when this is no more, and KVM has forgotten it.
    over: Arc<AtomicBool>,
}

impl Vcpu {
    fn run(mut self) {
        while !self.domain.end.is_over() {
            if self.gate.closed.load(Ordering::SeqCst) {
                self.wait_at_gate();
                continue;
            }
            self.enter();
        }
    }

    fn wait_at_gate(&self) {
        let mut paused = self
            .gate
            .paused
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.gate.waiting.fetch_add(1, Ordering::SeqCst);
        while *paused {
            paused = self
                .gate
                .changed
                .wait(paused)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.gate.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    fn enter(&mut self) {
        let exits = self.exits.load(Ordering::Relaxed) + 1;
        self.exits.store(exits, Ordering::Relaxed);
        if let Some(log) = &self.exit_log {
            log.set(self.id, exits);
        }
        let failed = match self.fd.run() {
            Ok(VcpuExit::IoOut(PORT_REQUEST, data)) => {
                let n = data.first_chunk().map_or(0, |b| u32::from_le_bytes(*b));
                return self.request(n);
            }
            Ok(VcpuExit::IoOut(PORT_EVTCHN, data)) => {
                // a port without an ioeventfd: bound while this send was under way
                let port = data.first_chunk().map_or(0, |b| u32::from_le_bytes(*b));
                return self.domain.events.signal_backend(port);
            }
            Ok(VcpuExit::Intr) => return,
            Ok(VcpuExit::Shutdown) => "triple fault".to_owned(),
            Ok(exit) => format!("unexpected exit {exit:?}"),
            Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => return,
            Err(e) => format!("KVM_RUN: {e}"),
        };
        self.emulator_failed(&failed);
    }

    /// Something went wrong that no guest should be able to bring about.
    fn emulator_failed(&self, why: &str) {
        let mut report = format!("The emulator failed on vcpu {}: {why}", self.id);
        if let Ok(r) = self.fd.get_regs() {
            report.push_str(&format!(
                "\nrip {:016x} rsp {:016x} rflags {:x} rax {:016x} rbx {:016x} rcx {:016x} \
                 rdx {:016x}\nrsi {:016x} rdi {:016x} rbp {:016x} r8 {:016x} r9 {:016x} r10 {:016x} \
                 r11 {:016x}",
                r.rip, r.rsp, r.rflags, r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.r8, r.r9,
                r.r10, r.r11
            ));
        }
        if let Ok(s) = self.fd.get_sregs() {
            report.push_str(&format!(
                "\ncs {:x} ss {:x} cr0 {:x} cr2 {:016x} cr3 {:x} cr4 {:x}",
                s.cs.selector, s.ss.selector, s.cr0, s.cr2, s.cr3, s.cr4
            ));
        }
        self.domain.end.set_crash(report);
    }

    fn mailbox(&self, offset: usize) -> u64 {
        self.domain.map.areas + u64::from(self.id) * AREA_SIZE + AREA_MAILBOX + offset as u64
    }

    fn word(&self, offset: usize) -> u64 {
        // the mailbox is memory of the domain by construction
        self.domain.memory.load(self.mailbox(offset)).unwrap_or(0)
    }

    fn answer(&self, value: i64) {
        let at = self.mailbox(std::mem::offset_of!(Mailbox, result));
        if let Err(e) = self.domain.memory.store(at, value as u64) {
            error!(target: "xenner::kvm", "{e}");
        }
    }

    fn args(&self) -> [u64; 6] {
        let base = std::mem::offset_of!(Mailbox, args);
        std::array::from_fn(|i| self.word(base + i * 8))
    }

    fn request(&mut self, n: u32) {
        match Request::from_u32(n) {
            Some(Request::Hypercall) => self.hypercall(),
            Some(Request::Yield) => thread::yield_now(),
            Some(Request::Xsetbv) => self.xsetbv(),
            Some(Request::Log) => {
                info!(target: "xenner::mmu", "vcpu {}: {}", self.id, self.text());
            }
            Some(Request::Crash) => {
                let why = CrashReason::text(self.args()[0]);
                self.domain
                    .end
                    .set_crash(crash::report(&self.domain, self.id, why));
            }
            Some(Request::Panic) => self.emulator_failed(&self.text()),
            Some(Request::TakeOrdinary) => {
                let (memory, map) = (&self.domain.memory, &self.domain.map);
                self.answer(frames::take_ordinary(memory, map, self.args()[0]) as i64);
            }
            Some(Request::Notify) => self.domain.events.signal_backend(self.args()[0] as u32),
            None => self.emulator_failed(&format!("request {n}")),
        }
    }

    fn text(&self) -> String {
        let len = self
            .word(std::mem::offset_of!(Mailbox, text_len))
            .min(TEXT_LEN as u64);
        let mut buf = vec![0; len as usize];
        let at = self.mailbox(std::mem::offset_of!(Mailbox, text));
        match self.domain.memory.read(at, &mut buf) {
            Ok(()) => String::from_utf8_lossy(&buf).into_owned(),
            Err(e) => e.to_string(),
        }
    }

    fn hypercall(&self) {
        let cr3 = self.word(std::mem::offset_of!(Mailbox, cr3));
        let call = Call {
            domain: &self.domain,
            vcpu: self.id,
            op: self.word(std::mem::offset_of!(Mailbox, op)),
            args: self.args(),
            guest: GuestVa::new(&self.domain.memory, &self.domain.map, cr3),
        };
        self.answer(hypercall::dispatch(&call));
    }

    fn xsetbv(&self) {
        let [index, value, ..] = self.args();
        let mut xcrs = kvm_xcrs {
            nr_xcrs: 1,
            ..Default::default()
        };
        xcrs.xcrs[0].xcr = index as u32;
        xcrs.xcrs[0].value = value;
        let ok = index == 0 && self.fd.set_xcrs(&xcrs).is_ok();
        self.answer(if ok { 0 } else { -1 });
    }
}
