//! What a domain is to be: plain typed data, filled in from the command line.
//!
//! Nothing here parses text, opens a file or touches the host.
//! [`VmConfig::validate`] checks what can be judged from the data alone;
//! whether a kernel is there and is one, the loader finds out.

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;

use thiserror::Error;
use xenner_console::config::{ChardevBackend, ChardevConfig};

#[cfg(test)]
mod tests;

/// One mebibyte in bytes.
pub const MIB: u64 = 1 << 20;
/// Bytes in a page of guest memory.
pub const PAGE_SIZE: u64 = 4096;
/// Memory of a domain that does not say how much, in bytes.
pub const DEFAULT_MEMORY: u64 = 512 * MIB;
/// The least memory of a domain, in bytes: below it no kernel unpacks itself.
pub const MIN_MEMORY: u64 = 32 * MIB;
/// The most memory of a domain, in bytes: what a PV Linux can address
/// (its `CONFIG_XEN_512GB`).
pub const MAX_MEMORY: u64 = 512 << 30;
/// The most vcpus of a domain.
pub const MAX_VCPUS: u32 = 128;
/// The most PV consoles of a domain.
pub const MAX_CONSOLES: usize = 1;
/// The most bytes of a guest's command line: `MAX_GUEST_CMDLINE` of Xen's
/// `xen.h`, which counts the terminating zero.
pub const MAX_APPEND: usize = 1023;
/// The most bytes of a domain's name: it becomes part of file names.
pub const MAX_NAME: usize = 200;

/// Everything that a domain and the process around it can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmConfig {
    /// `-name guest=`: the domain's name; `None` if not given.
    pub name: Option<String>,
    /// `-name process=`: the name of this process in `ps`; `None` leaves it.
    pub process_name: Option<String>,
    /// `-name debug-threads=on`: threads get names that tell what they do.
    pub debug_threads: bool,
    /// `-uuid`: the domain's UUID; `None` if not given.
    pub uuid: Option<Uuid>,
    /// `-machine`.
    pub machine: Machine,
    /// `-cpu`.
    pub cpu: CpuConfig,
    /// `-m`.
    pub memory: MemoryConfig,
    /// `-smp`.
    pub vcpus: VcpuConfig,
    /// `-kernel`: `None` only for [`Machine::None`].
    pub kernel: Option<PathBuf>,
    /// `-initrd`: the first module, if any.
    pub initrd: Option<PathBuf>,
    /// `-append`: the guest's command line, at most [`MAX_APPEND`] bytes.
    pub append: String,
    /// `-rtc base=`: what the guest's wall clock starts from.
    pub rtc: RtcBase,
    /// Character devices, those that `-serial` and `-nographic` imply included.
    pub chardevs: Vec<ChardevConfig>,
    /// PV consoles in order: the first is the guest's hvc0.
    pub consoles: Vec<ConsoleConfig>,
    /// `-echr`: the key that starts the commands of a `mux=on` character
    /// device; 1 is Ctrl-a, which types as 1 in ASCII.
    pub escape_char: u8,
    /// `-S`, `-no-reboot`, `-no-shutdown`, `-action`.
    pub lifecycle: Lifecycle,
    /// `-pidfile`: where this process writes its number.
    pub pidfile: Option<PathBuf>,
    /// `-daemonize`: leave the terminal once the domain is set up.
    pub daemonize: bool,
    /// `-sandbox on`.
    pub sandbox: bool,
    /// `-D`, `-d`, `-msg`.
    pub log: LogConfig,
    /// `-xenner flavour=`.
    pub flavour: Flavour,
    /// `-xenner xenstore=`.
    pub xenstore: XenstoreSocket,
    /// `-xenner hvlog=`.
    pub hvlog: HvLog,
    /// `-xenner stats=on`: print hypercall and exit counts at the end.
    pub stats: bool,
    /// `-xenner dumpdir=`: where a crashed domain's dump goes; none without it.
    pub dumpdir: Option<PathBuf>,
    /// One line per option that was understood and has no effect on a PV
    /// domain, starting with the option; for the log.
    pub notes: Vec<String>,
}

