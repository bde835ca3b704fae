//! Event channels of a made-up domain: a port has two ends, an eventfd each.

use std::collections::HashMap;
use std::fmt::Debug;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::bell::Bell;
use crate::domain::{Channel, ChannelError, Notify};

/// Both ends of a port.
#[derive(Debug)]
struct Ends {
    port: u32,
    to_backend: Bell,
    to_frontend: Bell,
    /// Events that the backend sent.
    sent: AtomicU64,
    bound: AtomicBool,
    masked: AtomicBool,
}

/// The ports of a domain.
#[derive(Debug, Default)]
pub(super) struct Ports(Mutex<HashMap<u32, Arc<Ends>>>);

impl Ports {
    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Arc<Ends>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn alloc(self: &Arc<Self>) -> MockPort {
        let mut ports = self.lock();
        // Port 0 is never valid.
        let port = (1..).find(|port| !ports.contains_key(port));
        let port = port.expect("a free port");
        let ends = Arc::new(Ends {
            port,
            to_backend: Bell::new().expect("an eventfd"),
            to_frontend: Bell::new().expect("an eventfd"),
            sent: AtomicU64::new(0),
            bound: AtomicBool::new(false),
            masked: AtomicBool::new(false),
        });
        ports.insert(port, ends.clone());
        MockPort {
            ends,
            ports: self.clone(),
        }
    }

    pub fn bind(&self, port: u32) -> Result<Arc<dyn Channel>, ChannelError> {
        let ends = self.lock().get(&port).cloned();
        let ends = ends.ok_or(ChannelError::NotOffered(port))?;
        if ends.bound.swap(true, Ordering::AcqRel) {
            return Err(ChannelError::NotOffered(port));
        }
        Ok(Arc::new(MockChannel(ends)))
    }

    /// Ports that a backend is bound to.
    pub fn bound(&self) -> Vec<u32> {
        let is_bound = |ends: &&Arc<Ends>| ends.bound.load(Ordering::Acquire);
        let ports = self.lock();
        let mut bound: Vec<u32> = ports.values().filter(is_bound).map(|e| e.port).collect();
        bound.sort_unstable();
        bound
    }
}

/// The domain's end of an event channel that it allocated for domain 0; closed when dropped.
#[derive(Debug)]
pub struct MockPort {
    ends: Arc<Ends>,
    ports: Arc<Ports>,
}

impl MockPort {
    /// The port's number.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.ends.port
    }

    /// Sends the backend an event (`EVTCHNOP_send`).
    pub fn send(&self) {
        self.ends.to_backend.ring();
    }

    /// Masks the port, or takes the mask away; a new port has none.
    pub fn mask(&self, masked: bool) {
        self.ends.masked.store(masked, Ordering::Release);
    }

    /// Waits for an event of the backend and takes note of it; false if there is none in time.
    #[must_use]
    pub fn wait(&self, timeout: Duration) -> bool {
        let mut fds = [PollFd::new(&self.ends.to_frontend, PollFlags::IN)];
        let timeout = Timespec::try_from(timeout).expect("a time that poll takes");
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => false,
            Ok(_) => {
                self.ends.to_frontend.silence();
                true
            }
            Err(error) => panic!("poll: {error}"),
        }
    }

    /// Events that the backend has sent on this port, ever.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.ends.sent.load(Ordering::Acquire)
    }

    /// Whether a backend is bound to it.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        self.ends.bound.load(Ordering::Acquire)
    }
}

impl Drop for MockPort {
    fn drop(&mut self) {
        self.ports.lock().remove(&self.ends.port);
    }
}

/// The backend's end.
#[derive(Debug)]
struct MockChannel(Arc<Ends>);

impl Notify for MockChannel {
    fn notify(&self) {
        self.0.sent.fetch_add(1, Ordering::AcqRel);
        self.0.to_frontend.ring();
    }
}

impl Channel for MockChannel {
    fn clear(&self) {
        self.0.to_backend.silence();
    }

    fn is_masked(&self) -> bool {
        self.0.masked.load(Ordering::Acquire)
    }
}

impl AsFd for MockChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.to_backend.as_fd()
    }
}

impl Drop for MockChannel {
    fn drop(&mut self) {
        self.0.bound.store(false, Ordering::Release);
    }
}
