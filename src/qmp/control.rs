//! What the monitor needs of the VMM, and the types that they exchange.
//!
//! Commands act on a [`Control`]. What an implementation does not have, it refuses with an error
//! that the client gets; the methods with a body do just that.

use std::os::fd::OwnedFd;

use serde_json::{Map, Value};
use xenner_console::FdSource;

use super::error::{ErrorClass, QmpError};
use super::shape::{qmp_enum, qmp_struct};
pub use crate::config::DeviceRecord as DeviceInfo;
use crate::config::{Machine, Uuid};

/// What commands answer.
pub type Answer<T = ()> = Result<T, QmpError>;

/// Members of a command that are handed on as the client wrote them, in the form that the JSON
/// values of `-device`, `-netdev` and `-blockdev` have.
pub type Properties = Map<String, Value>;

qmp_enum! {
    /// QEMU's run states, as far as a domain can be in them.
    RunState {
        /// Waiting for a migration's data.
        InMigrate as "inmigrate",
        /// The emulator failed.
        InternalError as "internal-error",
        /// Stopped by an I/O error.
        IoError as "io-error",
        /// Stopped by the monitor.
        Paused as "paused",
        /// Stopped after it was migrated away.
        PostMigrate as "postmigrate",
        /// Not started yet (`-S`).
        Prelaunch as "prelaunch",
        /// Stopped for a migration's last part.
        FinishMigrate as "finish-migrate",
        /// Running.
        Running as "running",
        /// The guest powered off (`-no-shutdown`).
        Shutdown as "shutdown",
        /// The guest sleeps.
        Suspended as "suspended",
        /// Stopped by a watchdog.
        Watchdog as "watchdog",
        /// The guest crashed.
        GuestPanicked as "guest-panicked",
    }
}

qmp_enum! {
    /// What a reboot of the guest does.
    RebootSetting {
        /// The domain is built anew.
        Reset as "reset",
        /// It is a power-off.
        Shutdown as "shutdown",
    }
}

qmp_enum! {
    /// What a power-off of the guest does.
    ShutdownSetting {
        /// The process ends.
        Poweroff as "poweroff",
        /// The process stays.
        Pause as "pause",
    }
}

qmp_enum! {
    /// What a crash of the guest does.
    PanicSetting {
        /// The process stays.
        Pause as "pause",
        /// It is a power-off.
        Shutdown as "shutdown",
        /// The process ends with a code other than 0.
        ExitFailure as "exit-failure",
        /// Nothing beyond the event.
        None as "none",
    }
}

qmp_enum! {
    /// What a watchdog does.
    WatchdogSetting {
        /// The domain is built anew.
        Reset as "reset",
        /// The guest is asked to power off.
        Shutdown as "shutdown",
        /// The process ends.
        Poweroff as "poweroff",
        /// The vcpus stand.
        Pause as "pause",
        /// Nothing beyond the event.
        Debug as "debug",
        /// Nothing at all.
        None as "none",
        /// The guest gets an NMI.
        InjectNmi as "inject-nmi",
    }
}

qmp_struct! {
    /// Changes of what the turns of a domain's life lead to (`set-action`).
    Actions {
        /// On a reboot.
        reboot: Option<RebootSetting>,
        /// On a power-off.
        shutdown: Option<ShutdownSetting>,
        /// On a crash.
        panic: Option<PanicSetting>,
        /// On a watchdog's expiry.
        watchdog: Option<WatchdogSetting>,
    }
}

/// Who the domain is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name, if it was given one.
    pub name: Option<String>,
    /// Its UUID; zeros if it was given none.
    pub uuid: Uuid,
    /// Its machine.
    pub machine: Machine,
    /// This host lets this process use KVM.
    pub kvm: bool,
    /// The most vcpus the domain may ever have.
    pub max_vcpus: u32,
}

/// The type of a vcpu among QEMU's, and the driver that plugs one in.
pub const VCPU_TYPE: &str = "host-x86_64-cpu";

/// A vcpu, or the place for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vcpu {
    /// Xen's number.
    pub id: u32,
    /// Where in the topology it stands: socket, core, thread.
    pub place: [u32; 3],
    /// Its path among the objects while it is plugged.
    pub path: Option<String>,
    /// The host's number of its thread, while it is plugged and the domain is there.
    pub thread: Option<i32>,
}

