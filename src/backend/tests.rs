use super::*;

#[test]
fn missing_nodes_are_no_errors() {
    let store = BackendStore(StoreHandle::new().unwrap());
    assert_eq!(store.read("/a/b").unwrap(), None);
    assert!(store.list("/a/b").unwrap().is_empty());
    store.remove("/a/b").unwrap();
    assert!(store.read("/a b").is_err(), "not a path");
}

#[test]
fn watches_tell_of_changes_below() {
    let store = BackendStore(StoreHandle::new().unwrap());
    store.write("/d/1/x", "0").unwrap();
    let mut watch = store.watch(&["/d/1", "/d/2"]).unwrap();
    let mut first = vec![watch.next().unwrap(), watch.next().unwrap()];
    first.sort();
    assert_eq!(first, ["/d/1", "/d/2"]);
    assert_eq!(watch.next(), None);
    let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    store
        .write_all(&[pair("/d/1/x", "1"), pair("/d/3", "2")])
        .unwrap();
    assert_eq!(watch.next().as_deref(), Some("/d/1/x"));
    assert_eq!(watch.next(), None);
    assert_eq!(store.read("/d/3").unwrap().as_deref(), Some("2"));
}
