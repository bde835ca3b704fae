//! Places for vcpus: which is which, who is in them.

use serde_json::json;

use super::*;

/// `-smp 2,maxcpus=8,sockets=2,cores=2,threads=2`.
fn vcpus() -> Vcpus {
    Vcpus::new(VcpuConfig {
        count: 2,
        maximum: 8,
        sockets: 2,
        cores: 2,
        threads: 2,
    })
}

fn at(place: [u32; 3]) -> Properties {
    let pairs = PLACE.into_iter().zip(place);
    pairs.map(|(key, n)| (key.to_owned(), n.into())).collect()
}

fn with(key: &str, value: Value) -> Properties {
    let mut properties = at([1, 1, 1]);
    properties.insert(key.to_owned(), value);
    properties
}

#[test]
fn every_number_has_a_place_of_its_own() {
    let vcpus = vcpus();
    for vcpu in vcpus.list(&[]) {
        assert_eq!(vcpus.number(&at(vcpu.place)), Ok(vcpu.id));
    }
    assert_eq!(vcpus.place(5), [1, 0, 1]);
}

#[test]
fn places_that_make_no_sense_are_refused() {
    let mut vcpus = vcpus();
    let mut half = at([1, 1, 1]);
    half.remove("core-id");
    let mut refused = |properties: &Properties| {
        let why = vcpus.plug(None, properties);
        why.err().map(|why| why.to_string()).unwrap_or_default()
    };
    for (properties, start) in [
        (half, "CPU core-id is not set;"),
        (
            at([2, 0, 0]),
            "Invalid CPU socket-id: 2 must be in range 0:1;",
        ),
        (
            with("thread-id", json!(1u64 << 32)),
            "Invalid CPU thread-id: 4294967296 must be in range 0:1;",
        ),
        (
            with("die-id", json!(1)),
            "Invalid CPU die-id: 1 must be in range 0:0;",
        ),
        (
            with("core-id", json!("1")),
            "Invalid parameter type for 'core-id', expected: integer",
        ),
        (
            with("core-id", json!(-1)),
            "Invalid parameter type for 'core-id'",
        ),
        (
            with("apic-id", json!(1)),
            "Property 'host-x86_64-cpu.apic-id' not found;",
        ),
        (at([0, 0, 1]), "CPU[1] exists already;"),
    ] {
        let why = refused(&properties);
        assert!(why.starts_with(start), "{why}");
    }
    assert_eq!(vcpus.plugged().collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn a_vcpu_leaves_when_the_guest_has_it_down() {
    let mut vcpus = vcpus();
    assert_eq!(vcpus.plug(Some("vcpu6".into()), &at([1, 1, 0])), Ok(6));
    assert_eq!(vcpus.plug(None, &at([1, 1, 1])), Ok(7));
    let listed = vcpus.list(&[10, 11, 12, 13, 14, 15, 16, 17]);
    assert_eq!(listed[6].path.as_deref(), Some("/machine/peripheral/vcpu6"));
    assert_eq!((listed[6].thread, listed[5].thread), (Some(16), None));
    assert_eq!(vcpus.named("vcpu6"), Some(6));
    assert_eq!(vcpus.named("/machine/peripheral-anon/device[7]"), Some(7));
    assert_eq!(vcpus.named("/machine/unattached/device[2]"), None);
    assert_eq!(vcpus.ask_to_leave(6), Ok(()));
    assert!(!vcpus.availability()[6] && vcpus.availability()[7]);
    assert_eq!(vcpus.take_left(|_| true), []);
    assert_eq!(vcpus.plug(None, &at([1, 1, 0])), Err(VcpuError::Leaving(6)));
    let left = vcpus.take_left(|number| number != 6);
    assert_eq!(left[0].id.as_deref(), Some("vcpu6"));
    assert_eq!(vcpus.plugged().collect::<Vec<_>>(), [0, 1, 7]);
    assert_eq!(vcpus.plug(None, &at([1, 1, 0])), Ok(6));
}

#[test]
fn the_first_vcpu_stays() {
    let mut vcpus = vcpus();
    let first = vcpus.named("/machine/unattached/device[0]");
    assert_eq!(first, Some(0));
    assert_eq!(vcpus.ask_to_leave(0), Err(VcpuError::First));
    assert_eq!(vcpus.ask_to_leave(1), Ok(()));
    assert_eq!(vcpus.take_left(|_| false).len(), 1);
}
