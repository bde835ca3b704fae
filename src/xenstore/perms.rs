//! Permission lists of nodes.
//!
//! The first entry names the owner, who may do everything, and its letter is
//! what every domain not listed may do; the other entries name one domain
//! each. Domid 0 may do everything everywhere.

use super::error::XsErrno;
use super::quota;
use std::fmt;
use std::sync::Arc;

/// A domain's number (`domid_t` of `xen.h`).
pub type DomId = u16;

bitflags::bitflags! {
    /// Rights to a node.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct Access: u8 {
        /// Read the value, the children's names and the permissions.
        const READ = 1;
        /// Change the value, create children, remove the node.
        const WRITE = 2;
        /// Change the permissions. Never in a list: it follows from ownership.
        const OWNER = 4;
    }
}

/// One entry of a list, on the wire a letter and a domid: `n0`, `r1`, `w2`,
/// `b3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Perm {
    /// The domain it is about.
    pub domid: DomId,
    /// Its rights: any of READ and WRITE.
    pub access: Access,
}

impl Perm {
    /// No rights (`n`); as first entry: owned by `domid`, closed to others.
    #[must_use]
    pub const fn none(domid: DomId) -> Self {
        Self {
            domid,
            access: Access::empty(),
        }
    }

    /// The right to read (`r`).
    #[must_use]
    pub const fn read(domid: DomId) -> Self {
        Self {
            domid,
            access: Access::READ,
        }
    }

    /// The right to write (`w`).
    #[must_use]
    pub const fn write(domid: DomId) -> Self {
        Self {
            domid,
            access: Access::WRITE,
        }
    }

    /// The right to read and write (`b`).
    #[must_use]
    pub const fn both(domid: DomId) -> Self {
        Self {
            domid,
            access: Access::READ.union(Access::WRITE),
        }
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// EINVAL for an unknown letter or a domid that is not a number below
    /// 65536.
    pub fn parse(text: &[u8]) -> Result<Self, XsErrno> {
        let (letter, digits) = text.split_first().ok_or(XsErrno::EINVAL)?;
        let domid = parse_number(digits)?;
        match letter {
            b'n' => Ok(Self::none(domid)),
            b'r' => Ok(Self::read(domid)),
            b'w' => Ok(Self::write(domid)),
            b'b' => Ok(Self::both(domid)),
            _ => Err(XsErrno::EINVAL),
        }
    }
}

impl fmt::Display for Perm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match (
            self.access.contains(Access::READ),
            self.access.contains(Access::WRITE),
        ) {
            (false, false) => 'n',
            (true, false) => 'r',
            (false, true) => 'w',
            (true, true) => 'b',
        };
        write!(f, "{letter}{}", self.domid)
    }
}

/// Reads a decimal number as the protocol writes it: digits alone.
///
/// # Errors
/// EINVAL if it is anything else or does not fit.
pub fn parse_number<T: std::str::FromStr>(text: &[u8]) -> Result<T, XsErrno> {
    if !text.iter().all(u8::is_ascii_digit) {
        return Err(XsErrno::EINVAL);
    }
    let text = std::str::from_utf8(text).map_err(|_| XsErrno::EINVAL)?;
    text.parse().map_err(|_| XsErrno::EINVAL)
}

/// A node's permission list; never empty.
#[derive(Clone, PartialEq, Eq)]
pub struct Permissions(Arc<[Perm]>);

impl Permissions {
    /// Takes a list whose first entry is the owner's.
    ///
    /// # Errors
    /// EINVAL if it is empty, ENOSPC if no message could carry it.
    pub fn new(entries: &[Perm]) -> Result<Self, XsErrno> {
        if entries.is_empty() {
            return Err(XsErrno::EINVAL);
        }
        if entries.len() > quota::PERMS_PER_NODE_PRIVILEGED {
            return Err(XsErrno::ENOSPC);
        }
        Ok(Self(Arc::from(entries)))
    }

    /// Owned by `owner`, closed to everyone else but domid 0.
    #[must_use]
    pub fn private(owner: DomId) -> Self {
        Self(Arc::from([Perm::none(owner)]))
    }

    /// Owned by domid 0, `domid` may read.
    #[must_use]
    pub fn readable_by(domid: DomId) -> Self {
        Self(Arc::from([Perm::none(0), Perm::read(domid)]))
    }

    /// The owner.
    #[must_use]
    pub fn owner(&self) -> DomId {
        // The constructors admit no empty list.
        self.0.first().map_or(0, |first| first.domid)
    }

    /// The same list with another owner.
    #[must_use]
    pub fn owned_by(&self, owner: DomId) -> Self {
        if self.owner() == owner {
            return self.clone();
        }
        let mut entries = self.0.to_vec();
        if let Some(first) = entries.first_mut() {
            first.domid = owner;
        }
        Self(Arc::from(entries))
    }

    /// The entries, the owner's first.
    #[must_use]
    pub fn entries(&self) -> &[Perm] {
        &self.0
    }

    /// What `domid` may do.
    #[must_use]
    pub fn access(&self, domid: DomId) -> Access {
        if domid == 0 || domid == self.owner() {
            return Access::all();
        }
        let listed = self.0.iter().skip(1).find(|entry| entry.domid == domid);
        listed
            .or(self.0.first())
            .map_or(Access::empty(), |entry| entry.access)
    }

    /// True if `domid` has all of `wanted`.
    #[must_use]
    pub fn allows(&self, domid: DomId, wanted: Access) -> bool {
        self.access(domid).contains(wanted)
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(ToString::to_string))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_form_round_trips() {
        for text in ["n0", "r1", "w2", "b65535"] {
            assert_eq!(Perm::parse(text.as_bytes()).unwrap().to_string(), text);
        }
        for bad in ["", "x1", "r65536", "r-1", "r+1", "r 1", "r1x", "R1"] {
            assert_eq!(Perm::parse(bad.as_bytes()), Err(XsErrno::EINVAL), "{bad}");
        }
        assert_eq!(Perm::parse(b"r"), Err(XsErrno::EINVAL));
    }

    #[test]
    fn rights_follow_owner_entry_and_default() {
        let list = Permissions::new(&[Perm::read(1), Perm::none(2), Perm::both(3)]).unwrap();
        assert_eq!(list.access(0), Access::all());
        assert_eq!(list.access(1), Access::all());
        assert_eq!(list.access(2), Access::empty());
        assert_eq!(list.access(3), Access::READ | Access::WRITE);
        assert_eq!(list.access(4), Access::READ);
        assert_eq!(list.owned_by(9).access(1), Access::READ);
        assert!(Permissions::new(&[]).is_err());
    }
}
