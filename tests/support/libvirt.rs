//! Debian's libvirt, for tests: daemons of the test's own, started without
//! systemd in namespaces of their own, with directories of their own where
//! libvirt has its own, so that the machine's libvirt is not touched. What is
//! left of them ends with the namespaces.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::session::Session;
use super::{again_under, asset, output, run, xenner};

/// Set in the namespaces.
const INSIDE: &str = "XENNER_TEST_LIBVIRT";
/// Debian's programs.
const PROGRAMS: [&str; 5] = [
    "/usr/sbin/libvirtd",
    "/usr/sbin/virtlogd",
    "/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so",
    "/usr/bin/virsh",
    "/usr/bin/setpriv",
];
/// What libvirt runs as the emulator.
pub const EMULATOR: &str = "/usr/local/bin/xenner";
/// Where the guests' files are.
pub const IMAGES: &str = "/var/lib/libvirt/images";
/// The directories that the test has for itself, and their names in the test's own.
const PRIVATE: [(&str, &str); 6] = [
    ("etc", "/etc/libvirt"),
    ("run", "/run"),
    ("lib", "/var/lib/libvirt"),
    ("log", "/var/log/libvirt"),
    ("cache", "/var/cache/libvirt"),
    ("bin", "/usr/local/bin"),
];
/// The user and the group that Debian's libvirtd looks up when it starts, whatever its settings say;
/// a package that is not needed otherwise makes them.
const ACCOUNTS: [(&str, &str); 2] = [
    (
        "/etc/passwd",
        "libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin",
    ),
    ("/etc/group", "libvirt-qemu:x:64055:"),
];
/// A daemon answers within this time, and a domain that was destroyed is gone.
const SOON: Duration = Duration::from_secs(20);
/// Lines of libvirtd's log that say nothing about the emulator: clients that have
/// left, what the machine does not have, and what libvirt refuses by itself.
const HARMLESS: [&str; 9] = [
    "End of file while reading data",
    "dnsmasq",
    "virGDBusGet",
    "DMI",
    "dmidecode",
    "ethtool ioctl",
    "cgroup",
    "virArpTableGet",
    "vcpu unplug request timed out",
];

/// The programs that were run since [`forget_commands`], virsh's own commands in its place.
static COMMANDS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Begin the list of commands anew.
pub fn forget_commands() {
    COMMANDS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clear();
}

/// The list of commands.
pub fn commands() -> BTreeSet<String> {
    COMMANDS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

fn note_command(name: &str) {
    let mut commands = COMMANDS.lock().unwrap_or_else(PoisonError::into_inner);
    commands.insert(name.to_owned());
}

/// Run this program again as root of namespaces of its own, unless it is there.
pub fn in_namespaces() -> Option<ExitCode> {
    let root = rustix::process::geteuid().is_root();
    if std::env::var_os(INSIDE).is_some() || super::left_out() || !root {
        return None;
    }
    let mut unshare = Command::new("unshare");
    unshare.args([
        "--mount",
        "--net",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    // A process that reaps what others leave has to be the first.
    unshare.args(["sh", "-c", "\"$@\"; exit $?", "sh"]);
    Some(again_under(unshare, INSIDE))
}

/// What these tests miss on this machine, if anything.
pub fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("these tests make namespaces and devices: run them as root".to_owned());
    }
    let programs = PROGRAMS.iter().find(|file| !Path::new(file).exists());
    programs.map(|file| {
        format!("{file} is not there: install libvirt-daemon-driver-qemu and libvirt-clients")
    })
}

/// Whose libvirt it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// `qemu:///system`; guests run as another user.
    System,
    /// `qemu:///session` of a user without rights.
    Session,
}

/// Running daemons and their directories.
pub struct Libvirt {
    dir: TempDir,
    owner: Owner,
    daemon: Option<Child>,
    logger: Option<Child>,
    /// What libvirtd says to emulators, and what it hears, is written there.
    words: Option<PathBuf>,
}

impl Libvirt {
    /// Make the directories and start the daemons.
    pub fn start(owner: Owner) -> Result<Libvirt, Failed> {
        let dir = tempfile::tempdir()?;
        let mut libvirt = Libvirt {
            dir,
            owner,
            daemon: None,
            logger: None,
            words: None,
        };
        libvirt.furnish()?;
        if owner == Owner::System {
            let mut virtlogd = libvirt.command("virtlogd");
            libvirt.logger = Some(virtlogd.stderr(Stdio::null()).spawn()?);
        }
        libvirt.start_daemon()?;
        Ok(libvirt)
    }

