//! Watches: who is to be told about which change, and under which path.
//!
//! Delivery is not here; [`Watches::matching`] only says what is due.

use super::error::XsErrno;
use super::ops::Change;
use super::path::StorePath;
use super::perms::{Access, DomId, Permissions};
use super::tree::{Node, Tree, visit_post_order};
use std::collections::HashMap;
use std::sync::Arc;

/// A connection's number in its store; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u32);

/// One watch.
#[derive(Debug, PartialEq, Eq)]
pub struct Watch {
    /// Number of the watch in its store; never used again.
    pub id: u64,
    /// Who set it.
    pub conn: ConnId,
    /// The domain that set it, whose rights decide.
    pub domid: DomId,
    /// What is watched, with everything below.
    pub path: StorePath,
    /// The watcher's own name for it, given back with each event.
    pub token: Arc<[u8]>,
    /// Whether events name paths relative to the watcher's domain.
    pub relative: bool,
    /// How many levels below the path are told of; all if none is given.
    pub depth: Option<u32>,
}

impl Watch {
    /// The path of an event as the watcher gets it.
    #[must_use]
    pub fn event_path<'a>(&self, path: &'a StorePath) -> &'a str {
        let relative = self
            .relative
            .then(|| path.relative_to_domain(self.domid))
            .flatten();
        relative.unwrap_or(path.as_str())
    }

    /// Bytes of an event's payload (`path NUL token NUL`).
    #[must_use]
    pub fn event_len(&self, path: &StorePath) -> usize {
        self.event_path(path).len() + self.token.len() + 2
    }

    fn reaches(&self, levels: usize) -> bool {
        self.depth.is_none_or(|depth| levels <= depth as usize)
    }
}

/// An event that is due: the watch, and the path to report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The watch.
    pub watch: Arc<Watch>,
    /// The path, absolute.
    pub path: StorePath,
}

/// All watches of a store.
#[derive(Debug, Default)]
pub struct Watches {
    by_path: HashMap<StorePath, Vec<Arc<Watch>>>,
    next_id: u64,
}

/// A watch to be set; see [`Watch`] for the fields.
#[derive(Debug, Clone)]
pub struct NewWatch {
    /// Who sets it.
    pub conn: ConnId,
    /// The domain that sets it.
    pub domid: DomId,
    /// What is watched.
    pub path: StorePath,
    /// The watcher's own name for it.
    pub token: Arc<[u8]>,
    /// Whether the path was given relative.
    pub relative: bool,
    /// How many levels below are told of.
    pub depth: Option<u32>,
}

impl Watches {
    /// Sets a watch and returns it.
    ///
    /// # Errors
    /// EEXIST if the connection has one for the same path with the same token.
    pub fn add(&mut self, new: NewWatch) -> Result<Arc<Watch>, XsErrno> {
        let here = self.by_path.entry(new.path.clone()).or_default();
        if here
            .iter()
            .any(|watch| watch.conn == new.conn && watch.token == new.token)
        {
            return Err(XsErrno::EEXIST);
        }
        self.next_id += 1;
        let NewWatch {
            conn,
            domid,
            path,
            token,
            relative,
            depth,
        } = new;
        let watch = Arc::new(Watch {
            id: self.next_id,
            conn,
            domid,
            path,
            token,
            relative,
            depth,
        });
        here.push(Arc::clone(&watch));
        Ok(watch)
    }

    /// Takes a watch away.
    ///
    /// # Errors
    /// ENOENT if there is none like it.
    pub fn remove(&mut self, conn: ConnId, path: &StorePath, token: &[u8]) -> Result<(), XsErrno> {
        let here = self.by_path.get_mut(path).ok_or(XsErrno::ENOENT)?;
        let found = here
            .iter()
            .position(|watch| watch.conn == conn && *watch.token == *token);
        here.remove(found.ok_or(XsErrno::ENOENT)?);
        if here.is_empty() {
            self.by_path.remove(path);
        }
        Ok(())
    }

    /// Takes all watches of a connection away.
    pub fn remove_all(&mut self, conn: ConnId) {
        self.by_path.retain(|_, here| {
            here.retain(|watch| watch.conn != conn);
            !here.is_empty()
        });
    }

    /// The watches of a connection, oldest first.
    #[must_use]
    pub fn of(&self, conn: ConnId) -> Vec<Arc<Watch>> {
        let all = self.by_path.values().flatten();
        let mut own: Vec<_> = all.filter(|watch| watch.conn == conn).cloned().collect();
        own.sort_by_key(|watch| watch.id);
        own
    }

