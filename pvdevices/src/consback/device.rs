//! A console beside the first as a device of the bus (class `console`), and channels, which are
//! consoles with a name (`xen-pv-channel(7)`).
//!
//! The frontend's nodes are those of Linux's hvc_xen: `ring-ref`, and `port` for the event channel.
//! The labels are those that libxl_console.c writes. The user's end outlives the frontend, and
//! domains; the first console, whose page start_info names, is none of this.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::ConsoleBackend;
use super::usage::{ChannelEvents, LOOK, Usage};
use crate::bell::Bell;
use crate::domain::Channel;
use crate::xenbus::{Closer, Device, DeviceError, Frontend, Keys};

/// Bytes of output that a tool may keep for its readers: `LIBXL_XENCONSOLE_LIMIT`.
const LIMIT: &str = "1048576";
/// `LIBXL_XENCONSOLE_PROTOCOL`.
const PROTOCOL: &str = "vt100";
/// The frontend's node with its ring's grant reference.
const RING_REF: &str = "ring-ref";
/// The frontend's node with its event channel.
const PORT: &str = "port";

/// What the store says of a console, for the domain and for tools.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConsoleLabels {
    /// A channel's name, by which the domain finds it.
    pub name: Option<String>,
    /// Where the text goes: `pty`, or `chardev:ID`.
    pub output: String,
    /// The terminal to reach it by, if it has one.
    pub tty: Option<String>,
    /// How a tool reaches it: `pty`, `socket`.
    pub connection: Option<&'static str>,
    /// The socket.
    pub path: Option<String>,
}

/// A console as a device.
#[derive(Debug)]
pub struct ConsBack {
    labels: ConsoleLabels,
    console: Arc<Mutex<ConsoleBackend>>,
    told: Option<Arc<dyn ChannelEvents>>,
    serving: Option<Serving>,
}

impl ConsBack {
    /// A console on its user's end, which another thread may serve meanwhile. With `told`, somebody
    /// wants to know when the domain uses it.
    pub fn new(
        labels: ConsoleLabels,
        console: Arc<Mutex<ConsoleBackend>>,
        told: Option<Arc<dyn ChannelEvents>>,
    ) -> Self {
        Self {
            labels,
            console,
            told,
            serving: None,
        }
    }

    /// The frontend's nodes that the domain may change.
    #[must_use]
    pub fn frontend_keys(&self) -> Keys {
        vec![key("protocol", PROTOCOL)]
    }
}

impl Device for ConsBack {
    fn offer(&self) -> Keys {
        let labels = &self.labels;
        let more = [
            ("name", labels.name.as_deref()),
            ("connection", labels.connection),
            ("path", labels.path.as_deref()),
        ];
        let there = more.into_iter();
        let there = there.filter_map(|(name, value)| Some(key(name, value?)));
        [key("protocol", PROTOCOL)]
            .into_iter()
            .chain(there)
            .collect()
    }

    fn labels(&self) -> Keys {
        let labels = &self.labels;
        let mut keys = vec![
            key("limit", LIMIT),
            key("type", "ioemu"),
            key("output", &labels.output),
            key("tty", labels.tty.as_deref().unwrap_or_default()),
        ];
        keys.extend(labels.name.as_deref().map(|name| key("name", name)));
        keys
    }

    fn connect(&mut self, frontend: &Frontend) -> Result<Keys, DeviceError> {
        let page = frontend.map_ring(&[RING_REF.to_owned()])?.pop();
        let page = page.ok_or_else(|| DeviceError::Missing {
            path: frontend.path_of(RING_REF),
        })?;
        let channel = frontend.bind(PORT)?;
        let stop = Arc::new(Bell::new()?);
        let server = Server {
            console: self.console.clone(),
            channel: channel.clone(),
            closer: frontend.closer(),
            stop: stop.clone(),
            usage: self.told.clone().map(Usage::new),
        };
        // The ring is there before the thread looks at it.
        lock(&self.console).connect(Box::new(page), Box::new(channel));
        let number = frontend.path().rsplit('/').next().unwrap_or_default();
        let thread = std::thread::Builder::new()
            .name(format!("console-{number}-ring"))
            .spawn(move || server.run());
        match thread {
            Ok(thread) => self.serving = Some(Serving { stop, thread }),
            Err(e) => {
                lock(&self.console).disconnect();
                return Err(e.into());
            }
        }
        Ok(Keys::new())
    }

    fn disconnect(&mut self) {
        if let Some(Serving { stop, thread }) = self.serving.take() {
            stop.ring();
            if thread.join().is_err() {
                log::error!(target: "console", "The thread of a console's ring has panicked");
            }
        }
        lock(&self.console).disconnect();
    }
}

impl Drop for ConsBack {
    fn drop(&mut self) {
        self.disconnect();
    }
}

/// A running thread.
#[derive(Debug)]
struct Serving {
    stop: Arc<Bell>,
    thread: JoinHandle<()>,
}

/// The thread that serves the domain's side of one connection.
struct Server {
    console: Arc<Mutex<ConsoleBackend>>,
    channel: Arc<dyn Channel>,
    closer: Closer,
    stop: Arc<Bell>,
    usage: Option<Usage>,
}

/// What woke the thread.
struct Woken {
    event: bool,
    stop: bool,
}

impl Server {
    /// Until it is stopped, or the domain breaks the protocol.
    fn run(mut self) {
        loop {
            if lock(&self.console).is_closed() {
                let why = "The console ring's indices are impossible".to_owned();
                return self.closer.close(DeviceError::Refused(why));
            }
            self.look();
            match self.wait() {
                Ok(Woken { stop: true, .. }) => return,
                Ok(Woken { event: true, .. }) => {
                    self.channel.clear();
                    lock(&self.console).on_guest_event();
                }
                Ok(_) => {}
                Err(e) => return self.closer.close(e.into()),
            }
        }
    }

    /// Whether the domain uses the channel; nobody asks of a mere console.
    fn look(&mut self) {
        if let Some(usage) = &mut self.usage {
            let unread = lock(&self.console).has_unread_input();
            usage.look(self.channel.is_masked(), unread, Instant::now());
        }
    }

    /// Waits for an event of the domain; with somebody who wants to know of its use, not for long.
    fn wait(&self) -> io::Result<Woken> {
        let limit = self.usage.is_some().then(|| Timespec {
            tv_sec: LOOK.as_secs().cast_signed(),
            tv_nsec: 0,
        });
        let mut fds = [
            PollFd::from_borrowed_fd(self.channel.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let [event, stop] = fds.map(|fd| !fd.revents().is_empty());
        Ok(Woken { event, stop })
    }
}

/// A console whose holders leave nothing half-done.
fn lock(console: &Mutex<ConsoleBackend>) -> MutexGuard<'_, ConsoleBackend> {
    console.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[cfg(test)]
mod tests;
