//! A domain: its memory, its virtual machine, what it is bound to, and how it ends.

pub mod builder;
pub mod crash;
pub mod emulator;
pub mod end;
pub mod layout;
pub mod watchdog;

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use kvm_bindings::CpuId;
use kvm_ioctls::{Kvm, VcpuFd};
use log::info;
use thiserror::Error;
use xenner_emu_abi::area::{AREA_SIZE, AREA_VCPU};
use xenner_emu_abi::boot::{BootInfo, FLAG_RING0_SLOW, FLAG_STEAL_TIME, FLAG_SYSCALL_STAYS_USER};
use xenner_emu_abi::layout::{PAGE_SIZE, VCPU_AREA_VA};
use xenner_emu_abi::mailbox::VECTOR_NMI;

use self::builder::{BuildError, Built, CONSOLE_PORT, Plan, STORE_PORT};
use self::emulator::EmulatorError;
use self::end::{EndSignal, ShutdownReason};
use self::layout::MachineMap;
use self::watchdog::Watchdogs;
use crate::config::Uuid;
use crate::evtchn::EventChannels;
use crate::hypercall::{State, XEN_VERSION};
use crate::kvm::cpuid::{self, XenFacts};
use crate::kvm::probe::Flavour;
use crate::kvm::vm::{Ring0Start, Vm, start_in_ring0};
use crate::kvm::{KvmError, call};
use crate::loader::KernelImage;
use crate::memory::{Memory, MemoryError};

/// What a domain is made from.
#[derive(Debug)]
pub struct DomainConfig<'a> {
    /// The kernel.
    pub kernel: &'a KernelImage,
    /// The initrd.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub command_line: String,
    /// Pages of RAM.
    pub pages: u64,
    /// vcpus, those that may be plugged later included.
    pub vcpus: u32,
    /// vcpus of a processor package.
    pub package: u32,
    /// The domain's UUID.
    pub uuid: Uuid,
    /// Seconds that the domain's wall clock is ahead of the host's in UTC.
    pub wall_clock_ahead: i64,
}

/// Why there is no domain.
#[derive(Debug, Error)]
pub enum DomainError {
    /// KVM refuses.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The builder refuses.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The emulator cannot be placed.
    #[error(transparent)]
    Emulator(#[from] EmulatorError),
    /// No memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The host gives no event descriptor.
    #[error("The host gives no event descriptor for the domain")]
    Event(#[source] std::io::Error),
}

/// A domain.
#[derive(Debug)]
pub struct Domain {
    /// Guest-physical memory.
    pub memory: Memory,
    /// Where everything lies in it.
    pub map: MachineMap,
    /// The virtual machine.
    pub vm: Vm,
    /// Event channels.
    pub events: EventChannels,
    /// What hypercalls remember.
    pub hypercalls: State,
    /// How it ends.
    pub end: EndSignal,
    /// Frames of the console and xenstore rings, entry point and the like.
    pub built: Built,
    /// Where the guest finds the M2P.
    pub m2p_va: u64,
    console: Mutex<Option<Sink>>,
    watchdogs: Watchdogs,
    /// By vcpu: the guest has it up.
    up: Vec<AtomicBool>,
}

/// Takes the guest's hypervisor console output.
pub type ConsoleSink = Box<dyn FnMut(&[u8]) + Send>;

struct Sink(ConsoleSink);

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sink")
    }
}

impl Domain {
    /// Builds a domain, ready to run; returns it with its vcpus.
    ///
    /// # Errors
    /// As [`DomainError`] says.
    pub fn build(
        kvm: &Kvm,
        flavour: Flavour,
        config: &DomainConfig<'_>,
    ) -> Result<(Self, Vec<VcpuFd>), DomainError> {
        let map = MachineMap::new(config.pages, u64::from(config.vcpus));
        let memory = Memory::new(map.pages, map.start, map.extra())?;
        let vm = Vm::new(kvm, &memory)?;
        let supported = kvm
            .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
            .map_err(call("KVM_GET_SUPPORTED_CPUID"))?;
        let placed = emulator::place(&memory, &map, flavour)?;
        let plan = Plan {
            kernel: config.kernel,
            initrd: config.initrd.as_deref(),
            command_line: &config.command_line,
            flavour,
        };
        let built = builder::build(&memory, &map, &plan, &placed.hole_l4)?;
        let mut vcpus = Vec::new();
        for id in 0..config.vcpus {
            vcpus.push(vm.create_vcpu(id)?);
        }
        let tsc_khz = vcpus
            .first()
            .and_then(|v| v.get_tsc_khz().ok())
            .unwrap_or(0);
        let facts = XenFacts {
            version: XEN_VERSION,
            tsc_khz,
            package: config.package,
        };
        let tables = cpuid::tables(&supported, flavour, facts);
        let mut flags = tables.flags | FLAG_STEAL_TIME;
        if flavour.pvm {
            flags |= FLAG_SYSCALL_STAYS_USER | FLAG_RING0_SLOW;
        }
        let info = BootInfo {
            flags,
            cpuid_entries: tables.guest.len() as u64,
            wall_clock_ahead: config.wall_clock_ahead.cast_unsigned(),
            ..boot_info(&map, &placed, &built)
        };
        emulator::write_info(&memory, &map, &info, &tables.guest)?;
        for (id, vcpu) in vcpus.iter().enumerate() {
            prepare(vcpu, id as u64, &tables, &placed)?;
        }
        let events = EventChannels::new(memory.clone(), vm.clone(), map);
        info!(target: "xenner::domain", "{} MiB, {} vcpus, emulator at {:#x}-{:#x}",
            map.pages >> 8, map.vcpus, map.start, map.end);
        let domain = Self {
            memory,
            map,
            vm,
            events,
            hypercalls: State::new(config.uuid, config.pages),
            end: EndSignal::new().map_err(DomainError::Event)?,
            built,
            m2p_va: placed.m2p_va,
            console: Mutex::new(None),
            watchdogs: Watchdogs::default(),
            // the guest begins on the first
            up: (0..config.vcpus).map(|id| (id == 0).into()).collect(),
        };
        Ok((domain, vcpus))
    }

