//! A second console and channels, as libvirt's users have them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;

use super::guest::{SOON, boot, linux, shut_down};
use super::support::PATIENCE;
use super::support::libvirt::{IMAGES, Libvirt, Owner};
use super::support::session::{PROMPT, Session};

/// The channel's socket.
const SOCKET: &str = "/run/channel";

/// A second console and a channel, before and after a reboot; the guest agent's channel without an
/// agent.
pub fn consoles() -> Result<(), Failed> {
    let libvirt = Libvirt::start(Owner::System)?;
    let devices = format!(
        "<console type='pty'><target type='virtio' port='1'/></console>
         <channel type='unix'>
           <source mode='bind' path='{SOCKET}'/>
           <target type='virtio' name='org.xenner.test'/>
         </channel>"
    );
    let mut console = boot(&libvirt, &linux(&devices))?;
    let words = ["console", "guest", "--devname", "console1", "--force"];
    let mut second = Session::start(&mut libvirt.client(&words))?;
    second.expect("Connected to domain", SOON)?;
    let mut channel = UnixStream::connect(SOCKET)?;
    channel.set_read_timeout(Some(SOON))?;
    second_console(&mut console, &mut second)?;
    channel_is_used(&libvirt, &mut console, &mut channel)?;
    libvirt.virsh("reboot guest")?;
    console.expect(PROMPT, PATIENCE)?;
    second_console(&mut console, &mut second)?;
    channel_is_used(&libvirt, &mut console, &mut channel)?;
    console.quiet_log("Failed to")?;
    drop(channel);
    shut_down(&libvirt, &mut console)?;
    second.end(SOON)?;
    let agent =
        "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>";
    let mut console = boot(&libvirt, &linux(agent))?;
    channel_state(&libvirt, "org.qemu.guest_agent.0", "disconnected")?;
    shut_down(&libvirt, &mut console)
}

/// Serial ports on all kinds of ends: the guest's hvc1 and so on.
pub fn ends() -> Result<(), Failed> {
    let libvirt = Libvirt::start(Owner::System)?;
    let (file, log) = (format!("{IMAGES}/serial"), format!("{IMAGES}/log"));
    let devices = format!(
        "<serial type='tcp'>
           <source mode='bind' host='127.0.0.1' service='4555'/><protocol type='raw'/>
           <log file='{log}'/>
         </serial>
         <serial type='unix'><source mode='bind' path='{SOCKET}'/></serial>
         <serial type='file'><source path='{file}'/></serial>"
    );
    let mut console = boot(&libvirt, &linux(&devices))?;
    let guest = &mut console;
    let mut tcp = TcpStream::connect("127.0.0.1:4555")?;
    tcp.set_read_timeout(Some(SOON))?;
    both_ways(guest, &mut tcp, "hvc1")?;
    let mut unix = UnixStream::connect(SOCKET)?;
    unix.set_read_timeout(Some(SOON))?;
    both_ways(guest, &mut unix, "hvc2")?;
    guest.shell("echo for the file > /dev/hvc3", PATIENCE)?;
    for (file, text) in [(&file, "for the file"), (&log, "from hvc1")] {
        comes_into(file, text)?;
    }
    shut_down(&libvirt, guest)
}

/// A line to the guest, and one from it.
fn both_ways(
    guest: &mut Session,
    end: &mut (impl Read + Write),
    device: &str,
) -> Result<(), Failed> {
    guest.shell(
        &format!("stty -F /dev/{device} -echo; echo from {device} > /dev/{device}"),
        PATIENCE,
    )?;
    line(end, &format!("from {device}\r\n"))?;
    end.write_all(b"to the guest\n")?;
    guest.says(
        &format!("head -n 1 /dev/{device}"),
        "to the guest",
        PATIENCE,
    )
}

/// Reads until this line has come.
fn line(end: &mut impl Read, wanted: &str) -> Result<(), Failed> {
    let (mut got, mut part) = (Vec::new(), [0; 64]);
    while !got.ends_with(wanted.as_bytes()) {
        let count = end.read(&mut part)?;
        got.extend(&part[..count]);
        if count == 0 {
            return Err(format!("it ends after {got:?}").into());
        }
    }
    Ok(())
}

/// Waits until a file holds a text.
fn comes_into(file: &str, text: &str) -> Result<(), Failed> {
    let end = Instant::now() + SOON;
    loop {
        let is = std::fs::read_to_string(file)?;
        if is.contains(text) {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(format!("{file} has {is:?}").into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn second_console(guest: &mut Session, second: &mut Session) -> Result<(), Failed> {
    guest.shell("echo from the guest > /dev/hvc1", PATIENCE)?;
    second.expect("from the guest\n", SOON)?;
    second.send("from the user\r")?;
    guest.says("head -n 1 /dev/hvc1", "from the user", PATIENCE)
}

/// Bytes both ways, and what libvirt knows of it.
fn channel_is_used(
    libvirt: &Libvirt,
    guest: &mut Session,
    channel: &mut UnixStream,
) -> Result<(), Failed> {
    channel_state(libvirt, "org.xenner.test", "disconnected")?;
    guest.send("stty -F /dev/hvc2 -echo; head -n 1 /dev/hvc2 | tr a-z A-Z > /dev/hvc2\r")?;
    channel_state(libvirt, "org.xenner.test", "connected")?;
    channel.write_all(b"question\n")?;
    line(channel, "QUESTION\r\n")?;
    guest.expect(PROMPT, PATIENCE)?;
    channel_state(libvirt, "org.xenner.test", "disconnected")
}

/// Waits for what libvirt says of a channel's other end.
fn channel_state(libvirt: &Libvirt, name: &str, state: &str) -> Result<(), Failed> {
    let target = format!("name='{name}' state='{state}'");
    libvirt.comes("dumpxml guest", &target, SOON)
}
