//! Stock Debian kernels as PV domains, from entry to the end: the shell on
//! hvc0 as a person uses it, shutdown in every way, several vCPUs.

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use serde_json::json;
use support::qmp::{self, Qmp};
use support::session::{PROMPT, Session};
use support::{KERNELS, PATIENCE, asset, guest_arguments, kernel, trial, xenner};

/// An answer on the shell's console comes within this time.
const ANSWER: Duration = Duration::from_secs(30);
/// Lines of the guest's kernel log that must not be there.
const TROUBLE: &str = "multicall|clocksource.*unstable|Failed to|unable to";

/// One story of a guest from its start to its end.
type Scenario = fn() -> Result<(), Failed>;
/// One that kernels of each series go through.
type OfSeries = fn(&str) -> Result<(), Failed>;

fn main() -> ExitCode {
    let mut trials = Vec::new();
    for series in KERNELS {
        for smp in [1, 2, 4] {
            let name = format!("shell-{series}-smp{smp}");
            trials.push(guest_test(name, series, move || shell(series, smp)));
        }
        let others: [(&str, OfSeries); 3] =
            [("reboot", reboot), ("vcpus", vcpus), ("consoles", consoles)];
        // A fault of Debian's 5.10, docs/console.md.
        let lacks = |name: &str| name == "consoles" && series == "5.10";
        let others = others.into_iter().filter(|(name, _)| !lacks(name));
        for (name, run) in others {
            let name = format!("{name}-{series}");
            trials.push(guest_test(name, series, move || run(series)));
        }
    }
    let others: [(&str, Scenario); 6] = [
        ("no-reboot", no_reboot),
        ("command-line", command_line),
        ("kernel-panic", kernel_panic),
        ("terminate", terminate),
        ("ctrl-a-x", ctrl_a_x),
        ("xenstore-tools", xenstore_tools),
    ];
    trials.extend(others.map(|(name, run)| guest_test(name.to_owned(), "6.1", run)));
    support::main(trials)
}

fn guest_test(
    name: String,
    series: &str,
    run: impl FnOnce() -> Result<(), Failed> + Send + 'static,
) -> Trial {
    trial(name, &[kernel(series), asset("initramfs")], run)
}

/// A guest at its shell's prompt.
fn at_prompt(series: &str, smp: u32, more: &[&str]) -> Result<Session, Failed> {
    let mut command = xenner();
    command.args(guest_arguments(series, smp, "")).args(more);
    let mut session = Session::start(&mut command)?;
    session.expect(PROMPT, PATIENCE)?;
    Ok(session)
}

fn shell(series: &str, smp: u32) -> Result<(), Failed> {
    let mut session = at_prompt(series, smp, &[])?;
    // Typed with two mistakes that backspace takes back.
    session.send("echo hexx\x7f\x7fllo-$((6 * 7))\r")?;
    session.expect("hello-42\n", ANSWER)?;
    session.expect(PROMPT, ANSWER)?;
    let files = session.shell("ls /", ANSWER)?;
    if !files.contains("proc") || !files.contains("init") {
        return Err(session.failure("ls / shows neither proc nor init"));
    }
    let cpus = session.shell("grep -c ^processor /proc/cpuinfo", ANSWER)?;
    if cpus != smp.to_string() {
        return Err(session.failure(&format!("{cpus} processors, not {smp}")));
    }
    session.shell("cat /proc/cpuinfo /proc/interrupts >/dev/null", ANSWER)?;
    // Ctrl-c reaches the foreground job alone.
    session.send("sleep 1000\r")?;
    std::thread::sleep(Duration::from_millis(500));
    session.send("\x03")?;
    session.expect(PROMPT, ANSWER)?;
    session.quiet_log(TROUBLE)?;
    session.send("poweroff\r")?;
    session.end_with(0, PATIENCE)
}

fn reboot(series: &str) -> Result<(), Failed> {
    let mut session = at_prompt(series, 2, &[])?;
    session.shell("touch /was-here", ANSWER)?;
    session.send("reboot\r")?;
    session.expect("Linux version", PATIENCE)?;
    session.expect(PROMPT, PATIENCE)?;
    session.shell("test ! -e /was-here", ANSWER)?;
    session.quiet_log(TROUBLE)?;
    session.send("poweroff\r")?;
    session.end_with(0, PATIENCE)
}

fn no_reboot() -> Result<(), Failed> {
    let mut session = at_prompt("6.1", 1, &["-no-reboot"])?;
    session.send("reboot\r")?;
    session.end_with(0, PATIENCE)
}

