//! Transactions: a private snapshot, a note of everything looked at and
//! changed, and a commit that goes through only if nobody else changed what
//! was looked at.
//!
//! Conflicts are judged node by node, and a node's value and permissions
//! apart from its list of children: two transactions that add different
//! children to one directory do not disturb each other.

use super::error::XsErrno;
use super::ops::{Change, Log, View};
use super::path::StorePath;
use super::perms::DomId;
use super::quota;
use super::tree::{Node, Tree};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What of a node the transaction's course depended on.
#[derive(Debug, Clone, Copy, Default)]
struct Touched {
    children: bool,
}

/// What the transaction did to a node; the node's final state is in its tree.
#[derive(Debug, Clone, Copy, Default)]
struct Written {
    /// The node, with its subtree, was removed (and may have been made anew).
    removed: bool,
}

/// The notes of one transaction. Their number is bounded for unprivileged
/// domains.
#[derive(Debug, Default)]
pub struct TransactionLog {
    touched: BTreeMap<StorePath, Touched>,
    written: BTreeMap<StorePath, Written>,
    bytes: usize,
    bytes_left: usize,
}

impl TransactionLog {
    /// Notes that existence, value or permissions of `path` mattered.
    ///
    /// # Errors
    /// ENOSPC if that would make more than `limit` nodes.
    pub fn touch_content(&mut self, path: &StorePath, limit: usize) -> Result<(), XsErrno> {
        if !self.touched.contains_key(path) {
            if self.touched.len() >= limit {
                return Err(XsErrno::ENOSPC);
            }
            self.touched.insert(path.clone(), Touched::default());
        }
        Ok(())
    }

    /// Number of nodes noted so far.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.touched.len()
    }

    /// Notes that the list of children of `path`, already noted, mattered.
    pub fn touch_children(&mut self, path: &StorePath) {
        if let Some(touched) = self.touched.get_mut(path) {
            touched.children = true;
        }
    }

    /// Notes that `path` was written, and with it the last `created` names of
    /// the path created.
    pub fn wrote(&mut self, path: &StorePath, created: usize) {
        for path in path.ancestors().take(created.max(1)) {
            // A created ancestor must still be missing at the commit: its
            // fresh state would otherwise overwrite somebody's.
            self.touched.entry(path.clone()).or_default();
            self.written.entry(path).or_default();
        }
    }

    /// Notes that `path` and everything below was removed.
    pub fn removed(&mut self, path: &StorePath) {
        let below: Vec<StorePath> = self
            .written
            .range(path.clone()..)
            .map(|(below, _)| below)
            // Names that merely continue the leaf ("/a-b" after "/a") sort in
            // between; nothing at or below can follow once the text differs.
            .take_while(|below| below.as_str().starts_with(path.as_str()))
            .filter(|below| below.is_at_or_below(path))
            .cloned()
            .collect();
        for path in below {
            self.written.remove(&path);
        }
        self.written.insert(path.clone(), Written { removed: true });
    }

    /// Counts bytes that the transaction keeps.
    ///
    /// # Errors
    /// ENOSPC beyond what the domain has left.
    pub fn charge(&mut self, bytes: usize) -> Result<(), XsErrno> {
        if bytes > self.bytes_left {
            return Err(XsErrno::ENOSPC);
        }
        self.bytes_left -= bytes;
        self.bytes += bytes;
        Ok(())
    }
}

/// An open transaction.
#[derive(Debug)]
pub struct Transaction {
    base: Tree,
    work: Tree,
    log: TransactionLog,
    doomed: bool,
}

impl Transaction {
    /// Starts from the present state of `tree`.
    #[must_use]
    pub fn start(tree: &Tree) -> Self {
        let log = TransactionLog {
            bytes_left: quota::MEMORY_PER_DOMAIN,
            ..Default::default()
        };
        Self {
            base: tree.clone(),
            work: tree.clone(),
            log,
            doomed: false,
        }
    }

    /// A transaction whose notes were lost with a save and restore: it goes on
    /// working and its commit asks the caller to start again.
    #[must_use]
    pub fn doomed(tree: &Tree) -> Self {
        Self {
            doomed: true,
            ..Self::start(tree)
        }
    }

    /// The view of `caller` from inside.
    pub fn view(&mut self, caller: DomId) -> View<'_> {
        View::new(&mut self.work, caller, Log::Transaction(&mut self.log))
    }

    /// Sets how much more an unprivileged caller may write in it.
    pub fn allow_bytes(&mut self, bytes_left: usize) {
        self.log.bytes_left = bytes_left;
    }

    /// Bytes that were written in it so far.
    #[must_use]
    pub fn bytes_written(&self) -> usize {
        self.log.bytes
    }

    /// Tries the commit on `main`: the new state and its changes.
    ///
    /// # Errors
    /// EAGAIN if a node that mattered has changed since the start; ENOSPC if
    /// the outcome exceeds the caller's quota. The store is as it was then.
    pub fn commit(&self, main: &Tree, caller: DomId) -> Result<(Tree, Vec<Change>), XsErrno> {
        if self.doomed || self.conflicts(main) {
            return Err(XsErrno::EAGAIN);
        }
        let mut tree = main.clone();
        let mut changes = Vec::new();
        for (path, written) in &self.log.written {
            if written.removed {
                remove_for_commit(&mut tree, path, &mut changes);
            }
            if let Some(node) = self.work.get(path) {
                write_for_commit(&mut tree, path, node, &mut changes);
            }
        }
        let (before, after) = (main.usage(caller), tree.usage(caller));
        let too_many = after.nodes > quota::NODES_PER_DOMAIN && after.nodes > before.nodes;
        let too_big = after.bytes > quota::MEMORY_PER_DOMAIN && after.bytes > before.bytes;
        if caller != 0 && (too_many || too_big) {
            return Err(XsErrno::ENOSPC);
        }
        Ok((tree, changes))
    }

    fn conflicts(&self, main: &Tree) -> bool {
        self.log.touched.iter().any(|(path, touched)| {
            let (then, now) = (self.base.get(path), main.get(path));
            let content = |node: Option<&Arc<Node>>| node.map(|n| n.content_generation());
            let children = |node: Option<&Arc<Node>>| node.map(|n| n.children_generation());
            content(then) != content(now) || (touched.children && children(then) != children(now))
        })
    }
}

fn remove_for_commit(tree: &mut Tree, path: &StorePath, changes: &mut Vec<Change>) {
    let parent = path.parent().and_then(|parent| tree.get(&parent));
    let Some(parent_perms) = parent.map(|parent| parent.perms().clone()) else {
        return;
    };
    // Missing here: the transaction made the node itself.
    if let Some(node) = tree.remove(path) {
        changes.push(Change::Removed {
            path: path.clone(),
            node,
            parent_perms,
        });
    }
}

fn write_for_commit(tree: &mut Tree, path: &StorePath, node: &Node, changes: &mut Vec<Change>) {
    let created = tree.create(path, node.value(), None);
    if created == 0 {
        tree.set_value(path, node.value());
    }
    let old = tree.get(path).map(|node| node.perms().clone());
    let old_perms = old.filter(|old| old != node.perms());
    if old_perms.is_some() {
        tree.set_perms(path, node.perms().clone());
    }
    let old_perms = old_perms.filter(|_| created == 0);
    changes.push(Change::Written {
        path: path.clone(),
        created,
        old_perms,
    });
}

#[cfg(test)]
#[path = "transaction_tests.rs"]
mod tests;
