//! The frontend as a connecting device sees it: its directory in the store, its pages and ports.
//!
//! Everything here was written by the domain: numbers are parsed strictly, and what is refused is
//! told with the node's full path.

use std::fmt::Debug;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::error::{DeviceError, shown};
use super::thread::Closer;
use crate::domain::{Access, Channel, Domain, Grant, Store, Watch};
use crate::ring::{BackRing, MAX_RING_PAGES};

/// The frontend of a device, or one queue of it.
#[derive(Debug, Clone)]
pub struct Frontend {
    pub(super) store: Arc<dyn Store>,
    pub(super) domain: Arc<dyn Domain>,
    pub(super) path: String,
    pub(super) closer: Closer,
}

impl Frontend {
    /// The domain.
    #[must_use]
    pub fn domain(&self) -> &Arc<dyn Domain> {
        &self.domain
    }

    /// The directory's full path.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What a queue's thread closes the device with when the frontend breaks the protocol.
    #[must_use]
    pub fn closer(&self) -> Closer {
        self.closer.clone()
    }

    /// The directory of a queue of a device with several (`queue-N` below the device's own).
    #[must_use]
    pub fn queue(&self, index: u32) -> Self {
        Self {
            path: format!("{}/queue-{index}", self.path),
            ..self.clone()
        }
    }

    /// A node's full path.
    #[must_use]
    pub fn path_of(&self, key: &str) -> String {
        format!("{}/{key}", self.path)
    }

    /// A node's value, or nothing if there is none or an empty one: GRUB leaves `ring-ref` and
    /// `event-channel` empty behind.
    ///
    /// # Errors
    /// [`DeviceError::Store`].
    pub fn read(&self, key: &str) -> Result<Option<String>, DeviceError> {
        let value = self.store.read(&self.path_of(key))?;
        Ok(value.filter(|value| !value.is_empty()))
    }

    /// Watches a node, for a device whose frontend may change it while connected.
    ///
    /// # Errors
    /// [`DeviceError::Store`].
    pub fn watch(&self, key: &str) -> Result<Box<dyn Watch>, DeviceError> {
        Ok(self.store.watch(&[&self.path_of(key)])?)
    }

    /// A decimal number in the given range that must be there.
    ///
    /// # Errors
    /// [`DeviceError::Missing`], [`DeviceError::NotInRange`], [`DeviceError::Store`].
    pub fn number(&self, key: &str, range: RangeInclusive<u32>) -> Result<u32, DeviceError> {
        self.optional_number(key, range)?
            .ok_or_else(|| DeviceError::Missing {
                path: self.path_of(key),
            })
    }

    /// A decimal number in the given range, if it is there.
    ///
    /// # Errors
    /// [`DeviceError::NotInRange`], [`DeviceError::Store`].
    pub fn optional_number(
        &self,
        key: &str,
        range: RangeInclusive<u32>,
    ) -> Result<Option<u32>, DeviceError> {
        let Some(value) = self.read(key)? else {
            return Ok(None);
        };
        let number = decimal(&value).filter(|number| range.contains(number));
        number.map(Some).ok_or_else(|| DeviceError::NotInRange {
            path: self.path_of(key),
            value: shown(&value),
            min: (*range.start()).into(),
            max: (*range.end()).into(),
        })
    }

    /// A feature that the frontend has (1) or has not (0, or no node).
    ///
    /// # Errors
    /// As [`Self::optional_number`].
    pub fn feature(&self, key: &str) -> Result<bool, DeviceError> {
        Ok(self.optional_number(key, 0..=1)? == Some(1))
    }

    /// Maps the pages of a ring, whose references are in the given nodes, for writing.
    ///
    /// # Errors
    /// As [`Self::number`], and [`DeviceError::Map`].
    pub fn map_ring(&self, keys: &[String]) -> Result<Vec<Grant>, DeviceError> {
        if keys.len() > MAX_RING_PAGES {
            return Err(crate::ring::RingError::Pages(keys.len()).into());
        }
        let grants = self.domain.grants();
        let map = |key: &String| {
            let gref = self.number(key, 0..=u32::MAX)?;
            Grant::map(&grants, gref, Access::Write).map_err(|source| DeviceError::Map {
                path: self.path_of(key),
                source,
            })
        };
        keys.iter().map(map).collect()
    }

    /// The ring of one page behind `key`, or of `1 << order` pages behind `key` with 0, 1, ...
    /// appended, as `ring-page-order` in the device's directory has it.
    ///
    /// # Errors
    /// As [`Self::map_ring`], and [`DeviceError::Ring`].
    pub fn ring(
        &self,
        key: &str,
        order: Option<u32>,
        entry_size: usize,
    ) -> Result<BackRing, DeviceError> {
        let keys = match order {
            None => vec![key.to_owned()],
            // More pages than rings have are refused by map_ring.
            Some(order) => (0..1u32 << order.min(5))
                .map(|n| format!("{key}{n}"))
                .collect(),
        };
        Ok(BackRing::new(self.map_ring(&keys)?, entry_size)?)
    }

    /// Binds to the port in a node.
    ///
    /// # Errors
    /// As [`Self::number`], and [`DeviceError::Bind`].
    pub fn bind(&self, key: &str) -> Result<Arc<dyn Channel>, DeviceError> {
        let port = self.number(key, 1..=u32::MAX)?;
        self.domain.bind(port).map_err(|source| DeviceError::Bind {
            path: self.path_of(key),
            source,
        })
    }
}

/// A number in digits alone, as every frontend writes it.
pub(super) fn decimal(value: &str) -> Option<u32> {
    value
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| value.parse().ok())?
}
