//! The keys of host ends, all but those of `user`.

use std::net::Ipv4Addr;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use xenner_pvdevices::netend::config::{
    Address, BridgeConfig, DgramConfig, NetdevBackend, StreamConfig, TapConfig, TapSource,
};

use super::{user, wrong};
use crate::cli::keyval::{KeyVals, KeyvalError};

/// The bridge that is joined when none is named, as in QEMU.
const DEFAULT_BRIDGE: &str = "br0";
/// The most queues of a tap: what Linux gives an interface (`MAX_TAP_QUEUES`).
const MAX_QUEUES: usize = 256;
/// The most bytes of an interface's name.
const MAX_NAME: usize = 15;

/// The host end of this kind, which is a known one.
pub(super) fn backend(
    kind: &str,
    keys: &mut KeyVals,
    notes: &mut Vec<String>,
) -> Result<NetdevBackend, KeyvalError> {
    Ok(match kind {
        "user" => NetdevBackend::User(user::user(keys, notes)?),
        "tap" => tap(keys, notes)?,
        "bridge" => NetdevBackend::Bridge(bridge(keys)?),
        "stream" => NetdevBackend::Stream(stream(keys)?),
        "dgram" => NetdevBackend::Dgram(dgram(keys)?),
        _ => socket(keys)?,
    })
}

fn bridge(keys: &mut KeyVals) -> Result<BridgeConfig, KeyvalError> {
    Ok(BridgeConfig {
        bridge: keys
            .take_text("br")?
            .unwrap_or_else(|| DEFAULT_BRIDGE.to_owned()),
        helper: keys.take_text("helper")?.map(PathBuf::from),
    })
}

fn tap(keys: &mut KeyVals, notes: &mut Vec<String>) -> Result<NetdevBackend, KeyvalError> {
    // vhost moves packets of virtio rings, which a vif does not have.
    if keys.take_bool("vhost")? == Some(true) {
        notes.push("-netdev: tap: vhost is for virtio; the vif does without".to_owned());
    }
    keys.accept(&["vhostfd", "vhostfds", "vhostforce", "poll-us", "sndbuf"]);
    if keys
        .take_text("helper")?
        .is_some_and(|helper| !helper.is_empty())
    {
        return Err(wrong(
            "helper",
            "",
            "belongs to the kind bridge; write bridge,br=NAME,helper=PATH",
        ));
    }
    let source = tap_source(keys)?;
    Ok(NetdevBackend::Tap(TapConfig {
        source,
        script: script(keys, "script")?,
        downscript: script(keys, "downscript")?,
        vnet_hdr: keys.take_bool("vnet_hdr")?,
    }))
}

fn tap_source(keys: &mut KeyVals) -> Result<TapSource, KeyvalError> {
    let name = keys.take_text("ifname")?;
    let fds = match (keys.take_text("fd")?, keys.take_text("fds")?) {
        (Some(_), Some(_)) => return Err(KeyvalError::SeveralOf("fd, fds")),
        (Some(fd), None) => vec![descriptor("fd", &fd)?],
        (None, Some(fds)) => fds
            .split(':')
            .map(|fd| descriptor("fds", fd))
            .collect::<Result<_, _>>()?,
        (None, None) => Vec::new(),
    };
    let queues: Option<usize> = keys.take_number("queues")?;
    if !fds.is_empty() {
        if name.is_some() {
            return Err(KeyvalError::SeveralOf("ifname, fd, fds"));
        }
        return match queues {
            Some(queues) if queues != fds.len() => {
                let problem = "not the number of descriptors; leave it out";
                Err(wrong("queues", queues, problem))
            }
            _ => Ok(TapSource::Fds(fds)),
        };
    }
    let queues = queues.unwrap_or(1);
    if !(1..=MAX_QUEUES).contains(&queues) {
        return Err(wrong("queues", queues, "out of range; write 1 to 256"));
    }
    if let Some(name) = &name {
        let odd = |c: char| c == '/' || c.is_whitespace() || c.is_control();
        if name.is_empty() || name.len() > MAX_NAME || name.contains(odd) {
            let rule = "no name of an interface; write 1 to 15 bytes, without '/' and blanks";
            return Err(wrong("ifname", name, rule));
        }
    }
    Ok(TapSource::Interface { name, queues })
}

