//! The PV console and the character devices behind it.

use std::time::Duration;

use xenner::config::ChannelConfig;
use xenner_console::config::{ChardevBackend, ChardevConfig, SocketAddress, SocketRole};

use super::{config, console, end, fault, on_stdio};

#[test]
fn where_the_console_is() {
    let unix = |role| ChardevBackend::Socket {
        address: SocketAddress::Unix("/s".into()),
        role,
        nodelay: false,
    };
    let tcp = |host: &str, role, nodelay| ChardevBackend::Socket {
        address: SocketAddress::Tcp {
            host: host.into(),
            port: 4555,
        },
        role,
        nodelay,
    };
    let (waits, serves) = (
        SocketRole::Server { wait: true },
        SocketRole::Server { wait: false },
    );
    let connects = SocketRole::Client { reconnect: None };
    let again = SocketRole::Client {
        reconnect: Some(Duration::from_secs(2)),
    };
    let file = |path: &str| ChardevBackend::File {
        path: path.into(),
        append: false,
    };
    for (serial, backend) in [
        ("stdio", ChardevBackend::Stdio { signal: true }),
        ("null", ChardevBackend::Null),
        ("pty", ChardevBackend::Pty { path: None }),
        (
            "pty:/l",
            ChardevBackend::Pty {
                path: Some("/l".into()),
            },
        ),
        ("file:/a,b=c", file("/a,b=c")),
        ("pipe:/p", ChardevBackend::Pipe { path: "/p".into() }),
        ("unix:/s", unix(connects)),
        ("unix:/s,server", unix(waits)),
        ("unix:/s,server,nowait", unix(serves)),
        ("unix:/s,server=on,wait=off", unix(serves)),
        ("unix:/s,reconnect=2", unix(again)),
        ("tcp::4555,server=on", tcp("", waits, false)),
        (
            "tcp:127.0.0.1:4555,server=on,wait=off,nodelay",
            tcp("127.0.0.1", serves, true),
        ),
        ("tcp:[::1]:4555", tcp("::1", connects, false)),
    ] {
        assert_eq!(console(&["-serial", serial]), end(backend), "{serial}");
    }
}

#[test]
fn where_the_console_is_by_default() {
    assert_eq!(console(&[]), on_stdio(true, false));
    assert_eq!(console(&["-nographic"]), on_stdio(true, false));
    assert_eq!(console(&["-display", "none"]), on_stdio(true, false));
    assert_eq!(
        console(&["-nographic", "-monitor", "none"]),
        on_stdio(false, false)
    );
    assert_eq!(console(&["-serial", "mon:stdio"]), on_stdio(true, false));
    assert_eq!(
        console(&["-nographic", "-serial", "stdio"]),
        on_stdio(false, false)
    );
    for none in [
        &["-nodefaults"][..],
        &["-nodefaults", "-nographic"],
        &["-serial", "none"],
        &["-serial", "none", "-serial", "none", "-nographic"],
        &["-daemonize"],
    ] {
        assert_eq!(config(none).consoles, [], "{none:?}");
    }
    assert_eq!(config(&["-echr", "2"]).escape_char, 2);
    assert_eq!(config(&[]).escape_char, 1);
    assert_eq!(
        fault(&["-echr", "300"]),
        "-echr: '300' is not a character's code; write a number from 0 to 255"
    );
}

