//! Runs one domain from its configuration to its end: opens what the host gives it, builds it,
//! serves its devices in one event loop, rebuilds it when it reboots.

mod block;
mod consoles;
mod control;
mod daemon;
mod devices;
mod disks;
mod ends;
mod files;
mod life;
mod monitors;
mod nics;
mod pages;
mod plug;
mod report;
mod setup;
mod signals;
mod vcpus;
mod wall_clock;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use log::info;
use thiserror::Error;
use xenner_console::config::{ChardevBackend, ChardevConfig};
use xenner_console::{ChardevError, FdSets, InheritedFds};
use xenner_pvdevices::consback::ConsoleBackend;

use self::daemon::Side;
use self::devices::Devices;
use self::disks::Disks;
use self::ends::Inbox;
use self::files::{PidFile, RunDir};
use self::life::{Host, Parts};
use self::nics::NicError;
use self::signals::EndSignals;
use crate::config::{HvLog, Machine, VmConfig, XenstoreSocket};
use crate::disks::{DiskError, fd_sets};
use crate::domain::DomainError;
use crate::kvm::KvmError;
use crate::loader::LoaderError;
use crate::logging::{self, LogError};
use crate::xenstore::socket::SocketError;
use crate::xenstore::{StoreError, StoreHandle, XenstoreService};