    fn furnish(&self) -> Result<(), Failed> {
        let root = self.dir.path();
        fs::set_permissions(root, fs::Permissions::from_mode(0o755))?;
        run("mount --make-rprivate /")?;
        for (name, place) in PRIVATE {
            let own = root.join(name);
            fs::create_dir(&own)?;
            fs::create_dir_all(place)?;
            run(&format!("mount --bind {} {place}", own.display()))?;
        }
        // virsh locks a console there.
        fs::create_dir("/run/lock")?;
        fs::set_permissions("/run/lock", fs::Permissions::from_mode(0o1777))?;
        // Of this network namespace, for libvirtd's look at its devices.
        run("mount -t sysfs sysfs /sys")?;
        // A machine's may be root's alone, where no group kvm is.
        let kvm = root.join("kvm");
        run(&format!("mknod -m 666 {} c 10 232", kvm.display()))?;
        run(&format!("mount --bind {} /dev/kvm", kvm.display()))?;
        fs::copy(xenner().get_program(), EMULATOR)?;
        fs::create_dir(IMAGES)?;
        for name in ["kernel-6.1", "initramfs-devices", "pvtest"] {
            fs::copy(asset(name), Path::new(IMAGES).join(name))?;
        }
        self.furnish_accounts()?;
        // Not Debian's own user for guests, who may not be there.
        let settings = "user = \"nobody\"\ngroup = \"nogroup\"\n\
                        security_driver = \"none\"\ncgroup_controllers = []\n";
        fs::write("/etc/libvirt/qemu.conf", settings)?;
        let open = "auth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\n";
        fs::write("/etc/libvirt/libvirtd.conf", open)?;
        self.furnish_home()?;
        run("ip link set lo up")?;
        if run("ip link show br0").is_err() {
            run("ip link add br0 type bridge")?;
            run("ip addr add 10.98.0.1/24 dev br0")?;
            run("ip link set br0 up")?;
        }
        Ok(())
    }

    /// Add what is missing of [`ACCOUNTS`], in files of the test's own.
    fn furnish_accounts(&self) -> Result<(), Failed> {
        for (place, line) in ACCOUNTS {
            let mut text = fs::read_to_string(place)?;
            if text.lines().any(|line| line.starts_with("libvirt-qemu:")) {
                continue;
            }
            text.push_str(&format!("{line}\n"));
            let own = self.dir.path().join(place.replace('/', "-"));
            fs::write(&own, text)?;
            run(&format!("mount --bind {} {place}", own.display()))?;
        }
        Ok(())
    }

