//! A character device: an end with its queue, its log file and its escape keys, behind one pollable
//! descriptor.
//!
//! # Waiting
//!
//! A device's descriptors come and go, so it keeps an epoll instance of its own, and that is the one
//! descriptor a caller's event loop watches (for input, level-triggered, for the device's whole
//! life). When it is readable, [`Chardev::dispatch`] does what there is to do.
//!
//! # Back-pressure
//!
//! [`Chardev::write`] takes bytes up to a small bound ([`BOUND`](crate::BOUND)) when a listener is
//! slow, and says how many. The caller keeps the rest and tries again after the next `dispatch`.
//! With nobody listening it takes everything, and keeps the newest [`SCROLLBACK`](crate::SCROLLBACK)
//! bytes for whoever comes next. [`Chardev::read`] is asked only for what the caller has room for;
//! [`Chardev::set_wants_input`] says whether to be woken for it.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};

use crate::config::{ChardevBackend, ChardevConfig};
use crate::endpoint::{
    Endpoint, FileEnd, NullEnd, PipeEnd, PtyEnd, RingbufEnd, SocketEnd, SocketOptions, StdioEnd,
    Token, Want, open_for_output, retry,
};
use crate::error::ChardevError;
use crate::fdpass::FdSource;
use crate::mux::{self, Mux, Typed};
use crate::outqueue::OutQueue;

/// Typed bytes that a multiplexed end holds for a guest that does not read. Beyond it the terminal
/// is not read, and the escape keys are dead until the guest reads.
const TYPED_BOUND: usize = 64 << 10;

/// How long a dropped device waits for a slow listener to take the last output.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The token of the descriptor by which a device wakes its own event loop.
const KICK: u64 = 0;

/// Something that happened on the user's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChardevEvent {
    /// A listener arrived.
    Opened,
    /// The listener went away.
    Closed,
    /// C-a x: the user wants the domain ended at once.
    Quit,
    /// C-a s: the user wants temporary disks written back.
    Commit,
    /// C-a c: the user wants the monitor. The device has already said that there is none.
    Monitor,
}

/// What a device can be given beside its configuration.
#[derive(Debug, Clone, Copy)]
pub struct ChardevOptions {
    /// The escape key of a multiplexed end (`-echr`).
    pub escape: u8,
    /// What the guest gets for a break (C-a b), since a byte stream has none. The default is 0x0f,
    /// Ctrl-o, which Linux's hvc console takes as the prefix of a magic sysrq key.
    pub break_byte: u8,
    /// Each connection is a conversation of its own, as a monitor's is: what one peer did not take
    /// or say is no other's business, a second peer waits for the first to leave, and descriptors
    /// that a peer sends are kept ([`Chardev::take_fds`]).
    pub conversation: bool,
}

impl Default for ChardevOptions {
    fn default() -> Self {
        Self {
            escape: mux::ESCAPE,
            break_byte: 0x0f,
            conversation: false,
        }
    }
}

/// What a device holds of its domain's, for a saved or migrated domain: bytes on their way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChardevState {
    /// Output that no listener has taken yet.
    pub queued: Vec<u8>,
    /// Whether the first line of `queued` has lost its beginning.
    pub torn: bool,
    /// Typed bytes that the domain has not taken yet.
    pub typed: Vec<u8>,
}

/// An open character device. See the module's documentation.
pub struct Chardev {
    id: String,
    endpoint: Box<dyn Endpoint>,
    epoll: OwnedFd,
    kick: OwnedFd,
    watched: Vec<(Token, EventFlags)>,
    was_connected: bool,
    peers: u64,
    conversation: bool,
    out: OutQueue,
    wants_input: bool,
    mux: Option<Mux>,
    break_byte: u8,
    typed: VecDeque<u8>,
    log: Option<FileEnd>,
    opened_at: Instant,
    events: Vec<ChardevEvent>,
}

impl Chardev {
    /// Opens the device that `config` describes.
    ///
    /// A pty's name goes to standard output, as QEMU prints it. `wait=on` blocks here until a peer
    /// connects; signals that are to end the program meanwhile must not be blocked yet.
    pub fn open(
        config: &ChardevConfig,
        options: ChardevOptions,
        fds: &mut dyn FdSource,
    ) -> Result<Self, ChardevError> {
        let log = match &config.logfile {
            Some(path) => Some(open_file(&config.id, path, config.logappend, fds)?),
            None => None,
        };
        let endpoint = open_endpoint(config, options.conversation, fds)?;
        let mux = config.mux.then(|| Mux::new(options.escape));
        let failed = |source| ChardevError::Events {
            id: config.id.clone(),
            source,
        };
        Self::assemble(&config.id, endpoint, mux, log, options).map_err(failed)
    }

