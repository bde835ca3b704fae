//! The thread of a device: waits for the store and for commands, and steps the state machine.

use std::fmt::Debug;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use xenner_xen_abi::io::xenbus::XenbusState;

use super::error::DeviceError;
use super::machine::Machine;
use super::{Device, Keys};
use crate::bell::Bell;
use crate::domain::{Domain, Store, Watch};

/// Events of the store that are taken note of at a time.
const EVENTS_A_TURN: usize = 64;

/// Where a device is, and what is told when it is gone.
pub struct Bus {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The domain that the device is for.
    pub domain: Arc<dyn Domain>,
    /// `vbd`, `vif`, `vkbd` ...
    pub class: &'static str,
    /// The device's number within its class: for a vbd the number of the block device.
    pub id: u32,
    /// The frontend's nodes besides `backend`, `backend-id` and `state`.
    pub frontend: Keys,
    /// Called when the device is gone, after its nodes are; not when it is stopped. Runs on the
    /// device's thread, and so must not stop it.
    pub on_gone: Option<Box<dyn FnOnce() + Send>>,
}

impl Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.class, self.id)
    }
}

/// What the device's thread is told.
#[derive(Debug)]
pub(super) enum Command {
    /// Ask the frontend to let go, or (`force`) do not wait for it.
    Unplug { force: bool },
    /// Nodes of the backend have changed.
    Update(Keys),
    /// The frontend broke the protocol in this connection, or the host failed it.
    Close {
        connection: u64,
        reason: DeviceError,
    },
    /// The domain has ended.
    Stop,
}

/// The thread's ear: a queue and an eventfd that tells of it.
#[derive(Debug, Clone)]
pub(super) struct Commands {
    queue: mpsc::Sender<Command>,
    bell: Arc<Bell>,
}

impl Commands {
    /// Puts a command; a thread that has ended needs none.
    fn send(&self, command: Command) {
        if self.queue.send(command).is_ok() {
            self.bell.ring();
        }
    }
}

/// Closes a device from one of its own threads. Belongs to one connection: what comes late does not
/// hit the next one.
#[derive(Debug, Clone)]
pub struct Closer {
    pub(super) commands: Commands,
    pub(super) connection: u64,
}

impl Closer {
    /// The frontend has broken the protocol (or the host fails the device): the device disconnects,
    /// tells the frontend why and closes. Returns at once; the caller's thread must end, because
    /// [`Device::disconnect`] waits for it.
    pub fn close(&self, reason: DeviceError) {
        self.commands.send(Command::Close {
            connection: self.connection,
            reason,
        });
    }
}

/// What the thread shows of itself.
#[derive(Debug)]
struct Shown {
    state: AtomicU8,
    gone: AtomicBool,
    gone_bell: Bell,
}

/// A device and its thread. Dropping it stops the device as [`DeviceThread::stop`] does.
#[derive(Debug)]
pub struct DeviceThread {
    name: String,
    commands: Commands,
    shown: Arc<Shown>,
    thread: Option<JoinHandle<Box<dyn Device>>>,
}

/// Publishes a device in the store, ready for its frontend (state InitWait), and starts its thread.
/// When this returns, the domain can be started.
///
/// # Errors
/// The store refuses the nodes, or the host the thread or its descriptors.
pub fn spawn(device: Box<dyn Device>, mut bus: Bus) -> io::Result<DeviceThread> {
    let name = format!("{} {}", bus.class, bus.id);
    let bell = Arc::new(Bell::new()?);
    let shown = Arc::new(Shown {
        state: AtomicU8::new(XenbusState::Initialising as u8),
        gone: AtomicBool::new(false),
        gone_bell: Bell::new()?,
    });
    let (queue, orders) = mpsc::channel();
    let commands = Commands { queue, bell };
    let on_gone = bus.on_gone.take();
    let machine = Machine::publish(device, bus, commands.clone()).map_err(io::Error::other)?;
    let watch = machine.watch().map_err(io::Error::other)?;
    let worker = Worker {
        machine,
        watch,
        orders,
        bell: commands.bell.clone(),
        shown: shown.clone(),
        more: false,
    };
    let thread = std::thread::Builder::new()
        .name(name.replace(' ', "-"))
        .spawn(move || worker.run(on_gone))?;
    Ok(DeviceThread {
        name,
        commands,
        shown,
        thread: Some(thread),
    })
}

