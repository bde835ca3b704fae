//! The store against a simple model: a map of paths, transactions as whole
//! copies of it, conflicts judged by comparing what was looked at.

use super::error::XsErrno;
use super::perms::{Access, DomId, Perm, Permissions};
use super::server::Xenstore;
use super::watch::ConnId;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Value and permissions, and a stamp that every change renews.
#[derive(Debug, Clone, PartialEq)]
struct ModelNode {
    value: Vec<u8>,
    perms: Vec<Perm>,
    stamp: u64,
}

type Nodes = BTreeMap<String, ModelNode>;

/// What a transaction saw: the stamp of a node, or the names in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    Node(String),
    Children(String),
}

#[derive(Debug)]
struct ModelTransaction {
    start: Nodes,
    now: Nodes,
    seen: BTreeSet<Seen>,
    steps: Vec<Step>,
}

#[derive(Debug, Clone)]
enum Step {
    Write(String, Vec<u8>),
    Mkdir(String),
    Rm(String),
    SetPerms(String, Vec<Perm>),
}

#[derive(Debug, Clone)]
enum Action {
    Read(String),
    Directory(String),
    Step(Step),
    Start,
    End(bool),
}

#[derive(Debug)]
struct Model {
    nodes: Nodes,
    clock: u64,
    transactions: BTreeMap<(DomId, u8), ModelTransaction>,
}

fn parent(path: &str) -> Option<String> {
    match path.rfind('/') {
        _ if path == "/" => None,
        Some(0) => Some("/".to_owned()),
        at => Some(path[..at?].to_owned()),
    }
}

