use std::sync::Mutex;

use xenner_pvdevices::mock::{MockDomain, MockStore};
use xenner_pvdevices::xenbus::{DeviceError, Frontend};

use super::*;

#[derive(Debug)]
struct Lamp(Arc<Mutex<u32>>);

impl Device for Lamp {
    fn offer(&self) -> Keys {
        *self.0.lock().unwrap() += 1;
        vec![("colour".into(), "red".into())]
    }

    fn connect(&mut self, _: &Frontend) -> Result<Keys, DeviceError> {
        Ok(Keys::new())
    }

    fn disconnect(&mut self) {}
}

fn place(id: u32) -> Place {
    Place {
        class: "vlamp",
        id,
        frontend: vec![("watt".into(), "40".into())],
    }
}

#[test]
fn a_device_outlives_its_domain() {
    let offered = Arc::new(Mutex::new(0));
    let mut devices = Devices::default();
    devices
        .add(place(7), Box::new(Lamp(offered.clone())))
        .unwrap();
    for life in 1..=2 {
        let store = MockStore::new();
        let host = Host {
            domain: MockDomain::new(1, 8),
            store: store.clone(),
            on_gone: GoneHook(Arc::new(|_, _| {})),
        };
        devices.start(host).unwrap();
        let backend = "/local/domain/0/backend/vlamp/1/7";
        let colour = store.read(&format!("{backend}/colour")).unwrap();
        assert_eq!(colour.as_deref(), Some("red"));
        assert!(devices.thread("vlamp", 7).is_some());
        devices.stop();
        assert!(devices.thread("vlamp", 7).is_none());
        assert_eq!(*offered.lock().unwrap(), life);
    }
    let taken = devices.add(place(7), Box::new(Lamp(offered))).unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
}
