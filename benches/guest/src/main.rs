//! The benchmark program that runs inside guests, on bare machines and on the
//! host alike: the operations that virtualization makes dear or cheap.
//!
//! `guest-bench [--list] [--marks] [--reps N] [--aim MS] [--disk DEVICE] [--peer ADDRESS] [NAME...]`
//!
//! One line a benchmark: `NAME median min max ops`, nanoseconds for one
//! operation and operations in one repetition; lines with `#` are comments.
//! A repetition makes as many operations as fill the aimed-at time (found by
//! doubling), so that reading the clock does not enter. With `--marks`, lines
//! `@@BEGIN NAME` and `@@END NAME OPS` enclose the measured repetitions, with
//! a pause on either side, so that an observer outside can read counters.
//!
//! Those of disks and networks run where a disk, which is written to, or the
//! address of a machine that runs `guest-bench serve` is given.
//! `guest-bench transfer ADDRESS BYTES` and `guest-bench connections ADDRESS N`
//! try the network out against the same server.
//!
//! `guest-bench --clock N` prints `@@CLOCK NS`, the monotonic clock, N times,
//! one every 20 ms, for comparing it with a clock outside.

mod aio;
mod compute;
mod disk;
mod kernel;
mod memory;
mod net;
mod processes;
mod sys;

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Time for an observer to see a mark and read its counters.
const MARK_PAUSE: Duration = Duration::from_millis(150);
/// No repetition makes more operations than this.
const MOST_OPERATIONS: u64 = 1 << 28;

/// What a benchmark cannot do without.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// `--disk`
    Disk,
    /// `--peer`
    Peer,
}

impl Needs {
    fn met(self) -> bool {
        match self {
            Needs::Nothing => true,
            Needs::Disk => disk::DISK.get().is_some(),
            Needs::Peer => net::PEER.get().is_some(),
        }
    }
}

/// One benchmark: makes `n` operations and says how long they took. What it
/// prepares or cleans up outside its timed part does not count.
struct Benchmark {
    name: &'static str,
    needs: Needs,
    /// Processors it needs; those with one are bound to the first.
    cpus: usize,
    /// At most so many operations in a repetition.
    most: u64,
    run: fn(u64) -> Duration,
}

const fn single(name: &'static str, run: fn(u64) -> Duration) -> Benchmark {
    Benchmark {
        name,
        needs: Needs::Nothing,
        cpus: 1,
        most: MOST_OPERATIONS,
        run,
    }
}

const fn dual(name: &'static str, run: fn(u64) -> Duration) -> Benchmark {
    Benchmark {
        name,
        needs: Needs::Nothing,
        cpus: 2,
        most: MOST_OPERATIONS,
        run,
    }
}

const fn device(needs: Needs, name: &'static str, run: fn(u64) -> Duration) -> Benchmark {
    Benchmark {
        name,
        needs,
        // Bound to no processor: the kernel's own work goes on beside.
        cpus: 0,
        most: MOST_OPERATIONS,
        run,
    }
}

