//! `-rtc base=`: how far the domain's wall clock is ahead of the host's.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use log::warn;

use crate::config::RtcBase;

/// Seconds that a domain's wall clock is ahead of UTC, if it begins `now`. Local time is that of
/// `TZ`, which libvirt sets for `<clock offset='timezone'>`, or of the host's settings; its later
/// changes for summer are not followed.
pub(super) fn ahead(base: RtcBase, now: Timestamp) -> i64 {
    match base {
        RtcBase::Utc => 0,
        RtcBase::LocalTime => match TimeZone::try_system() {
            Ok(zone) => zone.to_offset(now).seconds().into(),
            Err(e) => {
                warn!("-rtc base=localtime: the time zone is unknown, so UTC is taken: {e}");
                0
            }
        },
        RtcBase::At(second) => second - now.as_second(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_told_from_now() {
        let now = Timestamp::constant(1_000_000, 999_999_999);
        assert_eq!(ahead(RtcBase::At(1_000_600), now), 600);
        assert_eq!(ahead(RtcBase::At(0), now), -1_000_000);
        assert_eq!(ahead(RtcBase::Utc, now), 0);
    }
}
