//! The backend of network devices: `vif`, `xen/include/public/io/netif.h`.
//!
//! A [`NetBack`] joins the rings of a frontend with the [`NetEnd`]s of a host's network, one thread
//! a queue. Both sides leave checksums and segmentation to each other where they can; where one
//! cannot, `frame` does it here.
//!
//! Not offered: page flipping, the control ring (no Linux frontend uses it) and headroom for XDP.

pub mod frame;
mod mac;
#[cfg(any(test, feature = "mock"))]
pub mod mock;
mod multicast;
mod queue;
mod rx;
mod stats;
#[cfg(test)]
mod tests;
mod tx;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use log::{debug, info, warn};

use crate::domain::Channel;
use crate::netend::{NetEnd, Offloads};
use crate::xenbus::{Device, DeviceError, Frontend, Keys};
pub use mac::MacAddr;
use multicast::{FilterSwitch, MulticastFilter};
use queue::{Abilities, Queue, Stop};
use rx::RxRing;
use stats::Counters;
pub use stats::{Direction, NetStats};
use tx::TxRing;

/// Bytes of a slot on the transmit ring, the larger of request and response.
const TX_ENTRY: usize = size_of::<xenner_xen_abi::io::netif::NetifTxRequest>();
/// Bytes of a slot on the receive ring.
const RX_ENTRY: usize = size_of::<xenner_xen_abi::io::netif::NetifRxResponse>();

/// A network device as it is offered to its frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VifConfig {
    /// Its number, by which the frontend's directory is named: 0 is the guest's first.
    pub handle: u32,
    /// The guest's Ethernet address.
    pub mac: MacAddr,
    /// The most bytes of a packet without its Ethernet header that the guest should send; 1500 if
    /// it is not told.
    pub mtu: Option<u16>,
    /// Whether the cable is plugged in at the start.
    pub link: bool,
}

/// What a device's threads and its users share.
#[derive(Debug)]
struct Shared {
    name: String,
    link: AtomicBool,
    end_up: AtomicBool,
    tx: Counters,
    rx: Counters,
}

impl Shared {
    fn link(&self) -> bool {
        self.link.load(Ordering::Relaxed)
    }

    /// Takes note of whether the host end can pass frames.
    fn end_up(&self, up: bool) {
        if self.end_up.load(Ordering::Relaxed) != up {
            self.end_up.store(up, Ordering::Relaxed);
        }
    }
}

/// Looks at and steers a device from any thread, connected or not.
#[derive(Debug, Clone)]
pub struct NetControl {
    shared: Arc<Shared>,
}

impl NetControl {
    /// What the device has counted.
    #[must_use]
    pub fn stats(&self) -> NetStats {
        NetStats {
            tx: self.shared.tx.read(),
            rx: self.shared.rx.read(),
        }
    }

    /// Plugs the cable in or pulls it out: with it out, frames are dropped both ways. Linux's
    /// netfront has no means to be told.
    pub fn set_link(&self, up: bool) {
        self.shared.link.store(up, Ordering::Relaxed);
    }

    /// Whether the cable is plugged in.
    #[must_use]
    pub fn link(&self) -> bool {
        self.shared.link()
    }

    /// Whether the host end can pass frames. Known once a frontend was connected.
    #[must_use]
    pub fn end_is_up(&self) -> bool {
        self.shared.end_up.load(Ordering::Relaxed)
    }
}

/// The backend of one network device.
#[derive(Debug)]
pub struct NetBack {
    config: VifConfig,
    shared: Arc<Shared>,
    multicast: Arc<MulticastFilter>,
    /// Host ends that no thread has.
    ends: Vec<Box<dyn NetEnd>>,
    /// How many there are in all: the most queues of a frontend.
    max_queues: u32,
    /// Threads, and what stops them.
    threads: Vec<JoinHandle<Box<dyn NetEnd>>>,
    stop: Option<Arc<Stop>>,
}