const ALL: [Benchmark; 36] = [
    single("alu_1000_steps", compute::alu),
    single("hash_buffer_256K", compute::hash_buffer),
    single("hash_table_1000", compute::hash_table),
    single("memcpy_16M", compute::memcpy),
    single("rdtsc", compute::rdtsc),
    single("cpuid", compute::cpuid),
    single("syscall_getppid", kernel::getppid),
    single("read_1_zero", kernel::read_zero),
    single("signal_roundtrip", kernel::signal),
    single("exception_ud2", kernel::exception),
    single("sched_yield", kernel::sched_yield),
    single("gettimeofday", kernel::gettimeofday),
    single("clock_gettime_syscall", kernel::clock_syscall),
    single("nanosleep_1ns", kernel::nanosleep),
    Benchmark {
        name: "nanosleep_1ms_late",
        needs: Needs::Nothing,
        cpus: 1,
        most: 20,
        run: kernel::sleep_lateness,
    },
    Benchmark {
        name: "page_fault",
        needs: Needs::Nothing,
        cpus: 1,
        most: 8192,
        run: memory::page_fault,
    },
    single("mmap_munmap_64k", memory::map_unmap),
    single("mmap_touch_unmap_64k", memory::map_touch_unmap),
    single("mprotect_64k", memory::mprotect),
    single("fork_exit_wait", processes::fork_exit),
    single("fork_exec_wait", processes::fork_exec),
    single("pipe_pingpong_1cpu", processes::pipe_one_cpu),
    dual("pipe_pingpong_2cpu", processes::pipe_two_cpus),
    dual("futex_pingpong_2cpu", processes::futex_two_cpus),
    dual("mprotect_shootdown", memory::mprotect_shootdown),
    device(Needs::Disk, "disk_read_1m", disk::read_large),
    device(Needs::Disk, "disk_write_1m", disk::write_large),
    device(Needs::Disk, "disk_read_4k_d1", disk::read_random),
    device(Needs::Disk, "disk_read_4k_d32", disk::read_random_deep),
    device(Needs::Disk, "disk_write_4k_d1", disk::write_random),
    device(Needs::Disk, "disk_write_4k_d32", disk::write_random_deep),
    device(Needs::Disk, "disk_write_4k_flush", disk::write_flush),
    device(Needs::Peer, "tcp_stream_out_64k", net::stream_out),
    device(Needs::Peer, "tcp_stream_in_64k", net::stream_in),
    device(Needs::Peer, "tcp_request_response", net::request_response),
    device(Needs::Peer, "tcp_connection", net::connection),
];

struct Options {
    marks: bool,
    reps: usize,
    aim: Duration,
    names: Vec<String>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        ALL.iter()
            .for_each(|benchmark| println!("{}", benchmark.name));
        return ExitCode::SUCCESS;
    }
    if let [flag, count] = &arguments[..]
        && flag == "--clock"
        && let Ok(count) = count.parse()
    {
        return show_clock(count);
    }
    if let Some(code) = network_command(&arguments) {
        return code;
    }
    match parse(&arguments) {
        Ok(options) => run(&options),
        Err(message) => {
            eprintln!("guest-bench: {message}");
            ExitCode::from(2)
        }
    }
}

fn show_clock(count: u32) -> ExitCode {
    for _ in 0..count {
        std::thread::sleep(Duration::from_millis(20));
        println!("@@CLOCK {}", sys::monotonic().as_nanos());
        flush();
    }
    ExitCode::SUCCESS
}

/// `serve`, `transfer` and `connections`.
fn network_command(arguments: &[String]) -> Option<ExitCode> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| {
        let why = |error| std::io::Error::other(format!("{text}: {error}"));
        text.parse::<u64>().map_err(why)
    };
    let outcome = match words[..] {
        ["serve"] => net::serve(),
        ["transfer", address, bytes] => number(bytes).and_then(|n| net::transfer(address, n)),
        ["connections", address, n] => number(n).and_then(|n| net::connections(address, n)),
        _ => return None,
    };
    Some(match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guest-bench: {}: {error}", words[0]);
            ExitCode::FAILURE
        }
    })
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options {
        marks: false,
        reps: 11,
        aim: Duration::from_millis(25),
        names: Vec::new(),
    };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if let "--disk" | "--peer" = argument.as_str() {
            let value = rest
                .next()
                .ok_or_else(|| format!("{argument} needs a value"))?;
            let place = if argument == "--disk" {
                &disk::DISK
            } else {
                &net::PEER
            };
            // Set twice: the first one counts.
            place.get_or_init(|| value.clone());
            continue;
        }
        let mut number = || {
            let text = rest
                .next()
                .ok_or_else(|| format!("{argument} needs a number"))?;
            let number = text.parse::<u32>().ok().filter(|&number| number > 0);
            number.ok_or_else(|| format!("{argument}: {text} is no positive number"))
        };
        match argument.as_str() {
            "--marks" => options.marks = true,
            "--reps" => options.reps = number()? as usize,
            "--aim" => options.aim = Duration::from_millis(number()?.into()),
            name if ALL.iter().any(|benchmark| benchmark.name == name) => {
                options.names.push(name.to_owned());
            }
            other => return Err(format!("unknown benchmark or option {other} (see --list)")),
        }
    }
    Ok(options)
}

