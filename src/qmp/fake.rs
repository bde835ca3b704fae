//! A domain for tests that does what it is told and remembers it.

use serde_json::json;
use xenner_console::FdSource;

use super::control::{
    Actions, Answer, BlockCache, BlockCounters, BlockInfo, BlockNode, BlockStats, ChardevInfo,
    Control, DeviceInfo, DomainStats, Identity, ImageInfo, IoStatus, NamedFds, Properties,
    RunState, StoreNode, Vcpu,
};
use super::error::QmpError;
use super::events::{DeviceDeleted, Event, EventSink, LifeChange, ShutdownCause};
use crate::config::{Machine, Uuid};

pub(super) struct Fake {
    pub(super) events: EventSink,
    pub(super) status: RunState,
    pub(super) memory: u64,
    pub(super) devices: Vec<DeviceInfo>,
    pub(super) polling: u64,
    pub(super) asked: Vec<String>,
}

impl Fake {
    pub(super) fn new(events: EventSink) -> Self {
        let device = |id: &str, driver: &str, properties: serde_json::Value| DeviceInfo {
            id: Some(id.to_owned()),
            driver: driver.to_owned(),
            properties: properties.as_object().cloned().unwrap_or_default(),
        };
        Self {
            events,
            status: RunState::Prelaunch,
            memory: 256 << 20,
            devices: vec![
                device("virtio-disk0", "virtio-blk-pci", json!({"drive": "n0"})),
                device("video0", "VGA", json!({"vgamem_mb": 16})),
                device("balloon0", "virtio-balloon-pci", json!({})),
            ],
            polling: 0,
            asked: Vec::new(),
        }
    }

    fn node() -> BlockNode {
        BlockNode {
            file: "/d.img".into(),
            node_name: Some("n0".into()),
            ro: false,
            drv: "raw".into(),
            backing_file: None,
            backing_file_depth: 0,
            encrypted: false,
            detect_zeroes: "off".into(),
            bps: 0,
            bps_rd: 0,
            bps_wr: 0,
            iops: 0,
            iops_rd: 0,
            iops_wr: 0,
            image: ImageInfo {
                filename: "/d.img".into(),
                format: "raw".into(),
                virtual_size: 1 << 30,
                actual_size: Some(0),
                cluster_size: None,
                backing_filename: None,
                backing_format: None,
            },
            cache: BlockCache {
                writeback: true,
                direct: false,
                no_flush: false,
            },
            write_threshold: 0,
        }
    }
}

impl Control for Fake {
    fn identity(&self) -> Identity {
        Identity {
            name: Some("foo".into()),
            uuid: Uuid([0; 16]),
            machine: Machine::Pc,
            kvm: true,
            max_vcpus: 4,
        }
    }

    fn status(&self) -> RunState {
        self.status
    }

    fn stop(&mut self) -> Answer {
        if self.status == RunState::Running {
            self.events.emit(Event::stop());
        }
        self.status = RunState::Paused;
        Ok(())
    }

    fn cont(&mut self) -> Answer {
        self.status = RunState::Running;
        self.events.emit(Event::resume());
        Ok(())
    }

    fn powerdown(&mut self) -> Answer {
        self.events.emit(Event::powerdown());
        Ok(())
    }

    fn reset(&mut self) -> Answer {
        self.events.emit(Event::Reset(LifeChange {
            guest: false,
            reason: ShutdownCause::HostQmpSystemReset,
        }));
        Ok(())
    }

    fn quit(&mut self) {
        self.status = RunState::Shutdown;
        self.events.emit(Event::Shutdown(LifeChange {
            guest: false,
            reason: ShutdownCause::HostQmpQuit,
        }));
    }

    fn set_actions(&mut self, actions: &Actions) -> Answer {
        self.asked.push(format!("{actions:?}"));
        Ok(())
    }

    fn vcpus(&self) -> Vec<Vcpu> {
        let vcpu = |id: u32, path: Option<&str>| Vcpu {
            id,
            place: [id, 0, 0],
            path: path.map(str::to_owned),
            thread: path.map(|_| 100 + id as i32),
        };
        vec![
            vcpu(0, Some("/machine/unattached/device[0]")),
            vcpu(1, Some("/machine/unattached/device[1]")),
            vcpu(2, None),
            vcpu(3, Some("/machine/peripheral/vcpu3")),
        ]
    }