fn children(nodes: &Nodes, path: &str) -> Vec<String> {
    let direct = nodes.keys().filter(|p| parent(p).as_deref() == Some(path));
    let mut names: Vec<_> = direct
        .map(|p| p.rsplit('/').next().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

/// The nearest existing node and whether it is the path itself.
fn nearest(nodes: &Nodes, path: &str) -> (String, bool) {
    let mut at = path.to_owned();
    while !nodes.contains_key(&at) {
        at = parent(&at).unwrap();
    }
    let found = at == path;
    (at, found)
}

fn check(
    nodes: &Nodes,
    seen: &mut BTreeSet<Seen>,
    who: DomId,
    path: &str,
    wanted: Access,
) -> Result<(), XsErrno> {
    let (at, found) = nearest(nodes, path);
    seen.insert(Seen::Node(path.to_owned()));
    seen.insert(Seen::Node(at.clone()));
    match (
        Permissions::new(&nodes[&at].perms)
            .unwrap()
            .allows(who, wanted),
        found,
    ) {
        (true, true) => Ok(()),
        (true, false) => Err(XsErrno::ENOENT),
        (false, _) => Err(XsErrno::EACCES),
    }
}

fn create(nodes: &mut Nodes, seen: &mut BTreeSet<Seen>, who: DomId, path: &str, stamp: u64) {
    let (at, found) = nearest(nodes, path);
    if found {
        return;
    }
    let mut perms = nodes[&at].perms.clone();
    if who != 0 {
        perms[0].domid = who;
    }
    let mut missing = path.to_owned();
    while missing != at {
        seen.insert(Seen::Node(missing.clone()));
        nodes.insert(
            missing.clone(),
            ModelNode {
                value: vec![],
                perms: perms.clone(),
                stamp,
            },
        );
        missing = parent(&missing).unwrap();
    }
}

fn apply(
    nodes: &mut Nodes,
    seen: &mut BTreeSet<Seen>,
    who: DomId,
    step: &Step,
    stamp: u64,
) -> Result<(), XsErrno> {
    let (path, wanted) = match step {
        Step::Write(path, _) | Step::Mkdir(path) | Step::Rm(path) => (path, Access::WRITE),
        Step::SetPerms(path, _) => (path, Access::OWNER),
    };
    if matches!(step, Step::Rm(path) if path == "/") {
        return Err(XsErrno::EINVAL);
    }
    let access = check(nodes, seen, who, path, wanted);
    match (step, access) {
        (Step::Write(path, value), Ok(()) | Err(XsErrno::ENOENT)) => {
            create(nodes, seen, who, path, stamp);
            let node = nodes.get_mut(path).unwrap();
            (node.value, node.stamp) = (value.clone(), stamp);
            Ok(())
        }
        (Step::Mkdir(path), Ok(()) | Err(XsErrno::ENOENT)) => {
            create(nodes, seen, who, path, stamp);
            Ok(())
        }
        (Step::Rm(path), Ok(())) => {
            let below = format!("{path}/");
            nodes.retain(|p, _| p != path && !p.starts_with(&below));
            Ok(())
        }
        (Step::Rm(path), Err(XsErrno::ENOENT)) if nodes.contains_key(&parent(path).unwrap()) => {
            Ok(())
        }
        (Step::SetPerms(path, perms), Ok(())) => {
            let node = nodes.get_mut(path).unwrap();
            if who != 0 && perms[0].domid != node.perms[0].domid {
                return Err(XsErrno::EPERM);
            }
            (node.perms, node.stamp) = (perms.clone(), stamp);
            Ok(())
        }
        (_, denied) => denied,
    }
}

impl Model {
    fn step(&mut self, who: DomId, tx: Option<u8>, step: &Step) -> Result<(), XsErrno> {
        self.clock += 1;
        let Some(tx) = tx else {
            return apply(&mut self.nodes, &mut BTreeSet::new(), who, step, self.clock);
        };
        let t = self.transactions.get_mut(&(who, tx)).unwrap();
        let done = apply(&mut t.now, &mut t.seen, who, step, self.clock);
        if done.is_ok() {
            t.steps.push(step.clone());
        }
        done
    }

    fn read(&mut self, who: DomId, tx: Option<u8>, path: &str) -> Result<Vec<u8>, XsErrno> {
        let mut unseen = BTreeSet::new();
        let (nodes, seen) = match tx.map(|tx| self.transactions.get_mut(&(who, tx)).unwrap()) {
            Some(t) => (&t.now, &mut t.seen),
            None => (&self.nodes, &mut unseen),
        };
        check(nodes, seen, who, path, Access::READ)?;
        Ok(nodes[path].value.clone())
    }

    fn directory(
        &mut self,
        who: DomId,
        tx: Option<u8>,
        path: &str,
    ) -> Result<Vec<String>, XsErrno> {
        self.read(who, tx, path)?;
        let Some(tx) = tx else {
            return Ok(children(&self.nodes, path));
        };
        let t = self.transactions.get_mut(&(who, tx)).unwrap();
        t.seen.insert(Seen::Children(path.to_owned()));
        Ok(children(&t.now, path))
    }

    fn end(&mut self, who: DomId, tx: u8, commit: bool) -> Result<(), XsErrno> {
        let t = self.transactions.remove(&(who, tx)).unwrap();
        if !commit {
            return Ok(());
        }
        // Names alone are not enough: a child that went and came back counts.
        let listed = |nodes: &Nodes, path: &str| -> Vec<(String, Option<u64>)> {
            let names = children(nodes, path).into_iter();
            names.map(|n| (n, None)).collect()
        };
        let conflict = t.seen.iter().any(|seen| match seen {
            Seen::Node(path) => {
                t.start.get(path).map(|n| n.stamp) != self.nodes.get(path).map(|n| n.stamp)
            }
            Seen::Children(path) => listed(&t.start, path) != listed(&self.nodes, path),
        });
        if conflict {
            return Err(XsErrno::EAGAIN);
        }
        self.clock += 1;
        for step in &t.steps {
            apply(&mut self.nodes, &mut BTreeSet::new(), who, step, self.clock).unwrap();
        }
        Ok(())
    }
}

fn path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "a-b"]);
    let names = prop::collection::vec(name, 0..4);
    (prop::bool::weighted(0.9), names).prop_map(|(own, names)| {
        let base = if own { "/own" } else { "" };
        let path: String = names.iter().map(|n| format!("/{n}")).collect();
        let path = format!("{base}{path}");
        if path.is_empty() {
            "/".to_owned()
        } else {
            path
        }
    })
}

fn perms() -> impl Strategy<Value = Vec<Perm>> {
    let one = (0u16..3, 0u8..4).prop_map(|(domid, bits)| Perm {
        domid,
        access: Access::from_bits_truncate(bits),
    });
    prop::collection::vec(one, 1..4)
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => path().prop_map(Action::Read),
        2 => path().prop_map(Action::Directory),
        5 => (path(), prop::collection::vec(any::<u8>(), 0..3))
            .prop_map(|(p, v)| Action::Step(Step::Write(p, v))),
        2 => path().prop_map(|p| Action::Step(Step::Mkdir(p))),
        2 => path().prop_map(|p| Action::Step(Step::Rm(p))),
        2 => (path(), perms()).prop_map(|(p, perms)| Action::Step(Step::SetPerms(p, perms))),
        2 => Just(Action::Start),
        2 => any::<bool>().prop_map(Action::End),
    ]
}

/// The store and the model side by side.
struct Pair {
    store: Xenstore,
    model: Model,
    conns: Vec<ConnId>,
    numbers: BTreeMap<(DomId, u8), u32>,
}

