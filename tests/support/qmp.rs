//! A client of a domain's QMP monitor.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use serde_json::{Value, json};

use super::PATIENCE;

/// A client, past its greeting.
pub struct Qmp {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
    events: Vec<Value>,
}

impl Qmp {
    /// Connect to a socket that is there, or will be soon.
    pub fn connect(socket: &Path) -> Result<Qmp, Failed> {
        let stream = connect(socket, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut qmp = Qmp {
            lines: BufReader::new(stream.try_clone()?),
            stream,
            events: Vec::new(),
        };
        qmp.line()?;
        qmp.run("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    fn line(&mut self) -> Result<Value, Failed> {
        let mut line = String::new();
        if self.lines.read_line(&mut line)? == 0 {
            return Err("the monitor is closed".into());
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// The answer to a command; events on the way are kept.
    pub fn ask(&mut self, command: &str, arguments: Value) -> Result<Value, Failed> {
        let request = json!({"execute": command, "arguments": arguments});
        self.stream.write_all(format!("{request}\n").as_bytes())?;
        loop {
            let line = self.line()?;
            if line.get("event").is_none() {
                return Ok(line);
            }
            self.events.push(line);
        }
    }

    /// What a command returns; it has to succeed.
    pub fn run(&mut self, command: &str, arguments: Value) -> Result<Value, Failed> {
        let mut answer = self.ask(command, arguments)?;
        match answer.get_mut("return") {
            Some(value) => Ok(value.take()),
            None => Err(format!("{command}: {answer}").into()),
        }
    }

    /// Waits for the next event.
    pub fn event(&mut self) -> Result<Value, Failed> {
        match self.events.is_empty() {
            false => Ok(self.events.remove(0)),
            true => self.line(),
        }
    }

    /// Waits for the next event, which has to be this one; gives its data.
    pub fn expect(&mut self, name: &str) -> Result<Value, Failed> {
        let mut event = self.event()?;
        if event["event"] != name {
            return Err(format!("{name} was to come, not {event}").into());
        }
        Ok(event["data"].take())
    }
}

/// Connect to a socket that is there, or will be soon.
pub fn connect(socket: &Path, patience: Duration) -> Result<UnixStream, Failed> {
    let end = Instant::now() + patience;
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return Ok(stream),
            Err(e) if Instant::now() > end => return Err(e.into()),
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}
