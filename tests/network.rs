//! PV network devices: two guests and the host on a bridge, in a network
//! namespace of their own. Pings, streams both ways with offloads on and off,
//! jumbo frames, transfers with sums, many short connections, and what a packet
//! costs in exits.

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use support::counters::Counters;
use support::session::{PROMPT, Session};
use support::{LONG, PATIENCE, asset, image, kernel, run, trial, xenner};

/// The host's address on the bridge; the guests have the next two.
const HOST: &str = "10.99.0.1";
const GUESTS: [&str; 2] = ["10.99.0.2", "10.99.0.3"];
/// Set in the namespace.
const INSIDE: &str = "XENNER_TEST_NAMESPACE";
/// What ethtool calls the offloads that netfront has.
const OFFLOADS: [&str; 4] = ["tx", "sg", "tso", "gso"];

fn main() -> ExitCode {
    if std::env::var_os(INSIDE).is_none() && !support::left_out() {
        return in_namespace();
    }
    let mut files = vec![
        kernel("6.1"),
        asset("initramfs-devices"),
        asset("guest-bench"),
    ];
    files.extend([image("iperf3"), "/dev/net/tun".into()]);
    support::main(vec![trial("traffic".to_owned(), &files, traffic)])
}

/// Run this program again, in a network namespace of its own.
fn in_namespace() -> ExitCode {
    let mut unshare = Command::new("unshare");
    unshare.arg("-n");
    if !rustix::process::geteuid().is_root() {
        // The user is root in a user namespace around it.
        unshare.arg("-r");
    }
    support::again_under(unshare, INSIDE)
}

fn ip(words: &str) -> Result<(), Failed> {
    run(&format!("ip {words}"))
}

/// The bridge with the host's address, until it is dropped.
struct Bridge;

impl Bridge {
    fn new() -> Result<Bridge, Failed> {
        ip("link set lo up")?;
        ip("link add br0 type bridge")?;
        let bridge = Bridge;
        ip(&format!("addr add {HOST}/24 dev br0"))?;
        ip("link set br0 up")?;
        Ok(bridge)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        // It goes with the namespace at the latest.
        let _ = ip("link del br0");
    }
}

/// A program of the host's that serves until it is dropped.
struct Server(Child);