    fn assemble(
        id: &str,
        endpoint: Box<dyn Endpoint>,
        mux: Option<Mux>,
        log: Option<FileEnd>,
        options: ChardevOptions,
    ) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let kick = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &kick, EventData::new_u64(KICK), EventFlags::IN)?;
        let mut this = Self {
            id: id.to_owned(),
            was_connected: endpoint.connected(),
            peers: endpoint.peers(),
            conversation: options.conversation,
            endpoint,
            epoll,
            kick,
            watched: Vec::new(),
            out: OutQueue::default(),
            wants_input: false,
            mux,
            break_byte: options.break_byte,
            typed: VecDeque::new(),
            log,
            opened_at: Instant::now(),
            events: Vec::new(),
        };
        this.sync();
        Ok(this)
    }

    /// The label.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it leads, as `filename` of QEMU's `query-chardev`: `pty:/dev/pts/3`, `stdio`,
    /// `disconnected:unix:/path,server=on` and so on.
    pub fn filename(&self) -> String {
        self.endpoint.filename()
    }

    /// Whether somebody is there to see output.
    pub fn is_connected(&self) -> bool {
        self.endpoint.connected()
    }

    /// Takes output; returns how many bytes of `data` were taken. Fewer than all means that the
    /// listener is slow: try again after the next [`dispatch`](Self::dispatch).
    pub fn write(&mut self, data: &[u8]) -> usize {
        if !self.endpoint.connected() {
            self.endpoint.nudge();
        }
        self.note_connection();
        // With a listener gone in mid-write, the second turn takes the rest as scrollback.
        let mut taken = self.write_some(data);
        if taken < data.len() && self.note_connection() {
            taken += self.write_some(&data[taken..]);
        }
        self.log(&data[..taken]);
        self.sync();
        taken
    }

    fn write_some(&mut self, data: &[u8]) -> usize {
        if !self.endpoint.connected() && self.conversation {
            return data.len();
        }
        if !self.endpoint.connected() {
            let stamped = self.stamped(data);
            self.out.push_scrollback(stamped.as_deref().unwrap_or(data));
            return data.len();
        }
        self.flush();
        let mut taken = 0;
        if self.mux.as_ref().is_none_or(|mux| !mux.timestamps()) {
            if self.out.is_empty() {
                taken = self.endpoint.write(data).min(data.len());
            }
            taken += self.out.push(&data[taken..]);
            if let Some(mux) = &mut self.mux {
                mux.follow(&data[..taken]);
            }
        } else {
            taken = data.len().min(self.out.room());
            if let Some(stamped) = self.stamped(&data[..taken]) {
                self.out.push_over(&stamped);
            }
            self.flush();
        }
        taken
    }

    /// `data` with time stamps, if they are on.
    fn stamped(&mut self, data: &[u8]) -> Option<Vec<u8>> {
        let mux = self.mux.as_mut().filter(|mux| mux.timestamps())?;
        let mut stamped = Vec::with_capacity(data.len() + 64);
        mux.stamp(data, self.opened_at.elapsed(), &mut stamped);
        Some(stamped)
    }

    fn log(&mut self, mut data: &[u8]) {
        let Some(file) = &mut self.log else { return };
        while !data.is_empty() {
            // A FIFO that nobody empties loses what it has no room for; the console goes on.
            match file.write(data) {
                0 => return,
                taken => data = &data[taken..],
            }
        }
    }

    /// Reads what the user typed into `buf`; 0 if nothing is there.
    pub fn read(&mut self, buf: &mut [u8]) -> usize {
        let got = if self.mux.is_some() || !self.typed.is_empty() {
            if self.mux.is_some() {
                self.read_typed();
            }
            let count = buf.len().min(self.typed.len());
            for (place, byte) in buf.iter_mut().zip(self.typed.drain(..count)) {
                *place = byte;
            }
            count
        } else if buf.is_empty() {
            0
        } else {
            self.endpoint.read(buf)
        };
        self.note_connection();
        self.sync();
        got
    }

    /// Whether [`dispatch`](Self::dispatch) is to be called for input: false while the guest's side
    /// has no room for any.
    pub fn set_wants_input(&mut self, wants: bool) {
        self.wants_input = wants;
        self.sync();
    }

    /// Does what the descriptor's readiness asks for: takes new connections, notices lost ones, sends
    /// queued output, handles escape keys. Afterwards the caller reads and writes as it can.
    pub fn dispatch(&mut self) {
        let mut events = [Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        }; 4];
        let none = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let ready = retry(|| epoll::wait(&self.epoll, &mut events, Some(&none))).unwrap_or(0);
        for event in &events[..ready.min(events.len())] {
            // The structure is packed: its fields are copied before they are used.
            let (token, flags) = ({ event.data }.u64(), { event.flags });
            if token == KICK {
                // The count of kicks does not matter.
                let _ = rustix::io::read(&self.kick, &mut [0u8; 8]);
            } else if self.watched.iter().any(|(watched, _)| watched.0 == token) {
                self.endpoint.ready(Token(token), flags);
            }
        }
        self.note_connection();
        if self.mux.is_some() {
            self.read_typed();
        }
        self.flush();
        self.note_connection();
        self.sync();
    }

    /// Makes the descriptor readable, so that the event loop comes back to this device.
    pub fn kick(&self) {
        // Fails only if it is readable already.
        let _ = rustix::io::write(&self.kick, &1u64.to_ne_bytes());
    }

    /// Which peer is there: a number that no other peer of this device has; `None` if nobody is. An
    /// end that has no peers has one all the time.
    pub fn peer(&self) -> Option<u64> {
        self.endpoint.connected().then(|| self.endpoint.peers())
    }

    /// Descriptors that came along with what was [read](Self::read), oldest first; only of a
    /// [conversation](ChardevOptions::conversation) on a unix socket.
    pub fn take_fds(&mut self) -> Vec<OwnedFd> {
        self.endpoint.take_fds()
    }

    /// What happened on the user's side since the last call.
    pub fn take_events(&mut self) -> Vec<ChardevEvent> {
        std::mem::take(&mut self.events)
    }

    /// Shows the user a message of this process: a line of its own on a terminal. Not in the log.
    pub fn say(&mut self, text: &str) {
        // Answers to keys are few, but a user who types and does not read must not fill memory.
        if self.out.room() == 0 {
            return;
        }
        self.out.push_over(text.as_bytes());
        self.flush();
        self.sync();
    }

    /// Takes the oldest bytes out of a ring buffer, `max` at most; `None` for other ends.
    pub fn ringbuf_read(&mut self, max: usize) -> Option<Vec<u8>> {
        self.endpoint.ringbuf().map(|ring| ring.take(max))
    }

    /// Adds bytes to a ring buffer as the monitor's `ringbuf-write` does; false for other ends.
    pub fn ringbuf_write(&mut self, data: &[u8]) -> bool {
        self.endpoint
            .ringbuf()
            .is_some_and(|ring| ring.write(data) == data.len())
    }

    /// Copies what is on its way, both ways.
    pub fn save(&self) -> ChardevState {
        let (queued, torn) = self.out.save();
        ChardevState {
            queued,
            torn,
            typed: self.typed.iter().copied().collect(),
        }
    }

    /// Puts what another device had on its way before what this one has. Bytes beyond the bounds of
    /// a queue are dropped, as they would have been on the way.
    pub fn restore(&mut self, state: &ChardevState) {
        self.out.restore(&state.queued, state.torn);
        let typed = &state.typed[..state.typed.len().min(TYPED_BOUND)];
        for &byte in typed.iter().rev() {
            self.typed.push_front(byte);
        }
        if self.endpoint.connected() {
            self.out.start_replay();
        }
        self.flush();
        self.sync();
    }

    /// Reads the terminal of a multiplexed end, as far as there is room.
    fn read_typed(&mut self) {
        let mut buf = [0; 512];
        while self.typed.len() < TYPED_BOUND {
            let got = self.endpoint.read(&mut buf);
            if got == 0 {
                break;
            }
            buf[..got].iter().for_each(|&byte| self.on_key(byte));
        }
    }

    fn on_key(&mut self, byte: u8) {
        let Some(mux) = &mut self.mux else { return };
        match mux.typed(byte) {
            Typed::Byte(byte) => self.typed.push_back(byte),
            Typed::Nothing | Typed::Timestamps(_) => {}
            Typed::Break => self.typed.push_back(self.break_byte),
            Typed::Help => {
                let help = mux.help();
                self.say(&help);
            }
            Typed::Quit => {
                self.say("\r\nxenner: terminated\r\n");
                self.once(ChardevEvent::Quit);
            }
            Typed::Commit => self.once(ChardevEvent::Commit),
            Typed::Monitor => {
                self.say("\r\nxenner: this console has no monitor; use -qmp\r\n");
                self.once(ChardevEvent::Monitor);
            }
        }
    }

    /// Records an event that says no more when it is there twice.
    fn once(&mut self, event: ChardevEvent) {
        if !self.events.contains(&event) {
            self.events.push(event);
            // The key may have been read on the guest's behalf: whoever looks at the events is
            // called when this descriptor is readable.
            self.kick();
        }
    }

    fn flush(&mut self) {
        let endpoint = &mut self.endpoint;
        if endpoint.connected() {
            self.out.flush(|data| endpoint.write(data));
        }
    }

    /// Compares the connection with what it was. True if the listener went away.
    fn note_connection(&mut self) -> bool {
        let connected = self.endpoint.connected();
        let peers = self.endpoint.peers();
        if self.conversation && (connected, peers) != (self.was_connected, self.peers) {
            self.out = OutQueue::default();
        }
        self.peers = peers;
        if connected == self.was_connected {
            return false;
        }
        self.was_connected = connected;
        // An end that flaps while nobody asks for events must not pile them up.
        self.events
            .retain(|event| !matches!(event, ChardevEvent::Opened | ChardevEvent::Closed));
        self.kick();
        if connected {
            self.events.push(ChardevEvent::Opened);
            self.out.start_replay();
            self.flush();
        } else {
            self.events.push(ChardevEvent::Closed);
        }
        !connected
    }

    /// Brings the epoll instance to what the end's state asks for.
    fn sync(&mut self) {
        let read = match self.mux {
            Some(_) => self.typed.len() < TYPED_BOUND,
            None => self.wants_input,
        };
        let want = Want {
            read,
            write: !self.out.is_empty(),
        };
        let mut watched = Vec::with_capacity(self.watched.len());
        for watch in self.endpoint.watches(want).into_iter().flatten() {
            let known = self.watched.iter().find(|(token, _)| *token == watch.token);
            let result = match (known, watch.flags) {
                (None, None) => Ok(()),
                (None, Some(flags)) => {
                    let data = EventData::new_u64(watch.token.0);
                    epoll::add(&self.epoll, watch.fd, data, flags)
                }
                (Some(_), None) => epoll::delete(&self.epoll, watch.fd),
                (Some((_, old)), Some(flags)) if *old == flags => Ok(()),
                (Some(_), Some(flags)) => {
                    let data = EventData::new_u64(watch.token.0);
                    epoll::modify(&self.epoll, watch.fd, data, flags)
                }
            };
            match result {
                Ok(()) => watched.extend(watch.flags.map(|flags| (watch.token, flags))),
                Err(error) => {
                    log::error!(target: "console", "Cannot watch {}: {error}", self.id);
                }
            }
        }
        self.watched = watched;
    }
}

