//! `cargo xtask libvirt`: the stories of `tests/libvirt.rs` under the libvirt of
//! another Debian than this machine's. Its programs come as a whole tree, kept as
//! an archive in the cache and unpacked into memory for the run; nothing is
//! installed. What this machine has itself, `cargo xtask test` tries.

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::apt::Apt;
use crate::assets;
use crate::boot::check_kvm;
use crate::builds;
use crate::debian;
use crate::error::{Error, Result};
use crate::packages::{self, LEFT_OUT};
use crate::process::{capture, in_path};
use crate::test::{self, Tally};
use crate::ui;
use crate::workspace::{Workspace, make_dir};

/// From the archive to a running program.
const ENTER: &str = include_str!("../libvirt/enter");
/// Where the program finds the target directory in the tree.
const TARGET: &str = "/target";
/// Packages of both suites.
const COMMON: &str = "libvirt-daemon,libvirt-daemon-driver-qemu,libvirt-clients,virtinst,osinfo-db,\
                      iproute2,mount,passt";
/// What the package libvirt-daemon alone had before.
const SPLIT: &str = ",libvirt-daemon-log,libvirt-daemon-driver-interface,libvirt-daemon-driver-network,\
                     libvirt-daemon-driver-nodedev,libvirt-daemon-driver-nwfilter,\
                     libvirt-daemon-driver-secret,libvirt-daemon-driver-storage";

/// A Debian whose libvirt is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Suite {
    /// Debian 12, with libvirt 9.0
    Bookworm,
    /// Debian 13, with libvirt 11.3
    Trixie,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Suite::Bookworm => "bookworm",
            Suite::Trixie => "trixie",
        }
    }

    fn packages(self) -> String {
        match self {
            Suite::Bookworm => COMMON.to_owned(),
            Suite::Trixie => format!("{COMMON}{SPLIT}"),
        }
    }
}

/// Options of `cargo xtask libvirt`.
#[derive(Debug, clap::Args)]
pub struct LibvirtArgs {
    /// Whose libvirt
    #[arg(long, value_enum, default_value = "trixie")]
    suite: Suite,
    /// Write what libvirt says to xenner to tests/golden (story `words`)
    #[arg(long)]
    record: bool,
    /// Words that the names of the stories hold; all without
    #[arg(value_name = "STORY")]
    stories: Vec<String>,
}

/// Build and fetch what is needed, and run the stories; fails if one of them does.
pub fn libvirt(ws: &Workspace, args: &LibvirtArgs) -> Result<ExitCode> {
    check_kvm()?;
    let root = as_root()?;
    let archive = tree(ws, args.suite)?;
    builds::with_tests(ws)?;
    let xenner = builds::xenner(ws)?;
    assets::stage(ws)?;
    debian::stage(ws)?;
    let program = test::test_program(ws, "libvirt")?;
    let recorded = recorded(ws)?;
    let mut tally = Tally::default();
    for story in chosen(&args.stories) {
        let name = format!("{} under {}", named(story), args.suite.name());
        let mut command = enter(root, &archive, ws);
        command.arg("env").arg("XENNER_TEST_ALL=1");
        command.arg(format!("XENNER_BIN={}", inside(ws, &xenner)?));
        command.arg(format!("XENNER_ASSETS={}", inside(ws, &ws.assets())?));
        command.arg(format!("XENNER_IMAGES={}", inside(ws, &ws.images())?));
        if args.record {
            command.arg(format!("XENNER_RECORD={}", inside(ws, &recorded)?));
        }
        command.arg(inside(ws, &program)?).args(story);
        let before = tally.count();
        tally.tests(&name, &mut command);
        if tally.count() == before {
            tally.fail(&format!("{name}: there are none"));
        }
    }
    if args.record {
        keep(ws, &recorded)?;
    }
    Ok(tally.close())
}

/// The test program takes one word at a time, or none for all stories.
fn chosen(stories: &[String]) -> Vec<Option<&String>> {
    match stories {
        [] => vec![None],
        _ => stories.iter().map(Some).collect(),
    }
}

fn named(story: Option<&String>) -> String {
    match story {
        None => "All stories".to_owned(),
        Some(word) => format!("Stories with {word:?}"),
    }
}

/// What goes before a command that has to be root's.
fn as_root() -> Result<Option<&'static str>> {
    if rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    if in_path("sudo").is_none() {
        return Err(Error::missing(
            "Only root can enter a Debian tree, and there is no sudo",
            "run this as root",
        ));
    }
    Ok(Some("sudo"))
}

/// A command that has the words after it run in the tree.
fn enter(root: Option<&str>, archive: &Path, ws: &Workspace) -> Command {
    let words = ["unshare", "--mount", "--propagation", "private"];
    let mut command = match root {
        None => Command::new(words[0]),
        Some(sudo) => {
            let mut command = Command::new(sudo);
            command.arg(words[0]);
            command
        }
    };
    command.args(&words[1..]);
    command.args(["sh", "-c", ENTER, "enter"]).arg(archive);
    command.arg(ws.target.join("libvirt-root")).arg(&ws.target);
    command
}

/// A file of the target directory, by its name in the tree.
fn inside(ws: &Workspace, file: &Path) -> Result<String> {
    let below = file.strip_prefix(&ws.target).map_err(|_| {
        Error::missing(
            format!("{} is not in {}", file.display(), ws.target.display()),
            "do not set build.build-dir apart from the target directory",
        )
    })?;
    Ok(format!("{TARGET}/{}", below.display()))
}

/// The archive of the suite's tree, made if the cache has none of these packages.
fn tree(ws: &Workspace, suite: Suite) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    (suite.packages(), LEFT_OUT).hash(&mut hasher);
    let name = format!("libvirt-{}-{:016x}.tar", suite.name(), hasher.finish());
    let kept = ws.cache.join(name);
    if kept.exists() {
        return Ok(kept);
    }
    ui::step(&format!(
        "Making a tree with the libvirt of {}",
        suite.name()
    ));
    let apt = Apt::for_suite(ws, suite.name(), true)?;
    apt.update()?;
    let scratch = tempfile::tempdir_in(&ws.cache).map_err(Error::file("make", &ws.cache))?;
    let archive = scratch.path().join("tree.tar");
    let mut command = packages::bootstrap(ws, &suite.packages())?;
    command.arg(suite.name()).arg(&archive);
    capture("mmdebstrap", command.arg(apt.sources_file()))?;
    std::fs::rename(&archive, &kept).map_err(Error::file("move to", &kept))?;
    Ok(kept)
}

/// An empty directory for what is recorded.
fn recorded(ws: &Workspace) -> Result<PathBuf> {
    let dir = ws.target.join("recorded");
    if dir.exists() {
        std::fs::remove_dir_all(&dir).map_err(Error::file("remove", &dir))?;
    }
    make_dir(&dir)?;
    Ok(dir)
}

/// Have what was recorded where the tests look for it.
fn keep(ws: &Workspace, recorded: &Path) -> Result<()> {
    for file in packages::files_below(recorded)? {
        if file.extension() != Some(OsStr::new("jsonl")) {
            continue;
        }
        let name = file.file_name().unwrap_or_default();
        let golden = ws.root.join("tests/golden").join(name);
        std::fs::copy(&file, &golden).map_err(Error::file("copy to", &golden))?;
        ui::step(&format!("Recorded: {}", golden.display()));
    }
    Ok(())
}
