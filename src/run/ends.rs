//! What the event loop waits for besides the store: consoles, signals, the domain's end, and the
//! inbox in which they put what is for the main loop to decide.

use std::sync::{Arc, Mutex};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use log::error;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use xenner_console::ChardevEvent;
use xenner_pvdevices::blkback::IoFault;
use xenner_pvdevices::consback::ConsoleBackend;

use super::lock;
use super::signals::EndSignals;
use crate::domain::Domain;

/// Something for the main loop to act on.
#[derive(Debug)]
pub(super) enum Wish {
    /// A signal.
    Signal(i32),
    /// The user did something at the console.
    Console(ChardevEvent),
    /// The host failed a disk's request.
    Disk {
        /// The disk's name.
        disk: String,
        /// What failed.
        fault: IoFault,
    },
    /// A device that was unplugged is gone.
    Gone {
        /// `vbd`, `vif`, `console`.
        class: &'static str,
        /// Its number.
        id: u32,
    },
    /// The guest has opened a channel, or closed it.
    Channel {
        /// Its number among the consoles.
        number: u32,
        /// It is open.
        used: bool,
    },
}

/// Wishes from any thread; a new one wakes the main loop. Clones are the same inbox.
#[derive(Debug, Clone)]
pub(super) struct Inbox {
    wishes: Arc<Mutex<Vec<Wish>>>,
    bell: Arc<EventFd>,
}

impl Inbox {
    /// An empty one.
    ///
    /// # Errors
    /// The host gives no event descriptor.
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            wishes: Arc::default(),
            bell: Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?),
        })
    }

    /// Puts a wish.
    pub(super) fn put(&self, wish: Wish) {
        lock(&self.wishes).push(wish);
        // a full counter wakes the loop as well
        let _ = self.bell.write(1);
    }

    /// All that came since the last time.
    pub(super) fn take(&self) -> Vec<Wish> {
        std::mem::take(&mut *lock(&self.wishes))
    }
}

/// Wakes the loop for the inbox.
pub(super) struct Bell(pub(super) Inbox);

impl MutEventSubscriber for Bell {
    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
        // an empty counter means that another turn has seen the event
        let _ = self.0.bell.read();
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        watch(ops, Events::new(&*self.0.bell, EventSet::IN));
    }
}

/// The user's end of a console in the loop.
pub(super) struct UserEnd {
    pub(super) console: Arc<Mutex<ConsoleBackend>>,
    pub(super) inbox: Inbox,
}

impl MutEventSubscriber for UserEnd {
    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
        let events = {
            let mut console = lock(&self.console);
            console.on_ready();
            console.take_events()
        };
        for event in events {
            self.inbox.put(Wish::Console(event));
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        watch(ops, Events::new(&*lock(&self.console), EventSet::IN));
    }
}

/// The guest's end of the first console in the loop.
pub(super) struct GuestConsole {
    pub(super) port: EventFd,
    pub(super) console: Arc<Mutex<ConsoleBackend>>,
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

/// Wakes the loop when the domain is over, its watchdog changes, or a vcpu comes up or goes down.
pub(super) struct DomainEnd {
    pub(super) domain: Arc<Domain>,
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
pub(super) struct SignalEnd {
    pub(super) signals: EndSignals,
    pub(super) inbox: Inbox,
}

impl MutEventSubscriber for SignalEnd {
    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
        while let Some(n) = self.signals.next() {
            self.inbox.put(Wish::Signal(n));
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
