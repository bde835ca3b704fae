//! Errors of the store: [`XsErrno`] is what a client is answered, by name, on
//! the wire; [`StoreError`] is the same for users inside this process, with
//! the path it is about.

use std::fmt;

macro_rules! errnos {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// An error as it goes over the wire: the payload of an ERROR message
        /// is this name and a NUL (`xsd_errors` in `io/xs_wire.h`).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum XsErrno {
            $($(#[$doc])* $name),*
        }

        impl XsErrno {
            /// The name as sent, without the NUL.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }
        }
    };
}

errnos! {
    /// Malformed path, payload or argument.
    EINVAL,
    /// The caller's permissions do not suffice.
    EACCES,
    /// The watch exists already.
    EEXIST,
    /// No such node, watch or transaction.
    ENOENT,
    /// A quota is exhausted.
    ENOSPC,
    /// The request is not implemented.
    ENOSYS,
    /// A transaction inside a transaction.
    EBUSY,
    /// The transaction met a conflicting change; start it again.
    EAGAIN,
    /// The answer does not fit into one message.
    E2BIG,
    /// An unprivileged domain tried to give a node away.
    EPERM,
}

impl fmt::Display for XsErrno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::error::Error for XsErrno {}

/// What went wrong for a user inside this process.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store refused the operation.
    #[error("Cannot {operation} xenstore path '{path}': {errno}")]
    Refused {
        /// What was tried: `read`, `write`, ...
        operation: &'static str,
        /// The path as the caller gave it.
        path: String,
        /// The store's answer.
        errno: XsErrno,
    },
    /// The value is there but is not text.
    #[error("Value of xenstore path '{path}' is not UTF-8 text")]
    NotText {
        /// The path as the caller gave it.
        path: String,
    },
    /// A transaction met a conflict each time.
    #[error("Gave up a xenstore transaction after {attempts} conflicts with other writers")]
    Conflict {
        /// How often it was tried.
        attempts: u32,
    },
    /// The eventfd of a watch queue or of the store could not be made.
    #[error("Cannot create an eventfd for xenstore")]
    EventFd(#[source] std::io::Error),
    /// The saved state is not one that this store wrote.
    #[error("Saved xenstore state is not valid: {what}")]
    BadState {
        /// The offending part.
        what: String,
    },
}

impl StoreError {
    /// The store's answer, if it was the store that refused.
    #[must_use]
    pub fn errno(&self) -> Option<XsErrno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Conflict { .. } => Some(XsErrno::EAGAIN),
            _ => None,
        }
    }
}