qmp_struct! {
    /// A character device.
    #[derive(Default)]
    ChardevInfo {
        /// Its id.
        label: String,
        /// Where it leads.
        filename: String,
        /// The guest, or whatever is at this side, has it open.
        frontend_open as "frontend-open": bool,
    }
}

qmp_struct! {
    /// How a node is cached.
    BlockCache {
        /// Writes are complete before they are on the medium.
        writeback: bool,
        /// The host's page cache is passed by.
        direct: bool,
        /// Flushes do nothing.
        no_flush as "no-flush": bool,
    }
}

qmp_struct! {
    /// An image.
    ImageInfo {
        /// Its file.
        filename: String,
        /// Its format.
        format: String,
        /// What the guest sees of it, in bytes.
        virtual_size as "virtual-size": u64,
        /// What it takes on the host, in bytes.
        actual_size as "actual-size": Option<u64>,
        /// Its clusters, in bytes.
        cluster_size as "cluster-size": Option<u64>,
        /// The file that it stands on.
        backing_filename as "backing-filename": Option<String>,
        /// That file's format.
        backing_format as "backing-filename-format": Option<String>,
    }
}

qmp_struct! {
    /// A block node.
    BlockNode {
        /// Its file.
        file: String,
        /// Its name.
        node_name as "node-name": Option<String>,
        /// It cannot be written.
        ro: bool,
        /// Its driver.
        drv: String,
        /// The file it stands on.
        backing_file: Option<String>,
        /// How many it stands on.
        backing_file_depth: i64,
        /// It is encrypted.
        encrypted: bool,
        /// What becomes of writes of zeros.
        detect_zeroes: String,
        /// Throttling: bytes a second.
        bps: i64,
        /// Of reads.
        bps_rd: i64,
        /// Of writes.
        bps_wr: i64,
        /// Throttling: operations a second.
        iops: i64,
        /// Of reads.
        iops_rd: i64,
        /// Of writes.
        iops_wr: i64,
        /// What it holds.
        image: ImageInfo,
        /// How it is cached.
        cache: BlockCache,
        /// The offset beyond which a write is told of.
        write_threshold: i64,
    }
}

qmp_enum! {
    /// Whether a disk has errors.
    IoStatus {
        /// None.
        Ok as "ok",
        /// It has.
        Failed as "failed",
        /// The image has no room left.
        NoSpace as "nospace",
    }
}

qmp_struct! {
    /// A disk as the guest has it.
    BlockInfo {
        /// The drive's name, empty for drives without one.
        device: String,
        /// `/machine/peripheral/ID/virtio-backend` for virtio disks, the id for others.
        qdev: Option<String>,
        /// Always `unknown`.
        r#type as "type": String,
        /// Its medium can be taken out.
        removable: bool,
        /// The guest has locked the tray.
        locked: bool,
        /// The medium.
        inserted: Option<BlockNode>,
        /// The tray is open; only for what has a tray.
        tray_open: Option<bool>,
        /// Whether it has errors.
        io_status as "io-status": Option<IoStatus>,
    }
}

qmp_struct! {
    /// What went through a disk, since the process started.
    #[derive(Default)]
    BlockCounters {
        /// Bytes read.
        rd_bytes: u64,
        /// Bytes written.
        wr_bytes: u64,
        /// Bytes discarded.
        unmap_bytes: u64,
        /// Reads.
        rd_operations: u64,
        /// Writes.
        wr_operations: u64,
        /// Flushes.
        flush_operations: u64,
        /// Discards.
        unmap_operations: u64,
        /// Time in reads, in nanoseconds.
        rd_total_time_ns: u64,
        /// Time in writes.
        wr_total_time_ns: u64,
        /// Time in flushes.
        flush_total_time_ns: u64,
        /// Time in discards.
        unmap_total_time_ns: u64,
        /// The byte behind the last one ever written.
        wr_highest_offset: u64,
        /// Reads joined with others.
        rd_merged: u64,
        /// Writes joined with others.
        wr_merged: u64,
        /// Discards joined with others.
        unmap_merged: u64,
        /// Reads that failed.
        failed_rd_operations: u64,
        /// Writes that failed.
        failed_wr_operations: u64,
        /// Flushes that failed.
        failed_flush_operations: u64,
        /// Discards that failed.
        failed_unmap_operations: u64,
        /// Reads that made no sense.
        invalid_rd_operations: u64,
        /// Writes that made no sense.
        invalid_wr_operations: u64,
        /// Flushes that made no sense.
        invalid_flush_operations: u64,
        /// Discards that made no sense.
        invalid_unmap_operations: u64,
        /// Those that failed are in the sums.
        account_failed: bool,
        /// Those that made no sense are in the sums.
        account_invalid: bool,
        /// Sums over intervals, of which there are none.
        timed_stats: Vec<Value>,
    }
}

