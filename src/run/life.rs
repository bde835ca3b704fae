//! One domain after the other: build, run, and what comes after its end.

use std::io::Write;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use kvm_ioctls::{Kvm, VcpuFd};
use log::{debug, error, info, warn};
use vmm_sys_util::eventfd::EventFd;
use xenner_console::ChardevEvent;
use xenner_emu_abi::layout::{DOMID, PAGE_SIZE};
use xenner_pvdevices::consback::ConsoleBackend;
use xenner_pvdevices::domain::Notify;

use super::daemon::Ready;
use super::pages::{GuestPage, PortNotify};
use super::signals::EndSignals;
use super::{RunError, host, lock, open_hvlog, report};
use crate::config::{HvLog, PanicAction, RebootAction, ShutdownAction, Uuid, VmConfig};
use crate::domain::builder::{CONSOLE_PORT, STORE_PORT};
use crate::domain::end::{End, ShutdownReason};
use crate::domain::{Domain, DomainConfig, DomainError};
use crate::kvm;
use crate::kvm::probe::{self, Flavour};
use crate::kvm::stats::{ExitLog, VcpuStatistics};
use crate::kvm::vcpu::VcpuThreads;
use crate::loader::{self, KernelImage};
use crate::xenstore::domain_keys::ConsoleType;
use crate::xenstore::service::GuestLink;
use crate::xenstore::{DomainKeys, StoreHandle, XenstoreService};

/// How long the last console output waits for a slow listener.
const PATIENCE: Duration = Duration::from_secs(2);

type Subscriber = Arc<Mutex<dyn MutEventSubscriber + Send>>;

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

/// Something for the main loop to act on.
#[derive(Debug)]
enum Wish {
    Signal(i32),
    Console(ChardevEvent),
}

type Wishes = Arc<Mutex<Vec<Wish>>>;

/// The process around the domain.
pub(super) struct Host {
    config: VmConfig,
    name: String,
    console: Arc<Mutex<ConsoleBackend>>,
    store: StoreHandle,
    service: Arc<Mutex<XenstoreService>>,
    wishes: Wishes,
    events: EventManager<Subscriber>,
    asked: bool,
}

/// What a domain's end means for the process.
enum Next {
    Exit(ExitCode),
    Again,
}

impl Host {
    pub(super) fn new(
        config: VmConfig,
        name: String,
        console: Arc<Mutex<ConsoleBackend>>,
        store: StoreHandle,
        service: XenstoreService,
        signals: EndSignals,
    ) -> Result<Self, RunError> {
        let service = Arc::new(Mutex::new(service));
        let wishes = Wishes::default();
        let mut events = EventManager::new().map_err(|e| RunError::Loop(format!("{e:?}")))?;
        events.add_subscriber(service.clone() as Subscriber);
        let signal_end = SignalEnd {
            signals,
            wishes: wishes.clone(),
        };
        events.add_subscriber(Arc::new(Mutex::new(signal_end)) as Subscriber);
        let user = UserEnd {
            console: console.clone(),
            wishes: wishes.clone(),
        };
        events.add_subscriber(Arc::new(Mutex::new(user)) as Subscriber);
        Ok(Self {
            config,
            name,
            console,
            store,
            service,
            wishes,
            events,
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
        loop {
            let kernel_was_loaded = image.is_some();
            let kernel = match image.take() {
                Some(image) => image,
                None => load_kernel(&self.config)?,
            };
            let (domain, vcpus) = Domain::build(&kvm, flavour, &self.domain_config(&kernel))?;
            drop(kernel);
            let domain = Arc::new(domain);
            self.connect_hypervisor_console(&domain)?;
            let keys = self.publish_keys(&domain)?;
            let per_life = self.connect_rings(&domain)?;
            if let Some(ready) = ready.take() {
                ready.go().map_err(host("/dev/null"))?;
            }
            let exits = self.exit_counters(&vcpus);
            let exit_log = self.config.stats.then(ExitLog::new).transpose();
            let exit_log = exit_log.map_err(host("memory file"))?;
            let paused = self.config.lifecycle.start_paused;
            let threads = VcpuThreads::start(&domain, vcpus, paused, exit_log.as_ref())
                .map_err(host("thread for a vcpu"))?;
            event(format_args!(
                "domain {DOMID} of {} MiB and {} vcpus enters its kernel {:.1} ms after the {}",
                self.config.memory.size >> 20,
                self.config.vcpus.count,
                started.elapsed().as_secs_f64() * 1e3,
                if kernel_was_loaded {
                    "start of the process"
                } else {
                    "end of the one before"
                },
            ));
            let end = self.wait_for_end(&domain);
            started = Instant::now();
            if let Ok(end) = &end {
                event(format_args!("domain {DOMID} ends: {}", end.summary()));
            }
            drop(threads);
            for id in per_life {
                self.events
                    .remove_subscriber(id)
                    .map_err(|e| RunError::Loop(format!("{e:?}")))?;
            }
            lock(&self.console).finish(PATIENCE);
            lock(&self.console).disconnect();
            lock(&self.service).detach_guest();
            if self.config.stats {
                self.say(&report::statistics(&domain));
                self.say(&report::exits(&exits, exit_log.as_ref()));
            }
            match self.after(end?)? {
                Next::Exit(code) => return Ok(code),
                Next::Again => keys.remove(&self.store)?,
            }
        }
    }

    fn domain_config<'a>(&self, kernel: &'a KernelImage) -> DomainConfig<'a> {
        DomainConfig {
            kernel,
            initrd: self.config.initrd.clone(),
            command_line: self.config.append.clone(),
            pages: self.config.memory.size / PAGE_SIZE,
            vcpus: self.config.vcpus.count,
            uuid: self.config.uuid.unwrap_or(Uuid([0; 16])),
        }
    }

