//! Descriptors that a parent process passes on: `fd=N` and `/dev/fdset/N`.
//!
//! [`InheritedFds`] remembers which descriptors were open when the process started and gives each
//! out once, so that no option can name a descriptor that this process opened for itself.

#![expect(unsafe_code)]
// UNSAFETY: an inherited descriptor comes as a number; nothing but `from_raw_fd` makes an owner of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::fs::OFlags;

/// Where passed descriptors come from.
pub trait FdSource {
    /// Takes over descriptor `fd`, which the parent left open. The result has close-on-exec set.
    fn take(&mut self, fd: RawFd) -> io::Result<OwnedFd>;

    /// A duplicate of a writable descriptor of set `set` (`-add-fd set=N`).
    fn fdset(&mut self, set: u32) -> io::Result<OwnedFd>;

    /// A duplicate of a descriptor of set `set` that can be read, and written if `write`. The open
    /// file's flags and locks are shared with the set.
    fn fdset_for(&mut self, set: u32, write: bool) -> io::Result<OwnedFd>;
}

/// The descriptors above standard error that were open when [`InheritedFds::at_start`] ran.
///
/// There are no sets here; see [`FdSets`].
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
        Err(no_such_set())
    }

    fn fdset_for(&mut self, _set: u32, _write: bool) -> io::Result<OwnedFd> {
        Err(no_such_set())
    }
}

fn no_such_set() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "no such descriptor set")
}

/// One descriptor of a set.
#[derive(Debug)]
struct Passed {
    fd: OwnedFd,
    /// The number under which it was passed.
    number: RawFd,
    opaque: Option<String>,
}

/// What is known of one descriptor of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedInfo {
    /// Its set.
    pub set: u32,
    /// The number under which it was passed.
    pub number: RawFd,
    /// What the parent calls it.
    pub opaque: Option<String>,
}

/// Sets of passed descriptors: what `/dev/fdset/N` leads to (`-add-fd`).
#[derive(Debug, Default)]
pub struct FdSets {
    inherited: InheritedFds,
    sets: BTreeMap<u32, Vec<Passed>>,
}

impl FdSets {
    /// No sets, and the descriptors that may be put into some.
    pub fn new(inherited: InheritedFds) -> Self {
        Self {
            inherited,
            sets: BTreeMap::new(),
        }
    }

    /// Puts a descriptor that the parent left open into a set.
    ///
    /// # Errors
    /// `EBADF` if it was not open when the process started or was taken already.
    pub fn add_inherited(
        &mut self,
        number: RawFd,
        set: u32,
        opaque: Option<String>,
    ) -> io::Result<()> {
        let fd = self.inherited.take(number)?;
        let passed = Passed { fd, number, opaque };
        self.sets.entry(set).or_default().push(passed);
        Ok(())
    }

    /// Puts a descriptor into a set, or into a new one; returns the set.
    pub fn add(&mut self, fd: OwnedFd, set: Option<u32>, opaque: Option<String>) -> u32 {
        let free = || (0..).find(|set| !self.sets.contains_key(set));
        let set = set.or_else(free).unwrap_or(u32::MAX);
        let number = fd.as_raw_fd();
        let passed = Passed { fd, number, opaque };
        self.sets.entry(set).or_default().push(passed);
        set
    }

    /// Closes a descriptor of a set, or all of them; whether there was one. Duplicates in use stay.
    pub fn remove(&mut self, set: u32, number: Option<RawFd>) -> bool {
        let Some(all) = self.sets.get_mut(&set) else {
            return false;
        };
        let before = all.len();
        all.retain(|passed| number.is_some_and(|number| passed.number != number));
        let removed = all.len() < before;
        if all.is_empty() {
            self.sets.remove(&set);
        }
        removed
    }

    /// Every descriptor of every set.
    pub fn query(&self) -> Vec<PassedInfo> {
        let all = self.sets.iter();
        all.flat_map(|(set, passed)| {
            passed.iter().map(|passed| PassedInfo {
                set: *set,
                number: passed.number,
                opaque: passed.opaque.clone(),
            })
        })
        .collect()
    }

    fn duplicate(&self, set: u32, suits: impl Fn(OFlags) -> bool) -> io::Result<OwnedFd> {
        for passed in self.sets.get(&set).ok_or_else(no_such_set)? {
            if suits(rustix::fs::fcntl_getfl(&passed.fd)? & OFlags::ACCMODE) {
                return Ok(rustix::io::fcntl_dupfd_cloexec(&passed.fd, 3)?);
            }
        }
        // What open says of a file that may not be opened like this.
        Err(io::Error::from_raw_os_error(libc::EACCES))
    }
}

impl FdSource for FdSets {
    fn take(&mut self, fd: RawFd) -> io::Result<OwnedFd> {
        self.inherited.take(fd)
    }

    fn fdset(&mut self, set: u32) -> io::Result<OwnedFd> {
        self.duplicate(set, |mode| mode != OFlags::RDONLY)
    }

    fn fdset_for(&mut self, set: u32, write: bool) -> io::Result<OwnedFd> {
        let exact = if write { OFlags::RDWR } else { OFlags::RDONLY };
        self.duplicate(set, |mode| mode == exact)
            .or_else(|_| self.duplicate(set, |mode| mode == OFlags::RDWR))
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
    fn sets_give_duplicates_of_what_can_be_done() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let writer = std::fs::File::create(&path).unwrap();
        let mut sets = FdSets::default();
        assert_eq!(sets.add(writer.into(), None, None), 0);
        assert!(sets.fdset(0).is_ok());
        assert_eq!(
            sets.fdset_for(0, true).unwrap_err().raw_os_error(),
            Some(libc::EACCES)
        );
        let both = std::fs::File::options().read(true).write(true).open(&path);
        let number = sets.add(both.unwrap().into(), Some(0), Some("disk".into()));
        assert_eq!(number, 0);
        assert!(sets.fdset_for(0, true).is_ok() && sets.fdset_for(0, false).is_ok());
        assert_eq!(sets.query()[1].opaque.as_deref(), Some("disk"));
        let number = sets.query()[1].number;
        assert!(sets.remove(0, Some(number)) && !sets.remove(0, Some(number)));
        assert!(sets.remove(0, None) && !sets.remove(0, None));
        assert_eq!(sets.fdset(0).unwrap_err().kind(), io::ErrorKind::NotFound);
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