impl Default for VmConfig {
    fn default() -> Self {
        Self {
            name: None,
            process_name: None,
            debug_threads: false,
            uuid: None,
            machine: Machine::default(),
            cpu: CpuConfig::default(),
            memory: MemoryConfig::default(),
            vcpus: VcpuConfig::default(),
            kernel: None,
            initrd: None,
            append: String::new(),
            rtc: RtcBase::default(),
            chardevs: Vec::new(),
            consoles: Vec::new(),
            escape_char: 1,
            lifecycle: Lifecycle::default(),
            pidfile: None,
            daemonize: false,
            sandbox: false,
            log: LogConfig::default(),
            flavour: Flavour::default(),
            xenstore: XenstoreSocket::default(),
            hvlog: HvLog::default(),
            stats: false,
            dumpdir: None,
            notes: Vec::new(),
        }
    }
}

/// The machine around the domain, which decides what libvirt expects of it;
/// the guest sees no difference.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Machine {
    /// `pc-i440fx-xenner`, alias `pc`: devices may carry PCI addresses, which
    /// are ignored.
    #[default]
    Pc,
    /// `xenner`: no PCI.
    Xenner,
    /// `none`: no domain at all, to ask the program about itself.
    None,
}

impl Machine {
    /// The name without aliases.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pc => "pc-i440fx-xenner",
            Self::Xenner => "xenner",
            Self::None => "none",
        }
    }
}

/// The processor that the guest sees: the host's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuConfig {
    /// `migratable=on`: only features that every host with this processor
    /// model has.
    pub migratable: bool,
}

/// Guest memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Memory at the start, in bytes, whole pages.
    pub size: u64,
    /// `maxmem=`: the most the domain may ever have, in bytes; not below `size`.
    pub maximum: u64,
    /// `slots=`: memory devices that could be plugged in.
    pub slots: u32,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            size: DEFAULT_MEMORY,
            maximum: DEFAULT_MEMORY,
            slots: 0,
        }
    }
}

/// Number and arrangement of vcpus; sockets * cores * threads is `maximum`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VcpuConfig {
    /// vcpus at the start.
    pub count: u32,
    /// The most vcpus the domain may ever have.
    pub maximum: u32,
    /// Processor packages.
    pub sockets: u32,
    /// Cores in a package.
    pub cores: u32,
    /// Threads in a core.
    pub threads: u32,
}

impl Default for VcpuConfig {
    fn default() -> Self {
        Self {
            count: 1,
            maximum: 1,
            sockets: 1,
            cores: 1,
            threads: 1,
        }
    }
}

/// One PV console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleConfig {
    /// The `id` of the character device at its host end.
    pub chardev: String,
}

/// What the guest's wall clock starts from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RtcBase {
    /// The host's time in UTC.
    #[default]
    Utc,
    /// The host's time in its local time zone.
    LocalTime,
    /// This moment when the domain starts, in seconds from 1970-01-01 00:00.
    At(i64),
}

/// What happens at the turns of a domain's life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lifecycle {
    /// `-S`: the vcpus wait for the monitor's `cont`.
    pub start_paused: bool,
    /// On the guest's reboot.
    pub reboot: RebootAction,
    /// On the guest's power-off.
    pub shutdown: ShutdownAction,
    /// On the guest's crash.
    pub panic: PanicAction,
}

/// What a reboot of the guest does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RebootAction {
    /// The domain is built anew in this process.
    #[default]
    Reset,
    /// It is a power-off (`-no-reboot`).
    Shutdown,
}

/// What a power-off of the guest does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ShutdownAction {
    /// The process ends with code 0.
    #[default]
    Poweroff,
    /// The process stays, for the monitor (`-no-shutdown`).
    Pause,
}

/// What a crash of the guest does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PanicAction {
    /// The process ends with a code other than 0.
    #[default]
    ExitFailure,
    /// It is a power-off.
    Shutdown,
    /// The process stays, for the monitor.
    Pause,
    /// Nothing beyond the event.
    None,
}

/// What is logged, and where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// `-D`: the log file; standard error without it.
    pub file: Option<PathBuf>,
    /// `-d`: what is logged beyond warnings.
    pub items: LogItems,
    /// `-msg timestamp=on`: lines start with the time.
    pub timestamp: bool,
    /// `-msg guest-name=on`: lines start with the domain's name.
    pub guest_name: bool,
}