/// The whole command line reaches the guest, as does a command in it.
fn command_line() -> Result<(), Failed> {
    let run = "cat /proc/cmdline; false";
    let mut command = xenner();
    command.args(guest_arguments(
        "6.1",
        1,
        &format!("quiet foo=bar xenner.run=\"{run}\""),
    ));
    let mut session = Session::start(&mut command)?;
    session.expect("quiet foo=bar", PATIENCE)?;
    session.expect("@@RC=1", ANSWER)?;
    session.end_with(0, PATIENCE)
}

fn kernel_panic() -> Result<(), Failed> {
    let mut session = at_prompt("6.1", 1, &["-no-reboot"])?;
    session.send("echo c >/proc/sysrq-trigger\r")?;
    session.expect("Kernel panic", ANSWER)?;
    let status = session.end(PATIENCE)?;
    if status.success() || status.code().is_none() {
        return Err(session.failure(&format!("a crashed guest gave {status}")));
    }
    Ok(())
}

fn signal(session: &Session, signal: rustix::process::Signal) -> Result<(), Failed> {
    let pid = i32::try_from(session.pid())
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or("no process id")?;
    Ok(rustix::process::kill_process(pid, signal)?)
}

/// SIGTERM lets the guest power off by itself.
fn terminate() -> Result<(), Failed> {
    let mut session = at_prompt("6.1", 1, &[])?;
    signal(&session, rustix::process::Signal::TERM)?;
    session.expect("reboot: ", PATIENCE)?;
    session.end_with(0, PATIENCE)
}

/// Ctrl-a x ends xenner at once.
fn ctrl_a_x() -> Result<(), Failed> {
    let mut session = at_prompt("6.1", 1, &[])?;
    session.send("\x01x")?;
    session.end_with(0, Duration::from_secs(5))
}

/// A socket for a domain's store, and Debian's tools of it.
struct Store {
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Store {
    fn new() -> Result<Self, Failed> {
        let dir = tempfile::tempdir()?;
        Ok(Self {
            socket: dir.path().join("xenstore"),
            _dir: dir,
        })
    }

    /// The value of `-xenner` that puts the store there.
    fn option(&self) -> String {
        format!("xenstore={}", self.socket.display())
    }

    fn tool(&self, name: &str, arguments: &[&str]) -> Result<String, Failed> {
        let mut command = std::process::Command::new(asset("bin").join(name));
        command.args(arguments).env("XENSTORED_PATH", &self.socket);
        command.env("LD_LIBRARY_PATH", asset("lib"));
        support::output(&mut command)
    }
}

/// Debian's tools of xenstore see the running domain and can shut it down.
fn xenstore_tools() -> Result<(), Failed> {
    let store = Store::new()?;
    let mut session = at_prompt("6.1", 1, &["-xenner", &store.option()])?;
    let tree = store.tool("xenstore-ls", &["/"])?;
    for key in ["domid", "memory", "control", "console"] {
        if !tree.contains(key) {
            return Err(format!("xenstore-ls shows no {key}:\n{tree}").into());
        }
    }
    let domid = tree_domid(&tree).ok_or_else(|| format!("no domain in:\n{tree}"))?;
    let path = format!("/local/domain/{domid}/control/shutdown");
    store.tool("xenstore-write", &[&path, "poweroff"])?;
    session.expect("reboot: ", PATIENCE)?;
    session.end_with(0, PATIENCE)
}

/// The guest follows the availability of a vcpu that it does not have at the start.
fn vcpus(series: &str) -> Result<(), Failed> {
    let store = Store::new()?;
    let more = ["-smp", "maxcpus=3", "-xenner", &store.option()];
    let mut session = at_prompt(series, 1, &more)?;
    let online = |session: &mut Session, list: &str| {
        let file = "/sys/devices/system/cpu/online";
        let wait = format!(
            "n=0; until grep -qx {list} {file} || [ $n = 200 ]; do n=$((n+1)); sleep 0.1; done"
        );
        session.says(&format!("{wait}; cat {file}"), list, PATIENCE)
    };
    // what the kernel says of each change would be among the answers
    session.shell("dmesg -n 1", ANSWER)?;
    let path = "/local/domain/1/cpu/2/availability";
    for _ in 0..2 {
        online(&mut session, "0")?;
        store.tool("xenstore-write", &[path, "online"])?;
        let own = "/sys/devices/system/cpu/cpu2/online";
        session.shell(
            &format!("until [ -e {own} ]; do sleep 0.1; done; echo 1 > {own}"),
            ANSWER,
        )?;
        online(&mut session, "0,2")?;
        store.tool("xenstore-write", &[path, "offline"])?;
    }
    online(&mut session, "0")?;
    session.quiet_log(TROUBLE)?;
    session.send("poweroff\r")?;
    session.end_with(0, PATIENCE)
}

/// A user of a console or a channel that is on a unix socket.
struct User(UnixStream);

impl User {
    fn connect(socket: &Path) -> Result<Self, Failed> {
        let stream = qmp::connect(socket, PATIENCE)?;
        stream.set_read_timeout(Some(ANSWER))?;
        Ok(Self(stream))
    }

