//! Stock Debian kernels as PV domains, from entry to the end: the shell on
//! hvc0 as a person uses it, shutdown in every way, several vCPUs.

mod support;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
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
        let others: [(&str, OfSeries); 2] = [("reboot", reboot), ("vcpus", vcpus)];
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