fn run(options: &Options) -> ExitCode {
    let cpus = std::thread::available_parallelism().map_or(1, |count| count.get());
    sys::shortest_timer_slack();
    header(cpus, options);
    for benchmark in &ALL {
        let chosen = options.names.is_empty() || options.names.iter().any(|n| n == benchmark.name);
        if !chosen || !benchmark.needs.met() {
            continue;
        }
        if benchmark.cpus > cpus {
            println!("# {} needs {} cpus", benchmark.name, benchmark.cpus);
            continue;
        }
        // In a process of its own, so that the memory of one does not make the
        // forks of another dearer, and its processor binding ends with it.
        let child = sys::fork(|| {
            if benchmark.cpus == 1 {
                sys::pin_to(0);
            }
            measure(benchmark, options);
            0
        });
        if child.wait() != 0 {
            eprintln!("guest-bench: {} failed", benchmark.name);
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn header(cpus: usize, options: &Options) {
    let source = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let source = std::fs::read_to_string(source).unwrap_or_else(|_| "unknown".to_owned());
    let (reps, aim) = (options.reps, options.aim.as_millis());
    println!(
        "# cpus {cpus}, clocksource {}, {reps} repetitions of {aim} ms",
        source.trim()
    );
    println!(
        "# {:<20} {:>12} {:>12} {:>12} {:>9}",
        "name (ns/op)", "median", "min", "max", "ops"
    );
    flush();
}

/// Operations that fill the aimed-at time.
fn calibrate(benchmark: &Benchmark, aim: Duration) -> u64 {
    // The first run pays for what the others find in place.
    (benchmark.run)(1);
    let mut operations = 1_u64;
    let mut believed = 0;
    loop {
        let took = (benchmark.run)(operations);
        if operations >= benchmark.most {
            return benchmark.most;
        }
        if took >= aim {
            // So many at once may have had to prepare something too.
            if believed == operations {
                return operations;
            }
            believed = operations;
            continue;
        }
        if took > aim / 8 {
            let scaled = operations as f64 * aim.as_secs_f64() / took.as_secs_f64();
            return (scaled as u64 + 1).min(benchmark.most);
        }
        operations = operations.saturating_mul(2);
    }
}

fn measure(benchmark: &Benchmark, options: &Options) {
    let operations = calibrate(benchmark, options.aim);
    mark(options, || format!("@@BEGIN {}", benchmark.name));
    let mut figures: Vec<f64> = (0..options.reps)
        .map(|_| (benchmark.run)(operations).as_nanos() as f64 / operations as f64)
        .collect();
    mark(options, || {
        format!(
            "@@END {} {}",
            benchmark.name,
            operations * options.reps as u64
        )
    });
    figures.sort_by(f64::total_cmp);
    let (median, least) = (figures[figures.len() / 2], figures[0]);
    let most = figures[figures.len() - 1];
    let name = benchmark.name;
    println!("{name:<22} {median:>12.1} {least:>12.1} {most:>12.1} {operations:>9}");
    flush();
}

fn mark(options: &Options, text: impl FnOnce() -> String) {
    if options.marks {
        // Let what the last line caused come to rest before the mark.
        std::thread::sleep(MARK_PAUSE);
        println!("{}", text());
        flush();
        std::thread::sleep(MARK_PAUSE);
    }
}

fn flush() {
    if std::io::stdout().flush().is_err() {
        // Nobody reads the results any more.
        sys::exit_now(1);
    }
}

/// The time that `work` takes.
fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}
