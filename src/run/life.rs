//! One domain after the other: build, run, and what comes after its end.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};
use kvm_ioctls::Kvm;
use log::{debug, error, info, warn};
use xenner_console::ChardevEvent;
use xenner_emu_abi::layout::DOMID;
use xenner_pvdevices::blkback::{ErrorAction, IoFault};
use xenner_pvdevices::consback::ConsoleBackend;
use xenner_pvdevices::netend::NetEnd;

use super::consoles::{self, Console};
use super::daemon::Ready;
use super::devices::Devices;
use super::disks::Disks;
use super::ends::{Bell, Inbox, SignalEnd, UserEnd, Wish};
use super::monitors::{self, timeout};
use super::nics::Nic;
use super::signals::EndSignals;
use super::vcpus::Vcpus;
use super::{RunError, host, lock, report};
use crate::config::{MonitorMode, PanicAction, RebootAction, ShutdownAction, VmConfig};
use crate::domain::Domain;
use crate::domain::end::{End, ShutdownReason};
use crate::kvm;
use crate::kvm::probe::{self, Flavour};
use crate::kvm::stats::{ExitLog, VcpuStatistics};
use crate::kvm::vcpu::{VcpuThreads, Workers};
use crate::loader::{self, KernelImage};
use crate::qmp::control::{Properties, RunState};
use crate::qmp::events::{GuestPanicked, LifeChange, PanicOutcome, PortChange, ShutdownCause};
use crate::qmp::{Event, EventSink, MonitorChardevs, Server};
use crate::xenstore::{StoreHandle, XenstoreService};

/// How long the last console output waits for a slow listener.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) type Subscriber = Arc<Mutex<dyn MutEventSubscriber + Send>>;

/// What is needed to build domains, opened and checked.
pub(super) struct Machine {
    kvm: Kvm,
    flavour: Flavour,
    image: KernelImage,
}

/// Opens KVM and loads the kernel.
pub(super) fn open_machine(config: &VmConfig) -> Result<Machine, RunError> {
    let kvm = kvm::open()?;
    // unpacking takes longer than all the rest, so it goes beside
    let (image, flavour) = thread::scope(|threads| {
        let image = threads.spawn(|| load_kernel(config));
        let flavour = probe::flavour(&kvm, config.flavour);
        (image.join(), flavour)
    });
    let image = image.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    Ok(Machine {
        kvm,
        flavour: flavour?,
        image,
    })
}

fn load_kernel(config: &VmConfig) -> Result<KernelImage, RunError> {
    let start = Instant::now();
    // the command line was refused if there is no kernel
    let path = config.kernel.clone().unwrap_or_default();
    let image = loader::load(&path)?;
    event(format_args!(
        "kernel {} is unpacked in {:.1} ms",
        path.display(),
        start.elapsed().as_secs_f64() * 1e3
    ));
    Ok(image)
}

/// A turn in the domain's life, for `-d event`.
fn event(what: std::fmt::Arguments<'_>) {
    info!(target: "xenner::event", "{what}");
}

/// What the process around the domain is made of.
pub(super) struct Parts {
    pub(super) config: VmConfig,
    pub(super) name: String,
    /// Seconds that the domain's wall clock is ahead of the host's, in every boot of it.
    pub(super) wall_clock_ahead: i64,
    /// The first console; without an end of its own if none is asked for.
    pub(super) console: Arc<Mutex<ConsoleBackend>>,
    /// The consoles beside it, and the channels.
    pub(super) consoles: Vec<Console>,
    pub(super) store: StoreHandle,
    pub(super) service: XenstoreService,
    pub(super) inbox: Inbox,
    pub(super) devices: Devices,
    pub(super) disks: Disks,
    pub(super) nics: Vec<Nic>,
    pub(super) monitors: Server,
}

