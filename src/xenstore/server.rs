//! The store with its connections: every operation that a client can ask for,
//! with watch events delivered to whoever is due. Transports move the bytes;
//! `requests` turns messages into these operations.

use super::connection::{Connection, OutQueue, Sink};
use super::error::XsErrno;
use super::local::LocalQueue;
use super::ops::{Change, Log, View};
use super::path::{INTRODUCE_DOMAIN, RELEASE_DOMAIN, Resolved, StorePath};
use super::perms::{Access, DomId, Perm, Permissions};
use super::quota;
use super::requests;
use super::tree::{Node, Tree};
use super::watch::{ConnId, Due, NewWatch, Watches};
use super::wire::WireError;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The connection of the process itself, as domid 0, for operations without
/// watches. Always there.
pub const LOCAL: ConnId = ConnId(0);

/// The store. Single-threaded; see [`super::StoreHandle`] for the shared form.
///
/// Operations that name a connection which is closed answer ENOENT.
#[derive(Debug)]
pub struct Xenstore {
    pub(super) tree: Tree,
    pub(super) watches: Watches,
    pub(super) special_perms: BTreeMap<StorePath, Permissions>,
    pub(super) domains: BTreeMap<DomId, ConnId>,
    connections: BTreeMap<ConnId, Connection>,
    next_conn: u32,
    changes: Vec<Change>,
    first_events: Vec<Due>,
    awaiting_transport: BTreeSet<ConnId>,
}

impl Default for Xenstore {
    fn default() -> Self {
        Self::new()
    }
}

