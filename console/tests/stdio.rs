//! The stdio end, in a child process on a terminal, on pipes and on files.
//!
//! The child is this very test program, told by an environment variable to run [`child`] only.

mod terminal;

use std::io::{Read, Seek, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{LocalModes, OutputModes};
use terminal::{Terminal, eventually, wait};
use xenner_console::config::{ChardevBackend, ChardevConfig};
use xenner_console::{Chardev, ChardevError, ChardevEvent, ChardevOptions, InheritedFds};

const ROLE: &str = "XENNER_TEST_STDIO";

fn spawn_as(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child", "--nocapture", "--quiet"])
        .env(ROLE, role);
    command
}

/// Not a test: an upper-casing "domain" on stdio, whose role decides how it ends.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let signal = role == "signal";
    let backend = ChardevBackend::Stdio { signal };
    let config = ChardevConfig {
        mux: role == "mux",
        ..ChardevConfig::new("serial0", backend)
    };
    let open = || {
        Chardev::open(
            &config,
            ChardevOptions::default(),
            &mut InheritedFds::default(),
        )
    };
    let mut device = open().unwrap();
    assert!(matches!(open(), Err(ChardevError::StdioTaken { .. })));
    device.set_wants_input(true);
    device.write(b"READY\n");
    let mut idle = 0;
    loop {
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: 100_000_000,
        };
        let mut fds = [PollFd::new(&device, PollFlags::IN)];
        if rustix::event::poll(&mut fds, Some(&timeout)).unwrap_or(0) == 0 {
            idle += 1;
            if role == "pipe" && idle > 5 {
                return;
            }
        }
        device.dispatch();
        let mut buf = [0; 100];
        let got = device.read(&mut buf);
        let mut text = buf[..got].to_ascii_uppercase();
        while !text.is_empty() {
            let taken = device.write(&text);
            text.drain(..taken);
            device.dispatch();
        }
        match buf[..got].last() {
            Some(b'!') if role == "panic" => panic!("as told"),
            Some(b'!') if role == "exit" => std::process::exit(3),
            Some(b'!') if role == "abort" => std::process::abort(),
            Some(b'!') => return,
            _ => {}
        }
        if device.take_events().contains(&ChardevEvent::Quit) {
            return;
        }
    }
}

fn start(role: &str) -> (Terminal, Child) {
    let mut terminal = Terminal::new();
    let child = terminal.spawn(&mut spawn_as(role));
    terminal.expect("READY\r\n");
    assert!(terminal.is_raw());
    (terminal, child)
}

#[test]
fn keys_are_the_guests_and_the_terminal_comes_back_however_it_ends() {
    for role in ["plain", "exit", "panic", "abort"] {
        let before = format!("{:?}", Terminal::new().modes());
        let (mut terminal, mut child) = start(role);
        assert!(terminal.modes().output_modes.contains(OutputModes::OPOST));
        assert!(!terminal.modes().local_modes.contains(LocalModes::ISIG));
        terminal.type_keys(b"abc\x03\x1a\n");
        terminal.expect("ABC\x03\x1a\r\n");
        terminal.type_keys(b"!");
        wait(&mut child);
        assert_eq!(format!("{:?}", terminal.modes()), before, "{role}");
    }
}

#[test]
fn signal_keys_can_be_left_to_the_process() {
    let (mut terminal, mut child) = start("signal");
    assert!(terminal.modes().local_modes.contains(LocalModes::ISIG));
    terminal.type_keys(b"!");
    wait(&mut child);
}

#[test]
fn deadly_signals_put_the_terminal_back() {
    for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT] {
        let (terminal, mut child) = start("plain");
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(wait(&mut child).code(), None);
        assert!(!terminal.is_raw(), "{signal:?}");
    }
}

#[test]
fn a_suspended_process_gives_the_terminal_back_for_the_time() {
    let (mut terminal, mut child) = start("plain");
    let pid = Pid::from_child(&child);
    for _ in 0..2 {
        kill_process(pid, Signal::TSTP).unwrap();
        eventually("stopped", || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
            stat.rsplit(") ").next().unwrap().starts_with('T')
        });
        assert!(!terminal.is_raw());
        kill_process(pid, Signal::CONT).unwrap();
        eventually("raw again", || terminal.is_raw());
        terminal.type_keys(b"on");
        terminal.expect("ON");
    }
    terminal.type_keys(b"!");
    wait(&mut child);
    assert!(!terminal.is_raw());
}

#[test]
fn escape_keys_are_obeyed_on_a_terminal() {
    let (mut terminal, mut child) = start("mux");
    terminal.type_keys(b"\x01h");
    terminal.expect("C-a x");
    terminal.type_keys(b"\x01c");
    terminal.expect("no monitor");
    terminal.type_keys(b"a\x01\x01b\x01b");
    terminal.expect("A\x01B\x0f");
    terminal.type_keys(b"\x01x");
    terminal.expect("terminated");
    wait(&mut child);
    assert!(!terminal.is_raw());
}

#[test]
fn a_terminal_that_goes_away_does_not_keep_the_process_busy() {
    let (terminal, mut child) = start("plain");
    drop(terminal);
    std::thread::sleep(Duration::from_millis(500));
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    assert!(ticks < 20, "{ticks} ticks of CPU time");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn pipes_and_files_are_input_and_output_too() {
    let mut child = spawn_as("pipe")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keys = child.stdin.take().unwrap();
    let typist = std::thread::spawn(move || keys.write_all(&[b'x'; 200_000]).unwrap());
    let output = child.wait_with_output().unwrap();
    typist.join().unwrap();
    let shouted = output.stdout.iter().filter(|&&byte| byte == b'X').count();
    assert_eq!(shouted, 200_000);

    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"from a file").unwrap();
    file.rewind().unwrap();
    let mut out = tempfile::tempfile().unwrap();
    let status = spawn_as("pipe")
        .stdin(file)
        .stdout(out.try_clone().unwrap())
        .status()
        .unwrap();
    assert!(status.success());
    out.rewind().unwrap();
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    assert!(text.contains("READY\nFROM A FILE"), "{text:?}");

    let status = spawn_as("pipe")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn a_closed_output_loses_the_output_only() {
    let mut child = spawn_as("plain")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut keys = child.stdin.take().unwrap();
    keys.write_all(b"some\n").unwrap();
    keys.write_all(b"more!").unwrap();
    // The test harness in the child may dislike its closed output; it must not hang or be killed.
    assert!(wait(&mut child).code().is_some());
}
