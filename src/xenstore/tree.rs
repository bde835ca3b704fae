//! The tree of nodes, persistent: cloning a [`Tree`] takes a snapshot at the
//! cost of a reference count, and a change copies only the nodes on its path
//! that a snapshot still holds.
//!
//! Nothing here knows who asks: rights are checked in `ops`, limits too.

use super::path::StorePath;
use super::perms::{DomId, Permissions};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A node with everything below it.
#[derive(Debug, Clone)]
pub struct Node {
    value: Arc<[u8]>,
    perms: Permissions,
    children: BTreeMap<Arc<str>, Arc<Node>>,
    content_generation: u64,
    children_generation: u64,
}

impl Node {
    /// The value; empty for a plain directory.
    #[must_use]
    pub fn value(&self) -> &Arc<[u8]> {
        &self.value
    }

    /// The permission list.
    #[must_use]
    pub fn perms(&self) -> &Permissions {
        &self.perms
    }

    /// The children by name, in order.
    pub fn children(&self) -> impl ExactSizeIterator<Item = (&str, &Arc<Node>)> {
        self.children.iter().map(|(name, node)| (&**name, node))
    }

    /// The child of that name.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<&Arc<Node>> {
        self.children.get(name)
    }

    /// Differs between two states of the tree if value or permissions were
    /// set in between, or the node was created anew.
    #[must_use]
    pub fn content_generation(&self) -> u64 {
        self.content_generation
    }

    /// Differs between two states of the tree if a child came or went.
    #[must_use]
    pub fn children_generation(&self) -> u64 {
        self.children_generation
    }

    /// The count that DIRECTORY_PART reports: differs after any change of the
    /// node itself.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.content_generation.max(self.children_generation)
    }

    fn cost(&self, name: &str) -> usize {
        name.len() + self.value.len() + self.perms.entries().len() * 4
    }
}

/// What one domain owns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Nodes.
    pub nodes: usize,
    /// Bytes of names, values and permissions.
    pub bytes: usize,
}

/// The tree. See the module's documentation for the cost of `clone`.
#[derive(Debug, Clone)]
pub struct Tree {
    root: Arc<Node>,
    usage: Arc<BTreeMap<DomId, Usage>>,
    clock: u64,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    /// A tree of the root alone, owned by domid 0 and closed to others.
    #[must_use]
    pub fn new() -> Self {
        let root = Node {
            value: Arc::from([]),
            perms: Permissions::private(0),
            children: BTreeMap::new(),
            content_generation: 1,
            children_generation: 1,
        };
        let mut tree = Self {
            root: Arc::new(root),
            usage: Arc::default(),
            clock: 1,
        };
        tree.account(0, 1, 4);
        tree
    }

    /// The node at `path`.
    #[must_use]
    pub fn get(&self, path: &StorePath) -> Option<&Arc<Node>> {
        path.components()
            .try_fold(&self.root, |node, name| node.children.get(name))
    }

    /// The deepest existing node on the way to `path` (itself, if it exists),
    /// and its path's depth.
    #[must_use]
    pub fn nearest(&self, path: &StorePath) -> (&Arc<Node>, usize) {
        let mut found = (&self.root, 0);
        for name in path.components() {
            match found.0.children.get(name) {
                Some(node) => found = (node, found.1 + 1),
                None => break,
            }
        }
        found
    }

    /// What `domid` owns.
    #[must_use]
    pub fn usage(&self, domid: DomId) -> Usage {
        self.usage.get(&domid).copied().unwrap_or_default()
    }

    /// Sets the value of an existing node; false if there is none.
    pub fn set_value(&mut self, path: &StorePath, value: &[u8]) -> bool {
        let generation = self.tick();
        let Some(node) = self.node_mut(path) else {
            return false;
        };
        let owner = node.perms.owner();
        let change = signed_difference(value.len(), node.value.len());
        node.value = Arc::from(value);
        node.content_generation = generation;
        self.account(owner, 0, change);
        true
    }

    /// Sets the permissions of an existing node; false if there is none.
    pub fn set_perms(&mut self, path: &StorePath, perms: Permissions) -> bool {
        let generation = self.tick();
        let leaf = path.leaf();
        let Some(node) = self.node_mut(path) else {
            return false;
        };
        let (old_owner, old_cost) = (node.perms.owner(), node.cost(leaf));
        node.perms = perms;
        node.content_generation = generation;
        let (owner, cost) = (node.perms.owner(), node.cost(leaf));
        self.account(old_owner, -1, -to_signed(old_cost));
        self.account(owner, 1, to_signed(cost));
        true
    }

    /// Creates the node and its missing ancestors, which are empty. Each takes
    /// its parent's permissions, with `owner` in the owner's place if given.
    /// Returns the number of nodes created: 0 if the node existed, and then
    /// nothing has changed.
    pub fn create(&mut self, path: &StorePath, value: &[u8], owner: Option<DomId>) -> usize {
        let (_, existing) = self.nearest(path);
        let missing = path.depth() - existing;
        if missing == 0 {
            return 0;
        }
        let generation = self.tick();
        let mut spent = Vec::with_capacity(missing);
        let mut node = Arc::make_mut(&mut self.root);
        for (level, name) in path.components().enumerate() {
            if level >= existing {
                let last = level + 1 == existing + missing;
                let perms = owner.map_or(node.perms.clone(), |owner| node.perms.owned_by(owner));
                let child = Node {
                    value: Arc::from(if last { value } else { &[] }),
                    perms,
                    children: BTreeMap::new(),
                    content_generation: generation,
                    children_generation: generation,
                };
                spent.push((child.perms.owner(), child.cost(name)));
                node.children.insert(Arc::from(name), Arc::new(child));
                if level == existing {
                    node.children_generation = generation;
                }
            }
            match node.children.get_mut(name) {
                Some(child) => node = Arc::make_mut(child),
                None => break,
            }
        }
        for (owner, cost) in spent {
            self.account(owner, 1, to_signed(cost));
        }
        missing
    }

