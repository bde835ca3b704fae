//! The client program against a console made for the purpose, on a real terminal.

mod terminal;

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use terminal::{Terminal, eventually, wait};
use xenner_console::config::{ChardevBackend, ChardevConfig, SocketAddress, SocketRole};
use xenner_console::{Chardev, ChardevOptions, InheritedFds};

fn client(target: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xenner-console"));
    command.arg(target);
    command
}

fn refused(target: impl AsRef<std::ffi::OsStr>) -> String {
    let Output { status, stderr, .. } = client(target).stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr
}

fn server(path: &Path) -> Chardev {
    let backend = ChardevBackend::Socket {
        address: SocketAddress::Unix(path.to_owned()),
        role: SocketRole::Server { wait: false },
        nodelay: false,
    };
    let config = ChardevConfig::new("serial0", backend);
    Chardev::open(
        &config,
        ChardevOptions::default(),
        &mut InheritedFds::default(),
    )
    .unwrap()
}

#[test]
fn a_session_passes_keys_and_output_and_leaves_the_terminal_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    let listener = UnixListener::bind(&path).unwrap();
    let mut terminal = Terminal::new();
    let before = format!("{:?}", terminal.modes());
    let mut child = terminal.spawn(&mut client(&path));
    let (mut domain, _) = listener.accept().unwrap();
    terminal.expect("Ctrl-] detaches.");
    eventually("raw mode", || terminal.is_raw());
    domain.write_all(b"login: \x1b[1mbold\n").unwrap();
    assert!(
        terminal.expect("bold\n").ends_with("login: \x1b[1mbold\n"),
        "output is untouched"
    );
    terminal.type_keys(b"root\r\x03\x01x");
    let mut keys = [0; 8];
    domain.read_exact(&mut keys).unwrap();
    assert_eq!(&keys, b"root\r\x03\x01x", "the keys are untouched");
    terminal.type_keys(b"last\x1dnever");
    assert_eq!(wait(&mut child).code(), Some(0));
    terminal.expect("Detached from");
    assert_eq!(format!("{:?}", terminal.modes()), before);
    let mut rest = String::new();
    domain.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "last");
}

#[test]
fn detaching_works_while_the_domain_takes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    let listener = UnixListener::bind(&path).unwrap();
    let mut terminal = Terminal::new();
    let mut child = terminal.spawn(&mut client(&path));
    let (domain, _) = listener.accept().unwrap();
    eventually("raw mode", || terminal.is_raw());
    let mut before = 0;
    loop {
        terminal.type_keys(&[b'k'; 4000]);
        std::thread::sleep(Duration::from_millis(50));
        let arrived = rustix::io::ioctl_fionread(&domain).unwrap();
        if arrived == before {
            break;
        }
        before = arrived;
    }
    terminal.type_keys(b"\x1d");
    assert_eq!(wait(&mut child).code(), Some(0));
    drop(domain);
}

#[test]
fn the_end_of_the_domain_ends_the_session() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    let mut domain = server(&path);
    domain.write(b"scrollback\r\n");
    let mut terminal = Terminal::new();
    let mut child = terminal.spawn(&mut client(&path));
    eventually("attached", || {
        domain.dispatch();
        domain.is_connected()
    });
    terminal.expect("scrollback\r\n");
    domain.write(b"Power down\r\n");
    drop(domain);
    assert_eq!(wait(&mut child).code(), Some(0));
    terminal.expect("Power down\r\n");
    terminal.expect("has closed its console");
    assert!(!terminal.is_raw());
}

#[test]
fn a_second_client_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    let mut domain = server(&path);
    let mut terminal = Terminal::new();
    let mut child = terminal.spawn(&mut client(&path));
    eventually("attached", || {
        domain.dispatch();
        domain.is_connected()
    });
    let second = client(&path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    let mut second = second.unwrap();
    eventually("refused", || {
        domain.dispatch();
        second
            .try_wait()
            .unwrap()
            .is_some_and(|status| status.code() == Some(1))
    });
    terminal.type_keys(b"\x1d");
    wait(&mut child);
}

