//! Host ends against each other, and against what lies about its frames.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use xenner_console::InheritedFds;

use super::config::*;
use super::*;

fn frame(length: usize, fill: u8) -> Vec<u8> {
    vec![fill; length]
}

fn opened(backend: NetdevBackend) -> Box<dyn NetEnd> {
    let netdev = NetdevConfig {
        id: "n0".to_owned(),
        backend,
    };
    let mut ends = open(&netdev, &mut InheritedFds::default()).unwrap();
    assert_eq!(ends.len(), 1);
    ends.remove(0)
}

/// Waits as a queue's thread does, for at most a tenth of a second.
fn turn(end: &mut dyn NetEnd) {
    let wait = end.wait();
    let mut flags = PollFlags::IN;
    flags.set(PollFlags::OUT, wait.writable);
    let mut fds: Vec<PollFd<'_>> = wait.fd.iter().map(|fd| PollFd::new(fd, flags)).collect();
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: 10_000_000,
    };
    poll(&mut fds, Some(&timeout)).unwrap();
    end.advance();
}

fn receive(end: &mut dyn NetEnd) -> Vec<u8> {
    let mut buf = vec![0; MAX_FRAME];
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        if let Some((length, offload)) = end.receive(&mut buf) {
            assert_eq!(offload, Offload::default());
            buf.truncate(length);
            return buf;
        }
        turn(end);
    }
    panic!("No frame comes");
}

fn pass(from: &mut dyn NetEnd, to: &mut dyn NetEnd, length: usize) {
    let sent = frame(length, length as u8);
    assert_eq!(from.send(&Offload::default(), &sent), Sent::Done);
    from.flush();
    assert_eq!(receive(to), sent);
}

fn pair() -> (StreamEnd, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (StreamEnd::connected("n0", ours.into()).unwrap(), theirs)
}

fn stream(address: Address, server: bool, reconnect: Option<Duration>) -> NetdevBackend {
    NetdevBackend::Stream(StreamConfig {
        address,
        server,
        reconnect,
    })
}

#[test]
fn a_frame_goes_behind_its_length() {
    let (mut end, mut peer) = pair();
    assert_eq!(end.send(&Offload::default(), &frame(60, 7)), Sent::Done);
    assert_eq!(end.send(&Offload::default(), &frame(14, 8)), Sent::Done);
    end.flush();
    let mut bytes = [0; 4 + 60 + 4 + 14];
    peer.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes[..4], [0, 0, 0, 60]);
    assert_eq!(bytes[4..64], frame(60, 7));
    assert_eq!(bytes[64..68], [0, 0, 0, 14]);
}

#[test]
fn frames_come_in_whatever_pieces() {
    let (mut end, mut peer) = pair();
    let mut buf = vec![0; MAX_FRAME];
    for piece in [&[0, 0][..], &[0, 16], &[1; 10], &[1; 5]] {
        peer.write_all(piece).unwrap();
        assert!(end.receive(&mut buf).is_none());
    }
    peer.write_all(&[1, 0, 0, 0, 14]).unwrap();
    assert_eq!(end.receive(&mut buf).unwrap().0, 16);
    assert!(end.receive(&mut buf).is_none());
    peer.write_all(&[2; 14]).unwrap();
    assert_eq!(end.receive(&mut buf).unwrap().0, 14);
}

#[test]
fn frames_too_short_or_too_long_for_a_guest_are_passed_over() {
    let (mut end, mut peer) = pair();
    let writer = std::thread::spawn(move || {
        for length in [0, 13, MAX_FRAME + 1, 4096 + 65536, 20] {
            let length: usize = length;
            peer.write_all(&(length as u32).to_be_bytes()).unwrap();
            peer.write_all(&frame(length, 3)).unwrap();
        }
        peer
    });
    assert_eq!(receive(&mut end), frame(20, 3));
    assert!(end.is_up());
    drop(writer.join().unwrap());
}

#[test]
fn a_peer_that_announces_too_much_is_left() {
    let (mut end, mut peer) = pair();
    peer.write_all(&(4096 + 65537_u32).to_be_bytes()).unwrap();
    assert!(end.receive(&mut vec![0; MAX_FRAME]).is_none());
    assert!(!end.is_up());
    assert!(end.wait().fd.is_none());
    assert_eq!(end.send(&Offload::default(), &frame(60, 0)), Sent::Dropped);
}

#[test]
fn a_peer_that_does_not_read_makes_the_end_busy_and_loses_nothing() {
    let (mut end, peer) = pair();
    let mut taken = 0;
    while end.send(&Offload::default(), &frame(1500, 9)) == Sent::Done {
        taken += 1;
        end.flush();
        assert!(taken < 10_000);
    }
    assert!(end.wait().writable);
    let mut reader = StreamEnd::connected("n1", peer.into()).unwrap();
    for _ in 0..taken {
        end.advance();
        assert_eq!(receive(&mut reader).len(), 1500);
    }
    assert_eq!(end.send(&Offload::default(), &frame(1500, 9)), Sent::Done);
}