bitflags::bitflags! {
    /// What `-d` can ask to be logged.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub struct LogItems: u32 {
        /// Hypercalls that leave the guest.
        const HYPERCALL = 1 << 0;
        /// Xenstore requests and watches.
        const XENSTORE = 1 << 1;
        /// Event channels.
        const EVTCHN = 1 << 2;
        /// Page-table updates that the emulator refuses or undoes.
        const MMU = 1 << 3;
        /// Traps that the guest gets.
        const TRAP = 1 << 4;
        /// Consoles and character devices.
        const CONSOLE = 1 << 5;
        /// Grant tables.
        const GNTTAB = 1 << 6;
        /// What happens to the domain: start, reboot, power-off, crash.
        const EVENT = 1 << 7;
    }
}

/// One item of `-d`.
#[derive(Debug, Clone, Copy)]
pub struct LogItem {
    /// Its flag.
    pub flag: LogItems,
    /// Its name on the command line; the log target is `xenner::` and this.
    pub name: &'static str,
    /// What it logs.
    pub help: &'static str,
}

/// Every item of `-d`, in the order of `-d help`.
pub const LOG_ITEMS: [LogItem; 8] = [
    item(
        LogItems::HYPERCALL,
        "hypercall",
        "hypercalls that leave the guest",
    ),
    item(
        LogItems::XENSTORE,
        "xenstore",
        "xenstore requests, replies and watch events",
    ),
    item(
        LogItems::EVTCHN,
        "evtchn",
        "event channels: allocation, binding, notification",
    ),
    item(LogItems::MMU, "mmu", "page-table updates that are refused"),
    item(
        LogItems::TRAP,
        "trap",
        "traps that the guest gets or causes",
    ),
    item(
        LogItems::CONSOLE,
        "console",
        "consoles and character devices",
    ),
    item(LogItems::GNTTAB, "gnttab", "grant tables"),
    item(
        LogItems::EVENT,
        "event",
        "start, reboot, power-off and crash of the domain",
    ),
];

const fn item(flag: LogItems, name: &'static str, help: &'static str) -> LogItem {
    LogItem { flag, name, help }
}

/// How KVM is taken to behave; see docs/command-line.md.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Flavour {
    /// Found out by a short probe at the start.
    #[default]
    Auto,
    /// Ring 0 runs on the processor (kvm_intel, kvm_amd).
    Hardware,
    /// Ring 0 is interpreted or runs in ring 3 (kvm_pvm).
    Pvm,
}

/// Where the unix socket for xenstore's own tools is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum XenstoreSocket {
    /// In the domain's run directory.
    #[default]
    RunDir,
    /// At this path.
    Path(PathBuf),
    /// There is none.
    Off,
}

/// Where the guest's early output (`console_io`) goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HvLog {
    /// To the first PV console's host end.
    #[default]
    Console,
    /// To the character device of this `id`.
    Chardev(String),
    /// To this file, which is emptied first.
    File(PathBuf),
    /// Nowhere.
    Off,
}

/// A UUID as its 16 bytes in the order of its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// Reads `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` (RFC 9562, section 4), or
    /// the 32 digits without dashes; `None` if it is neither.
    pub fn parse(text: &str) -> Option<Self> {
        let dashes_right = match text.len() {
            36 => text
                .bytes()
                .enumerate()
                .all(|(at, byte)| (byte == b'-') == DASHES.contains(&at)),
            32 => !text.contains('-'),
            _ => false,
        };
        let mut digits = text.bytes().filter(|byte| *byte != b'-').map(|byte| {
            char::from(byte)
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
        });
        if !dashes_right {
            return None;
        }
        let mut bytes = [0; 16];
        for byte in &mut bytes {
            *byte = digits.next()?? << 4 | digits.next()??;
        }
        Some(Self(bytes))
    }
}

/// Places of the dashes in a UUID's text.
const DASHES: [usize; 4] = [8, 13, 18, 23];

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let dash = if [4, 6, 8, 10].contains(&at) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

