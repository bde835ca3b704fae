//! Paths: their syntax, and absolute against relative ones.
//!
//! Not here: whether a node exists, or who may use it.

use super::error::XsErrno;
use super::perms::DomId;
use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Longest absolute path in bytes (`XENSTORE_ABS_PATH_MAX` of `io/xs_wire.h`).
pub const ABS_PATH_MAX: usize = 3072;
/// Longest relative path in bytes (`XENSTORE_REL_PATH_MAX` of `io/xs_wire.h`).
pub const REL_PATH_MAX: usize = 2048;

/// The special watch path of domains coming up.
pub const INTRODUCE_DOMAIN: &str = "@introduceDomain";
/// The special watch path of domains going away.
pub const RELEASE_DOMAIN: &str = "@releaseDomain";

/// A valid canonical path: absolute (`/local/domain/1/name`), or one of the
/// special watch paths (`@releaseDomain`, `@releaseDomain/1`).
///
/// The order puts every path before its descendants.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorePath(Arc<str>);

/// A path as a client gave it, made canonical.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The canonical path.
    pub path: StorePath,
    /// True if the client named it relative to its own domain's directory.
    pub relative: bool,
}

/// The directory of `domid`, against which its relative paths are taken.
#[must_use]
pub fn domain_path(domid: DomId) -> String {
    format!("/local/domain/{domid}")
}

impl StorePath {
    /// The root, `/`.
    #[must_use]
    pub fn root() -> Self {
        Self(Arc::from("/"))
    }

    /// Checks an absolute path.
    ///
    /// # Errors
    /// EINVAL if it is relative, special, too long or malformed.
    pub fn parse(path: &str) -> Result<Self, XsErrno> {
        if path.len() > ABS_PATH_MAX || !is_valid_node_path(path) {
            return Err(XsErrno::EINVAL);
        }
        Ok(Self(Arc::from(path)))
    }

    /// Makes the path of a request by `domid` canonical. Special paths are not
    /// nodes and are refused; see [`StorePath::resolve_watch`].
    ///
    /// # Errors
    /// EINVAL for anything that is not a valid path.
    pub fn resolve(raw: &[u8], domid: DomId) -> Result<Resolved, XsErrno> {
        let text = std::str::from_utf8(raw).map_err(|_| XsErrno::EINVAL)?;
        if text.starts_with('/') {
            return Ok(Resolved {
                path: Self::parse(text)?,
                relative: false,
            });
        }
        if text.is_empty() || text.starts_with('@') || text.len() > REL_PATH_MAX {
            return Err(XsErrno::EINVAL);
        }
        let absolute = format!("{}/{text}", domain_path(domid));
        Ok(Resolved {
            path: Self::parse(&absolute)?,
            relative: true,
        })
    }

    /// As [`StorePath::resolve`], with the special watch paths allowed.
    ///
    /// # Errors
    /// EINVAL for anything that is neither a valid path nor a known special
    /// path.
    pub fn resolve_watch(raw: &[u8], domid: DomId) -> Result<Resolved, XsErrno> {
        if raw.first() != Some(&b'@') {
            return Self::resolve(raw, domid);
        }
        let text = std::str::from_utf8(raw).map_err(|_| XsErrno::EINVAL)?;
        let (name, domain) = match text.split_once('/') {
            Some((name, domain)) => (name, Some(domain)),
            None => (text, None),
        };
        let known = name == INTRODUCE_DOMAIN || name == RELEASE_DOMAIN;
        let canonical = |d: &str| d.parse::<DomId>().is_ok_and(|n| n.to_string() == d);
        if !known || !domain.is_none_or(canonical) {
            return Err(XsErrno::EINVAL);
        }
        Ok(Resolved {
            path: Self(Arc::from(text)),
            relative: false,
        })
    }

    /// The special path for `domid`: `@releaseDomain/1`.
    #[must_use]
    pub fn special(name: &str, domid: DomId) -> Self {
        Self(Arc::from(format!("{name}/{domid}")))
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for `/`.
    #[must_use]
    pub fn is_root(&self) -> bool {
        &*self.0 == "/"
    }

    /// True for the special watch paths.
    #[must_use]
    pub fn is_special(&self) -> bool {
        self.0.starts_with('@')
    }

    /// The names from the root down; none for the root.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/').filter(|c| !c.is_empty())
    }

