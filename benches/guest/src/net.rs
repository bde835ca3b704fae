//! TCP between two machines: the server (`guest-bench serve`), the operations
//! that are measured against it, and transfers and connections that tests ask for.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::timed;

/// The server's address.
pub static PEER: OnceLock<String> = OnceLock::new();

/// The port of the server.
const PORT: u16 = 5050;
/// Bytes of one operation of a stream.
const CHUNK: usize = 64 << 10;

/// What a connection is for; its first byte. A number of bytes follows.
mod request {
    /// Take bytes, answer with their sum.
    pub const SINK: u8 = b's';
    /// Send bytes, then their sum.
    pub const SOURCE: u8 = b'g';
    /// Take bytes, answer with one.
    pub const DRAIN: u8 = b'd';
    /// Send bytes, whatever they are.
    pub const FLOOD: u8 = b'f';
    /// Send back what comes, byte for byte.
    pub const ECHO: u8 = b'e';
}

/// The sum of a stream: no byte can be lost, doubled or moved unnoticed.
struct Sum(u64);

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        rest.iter().for_each(|&byte| self.word(byte.into()));
    }

    fn word(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// Bytes that look like chance, the same on both sides.
struct Noise(u64);

impl Noise {
    fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.as_chunks_mut::<8>().0 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            *word = self.0.to_le_bytes();
        }
    }
}

/// Serve for ever, each connection in a thread of its own.
pub fn serve() -> io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", PORT))?;
    println!("@@SERVING");
    io::stdout().flush()?;
    for connection in listener.incoming() {
        let connection = connection?;
        std::thread::spawn(move || {
            // A peer that goes away ends its connection, and nothing else.
            let _ = answer(connection);
        });
    }
    Ok(())
}

fn answer(mut peer: TcpStream) -> io::Result<()> {
    peer.set_nodelay(true)?;
    let mut head = [0; 9];
    peer.read_exact(&mut head)?;
    let [kind, count @ ..] = head;
    let bytes = u64::from_le_bytes(count);
    match kind {
        request::SINK => {
            let sum = receive(&mut peer, bytes)?;
            peer.write_all(&sum.to_le_bytes())
        }
        request::SOURCE => {
            let sum = send(&mut peer, bytes)?;
            peer.write_all(&sum.to_le_bytes())
        }
        request::DRAIN => {
            drain(&mut peer, bytes)?;
            peer.write_all(&[0])
        }
        request::FLOOD => flood(&mut peer, bytes),
        _ => {
            let mut byte = [0];
            while peer.read(&mut byte)? == 1 {
                peer.write_all(&byte)?;
            }
            Ok(())
        }
    }
}

/// Take `bytes` bytes; their sum.
fn receive(from: &mut TcpStream, mut bytes: u64) -> io::Result<u64> {
    let mut sum = Sum(0);
    let mut buffer = vec![0; CHUNK];
    while bytes > 0 {
        let wanted = buffer.len().min(usize::try_from(bytes).unwrap_or(CHUNK));
        // Whole words at a time, so that the sum does not depend on the segments.
        from.read_exact(&mut buffer[..wanted])?;
        sum.add(&buffer[..wanted]);
        bytes -= wanted as u64;
    }
    Ok(sum.0)
}

/// Send `bytes` bytes; their sum.
fn send(to: &mut TcpStream, mut bytes: u64) -> io::Result<u64> {
    let (mut sum, mut noise) = (Sum(0), Noise(0x2545_f491_4f6c_dd1d));
    let mut buffer = vec![0; CHUNK];
    while bytes > 0 {
        let part = buffer.len().min(usize::try_from(bytes).unwrap_or(CHUNK));
        noise.fill(&mut buffer[..part]);
        sum.add(&buffer[..part]);
        to.write_all(&buffer[..part])?;
        bytes -= part as u64;
    }
    Ok(sum.0)
}

