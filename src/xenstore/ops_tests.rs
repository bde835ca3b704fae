//! Tests of the rights and quotas of the operations.

use super::*;

fn path(text: &str) -> StorePath {
    StorePath::parse(text).unwrap()
}

struct Fixture {
    tree: Tree,
    changes: Vec<Change>,
}

impl Fixture {
    /// `/open` belongs to domain 1; `/readable` and `/closed` to domain 0.
    fn new() -> Self {
        let mut fixture = Self {
            tree: Tree::new(),
            changes: Vec::new(),
        };
        for (name, perms) in [
            ("/open", Permissions::private(1)),
            ("/readable", Permissions::readable_by(1)),
            ("/closed", Permissions::private(0)),
        ] {
            fixture.by(0).mkdir(&path(name)).unwrap();
            fixture.tree.set_perms(&path(name), perms);
        }
        fixture
    }

    fn by(&mut self, domid: DomId) -> View<'_> {
        View::new(&mut self.tree, domid, Log::Direct(&mut self.changes))
    }
}

#[test]
fn missing_nodes_are_only_told_to_who_may_look() {
    let mut f = Fixture::new();
    assert_eq!(f.by(1).read(&path("/open/x/y")), Err(XsErrno::ENOENT));
    assert_eq!(f.by(1).read(&path("/readable/x")), Err(XsErrno::ENOENT));
    assert_eq!(f.by(1).read(&path("/closed/x")), Err(XsErrno::EACCES));
    assert_eq!(f.by(1).read(&path("/closed")), Err(XsErrno::EACCES));
    assert_eq!(f.by(1).read(&path("/x")), Err(XsErrno::EACCES));
    assert_eq!(f.by(0).read(&path("/closed/x")), Err(XsErrno::ENOENT));
    assert!(f.by(1).directory(&StorePath::root()).is_err());
}

#[test]
fn writing_needs_the_right_on_the_nearest_node() {
    let mut f = Fixture::new();
    f.by(1).write(&path("/open/a/b"), b"v").unwrap();
    assert_eq!(
        f.by(1).write(&path("/readable/a"), b"v"),
        Err(XsErrno::EACCES)
    );
    assert_eq!(f.by(1).mkdir(&path("/readable/a")), Err(XsErrno::EACCES));
    assert_eq!(f.by(1).rm(&path("/readable")), Err(XsErrno::EACCES));
    assert_eq!(f.by(1).rm(&path("/readable/a")), Err(XsErrno::EACCES));
    f.by(1).rm(&path("/open/zzz")).unwrap();
    assert_eq!(f.by(1).rm(&path("/open/zzz/a")), Err(XsErrno::ENOENT));
    assert_eq!(f.by(0).rm(&StorePath::root()), Err(XsErrno::EINVAL));
    let deny = f.tree.get(&path("/open/a/b")).unwrap().perms().clone();
    assert_eq!(deny.owner(), 1);
    // What domid 0 makes below stays the guest's.
    f.by(0).write(&path("/open/by0"), b"").unwrap();
    assert_eq!(f.tree.get(&path("/open/by0")).unwrap().perms().owner(), 1);
}

#[test]
fn creation_takes_the_parents_list_with_the_caller_as_owner() {
    let mut f = Fixture::new();
    let list = Permissions::new(&[Perm::read(0), Perm::both(1), Perm::write(2)]).unwrap();
    f.tree.set_perms(&path("/readable"), list);
    f.by(1).write(&path("/readable/mine"), b"").unwrap();
    let perms = f.tree.get(&path("/readable/mine")).unwrap().perms().clone();
    assert_eq!(
        perms.entries(),
        [Perm::read(1), Perm::both(1), Perm::write(2)]
    );
    // Domain 2 may write without reading.
    f.by(2).write(&path("/readable/mine"), b"2").unwrap();
    f.tree.set_perms(
        &path("/readable/mine"),
        Permissions::new(&[Perm::none(1), Perm::write(2)]).unwrap(),
    );
    assert_eq!(f.by(2).read(&path("/readable/mine")), Err(XsErrno::EACCES));
}

#[test]
fn permissions_are_the_owners_to_change() {
    let mut f = Fixture::new();
    f.by(1)
        .set_perms(&path("/open"), &[Perm::read(1), Perm::both(2)])
        .unwrap();
    assert_eq!(
        f.by(2).set_perms(&path("/open"), &[Perm::none(2)]),
        Err(XsErrno::EACCES)
    );
    assert_eq!(
        f.by(1).set_perms(&path("/open"), &[Perm::none(2)]),
        Err(XsErrno::EPERM)
    );
    assert_eq!(
        f.by(1).set_perms(&path("/open/no"), &[Perm::none(1)]),
        Err(XsErrno::ENOENT)
    );
    assert_eq!(f.by(1).set_perms(&path("/open"), &[]), Err(XsErrno::EINVAL));
    f.by(0).set_perms(&path("/open"), &[Perm::none(2)]).unwrap();
    assert_eq!(f.tree.usage(1).nodes, 0);
}

#[test]
fn quotas_bind_domains_and_not_dom0() {
    let mut f = Fixture::new();
    let big = vec![b'x'; quota::NODE_SIZE + 1];
    assert_eq!(
        f.by(1).write(&path("/open/big"), &big),
        Err(XsErrno::ENOSPC)
    );
    f.by(1).write(&path("/open/big"), &big[1..]).unwrap();
    assert_eq!(
        f.by(1).write(&path("/open/big"), &big),
        Err(XsErrno::ENOSPC)
    );
    f.by(0).write(&path("/open/big"), &big).unwrap();
    while f.tree.usage(1).nodes < quota::NODES_PER_DOMAIN {
        let name = format!("/open/n{}", f.tree.usage(1).nodes);
        f.by(1).mkdir(&path(&name)).unwrap();
    }
    assert_eq!(f.by(1).mkdir(&path("/open/more")), Err(XsErrno::ENOSPC));
    f.by(0).mkdir(&path("/open/more")).unwrap();
    f.by(1).rm(&path("/open/more")).unwrap();
    f.by(1).rm(&path("/open/big")).unwrap();
    f.by(1).mkdir(&path("/open/again")).unwrap();
    assert_eq!(f.by(1).mkdir(&path("/open/deep/er")), Err(XsErrno::ENOSPC));
}

#[test]
fn memory_is_bounded() {
    let mut f = Fixture::new();
    let value = vec![b'x'; quota::NODE_SIZE];
    let long = "n".repeat(1000);
    let outcome = (0..quota::NODES_PER_DOMAIN - 1)
        .try_for_each(|i| f.by(1).write(&path(&format!("/open/{i}{long}")), &value));
    assert_eq!(outcome, Err(XsErrno::ENOSPC));
    assert!(f.tree.usage(1).bytes <= quota::MEMORY_PER_DOMAIN);
    assert!(f.tree.usage(1).nodes < quota::NODES_PER_DOMAIN);
}

#[test]
fn failures_change_nothing_and_successes_are_told() {
    let mut f = Fixture::new();
    f.changes.clear();
    let _ = f.by(1).write(&path("/closed/x"), b"");
    let _ = f.by(1).rm(&path("/closed"));
    f.by(1).mkdir(&path("/open")).unwrap();
    f.by(1).rm(&path("/open/none")).unwrap();
    assert!(f.changes.is_empty());
    f.by(1).write(&path("/open/a/b"), b"").unwrap();
    assert!(matches!(f.changes[0], Change::Written { created: 2, .. }));
    f.by(1).rm(&path("/open/a")).unwrap();
    assert!(matches!(f.changes[1], Change::Removed { .. }));
}
