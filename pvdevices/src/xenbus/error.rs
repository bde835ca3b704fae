//! Why a backend gives up on its frontend.

use std::io;

use thiserror::Error;

use crate::domain::{ChannelError, GrantError, StoreRefused};
use crate::ring::RingError;

/// Why a device cannot connect, or cannot go on. Shown in the log with the device's name, and to
/// the frontend in the backend's error node.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// The frontend has not written a node that is needed.
    #[error("The frontend has not written '{path}'")]
    Missing {
        /// The node's full path.
        path: String,
    },
    /// A node's value is not a number, or not one in range.
    #[error("'{path}' is '{value}', not a number from {min} to {max}")]
    NotInRange {
        /// The node's full path.
        path: String,
        /// What it holds, cut short.
        value: String,
        /// The least that is taken.
        min: u64,
        /// The most that is taken.
        max: u64,
    },
    /// A node's value is not one of those that the device knows.
    #[error("'{path}' is '{value}'; known: {known}")]
    Unknown {
        /// The node's full path.
        path: String,
        /// What it holds, cut short.
        value: String,
        /// What could be there.
        known: &'static str,
    },
    /// The frontend's combination of keys is refused, or the device's own reason.
    #[error("{0}")]
    Refused(String),
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] StoreRefused),
    /// A grant reference in the frontend's nodes gives no page.
    #[error("A page of '{path}' cannot be mapped: {source}")]
    Map {
        /// The node's full path.
        path: String,
        /// Why.
        source: GrantError,
    },
    /// A port in the frontend's nodes cannot be bound.
    #[error("The event channel of '{path}' cannot be bound: {source}")]
    Bind {
        /// The node's full path.
        path: String,
        /// Why.
        source: ChannelError,
    },
    /// A grant reference in a request gives no page.
    #[error(transparent)]
    Grant(#[from] GrantError),
    /// The ring is impossible, or its indices are.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The host refuses what the device needs (a thread, a descriptor).
    #[error("The host refuses: {0}")]
    Host(#[from] io::Error),
}

/// As much of a value as belongs into a message, without control characters.
pub(super) fn shown(value: &str) -> String {
    value
        .chars()
        .take(40)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}