/// A program, or `no` for none. Without the key there is none either.
fn script(keys: &mut KeyVals, key: &str) -> Result<Option<PathBuf>, KeyvalError> {
    let path = keys.take_text(key)?;
    Ok(path
        .filter(|path| !["", "no", "off"].contains(&path.as_str()))
        .map(PathBuf::from))
}

fn descriptor(key: &str, text: &str) -> Result<RawFd, KeyvalError> {
    let number = text.parse().ok().filter(|number| *number >= 0);
    number.ok_or_else(|| {
        wrong(
            key,
            text,
            "not a file descriptor; write the number of an open one",
        )
    })
}

fn stream(keys: &mut KeyVals) -> Result<StreamConfig, KeyvalError> {
    let server = keys.take_bool("server")?.unwrap_or(false);
    let seconds = keys
        .take_number::<u32>("reconnect")?
        .map(|seconds| Duration::from_secs(seconds.into()));
    let milliseconds = keys
        .take_number::<u32>("reconnect-ms")?
        .map(|ms| Duration::from_millis(ms.into()));
    if seconds.is_some() && milliseconds.is_some() {
        return Err(KeyvalError::SeveralOf("reconnect, reconnect-ms"));
    }
    // 0 is QEMU's way to say "do not".
    let reconnect = seconds.or(milliseconds).filter(|time| !time.is_zero());
    if server && reconnect.is_some() {
        let problem = "a server does not connect; leave it or server=on out";
        return Err(wrong("reconnect", "on", problem));
    }
    let address = address(keys, "addr")?;
    let address = address.ok_or(KeyvalError::Missing("addr.type", "unix,addr.path=PATH"))?;
    Ok(StreamConfig {
        address,
        server,
        reconnect,
    })
}

fn dgram(keys: &mut KeyVals) -> Result<DgramConfig, KeyvalError> {
    let local = address(keys, "local")?;
    let remote = address(keys, "remote")?;
    if local.is_none() && remote.is_none() {
        return Err(KeyvalError::Missing("local.type", "inet|unix|fd"));
    }
    if local.is_none() && !remote.as_ref().is_some_and(is_group) {
        return Err(KeyvalError::Missing(
            "local.type",
            "inet|unix|fd; only a multicast group does without",
        ));
    }
    let interface = match &local {
        Some(Address::Inet { host, .. }) if remote.as_ref().is_some_and(is_group) => {
            host.parse().ok()
        }
        _ => None,
    };
    Ok(DgramConfig {
        local,
        remote,
        interface,
    })
}

fn is_group(address: &Address) -> bool {
    let Address::Inet { host, .. } = address else {
        return false;
    };
    host.parse::<Ipv4Addr>()
        .is_ok_and(|addr| addr.is_multicast())
}

/// The address below `name`, as QEMU's SocketAddress has it.
fn address(keys: &mut KeyVals, name: &str) -> Result<Option<Address>, KeyvalError> {
    let key = |part: &str| format!("{name}.{part}");
    let Some(kind) = keys.take_text(&key("type"))? else {
        return Ok(None);
    };
    let need = |keys: &mut KeyVals, part: &str| {
        let value = keys
            .take_text(&key(part))?
            .filter(|value| !value.is_empty());
        value.ok_or_else(|| wrong(&key("type"), &kind, format!("needs {}=VALUE", key(part))))
    };
    let found = match kind.as_str() {
        "unix" => {
            if keys.take_bool(&key("abstract"))? == Some(true) {
                let problem = "not supported by this version; leave it out";
                return Err(wrong(&key("abstract"), "on", problem));
            }
            keys.accept(&[&key("tight")]);
            Address::Unix(need(keys, "path")?.into())
        }
        "inet" => {
            let host = keys.take_text(&key("host"))?.unwrap_or_default();
            let port = need(keys, "port")?;
            keys.accept(&[
                &key("ipv4"),
                &key("ipv6"),
                &key("numeric"),
                &key("keep-alive"),
            ]);
            Address::Inet {
                host: bare(&host),
                port: number(&key("port"), &port)?,
            }
        }
        "fd" => Address::Fd(descriptor(&key("str"), &need(keys, "str")?)?),
        _ => {
            let problem = "not supported by this version; write one of inet, unix, fd";
            return Err(wrong(&key("type"), &kind, problem));
        }
    };
    Ok(Some(found))
}