/// The process around the domain.
pub(super) struct Host {
    pub(super) config: VmConfig,
    pub(super) name: String,
    pub(super) wall_clock_ahead: i64,
    /// The first console; without an end of its own if none is asked for.
    pub(super) console: Arc<Mutex<ConsoleBackend>>,
    /// The consoles beside it, and the channels.
    pub(super) consoles: Vec<Console>,
    pub(super) store: StoreHandle,
    pub(super) service: Arc<Mutex<XenstoreService>>,
    pub(super) inbox: Inbox,
    pub(super) events: EventManager<Subscriber>,
    pub(super) devices: Devices,
    pub(super) disks: Disks,
    /// Host ends that no device has yet.
    pub(super) spare_ends: BTreeMap<String, Vec<Box<dyn NetEnd>>>,
    pub(super) nics: Vec<Nic>,
    pub(super) vcpus: Vcpus,
    /// The monitors; nobody's while they run commands.
    pub(super) server: Option<Server>,
    pub(super) monitor_chardevs: MonitorChardevs,
    /// Where events for the monitors go.
    pub(super) told: EventSink,
    pub(super) running: Option<Running>,
    /// The threads of the vcpus.
    workers: Workers,
    /// The state after the domain's end, where the process stays.
    pub(super) ended: Option<RunState>,
    /// A monitor wants the domain anew, and standing for this reason.
    pub(super) reset_wanted: Option<Option<Halt>>,
    /// Bytes of memory that monitors were told of last.
    pub(super) memory_told: u64,
    pub(super) balloon_polling: u64,
    /// The process is to end, and its monitors know why.
    leaving: bool,
    asked: bool,
}

/// A domain with its vcpus.
pub(super) struct Running {
    pub(super) domain: Arc<Domain>,
    pub(super) threads: VcpuThreads,
    pub(super) halted: Option<Halt>,
    /// KVM's counters, as far as somebody may ask for them.
    counters: Arc<[VcpuStatistics]>,
}

impl Running {
    /// What KVM counted for a vcpu.
    pub(super) fn kvm_counters(&self, vcpu: u32) -> Properties {
        let counters = self.counters.get(vcpu as usize).map(VcpuStatistics::read);
        let counters = counters.transpose().unwrap_or_else(|e| {
            warn!("no exit counts: {e}");
            None
        });
        let all = counters.unwrap_or_default().into_iter();
        all.map(|(name, count)| (name, count.into())).collect()
    }
}

/// Why vcpus do not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Halt {
    /// `-S`, or built anew while it stood.
    Prelaunch,
    /// A monitor.
    Monitor,
    /// A disk's policy for errors.
    IoError,
}

/// What a domain's end means for the process.
enum Next {
    Exit(ExitCode),
    /// The domain is built anew; its vcpus stand for this reason.
    Again(Option<Halt>),
}

impl Host {
    pub(super) fn new(parts: Parts, signals: EndSignals) -> Result<Self, RunError> {
        let Parts {
            config,
            name,
            wall_clock_ahead,
            console,
            consoles,
            store,
            service,
            inbox,
            devices,
            disks,
            nics,
            monitors,
        } = parts;
        let service = Arc::new(Mutex::new(service));
        let mut events = EventManager::new().map_err(|e| RunError::Loop(format!("{e:?}")))?;
        events.add_subscriber(service.clone() as Subscriber);
        let signal_end = SignalEnd {
            signals,
            inbox: inbox.clone(),
        };
        events.add_subscriber(Arc::new(Mutex::new(signal_end)) as Subscriber);
        for console in consoles::all(&console, &consoles) {
            let user = UserEnd {
                console: console.clone(),
                inbox: inbox.clone(),
            };
            events.add_subscriber(Arc::new(Mutex::new(user)) as Subscriber);
        }
        events.add_subscriber(Arc::new(Mutex::new(Bell(inbox.clone()))) as Subscriber);
        for subscriber in monitors.subscribers() {
            events.add_subscriber(subscriber);
        }
        Ok(Self {
            memory_told: config.memory.size,
            vcpus: Vcpus::new(config.vcpus),
            config,
            name,
            wall_clock_ahead,
            console,
            consoles,
            store,
            service,
            inbox,
            events,
            devices,
            disks,
            nics,
            spare_ends: BTreeMap::new(),
            monitor_chardevs: monitors.chardevs(),
            told: monitors.events(),
            server: Some(monitors),
            running: None,
            workers: Workers::default(),
            ended: None,
            reset_wanted: None,
            balloon_polling: 0,
            leaving: false,
            asked: false,
        })
    }