/// Why a configuration describes no domain; the message names the option.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// Nothing to boot.
    #[error("-kernel: No kernel is given; add -kernel FILE")]
    NoKernel,
    /// A module or a command line for no kernel.
    #[error("-{0}: Means nothing without a kernel; add -kernel FILE")]
    NeedsKernel(&'static str),
    /// The guest's command line is too long for `start_info`.
    #[error("-append: {0} bytes are too long; Xen's limit is {MAX_APPEND}, shorten it")]
    LongAppend(usize),
    /// A zero byte would end the guest's command line early.
    #[error("-append: Holds a zero byte; leave it out")]
    ZeroInAppend,
    /// A name that cannot be part of a file name or of a log line.
    #[error(
        "-name: The name is empty, longer than {MAX_NAME} bytes, or holds '/' or a control \
         character; choose another"
    )]
    BadName,
    /// Memory out of range.
    #[error(
        "-m: {} is out of range; write a size from {} to {}",
        Bytes(*.0), Bytes(MIN_MEMORY), Bytes(MAX_MEMORY)
    )]
    MemorySize(u64),
    /// Memory that is no whole number of pages.
    #[error("-m: {0} bytes are no whole number of pages; write a multiple of {PAGE_SIZE}")]
    MemoryPages(u64),
    /// `maxmem` below `size` or beyond what can be.
    #[error(
        "-m: maxmem={} is out of range; write a size from {} to {}",
        Bytes(*.maximum), Bytes(*.size), Bytes(MAX_MEMORY)
    )]
    MaxMemory {
        /// The memory at the start, in bytes.
        size: u64,
        /// The maximum, in bytes.
        maximum: u64,
    },
    /// vcpus out of range.
    #[error("-smp: {0} vcpus are out of range; write a number from 1 to {MAX_VCPUS}")]
    Vcpus(u32),
    /// `maxcpus` below the number of vcpus.
    #[error("-smp: maxcpus={maximum} is below cpus={count}; raise it or leave it out")]
    MaxVcpus {
        /// vcpus at the start.
        count: u32,
        /// The maximum.
        maximum: u32,
    },
    /// The arrangement does not give the number.
    #[error(
        "-smp: sockets * cores * threads is {product}, not maxcpus={maximum}; \
         correct them or leave them out"
    )]
    Topology {
        /// What they multiply to.
        product: u64,
        /// What they should.
        maximum: u32,
    },
    /// Two character devices of one name.
    #[error("-chardev: Id '{0}' is given twice; choose another for one of them")]
    DuplicateChardev(String),
    /// Two devices read the terminal.
    #[error(
        "-chardev: '{0}' and '{1}' both use stdio, which only one can; give one of them \
         another backend"
    )]
    TwoStdio(String, String),
    /// A reference to a character device that is not there.
    #[error("-{option}: No character device has the id '{id}'; add -chardev ...,id={id}")]
    NoChardev {
        /// The option that refers to it, without its dash.
        option: &'static str,
        /// The id.
        id: String,
    },
    /// Two users of one character device.
    #[error("-{option}: Character device '{id}' is in use already; give it one of its own")]
    ChardevInUse {
        /// The later of the two options, without its dash.
        option: &'static str,
        /// The id.
        id: String,
    },
    /// More consoles than there can be.
    #[error(
        "-serial: {0} consoles are asked for and this version has {MAX_CONSOLES}; \
         write 'none' for the others"
    )]
    Consoles(usize),
    /// A daemon has no terminal.
    #[error(
        "-daemonize: Character device '{0}' uses stdio, which a daemon does not have; \
         use -serial pty, unix:PATH,server=on or none"
    )]
    DaemonOnStdio(String),
}

/// A number of bytes with the largest unit that divides it.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n != 0 && n % (1 << 30) == 0 => write!(f, "{} GiB", n >> 30),
            n if n != 0 && n % MIB == 0 => write!(f, "{} MiB", n >> 20),
            n if n != 0 && n % 1024 == 0 => write!(f, "{} KiB", n >> 10),
            n => write!(f, "{n} bytes"),
        }
    }
}

