//! `cargo xtask bench`: the guest benchmark and the boot time under xenner and
//! under QEMU in the same run, with KVM's exit counts per operation, on this
//! machine's KVM or (`--rig`, `--icount`) on the rig's.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use super::counters::Counters;
use super::devices::{self, Devices};
use super::guest::{Guest, Shape};
use super::report::{Column, Counted, Report, Row, median};
use super::{Place, QemuWords, Vmm, flavour};
use crate::assets;
use crate::boot::check_kvm;
use crate::builds;
use crate::error::{Error, Result};
use crate::packages::{DEFAULT_KERNEL, Qemu};
use crate::process::capture;
use crate::rig::{Image, Machine};
use crate::ui;
use crate::workspace::{Workspace, make_dir, write_whole};

/// A boot or a run of the whole program ends within this time.
const LIMIT: Duration = Duration::from_secs(900);
/// Before a report in the output of the rig's machine.
const REPORT_MARK: &str = "@@REPORT ";
/// Benchmarks that make no sense where time is a count of instructions.
const TIMED_ONLY: [&str; 2] = ["nanosleep_1ns", "nanosleep_1ms_late"];

/// Options of `cargo xtask bench`.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchArgs {
    /// In the rig: kvm_amd, with an HVM guest under QEMU/KVM beside it
    #[arg(long)]
    rig: bool,
    /// In the rig, counting instructions: path lengths instead of times
    #[arg(long)]
    icount: bool,
    /// The guest's kernel: 5.10, 6.1, 6.12
    #[arg(long, default_value = DEFAULT_KERNEL)]
    kernel: String,
    /// Boots timed for each
    #[arg(long, default_value_t = 5)]
    boots: u32,
    /// Put the table into docs/performance.md
    #[arg(long)]
    write: bool,
    /// Leave QEMU out
    #[arg(long)]
    no_qemu: bool,
    /// Leave the times of the bare machine out
    #[arg(long)]
    no_bare: bool,
    /// Disks and networks instead, virtio beside Xen's
    #[arg(long, conflicts_with = "icount")]
    devices: bool,
    /// Where the staged files are
    #[arg(long, hide = true, requires = "xenner")]
    assets: Option<PathBuf>,
    /// The program under test
    #[arg(long, hide = true)]
    xenner: Option<PathBuf>,
    /// QEMU, as JSON
    #[arg(long, hide = true)]
    qemu: Option<String>,
    /// Benchmarks to run (`guest-bench --list`); all if none is named
    names: Vec<String>,
}

impl BenchArgs {
    /// The words with which the rig's machine repeats these options.
    fn words(&self) -> String {
        let mut words = vec![format!("--kernel {} --boots {}", self.kernel, self.boots)];
        let flags = [("--icount", self.icount), ("--no-qemu", self.no_qemu)];
        let bare = [("--no-bare", self.no_bare), ("--devices", self.devices)];
        words.extend(
            flags
                .iter()
                .chain(&bare)
                .filter(|(_, on)| *on)
                .map(|(f, _)| (*f).to_owned()),
        );
        words.extend(self.names.clone());
        words.join(" ")
    }

    /// The guest program's arguments.
    fn program_words(&self) -> Vec<String> {
        let mut words: Vec<String> = self.names.clone();
        if self.devices {
            words.extend(["--aim", "200", "--reps", "5"].map(str::to_owned));
        }
        if self.devices && self.names.is_empty() {
            words.extend(devices::NAMES.map(|(name, _)| name.to_owned()));
        }
        if self.icount {
            words.extend(["--aim", "4", "--reps", "5"].map(str::to_owned));
        }
        if self.icount && self.names.is_empty() {
            words.extend(SINGLE_CPU.map(str::to_owned));
            words.retain(|word| !TIMED_ONLY.contains(&word.as_str()));
        }
        if !self.icount {
            words.push("--marks".to_owned());
        }
        words
    }
}

