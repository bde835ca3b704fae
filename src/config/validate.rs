//! What is judged of a configuration from its data alone.

use std::collections::HashSet;
use std::fmt;

use thiserror::Error;
use xenner_console::config::{ChardevBackend, ChardevConfig};

use super::{
    DiskFault, HvLog, MAX_APPEND, MAX_CHANNEL_NAME, MAX_CONSOLES, MAX_MEMORY, MAX_NAME, MAX_VCPUS,
    MIB, MIN_MEMORY, Machine, MemoryConfig, NetError, PAGE_SIZE, VcpuConfig, Vdev, VmConfig,
};

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
        "-serial: {0} consoles and channels are asked for, of which a guest can tell \
         {MAX_CONSOLES} apart; leave some out"
    )]
    Consoles(usize),
    /// A name that is not fit for the guest's store.
    #[error(
        "-device: The name of channel '{0}' is empty, longer than {MAX_CHANNEL_NAME} bytes, or \
         holds a control character; choose another"
    )]
    ChannelName(String),
    /// A disk that cannot be.
    #[error("Disk {vdev}{}: {fault}", Named(.id.as_deref()))]
    Disk {
        /// Its place.
        vdev: Vdev,
        /// Its id, if it has one.
        id: Option<String>,
        /// What is wrong.
        fault: DiskFault,
    },
    /// The network makes no sense.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A daemon has no terminal.
    #[error(
        "-daemonize: Character device '{0}' uses stdio, which a daemon does not have; \
         use -serial pty, unix:PATH,server=on or none"
    )]
    DaemonOnStdio(String),
}

/// ` (ID)`, or nothing.
struct Named<'a>(Option<&'a str>);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(id) => write!(f, " ({})", id.escape_debug()),
            None => Ok(()),
        }
    }
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
        self.validate_disks()?;
        self.validate_net()?;
        self.validate_consoles()
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

    fn validate_disks(&self) -> Result<(), ConfigError> {
        let mut places = HashSet::new();
        let mut ids = HashSet::new();
        for disk in &self.disks {
            let fault = |fault| ConfigError::Disk {
                vdev: disk.vdev,
                id: disk.id.clone(),
                fault,
            };
            if !places.insert(disk.vdev) {
                return Err(fault(DiskFault::Place));
            }
            if let Some(id) = disk.id.as_ref().filter(|id| !ids.insert(id.as_str())) {
                return Err(fault(DiskFault::Id(id.clone())));
            }
            disk.check().map_err(fault)?;
        }
        Ok(())
    }

    fn validate_consoles(&self) -> Result<(), ConfigError> {
        let mut used = HashSet::new();
        let consoles = self.consoles.iter().map(|console| &console.chardev);
        let channels = self.channels.iter().map(|channel| &channel.chardev);
        let monitors = self.monitors.iter().map(|monitor| &monitor.chardev);
        let users = consoles
            .map(|chardev| ("serial", chardev))
            .chain(channels.map(|chardev| ("device", chardev)))
            .chain(monitors.map(|chardev| ("mon", chardev)));
        for (option, chardev) in users {
            self.refer(option, chardev)?;
            if !used.insert(chardev) {
                let id = chardev.clone();
                return Err(ConfigError::ChardevInUse { option, id });
            }
        }
        // the first is there whether it is asked for or not
        let count = self.consoles.len().max(1) + self.channels.len();
        if count > MAX_CONSOLES {
            return Err(ConfigError::Consoles(count));
        }
        let bad = |name: &str| {
            name.is_empty() || name.len() > MAX_CHANNEL_NAME || name.contains(char::is_control)
        };
        if let Some(channel) = self.channels.iter().find(|channel| bad(&channel.name)) {
            return Err(ConfigError::ChannelName(channel.chardev.clone()));
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
