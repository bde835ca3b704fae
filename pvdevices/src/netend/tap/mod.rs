//! A tap interface of the host (Linux, `Documentation/networking/tuntap.rst`), one queue an end.
//!
//! With `IFF_VNET_HDR` every frame has a virtio header in front, and checksums and segmentation are
//! left to the host's stack or taken from it. An interface that was made here goes with the process.

mod ioctl;

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use log::{debug, warn};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use xenner_console::FdSource;

use super::config::{TapConfig, TapSource};
use super::vnet::{self, VNET_HDR_LEN};
use super::{MIN_FRAME, NetEnd, NetEndError, Offload, Offloads, Sent, Wait};
use ioctl::{Flags, Request};

/// Frames that one [`NetEnd::receive`] passes over because nobody can take them.
const MAX_IGNORED: usize = 64;
/// The most bytes of an interface's name (`IFNAMSIZ` without the final zero).
const MAX_NAME: usize = 15;

/// One queue of a tap interface.
#[derive(Debug)]
pub struct TapEnd {
    interface: Arc<Interface>,
    fd: OwnedFd,
    vnet_hdr: bool,
    /// Whether the host spreads frames over several queues.
    multi_queue: bool,
    /// A frame was not taken because of a limit.
    blocked: bool,
    failed: bool,
}

/// What the queues of an interface share.
#[derive(Debug)]
struct Interface {
    name: String,
    downscript: Option<PathBuf>,
}

impl Drop for Interface {
    fn drop(&mut self) {
        if let Some(script) = &self.downscript
            && let Err(error) = run_script(script, &self.name)
        {
            warn!(target: "xenner::net", "{}: {error}", self.name);
        }
    }
}

/// Opens a tap's queues.
pub(super) fn open(config: &TapConfig, fds: &mut dyn FdSource) -> Result<Vec<TapEnd>, NetEndError> {
    let queues = match &config.source {
        TapSource::Interface { name, queues } => {
            let flags = wanted(config.vnet_hdr, *queues > 1);
            attach(name.as_deref().unwrap_or_default(), flags, *queues)?
        }
        TapSource::Fds(numbers) => numbers
            .iter()
            .map(|&fd| take(fd, fds))
            .collect::<Result<Vec<_>, _>>()?,
    };
    let name = queues
        .first()
        .map_or_else(String::new, |(_, request)| request.name());
    if let Some(script) = &config.script {
        run_script(script, &name)?;
    }
    let interface = Arc::new(Interface {
        name,
        downscript: config.downscript.clone(),
    });
    let end = |(fd, request): (OwnedFd, Request)| {
        TapEnd::new(interface.clone(), fd, request.flags(), config.vnet_hdr)
    };
    queues.into_iter().map(end).collect()
}

fn wanted(vnet_hdr: Option<bool>, multi_queue: bool) -> Flags {
    let mut flags = Flags::TAP | Flags::NO_PI;
    flags.set(Flags::VNET_HDR, vnet_hdr != Some(false));
    flags.set(Flags::MULTI_QUEUE, multi_queue);
    flags
}

/// Attaches to the interface of this name or makes it.
fn attach(name: &str, flags: Flags, queues: usize) -> Result<Vec<(OwnedFd, Request)>, NetEndError> {
    let blank = |c: char| c == '/' || c.is_whitespace() || c.is_control();
    if name.len() > MAX_NAME || name.contains(blank) || [".", ".."].contains(&name) {
        return Err(NetEndError::BadName(name.to_owned()));
    }
    let error = |source: Errno| NetEndError::Attach {
        name: name.to_owned(),
        source: source.into(),
    };
    let mut name = name.to_owned();
    let mut opened = Vec::with_capacity(queues);
    for _ in 0..queues {
        let open = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open("/dev/net/tun", open, Mode::empty())
            .map_err(|errno| NetEndError::NoTun(errno.into()))?;
        let mut request = Request::new(&name, flags);
        ioctl::set_interface(&fd, &mut request).map_err(error)?;
        // The host has chosen, or put a number in the place of %d.
        name = request.name();
        opened.push((fd, request));
    }
    Ok(opened)
}

/// Takes over a queue that the parent opened.
fn take(fd: i32, fds: &mut dyn FdSource) -> Result<(OwnedFd, Request), NetEndError> {
    let bad = |what| move |source: io::Error| NetEndError::BadFd { fd, what, source };
    let owned = fds.take(fd).map_err(bad("not open"))?;
    from_fd(owned).map_err(|errno| bad("no tap interface")(errno.into()))
}

/// An attached queue, by its descriptor.
fn from_fd(owned: OwnedFd) -> Result<(OwnedFd, Request), Errno> {
    let mut request = Request::new("", Flags::empty());
    ioctl::get_interface(&owned, &mut request)?;
    if !request.flags().contains(Flags::TAP | Flags::NO_PI) {
        return Err(Errno::INVAL);
    }
    rustix::io::ioctl_fionbio(&owned, true)?;
    Ok((owned, request))
}

