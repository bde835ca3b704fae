//! Network devices and their host ends on the command line.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use xenner_pvdevices::netend::config::{
    Address, BridgeConfig, DgramConfig, Forward, ForwardProtocol, NetdevBackend, StreamConfig,
    TapConfig, TapSource, UserConfig,
};

use super::{config, fault, printed};

fn end(netdev: &str) -> NetdevBackend {
    let mut config = config(&["-netdev", netdev]);
    assert_eq!(config.netdevs.len(), 1);
    config.netdevs.remove(0).backend
}

fn tap(source: TapSource) -> NetdevBackend {
    NetdevBackend::Tap(TapConfig {
        source,
        script: None,
        downscript: None,
        vnet_hdr: None,
    })
}

fn inet(host: &str, port: u16) -> Address {
    Address::Inet {
        host: host.to_owned(),
        port,
    }
}

fn stream(address: Address, server: bool, reconnect: Option<Duration>) -> NetdevBackend {
    NetdevBackend::Stream(StreamConfig {
        address,
        server,
        reconnect,
    })
}

#[test]
fn taps_and_bridges() {
    let named = |name: &str, queues| {
        tap(TapSource::Interface {
            name: Some(name.to_owned()),
            queues,
        })
    };
    assert_eq!(
        end("tap,id=n,ifname=tap0,script=no,downscript=no"),
        named("tap0", 1)
    );
    assert_eq!(
        end("tap,id=n,ifname=tap0,queues=4,vhost=off"),
        named("tap0", 4)
    );
    let libvirt = r#"{"type":"tap","fds":"32:34","vhost":true,"vhostfds":"35:36","id":"hostnet0"}"#;
    assert_eq!(end(libvirt), tap(TapSource::Fds(vec![32, 34])));
    assert_eq!(
        end(r#"{"type":"tap","fd":"32","id":"h"}"#),
        tap(TapSource::Fds(vec![32]))
    );
    let NetdevBackend::Tap(scripted) = end("tap,id=n,script=/up,downscript=/down,vnet_hdr=off")
    else {
        panic!("no tap");
    };
    assert_eq!(scripted.script, Some(PathBuf::from("/up")));
    assert_eq!(scripted.downscript, Some(PathBuf::from("/down")));
    assert_eq!(scripted.vnet_hdr, Some(false));
    let bridge = |bridge: &str, helper: Option<&str>| {
        NetdevBackend::Bridge(BridgeConfig {
            bridge: bridge.to_owned(),
            helper: helper.map(PathBuf::from),
        })
    };
    assert_eq!(end("bridge,id=n"), bridge("br0", None));
    assert_eq!(
        end("bridge,id=n,br=virbr0,helper=/h"),
        bridge("virbr0", Some("/h"))
    );
}

#[test]
fn the_users_network() {
    assert_eq!(end("user,id=n"), NetdevBackend::User(UserConfig::default()));
    let NetdevBackend::User(user) = end(
        "user,id=n,net=192.168.5.0/255.255.255.0,dhcpstart=192.168.5.9,restrict=off,\
         hostfwd=tcp::2222-:22,hostfwd=udp:127.0.0.1:53-192.168.5.9:5353,dnssearch=a,dnssearch=b,ipv6=off",
    ) else {
        panic!("no user network");
    };
    let addr = |last| Ipv4Addr::new(192, 168, 5, last);
    assert_eq!((user.guest, user.prefix), (addr(9), 24));
    assert_eq!((user.host, user.dns), (addr(2), addr(3)));
    assert_eq!(user.search, ["a", "b"]);
    assert!(user.ipv4 && !user.ipv6);
    let forward = |protocol, host_addr, host_port, guest_port| Forward {
        protocol,
        host_addr,
        host_port,
        guest_port,
    };
    let forwards = [
        forward(ForwardProtocol::Tcp, None, 2222, 22),
        forward(ForwardProtocol::Udp, Some(Ipv4Addr::LOCALHOST), 53, 5353),
    ];
    assert_eq!(user.forwards, forwards);
    let json =
        r#"{"type":"user","id":"h","hostfwd":[{"str":"tcp::2222-:22"}],"dnssearch":[{"str":"a"}]}"#;
    let NetdevBackend::User(user) = end(json) else {
        panic!("no user network");
    };
    assert_eq!(user.forwards, forwards[..1]);
    assert_eq!(user.search, ["a"]);
}

#[test]
fn sockets() {
    let unix = || Address::Unix("/tmp/n".into());
    assert_eq!(
        end("stream,id=n,server=on,addr.type=unix,addr.path=/tmp/n"),
        stream(unix(), true, None)
    );
    assert_eq!(
        end(
            r#"{"type":"stream","id":"n","addr":{"type":"unix","path":"/tmp/n"},"server":false,"reconnect":5}"#
        ),
        stream(unix(), false, Some(Duration::from_secs(5)))
    );
    assert_eq!(
        end("stream,id=n,addr.type=inet,addr.host=::1,addr.port=99,reconnect-ms=10"),
        stream(inet("::1", 99), false, Some(Duration::from_millis(10)))
    );
    assert_eq!(
        end("socket,id=n,listen=:1234"),
        stream(inet("", 1234), true, None)
    );
    assert_eq!(
        end("socket,id=n,connect=[::1]:1234"),
        stream(inet("::1", 1234), false, None)
    );
    assert_eq!(end("socket,id=n,fd=7"), stream(Address::Fd(7), false, None));
    let dgram = |local, remote, interface| {
        NetdevBackend::Dgram(DgramConfig {
            local,
            remote,
            interface,
        })
    };
    let group = || Some(inet("230.0.0.1", 1234));
    assert_eq!(
        end("socket,id=n,mcast=230.0.0.1:1234"),
        dgram(None, group(), None)
    );
    assert_eq!(
        end("socket,id=n,mcast=230.0.0.1:1234,localaddr=127.0.0.1"),
        dgram(None, group(), Some(Ipv4Addr::LOCALHOST))
    );
    assert_eq!(
        end("socket,id=n,udp=h:1,localaddr=:2"),
        dgram(Some(inet("", 2)), Some(inet("h", 1)), None)
    );
    assert_eq!(
        end("dgram,id=n,local.type=unix,local.path=/a,remote.type=unix,remote.path=/b"),
        dgram(
            Some(Address::Unix("/a".into())),
            Some(Address::Unix("/b".into())),
            None
        )
    );
    assert_eq!(
        end("dgram,id=n,remote.type=inet,remote.host=230.0.0.1,remote.port=1234"),
        dgram(None, group(), None)
    );
}

#[test]
fn devices_and_their_addresses() {
    let domain = config(&[
        "-netdev",
        "user,id=a",
        "-netdev",
        "user,id=b",
        "-netdev",
        "user,id=c",
        "-device",
        "virtio-net-pci,netdev=a,host_mtu=9000,mq=on,vectors=6",
        "-device",
        "xen-net-device,netdev=b,mac=52:54:00:12:34:57,id=net1",
        "-device",
        r#"{"driver":"e1000","netdev":"c","id":"net2","bus":"pci.0","addr":"0x3"}"#,
    ]);
    let nics: Vec<String> = domain
        .nics
        .iter()
        .map(|nic| format!("{} {} {} {:?}", nic.model, nic.netdev, nic.mac, nic.mtu))
        .collect();
    assert_eq!(
        nics,
        [
            "virtio-net-pci a 52:54:00:12:34:56 Some(9000)",
            "xen-net-device b 52:54:00:12:34:57 None",
            "e1000 c 52:54:00:12:34:58 None",
        ]
    );
    for model in [
        "netfront",
        "e1000e",
        "rtl8139",
        "virtio-net",
        "virtio-net-device",
        "vmxnet3",
    ] {
        let device = format!("{model},netdev=a");
        assert_eq!(
            config(&["-netdev", "user,id=a", "-device", &device])
                .nics
                .len(),
            1
        );
    }
}

#[test]
fn both_at_once() {
    let domain = config(&[
        "-nic",
        "user,model=virtio,mac=52-54-0-1-2-3",
        "-nic",
        "tap,ifname=tap7",
    ]);
    assert_eq!(domain.nics[0].model, "virtio-net-pci");
    assert_eq!(domain.nics[0].mac.to_string(), "52:54:00:01:02:03");
    assert_eq!(domain.nics[1].model, "xen-net-device");
    assert_eq!(domain.nics[1].mac.to_string(), "52:54:00:12:34:56");
    for nic in &domain.nics {
        assert!(domain.netdev(&nic.netdev).is_some());
    }
}

#[test]
fn none_unless_asked_for() {
    for args in [
        &[][..],
        &["-nic", "none"],
        &["-net", "none"],
        &["-nodefaults"],
    ] {
        let domain = config(args);
        assert!(
            domain.nics.is_empty() && domain.netdevs.is_empty(),
            "{args:?}"
        );
    }
}

#[test]
fn listings() {
    let kinds = printed(&["-netdev", "help"]);
    for kind in ["user", "tap", "bridge", "stream", "dgram", "socket"] {
        assert!(kinds.contains(&format!("  {kind}")), "{kinds}");
    }
    assert!(printed(&["-device", "help"]).contains("xen-net-device"));
}

#[test]
fn faults() {
    for (args, message) in [
        (
            &["-netdev", "tap"][..],
            "-netdev: Key 'id' is missing; add id=NAME",
        ),
        (
            &["-netdev", "user,id=7"],
            "-netdev: id='7': not an id; start with a letter",
        ),
        (
            &["-netdev", "tpa,id=n"],
            "-netdev: 'tpa' is not a kind of host end; did you mean 'tap'?",
        ),
        (
            &["-netdev", "vde,id=n"],
            "-netdev: 'vde': This kind of host end is not supported",
        ),
        (
            &["-nic", "hubport"],
            "-nic: 'hubport': This kind of host end is not supported",
        ),
        (
            &["-netdev", "tap,id=n,ifname=0123456789abcdef"],
            "-netdev: ifname=",
        ),
        (
            &["-netdev", "tap,id=n,fd=3,fds=4"],
            "-netdev: Only one of fd, fds",
        ),
        (
            &["-netdev", "tap,id=n,fd=x"],
            "-netdev: fd='x': not a file descriptor",
        ),
        (
            &["-netdev", "tap,id=n,fds=3:4,queues=3"],
            "-netdev: queues='3': not the number",
        ),
        (
            &["-netdev", "tap,id=n,queues=0"],
            "-netdev: queues='0': out of range",
        ),
        (
            &["-netdev", "tap,id=n,ifnam=x"],
            "-netdev: Unknown key 'ifnam'; did you mean 'ifname'?",
        ),
        (
            &["-netdev", "user,id=n,restrict=on"],
            "-netdev: restrict='on': passt cannot",
        ),
        (
            &["-netdev", "user,id=n,tftp=/x"],
            "-netdev: tftp='/x': passt has no network boot",
        ),
        (
            &["-netdev", "user,id=n,net=10.0.0.0/30"],
            "-netdev: net='10.0.0.0/30': not an IPv4 network",
        ),
        (
            &["-netdev", "user,id=n,host=1.2.3.4"],
            "-netdev: host='1.2.3.4': not in the guest's",
        ),
        (
            &["-netdev", "user,id=n,hostfwd=tcp:22"],
            "-netdev: hostfwd='tcp:22': not a forward",
        ),
        (
            &["-netdev", "user,id=n,hostfwd=tcp::1-10.9.9.9:2"],
            "-netdev: hostfwd='tcp::1-10.9.9.9:2': there is no other guest than 10.0.2.15",
        ),
        (
            &["-netdev", "user,id=n,ipv4=off,ipv6=off"],
            "-netdev: ipv6='off': nothing is left",
        ),
        (
            &["-netdev", "stream,id=n"],
            "-netdev: Key 'addr.type' is missing",
        ),
        (
            &["-netdev", "stream,id=n,addr.type=vsock"],
            "-netdev: addr.type='vsock': not supported",
        ),
        (
            &["-netdev", "stream,id=n,addr.type=unix"],
            "-netdev: addr.type='unix': needs addr.path",
        ),
        (
            &[
                "-netdev",
                "stream,id=n,addr.type=unix,addr.path=/x,server=on,reconnect=1",
            ],
            "-netdev: reconnect='on': a server does not connect",
        ),
        (
            &["-netdev", "dgram,id=n"],
            "-netdev: Key 'local.type' is missing",
        ),
        (
            &["-netdev", "socket,id=n"],
            "-netdev: Key 'connect' is missing",
        ),
        (
            &["-netdev", "socket,id=n,listen=:1,fd=3"],
            "-netdev: Only one of fd, listen",
        ),
        (
            &["-netdev", "socket,id=n,connect=h"],
            "-netdev: connect='h': not an address",
        ),
        (
            &["-netdev", "socket,id=n,mcast=10.0.0.1:1"],
            "-netdev: mcast='': not an IPv4 group",
        ),
        (
            &["-nic", "user,model=sb16"],
            "-nic: model='sb16': not a network device",
        ),
        (
            &["-nic", "user,mac=1:2"],
            "-nic: mac='1:2': not an Ethernet address",
        ),
        (
            &["-nic", "user,mac=01:0:0:0:0:1"],
            "-nic: mac='01:0:0:0:0:1': a group address",
        ),
        (
            &["-nic", "user,mac=0:0:0:0:0:0"],
            "-nic: mac='0:0:0:0:0:0': all zero",
        ),
        (
            &["-net", "nic", "-net", "user"],
            "-net: 'nic' is the older form",
        ),
        (
            &["-device", "e1000"],
            "-device: Key 'netdev' is missing; add netdev=ID",
        ),
        (
            &["-device", "e1000,netdev=n"],
            "-device: No host end has the id 'n'",
        ),
        (
            &[
                "-netdev",
                "user,id=n",
                "-device",
                "e1000,netdev=n,host_mtu=20",
            ],
            "-device: host_mtu='20': too small",
        ),
        (
            &["-netdev", "user,id=n", "-device", "e1000,netdev=n,mcc=x"],
            "-device: Unknown key 'mcc'",
        ),
        (
            &["-netdev", "user,id=n", "-netdev", "user,id=n"],
            "-netdev: Id 'n' is given twice",
        ),
        (
            &[
                "-netdev",
                "user,id=n",
                "-device",
                "e1000,netdev=n",
                "-device",
                "e1000,netdev=n",
            ],
            "-device: Host end 'n' is in use already",
        ),
    ] {
        let line = fault(args);
        assert!(line.starts_with(message), "{line}\n{message}");
    }
}