    fn memory(&self) -> u64 {
        256 << 20
    }

    fn chardevs(&self) -> Vec<ChardevInfo> {
        vec![ChardevInfo {
            label: "rb".into(),
            filename: "ringbuf".into(),
            frontend_open: false,
        }]
    }

    fn devices(&self) -> Vec<DeviceInfo> {
        self.devices.clone()
    }

    fn balloon_actual(&self) -> Answer<u64> {
        Ok(self.memory)
    }

    fn set_balloon(&mut self, bytes: u64) -> Answer {
        self.memory = bytes;
        Ok(())
    }

    fn balloon_stats(&self) -> Answer<(Vec<(&'static str, u64)>, u64)> {
        Ok((vec![("stat-total-memory", self.memory)], 5))
    }

    fn balloon_polling(&self) -> Answer<u64> {
        Ok(self.polling)
    }

    fn set_balloon_polling(&mut self, seconds: u64) -> Answer {
        self.polling = seconds;
        Ok(())
    }

    fn ringbuf_read(&mut self, chardev: &str, max: usize) -> Answer<Vec<u8>> {
        match chardev {
            "rb" => Ok(b"hello"[..max.min(5)].to_vec()),
            _ => Err(QmpError::generic(format!("Device '{chardev}' not found"))),
        }
    }

    fn ringbuf_write(&mut self, _: &str, data: &[u8]) -> Answer {
        self.asked.push(format!("ringbuf {data:?}"));
        Ok(())
    }

    fn device_add(
        &mut self,
        driver: &str,
        mut properties: Properties,
        _: &mut dyn FdSource,
    ) -> Answer {
        let id = properties.remove("id");
        self.devices.push(DeviceInfo {
            id: id.and_then(|id| id.as_str().map(str::to_owned)),
            driver: driver.to_owned(),
            properties,
        });
        Ok(())
    }

    fn device_del(&mut self, id: &str) -> Answer {
        let at = self
            .devices
            .iter()
            .position(|device| device.id.as_deref() == Some(id))
            .ok_or_else(|| QmpError::no_device(id))?;
        self.devices.remove(at);
        self.events.emit(Event::DeviceDeleted(DeviceDeleted {
            device: Some(id.to_owned()),
            path: format!("/machine/peripheral/{id}"),
        }));
        Ok(())
    }

    fn netdev_add(
        &mut self,
        kind: &str,
        properties: Properties,
        fds: &mut dyn NamedFds,
        _: &mut dyn FdSource,
    ) -> Answer {
        let name = properties.get("fd").and_then(|fd| fd.as_str());
        let had = name.is_some_and(|name| fds.take_fd(name).is_some());
        self.asked.push(format!("netdev {kind} fd {had}"));
        Ok(())
    }

    fn blocks(&self) -> Vec<BlockInfo> {
        vec![BlockInfo {
            device: String::new(),
            qdev: Some("/machine/peripheral/virtio-disk0/virtio-backend".into()),
            r#type: "unknown".into(),
            removable: false,
            locked: false,
            inserted: Some(Self::node()),
            tray_open: None,
            io_status: Some(IoStatus::Ok),
        }]
    }

    fn block_stats(&self, _: bool) -> Vec<BlockStats> {
        vec![BlockStats {
            device: Some(String::new()),
            qdev: Some("/machine/peripheral/virtio-disk0/virtio-backend".into()),
            node_name: Some("n0".into()),
            stats: BlockCounters {
                rd_bytes: 512,
                ..Default::default()
            },
        }]
    }

    fn block_nodes(&self) -> Vec<BlockNode> {
        vec![Self::node()]
    }

    fn blockdev_add(&mut self, properties: Properties, _: &mut dyn FdSource) -> Answer {
        self.asked.push(format!("blockdev {}", json!(properties)));
        Ok(())
    }

    fn stats(&self) -> Answer<DomainStats> {
        Ok(DomainStats {
            vcpus: Vec::new(),
            rings: Vec::new(),
        })
    }

    fn xenstore(&self, path: &str) -> Answer<Vec<StoreNode>> {
        Ok(vec![StoreNode {
            path: path.to_owned(),
            value: "foo".into(),
            permissions: "n0".into(),
        }])
    }
}