fn run_script(script: &PathBuf, interface: &str) -> Result<(), NetEndError> {
    let status = Command::new(script)
        .arg(interface)
        .stdin(Stdio::null())
        .status()
        .map_err(|source| NetEndError::Run {
            path: script.clone(),
            source,
        })?;
    if status.success() {
        return Ok(());
    }
    Err(NetEndError::Failed {
        path: script.clone(),
        status: status.to_string(),
    })
}

impl TapEnd {
    /// A queue on the descriptor of an attached tap interface.
    ///
    /// # Errors
    /// It is none.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, NetEndError> {
        let error = NetEndError::host("use the passed tap interface");
        let (fd, request) = from_fd(fd).map_err(error)?;
        let interface = Arc::new(Interface {
            name: request.name(),
            downscript: None,
        });
        Self::new(interface, fd, request.flags(), None)
    }

    fn new(
        interface: Arc<Interface>,
        fd: OwnedFd,
        flags: Flags,
        vnet_hdr: Option<bool>,
    ) -> Result<Self, NetEndError> {
        let has_header = flags.contains(Flags::VNET_HDR);
        if vnet_hdr == Some(true) && !has_header {
            return Err(NetEndError::NoVnetHeader);
        }
        if has_header {
            // The descriptor may have been used before, with a longer header.
            ioctl::set_header_len(&fd, VNET_HDR_LEN as i32)
                .map_err(NetEndError::host("set the tap interface's header length"))?;
        }
        let end = Self {
            interface,
            fd,
            vnet_hdr: has_header,
            multi_queue: flags.contains(Flags::MULTI_QUEUE),
            blocked: false,
            failed: false,
        };
        Ok(end)
    }

    /// The interface's name on the host.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface.name
    }

    /// Reads one frame into `buf`; its length without the header.
    fn read(&self, header: &mut [u8; VNET_HDR_LEN], buf: &mut [u8]) -> Result<usize, Errno> {
        if !self.vnet_hdr {
            return rustix::io::read(&self.fd, buf);
        }
        let mut parts = [IoSliceMut::new(header), IoSliceMut::new(buf)];
        let count = rustix::io::readv(&self.fd, &mut parts)?;
        Ok(count.saturating_sub(VNET_HDR_LEN))
    }
}

impl NetEnd for TapEnd {
    fn wait(&self) -> Wait<'_> {
        Wait {
            fd: (!self.failed).then(|| self.fd.as_fd()),
            writable: self.blocked,
            deadline: None,
        }
    }

    fn advance(&mut self) {}

    fn is_up(&self) -> bool {
        !self.failed
    }

    fn send_offloads(&self) -> Offloads {
        if self.vnet_hdr {
            Offloads::all()
        } else {
            Offloads::empty()
        }
    }

    fn set_receive_offloads(&mut self, offloads: Offloads) -> io::Result<()> {
        if self.vnet_hdr {
            ioctl::set_offload(&self.fd, offloads)?;
        }
        Ok(())
    }

    fn send(&mut self, offload: &Offload, frame: &[u8]) -> Sent {
        let header = vnet::encode(offload);
        let done = if self.vnet_hdr {
            rustix::io::writev(&self.fd, &[IoSlice::new(&header), IoSlice::new(frame)])
        } else {
            rustix::io::write(&self.fd, frame)
        };
        self.blocked = done == Err(Errno::AGAIN);
        match done {
            Ok(_) => Sent::Done,
            // A send buffer limit (TUNSETSNDBUF) that is reached.
            Err(Errno::AGAIN) => Sent::Busy,
            // EIO: the interface is not up; EINVAL: the host's stack refuses the frame.
            Err(errno) => {
                debug!(target: "xenner::net", "{}: a frame is lost: {errno}", self.interface.name);
                Sent::Dropped
            }
        }
    }

    fn flush(&mut self) {}

    fn receive(&mut self, buf: &mut [u8]) -> Option<(usize, Offload)> {
        for _ in 0..MAX_IGNORED {
            let mut header = [0; VNET_HDR_LEN];
            match self.read(&mut header, buf) {
                Ok(length) if length >= MIN_FRAME => {
                    if let Some(offload) = vnet::decode(&header) {
                        return Some((length, offload));
                    }
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return None,
                Err(errno) => {
                    warn!(
                        target: "xenner::net",
                        "{}: {errno}; its link is down from here on", self.interface.name
                    );
                    self.failed = true;
                    return None;
                }
            }
        }
        None
    }

    fn set_enabled(&mut self, enabled: bool) -> io::Result<()> {
        if !self.multi_queue {
            return Ok(());
        }
        match ioctl::set_queue(&self.fd, enabled) {
            // It is in that state already.
            Err(Errno::INVAL) => Ok(()),
            other => Ok(other?),
        }
    }
}