qmp_struct! {
    /// What went through one disk or node.
    BlockStats {
        /// The drive's name, empty for drives without one.
        device: Option<String>,
        /// As in [`BlockInfo`].
        qdev: Option<String>,
        /// The node.
        node_name as "node-name": Option<String>,
        /// The sums.
        stats: BlockCounters,
    }
}

/// What a disk command is about: the drive's or device's name, or a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockTarget {
    /// A drive's name or a device's id.
    pub device: Option<String>,
    /// A node's name.
    pub node: Option<String>,
}

qmp_struct! {
    /// What one vcpu did.
    VcpuStats {
        /// Xen's number.
        vcpu: u32,
        /// Hypercalls by name.
        hypercalls: Properties,
        /// Times that it came back to this process.
        userspace_exits as "userspace-exits": u64,
        /// KVM's own counters.
        kvm: Properties,
    }
}

qmp_struct! {
    /// What one ring did.
    RingStats {
        /// Which.
        name: String,
        /// Its counters.
        counters: Properties,
    }
}

qmp_struct! {
    /// `x-xenner-stats`.
    DomainStats {
        /// By vcpu.
        vcpus: Vec<VcpuStats>,
        /// By ring.
        rings: Vec<RingStats>,
    }
}

qmp_struct! {
    /// A node of the xenstore.
    StoreNode {
        /// Its path.
        path: String,
        /// What it holds; bytes that are no text are escaped as `\xNN`.
        value: String,
        /// Its permissions in the store's own notation, `n0,r1`.
        permissions: String,
    }
}

/// Descriptors that a client sent and named.
pub trait NamedFds {
    /// Takes the descriptor of this name, which is then gone from the monitor.
    fn take_fd(&mut self, name: &str) -> Option<OwnedFd>;
}

/// The VMM, as the monitor sees it. All methods are called from the main loop.
pub trait Control {
    /// Who the domain is.
    fn identity(&self) -> Identity;
    /// Its state.
    fn status(&self) -> RunState;
    /// Stops the vcpus.
    fn stop(&mut self) -> Answer;
    /// Lets the vcpus run.
    fn cont(&mut self) -> Answer;
    /// Asks the guest to power off.
    fn powerdown(&mut self) -> Answer;
    /// Builds the domain anew.
    fn reset(&mut self) -> Answer;
    /// Ends the process, after the answer is sent.
    fn quit(&mut self);
    /// Changes what the turns of the domain's life lead to.
    fn set_actions(&mut self, actions: &Actions) -> Answer;
    /// The vcpus that the domain may ever have.
    fn vcpus(&self) -> Vec<Vcpu>;
    /// The domain's memory at its start, in bytes.
    fn memory(&self) -> u64;
    /// All character devices, the monitors' own included.
    fn chardevs(&self) -> Vec<ChardevInfo>;
    /// All devices that were given an id or a driver.
    fn devices(&self) -> Vec<DeviceInfo>;

    /// Sends the guest an NMI on every vcpu.
    fn inject_nmi(&mut self) -> Answer {
        Err(QmpError::unsupported("An NMI"))
    }

    /// The domain's memory now, in bytes.
    fn balloon_actual(&self) -> Answer<u64> {
        Err(no_balloon())
    }

    /// Asks the guest to have this much memory, in bytes.
    fn set_balloon(&mut self, bytes: u64) -> Answer {
        let _ = bytes;
        Err(no_balloon())
    }

