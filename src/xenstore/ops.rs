//! The operations on nodes as a domain asks for them: rights, quotas, and the
//! record of what was changed.
//!
//! They work the same on the store itself and on a transaction's private
//! tree; the [`Log`] makes the difference. Payloads and connections are not
//! known here.

use super::error::XsErrno;
use super::path::StorePath;
use super::perms::{Access, DomId, Perm, Permissions};
use super::quota;
use super::transaction::TransactionLog;
use super::tree::{Node, Tree};
use std::sync::Arc;

/// A change of the store, as watches are told of it.
#[derive(Debug, Clone)]
pub enum Change {
    /// A node was created, its value written or its permissions set.
    Written {
        /// The node.
        path: StorePath,
        /// How many nodes came into being: 0, or 1 plus the ancestors made on
        /// the way.
        created: usize,
        /// The permissions before, if they are what changed: who could read
        /// the node until now is still told.
        old_perms: Option<Permissions>,
    },
    /// A node and everything below it went.
    Removed {
        /// The node.
        path: StorePath,
        /// The node as it was.
        node: Arc<Node>,
        /// The permissions of its parent.
        parent_perms: Permissions,
    },
}

/// Where a view writes down what happened.
#[derive(Debug)]
pub enum Log<'a> {
    /// The store itself: changes take effect at once.
    Direct(&'a mut Vec<Change>),
    /// A transaction: what was seen and changed, for the commit.
    Transaction(&'a mut TransactionLog),
}

/// A tree as seen by one domain.
#[derive(Debug)]
pub struct View<'a> {
    tree: &'a mut Tree,
    caller: DomId,
    log: Log<'a>,
}

impl<'a> View<'a> {
    /// The view of `caller` on `tree`.
    pub fn new(tree: &'a mut Tree, caller: DomId, log: Log<'a>) -> Self {
        Self { tree, caller, log }
    }

    fn privileged(&self) -> bool {
        self.caller == 0
    }

    fn transaction_limit(&self) -> usize {
        if self.privileged() {
            usize::MAX
        } else {
            quota::NODES_PER_TRANSACTION
        }
    }

    /// Finds a node that the caller has `wanted` rights to. What the answer
    /// depends on is noted for the transaction. A domain that may not look
    /// where the node would be is not told that it is missing.
    fn node(&mut self, path: &StorePath, wanted: Access) -> Result<Arc<Node>, XsErrno> {
        let limit = self.transaction_limit();
        let (nearest, depth) = self.tree.nearest(path);
        let found = depth == path.depth();
        if let Log::Transaction(log) = &mut self.log {
            log.touch_content(path, limit)?;
            if !found {
                let ancestor = path.ancestors().nth(path.depth() - depth);
                log.touch_content(&ancestor.unwrap_or_else(StorePath::root), limit)?;
            }
        }
        match (nearest.perms().allows(self.caller, wanted), found) {
            (true, true) => Ok(Arc::clone(nearest)),
            (true, false) => Err(XsErrno::ENOENT),
            (false, _) => Err(XsErrno::EACCES),
        }
    }

    /// The value of a node.
    ///
    /// # Errors
    /// ENOENT, EACCES; ENOSPC if a transaction has grown too large.
    pub fn read(&mut self, path: &StorePath) -> Result<Arc<[u8]>, XsErrno> {
        Ok(Arc::clone(self.node(path, Access::READ)?.value()))
    }

    /// The node, to list its children.
    ///
    /// # Errors
    /// As [`View::read`].
    pub fn directory(&mut self, path: &StorePath) -> Result<Arc<Node>, XsErrno> {
        let node = self.node(path, Access::READ)?;
        if let Log::Transaction(log) = &mut self.log {
            log.touch_children(path);
        }
        Ok(node)
    }

    /// The permissions of a node.
    ///
    /// # Errors
    /// As [`View::read`].
    pub fn perms(&mut self, path: &StorePath) -> Result<Permissions, XsErrno> {
        Ok(self.node(path, Access::READ)?.perms().clone())
    }

    /// Sets a value, creating the node and its ancestors as needed.
    ///
    /// # Errors
    /// EACCES, or ENOSPC when a quota is exhausted.
    pub fn write(&mut self, path: &StorePath, value: &[u8]) -> Result<(), XsErrno> {
        match self.node(path, Access::WRITE) {
            Ok(node) => {
                self.check_growth(node.perms().owner(), node.value().len(), value.len())?;
                self.charge(value.len())?;
                self.tree.set_value(path, value);
                self.wrote(path, 0, None);
                Ok(())
            }
            Err(XsErrno::ENOENT) => self.create(path, value),
            Err(other) => Err(other),
        }
    }