    /// Where console_io output goes from now on.
    pub fn set_console_out(&self, sink: ConsoleSink) {
        *lock(&self.console) = Some(Sink(sink));
    }

    /// The guest prints through the hypervisor.
    pub fn console_out(&self, text: &[u8]) {
        if let Some(sink) = lock(&self.console).as_mut() {
            (sink.0)(text);
        }
    }

    /// The guest asked to end; the first reason counts.
    pub fn shut_down(&self, vcpu: u32, reason: ShutdownReason) {
        if reason == ShutdownReason::Crash {
            let report = crash::report(self, vcpu, "the guest says that it crashed");
            self.end.set_crash(report);
        } else {
            self.end.set(reason);
        }
    }

    /// Sends an NMI to each vcpu that is up.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn send_nmi(&self) -> Result<(), KvmError> {
        (0..self.map.vcpus as u32).try_for_each(|id| self.vm.interrupt(id, VECTOR_NMI))
    }

    /// SCHEDOP_watchdog.
    ///
    /// # Errors
    /// ENOSPC, EINVAL.
    pub fn watchdog(&self, id: u32, timeout: u32) -> Result<i64, i64> {
        let r = self.watchdogs.set(id, timeout);
        self.end.wake();
        r
    }

    /// The domain's watchdog timers.
    pub fn watchdogs(&self) -> &Watchdogs {
        &self.watchdogs
    }

    /// The guest has brought a vcpu up, or is taking it down; of a vcpu that there is not, nothing
    /// is noted.
    pub fn vcpu_turned(&self, id: u64, up: bool) {
        let vcpu = usize::try_from(id).ok().and_then(|id| self.up.get(id));
        if let Some(vcpu) = vcpu {
            vcpu.store(up, Ordering::SeqCst);
            // somebody may wait for it to go
            self.end.wake();
        }
    }

    /// Whether the guest has this vcpu up.
    pub fn is_vcpu_up(&self, id: u32) -> bool {
        let vcpu = self.up.get(id as usize);
        vcpu.is_some_and(|vcpu| vcpu.load(Ordering::SeqCst))
    }

    /// The ports of the rings that every domain has.
    pub const PORTS: [u32; 2] = [STORE_PORT, CONSOLE_PORT];
}

/// A lock whose holder cannot leave half-done state behind.
fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What the emulator is told of where things lie.
fn boot_info(map: &MachineMap, placed: &emulator::Placed, built: &Built) -> BootInfo {
    BootInfo {
        nr_frames: map.ram_end / PAGE_SIZE,
        hole_start: crate::memory::HOLE_START / PAGE_SIZE,
        hole_end: crate::memory::HOLE_END / PAGE_SIZE,
        shared_start: map.shared_info / PAGE_SIZE,
        shared_end: map.shared_end / PAGE_SIZE,
        shared_info: map.shared_info / PAGE_SIZE,
        m2p_va: placed.m2p_va,
        m2p_ma: map.m2p,
        m2p_entries: map.m2p_entries,
        nr_vcpus: map.vcpus,
        hole_l4: placed.hole_l4,
        window_l1: map.windows / PAGE_SIZE,
        zero_frame: map.zero / PAGE_SIZE,
        vcpu_areas: map.areas,
        rip: built.rip,
        rsp: built.rsp,
        rsi: built.start_info,
        l4: built.l4,
        xen_version: u64::from(XEN_VERSION),
        ..BootInfo::default()
    }
}

fn prepare(
    vcpu: &VcpuFd,
    id: u64,
    tables: &cpuid::Tables,
    placed: &emulator::Placed,
) -> Result<(), KvmError> {
    let cpuid = CpuId::from_entries(&tables.kvm)
        .map_err(|_| KvmError::Lacks("room for the CPUID table"))?;
    vcpu.set_cpuid2(&cpuid).map_err(call("KVM_SET_CPUID2"))?;
    let top = VCPU_AREA_VA + id * AREA_SIZE + AREA_VCPU;
    // the start-up code expects the stack as a call leaves it
    let start = Ring0Start {
        cr3: placed.idle_l4,
        rip: placed.entry,
        rsp: top,
        rdi: id,
    };
    start_in_ring0(vcpu, start)
}