impl DeviceThread {
    /// The device's name as the log has it: `vbd 51712`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The backend's state.
    #[must_use]
    pub fn state(&self) -> XenbusState {
        let state = self.shown.state.load(Ordering::Acquire);
        XenbusState::from_number(state.into()).unwrap_or(XenbusState::Unknown)
    }

    /// Unplugs the device: the frontend is asked to let go (`online` 0, state Closing), and the
    /// device is gone when it has. With `force` it is not waited for. May be called again, with
    /// `force` when it takes too long.
    pub fn unplug(&self, force: bool) {
        self.commands.send(Command::Unplug { force });
    }

    /// Whether the device is gone: disconnected, its nodes removed. [`Bus::on_gone`] is called then,
    /// and [`AsFd`]'s descriptor is readable from then on.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.shown.gone.load(Ordering::Acquire)
    }

    /// Writes changed nodes of the backend; a connected frontend is told by its state written anew
    /// (blkfront looks at `sectors` then). The device's own `offer` and `connect` must tell the same
    /// from now on.
    pub fn update(&self, keys: Keys) {
        self.commands.send(Command::Update(keys));
    }

    /// Disconnects the device because its domain has ended, and gives it back; the nodes are left to
    /// whoever removes the domain's. Nothing if the device's thread has panicked.
    pub fn stop(mut self) -> Option<Box<dyn Device>> {
        self.join()
    }

    fn join(&mut self) -> Option<Box<dyn Device>> {
        let thread = self.thread.take()?;
        self.commands.send(Command::Stop);
        let device = thread.join();
        if device.is_err() {
            log::error!(target: "xenbus", "{}: the device's thread has panicked", self.name);
        }
        device.ok()
    }
}

impl AsFd for DeviceThread {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shown.gone_bell.as_fd()
    }
}

impl Drop for DeviceThread {
    fn drop(&mut self) {
        self.join();
    }
}

/// What runs on the thread.
struct Worker {
    machine: Machine,
    watch: Box<dyn Watch>,
    orders: mpsc::Receiver<Command>,
    bell: Arc<Bell>,
    shown: Arc<Shown>,
    /// Events were left for the next turn.
    more: bool,
}

impl Worker {
    fn run(mut self, on_gone: Option<Box<dyn FnOnce() + Send>>) -> Box<dyn Device> {
        // A device that panics must not stay in the store as if it were served.
        let end = catch_unwind(AssertUnwindSafe(|| {
            self.serve();
            self.machine.disconnect();
        }));
        if end.is_err() {
            self.machine.abandon();
        }
        if self.machine.is_gone() {
            self.show_state();
            self.shown.gone.store(true, Ordering::Release);
            if let Some(on_gone) = on_gone {
                on_gone();
            }
            self.shown.gone_bell.ring();
        }
        match end {
            Ok(()) => self.machine.into_device(),
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Until the device is gone or told to stop.
    fn serve(&mut self) {
        loop {
            self.show_state();
            if self.machine.is_gone() {
                return;
            }
            if let Err(error) = self.wait() {
                // Without its ears the device cannot be served.
                let name = self.machine.name();
                log::error!(target: "xenbus", "{name}: cannot wait for events: {error}");
                return self.machine.unplug(true);
            }
            if self.drain() {
                return;
            }
        }
    }

    fn show_state(&self) {
        let state = self.machine.state() as u8;
        self.shown.state.store(state, Ordering::Release);
    }

    fn wait(&self) -> io::Result<()> {
        if self.more {
            return Ok(());
        }
        let mut fds = [
            PollFd::from_borrowed_fd(self.watch.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.bell.as_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Handles everything that waits; true if the device is to stop.
    fn drain(&mut self) -> bool {
        self.bell.silence();
        while let Ok(command) = self.orders.try_recv() {
            match command {
                Command::Stop => return true,
                Command::Unplug { force } => self.machine.unplug(force),
                Command::Update(keys) => self.machine.update(keys),
                Command::Close { connection, reason } => self.machine.close(connection, &reason),
            }
        }
        // One look serves for many events; but a frontend that writes without end must not keep
        // the device from looking, nor from the next command.
        let events = (0..EVENTS_A_TURN).take_while(|_| self.watch.next().is_some());
        let events = events.count();
        if events > 0 {
            self.machine.look();
        }
        // Only after the last event does the watch promise that its descriptor tells of the next.
        self.more = events == EVENTS_A_TURN;
        false
    }
}