#[test]
fn character_devices() {
    let chardev = |value: &str| {
        config(&["-nodefaults", "-chardev", value])
            .chardevs
            .remove(0)
    };
    let named = |backend| ChardevConfig::new("c", backend);
    assert_eq!(
        chardev("pty,id=c"),
        named(ChardevBackend::Pty { path: None })
    );
    assert_eq!(chardev("null,id=c"), named(ChardevBackend::Null));
    assert_eq!(
        chardev("stdio,id=c"),
        named(ChardevBackend::Stdio { signal: true })
    );
    assert_eq!(
        chardev("stdio,id=c,mux=on,signal=off"),
        ChardevConfig {
            mux: true,
            ..named(ChardevBackend::Stdio { signal: false })
        }
    );
    assert_eq!(
        chardev("ringbuf,id=c"),
        named(ChardevBackend::Ringbuf { size: 65536 })
    );
    assert_eq!(
        chardev("memory,id=c,size=4K"),
        named(ChardevBackend::Ringbuf { size: 4096 })
    );
    assert_eq!(
        chardev("file,id=c,path=/a,,b,append=on"),
        named(ChardevBackend::File {
            path: "/a,b".into(),
            append: true
        })
    );
    let logged = chardev("pty,id=c,logfile=/dev/fdset/0,logappend=on");
    assert_eq!(
        (logged.logfile, logged.logappend),
        (Some("/dev/fdset/0".into()), true)
    );
    let role = SocketRole::Server { wait: false };
    assert_eq!(
        chardev("socket,id=c,fd=31,server=on,wait=off"),
        named(ChardevBackend::Socket {
            address: SocketAddress::Fd(31),
            role,
            nodelay: false
        })
    );
    let address = SocketAddress::Tcp {
        host: "127.0.0.1".into(),
        port: 4555,
    };
    let role = SocketRole::Client {
        reconnect: Some(Duration::from_millis(5)),
    };
    assert_eq!(
        chardev("socket,id=c,host=127.0.0.1,port=4555,reconnect-ms=5,delay=off"),
        named(ChardevBackend::Socket {
            address,
            role,
            nodelay: true
        })
    );
}

#[test]
fn faults_of_character_devices() {
    for (value, message) in [
        ("pty", "Key 'id' is missing; add id=NAME"),
        ("ptty,id=c", "'ptty' is not a backend; did you mean 'pty'?"),
        (
            "udp,id=c",
            "'udp': This backend is not supported by this version; leave it out",
        ),
        ("id=c", "Key 'backend' is missing; add backend=pty"),
        ("file,id=c", "Key 'path' is missing; add path=FILE"),
        (
            "socket,id=c",
            "Key 'path' is missing; add path=PATH, or host=HOST,port=NUMBER",
        ),
        (
            "socket,id=c,host=x",
            "Key 'port' is missing; add port=NUMBER",
        ),
        (
            "socket,id=c,path=/s,port=1",
            "Only one of path, host with port, fd makes sense; leave one",
        ),
        (
            "socket,id=c,path=/s,wait=on",
            "wait='on': only a server waits; add server=on or leave it out",
        ),
        (
            "socket,id=c,path=/s,server,reconnect=1",
            "reconnect='1': a server does not connect; leave it or server=on out",
        ),
        (
            "socket,id=c,port=0",
            "port='0': not a port; write a number from 1 to 65535",
        ),
        (
            "socket,id=c,fd=-1",
            "fd='-1': not a file descriptor; write the number of an open one",
        ),
        (
            "socket,id=c,port=1,telnet=on",
            "telnet='on': not supported by this version; leave it out",
        ),
        (
            "ringbuf,id=c,size=3",
            "size='3': not a power of two from 2 to 1G; write one, like 64K",
        ),
        (
            "pty,id=0",
            "id='0': not an id; start with a letter, go on with letters, digits, '-', '.' and '_'",
        ),
    ] {
        assert_eq!(
            fault(&["-chardev", value]),
            format!("-chardev: {message}"),
            "{value}"
        );
    }
    assert_eq!(
        fault(&["-chardev", "null,id=a", "-chardev", "null,id=a"]),
        "-chardev: Id 'a' is given twice; choose another for one of them"
    );
}

