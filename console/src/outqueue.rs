//! The bytes between a guest's output and an end that is slow or absent.
//!
//! One queue with two rules. With a listener, it takes a small bound and then refuses, so that a slow
//! listener stalls the guest's console and nothing else. Without one, it takes everything and keeps
//! the newest [`SCROLLBACK`] bytes, which the next listener gets first.

use std::collections::VecDeque;

/// Bytes that wait for a listener that is there, before more are refused.
pub const BOUND: usize = 4 << 10;

/// Bytes kept while nobody listens: several screens, or a good part of a boot log.
pub const SCROLLBACK: usize = 64 << 10;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct OutQueue {
    bytes: VecDeque<u8>,
    /// Old output was dropped, so the first line may be half a line.
    torn: bool,
}

impl OutQueue {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many bytes [`push`](Self::push) would take now.
    pub(crate) fn room(&self) -> usize {
        BOUND.saturating_sub(self.bytes.len())
    }

    /// With a listener: takes what fits below [`BOUND`] and says how much that was.
    pub(crate) fn push(&mut self, data: &[u8]) -> usize {
        let taken = data.len().min(self.room());
        self.bytes.extend(&data[..taken]);
        taken
    }

    /// Takes all, over the bound: for messages and time stamps, which are small beside it.
    pub(crate) fn push_over(&mut self, data: &[u8]) {
        self.bytes.extend(data);
    }

    /// Without a listener: takes all, and lets go of the oldest beyond [`SCROLLBACK`].
    pub(crate) fn push_scrollback(&mut self, data: &[u8]) {
        let newest = &data[data.len().saturating_sub(SCROLLBACK)..];
        let surplus = (self.bytes.len() + newest.len()).saturating_sub(SCROLLBACK);
        self.torn |= surplus > 0 || newest.len() < data.len();
        self.bytes.drain(..surplus);
        self.bytes.extend(newest);
    }

    /// The bytes, and whether the first line is torn.
    pub(crate) fn save(&self) -> (Vec<u8>, bool) {
        (self.bytes.iter().copied().collect(), self.torn)
    }

    /// Puts `older` before what is there, and keeps the newest [`SCROLLBACK`] bytes.
    pub(crate) fn restore(&mut self, older: &[u8], torn: bool) {
        let room = SCROLLBACK.saturating_sub(self.bytes.len());
        let kept = &older[older.len().saturating_sub(room)..];
        self.torn |= torn || kept.len() < older.len();
        for &byte in kept.iter().rev() {
            self.bytes.push_front(byte);
        }
    }

    /// A listener arrived: a first line that lost its beginning is dropped.
    pub(crate) fn start_replay(&mut self) {
        if !std::mem::take(&mut self.torn) {
            return;
        }
        if let Some(end) = self.bytes.iter().position(|&byte| byte == b'\n') {
            self.bytes.drain(..=end);
        }
    }

    /// Offers the bytes to `write` until it takes less than it is given. True if anything went out.
    pub(crate) fn flush(&mut self, mut write: impl FnMut(&[u8]) -> usize) -> bool {
        let mut moved = false;
        loop {
            let (front, _) = self.bytes.as_slices();
            if front.is_empty() {
                return moved;
            }
            let offered = front.len();
            let taken = write(front).min(offered);
            self.bytes.drain(..taken);
            moved |= taken > 0;
            if taken < offered {
                return moved;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drain(queue: &mut OutQueue) -> Vec<u8> {
        let mut out = Vec::new();
        queue.flush(|data| {
            out.extend(data);
            data.len()
        });
        out
    }

    #[test]
    fn a_listener_gets_a_bound_and_nobody_a_scrollback() {
        let mut queue = OutQueue::default();
        assert_eq!(queue.push(&[b'x'; 5000]), BOUND);
        assert_eq!((queue.push(b"y"), queue.room()), (0, 0));
        queue.push_scrollback(&vec![b'z'; 2 * SCROLLBACK]);
        assert_eq!(queue.len(), SCROLLBACK);
        assert_eq!(drain(&mut queue), vec![b'z'; SCROLLBACK]);
    }

    #[test]
    fn only_a_torn_first_line_is_dropped() {
        let mut queue = OutQueue::default();
        queue.push_scrollback(b"whole\nlines\n");
        queue.start_replay();
        assert_eq!(drain(&mut queue), b"whole\nlines\n");
        queue.push_scrollback(&[b'x'; SCROLLBACK]);
        queue.push_scrollback(b"\nlast");
        queue.start_replay();
        assert_eq!(drain(&mut queue), b"last");
        queue.push_scrollback(&[b'x'; SCROLLBACK + 1]);
        queue.start_replay();
        assert_eq!(
            queue.len(),
            SCROLLBACK,
            "one endless line is better than nothing"
        );
    }

    proptest! {
        #[test]
        fn what_is_taken_comes_out_in_order(
            steps in prop::collection::vec((0usize..3000, 0usize..3000), 0..50),
        ) {
            let mut queue = OutQueue::default();
            let (mut sent, mut got) = (Vec::new(), Vec::new());
            for (push, mut take) in steps {
                let data: Vec<u8> = (0..push).map(|n| (sent.len() + n) as u8).collect();
                let taken = queue.push(&data);
                sent.extend(&data[..taken]);
                queue.flush(|data| {
                    let count = data.len().min(take);
                    take -= count;
                    got.extend(&data[..count]);
                    count
                });
                prop_assert!(queue.len() <= BOUND);
            }
            got.extend(drain(&mut queue));
            prop_assert_eq!(got, sent);
        }
    }
}
