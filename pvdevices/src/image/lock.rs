//! Locks on image files that QEMU and its tools understand.
//!
//! QEMU (`block/file-posix.c`) keeps others from an image by open file description locks on single
//! bytes of the file: for every permission that a user of the image has, byte 100 plus its number is
//! locked for reading, and for every permission that it lets nobody else have, byte 200 plus its
//! number. Who wants a permission looks whether its second byte is locked by somebody else, who
//! refuses one looks at the first. The locks vanish with the descriptor.

use std::io;
use std::os::fd::BorrowedFd;

use super::config::Locking;
use super::sys::{LockOperation, is_locked, lock_byte};

/// The first byte of the locks of permissions that are had.
const HELD: i64 = 100;
/// The first byte of the locks of permissions that nobody else may have.
const UNSHARED: i64 = 200;

/// What may be done with an image: QEMU's `BLK_PERM_*`, the number is the bit's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i64)]
pub(super) enum Permission {
    /// Reads that always find the same state.
    ConsistentRead = 0,
    /// Writes.
    Write = 1,
    /// Changes of the size.
    Resize = 3,
}

impl Permission {
    /// As QEMU prints it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ConsistentRead => "consistent read",
            Self::Write => "write",
            Self::Resize => "resize",
        }
    }
}

/// What one user of a file has and what it leaves to others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Claim {
    /// The permissions it has.
    pub(super) held: Vec<Permission>,
    /// The permissions that nobody else may have.
    pub(super) unshared: Vec<Permission>,
}

impl Claim {
    /// Of a device on the raw bytes of a file.
    pub(super) fn device(write: bool, share_rw: bool) -> Self {
        Self::new(
            write.then_some(Permission::Write),
            (!share_rw).then_some(Permission::Write),
        )
    }

    /// Of a format that keeps metadata in a file: nobody else may write or resize it.
    pub(super) fn format(write: bool) -> Self {
        let both = [Permission::Write, Permission::Resize];
        Self::new(both.into_iter().filter(|_| write), both)
    }

    /// The same user, who lets others do what they like (`force-share`).
    pub(super) fn sharing(mut self) -> Self {
        self.unshared.clear();
        self
    }

    fn new(
        held: impl IntoIterator<Item = Permission>,
        unshared: impl IntoIterator<Item = Permission>,
    ) -> Self {
        let read = [Permission::ConsistentRead];
        Self {
            held: read.into_iter().chain(held).collect(),
            unshared: unshared.into_iter().collect(),
        }
    }

    /// Every byte that this claim locks.
    fn bytes(&self) -> impl Iterator<Item = i64> {
        let held = self.held.iter().map(|permission| HELD + *permission as i64);
        let unshared = self
            .unshared
            .iter()
            .map(|permission| UNSHARED + *permission as i64);
        held.chain(unshared)
    }
}

/// Why a claim failed.
#[derive(Debug)]
pub(super) enum LockFault {
    /// Somebody else does not let us have this permission.
    Held(Permission),
    /// Somebody else has a permission that we do not share.
    Shared(Permission),
    /// The host cannot lock.
    Host(io::Error),
}

/// Locks what the claim says. On a failure nothing stays locked.
///
/// The locks last until [`release`] or until the last descriptor of this open file is closed.
pub(super) fn acquire(fd: BorrowedFd<'_>, claim: &Claim, mode: Locking) -> Result<(), LockFault> {
    if mode == Locking::Off {
        return Ok(());
    }
    if let Err(error) = is_locked(fd, HELD) {
        return match mode {
            // A file system without locks: QEMU goes on without them, too.
            Locking::Auto => Ok(()),
            _ => Err(LockFault::Host(error)),
        };
    }
    let result = lock_all(fd, claim).and_then(|()| check(fd, claim));
    if result.is_err() {
        release(fd, claim);
    }
    result
}

/// Drops the locks of a claim.
pub(super) fn release(fd: BorrowedFd<'_>, claim: &Claim) {
    for at in claim.bytes() {
        if let Err(error) = lock_byte(fd, at, LockOperation::Unlock) {
            log::warn!(target: "xenner::block", "Lock at byte {at} of an image stays: {error}");
        }
    }
}

fn lock_all(fd: BorrowedFd<'_>, claim: &Claim) -> Result<(), LockFault> {
    claim
        .bytes()
        .try_for_each(|at| lock_byte(fd, at, LockOperation::ReadLock))
        .map_err(LockFault::Host)
}

fn check(fd: BorrowedFd<'_>, claim: &Claim) -> Result<(), LockFault> {
    for permission in &claim.held {
        if is_locked(fd, UNSHARED + *permission as i64).map_err(LockFault::Host)? {
            return Err(LockFault::Held(*permission));
        }
    }
    for permission in &claim.unshared {
        if is_locked(fd, HELD + *permission as i64).map_err(LockFault::Host)? {
            return Err(LockFault::Shared(*permission));
        }
    }
    Ok(())
}
