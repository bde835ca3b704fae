//! A whole Debian on a PV disk, from the image that `cargo xtask image` makes:
//! systemd to the login prompt, packages, databases, reboot, GRUB's menu, and a
//! database that outlives the process's sudden end.

mod support;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use support::disks;
use support::session::Session;
use support::{LONG, image, trial, xenner};

/// A whole Debian starts or ends within this time. Generous: the rig's machine
/// is emulated.
const BOOT: Duration = Duration::from_secs(420);
/// A command in it ends within this time.
const ANSWER: Duration = Duration::from_secs(180);
/// Lines of the guest's kernel log that must not be there.
const TROUBLE: &str = "I/O error|EXT4-fs error|blkfront.*error";
/// How long the database is written to before the process is killed.
const LIFE: Duration = Duration::from_secs(3);

/// One story of a guest from its start to its end.
type Scenario = fn() -> Result<(), Failed>;

fn main() -> ExitCode {
    let mut stories: Vec<(&str, Scenario)> = vec![("system", system), ("grub", grub)];
    if std::env::var_os(LONG).is_some() {
        stories.push(("killed", killed));
    }
    let trials = stories.into_iter();
    support::main(trials.map(|(name, run)| debian_test(name, run)).collect())
}

fn debian_test(name: &str, run: Scenario) -> Trial {
    let files = ["debian.img", "vmlinuz", "initrd.img", "grub", "qemu-img"].map(image);
    trial(name.to_owned(), &files, run)
}

/// A disk of the test's own over the image.
struct Disk {
    file: PathBuf,
    _dir: tempfile::TempDir,
}

impl Disk {
    fn new() -> Result<Disk, Failed> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("disk");
        disks::overlay(&file, &image("debian.img"))?;
        Ok(Disk { file, _dir: dir })
    }

    fn check(&self) -> Result<(), Failed> {
        disks::check(&self.file, "qcow2")
    }
}

/// xenner with the image's own kernel, or GRUB, and the disk.
fn start(disk: &Path, grub: bool) -> Result<Session, Failed> {
    let mut command = xenner();
    if grub {
        command.arg("-kernel").arg(image("grub"));
    } else {
        command.arg("-kernel").arg(image("vmlinuz"));
        command.arg("-initrd").arg(image("initrd.img"));
        command.args(["-append", "root=LABEL=debian ro console=hvc0 quiet"]);
    }
    command.args(["-m", "768", "-smp", "2", "-nographic"]);
    command.args(disks::drive(disk, "qcow2", ""));
    Session::start(&mut command)
}

fn power_off(session: &mut Session) -> Result<(), Failed> {
    session.send("poweroff\r")?;
    session.end_with(0, BOOT)
}

fn system() -> Result<(), Failed> {
    let disk = Disk::new()?;
    let mut session = start(&disk.file, false)?;
    session.log_in(BOOT)?;
    session.shell("systemctl is-system-running --wait", ANSWER)?;
    session.shell("systemctl --failed --no-pager | grep '^0 loaded'", ANSWER)?;
    session.says("findmnt -no SOURCE /", "/dev/xvda1", ANSWER)?;
    session.shell("xenstore-read domid", ANSWER)?;
    session.shell("apt-get install -qq /opt/hello.deb >/dev/null", ANSWER)?;
    session.says("hello", "Hello, world!", ANSWER)?;
    session.shell(
        "fio --name=verify --filename=/var/tmp/fio --size=48M --rw=randwrite --bs=4k \
         --ioengine=libaio --direct=1 --iodepth=16 --verify=crc32c --end_fsync=1 --minimal \
         >/dev/null && rm /var/tmp/fio",
        ANSWER,
    )?;
    session.shell("echo kept >/root/kept", ANSWER)?;
    session.quiet_log(TROUBLE)?;
    session.send("reboot\r")?;
    session.log_in(BOOT)?;
    session.says("cat /root/kept", "kept", ANSWER)?;
    session.says("hello", "Hello, world!", ANSWER)?;
    session.quiet_log(TROUBLE)?;
    power_off(&mut session)?;
    disk.check()
}

/// GRUB reads the menu on the image, shows it, and starts the kernel there.
fn grub() -> Result<(), Failed> {
    let disk = Disk::new()?;
    let mut session = start(&disk.file, true)?;
    session.expect("GNU GRUB", BOOT)?;
    session.expect("rescue mode", BOOT)?;
    session.send("\r")?;
    session.expect("Linux version", BOOT)?;
    session.expect("debian login: ", BOOT)?;
    signal_term(&session)?;
    session.end_with(0, BOOT)?;
    disk.check()
}

fn signal_term(session: &Session) -> Result<(), Failed> {
    let pid = i32::try_from(session.pid())
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or("no process id")?;
    Ok(rustix::process::kill_process(
        pid,
        rustix::process::Signal::TERM,
    )?)
}

/// Rows that a database said were committed are there when the process was
/// killed, and the file system recovers.
fn killed() -> Result<(), Failed> {
    let disk = Disk::new()?;
    let mut session = start(&disk.file, false)?;
    session.log_in(BOOT)?;
    let table = "pragma journal_mode=wal; create table t(n integer primary key);";
    session.shell(&format!("sqlite3 /root/db '{table}'"), ANSWER)?;
    // One process; each row is a transaction of its own, said when it is committed.
    session.send(
        "seq 100000 | sed 's/.*/insert into t values(&); select \"@@ROW=\"||&;/' | \
         sqlite3 -cmd 'pragma synchronous=full' /root/db\r",
    )?;
    session.expect("@@ROW=10\n", ANSWER)?;
    std::thread::sleep(LIFE);
    session.kill()?;
    let console = session.console();
    let rows: u64 = console
        .lines()
        .filter_map(|line| line.strip_prefix("@@ROW=")?.parse().ok())
        .max()
        .unwrap_or(0);
    disk.check()?;
    let mut session = start(&disk.file, false)?;
    session.log_in(BOOT)?;
    session.says("sqlite3 /root/db 'pragma integrity_check'", "ok", ANSWER)?;
    let kept = session.shell("sqlite3 /root/db 'select max(n) from t'", ANSWER)?;
    eprintln!("{rows} rows were committed, {kept} are there");
    if kept.parse::<u64>().unwrap_or(0) < rows {
        return Err(format!("{rows} rows were committed, but only {kept} are there").into());
    }
    session.quiet_log(TROUBLE)?;
    power_off(&mut session)?;
    disk.check()
}