#[test]
fn a_pty_is_attached_by_one_client_at_a_time() {
    let config = ChardevConfig::new("serial0", ChardevBackend::Pty { path: None });
    let options = ChardevOptions::default();
    let mut domain = Chardev::open(&config, options, &mut InheritedFds::default()).unwrap();
    let path = domain.filename().strip_prefix("pty:").unwrap().to_owned();
    domain.write(b"before\r\n");
    let mut terminal = Terminal::new();
    let mut child = terminal.spawn(&mut client(&path));
    eventually("attached", || {
        domain.dispatch();
        domain.is_connected()
    });
    terminal.expect("before\r\n");
    assert!(
        refused(&path).contains("open in another"),
        "one reader only"
    );
    terminal.type_keys(b"x\x03");
    let mut keys = Vec::<u8>::new();
    eventually("the keys arrive", || {
        let mut buf = [0; 8];
        let got = domain.read(&mut buf);
        keys.extend(&buf[..got]);
        keys == b"x\x03"
    });
    drop(domain);
    assert_eq!(wait(&mut child).code(), Some(0));
    terminal.expect("has closed its console");
}

#[test]
fn signals_leave_the_terminal_as_it_was() {
    for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console");
        let _listener = UnixListener::bind(&path).unwrap();
        let terminal = Terminal::new();
        let mut child = terminal.spawn(&mut client(&path));
        eventually("raw mode", || terminal.is_raw());
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(wait(&mut child).code(), None, "killed by the signal");
        assert!(!terminal.is_raw(), "{signal:?}");
    }
}

#[test]
fn without_a_terminal_it_is_a_pipe() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    let listener = UnixListener::bind(&path).unwrap();
    let mut command = client(&path);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut domain, _) = listener.accept().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"bytes \x1d too")
        .unwrap();
    let mut keys = [0; 11];
    domain.read_exact(&mut keys).unwrap();
    assert_eq!(&keys, b"bytes \x1d too");
    let big = vec![b'o'; 500_000];
    let writer = std::thread::spawn(move || domain.write_all(&big).unwrap());
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert_eq!(
        (status.code(), stdout.len(), stderr.len()),
        (Some(0), 500_000, 0)
    );
}

#[test]
fn a_name_is_looked_up_in_the_run_directory() {
    let name = format!("no-such-domain-{}", std::process::id());
    assert!(refused(&name).contains(&format!("No running domain {name}")));
    assert!(refused("..").contains("cannot be a domain's name"));
    if rustix::process::geteuid().is_root() {
        // Root's run directory is the real one; only the failure is tried there.
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("xenner/debian")).unwrap();
    let in_dir = |arguments: &[&str]| {
        let mut command = client("debian");
        command
            .args(arguments)
            .env("XDG_RUNTIME_DIR", dir.path())
            .stdin(Stdio::null());
        command
    };
    for (file, arguments) in [("console", &[][..]), ("console-1", &["1"])] {
        let listener = UnixListener::bind(dir.path().join("xenner/debian").join(file)).unwrap();
        let mut child = in_dir(arguments).spawn().unwrap();
        drop(listener.accept().unwrap());
        assert_eq!(wait(&mut child).code(), Some(0));
    }
    let none = in_dir(&["2"]).output().unwrap();
    let said = String::from_utf8(none.stderr).unwrap();
    assert!(said.contains("has no console 2"), "{said}");
}

#[test]
fn bad_targets_are_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    assert!(refused(dir.path().join("none")).contains("is missing"));
    assert!(refused(dir.path()).contains("neither a socket nor a terminal"));
    assert!(refused("/dev/null").contains("neither a socket nor a terminal"));
    let dead = dir.path().join("dead");
    drop(UnixListener::bind(&dead).unwrap());
    assert!(refused(&dead).contains("its domain has ended"));
    assert!(refused(dir.path().join("x".repeat(150)).join("y")).contains("is missing"));
    let numbered = client("/a/path").arg("1").output().unwrap();
    let said = String::from_utf8(numbered.stderr).unwrap();
    assert!(said.contains("leave the number out"), "{said}");
}

#[test]
fn the_command_line_has_help_and_errors() {
    let help = client("--help").output().unwrap();
    assert!(help.status.success());
    assert!(
        String::from_utf8(help.stdout)
            .unwrap()
            .contains("Ctrl-] detaches")
    );
    for arguments in [
        &[][..],
        &["a", "b"],
        &["-e", "abc", "a"],
        &["--nonsense", "a"],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xenner-console"));
        assert_eq!(
            command.args(arguments).output().unwrap().status.code(),
            Some(2)
        );
    }
}
