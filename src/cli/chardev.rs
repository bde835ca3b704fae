//! `-chardev`, and QEMU's older short forms of it that `-serial` takes.
//!
//! Turns text into `xenner_console::config` types; opens nothing.

use std::path::PathBuf;
use std::time::Duration;

use xenner_console::config::{
    ChardevBackend, ChardevConfig, RINGBUF_DEFAULT_SIZE, RINGBUF_SIZES, SocketAddress, SocketRole,
};

use super::error::CliError;
use super::keyval::{KeyVals, KeyvalError};
use super::suggest::nearest;

/// Backends of `-chardev`, with what they are.
pub(crate) const BACKENDS: [(&str, &str); 8] = [
    ("stdio", "this terminal: [,signal=on|off]"),
    ("pty", "a new pseudo-terminal: [,path=LINK]"),
    (
        "socket",
        "a unix or TCP socket: path=PATH or host=HOST,port=PORT or fd=N \
         [,server=on|off][,wait=on|off][,reconnect=SECONDS][,nodelay=on|off]",
    ),
    ("file", "a file, output alone: path=PATH[,append=on|off]"),
    ("pipe", "the FIFOs PATH.in and PATH.out: path=PATH"),
    ("ringbuf", "the last output, kept in memory: [,size=BYTES]"),
    ("memory", "the same as ringbuf"),
    ("null", "nothing"),
];

/// Backends that QEMU has beyond these.
const QEMU_BACKENDS: [&str; 14] = [
    "braille",
    "console",
    "dbus",
    "hub",
    "msmouse",
    "parallel",
    "parport",
    "serial",
    "spiceport",
    "spicevmc",
    "testdev",
    "tty",
    "udp",
    "vc",
];

/// The value of `-chardev`. `signal` is what `stdio` does with Ctrl-C when
/// the value does not say.
pub(super) fn parse(value: &str, signal: bool) -> Result<ChardevConfig, CliError> {
    let in_value = CliError::in_value("chardev");
    let mut keys = KeyVals::parse(value, Some("backend")).map_err(&in_value)?;
    let name = keys.need_text("backend", "pty").map_err(&in_value)?;
    if !BACKENDS.iter().any(|(known, _)| *known == name) {
        return Err(no_backend(name));
    }
    let chardev = common(&name, &mut keys, signal).map_err(&in_value)?;
    keys.finish().map_err(&in_value)?;
    Ok(chardev)
}

fn no_backend(name: String) -> CliError {
    if QEMU_BACKENDS.contains(&name.as_str()) {
        return CliError::UnsupportedValue {
            option: "chardev",
            value: name,
            what: "This backend is",
        };
    }
    let problem = match nearest(&name, BACKENDS.iter().map(|(known, _)| *known)) {
        Some(near) => format!("is not a backend; did you mean '{near}'?"),
        None => "is not a backend; '-chardev help' lists them".to_owned(),
    };
    CliError::Invalid {
        option: "chardev",
        value: name,
        problem,
    }
}

fn common(name: &str, keys: &mut KeyVals, signal: bool) -> Result<ChardevConfig, KeyvalError> {
    let id = keys.need_text("id", "NAME")?;
    if !well_formed(&id) {
        let rule = "not an id; start with a letter, go on with letters, digits, '-', '.' and '_'";
        return Err(wrong("id", id, rule));
    }
    let mux = keys.take_bool("mux")?.unwrap_or(false);
    let backend = match name {
        "stdio" => ChardevBackend::Stdio {
            signal: keys.take_bool("signal")?.unwrap_or(signal && !mux),
        },
        "pty" => ChardevBackend::Pty {
            path: keys.take_text("path")?.map(PathBuf::from),
        },
        "socket" => socket(keys)?,
        "file" => ChardevBackend::File {
            path: keys.need_text("path", "FILE")?.into(),
            append: keys.take_bool("append")?.unwrap_or(false),
        },
        "pipe" => ChardevBackend::Pipe {
            path: keys.need_text("path", "FILE")?.into(),
        },
        "ringbuf" | "memory" => ringbuf(keys)?,
        _ => ChardevBackend::Null,
    };
    let mut chardev = ChardevConfig::new(id, backend);
    chardev.mux = mux;
    chardev.logfile = keys.take_text("logfile")?.map(PathBuf::from);
    chardev.logappend = keys.take_bool("logappend")?.unwrap_or(false);
    Ok(chardev)
}

/// QEMU's rule for ids.
pub(super) fn well_formed(id: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || ['-', '.', '_'].contains(&c);
    id.starts_with(|c: char| c.is_ascii_alphabetic()) && id.chars().all(inner)
}

