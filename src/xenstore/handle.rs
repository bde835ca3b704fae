//! The store as the rest of this process uses it: a handle to share between
//! threads, with the rights of domid 0.
//!
//! Guests and tools come by other ways; see `ring` and `socket`.

use super::error::{StoreError, XsErrno};
use super::local::{LocalQueue, WatchQueue};
use super::path::StorePath;
use super::perms::{DomId, Perm};
use super::server::{LOCAL, Xenstore};
use super::snapshot::StoreState;
use super::watch::ConnId;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Conflicts after which a transaction is given up. Each one means that
/// another writer got through, so only a flood of writes reaches it.
const TRANSACTION_ATTEMPTS: u32 = 100;

#[derive(Debug)]
struct Shared {
    store: Mutex<Xenstore>,
    kick: EventFd,
}

/// A shared store; clones are the same store. Every operation is atomic, is
/// done as domid 0, and delivers its watch events before it returns (those for
/// guests and tools are sent by the event loop).
#[derive(Debug, Clone)]
pub struct StoreHandle {
    shared: Arc<Shared>,
}

impl StoreHandle {
    /// A handle to an empty store.
    ///
    /// # Errors
    /// [`StoreError::EventFd`] if there are no file descriptors left.
    pub fn new() -> Result<Self, StoreError> {
        Self::with_store(Xenstore::new())
    }

    /// A handle to a store as it was saved.
    ///
    /// # Errors
    /// [`StoreError::BadState`] if the state is not valid, else as
    /// [`StoreHandle::new`].
    pub fn restore(state: &StoreState) -> Result<Self, StoreError> {
        Self::with_store(Xenstore::restore(state)?)
    }

    fn with_store(store: Xenstore) -> Result<Self, StoreError> {
        let kick = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(StoreError::EventFd)?;
        Ok(Self {
            shared: Arc::new(Shared {
                store: Mutex::new(store),
                kick,
            }),
        })
    }

    /// The nodes, and the guests' connections with their watches.
    #[must_use]
    pub fn save(&self) -> StoreState {
        self.with(|store| store.save())
    }