    /// The home of the user of a session, who owns all of it.
    fn furnish_home(&self) -> Result<(), Failed> {
        let home = self.home();
        fs::create_dir_all(home.join("run"))?;
        run(&format!("chown -R nobody:nogroup {}", home.display()))
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// A program with the environment, and the rights, of this libvirt's owner.
    pub fn command(&self, program: &str) -> Command {
        note_command(program);
        let mut command = match self.owner {
            Owner::System => Command::new(program),
            Owner::Session => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]);
                command.arg(program);
                command
            }
        };
        let home = self.home();
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C")
            .env("HOME", &home)
            .current_dir("/")
            .stdin(Stdio::null());
        if self.owner == Owner::Session {
            command.env("XDG_RUNTIME_DIR", home.join("run"));
        }
        command
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("libvirtd.log")
    }

    /// Start libvirtd, and wait until it answers.
    pub fn start_daemon(&mut self) -> Result<(), Failed> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = self.command("libvirtd");
        if let Some(file) = &self.words {
            command.env("LIBVIRT_LOG_FILTERS", "2:qemu.qemu_monitor");
            let outputs = format!("3:stderr 2:file:{}", file.display());
            command.env("LIBVIRT_LOG_OUTPUTS", outputs);
        }
        self.daemon = Some(command.stdout(log.try_clone()?).stderr(log).spawn()?);
        let end = Instant::now() + SOON;
        while self.virsh("list").is_err() {
            if Instant::now() > end {
                return Err(format!("libvirtd does not answer:\n{}", self.log_text()).into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Have a new libvirtd write what it says to emulators, and what it hears, to this file.
    pub fn listen(&mut self) -> Result<PathBuf, Failed> {
        let file = self.dir.path().join("words.log");
        self.words = Some(file.clone());
        self.kill_daemon()?;
        self.start_daemon()?;
        Ok(file)
    }

    /// End libvirtd at once; domains go on.
    pub fn kill_daemon(&mut self) -> Result<(), Failed> {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill()?;
            daemon.wait()?;
        }
        Ok(())
    }

    /// End libvirtd, and start it as the machine does when it comes up.
    pub fn restart_machine(&mut self) -> Result<(), Failed> {
        self.kill_daemon()?;
        // It starts domains by itself once after the machine does.
        fs::remove_file("/run/libvirt/qemu/autostarted")?;
        self.start_daemon()
    }

    /// A virsh that is not started yet, of these words.
    pub fn client(&self, words: &[&str]) -> Command {
        let mut command = self.command("virsh");
        let uri = match self.owner {
            Owner::System => "qemu:///system",
            Owner::Session => "qemu:///session",
        };
        command.args(["--connect", uri]).args(words);
        words
            .first()
            .into_iter()
            .for_each(|name| note_command(name));
        command
    }

    /// What virsh says to words without spaces in them.
    pub fn virsh(&self, words: &str) -> Result<String, Failed> {
        self.virsh_words(&words.split(' ').collect::<Vec<_>>())
    }

    /// What virsh says.
    pub fn virsh_words(&self, words: &[&str]) -> Result<String, Failed> {
        Ok(output(&mut self.client(words))?.trim().to_owned())
    }

    /// What virsh says has to hold all of `wanted`.
    pub fn says(&self, words: &str, wanted: &[&str]) -> Result<String, Failed> {
        let text = self.virsh(words)?;
        let plain = text.split_whitespace().collect::<Vec<_>>().join(" ");
        match wanted.iter().find(|part| !plain.contains(*part)) {
            None => Ok(text),
            Some(part) => Err(format!("virsh {words} has no {part:?}:\n{text}").into()),
        }
    }

    /// The emulator itself says that the domain runs.
    pub fn runs(&self, domain: &str) -> Result<(), Failed> {
        let query = "{\"execute\":\"query-status\"}";
        let answer = self.virsh_words(&["qemu-monitor-command", domain, query])?;
        match answer.contains("\"status\":\"running\"") {
            true => Ok(()),
            false => Err(format!("query-status: {answer}").into()),
        }
    }

    /// Wait until virsh's answer holds `wanted`.
    pub fn comes(&self, words: &str, wanted: &str, patience: Duration) -> Result<(), Failed> {
        let end = Instant::now() + patience;
        loop {
            match self.says(words, &[wanted]) {
                Ok(_) => return Ok(()),
                Err(e) if Instant::now() > end => return Err(e),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Write a file of the test's own, for virsh to read.
    pub fn file(&self, name: &str, text: &str) -> Result<String, Failed> {
        let path = self.dir.path().join(name);
        fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// Define a domain.
    pub fn define(&self, xml: &str) -> Result<(), Failed> {
        let file = self.file("define.xml", xml)?;
        self.virsh(&format!("define {file}")).map(drop)
    }

    /// A domain's console.
    pub fn console(&self, domain: &str) -> Result<Session, Failed> {
        let words = ["console", domain, "--force"];
        Session::start(&mut self.client(&words))
    }

    /// libvirtd's log.
    pub fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Nothing of the domain is left, and the log has no error.
    pub fn is_clean(&self, domain: &str) -> Result<(), Failed> {
        self.left_nothing(domain)?;
        self.log_is_clean()
    }

    /// Nothing of the domain is left.
    pub fn left_nothing(&self, domain: &str) -> Result<(), Failed> {
        let end = Instant::now() + SOON;
        loop {
            let left = self.left_of(domain)?;
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(format!("{domain} left {left:?}").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// libvirtd's log has no error.
    pub fn log_is_clean(&self) -> Result<(), Failed> {
        let log = self.log_text();
        let bad = |line: &&str| {
            line.contains(": error :") && !HARMLESS.iter().any(|text| line.contains(text))
        };
        match log.lines().find(bad) {
            None => Ok(()),
            Some(line) => Err(format!("libvirtd's log has: {line}").into()),
        }
    }

    /// Processes, files, sockets and network devices of a domain that has ended.
    fn left_of(&self, domain: &str) -> Result<Vec<String>, Failed> {
        let mut left: Vec<String> = processes("xenner")
            .into_iter()
            .map(|pid| format!("process {pid}"))
            .collect();
        let home = self.home();
        let (run, lib) = match self.owner {
            Owner::System => ("/run/libvirt/qemu".into(), "/var/lib/libvirt/qemu".into()),
            Owner::Session => (
                home.join("run/libvirt/qemu/run"),
                home.join(".config/libvirt/qemu/lib"),
            ),
        };
        let named = |name: &str| {
            let files = [".pid", ".xml"].map(|end| format!("{domain}{end}"));
            files.iter().any(|file| file == name) || name.starts_with("domain-")
        };
        for dir in [run, lib] {
            // A session makes its directories when it needs them.
            let Ok(entries) = fs::read_dir(&dir) else {
                continue;
            };
            for entry in entries {
                let entry = entry?;
                if named(&entry.file_name().to_string_lossy()) {
                    left.push(entry.path().display().to_string());
                }
            }
        }
        let links = output(Command::new("ip").args(["-o", "link"]))?;
        let taps = links.lines().filter(|line| line.contains(" vnet"));
        left.extend(taps.map(str::to_owned));
        Ok(left)
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        // All of these are the namespace's own; they may have ended.
        for name in ["libvirtd", "virtlogd", "xenner"] {
            for pid in processes(name) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        for child in [&mut self.daemon, &mut self.logger].into_iter().flatten() {
            let _ = child.wait();
        }
        // At the latest they go with the namespace.
        let _ = run("umount /dev/kvm");
        let _ = run("umount /sys");
        for (_, place) in PRIVATE.iter().rev() {
            let _ = run(&format!("umount --lazy {place}"));
        }
    }
}

/// The processes of this namespace that run a program, without those that have ended.
pub fn processes(name: &str) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let number: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let (comm, state) = stat.split_once('(')?.1.rsplit_once(") ")?;
            let wanted = comm == name && !state.starts_with(['Z', 'X']);
            wanted.then(|| Pid::from_raw(number)).flatten()
        })
        .collect()
}
