//! `-netdev`, `-nic`, `-net` and the network devices among those of `-device`.
//!
//! Turns text into `xenner_pvdevices::netend::config` types and [`NicConfig`]s; opens nothing. The
//! keys of each kind of host end are in `ends`, those of `user` in `user`.

mod ends;
mod user;

use std::ffi::OsString;

use clap::Args;

use super::chardev::well_formed;
use super::error::CliError;
use super::keyval::{KeyVals, KeyvalError};
use super::suggest::nearest;
use super::{Listing, asks_help, text};
use crate::config::{MacAddr, NetdevConfig, NicConfig, VmConfig};

#[derive(Debug, Args)]
#[command(next_help_heading = "Network options")]
pub(super) struct NetOptions {
    /// Adds a host end for a network device ('-netdev help' lists the kinds and their keys).
    #[arg(long, value_name = "KIND,id=ID[,key=value...]|{\"type\":\"KIND\",...}")]
    netdev: Vec<OsString>,

    /// Adds a network device and its host end at once, or none. There is none without an option.
    #[arg(
        long,
        value_name = "KIND[,model=NAME][,mac=ADDRESS][,key=value...]|none"
    )]
    nic: Vec<OsString>,

    /// The same as -nic none; other values are refused.
    #[arg(long, value_name = "none")]
    net: Vec<OsString>,
}

/// Kinds of host ends, with their keys.
const KINDS: [(&str, &str); 6] = [
    (
        "user",
        "the host's own connections, through passt: [,net=ADDR/BITS][,host=ADDR]\
         [,dhcpstart=ADDR][,dns=ADDR][,hostfwd=tcp|udp:[ADDR]:PORT-[ADDR]:PORT]...\
         [,dnssearch=DOMAIN]...[,ipv4=on|off][,ipv6=on|off]",
    ),
    (
        "tap",
        "an interface of the host: [,ifname=NAME][,queues=N] or ,fd=N or ,fds=N:N... \
         [,script=PATH|no][,downscript=PATH|no][,vnet_hdr=on|off]",
    ),
    (
        "bridge",
        "an interface in a bridge, by qemu-bridge-helper: [,br=NAME][,helper=PATH]",
    ),
    (
        "stream",
        "another process over a stream socket: ,addr.type=unix,addr.path=PATH or \
         ,addr.type=inet,addr.host=HOST,addr.port=PORT or ,addr.type=fd,addr.str=N \
         [,server=on|off][,reconnect-ms=TIME]",
    ),
    (
        "dgram",
        "other processes over datagrams: ,local.type=inet|unix|fd,local.KEY=... \
         [,remote.type=inet|unix,remote.KEY=...]; an IPv4 group as remote is joined",
    ),
    (
        "socket",
        "the older form of the last two: ,listen=[HOST]:PORT or ,connect=HOST:PORT or \
         ,mcast=GROUP:PORT[,localaddr=ADDR] or ,udp=HOST:PORT,localaddr=HOST:PORT or ,fd=N",
    ),
];

/// Kinds that QEMU has beyond these.
const QEMU_KINDS: [&str; 9] = [
    "af-xdp",
    "hubport",
    "l2tpv3",
    "netmap",
    "passt",
    "vde",
    "vhost-user",
    "vhost-vdpa",
    "vmnet-shared",
];

/// Properties of a network device that mean nothing for a vif: how a PC sees the card, and what a
/// vif has anyway.
const IGNORED: [&str; 51] = [
    "acpi-index",
    "addr",
    "any_layout",
    "ats",
    "bootindex",
    "bus",
    "csum",
    "ctrl_guest_offloads",
    "ctrl_mac_addr",
    "ctrl_rx",
    "ctrl_rx_extra",
    "ctrl_vlan",
    "ctrl_vq",
    "disable-legacy",
    "disable-modern",
    "duplex",
    "event_idx",
    "failover",
    "gso",
    "guest_announce",
    "guest_csum",
    "guest_ecn",
    "guest_tso4",
    "guest_tso6",
    "guest_ufo",
    "guest_uso4",
    "guest_uso6",
    "hash",
    "host_ecn",
    "host_tso4",
    "host_tso6",
    "host_ufo",
    "host_uso",
    "ioeventfd",
    "iommu_platform",
    "mq",
    "mrg_rxbuf",
    "multifunction",
    "packed",
    "page-per-vq",
    "port",
    "romfile",
    "rombar",
    "rss",
    "rx_queue_size",
    "speed",
    "status",
    "tx",
    "tx_queue_size",
    "vectors",
    "x-txtimer",
];

/// The model of a `-nic` that does not say: the one that it is.
const DEFAULT_MODEL: &str = "xen-net-device";

impl NetOptions {
    pub(super) fn listing(&self) -> Option<Listing> {
        let asked = self.netdev.iter().chain(&self.nic).any(asks_help);
        asked.then(|| Listing {
            title: "Host ends:",
            rows: KINDS.to_vec(),
        })
    }

    pub(super) fn apply(&self, config: &mut VmConfig) -> Result<(), CliError> {
        for value in &self.net {
            no_net(text("net", value)?)?;
        }
        for value in &self.netdev {
            let netdev = netdev(text("netdev", value)?, config)?;
            config.netdevs.push(netdev);
        }
        for value in &self.nic {
            nic(text("nic", value)?, config)?;
        }
        Ok(())
    }
}

