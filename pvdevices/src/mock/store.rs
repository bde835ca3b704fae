//! A store without permissions, quotas and transactions of others: a map of paths, and watches.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use super::PATIENCE;
use crate::bell::Bell;
use crate::domain::{DeviceNodes, Store, StoreRefused, Watch};

/// A store for tests.
#[derive(Debug, Default)]
pub struct MockStore {
    tree: Mutex<Tree>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Tree {
    nodes: BTreeMap<String, String>,
    watches: Vec<Weak<Watched>>,
    /// Nodes below this path cannot be written.
    refused: Option<String>,
    /// All values that were written, in order.
    history: Vec<(String, String)>,
}

impl MockStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node's value.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<String> {
        self.tree().nodes.get(path).cloned()
    }

    /// Sets a value as the domain or a tool would.
    pub fn set(&self, path: &str, value: &str) {
        self.tree().write(path, value);
        self.changed.notify_all();
    }

    /// Removes a node and everything below it as the domain or a tool would.
    pub fn take(&self, path: &str) {
        self.tree().remove(path);
        self.changed.notify_all();
    }

    /// Refuses writes at and below a path from now on.
    pub fn refuse(&self, path: &str) {
        self.tree().refused = Some(path.to_owned());
    }

    /// All nodes below a path.
    #[must_use]
    pub fn below(&self, path: &str) -> Vec<(String, String)> {
        let tree = self.tree();
        let nodes = tree.nodes.iter().filter(|(node, _)| is_below(node, path));
        nodes.map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    /// All values that a node has had, in order.
    #[must_use]
    pub fn history(&self, path: &str) -> Vec<String> {
        let tree = self.tree();
        let of_node = tree.history.iter().filter(|(node, _)| node == path);
        of_node.map(|(_, value)| value.clone()).collect()
    }

    /// Waits until a node has (or has no) value as wanted; panics when [`super::PATIENCE`] ends.
    pub fn wait_until(&self, path: &str, wanted: impl Fn(Option<&str>) -> bool) {
        let end = Instant::now() + PATIENCE;
        let mut tree = self.tree();
        while !wanted(tree.nodes.get(path).map(String::as_str)) {
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "'{path}' is still {:?}, history {:?}",
                tree.nodes.get(path),
                tree.history
            );
            let waited = self.changed.wait_timeout(tree, left);
            tree = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Tree {
    fn write(&mut self, path: &str, value: &str) {
        let mut parent = path;
        while let Some((above, _)) = parent.rsplit_once('/') {
            if !above.is_empty() {
                self.nodes.entry(above.to_owned()).or_default();
            }
            parent = above;
        }
        self.nodes.insert(path.to_owned(), value.to_owned());
        self.history.push((path.to_owned(), value.to_owned()));
        self.fire(path);
    }

    fn remove(&mut self, path: &str) {
        let doomed = self.nodes.keys().filter(|node| is_below(node, path));
        for node in doomed.cloned().collect::<Vec<_>>() {
            self.nodes.remove(&node);
            self.fire(&node);
        }
    }

    fn fire(&mut self, path: &str) {
        self.watches.retain(|watch| {
            let Some(watch) = watch.upgrade() else {
                return false;
            };
            if watch.paths.iter().any(|watched| is_below(path, watched)) {
                watch.put(path);
            }
            true
        });
    }

    fn allow(&self, operation: &'static str, path: &str) -> Result<(), StoreRefused> {
        match &self.refused {
            Some(refused) if is_below(path, refused) => Err(StoreRefused {
                operation,
                path: path.to_owned(),
                reason: "the test says so".to_owned(),
            }),
            _ => Ok(()),
        }
    }
}

/// Whether a node is another one or below it.
fn is_below(node: &str, path: &str) -> bool {
    let rest = node.strip_prefix(path);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Store for MockStore {
    fn read(&self, path: &str) -> Result<Option<String>, StoreRefused> {
        Ok(self.get(path))
    }

    fn write(&self, path: &str, value: &str) -> Result<(), StoreRefused> {
        self.write_all(&[(path.to_owned(), value.to_owned())])
    }

    fn write_all(&self, values: &[(String, String)]) -> Result<(), StoreRefused> {
        let mut tree = self.tree();
        for (path, _) in values {
            tree.allow("write", path)?;
        }
        for (path, value) in values {
            tree.write(path, value);
        }
        self.changed.notify_all();
        Ok(())
    }

    fn publish_device(&self, nodes: &DeviceNodes) -> Result<(), StoreRefused> {
        let mut tree = self.tree();
        let ends = [
            (&nodes.backend, &nodes.backend_keys),
            (&nodes.frontend, &nodes.frontend_keys),
        ];
        for (path, _) in ends {
            tree.allow("write", path)?;
        }
        for (path, keys) in ends {
            tree.remove(path);
            for (key, value) in keys {
                tree.write(&format!("{path}/{key}"), value);
            }
        }
        for (key, value) in &nodes.frontend_labels {
            tree.write(&format!("{}/{key}", nodes.frontend), value);
        }
        self.changed.notify_all();
        Ok(())
    }

    fn remove(&self, path: &str) -> Result<(), StoreRefused> {
        self.take(path);
        Ok(())
    }

    fn list(&self, path: &str) -> Result<Vec<String>, StoreRefused> {
        let tree = self.tree();
        let below = tree.nodes.keys().filter_map(|node| node.strip_prefix(path));
        let names = below.filter_map(|rest| rest.strip_prefix('/'));
        let children = names.filter(|name| !name.contains('/'));
        Ok(children.map(str::to_owned).collect())
    }

    fn watch(&self, paths: &[&str]) -> Result<Box<dyn Watch>, StoreRefused> {
        let watched = Arc::new(Watched {
            paths: paths.iter().map(|&path| path.to_owned()).collect(),
            events: Mutex::default(),
            bell: Bell::new().expect("an eventfd"),
        });
        for path in paths {
            watched.put(path);
        }
        self.tree().watches.push(Arc::downgrade(&watched));
        Ok(Box::new(MockWatch(watched)))
    }
}

#[derive(Debug)]
struct Watched {
    paths: Vec<String>,
    events: Mutex<VecDeque<String>>,
    bell: Bell,
}

impl Watched {
    fn events(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, path: &str) {
        self.events().push_back(path.to_owned());
        self.bell.ring();
    }
}

#[derive(Debug)]
struct MockWatch(Arc<Watched>);

impl Watch for MockWatch {
    fn next(&mut self) -> Option<String> {
        let mut events = self.0.events();
        let event = events.pop_front();
        if event.is_none() {
            self.0.bell.silence();
        }
        event
    }
}

impl AsFd for MockWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.bell.as_fd()
    }
}
