//! The domain's watchdog timers (SCHEDOP_watchdog): two, which the guest must keep resetting.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use xenner_xen_abi::errno::{EINVAL, ENOSPC};

const TIMERS: usize = 2;

/// Both timers; None is free.
#[derive(Debug, Default)]
pub struct Watchdogs {
    deadlines: Mutex<[Option<Instant>; TIMERS]>,
}

impl Watchdogs {
    /// Arms (`id` 0: a free one), re-arms or frees (`timeout` 0) a timer. Timeouts are seconds.
    ///
    /// # Errors
    /// ENOSPC if none is free, EINVAL if `id` is not in use.
    pub fn set(&self, id: u32, timeout: u32) -> Result<i64, i64> {
        let mut deadlines = self
            .deadlines
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let at = Instant::now() + Duration::from_secs(u64::from(timeout));
        if id == 0 {
            if timeout == 0 {
                return Err(EINVAL);
            }
            let free = deadlines.iter().position(Option::is_none).ok_or(ENOSPC)?;
            deadlines[free] = Some(at);
            return Ok(free as i64 + 1);
        }
        let slot = deadlines
            .get_mut(id as usize - 1)
            .filter(|d| d.is_some())
            .ok_or(EINVAL)?;
        *slot = (timeout != 0).then_some(at);
        Ok(0)
    }

    /// When the next one expires.
    pub fn next(&self) -> Option<Instant> {
        let deadlines = self
            .deadlines
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        deadlines.iter().flatten().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_timers() {
        let w = Watchdogs::default();
        assert_eq!(w.set(0, 10), Ok(1));
        assert_eq!(w.set(0, 10), Ok(2));
        assert_eq!(w.set(0, 10), Err(ENOSPC));
        assert_eq!(w.set(3, 10), Err(EINVAL));
        assert_eq!(w.set(1, 0), Ok(0));
        assert_eq!(w.set(1, 5), Err(EINVAL));
        assert!(w.next().is_some());
        assert_eq!(w.set(2, 0), Ok(0));
        assert_eq!(w.next(), None);
    }
}