    /// Takes the node and everything below it out of the tree and returns it.
    /// The root cannot be removed.
    pub fn remove(&mut self, path: &StorePath) -> Option<Arc<Node>> {
        self.get(path)?;
        let parent = path.parent()?;
        let generation = self.tick();
        let parent = self.node_mut(&parent)?;
        let removed = parent.children.remove(path.leaf())?;
        parent.children_generation = generation;
        self.unaccount_subtree(path.leaf(), &removed);
        Some(removed)
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn node_mut(&mut self, path: &StorePath) -> Option<&mut Node> {
        self.get(path)?;
        let mut node = Arc::make_mut(&mut self.root);
        for name in path.components() {
            node = Arc::make_mut(node.children.get_mut(name)?);
        }
        Some(node)
    }

    fn account(&mut self, owner: DomId, nodes: isize, bytes: isize) {
        let usage = Arc::make_mut(&mut self.usage);
        let entry = usage.entry(owner).or_default();
        entry.nodes = entry.nodes.saturating_add_signed(nodes);
        entry.bytes = entry.bytes.saturating_add_signed(bytes);
        if *entry == Usage::default() {
            usage.remove(&owner);
        }
    }

    fn unaccount_subtree(&mut self, name: &str, node: &Arc<Node>) {
        let mut pending = vec![(name, node)];
        while let Some((name, node)) = pending.pop() {
            self.account(node.perms.owner(), -1, -to_signed(node.cost(name)));
            pending.extend(node.children());
        }
    }
}

/// Visits `node`, at `path`, and everything below it, children before their
/// parents (the order in which a removal is told).
pub fn visit_post_order(path: &StorePath, node: &Node, visit: &mut impl FnMut(&StorePath, &Node)) {
    for (name, child) in node.children() {
        visit_post_order(&path.child(name), child, visit);
    }
    visit(path, node);
}

fn to_signed(n: usize) -> isize {
    isize::try_from(n).unwrap_or(isize::MAX)
}

fn signed_difference(new: usize, old: usize) -> isize {
    to_signed(new) - to_signed(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> StorePath {
        StorePath::parse(text).unwrap()
    }

    #[test]
    fn creation_makes_ancestors_and_inherits() {
        let mut tree = Tree::new();
        assert_eq!(tree.create(&path("/a/b/c"), b"v", None), 3);
        assert_eq!(tree.create(&path("/a/b/c"), b"w", None), 0);
        assert_eq!(&**tree.get(&path("/a/b/c")).unwrap().value(), b"v");
        assert_eq!(tree.get(&path("/a/b")).unwrap().value().len(), 0);
        assert_eq!(tree.create(&path("/a/x"), b"", Some(3)), 1);
        assert_eq!(tree.get(&path("/a/x")).unwrap().perms().owner(), 3);
        assert_eq!(tree.nearest(&path("/a/b/q/r")).1, 2);
    }

    #[test]
    fn snapshots_do_not_see_later_changes() {
        let mut tree = Tree::new();
        tree.create(&path("/a/b"), b"1", None);
        let snapshot = tree.clone();
        tree.set_value(&path("/a/b"), b"2");
        tree.remove(&path("/a"));
        assert_eq!(&**snapshot.get(&path("/a/b")).unwrap().value(), b"1");
        assert!(tree.get(&path("/a")).is_none());
    }

    #[test]
    fn usage_is_counted_per_owner() {
        let mut tree = Tree::new();
        let before = tree.usage(0);
        tree.create(&path("/a"), b"", None);
        tree.create(&path("/a/b/c"), b"xyz", Some(1));
        assert_eq!(tree.usage(1).nodes, 2);
        let bytes = tree.usage(1).bytes;
        tree.set_value(&path("/a/b/c"), b"x");
        assert_eq!(tree.usage(1).bytes, bytes - 2);
        tree.set_perms(&path("/a/b/c"), Permissions::private(2));
        assert_eq!((tree.usage(1).nodes, tree.usage(2).nodes), (1, 1));
        tree.remove(&path("/a"));
        assert_eq!(tree.usage(1), Usage::default());
        assert_eq!(tree.usage(2), Usage::default());
        assert_eq!(tree.usage(0), before);
    }

    #[test]
    fn generations_tell_content_from_children() {
        let mut tree = Tree::new();
        tree.create(&path("/a/b"), b"", None);
        let before = tree.get(&path("/a")).unwrap().clone();
        tree.create(&path("/a/c"), b"", None);
        let after = tree.get(&path("/a")).unwrap().clone();
        assert_eq!(before.content_generation(), after.content_generation());
        assert_ne!(before.children_generation(), after.children_generation());
        tree.set_value(&path("/a/b"), b"1");
        let last = tree.get(&path("/a")).unwrap();
        assert_eq!(after.generation(), last.generation());
        assert!(tree.remove(&StorePath::root()).is_none());
    }

    #[test]
    fn deep_trees_are_dropped_and_visited() {
        let mut tree = Tree::new();
        let deep = path(&"/a".repeat(1536));
        assert_eq!(tree.create(&deep, b"", None), 1536);
        let removed = tree.remove(&path("/a")).unwrap();
        let mut seen = 0;
        visit_post_order(&path("/a"), &removed, &mut |_, _| seen += 1);
        assert_eq!(seen, 1536);
    }
}