    /// Makes sure that a node exists; one that does is left as it is.
    ///
    /// # Errors
    /// As [`View::write`].
    pub fn mkdir(&mut self, path: &StorePath) -> Result<(), XsErrno> {
        match self.node(path, Access::WRITE) {
            Ok(_) => Ok(()),
            Err(XsErrno::ENOENT) => self.create(path, &[]),
            Err(other) => Err(other),
        }
    }

    /// Removes a node and everything below it. A missing node is fine as long
    /// as its parent exists.
    ///
    /// # Errors
    /// EINVAL for the root, EACCES, ENOENT.
    pub fn rm(&mut self, path: &StorePath) -> Result<(), XsErrno> {
        let parent = path.parent().ok_or(XsErrno::EINVAL)?;
        match self.node(path, Access::WRITE) {
            Ok(_) => self.remove(path, &parent),
            Err(XsErrno::ENOENT) if self.tree.get(&parent).is_some() => Ok(()),
            Err(other) => Err(other),
        }
    }

    /// Sets the permissions of a node.
    ///
    /// # Errors
    /// EACCES unless the caller owns the node, EPERM if an unprivileged owner
    /// would give it away, ENOSPC for too long a list, ENOENT.
    pub fn set_perms(&mut self, path: &StorePath, perms: &[Perm]) -> Result<(), XsErrno> {
        let new = Permissions::new(perms)?;
        let old = self.node(path, Access::OWNER)?.perms().clone();
        if !self.privileged() {
            if new.owner() != old.owner() {
                return Err(XsErrno::EPERM);
            }
            if perms.len() > quota::PERMS_PER_NODE {
                return Err(XsErrno::ENOSPC);
            }
            self.check_growth(old.owner(), size_of_val(old.entries()), size_of_val(perms))?;
        }
        self.charge(size_of_val(perms))?;
        self.tree.set_perms(path, new);
        self.wrote(path, 0, Some(old));
        Ok(())
    }

    fn create(&mut self, path: &StorePath, value: &[u8]) -> Result<(), XsErrno> {
        let existing = self.tree.nearest(path).1;
        let missing = path.depth() - existing;
        let limit = self.transaction_limit();
        if let Log::Transaction(log) = &self.log
            && log.nodes().saturating_add(missing) > limit
        {
            return Err(XsErrno::ENOSPC);
        }
        if !self.privileged() {
            if self.tree.usage(self.caller).nodes + missing > quota::NODES_PER_DOMAIN {
                return Err(XsErrno::ENOSPC);
            }
            let names: usize = path.components().skip(existing).map(str::len).sum();
            let perms = missing * quota::PERMS_PER_NODE * size_of::<Perm>();
            self.check_size(value.len())?;
            self.check_memory(self.caller, names + perms + value.len())?;
        }
        self.charge(path.as_str().len() + value.len())?;
        let owner = (!self.privileged()).then_some(self.caller);
        let created = self.tree.create(path, value, owner);
        self.wrote(path, created, None);
        Ok(())
    }

    fn remove(&mut self, path: &StorePath, parent: &StorePath) -> Result<(), XsErrno> {
        let parent_perms = self
            .tree
            .get(parent)
            .ok_or(XsErrno::ENOENT)?
            .perms()
            .clone();
        let node = self.tree.remove(path).ok_or(XsErrno::ENOENT)?;
        match &mut self.log {
            Log::Direct(changes) => {
                changes.push(Change::Removed {
                    path: path.clone(),
                    node,
                    parent_perms,
                });
            }
            Log::Transaction(log) => log.removed(path),
        }
        Ok(())
    }

    fn wrote(&mut self, path: &StorePath, created: usize, old_perms: Option<Permissions>) {
        match &mut self.log {
            Log::Direct(changes) => {
                changes.push(Change::Written {
                    path: path.clone(),
                    created,
                    old_perms,
                });
            }
            Log::Transaction(log) => log.wrote(path, created),
        }
    }

    fn check_size(&self, len: usize) -> Result<(), XsErrno> {
        if !self.privileged() && len > quota::NODE_SIZE {
            return Err(XsErrno::ENOSPC);
        }
        Ok(())
    }

    /// Checks a change of size of something that `owner` pays for.
    fn check_growth(&self, owner: DomId, old: usize, new: usize) -> Result<(), XsErrno> {
        self.check_size(new)?;
        self.check_memory(owner, new.saturating_sub(old))
    }

    fn check_memory(&self, owner: DomId, more: usize) -> Result<(), XsErrno> {
        let exempt = self.privileged() || owner == 0 || more == 0;
        if !exempt && self.tree.usage(owner).bytes + more > quota::MEMORY_PER_DOMAIN {
            return Err(XsErrno::ENOSPC);
        }
        Ok(())
    }

    fn charge(&mut self, bytes: usize) -> Result<(), XsErrno> {
        match &mut self.log {
            Log::Transaction(log) if self.caller != 0 => log.charge(bytes),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "ops_tests.rs"]
mod tests;