/// The rows that yardsticks of path length are given for.
const SINGLE_CPU: [&str; 17] = [
    "rdtsc",
    "cpuid",
    "syscall_getppid",
    "read_1_zero",
    "signal_roundtrip",
    "exception_ud2",
    "page_fault",
    "fork_exit_wait",
    "fork_exec_wait",
    "pipe_pingpong_1cpu",
    "sched_yield",
    "mmap_munmap_64k",
    "mmap_touch_unmap_64k",
    "mprotect_64k",
    "gettimeofday",
    "clock_gettime_syscall",
    "nanosleep_1ns",
];

/// Run the benchmarks, print the table, and keep it in the target directory.
pub fn bench(ws: &Workspace, args: &BenchArgs) -> Result<ExitCode> {
    let report = if args.rig || args.icount {
        in_rig(ws, args)?
    } else {
        on_host(ws, args)?
    };
    let dir = ws.target.join("bench");
    make_dir(&dir)?;
    let kind = report.title.split(',').next().unwrap_or("kvm").to_owned();
    let name = if args.icount {
        "icount".to_owned()
    } else if args.devices {
        format!("{kind}-devices")
    } else {
        kind
    };
    let json = serde_json::to_string_pretty(&report).map_err(bad_report)?;
    write_whole(&dir.join(format!("{name}.json")), json.as_bytes())?;
    write_whole(
        &dir.join(format!("{name}.md")),
        report.markdown().as_bytes(),
    )?;
    println!("{}", report.markdown());
    if args.write {
        write_section(
            &ws.root.join("docs/performance.md"),
            &name,
            &report.markdown(),
        )?;
    }
    ui::step(&format!(
        "Kept as {}",
        dir.join(format!("{name}.md")).display()
    ));
    Ok(ExitCode::SUCCESS)
}

/// Replace the part of `page` between the marks of section `name`.
fn write_section(page: &Path, name: &str, table: &str) -> Result<()> {
    let text = std::fs::read_to_string(page).map_err(Error::file("read", page))?;
    let (begin, end) = (
        format!("<!-- begin: {name} -->\n"),
        format!("<!-- end: {name} -->"),
    );
    let parts = text.split_once(&begin).and_then(|(head, rest)| {
        rest.split_once(&end)
            .map(|(_, tail)| [head, &begin, table, &end, tail].concat())
    });
    let new = parts.ok_or_else(|| {
        let what = format!("{} has no section {name}", page.display());
        Error::missing(
            what,
            format!("put the lines {} and {end} into it", begin.trim_end()),
        )
    })?;
    write_whole(page, new.as_bytes())
}

fn bad_report(error: serde_json::Error) -> Error {
    Error::Answer {
        program: "the benchmark",
        what: error.to_string(),
    }
}

fn on_host(ws: &Workspace, args: &BenchArgs) -> Result<Report> {
    check_kvm()?;
    let xenner = builds::xenner(ws)?;
    let place = Place {
        assets: assets::stage(ws)?,
        xenner,
    };
    let qemu = QemuWords::of(&Qemu::ensure(ws)?.command());
    if args.devices {
        let mut command = devices::in_namespace()?;
        command.args(["bench-here", "--assets"]).arg(&place.assets);
        command.arg("--xenner").arg(&place.xenner);
        let qemu = serde_json::to_string(&qemu).map_err(bad_report)?;
        command
            .args(["--qemu", &qemu])
            .args(args.words().split(' '));
        let text = capture("the benchmark", &mut command)?;
        let report = text.lines().find_map(|line| line.strip_prefix(REPORT_MARK));
        return serde_json::from_str(report.unwrap_or_default()).map_err(bad_report);
    }
    measure(&place, Vmm::Qemu(qemu, accelerator()), args)
}

/// What QEMU runs with beside xenner: where ring 0 is interpreted, a stock HVM
/// guest does not get anywhere.
fn accelerator() -> &'static str {
    if flavour() == "kvm_pvm" { "tcg" } else { "kvm" }
}