impl AsFd for Chardev {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl AsRawFd for Chardev {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

impl std::fmt::Debug for Chardev {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let queued = self.out.len();
        f.debug_struct("Chardev")
            .field("id", &self.id)
            .field("filename", &self.filename())
            .field("queued", &queued)
            .finish_non_exhaustive()
    }
}

impl Drop for Chardev {
    /// The last output (why a domain died) is given a moment to leave.
    fn drop(&mut self) {
        let deadline = Instant::now() + LAST_WORDS;
        loop {
            self.flush();
            let left = deadline.saturating_duration_since(Instant::now());
            if self.out.is_empty() || !self.endpoint.connected() || left.is_zero() {
                return;
            }
            self.sync();
            let timeout = Timespec {
                tv_sec: 0,
                tv_nsec: left.subsec_nanos().min(50_000_000).into(),
            };
            let mut fds = [PollFd::new(&self.epoll, PollFlags::IN)];
            if retry(|| rustix::event::poll(&mut fds, Some(&timeout))).is_err() {
                return;
            }
            self.dispatch();
        }
    }
}

fn open_endpoint(
    config: &ChardevConfig,
    conversation: bool,
    fds: &mut dyn FdSource,
) -> Result<Box<dyn Endpoint>, ChardevError> {
    let id = &config.id;
    Ok(match &config.backend {
        ChardevBackend::Stdio { signal } => Box::new(StdioEnd::open(id, *signal)?),
        ChardevBackend::Pty { path } => {
            let pty = PtyEnd::open(id, path.as_deref())?;
            let slave = pty.slave().display();
            let mut out = io::stdout().lock();
            // Whoever closed standard output does not want to know.
            let _ = writeln!(out, "char device redirected to {slave} (label {id})")
                .and_then(|()| out.flush());
            Box::new(pty)
        }
        ChardevBackend::Socket {
            address,
            role,
            nodelay,
        } => {
            let options = SocketOptions {
                nodelay: *nodelay,
                conversation,
            };
            Box::new(SocketEnd::open(id, address, *role, options, fds)?)
        }
        ChardevBackend::File { path, append } => Box::new(open_file(id, path, *append, fds)?),
        ChardevBackend::Pipe { path } => Box::new(PipeEnd::open(id, path)?),
        ChardevBackend::Ringbuf { size } => Box::new(RingbufEnd::new(id, *size)?),
        ChardevBackend::Null => Box::new(NullEnd),
    })
}

fn open_file(
    id: &str,
    path: &Path,
    append: bool,
    fds: &mut dyn FdSource,
) -> Result<FileEnd, ChardevError> {
    let file = open_for_output(id, path, append, fds)?;
    let failed = |source| ChardevError::Events {
        id: id.to_owned(),
        source,
    };
    FileEnd::new(file, path).map_err(failed)
}

#[cfg(test)]
mod tests;
