//! Tests of the keys of a domain, as the domain sees them.

use super::super::server::LOCAL;
use super::*;

fn keys() -> DomainKeys {
    DomainKeys {
        domid: 1,
        uuid: "0ba0c3a8-5d6f-4f0e-9d4f-9d6b8ad9a6f1".to_owned(),
        name: "debian".to_owned(),
        memory_kib: 524_288,
        vcpus: vec![true, true, false],
        store_port: 1,
        store_mfn: 0x1234,
        console_port: 2,
        console_mfn: 0x1235,
        console_type: ConsoleType::Xenconsoled,
        console_output: "pty".to_owned(),
        console_tty: Some("/dev/pts/3".to_owned()),
        console_limit: 1_048_576,
    }
}

fn published() -> StoreHandle {
    let store = StoreHandle::new().unwrap();
    keys().publish(&store).unwrap();
    store
}

#[test]
fn the_domain_reads_what_it_needs() {
    let store = published();
    let guest = store.with(|store| store.introduce_domain(1));
    for (key, value) in [
        ("vm", "/vm/0ba0c3a8-5d6f-4f0e-9d4f-9d6b8ad9a6f1"),
        ("name", "debian"),
        ("domid", "1"),
        ("memory/target", "524288"),
        ("memory/static-max", "524288"),
        ("cpu/0/availability", "online"),
        ("cpu/1/availability", "online"),
        ("cpu/2/availability", "offline"),
        ("store/port", "1"),
        ("store/ring-ref", "4660"),
        ("console/port", "2"),
        ("console/ring-ref", "4661"),
        ("console/type", "xenconsoled"),
        ("console/output", "pty"),
        ("console/tty", "/dev/pts/3"),
        ("console/backend", "/local/domain/0/backend/console/1/0"),
        ("control/shutdown", ""),
        ("control/platform-feature-multiprocessor-suspend", "1"),
        ("/vm/0ba0c3a8-5d6f-4f0e-9d4f-9d6b8ad9a6f1/name", "debian"),
        (
            "/local/domain/0/backend/console/1/0/frontend",
            "/local/domain/1/console",
        ),
    ] {
        let got = store.with(|store| store.read(guest, 0, key.as_bytes()));
        assert_eq!(&*got.unwrap(), value.as_bytes(), "{key}");
    }
    for directory in [
        "device", "control", "memory", "cpu", "cpu/0", "store", "data",
    ] {
        store
            .with(|store| store.directory(guest, 0, directory.as_bytes()))
            .unwrap();
    }
}

#[test]
fn the_domain_writes_only_where_it_may() {
    let store = published();
    let guest = store.with(|store| store.introduce_domain(1));
    let may = |key: &str| {
        store
            .with(|s| s.write(guest, 0, key.as_bytes(), b"x"))
            .is_ok()
    };
    for key in [
        "control/shutdown",
        "control/sysrq",
        "control/feature-poweroff",
        "control/feature-suspend",
        "device/suspend/event-channel",
        "data/anything/below",
        "drivers/0",
        "attr/os",
        "error/device/vbd",
        "feature",
    ] {
        assert!(may(key), "{key}");
    }
    for key in [
        "name",
        "domid",
        "memory/target",
        "cpu/0/availability",
        "console/tty",
        "store/port",
        "device/vbd/1",
        "control/platform-feature-xs_reset_watches",
        "control/new",
        "new",
        "/local/domain/0/name",
        "/vm/0ba0c3a8-5d6f-4f0e-9d4f-9d6b8ad9a6f1/name",
        "/new",
    ] {
        assert!(!may(key), "{key}");
    }
    let hidden = store.with(|s| s.read(guest, 0, b"/local/domain/0/name"));
    assert!(hidden.is_err());
}

#[test]
fn devices_belong_to_both_ends() {
    let store = published();
    let guest = store.with(|store| store.introduce_domain(1));
    let (front, back) = (
        "/local/domain/1/device/vbd/51712",
        "/local/domain/0/backend/vbd/1/51712",
    );
    let key = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    let vbd = DeviceNodes {
        domid: 1,
        frontend: front.to_owned(),
        frontend_keys: vec![key("backend", back), key("state", "1")],
        frontend_labels: vec![key("tty", "/dev/pts/1")],
        backend: back.to_owned(),
        backend_keys: vec![
            key("frontend", front),
            key("dev", "xvda"),
            key("state", "1"),
        ],
    };
    publish_device(&store, &vbd).unwrap();
    assert_eq!(
        store.read_string(&format!("{front}/backend")).unwrap(),
        back
    );
    assert_eq!(
        store.read_string(&format!("{back}/frontend")).unwrap(),
        front
    );
    for end in [front, back] {
        assert_eq!(store.read_string(&format!("{end}/state")).unwrap(), "1");
    }
    store.with(|s| {
        s.write(guest, 0, b"device/vbd/51712/state", b"3").unwrap();
        s.write(guest, 0, b"device/vbd/51712/ring-ref", b"8")
            .unwrap();
        s.read(guest, 0, format!("{back}/dev").as_bytes()).unwrap();
        // A tool of domain 0 may open what this says.
        let tty = b"device/vbd/51712/tty";
        s.read(guest, 0, tty).unwrap();
        assert!(s.write(guest, 0, tty, b"/dev/sda").is_err());
        assert!(
            s.write(guest, 0, format!("{back}/state").as_bytes(), b"4")
                .is_err()
        );
        let list = s.directory(guest, 0, b"device/vbd").unwrap();
        assert_eq!(list.children().count(), 1);
        s.read(LOCAL, 0, b"/local/domain/1/device/vbd/51712/ring-ref")
            .unwrap();
    });
    // Published again, as after a reboot: nothing of the guest's is left.
    publish_device(&store, &vbd).unwrap();
    assert!(!store.exists(&format!("{front}/ring-ref")).unwrap());
}

#[test]
fn removal_leaves_nothing() {
    let store = published();
    keys().publish(&store).unwrap();
    keys().remove(&store).unwrap();
    keys().remove(&store).unwrap();
    for (path, ..) in store.dump() {
        assert!(!path.as_str().contains("/1"), "{path}");
        assert!(!path.as_str().contains("0ba0c3a8"), "{path}");
    }
    assert_eq!(store.with(|s| s.tree.usage(1).nodes), 0);
}
