//! All monitors of the process, in its event loop.
//!
//! The loop moves bytes through [`Server::subscribers`]; after each of its turns
//! [`Server::serve`] runs what came in, on the loop's own thread.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use log::error;
use serde_json::Value;
use xenner_console::config::ChardevConfig;
use xenner_console::{Chardev, ChardevError, ChardevOptions, FdSets};

use super::control::{ChardevInfo, Control};
use super::events::{EventSink, Throttle};
use super::monitor::Monitor;
use super::session::Parts;
use crate::config::MonitorConfig;

/// Requests of one client in one turn of the loop.
const FAIR_SHARE: usize = 32;
/// The time between two attempts to send the last output.
const PAUSE: Duration = Duration::from_millis(2);

/// The monitors' own character devices, as they are now.
#[derive(Debug, Clone, Default)]
pub struct MonitorChardevs(Vec<Arc<Mutex<ChardevInfo>>>);

impl MonitorChardevs {
    /// Their lines of `query-chardev`.
    pub fn list(&self) -> Vec<ChardevInfo> {
        self.0.iter().map(|info| lock(info).clone()).collect()
    }
}

/// A part of the server in an event loop.
pub type Subscriber = Arc<Mutex<dyn MutEventSubscriber + Send>>;

/// The monitors. See the module's documentation.
#[derive(Debug)]
pub struct Server {
    monitors: Vec<Arc<Mutex<Monitor>>>,
    events: EventSink,
    throttle: Throttle,
    fds: FdSets,
}

impl Server {
    /// A server without monitors: events go nowhere.
    ///
    /// # Errors
    /// The host gives no event descriptor.
    pub fn new(fds: FdSets) -> io::Result<Self> {
        Ok(Self {
            monitors: Vec::new(),
            events: EventSink::new()?,
            throttle: Throttle::default(),
            fds,
        })
    }

    /// Opens a monitor's character device.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn add(
        &mut self,
        monitor: &MonitorConfig,
        chardev: &ChardevConfig,
    ) -> Result<(), ChardevError> {
        let options = ChardevOptions {
            conversation: true,
            ..ChardevOptions::default()
        };
        let end = Chardev::open(chardev, options, &mut self.fds)?;
        let monitor = Monitor::new(end, monitor.mode, monitor.pretty);
        self.monitors.push(Arc::new(Mutex::new(monitor)));
        Ok(())
    }

    /// Where events of the process go.
    pub fn events(&self) -> EventSink {
        self.events.clone()
    }

    /// The descriptor sets, for opening what names one.
    pub fn fds(&mut self) -> &mut FdSets {
        &mut self.fds
    }

    /// What the event loop is to watch.
    pub fn subscribers(&self) -> Vec<Subscriber> {
        let wake = Wake(self.events.clone());
        let mut all = vec![Arc::new(Mutex::new(wake)) as Subscriber];
        for monitor in &self.monitors {
            let end = MonitorEnd(monitor.clone());
            all.push(Arc::new(Mutex::new(end)));
        }
        all
    }

    /// The monitors' lines of `query-chardev`.
    pub fn chardevs(&self) -> MonitorChardevs {
        let monitors = self.monitors.iter();
        MonitorChardevs(monitors.map(|monitor| lock(monitor).info()).collect())
    }

    /// Whether clients were there and none is now.
    pub fn is_deserted(&self) -> bool {
        let mut monitors = self.monitors.iter();
        !self.monitors.is_empty() && monitors.all(|monitor| lock(monitor).is_deserted())
    }

    /// When [`serve`](Self::serve) is to be called though nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        self.throttle.deadline()
    }

    /// Runs the requests that came in, and passes events on.
    pub fn serve(&mut self, control: &mut dyn Control) {
        self.tell_events();
        for monitor in self.monitors.clone() {
            for _ in 0..FAIR_SHARE {
                let mut this = lock(&monitor);
                let Some(request) = this.next_request() else {
                    break;
                };
                let mut parts = Parts {
                    control: &mut *control,
                    fds: &mut self.fds,
                };
                let answer = this.run(request, &mut parts);
                drop(this);
                // what a command led to is told before its answer, to this client as to all
                self.tell_events();
                lock(&monitor).send(&answer);
            }
            lock(&monitor).come_back();
        }
    }

    /// Passes on what was emitted since the last call.
    pub fn tell_events(&mut self) {
        let now = Instant::now();
        let mut events = self.throttle.due(now);
        for event in self.events.drain() {
            events.extend(self.throttle.pass(event, now));
        }
        for event in events {
            let value: Value = event.to_value();
            for monitor in &self.monitors {
                lock(monitor).tell(&value);
            }
        }
    }

    /// Gives clients this long to take what was sent to them: the process is about to end.
    pub fn finish(&mut self, patience: Duration) {
        self.tell_events();
        let end = Instant::now() + patience;
        while !self.monitors.iter().all(|monitor| lock(monitor).flush()) && Instant::now() < end {
            thread::sleep(PAUSE);
        }
    }
}

/// A lock whose holders leave nothing half-done.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A monitor in the loop.
struct MonitorEnd(Arc<Mutex<Monitor>>);

impl MutEventSubscriber for MonitorEnd {
    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
        lock(&self.0).on_ready();
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        watch(ops, Events::new(&*lock(&self.0), EventSet::IN));
    }
}

/// Wakes the loop for an event; [`Server::serve`] does the rest.
struct Wake(EventSink);

impl MutEventSubscriber for Wake {
    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {}

    fn init(&mut self, ops: &mut EventOps<'_>) {
        watch(ops, Events::new(&self.0, EventSet::IN));
    }
}

fn watch(ops: &mut EventOps<'_>, events: Events) {
    if let Err(e) = ops.add(events) {
        error!("the event loop takes no more descriptors: {e:?}");
    }
}