impl VmConfig {
    /// Checks what can be judged from the data alone.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, with the option to change.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_name()?;
        self.validate_boot()?;
        self.validate_memory()?;
        self.validate_vcpus()?;
        self.validate_chardevs()?;
        self.validate_consoles()
    }

    /// The character device of this id, if there is one.
    pub fn chardev(&self, id: &str) -> Option<&ChardevConfig> {
        self.chardevs.iter().find(|chardev| chardev.id == id)
    }

    fn validate_name(&self) -> Result<(), ConfigError> {
        let bad = |name: &String| {
            name.is_empty()
                || name.len() > MAX_NAME
                || name.contains(|c: char| c == '/' || c.is_control())
                || [".", ".."].contains(&name.as_str())
        };
        if self.name.as_ref().is_some_and(bad) {
            return Err(ConfigError::BadName);
        }
        Ok(())
    }

    fn validate_boot(&self) -> Result<(), ConfigError> {
        if self.kernel.is_none() {
            return match () {
                () if self.initrd.is_some() => Err(ConfigError::NeedsKernel("initrd")),
                () if !self.append.is_empty() => Err(ConfigError::NeedsKernel("append")),
                () if self.machine == Machine::None => Ok(()),
                () => Err(ConfigError::NoKernel),
            };
        }
        if self.append.contains('\0') {
            return Err(ConfigError::ZeroInAppend);
        }
        if self.append.len() > MAX_APPEND {
            return Err(ConfigError::LongAppend(self.append.len()));
        }
        Ok(())
    }

    fn validate_memory(&self) -> Result<(), ConfigError> {
        let MemoryConfig { size, maximum, .. } = self.memory;
        if !(MIN_MEMORY..=MAX_MEMORY).contains(&size) {
            return Err(ConfigError::MemorySize(size));
        }
        if let Some(odd) = [size, maximum]
            .into_iter()
            .find(|bytes| bytes % PAGE_SIZE != 0)
        {
            return Err(ConfigError::MemoryPages(odd));
        }
        if !(size..=MAX_MEMORY).contains(&maximum) {
            return Err(ConfigError::MaxMemory { size, maximum });
        }
        Ok(())
    }

    fn validate_vcpus(&self) -> Result<(), ConfigError> {
        let VcpuConfig {
            count,
            maximum,
            sockets,
            cores,
            threads,
        } = self.vcpus;
        if !(1..=MAX_VCPUS).contains(&count) {
            return Err(ConfigError::Vcpus(count));
        }
        if maximum < count {
            return Err(ConfigError::MaxVcpus { count, maximum });
        }
        if maximum > MAX_VCPUS {
            return Err(ConfigError::Vcpus(maximum));
        }
        let factors = [sockets, cores, threads].map(u64::from);
        let product = factors.into_iter().fold(1, u64::saturating_mul);
        if product != u64::from(maximum) {
            return Err(ConfigError::Topology { product, maximum });
        }
        Ok(())
    }

    fn validate_chardevs(&self) -> Result<(), ConfigError> {
        let mut seen = HashSet::new();
        let mut on_stdio: Option<&ChardevConfig> = None;
        for chardev in &self.chardevs {
            if !seen.insert(&chardev.id) {
                return Err(ConfigError::DuplicateChardev(chardev.id.clone()));
            }
            if !matches!(chardev.backend, ChardevBackend::Stdio { .. }) {
                continue;
            }
            if self.daemonize {
                return Err(ConfigError::DaemonOnStdio(chardev.id.clone()));
            }
            if let Some(first) = on_stdio.replace(chardev) {
                return Err(ConfigError::TwoStdio(first.id.clone(), chardev.id.clone()));
            }
        }
        Ok(())
    }

    fn validate_consoles(&self) -> Result<(), ConfigError> {
        let mut used = HashSet::new();
        for ConsoleConfig { chardev } in &self.consoles {
            self.refer("serial", chardev)?;
            if !used.insert(chardev) {
                return Err(ConfigError::ChardevInUse {
                    option: "serial",
                    id: chardev.clone(),
                });
            }
        }
        if self.consoles.len() > MAX_CONSOLES {
            return Err(ConfigError::Consoles(self.consoles.len()));
        }
        if let HvLog::Chardev(id) = &self.hvlog {
            self.refer("xenner hvlog", id)?;
        }
        Ok(())
    }

    fn refer(&self, option: &'static str, id: &str) -> Result<(), ConfigError> {
        match self.chardev(id) {
            Some(_) => Ok(()),
            None => Err(ConfigError::NoChardev {
                option,
                id: id.to_owned(),
            }),
        }
    }
}
