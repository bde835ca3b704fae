//! Devices on real sockets, ptys, files and FIFOs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};

use super::*;
use crate::config::{SocketAddress, SocketRole};
use crate::fdpass::InheritedFds;
use crate::outqueue::{BOUND, SCROLLBACK};

const SERVER: SocketRole = SocketRole::Server { wait: false };

fn open_as(backend: ChardevBackend, mux: bool) -> Result<Chardev, ChardevError> {
    let config = ChardevConfig {
        mux,
        ..ChardevConfig::new("serial0", backend)
    };
    Chardev::open(
        &config,
        ChardevOptions::default(),
        &mut InheritedFds::default(),
    )
}

fn open(backend: ChardevBackend) -> Chardev {
    open_as(backend, false).unwrap()
}

fn unix(path: PathBuf, role: SocketRole) -> ChardevBackend {
    ChardevBackend::Socket {
        address: SocketAddress::Unix(path),
        role,
        nodelay: false,
    }
}

fn ready(device: &Chardev, millis: i64) -> bool {
    let timeout = Timespec {
        tv_sec: millis / 1000,
        tv_nsec: millis % 1000 * 1_000_000,
    };
    let mut fds = [PollFd::new(device, PollFlags::IN)];
    retry(|| rustix::event::poll(&mut fds, Some(&timeout))).unwrap() > 0
}

/// Runs the device's event loop until `done`.
fn run(device: &mut Chardev, mut done: impl FnMut(&mut Chardev) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done(device) {
        assert!(Instant::now() < deadline, "nothing happened in ten seconds");
        if ready(device, 20) {
            device.dispatch();
        }
    }
}

/// The device must not keep its event loop busy when nothing happens.
fn assert_idle(device: &mut Chardev) {
    let mut turns = 0;
    while ready(device, 30) {
        device.dispatch();
        turns += 1;
        assert!(turns < 20, "the event loop spins on {device:?}");
    }
}

fn read_all(device: &mut Chardev, count: usize) -> Vec<u8> {
    let mut data = Vec::new();
    run(device, |device| {
        let mut buf = [0; 300];
        let got = device.read(&mut buf);
        data.extend(&buf[..got]);
        data.len() >= count
    });
    data
}

#[test]
fn a_unix_server_serves_one_client_after_another() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    let mut device = open(unix(path.clone(), SERVER));
    assert_eq!(
        device.filename(),
        format!("disconnected:unix:{},server=on", path.display())
    );
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    device.set_wants_input(true);
    for round in 0..3 {
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"typed").unwrap();
        assert_eq!(read_all(&mut device, 5), b"typed");
        assert_eq!(device.take_events(), [ChardevEvent::Opened]);
        let text = format!("output {round}");
        assert_eq!(device.write(text.as_bytes()), text.len());
        let mut got = vec![0; text.len()];
        client.read_exact(&mut got).unwrap();
        assert_eq!(got, text.as_bytes());
        assert_idle(&mut device);
        drop(client);
        run(&mut device, |device| !device.is_connected());
        assert_eq!(device.take_events(), [ChardevEvent::Closed]);
        assert_idle(&mut device);
    }
    drop(device);
    assert!(!path.exists());
}

#[test]
fn output_without_a_client_is_replayed_from_a_whole_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    let mut device = open(unix(path.clone(), SERVER));
    for n in 0..20_000 {
        let line = format!("line {n}\r\n");
        assert_eq!(device.write(line.as_bytes()), line.len());
    }
    assert!(device.out.len() <= SCROLLBACK);
    let mut client = UnixStream::connect(&path).unwrap();
    client
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let mut got = Vec::new();
    run(&mut device, |_| {
        let mut buf = [0; 4096];
        got.extend_from_slice(match client.read(&mut buf) {
            Ok(count) => &buf[..count],
            Err(_) => &[],
        });
        got.ends_with(b"line 19999\r\n")
    });
    assert!(got.starts_with(b"line "));
    assert!(got.len() > SCROLLBACK / 2 && got.len() <= SCROLLBACK);
}

