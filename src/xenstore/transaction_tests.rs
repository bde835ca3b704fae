//! Tests of conflicts, commits and limits of transactions.

use super::super::perms::{Perm, Permissions};
use super::*;

fn path(text: &str) -> StorePath {
    StorePath::parse(text).unwrap()
}

fn main_tree() -> Tree {
    let mut tree = Tree::new();
    for name in ["/a/x", "/a/y", "/b"] {
        tree.create(&path(name), b"0", None);
    }
    tree
}

fn direct<T>(tree: &mut Tree, run: impl FnOnce(&mut View<'_>) -> T) -> T {
    run(&mut View::new(tree, 0, Log::Direct(&mut Vec::new())))
}

/// Whether a transaction that did `inside` still commits after `outside`.
fn commits(inside: impl FnOnce(&mut View<'_>), outside: impl FnOnce(&mut View<'_>)) -> bool {
    let mut main = main_tree();
    let mut transaction = Transaction::start(&main);
    inside(&mut transaction.view(0));
    direct(&mut main, outside);
    match transaction.commit(&main, 0) {
        Ok(_) => true,
        Err(errno) => {
            assert_eq!(errno, XsErrno::EAGAIN);
            false
        }
    }
}

#[test]
fn what_was_looked_at_must_not_change() {
    let read = |p| move |v: &mut View<'_>| drop(v.read(&path(p)));
    let write = |p| move |v: &mut View<'_>| v.write(&path(p), b"1").unwrap();
    let list = |p| move |v: &mut View<'_>| drop(v.directory(&path(p)).unwrap());
    let rm = |p| move |v: &mut View<'_>| v.rm(&path(p)).unwrap();
    let perms = |p| move |v: &mut View<'_>| v.set_perms(&path(p), &[Perm::read(3)]).unwrap();

    assert!(!commits(read("/a/x"), write("/a/x")));
    assert!(!commits(read("/a/x"), perms("/a/x")));
    assert!(!commits(read("/a/x"), rm("/a/x")));
    assert!(!commits(read("/a/x"), rm("/a")));
    assert!(!commits(read("/a/new"), write("/a/new")));
    assert!(!commits(write("/a/x"), write("/a/x")));
    assert!(!commits(write("/a/new"), write("/a/new")));
    assert!(!commits(write("/a/new"), rm("/a")));
    assert!(!commits(write("/a/new"), perms("/a")));
    assert!(!commits(write("/a/n/deep"), write("/a/n")));
    assert!(!commits(list("/a"), write("/a/new")));
    assert!(!commits(list("/a"), rm("/a/x")));
    assert!(!commits(rm("/a/x"), write("/a/x")));

    assert!(commits(read("/a/x"), write("/a/y")));
    assert!(commits(read("/a"), write("/a/new")));
    assert!(commits(list("/a"), write("/a/x")));
    assert!(commits(write("/a/new"), write("/a/other")));
    assert!(commits(write("/a/x"), write("/b")));
    assert!(commits(|_| (), rm("/a")));
    let away_and_back = |v: &mut View<'_>| {
        v.rm(&path("/a/x")).unwrap();
        v.write(&path("/a/x"), b"0").unwrap();
    };
    assert!(!commits(read("/a/x"), away_and_back));
}

#[test]
fn the_outcome_is_that_of_the_steps() {
    let main = main_tree();
    let mut transaction = Transaction::start(&main);
    let mut view = transaction.view(0);
    view.write(&path("/a/x"), b"1").unwrap();
    view.rm(&path("/a")).unwrap();
    assert_eq!(view.read(&path("/a/x")), Err(XsErrno::ENOENT));
    view.write(&path("/a/z/deep"), b"2").unwrap();
    view.write(&path("/c"), b"").unwrap();
    view.rm(&path("/c")).unwrap();
    view.write(&path("/a-b"), b"3").unwrap();
    view.set_perms(&path("/b"), &[Perm::read(1)]).unwrap();
    let (tree, changes) = transaction.commit(&main, 0).unwrap();
    let names = |p: &str| -> Vec<String> {
        tree.get(&path(p))
            .unwrap()
            .children()
            .map(|(n, _)| n.to_owned())
            .collect()
    };
    assert_eq!(names("/"), ["a", "a-b", "b"]);
    assert_eq!(names("/a"), ["z"]);
    assert_eq!(&**tree.get(&path("/a/z/deep")).unwrap().value(), b"2");
    assert_eq!(
        tree.get(&path("/b")).unwrap().perms().entries(),
        [Perm::read(1)]
    );
    assert_eq!(tree.usage(1).nodes, 1);
    let removed = changes
        .iter()
        .filter(|c| matches!(c, Change::Removed { .. }))
        .count();
    assert_eq!(removed, 1, "{changes:?}");
    assert!(main.get(&path("/a/x")).is_some());
}

