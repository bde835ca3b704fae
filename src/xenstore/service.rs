//! The store in an event loop: the guest's ring, the unix socket and its
//! clients, and the wake-up from other threads, all in one subscriber.

use super::handle::StoreHandle;
use super::perms::DomId;
use super::quota;
use super::ring::{RingPage, RingTransport};
use super::server::Xenstore;
use super::socket::{SocketError, SocketListener};
use super::watch::ConnId;
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use vmm_sys_util::eventfd::EventFd;

/// Bytes read from one client before others get their turn.
const CLIENT_BUDGET: usize = 64 * 1024;

/// What the event loop tells this subscriber's descriptors apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Kick,
    Listener,
    Guest,
    Client(ConnId),
}

impl Source {
    const FIRST_CLIENT: u32 = 3;

    fn data(self) -> u32 {
        match self {
            Self::Kick => 0,
            Self::Listener => 1,
            Self::Guest => 2,
            Self::Client(ConnId(id)) => id.wrapping_add(Self::FIRST_CLIENT),
        }
    }

    fn of(data: u32) -> Self {
        match data {
            0 => Self::Kick,
            1 => Self::Listener,
            2 => Self::Guest,
            client => Self::Client(ConnId(client - Self::FIRST_CLIENT)),
        }
    }
}

/// What connects a guest with its store.
pub struct GuestLink {
    /// The domain.
    pub domid: DomId,
    /// Its xenstore page.
    pub page: Box<dyn RingPage + Send>,
    /// Signalled when the guest sends on its store port; made with
    /// `EFD_NONBLOCK`.
    pub port: EventFd,
    /// Sends an event to the guest's store port. Called without the store's
    /// lock.
    pub notify: Box<dyn Fn() + Send>,
}

impl fmt::Debug for GuestLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestLink")
            .field("domid", &self.domid)
            .finish_non_exhaustive()
    }
}

struct Guest {
    domid: DomId,
    ring: RingTransport<Box<dyn RingPage + Send>>,
    port: EventFd,
    notify: Box<dyn Fn() + Send>,
    registered: bool,
}

struct Client {
    stream: UnixStream,
    interest: EventSet,
}

/// The event loop's end of a store. Dropping it closes the socket and removes
/// its file.
///
/// The socket and the guest can be set at any time, before or after it is
/// added to the loop; other threads do so through the `Arc<Mutex<..>>` that
/// the loop takes as well.
pub struct XenstoreService {
    store: StoreHandle,
    listener: Option<(SocketListener, bool)>,
    guest: Option<Guest>,
    clients: HashMap<ConnId, Client>,
    /// Ports of guests that are gone, until the loop forgets them.
    retired_ports: Vec<EventFd>,
}

impl fmt::Debug for XenstoreService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XenstoreService")
            .field("listener", &self.listener)
            .field("domid", &self.guest.as_ref().map(|guest| guest.domid))
            .field("clients", &self.clients.len())
            .finish_non_exhaustive()
    }
}