/// `[::1]` is how a user has to write it in front of a port.
fn bare(host: &str) -> String {
    let inner = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    inner.unwrap_or(host).to_owned()
}

fn number(key: &str, port: &str) -> Result<u16, KeyvalError> {
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let number = port.parse().ok().filter(|_| digits);
    number.ok_or_else(|| wrong(key, port, "not a port; write a number from 1 to 65535"))
}

/// `HOST:PORT`; HOST may be empty or in brackets.
fn host_port(keys: &mut KeyVals, key: &str) -> Result<Option<Address>, KeyvalError> {
    let Some(text) = keys.take_text(key)? else {
        return Ok(None);
    };
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(wrong(key, &text, "not an address; write HOST:PORT"));
    };
    Ok(Some(Address::Inet {
        host: bare(host),
        port: number(key, port)?,
    }))
}

/// QEMU's older option for both kinds of sockets.
fn socket(keys: &mut KeyVals) -> Result<NetdevBackend, KeyvalError> {
    let fd = keys.take_text("fd")?;
    let listen = host_port(keys, "listen")?;
    let connect = host_port(keys, "connect")?;
    let mcast = host_port(keys, "mcast")?;
    let udp = host_port(keys, "udp")?;
    let given = [&listen, &connect, &mcast, &udp].into_iter().flatten();
    if given.count() + usize::from(fd.is_some()) > 1 {
        return Err(KeyvalError::SeveralOf("fd, listen, connect, mcast, udp"));
    }
    let stream = |address, server| {
        Ok(NetdevBackend::Stream(StreamConfig {
            address,
            server,
            reconnect: None,
        }))
    };
    match (fd, listen, connect, mcast, udp) {
        (Some(fd), ..) => stream(Address::Fd(descriptor("fd", &fd)?), false),
        (_, Some(address), ..) => stream(address, true),
        (_, _, Some(address), ..) => stream(address, false),
        (_, _, _, Some(group), _) => mcast_end(keys, group),
        (_, _, _, _, Some(remote)) => {
            let local = host_port(keys, "localaddr")?;
            let local = local.ok_or(KeyvalError::Missing("localaddr", "HOST:PORT"))?;
            Ok(NetdevBackend::Dgram(DgramConfig {
                local: Some(local),
                remote: Some(remote),
                interface: None,
            }))
        }
        _ => Err(KeyvalError::Missing(
            "connect",
            "HOST:PORT, or one of listen, mcast, udp, fd",
        )),
    }
}

fn mcast_end(keys: &mut KeyVals, group: Address) -> Result<NetdevBackend, KeyvalError> {
    if !is_group(&group) {
        let problem = "not an IPv4 group; write one like 230.0.0.1:1234";
        return Err(wrong("mcast", "", problem));
    }
    let interface = match keys.take_text("localaddr")? {
        None => None,
        Some(text) => {
            let addr = text.parse::<Ipv4Addr>();
            Some(addr.map_err(|_| wrong("localaddr", &text, "not an IPv4 address; write one"))?)
        }
    };
    Ok(NetdevBackend::Dgram(DgramConfig {
        local: None,
        remote: Some(group),
        interface,
    }))
}
