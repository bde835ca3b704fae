//! A listening stream socket: unix, TCP, or one that the parent process made.
//!
//! It also serves other servers of the process (a monitor): [`Listener::bind`], watch the
//! descriptor, [`Listener::accept`].

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::retry;
use crate::config::SocketAddress;
use crate::error::ChardevError;
use crate::fdpass::FdSource;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 8;

/// A listening socket, non-blocking and close-on-exec. The file of a unix socket is removed on drop.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    name: String,
    file: Option<SocketFile>,
}

/// The file of a unix socket, known by device and inode so that nobody else's file is removed.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Listener {
    /// Listens on `address` on behalf of device `id`.
    ///
    /// A unix socket is made with mode 0600. A file that a dead process left is replaced, one with a
    /// living listener is refused.
    pub fn bind(
        id: &str,
        address: &SocketAddress,
        fds: &mut dyn FdSource,
    ) -> Result<Self, ChardevError> {
        match address {
            SocketAddress::Unix(path) => bind_unix(id, path),
            SocketAddress::Tcp { host, port } => bind_tcp(id, host, *port),
            SocketAddress::Fd(number) => {
                let fd = take_socket(id, *number, true, fds)?;
                Ok(Self {
                    fd,
                    name: format!("fd:{number}"),
                    file: None,
                })
            }
        }
    }

    /// Takes a waiting connection (non-blocking, close-on-exec); `None` if there is none.
    pub fn accept(&self) -> io::Result<Option<OwnedFd>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match retry(|| rustix::net::accept_with(&self.fd, flags)) {
            Ok(stream) => Ok(Some(stream)),
            // The peer was gone before it was accepted, or there was none (accept(2)).
            Err(Errno::AGAIN | Errno::CONNABORTED | Errno::PROTO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The address, as `unix:PATH`, `tcp:HOST:PORT` (with the real port) or `fd:N`.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Some(file) = &self.file else { return };
        let ours = std::fs::symlink_metadata(&file.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == file.inode);
        if ours {
            // Nothing is lost if somebody else has removed it in between.
            let _ = std::fs::remove_file(&file.path);
        }
    }
}

/// The kernel's address of a unix socket's path.
pub(crate) fn unix_address(id: &str, path: &Path) -> Result<SocketAddrUnix, ChardevError> {
    SocketAddrUnix::new(path).map_err(|_| ChardevError::SocketPathTooLong {
        id: id.to_owned(),
        path: path.to_owned(),
    })
}

/// Takes over a passed stream socket, and makes it non-blocking.
pub(crate) fn take_socket(
    id: &str,
    number: i32,
    listening: bool,
    fds: &mut dyn FdSource,
) -> Result<OwnedFd, ChardevError> {
    let mut checked = || -> io::Result<OwnedFd> {
        let fd = fds.take(number)?;
        if rustix::net::sockopt::socket_acceptconn(&fd)? != listening {
            let what = if listening {
                "not a listening socket"
            } else {
                "not a connected socket"
            };
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let status = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, status | OFlags::NONBLOCK)?;
        Ok(fd)
    };
    checked().map_err(|source| ChardevError::Descriptor {
        id: id.to_owned(),
        fd: number,
        source,
    })
}

/// The addresses of a TCP host; `fallback` stands for an empty one.
pub(crate) fn resolve(
    id: &str,
    host: &str,
    fallback: &str,
    port: u16,
) -> Result<Vec<SocketAddr>, ChardevError> {
    let name = if host.is_empty() { fallback } else { host };
    let failed = |source| ChardevError::Resolve {
        id: id.to_owned(),
        host: name.to_owned(),
        source,
    };
    let found: Vec<SocketAddr> = (name, port).to_socket_addrs().map_err(failed)?.collect();
    if found.is_empty() {
        return Err(failed(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no address",
        )));
    }
    Ok(found)
}

fn bind_unix(id: &str, path: &Path) -> Result<Listener, ChardevError> {
    let address = unix_address(id, path)?;
    let name = format!("unix:{}", path.display());
    let failed = |source: io::Error| ChardevError::Listen {
        id: id.to_owned(),
        address: name.clone(),
        source,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|error| failed(error.into()))?;
    // The file takes the socket's mode: it is never open to others, not even between two calls.
    rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR).map_err(|error| failed(error.into()))?;
    // Two processes that find the same dead socket must not both replace it.
    let _guard = lock_directory(path);
    match rustix::net::bind(&fd, &address) {
        Err(Errno::ADDRINUSE) => {
            remove_dead_socket(id, path, &address)?;
            rustix::net::bind(&fd, &address).map_err(|error| failed(error.into()))?;
        }
        other => other.map_err(|error| failed(error.into()))?,
    }
    let inode = std::fs::symlink_metadata(path).map(|made| (made.dev(), made.ino()));
    let file = Some(SocketFile {
        path: path.to_owned(),
        inode: inode.map_err(failed)?,
    });
    let this = Listener {
        fd,
        name: name.clone(),
        file,
    };
    rustix::net::listen(&this.fd, BACKLOG).map_err(|error| failed(error.into()))?;
    Ok(this)
}

/// Holds an advisory lock on the socket's directory; `None` where that cannot be had, since then
/// nobody else gets it either.
fn lock_directory(path: &Path) -> Option<OwnedFd> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = parent.unwrap_or(Path::new("."));
    let fd = rustix::fs::open(directory, flags, Mode::empty()).ok()?;
    // Held for microseconds by well-behaved processes; an hour's wait for another is not worth it.
    for _ in 0..50 {
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(fd),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => return None,
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    None
}

/// Removes the file of a socket that nobody listens on; refuses anything else.
fn remove_dead_socket(id: &str, path: &Path, address: &SocketAddrUnix) -> Result<(), ChardevError> {
    let is_socket =
        std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if !is_socket {
        return Err(ChardevError::NotASocket {
            id: id.to_owned(),
            path: path.to_owned(),
        });
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .and_then(|probe| rustix::net::connect(&probe, address));
    if probe != Err(Errno::CONNREFUSED) {
        return Err(ChardevError::SocketInUse {
            id: id.to_owned(),
            path: path.to_owned(),
        });
    }
    std::fs::remove_file(path).map_err(|source| ChardevError::Open {
        id: id.to_owned(),
        path: path.to_owned(),
        source,
    })
}

fn bind_tcp(id: &str, host: &str, port: u16) -> Result<Listener, ChardevError> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in resolve(id, host, "0.0.0.0", port)? {
        // The standard library sets SO_REUSEADDR, so that a restart is not refused.
        let listening = std::net::TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok((listener.local_addr()?, listener))
        });
        match listening {
            Ok((local, listener)) => {
                let name = format!("tcp:{local}");
                return Ok(Listener {
                    fd: listener.into(),
                    name,
                    file: None,
                });
            }
            Err(error) => last = error,
        }
    }
    let address = format!("tcp:{host}:{port}");
    Err(ChardevError::Listen {
        id: id.to_owned(),
        address,
        source: last,
    })
}
