//! Watch events for users inside this process: a queue with an eventfd, to be
//! waited for in a thread or in an event loop.

use super::connection::EventLedger;
use super::handle::StoreHandle;
use super::path::StorePath;
use super::watch::{ConnId, Due};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// A change below a watched path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchEvent {
    /// The node that changed (or the watched path: when it was set, when an
    /// ancestor was removed, and when too much happened to tell each).
    pub path: String,
    /// The name that the watch was given when it was set.
    pub token: String,
}

#[derive(Debug, Default)]
struct State {
    ledger: EventLedger,
    events: VecDeque<(u64, StorePath, WatchEvent)>,
}

/// The store's end of a [`WatchQueue`].
#[derive(Debug)]
pub struct LocalQueue {
    state: Mutex<State>,
    ready: Condvar,
    event_fd: EventFd,
}

impl LocalQueue {
    /// An empty queue.
    ///
    /// # Errors
    /// If there are no file descriptors left.
    pub fn new() -> io::Result<Self> {
        let event_fd = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        Ok(Self {
            state: Mutex::default(),
            ready: Condvar::new(),
            event_fd,
        })
    }

    /// Adds an event, unless the same one waits already.
    pub fn push(&self, due: &Due) {
        let mut state = self.lock();
        let Some(path) = state.ledger.admit(due) else {
            return;
        };
        let event = WatchEvent {
            path: due.watch.event_path(&path).to_owned(),
            token: String::from_utf8_lossy(&due.watch.token).into_owned(),
        };
        state.events.push_back((due.watch.id, path, event));
        self.ready.notify_all();
        drop(state);
        if let Err(error) = self.event_fd.write(1) {
            // EAGAIN: the counter is full, so the reader is woken anyway.
            if error.kind() != io::ErrorKind::WouldBlock {
                log::error!(target: "xenstore", "Cannot signal a watch queue: {error}");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pop(state: &mut State) -> Option<WatchEvent> {
        let (watch_id, path, event) = state.events.pop_front()?;
        state.ledger.told(watch_id, &path);
        Some(event)
    }

    fn clear_signal(&self) {
        // An error means that nothing was signalled.
        let _ = self.event_fd.read();
    }
}

/// Takes the watches away with the last clone of the queue.
#[derive(Debug)]
struct Registration {
    store: StoreHandle,
    conn: ConnId,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.store.close(self.conn);
    }
}

/// A queue of watch events; clones share it. See
/// [`StoreHandle::watch_queue`] and [`StoreHandle::watch`]. The watches end
/// with the last clone.
///
/// In an event loop: wait for its file descriptor to become readable, then
/// call [`WatchQueue::try_next`] until it returns `None`, which also resets
/// the descriptor.
#[derive(Debug, Clone)]
pub struct WatchQueue {
    queue: Arc<LocalQueue>,
    registration: Arc<Registration>,
}

impl WatchQueue {
    pub(super) fn new(store: StoreHandle, conn: ConnId, queue: Arc<LocalQueue>) -> Self {
        Self {
            queue,
            registration: Arc::new(Registration { store, conn }),
        }
    }

    pub(super) fn conn(&self) -> ConnId {
        self.registration.conn
    }

    /// The next event, if there is one.
    #[must_use]
    pub fn try_next(&self) -> Option<WatchEvent> {
        let event = LocalQueue::pop(&mut self.queue.lock());
        if event.is_some() {
            return event;
        }
        self.queue.clear_signal();
        // One may have come before the signal was cleared.
        LocalQueue::pop(&mut self.queue.lock())
    }

    /// Waits for the next event, at most for `timeout`.
    #[must_use]
    pub fn wait(&self, timeout: Duration) -> Option<WatchEvent> {
        // A deadline beyond the clock's range never comes.
        let deadline = Instant::now().checked_add(timeout);
        let mut state = self.queue.lock();
        loop {
            if let Some(event) = LocalQueue::pop(&mut state) {
                return Some(event);
            }
            let left = match deadline {
                Some(deadline) => deadline.checked_duration_since(Instant::now())?,
                None => timeout,
            };
            let waited = self.queue.ready.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl AsRawFd for WatchQueue {
    /// Readable while events wait.
    fn as_raw_fd(&self) -> RawFd {
        self.queue.event_fd.as_raw_fd()
    }
}

impl AsFd for WatchQueue {
    /// As [`AsRawFd`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        crate::fd::of_event(&self.queue.event_fd)
    }
}