    /// Runs domains until one ends for good.
    pub(super) fn run(
        &mut self,
        machine: Machine,
        mut ready: Option<Ready>,
        mut started: Instant,
    ) -> Result<ExitCode, RunError> {
        let Machine {
            kvm,
            flavour,
            image,
        } = machine;
        let mut image = Some(image);
        let paused = self.config.lifecycle.start_paused;
        let mut halted = paused.then_some(Halt::Prelaunch);
        loop {
            let kernel_was_loaded = image.is_some();
            let kernel = match image.take() {
                Some(image) => image,
                None => load_kernel(&self.config)?,
            };
            self.forget_vcpus();
            let (domain, vcpus) = Domain::build(&kvm, flavour, &self.domain_config(&kernel))?;
            drop(kernel);
            let domain = Arc::new(domain);
            self.connect_hypervisor_console(&domain)?;
            let keys = self.publish_keys(&domain)?;
            let per_life = self.connect_rings(&domain)?;
            self.connect_devices(&domain)?;
            if let Some(ready) = ready.take() {
                ready.go().map_err(host("/dev/null"))?;
            }
            let exits = self.exit_counters(&vcpus);
            let exit_log = self.config.stats.then(ExitLog::new).transpose();
            let exit_log = exit_log.map_err(host("memory file"))?;
            let threads = VcpuThreads::start(
                &mut self.workers,
                &domain,
                vcpus,
                halted.is_some(),
                exit_log.as_ref(),
            )
            .map_err(host("thread for a vcpu"))?;
            self.running = Some(Running {
                domain: domain.clone(),
                threads,
                halted,
                counters: exits.clone(),
            });
            event(format_args!(
                "domain {DOMID} of {} MiB and {} vcpus enters its kernel {:.1} ms after the {}",
                self.config.memory.size >> 20,
                self.vcpus.plugged().count(),
                started.elapsed().as_secs_f64() * 1e3,
                if kernel_was_loaded {
                    "start of the process"
                } else {
                    "end of the one before"
                },
            ));
            let end = self.wait_for_end();
            started = Instant::now();
            if let Ok(end) = &end {
                event(format_args!("domain {DOMID} ends: {}", end.summary()));
            }
            // the vcpus end here
            self.running = None;
            self.finish_consoles();
            self.devices.stop();
            for id in per_life {
                self.events
                    .remove_subscriber(id)
                    .map_err(|e| RunError::Loop(format!("{e:?}")))?;
            }
            lock(&self.console).disconnect();
            lock(&self.service).detach_guest();
            if self.config.stats {
                self.say(&report::statistics(&domain));
                self.say(&report::exits(&exits, exit_log.as_ref()));
            }
            match self.after(end?)? {
                Next::Exit(code) => return Ok(code),
                Next::Again(standing) => {
                    halted = standing;
                    keys.remove(&self.store)?;
                }
            }
        }
    }

    /// The vcpus have printed their last: waits for slow listeners, all of them together no longer
    /// than for one.
    fn finish_consoles(&self) {
        let deadline = Instant::now() + PATIENCE;
        for console in self.all_consoles() {
            lock(console).finish(deadline.saturating_duration_since(Instant::now()));
        }
    }

    /// The first console, the others, the channels.
    pub(super) fn all_consoles(&self) -> impl Iterator<Item = &Arc<Mutex<ConsoleBackend>>> {
        consoles::all(&self.console, &self.consoles)
    }

    /// The main loop.
    fn wait_for_end(&mut self) -> Result<End, RunError> {
        let domain = match &self.running {
            Some(running) => running.domain.clone(),
            None => return Ok(End::Quit),
        };
        loop {
            if let Some(end) = domain.end.end() {
                return Ok(end);
            }
            self.turn(domain.watchdogs().next())?;
            if domain
                .watchdogs()
                .next()
                .is_some_and(|at| at <= Instant::now())
            {
                domain.end.set(ShutdownReason::Watchdog);
            }
            for wish in self.inbox.take() {
                self.grant(&domain, &wish);
            }
            self.serve_monitors();
        }
    }

    /// One turn of the event loop, until `deadline` at the latest.
    fn turn(&mut self, deadline: Option<Instant>) -> Result<(), RunError> {
        let monitors = self.server.as_ref().and_then(Server::deadline);
        match self.events.run_with_timeout(timeout([deadline, monitors])) {
            Ok(_) => Ok(()),
            Err(event_manager::Error::Epoll(e)) if e.errno() == libc::EINTR => Ok(()),
            Err(e) => Err(RunError::Loop(format!("{e:?}"))),
        }
    }