impl Server {
    /// Start it and wait for a line that begins with `ready`.
    fn start(command: &mut Command, ready: &str) -> Result<Server, Failed> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = child.stdout.take().ok_or("no output")?;
        let server = Server(child);
        let mut lines = BufReader::new(lines).lines();
        loop {
            match lines.next().transpose()? {
                Some(line) if line.starts_with(ready) => break,
                Some(_) => {}
                None => return Err(format!("{command:?} ended").into()),
            }
        }
        // What else it says is read and dropped, so that it never waits.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Start guest number `n` and put its tap on the bridge.
fn start(n: usize) -> Result<Session, Failed> {
    let mut command = xenner();
    command.arg("-kernel").arg(kernel("6.1"));
    command.arg("-initrd").arg(asset("initramfs-devices"));
    command.args(["-append", "console=hvc0 quiet", "-m", "512", "-smp", "2"]);
    command.args(["-nographic", "-xenner", "stats=on"]);
    command.args([
        "-netdev",
        &format!("tap,id=n,ifname=tap{n},script=no,downscript=no"),
    ]);
    let device = format!("xen-net-device,netdev=n,mac=52:54:00:12:34:0{n}");
    command.args(["-device", &device]);
    let session = Session::start(&mut command)?;
    // The process makes the tap. /sys shows another namespace's devices.
    let deadline = Instant::now() + PATIENCE;
    while ip(&format!("link show tap{n}")).is_err() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    ip(&format!("link set tap{n} master br0"))?;
    ip(&format!("link set tap{n} up"))?;
    Ok(session)
}

/// Both guests at their prompts, with their addresses.
fn guests() -> Result<(Session, Session), Failed> {
    let mut both = [start(0)?, start(1)?];
    for (session, address) in both.iter_mut().zip(GUESTS) {
        session.expect(PROMPT, PATIENCE)?;
        session.shell(&format!("ip addr add {address}/24 dev eth0"), PATIENCE)?;
        session.shell("ip link set eth0 up", PATIENCE)?;
    }
    let [first, second] = both;
    Ok((first, second))
}

fn traffic() -> Result<(), Failed> {
    let long = std::env::var_os(LONG).is_some();
    let _bridge = Bridge::new()?;
    let _bench = Server::start(Command::new(asset("guest-bench")).arg("serve"), "@@SERVING")?;
    let mut iperf = Command::new(image("iperf3"));
    iperf.args(["--server", "--forceflush"]);
    let _iperf = Server::start(&mut iperf, "Server listening")?;
    let (mut first, mut second) = guests()?;
    pings(&mut first, &mut second)?;
    second.shell("iperf3 --server --daemon", PATIENCE)?;
    streams(&mut first, "all offloads")?;
    for offload in OFFLOADS.iter().rev() {
        first.shell(&format!("ethtool -K eth0 {offload} off"), PATIENCE)?;
    }
    streams(&mut first, "no offloads")?;
    for offload in OFFLOADS {
        first.shell(&format!("ethtool -K eth0 {offload} on"), PATIENCE)?;
    }
    let bytes: u64 = if long { 1 << 30 } else { 64 << 20 };
    let text = first.shell(&format!("guest-bench transfer {HOST} {bytes}"), PATIENCE)?;
    eprintln!("{text}");
    let count = if long { 100_000 } else { 2000 };
    // Where ring 0 is interpreted, little more than a hundred connections are made in a second.
    let patience = PATIENCE * if long { 12 } else { 4 };
    let text = second.shell(&format!("guest-bench connections {HOST} {count}"), patience)?;
    eprintln!("{text}");
    cost_of_packets(&mut first)?;
    jumbo_frames(&mut first, &mut second)?;
    for session in [&mut first, &mut second] {
        session.quiet_log("netfront.*(error|fail)")?;
        session.send("poweroff\r")?;
        session.end_with(0, PATIENCE)?;
    }
    Ok(())
}

fn pings(first: &mut Session, second: &mut Session) -> Result<(), Failed> {
    ping(first, HOST)?;
    ping(second, HOST)?;
    ping(first, GUESTS[1])
}

fn ping(session: &mut Session, address: &str) -> Result<(), Failed> {
    // The first one waits for the bridge's port to forward.
    session.shell(&format!("ping -c 1 -w 30 {address} >/dev/null"), PATIENCE)?;
    let text = session.shell(&format!("ping -c 10 -i 0.1 -q {address}"), PATIENCE)?;
    if text.contains(" 0% packet loss") {
        return Ok(());
    }
    Err(session.failure("pings were lost"))
}

/// Streams from the first guest to the host and the second guest, and back.
fn streams(session: &mut Session, what: &str) -> Result<(), Failed> {
    for (address, name) in [(HOST, "host"), (GUESTS[1], "guest")] {
        for (way, arrow) in [("", "to"), ("--reverse", "from")] {
            let command = format!("iperf3 --client {address} --time 1 --format m {way}");
            let text = session.shell(&command, PATIENCE)?;
            let rate = text
                .lines()
                .rfind(|line| line.contains("receiver"))
                .and_then(|line| line.split_whitespace().rev().nth(2))
                .ok_or_else(|| session.failure("no rate"))?;
            eprintln!("{what}: {rate} Mbit/s {arrow} the {name}");
        }
    }
    Ok(())
}

/// A stream costs no exits to the process.
fn cost_of_packets(session: &mut Session) -> Result<(), Failed> {
    let packets = |session: &mut Session| -> Result<u64, Failed> {
        let file = "/sys/class/net/eth0/statistics/tx_packets";
        Ok(session.shell(&format!("cat {file}"), PATIENCE)?.parse()?)
    };
    let counters = Counters::open(session.pid()).ok_or("no statistics")?;
    let sent = packets(session)?;
    let before = counters.read();
    session.shell(
        &format!("iperf3 --client {HOST} --time 2 --interval 0 >/dev/null"),
        PATIENCE,
    )?;
    let exits = counters.read().since(before);
    let sent = packets(session)? - sent;
    eprintln!("{sent} packets sent: {exits:?}");
    if sent < 100 || exits.process * 20 > sent {
        return Err(format!("{} exits to the process for {sent} packets", exits.process).into());
    }
    Ok(())
}

/// Frames of 9000 bytes pass whole.
fn jumbo_frames(first: &mut Session, second: &mut Session) -> Result<(), Failed> {
    for device in ["tap0", "tap1", "br0"] {
        ip(&format!("link set {device} mtu 9000"))?;
    }
    for session in [&mut *first, second] {
        session.shell("ip link set eth0 mtu 9000", PATIENCE)?;
    }
    for address in [HOST, GUESTS[1]] {
        let file = "/sys/class/net/eth0/statistics/tx_packets";
        let text = first.shell(
            &format!("a=$(cat {file}); ping -c 20 -i 0.05 -q -s 8900 {address}; echo $(($(cat {file}) - a))"),
            PATIENCE,
        )?;
        let frames: u64 = text.lines().last().unwrap_or_default().trim().parse()?;
        // In fragments of 1500 bytes it would be 120.
        if !text.contains(" 0% packet loss") || frames > 40 {
            return Err(first.failure(&format!("{frames} frames for 20 pings of 8900 bytes")));
        }
    }
    streams(first, "jumbo frames")
}
