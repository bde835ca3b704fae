//! What a process that makes no progress does: its threads and KVM's counters, twice, a second apart.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Where KVM's counters are, for root.
const COUNTERS: &str = "/sys/kernel/debug/kvm";

/// Lines for a failure's message; what cannot be read is left out.
pub fn of(pid: u32) -> String {
    let mut text = String::new();
    for round in 0..2 {
        if round > 0 {
            std::thread::sleep(Duration::from_secs(1));
        }
        text.push_str("threads (state, ticks in user and kernel mode, where it waits):\n");
        for task in entries(&format!("/proc/{pid}/task")) {
            let stat = read(&format!("{task}/stat"));
            // The name may hold anything but this.
            let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
            let fields: Vec<_> = fields.split_whitespace().collect();
            if let Some([user, kernel]) = fields.get(11..13)
                && let Some(state) = fields.first()
            {
                let name = read(&format!("{task}/comm"));
                let stack = read(&format!("{task}/stack"));
                let stack = stack.lines().next().unwrap_or_default();
                // A string takes everything.
                let _ = writeln!(text, "  {name}: {state} {user} {kernel} {stack}");
            }
        }
        for machine in entries(COUNTERS) {
            let ours = Path::new(&machine)
                .file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with(&format!("{pid}-")));
            if ours {
                text.push_str(&counters(&machine));
            }
        }
    }
    text
}

/// KVM's counters of a machine that are not 0, on one line.
fn counters(machine: &str) -> String {
    let mut line = String::from("  kvm:");
    for file in entries(machine) {
        let value = read(&file);
        if value.parse().is_ok_and(|count: u64| count > 0) {
            let name = file.rsplit('/').next().unwrap_or_default();
            let _ = write!(line, " {name}={value}");
        }
    }
    line.push('\n');
    line
}

/// The files in a directory, in order.
fn entries(dir: &str) -> Vec<String> {
    let found = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = found
        .filter_map(|entry| entry.path().to_str().map(str::to_owned))
        .collect();
    names.sort();
    names
}

fn read(file: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.trim().to_owned()
}