/// Refuses a combination of the frontend's nodes.
fn refused(why: impl Into<String>) -> DeviceError {
    DeviceError::Refused(why.into())
}

impl NetBack {
    /// A device on a host end, which has one [`NetEnd`] for each queue that a frontend may have.
    #[must_use]
    pub fn new(config: VifConfig, ends: Vec<Box<dyn NetEnd>>) -> Self {
        let shared = Shared {
            name: format!("vif {}", config.handle),
            link: AtomicBool::new(config.link),
            end_up: AtomicBool::new(ends.iter().any(|end| end.is_up())),
            tx: Counters::default(),
            rx: Counters::default(),
        };
        Self {
            config,
            shared: Arc::new(shared),
            multicast: Arc::default(),
            max_queues: ends.len() as u32,
            ends,
            threads: Vec::new(),
            stop: None,
        }
    }

    /// A handle to look at and steer the device with.
    #[must_use]
    pub fn control(&self) -> NetControl {
        NetControl {
            shared: self.shared.clone(),
        }
    }

    /// The frontend's nodes that the toolstack writes, for [`crate::xenbus::Bus::frontend`].
    #[must_use]
    pub fn frontend_keys(&self) -> Keys {
        let mut keys = vec![
            key("handle", self.config.handle),
            key("mac", self.config.mac),
        ];
        keys.extend(self.config.mtu.map(|mtu| key("mtu", mtu)));
        keys
    }

    /// Reads what the frontend can do.
    fn abilities(frontend: &Frontend) -> Result<Abilities, DeviceError> {
        if !frontend.feature("request-rx-copy")? {
            return Err(refused(
                "The frontend wants pages to be exchanged, not copied (request-rx-copy is not 1)",
            ));
        }
        let scatter = frontend.feature("feature-sg")?;
        let mut offloads = Offloads::empty();
        offloads.set(
            Offloads::CSUM_V4,
            !frontend.feature("feature-no-csum-offload")?,
        );
        offloads.set(
            Offloads::CSUM_V6,
            frontend.feature("feature-ipv6-csum-offload")?,
        );
        let gso_v4 = frontend.feature("feature-gso-tcpv4")? && scatter;
        offloads.set(
            Offloads::TSO_V4,
            gso_v4 && offloads.contains(Offloads::CSUM_V4),
        );
        let gso_v6 = frontend.feature("feature-gso-tcpv6")? && scatter;
        offloads.set(
            Offloads::TSO_V6,
            gso_v6 && offloads.contains(Offloads::CSUM_V6),
        );
        Ok(Abilities {
            offloads,
            scatter,
            notifies: frontend.feature("feature-rx-notify")?,
        })
    }

    /// Maps a queue's rings and binds its event channels.
    fn rings(&self, queue: &Frontend) -> Result<(TxRing, RxRing), DeviceError> {
        let tx = queue.ring("tx-ring-ref", None, TX_ENTRY)?;
        let rx = queue.ring("rx-ring-ref", None, RX_ENTRY)?;
        let (tx_channel, rx_channel): (Arc<dyn Channel>, Arc<dyn Channel>) =
            if queue.read("event-channel-tx")?.is_some() {
                (
                    queue.bind("event-channel-tx")?,
                    queue.bind("event-channel-rx")?,
                )
            } else {
                let both = queue.bind("event-channel")?;
                (both.clone(), both)
            };
        let grants = || queue.domain().grants();
        let multicast = self.multicast.clone();
        Ok((
            TxRing::new(tx, grants(), tx_channel, multicast),
            RxRing::new(rx, grants(), rx_channel),
        ))
    }

    /// Takes as many host ends into use as there are queues.
    fn enable(&mut self, queues: usize, offloads: Offloads) -> Result<(), DeviceError> {
        for (index, end) in self.ends.iter_mut().enumerate() {
            end.set_enabled(index < queues)?;
            if index < queues {
                end.set_receive_offloads(offloads)?;
            }
        }
        Ok(())
    }