#[test]
fn several_consoles_and_channels() {
    let ends = |args: &[&str]| {
        let config = config(args);
        let consoles = config.consoles.into_iter().map(|console| console.chardev);
        (consoles.collect::<Vec<_>>(), config.channels)
    };
    let defined = ["-chardev", "pty,id=a", "-chardev", "pty,id=b"];
    let (consoles, channels) = ends(
        &[
            &defined[..],
            &["-device", "virtconsole,chardev=b,id=console1"],
            &["-device", "isa-serial,chardev=a"],
            &["-serial", "null", "-serial", "none", "-serial", "pty"],
        ]
        .concat(),
    );
    assert_eq!(consoles, ["serial0", "serial2", "b", "a"]);
    assert_eq!(channels, []);
    let json = r#"{"driver":"virtserialport","bus":"virtio-serial0.0","nr":1,"chardev":"a","id":"channel0","name":"org.qemu.guest_agent.0"}"#;
    let bare = "virtserialport,chardev=b";
    let (consoles, channels) = ends(
        &[
            &defined[..],
            &["-nodefaults", "-device", json, "-device", bare],
        ]
        .concat(),
    );
    assert_eq!(consoles, [""; 0], "a channel is not the first console");
    let channel = |chardev: &str, name: &str, id: Option<&str>| ChannelConfig {
        chardev: chardev.into(),
        name: name.into(),
        id: id.map(str::to_owned),
    };
    let wanted = [
        channel("a", "org.qemu.guest_agent.0", Some("channel0")),
        channel("b", "b", None),
    ];
    assert_eq!(channels, wanted);
    // Nobody could be at its other end.
    let unused = config(&["-device", "virtserialport,name=x,id=y"]);
    assert_eq!(unused.channels, []);
    assert_eq!(
        unused.notes,
        ["-device: the guest does not see virtserialport"]
    );
}

#[test]
fn faults_of_the_console() {
    for (args, message) in [
        (
            &["-serial", "stdo"][..],
            "-serial: 'stdo' is not an end; did you mean 'stdio'?",
        ),
        (
            &["-serial", "telnet:x"],
            "-serial: 'telnet': This end is not supported by this version; leave it out",
        ),
        (
            &["-serial", "chardev:x"],
            "-serial: No character device has the id 'x'; add -chardev ...,id=x",
        ),
        (
            &["-serial", "null"].repeat(11)[..],
            "-serial: 11 consoles and channels are asked for, of which a guest can tell 10 apart; \
             leave some out",
        ),
        (
            &[
                "-chardev",
                "pty,id=c",
                "-serial",
                "chardev:c",
                "-serial",
                "chardev:c",
            ],
            "-serial: Character device 'c' is in use already; give it one of its own",
        ),
        (
            &[
                "-chardev",
                "pty,id=c",
                "-serial",
                "chardev:c",
                "-device",
                "virtserialport,chardev=c",
            ],
            "-device: Character device 'c' is in use already; give it one of its own",
        ),
        (
            &["-device", "virtserialport,chardev=c"],
            "-device: No character device has the id 'c'; add -chardev ...,id=c",
        ),
        (
            &["-device", "virtserialport,chardev=c,naem=x"],
            "-device: Unknown key 'naem'; did you mean 'name'?",
        ),
        (
            &["-serial", "stdio", "-daemonize"],
            "-daemonize: Character device 'serial0' uses stdio, which a daemon does not have; \
             use -serial pty, unix:PATH,server=on or none",
        ),
        (
            &["-nographic", "-daemonize"],
            "-daemonize: Contradicts -nographic; leave one of them out",
        ),
        (
            &["-monitor", "vc"],
            "-monitor: 'vc': This end is not supported by this version; leave it out",
        ),
    ] {
        assert_eq!(fault(args), message, "{args:?}");
    }
    for empty in ["", "file:", "pipe:", "chardev:", "mon:none", "mon:"] {
        assert!(
            fault(&["-serial", empty]).contains("is not an end; write"),
            "{empty}"
        );
    }
    for empty in ["unix:", "tcp:", "tcp:x", "unix:,server"] {
        assert!(
            fault(&["-serial", empty]).starts_with("-serial: "),
            "{empty}"
        );
    }
}
