//! Host ends that need the host's help: a tap driver and the right to use it, passt.
//!
//! Where the host lacks one, the test says so and passes; `XENNER_NEED_NET=1` makes that a failure.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use xenner_console::InheritedFds;

use super::config::*;
use super::*;

/// Whether the test can go on; says why not.
fn have(what: &str, there: bool) -> bool {
    if !there {
        assert!(
            std::env::var_os("XENNER_NEED_NET").is_none(),
            "This host lacks {what}"
        );
        eprintln!("SKIPPED: this host lacks {what}");
    }
    there
}

fn open_end(backend: NetdevBackend) -> Result<Vec<Box<dyn NetEnd>>, NetEndError> {
    let netdev = NetdevConfig {
        id: "test".to_owned(),
        backend,
    };
    open(&netdev, &mut InheritedFds::default())
}

fn tap(name: &str, queues: usize) -> Option<Vec<Box<dyn NetEnd>>> {
    let ends = open_end(NetdevBackend::Tap(TapConfig {
        source: TapSource::Interface {
            name: Some(name.to_owned()),
            queues,
        },
        script: None,
        downscript: None,
        vnet_hdr: None,
    }));
    let why = ends.as_ref().err().map(ToString::to_string);
    have(&format!("taps ({})", why.unwrap_or_default()), ends.is_ok()).then(|| ends.unwrap())
}

fn interface_is_there(name: &str) -> bool {
    std::path::Path::new(&format!("/sys/class/net/{name}")).exists()
}

/// A frame to everybody, of a protocol that no host answers.
fn announcement() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([0x52, 0x54, 0, 0, 0, 1, 0x88, 0xb5]);
    frame.resize(60, 0);
    frame
}

#[test]
fn a_tap_is_there_as_long_as_its_end() {
    let name = format!("xt{}", std::process::id() % 100_000);
    let Some(mut ends) = tap(&name, 1) else {
        return;
    };
    assert!(interface_is_there(&name));
    let end = &mut ends[0];
    assert_eq!(end.send_offloads(), Offloads::all());
    for offloads in [Offloads::all(), Offloads::CSUM_V4, Offloads::empty()] {
        end.set_receive_offloads(offloads).unwrap();
    }
    // Nobody has set the interface up: the host refuses frames, and the end goes on.
    assert_eq!(
        end.send(&Offload::default(), &announcement()),
        Sent::Dropped
    );
    assert!(end.is_up());
    assert!(end.receive(&mut vec![0; MAX_FRAME]).is_none());
    drop(ends);
    assert!(!interface_is_there(&name));
}

#[test]
fn a_tap_of_several_queues() {
    let name = format!("xq{}", std::process::id() % 100_000);
    let Some(mut ends) = tap(&name, 3) else {
        return;
    };
    assert_eq!(ends.len(), 3);
    for enabled in [false, false, true, true] {
        ends[2].set_enabled(enabled).unwrap();
    }
}

#[test]
fn scripts_get_the_interfaces_name() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let name = format!("xs{}", std::process::id() % 100_000);
    let script = |file: &str, text: &str| {
        let path = dir.path().join(file);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        path
    };
    let seen = dir.path().join("seen");
    let note = |word: &str| format!("#!/bin/sh\necho {word} $1 >> {}\n", seen.display());
    let up = script("up", &note("up"));
    let down = script("down", &note("down"));
    let config = |up| {
        NetdevBackend::Tap(TapConfig {
            source: TapSource::Interface {
                name: Some(name.clone()),
                queues: 1,
            },
            script: Some(up),
            downscript: Some(down.clone()),
            vnet_hdr: Some(false),
        })
    };
    let ends = open_end(config(up));
    if !have("taps", ends.is_ok()) {
        return;
    }
    let ends = ends.unwrap();
    assert_eq!(ends[0].send_offloads(), Offloads::empty());
    drop(ends);
    let seen = std::fs::read_to_string(seen).unwrap();
    assert_eq!(seen, format!("up {name}\ndown {name}\n"));
    let fails = script("fails", "#!/bin/sh\nexit 3\n");
    let error = open_end(config(fails)).unwrap_err().to_string();
    assert!(error.contains("exit status: 3"), "{error}");
    assert!(!interface_is_there(&name));
}

#[test]
fn what_is_no_tap_is_refused() {
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(TapEnd::from_fd(file.into()).is_err());
}

fn passt(forwards: Vec<Forward>) -> Option<Box<dyn NetEnd>> {
    let backend = NetdevBackend::User(UserConfig {
        forwards,
        ..UserConfig::default()
    });
    let ends = open_end(backend);
    let why = ends.as_ref().err().map(ToString::to_string);
    have(
        &format!("passt ({})", why.unwrap_or_default()),
        ends.is_ok(),
    )
    .then(|| ends.unwrap().remove(0))
}

/// Receives until a frame is as wanted.
fn receive(end: &mut dyn NetEnd, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut buf = vec![0; MAX_FRAME];
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        end.advance();
        match end.receive(&mut buf) {
            Some((length, _)) if wanted(&buf[..length]) => return buf[..length].to_vec(),
            Some(_) => {}
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    }
    panic!("No such frame comes");
}

/// Who has this address? (RFC 826)
fn arp_request(address: [u8; 4]) -> Vec<u8> {
    let mac = [0x52, 0x54, 0, 0, 0, 1];
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend([10, 0, 2, 15]);
    frame.extend([0; 6]);
    frame.extend(address);
    frame
}

#[test]
fn passt_answers_for_the_host() {
    let Some(mut end) = passt(Vec::new()) else {
        return;
    };
    assert!(end.is_up());
    let request = arp_request([10, 0, 2, 2]);
    assert_eq!(end.send(&Offload::default(), &request), Sent::Done);
    end.flush();
    let reply = receive(&mut *end, |frame| frame[12..14] == [0x08, 0x06]);
    assert_eq!(reply[20..22], [0, 2]);
    assert_eq!(reply[28..32], [10, 0, 2, 2]);
}

#[test]
fn passt_forwards_ports_of_the_host() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let forward = Forward {
        protocol: ForwardProtocol::Tcp,
        host_addr: Some(std::net::Ipv4Addr::LOCALHOST),
        host_port: port,
        guest_port: 22,
    };
    let Some(mut end) = passt(vec![forward.clone()]) else {
        return;
    };
    // passt asks for the guest's address before it passes anything on.
    assert_eq!(
        end.send(&Offload::default(), &arp_request([10, 0, 2, 2])),
        Sent::Done
    );
    end.flush();
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.set_nonblocking(true).unwrap();
    let _sent = client.write(b"hello");
    let syn = receive(&mut *end, |frame| {
        frame[12..14] == [0x08, 0x00] && frame[23] == 6 && frame[47] & 2 != 0
    });
    assert_eq!(syn[30..34], [10, 0, 2, 15]);
    assert_eq!(syn[36..38], [0, 22]);
    let _nothing = client.read(&mut [0; 8]);
    // The port is taken now: another passt says so at once.
    let backend = NetdevBackend::User(UserConfig {
        forwards: vec![forward],
        ..UserConfig::default()
    });
    let error = open_end(backend).unwrap_err().to_string();
    assert!(error.starts_with("passt cannot start: "), "{error}");
}
