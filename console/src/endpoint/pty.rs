//! `pty`: a pseudo-terminal whose other side any terminal program may open.
//!
//! Nobody has to: while no program holds the slave open, the master reports a hang-up that never
//! ends and announces no arrival. So the master is watched only while somebody is there; until then
//! a timer looks [`LOOK_EVERY`] often.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::event::epoll::EventFlags;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::OptionalActions;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use super::{Endpoint, Token, Want, Watch, Watches, poll_now, retry};
use crate::error::ChardevError;

/// How often a pty that nobody has open is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A pseudo-terminal's master.
#[derive(Debug)]
pub(crate) struct PtyEnd {
    master: OwnedFd,
    master_token: Token,
    slave: PathBuf,
    link: Option<PathBuf>,
    attached: bool,
    timer: OwnedFd,
    timer_token: Token,
}

impl PtyEnd {
    /// Makes a pty in raw mode, and the symbolic link to it if one is asked for.
    pub(crate) fn open(id: &str, link: Option<&Path>) -> Result<Self, ChardevError> {
        let (master, slave) = make_pty().map_err(|source| ChardevError::Pty {
            id: id.to_owned(),
            source,
        })?;
        let timer = rustix::time::timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )
        .map_err(|source| ChardevError::Events {
            id: id.to_owned(),
            source: source.into(),
        })?;
        let mut this = Self {
            master,
            master_token: Token::new(),
            slave,
            link: None,
            attached: false,
            timer,
            timer_token: Token::new(),
        };
        this.set_timer(LOOK_EVERY)
            .map_err(|source| ChardevError::Events {
                id: id.to_owned(),
                source,
            })?;
        if let Some(path) = link {
            make_link(&this.slave, path).map_err(|source| ChardevError::PtyLink {
                id: id.to_owned(),
                path: path.to_owned(),
                source,
            })?;
            this.link = Some(path.to_owned());
        }
        Ok(this)
    }

    /// The slave's path, `/dev/pts/N`.
    pub(crate) fn slave(&self) -> &Path {
        &self.slave
    }

    fn set_timer(&self, every: Duration) -> io::Result<()> {
        let every = Timespec {
            tv_sec: 0,
            tv_nsec: every.subsec_nanos().into(),
        };
        let when = Itimerspec {
            it_interval: every,
            it_value: every,
        };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &when)?;
        Ok(())
    }

    fn set_attached(&mut self, attached: bool) {
        if self.attached == attached {
            return;
        }
        self.attached = attached;
        let every = if attached { Duration::ZERO } else { LOOK_EVERY };
        if let Err(error) = self.set_timer(every) {
            log::error!(target: "console", "Cannot watch pty {}: {error}", self.slave.display());
        }
        if !attached {
            // The last program may have left the terminal echoing; the next one must not see that.
            let _ = set_raw(&self.master);
        }
    }

    fn look(&mut self) {
        let hung_up = poll_now(&self.master, PollFlags::empty()).contains(PollFlags::HUP);
        self.set_attached(!hung_up);
    }
}

impl Drop for PtyEnd {
    fn drop(&mut self) {
        if let Some(link) = &self.link
            && std::fs::read_link(link).is_ok_and(|target| target == self.slave)
        {
            // Nothing is lost if the link has been removed in between.
            let _ = std::fs::remove_file(link);
        }
    }
}

/// Makes the master (non-blocking) and names the slave, which is left closed and in raw mode.
fn make_pty() -> io::Result<(OwnedFd, PathBuf)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::pty::grantpt(&master)?;
    rustix::pty::unlockpt(&master)?;
    let name = rustix::pty::ptsname(&master, Vec::new())?;
    set_raw(&master)?;
    // Opened and closed once, the slave counts as hung up rather than as never used.
    drop(rustix::pty::ioctl_tiocgptpeer(&master, flags)?);
    let status = rustix::fs::fcntl_getfl(&master)?;
    rustix::fs::fcntl_setfl(&master, status | OFlags::NONBLOCK)?;
    Ok((
        master,
        std::ffi::OsString::from_vec(name.into_bytes()).into(),
    ))
}

/// Puts the slave into raw mode; the modes of a pty can be set by its master (tty_ioctl(4)).
fn set_raw(master: &OwnedFd) -> rustix::io::Result<()> {
    let mut modes = rustix::termios::tcgetattr(master)?;
    modes.make_raw();
    rustix::termios::tcsetattr(master, OptionalActions::Now, &modes)
}

/// Makes `path` a link to `slave`, in place of a link that leads nowhere or to another pty: one that
/// a killed process left.
fn make_link(slave: &Path, path: &Path) -> io::Result<()> {
    match std::fs::read_link(path) {
        Ok(old) if old.starts_with("/dev/pts") || !path.exists() => std::fs::remove_file(path)?,
        _ => {}
    }
    std::os::unix::fs::symlink(slave, path)
}

impl Endpoint for PtyEnd {
    fn filename(&self) -> String {
        format!("pty:{}", self.slave.display())
    }

    fn connected(&self) -> bool {
        self.attached
    }

    fn read(&mut self, buf: &mut [u8]) -> usize {
        match retry(|| rustix::io::read(&self.master, &mut *buf)) {
            Ok(got) => got,
            Err(Errno::AGAIN) => 0,
            Err(_) => {
                self.set_attached(false);
                0
            }
        }
    }

    fn write(&mut self, data: &[u8]) -> usize {
        // The kernel takes bytes for a slave that nobody has open, and loses them.
        self.look();
        if !self.attached {
            return 0;
        }
        match retry(|| rustix::io::write(&self.master, data)) {
            Ok(taken) => taken,
            Err(Errno::AGAIN) => 0,
            Err(_) => {
                self.set_attached(false);
                0
            }
        }
    }

    fn nudge(&mut self) {
        self.look();
    }

    fn watches(&self, want: Want) -> Watches<'_> {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, want.read);
        flags.set(EventFlags::OUT, want.write);
        // A hang-up is reported even with no flags, so an attached master is always watched.
        let master_flags = self.attached.then_some(flags);
        let timer_flags = (!self.attached).then_some(EventFlags::IN);
        [
            Some(Watch {
                fd: self.master.as_fd(),
                token: self.master_token,
                flags: master_flags,
            }),
            Some(Watch {
                fd: self.timer.as_fd(),
                token: self.timer_token,
                flags: timer_flags,
            }),
            None,
        ]
    }

    fn ready(&mut self, token: Token, flags: EventFlags) {
        if token == self.timer_token {
            // The count of expiries does not matter.
            let _ = rustix::io::read(&self.timer, &mut [0u8; 8]);
            self.look();
        } else if flags.contains(EventFlags::HUP) {
            self.set_attached(false);
        }
    }
}