fn ringbuf(keys: &mut KeyVals) -> Result<ChardevBackend, KeyvalError> {
    let Some(bytes) = keys.take_size("size", 1)? else {
        return Ok(ChardevBackend::Ringbuf {
            size: RINGBUF_DEFAULT_SIZE,
        });
    };
    match usize::try_from(bytes) {
        Ok(size) if RINGBUF_SIZES.contains(&size) && size.is_power_of_two() => {
            Ok(ChardevBackend::Ringbuf { size })
        }
        _ => Err(wrong(
            "size",
            bytes,
            "not a power of two from 2 to 1G; write one, like 64K",
        )),
    }
}

fn wrong(key: &str, value: impl ToString, expected: &str) -> KeyvalError {
    KeyvalError::Invalid {
        key: key.to_owned(),
        value: value.to_string(),
        expected: expected.to_owned(),
    }
}

/// The keys of a socket, the same for `-chardev socket`, `-serial unix:` and `-serial tcp:`.
fn socket(keys: &mut KeyVals) -> Result<ChardevBackend, KeyvalError> {
    for layer in ["telnet", "tn3270", "websocket", "abstract"] {
        if keys.take_bool(layer)? == Some(true) {
            return Err(wrong(
                layer,
                "on",
                "not supported by this version; leave it out",
            ));
        }
    }
    keys.accept(&["tight"]);
    let server = keys.take_bool("server")?.unwrap_or(false);
    let role = if server {
        server_role(keys)?
    } else {
        client_role(keys)?
    };
    let address = address(keys, server)?;
    let nodelay = nodelay(keys)?;
    if nodelay && !matches!(address, SocketAddress::Tcp { .. }) {
        return Err(wrong(
            "nodelay",
            "on",
            "means something for TCP alone; leave it out",
        ));
    }
    Ok(ChardevBackend::Socket {
        address,
        role,
        nodelay,
    })
}

/// The key is `nodelay` in the short form and `delay` in QEMU's `-chardev`,
/// where `nodelay` alone is its negation: all say the same.
fn nodelay(keys: &mut KeyVals) -> Result<bool, KeyvalError> {
    let nodelay = keys.take_bool("nodelay")?;
    let delay = keys.take_bool("delay")?;
    match (nodelay, delay) {
        (Some(_), Some(_)) => Err(KeyvalError::Duplicate("nodelay".to_owned())),
        (nodelay, delay) => Ok(nodelay.unwrap_or(delay == Some(false))),
    }
}

fn server_role(keys: &mut KeyVals) -> Result<SocketRole, KeyvalError> {
    for key in ["reconnect", "reconnect-ms"] {
        if let Some(time) = keys.take_number::<u64>(key)?.filter(|time| *time > 0) {
            return Err(wrong(
                key,
                time,
                "a server does not connect; leave it or server=on out",
            ));
        }
    }
    Ok(SocketRole::Server {
        wait: keys.take_bool("wait")?.unwrap_or(true),
    })
}

fn client_role(keys: &mut KeyVals) -> Result<SocketRole, KeyvalError> {
    if keys.take_bool("wait")? == Some(true) {
        return Err(wrong(
            "wait",
            "on",
            "only a server waits; add server=on or leave it out",
        ));
    }
    let seconds = keys
        .take_number::<u64>("reconnect")?
        .map(Duration::from_secs);
    let milliseconds = keys
        .take_number::<u64>("reconnect-ms")?
        .map(Duration::from_millis);
    if seconds.is_some() && milliseconds.is_some() {
        return Err(KeyvalError::Duplicate("reconnect".to_owned()));
    }
    // 0 is QEMU's way to say "do not".
    let reconnect = seconds.or(milliseconds).filter(|time| !time.is_zero());
    Ok(SocketRole::Client { reconnect })
}

fn address(keys: &mut KeyVals, server: bool) -> Result<SocketAddress, KeyvalError> {
    let path = keys.take_text("path")?.filter(|path| !path.is_empty());
    let host = keys.take_text("host")?;
    let port = keys.take_text("port")?;
    let fd = keys.take_text("fd")?;
    keys.accept(&["ipv4", "ipv6"]);
    match (path, port, fd) {
        (Some(path), None, None) if host.is_none() => Ok(SocketAddress::Unix(path.into())),
        (None, Some(port), None) => {
            let number = port
                .parse::<u16>()
                .ok()
                .filter(|number| server || *number != 0);
            let port = number.ok_or_else(|| {
                wrong("port", &port, "not a port; write a number from 1 to 65535")
            })?;
            Ok(SocketAddress::Tcp {
                host: without_brackets(host.unwrap_or_default()),
                port,
            })
        }
        (None, None, Some(fd)) if host.is_none() => {
            let number = fd.parse().ok().filter(|number| *number >= 0);
            let problem = "not a file descriptor; write the number of an open one";
            Ok(SocketAddress::Fd(
                number.ok_or_else(|| wrong("fd", &fd, problem))?,
            ))
        }
        (None, None, None) => match host {
            Some(_) => Err(KeyvalError::Missing("port", "NUMBER")),
            None => Err(KeyvalError::Missing(
                "path",
                "PATH, or host=HOST,port=NUMBER",
            )),
        },
        _ => Err(KeyvalError::SeveralOf("path, host with port, fd")),
    }
}

