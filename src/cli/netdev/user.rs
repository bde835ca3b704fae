//! The keys of `user`, the network through passt.

use std::net::Ipv4Addr;

use xenner_pvdevices::netend::config::{Forward, ForwardProtocol, UserConfig};

use super::wrong;
use crate::cli::keyval::{KeyVals, KeyvalError};

/// What QEMU's own user network has, and passt has not.
const LACKING: [(&str, &str); 7] = [
    ("bootfile", "network boot"),
    ("tftp", "network boot"),
    ("tftp-server-name", "network boot"),
    ("smb", "a file server"),
    ("smbserver", "a file server"),
    ("guestfwd", "forwarding from the guest to a program"),
    ("ipv6-prefix", "an IPv6 network of your choice"),
];

pub(super) fn user(keys: &mut KeyVals, notes: &mut Vec<String>) -> Result<UserConfig, KeyvalError> {
    for (key, what) in LACKING {
        if let Some(value) = keys.take_all(key)?.pop() {
            let problem = format!(
                "passt has no {}; leave it out",
                what.trim_start_matches("a ")
            );
            return Err(wrong(key, value, problem));
        }
    }
    if keys.take_bool("restrict")? == Some(true) {
        let problem = "passt cannot keep the guest to itself; leave it out, or use stream or tap";
        return Err(wrong("restrict", "on", problem));
    }
    if keys.take_text("hostname")?.is_some() {
        notes.push("-netdev: user: passt gives the guest no host name".to_owned());
    }
    keys.accept(&["ipv6-net", "ipv6-prefixlen", "ipv6-host", "ipv6-dns"]);
    let mut config = addresses(keys)?;
    config.search = keys.take_all("dnssearch")?;
    config.search.extend(keys.take_text("domainname")?);
    config.ipv4 = keys.take_bool("ipv4")?.unwrap_or(true);
    config.ipv6 = keys.take_bool("ipv6")?.unwrap_or(true);
    if !config.ipv4 && !config.ipv6 {
        return Err(wrong(
            "ipv6",
            "off",
            "nothing is left; leave ipv4 or ipv6 on",
        ));
    }
    for text in keys.take_all("hostfwd")? {
        let forward = forward(&text, &config);
        config
            .forwards
            .push(forward.map_err(|problem| wrong("hostfwd", &text, problem))?);
    }
    Ok(config)
}

/// The network, whose other addresses follow from it as in QEMU.
fn addresses(keys: &mut KeyVals) -> Result<UserConfig, KeyvalError> {
    let mut config = UserConfig::default();
    if let Some(text) = keys.take_text("net")? {
        let problem =
            "not an IPv4 network with room for a guest; write ADDRESS/BITS, like 10.0.2.0/24";
        let (net, prefix) = network(&text).ok_or_else(|| wrong("net", &text, problem))?;
        let nth = |n: u32| Ipv4Addr::from(net | n);
        config.prefix = prefix;
        // A network of 16 addresses has no fifteenth guest.
        config.guest = nth(if prefix <= 27 { 15 } else { 4 });
        config.host = nth(2);
        config.dns = nth(3);
    }
    let mut set = |key: &str, place: &mut Ipv4Addr| -> Result<(), KeyvalError> {
        if let Some(text) = keys.take_text(key)? {
            let addr = text.parse();
            *place = addr.map_err(|_| wrong(key, &text, "not an IPv4 address; write one"))?;
        }
        Ok(())
    };
    set("host", &mut config.host)?;
    set("dhcpstart", &mut config.guest)?;
    set("dns", &mut config.dns)?;
    let mask = mask(config.prefix);
    let net = u32::from(config.guest) & mask;
    for (key, addr) in [("host", config.host), ("dns", config.dns)] {
        if u32::from(addr) & mask != net {
            return Err(wrong(
                key,
                addr,
                "not in the guest's network; choose one that is",
            ));
        }
    }
    if [config.host, config.dns].contains(&config.guest) {
        let problem = "the host's or the name server's own address; choose another";
        return Err(wrong("dhcpstart", config.guest, problem));
    }
    Ok(config)
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

/// `ADDRESS/BITS` or `ADDRESS/MASK`; without a mask 24 bits. At most 29, so that a guest fits.
fn network(text: &str) -> Option<(u32, u8)> {
    let (addr, bits) = text.split_once('/').unwrap_or((text, "24"));
    let prefix = match bits.parse::<Ipv4Addr>() {
        Ok(mask) => {
            let mask = u32::from(mask);
            (mask.leading_ones() + mask.trailing_zeros() == 32)
                .then_some(mask.leading_ones() as u8)?
        }
        Err(_) => bits.parse().ok()?,
    };
    let addr = u32::from(addr.parse::<Ipv4Addr>().ok()?);
    (4..=29)
        .contains(&prefix)
        .then_some((addr & mask(prefix), prefix))
}

/// `[tcp|udp]:[HOSTADDR]:HOSTPORT-[GUESTADDR]:GUESTPORT`.
fn forward(text: &str, config: &UserConfig) -> Result<Forward, String> {
    const FORM: &str = "not a forward; write tcp|udp:[ADDRESS]:PORT-[ADDRESS]:PORT, \
                        like tcp:127.0.0.1:2222-:22";
    let form = || FORM.to_owned();
    let (protocol, rest) = text.split_once(':').ok_or_else(form)?;
    let protocol = match protocol {
        "" | "tcp" => ForwardProtocol::Tcp,
        "udp" => ForwardProtocol::Udp,
        _ => return Err(form()),
    };
    let (host, guest) = rest.split_once('-').ok_or_else(form)?;
    let (host_addr, host_port) = host.split_once(':').ok_or_else(form)?;
    let (guest_addr, guest_port) = guest.split_once(':').ok_or_else(form)?;
    let addr = |text: &str| match text {
        "" => Ok(None),
        text => text.parse::<Ipv4Addr>().map(Some).map_err(|_| form()),
    };
    let port = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let port = text.parse::<u16>().ok().filter(|port| digits && *port != 0);
        port.ok_or_else(form)
    };
    let guest_addr = addr(guest_addr)?;
    if guest_addr.is_some_and(|addr| addr != config.guest) {
        return Err(format!(
            "there is no other guest than {}; leave its address out",
            config.guest
        ));
    }
    Ok(Forward {
        protocol,
        host_addr: addr(host_addr)?.filter(|addr| !addr.is_unspecified()),
        host_port: port(host_port)?,
        guest_port: port(guest_port)?,
    })
}