fn drain(from: &mut TcpStream, mut bytes: u64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    while bytes > 0 {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes = bytes.saturating_sub(count as u64);
    }
    Ok(())
}

fn flood(to: &mut TcpStream, bytes: u64) -> io::Result<()> {
    let buffer = vec![0x5a; CHUNK];
    for _ in 0..bytes / CHUNK as u64 {
        to.write_all(&buffer)?;
    }
    Ok(())
}

fn ask(address: &str, kind: u8, bytes: u64) -> io::Result<TcpStream> {
    let mut peer = TcpStream::connect((address, PORT))?;
    peer.set_nodelay(true)?;
    let mut head = [kind; 9];
    head[1..].copy_from_slice(&bytes.to_le_bytes());
    peer.write_all(&head)?;
    Ok(peer)
}

fn their_sum(peer: &mut TcpStream) -> io::Result<u64> {
    let mut sum = [0; 8];
    peer.read_exact(&mut sum)?;
    Ok(u64::from_le_bytes(sum))
}

/// `guest-bench transfer ADDRESS BYTES`: both ways, the sums must be equal.
pub fn transfer(address: &str, bytes: u64) -> io::Result<()> {
    for (kind, name) in [(request::SINK, "sent"), (request::SOURCE, "received")] {
        let start = Instant::now();
        let mut peer = ask(address, kind, bytes)?;
        let ours = match kind {
            request::SINK => send(&mut peer, bytes)?,
            _ => receive(&mut peer, bytes)?,
        };
        let theirs = their_sum(&mut peer)?;
        let rate = bytes as f64 / start.elapsed().as_secs_f64() / 1e6;
        println!("{name} {bytes} bytes, {rate:.0} MB/s, sums {ours:016x} {theirs:016x}");
        if ours != theirs {
            return Err(io::Error::other(format!("{name}: the sums differ")));
        }
    }
    Ok(())
}

/// `guest-bench connections ADDRESS COUNT`: each is made, used for one byte, and closed.
pub fn connections(address: &str, count: u64) -> io::Result<()> {
    let start = Instant::now();
    for _ in 0..count {
        one_connection(address)?;
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    println!("{count} connections, {rate:.0} a second");
    Ok(())
}

fn one_connection(address: &str) -> io::Result<()> {
    let mut peer = ask(address, request::ECHO, 0)?;
    peer.write_all(b"x")?;
    let mut byte = [0];
    peer.read_exact(&mut byte)?;
    // The end that closes first keeps the connection in TIME_WAIT, and ports
    // are few; a reset leaves none behind.
    crate::sys::close_by_reset(peer);
    Ok(())
}

fn peer() -> &'static str {
    PEER.get().map_or("", String::as_str)
}

/// 64 KiB sent, in a stream.
pub fn stream_out(n: u64) -> Duration {
    let bytes = n * CHUNK as u64;
    let buffer = vec![0x5a; CHUNK];
    let mut server = ask(peer(), request::DRAIN, bytes).expect("a connection");
    timed(|| {
        for _ in 0..n {
            server.write_all(&buffer).expect("a write");
        }
        server.read_exact(&mut [0]).expect("an answer");
    })
}

/// 64 KiB received, in a stream.
pub fn stream_in(n: u64) -> Duration {
    let bytes = n * CHUNK as u64;
    let mut server = ask(peer(), request::FLOOD, bytes).expect("a connection");
    timed(|| drain(&mut server, bytes).expect("the bytes"))
}

/// One byte there and back.
pub fn request_response(n: u64) -> Duration {
    let mut server = ask(peer(), request::ECHO, 0).expect("a connection");
    let mut byte = [1];
    timed(|| {
        for _ in 0..n {
            server.write_all(&byte).expect("a write");
            server.read_exact(&mut byte).expect("an answer");
        }
    })
}

/// A connection made, used for one byte, and closed.
pub fn connection(n: u64) -> Duration {
    timed(|| {
        for _ in 0..n {
            one_connection(peer()).expect("a connection");
        }
    })
}