impl Xenstore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self {
            tree: Tree::new(),
            watches: Watches::default(),
            special_perms: BTreeMap::new(),
            domains: BTreeMap::new(),
            connections: BTreeMap::from([(LOCAL, Connection::new(0, Sink::Silent))]),
            next_conn: LOCAL.0 + 1,
            changes: Vec::new(),
            first_events: Vec::new(),
            awaiting_transport: BTreeSet::new(),
        }
    }

    // Connections.

    /// Opens a connection whose bytes a transport carries.
    pub fn open_wire(&mut self, domid: DomId) -> ConnId {
        self.open(Connection::new(domid, Sink::Wire(OutQueue::default())))
    }

    /// Opens a connection of this process, as domid 0, with a queue for its
    /// watch events.
    pub fn open_local(&mut self, queue: Arc<LocalQueue>) -> ConnId {
        self.open(Connection::new(0, Sink::Local(queue)))
    }

    fn open(&mut self, connection: Connection) -> ConnId {
        let id = ConnId(self.next_conn);
        self.next_conn += 1;
        self.connections.insert(id, connection);
        id
    }

    /// Closes a connection: its watches and transactions go.
    pub fn close(&mut self, id: ConnId) {
        self.watches.remove_all(id);
        self.awaiting_transport.remove(&id);
        self.domains.retain(|_, conn| *conn != id);
        self.connections.remove(&id);
    }

    /// Forgets everything that a connection has said and was to be told, as
    /// when its other end starts anew.
    pub fn reset(&mut self, id: ConnId) {
        self.watches.remove_all(id);
        self.awaiting_transport.remove(&id);
        if let Some(connection) = self.connections.get_mut(&id) {
            *connection = Connection::new(connection.domid, Sink::Wire(OutQueue::default()));
        }
    }

    /// How many bytes the connection's client may be asked for now; 0 while it
    /// leaves its answers unread (and for a closed connection).
    ///
    /// # Errors
    /// [`WireError`] once it has sent something senseless.
    pub fn wanted(&self, id: ConnId) -> Result<usize, WireError> {
        self.connections.get(&id).map_or(Ok(0), Connection::wanted)
    }

    /// Takes bytes from the client, at most as many as are wanted, and
    /// answers the request that they complete.
    ///
    /// # Errors
    /// [`WireError`] if they are senseless; close or reset the connection.
    pub fn push_input(&mut self, id: ConnId, bytes: &[u8]) -> Result<(), WireError> {
        let Some(connection) = self.connections.get_mut(&id) else {
            return Ok(());
        };
        if let Some(request) = connection.push(bytes)? {
            let reply = requests::answer(self, id, &request);
            if let Some(out) = self.connections.get_mut(&id).and_then(Connection::output) {
                out.push_reply(reply);
            }
            self.announce();
        }
        Ok(())
    }

    /// The next bytes for the client; empty if nothing waits.
    #[must_use]
    pub fn pending_output(&mut self, id: ConnId) -> &[u8] {
        self.output(id).map_or(&[], |out| out.front())
    }

    /// Notes that the client has `n` bytes of [`Xenstore::pending_output`].
    pub fn consume_output(&mut self, id: ConnId, n: usize) {
        if let Some(out) = self.output(id) {
            out.advance(n);
        }
    }

    /// True if messages wait for the connection's client.
    #[must_use]
    pub fn has_output(&mut self, id: ConnId) -> bool {
        self.output(id).is_some_and(|out| !out.is_empty())
    }

    /// The connections that got watch events since the last call and that a
    /// transport has to serve.
    pub fn take_awaiting_transport(&mut self) -> BTreeSet<ConnId> {
        std::mem::take(&mut self.awaiting_transport)
    }

    /// True if [`Xenstore::take_awaiting_transport`] would give any.
    #[must_use]
    pub fn is_transport_awaited(&self) -> bool {
        !self.awaiting_transport.is_empty()
    }

    pub(super) fn connection(&self, id: ConnId) -> Result<&Connection, XsErrno> {
        self.connections.get(&id).ok_or(XsErrno::ENOENT)
    }

    pub(super) fn connection_mut(&mut self, id: ConnId) -> Result<&mut Connection, XsErrno> {
        self.connections.get_mut(&id).ok_or(XsErrno::ENOENT)
    }

    fn output(&mut self, id: ConnId) -> Option<&mut OutQueue> {
        self.connections.get_mut(&id).and_then(Connection::output)
    }

    // Domains.

    /// Takes up a domain: gives it a connection, to be served through its
    /// ring, and tells the watchers of `@introduceDomain`. A domain that is
    /// known keeps its connection.
    pub fn introduce_domain(&mut self, domid: DomId) -> ConnId {
        if let Some(id) = self.domains.get(&domid) {
            return *id;
        }
        let id = self.open_wire(domid);
        self.domains.insert(domid, id);
        self.announce_special(INTRODUCE_DOMAIN, domid);
        id
    }

    /// Lets go of a domain and tells the watchers of `@releaseDomain`. Its
    /// nodes stay. False if the domain is not known.
    pub fn release_domain(&mut self, domid: DomId) -> bool {
        let Some(id) = self.domains.remove(&domid) else {
            return false;
        };
        self.close(id);
        self.announce_special(RELEASE_DOMAIN, domid);
        true
    }

    /// Tells the watchers of `@releaseDomain` that a domain that is still
    /// known has shut down or crashed.
    pub fn domain_shut_down(&mut self, domid: DomId) {
        self.announce_special(RELEASE_DOMAIN, domid);
    }

    /// True if the store serves the domain.
    #[must_use]
    pub fn is_introduced(&self, domid: DomId) -> bool {
        domid == 0 || self.domains.contains_key(&domid)
    }

    // Nodes. Each takes the transaction's number, 0 for none, and the path as
    // the client wrote it.

    /// Runs one operation on what the connection sees. Changes of the store
    /// itself are kept until [`Xenstore::announce`].
    fn on_view<T>(
        &mut self,
        id: ConnId,
        tx: u32,
        path: &[u8],
        run: impl FnOnce(&mut View<'_>, &StorePath) -> Result<T, XsErrno>,
    ) -> Result<T, XsErrno> {
        let connection = self.connections.get_mut(&id).ok_or(XsErrno::ENOENT)?;
        let domid = connection.domid;
        if tx == 0 {
            let path = StorePath::resolve(path, domid)?.path;
            run(
                &mut View::new(&mut self.tree, domid, Log::Direct(&mut self.changes)),
                &path,
            )
        } else {
            let transaction = connection.transaction(tx)?;
            let path = StorePath::resolve(path, domid)?.path;
            run(&mut transaction.view(domid), &path)
        }
    }

    /// The value of a node.
    ///
    /// # Errors
    /// EINVAL, EACCES, ENOENT; ENOSPC if an unprivileged domain's transaction
    /// has grown too large. So have all operations on nodes.
    pub fn read(&mut self, id: ConnId, tx: u32, path: &[u8]) -> Result<Arc<[u8]>, XsErrno> {
        self.on_view(id, tx, path, |view, path| view.read(path))
    }

    /// The node at `path`, to list its children.
    ///
    /// # Errors
    /// As [`Xenstore::read`].
    pub fn directory(&mut self, id: ConnId, tx: u32, path: &[u8]) -> Result<Arc<Node>, XsErrno> {
        self.on_view(id, tx, path, |view, path| view.directory(path))
    }

    /// Sets a value, creating the node and its ancestors as needed.
    ///
    /// # Errors
    /// As [`Xenstore::read`], without ENOENT for the path; ENOSPC for quotas.
    pub fn write(&mut self, id: ConnId, tx: u32, path: &[u8], value: &[u8]) -> Result<(), XsErrno> {
        self.on_view(id, tx, path, |view, path| view.write(path, value))
    }

    /// Makes sure that a node exists.
    ///
    /// # Errors
    /// As [`Xenstore::write`].
    pub fn mkdir(&mut self, id: ConnId, tx: u32, path: &[u8]) -> Result<(), XsErrno> {
        self.on_view(id, tx, path, |view, path| view.mkdir(path))
    }

    /// Removes a node and everything below it.
    ///
    /// # Errors
    /// As [`Xenstore::read`]; a missing node whose parent exists is fine.
    pub fn rm(&mut self, id: ConnId, tx: u32, path: &[u8]) -> Result<(), XsErrno> {
        self.on_view(id, tx, path, |view, path| view.rm(path))
    }

    /// The permissions of a node or of a special watch path.
    ///
    /// # Errors
    /// As [`Xenstore::read`].
    pub fn perms(&mut self, id: ConnId, tx: u32, path: &[u8]) -> Result<Permissions, XsErrno> {
        if path.starts_with(b"@") {
            let domid = self.connection(id)?.domid;
            let perms = self.special_perms(&StorePath::resolve_watch(path, domid)?.path);
            return perms
                .allows(domid, Access::READ)
                .then_some(perms)
                .ok_or(XsErrno::EACCES);
        }
        self.on_view(id, tx, path, |view, path| view.perms(path))
    }

    /// Sets the permissions of a node, or, as domid 0, of a special watch path.
    ///
    /// # Errors
    /// As [`Xenstore::read`]; EPERM if an unprivileged owner would give the
    /// node away.
    pub fn set_perms(
        &mut self,
        id: ConnId,
        tx: u32,
        path: &[u8],
        perms: &[Perm],
    ) -> Result<(), XsErrno> {
        if path.starts_with(b"@") {
            let domid = self.connection(id)?.domid;
            let special = StorePath::resolve_watch(path, domid)?.path;
            if domid != 0 {
                return Err(XsErrno::EACCES);
            }
            self.special_perms.insert(special, Permissions::new(perms)?);
            return Ok(());
        }
        self.on_view(id, tx, path, |view, path| view.set_perms(path, perms))
    }

    // Transactions.

    /// Starts a transaction; returns its number.
    ///
    /// # Errors
    /// ENOSPC if an unprivileged domain has too many.
    pub fn start_transaction(&mut self, id: ConnId) -> Result<u32, XsErrno> {
        let connection = self.connections.get_mut(&id).ok_or(XsErrno::ENOENT)?;
        connection.start_transaction(&self.tree)
    }

    /// Ends a transaction. Its number is void afterwards in every case.
    ///
    /// # Errors
    /// ENOENT for an unknown number; with `commit`, EAGAIN after a conflicting
    /// change, or ENOSPC if a quota is exceeded.
    pub fn end_transaction(&mut self, id: ConnId, tx: u32, commit: bool) -> Result<(), XsErrno> {
        let connection = self.connections.get_mut(&id).ok_or(XsErrno::ENOENT)?;
        let transaction = connection.take_transaction(tx)?;
        if commit {
            let (tree, changes) = transaction.commit(&self.tree, connection.domid)?;
            self.tree = tree;
            self.changes.extend(changes);
        }
        Ok(())
    }

    // Watches.

    /// Sets a watch. The first event, which every watch gets, is delivered by
    /// [`Xenstore::announce`], after the answer.
    ///
    /// # Errors
    /// EINVAL, EEXIST; ENOSPC if an unprivileged domain has too many. A special
    /// path may be watched by everybody, as on Xen; its later events are for
    /// those who may read it.
    pub fn watch(
        &mut self,
        id: ConnId,
        path: &[u8],
        token: &[u8],
        depth: Option<u32>,
    ) -> Result<(), XsErrno> {
        let domid = self.connection(id)?.domid;
        let Resolved { path, relative } = StorePath::resolve_watch(path, domid)?;
        if domid != 0 && self.watches.count(id) >= quota::WATCHES_PER_DOMAIN {
            return Err(XsErrno::ENOSPC);
        }
        let token = Arc::from(token);
        let new = NewWatch {
            conn: id,
            domid,
            path: path.clone(),
            token,
            relative,
            depth,
        };
        let watch = self.watches.add(new)?;
        self.first_events.push(Due { watch, path });
        Ok(())
    }

    /// Takes a watch away.
    ///
    /// # Errors
    /// EINVAL, ENOENT.
    pub fn unwatch(&mut self, id: ConnId, path: &[u8], token: &[u8]) -> Result<(), XsErrno> {
        let domid = self.connection(id)?.domid;
        let path = StorePath::resolve_watch(path, domid)?.path;
        self.watches.remove(id, &path, token)
    }

    /// Takes all watches of the connection away and drops its transactions.
    ///
    /// # Errors
    /// None for an open connection.
    pub fn reset_watches(&mut self, id: ConnId) -> Result<(), XsErrno> {
        self.watches.remove_all(id);
        self.connection_mut(id)?.abort_transactions();
        Ok(())
    }

    // Events.

    /// Tells the watchers of everything that changed since the last call, and
    /// new watchers their first event. To be called after each operation; a
    /// request that comes through a transport is taken care of.
    pub fn announce(&mut self) {
        for change in std::mem::take(&mut self.changes) {
            for due in self.watches.matching(&change, &self.tree) {
                self.deliver(&due);
            }
        }
        for due in std::mem::take(&mut self.first_events) {
            self.deliver(&due);
        }
    }

    fn announce_special(&mut self, name: &str, domid: DomId) {
        let special = StorePath::special(name, domid);
        let may_read = |path: &StorePath, domid| self.may_watch_special(path, domid);
        for due in self.watches.matching_special(&special, may_read) {
            self.deliver(&due);
        }
    }

    /// A special path's permissions: its own, or those of the general path, or
    /// domid 0's alone.
    fn special_perms(&self, path: &StorePath) -> Permissions {
        let set = path
            .ancestors()
            .find_map(|path| self.special_perms.get(&path));
        set.cloned().unwrap_or_else(|| Permissions::private(0))
    }

    fn may_watch_special(&self, path: &StorePath, domid: DomId) -> bool {
        self.special_perms(path).allows(domid, Access::READ)
    }

    fn deliver(&mut self, due: &Due) {
        let id = due.watch.conn;
        match self
            .connections
            .get_mut(&id)
            .map(|connection| &mut connection.sink)
        {
            Some(Sink::Wire(out)) => {
                out.push_event(due);
                self.awaiting_transport.insert(id);
            }
            Some(Sink::Local(queue)) => queue.push(due),
            Some(Sink::Silent) | None => {}
        }
    }
}
