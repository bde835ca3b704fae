//! The places for vcpus, as clients see them.

use serde_json::json;

use super::Bench;

#[test]
fn only_plugged_vcpus_have_a_thread_and_a_path() {
    let mut bench = Bench::negotiated();
    let vcpus = bench.value("query-cpus-fast", json!({}));
    let numbers = [0, 1, 2].map(|n| &vcpus[n]["cpu-index"]);
    assert_eq!(numbers, [0, 1, 3]);
    let places = bench.value("query-hotpluggable-cpus", json!({}));
    let empty = json!({
        "type": "host-x86_64-cpu",
        "vcpus-count": 1,
        "props": {"socket-id": 2, "core-id": 0, "thread-id": 0},
    });
    assert_eq!(places[2], empty);
    assert_eq!(places[3]["qom-path"], vcpus[2]["qom-path"]);
    assert_eq!(places[3]["props"], vcpus[2]["props"]);
    assert_eq!(places.as_array().map(Vec::len), Some(4));
}

#[test]
fn vcpus_are_objects_at_their_paths() {
    let mut bench = Bench::negotiated();
    let list = |bench: &mut Bench, path: &str| bench.value("qom-list", json!({"path": path}));
    let unattached = list(&mut bench, "/machine/unattached");
    let second = json!({"name": "device[1]", "type": "child<host-x86_64-cpu>"});
    assert_eq!(unattached[2], second);
    assert_eq!(unattached.as_array().map(Vec::len), Some(3));
    let (class, _) = bench.error("qom-list", json!({"path": "/machine/unattached/device[2]"}));
    assert_eq!(class, "DeviceNotFound");
}