    fn connect_hypervisor_console(&self, domain: &Domain) -> Result<(), RunError> {
        if let Some(mut file) = open_hvlog(&self.config)? {
            domain.set_console_out(Box::new(move |text| {
                if let Err(e) = file.write_all(text) {
                    warn!("-xenner hvlog: {e}");
                }
            }));
        } else if self.config.hvlog != HvLog::Off {
            let console = self.console.clone();
            domain.set_console_out(Box::new(move |text| lock(&console).write_debug(text)));
        }
        Ok(())
    }

    fn publish_keys(&self, domain: &Domain) -> Result<DomainKeys, RunError> {
        let filename = lock(&self.console).end().filename();
        let tty = filename.strip_prefix("pty:").map(str::to_owned);
        let keys = DomainKeys {
            domid: DOMID,
            uuid: self.config.uuid.unwrap_or(Uuid([0; 16])).to_string(),
            name: self.name.clone(),
            memory_kib: self.config.memory.size >> 10,
            vcpus: self.config.vcpus.count,
            max_vcpus: self.config.vcpus.count,
            store_port: STORE_PORT,
            store_mfn: domain.built.store_mfn,
            console_port: CONSOLE_PORT,
            console_mfn: domain.built.console_mfn,
            console_type: ConsoleType::Xenconsoled,
            console_output: if tty.is_some() {
                "pty".into()
            } else {
                filename
            },
            console_tty: tty,
            console_limit: 1 << 20,
        };
        keys.publish(&self.store)?;
        Ok(keys)
    }

    /// Connects the rings of this domain; returns what is to be taken out of the loop at its end.
    fn connect_rings(
        &mut self,
        domain: &Arc<Domain>,
    ) -> Result<Vec<event_manager::SubscriberId>, RunError> {
        let bind = |port| {
            domain
                .events
                .bind_backend(port)
                .map_err(|e| host("event descriptor")(std::io::Error::from_raw_os_error(e as i32)))
        };
        let page = |mfn| GuestPage::new(&domain.memory, mfn).map_err(DomainError::from);
        let notify = |port| PortNotify {
            events: domain.events.clone(),
            port,
        };
        let store_notify = notify(STORE_PORT);
        lock(&self.service).attach_guest(GuestLink {
            domid: DOMID,
            page: Box::new(page(domain.built.store_mfn)?),
            port: bind(STORE_PORT)?,
            notify: Box::new(move || Notify::notify(&store_notify)),
        });
        let console_port = bind(CONSOLE_PORT)?;
        lock(&self.console).connect(
            Box::new(page(domain.built.console_mfn)?),
            Box::new(notify(CONSOLE_PORT)),
        );
        let guest_end = GuestConsole {
            port: console_port,
            console: self.console.clone(),
        };
        let end = DomainEnd {
            domain: domain.clone(),
        };
        Ok(vec![
            self.events
                .add_subscriber(Arc::new(Mutex::new(guest_end)) as Subscriber),
            self.events
                .add_subscriber(Arc::new(Mutex::new(end)) as Subscriber),
        ])
    }

    /// KVM's counters, kept open while the domain runs if statistics are wanted.
    fn exit_counters(&self, vcpus: &[VcpuFd]) -> Vec<VcpuStatistics> {
        if !self.config.stats {
            return Vec::new();
        }
        let opened: std::io::Result<_> = vcpus.iter().map(VcpuStatistics::open).collect();
        opened.unwrap_or_else(|e| {
            warn!("no exit counts: {e} (KVM has them since Linux 5.14)");
            Vec::new()
        })
    }