fn in_rig(ws: &Workspace, args: &BenchArgs) -> Result<Report> {
    let mut image = Image::with_xenner(ws)?;
    image.qemu(&Qemu::ensure(ws)?)?;
    let myself = std::env::current_exe().map_err(Error::file("find", "/proc/self/exe"))?;
    image.program(&myself)?;
    let limit = Duration::from_secs(3600);
    let machine = Machine {
        icount: args.icount,
        limit,
        ..Machine::default()
    };
    let mut report = None;
    let outcome = machine.run(
        ws,
        image,
        &format!("xtask bench-here {}", args.words()),
        &mut |line| match line.strip_prefix(REPORT_MARK) {
            Some(json) => report = Some(serde_json::from_str(json).map_err(bad_report)),
            None => ui::note(line),
        },
    )?;
    report.unwrap_or_else(|| {
        let tail = outcome.console_tail(25);
        Err(Error::Failed {
            command: "xtask bench-here".into(),
            status: "no report".into(),
            tail,
        })
    })
}

/// The hidden command that runs in the rig's machine.
pub fn bench_here(args: &BenchArgs) -> Result<ExitCode> {
    let mut place = Place::in_rig();
    if let (Some(assets), Some(xenner)) = (&args.assets, &args.xenner) {
        (place.assets, place.xenner) = (assets.clone(), xenner.clone());
    }
    let qemu = match &args.qemu {
        Some(json) => serde_json::from_str(json).map_err(bad_report)?,
        None => QemuWords::in_rig(),
    };
    let report = measure(&place, Vmm::Qemu(qemu, accelerator()), args)?;
    println!(
        "{REPORT_MARK}{}",
        serde_json::to_string(&report).map_err(bad_report)?
    );
    Ok(ExitCode::SUCCESS)
}

fn measure(place: &Place, qemu: Vmm, args: &BenchArgs) -> Result<Report> {
    let cpus = if args.icount { 1 } else { 2 };
    let special = if args.icount {
        ", instructions counted"
    } else {
        ""
    };
    let title = format!(
        "{}, Debian {}, {cpus} vCPU{special}",
        flavour(),
        args.kernel
    );
    let unit = if args.icount { "instructions" } else { "ns" }.to_owned();
    let mut report = Report {
        title,
        unit,
        cpu: args.devices,
        columns: Vec::new(),
    };
    if !args.no_bare && !args.devices {
        report.columns.push(bare(place, args)?);
    }
    let mut vmms = vec![Vmm::Xenner(place.xenner.clone())];
    if !args.no_qemu {
        vmms.push(qemu);
    }
    for vmm in vmms {
        let mut column = Column {
            name: vmm.name(),
            ..Column::default()
        };
        if !args.icount && !args.devices {
            boots(place, &vmm, args, &mut column)?;
        }
        operations(place, &vmm, args, cpus, &mut column)?;
        report.columns.push(column);
    }
    Ok(report)
}

/// The program on the machine itself.
fn bare(place: &Place, args: &BenchArgs) -> Result<Column> {
    ui::step("Benchmark on the machine itself");
    let mut command = Command::new(place.asset("guest-bench"));
    let words = args.program_words();
    command
        .args(words.iter().filter(|word| *word != "--marks"))
        .stdin(Stdio::null());
    let text = crate::process::capture("guest-bench", &mut command)?;
    let rows = text.lines().filter_map(Row::parse).collect();
    Ok(Column {
        name: "bare".to_owned(),
        rows,
        ..Column::default()
    })
}

fn files(place: &Place, args: &BenchArgs) -> (PathBuf, PathBuf) {
    (
        place.asset(&format!("kernel-{}", args.kernel)),
        place.asset("initramfs"),
    )
}