#[test]
fn a_slow_client_stalls_the_writer_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    let mut device = open(unix(path.clone(), SERVER));
    let mut client = UnixStream::connect(&path).unwrap();
    run(&mut device, |device| device.is_connected());
    let text: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
    let mut sent = device.write(&text);
    assert!(
        sent < text.len(),
        "a client that does not read takes no megabyte"
    );
    assert!(device.out.len() <= BOUND);
    assert_eq!(device.write(&text[sent..]), 0);
    assert_idle(&mut device);
    let reader = std::thread::spawn(move || {
        let mut got = vec![0; 1_000_000];
        client.read_exact(&mut got).unwrap();
        (got, client)
    });
    run(&mut device, |device| {
        sent += device.write(&text[sent..]);
        sent == text.len() && device.out.is_empty()
    });
    assert_eq!(reader.join().unwrap().0, text);
}

#[test]
fn input_waits_until_it_is_wanted_and_outlives_its_client() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    let mut device = open(unix(path.clone(), SERVER));
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"early and late").unwrap();
    run(&mut device, |device| device.is_connected());
    assert_idle(&mut device);
    let mut buf = [0; 5];
    assert_eq!(device.read(&mut buf), 5);
    drop(client);
    run(&mut device, |device| !device.is_connected());
    assert_idle(&mut device);
    assert_eq!(device.read(&mut buf), 5);
    // The next client arrives before the rest was read.
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"!").unwrap();
    run(&mut device, |device| device.is_connected());
    assert_eq!(read_all(&mut device, 5), b"late!");
}

#[test]
fn a_half_closed_unix_client_still_gets_output() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    let mut device = open(unix(path.clone(), SERVER));
    device.set_wants_input(true);
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"ls\n").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut device, 3), b"ls\n");
    assert_eq!(device.read(&mut [0; 8]), 0);
    assert_idle(&mut device);
    assert_eq!(device.write(b"files"), 5);
    let mut got = [0; 5];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"files");
    // It has no more to say: somebody else may take the line.
    let mut second = UnixStream::connect(&path).unwrap();
    second.write_all(b"me").unwrap();
    assert_eq!(read_all(&mut device, 2), b"me");
}

#[test]
fn a_second_client_is_told_why_it_is_sent_away() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    let mut device = open(unix(path.clone(), SERVER));
    let first = UnixStream::connect(&path).unwrap();
    run(&mut device, |device| device.is_connected());
    let mut second = UnixStream::connect(&path).unwrap();
    second.set_nonblocking(true).unwrap();
    let mut said = String::new();
    run(&mut device, |_| second.read_to_string(&mut said).is_ok());
    assert!(said.contains("another client"), "{said:?}");
    assert!(device.is_connected());
    drop(first);
    // Gone but not noticed yet: the next one is let in all the same.
    let mut third = UnixStream::connect(&path).unwrap();
    third.write_all(b"third").unwrap();
    assert_eq!(read_all(&mut device, 5), b"third");
}

#[test]
fn sockets_of_the_dead_are_replaced_and_of_the_living_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let device = open(unix(path.clone(), SERVER));
    let error = open_as(unix(path.clone(), SERVER), false).unwrap_err();
    assert!(matches!(error, ChardevError::SocketInUse { .. }), "{error}");
    assert!(path.metadata().unwrap().file_type().is_socket());
    drop(device);
    std::fs::write(&path, "precious").unwrap();
    let error = open_as(unix(path.clone(), SERVER), false).unwrap_err();
    assert!(matches!(error, ChardevError::NotASocket { .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    let long = dir.path().join("x".repeat(120));
    let error = open_as(unix(long, SERVER), false).unwrap_err();
    assert!(
        matches!(error, ChardevError::SocketPathTooLong { .. }),
        "{error}"
    );
    let error = open_as(unix(dir.path().join("none/console"), SERVER), false).unwrap_err();
    assert!(matches!(error, ChardevError::Listen { .. }), "{error}");
}

#[test]
fn somebody_elses_socket_file_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    let device = open(unix(path.clone(), SERVER));
    std::fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(device);
    assert!(path.exists());
}

#[test]
fn a_client_connects_and_connects_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("server");
    let once = SocketRole::Client { reconnect: None };
    let error = open_as(unix(path.clone(), once), false).unwrap_err();
    assert!(matches!(error, ChardevError::Connect { .. }), "{error}");

    let again = SocketRole::Client {
        reconnect: Some(Duration::from_millis(20)),
    };
    let mut device = open(unix(path.clone(), again));
    assert!(!device.is_connected());
    device.write(b"first ");
    for _ in 0..2 {
        let server = UnixListener::bind(&path).unwrap();
        run(&mut device, |device| device.is_connected());
        let (mut peer, _) = server.accept().unwrap();
        device.write(b"hello");
        let mut got = [0; 5];
        peer.read_exact(&mut got).unwrap();
        drop((peer, server));
        std::fs::remove_file(&path).unwrap();
        run(&mut device, |device| !device.is_connected());
    }
}