    fn start(
        &mut self,
        frontend: &Frontend,
        rings: Vec<(TxRing, RxRing)>,
        (can, switch): (Abilities, FilterSwitch),
    ) -> Result<(), DeviceError> {
        let stop = Arc::new(Stop::new()?);
        self.stop = Some(stop.clone());
        let ends = self.ends.drain(..rings.len()).collect::<Vec<_>>();
        // The first queue's thread looks after the filter for all.
        let mut switch = Some(switch);
        for (index, (end, rings)) in ends.into_iter().zip(rings).enumerate() {
            let with = (can, self.multicast.clone(), switch.take());
            let queue = Queue::new(self.shared.clone(), stop.clone(), end, rings, with);
            let closer = frontend.closer();
            let thread = std::thread::Builder::new()
                .name(format!("vif-{}-q{index}", self.config.handle))
                .spawn(move || serve(queue, move |error| closer.close(error)))?;
            self.threads.push(thread);
        }
        Ok(())
    }
}

/// Runs a queue on its thread.
fn serve(mut queue: Queue, close: impl FnOnce(DeviceError)) -> Box<dyn NetEnd> {
    if let Err(error) = queue.run() {
        close(error);
    }
    queue.into_end()
}

fn key(name: &str, value: impl ToString) -> (String, String) {
    (name.to_owned(), value.to_string())
}

impl Device for NetBack {
    fn offer(&self) -> Keys {
        let mut keys = vec![
            key("handle", self.config.handle),
            key("mac", self.config.mac),
            key("feature-rx-copy", 1),
            key("feature-rx-flip", 0),
            key("feature-rx-notify", 1),
            key("feature-sg", 1),
            key("feature-gso-tcpv4", 1),
            key("feature-gso-tcpv6", 1),
            key("feature-ipv6-csum-offload", 1),
            key("feature-split-event-channels", 1),
            key("feature-multicast-control", 1),
            key("feature-dynamic-multicast-control", 1),
        ];
        if self.max_queues > 1 {
            keys.push(key("multi-queue-max-queues", self.max_queues));
        }
        keys
    }

    fn connect(&mut self, frontend: &Frontend) -> Result<Keys, DeviceError> {
        let available = self.ends.len() as u32;
        if available == 0 {
            return Err(refused("The host end was lost when its thread failed"));
        }
        let queues = frontend.optional_number("multi-queue-num-queues", 1..=available)?;
        let queues = queues.unwrap_or(1);
        let can = Self::abilities(frontend)?;
        self.multicast = Arc::default();
        let switch = FilterSwitch::new(frontend, self.multicast.clone())?;
        let rings = if queues == 1 {
            vec![self.rings(frontend)?]
        } else {
            let each = |index| self.rings(&frontend.queue(index));
            (0..queues).map(each).collect::<Result<Vec<_>, _>>()?
        };
        self.enable(rings.len(), can.offloads)?;
        info!(
            target: "xenner::net",
            "{}: connected with {queues} queues, offloads {:?}", self.shared.name, can.offloads
        );
        if let Err(error) = self.start(frontend, rings, (can, switch)) {
            self.disconnect();
            return Err(error);
        }
        Ok(Keys::new())
    }

    fn disconnect(&mut self) {
        let Some(stop) = self.stop.take() else {
            return;
        };
        stop.ring();
        let rest = std::mem::take(&mut self.ends);
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(end) => self.ends.push(end),
                Err(_) => {
                    warn!(target: "xenner::net", "{}: a queue's thread has panicked", self.shared.name)
                }
            }
        }
        self.ends.extend(rest);
        debug!(target: "xenner::net", "{}: disconnected", self.shared.name);
    }
}

impl Drop for NetBack {
    fn drop(&mut self) {
        self.disconnect();
    }
}
