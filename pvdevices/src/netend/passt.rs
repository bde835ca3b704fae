//! `-netdev user`: passt, which turns frames into the host's own connections, as a child at the
//! other end of a stream socket. It needs no rights and ends when that socket closes.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use log::{debug, info};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::sockopt;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::config::{ForwardProtocol, UserConfig};
use super::{NetEndError, StreamEnd};

/// Silence after which passt is taken to run although it has not said so.
const START: Duration = Duration::from_secs(2);
/// Begins what passt says of its set-up, when that is done; one that fails says why and ends.
const SET_UP: &str = "MAC:";
/// How long it may take from closing its socket to its end.
const END: Duration = Duration::from_millis(25);
/// Bytes that may be under way on the socket, each way.
const SEND_BUFFER: usize = 4 << 20;
/// The most bytes of what it says that are kept.
const KEPT: usize = 4096;

/// passt, which ends with this.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already; nothing else can go wrong.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

impl Process {
    /// What to say of a passt that has closed its socket.
    pub(super) fn epitaph(mut self) -> String {
        // It closes its socket when it ends; a moment later it has.
        thread::sleep(END);
        let status = match self.child.try_wait() {
            Ok(Some(status)) => status.to_string(),
            _ => "its socket closed".to_owned(),
        };
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        match last_line(&said) {
            Some(line) => format!("passt has ended ({status}): {line}"),
            None => format!("passt has ended ({status})"),
        }
    }
}

/// Starts passt and connects to it.
pub(super) fn start(name: &str, config: &UserConfig) -> Result<StreamEnd, NetEndError> {
    start_program(Path::new("passt"), name, config)
}

fn start_program(
    program: &Path,
    name: &str,
    config: &UserConfig,
) -> Result<StreamEnd, NetEndError> {
    let (ours, theirs) =
        UnixStream::pair().map_err(NetEndError::host("make a socket for passt"))?;
    for socket in [&ours, &theirs] {
        widen(socket);
    }
    // passt closes every other descriptor from standard error on, and that as well if its socket has a
    // lower number (2024 and later). Another child that starts now has the socket until it ends.
    fcntl_setfd(&theirs, FdFlags::empty()).map_err(NetEndError::host("hand passt its socket"))?;
    let mut child = Command::new(program)
        .args(arguments(config, &theirs))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // Ctrl-C is for xenner, which ends passt when the guest has shut down.
        .process_group(0)
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => NetEndError::NoPasst(error),
            _ => NetEndError::Run {
                path: program.into(),
                source: error,
            },
        })?;
    drop(theirs);
    let stderr = child.stderr.take();
    let said = Arc::default();
    let mut process = Process { child, said };
    if let Some(mut stderr) = stderr {
        settle(&mut process, &mut stderr)?;
        let (name, said) = (name.to_owned(), process.said.clone());
        thread::Builder::new()
            .name("passt-log".to_owned())
            .spawn(move || listen(&name, &said, &mut stderr))
            .map_err(NetEndError::host("start a thread for passt"))?;
    }
    info!(target: "xenner::net", "{name}: passt runs as process {}", process.child.id());
    let end = StreamEnd::connected(name, ours.into())
        .map_err(NetEndError::host("set up the socket to passt"))?;
    Ok(end.with_process(process))
}

/// Asks for a large send buffer: passt drops what does not fit, and TCP then waits for a timeout.
fn widen(socket: &UnixStream) {
    let forced = sockopt::set_socket_send_buffer_size_force(socket, SEND_BUFFER);
    // Without rights the host's limit holds (net.core.wmem_max), which is no fault.
    if forced.is_err()
        && let Err(errno) = sockopt::set_socket_send_buffer_size(socket, SEND_BUFFER)
    {
        debug!(target: "xenner::net", "the socket to passt keeps its buffer: {errno}");
    }
}