    /// What the guest says of its memory: names as in QEMU's virtio-balloon, bytes; and when it
    /// said so, in seconds since 1970.
    fn balloon_stats(&self) -> Answer<(Vec<(&'static str, u64)>, u64)> {
        Err(no_balloon())
    }

    /// How often the guest is asked for these, in seconds; 0 for never.
    fn balloon_polling(&self) -> Answer<u64> {
        Err(no_balloon())
    }

    /// Sets how often the guest is asked.
    fn set_balloon_polling(&mut self, seconds: u64) -> Answer {
        let _ = seconds;
        Err(no_balloon())
    }

    /// Takes the oldest bytes, `max` at most, out of a ring buffer.
    fn ringbuf_read(&mut self, chardev: &str, max: usize) -> Answer<Vec<u8>> {
        let _ = max;
        Err(QmpError::generic(format!("Device '{chardev}' not found")))
    }

    /// Adds bytes to a ring buffer.
    fn ringbuf_write(&mut self, chardev: &str, data: &[u8]) -> Answer {
        let _ = data;
        Err(QmpError::generic(format!("Device '{chardev}' not found")))
    }

    /// Plugs a device in.
    fn device_add(
        &mut self,
        driver: &str,
        properties: Properties,
        fds: &mut dyn FdSource,
    ) -> Answer {
        let _ = (properties, fds);
        Err(QmpError::unsupported(&format!("Plugging in a '{driver}'")))
    }

    /// Asks the guest to let go of a device; DEVICE_DELETED tells when it has.
    fn device_del(&mut self, id: &str) -> Answer {
        Err(QmpError::no_device(id))
    }

    /// Makes a host end for a network device.
    fn netdev_add(
        &mut self,
        kind: &str,
        properties: Properties,
        named: &mut dyn NamedFds,
        fds: &mut dyn FdSource,
    ) -> Answer {
        let _ = (properties, named, fds);
        Err(QmpError::unsupported(&format!("A '{kind}' host end")))
    }

    /// Removes a host end.
    fn netdev_del(&mut self, id: &str) -> Answer {
        Err(QmpError::no_device(id))
    }

    /// Pulls or puts back a network device's cable.
    fn set_link(&mut self, name: &str, up: bool) -> Answer {
        let _ = up;
        Err(QmpError::no_device(name))
    }

    /// The network devices and host ends for people: name, description.
    fn networks(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Makes an object.
    fn object_add(&mut self, kind: &str, properties: Properties) -> Answer {
        let _ = properties;
        Err(QmpError::unsupported(&format!("A '{kind}' object")))
    }

    /// Removes an object.
    fn object_del(&mut self, id: &str) -> Answer {
        Err(QmpError::generic(format!("object '{id}' not found")))
    }

    /// The disks.
    fn blocks(&self) -> Vec<BlockInfo> {
        Vec::new()
    }

    /// What went through the disks, or through all nodes.
    fn block_stats(&self, nodes: bool) -> Vec<BlockStats> {
        let _ = nodes;
        Vec::new()
    }

    /// All nodes with a name.
    fn block_nodes(&self) -> Vec<BlockNode> {
        Vec::new()
    }

    /// Opens an image.
    fn blockdev_add(&mut self, properties: Properties, fds: &mut dyn FdSource) -> Answer {
        let _ = (properties, fds);
        Err(QmpError::unsupported("A block node"))
    }

    /// Closes an image.
    fn blockdev_del(&mut self, node: &str) -> Answer {
        let why = format!("Failed to find node with node-name='{node}'");
        Err(QmpError::generic(why))
    }

    /// Changes an image's size, in bytes.
    fn block_resize(&mut self, target: &BlockTarget, size: u64) -> Answer {
        let _ = size;
        let device = target.device.as_deref().unwrap_or_default();
        let node = target.node.as_deref().unwrap_or_default();
        let why = format!("Cannot find device='{device}' nor node-name='{node}'");
        Err(QmpError::generic(why))
    }

    /// Opens a drive's tray.
    fn open_tray(&mut self, id: &str, force: bool) -> Answer {
        let _ = force;
        Err(QmpError::no_device(id))
    }

    /// Closes a drive's tray.
    fn close_tray(&mut self, id: &str) -> Answer {
        Err(QmpError::no_device(id))
    }

    /// Takes the medium out of an open drive.
    fn remove_medium(&mut self, id: &str) -> Answer {
        Err(QmpError::no_device(id))
    }

    /// Puts a medium into an open drive.
    fn insert_medium(&mut self, id: &str, node: &str, fds: &mut dyn FdSource) -> Answer {
        let _ = (node, fds);
        Err(QmpError::no_device(id))
    }

    /// What the domain did so far.
    fn stats(&self) -> Answer<DomainStats>;

    /// The xenstore's nodes at and below `path`, sorted.
    fn xenstore(&self, path: &str) -> Answer<Vec<StoreNode>>;
}

fn no_balloon() -> QmpError {
    QmpError::new(
        ErrorClass::DeviceNotActive,
        "No balloon device has been activated",
    )
}