    /// Number of names in the path; 0 for the root.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.components().count()
    }

    /// The last name; empty for the root.
    #[must_use]
    pub fn leaf(&self) -> &str {
        self.components().next_back().unwrap_or("")
    }

    /// The parent, none for the root and for special paths without a domain.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        match self.0.rfind('/') {
            Some(0) => Some(Self::root()),
            Some(at) => Some(Self(Arc::from(&self.0[..at]))),
            None => None,
        }
    }

    /// The path itself, then its ancestors up to the root.
    pub fn ancestors(&self) -> impl Iterator<Item = Self> {
        std::iter::successors(Some(self.clone()), Self::parent)
    }

    /// As [`StorePath::ancestors`], as text: the path, then up to the root.
    pub fn ancestor_strs(&self) -> impl Iterator<Item = &str> {
        std::iter::successors(Some(&*self.0), |path| match path.rfind('/') {
            _ if *path == "/" => None,
            Some(0) => Some("/"),
            Some(at) => path.get(..at),
            None => None,
        })
    }

    /// The path of the child `name`, which must be a valid name.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.is_root() {
            Self(Arc::from(format!("/{name}")))
        } else {
            Self(Arc::from(format!("{}/{name}", self.0)))
        }
    }

    /// True if `self` is `other` or lies below it.
    #[must_use]
    pub fn is_at_or_below(&self, other: &Self) -> bool {
        if other.is_root() {
            return !self.is_special();
        }
        match self.0.strip_prefix(&*other.0) {
            Some(rest) => rest.is_empty() || rest.starts_with('/'),
            None => false,
        }
    }

    /// The path as `domid` would name it relative to its own directory, if it
    /// lies below it.
    #[must_use]
    pub fn relative_to_domain(&self, domid: DomId) -> Option<&str> {
        self.0.strip_prefix(&*domain_path(domid))?.strip_prefix('/')
    }
}

/// Maps keyed by paths can be asked with text: both hash and compare alike.
impl Borrow<str> for StorePath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

fn is_valid_node_path(path: &str) -> bool {
    let valid_byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'/' | b'_' | b'@');
    path.starts_with('/')
        && path.bytes().all(valid_byte)
        && !path.contains("//")
        && (path.len() == 1 || !path.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str) -> Result<Resolved, XsErrno> {
        StorePath::resolve(text.as_bytes(), 7)
    }

    #[test]
    fn relative_paths_hang_below_the_callers_domain() {
        let resolved = resolve("device/vbd").unwrap();
        assert_eq!(resolved.path.as_str(), "/local/domain/7/device/vbd");
        assert!(resolved.relative);
        assert_eq!(resolved.path.relative_to_domain(7), Some("device/vbd"));
        assert_eq!(resolved.path.relative_to_domain(70), None);
        assert!(!resolve("/local/domain/7/device").unwrap().relative);
    }

    #[test]
    fn malformed_paths_are_refused() {
        for bad in [
            "", "/a/", "//", "/a//b", "a//b", "a/", "/a b", "/\u{e4}", "/a.b", "@foo", "/a\n",
        ] {
            assert_eq!(resolve(bad), Err(XsErrno::EINVAL), "{bad:?}");
        }
        assert!(StorePath::resolve(&[b'/', 0xff], 0).is_err());
        for good in ["/", "/a", "/A-z_0@9/b", "a"] {
            assert!(resolve(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn lengths_are_limited() {
        let absolute = |n: usize| format!("/{}", "a".repeat(n - 1));
        assert!(resolve(&absolute(ABS_PATH_MAX)).is_ok());
        assert!(resolve(&absolute(ABS_PATH_MAX + 1)).is_err());
        assert!(resolve(&"a".repeat(REL_PATH_MAX)).is_ok());
        assert!(resolve(&"a".repeat(REL_PATH_MAX + 1)).is_err());
    }

    #[test]
    fn special_paths_are_for_watches_alone() {
        let watch = |s: &str| StorePath::resolve_watch(s.as_bytes(), 1);
        assert!(watch("@introduceDomain").is_ok());
        assert!(watch("@releaseDomain/12").is_ok());
        for bad in [
            "@releaseDomain/",
            "@releaseDomain/x",
            "@releaseDomain/01",
            "@foo",
            "@releaseDomain/70000",
        ] {
            assert_eq!(watch(bad), Err(XsErrno::EINVAL), "{bad}");
        }
        assert!(resolve("@releaseDomain").is_err());
        let special = watch("@releaseDomain/12").unwrap().path;
        assert_eq!(special.parent().unwrap().as_str(), RELEASE_DOMAIN);
        assert!(!special.is_at_or_below(&StorePath::root()));
    }

    #[test]
    fn ancestry() {
        let path = StorePath::parse("/a/b/c").unwrap();
        let up: Vec<String> = path.ancestors().map(|p| p.to_string()).collect();
        assert_eq!(up, ["/a/b/c", "/a/b", "/a", "/"]);
        assert_eq!(path.ancestor_strs().collect::<Vec<_>>(), up);
        assert_eq!(StorePath::root().ancestor_strs().collect::<Vec<_>>(), ["/"]);
        assert_eq!(path.depth(), 3);
        assert_eq!(path.leaf(), "c");
        assert!(path.is_at_or_below(&StorePath::parse("/a/b").unwrap()));
        assert!(!path.is_at_or_below(&StorePath::parse("/a/bb").unwrap()));
        assert!(
            !StorePath::parse("/a/bb")
                .unwrap()
                .is_at_or_below(&StorePath::parse("/a/b").unwrap())
        );
        assert_eq!(StorePath::root().child("a").as_str(), "/a");
    }
}
