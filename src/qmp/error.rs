//! Errors as QMP has them: a class for programs, a sentence for people.
//!
//! The classes and, where a program may look at it, the sentences are QEMU's (its
//! `qapi/error.json` and `docs/interop/qmp-spec`).

use serde::Serialize;

/// QMP's error classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ErrorClass {
    /// Everything that has no class of its own.
    GenericError,
    /// There is no such command, or not at this point of the conversation.
    CommandNotFound,
    /// A device that the command needs is not there or not in use.
    DeviceNotActive,
    /// No device of this name.
    DeviceNotFound,
    /// KVM lacks something.
    KVMMissingCap,
}

/// An error that a client gets as its answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize)]
#[error("{desc}")]
pub struct QmpError {
    /// For programs.
    pub class: ErrorClass,
    /// For people.
    pub desc: String,
}

impl QmpError {
    /// An error of any class.
    pub fn new(class: ErrorClass, desc: impl Into<String>) -> Self {
        let desc = desc.into();
        Self { class, desc }
    }

    /// An error without a class of its own.
    pub fn generic(desc: impl Into<String>) -> Self {
        Self::new(ErrorClass::GenericError, desc)
    }

    /// No device of this name.
    pub fn no_device(name: &str) -> Self {
        Self::new(
            ErrorClass::DeviceNotFound,
            format!("Device '{name}' not found"),
        )
    }

    /// The domain cannot do it, whoever asks: `what` starts the sentence ("Disks").
    pub fn unsupported(what: &str) -> Self {
        Self::generic(format!("{what} is not supported by this domain"))
    }
}
