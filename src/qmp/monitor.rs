//! One monitor: a character device, the conversation with whoever is at its other end, and a bounded
//! queue of what goes there.
//!
//! [`Monitor::on_ready`] moves bytes and never blocks; requests wait until the server asks for them.
//! A client that does not read is not read from either, and gets no more events once its queue is
//! full.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use log::warn;
use serde_json::Value;
use xenner_console::Chardev;

use super::codec::{Decoder, JsonError};
use super::control::ChardevInfo;
use super::hmp;
use super::readline::{PROMPT, Readline};
use super::session::{Parts, Session};
use crate::config::MonitorMode;

/// Bytes that wait for a client before no more requests of its are taken.
const ENOUGH: usize = 1 << 20;
/// Bytes that wait for a client before it gets no more events.
const FULL: usize = 4 << 20;
/// Bytes that are read at a time.
const PIECE: usize = 16 << 10;

/// What a client asks.
#[derive(Debug)]
pub(super) enum Request {
    Qmp(Result<Value, JsonError>),
    Line(String),
}

/// A monitor. See the module's documentation.
#[derive(Debug)]
pub(super) struct Monitor {
    chardev: Chardev,
    mode: MonitorMode,
    pretty: bool,
    peer: Option<u64>,
    session: Session,
    decoder: Decoder,
    readline: Readline,
    input: VecDeque<u8>,
    out: VecDeque<u8>,
    deaf: bool,
    info: Arc<Mutex<ChardevInfo>>,
    had_peer: bool,
}

impl Monitor {
    pub(super) fn new(chardev: Chardev, mode: MonitorMode, pretty: bool) -> Self {
        let mut this = Self {
            chardev,
            mode,
            pretty,
            peer: None,
            session: Session::default(),
            decoder: Decoder::default(),
            readline: Readline::default(),
            input: VecDeque::new(),
            out: VecDeque::new(),
            deaf: false,
            info: Arc::default(),
            had_peer: false,
        };
        this.note_info();
        this.look_at_peer();
        this.settle();
        this
    }

    /// Its line of `query-chardev`, kept up to date; for those who cannot have the monitor itself
    /// while it runs their command.
    pub(super) fn info(&self) -> Arc<Mutex<ChardevInfo>> {
        self.info.clone()
    }

    fn note_info(&self) {
        *self.info.lock().unwrap_or_else(PoisonError::into_inner) = ChardevInfo {
            label: self.chardev.id().to_owned(),
            filename: self.chardev.filename(),
            frontend_open: true,
        };
    }

    /// Whether a client was there and none is now.
    pub(super) fn is_deserted(&self) -> bool {
        self.had_peer && self.peer.is_none()
    }

    /// The character device is ready for something.
    pub(super) fn on_ready(&mut self) {
        self.chardev.dispatch();
        self.look_at_peer();
        if self.wants_input() {
            let mut piece = [0; PIECE];
            let got = self.chardev.read(&mut piece);
            // a peer that came since has said nothing yet
            self.look_at_peer();
            self.input.extend(&piece[..got]);
            let fds = self.chardev.take_fds();
            fds.into_iter().for_each(|fd| self.session.receive(fd));
        }
        self.settle();
    }

    /// The next request, if one is complete and the client takes answers.
    pub(super) fn next_request(&mut self) -> Option<Request> {
        if self.out.len() >= ENOUGH {
            return None;
        }
        match self.mode {
            MonitorMode::Control => self.next_value().map(Request::Qmp),
            MonitorMode::Readline => self.next_line().map(Request::Line),
        }
    }

    fn next_value(&mut self) -> Option<Result<Value, JsonError>> {
        while !self.input.is_empty() {
            let (used, done) = self.decoder.decode(self.input.as_slices().0);
            self.input.drain(..used);
            if done.is_some() {
                return done;
            }
        }
        None
    }

    fn next_line(&mut self) -> Option<String> {
        while let Some(byte) = self.input.pop_front() {
            let typed = self.readline.typed(byte);
            self.out.extend(typed.echo);
            if typed.line.is_some() {
                return typed.line;
            }
        }
        None
    }

    /// Runs a request; the answer is to be [sent](Self::send) after the events that it led to.
    pub(super) fn run(&mut self, request: Request, parts: &mut Parts<'_>) -> Vec<u8> {
        match request {
            Request::Qmp(request) => {
                let answer = self.session.answer(request, parts);
                self.line(&answer)
            }
            Request::Line(line) => {
                let answer = hmp::run(&line, parts.control);
                format!("{answer}{PROMPT}").into_bytes()
            }
        }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.out.extend(bytes);
        self.settle();
    }

    /// Tells the client of an event, if it has negotiated and has room.
    pub(super) fn tell(&mut self, event: &Value) {
        if self.mode != MonitorMode::Control || self.peer.is_none() || !self.session.wants_events()
        {
            return;
        }
        if self.out.len() >= FULL {
            if !std::mem::replace(&mut self.deaf, true) {
                let id = self.chardev.id();
                warn!(target: "xenner::qmp", "{id}: the client does not read: events are lost");
            }
            return;
        }
        let line = self.line(event);
        self.send(&line);
    }

    /// Whether there is something to do without the descriptor being ready: more requests, or room
    /// for them.
    pub(super) fn come_back(&mut self) {
        if !self.input.is_empty() && self.out.len() < ENOUGH {
            self.chardev.kick();
        }
    }

    /// Moves output; true if none is left or nobody is there to get it.
    pub(super) fn flush(&mut self) -> bool {
        self.chardev.dispatch();
        self.look_at_peer();
        self.settle();
        self.out.is_empty() || self.peer.is_none()
    }

    fn line(&self, value: &Value) -> Vec<u8> {
        let text = match self.pretty {
            true => serde_json::to_string_pretty(value),
            false => serde_json::to_string(value),
        };
        // what the types hold can always be told
        let mut line = text.unwrap_or_default().into_bytes();
        line.extend(b"\r\n");
        line
    }

    /// Starts a new conversation with a new peer.
    fn look_at_peer(&mut self) {
        let peer = self.chardev.peer();
        if peer == self.peer {
            return;
        }
        self.peer = peer;
        self.had_peer |= peer.is_some();
        self.note_info();
        self.session = Session::default();
        self.decoder = Decoder::default();
        self.readline = Readline::default();
        self.input.clear();
        self.out.clear();
        self.deaf = false;
        if peer.is_some() {
            let greeting = match self.mode {
                MonitorMode::Control => self.line(&Session::greeting()),
                MonitorMode::Readline => format!(
                    "xenner {} monitor - type 'help' for its commands\r\n{PROMPT}",
                    env!("CARGO_PKG_VERSION")
                )
                .into_bytes(),
            };
            self.out.extend(greeting);
        }
    }

    fn wants_input(&self) -> bool {
        self.input.len() < PIECE && self.out.len() < ENOUGH
    }

    /// Sends what goes, and asks to be called for what is wanted.
    fn settle(&mut self) {
        while !self.out.is_empty() {
            let (front, _) = self.out.as_slices();
            let offered = front.len();
            let taken = self.chardev.write(front);
            self.out.drain(..taken);
            if taken < offered {
                break;
            }
        }
        self.deaf &= self.out.len() >= FULL;
        let wants = self.wants_input();
        self.chardev.set_wants_input(wants);
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.chardev.as_raw_fd()
    }
}