    fn send(&mut self, text: &str) -> Result<(), Failed> {
        Ok(self.0.write_all(text.as_bytes())?)
    }

    /// Everything up to `wanted`.
    fn expect(&mut self, wanted: &str) -> Result<(), Failed> {
        let (mut got, mut byte) = (Vec::new(), [0]);
        while !got.ends_with(wanted.as_bytes()) {
            if let Err(e) = self.0.read_exact(&mut byte) {
                let got = String::from_utf8_lossy(&got);
                return Err(format!("{got:?} came and no {wanted:?}: {e}").into());
            }
            got.push(byte[0]);
        }
        Ok(())
    }
}

/// Whether the character device `label` is in use, as the monitor has it.
fn in_use(monitor: &mut Qmp, label: &str) -> Result<Option<bool>, Failed> {
    let ends = monitor.run("query-chardev", json!({}))?;
    let mut ends = ends.as_array().into_iter().flatten();
    let end = ends.find(|end| end["label"] == label);
    Ok(end.and_then(|end| end["frontend-open"].as_bool()))
}

/// Waits until the channel is opened or closed, of which an event tells, too.
fn channel_is(monitor: &mut Qmp, open: bool) -> Result<(), Failed> {
    let wanted = json!({"id": "channel0", "open": open});
    loop {
        let event = monitor.event()?;
        if event["event"] == "VSERPORT_CHANGE" && event["data"] == wanted {
            break;
        }
    }
    match in_use(monitor, "c2")? == Some(open) {
        true => Ok(()),
        false => Err(format!("the channel is not open: {open}").into()),
    }
}

/// A second console and a channel, before and after a reboot of the guest.
fn consoles(series: &str) -> Result<(), Failed> {
    let store = Store::new()?;
    let path = |name: &str| store.socket.with_file_name(name);
    let server = |name: &str| format!("{},server=on,wait=off", path(name).display());
    let chardev = format!("socket,id=c2,path={}", server("channel"));
    let more = [
        "-serial",
        "mon:stdio",
        "-serial",
        &format!("unix:{}", server("second")),
        "-chardev",
        &chardev,
        "-device",
        r#"{"driver":"virtserialport","chardev":"c2","id":"channel0","name":"org.xenner.test"}"#,
        "-qmp",
        &format!("unix:{}", server("qmp")),
        "-xenner",
        &store.option(),
    ];
    let mut session = at_prompt(series, 1, &more)?;
    let mut monitor = Qmp::connect(&path("qmp"))?;
    let mut second = User::connect(&path("second"))?;
    let mut channel = User::connect(&path("channel"))?;
    for life in ["first", "second"] {
        let devices = "ls /sys/bus/xen/devices";
        let devices = session.shell(devices, ANSWER)?;
        if !devices.contains("console-1") || !devices.contains("console-2") {
            return Err(session.failure(&format!("there are {devices}")));
        }
        let name = "/local/domain/1/device/console/2/name";
        let name = store.tool("xenstore-read", &[name])?;
        if name.trim() != "org.xenner.test" {
            return Err(format!("the channel's name is {name:?}").into());
        }
        session.shell(&format!("echo hello {life} > /dev/hvc1"), ANSWER)?;
        second.expect(&format!("hello {life}\r\n"))?;
        second.send("to the console\n")?;
        session.says("head -n 1 /dev/hvc1", "to the console", ANSWER)?;
        if in_use(&mut monitor, "serial1")? != Some(true)
            || in_use(&mut monitor, "c2")? != Some(false)
        {
            return Err("the wrong ends are in use".into());
        }
        session.send("head -n 1 /dev/hvc2\r")?;
        channel_is(&mut monitor, true)?;
        channel.send("to the agent\n")?;
        session.expect("to the agent\n", ANSWER)?;
        session.expect(PROMPT, ANSWER)?;
        channel_is(&mut monitor, false)?;
        session.shell("echo from the agent > /dev/hvc2", ANSWER)?;
        channel.expect("from the agent\r\n")?;
        session.quiet_log(TROUBLE)?;
        if life == "first" {
            session.send("reboot\r")?;
            session.expect("Linux version", PATIENCE)?;
            session.expect(PROMPT, PATIENCE)?;
            while monitor.event()?["event"] != "RESET" {}
        }
    }
    session.send("poweroff\r")?;
    session.end_with(0, PATIENCE)
}

/// The first domain other than dom0 in the output of `xenstore-ls /`.
fn tree_domid(tree: &str) -> Option<u32> {
    let domains = tree
        .lines()
        .skip_while(|line| line.trim_start() != "domain = \"\"")
        .skip(1);
    domains
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.trim().split(' ').next()?.parse().ok())
        .find(|&domid| domid != 0)
}