#[test]
fn tcp_works_both_ways_round() {
    let server = ChardevBackend::Socket {
        address: SocketAddress::Tcp {
            host: "127.0.0.1".to_owned(),
            port: 0,
        },
        role: SERVER,
        nodelay: true,
    };
    let mut device = open(server);
    let name = device.filename();
    let port = name
        .trim_end_matches(",server=on")
        .rsplit(':')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    device.set_wants_input(true);
    for _ in 0..2 {
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        client.write_all(b"in").unwrap();
        assert_eq!(read_all(&mut device, 2), b"in");
        device.write(b"out");
        let mut got = [0; 3];
        client.read_exact(&mut got).unwrap();
        drop(client);
        run(&mut device, |device| !device.is_connected());
        assert_idle(&mut device);
    }
    for reconnect in [None, Some(Duration::from_millis(20))] {
        let mut peer = open(ChardevBackend::Socket {
            address: SocketAddress::Tcp {
                host: "localhost".to_owned(),
                port,
            },
            role: SocketRole::Client { reconnect },
            nodelay: false,
        });
        run(&mut peer, |peer| {
            device.dispatch();
            peer.is_connected() && device.is_connected()
        });
        peer.write(b"ping");
        assert_eq!(read_all(&mut device, 4), b"ping");
        drop(peer);
        run(&mut device, |device| !device.is_connected());
    }
}

#[test]
fn a_server_that_waits_waits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    let at = path.clone();
    let client = std::thread::spawn(move || {
        loop {
            match UnixStream::connect(&at) {
                Ok(client) => return client,
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    });
    let device = open(unix(path, SocketRole::Server { wait: true }));
    assert!(device.is_connected());
    drop(client.join().unwrap());
}

#[test]
fn a_pty_keeps_output_for_who_opens_it_and_for_who_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("link");
    let mut device = open(ChardevBackend::Pty {
        path: Some(link.clone()),
    });
    let slave = PathBuf::from(device.filename().strip_prefix("pty:").unwrap());
    assert_eq!(std::fs::read_link(&link).unwrap(), slave);
    device.set_wants_input(true);
    for _ in 0..2 {
        assert!(!device.is_connected());
        assert_idle_but_for_a_look(&mut device);
        assert_eq!(device.write(b"nobody sees this yet\r\n"), 22);
        let flags = OFlags::RDWR | OFlags::NOCTTY;
        let mut user = std::fs::File::from(rustix::fs::open(&link, flags, Mode::empty()).unwrap());
        let mut got = [0; 22];
        run(&mut device, |device| device.is_connected());
        user.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"nobody sees this yet\r\n");
        user.write_all(b"typed\n\x03").unwrap();
        assert_eq!(read_all(&mut device, 7), b"typed\n\x03");
        assert_idle(&mut device);
        // A user that leaves the terminal echoing must not make the console talk to itself.
        let mut modes = rustix::termios::tcgetattr(&user).unwrap();
        modes.local_modes |= rustix::termios::LocalModes::ECHO;
        rustix::termios::tcsetattr(&user, rustix::termios::OptionalActions::Now, &modes).unwrap();
        drop(user);
        run(&mut device, |device| !device.is_connected());
    }
    drop(device);
    assert!(std::fs::symlink_metadata(&link).is_err());
}

fn assert_idle_but_for_a_look(device: &mut Chardev) {
    let mut looks = 0;
    let deadline = Instant::now() + Duration::from_millis(600);
    while Instant::now() < deadline {
        if ready(device, 50) {
            device.dispatch();
            looks += 1;
        }
    }
    assert!(looks <= 4, "{looks} looks in 600 ms");
}

