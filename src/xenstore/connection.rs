//! One client of the store, whatever carries its bytes: the message it is in
//! the middle of sending, the messages that wait for it, its transactions.
//!
//! Memory is bounded on both sides. A client that does not read its answers is
//! not read from either. Watch events have no sender that could be stopped:
//! equal ones that still wait are told once, and beyond a number they fall
//! back to one event per watch, so that none is lost for good.

use super::error::XsErrno;
use super::local::LocalQueue;
use super::path::StorePath;
use super::perms::DomId;
use super::quota;
use super::transaction::Transaction;
use super::tree::Tree;
use super::watch::Due;
use super::wire::{Assembler, MessageType, PAYLOAD_MAX, Request, WireError, encode};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

/// The events that wait for one client, so that none waits twice.
#[derive(Debug, Default)]
pub struct EventLedger {
    waiting: HashSet<(u64, StorePath)>,
}

impl EventLedger {
    /// Decides about a due event: the path to report it by, or nothing if an
    /// event that says the same still waits.
    pub fn admit(&mut self, due: &Due) -> Option<StorePath> {
        let Due { watch, path } = due;
        let crowded = self.waiting.len() >= quota::OUTSTANDING_EVENTS;
        // An event of the watched path itself fits always: the request that
        // set the watch was as long.
        let path = if crowded || watch.event_len(path) > PAYLOAD_MAX {
            &watch.path
        } else {
            path
        };
        self.waiting
            .insert((watch.id, path.clone()))
            .then(|| path.clone())
    }

    /// The client has the event.
    pub fn told(&mut self, watch_id: u64, path: &StorePath) {
        self.waiting.remove(&(watch_id, path.clone()));
    }
}

#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    event: Option<(u64, StorePath)>,
}

/// Messages that wait for the client to read them.
#[derive(Debug, Default)]
pub struct OutQueue {
    messages: VecDeque<Outgoing>,
    sent_of_first: usize,
    bytes: usize,
    replies: usize,
    ledger: EventLedger,
}

impl OutQueue {
    /// Adds an answer.
    pub fn push_reply(&mut self, bytes: Vec<u8>) {
        self.replies += 1;
        self.push(Outgoing { bytes, event: None });
    }

    /// Adds a watch event, unless the same one waits already.
    pub fn push_event(&mut self, due: &Due) {
        let Some(path) = self.ledger.admit(due) else {
            return;
        };
        let watch = &due.watch;
        let payload = [
            watch.event_path(&path).as_bytes(),
            b"\0",
            &watch.token,
            b"\0",
        ]
        .concat();
        let bytes = encode(MessageType::WATCH_EVENT, 0, 0, &payload);
        self.push(Outgoing {
            bytes,
            event: Some((watch.id, path)),
        });
    }

    /// True if the client must read before its next request is looked at.
    #[must_use]
    pub fn is_over_limit(&self) -> bool {
        self.replies >= quota::OUTSTANDING_REPLIES || self.bytes >= quota::OUTSTANDING_BYTES
    }

    /// True if nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The next bytes for the client: the rest of the first message.
    #[must_use]
    pub fn front(&self) -> &[u8] {
        let first = self.messages.front();
        first
            .and_then(|message| message.bytes.get(self.sent_of_first..))
            .unwrap_or_default()
    }

    /// Notes that the client has `n` bytes of [`OutQueue::front`].
    pub fn advance(&mut self, n: usize) {
        self.sent_of_first += n;
        self.bytes = self.bytes.saturating_sub(n);
        if !self.front().is_empty() {
            return;
        }
        self.sent_of_first = 0;
        match self.messages.pop_front() {
            Some(Outgoing {
                event: Some((watch_id, path)),
                ..
            }) => {
                self.ledger.told(watch_id, &path);
            }
            Some(_) => self.replies = self.replies.saturating_sub(1),
            None => {}
        }
    }

    /// Everything that waits, as one run of bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let all: Vec<u8> = self
            .messages
            .iter()
            .flat_map(|m| m.bytes.iter().copied())
            .collect();
        all.get(self.sent_of_first..).unwrap_or_default().to_vec()
    }

    fn push(&mut self, message: Outgoing) {
        self.bytes += message.bytes.len();
        self.messages.push_back(message);
    }
}

