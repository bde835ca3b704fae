//! Descriptors that others pass to this process: inherited ones, numbered sets of them (`-add-fd`,
//! `add-fd`), and named ones (`getfd`).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use rustix::fs::OFlags;
use xenner_console::{FdSource, InheritedFds};

use super::error::QmpError;

/// One descriptor of a set.
#[derive(Debug)]
pub struct Member {
    /// The descriptor.
    pub fd: OwnedFd,
    /// What the client wrote about it.
    pub opaque: Option<String>,
}

/// The descriptor sets of this process, and those descriptors that it was started with.
#[derive(Debug, Default)]
pub struct FdSets {
    inherited: InheritedFds,
    sets: BTreeMap<i64, Vec<Member>>,
}

/// The most descriptors in all sets: no client can use up what the domain needs.
const MAX_MEMBERS: usize = 256;

impl FdSets {
    /// No sets yet.
    pub fn new(inherited: InheritedFds) -> Self {
        Self {
            inherited,
            sets: BTreeMap::new(),
        }
    }

    /// Adds a descriptor to a set; without a number, to a new one with the lowest number that is
    /// free. Returns the set's number.
    ///
    /// # Errors
    /// The number is below zero, or there are too many descriptors.
    pub fn add(&mut self, set: Option<i64>, member: Member) -> Result<i64, QmpError> {
        if set.is_some_and(|set| set < 0) {
            return Err(QmpError::generic(
                "Parameter 'fdset-id' expects a non-negative value",
            ));
        }
        if self.sets.values().map(Vec::len).sum::<usize>() >= MAX_MEMBERS {
            return Err(QmpError::generic("Too many descriptors in sets"));
        }
        let free = || (0..).find(|n| !self.sets.contains_key(n)).unwrap_or(0);
        let set = set.unwrap_or_else(free);
        self.sets.entry(set).or_default().push(member);
        Ok(set)
    }

    /// Removes a set, or one descriptor of it.
    ///
    /// # Errors
    /// There is none.
    pub fn remove(&mut self, set: i64, fd: Option<i64>) -> Result<(), QmpError> {
        let shown = match fd {
            Some(fd) => format!("fdset-id:{set}, fd:{fd}"),
            None => format!("fdset-id:{set}"),
        };
        let missing = || QmpError::generic(format!("File descriptor named '{shown}' not found"));
        let members = self.sets.get_mut(&set).ok_or_else(missing)?;
        match fd {
            None => members.clear(),
            Some(fd) => {
                let at = members
                    .iter()
                    .position(|m| i64::from(m.fd.as_raw_fd()) == fd);
                members.remove(at.ok_or_else(missing)?);
            }
        }
        if members.is_empty() {
            self.sets.remove(&set);
        }
        Ok(())
    }

    /// All sets with what is in them.
    pub fn sets(&self) -> impl Iterator<Item = (i64, &[Member])> {
        self.sets
            .iter()
            .map(|(set, members)| (*set, members.as_slice()))
    }

    /// A duplicate of a descriptor of `set` that can be written, and read too if `read`.
    ///
    /// # Errors
    /// There is none.
    pub fn duplicate(&self, set: i64, read: bool, write: bool) -> io::Result<OwnedFd> {
        let members = self.sets.get(&set).map_or(&[][..], Vec::as_slice);
        let fits = |member: &&Member| {
            let mode = rustix::fs::fcntl_getfl(&member.fd).map(|flags| flags & OFlags::RWMODE);
            match mode {
                Ok(mode) if mode == OFlags::RDWR => true,
                Ok(mode) if mode == OFlags::WRONLY => write && !read,
                Ok(_) => read && !write,
                Err(_) => false,
            }
        };
        let member = members.iter().find(fits).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "no such descriptor in the set")
        })?;
        Ok(rustix::io::fcntl_dupfd_cloexec(member.fd.as_fd(), 0)?)
    }
}

impl FdSource for FdSets {
    fn take(&mut self, fd: RawFd) -> io::Result<OwnedFd> {
        self.inherited.take(fd)
    }

    fn fdset(&mut self, set: u32) -> io::Result<OwnedFd> {
        self.duplicate(i64::from(set), false, true)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    fn null(write: bool) -> Member {
        let file = OpenOptions::new()
            .read(!write)
            .write(write)
            .open("/dev/null");
        Member {
            fd: file.unwrap().into(),
            opaque: None,
        }
    }

    #[test]
    fn sets_are_numbered_filled_and_emptied() {
        let mut sets = FdSets::default();
        assert_eq!(sets.add(None, null(true)), Ok(0));
        assert_eq!(sets.add(Some(2), null(true)), Ok(2));
        assert_eq!(sets.add(None, null(false)), Ok(1));
        assert!(sets.add(Some(-1), null(true)).is_err());
        let fd = i64::from(sets.sets[&2][0].fd.as_raw_fd());
        assert_eq!(
            sets.remove(2, Some(fd + 100)).unwrap_err().desc,
            format!(
                "File descriptor named 'fdset-id:2, fd:{}' not found",
                fd + 100
            )
        );
        sets.remove(2, Some(fd)).unwrap();
        assert_eq!(
            sets.remove(2, None).unwrap_err().desc,
            "File descriptor named 'fdset-id:2' not found"
        );
        assert_eq!(sets.sets().map(|(set, _)| set).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn a_descriptor_with_the_right_mode_is_duplicated() {
        let mut sets = FdSets::default();
        sets.add(Some(3), null(false)).unwrap();
        assert!(sets.fdset(3).is_err());
        sets.add(Some(3), null(true)).unwrap();
        rustix::io::write(sets.fdset(3).unwrap(), b"x").unwrap();
        assert!(sets.duplicate(3, true, true).is_err());
        assert!(sets.duplicate(3, true, false).is_ok());
        assert!(sets.fdset(4).is_err());
    }

    #[test]
    fn sets_have_a_bound() {
        let mut sets = FdSets::default();
        for _ in 0..MAX_MEMBERS {
            sets.add(Some(0), null(true)).unwrap();
        }
        assert!(sets.add(Some(0), null(true)).is_err());
    }
}
