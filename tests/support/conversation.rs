//! What libvirt and xenner say to each other: heard in libvirtd's log, kept in
//! `tests/golden`, and held against what they say now.
//!
//! Of an answer the shape is kept: its keys, and the kind of each value. That is all that libvirt
//! needs of most of them, and no machine's own.

use std::io::Write;

use serde_json::{Value, json};

/// Conversations that were heard, by their names: of what, and libvirt's version.
pub const GOLDEN: [(&str, &str); 4] = [
    ("probe-9.0", include_str!("../golden/probe-9.0.jsonl")),
    ("probe-11.3", include_str!("../golden/probe-11.3.jsonl")),
    ("start-9.0", include_str!("../golden/start-9.0.jsonl")),
    ("start-11.3", include_str!("../golden/start-11.3.jsonl")),
];

/// A request and its answer, without what numbers them.
#[derive(Debug)]
pub struct Exchange {
    /// `execute`, and `arguments` if there are any.
    pub ask: Value,
    /// The answer as it was, or the shape of it.
    pub get: Value,
}

impl Exchange {
    /// The command.
    pub fn command(&self) -> &str {
        self.ask["execute"].as_str().unwrap_or_default()
    }
}

/// The conversations with emulators in a log of libvirtd's (`2:qemu.qemu_monitor`), answers as they
/// were.
pub fn heard(log: &str) -> Vec<Vec<Exchange>> {
    let mut talks: Vec<Vec<Exchange>> = Vec::new();
    let mut asked = None;
    for line in log.lines() {
        if let Some(mut ask) = json_after(line, "QEMU_MONITOR_IO_WRITE: ", " buf=") {
            without_id(&mut ask);
            if ask["execute"] == "qmp_capabilities" {
                talks.push(Vec::new());
            }
            asked = Some(ask);
        } else if let Some(mut get) = json_after(line, "QEMU_MONITOR_RECV_REPLY: ", " reply=") {
            without_id(&mut get);
            if let (Some(ask), Some(talk)) = (asked.take(), talks.last_mut()) {
                talk.push(Exchange { ask, get });
            }
        }
    }
    talks
}

fn json_after(line: &str, event: &str, key: &str) -> Option<Value> {
    let text = line.split_once(event)?.1.split_once(key)?.1;
    let mut values = serde_json::Deserializer::from_str(text).into_iter();
    values.next()?.ok()
}

fn without_id(message: &mut Value) {
    if let Value::Object(members) = message {
        members.remove("id");
    }
}

/// The conversation that was kept under this name.
pub fn golden(name: &str) -> Option<Vec<Exchange>> {
    let (_, text) = GOLDEN.iter().find(|(is, _)| *is == name)?;
    let exchange = |line| {
        let mut value: Value = serde_json::from_str(line).ok()?;
        let [ask, get] = ["ask", "get"].map(|key| value[key].take());
        Some(Exchange { ask, get })
    };
    text.lines().map(exchange).collect()
}

/// Keep a conversation that was heard: a line for each request.
pub fn write(mut to: impl Write, talk: &[Exchange]) -> std::io::Result<()> {
    for Exchange { ask, get } in talk {
        writeln!(to, "{}", json!({"ask": ask, "get": shape_of_answer(get)}))?;
    }
    Ok(())
}

/// How an answer is other than the shape that it had, if it is.
pub fn change(expected: &Value, answer: &Value) -> Option<String> {
    lost(expected, &shape_of_answer(answer))
}

/// Of an error its class is the shape.
fn shape_of_answer(answer: &Value) -> Value {
    match answer.get("error") {
        Some(error) => json!({"error": {"class": error["class"]}}),
        None => json!({"return": shape(&answer["return"])}),
    }
}

/// Keys and kinds; of a list what all of its items have.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(members) => members.iter().map(|(k, v)| (k.clone(), shape(v))).collect(),
        Value::Array(items) => items.iter().map(shape).reduce(common).into_iter().collect(),
        Value::String(_) => json!("string"),
        Value::Number(_) => json!("number"),
        Value::Bool(_) => json!("boolean"),
        Value::Null => json!("null"),
    }
}

/// What two shapes have in common.
fn common(one: Value, other: Value) -> Value {
    match (one, other) {
        (Value::Object(one), Value::Object(mut other)) => one
            .into_iter()
            .filter_map(|(key, value)| {
                let other = other.remove(&key)?;
                Some((key, common(value, other)))
            })
            .collect(),
        (Value::Array(one), Value::Array(other)) => one
            .into_iter()
            .zip(other)
            .map(|(a, b)| common(a, b))
            .collect(),
        (one, other) if one == other => one,
        _ => json!("any"),
    }
}

/// What of the first shape the second has not. More than it had, it may have.
fn lost(expected: &Value, is: &Value) -> Option<String> {
    match (expected, is) {
        (Value::Object(expected), Value::Object(is)) => {
            expected
                .iter()
                .find_map(|(key, expected)| match is.get(key) {
                    Some(is) => lost(expected, is).map(|what| format!("{key}: {what}")),
                    None => Some(format!("no {key}")),
                })
        }
        (Value::Array(expected), Value::Array(is)) => {
            let item = expected.first()?;
            match is.first() {
                Some(is) => lost(item, is),
                None => Some("an empty list".to_owned()),
            }
        }
        _ if expected == is || expected == "any" => None,
        _ => Some(format!("{is}, not {expected}")),
    }
}