#[test]
fn a_pty_whose_user_does_not_read_stalls_the_writer() {
    let mut device = open(ChardevBackend::Pty { path: None });
    let slave = PathBuf::from(device.filename().strip_prefix("pty:").unwrap());
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let user = std::fs::File::from(rustix::fs::open(&slave, flags, Mode::empty()).unwrap());
    run(&mut device, |device| device.is_connected());
    let text: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    let mut sent = 0;
    for _ in 0..1000 {
        sent += device.write(&text[sent..]);
        std::thread::sleep(Duration::from_micros(50));
    }
    assert!(sent < text.len());
    assert_idle(&mut device);
    let reader = std::thread::spawn(move || {
        let mut got = vec![0; 300_000];
        (&user).read_exact(&mut got).unwrap();
        (got, user)
    });
    run(&mut device, |device| {
        sent += device.write(&text[sent..]);
        reader.is_finished()
    });
    assert_eq!(reader.join().unwrap().0, text);
}

#[test]
fn files_are_emptied_or_added_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    for (append, expected) in [(false, "one"), (true, "oneone"), (false, "one")] {
        let mut device = open(ChardevBackend::File {
            path: path.clone(),
            append,
        });
        assert_eq!(device.write(b"one"), 3);
        assert_idle(&mut device);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
    }
    let nowhere = ChardevBackend::File {
        path: dir.path().join("no/out"),
        append: false,
    };
    let error = open_as(nowhere, false).unwrap_err();
    assert!(error.to_string().contains("no/out"), "{error}");
    // A full disk loses the output, not the console.
    let full = ChardevBackend::File {
        path: "/dev/full".into(),
        append: false,
    };
    assert_eq!(open(full).write(b"lost"), 4);
}

#[test]
fn log_files_get_what_the_end_took() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    for (logappend, expected) in [(false, "abc"), (true, "abcabc")] {
        let config = ChardevConfig {
            logfile: Some(log.clone()),
            logappend,
            ..ChardevConfig::new("serial0", ChardevBackend::Null)
        };
        let options = ChardevOptions::default();
        let mut device = Chardev::open(&config, options, &mut InheritedFds::default()).unwrap();
        assert_eq!(device.write(b"abc"), 3);
        assert_eq!(std::fs::read_to_string(&log).unwrap(), expected);
    }
}

#[test]
fn a_ring_buffer_keeps_the_newest_bytes() {
    for size in [0, 1, 100, (1 << 30) + 1, 1 << 31] {
        let error = open_as(ChardevBackend::Ringbuf { size }, false).unwrap_err();
        assert!(matches!(error, ChardevError::RingbufSize { .. }), "{error}");
    }
    let mut device = open(ChardevBackend::Ringbuf { size: 8 });
    assert_eq!(device.write(b"0123456789"), 10);
    assert_eq!(device.ringbuf_read(3).unwrap(), b"234");
    assert!(device.ringbuf_write(b"abcd"));
    assert_eq!(device.ringbuf_read(100).unwrap(), b"6789abcd"[..].to_vec());
    assert_eq!(open(ChardevBackend::Null).ringbuf_read(1), None);
}

#[test]
fn pipes_work_as_a_pair() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    for suffix in ["pipe.in", "pipe.out"] {
        let fifo = dir.path().join(suffix);
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::RUSR | Mode::WUSR).unwrap();
    }
    let mut device = open(ChardevBackend::Pipe { path });
    device.set_wants_input(true);
    std::fs::write(dir.path().join("pipe.in"), "typed").unwrap();
    assert_eq!(read_all(&mut device, 5), b"typed");
    assert_idle(&mut device);
    assert_eq!(device.write(b"seen"), 4);
    let mut got = [0; 4];
    let mut reader = std::fs::File::open(dir.path().join("pipe.out")).unwrap();
    reader.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"seen");
}

#[test]
fn escape_keys_work_while_the_guest_does_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    let mut device = open_as(unix(path.clone(), SERVER), true).unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    run(&mut device, |device| device.is_connected());
    device.take_events();
    client.write_all(&[b'a'; 20_000]).unwrap();
    client.write_all(b"\x01\x01\x01b\x01c\x01s\x01x").unwrap();
    let mut events = Vec::new();
    run(&mut device, |device| {
        events.extend(device.take_events());
        events.contains(&ChardevEvent::Quit)
    });
    assert_eq!(
        events,
        [
            ChardevEvent::Monitor,
            ChardevEvent::Commit,
            ChardevEvent::Quit
        ]
    );
    let typed = read_all(&mut device, 20_002);
    assert_eq!(&typed[20_000..], b"\x01\x0f");
    let mut said = [0; 200];
    let count = client.read(&mut said).unwrap();
    let said = String::from_utf8_lossy(&said[..count]);
    assert!(
        said.contains("no monitor") && said.contains("terminated"),
        "{said:?}"
    );
}

