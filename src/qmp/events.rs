//! What the process tells without being asked.
//!
//! An [`EventSink`] is given to whatever has something to tell; it may be used on any thread. The
//! server passes the events on to every client. Names, members and rate limits are QEMU's.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use log::warn;
use serde_json::{Value, json};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::shape::{Arguments, Empty, Object, qmp_enum, qmp_struct};

qmp_enum! {
    /// Why a domain ended or began anew.
    ShutdownCause {
        /// The process has no error to name.
        None as "none",
        /// An error of the host.
        HostError as "host-error",
        /// The monitor's `quit`.
        HostQmpQuit as "host-qmp-quit",
        /// The monitor's `system_reset`.
        HostQmpSystemReset as "host-qmp-system-reset",
        /// A signal to the process.
        HostSignal as "host-signal",
        /// The user's window or console.
        HostUi as "host-ui",
        /// The guest powered off.
        GuestShutdown as "guest-shutdown",
        /// The guest rebooted.
        GuestReset as "guest-reset",
        /// The guest crashed.
        GuestPanic as "guest-panic",
        /// A part of the machine was reset.
        SubsystemReset as "subsystem-reset",
        /// Going back to an earlier state.
        SnapshotLoad as "snapshot-load",
    }
}

qmp_enum! {
    /// What a crash of the guest led to.
    PanicOutcome {
        /// The vcpus stand.
        Pause as "pause",
        /// The process ends.
        Poweroff as "poweroff",
        /// The guest goes on.
        Run as "run",
    }
}

qmp_enum! {
    /// What the backend was doing.
    IoOperation {
        /// Reading.
        Read as "read",
        /// Writing, or flushing.
        Write as "write",
    }
}

qmp_enum! {
    /// What follows an I/O error.
    IoErrorOutcome {
        /// The guest is not told.
        Ignore as "ignore",
        /// The guest is told.
        Report as "report",
        /// The vcpus stand.
        Stop as "stop",
    }
}

qmp_enum! {
    /// How far a migration is.
    MigrationStatus {
        /// Not begun.
        None as "none",
        /// Begun.
        Setup as "setup",
        /// Under way.
        Active as "active",
        /// Done.
        Completed as "completed",
        /// Broken.
        Failed as "failed",
        /// About to be called off.
        Cancelling as "cancelling",
        /// Called off.
        Cancelled as "cancelled",
    }
}

qmp_enum! {
    /// How far a job is.
    JobStatus {
        /// Made.
        Created as "created",
        /// Under way.
        Running as "running",
        /// Waiting for others.
        Waiting as "waiting",
        /// About to be done.
        Pending as "pending",
        /// Could be completed.
        Ready as "ready",
        /// Done, or failed.
        Concluded as "concluded",
        /// Forgotten.
        Null as "null",
    }
}

qmp_struct! {
    /// SHUTDOWN and RESET.
    LifeChange {
        /// The guest did it.
        guest: bool,
        /// Why.
        reason: ShutdownCause,
    }
}

qmp_struct! {
    /// DEVICE_DELETED.
    DeviceDeleted {
        /// The device's id, if it has one.
        device: Option<String>,
        /// Its place, `/machine/peripheral/ID`.
        path: String,
    }
}

qmp_struct! {
    /// DEVICE_TRAY_MOVED.
    TrayMoved {
        /// The drive's name, empty for drives without one.
        device: String,
        /// The device's id.
        id: String,
        /// The tray is open now.
        tray_open as "tray-open": bool,
    }
}

qmp_struct! {
    /// BLOCK_IO_ERROR.
    BlockIoError {
        /// The drive's name, empty for drives without one.
        device: String,
        /// The node, if it has a name.
        node_name as "node-name": Option<String>,
        /// What failed.
        operation: IoOperation,
        /// What follows.
        action: IoErrorOutcome,
        /// The image has no room left.
        nospace: Option<bool>,
        /// For people.
        reason: String,
    }
}

qmp_struct! {
    /// GUEST_PANICKED.
    GuestPanicked {
        /// What follows.
        action: PanicOutcome,
    }
}

qmp_struct! {
    /// BALLOON_CHANGE.
    BalloonChange {
        /// The domain's memory now, in bytes.
        actual: u64,
    }
}

qmp_struct! {
    /// RTC_CHANGE.
    RtcChange {
        /// The guest's clock against the host's, in seconds.
        offset: i64,
        /// The clock's place.
        qom_path as "qom-path": String,
    }
}

