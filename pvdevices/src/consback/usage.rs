//! Whether the domain uses a channel, which no node and no ring tells.
//!
//! Linux's hvc_xen masks the port of a console whose tty nobody has open. It masks it for other
//! reasons, too: while an event is handled, and while the reader of the tty is behind. So a channel
//! is in use as soon as its port is seen without a mask, and out of use when it was seen with one for
//! a while.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two looks at the mask.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// A port that is masked for so long belongs to a channel that nobody has open.
const CLOSED: Duration = Duration::from_secs(3);
/// The same with input that waits: a reader may be that far behind.
const STUCK: Duration = Duration::from_secs(60);

/// Is told when the domain begins to use a channel, and when it ends.
pub trait ChannelEvents: Send + Sync + Debug {
    /// Called on the channel's thread, with changes alone; the first is to `true`.
    fn used(&self, used: bool);
}

/// What is known of one connection's use; it ends when dropped.
#[derive(Debug)]
pub(super) struct Usage {
    told: Arc<dyn ChannelEvents>,
    used: bool,
    masked_since: Option<Instant>,
}

impl Usage {
    /// Not used yet.
    pub(super) fn new(told: Arc<dyn ChannelEvents>) -> Self {
        Self {
            told,
            used: false,
            masked_since: None,
        }
    }

    /// The port's mask at some time, and whether the domain leaves input unread.
    pub(super) fn look(&mut self, masked: bool, unread: bool, now: Instant) {
        if !masked {
            self.masked_since = None;
            return self.set(true);
        }
        let since = *self.masked_since.get_or_insert(now);
        let patience = if unread { STUCK } else { CLOSED };
        if now.saturating_duration_since(since) >= patience {
            self.set(false);
        }
    }

    fn set(&mut self, used: bool) {
        if std::mem::replace(&mut self.used, used) != used {
            self.told.used(used);
        }
    }
}

impl Drop for Usage {
    fn drop(&mut self) {
        self.set(false);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Debug, Default)]
    struct Heard(Mutex<Vec<bool>>);

    impl ChannelEvents for Heard {
        fn used(&self, used: bool) {
            self.0.lock().unwrap().push(used);
        }
    }

    #[test]
    fn a_mask_tells_only_when_it_stays() {
        let heard = Arc::new(Heard::default());
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut usage = Usage::new(heard.clone());
        let says = |wanted: &[bool]| assert_eq!(*heard.0.lock().unwrap(), wanted);
        // Nobody has opened it yet.
        for seconds in 0..100 {
            usage.look(true, false, at(seconds));
        }
        says(&[]);
        usage.look(false, false, at(100));
        says(&[true]);
        // Events are being handled at the moment of each look.
        for seconds in [101, 103, 105, 107] {
            usage.look(true, false, at(seconds));
            usage.look(false, false, at(seconds + 1));
        }
        says(&[true]);
        usage.look(true, false, at(110));
        usage.look(true, false, at(112));
        says(&[true]);
        usage.look(true, false, at(113));
        says(&[true, false]);
        usage.look(false, true, at(114));
        drop(usage);
        says(&[true, false, true, false]);
    }

    #[test]
    fn a_reader_that_is_behind_has_more_time() {
        let heard = Arc::new(Heard::default());
        let start = Instant::now();
        let mut usage = Usage::new(heard.clone());
        usage.look(false, false, start);
        for seconds in 1..=60 {
            usage.look(true, true, start + Duration::from_secs(seconds));
        }
        assert_eq!(*heard.0.lock().unwrap(), [true]);
        usage.look(true, true, start + Duration::from_secs(61));
        assert_eq!(*heard.0.lock().unwrap(), [true, false]);
    }
}