#[test]
fn time_stamps_go_on_and_off() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    let mut device = open_as(unix(path.clone(), SERVER), true).unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"\x01t").unwrap();
    run(&mut device, |device| {
        device.mux.as_ref().unwrap().timestamps()
    });
    assert_eq!(device.write(b"one\r\ntwo"), 8);
    client.write_all(b"\x01t").unwrap();
    run(&mut device, |device| {
        !device.mux.as_ref().unwrap().timestamps()
    });
    assert_eq!(device.write(b"\r\nthree\r\n"), 9);
    drop(device);
    let mut got = String::new();
    client.read_to_string(&mut got).unwrap();
    let lines: Vec<&str> = got.split("\r\n").collect();
    assert!(
        lines[0].starts_with("[00:00:0") && lines[0].ends_with("] one"),
        "{got:?}"
    );
    assert!(lines[1].ends_with("] two"), "{got:?}");
    assert_eq!(lines[2], "three");
}

#[test]
fn bytes_on_their_way_are_saved_and_restored() {
    let dir = tempfile::tempdir().unwrap();
    let mut old = open_as(unix(dir.path().join("old"), SERVER), true).unwrap();
    old.write(b"nobody saw this\r\n");
    let client = UnixStream::connect(dir.path().join("old")).unwrap();
    drop(client);
    old.typed.extend(b"typed");
    let state = old.save();
    assert_eq!(
        (&state.queued[..], &state.typed[..]),
        (&b"nobody saw this\r\n"[..], &b"typed"[..])
    );

    let path = dir.path().join("new");
    let mut new = open(unix(path.clone(), SERVER));
    new.write(b"new\r\n");
    new.restore(&state);
    let mut buf = [0; 100];
    assert_eq!(new.read(&mut buf), 5);
    let mut client = UnixStream::connect(&path).unwrap();
    run(&mut new, |new| new.is_connected());
    drop(new);
    let mut got = String::new();
    client.read_to_string(&mut got).unwrap();
    assert_eq!(got, "nobody saw this\r\nnew\r\n");
}

#[test]
fn a_key_read_for_the_guest_still_wakes_the_event_loop() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    let mut device = open_as(unix(path.clone(), SERVER), true).unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    run(&mut device, |device| device.is_connected());
    assert_idle(&mut device);
    device.take_events();
    client.write_all(b"\x01x").unwrap();
    device.read(&mut [0; 10]);
    assert!(ready(&device, 1000));
    assert_eq!(device.take_events(), [ChardevEvent::Quit]);
}

#[test]
fn a_conversation_is_nobody_elses_business() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("monitor");
    let options = ChardevOptions {
        conversation: true,
        ..ChardevOptions::default()
    };
    let config = ChardevConfig::new("monitor", unix(path.clone(), SERVER));
    let mut device = Chardev::open(&config, options, &mut InheritedFds::default()).unwrap();
    device.set_wants_input(true);
    assert_eq!(device.peer(), None);
    assert_eq!(device.write(b"to nobody"), 9);
    let mut first = UnixStream::connect(&path).unwrap();
    run(&mut device, |device| device.peer() == Some(1));
    let mut second = UnixStream::connect(&path).unwrap();
    second
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    first.write_all(b"half a requ").unwrap();
    assert_eq!(device.write(b"answer"), 6);
    assert!(
        second.read(&mut [0; 8]).is_err(),
        "the second has to wait for its turn"
    );
    // the first leaves without having been read or reading
    while device.write(&[b'x'; 4096]) > 0 {}
    drop(first);
    run(&mut device, |device| device.peer() == Some(2));
    second.write_all(b"hello").unwrap();
    assert_eq!(read_all(&mut device, 5), b"hello");
    assert_eq!(device.write(b"hi"), 2);
    let mut got = [0; 8];
    assert_eq!(second.read(&mut got).unwrap(), 2);
    assert_eq!(&got[..2], b"hi");
    assert_idle(&mut device);
}