/// passt's command line (passt(1)).
fn arguments(config: &UserConfig, socket: &impl AsRawFd) -> Vec<String> {
    let mut args: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| args.extend(words.iter().map(|&word| word.to_owned()));
    // passt then serves one guest and ends with it.
    add(&["--foreground", "--fd", &socket.as_raw_fd().to_string()]);
    match (config.ipv4, config.ipv6) {
        (true, false) => add(&["--ipv4-only"]),
        (false, true) => add(&["--ipv6-only"]),
        _ => {}
    }
    if config.ipv4 {
        add(&["--address", &config.guest.to_string()]);
        add(&["--netmask", &config.prefix.to_string()]);
        add(&["--gateway", &config.host.to_string()]);
        add(&["--dns-forward", &config.dns.to_string()]);
    }
    if !config.search.is_empty() {
        add(&["--search", &config.search.join(" ")]);
    }
    for forward in &config.forwards {
        let option = match forward.protocol {
            ForwardProtocol::Tcp => "--tcp-ports",
            ForwardProtocol::Udp => "--udp-ports",
        };
        let addr = forward.host_addr.map(|addr| format!("{addr}/"));
        let ports = format!("{}:{}", forward.host_port, forward.guest_port);
        add(&[option, &format!("{}{ports}", addr.unwrap_or_default())]);
    }
    args
}

/// Waits until passt runs or has failed.
fn settle(process: &mut Process, stderr: &mut ChildStderr) -> Result<(), NetEndError> {
    let mut said = String::new();
    while !said.contains(SET_UP)
        && readable(stderr, START).map_err(NetEndError::host("wait for passt"))?
    {
        let mut buf = [0; 1024];
        match stderr
            .read(&mut buf)
            .map_err(NetEndError::host("read what passt says"))?
        {
            0 => match ended(&mut process.child)? {
                Some(status) => {
                    let line = last_line(&said).unwrap_or("it says nothing");
                    return Err(NetEndError::PasstEnded(format!("{line} ({status})")));
                }
                // It goes on without a word.
                None => break,
            },
            count => keep(&mut said, &buf[..count]),
        }
    }
    debug!(target: "xenner::net", "passt says: {}", said.trim());
    Ok(())
}

/// How a process that has closed its standard error ends, if it is about to.
fn ended(child: &mut Child) -> Result<Option<ExitStatus>, NetEndError> {
    let mut end = || {
        let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
        readable(&process, START)?;
        child.try_wait()
    };
    end().map_err(NetEndError::host::<io::Error>("wait for passt"))
}

fn readable(fd: &impl AsFd, patience: Duration) -> io::Result<bool> {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let timeout = Timespec {
        tv_sec: patience.as_secs().cast_signed(),
        tv_nsec: patience.subsec_nanos().into(),
    };
    Ok(poll(&mut fds, Some(&timeout))? > 0)
}

/// Logs what passt says until it ends.
fn listen(name: &str, said: &Mutex<String>, stderr: &mut ChildStderr) {
    let mut buf = [0; 1024];
    while let Ok(count @ 1..) = stderr.read(&mut buf) {
        let text = String::from_utf8_lossy(&buf[..count]).into_owned();
        debug!(target: "xenner::net", "{name}: passt says: {}", text.trim());
        keep(
            &mut said.lock().unwrap_or_else(PoisonError::into_inner),
            text.as_bytes(),
        );
    }
}

/// Adds to what was said, of which the last part is kept.
fn keep(said: &mut String, more: &[u8]) {
    said.push_str(&String::from_utf8_lossy(more));
    if let Some(excess) = said.len().checked_sub(KEPT) {
        let cut = (excess..said.len()).find(|&at| said.is_char_boundary(at));
        said.drain(..cut.unwrap_or(said.len()));
    }
}

fn last_line(said: &str) -> Option<&str> {
    said.lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty() && !line.contains("to syslog"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Instant;

    use super::*;

    /// Starts a script in passt's place, which gets `--foreground --fd N` first.
    fn started(script: &str) -> (Result<StreamEnd, NetEndError>, Duration) {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("passt");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let begin = Instant::now();
        let end = start_program(&program, "n", &UserConfig::default());
        (end, begin.elapsed())
    }

    /// passt 2025-05-03 closes standard error with a socket of a lower number.
    #[test]
    fn passt_keeps_its_standard_error_beside_its_socket() {
        let script = "[ -S /dev/fd/$3 ] || exit 3; [ $3 -gt 2 ] || exec 2>&-\n\
                      echo MAC: >&2; exec sleep 60";
        let (end, took) = started(script);
        end.unwrap();
        assert!(took < START, "{took:?}");
    }

    #[test]
    fn a_passt_that_closes_its_standard_error_runs() {
        let (end, _) = started("exec 2>&-; exec sleep 60");
        end.unwrap();
    }

    #[test]
    fn a_passt_that_ends_says_why() {
        let (end, _) = started("echo 'No address' >&2; exit 1");
        let error = end.unwrap_err().to_string();
        assert!(error.contains("No address (exit status: 1)"), "{error}");
    }
}