fn boots(place: &Place, vmm: &Vmm, args: &BenchArgs, column: &mut Column) -> Result<()> {
    ui::step(&format!("{}: {} boots, 1 vCPU", vmm.name(), args.boots));
    let (kernel, initrd) = files(place, args);
    for _ in 0..args.boots {
        let shape = Shape::linux(kernel.clone(), initrd.clone(), "true", 1);
        let mut guest = Guest::start(vmm, &shape, |_| (), LIMIT)?;
        let mut up = None;
        while let Some((time, line)) = guest.line()? {
            if line.contains("@@UP") {
                up = Some(guest.seconds(time));
            }
        }
        let end = guest.finish()?;
        let up = up.ok_or_else(|| guest.failure("it never reached user space"))?;
        column.to_user_space.push(up);
        column.to_power_off.push(guest.seconds(end));
    }
    let (up, off) = (median(&column.to_user_space), median(&column.to_power_off));
    ui::note(&format!("{up:.2} s to user space, {off:.2} s to power-off"));
    Ok(())
}

/// The whole program in one guest; counters are read at its marks.
fn operations(
    place: &Place,
    vmm: &Vmm,
    args: &BenchArgs,
    cpus: u32,
    column: &mut Column,
) -> Result<()> {
    ui::step(&format!("{}: benchmark, {cpus} vCPU", vmm.name()));
    let (kernel, mut initrd) = files(place, args);
    let words = args.program_words().join(" ");
    let devices = args.devices.then(|| Devices::new(place)).transpose()?;
    let mut program = format!("guest-bench {words}");
    if let Some(devices) = &devices {
        initrd = place.asset("initramfs-devices");
        program = devices.program(vmm, &words);
    }
    let shape = Shape::linux(kernel, initrd, &program, cpus);
    let prepare = |command: &mut Command| {
        if let Vmm::Xenner(_) = vmm {
            command.args(["-xenner", "stats=on"]);
        }
        if let Some(devices) = &devices {
            devices.give(vmm, command);
        }
    };
    let mut guest = Guest::start(vmm, &shape, prepare, LIMIT)?;
    if let Some(devices) = &devices {
        devices.connect()?;
    }
    let mut counters = None;
    let (mut began, mut before) = (0, None);
    let (mut cpu, mut counted, mut status) = (None, None, None);
    while let Some((_, line)) = guest.line()? {
        if line.starts_with("@@BEGIN") {
            counters = counters.or_else(|| Counters::open(guest.pid()));
            before = counters.as_ref().map(Counters::read);
            began = cpu_time(guest.pid());
        } else if let Some(rest) = line.strip_prefix("@@END ") {
            let operations: Option<u64> = rest
                .split(' ')
                .nth(1)
                .and_then(|number| number.parse().ok());
            let ran = cpu_time(guest.pid()).saturating_sub(began);
            cpu = operations.map(|n| ran as f64 / n.max(1) as f64);
            let exits = before
                .zip(counters.as_ref())
                .map(|(before, now)| now.read().since(before));
            counted = exits
                .zip(operations)
                .map(|(exits, n)| Counted::new(exits, n));
        } else if let Some(code) = line.strip_prefix("@@RC=") {
            status = Some(code.to_owned());
        } else if let Some(row) = Row::parse(&line) {
            ui::note(&line);
            column.rows.push(Row {
                cpu: cpu.take(),
                exits: counted.take(),
                ..row
            });
        }
    }
    guest.finish()?;
    if status.as_deref() != Some("0") {
        return Err(guest.failure(&format!("the program ended with {status:?}")));
    }
    Ok(())
}

/// Nanoseconds that a process has run so far, in user mode, kernel mode and as a
/// guest (`proc(5)`, utime and stime, in ticks of 10 ms); 0 if it has ended.
fn cpu_time(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before it may hold blanks.
    let rest = text.rsplit(") ").next().unwrap_or_default();
    let ticks: u64 = rest
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|number| number.parse::<u64>().ok())
        .sum();
    ticks * 10_000_000
}