    fn grant(&mut self, domain: &Domain, wish: &Wish) {
        match wish {
            Wish::Signal(n) => {
                debug!("signal {n}");
                self.signalled(domain);
            }
            Wish::Console(ChardevEvent::Quit) => self.quit_for(ShutdownCause::HostUi),
            Wish::Console(ChardevEvent::Commit) => {
                self.say("There are no temporary disks to write back.\n");
            }
            Wish::Console(e) => debug!(target: "xenner::console", "{e:?}"),
            Wish::Disk { disk, fault } => self.disk_failed(disk, fault),
            Wish::Gone { class, id } => self.device_gone(class, *id),
            Wish::Channel { number, used } => self.channel_used(*number, *used),
        }
    }

    /// The guest has opened a channel, or closed it.
    fn channel_used(&mut self, number: u32, used: bool) {
        let mut consoles = self.consoles.iter_mut();
        let Some(console) = consoles.find(|console| console.number == number) else {
            return;
        };
        console.used = used;
        let id = console
            .channel
            .as_ref()
            .and_then(|channel| channel.id.clone());
        if let Some(id) = id {
            self.tell(Event::PortChange(PortChange { id, open: used }));
        }
    }

    /// The host failed a request; the disk has done what its policy says but for stopping the domain.
    fn disk_failed(&mut self, disk: &str, fault: &IoFault) {
        let IoFault {
            kind,
            offset,
            len,
            errno,
            action,
        } = fault;
        error!("{disk}: {kind:?} of {len} bytes at {offset} failed: {errno} (action: {action:?})");
        let event = self.disks.note_fault(disk, fault);
        self.tell(Event::BlockIoError(event));
        if *action == ErrorAction::Stop {
            self.halt(Halt::IoError);
            self.say(&format!(
                "The domain is stopped until the fault of {disk} is mended ({errno})."
            ));
        }
    }

    /// Stops the vcpus.
    pub(super) fn halt(&mut self, why: Halt) {
        if let Some(running) = &mut self.running
            && running.halted.is_none()
        {
            running.threads.pause();
            running.halted = Some(why);
            self.tell(Event::stop());
        }
    }

    /// Ends the domain and the process.
    pub(super) fn quit_for(&mut self, cause: ShutdownCause) {
        if !std::mem::replace(&mut self.leaving, true) {
            self.tell_shutdown(false, cause);
        }
        self.reset_wanted = None;
        if let Some(running) = &self.running {
            running.domain.end.quit();
        }
    }

    /// A signal ends a domain that a program manages at once, as it does QEMU; a user's guest is
    /// asked first.
    fn signalled(&mut self, domain: &Domain) {
        let mut monitors = self.config.monitors.iter();
        if monitors.any(|monitor| monitor.mode == MonitorMode::Control) {
            self.quit_for(ShutdownCause::HostSignal);
        } else {
            self.ask_to_end(domain);
        }
    }

    /// Lets stopped vcpus run, and disks try again what failed.
    pub(super) fn go_on(&mut self) {
        if let Some(running) = &mut self.running
            && running.halted.take().is_some()
        {
            self.disks.retry();
            self.told.emit(Event::resume());
            running.threads.resume();
        }
    }

    /// The first time the guest is asked to power off; the second time the domain ends at once,
    /// as it does while its vcpus are stopped, and where nobody listens in the guest.
    fn ask_to_end(&mut self, domain: &Domain) {
        let control = format!("/local/domain/{DOMID}/control");
        let listens = self
            .store
            .try_read(&format!("{control}/feature-poweroff"))
            .is_ok_and(|v| v.as_deref() == Some("1"));
        let stopped = self.running.as_ref().is_none_or(|r| r.halted.is_some());
        if self.asked || stopped || !listens {
            return domain.end.quit();
        }
        self.asked = true;
        match self.store.write(&format!("{control}/shutdown"), "poweroff") {
            Ok(()) => self.say("Asked the guest to power off; once more ends it at once.\n"),
            Err(e) => {
                warn!("the guest cannot be asked to power off: {e}");
                domain.end.quit();
            }
        }
    }

    /// Tells the user something, on a terminal that may be raw.
    fn say(&self, text: &str) {
        let mut out = std::io::stderr().lock();
        for line in text.lines() {
            // standard error may be closed; there is nowhere else to say it then
            let _ = write!(out, "xenner: {line}\r\n");
        }
    }

