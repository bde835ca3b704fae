//! A second console and channels, as libvirt's users have them.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use libtest_mimic::Failed;

use super::guest::{boot, linux, shut_down};
use super::support::PATIENCE;
use super::support::libvirt::{Libvirt, Owner};
use super::support::session::{PROMPT, Session};

/// What takes no more than a look of the backend's thread is done within this time.
const SOON: Duration = Duration::from_secs(10);
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
    let (mut got, mut part) = (Vec::new(), [0; 64]);
    while !got.ends_with(b"QUESTION\r\n") {
        let count = channel.read(&mut part)?;
        got.extend(&part[..count]);
        if count == 0 {
            return Err(format!("the channel ends after {got:?}").into());
        }
    }
    guest.expect(PROMPT, PATIENCE)?;
    channel_state(libvirt, "org.xenner.test", "disconnected")
}

/// Waits for what libvirt says of a channel's other end.
fn channel_state(libvirt: &Libvirt, name: &str, state: &str) -> Result<(), Failed> {
    let target = format!("name='{name}' state='{state}'");
    libvirt.comes("dumpxml guest", &target, SOON)
}
