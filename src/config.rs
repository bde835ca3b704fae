//! What a domain is to be: plain typed data, filled in from the command line.
//!
//! Nothing here parses text, opens a file or touches the host.
//! [`VmConfig::validate`] checks what can be judged from the data alone;
//! whether a kernel is there and is one, the loader finds out.

use std::fmt;
use std::path::PathBuf;

use xenner_console::config::ChardevConfig;

mod disk;
mod net;
#[cfg(test)]
mod tests;
mod validate;

pub use disk::{
    BlockNodeConfig, DiskConfig, DiskFault, DiskKind, ErrorPolicy, MAX_SERIAL, PassedFd, Vdev,
};
pub use net::{MAX_NICS, MacAddr, NetError, NetdevConfig, NicConfig};
pub use validate::ConfigError;

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
/// The most PV consoles of a domain, channels included: Linux's hvc_xen takes the last digit of a
/// console's number for the whole, so that it cannot tell number 10 from the first.
pub const MAX_CONSOLES: usize = 10;
/// The most bytes of a channel's name.
pub const MAX_CHANNEL_NAME: usize = 255;
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
    /// Channels in order; their numbers follow those of the consoles.
    pub channels: Vec<ChannelConfig>,
    /// `-add-fd`: descriptors that file names of `/dev/fdset/N` lead to.
    pub fd_sets: Vec<PassedFd>,
    /// `-blockdev` and the images of `-drive`, in the order in which they are opened.
    pub block_nodes: Vec<BlockNodeConfig>,
    /// The guest's disks, in the order of the command line.
    pub disks: Vec<DiskConfig>,
    /// `-netdev`, and those that `-nic` implies: host ends of network devices.
    pub netdevs: Vec<NetdevConfig>,
    /// Network devices in order: the first is vif 0, in Linux eth0.
    pub nics: Vec<NicConfig>,
    /// `-echr`: the key that starts the commands of a `mux=on` character
    /// device; 1 is Ctrl-a, which types as 1 in ASCII.
    pub escape_char: u8,
    /// `-device`: every device as given, those that the guest does not see included.
    pub devices: Vec<DeviceRecord>,
    /// `-mon`, `-qmp`, `-monitor`: who steers the domain.
    pub monitors: Vec<MonitorConfig>,
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
            channels: Vec::new(),
            fd_sets: Vec::new(),
            block_nodes: Vec::new(),
            disks: Vec::new(),
            netdevs: Vec::new(),
            nics: Vec::new(),
            escape_char: 1,
            devices: Vec::new(),
            monitors: Vec::new(),
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

/// A channel: a PV console with a name, and never the guest's hvc0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelConfig {
    /// The `id` of the character device at its host end.
    pub chardev: String,
    /// By what the guest finds it, at most [`MAX_CHANNEL_NAME`] bytes.
    pub name: String,
    /// The device's id, if it has one.
    pub id: Option<String>,
}

/// A device as it was given, for whoever asks what it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRecord {
    /// Its id; without one, nobody can ask for it.
    pub id: Option<String>,
    /// The driver's name.
    pub driver: String,
    /// Its further properties.
    pub properties: serde_json::Map<String, serde_json::Value>,
}

/// One monitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonitorConfig {
    /// The `id` of the character device that it is on.
    pub chardev: String,
    /// What it speaks.
    pub mode: MonitorMode,
    /// QMP in several lines, for people.
    pub pretty: bool,
}

/// What a monitor speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MonitorMode {
    /// Commands that people type.
    #[default]
    Readline,
    /// QMP.
    Control,
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
        /// Network devices.
        const NET = 1 << 8;
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
pub const LOG_ITEMS: [LogItem; 9] = [
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
        LogItems::NET,
        "net",
        "network devices, their host ends and passt",
    ),
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

impl VmConfig {
    /// The character device of this id, if there is one.
    pub fn chardev(&self, id: &str) -> Option<&ChardevConfig> {
        self.chardevs.iter().find(|chardev| chardev.id == id)
    }
}