#[test]
fn removing_forgets_only_what_lies_below() {
    let main = main_tree();
    let mut transaction = Transaction::start(&main);
    let mut view = transaction.view(0);
    for name in ["/a/new", "/a-b", "/a-b/c", "/ab"] {
        view.write(&path(name), b"1").unwrap();
    }
    view.rm(&path("/a")).unwrap();
    let (tree, _) = transaction.commit(&main, 0).unwrap();
    assert!(tree.get(&path("/a")).is_none());
    for name in ["/a-b", "/a-b/c", "/ab"] {
        assert!(tree.get(&path(name)).is_some(), "{name}");
    }
}

#[test]
fn work_of_others_elsewhere_is_kept() {
    let mut main = main_tree();
    let mut transaction = Transaction::start(&main);
    transaction.view(0).write(&path("/a/n/m"), b"t").unwrap();
    direct(&mut main, |v| v.write(&path("/a/o"), b"m")).unwrap();
    let (tree, changes) = transaction.commit(&main, 0).unwrap();
    assert!(tree.get(&path("/a/o")).is_some());
    assert!(tree.get(&path("/a/n/m")).is_some());
    assert_eq!(changes.len(), 2);
}

#[test]
fn a_domains_transactions_are_bounded() {
    let mut main = main_tree();
    main.set_perms(&path("/a"), Permissions::private(1));
    let mut transaction = Transaction::start(&main);
    let mut view = transaction.view(1);
    let outcome = (0..2000).try_for_each(|i| match view.read(&path(&format!("/a/n{i}"))) {
        Err(XsErrno::ENOENT) => Ok(()),
        other => other.map(drop),
    });
    assert_eq!(outcome, Err(XsErrno::ENOSPC));
    // Creating deep paths and removing them again does not get around it.
    let mut transaction = Transaction::start(&main);
    let outcome = (0..10).try_for_each(|i| {
        let mut view = transaction.view(1);
        view.mkdir(&path(&format!("/a/{i}{}", "/d".repeat(400))))?;
        view.rm(&path(&format!("/a/{i}")))
    });
    assert_eq!(outcome, Err(XsErrno::ENOSPC));
    assert!(transaction.log.nodes() <= quota::NODES_PER_TRANSACTION);
    let mut transaction = Transaction::start(&main);
    let outcome = (0..2000).try_for_each(|_| transaction.view(1).write(&path("/a/w"), &[0; 2000]));
    assert_eq!(outcome, Err(XsErrno::ENOSPC));
    assert!(transaction.bytes_written() <= quota::MEMORY_PER_DOMAIN);
}

#[test]
fn quotas_are_checked_again_at_the_commit() {
    let mut main = main_tree();
    main.set_perms(&path("/a"), Permissions::private(1));
    let fill = |tree: &mut Tree, prefix: &str, n: usize| {
        for i in 0..n {
            tree.create(&path(&format!("/a/{prefix}{i}")), b"", Some(1));
        }
    };
    fill(&mut main, "before", 500);
    let mut transaction = Transaction::start(&main);
    for i in 0..400 {
        transaction
            .view(1)
            .mkdir(&path(&format!("/a/inside{i}")))
            .unwrap();
    }
    assert!(transaction.commit(&main, 1).is_ok());
    fill(&mut main, "meanwhile", 400);
    assert_eq!(transaction.commit(&main, 1).unwrap_err(), XsErrno::ENOSPC);
}

#[test]
fn a_doomed_transaction_works_and_asks_to_be_started_again() {
    let main = main_tree();
    let mut transaction = Transaction::doomed(&main);
    assert_eq!(&*transaction.view(0).read(&path("/b")).unwrap(), b"0");
    assert_eq!(transaction.commit(&main, 0).unwrap_err(), XsErrno::EAGAIN);
}