impl XenstoreService {
    /// Serves `store`: nobody yet but the threads of this process.
    #[must_use]
    pub fn new(store: StoreHandle) -> Self {
        let clients = HashMap::new();
        Self {
            store,
            listener: None,
            guest: None,
            clients,
            retired_ports: Vec::new(),
        }
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &StoreHandle {
        &self.store
    }

    /// Opens the unix socket at `path` for the stock tools.
    ///
    /// # Errors
    /// [`SocketError`].
    pub fn listen(&mut self, path: &Path) -> Result<(), SocketError> {
        self.listener = Some((SocketListener::bind(path)?, false));
        self.store.kick();
        Ok(())
    }

    /// Takes a guest up: introduces the domain and serves its ring from now
    /// on. A guest that was attached before is detached. After a restore the
    /// domain's saved connection goes on.
    pub fn attach_guest(&mut self, link: GuestLink) {
        self.detach_guest();
        let GuestLink {
            domid,
            page,
            port,
            notify,
        } = link;
        let conn = self.store.with(|store| store.introduce_domain(domid));
        let ring = RingTransport::new(page, conn);
        self.guest = Some(Guest {
            domid,
            ring,
            port,
            notify,
            registered: false,
        });
        self.store.kick();
    }

    /// Lets go of the guest, if there is one: its watches and transactions go,
    /// watchers of `@releaseDomain` are told; its nodes stay.
    pub fn detach_guest(&mut self) {
        if let Some(guest) = self.guest.take() {
            self.store.with(|store| store.release_domain(guest.domid));
            if guest.registered {
                self.retired_ports.push(guest.port);
            }
            self.store.kick();
        }
    }

    /// Tells the loop of descriptors that came or went since.
    fn sync_registrations(&mut self, ops: &mut EventOps<'_>) {
        for port in self.retired_ports.drain(..) {
            let events = Events::with_data(&port, Source::Guest.data(), EventSet::IN);
            report(ops.remove(events), "forget a guest's port");
        }
        if let Some((listener, registered @ false)) = &mut self.listener {
            let events = Events::with_data(listener, Source::Listener.data(), EventSet::IN);
            *registered = report(ops.add(events), "wait for the xenstore socket");
        }
        if let Some(
            guest @ Guest {
                registered: false, ..
            },
        ) = &mut self.guest
        {
            let events = Events::with_data(&guest.port, Source::Guest.data(), EventSet::IN);
            guest.registered = report(ops.add(events), "wait for the guest's store port");
        }
    }

    fn accept_clients(&mut self, ops: &mut EventOps<'_>) {
        let Some((listener, _)) = &self.listener else {
            return;
        };
        loop {
            let stream = match listener.accept() {
                Ok(stream) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    log::warn!(target: "xenstore", "Cannot accept a xenstore client: {error}");
                    return;
                }
            };
            if self.clients.len() >= quota::SOCKET_CLIENTS {
                let most = quota::SOCKET_CLIENTS;
                log::warn!(target: "xenstore", "Refused a xenstore client: {most} are connected");
                continue;
            }
            let conn = self.store.with(|store| store.open_wire(0));
            let interest = EventSet::IN;
            let events = Events::with_data(&stream, Source::Client(conn).data(), interest);
            if report(ops.add(events), "wait for a xenstore client") {
                self.clients.insert(conn, Client { stream, interest });
            } else {
                self.store.close(conn);
            }
        }
    }

    /// Serves the ring, and again as soon as the loop is through with others
    /// if there is more than fits into one turn.
    fn service_guest(&mut self) {
        let Some(guest) = &mut self.guest else { return };
        let notify = guest.ring.service(&mut self.store.lock_for_transport());
        if notify {
            (guest.notify)();
        }
        if guest.ring.is_unfinished() {
            self.store.kick();
        }
    }

    fn service_client(&mut self, conn: ConnId, ops: &mut EventOps<'_>) {
        let Some(client) = self.clients.get_mut(&conn) else {
            return;
        };
        let mut store = self.store.lock_for_transport();
        let served = serve_client(client, conn, &mut store);
        drop(store);
        self.settle_client(conn, served, ops);
    }

    /// Sends events to the clients that got some.
    fn flush_clients(&mut self, ops: &mut EventOps<'_>) {
        let awaiting = self.store.lock_for_transport().take_awaiting_transport();
        for conn in awaiting {
            let Some(client) = self.clients.get_mut(&conn) else {
                continue;
            };
            let served = flush(client, conn, &mut self.store.lock_for_transport());
            self.settle_client(conn, served, ops);
        }
    }

    /// Adjusts what the loop waits for, or closes a client that is through.
    fn settle_client(&mut self, conn: ConnId, served: io::Result<()>, ops: &mut EventOps<'_>) {
        let Some(client) = self.clients.get_mut(&conn) else {
            return;
        };
        let interest = match served {
            Ok(()) => interest(conn, &mut self.store.lock_for_transport()),
            Err(error) => {
                if error.kind() != io::ErrorKind::UnexpectedEof {
                    log::debug!(target: "xenstore", "Closing a xenstore client: {error}");
                }
                self.close_client(conn, ops);
                return;
            }
        };
        if interest != client.interest {
            client.interest = interest;
            let data = Source::Client(conn).data();
            let events = Events::with_data(&client.stream, data, interest);
            if !report(ops.modify(events), "wait for a xenstore client") {
                self.close_client(conn, ops);
            }
        }
    }