    fn after(&mut self, end: End) -> Result<Next, RunError> {
        if let Some(halted) = self.reset_wanted.take() {
            return Ok(self.again(false, ShutdownCause::HostQmpSystemReset, halted));
        }
        let reason = match end {
            End::Quit => return Ok(Next::Exit(ExitCode::SUCCESS)),
            End::Crash(report) => {
                self.say(&report);
                self.write_dump(&report)?;
                return self.after_crash();
            }
            End::Shutdown(reason) => reason,
        };
        match reason {
            ShutdownReason::Poweroff => self.after_poweroff(ShutdownCause::GuestShutdown),
            ShutdownReason::Reboot | ShutdownReason::SoftReset => {
                if self.config.lifecycle.reboot == RebootAction::Shutdown || self.asked {
                    self.after_poweroff(ShutdownCause::GuestReset)
                } else {
                    Ok(self.again(true, ShutdownCause::GuestReset, None))
                }
            }
            ShutdownReason::Watchdog => {
                self.say("The guest's watchdog expired.");
                self.after_crash()
            }
            other => {
                self.say(&format!("The guest ended for the reason {other:?}."));
                Ok(Next::Exit(ExitCode::FAILURE))
            }
        }
    }

    fn again(&mut self, guest: bool, reason: ShutdownCause, halted: Option<Halt>) -> Next {
        self.tell(Event::Reset(LifeChange { guest, reason }));
        Next::Again(halted)
    }

    fn after_poweroff(&mut self, cause: ShutdownCause) -> Result<Next, RunError> {
        self.tell_shutdown(true, cause);
        if self.config.lifecycle.shutdown == ShutdownAction::Pause {
            return self.linger(RunState::Shutdown, ExitCode::SUCCESS);
        }
        self.leaving = true;
        Ok(Next::Exit(ExitCode::SUCCESS))
    }

    fn after_crash(&mut self) -> Result<Next, RunError> {
        let panic = self.config.lifecycle.panic;
        let action = match panic {
            PanicAction::Pause => PanicOutcome::Pause,
            _ => PanicOutcome::Poweroff,
        };
        self.tell(Event::GuestPanicked(GuestPanicked { action }));
        match panic {
            PanicAction::ExitFailure | PanicAction::None => {
                self.tell_shutdown(true, ShutdownCause::GuestPanic);
                self.leaving = true;
                Ok(Next::Exit(ExitCode::FAILURE))
            }
            PanicAction::Shutdown => self.after_poweroff(ShutdownCause::GuestPanic),
            PanicAction::Pause => self.linger(RunState::GuestPanicked, ExitCode::FAILURE),
        }
    }

    /// Stays after the domain's end until somebody ends the process or wants the domain anew.
    fn linger(&mut self, state: RunState, code: ExitCode) -> Result<Next, RunError> {
        self.ended = Some(state);
        self.tell(Event::stop());
        loop {
            self.serve_monitors();
            if let Some(halted) = self.reset_wanted.take() {
                self.ended = None;
                let reason = ShutdownCause::HostQmpSystemReset;
                return Ok(self.again(false, reason, halted));
            }
            for wish in self.inbox.take() {
                match wish {
                    Wish::Signal(_) => self.quit_for(ShutdownCause::HostSignal),
                    Wish::Console(ChardevEvent::Quit) => self.quit_for(ShutdownCause::HostUi),
                    Wish::Gone { class, id } => self.device_gone(class, id),
                    Wish::Channel { number, used } => self.channel_used(number, used),
                    _ => {}
                }
            }
            if self.leaving {
                return Ok(Next::Exit(code));
            }
            self.turn(None)?;
        }
    }

    /// The process is about to end: tells the monitors, and gives their clients time to read it.
    pub(super) fn take_leave(&mut self, outcome: &Result<ExitCode, RunError>) {
        if outcome.is_err() && !self.leaving {
            self.tell_shutdown(false, ShutdownCause::HostError);
        }
        if let Some(server) = &mut self.server {
            server.finish(monitors::PATIENCE);
        }
    }

    fn write_dump(&self, report: &str) -> Result<(), RunError> {
        let Some(dir) = &self.config.dumpdir else {
            return Ok(());
        };
        let path = dir.join(format!("{}-crash.txt", self.name));
        std::fs::write(&path, report).map_err(|source| RunError::File {
            option: "-xenner dumpdir",
            path,
            source,
        })
    }
}