/// `[::1]` is how a user has to write it in front of a port.
fn without_brackets(host: String) -> String {
    match host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(bare) => bare.to_owned(),
        None => host,
    }
}

/// What a value of `-serial`, `-qmp` or `-monitor` asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Serial {
    /// No console.
    None,
    /// A console on the `-chardev` of this id.
    Existing(String),
    /// A console on an end of its own.
    New(ChardevConfig),
}

/// Words of `-serial`, for suggestions.
const SERIAL_WORDS: [&str; 9] = [
    "stdio", "mon", "pty", "null", "none", "file", "unix", "tcp", "chardev",
];

/// The value of `-serial`, or of another option that takes the same words; a new end gets the
/// label `id`.
pub(super) fn parse_end(
    option: &'static str,
    value: &str,
    id: String,
    signal: bool,
) -> Result<Serial, CliError> {
    let (value, mux) = match value.strip_prefix("mon:") {
        Some(rest) => (rest, true),
        None => (value, false),
    };
    let (word, rest) = match value.split_once(':') {
        Some((word, rest)) => (word, Some(rest)),
        None => (value, None),
    };
    let backend = match (word, rest) {
        ("none", None) if !mux => return Ok(Serial::None),
        ("chardev", Some(id)) if !mux && !id.is_empty() => {
            return Ok(Serial::Existing(id.to_owned()));
        }
        ("null", None) => ChardevBackend::Null,
        ("stdio", None) => ChardevBackend::Stdio {
            signal: signal && !mux,
        },
        ("pty", path) => ChardevBackend::Pty {
            path: path.map(PathBuf::from),
        },
        ("file", Some(path)) if !path.is_empty() => ChardevBackend::File {
            path: path.into(),
            append: false,
        },
        ("pipe", Some(path)) if !path.is_empty() => ChardevBackend::Pipe { path: path.into() },
        ("unix", Some(rest)) => return serial_socket(option, rest, Some("path"), id, mux),
        ("tcp", Some(rest)) => return serial_socket(option, &tcp_keys(rest), None, id, mux),
        ("vc" | "telnet" | "udp" | "msmouse" | "braille" | "websocket", _) => {
            let (value, what) = (word.to_owned(), "This end is");
            return Err(CliError::UnsupportedValue {
                option,
                value,
                what,
            });
        }
        _ => return Err(no_end(option, value, word)),
    };
    let mut chardev = ChardevConfig::new(id, backend);
    chardev.mux = mux;
    Ok(Serial::New(chardev))
}

fn no_end(option: &'static str, value: &str, word: &str) -> CliError {
    let problem = match nearest(word, SERIAL_WORDS) {
        Some(near) if near != word => format!("is not an end; did you mean '{near}'?"),
        _ => "is not an end; write stdio, mon:stdio, pty, file:PATH, unix:PATH, \
              tcp:HOST:PORT, chardev:ID, null or none"
            .to_owned(),
    };
    CliError::Invalid {
        option,
        value: value.to_owned(),
        problem,
    }
}

/// `HOST:PORT,more` as `host=HOST,port=PORT,more`; HOST may be empty or in
/// brackets.
fn tcp_keys(rest: &str) -> String {
    let (address, more) = match rest.split_once(',') {
        Some((address, more)) => (address, format!(",{more}")),
        None => (rest, String::new()),
    };
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    format!("host={host},port={port}{more}")
}

fn serial_socket(
    option: &'static str,
    rest: &str,
    implied: Option<&str>,
    id: String,
    mux: bool,
) -> Result<Serial, CliError> {
    let in_value = CliError::in_value(option);
    let mut keys = KeyVals::parse(rest, implied).map_err(&in_value)?;
    let backend = socket(&mut keys).map_err(&in_value)?;
    let mut chardev = ChardevConfig::new(id, backend);
    chardev.mux = mux;
    chardev.logfile = keys
        .take_text("logfile")
        .map_err(&in_value)?
        .map(PathBuf::from);
    chardev.logappend = keys
        .take_bool("logappend")
        .map_err(&in_value)?
        .unwrap_or(false);
    keys.finish().map_err(&in_value)?;
    Ok(Serial::New(chardev))
}