/// `-net`, of which nothing but `none` is left.
fn no_net(value: &str) -> Result<(), CliError> {
    if value == "none" {
        return Ok(());
    }
    Err(CliError::Invalid {
        option: "net",
        value: value.to_owned(),
        problem: "is the older form; write -nic KIND,model=NAME instead".to_owned(),
    })
}

fn wrong(key: &str, value: impl ToString, expected: impl Into<String>) -> KeyvalError {
    KeyvalError::Invalid {
        key: key.to_owned(),
        value: value.to_string(),
        expected: expected.into(),
    }
}

/// The value of `-netdev`.
pub(super) fn netdev(value: &str, config: &mut VmConfig) -> Result<NetdevConfig, CliError> {
    let in_value = CliError::in_value("netdev");
    let mut keys = KeyVals::parse_or_json(value, Some("type")).map_err(&in_value)?;
    let kind = keys.need_text("type", "user").map_err(&in_value)?;
    known("netdev", &kind)?;
    let id = keys.need_text("id", "NAME").map_err(&in_value)?;
    if !well_formed(&id) {
        let rule = "not an id; start with a letter, go on with letters, digits, '-', '.' and '_'";
        return Err(in_value(wrong("id", id, rule)));
    }
    let backend = ends::backend(&kind, &mut keys, &mut config.notes).map_err(&in_value)?;
    keys.finish().map_err(&in_value)?;
    Ok(NetdevConfig { id, backend })
}

/// The value of `-nic`.
fn nic(value: &str, config: &mut VmConfig) -> Result<(), CliError> {
    let in_value = CliError::in_value("nic");
    let mut keys = KeyVals::parse_or_json(value, Some("type")).map_err(&in_value)?;
    let kind = keys.need_text("type", "user").map_err(&in_value)?;
    if kind == "none" {
        return keys.finish().map_err(&in_value);
    }
    known("nic", &kind)?;
    let model = keys.take_text("model").map_err(&in_value)?;
    let model = model.unwrap_or_else(|| DEFAULT_MODEL.to_owned());
    let model = if model == "virtio" {
        "virtio-net-pci".to_owned()
    } else {
        model
    };
    if !super::device::is_nic(&model) {
        let problem = "not a network device; '-device help' lists them";
        return Err(in_value(wrong("model", model, problem)));
    }
    let nic = |keys: &mut KeyVals, config: &mut VmConfig| {
        let mac = mac(keys)?;
        let id = keys.take_text("id")?;
        // No id that a user can give starts like this.
        let netdev = format!("#nic{}", config.nics.len());
        config.nics.push(NicConfig {
            id,
            model,
            mac: mac.unwrap_or_else(|| config.free_mac()),
            netdev: netdev.clone(),
            mtu: None,
        });
        let backend = ends::backend(&kind, keys, &mut config.notes)?;
        config.netdevs.push(NetdevConfig {
            id: netdev,
            backend,
        });
        Ok(())
    };
    nic(&mut keys, config).map_err(&in_value)?;
    keys.finish().map_err(&in_value)
}

/// The properties of a network device of `-device`.
pub(super) fn device(
    model: &str,
    mut keys: KeyVals,
    config: &VmConfig,
) -> Result<NicConfig, KeyvalError> {
    let netdev = keys.need_text("netdev", "ID")?;
    let id = keys.take_text("id")?;
    let mac = mac(&mut keys)?.unwrap_or_else(|| config.free_mac());
    let mtu: Option<u16> = keys.take_number("host_mtu")?;
    // The least that IPv4 allows (RFC 791), 0 for "not told".
    let mtu = mtu.filter(|mtu| *mtu != 0);
    if let Some(small) = mtu.filter(|mtu| *mtu < 68) {
        return Err(wrong("host_mtu", small, "too small; write 68 to 65535"));
    }
    keys.accept(&IGNORED);
    keys.finish()?;
    Ok(NicConfig {
        id,
        model: model.to_owned(),
        mac,
        netdev,
        mtu,
    })
}

/// `mac=`, or `macaddr=` as `-nic` has had it.
fn mac(keys: &mut KeyVals) -> Result<Option<MacAddr>, KeyvalError> {
    for key in ["mac", "macaddr"] {
        if let Some(text) = keys.take_text(key)? {
            let mac = text.parse::<MacAddr>();
            return mac
                .map(Some)
                .map_err(|error| wrong(key, &text, error.to_string()));
        }
    }
    Ok(None)
}

/// Refuses a kind of host end that is not there.
fn known(option: &'static str, kind: &str) -> Result<(), CliError> {
    if KINDS.iter().any(|(name, _)| *name == kind) {
        return Ok(());
    }
    if QEMU_KINDS.contains(&kind) {
        return Err(CliError::UnsupportedValue {
            option,
            value: kind.to_owned(),
            what: "This kind of host end is",
        });
    }
    let problem = match nearest(kind, KINDS.iter().map(|(name, _)| *name)) {
        Some(near) => format!("is not a kind of host end; did you mean '{near}'?"),
        None => "is not a kind of host end; '-netdev help' lists them".to_owned(),
    };
    Err(CliError::Invalid {
        option,
        value: kind.to_owned(),
        problem,
    })
}