    fn close_client(&mut self, conn: ConnId, ops: &mut EventOps<'_>) {
        if let Some(client) = self.clients.remove(&conn) {
            let data = Source::Client(conn).data();
            let events = Events::with_data(&client.stream, data, client.interest);
            report(ops.remove(events), "forget a xenstore client");
        }
        self.store.close(conn);
    }
}

impl MutEventSubscriber for XenstoreService {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let kick = self.store.kick_fd();
        let events = Events::with_data(kick, Source::Kick.data(), EventSet::IN);
        report(ops.add(events), "wait for other threads");
        self.sync_registrations(ops);
        // Whatever waits since before.
        self.store.kick();
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        match Source::of(events.data()) {
            Source::Kick => {
                // EAGAIN: somebody's earlier kick was taken care of already.
                let _ = self.store.kick_fd().read();
                self.sync_registrations(ops);
            }
            Source::Listener => self.accept_clients(ops),
            Source::Guest => {
                if let Some(guest) = &self.guest {
                    // EAGAIN, as above.
                    let _ = guest.port.read();
                }
            }
            Source::Client(conn) => self.service_client(conn, ops),
        }
        // In this order: requests of clients make events for the guest, and
        // the guest's requests make events for clients.
        self.service_guest();
        self.flush_clients(ops);
    }
}

impl Drop for XenstoreService {
    fn drop(&mut self) {
        for conn in self.clients.keys() {
            self.store.close(*conn);
        }
    }
}

/// Reads requests and sends answers as far as it goes without waiting.
fn serve_client(client: &Client, conn: ConnId, store: &mut Xenstore) -> io::Result<()> {
    let mut buffer = [0; 4096];
    let mut left = CLIENT_BUDGET;
    while left > 0 {
        flush(client, conn, store)?;
        let wanted = store.wanted(conn).map_err(io::Error::other)?;
        let Some(room) = buffer
            .get_mut(..wanted.min(4096))
            .filter(|room| !room.is_empty())
        else {
            return Ok(());
        };
        let n = match rustix::io::read(&client.stream, &mut *room) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => n,
            Err(rustix::io::Errno::AGAIN) => return Ok(()),
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        store
            .push_input(conn, room.get(..n).unwrap_or_default())
            .map_err(io::Error::other)?;
        left = left.saturating_sub(n);
    }
    flush(client, conn, store)
}

/// Sends what waits as far as the client's socket takes it.
fn flush(client: &Client, conn: ConnId, store: &mut Xenstore) -> io::Result<()> {
    loop {
        let output = store.pending_output(conn);
        if output.is_empty() {
            return Ok(());
        }
        // A client that is gone is an error here, not a signal.
        let flags = rustix::net::SendFlags::NOSIGNAL;
        match rustix::net::send(&client.stream, output, flags) {
            Ok(n) => store.consume_output(conn, n),
            Err(rustix::io::Errno::AGAIN) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// What to wait for: room to send what is left, and requests unless too much
/// is left.
fn interest(conn: ConnId, store: &mut Xenstore) -> EventSet {
    let mut interest = EventSet::empty();
    if store.has_output(conn) {
        interest |= EventSet::OUT;
    }
    if store.wanted(conn).is_ok_and(|wanted| wanted > 0) {
        interest |= EventSet::IN;
    }
    interest
}

/// Logs an error of the event loop; true if there was none.
fn report(result: Result<(), event_manager::Error>, what: &str) -> bool {
    if let Err(error) = &result {
        log::error!(target: "xenstore", "Cannot {what}: {error:?}");
    }
    result.is_ok()
}

#[cfg(test)]
#[path = "service_tests.rs"]
pub(in crate::xenstore) mod tests;