    /// Runs `run` on the store, then sees to it that events go out. Nobody
    /// else gets at the store meanwhile; `run` must not use a handle.
    pub fn with<T>(&self, run: impl FnOnce(&mut Xenstore) -> T) -> T {
        let mut store = self.lock();
        let result = run(&mut store);
        store.announce();
        let kick = store.is_transport_awaited();
        drop(store);
        if kick {
            self.kick();
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, Xenstore> {
        // A thread that panicked under the lock has done part of one
        // operation at worst; the tree itself is replaced as a whole.
        self.shared
            .store
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The store for the event loop, which sends what waits itself.
    pub(super) fn lock_for_transport(&self) -> MutexGuard<'_, Xenstore> {
        self.lock()
    }

    /// Readable when the event loop has something to send.
    pub(super) fn kick_fd(&self) -> &EventFd {
        &self.shared.kick
    }

    /// Wakes the event loop.
    pub(super) fn kick(&self) {
        if let Err(error) = self.shared.kick.write(1) {
            // EAGAIN: the counter is full, so the loop is woken anyway.
            if error.kind() != std::io::ErrorKind::WouldBlock {
                log::error!(target: "xenstore", "Cannot wake the xenstore event loop: {error}");
            }
        }
    }

    pub(super) fn close(&self, conn: ConnId) {
        self.with(|store| store.close(conn));
    }

    /// The value of a node.
    ///
    /// # Errors
    /// [`StoreError::Refused`], with ENOENT if there is no such node.
    pub fn read(&self, path: &str) -> Result<Vec<u8>, StoreError> {
        let value = self.with(|store| store.read(LOCAL, 0, path.as_bytes()));
        value
            .map(|value| value.to_vec())
            .map_err(refused("read", path))
    }

    /// The value of a node as text.
    ///
    /// # Errors
    /// As [`StoreHandle::read`]; [`StoreError::NotText`] if it is not UTF-8.
    pub fn read_string(&self, path: &str) -> Result<String, StoreError> {
        let value = self.read(path)?;
        String::from_utf8(value).map_err(|_| StoreError::NotText {
            path: path.to_owned(),
        })
    }

    /// The value of a node as text, or nothing if there is no such node.
    ///
    /// # Errors
    /// As [`StoreHandle::read_string`] but for ENOENT.
    pub fn try_read(&self, path: &str) -> Result<Option<String>, StoreError> {
        present(self.read_string(path))
    }

    /// True if there is such a node.
    ///
    /// # Errors
    /// [`StoreError::Refused`] if the path is not valid.
    pub fn exists(&self, path: &str) -> Result<bool, StoreError> {
        Ok(present(self.read(path))?.is_some())
    }

    /// Sets a value, creating the node and its ancestors as needed.
    ///
    /// # Errors
    /// [`StoreError::Refused`] if the path is not valid.
    pub fn write(&self, path: &str, value: impl AsRef<[u8]>) -> Result<(), StoreError> {
        self.with(|store| store.write(LOCAL, 0, path.as_bytes(), value.as_ref()))
            .map_err(refused("write", path))
    }

    /// Makes sure that a node exists.
    ///
    /// # Errors
    /// [`StoreError::Refused`] if the path is not valid.
    pub fn mkdir(&self, path: &str) -> Result<(), StoreError> {
        self.with(|store| store.mkdir(LOCAL, 0, path.as_bytes()))
            .map_err(refused("create", path))
    }

    /// Removes a node and everything below it; a missing node is fine, a
    /// missing parent is not.
    ///
    /// # Errors
    /// [`StoreError::Refused`].
    pub fn rm(&self, path: &str) -> Result<(), StoreError> {
        self.with(|store| store.rm(LOCAL, 0, path.as_bytes()))
            .map_err(refused("remove", path))
    }

    /// The names of a node's children, in order.
    ///
    /// # Errors
    /// [`StoreError::Refused`], with ENOENT if there is no such node.
    pub fn list(&self, path: &str) -> Result<Vec<String>, StoreError> {
        let node = self.with(|store| store.directory(LOCAL, 0, path.as_bytes()));
        let node = node.map_err(refused("list", path))?;
        Ok(node.children().map(|(name, _)| name.to_owned()).collect())
    }

    /// The permissions of a node, the owner's entry first.
    ///
    /// # Errors
    /// [`StoreError::Refused`], with ENOENT if there is no such node.
    pub fn perms(&self, path: &str) -> Result<Vec<Perm>, StoreError> {
        let perms = self.with(|store| store.perms(LOCAL, 0, path.as_bytes()));
        perms
            .map(|perms| perms.entries().to_vec())
            .map_err(refused("read permissions of", path))
    }

    /// Sets the permissions of a node, the owner's entry first.
    ///
    /// # Errors
    /// [`StoreError::Refused`], with ENOENT if there is no such node.
    pub fn set_perms(&self, path: &str, perms: &[Perm]) -> Result<(), StoreError> {
        self.with(|store| store.set_perms(LOCAL, 0, path.as_bytes(), perms))
            .map_err(refused("set permissions of", path))
    }

    /// Runs `run` in a transaction: what it reads is consistent, what it
    /// writes appears at once. It is run again if another writer interfered,
    /// so it should do nothing but use the transaction. Its error aborts.
    ///
    /// # Errors
    /// Those of `run`; [`StoreError::Conflict`] after very many attempts.
    pub fn transaction<T>(
        &self,
        mut run: impl FnMut(&StoreTransaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        for _ in 0..TRANSACTION_ATTEMPTS {
            let started = self.with(|store| store.start_transaction(LOCAL));
            let id = started.map_err(refused("start a transaction on", "/"))?;
            let transaction = StoreTransaction {
                store: self,
                id,
                open: true.into(),
            };
            let result = run(&transaction)?;
            match transaction.commit() {
                Ok(()) => return Ok(result),
                Err(XsErrno::EAGAIN) => {}
                Err(errno) => return Err(refused("commit a transaction on", "/")(errno)),
            }
        }
        Err(StoreError::Conflict {
            attempts: TRANSACTION_ATTEMPTS,
        })
    }

    /// A queue for watch events. The watches set on it end with its last
    /// clone.
    ///
    /// # Errors
    /// [`StoreError::EventFd`] if there are no file descriptors left.
    pub fn watch_queue(&self) -> Result<WatchQueue, StoreError> {
        let queue = Arc::new(LocalQueue::new().map_err(StoreError::EventFd)?);
        let conn = self.with(|store| store.open_local(Arc::clone(&queue)));
        Ok(WatchQueue::new(self.clone(), conn, queue))
    }

    /// Watches `path` and everything below it, or a special path such as
    /// `@releaseDomain`; `token` comes back with each event. A first event for
    /// `path` itself is queued at once.
    ///
    /// # Errors
    /// [`StoreError::Refused`], with EEXIST if the queue has this watch.
    pub fn watch(&self, queue: &WatchQueue, path: &str, token: &str) -> Result<(), StoreError> {
        let conn = queue.conn();
        self.with(|store| store.watch(conn, path.as_bytes(), token.as_bytes(), None))
            .map_err(refused("watch", path))
    }

    /// Takes a watch away. Events that wait already stay in the queue.
    ///
    /// # Errors
    /// [`StoreError::Refused`], with ENOENT if the queue has no such watch.
    pub fn unwatch(&self, queue: &WatchQueue, path: &str, token: &str) -> Result<(), StoreError> {
        let conn = queue.conn();
        self.with(|store| store.unwatch(conn, path.as_bytes(), token.as_bytes()))
            .map_err(refused("unwatch", path))
    }

    /// Tells the watchers of `@releaseDomain` that the domain has shut down or
    /// crashed.
    pub fn domain_shut_down(&self, domid: DomId) {
        self.with(|store| store.domain_shut_down(domid));
    }

    /// All nodes with their values, parents first; for debugging commands.
    #[must_use]
    pub fn dump(&self) -> Vec<(StorePath, Vec<u8>, Vec<Perm>)> {
        // A snapshot costs nothing; the walk is done without the lock.
        let tree = self.with(|store| store.tree.clone());
        let mut all = Vec::new();
        tree.visit(&mut |path, node| {
            all.push((
                path.clone(),
                node.value().to_vec(),
                node.perms().entries().to_vec(),
            ));
        });
        all
    }
}

/// A transaction in the course of [`StoreHandle::transaction`].
#[derive(Debug)]
pub struct StoreTransaction<'a> {
    store: &'a StoreHandle,
    id: u32,
    open: std::cell::Cell<bool>,
}

impl StoreTransaction<'_> {
    /// As [`StoreHandle::read`].
    ///
    /// # Errors
    /// As [`StoreHandle::read`].
    pub fn read(&self, path: &str) -> Result<Vec<u8>, StoreError> {
        let value = self
            .store
            .with(|store| store.read(LOCAL, self.id, path.as_bytes()));
        value
            .map(|value| value.to_vec())
            .map_err(refused("read", path))
    }

    /// As [`StoreHandle::try_read`].
    ///
    /// # Errors
    /// As [`StoreHandle::try_read`].
    pub fn try_read(&self, path: &str) -> Result<Option<String>, StoreError> {
        let Some(value) = present(self.read(path))? else {
            return Ok(None);
        };
        let text = String::from_utf8(value);
        text.map(Some).map_err(|_| StoreError::NotText {
            path: path.to_owned(),
        })
    }

    /// As [`StoreHandle::write`].
    ///
    /// # Errors
    /// As [`StoreHandle::write`].
    pub fn write(&self, path: &str, value: impl AsRef<[u8]>) -> Result<(), StoreError> {
        let (id, value) = (self.id, value.as_ref());
        self.store
            .with(|store| store.write(LOCAL, id, path.as_bytes(), value))
            .map_err(refused("write", path))
    }

    /// As [`StoreHandle::mkdir`].
    ///
    /// # Errors
    /// As [`StoreHandle::mkdir`].
    pub fn mkdir(&self, path: &str) -> Result<(), StoreError> {
        let id = self.id;
        self.store
            .with(|store| store.mkdir(LOCAL, id, path.as_bytes()))
            .map_err(refused("create", path))
    }

    /// As [`StoreHandle::rm`].
    ///
    /// # Errors
    /// As [`StoreHandle::rm`].
    pub fn rm(&self, path: &str) -> Result<(), StoreError> {
        let id = self.id;
        self.store
            .with(|store| store.rm(LOCAL, id, path.as_bytes()))
            .map_err(refused("remove", path))
    }

    /// As [`StoreHandle::list`].
    ///
    /// # Errors
    /// As [`StoreHandle::list`].
    pub fn list(&self, path: &str) -> Result<Vec<String>, StoreError> {
        let node = self
            .store
            .with(|store| store.directory(LOCAL, self.id, path.as_bytes()));
        let node = node.map_err(refused("list", path))?;
        Ok(node.children().map(|(name, _)| name.to_owned()).collect())
    }

    /// As [`StoreHandle::set_perms`].
    ///
    /// # Errors
    /// As [`StoreHandle::set_perms`].
    pub fn set_perms(&self, path: &str, perms: &[Perm]) -> Result<(), StoreError> {
        let id = self.id;
        self.store
            .with(|store| store.set_perms(LOCAL, id, path.as_bytes(), perms))
            .map_err(refused("set permissions of", path))
    }

    fn commit(&self) -> Result<(), XsErrno> {
        self.open.set(false);
        self.store
            .with(|store| store.end_transaction(LOCAL, self.id, true))
    }
}

impl Drop for StoreTransaction<'_> {
    fn drop(&mut self) {
        if self.open.get() {
            // Only an unknown number is refused, and then there is nothing to end.
            let _ = self
                .store
                .with(|store| store.end_transaction(LOCAL, self.id, false));
        }
    }
}

fn refused(operation: &'static str, path: &str) -> impl FnOnce(XsErrno) -> StoreError {
    move |errno| StoreError::Refused {
        operation,
        path: path.to_owned(),
        errno,
    }
}

fn present<T>(result: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.errno() == Some(XsErrno::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[path = "handle_tests.rs"]
mod tests;
