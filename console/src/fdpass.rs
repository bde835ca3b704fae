//! Descriptors that a parent process passes on: `fd=N` and `/dev/fdset/N`.
//!
//! [`InheritedFds`] remembers which descriptors were open when the process started and gives each
//! out once, so that no option can name a descriptor that this process opened for itself.

#![expect(unsafe_code)]
// UNSAFETY: an inherited descriptor comes as a number; nothing but `from_raw_fd` makes an owner of it.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::Path;

/// Where passed descriptors come from.
pub trait FdSource {
    /// Takes over descriptor `fd`, which the parent left open. The result has close-on-exec set.
    fn take(&mut self, fd: RawFd) -> io::Result<OwnedFd>;

    /// A duplicate of a writable descriptor of set `set` (`-add-fd set=N`).
    fn fdset(&mut self, set: u32) -> io::Result<OwnedFd>;
}

/// The descriptors above standard error that were open when [`InheritedFds::at_start`] ran.
///
/// There are no sets here: a VMM that takes `-add-fd` wraps this type.
#[derive(Debug, Default)]
pub struct InheritedFds {
    free: BTreeSet<RawFd>,
}

impl InheritedFds {
    /// Lists the descriptors that are open now.
    ///
    /// Must be called first thing in `main`, before this process opens descriptors of its own and
    /// before it starts threads: whatever is open then belongs to nobody in this process.
    pub fn at_start() -> io::Result<Self> {
        let dir = std::fs::read_dir("/proc/self/fd")?;
        let listed: Vec<RawFd> = dir
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        // The directory's own descriptor is in the list and closed by now.
        let free = listed
            .into_iter()
            .filter(|&fd| fd > 2 && std::fs::read_link(format!("/proc/self/fd/{fd}")).is_ok())
            .collect();
        Ok(Self { free })
    }
}

impl FdSource for InheritedFds {
    fn take(&mut self, fd: RawFd) -> io::Result<OwnedFd> {
        if !self.free.remove(&fd) {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        // SAFETY: `fd` was open before this process opened anything of its own, so nobody here owns
        // it, and removing it from the set makes this the only owner ever made.
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        rustix::io::fcntl_setfd(&owned, rustix::io::FdFlags::CLOEXEC)?;
        Ok(owned)
    }

    fn fdset(&mut self, _set: u32) -> io::Result<OwnedFd> {
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            "no such descriptor set",
        ))
    }
}

/// The number `N` of a path `/dev/fdset/N`, or `None` for any other path.
pub fn fdset_number(path: &Path) -> Option<u32> {
    path.to_str()?.strip_prefix("/dev/fdset/")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, IntoRawFd};

    use super::*;

    #[test]
    fn sets_are_known_by_their_paths() {
        assert_eq!(fdset_number(Path::new("/dev/fdset/12")), Some(12));
        for path in [
            "/dev/fdset/",
            "/dev/fdset/x",
            "/dev/fdset/-1",
            "/dev/fd/1",
            "fdset/1",
        ] {
            assert_eq!(fdset_number(Path::new(path)), None, "{path}");
        }
    }

    #[test]
    fn a_descriptor_is_given_out_once_and_only_if_it_was_there() {
        let (left, right) = std::os::unix::net::UnixStream::pair().unwrap();
        let number = right.into_raw_fd();
        let mut fds = InheritedFds {
            free: BTreeSet::from([number]),
        };
        let taken = fds.take(number).unwrap();
        let flags = rustix::io::fcntl_getfd(taken.as_fd()).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        assert_eq!(
            fds.take(number).unwrap_err().raw_os_error(),
            Some(libc::EBADF)
        );
        assert_eq!(fds.take(0).unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert!(fds.fdset(0).is_err());
        drop(left);
    }

    #[test]
    fn the_open_descriptors_are_listed_without_the_list() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&file);
        let fds = InheritedFds::at_start().unwrap();
        assert!(fds.free.contains(&number));
        assert!(!fds.free.contains(&2));
    }
}