    /// Number of watches of a connection.
    #[must_use]
    pub fn count(&self, conn: ConnId) -> usize {
        self.by_path
            .values()
            .flatten()
            .filter(|watch| watch.conn == conn)
            .count()
    }

    /// The events that `change` makes due; `tree` is the state after it.
    #[must_use]
    pub fn matching(&self, change: &Change, tree: &Tree) -> Vec<Due> {
        let mut due = Vec::new();
        if self.by_path.is_empty() {
            return due;
        }
        match change {
            Change::Written {
                path,
                created,
                old_perms,
            } => {
                let readable = Readable::in_tree(tree, path, old_perms.as_ref());
                self.collect(path, *created, &readable, &mut due);
            }
            Change::Removed {
                path,
                node,
                parent_perms,
            } => {
                self.collect_removed_below(path, node, &mut due);
                let readable = Readable(vec![node.perms().clone(), parent_perms.clone()]);
                self.collect(path, 1, &readable, &mut due);
            }
        }
        due
    }

    /// The events that the coming or going of a domain makes due. A watch with
    /// a depth of 1 or more is told which domain. `may_read` are the rights to
    /// the special path.
    #[must_use]
    pub fn matching_special(
        &self,
        special: &StorePath,
        may_read: impl Fn(&StorePath, DomId) -> bool,
    ) -> Vec<Due> {
        let mut due = Vec::new();
        for watch in self.by_path.get(special).into_iter().flatten() {
            due.push(Due {
                watch: Arc::clone(watch),
                path: special.clone(),
            });
        }
        let general = special.parent();
        for watch in general
            .iter()
            .filter_map(|path| self.by_path.get(path))
            .flatten()
        {
            let path = if watch.depth.is_some_and(|depth| depth > 0) {
                special
            } else {
                &watch.path
            };
            due.push(Due {
                watch: Arc::clone(watch),
                path: path.clone(),
            });
        }
        due.retain(|due| may_read(special, due.watch.domid));
        due
    }

    /// Watches at `path` and above it. A watch that does not reach down to
    /// `path` is told of the highest of the `created` nodes that it reaches.
    fn collect(&self, path: &StorePath, created: usize, readable: &Readable, due: &mut Vec<Due>) {
        for (levels, above) in path.ancestor_strs().enumerate() {
            for watch in self.by_path.get(above).into_iter().flatten() {
                if !readable.by(watch.domid) {
                    continue;
                }
                let too_deep = match watch.depth {
                    Some(depth) if !watch.reaches(levels) => levels - depth as usize,
                    _ => 0,
                };
                if too_deep > 0 && too_deep >= created {
                    continue;
                }
                let Some(path) = path.ancestors().nth(too_deep) else {
                    continue;
                };
                due.push(Due {
                    watch: Arc::clone(watch),
                    path,
                });
            }
        }
    }

    /// Watches on nodes that went because an ancestor was removed: each is
    /// told of its own path.
    fn collect_removed_below(&self, path: &StorePath, node: &Arc<Node>, due: &mut Vec<Due>) {
        visit_post_order(path, node, &mut |below, gone| {
            if below == path {
                return;
            }
            let Some(here) = self.by_path.get(below) else {
                return;
            };
            let parent = below
                .parent()
                .and_then(|parent| node_below(path, node, &parent));
            let mut perms = vec![gone.perms().clone()];
            perms.extend(parent.map(|parent| parent.perms().clone()));
            let readable = Readable(perms);
            for watch in here.iter().filter(|watch| readable.by(watch.domid)) {
                due.push(Due {
                    watch: Arc::clone(watch),
                    path: below.clone(),
                });
            }
        });
    }
}

/// The node at `wanted` in the subtree `top` that stood at `top_path`.
fn node_below<'a>(
    top_path: &StorePath,
    top: &'a Arc<Node>,
    wanted: &StorePath,
) -> Option<&'a Arc<Node>> {
    let names = wanted.components().skip(top_path.depth());
    names
        .into_iter()
        .try_fold(top, |node, name| node.child(name))
}

/// The permission lists that let a domain know of an event: the node's own,
/// those it had before, and the parent's, since who may list a directory knows
/// of its children.
struct Readable(Vec<Permissions>);

impl Readable {
    fn in_tree(tree: &Tree, path: &StorePath, old: Option<&Permissions>) -> Self {
        let parent = path.parent();
        let nodes = [Some(path), parent.as_ref()].into_iter().flatten();
        let present = nodes
            .filter_map(|path| tree.get(path))
            .map(|node| node.perms().clone());
        Self(present.chain(old.cloned()).collect())
    }

    fn by(&self, domid: DomId) -> bool {
        self.0.iter().any(|perms| perms.allows(domid, Access::READ))
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