/// Why a domain could not be run.
#[derive(Debug, Error)]
pub enum RunError {
    /// The kernel cannot be loaded.
    #[error("-kernel: {0}")]
    Kernel(LoaderError),
    /// KVM refuses.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The domain cannot be built.
    #[error(transparent)]
    Domain(#[from] DomainError),
    /// A character device cannot be opened.
    #[error(transparent)]
    Chardev(#[from] ChardevError),
    /// The log cannot be opened.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The xenstore socket cannot be opened.
    #[error("-xenner xenstore: {0}")]
    Socket(#[from] SocketError),
    /// The store refuses the domain's own keys.
    #[error("The domain's keys cannot be put into the xenstore")]
    Store(#[from] StoreError),
    /// A disk cannot be opened.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A network device cannot be opened.
    #[error(transparent)]
    Nic(#[from] NicError),
    /// Something of the host that every process has.
    #[error("The host gives no {what}")]
    Host {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of the user's.
    #[error("{option}: {path}: Cannot be opened")]
    File {
        /// The option.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// `hvlog` names a character device that is not the console's.
    #[error(
        "-xenner hvlog={0}: Only the console's own character device can be named; use hvlog=file:PATH for a place of its own"
    )]
    HvLog(String),
    /// The event loop broke.
    #[error("The event loop failed: {0}")]
    Loop(String),
}

impl From<LoaderError> for RunError {
    /// Not as a source: the loader's message names its causes itself.
    fn from(e: LoaderError) -> Self {
        Self::Kernel(e)
    }
}

/// Says what the host does not give.
fn host(what: &'static str) -> impl Fn(io::Error) -> RunError {
    move |source| RunError::Host { what, source }
}

/// A lock whose holders leave nothing half-done.
fn lock<T: ?Sized>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the domain that `config` describes, and returns the process's exit code.
///
/// # Errors
///
/// What stands in the way of the domain, as one line for the user.
pub fn run(config: VmConfig) -> Result<ExitCode, RunError> {
    let started = Instant::now();
    let fds = InheritedFds::at_start().map_err(host("list of open files"))?;
    let fds = fd_sets(&config.fd_sets, fds)?;
    if !config.daemonize {
        return serve(config, fds, None, started);
    }
    match daemon::fork().map_err(host("process for -daemonize"))? {
        Side::Parent(code) => Ok(code),
        Side::Child(ready) => serve(config, fds, Some(ready), started),
    }
}

fn serve(
    config: VmConfig,
    mut fds: FdSets,
    ready: Option<daemon::Ready>,
    started: Instant,
) -> Result<ExitCode, RunError> {
    let name = config
        .name
        .clone()
        .unwrap_or_else(|| format!("xenner-{}", std::process::id()));
    logging::start(&config.log, &name)?;
    config.notes.iter().for_each(|note| info!("{note}"));
    if let Some(title) = &config.process_name {
        // the kernel cuts long names; a name that holds a NUL cannot come from a command line
        let _ = std::ffi::CString::new(title.as_str()).map(|t| rustix::thread::set_name(&t));
    }
    if let HvLog::Chardev(id) = &config.hvlog
        && config.consoles.first().is_none_or(|c| c.chardev != *id)
    {
        return Err(RunError::HvLog(id.clone()));
    }
    if config.machine == Machine::None {
        return monitors::serve_nothing(&config, fds, ready);
    }
    // what may fail by the user's doing comes before anything that is seen from outside
    let opened = life::open_machine(&config)?;
    let pid_file = open_pid_file(&config)?;
    let console = open_console(&config, &mut fds)?;
    let inbox = Inbox::new().map_err(host("event descriptor"))?;
    let (disks, new_disks) = Disks::open(&config, &mut fds, &inbox)?;
    let (nics, new_nics) = nics::open(&config, &mut fds)?;
    let (consoles, new_consoles) = consoles::open(&config, &mut fds, &inbox)?;
    let mut devices = Devices::default();
    devices.add_all(new_disks).map_err(host("device"))?;
    devices.add_all(new_nics).map_err(host("device"))?;
    devices.add_all(new_consoles).map_err(host("device"))?;
    let monitors = monitors::open(&config, fds)?;
    let signals = EndSignals::block().map_err(host("signal descriptor"))?;
    let store = StoreHandle::new()?;
    let mut service = XenstoreService::new(store.clone());
    let linked = consoles::all(&console, &consoles);
    let run_dir = open_run_dir(&config, &name, linked, &mut service)?;
    let wall_clock_ahead = wall_clock::ahead(config.rtc, Timestamp::now());
    let parts = Parts {
        wall_clock_ahead,
        config,
        name,
        console,
        consoles,
        store,
        service,
        inbox,
        devices,
        disks,
        nics,
        monitors,
    };
    let mut host = Host::new(parts, signals)?;
    let code = host.run(opened, ready, started);
    host.take_leave(&code);
    drop(host);
    drop(run_dir);
    drop(pid_file);
    code
}

/// The pid file, if one is asked for.
fn open_pid_file(config: &VmConfig) -> Result<Option<PidFile>, RunError> {
    let path = config.pidfile.as_ref();
    path.map(|path| {
        PidFile::create(path).map_err(|source| RunError::File {
            option: "-pidfile",
            path: path.clone(),
            source,
        })
    })
    .transpose()
}

/// The first console's character device, or one that swallows everything.
fn open_console(
    config: &VmConfig,
    fds: &mut FdSets,
) -> Result<Arc<Mutex<ConsoleBackend>>, RunError> {
    let nothing = ChardevConfig::new("none", ChardevBackend::Null);
    let chosen = config
        .consoles
        .first()
        .and_then(|c| config.chardev(&c.chardev))
        .unwrap_or(&nothing);
    Ok(consoles::open_end(chosen, config, fds)?)
}

/// The run directory with the xenstore socket and links to the consoles. Where there can be
/// none (no runtime directory for this user), the domain runs without, and a note says so.
fn open_run_dir<'a>(
    config: &VmConfig,
    name: &str,
    consoles: impl Iterator<Item = &'a Arc<Mutex<ConsoleBackend>>>,
    service: &mut XenstoreService,
) -> Result<Option<RunDir>, RunError> {
    if let XenstoreSocket::Path(path) = &config.xenstore {
        service.listen(path)?;
    }
    let dir = match RunDir::create(name) {
        Ok(dir) => dir,
        Err(source) if config.name.is_some() && source.kind() == io::ErrorKind::AddrInUse => {
            let path = xenner_console::rundir::run_dir(name);
            return Err(RunError::File {
                option: "-name",
                path,
                source,
            });
        }
        Err(e) => {
            info!("no run directory for this domain: {e}");
            return Ok(None);
        }
    };
    if config.xenstore == XenstoreSocket::RunDir {
        service.listen(&dir.xenstore())?;
    }
    for (number, console) in (0..).zip(consoles) {
        let filename = lock(console).end().filename();
        if let Some(target) = consoles::reach(&filename) {
            dir.link_console(number, std::path::Path::new(target.path()))
                .map_err(host("link to a console"))?;
        }
    }
    Ok(Some(dir))
}

/// A file for the hypervisor's console, if the user wants one.
fn open_hvlog(config: &VmConfig) -> Result<Option<std::fs::File>, RunError> {
    let HvLog::File(path) = &config.hvlog else {
        return Ok(None);
    };
    std::fs::File::create(path)
        .map(Some)
        .map_err(|source| RunError::File {
            option: "-xenner hvlog",
            path: path.clone(),
            source,
        })
}
