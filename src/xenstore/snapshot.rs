//! The store as plain data, to be saved and restored with the domain.
//!
//! Saved are the nodes and the guests' connections: watches, half-received
//! messages, messages not yet read. Connections of tools and of this process
//! belong to the host and are made anew. A guest's open transactions come back
//! as such, and end with EAGAIN, upon which every client starts again.

use super::error::{StoreError, XsErrno};
use super::path::StorePath;
use super::perms::{DomId, Perm, Permissions};
use super::server::Xenstore;
use super::tree::Tree;
use super::watch::NewWatch;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A saved store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreState {
    nodes: Vec<NodeState>,
    special: Vec<SpecialState>,
    domains: Vec<DomainState>,
}

/// A node; parents come before their children.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct NodeState {
    path: String,
    value: Vec<u8>,
    perms: Vec<String>,
}

/// The permissions of a special watch path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SpecialState {
    path: String,
    perms: Vec<String>,
}

/// A guest's connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct DomainState {
    domid: DomId,
    input: Vec<u8>,
    output: Vec<u8>,
    transactions: Vec<u32>,
    watches: Vec<WatchState>,
}

/// A guest's watch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct WatchState {
    path: String,
    token: Vec<u8>,
    relative: bool,
    depth: Option<u32>,
}

impl Xenstore {
    /// The store as plain data.
    #[must_use]
    pub fn save(&mut self) -> StoreState {
        let mut nodes = Vec::new();
        self.tree.visit(&mut |path, node| {
            let perms = perm_strings(node.perms());
            nodes.push(NodeState {
                path: path.to_string(),
                value: node.value().to_vec(),
                perms,
            });
        });
        let special = self.special_perms.iter();
        let special = special
            .map(|(path, perms)| SpecialState {
                path: path.to_string(),
                perms: perm_strings(perms),
            })
            .collect();
        let ids: Vec<DomId> = self.domains.keys().copied().collect();
        let domains = ids
            .into_iter()
            .filter_map(|domid| self.save_domain(domid))
            .collect();
        StoreState {
            nodes,
            special,
            domains,
        }
    }

    fn save_domain(&mut self, domid: DomId) -> Option<DomainState> {
        let id = *self.domains.get(&domid)?;
        let watches = self.watches.of(id);
        let watches = watches
            .iter()
            .map(|watch| WatchState {
                path: watch.path.to_string(),
                token: watch.token.to_vec(),
                relative: watch.relative,
                depth: watch.depth,
            })
            .collect();
        let connection = self.connection_mut(id).ok()?;
        let output = connection
            .output()
            .map(|out| out.to_bytes())
            .unwrap_or_default();
        Some(DomainState {
            domid,
            input: connection.partial_input().to_vec(),
            output,
            transactions: connection.transaction_ids().collect(),
            watches,
        })
    }

    /// A store as it was saved.
    ///
    /// # Errors
    /// [`StoreError::BadState`] if anything in it is not valid.
    pub fn restore(state: &StoreState) -> Result<Self, StoreError> {
        let mut store = Self::new();
        for node in &state.nodes {
            restore_node(&mut store.tree, node).map_err(|_| bad("node", &node.path))?;
        }
        for special in &state.special {
            let path = StorePath::resolve_watch(special.path.as_bytes(), 0);
            let entry = path.and_then(|path| Ok((path.path, permissions(&special.perms)?)));
            let (path, perms) = entry.map_err(|_| bad("special path", &special.path))?;
            store.special_perms.insert(path, perms);
        }
        for domain in &state.domains {
            store.restore_domain(domain)?;
        }
        Ok(store)
    }

    fn restore_domain(&mut self, state: &DomainState) -> Result<(), StoreError> {
        let id = self.introduce_domain(state.domid);
        for watch in &state.watches {
            let path = StorePath::resolve_watch(watch.path.as_bytes(), state.domid);
            let path = path.map_err(|_| bad("watch", &watch.path))?.path;
            let new = NewWatch {
                conn: id,
                domid: state.domid,
                path,
                token: Arc::from(&*watch.token),
                relative: watch.relative,
                depth: watch.depth,
            };
            self.watches
                .add(new)
                .map_err(|_| bad("watch", &watch.path))?;
        }
        let tree = self.tree.clone();
        let what = || bad("connection of domain", &state.domid.to_string());
        let connection = self.connection_mut(id).map_err(|_| what())?;
        connection.restore_transactions(state.transactions.iter().copied(), &tree);
        if !state.output.is_empty()
            && let Some(out) = connection.output()
        {
            out.push_reply(state.output.clone());
        }
        connection
            .restore_input(&state.input)
            .then_some(())
            .ok_or_else(what)
    }
}

impl Tree {
    /// Visits all nodes, parents first.
    pub fn visit(&self, visit: &mut impl FnMut(&StorePath, &super::tree::Node)) {
        let Some(root) = self.get(&StorePath::root()) else {
            return;
        };
        let mut pending = vec![(StorePath::root(), root)];
        while let Some((path, node)) = pending.pop() {
            visit(&path, node);
            let children: Vec<_> = node.children().map(|(n, c)| (path.child(n), c)).collect();
            pending.extend(children.into_iter().rev());
        }
    }
}

fn restore_node(tree: &mut Tree, node: &NodeState) -> Result<(), XsErrno> {
    let path = StorePath::parse(&node.path)?;
    let perms = permissions(&node.perms)?;
    if tree.create(&path, &node.value, None) == 0 {
        tree.set_value(&path, &node.value);
    }
    tree.set_perms(&path, perms);
    Ok(())
}

fn permissions(texts: &[String]) -> Result<Permissions, XsErrno> {
    let perms: Result<Vec<Perm>, _> = texts.iter().map(|t| Perm::parse(t.as_bytes())).collect();
    Permissions::new(&perms?)
}

fn perm_strings(perms: &Permissions) -> Vec<String> {
    perms.entries().iter().map(ToString::to_string).collect()
}

fn bad(what: &str, name: &str) -> StoreError {
    StoreError::BadState {
        what: format!("{what} {name}"),
    }
}
