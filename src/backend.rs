//! The domain and the store as device backends see them: the VMM's side of
//! [`xenner_pvdevices::domain`].

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use xenner_emu_abi::layout::DOMID;
use xenner_pvdevices::domain::{
    Channel, ChannelError, DeviceNodes, Domain, GrantTable, Store, StoreRefused, Watch,
};
use xenner_xen_abi::errno::ENOSPC;

use crate::evtchn::EventChannels;
use crate::grants::Grants;
use crate::xenstore::{
    StoreError, StoreHandle, StoreTransaction, WatchQueue, XsErrno, publish_device,
};

#[cfg(test)]
mod tests;

/// A domain, for its backends.
#[derive(Debug)]
pub struct BackendDomain {
    /// Its grant table.
    pub grants: Arc<Grants>,
    /// Its event channels.
    pub events: EventChannels,
}

impl Domain for BackendDomain {
    fn domid(&self) -> u16 {
        DOMID
    }

    fn grants(&self) -> Arc<dyn GrantTable> {
        self.grants.clone()
    }

    fn bind(&self, port: u32) -> Result<Arc<dyn Channel>, ChannelError> {
        match self.events.connect(port) {
            Ok(channel) => Ok(Arc::new(channel)),
            Err(ENOSPC) => Err(ChannelError::NoDescriptor(port)),
            Err(_) => Err(ChannelError::NotOffered(port)),
        }
    }
}

/// The store, for backends.
#[derive(Debug, Clone)]
pub struct BackendStore(pub StoreHandle);

fn refused<'a>(
    operation: &'static str,
    path: &'a str,
) -> impl Fn(StoreError) -> StoreRefused + use<'a> {
    move |e| StoreRefused {
        operation,
        path: path.to_owned(),
        reason: e.to_string(),
    }
}

fn is_missing(e: &StoreError) -> bool {
    e.errno() == Some(XsErrno::ENOENT)
}

impl Store for BackendStore {
    fn read(&self, path: &str) -> Result<Option<String>, StoreRefused> {
        self.0.try_read(path).map_err(refused("read", path))
    }

    fn write(&self, path: &str, value: &str) -> Result<(), StoreRefused> {
        self.0.write(path, value).map_err(refused("write", path))
    }

    fn write_all(&self, values: &[(String, String)]) -> Result<(), StoreRefused> {
        let place = values.first().map_or("", |(path, _)| path.as_str());
        let write = |t: &StoreTransaction<'_>| {
            values
                .iter()
                .try_for_each(|(path, value)| t.write(path, value))
        };
        self.0.transaction(write).map_err(refused("write", place))
    }

    fn publish_device(&self, nodes: &DeviceNodes) -> Result<(), StoreRefused> {
        publish_device(&self.0, nodes).map_err(refused("write", &nodes.backend))
    }

    fn remove(&self, path: &str) -> Result<(), StoreRefused> {
        match self.0.rm(path) {
            Err(e) if !is_missing(&e) => Err(refused("remove", path)(e)),
            // its parent is missing, and so is it
            _ => Ok(()),
        }
    }

    fn list(&self, path: &str) -> Result<Vec<String>, StoreRefused> {
        match self.0.list(path) {
            Err(e) if is_missing(&e) => Ok(Vec::new()),
            other => other.map_err(refused("list", path)),
        }
    }

    fn watch(&self, paths: &[&str]) -> Result<Box<dyn Watch>, StoreRefused> {
        let first = paths.first().copied().unwrap_or_default();
        let queue = self.0.watch_queue().map_err(refused("watch", first))?;
        for path in paths {
            self.0
                .watch(&queue, path, "backend")
                .map_err(refused("watch", path))?;
        }
        Ok(Box::new(BackendWatch(queue)))
    }
}

/// A backend's watches.
#[derive(Debug)]
struct BackendWatch(WatchQueue);

impl AsFd for BackendWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Watch for BackendWatch {
    fn next(&mut self) -> Option<String> {
        self.0.try_next().map(|event| event.path)
    }
}