/// Where a connection's events go.
#[derive(Debug)]
pub enum Sink {
    /// To a transport, with the answers, as messages.
    Wire(OutQueue),
    /// To a queue inside this process.
    Local(Arc<LocalQueue>),
    /// Nowhere: the connection sets no watches.
    Silent,
}

/// A client of the store.
#[derive(Debug)]
pub struct Connection {
    /// The domain on whose behalf it acts.
    pub domid: DomId,
    /// Where its events go.
    pub sink: Sink,
    input: Assembler,
    transactions: BTreeMap<u32, Transaction>,
    next_transaction: u32,
}

impl Connection {
    /// A connection that has not said anything yet.
    #[must_use]
    pub fn new(domid: DomId, sink: Sink) -> Self {
        let input = Assembler::default();
        Self {
            domid,
            sink,
            input,
            transactions: BTreeMap::new(),
            next_transaction: 1,
        }
    }

    /// How many bytes it may be asked for now; 0 while its answers wait.
    ///
    /// # Errors
    /// [`WireError`] once it has sent something senseless.
    pub fn wanted(&self) -> Result<usize, WireError> {
        match &self.sink {
            Sink::Wire(out) if out.is_over_limit() => Ok(0),
            _ => self.input.wanted(),
        }
    }

    /// Takes bytes from the client, at most as many as are wanted.
    ///
    /// # Errors
    /// [`WireError`] if they are senseless; the connection is of no more use.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<Request>, WireError> {
        self.input.push(bytes)
    }

    /// The bytes of a message that is not complete yet.
    #[must_use]
    pub fn partial_input(&self) -> &[u8] {
        self.input.partial()
    }

    /// Goes on in the middle of a message, with what
    /// [`Connection::partial_input`] gave; false if it cannot be that.
    #[must_use]
    pub fn restore_input(&mut self, partial: &[u8]) -> bool {
        match Assembler::resume(partial) {
            Some(input) => {
                self.input = input;
                true
            }
            None => false,
        }
    }

    /// The messages that wait, if a transport carries them.
    pub fn output(&mut self) -> Option<&mut OutQueue> {
        match &mut self.sink {
            Sink::Wire(out) => Some(out),
            _ => None,
        }
    }

    /// Starts a transaction on the present state of `tree`; returns its number.
    ///
    /// # Errors
    /// ENOSPC if an unprivileged domain has too many.
    pub fn start_transaction(&mut self, tree: &Tree) -> Result<u32, XsErrno> {
        if self.domid != 0 && self.transactions.len() >= quota::TRANSACTIONS_PER_DOMAIN {
            return Err(XsErrno::ENOSPC);
        }
        while self.next_transaction == 0 || self.transactions.contains_key(&self.next_transaction) {
            self.next_transaction = self.next_transaction.wrapping_add(1);
        }
        let id = self.next_transaction;
        self.next_transaction = id.wrapping_add(1);
        self.transactions.insert(id, Transaction::start(tree));
        Ok(id)
    }

    /// The open transaction of that number.
    ///
    /// # Errors
    /// ENOENT if there is none.
    pub fn transaction(&mut self, id: u32) -> Result<&mut Transaction, XsErrno> {
        let written: usize = self
            .transactions
            .values()
            .map(Transaction::bytes_written)
            .sum();
        let transaction = self.transactions.get_mut(&id).ok_or(XsErrno::ENOENT)?;
        transaction.allow_bytes(quota::MEMORY_PER_DOMAIN.saturating_sub(written));
        Ok(transaction)
    }

    /// Takes the transaction of that number out.
    ///
    /// # Errors
    /// ENOENT if there is none.
    pub fn take_transaction(&mut self, id: u32) -> Result<Transaction, XsErrno> {
        self.transactions.remove(&id).ok_or(XsErrno::ENOENT)
    }

    /// Drops all transactions.
    pub fn abort_transactions(&mut self) {
        self.transactions.clear();
    }

    /// The numbers of the open transactions.
    pub fn transaction_ids(&self) -> impl Iterator<Item = u32> {
        self.transactions.keys().copied()
    }

    /// Puts transactions back whose notes are lost; each asks at its commit to
    /// be started again.
    pub fn restore_transactions(&mut self, ids: impl IntoIterator<Item = u32>, tree: &Tree) {
        self.transactions
            .extend(ids.into_iter().map(|id| (id, Transaction::doomed(tree))));
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