impl Pair {
    fn new() -> Self {
        let mut store = Xenstore::new();
        let conns: Vec<ConnId> = (0..3).map(|domid| store.open_wire(domid)).collect();
        let own = [Perm::both(1), Perm::both(2)];
        store.mkdir(conns[0], 0, b"/own").unwrap();
        store.set_perms(conns[0], 0, b"/own", &own).unwrap();
        let node = |perms: &[Perm]| ModelNode {
            value: vec![],
            perms: perms.to_vec(),
            stamp: 0,
        };
        let root = ("/".to_owned(), node(&[Perm::none(0)]));
        let nodes = Nodes::from([root, ("/own".to_owned(), node(&own))]);
        let model = Model {
            nodes,
            clock: 0,
            transactions: BTreeMap::new(),
        };
        Self {
            store,
            model,
            conns,
            numbers: BTreeMap::new(),
        }
    }

    fn run(&mut self, who: DomId, slot: u8, action: &Action) -> Result<(), TestCaseError> {
        let conn = self.conns[who as usize];
        // Slot 0 works on the store itself, as does a slot not started.
        let number = self
            .numbers
            .get(&(who, slot))
            .copied()
            .filter(|_| slot != 0);
        let (tx, model_tx) = (number.unwrap_or(0), number.map(|_| slot));
        match action {
            Action::Read(path) => {
                let got = self
                    .store
                    .read(conn, tx, path.as_bytes())
                    .map(|v| v.to_vec());
                prop_assert_eq!(got, self.model.read(who, model_tx, path));
            }
            Action::Directory(path) => {
                let got = self.store.directory(conn, tx, path.as_bytes());
                let got = got.map(|n| n.children().map(|(name, _)| name.to_owned()).collect());
                prop_assert_eq!(got, self.model.directory(who, model_tx, path));
            }
            Action::Step(step) => {
                let got = match step {
                    Step::Write(path, value) => self.store.write(conn, tx, path.as_bytes(), value),
                    Step::Mkdir(path) => self.store.mkdir(conn, tx, path.as_bytes()),
                    Step::Rm(path) => self.store.rm(conn, tx, path.as_bytes()),
                    Step::SetPerms(path, perms) => {
                        self.store.set_perms(conn, tx, path.as_bytes(), perms)
                    }
                };
                prop_assert_eq!(got, self.model.step(who, model_tx, step));
            }
            Action::Start if slot != 0 && number.is_none() => {
                self.numbers
                    .insert((who, slot), self.store.start_transaction(conn).unwrap());
                let (start, now) = (self.model.nodes.clone(), self.model.nodes.clone());
                let t = ModelTransaction {
                    start,
                    now,
                    seen: BTreeSet::new(),
                    steps: vec![],
                };
                self.model.transactions.insert((who, slot), t);
            }
            Action::End(commit) if number.is_some() => {
                self.numbers.remove(&(who, slot));
                let got = self.store.end_transaction(conn, tx, *commit);
                let expected = self.model.end(who, slot, *commit);
                // The store may see a conflict where a list of children was
                // changed and changed back.
                if got == Err(XsErrno::EAGAIN) && expected.is_ok() {
                    return Err(TestCaseError::reject("changed and changed back"));
                }
                prop_assert_eq!(got, expected);
            }
            Action::Start | Action::End(_) => {}
        }
        self.store.announce();
        self.compare()
    }

    fn compare(&self) -> Result<(), TestCaseError> {
        let mut got = BTreeMap::new();
        let mut nodes_of: BTreeMap<DomId, usize> = BTreeMap::new();
        self.store.tree.visit(&mut |path, node| {
            let perms = node.perms().entries().to_vec();
            got.insert(path.to_string(), (node.value().to_vec(), perms));
            *nodes_of.entry(node.perms().owner()).or_default() += 1;
        });
        let expected: BTreeMap<_, _> = self
            .model
            .nodes
            .iter()
            .map(|(p, n)| (p.clone(), (n.value.clone(), n.perms.clone())))
            .collect();
        prop_assert_eq!(got, expected);
        for domid in 0..3 {
            let counted = nodes_of.get(&domid).copied().unwrap_or(0);
            prop_assert_eq!(self.store.tree.usage(domid).nodes, counted);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, max_global_rejects: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_the_model_does(
        actions in prop::collection::vec((0u16..3, 0u8..3, action()), 1..80),
    ) {
        let mut pair = Pair::new();
        for (who, slot, action) in &actions {
            pair.run(*who, *slot, action)?;
        }
    }
}
