//! One client's conversation: greeting, negotiation, requests and answers. No I/O.
//!
//! The rules are those of QEMU's `docs/interop/qmp-spec`. Out-of-band execution is not offered.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;

use log::debug;
use serde_json::{Map, Value, json};
use xenner_console::FdSets;

use super::codec::JsonError;
use super::commands::Context;
use super::control::{Control, NamedFds};
use super::error::{ErrorClass, QmpError};
use super::table;

/// The release of QEMU whose command set this is: what clients go by.
pub(super) const QEMU_VERSION: [u32; 3] = [7, 2, 0];

/// What a client has: where it is in the conversation, and descriptors that it sent.
#[derive(Debug, Default)]
pub struct Session {
    /// It has said `qmp_capabilities`.
    pub(super) negotiated: bool,
    /// Descriptors that came and have no name yet, oldest first.
    pub(super) received: VecDeque<OwnedFd>,
    pub(super) named: BTreeMap<String, OwnedFd>,
}

/// The parts of the process that commands act on.
pub struct Parts<'a> {
    /// The VMM.
    pub control: &'a mut dyn Control,
    /// Descriptor sets.
    pub fds: &'a mut FdSets,
}

impl NamedFds for Session {
    fn take_fd(&mut self, name: &str) -> Option<OwnedFd> {
        self.named.remove(name)
    }
}

impl Session {
    /// What a client is told first.
    pub fn greeting() -> Value {
        json!({"QMP": {"version": version(), "capabilities": []}})
    }

    /// Whether the client is to get events.
    pub fn wants_events(&self) -> bool {
        self.negotiated
    }

    /// A descriptor came along with the client's bytes. More than a few at a time have no purpose.
    pub fn receive(&mut self, fd: OwnedFd) {
        /// Descriptors that wait for a command to name them.
        const MOST: usize = 16;
        if self.received.len() < MOST {
            self.received.push_back(fd);
        }
    }

    /// Answers what the client sent.
    pub fn answer(&mut self, request: Result<Value, JsonError>, parts: &mut Parts<'_>) -> Value {
        let (id, outcome) = match request {
            Err(fault) => (None, Err(QmpError::generic(fault.to_string()))),
            Ok(Value::Object(mut request)) => (request.remove("id"), self.request(request, parts)),
            Ok(_) => {
                let why = "QMP input must be a JSON object";
                (None, Err(QmpError::generic(why)))
            }
        };
        let mut answer = match outcome {
            Ok(value) => json!({"return": value}),
            Err(error) => {
                debug!(target: "xenner::qmp", "refused: {error}");
                json!({"error": error})
            }
        };
        if let Some(id) = id {
            answer["id"] = id;
        }
        answer
    }

    fn request(
        &mut self,
        mut request: Map<String, Value>,
        parts: &mut Parts<'_>,
    ) -> Result<Value, QmpError> {
        let (name, arguments) = dissect(&mut request)?;
        debug!(target: "xenner::qmp", "{name}");
        let not_found = |why: String| QmpError::new(ErrorClass::CommandNotFound, why);
        match (self.negotiated, name == "qmp_capabilities") {
            (false, false) => {
                return Err(not_found(
                    "Expecting capabilities negotiation with 'qmp_capabilities'".to_owned(),
                ));
            }
            (true, true) => {
                return Err(not_found(
                    "Capabilities negotiation is already complete, command ignored".to_owned(),
                ));
            }
            _ => {}
        }
        let command = table::find(&name).ok_or_else(|| {
            not_found(format!(
                "The command {name} has not been found{}",
                why(&name)
            ))
        })?;
        let mut context = Context {
            session: self,
            control: &mut *parts.control,
            fds: &mut *parts.fds,
        };
        command.run(&mut context, arguments)
    }
}

/// The command's name and arguments.
fn dissect(request: &mut Map<String, Value>) -> Result<(String, Map<String, Value>), QmpError> {
    let fault = |why: String| Err(QmpError::generic(why));
    if request.contains_key("exec-oob") {
        return fault("QMP input member 'exec-oob' is unexpected".to_owned());
    }
    let arguments = match request.remove("arguments") {
        None => Map::new(),
        Some(Value::Object(arguments)) => arguments,
        Some(_) => return fault("QMP input member 'arguments' must be an object".to_owned()),
    };
    let name = match request.remove("execute") {
        Some(Value::String(name)) => name,
        Some(_) => return fault("QMP input member 'execute' must be a string".to_owned()),
        None => match request.keys().next() {
            None => return fault("QMP input lacks member 'execute'".to_owned()),
            Some(other) => return fault(format!("QMP input member '{other}' is unexpected")),
        },
    };
    match request.keys().next() {
        None => Ok((name, arguments)),
        Some(other) => fault(format!("QMP input member '{other}' is unexpected")),
    }
}

/// `query-version` and the greeting.
pub(super) fn version() -> Value {
    let [major, minor, micro] = QEMU_VERSION;
    json!({
        "qemu": {"major": major, "minor": minor, "micro": micro},
        "package": format!("xenner {}", env!("CARGO_PKG_VERSION")),
    })
}

/// What a user may want to know of a command that is not there, whom libvirt shows the answer.
fn why(command: &str) -> &'static str {
    match command.starts_with("migrate") {
        true => ": this version neither saves nor migrates domains",
        false => "",
    }
}