qmp_struct! {
    /// MIGRATION.
    Migration {
        /// How far it is.
        status: MigrationStatus,
    }
}

qmp_struct! {
    /// JOB_STATUS_CHANGE.
    JobStatusChange {
        /// The job.
        id: String,
        /// How far it is.
        status: JobStatus,
    }
}

qmp_struct! {
    /// VSERPORT_CHANGE.
    PortChange {
        /// The port's id.
        id: String,
        /// The guest has it open.
        open: bool,
    }
}

macro_rules! events {
    ($($(#[$meta:meta])* $variant:ident($data:ty) as $name:literal $(every $period:literal)?),* $(,)?) => {
        /// An event.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Event {
            $($(#[$meta])* $variant($data),)*
        }

        impl Event {
            /// Its name.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)* }
            }

            fn data(&self) -> Value {
                match self { $(Self::$variant(data) => json!(data),)* }
            }
        }

        /// All events that there can be.
        pub(super) const EVENTS: &[EventKind] = &[$(EventKind {
            name: $name,
            data: <$data as Arguments>::OBJECT,
            period: 0 $(+ $period)?,
        }),*];
    };
}

/// One kind of event.
#[derive(Debug)]
pub(super) struct EventKind {
    pub(super) name: &'static str,
    pub(super) data: &'static Object,
    /// Least time between two of them, in milliseconds; 0 for no limit.
    period: u64,
}

events! {
    /// The vcpus stand.
    Stop(Empty) as "STOP",
    /// The vcpus run.
    Resume(Empty) as "RESUME",
    /// The domain ended.
    Shutdown(LifeChange) as "SHUTDOWN",
    /// The domain began anew.
    Reset(LifeChange) as "RESET",
    /// The guest was asked to power off.
    Powerdown(Empty) as "POWERDOWN",
    /// The guest crashed.
    GuestPanicked(GuestPanicked) as "GUEST_PANICKED",
    /// A device is gone.
    DeviceDeleted(DeviceDeleted) as "DEVICE_DELETED",
    /// A drive's tray moved.
    TrayMoved(TrayMoved) as "DEVICE_TRAY_MOVED",
    /// An image cannot be read or written.
    BlockIoError(BlockIoError) as "BLOCK_IO_ERROR",
    /// The domain's memory changed.
    BalloonChange(BalloonChange) as "BALLOON_CHANGE" every 1000,
    /// The guest set its clock.
    RtcChange(RtcChange) as "RTC_CHANGE" every 1000,
    /// A migration went on.
    Migration(Migration) as "MIGRATION",
    /// A job went on.
    JobStatusChange(JobStatusChange) as "JOB_STATUS_CHANGE",
    /// The guest opened or closed a channel.
    PortChange(PortChange) as "VSERPORT_CHANGE" every 1000,
}

impl Event {
    /// STOP.
    pub fn stop() -> Self {
        Self::Stop(Empty {})
    }

    /// RESUME.
    pub fn resume() -> Self {
        Self::Resume(Empty {})
    }

    /// POWERDOWN.
    pub fn powerdown() -> Self {
        Self::Powerdown(Empty {})
    }

    /// Events with the same key replace each other where their rate is limited.
    fn key(&self) -> String {
        match self {
            Self::PortChange(change) => format!("{} {}", self.name(), change.id),
            _ => self.name().to_owned(),
        }
    }

    fn period(&self) -> Option<Duration> {
        let kind = EVENTS.iter().find(|kind| kind.name == self.name())?;
        (kind.period > 0).then(|| Duration::from_millis(kind.period))
    }
}

/// An event and when it was.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stamped {
    at: SystemTime,
    event: Event,
}

impl Stamped {
    /// As a client gets it.
    pub(super) fn to_value(&self) -> Value {
        let since = self.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut value = json!({
            "timestamp": {
                "seconds": since.as_secs(),
                "microseconds": since.subsec_micros(),
            },
            "event": self.event.name(),
        });
        let data = self.event.data();
        if data.as_object().is_some_and(|members| !members.is_empty()) {
            value["data"] = data;
        }
        value
    }
}

/// The most events that wait for the server; beyond it the oldest are lost.
const MAX_WAITING: usize = 1024;

#[derive(Debug)]
struct Shared {
    waiting: Mutex<VecDeque<Stamped>>,
    wake: EventFd,
}

/// Takes events, on any thread. Clones lead to the same server.
#[derive(Debug, Clone)]
pub struct EventSink(Arc<Shared>);

impl EventSink {
    /// A new one.
    ///
    /// # Errors
    /// The host gives no event descriptor.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(Shared {
            waiting: Mutex::new(VecDeque::new()),
            wake: EventFd::new(EFD_NONBLOCK)?,
        })))
    }

    /// Tells every client.
    pub fn emit(&self, event: Event) {
        let at = SystemTime::now();
        let mut waiting = self
            .0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= MAX_WAITING {
            let lost = waiting.pop_front();
            warn!(target: "xenner::qmp", "event lost: {lost:?}");
        }
        waiting.push_back(Stamped { at, event });
        drop(waiting);
        // a full counter is as good as one more
        let _ = self.0.wake.write(1);
    }

    /// What waits, oldest first.
    pub(super) fn drain(&self) -> VecDeque<Stamped> {
        // an empty counter means that nobody emitted
        let _ = self.0.wake.read();
        std::mem::take(
            &mut self
                .0
                .waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

impl AsRawFd for EventSink {
    /// Readable while events wait.
    fn as_raw_fd(&self) -> RawFd {
        self.0.wake.as_raw_fd()
    }
}

/// Keeps the rate of some events down: the first passes at once, of those that follow within the
/// period the last one passes at its end.
#[derive(Debug, Default)]
pub(super) struct Throttle(BTreeMap<String, (Instant, Option<Stamped>)>);

impl Throttle {
    /// The event, if it is to be told now.
    pub(super) fn pass(&mut self, event: Stamped, now: Instant) -> Option<Stamped> {
        let Some(period) = event.event.period() else {
            return Some(event);
        };
        match self.0.get_mut(&event.event.key()) {
            Some((_, held)) => {
                *held = Some(event);
                None
            }
            None => {
                self.0.insert(event.event.key(), (now + period, None));
                Some(event)
            }
        }
    }

    /// Events whose time has come.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Stamped> {
        let mut due = Vec::new();
        self.0.retain(|_, (until, held)| {
            if *until > now {
                return true;
            }
            let Some(event) = held.take() else {
                return false;
            };
            *until = now + event.event.period().unwrap_or_default();
            due.push(event);
            true
        });
        due
    }

    /// When [`due`](Self::due) has something.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let held = self.0.values().filter(|(_, held)| held.is_some());
        held.map(|(until, _)| *until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balloon(actual: u64) -> Stamped {
        Stamped {
            at: UNIX_EPOCH + Duration::from_micros(1_500_002),
            event: Event::BalloonChange(BalloonChange { actual }),
        }
    }

    #[test]
    fn events_look_as_clients_expect() {
        let expected = json!({
            "timestamp": {"seconds": 1, "microseconds": 500_002},
            "event": "BALLOON_CHANGE",
            "data": {"actual": 5},
        });
        assert_eq!(balloon(5).to_value(), expected);
        let stop = Stamped {
            at: UNIX_EPOCH,
            event: Event::stop(),
        };
        assert!(stop.to_value().get("data").is_none());
    }

    #[test]
    fn frequent_events_are_held_back_and_the_last_one_passes() {
        let mut throttle = Throttle::default();
        let start = Instant::now();
        let second = Duration::from_secs(1);
        assert_eq!(throttle.pass(balloon(1), start), Some(balloon(1)));
        assert_eq!(throttle.deadline(), None);
        assert_eq!(throttle.pass(balloon(2), start), None);
        assert_eq!(throttle.pass(balloon(3), start), None);
        assert_eq!(throttle.deadline(), Some(start + second));
        assert_eq!(throttle.due(start), []);
        assert_eq!(throttle.due(start + second), [balloon(3)]);
        assert_eq!(throttle.pass(balloon(4), start + second), None);
        assert_eq!(throttle.due(start + 2 * second), [balloon(4)]);
        assert_eq!(throttle.due(start + 3 * second), []);
        assert_eq!(
            throttle.pass(balloon(5), start + 3 * second),
            Some(balloon(5))
        );
    }

    #[test]
    fn a_sink_keeps_the_newest() {
        let sink = EventSink::new().unwrap();
        let other = sink.clone();
        std::thread::spawn(move || (0..MAX_WAITING + 5).for_each(|_| other.emit(Event::stop())))
            .join()
            .unwrap();
        sink.emit(Event::resume());
        let waiting = sink.drain();
        assert_eq!(waiting.len(), MAX_WAITING);
        assert_eq!(waiting.back().unwrap().event, Event::resume());
        assert!(sink.drain().is_empty());
    }
}