#[test]
fn a_server_takes_one_peer_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("net");
    // What a killed process leaves behind is replaced.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let mut server = opened(stream(Address::Unix(path.clone()), true, None));
    assert!(!server.is_up());
    for length in [60, 1514] {
        let mut client = opened(stream(Address::Unix(path.clone()), false, None));
        pass(&mut *client, &mut *server, length);
        pass(&mut *server, &mut *client, MAX_FRAME);
        drop(client);
        while server.is_up() {
            assert!(server.receive(&mut vec![0; MAX_FRAME]).is_none());
        }
    }
}

#[test]
fn a_client_connects_again() {
    let dir = tempfile::tempdir().unwrap();
    let address = || Address::Unix(dir.path().join("net"));
    let every = Some(Duration::from_millis(5));
    let mut client = opened(stream(address(), false, every));
    assert!(!client.is_up());
    for _ in 0..2 {
        let mut server = opened(stream(address(), true, None));
        let until = Instant::now() + Duration::from_secs(5);
        while !(client.is_up() && server.is_up()) && Instant::now() < until {
            turn(&mut *client);
            turn(&mut *server);
        }
        pass(&mut *client, &mut *server, 60);
        drop(server);
        while client.is_up() {
            turn(&mut *client);
            client.receive(&mut vec![0; MAX_FRAME]);
        }
    }
}

#[test]
fn frames_over_tcp() {
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let address = || Address::Inet {
        host: "127.0.0.1".to_owned(),
        port,
    };
    let mut server = opened(stream(address(), true, None));
    for reconnect in [None, Some(Duration::from_millis(5))] {
        let mut client = opened(stream(address(), false, reconnect));
        while !client.is_up() {
            turn(&mut *client);
        }
        pass(&mut *client, &mut *server, 60);
        pass(&mut *server, &mut *client, MAX_FRAME);
        drop(client);
        while server.is_up() {
            assert!(server.receive(&mut vec![0; MAX_FRAME]).is_none());
        }
    }
}

#[test]
fn nobody_to_connect_to_is_an_error() {
    let address = Address::Unix(PathBuf::from("/nonexistent/socket"));
    let netdev = NetdevConfig {
        id: "n0".to_owned(),
        backend: stream(address, false, None),
    };
    let error = open(&netdev, &mut InheritedFds::default()).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("Cannot connect to '/nonexistent/socket'")
    );
    let netdev = NetdevConfig {
        backend: stream(Address::Fd(77), false, None),
        ..netdev
    };
    let error = open(&netdev, &mut InheritedFds::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Descriptor 77 is not open; pass an open descriptor of that kind"
    );
}

fn dgram(local: Option<Address>, remote: Address) -> Box<dyn NetEnd> {
    opened(NetdevBackend::Dgram(DgramConfig {
        local,
        remote: Some(remote),
        interface: Some(Ipv4Addr::LOCALHOST),
    }))
}

#[test]
fn datagrams_over_udp_and_unix_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let unix = |name: &str| Address::Unix(dir.path().join(name));
    let mut left = dgram(Some(unix("a")), unix("b"));
    // Nobody is there yet: the frame is lost and the end stays.
    assert_eq!(left.send(&Offload::default(), &frame(60, 1)), Sent::Dropped);
    let mut right = dgram(Some(unix("b")), unix("a"));
    pass(&mut *left, &mut *right, 60);
    pass(&mut *right, &mut *left, 9014);

    let ports = [0; 2].map(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
    let at = ports.map(|socket| Address::Inet {
        host: "127.0.0.1".to_owned(),
        port: socket.local_addr().unwrap().port(),
    });
    let mut left = dgram(Some(at[0].clone()), at[1].clone());
    let mut right = dgram(Some(at[1].clone()), at[0].clone());
    pass(&mut *left, &mut *right, 60);
    pass(&mut *right, &mut *left, 9014);
}

#[test]
fn a_multicast_group_is_heard_by_all_but_the_sender() {
    let port = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let group = Address::Inet {
        host: "239.255.77.1".to_owned(),
        port,
    };
    let [mut a, mut b, mut c] = [(); 3].map(|()| dgram(None, group.clone()));
    assert_eq!(a.send(&Offload::default(), &frame(60, 5)), Sent::Done);
    assert_eq!(receive(&mut *b), frame(60, 5));
    assert_eq!(receive(&mut *c), frame(60, 5));
    assert!(a.receive(&mut vec![0; MAX_FRAME]).is_none());
}

#[test]
fn virtio_headers() {
    let offload = Offload {
        checksum: Checksum::Blank {
            start: 34,
            offset: 16,
        },
        gso: Some(Gso {
            kind: GsoKind::TcpV6,
            size: 1440,
            header_len: 74,
        }),
    };
    let header = vnet::encode(&offload);
    assert_eq!(header, [1, 4, 74, 0, 0xa0, 5, 34, 0, 16, 0]);
    assert_eq!(vnet::decode(&header), Some(offload));
    assert_eq!(
        vnet::decode(&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0])
            .unwrap()
            .checksum,
        Checksum::Verified
    );
    // UDP fragmentation offload, and segments of no bytes.
    assert_eq!(vnet::decode(&[1, 3, 0, 0, 8, 0, 0, 0, 0, 0]), None);
    assert_eq!(vnet::decode(&[1, 1, 0, 0, 0, 0, 0, 0, 0, 0]), None);
}