    /// The main loop.
    fn wait_for_end(&mut self, domain: &Arc<Domain>) -> Result<End, RunError> {
        loop {
            if let Some(end) = domain.end.end() {
                return Ok(end);
            }
            let timeout = match domain.watchdogs().next() {
                Some(at) => at.saturating_duration_since(Instant::now()).as_millis() as i32 + 1,
                None => -1,
            };
            match self.events.run_with_timeout(timeout) {
                Ok(_) => {}
                Err(event_manager::Error::Epoll(e)) if e.errno() == libc::EINTR => {}
                Err(e) => return Err(RunError::Loop(format!("{e:?}"))),
            }
            if domain
                .watchdogs()
                .next()
                .is_some_and(|at| at <= Instant::now())
            {
                domain.end.set(ShutdownReason::Watchdog);
            }
            let wishes: Vec<Wish> = lock(&self.wishes).drain(..).collect();
            for wish in wishes {
                self.grant(domain, &wish);
            }
        }
    }

    fn grant(&mut self, domain: &Domain, wish: &Wish) {
        match wish {
            Wish::Signal(n) => {
                debug!("signal {n}");
                self.ask_to_end(domain);
            }
            Wish::Console(ChardevEvent::Quit) => domain.end.quit(),
            Wish::Console(ChardevEvent::Commit) => {
                self.say("There are no temporary disks to write back.\n");
            }
            Wish::Console(e) => debug!(target: "xenner::console", "{e:?}"),
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
        if self.asked || self.config.lifecycle.start_paused || !listens {
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
            ShutdownReason::Poweroff => self.after_poweroff(),
            ShutdownReason::Reboot | ShutdownReason::SoftReset => {
                if self.config.lifecycle.reboot == RebootAction::Shutdown || self.asked {
                    self.after_poweroff()
                } else {
                    Ok(Next::Again)
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

    fn after_poweroff(&mut self) -> Result<Next, RunError> {
        if self.config.lifecycle.shutdown == ShutdownAction::Pause {
            self.linger()?;
        }
        Ok(Next::Exit(ExitCode::SUCCESS))
    }

    fn after_crash(&mut self) -> Result<Next, RunError> {
        match self.config.lifecycle.panic {
            PanicAction::ExitFailure | PanicAction::None => Ok(Next::Exit(ExitCode::FAILURE)),
            PanicAction::Shutdown => self.after_poweroff(),
            PanicAction::Pause => {
                self.linger()?;
                Ok(Next::Exit(ExitCode::FAILURE))
            }
        }
    }

    /// Stays after the domain's end until the user ends the process.
    fn linger(&mut self) -> Result<(), RunError> {
        loop {
            let ended = |w: &Wish| matches!(w, Wish::Signal(_) | Wish::Console(ChardevEvent::Quit));
            if lock(&self.wishes).drain(..).any(|w| ended(&w)) {
                return Ok(());
            }
            match self.events.run_with_timeout(-1) {
                Ok(_) => {}
                Err(event_manager::Error::Epoll(e)) if e.errno() == libc::EINTR => {}
                Err(e) => return Err(RunError::Loop(format!("{e:?}"))),
            }
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

/// The user's end of the console in the loop.
struct UserEnd {
    console: Arc<Mutex<ConsoleBackend>>,
    wishes: Wishes,
}

impl MutEventSubscriber for UserEnd {
    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
        let events = {
            let mut console = lock(&self.console);
            console.on_ready();
            console.take_events()
        };
        lock(&self.wishes).extend(events.into_iter().map(Wish::Console));
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        watch(ops, Events::new(&*lock(&self.console), EventSet::IN));
    }
}

/// The guest's end of the console in the loop.
struct GuestConsole {
    port: EventFd,
    console: Arc<Mutex<ConsoleBackend>>,
}

impl MutEventSubscriber for GuestConsole {
    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
        // an empty counter means that another turn has seen the event
        let _ = self.port.read();
        lock(&self.console).on_guest_event();
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        watch(ops, Events::new(&self.port, EventSet::IN));
    }
}

/// Wakes the loop when the domain is over or its watchdog changes.
struct DomainEnd {
    domain: Arc<Domain>,
}

impl MutEventSubscriber for DomainEnd {
    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
        // an empty counter means that another turn has seen the event
        let _ = self.domain.end.event().read();
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        watch(ops, Events::new(self.domain.end.event(), EventSet::IN));
    }
}

/// Signals in the loop.
struct SignalEnd {
    signals: EndSignals,
    wishes: Wishes,
}

impl MutEventSubscriber for SignalEnd {
    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
        while let Some(n) = self.signals.next() {
            lock(&self.wishes).push(Wish::Signal(n));
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        watch(ops, Events::new(&self.signals, EventSet::IN));
    }
}

fn watch(ops: &mut EventOps<'_>, events: Events) {
    if let Err(e) = ops.add(events) {
        error!("the event loop takes no more descriptors: {e:?}");
    }
}
